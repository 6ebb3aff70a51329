"""The frozen part's output, computed once an image and kept on disk.

A file of features is addressed by everything it depends on (architecture, weights, transform, images, versions), so it
is shared by every run that asks for the same and can't be stale. It is written under another name and renamed when
complete; of two runs that need the same file, one computes it and the other waits.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
import torch
import torchvision
from filelock import FileLock
from PIL import Image
from torch import Tensor

from neuroevo import backbones, data, devices
from neuroevo.backbones import Backbone, Transform
from neuroevo.data import Dataset

BATCH = 64  # images at a time through the backbone; fixed, so that computing features again gives the same bytes


class Standardise(NamedTuple):
    """z = (x - mean) / std, by statistics of the train split."""

    mean: Tensor  # [d]
    std: Tensor  # [d], 1 where a feature is constant

    def __call__(self, features: Tensor) -> Tensor:
        """Standardise features [B, d]."""
        return (features - self.mean) / self.std

    def fold(self, weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
        """Return weights {name: [n, *shape]} that do on raw features what these do on standardised ones.

        `layer` is the first linear layer: W' = W / std, b' = b - W' mean, in float64.
        """
        w = weights[f"{layer}.weight"].double() / self.std.double()
        b = weights[f"{layer}.bias"].double() - w @ self.mean.double()
        return {**weights, f"{layer}.weight": w.float(), f"{layer}.bias": b.float()}

    def unfold(self, weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
        """Return weights for standardised features that do what these do on raw ones: the inverse of `fold`."""
        w = weights[f"{layer}.weight"].double()
        b = weights[f"{layer}.bias"].double() + w @ self.mean.double()
        return {**weights, f"{layer}.weight": (w * self.std.double()).float(), f"{layer}.bias": b.float()}


class Features(NamedTuple):
    """Cached features of a data set's images, in its order, with their labels."""

    rows: Tensor  # [N, d] float32, mapped from disk, in memory or on the device
    labels: Tensor  # [N] int64, on the run's device
    standardise: Standardise | None
    device: torch.device

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.rows.shape[1]

    def digest(self) -> str:
        """Return a hash of some 1,024 rows, evenly spaced: features computed anew may round otherwise."""
        return backbones.digest({"rows": self.rows[:: max(1, len(self.rows) // 1024)]})

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features [B, d] as the head sees them, and the labels [B], of the rows in `index`."""
        features = self.rows[index.to(self.rows.device)].to(self.device)
        return (self.standardise(features) if self.standardise else features), self.labels[index.to(self.device)]


def statistics(rows: Tensor, train: Tensor) -> Standardise:
    """Return mean and standard deviation of the train rows, in float64 and a slice at a time."""
    total = torch.zeros(2, rows.shape[1], dtype=torch.float64, device=rows.device)
    shift = rows[train[0]].double()  # about a sample of the data, for precision
    for index in train.to(rows.device).split(4096):
        x = rows[index].double() - shift
        total += torch.stack([x.sum(0), x.square().sum(0)])
    mean, square = total / len(train)
    std = (square - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std))
    return Standardise((shift + mean).float(), std.float())


def address(backbone: Backbone, images: data.Arrays | data.Files) -> str:
    """Return the name of the features of these images: a hash of all they depend on."""
    import timm

    record = {
        "format": 1,
        "backbone": [backbone.name, backbone.digest],
        "transform": backbone.transform,
        "images": images.fingerprint(),
        "dtype": "float32",
        "batch": BATCH,
        "versions": [torch.__version__, torchvision.__version__, timm.__version__, PIL.__version__],
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def cached(
    backbone: Backbone, dataset: Dataset, device: torch.device, progress: Callable[[int, int], None]
) -> tuple[Tensor, int]:
    """Return the features [N, d] of a data set's images, and how many images went through the backbone for it.

    `progress(done, total)` is called after each batch; what it raises ends the computation and leaves no file.
    """
    folder = data.cache_folder() / "features"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{address(backbone, dataset.images)}.npy"
    computed = 0
    if not path.exists():
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():  # another run may have made it while this one waited
                _compute(path, backbone, dataset.images, device, progress)
                computed = len(dataset.images)
    return _open(path, device), computed


def _open(path: Path, device: torch.device) -> Tensor:
    # Copy-on-write: torch wants writable memory, and nobody writes.
    mapped = np.load(path, mmap_mode="c")
    fits = [d for d in (device, torch.device("cpu")) if mapped.nbytes < devices.available_memory(d) / 2]
    if not fits:
        return torch.from_numpy(mapped)
    return torch.from_numpy(np.load(path)).to(fits[0])


def _compute(
    path: Path,
    backbone: Backbone,
    images: data.Arrays | data.Files,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.partial")
    body = backbone.body.to(device).to(memory_format=torch.channels_last)
    out: np.memmap[Any, np.dtype[np.float32]] | None = None
    done = 0
    try:
        with torch.inference_mode():
            for batch in _batches(images, backbone.transform):
                rows = backbone._replace(body=body).features(normalised(batch, backbone.transform, device))
                if out is None:
                    shape = (len(images), rows.shape[1])
                    out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
                out[done : done + len(rows)] = rows.cpu().numpy()
                done += len(rows)
                progress(done, len(images))
        assert out is not None
        out.flush()
        del out
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _batches(images: data.Arrays | data.Files, transform: Transform) -> Iterator[Tensor]:
    """Yield images as uint8 [B, channels, H, W], in order; threads decode ahead, for PIL releases the GIL."""
    resample = Image.Resampling[transform.interpolation.upper()]
    with ThreadPoolExecutor() as pool:
        starts = range(0, len(images), BATCH)
        chunks = [range(start, min(start + BATCH, len(images))) for start in starts]

        def decode(index: int) -> npt.NDArray[np.uint8]:
            return pixels(images[index], transform.channels, transform.size, resample)

        ahead = [pool.submit(decode, i) for i in chunks[0]]
        for k in range(len(chunks)):
            now, ahead = ahead, [pool.submit(decode, i) for i in (chunks[k + 1] if k + 1 < len(chunks) else ())]
            yield torch.from_numpy(np.stack([future.result() for future in now])).permute(0, 3, 1, 2)


def pixels(
    image: Image.Image, channels: int, size: tuple[int, int], resample: Image.Resampling
) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 [H, W, channels]: shorter side to size, centre crop."""
    image = image.convert("RGB" if channels == 3 else "L")
    height, width = size
    scale = max(height / image.height, width / image.width)
    around = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if image.size != around:
        image = image.resize(around, resample)
    left, top = (around[0] - width) // 2, (around[1] - height) // 2
    if around != (width, height):
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image).reshape(height, width, channels)


def normalised(batch: Tensor, transform: Transform, device: torch.device) -> Tensor:
    """Return uint8 images [B, channels, H, W] as the backbone takes them: float32, normalised, channels last."""
    x = batch.to(device).to(torch.float32, memory_format=torch.channels_last).div_(255)
    if transform.mean is not None and transform.std is not None:
        mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (transform.mean, transform.std))
        x = x.sub_(mean).div_(std)
    return x
