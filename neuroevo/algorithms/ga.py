"""A generational genetic algorithm with elites.

Parents are selected from the whole population before, crossed two at a time and mutated (Holland 1975; Goldberg 1989).
Elites go on unchanged and are scored again with their children on the new batch, so that no individual lives on a lucky
batch.
"""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from neuroevo.algorithms.base import Algorithm, Part
from neuroevo.errors import InputError
from neuroevo.fitness import Scores, ranks
from neuroevo.genome import Layout, Population, noisy
from neuroevo.operators import Crossover, Mutation, Selection, gaussian, tournament, uniform
from neuroevo.rng import Context


class GAState(NamedTuple):
    """The population and what it was found to be worth."""

    population: Population
    fitness: Tensor  # [n] float64, higher is better, -inf where invalid; empty before the first scores


def fitness_of(scores: Scores) -> Tensor:
    """Return fitness [n]: the metric itself, or ranks where a second one breaks its ties; -inf where invalid."""
    values = scores.values
    return values[:, 0] if values.shape[1] == 1 else ranks(values).masked_fill(scores.invalid, -torch.inf)


def ga(
    layout: Layout,
    *,
    population: Annotated[int, Ge(2)] = 256,
    elites: Annotated[int, Ge(0)] | None = None,
    selection: Annotated[Selection, Part("selection")] = tournament,
    crossover: Annotated[Crossover, Part("crossover")] = uniform,
    mutation: Annotated[Mutation, Part("mutation")] = gaussian,
) -> Algorithm[GAState]:
    """Select, cross and mutate `population` individuals; the best `elites` (None: a quarter) go on unchanged."""
    elites = population // 4 if elites is None else elites
    if elites >= population:
        raise InputError(f"algorithm.elites: {elites} must be below the population of {population}")

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> GAState:
        genomes = noisy(start, population, sigma, context.generator("init"))
        parents = torch.full((population, 2), -1, device=start.device)
        first = Population(genomes, {}, parents)
        # What an individual carries beside its genes is what the mutation gives to those that come without.
        traits = mutation(Population(genomes[:, :0], {}, parents), context, layout).traits
        return GAState(first._replace(traits=traits), start.new_empty(0, dtype=torch.float64))

    def ask(state: GAState, context: Context) -> Population:
        if not len(state.fitness):
            return state.population
        before, count = state.population, population - elites
        kept = state.fitness.topk(elites).indices
        parents = selection(state.fitness, 2 * count, context.generator("select")).view(2, count).T.contiguous()
        children = mutation(
            Population(
                crossover(before.genomes, parents, layout, context.generator("crossover")),
                {name: trait[parents[:, 0]] for name, trait in before.traits.items()},
                parents,
            ),
            context,
            layout,
        )
        return Population(
            torch.cat([before.genomes[kept], children.genomes]),
            {name: torch.cat([before.traits[name][kept], trait]) for name, trait in children.traits.items()},
            torch.cat([torch.stack([kept, torch.full_like(kept, -1)], dim=1), parents]),
        )

    def tell(state: GAState, scored: Population, scores: Scores) -> GAState:
        return GAState(scored, fitness_of(scores))

    def candidates(state: GAState) -> dict[str, Tensor]:
        order = state.fitness.topk(max(1, elites)).indices
        order = order[state.fitness[order] > -torch.inf]
        genomes = state.population.genomes[order]
        named = {"best": genomes[:1], "elite_mean": genomes.mean(0, keepdim=True) if len(order) > 1 else genomes[:0]}
        return {kind: rows[0] for kind, rows in named.items() if len(rows)}

    return Algorithm(init, ask, tell, candidates)
