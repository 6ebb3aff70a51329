"""What a search has to beat: individuals drawn anew each time, and steps that are taken when they lead up.

The best so far is asked again with the others in each generation, so that it is compared with them on one batch.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import BRED, KEPT, NEW, Population, noisy, roles
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms.base import fitness_of

Size = Annotated[int, Ge(2)]


class Incumbent(NamedTuple):
    """The last population, the best before it in row 0, and what its genomes are drawn around."""

    population: Population
    fitness: Tensor  # [n] float64, higher is better, -inf where invalid; empty before the first scores
    start: Tensor  # [s, g]
    sigma: Tensor  # [] or [g]: the deviation


def random(*, population: Size = 256) -> Algorithm[Incumbent]:
    """Draw `population` - 1 individuals around the start, and keep the best so far: random search.

    Those drawn have the starting deviation, and no parents. They take up hyperparameters that are an individual's own
    from whoever had their row, but no optimizer's state.
    """

    def ask(state: Incumbent, context: Context) -> Population:
        if not len(state.fitness):
            return state.population
        before, s = state.population, len(state.start)
        # The first s would be the starts themselves once more; the last of them makes room for the best.
        genomes = noisy(state.start, s + population - 1, state.sigma, context.generator("sample"))[s - 1 :]
        best = state.fitness.argmax()
        genomes[:1] = before.genomes.index_select(0, best[None])
        rows = torch.arange(population, device=best.device)
        rows[0] = best
        traits = {name: trait[rows] for name, trait in before.traits.items()}
        for trait in traits.values():
            if trait.ndim > 1:  # of each gene: those genes are gone
                trait[1:] = 0
        parents = torch.full((population, 2), -1, device=best.device)
        parents[0, 0] = best
        return Population(genomes, traits, parents, roles({KEPT: 1, NEW: population - 1}, best.device))

    return Algorithm(_init(population, None), ask, _tell, _candidates, population, roles=(NEW, KEPT), receives=True)


def hill_climbing(*, population: Size = 256, sigma: Annotated[float, Ge(0)] | None = None) -> Algorithm[Incumbent]:
    """Mutate one individual `population` - 1 times, and go on with the best of all: hill climbing.

    `sigma` is the deviation of a gene's step (None: the starting deviation). The individual stays unless it is beaten.
    """

    def ask(state: Incumbent, context: Context) -> Population:
        if not len(state.fitness):
            return state.population
        before, rows = state.population, state.fitness.argmax().expand(population)
        genomes = noisy(before.genomes[rows[:1]], population, state.sigma, context.generator("mutation"))
        parents = torch.stack([rows, rows], dim=1)
        parents[:1, 1] = -1  # a place alone would be copied to the device, and that waited for
        return before.rows(rows)._replace(
            genomes=genomes, parents=parents, roles=roles({KEPT: 1, BRED: population - 1}, rows.device)
        )

    return Algorithm(_init(population, sigma), ask, _tell, _candidates, population, roles=(BRED, KEPT), receives=True)


def _init(population: int, step: float | None) -> Callable[[Tensor, float | Tensor, Context], Incumbent]:
    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Incumbent:
        genomes = noisy(start, population, sigma, context.generator("init"))
        first = Population.new(genomes, parents=2)
        deviation = torch.as_tensor(sigma if step is None else step, dtype=start.dtype, device=start.device)
        return Incumbent(first, start.new_empty(0, dtype=torch.float64), start, deviation)

    return init


def _tell(state: Incumbent, scored: Population, scores: Scores) -> Incumbent:
    return state._replace(population=scored, fitness=fitness_of(scores))


def _candidates(state: Incumbent) -> dict[str, Tensor]:
    best = state.fitness.argmax(keepdim=True)
    genome, fitness = state.population.genomes.index_select(0, best)[0], state.fitness.index_select(0, best)
    return {"best": genome} if fitness > -torch.inf else {}
