"""A generational genetic algorithm with elites.

Parents are selected from the whole population before, crossed and mutated (Holland 1975; Goldberg 1989).
Elites go on unchanged and are scored again with their children on the new batch, so that no individual lives on a lucky
batch.

Something has to select: by default `weighted` does so by its weights, and with any other crossover a tournament does.
Where everybody is a parent of everybody (`all`), all children start from one point, the population's weighted mean, and
mutation alone tells them apart: an evolution strategy's global weighted recombination (Beyer 1995; Arnold 2006).

With many objectives the order is that of NSGA-II (Deb et al. 2002), and the elites are its survivors: with half the
population as elites, parents and children are scored on one batch and the better half of both goes on.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from neuroevo.engine import pareto
from neuroevo.engine.algorithm import Algorithm, Part
from neuroevo.engine.genome import BRED, KEPT, Population, noisy, roles
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.search.algorithms.base import GAState, fitness_of, objectives_of
from neuroevo.search.operators.crossover import ANY_NUMBER, CROSSOVERS, Crossover, weighted
from neuroevo.search.operators.masks import draw_integers
from neuroevo.search.operators.mutation import Mutation, gaussian
from neuroevo.search.operators.selection import SELECTIONS, Selection, everybody

MANY = 256  # parents of a child


def usual_selection(weighs: bool, parents: int | None) -> str:
    """Return the name of the default selection; `weighs` tells whether the crossover weighs parents by fitness."""
    if not weighs:
        return "tournament"
    return "all" if parents is None else "random"


def elite_mean_size(population: int, elites: int) -> int:
    """Return how many of the best the candidate `elite_mean` is the mean of: the elites, but a quarter at least."""
    return max(1, elites, population // 4)


def best_first(fitness: Tensor) -> Tensor:
    """Return the rows [n] of valid individuals, the best first, each as often as it takes to make n; all if none is."""
    n = len(fitness)
    valid = (fitness > -torch.inf).sum()
    places = torch.arange(n, device=fitness.device) * (valid + n * (valid == 0)) // n
    return fitness.argsort(descending=True, stable=True)[places]


def ga(
    *,
    population: Annotated[int, Ge(2)] = 256,
    elites: Annotated[int, Ge(0)] = 1,
    parents: Annotated[int, Ge(2)] | None = None,
    selection: Annotated[Selection | None, Part("selection")] = None,
    crossover: Annotated[Crossover, Part("crossover")] = weighted,
    mutation: Annotated[Mutation, Part("mutation")] = gaussian,
    averaging: bool = True,
) -> Algorithm[GAState]:
    """Select, cross and mutate `population` individuals; the best `elites` go on unchanged.

    A child has `parents` parents. None: two; where the crossover takes any number as many as there are, up to 256, or
    with the selection `all` everybody, once. `selection` is by default a tournament; where the crossover weighs parents
    by their fitness, as `weighted` does, it is `all`, or `random` if `parents` says how many. With `averaging` the mean
    of the best quarter is a candidate for champion beside the best individual.
    """
    function = getattr(crossover, "func", crossover)  # without its options
    weighs = function is weighted and getattr(crossover, "keywords", {}).get("step") != 0
    select = selection or SELECTIONS[usual_selection(weighs, parents)]
    if elites >= population:
        raise InputError(f"{elites} must be below the population of {population}", option="elites")
    shared = parents is None and function in ANY_NUMBER and getattr(select, "func", select) is everybody
    if parents is None:
        parents = min(MANY, population) if function in ANY_NUMBER else 2
    recorded = 3 if shared else parents  # more than a lineage has, and not n times everybody
    if parents != 2 and function in CROSSOVERS.values() and function not in ANY_NUMBER:
        raise InputError(f"{parents}, and the crossover takes two; weighted takes any number", option="parents")

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> GAState:
        genomes = noisy(start, population, sigma, context.generator("init"))
        first = Population.new(genomes, parents=recorded)
        # What an individual carries beside its genes is what the mutation gives to those that come without.
        traits = mutation(Population.new(genomes[:, :0], parents=recorded), context, context.layout).traits
        return GAState(first._replace(traits=traits), start.new_empty(0, dtype=torch.float64))

    def ask(state: GAState, context: Context) -> Population:
        if not len(state.fitness):
            return state.population
        before, count = state.population, population - elites
        fitness = state.fitness if state.fitness.ndim == 1 else pareto.rank(state.fitness)
        kept = fitness.topk(elites).indices
        source = context.generator("select")
        if shared and fitness is state.fitness:
            mates, made_of = before.parents.new_full((count, recorded), -1), best_first(fitness)[None]
            pair = draw_integers(population, (count, 2), source)
        else:
            draw = SELECTIONS["random"] if shared else select  # one point for all children would be no front
            mates = draw(fitness, parents * count, source).view(parents, count).T
            pair = mates[:, :2]
            mates = made_of = mates.gather(1, fitness[mates].argsort(dim=1, descending=True, stable=True))  # best first
        # Traits come from the better of two: of many parents, the best would be the same for all children.
        giver = pair.gather(1, fitness[pair].argmax(1, keepdim=True)).squeeze(1)
        genomes = torch.empty_like(before.genomes)  # elites, and children where they stay
        torch.index_select(before.genomes, 0, kept, out=genomes[:elites])
        children = genomes[elites:].copy_(
            crossover(before.genomes, made_of, context.layout, context.generator("crossover"))
        )
        changed = mutation(
            Population(
                children,
                {name: trait[giver] for name, trait in before.traits.items()},
                mates,
                roles({BRED: count}, mates.device),
            ),
            context,
            context.layout,
        )
        if changed.genomes is not children:
            children.copy_(changed.genomes)
        return Population(
            genomes,
            {name: torch.cat([before.traits[name][kept], trait]) for name, trait in changed.traits.items()},
            torch.cat([torch.nn.functional.pad(kept[:, None], (0, mates.shape[1] - 1), value=-1), mates]),
            roles({KEPT: elites, BRED: count}, mates.device),
        )

    def tell(state: GAState, scored: Population, scores: Scores) -> GAState:
        return GAState(scored, fitness_of(scores) if scores.objectives == 1 else objectives_of(scores))

    def candidates(state: GAState) -> dict[str, Tensor]:
        if state.fitness.ndim > 1:
            return {f"front-{i}": row for i, row in enumerate(state.population.genomes[pareto.front(state.fitness)])}
        order = state.fitness.topk(elite_mean_size(population, elites)).indices
        order = order[state.fitness[order] > -torch.inf]
        genomes = state.population.genomes[order]
        found = {"best": genomes[0]} if len(order) else {}
        return found | ({"elite_mean": genomes.mean(0)} if averaging and len(order) > 1 else {})

    # Safe mutation measures the sensitivity of each child.
    safe = bool(getattr(mutation, "keywords", {}).get("safe"))
    return Algorithm(
        init,
        ask,
        tell,
        candidates,
        size=population,
        overhead=population - elites if safe else 0,
        remembered=elites,
        many=True,
        roles=(BRED, KEPT) if elites else (BRED,),
        receives=True,
    )
