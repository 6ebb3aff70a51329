"""Where batches come from: rows that can be asked for, whoever has them."""

from typing import Protocol

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
