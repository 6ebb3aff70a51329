"""Who becomes a parent."""

import math
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from neuroevo.search.operators.masks import draw_integers

Selection = Callable[[Tensor, int, torch.Generator], Tensor]


def _valid(fitness: Tensor) -> Tensor:
    """Return the rows of valid individuals, or all rows where none is."""
    rows = (fitness > -torch.inf).nonzero().squeeze(1)
    return rows if len(rows) else torch.arange(len(fitness), device=fitness.device)


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
    drawn = valid.index_select(0, draw_integers(len(valid), (count * size,), generator))
    best = fitness.index_select(0, drawn).view(count, size).argmax(1, keepdim=True)
    return drawn.view(count, size).gather(1, best).squeeze(1)


def truncation(
    fitness: Tensor, count: int, generator: torch.Generator, *, share: Annotated[float, Gt(0), Le(1)] = 0.25
) -> Tensor:
    """Select uniformly from the best `share` of the population, rounded, at least one."""
    valid = _valid(fitness)
    best = fitness[valid].topk(min(max(1, round(share * len(fitness))), len(valid))).indices
    return valid[best[draw_integers(len(best), (count,), generator)]]


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


def everybody(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select everybody in turn, however good; nothing is drawn."""
    valid = _valid(fitness)
    return valid[torch.arange(count, device=fitness.device) % len(valid)]


def random(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select uniformly, however good."""
    valid = _valid(fitness)
    return valid[draw_integers(len(valid), (count,), generator)]


SELECTIONS: dict[str, Callable[..., Tensor]] = {
    "tournament": tournament,
    "truncation": truncation,
    "roulette": roulette,
    "rank": rank,
    "stochastic_universal": stochastic_universal,
    "random": random,
    "all": everybody,
}
