"""Affine maps between a network's features and its head; they fold into the head's first linear layer."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Standardise(NamedTuple):
    """z = (x - mean) / std, by statistics of the train split."""

    mean: Tensor  # [d]
    std: Tensor  # [d], 1 where a feature is constant

    @property
    def width(self) -> int:
        """Number of features that come out."""
        return len(self.mean)

    def __call__(self, features: Tensor) -> Tensor:
        """Standardise features [B, d]."""
        return (features - self.mean) / self.std

    def fold(self, weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
        """Return weights {name: [n, *shape]} that give the same logits on raw features as these on standardised ones.

        `layer` is the first linear layer: W' = W / std, b' = b - W' mean, in float64.
        """
        w = weights[f"{layer}.weight"].double() / self.std.double()
        b = weights[f"{layer}.bias"].double() - w @ self.mean.double()
        return {**weights, f"{layer}.weight": w.float(), f"{layer}.bias": b.float()}

    def unfold(self, weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
        """Return weights that give the same logits on standardised features as these on raw ones: `fold` undone."""
        w = weights[f"{layer}.weight"].double()
        b = weights[f"{layer}.bias"].double() + w @ self.mean.double()
        return {**weights, f"{layer}.weight": (w * self.std.double()).float(), f"{layer}.bias": b.float()}


class Projection(NamedTuple):
    """z = (x - mean) axes: principal components of the train split, each scaled."""

    mean: Tensor  # [d]
    axes: Tensor  # [d, k]

    @property
    def width(self) -> int:
        """Number of features that come out."""
        return self.axes.shape[1]

    def __call__(self, features: Tensor) -> Tensor:
        """Project features [B, d] to [B, k]."""
        return (features - self.mean) @ self.axes

    def fold(self, weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
        """Return weights {name: [n, *shape]} that give the same logits on raw features as these on projected ones.

        `layer` is the first linear layer: W' = W axes^T, b' = b - W' mean, in float64.
        """
        w = weights[f"{layer}.weight"].double() @ self.axes.double().T
        b = weights[f"{layer}.bias"].double() - w @ self.mean.double()
        return {**weights, f"{layer}.weight": w.float(), f"{layer}.bias": b.float()}

    def unfold(self, weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
        """Return weights for projected features: the inverse of `fold`, and least squares where there is none."""
        w, axes = weights[f"{layer}.weight"].double(), self.axes.double()
        b = weights[f"{layer}.bias"].double() + w @ self.mean.double()
        own = torch.linalg.lstsq(axes.cpu(), w.flatten(0, 1).T.cpu()).solution.T.to(w.device)
        return {**weights, f"{layer}.weight": own.unflatten(0, w.shape[:2]).float(), f"{layer}.bias": b.float()}


Affine = Standardise | Projection
