"""Coordinate ascent: a step up and a step down along one gene after another, which grow and shrink by what they find.

Exploratory moves and their sum as in pattern search (Hooke and Jeeves 1961, https://doi.org/10.1145/321062.321069).
The best so far is asked again in each generation, so that all that is compared is of one batch.
"""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import BRED, KEPT, Population, noisy, roles
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms.base import fitness_of

FIRST = 2  # the row of the first trial, behind the best so far and the sum of what led up
GROWTH, SHRINKAGE = 1.25, 0.4  # of a step that led up, and of one that did not


class Exploration(NamedTuple):
    """The last population, and the steps that it was made of."""

    population: Population
    fitness: Tensor  # [n] float64, higher is better, -inf where invalid; empty before the first scores
    order: Tensor  # [g] int64: genes, those whose turn is next first
    steps: Tensor  # [g]: of each gene, in the direction that is tried first
    sum: Tensor  # [g]: all steps of the last generation that led up


def coordinate(
    *, population: Annotated[int, Ge(3)] = 32, sigma: Annotated[float, Gt(0)] | None = None
) -> Algorithm[Exploration]:
    """Try a step up and one down along so many genes a generation, and go on with the best: coordinate ascent.

    Of the `population` one is the best so far, and one that with all steps of the generation before that led up, which
    one generation finds to be better or not; the others are pairs, each along a gene of its own, and one up alone where
    they are odd. Each gene has its turn before any has its second. A step begins with `sigma` (None: the starting
    deviation) and grows by a quarter where it leads up; where neither side does it becomes 0.4 of itself, and the other
    side is tried first.
    For few genes: each takes two individuals a turn.
    """
    trials = population - FIRST

    def init(start: Tensor, spread: float | Tensor, context: Context) -> Exploration:
        g, source = start.shape[1], context.generator("init")
        first = Population.new(noisy(start, population, spread, source), parents=2)
        steps = torch.zeros_like(start[0]) + (spread if sigma is None else sigma)
        order = torch.randperm(g, generator=source, device=start.device)
        return Exploration(first, start.new_empty(0, dtype=torch.float64), order, steps, torch.zeros_like(start[0]))

    def ask(state: Exploration, context: Context) -> Population:
        if not len(state.fitness):
            return state.population
        before, rows = state.population, state.fitness.argmax().expand(population)
        genomes = before.genomes.index_select(0, rows)
        genomes[1] += state.sum
        genes, moves = _trials(state, trials)
        genomes[FIRST:].scatter_add_(1, genes[:, None], moves[:, None])
        parents = torch.stack([rows, rows], dim=1)
        parents[:1, 1] = -1  # a place alone would be copied to the device, and that waited for
        who = roles({KEPT: 1, BRED: population - 1}, rows.device)
        return before.rows(rows)._replace(genomes=genomes, parents=parents, roles=who)

    def tell(state: Exploration, scored: Population, scores: Scores) -> Exploration:
        fitness = fitness_of(scores)
        if not len(state.fitness):
            return state._replace(population=scored, fitness=fitness)
        genes, moves = _trials(state, trials)
        g = len(state.steps)
        led_up = fitness[FIRST:] > fitness[0]
        # Of each gene the trial that led up furthest, of equal ones the first.
        gain = torch.full((g,), -torch.inf, dtype=fitness.dtype, device=fitness.device)
        gain = gain.scatter_reduce(0, genes, fitness[FIRST:].where(led_up, -torch.inf), "amax")
        taken = led_up & (fitness[FIRST:] == gain[genes])
        turn = torch.arange(trials, device=genes.device)
        earliest = torch.full((g,), trials, device=genes.device)
        earliest = earliest.scatter_reduce(0, genes, turn.where(taken, trials), "amin")
        taken &= turn == earliest[genes]
        moved = torch.zeros_like(state.steps).scatter_add(0, genes, moves.where(taken, 0))
        tried = torch.zeros(g, dtype=torch.bool, device=genes.device).index_fill(0, genes, True)
        failed = tried & (moved == 0)
        steps = torch.where(failed, -SHRINKAGE * state.steps, torch.where(moved != 0, GROWTH * moved, state.steps))
        # The best has its own step already.
        winner = fitness.argmax()
        own = torch.zeros_like(moved).scatter_add(0, genes, moves.where(turn + FIRST == winner, 0))
        order = state.order.roll(-min(g, -(-trials // 2)))
        return Exploration(scored, fitness, order, steps, moved - own)

    def candidates(state: Exploration) -> dict[str, Tensor]:
        best = state.fitness.argmax(keepdim=True)
        genome, fitness = state.population.genomes.index_select(0, best)[0], state.fitness.index_select(0, best)
        return {"best": genome} if fitness > -torch.inf else {}

    # All are scored exactly: what one gene makes of fitness is little.
    return Algorithm(init, ask, tell, candidates, population, remembered=population, roles=(BRED, KEPT))


def _trials(state: Exploration, n: int) -> tuple[Tensor, Tensor]:
    """Return the genes [n] of trials, two each, and the steps [n] along them.

    Where there are fewer genes than pairs, a gene's second pair is half as long, and so on.
    """
    pair, g = torch.arange(n, device=state.order.device) // 2, len(state.order)
    genes = state.order[pair % g]
    signs = 1 - 2 * (torch.arange(n, device=genes.device) % 2)
    return genes, state.steps[genes] * signs * 0.5 ** (pair // g)
