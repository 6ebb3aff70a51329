"""The type that every search algorithm is: four functions around a state of tensors."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from neuroevo.engine import pareto
from neuroevo.engine.genome import Population
from neuroevo.engine.rng import Context
from neuroevo.fitness import Scores, ranks

S = TypeVar("S")


class Part(NamedTuple):
    """Marks a builder's parameter as a part of its own: `{name: ..., option: ...}` from the table of this kind."""

    kind: str


def _any_number(genes: int) -> None:
    pass


class Algorithm(NamedTuple, Generic[S]):
    """A search: `ask` proposes a population, `tell` takes its scores; the state is a NamedTuple of tensors.

    An algorithm that compares across generations asks for the old rows again, so that all scores it compares are of one
    batch. It is built by its options alone; which genes are whose, `Context.layout` says.
    """

    # Starting genomes [s, g] and the deviation of the noise around them, one or [g].
    init: Callable[[Tensor, float | Tensor, Context], S]
    ask: Callable[[S, Context], Population]
    tell: Callable[[S, Population, Scores], S]
    candidates: Callable[[S], dict[str, Tensor]]  # kind -> genome [g], for validation
    size: int  # rows of a population
    again: int = 0  # rows beside those, from the second generation on: remembered ones that are scored again
    overhead: int = 0  # genomes of which it asks `Context.sensitivity`, in each generation from the second on
    remembered: int = 0  # of the best that go on; 0 where there is no such number
    many: bool = False  # it takes many objectives
    continuous: bool = False  # it moves by what it asked for, so that rounding genomes to levels would mislead it
    check: Callable[[int], None] = _any_number  # raises InputError where it can't search so many genes

    @property
    def later(self) -> int:
        """Rows of a population from the second generation on."""
        return self.size + self.again

    def exact(self, rows: int) -> int:
        """Return how many of the best of so many rows must be told apart exactly: those that go on, or a quarter."""
        return min(rows, self.remembered or max(1, rows // 4))


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
