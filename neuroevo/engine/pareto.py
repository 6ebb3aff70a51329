"""Many objectives: who is better when quality isn't one number. The order of NSGA-II.

Deb, Pratap, Agarwal and Meyarivan 2002, https://doi.org/10.1109/4235.996017: first by nondominated front, then, within
a front, by crowding distance. One individual dominates another if it is nowhere worse and somewhere better.

evotorch's `pareto_utility` isn't used: where NSGA-II has fronts it counts by how many an individual is dominated (the
rank of Fonseca and Fleming 1993), which is another order beyond the first front; it measures crowding in the whole
population's range, and an invalid individual at -inf turns that into NaN. Its `domination_matrix` is the same as the
one here, 30 times as slow, and as long as a generation for 256 individuals; tests compare the two.

Values are [n, m] float64, `n` individuals by `m` objectives, higher is better; -inf throughout marks an invalid
individual, which every valid one dominates. Equal individuals are one point: the first of them has that point's
crowding distance and the others none, since copies of an extreme would all be at an infinite distance and fill the
population.
"""

import torch
from torch import Tensor

from neuroevo.engine.scores import Scores, ranks, sort_rows

FRONTS = 16  # that a GPU takes off at first before anybody looks whether some are left, then twice as many


def domination(values: Tensor) -> Tensor:
    """Return [n, n] bool: individual i is dominated by j."""
    n = len(values)
    worse = torch.zeros(n, n, dtype=torch.bool, device=values.device)
    better = worse.clone()
    for column in values.T:
        worse |= column[:, None] < column
        better |= column[:, None] > column
    return worse & ~better


def objectives(scores: Scores) -> Tensor:
    """Return objectives [n, m] in which domination is that of scores with their constraints, -inf where invalid."""
    values = scores.values[:, : scores.objectives].masked_fill(scores.invalid[:, None], -torch.inf)
    return values if scores.violation is None else constrain(values, scores.violation)


def constrain(values: Tensor, violation: Tensor) -> Tensor:
    """Return values [n, m] moved so that domination among them is constrained domination (Deb et al. 2002, section VI).

    The less violated dominates, `violation` [n]; among those violated by the same, domination decides as ever. The
    least violated stay where they are, and others go below them, the more violated the deeper, each by more than the
    range of all values.
    """
    level = ranks(-violation[:, None]).neg()
    level -= level.min()  # 0 of the least violated, one more of each that is more
    there = values.isfinite()
    high = values.masked_fill(~there, -torch.inf).amax(0)
    low = values.masked_fill(~there, torch.inf).amin(0)
    apart = (high - low + 1).nan_to_num(nan=1.0, posinf=1.0, neginf=1.0)
    return torch.where(there, values - level[:, None] * apart, values)


def fronts(values: Tensor) -> Tensor:
    """Return the number [n] int64 of each individual's front, 0 that of those whom nobody dominates."""
    by = domination(values)
    number, counts, k = torch.full((len(values),), -1, device=values.device), by.sum(1), 0
    waits = values.device.type != "cpu"  # for a look, and for how many a front has
    looks = FRONTS if waits else 1
    while True:
        for _ in range(looks):
            now = (number < 0) & (counts == 0)
            number.masked_fill_(now, k)
            counts, k = counts - (by & now if waits else by[:, now]).sum(1), k + 1
        if not bool((number < 0).any()):
            return number
        looks = 2 * looks if waits else 1


def crowding(values: Tensor, number: Tensor) -> Tensor:
    """Return the crowding distance [n] float64 of individuals within their fronts `number` [n], 0 for copies.

    Over objectives, the sum of the distance between both neighbours along it, in units of the front's range; infinite
    at either end. An objective in which a front is all equal adds nothing.
    """
    n = len(values)
    rows, first = sort_rows(values)
    own = number[rows].where(first, n)  # copies are a front of their own, at which nobody looks
    distance = values.new_zeros(n)
    for column in values[rows].T:
        nothing = values.new_zeros(n + 1)
        low = nothing.scatter_reduce(0, own, column, "amin", include_self=False)
        high = nothing.scatter_reduce(0, own, column, "amax", include_self=False)
        order = column.argsort(stable=True)
        order = order[own[order].argsort(stable=True)]  # by front, and by value within it
        front, sorted_, gap = own[order], column[order], torch.full_like(column, torch.inf)
        inner = (front[2:] == front[1:-1]) & (front[:-2] == front[1:-1])
        gap[1:-1] = torch.where(inner, (sorted_[2:] - sorted_[:-2]) / (high - low)[front[1:-1]], torch.inf)
        gap = gap.masked_fill((high == low)[front], 0.0).nan_to_num(nan=0.0, posinf=torch.inf)
        distance[order] += gap
    return values.new_zeros(n).index_copy_(0, rows, distance.masked_fill_(~first, 0))


def rank(values: Tensor) -> Tensor:
    """Return NSGA-II's order as one number [n] float64 for each, higher is better, -inf where invalid."""
    number = fronts(values)
    keys = torch.stack([-number.to(values.dtype), crowding(values, number)], dim=1)
    return ranks(keys).masked_fill((values == -torch.inf).all(1), -torch.inf)


def front(values: Tensor) -> Tensor:
    """Return the rows [k] int64 of the valid individuals whom nobody dominates, one of each equals.

    The best by the first objective comes first.
    """
    best = (fronts(values) == 0) & (values > -torch.inf).any(1)
    rows, first = sort_rows(values)
    return rows[first & best[rows]].flip(0)
