"""The frozen part's output, computed once an image and kept on disk.

A file of features is addressed by everything it depends on (architecture, weights, transform, images, versions), so it
is shared by every run that asks for the same and can't be stale. It is checked before use (`cache`); of two runs that
need the same file, one computes it and the other waits. A pass that ends early leaves the batches it has to the next.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from neuroevo import devices
from neuroevo.data import cache
from neuroevo.data.arrays import Vectors
from neuroevo.data.augment import BATCH, Augment, normalise
from neuroevo.data.datasets import Dataset
from neuroevo.data.images import Arrays, Files
from neuroevo.data.pictures import DECODING
from neuroevo.data.pixels import pixels
from neuroevo.errors import InputError, ignore
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.libraries import Transform


def address(
    backbone: Backbone, images: Arrays | Files, dtype: str, augment: Augment | None = None, view: int = 0
) -> str:
    """Return the name of the features of these images, or of a view of them: a hash of all they depend on."""
    import timm
    import torchvision  # two seconds, for whoever needs no features

    record = {
        "format": 3,
        "decoding": DECODING,
        "backbone": [backbone.name, backbone.digest],
        "transform": backbone.transform,
        "images": images.fingerprint(),
        "dtype": dtype,
        "batch": BATCH,
        "view": None if augment is None else [augment.given, view],
        "versions": [torch.__version__, torchvision.__version__, timm.__version__, PIL.__version__],
    }
    if backbone.cut is not None:
        record["cut"] = [backbone.cut.places, backbone.cut.shapes]
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def features_file(
    backbone: Backbone, images: Arrays | Files, dtype: str, augment: Augment | None = None, view: int = 0
) -> Path:
    """Return where the cache keeps the features of these images, or of a view of them."""
    return cache.cache_folder() / "features" / f"{address(backbone, images, dtype, augment, view)}.npy"


def look_up(
    backbone: Backbone,
    dataset: Dataset,
    device: torch.device,
    dtype: str,
    *,
    augment: Augment | None = None,
    view: int = 0,
) -> tuple[Tensor | None, int]:
    """Return features [N, d] as `fetch` does, None where they are to be computed, and of how many images."""
    if isinstance(dataset.images, Vectors):
        return as_they_are(dataset.images, device, dtype), 0
    path = features_file(backbone, dataset.images, dtype, augment, view)
    if cache.sound(path):
        return _open(path, device), 0
    return None, max(0, len(dataset.images) - BATCH * cache.count_batches(path))


def rate(backbone: Backbone, dataset: Dataset, device: torch.device, augment: Augment | None, seconds: float) -> float:
    """Return the seconds that an image takes through the backbone, read and all, measured for about so many seconds."""
    backbone.to(device)
    some = np.linspace(0, len(dataset.labels) - 1, min(len(dataset.labels), 64 * BATCH)).astype(np.int64)
    images, done, began = dataset.take(some).images, 0, time.perf_counter()
    assert not isinstance(images, Vectors)  # which go through no backbone
    with torch.inference_mode():
        for i, batch in enumerate(_batches(images, backbone.transform, augment, 0)):
            backbone.features(normalise(batch, backbone.transform, device)).cpu()
            now = time.perf_counter()
            if i == 0 and len(images) > len(batch):  # the first also sets things up
                began = now
            else:
                done += len(batch)
            if done and now - began > seconds:
                break
    return (now - began) / done


def fetch(
    backbone: Backbone,
    dataset: Dataset,
    device: torch.device,
    progress: Callable[[int, int], None],
    *,
    dtype: str = "float32",
    augment: Augment | None = None,
    view: int = 0,
    log: Callable[[str], None] = ignore,
) -> tuple[Tensor, int]:
    """Return the features [N, d] of a data set's images, and how many images went through the backbone for it.

    They are kept as `dtype`, float32 or float16; rows of numbers go as they are, and aren't cached.
    `augment` gives those of augmented images, `view` which of their
    views. `progress(done, total)` is called after each batch, and while another run is at work on them; what it raises
    ends the computation, with which the next call goes on. `log` is told what was damaged or begun before.

    InputError where features aren't finite, or the cache folder is of no use; RunError where its disk is full.
    """
    if isinstance(dataset.images, Vectors):
        return as_they_are(dataset.images, device, dtype), 0
    path = features_file(backbone, dataset.images, dtype, augment, view)
    what, total, computed = "features", len(dataset.images), 0
    cache.tidy(path)
    if not cache.sound(path):

        def wait() -> None:
            progress(min(total, cache.count_batches(path) * BATCH), total)

        with cache.lock(path, what, wait):
            if not cache.sound(path):  # another run may have made it while this one waited
                with cache.explain(what):
                    damaged = cache.clear(path)
                if damaged:
                    log(f"cached features {path}: damaged, computed anew")
                computed = _compute(
                    path,
                    backbone,
                    dataset.images,
                    device,
                    progress=progress,
                    dtype=dtype,
                    augment=augment,
                    view=view,
                    log=log,
                )
    return _open(path, device), computed


def as_they_are(samples: Vectors, device: torch.device, dtype: str) -> Tensor:
    """Return rows of numbers [N, d], on a device if they fit there; InputError where float16 can't hold them."""
    rows = torch.from_numpy(samples.rows).to(getattr(torch, dtype))
    if dtype == "float16" and not bool(rows.isfinite().all()):
        row = int((~rows.isfinite()).any(1).nonzero()[0])
        raise InputError(f"float16 can't hold row {row} of x; use float32", option="dtype")
    fits = rows.nbytes < devices.available_memory(device) / 2
    return rows.to(device) if fits else rows


_names = WeakTensorKeyDictionary()  # of what was opened: its file's name, which says all that it depends on


def name_of(features: Tensor) -> str | None:
    """Return by which name any cache has these features, None where they are of none."""
    name: str | None = _names.get(features)
    return name


def open_named(name: str, device: torch.device) -> Tensor | None:
    """Return the features [N, d] that have a name in this machine's cache, None where it hasn't got them."""
    path = cache.cache_folder() / "features" / name
    return _open(path, device) if cache.sound(path) else None


def _open(path: Path, device: torch.device) -> Tensor:
    # Copy-on-write: torch wants writable memory, and nobody writes.
    mapped = np.load(path, mmap_mode="c")
    fits = [d for d in (device, torch.device("cpu")) if mapped.nbytes < devices.available_memory(d) / 2]
    found = torch.from_numpy(np.load(path)).to(fits[0]) if fits else torch.from_numpy(mapped)
    _names[found] = path.name
    return found


def _compute(
    path: Path,
    backbone: Backbone,
    images: Arrays | Files,
    device: torch.device,
    *,
    progress: Callable[[int, int], None],
    dtype: str,
    augment: Augment | None,
    view: int,
    log: Callable[[str], None],
) -> int:
    backbone.to(device)
    total = len(images)
    with torch.inference_mode(), cache.Growing(path, total, dtype) as file:
        begun = file.done
        if begun:
            log(f"features: going on after {begun:,} of {total:,} images")
        for batch in _batches(images, backbone.transform, augment, view, begun):
            rows = backbone.features(normalise(batch, backbone.transform, device))
            kept = rows.to(getattr(torch, dtype)).cpu().numpy()
            if not np.isfinite(kept).all():
                file.discard()
                raise _strange(backbone, images, rows.cpu(), file.done)
            file.append(kept)
            progress(file.done, total)
        file.finish()
    return total  # by whoever completes the pass; so a run that was interrupted in it costs what another does


def _strange(backbone: Backbone, images: Arrays | Files, rows: Tensor, offset: int) -> InputError:
    """Return the error of rows [B, d] that can't be kept, those of the images from `offset` on."""

    def name(row: int) -> str:
        return images.paths[offset + row] if isinstance(images, Files) else f"image {offset + row}"

    bad = (~rows.isfinite()).any(1)
    if bad.any():
        image = name(int(bad.nonzero()[0]))
        return InputError(
            f"{image}: its features by {backbone.name} are NaN or infinite; are the backbone's weights sound?"
        )
    row = int(rows.abs().max(1).values.argmax())
    most = torch.finfo(torch.float16).max
    return InputError(
        f"float16 can't hold {float(rows[row].abs().max()):g}, a feature of {name(row)} "
        f"(it ends at {most:g}); use float32",
        option="dtype",
    )


def inputs(backbone: Backbone, images: Arrays | Files, device: torch.device) -> Iterator[Tensor]:
    """Yield images as a backbone takes them, [B, channels, H, W] each, in their order."""
    for batch in _batches(images, backbone.transform, None, 0):
        yield normalise(batch, backbone.transform, device)


def _batches(
    images: Arrays | Files, transform: Transform, augment: Augment | None, view: int, begin: int = 0
) -> Iterator[Tensor]:
    """Yield images as uint8 [B, channels, H, W], in order from `begin` on.

    Threads decode ahead, for PIL releases the GIL. Augmented ones are made one after another, since transforms draw
    from the one global generator.
    """
    if augment is not None:
        for start in range(begin, len(images), BATCH):
            rows = range(start, min(start + BATCH, len(images)))
            made = [augment(images[i], transform, view * len(images) + i) for i in rows]
            yield torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)
        return
    resample = Image.Resampling[transform.interpolation.upper()]
    with ThreadPoolExecutor() as pool:
        starts = range(begin, len(images), BATCH)
        chunks = [range(start, min(start + BATCH, len(images))) for start in starts]

        def decode(index: int) -> npt.NDArray[np.uint8]:
            image = images[index]
            try:
                return pixels(image, transform.channels, transform.size, resample)
            except InputError as error:
                name = images.paths[index] if isinstance(images, Files) else f"image {index}"
                raise error.within(name) from None

        ahead = [pool.submit(decode, i) for i in (chunks[0] if chunks else ())]
        for k in range(len(chunks)):
            now, ahead = ahead, [pool.submit(decode, i) for i in (chunks[k + 1] if k + 1 < len(chunks) else ())]
            yield torch.from_numpy(np.stack([future.result() for future in now])).permute(0, 3, 1, 2)
