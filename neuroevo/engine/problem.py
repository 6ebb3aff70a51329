"""What a search is of: where it starts, what becomes of a population, and what candidates are worth.

`loop.begin` makes generation 0 of a problem and `loop.evolve` goes on; they know nothing else. A problem needs no
network and no config: `function` makes one of a function of genomes, or of a module.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from neuroevo.engine.batches import Batch
from neuroevo.engine.cost import Cost
from neuroevo.engine.evaluator import Evaluator
from neuroevo.engine.genome import Layout

Validate = Callable[[Tensor], tuple[list[dict[str, float]], Cost]]  # genomes [k, g] -> each one's metrics as reported
VIOLATION = (
    "violation"  # of constraints in sum, among a candidate's metrics: 0 where all are met; not there without any
)
Merit = Callable[[Mapping[str, float]], tuple[float, ...]]  # metrics as reported -> what candidates are compared by


class Sensitivities(Protocol):
    """How much outputs depend on each gene, for mutations that ask for it."""

    def of(self, genomes: Tensor) -> Tensor:
        """Return the sensitivity [n, g] of genomes [n, g]."""
        ...

    def cost(self, n: int) -> Cost:
        """Return what measuring n genomes takes."""
        ...


class Problem(NamedTuple):
    """What a search is of."""

    layout: Layout
    start: Tensor  # [s, g]: genomes that the first population is made around
    sigma: float | Tensor  # deviation of the first population around them, one or [g]
    evaluator: Evaluator
    batch: Batch
    validate: Validate
    merit: Merit
    sensitivity: Sensitivities | None = None


def by_metric(
    metric: str, *, lower_is_better: bool = False, loss: str | None = None, constrained: bool = False
) -> Merit:
    """Return a merit that compares candidates by a metric, and where it ties by a `loss`, the lower the better.

    Those that are `constrained` are compared by how far they violate constraints before that: Deb's rules.
    """
    sign = -1 if lower_is_better else 1

    def merit(metrics: Mapping[str, float]) -> tuple[float, ...]:
        value = sign * metrics[metric]
        found = (value,) if loss is None else (value, -metrics[loss])
        return (-metrics[VIOLATION], *found) if constrained else found

    return merit
