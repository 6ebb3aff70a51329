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
    """Return which individuals are valid [n] bool, or all where none is.

    Whose rows these are a GPU would have to wait for: the others get no share instead.
    """
    valid = fitness > -torch.inf
    return valid | ~valid.any()


def _points(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)


def _below(limit: Tensor, high: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` whole numbers from 0 to below `limit` [], which is at most `high`.

    On a GPU those that hit what is beyond the limit are drawn once more, from what is below: each number is as likely
    as any other, and nobody waits for the limit.
    """
    if limit.device.type == "cpu":
        return draw_integers(int(limit), (count,), generator)
    drawn = draw_integers(high, (count,), generator)
    return torch.where(drawn < limit, drawn, (_points(count, generator) * limit).long())


def _pick(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` valid individuals uniformly."""
    valid = _valid(fitness)
    order = valid.byte().argsort(descending=True, stable=True)  # the valid ones first
    # By index_select, which stays in this thread: `order[...]` would wake the others for so little.
    return order.index_select(0, _below(valid.sum(), len(order), count, generator))


WIDTH = 2**32  # of a slot of weight 1; the sum of a million of them is exact in float64


def _spin(weights: Tensor, valid: Tensor, points: Tensor) -> Tensor:
    """Return the slot of a roulette wheel, with slots as wide as `weights [n]`, at each of `points` in [0, 1).

    The slots of those that aren't `valid` have no width. On a GPU they are whole numbers wide: a running sum of floats
    depends there on the order it happens to add in.
    """
    weights = weights.to(torch.float64).masked_fill(~valid, 0)
    if weights.device.type == "cpu":
        edges = weights.cumsum(0)
        points = points * edges[-1]
    else:
        edges = (weights * WIDTH).round_().long().cumsum(0)
        points = (points * edges[-1]).long()
    slots = torch.searchsorted(edges, points, right=True)  # right: a slot of no width isn't hit
    last = (torch.arange(len(valid), device=valid.device) * valid).max()
    return slots.clamp_(max=last)  # a product may round to the end


def _proportional(fitness: Tensor, valid: Tensor) -> Tensor:
    """Return weights in [0, 1] in proportion to `fitness [n]` above the lowest valid; all 1 where these are equal."""
    above = fitness.double() - fitness.masked_fill(~valid, torch.inf).min()
    return (above / above.masked_fill(~valid, -torch.inf).max()).nan_to_num(nan=1.0)  # 0 / 0, or inf / inf


def tournament(fitness: Tensor, count: int, generator: torch.Generator, *, size: Annotated[int, Ge(1)] = 4) -> Tensor:
    """Select the best of `size` individuals drawn with replacement."""
    drawn = _pick(fitness, count * size, generator)
    best = fitness.index_select(0, drawn).view(count, size).argmax(1, keepdim=True)
    return drawn.view(count, size).gather(1, best).squeeze(1)


def truncation(
    fitness: Tensor, count: int, generator: torch.Generator, *, share: Annotated[float, Gt(0), Le(1)] = 0.25
) -> Tensor:
    """Select uniformly from the best `share` of the population, rounded, at least one."""
    valid, most = _valid(fitness), max(1, round(share * len(fitness)))
    if fitness.device.type == "cpu":  # which of equals are the best is arbitrary, and stays as it was
        rows = valid.nonzero().squeeze(1)
        rows = rows[fitness[rows].topk(min(most, len(rows))).indices]
        return rows[draw_integers(len(rows), (count,), generator)]
    best = fitness.topk(most).indices  # the valid ones first
    return best[_below(valid.sum().clamp(max=most), most, count, generator)]


def roulette(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select in proportion to fitness above the lowest valid one (Holland 1975); uniformly where all are equal."""
    valid = _valid(fitness)
    return _spin(_proportional(fitness, valid), valid, _points(count, generator))


def rank(
    fitness: Tensor, count: int, generator: torch.Generator, *, pressure: Annotated[float, Gt(1), Le(2)] = 1.7
) -> Tensor:
    """Select by linear ranking: the best is expected `pressure` times the mean, the median once (Baker 1985).

    Equal fitness shares its mean rank.
    """
    valid = _valid(fitness)
    ranked = fitness.sort().values
    below, up_to = (torch.searchsorted(ranked, fitness, right=right) for right in (False, True))
    ranks = (below + up_to - 1).double() / 2 - (~valid).sum()  # from 0, the worst that is valid
    weights = 2 - pressure + 2 * (pressure - 1) * ranks / (valid.sum() - 1).clamp(min=1)
    return _spin(weights, valid, _points(count, generator))


def stochastic_universal(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select on the wheel of `roulette` with `count` evenly spaced pointers and one spin (Baker 1987).

    Everybody is selected as often as expected, rounded up or down; the order is shuffled, so that pairs are random.
    """
    valid = _valid(fitness)
    steps = torch.arange(count, device=generator.device)
    points = ((steps + _points(1, generator)) / max(1, count)).clamp_(max=math.nextafter(1, 0))  # may round to 1
    shuffled = torch.randperm(count, generator=generator, device=generator.device)
    return _spin(_proportional(fitness, valid), valid, points)[shuffled]


def everybody(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select everybody in turn, however good; nothing is drawn."""
    valid = _valid(fitness)
    order = valid.byte().argsort(descending=True, stable=True)  # the valid ones first
    return order.index_select(0, torch.arange(count, device=fitness.device) % valid.sum())


def random(fitness: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select uniformly, however good."""
    return _pick(fitness, count, generator)


SELECTIONS: dict[str, Callable[..., Tensor]] = {
    "tournament": tournament,
    "truncation": truncation,
    "roulette": roulette,
    "rank": rank,
    "stochastic_universal": stochastic_universal,
    "random": random,
    "all": everybody,
}
