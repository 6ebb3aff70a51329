"""Statistics of features over the train split: means, deviations, principal components."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neuroevo.data import cache
from neuroevo.data.samples import SLICE
from neuroevo.errors import ignore
from neuroevo.networks.affine import Projection, Standardise
from neuroevo.networks.weightfiles import digest

FLAT = 1e-2  # of the first deviation: by smaller ones, float32 would round logits too coarsely


def statistics(rows: Tensor, train: Tensor) -> Standardise:
    """Return mean and standard deviation of the train rows, in float64 and a slice at a time."""
    total = torch.zeros(2, rows.shape[1], dtype=torch.float64, device=rows.device)
    shift = rows[train[0]].double()  # about a sample of the data, for precision
    for index in train.to(rows.device).split(SLICE):
        x = rows[index].double() - shift
        total += torch.stack([x.sum(0), x.square().sum(0)])
    mean, square = total / len(train)
    std = (square - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std))
    return Standardise((shift + mean).float(), std.float())


def vary(rows: Tensor, train: Tensor) -> bool:
    """Tell whether any feature of the train rows varies; NaN is never the same."""
    first, train = rows[train[0]], train.to(rows.device)
    return any(bool((rows[index] != first).any()) for index in train.split(SLICE))


def principal(
    rows: Tensor, train: Tensor, scale: Standardise, key: str, log: Callable[[str], None] = ignore
) -> tuple[Tensor, Tensor]:
    """Return the principal axes [d, r] float64 of the train rows on a scale, and deviations [r] along them, falling.

    Computed in float64 and kept in the cache folder under a hash of `key`, of the rows and of the scale. There are
    fewer than d where there are fewer train rows, or where deviations are next to nothing.
    """
    path, what = components_file(rows, train, scale, key), "components"
    content = cache.read(path)
    if content is None:
        with cache.lock(path, what):
            content = cache.read(path)  # another run may have made it while this one waited
            if content is None:
                with cache.explain(what):
                    damaged = cache.clear(path)
                if damaged:
                    log(f"cached components {path}: damaged, computed anew")
                axes, deviations = _principal(rows, train, scale)
                file = io.BytesIO()
                np.savez(file, axes=axes.numpy(), deviations=deviations.numpy())
                content = file.getvalue()
                cache.write(path, content, what)
    with np.load(io.BytesIO(content)) as saved:
        return torch.from_numpy(saved["axes"]), torch.from_numpy(saved["deviations"])


def components_file(rows: Tensor, train: Tensor, scale: Standardise, key: str) -> Path:
    """Return where the cache keeps the principal components of the train rows on a scale."""
    some = {"rows": rows[:: max(1, len(rows) // 1024)], "train": train, **scale._asdict()}
    name = hashlib.sha256(f"sealed {key} {digest(some)}".encode()).hexdigest()
    return cache.cache_folder() / "features" / f"{name}.npz"


def _principal(rows: Tensor, train: Tensor, scale: Standardise) -> tuple[Tensor, Tensor]:
    n, d = len(train), rows.shape[1]

    def centre(index: Tensor) -> Tensor:
        return scale(rows[index.to(rows.device)].to(scale.mean.device).double())

    if n > d:
        gram = torch.zeros(d, d, dtype=torch.float64, device=scale.mean.device)
        for index in train.split(SLICE):
            x = centre(index)
            gram.addmm_(x.T, x)
    else:
        whole = torch.cat([centre(index) for index in train.split(SLICE)])
        gram = whole @ whole.T
    squares, vectors = torch.linalg.eigh(gram.cpu())
    squares, vectors = squares.flip(0).clamp_(min=0), vectors.flip(1)
    kept = squares.sqrt() > FLAT * squares[0].sqrt()
    kept[n - 1 :] = False  # a mean has been taken off
    squares, vectors = squares[kept], vectors[:, kept]
    if n <= d:
        vectors = whole.cpu().T @ vectors / squares.sqrt()
    sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    return vectors * sign, (squares / n).sqrt()


def projection(
    axes: Tensor, deviations: Tensor, scale: Standardise, components: int | None, whitening: float
) -> Projection:
    """Return the projection on the first components, each divided by its deviation to the power of `whitening`.

    Together they have a mean variance of 1, so that a step means as much whatever the whitening.
    """
    k = min(components or len(deviations), len(deviations))
    deviations = deviations[:k]
    factors = deviations**-whitening
    factors /= (deviations * factors).square().mean().sqrt()
    axes = axes[:, :k] * factors / scale.std.double().cpu()[:, None]
    return Projection(scale.mean, axes.float().contiguous().to(scale.mean.device))
