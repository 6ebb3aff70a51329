"""Simultaneous perturbation: two genomes on either side of the centre say how steep it is along one direction.

Spall (1992, https://doi.org/10.1109/9.119632), as MeZO has it for networks (Malladi et al. 2023,
https://arxiv.org/abs/2305.17333): the gradient is estimated by the difference of a pair's fitness, times the direction
between them. Both of a pair are scored on one batch. It moves by values of fitness, where the others go by its order.
"""

import math
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import NEW, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms.base import fitness_of

MEMORY = 0.9  # of squared differences from step to step, as of Adam's first moment

Rate = Annotated[float, Gt(0)]


class Climb(NamedTuple):
    """A centre on its way, and how large differences of fitness have been."""

    center: Tensor  # [g]
    sigma: Tensor  # [g]: half the way from one of a pair to the other, each gene's
    velocity: Tensor  # [g] a mean of the gradients so far, in units of sigma
    square: Tensor  # [] float64: a mean of squared differences of fitness within a pair, of late
    steps: Tensor  # [] float64: that it is a mean of, those in which nobody was valid aside
    largest: Tensor  # [] float64: the largest that its root has been
    best: Tensor  # [g] the individual that scored highest in the last generation
    fitness: Tensor  # [] float64, -inf where nobody was valid


def spsa(
    *,
    population: Annotated[int, Ge(2)] = 2,
    lr: Rate = 10.0,
    sigma: Rate | None = None,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
) -> Algorithm[Climb]:
    """Step along random directions by the slope that a pair finds: SPSA (Spall 1992), `population` // 2 pairs a step.

    Directions have +1 or -1 for each gene, times `sigma` (None: the starting deviation). Differences within a pair are
    divided by the largest that their root mean square over some steps has been, so that `lr` needs to know nothing of
    the metric's scale, and steps shorten as the slope does. A step is as long as is best on a sphere whose centre is
    `lr` deviations away in each gene: give about as many as a gene has to go, and fewer where batches are small. An
    invalid individual's pair counts for nothing; an odd individual is the centre itself.
    """
    m = population // 2

    def init(start: Tensor, spread: float | Tensor, context: Context) -> Climb:
        center = start.mean(0)
        zero = torch.zeros((), dtype=torch.float64, device=start.device)
        deviation = torch.zeros_like(center) + (spread if sigma is None else sigma)
        return Climb(center, deviation, torch.zeros_like(center), zero, zero, zero, center, zero - torch.inf)

    def ask(state: Climb, context: Context) -> Population:
        g, device = len(state.center), state.center.device
        source, dtype = context.generator("sample"), state.center.dtype
        signs = torch.randint(2, (m, g), generator=source, device=device, dtype=dtype)
        steps = signs.mul_(2).sub_(1).mul_(state.sigma)
        genomes = state.center.repeat(population, 1)
        pairs = genomes[: 2 * m].view(m, 2, g)
        pairs[:, 0] += steps
        pairs[:, 1] -= steps
        return Population.new(genomes)

    def tell(state: Climb, scored: Population, scores: Scores) -> Climb:
        fitness, genomes = worth(scores), scored.genomes
        top = fitness.argmax(keepdim=True)
        best, highest = genomes.index_select(0, top)[0], fitness.index_select(0, top)[0]
        found = fitness[: 2 * m].view(m, 2)
        valid = found.isfinite().all(1)
        differences = (found[:, 0] - found[:, 1]).where(valid, 0)
        some = valid.any()
        square = state.square.lerp(differences.square().sum() / valid.sum().clamp(min=1), 1 - MEMORY)
        square, count = square.where(some, state.square), state.steps + some
        largest = state.largest.maximum((square / (1 - MEMORY**count).clamp(min=1 - MEMORY)).sqrt())
        slopes = (differences / largest).nan_to_num(0, 0, 0)  # before there is a difference: 0 / 0
        ends = genomes[: 2 * m].view(m, 2, -1)
        steps = ((ends[:, 0] - ends[:, 1]) / 2).where(valid[:, None], 0)
        moved = (slopes.to(genomes.dtype) @ steps) * stride(len(state.center), m, lr)
        velocity = torch.lerp(moved, state.velocity, momentum)
        velocity = velocity.where(some, 0)  # where all are invalid, it goes no further that way
        return Climb(state.center + velocity, state.sigma, velocity, square, count, largest, best, highest)

    def candidates(state: Climb) -> dict[str, Tensor]:
        return {"center": state.center} | ({"best": state.best} if state.fitness > -torch.inf else {})

    # All are scored exactly: what differs within a pair is little.
    return Algorithm(init, ask, tell, candidates, population, remembered=population, roles=(NEW,), continuous=True)


def worth(scores: Scores) -> Tensor:
    """Return the one number [n] by whose differences individuals are told apart: fitness, -inf where invalid.

    Ranks within the generation, where a second metric breaks ties.
    """
    return fitness_of(scores)


def stride(genes: int, pairs: int, lr: float) -> float:
    """Return the factor on a sum of slopes times directions: the best step on a sphere that is `lr` away in each gene.

    With unit directions u of a gene each, the mean of (grad u) u over m pairs has the gradient for its mean, and
    1 + (g - 1) / m times its square: along it a distance d sqrt(g) is best gone by m / (m + g - 1) of the way.
    """
    return lr * math.sqrt(genes) / (pairs + genes - 1)
