"""What changes in children at random."""

import math
from collections.abc import Callable
from functools import cache
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from neuroevo.engine import threads
from neuroevo.engine.genome import SCALE, Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.schedules import Schedule, factor
from neuroevo.errors import InputError
from neuroevo.search.operators.masks import (
    Coins,
    Probability,
    blocks,
    hold,
    integers,
    parameters_of,
    sizes_of,
    spread,
)

Mutation = Callable[[Population, Context, Layout], Population]
FRESH = 0.2  # of a fresh layer's deviation, 1 / sqrt(inputs): trained ones are above it
SMALL = 0.01  # the same for biases and norms


def scales(genomes: Tensor, layout: Layout) -> Tensor:
    """Return the root mean square of each parameter over the population, `[1, t]`, as far as it isn't next to nothing.

    What starts at zero would else stay there: a matrix counts for at least FRESH / sqrt(inputs), a vector for SMALL.
    An individual that isn't finite is left out, so that its siblings' steps don't become NaN with it.
    """
    norms = [torch.linalg.vector_norm(part, dim=1) for part in torch.split(genomes, list(layout.sizes), 1)]
    squares = torch.stack(norms, 1).double().square_()
    finite = squares.isfinite()
    counts = finite.sum(0, keepdim=True) * hold(sizes_of, layout, genomes.device)
    rms = (squares.where(finite, 0).sum(0, keepdim=True) / counts.clamp(min=1)).sqrt_()
    return rms.clamp(min=hold(_least, layout, genomes.device)).to(genomes.dtype)


@cache
def _least(layout: Layout) -> Tensor:
    """Return what a root mean square counts for at least, `[t]` float64."""
    least = [SMALL if len(shape) < 2 else FRESH / math.sqrt(math.prod(shape[1:])) for shape in layout.shapes]
    return torch.tensor(least, dtype=torch.float64)


def gaussian(
    children: Population,
    context: Context,
    layout: Layout,
    *,
    sigma: Annotated[float, Ge(0)] = 0.01,
    rate: Probability = 1.0,
    per: Literal["gene", "tensor"] = "gene",
    relative: bool | None = None,
    rank: Annotated[int, Ge(1)] | None = None,
    safe: bool = False,
    schedule: Schedule = "cosine",
    final: Probability = 0.1,
    self_adaptive: bool = False,
    tau: Annotated[float, Ge(0)] | None = 0.1,
) -> Population:
    """Add noise of deviation `sigma` to each gene, or each parameter of a child as a whole, with probability `rate`.

    Works in place on the children's genomes. `relative` makes sigma a multiple of each parameter's root mean square
    over the children given (see `scales`; None: where more than a head evolves). `rank` makes the change of each
    matrix the product of two thin factors of that many columns: as large a change for far fewer random numbers. `safe`
    divides each gene's step by the output's sensitivity to it (Lehman et al. 2018, SM-G, with random signs in place of
    single outputs): sigma is then the root mean square of the logits' change, to first order.

    `schedule` takes the deviation from sigma to `final` x sigma over the run. `self_adaptive`: each child has a sigma
    of its own, trait "sigma" `[m]`, times exp(tau N(0, 1)) before it is used (Schwefel's log-normal rule); it starts at
    `sigma` and stays within a factor of a million of it. The schedule acts beside it, not on the trait. `tau` is
    1 / sqrt(g) if None (Beyer and Schwefel 2002, section 4.2, https://doi.org/10.1023/A:1015059928466; for many local
    optima they advise 1 / sqrt(2 g)).
    """
    genomes, traits = children.genomes, children.traits
    generator = context.generator("mutation")
    per_gene = per == "gene" and rate < 1
    if safe and (relative or rank is not None or rate < 1):
        raise InputError("goes with neither relative, rank nor a rate below 1", option="safe")
    if rank is not None and per_gene:
        raise InputError("a rate below 1 goes with per: tensor", option="rank")

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=genomes.device, dtype=genomes.dtype)

    step = genomes.new_full((1, 1), sigma)  # [1 or m, 1 or t]
    if self_adaptive:
        tau = 1 / math.sqrt(layout.genes) if tau is None else tau
        own = traits["sigma"] if "sigma" in traits else genomes.new_full((len(genomes),), sigma)
        own = (own * (tau * normal(len(genomes))).exp()).clamp(1e-6 * sigma, 1e6 * sigma)
        traits = traits | {"sigma": own}
        step = own[:, None]
    mutated = children._replace(traits=traits)
    if sigma == 0 or rate == 0 or not genomes.shape[1]:  # without genes only the traits are wanted
        return mutated
    step = step * factor(schedule, context.progress, final)
    if relative:
        step = step * scales(genomes, layout)
    if per == "tensor" and rate < 1:
        step = step * -Coins(len(genomes), len(layout.names), rate, generator).mask()
    if safe:
        _add_safely(genomes, step, context, normal)
    elif rank is not None:
        _add_products(genomes, step, layout, rank, normal)
    else:
        _add(genomes, step, layout, context, Coins(len(genomes), layout.genes, rate, generator) if per_gene else None)
    return mutated


Normal = Callable[..., Tensor]  # shape -> standard normal numbers


STRIP = 2**17  # genes that one generator draws noise for on a CPU: some tenths of a millisecond


def _add(genomes: Tensor, step: Tensor, layout: Layout, context: Context, coins: Coins | None) -> None:
    """Add to each gene its own noise, of deviation `step` [1 or m, 1 or t], where the coins choose it.

    Each strip of rows has a generator of its own, so that threads share the work and the noise goes by its place alone.
    """
    m, g = genomes.shape
    parameters = hold(parameters_of, layout, genomes.device) if step.shape[1] > 1 else None
    high = max(1, STRIP // g) if genomes.device.type == "cpu" else m

    def add(strip: int) -> None:
        generator = context.generator(f"mutation/{strip}")
        top = strip * high
        for within, columns in blocks(genomes[top : top + high]):
            rows = slice(top + within.start, min(top + within.stop, top + high))
            child = genomes[rows, columns]
            noise = torch.randn(child.shape, generator=generator, device=child.device, dtype=child.dtype)
            if coins:
                integers(noise).bitwise_and_(coins.mask(rows, columns))
            scale = step if len(step) == 1 else step[rows]
            child.addcmul_(noise, scale if parameters is None else spread(scale, parameters[columns]))

    threads.share(add, range(-(-m // high)))


def _add_products(genomes: Tensor, step: Tensor, layout: Layout, rank: int, normal: Normal) -> None:
    """Add to each matrix [o, i] A B / sqrt(rank), A [o, rank] and B [rank, i] normal: each entry has variance 1."""
    m = len(genomes)
    for t, part in enumerate(torch.split(genomes, list(layout.sizes), 1)):
        scale = step[:, min(t, step.shape[1] - 1)].expand(m)
        shape = layout.shapes[t]
        wide = math.prod(shape[1:])
        if len(shape) < 2 or rank >= min(shape[0], wide):
            for child, own in zip(part, scale, strict=True):
                child.addcmul_(normal(*child.shape), own)
            continue
        for child, own in zip(part.unflatten(1, (shape[0], wide)), scale, strict=True):
            child.addmm_(normal(shape[0], rank) * (own / math.sqrt(rank)), normal(rank, wide))


SAFE_ROWS = 8  # children at a time; fixed, so that it doesn't matter to what is drawn
LEAST_SENSITIVE = 0.01  # of the genes' root mean square: no gene moves further than a hundred times the usual


def _add_safely(genomes: Tensor, step: Tensor, context: Context, normal: Normal) -> None:
    """Add noise over the sensitivity of the output to each gene, and over sqrt(g): together they move it by `step`."""
    assert context.sensitivity is not None
    for children, own in zip(genomes.split(SAFE_ROWS), step.expand(len(genomes), 1).split(SAFE_ROWS), strict=True):
        sensitivity = context.sensitivity(children)
        usual = sensitivity.square().mean(1, keepdim=True).sqrt()
        sensitivity = sensitivity.clamp_(min=(LEAST_SENSITIVE * usual).clamp(min=torch.finfo(genomes.dtype).tiny))
        for rows, columns in blocks(children):
            child = children[rows, columns]
            child.addcdiv_(normal(*child.shape) * (own[rows] / math.sqrt(genomes.shape[1])), sensitivity[rows, columns])


def levels(
    children: Population,
    context: Context,
    layout: Layout,
    *,
    rate: Probability = 0.02,
    step: Annotated[float, Ge(0)] = 0.1,
    sigma: Annotated[float, Ge(0)] = 0.015,
    schedule: Schedule = "cosine",
    final: Probability = 0.1,
) -> Population:
    """Move each whole level by whole steps with probability `rate`; for `genome.levels`.

    Works in place on the children's genomes. A level first falls to one of the two that crossover left it between, each
    as likely as it is near. A move is a normal number of deviation `step` x the largest level, rounded, and one at
    least; it ends at the range's end. Floats get noise as in `gaussian`: `sigma` is the deviation of a bias, and of the
    logarithm of a scale. `schedule` takes `rate` and `sigma` to `final` times themselves over the run.
    """
    genomes, generator = children.genomes, context.generator("mutation")
    if not layout.levels:
        raise InputError("levels needs a layout with levels", option="mutation")
    if not genomes.shape[1]:  # only traits are wanted
        return children
    now = factor(schedule, context.progress, final)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)

    for name, top, part in zip(layout.names, layout.levels, genomes.split(layout.sizes, 1), strict=True):
        if name.endswith(SCALE):
            part.mul_(normal(part).mul_(sigma * now).exp_())
        elif not top:
            part.add_(normal(part), alpha=sigma * now)
        else:
            coins = Coins(len(part), part.shape[1], rate * now, generator)
            for rows, columns in blocks(part):
                level = part[rows, columns]
                whole = level.floor()
                between = torch.rand(level.shape, generator=generator, device=level.device, dtype=level.dtype)
                whole += between < level - whole
                drawn = normal(level)
                move = torch.copysign((drawn * (step * top)).round_().abs_().clamp_(min=1), drawn)
                integers(move).bitwise_and_(coins.mask(rows, columns))
                level.copy_(whole.add_(move).clamp_(-top, top))
    return children


MUTATIONS: dict[str, Callable[..., Population]] = {"gaussian": gaussian, "levels": levels}
