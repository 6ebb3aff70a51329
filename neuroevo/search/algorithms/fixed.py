"""Individuals that stay as they are: only what they learn changes them.

With one individual and a gradient refine this is plain training; with several it is as many restarts.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import KEPT, Population, noisy, roles
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms.base import GAState, fitness_of


def fixed(*, population: Annotated[int, Ge(1)] = 1) -> Algorithm[GAState]:
    """Keep `population` individuals, without selection, crossover or mutation."""

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> GAState:
        genomes = noisy(start, population, sigma, context.generator("init"))
        return GAState(Population.new(genomes, parents=2), start.new_empty(0, dtype=torch.float64))

    def ask(state: GAState, context: Context) -> Population:
        if not len(state.fitness):
            return state.population
        own = torch.arange(population, device=state.fitness.device)
        parents = torch.stack([own, torch.full_like(own, -1)], dim=1)
        return state.population._replace(parents=parents, roles=roles({KEPT: population}, own.device))

    def tell(state: GAState, scored: Population, scores: Scores) -> GAState:
        return GAState(scored, fitness_of(scores))

    def candidates(state: GAState) -> dict[str, Tensor]:
        # Nobody competes with anybody here: validation sees all.
        fitness = state.fitness.cpu()
        best, valid = int(fitness.argmax()), (fitness > -torch.inf).tolist()
        names = ["best" if i == best else f"individual_{i}" for i in range(population)]
        return {names[i]: state.population.genomes[i] for i in range(population) if valid[i]}

    return Algorithm(init, ask, tell, candidates, population, roles=(KEPT,), receives=True)
