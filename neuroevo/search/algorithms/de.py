"""Differential evolution: the differences between individuals are the steps that others take.

A trial is made for each target and takes its place if it isn't worse (Storn and Price 1997,
https://doi.org/10.1023/A:1008202821328). Targets are asked again with their trials, so that both are scored on one
batch.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import BRED, KEPT, Population, noisy, roles
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms.base import GAState, fitness_of
from neuroevo.search.operators.masks import Probability, blocks

DONORS = 3


def de(
    *,
    population: Annotated[int, Ge(DONORS + 1)] = 128,
    strategy: Literal["rand", "best", "current_to_best"] = "rand",
    weight: Annotated[float, Ge(0), Le(2)] = 0.5,
    crossover_rate: Probability = 0.9,
) -> Algorithm[GAState]:
    """Let `population` targets compete with one trial each; every target counts twice a generation.

    The state's population are targets and then trials [2n, g], at first targets only. A trial takes each gene from a
    mutant with probability `crossover_rate`, one gene in any case, and else from its target. The mutant is, with F the
    `weight` and a, b, c drawn anew for each target, distinct and others than it: `rand`, a + F (b - c); `best`,
    best + F (b - c); `current_to_best`, target + F (best - target) + F (b - c). For a target that is invalid a stands
    in, and a target that is invalid is drawn only where too few are valid.
    """
    n = population

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> GAState:
        genomes = noisy(start, n, sigma, context.generator("init"))
        return GAState(Population.new(genomes, parents=1 + DONORS), start.new_empty(0, dtype=torch.float64))

    def ask(state: GAState, context: Context) -> Population:
        before = state.population
        if not len(state.fitness):
            return before
        own = survivors(state.fitness, n)
        fitness = state.fitness[own]
        a, b, c = donors(fitness, context.generator("donors")).unbind(1)
        current = torch.where(fitness > -torch.inf, torch.arange(n, device=own.device), a)
        base = a if strategy == "rand" else fitness.argmax().expand(n)
        kept = torch.cat([own, own[current]])
        genomes = before.genomes.index_select(0, kept)
        targets, trials = genomes[:n], genomes[n:]
        source = context.generator("crossover")
        certain = torch.randint(genomes.shape[1], (n, 1), generator=source, device=own.device)
        places = torch.arange(genomes.shape[1], device=own.device)
        for rows, columns in blocks(trials):
            trial, pool = trials[rows, columns], targets[:, columns]
            mutant = pool.index_select(0, base[rows])
            if strategy == "current_to_best":
                mutant.sub_(trial).mul_(weight).add_(trial)
            difference = pool.index_select(0, b[rows]).sub_(pool.index_select(0, c[rows]))
            mutant.add_(difference, alpha=weight)
            chosen = torch.rand(trial.shape, generator=source, device=own.device) < crossover_rate
            chosen |= places[columns] == certain[rows]
            trial.copy_(torch.where(chosen, mutant, trial))
        none = torch.full_like(own, -1)
        lineage = [torch.stack([own, none, none, none], dim=1), own[torch.stack([current, base, b, c], dim=1)]]
        traits = {name: trait[kept] for name, trait in before.traits.items()}
        return Population(genomes, traits, torch.cat(lineage), roles({KEPT: n, BRED: n}, own.device))

    def tell(state: GAState, scored: Population, scores: Scores) -> GAState:
        return GAState(scored, fitness_of(scores))

    def candidates(state: GAState) -> dict[str, Tensor]:
        own = survivors(state.fitness, n)
        own = own[state.fitness[own] > -torch.inf]
        if not len(own):
            return {}
        genomes = state.population.genomes
        best = own.index_select(0, state.fitness[own].argmax(keepdim=True))
        return {"best": genomes.index_select(0, best)[0], "mean": genomes.index_select(0, own).mean(0)}

    return Algorithm(init, ask, tell, candidates, size=n, again=n, roles=(BRED, KEPT), receives=True)


def survivors(fitness: Tensor, n: int) -> Tensor:
    """Return the rows [n] of those that go on, trials that aren't worse than their targets; `fitness` [2n] or [n]."""
    trials = torch.arange(len(fitness) - n, len(fitness), device=fitness.device)
    targets = trials - trials[0]
    return torch.where(fitness[trials] >= fitness[targets], trials, targets)


def donors(fitness: Tensor, generator: torch.Generator) -> Tensor:
    """Draw rows [n, DONORS] for each of `fitness` [n]: distinct, not its own, and valid if there are enough."""
    n, valid = len(fitness), fitness > -torch.inf
    count = valid.sum()
    count = count.where(count > DONORS, n)
    order = valid.argsort(descending=True, stable=True)
    place = order.argsort()  # of each row in that order, the first `count` of which are drawn from
    room = count - (place < count).long()
    taken = place[:, None]
    for k in range(DONORS):
        share = torch.rand(n, generator=generator, device=fitness.device, dtype=torch.float64)
        drawn = (share * (room - k)).long()
        for other in taken.sort(1).values.unbind(1):  # past those that are taken, the lowest first
            drawn += drawn >= other
        taken = torch.cat([taken, drawn[:, None]], dim=1)
    return order[taken[:, 1:]]
