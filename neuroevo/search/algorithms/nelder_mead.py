"""A simplex that turns over, stretches and shrinks: few genes, no noise, no gradient.

Nelder and Mead (1965, https://doi.org/10.1093/comjnl/7.4.308) with coefficients that go with the number of genes (Gao
and Han 2012, https://doi.org/10.1007/s10589-010-9329-3): point by point what `scipy.optimize.minimize` does by
`method="Nelder-Mead", adaptive=True`, as a state that can be asked and told, and so resumed.

Its vertices are compared across generations, so it wants all samples in each (`fitness.samples: all`).
"""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import NEW, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.search.algorithms.base import fitness_of

LARGEST = 200  # genes: a simplex of more takes forever to turn, and shrinks before
TRIALS = 4  # where the worst vertex may go: reflected, expanded, contracted outside, contracted inside
REFLECTED, EXPANDED, OUTSIDE, INSIDE = range(TRIALS)


class Simplex(NamedTuple):
    """Vertices, the best first once all are known, and then where the worst of them may go."""

    points: Tensor  # [g + 1 + TRIALS, g]
    values: Tensor  # [g + 1 + TRIALS, k] float64: what is compared; no columns before the first scores
    invalid: Tensor  # [g + 1 + TRIALS] bool, as scored
    known: Tensor  # [g + 1 + TRIALS] bool: which have been scored
    best: Tensor  # [g] of all so far
    found: Tensor  # [] bool: whether there is one


def nelder_mead(*, population: Annotated[int, Ge(1)] = 1) -> Algorithm[Simplex]:
    """Turn a simplex over its best vertices: Nelder and Mead (1965), for up to 200 genes.

    It starts with the mean of the starts and a step of the starting deviation along each gene, up or down. With a
    `population` of 1 it asks for one point after another, as scipy does. A larger one asks as well for those that it
    may need next, and scores vertices again, the best first, in rows that are left.
    """

    def check(genes: int) -> None:
        if genes > LARGEST:
            line = f"nelder_mead takes up to {LARGEST} genes, and there are {genes}; use snes or spsa"
            raise InputError(line, option="name")

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Simplex:
        center = start.mean(0)
        g, device = len(center), center.device
        check(g)
        signs = torch.randint(2, (g,), generator=context.generator("init"), device=device, dtype=center.dtype)
        points = center.repeat(g + 1 + TRIALS, 1)
        points[1 : g + 1] += torch.diag(signs.mul_(2).sub_(1) * sigma)
        unknown = torch.zeros(len(points), dtype=torch.bool, device=device)
        values = torch.empty(len(points), 0, dtype=torch.float64, device=device)
        return Simplex(points, values, unknown, unknown, center, unknown.any())

    def ask(state: Simplex, context: Context) -> Population:
        return Population.new(state.points.index_select(0, _next_rows(state, population)))

    def tell(state: Simplex, scored: Population, scores: Scores) -> Simplex:
        n, keys = len(state.known), scores.keys
        rows = _next_rows(state, population)[:n]  # beyond, points are repeated
        k, before = len(rows), state.known[: n - TRIALS].all()
        values = state.values if state.values.shape[1] else keys.new_zeros(n, keys.shape[1])
        state = state._replace(
            points=state.points.index_copy(0, rows, scored.genomes[:k]),
            values=values.index_copy(0, rows, keys[:k]),
            invalid=state.invalid.index_copy(0, rows, scores.invalid[:k]),
            known=state.known.index_fill(0, rows, True),
        )
        fitness = _fitness(state)
        top = fitness.argmax(keepdim=True)
        best, highest = state.points.index_select(0, top)[0], fitness.index_select(0, top)[0]
        return _turn(state._replace(best=best, found=highest > -torch.inf), fitness, before)

    def candidates(state: Simplex) -> dict[str, Tensor]:
        return {"best": state.best} if state.found else {}

    return Algorithm(
        init, ask, tell, candidates, population, remembered=population, roles=(NEW,), continuous=True, check=check
    )


def _fitness(state: Simplex) -> Tensor:
    """Return fitness [g + 1 + TRIALS] of what is known, -inf for all else, on one scale where they are ranks."""
    nobody = ~state.known | state.invalid
    return fitness_of(Scores(state.values.masked_fill(nobody[:, None], -torch.inf), nobody))


class _Sight(NamedTuple):
    """Where to look beyond the reflected point, by how good that is; all [] bool."""

    beyond: Tensor  # it is the best of all
    outside: Tensor  # it is better than the worst vertex alone
    inside: Tensor  # it is no better than that


def _look(fitness: Tensor) -> _Sight:
    second, worst, reflected = fitness[-TRIALS - 2], fitness[-TRIALS - 1], fitness[-TRIALS + REFLECTED]
    return _Sight(reflected > fitness[0], (reflected <= second) & (reflected > worst), reflected <= worst)


def _next_rows(state: Simplex, n: int) -> Tensor:
    """Return the rows [n] of the points to ask for: unknown vertices first, or what is needed next."""
    known, v = state.known, len(state.known) - TRIALS
    order = torch.arange(len(known), device=known.device)
    trial, whole = order >= v, known[:v].all()
    # Vertices that are known may be scored again; trials of no use are asked for last.
    turn = torch.where(trial, 3, torch.where(known, 2, 0))
    if state.values.shape[1]:
        sight, begun = _look(_fitness(state)), known[v + REFLECTED]
        needed = torch.where(sight.beyond, EXPANDED, torch.where(sight.outside, OUTSIDE, INSIDE))
        needed = needed.where(begun, REFLECTED) + v
        turn = turn.where(~trial | ~whole | begun, 1)
        turn = turn.where((order != needed) | ~whole, 0)
    rows = (turn * len(known) + order).argsort()
    return rows.repeat(-(-n // len(rows)))[:n]


def _turn(state: Simplex, fitness: Tensor, before: Tensor) -> Simplex:
    """Go on from what is known: sort the vertices, move the worst, or shrink; `before` [] bool: all had been known.

    Nothing of it waits for a device: what becomes of each way is computed, and chosen from.
    """
    v = len(state.known) - TRIALS
    order, g = torch.arange(len(state.known), device=state.known.device), v - 1
    known = state.known & (before | (order < v))  # there are no trials of vertices that weren't known
    sight, trials, after = _look(fitness), known[v:], fitness[v:]
    looked = torch.where(sight.beyond, trials[EXPANDED], trials[REFLECTED])
    looked = torch.where(sight.outside, trials[OUTSIDE], torch.where(sight.inside, trials[INSIDE], looked))
    decided = before & trials[REFLECTED] & looked
    fails = torch.where(sight.outside, after[OUTSIDE] < after[REFLECTED], sight.inside & (after[INSIDE] <= fitness[g]))
    moves, shrinks = decided & ~fails, decided & fails
    further = sight.beyond & (after[EXPANDED] > after[REFLECTED])
    to = torch.where(sight.outside, OUTSIDE, torch.where(sight.inside, INSIDE, REFLECTED))
    to = torch.where(further, EXPANDED, to) + v

    begins = ~before & known[:v].all()
    rows = to.where(moves & (order == g), order)[:v]
    rows = rows[fitness[rows].argsort(descending=True, stable=True)].where(begins | moves, rows)
    vertices = state.points[rows].double()
    nearer = vertices[0] + (1 - 1 / g) * (vertices - vertices[0])
    vertices = nearer.where(shrinks & (order[:v] > 0)[:, None], vertices)
    center, worst = vertices[:g].mean(0), vertices[g]
    ways = (1, 1 + 2 / g, 0.75 - 0.5 / g, 0.5 / g - 0.75)
    trial_points = torch.stack([center + way * (center - worst) for way in ways])
    points = torch.cat([vertices, trial_points]).to(state.points.dtype)
    fresh, kept = begins | decided, torch.cat([rows, order[v:]])
    return state._replace(
        points=points.where(fresh, state.points),
        values=state.values[kept],
        invalid=state.invalid[kept],
        known=known[kept] & ~(fresh & (order >= v)) & ~(shrinks & (order > 0)),
    )
