"""What becomes of a proposed population within its generation: it is scored, and may learn first.

Each is a wrapper of the same type. What is learnt may be inherited (Lamarck) or only count for fitness (Baldwin 1896;
Hinton and Nowlan 1987), and an individual that learning made worse may be put back (Cui et al. 2018, ESGD's back-off).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.cost import Cost
from neuroevo.fitness import Scores, ranks
from neuroevo.genome import Population
from neuroevo.gradient import Refine
from neuroevo.rng import Context

Planned = Callable[[Population, Context], Cost]


class Scoring(NamedTuple):
    """How a population is scored on rows of data, and what that takes."""

    score: Callable[[Population, Tensor], tuple[Scores, Cost]]
    passes: Callable[[int], int]  # how often a sample goes forward for n individuals
    beside: Callable[[int], int] = lambda n: 0  # samples that go forward for n individuals whatever the batch


class Developed(NamedTuple):
    """A population at the end of its generation."""

    inherited: Population  # what the algorithm goes on with
    scored: Population  # what the scores are of, and the champion may be
    scores: Scores
    cost: Cost


class Development(NamedTuple):
    """How a population develops, and what that costs it beside the batch."""

    develop: Callable[[Population, Tensor, Context], Developed]  # the Tensor: rows of the generation's batch
    planned: Planned  # of learning, and of scoring whatever the batch
    passes: Callable[[int], int]  # how often a sample of the generation's batch goes forward for n individuals
    steps: int = 0  # gradient steps in a generation; `Context.steps` can make them fewer


def unchanged(scoring: Scoring) -> Development:
    """Score a population as it is."""

    def develop(population: Population, index: Tensor, context: Context) -> Developed:
        return Developed(population, population, *scoring.score(population, index))

    def planned(population: Population, context: Context) -> Cost:
        return Cost(forward=scoring.beside(len(population.genomes)))

    return Development(develop, planned, scoring.passes)


def lamarckian(scoring: Scoring, refine: Refine, learning: Planned, steps: int = 0) -> Development:
    """Refine a population, score it, and let it inherit what it learnt."""

    def develop(population: Population, index: Tensor, context: Context) -> Developed:
        refined, spent = refine(population, context)
        scores, cost = scoring.score(refined, index)
        return Developed(refined, refined, scores, spent + cost)

    def planned(population: Population, context: Context) -> Cost:
        return learning(population, context) + Cost(forward=scoring.beside(len(population.genomes)))

    return Development(develop, planned, scoring.passes, steps)


def backed_off(scoring: Scoring, refine: Refine, learning: Planned, steps: int = 0) -> Development:
    """As `lamarckian`, but an individual that scores worse on the generation's batch than before is put back."""

    def develop(population: Population, index: Tensor, context: Context) -> Developed:
        before, first = scoring.score(population, index)
        refined, spent = refine(population, context)
        after, second = scoring.score(refined, index)
        n = len(population.genomes)
        if before.objectives > 1:  # dominated by what it was
            worse = (before.values >= after.values).all(1) & (before.values > after.values).any(1)
        else:
            order = ranks(torch.cat([before.values, after.values]))
            worse = order[n:] < order[:n]
        kept = merged(worse, population._replace(traits=refined.traits | population.traits), refined)
        scores = before._replace(
            values=torch.where(worse[:, None], before.values, after.values),
            invalid=torch.where(worse, before.invalid, after.invalid),
        )
        return Developed(kept, kept, scores, first + spent + second)

    def planned(population: Population, context: Context) -> Cost:
        return learning(population, context) + Cost(forward=2 * scoring.beside(len(population.genomes)))

    return Development(develop, planned, lambda n: 2 * scoring.passes(n), steps)


def baldwinian(development: Development) -> Development:
    """Let a population inherit its own genomes, whatever it learnt; hyperparameters of its own it keeps."""

    def develop(population: Population, index: Tensor, context: Context) -> Developed:
        developed = development.develop(population, index, context)
        return developed._replace(inherited=developed.scored._replace(genomes=population.genomes))

    return development._replace(develop=develop)


def merged(first: Tensor, a: Population, b: Population) -> Population:
    """Return a's individuals where `first` [n], b's elsewhere."""

    def mix(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(first.view(-1, *[1] * (x.ndim - 1)), x, y)

    traits = {name: mix(a.traits[name], trait) for name, trait in b.traits.items()}
    return Population(mix(a.genomes, b.genomes), traits, mix(a.parents, b.parents))
