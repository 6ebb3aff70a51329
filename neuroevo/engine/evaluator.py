"""What becomes of a proposed population within its generation: it is scored, and may learn first.

Each evaluator is a wrapper of the same type. What is learnt may be inherited (Lamarck) or only count for fitness
(Baldwin 1896; Hinton and Nowlan 1987), and an individual that learning made worse may be put back (Cui et al. 2018,
ESGD's back-off).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.engine.cost import Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores, ranks


class Scoring(NamedTuple):
    """How a population is scored on rows of data, and what that takes."""

    score: Callable[[Population, Tensor], tuple[Scores, Cost]]
    cost: Callable[[int, int], Cost]  # of so many individuals, on a batch of so many samples


class Learning(NamedTuple):
    """How a population learns before it is scored, and what that takes."""

    refine: Callable[[Population, Context], tuple[Population, Cost]]
    cost: Callable[[Population, int], Cost]  # of so many gradient steps
    steps: int = 0  # gradient steps in a generation; `Context.steps` can make them fewer


class Evaluated(NamedTuple):
    """A population at the end of its generation."""

    inherited: Population  # what the algorithm goes on with
    scored: Population  # what the scores are of, and the champion may be
    scores: Scores
    cost: Cost


class Evaluator(NamedTuple):
    """How a population is evaluated, and what that takes, known before any of it is spent."""

    evaluate: Callable[[Population, Tensor, Context], Evaluated]  # the Tensor: rows of the generation's batch
    cost: Callable[[Population, int, int], Cost]  # on a batch of so many samples, with so many gradient steps
    steps: int = 0  # gradient steps in a generation; `Context.steps` can make them fewer


def plain(scoring: Scoring) -> Evaluator:
    """Return an evaluator that scores a population as it is."""

    def evaluate(population: Population, index: Tensor, context: Context) -> Evaluated:
        return Evaluated(population, population, *scoring.score(population, index))

    def cost(population: Population, samples: int, steps: int) -> Cost:
        return scoring.cost(len(population.genomes), samples)

    return Evaluator(evaluate, cost)


def lamarckian(scoring: Scoring, learning: Learning) -> Evaluator:
    """Return an evaluator that refines a population, scores it, and lets it inherit what it learnt."""

    def evaluate(population: Population, index: Tensor, context: Context) -> Evaluated:
        refined, spent = learning.refine(population, context)
        scores, cost = scoring.score(refined, index)
        return Evaluated(refined, refined, scores, spent + cost)

    def cost(population: Population, samples: int, steps: int) -> Cost:
        return learning.cost(population, steps) + scoring.cost(len(population.genomes), samples)

    return Evaluator(evaluate, cost, learning.steps)


def back_off(scoring: Scoring, learning: Learning) -> Evaluator:
    """Return an evaluator as `lamarckian`, but an individual that scores worse than before learning is put back."""

    def evaluate(population: Population, index: Tensor, context: Context) -> Evaluated:
        before, first = scoring.score(population, index)
        refined, spent = learning.refine(population, context)
        after, second = scoring.score(refined, index)
        n = len(population.genomes)
        if before.objectives > 1:  # dominated by what it was
            worse = (before.values >= after.values).all(1) & (before.values > after.values).any(1)
            if before.violation is not None and after.violation is not None:
                worse = (worse & (before.violation == after.violation)) | (before.violation < after.violation)
        else:
            order = ranks(torch.cat([before.keys, after.keys]))
            worse = order[n:] < order[:n]
        kept = mix(worse, population._replace(traits=refined.traits | population.traits), refined)
        scores = before._replace(
            values=torch.where(worse[:, None], before.values, after.values),
            invalid=torch.where(worse, before.invalid, after.invalid),
        )
        if before.violation is not None and after.violation is not None:
            scores = scores._replace(violation=torch.where(worse, before.violation, after.violation))
        return Evaluated(kept, kept, scores, first + spent + second)

    def cost(population: Population, samples: int, steps: int) -> Cost:
        once = scoring.cost(len(population.genomes), samples)
        return once + learning.cost(population, steps) + once

    return Evaluator(evaluate, cost, learning.steps)


def baldwinian(evaluator: Evaluator) -> Evaluator:
    """Return an evaluator whose population inherits its own genomes, whatever it learnt, and keeps its traits."""

    def evaluate(population: Population, index: Tensor, context: Context) -> Evaluated:
        found = evaluator.evaluate(population, index, context)
        return found._replace(inherited=found.scored._replace(genomes=population.genomes))

    return evaluator._replace(evaluate=evaluate)


def mix(first: Tensor, a: Population, b: Population) -> Population:
    """Return a's individuals where `first` [n] bool, b's elsewhere."""

    def take(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(first.view(-1, *[1] * (x.ndim - 1)), x, y)

    traits = {name: take(a.traits[name], trait) for name, trait in b.traits.items()}
    return Population(take(a.genomes, b.genomes), traits, take(a.parents, b.parents), take(a.roles, b.roles))
