"""The type that every search algorithm is: four functions around a state of tensors."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from neuroevo import pareto
from neuroevo.fitness import Scores, ranks
from neuroevo.genome import Layout, Population
from neuroevo.rng import Context

S = TypeVar("S")


class Part(NamedTuple):
    """Marks a builder's parameter as a part of its own: `{name: ..., option: ...}` from the table of this kind."""

    kind: str


class Algorithm(NamedTuple, Generic[S]):
    """A search: `ask` proposes a population, `tell` takes its scores; the state is a NamedTuple of tensors.

    An algorithm that compares across generations asks for the old rows again, so that all scores it compares are of one
    batch.
    """

    # Starting genomes [s, g] and the deviation of the noise around them, one or [g].
    init: Callable[[Tensor, float | Tensor, Context], S]
    ask: Callable[[S, Context], Population]
    tell: Callable[[S, Population, Scores], S]
    candidates: Callable[[S], dict[str, Tensor]]  # kind -> genome [g], for validation
    doubles: bool = False  # from the second generation on it asks for as many remembered rows as new ones
    continuous: bool = False  # it moves by what it asked for, so that rounding genomes to levels would mislead it


class Sizes(NamedTuple):
    """How many rows an algorithm's populations have, and of how many genomes it asks the sensitivity."""

    first: int  # rows of the first generation
    later: int  # rows of each one after it
    asked: int  # genomes after the first generation


def measure(algorithm: Algorithm[Any], layout: Layout, objectives: int) -> Sizes:
    """Return an algorithm's sizes by asking it twice, with all scores the same."""
    asked = 0

    def sensitivity(genomes: Tensor) -> Tensor:
        nonlocal asked
        asked += len(genomes)
        return torch.ones_like(genomes)

    device = torch.device("cpu")
    state = algorithm.init(torch.zeros(1, layout.genes), 0.01, Context(0, 0, 0.0, device, sensitivity))
    first = algorithm.ask(state, Context(0, 1, 0.0, device, sensitivity))
    n, asked = len(first.genomes), 0
    scores = Scores(torch.zeros(n, objectives, dtype=torch.float64), torch.zeros(n, dtype=torch.bool), objectives)
    later = algorithm.ask(algorithm.tell(state, first, scores), Context(0, 2, 0.0, device, sensitivity))
    return Sizes(n, len(later.genomes), asked)


class GAState(NamedTuple):
    """The population and what it was found to be worth."""

    population: Population
    fitness: Tensor  # [n] or, of many objectives, [n, m] float64, higher is better, -inf where invalid; empty at first


def fitness_of(scores: Scores) -> Tensor:
    """Return fitness [n]: the metric itself, or ranks where a second one breaks its ties; -inf where invalid.

    With many objectives, ranks in NSGA-II's order.
    """
    values = scores.values
    if scores.objectives > 1:
        return pareto.ranked(objectives_of(scores))
    return values[:, 0] if values.shape[1] == 1 else ranks(values).masked_fill(scores.invalid, -torch.inf)


def objectives_of(scores: Scores) -> Tensor:
    """Return objectives [n, m], -inf throughout where invalid."""
    return scores.values[:, : scores.objectives].masked_fill(scores.invalid[:, None], -torch.inf)
