"""The type that every search algorithm is: four functions around a state of tensors."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from neuroevo.engine.genome import BRED, KEPT, NEW, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores

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
    roles: tuple[int, ...] = (NEW, BRED, KEPT)  # that there may be from the second generation on
    continuous: bool = False  # it moves by what it asked for, so that rounding genomes to levels would mislead it
    check: Callable[[int], None] = _any_number  # raises InputError where it can't search so many genes
    # What it goes on from is the population that it was last told, row by row, so that others may take places in it
    # beforehand: row i and, where there are rows beside, row `size` + i are one individual's.
    receives: bool = False
    islands: int = 1  # equal parts of its population, one behind the other, that draw apart

    @property
    def later(self) -> int:
        """Rows of a population from the second generation on."""
        return self.size + self.again

    def exact(self, rows: int) -> int:
        """Return how many of the best of so many rows must be told apart exactly: those that go on, or a quarter.

        They are as many of each island.
        """
        each = rows // self.islands
        return self.islands * min(each, self.remembered or max(1, each // 4))
