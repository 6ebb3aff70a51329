"""What becomes of a proposed population within its generation: it is scored, and may learn first.

Each is a wrapper of the same type. What is learnt may be inherited (Lamarck) or only count for fitness (Baldwin 1896;
Hinton and Nowlan 1987), and an individual that learning made worse may be put back (Cui et al. 2018, ESGD's back-off).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.engine.cost import Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores, ranks

Refine = Callable[[Population, Context], tuple[Population, Cost]]


Learning = Callable[[Population, int], Cost]  # what a population's learning takes, of so many gradient steps


class Scoring(NamedTuple):
    """How a population is scored on rows of data, and what that takes."""

    score: Callable[[Population, Tensor], tuple[Scores, Cost]]
    cost: Callable[[int, int], Cost]  # of so many individuals, on a batch of so many samples


class Developed(NamedTuple):
    """A population at the end of its generation."""

    inherited: Population  # what the algorithm goes on with
    scored: Population  # what the scores are of, and the champion may be
    scores: Scores
    cost: Cost


class Development(NamedTuple):
    """How a population develops, and what that costs."""

    develop: Callable[[Population, Tensor, Context], Developed]  # the Tensor: rows of the generation's batch
    cost: Callable[[Population, int, int], Cost]  # on a batch of so many samples, with so many gradient steps
    steps: int = 0  # gradient steps in a generation; `Context.steps` can make them fewer


def unchanged(scoring: Scoring) -> Development:
    """Score a population as it is."""

    def develop(population: Population, index: Tensor, context: Context) -> Developed:
        return Developed(population, population, *scoring.score(population, index))

    def cost(population: Population, samples: int, steps: int) -> Cost:
        return scoring.cost(len(population.genomes), samples)

    return Development(develop, cost)


def lamarckian(scoring: Scoring, refine: Refine, learning: Learning, steps: int = 0) -> Development:
    """Refine a population, score it, and let it inherit what it learnt."""

    def develop(population: Population, index: Tensor, context: Context) -> Developed:
        refined, spent = refine(population, context)
        scores, cost = scoring.score(refined, index)
        return Developed(refined, refined, scores, spent + cost)

    def cost(population: Population, samples: int, steps: int) -> Cost:
        return learning(population, steps) + scoring.cost(len(population.genomes), samples)

    return Development(develop, cost, steps)


def backed_off(scoring: Scoring, refine: Refine, learning: Learning, steps: int = 0) -> Development:
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

    def cost(population: Population, samples: int, steps: int) -> Cost:
        once = scoring.cost(len(population.genomes), samples)
        return once + learning(population, steps) + once

    return Development(develop, cost, steps)


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
    return Population(mix(a.genomes, b.genomes), traits, mix(a.parents, b.parents), mix(a.roles, b.roles))
