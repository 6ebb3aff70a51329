"""Where batches come from: rows that can be asked for, whoever has them."""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor


class Samples(Protocol):
    """Samples with their labels, by row: cached features, tensors, views that are made as they are asked for."""

    @property
    def labels(self) -> Tensor:
        """The label of each row, [N] int64."""
        ...

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the rows in `index` [B] hold, [B, ...], and their labels [B]."""
        ...


@runtime_checkable
class Grouped(Protocol):
    """Samples that may belong to groups."""

    @property
    def groups(self) -> Tensor | None:
        """The group of each row, [N] int64, None where there are none."""
        ...

    def in_groups(self, classes: int) -> Samples:
        """Return the same samples with `class + classes * group` in place of the class as their label."""
        ...


@runtime_checkable
class Walks(Protocol):
    """Samples that have one batch ready while another is used, where the order is known."""

    def walk(self, parts: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batch of each part of an index."""
        ...


def walk(samples: Samples, parts: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what each part of an index holds, and its labels, in the best way that the samples have."""
    yield from samples.walk(parts) if isinstance(samples, Walks) else map(samples.batch, parts)
