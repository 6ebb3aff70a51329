"""Cached features as samples: rows that can be asked for, with their labels."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from neuroevo import devices
from neuroevo.data import staging
from neuroevo.data.augment import Live
from neuroevo.networks.affine import Affine, Projection
from neuroevo.networks.weightfiles import digest

SLICE = 4096  # rows of features at a time


class Features(NamedTuple):
    """Features of a data set's images, in its order, with their labels; behind them those of augmented views.

    Row `N + v * T + i` is view v of the i-th image of the train split.
    """

    # [N, d], then [T, d] a view: float32 or float16, mapped from disk or in memory, or all of them on the device
    pieces: tuple[Tensor, ...]
    labels: Tensor  # [N + views * T] int64, on the run's device
    affine: Affine | None  # that rows go through on their way to the head
    device: torch.device
    live: "Live | None" = None  # makes views as they are asked for, instead
    groups: Tensor | None = None  # [N + views * T] int64, as labels are

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.pieces[0].shape[1]

    @property
    def alone(self) -> bool:
        """Whether a batch takes operations on a GPU alone, of rows that are on it."""
        return self.live is None and len(self.pieces) == 1 and self.pieces[0].device.type == "cuda"

    def in_groups(self, classes: int) -> Self:
        """Return the same samples with `class + classes * group` in place of the class as their label."""
        assert self.groups is not None
        return self._replace(labels=self.labels + classes * self.groups)

    def digest(self) -> str:
        """Return a hash of some 1,024 rows, evenly spaced: features computed anew may round otherwise."""
        return digest({str(i): piece[:: max(1, len(piece) // 1024)] for i, piece in enumerate(self.pieces)})

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features [B, d] as the head sees them, and the labels [B], of the rows in `index`."""
        clean = len(self.pieces[0])
        if self.live is not None and int(index.max()) >= clean:
            features, labels = self.live(index), self.labels[devices.send((index - clean) % clean, self.device)]
        else:
            features = devices.send(self._gather(index), self.device).float()
            labels = self.labels[devices.send(index, self.device)]
        return (self.affine(features) if self.affine else features), labels

    def walk(self, parts: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batch of each part of an index; from the host to a GPU each comes while the one before is used."""
        if self.device.type != "cuda" or self.pieces[0].device.type != "cpu" or self.live is not None:
            yield from map(self.batch, parts)
            return
        parts = list(parts)
        rows = staging.ahead(self._gather, parts, self.pieces[0], self.device)
        for part, features in zip(parts, rows, strict=True):
            labels = self.labels[devices.send(part, self.device)]
            features = features.float()
            yield (self.affine(features) if self.affine else features), labels

    def through(self, affine: Affine) -> Self:
        """Return features that go through an affine map, projected once and for all where that fits into memory."""
        size = 4 * sum(len(piece) for piece in self.pieces)
        if not isinstance(affine, Projection) or self.live is not None:
            return self._replace(affine=affine)
        if size * affine.axes.shape[1] > devices.available_memory(self.pieces[0].device) / 2:
            return self._replace(affine=affine)

        def project(piece: Tensor) -> Tensor:
            out = piece.new_empty(len(piece), affine.axes.shape[1], dtype=torch.float32)
            for rows, into in zip(piece.split(SLICE), out.split(SLICE), strict=True):
                into.copy_(affine(rows.to(self.device).float()))
            return out

        return self._replace(pieces=tuple(project(piece) for piece in self.pieces))

    def _gather(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the rows [B, d] in `index` where the pieces are, written to `out` where given."""
        first, *views = self.pieces
        if not views:
            index = devices.send(index, first.device)
            return torch.index_select(first, 0, index, out=out)  # five times as fast as first[index] on a CPU
        out = first.new_empty(len(index), self.dim) if out is None else out
        offset = 0
        for piece in self.pieces:
            here = ((index >= offset) & (index < offset + len(piece))).nonzero().squeeze(1)
            rows = devices.send(index[here] - offset, first.device)
            out[devices.send(here, first.device)] = piece[rows]
            offset += len(piece)
        return out


def together(pieces: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Return pieces of features in one place: on the host if any is, for each was asked alone whether it fits."""
    pieces = tuple(pieces)
    if len({piece.device for piece in pieces}) < 2:
        return pieces
    return tuple(piece.cpu() for piece in pieces)
