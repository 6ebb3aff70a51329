"""Selection, crossover and mutation of a whole population at once.

Shapes: `n` individuals, `g` genes, `m` children, `t` parameters of the network. Each function in a table is an
operator, and its keyword-only parameters are its options. All randomness comes from the generator or context given.

Selection: `(fitness [n], count, generator) -> parents [count]` int64, rows of the population. Higher fitness is better;
-inf marks an invalid individual, which is never a parent unless all are.

Crossover: `(genomes [n, g], parents [m, p] int64, layout, generator) -> children [m, g]`, always new storage; a child's
parents come best first. `weighted` takes any number of them, the others two.

Mutation: `(children, context, layout) -> Population`; it may work in place on the children's genomes, never on traits.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache, reduce
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from neuroevo.errors import InputError
from neuroevo.genome import SCALE, Layout, Population
from neuroevo.rng import Context, forked
from neuroevo.schedules import Schedule, factor

Selection = Callable[[Tensor, int, torch.Generator], Tensor]
Crossover = Callable[[Tensor, Tensor, Layout, torch.Generator], Tensor]
Mutation = Callable[[Population, Context, Layout], Population]

Probability = Annotated[float, Ge(0), Le(1)]

# Elements of a block. On a CPU it stays in cache, and torch runs so few in the calling thread: waking others for each
# small step gains little, and takes tens of times as long on a busy machine. A multiple of 32, for `_Coins`.
CPU_BLOCK, GPU_BLOCK = 2**15, 2**26


def blocks(genomes: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut `[m, g]` into blocks of rows, or of one row's columns where a row is larger than a block."""
    size = CPU_BLOCK if genomes.device.type == "cpu" else GPU_BLOCK
    m, g = genomes.shape
    rows = max(1, size // max(1, g))
    for left in range(0, g, size):
        for top in range(0, m, rows):
            yield slice(top, top + rows), slice(left, left + size)


# Selection


def _valid(fitness: Tensor) -> Tensor:
    """Return the rows of valid individuals, or all rows where none is."""
    rows = (fitness > -torch.inf).nonzero().squeeze(1)
    return rows if len(rows) else torch.arange(len(fitness), device=fitness.device)


def _draw(high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(high, shape, generator=generator, device=generator.device)


def _points(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)


def _spin(weights: Tensor, points: Tensor) -> Tensor:
    """Return the slot of a roulette wheel, with slots as wide as `weights [v]`, at each of `points` in [0, 1).

    On the CPU, whatever the device: a GPU's running sum depends on the order it happens to add in.
    """
    edges = weights.to("cpu", torch.float64).cumsum(0)
    slots = torch.searchsorted(edges, points.cpu() * edges[-1], right=True)  # right: a slot of no width isn't hit
    return slots.clamp_(max=len(edges) - 1).to(weights.device)


def _proportional(fitness: Tensor) -> Tensor:
    """Return weights in [0, 1] in proportion to `fitness [v]` above the lowest; 1 for each where all are equal."""
    above = fitness.double() - fitness.min()
    return (above / above.max()).nan_to_num(nan=1.0)  # 0 / 0 where all are equal, inf / inf at infinity


def tournament(fitness: Tensor, count: int, generator: torch.Generator, *, size: Annotated[int, Ge(1)] = 4) -> Tensor:
    """Select the best of `size` individuals drawn with replacement."""
    valid = _valid(fitness)
    # By index_select, which stays in this thread: `valid[...]` would wake the others for so little.
    drawn = valid.index_select(0, _draw(len(valid), (count * size,), generator))
    best = fitness.index_select(0, drawn).view(count, size).argmax(1, keepdim=True)
    return drawn.view(count, size).gather(1, best).squeeze(1)


def truncation(
    fitness: Tensor, count: int, generator: torch.Generator, *, share: Annotated[float, Gt(0), Le(1)] = 0.25
) -> Tensor:
    """Select uniformly from the best `share` of the population, rounded, at least one."""
    valid = _valid(fitness)
    best = fitness[valid].topk(min(max(1, round(share * len(fitness))), len(valid))).indices
    return valid[best[_draw(len(best), (count,), generator)]]


def roulette(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select in proportion to fitness above the lowest valid one (Holland 1975); uniformly where all are equal."""
    valid = _valid(fitness)
    return valid[_spin(_proportional(fitness[valid]), _points(count, generator))]


def rank(
    fitness: Tensor, count: int, generator: torch.Generator, *, pressure: Annotated[float, Gt(1), Le(2)] = 1.7
) -> Tensor:
    """Select by linear ranking: the best is expected `pressure` times the mean, the median once (Baker 1985).

    Equal fitness shares its mean rank.
    """
    valid = _valid(fitness)
    _, level, sizes = torch.unique(fitness[valid], return_inverse=True, return_counts=True)
    ranks = (sizes.cumsum(0) - (sizes + 1).double() / 2)[level]  # from 0, the worst
    weights = 2 - pressure + 2 * (pressure - 1) * ranks / max(1, len(valid) - 1)
    return valid[_spin(weights, _points(count, generator))]


def stochastic_universal(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select on the wheel of `roulette` with `count` evenly spaced pointers and one spin (Baker 1987).

    Everybody is selected as often as expected, rounded up or down; the order is shuffled, so that pairs are random.
    """
    valid = _valid(fitness)
    steps = torch.arange(count, device=generator.device)
    points = ((steps + _points(1, generator)) / max(1, count)).clamp_(max=math.nextafter(1, 0))  # may round to 1
    shuffled = torch.randperm(count, generator=generator, device=generator.device)
    return valid[_spin(_proportional(fitness[valid]), points)[shuffled]]


def random(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select uniformly, however good."""
    valid = _valid(fitness)
    return valid[_draw(len(valid), (count,), generator)]


# Crossover. A mask is an integer tensor, -1 (all bits set) where a gene is chosen and 0 elsewhere.


class _Coins:
    """A mask `[m, k]` that chooses each place with probability `rate`, tossed at once and kept packed, 32 to a word.

    `rate` holds to 2^-17, a small one to a thousandth of itself or at least 2^-33; 0 and 1 are exact.
    """

    def __init__(self, m: int, k: int, rate: float, generator: torch.Generator) -> None:
        self.width = k
        bits = 16 if abs(round(rate * 2**16) - rate * 2**16) <= 65.536 * rate else 32
        threshold = round(rate * 2**bits) or int(rate > 0)
        device = generator.device
        packed = torch.empty(m, -(-k // 64), dtype=torch.int64, device=device)

        def toss(words: Tensor) -> Tensor:
            return words.random_(-(2**63), None, generator=generator)  # without the limit no sign bit is ever set

        # As many random bits a place as the rate has binary digits. From the last digit d on, the chance p of a bit, at
        # first 0, becomes (d + p) / 2 by combining it with a fair one: `or` if d is 1, `and` if it is 0.
        *digits, _ = list(f"{threshold:0{bits}b}".rstrip("0")) if 0 < threshold < 2**bits else ["0"]
        for rows, columns in blocks(packed):
            part = packed[rows, columns]
            if threshold in (0, 2**bits):
                part.fill_(-1 if threshold else 0)
            else:
                toss(part)
            for digit in reversed(digits):
                fair = toss(torch.empty_like(part))
                part.bitwise_or_(fair) if digit == "1" else part.bitwise_and_(fair)
        self.packed = packed.view(torch.int32)[..., None]
        self.shifts = torch.arange(32, dtype=torch.int32, device=device)

    def mask(self, rows: slice = slice(None), columns: slice = slice(0, None)) -> Tensor:
        """Unpack a block, `[r, c]` int32; its first column must be a multiple of 32."""
        start, stop, _ = columns.indices(self.width)
        words = self.packed[rows, start // 32 : -(-stop // 32)]
        return (words << self.shifts).bitwise_right_shift_(31).flatten(1)[:, : stop - start]


def _integers(x: Tensor) -> Tensor:
    """View floats as integers of the same width."""
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def _exchange(genomes: Tensor, parents: Tensor, mask: Callable[[slice, slice], Tensor]) -> Tensor:
    """Copy first parents, with the genes that `mask(rows, columns)` chooses from the second.

    In bits: a NaN of the gene not chosen can't get through, and `torch.where` takes ten times as long on a random mask.
    """

    def mix(first: Tensor, second: Tensor, rows: slice, columns: slice) -> None:
        first.bitwise_xor_(second.bitwise_xor_(first).bitwise_and_(mask(rows, columns)))

    return _mate(_integers(genomes), parents, mix).view(genomes.dtype)


def _mate(genomes: Tensor, parents: Tensor, mix: Callable[[Tensor, Tensor, slice, slice], None]) -> Tensor:
    """Make children block by block: `mix(first, second, rows, columns)` turns first parents' genes into children's."""
    children = genomes.new_empty(len(parents), genomes.shape[1])
    first, second = parents.T.contiguous()
    for rows, columns in blocks(children):
        child, source = children[rows, columns], genomes[:, columns]
        torch.index_select(source, 0, first[rows], out=child)
        mix(child, source.index_select(0, second[rows]), rows, columns)
    return children


@cache
def _units(layout: Layout) -> Tensor:
    """Return the number of the unit that each gene belongs to, `[g]` int64: see `row`."""
    first: dict[str, int] = {}  # of each parameter's units
    units, total = [], 0
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    for name, shape in sorted(shapes.items(), key=lambda item: item[0].endswith("bias")):  # weights before biases
        count = shape[0] if shape else 1
        stem, dot, last = name.rpartition(".")
        weight = shapes.get(f"{stem}{dot}weight", ())
        if layout.levels and name.endswith(SCALE):  # behind its matrix
            first[name] = first[name.removesuffix(SCALE)]
        elif last == "bias" and len(shape) == 1 and weight[:1] == shape:
            first[name] = first[f"{stem}{dot}weight"]
        else:
            first[name], total = total, total + count
    for name, shape, size in zip(layout.names, layout.shapes, layout.sizes, strict=True):
        count = shape[0] if shape else 1
        units.append(first[name] + torch.arange(count).repeat_interleave(size // max(1, count)))
    return torch.cat(units)


def uniform(
    genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator, *, rate: Probability = 0.5
) -> Tensor:
    """Take each gene from the second parent with probability `rate`, else from the first (Syswerda 1989)."""
    coins = _Coins(len(parents), genomes.shape[1], rate, generator)
    return _exchange(genomes, parents, coins.mask)


def k_point(
    genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator, *, points: Annotated[int, Ge(1)] = 2
) -> Tensor:
    """Change to the other parent at `points` distinct places, or at all where there are fewer (De Jong 1975)."""
    cuts = _cuts(len(parents), genomes.shape[1], points, generator)
    places = torch.arange(genomes.shape[1], dtype=torch.int32, device=genomes.device)

    def mask(rows: slice, columns: slice) -> Tensor:
        here = places[columns]
        ahead = (cut - here for cut in cuts[rows].T[..., None])  # negative behind the cut
        return reduce(torch.bitwise_xor, ahead, here) >> 31  # the sign, as a mask: an odd number of cuts passed

    return _exchange(genomes, parents, mask)


def _cuts(children: int, genes: int, points: int, generator: torch.Generator) -> Tensor:
    """Draw the genes behind which to cut, distinct and uniform, `[children, points]` int32 (Floyd's sampling).

    See Bentley and Floyd 1987, https://doi.org/10.1145/30401.315746.
    """
    places = genes - 1
    points = min(points, places)
    cuts = torch.full((children, points), -1, dtype=torch.int32, device=generator.device)
    for i, last in enumerate(range(places - points, places)):
        drawn = _draw(last + 1, (children, 1), generator).int()
        cuts[:, i : i + 1] = drawn.masked_fill_((cuts == drawn).any(1, keepdim=True), last)
    return cuts


def row(
    genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator, *, rate: Probability = 0.5
) -> Tensor:
    """Take each output neuron whole from the second parent with probability `rate`, else from the first.

    A neuron, or filter, is a row of `X.weight [o, ...]` with its entry of `X.bias [o]`; any other parameter goes by its
    first dimension, a scalar on its own.
    """
    units = _units(layout).to(genomes.device)
    chosen = _Coins(len(parents), int(units.max()) + 1, rate, generator).mask()
    return _exchange(genomes, parents, lambda rows, columns: _spread(chosen[rows], units[columns]))


@cache
def _layers(layout: Layout) -> Tensor:
    """Return the number of the layer that each gene belongs to, `[g]` int64: the module that holds its parameter."""
    names = [name.removesuffix(SCALE) if layout.levels else name for name in layout.names]
    stems = [name.rpartition(".")[0] or name for name in names]
    first = {stem: i for i, stem in enumerate(dict.fromkeys(stems))}
    return torch.tensor([first[stem] for stem in stems]).repeat_interleave(torch.tensor(layout.sizes))


def layer(
    genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator, *, rate: Probability = 0.5
) -> Tensor:
    """Take each layer whole, weight and bias together, from the second parent with probability `rate`."""
    layers = _layers(layout).to(genomes.device)
    chosen = _Coins(len(parents), int(layers.max()) + 1, rate, generator).mask()
    return _exchange(genomes, parents, lambda rows, columns: _spread(chosen[rows], layers[columns]))


def _spread(values: Tensor, groups: Tensor) -> Tensor:
    """Give every gene the value of its group: `[r, groups]`, `[g] -> [r, g]`."""
    return values.gather(1, groups.expand(len(values), -1))


def arithmetic(
    genomes: Tensor,
    parents: Tensor,
    layout: Layout,
    generator: torch.Generator,
    *,
    weight: Probability | None = None,
) -> Tensor:
    """Return `weight` x first + (1 - `weight`) x second parent; None draws a weight uniformly for each child."""
    if weight is None:
        weights = torch.rand(len(parents), 1, generator=generator, device=genomes.device, dtype=genomes.dtype)
    else:
        weights = genomes.new_full((len(parents), 1), weight)

    def mix(first: Tensor, second: Tensor, rows: slice, columns: slice) -> None:
        torch.lerp(second, first, weights[rows], out=first)  # exact at 0 and 1, and for two equal parents

    return _mate(genomes, parents, mix)


def weighted(
    genomes: Tensor,
    parents: Tensor,
    layout: Layout,
    generator: torch.Generator,
    *,
    step: Annotated[float, Ge(0), Le(1)] = 0.5,
) -> Tensor:
    """Return the mean of two or more parents, moved by `step` from the worse of them towards the better.

    The j-th best of p has the weight 1 / p + step / sqrt(p) (1 - 2 j / (p - 1)), j from 0: intermediate recombination
    at 0 (Beyer 1995), else weights that are negative for the worse (Arnold 2006), as in Wright's heuristic crossover
    (1991) of two. With the square root, what chance alone moves is step / sqrt(3) of the parents' deviation, however
    many they are: below sqrt(3) a population can't spread by this alone.
    """
    used, places = torch.unique(parents, return_inverse=True)
    p = parents.shape[1]
    own = 1 / p + step / math.sqrt(p) * torch.linspace(1, -1, p, dtype=genomes.dtype, device=genomes.device)
    weights = genomes.new_zeros(len(parents), len(used)).scatter_add_(1, places, own.expand(parents.shape))
    return weights @ genomes.index_select(0, used)


def sbx(
    genomes: Tensor,
    parents: Tensor,
    layout: Layout,
    generator: torch.Generator,
    *,
    eta: Annotated[float, Ge(0)] = 20.0,
) -> Tensor:
    """Spread genes around the parents, the closer the higher `eta`: simulated binary crossover (Deb and Agrawal 1995).

    Of the two children that evotorch makes of each pair, the first, which is the one nearer to the first parent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # evotorch scripts functions at import, which torch deprecates
        from evotorch.operators.functional import simulated_binary_cross_over

    def mix(first: Tensor, second: Tensor, rows: slice, columns: slice) -> None:
        first.copy_(simulated_binary_cross_over(torch.cat([first, second]), eta=eta)[: len(first)])

    with forked(generator):
        return _mate(genomes, parents, mix)


def none(genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator) -> Tensor:
    """Copy the first parent."""
    return genomes.index_select(0, parents[:, 0])


# Mutation


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
    counts = finite.sum(0, keepdim=True) * torch.tensor(layout.sizes, device=genomes.device)
    rms = (squares.where(finite, 0).sum(0, keepdim=True) / counts.clamp(min=1)).sqrt_()
    least = [SMALL if len(shape) < 2 else FRESH / math.sqrt(math.prod(shape[1:])) for shape in layout.shapes]
    return rms.clamp(min=torch.tensor(least, dtype=rms.dtype, device=rms.device)).to(genomes.dtype)


@cache
def _parameters(layout: Layout) -> Tensor:
    """Return the number of the parameter that each gene belongs to, `[g]` int64."""
    return torch.arange(len(layout.names)).repeat_interleave(torch.tensor(layout.sizes, dtype=torch.int64))


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
        step = step * -_Coins(len(genomes), len(layout.names), rate, generator).mask()
    if safe:
        _add_safely(genomes, step, context, normal)
    elif rank is not None:
        _add_products(genomes, step, layout, rank, normal)
    else:
        _add(genomes, step, layout, _Coins(len(genomes), layout.genes, rate, generator) if per_gene else None, normal)
    return mutated


Normal = Callable[..., Tensor]  # shape -> standard normal numbers


def _add(genomes: Tensor, step: Tensor, layout: Layout, coins: _Coins | None, normal: Normal) -> None:
    """Add to each gene its own noise, of deviation `step` [1 or m, 1 or t], where the coins choose it."""
    parameters = _parameters(layout).to(genomes.device)
    for rows, columns in blocks(genomes):
        child = genomes[rows, columns]
        noise = normal(*child.shape)
        if coins:
            _integers(noise).bitwise_and_(coins.mask(rows, columns))
        scale = step if len(step) == 1 else step[rows]
        child.addcmul_(noise, scale if scale.shape[1] == 1 else _spread(scale, parameters[columns]))


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
            coins = _Coins(len(part), part.shape[1], rate * now, generator)
            for rows, columns in blocks(part):
                level = part[rows, columns]
                whole = level.floor()
                between = torch.rand(level.shape, generator=generator, device=level.device, dtype=level.dtype)
                whole += between < level - whole
                drawn = normal(level)
                move = torch.copysign((drawn * (step * top)).round_().abs_().clamp_(min=1), drawn)
                _integers(move).bitwise_and_(coins.mask(rows, columns))
                level.copy_(whole.add_(move).clamp_(-top, top))
    return children


SELECTIONS: dict[str, Callable[..., Tensor]] = {
    "tournament": tournament,
    "truncation": truncation,
    "roulette": roulette,
    "rank": rank,
    "stochastic_universal": stochastic_universal,
    "random": random,
}

CROSSOVERS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "k_point": k_point,
    "sbx": sbx,
    "row": row,
    "layer": layer,
    "arithmetic": arithmetic,
    "weighted": weighted,
    "none": none,
}

ANY_NUMBER = (weighted,)  # crossovers that take any number of parents

MUTATIONS: dict[str, Callable[..., Population]] = {"gaussian": gaussian, "levels": levels}
