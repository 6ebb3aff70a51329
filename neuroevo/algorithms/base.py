"""The type that every search algorithm is: four functions around a state of tensors."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from neuroevo.fitness import Scores
from neuroevo.genome import Population
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
