"""The frozen part's output, computed once an image and kept on disk.

A file of features is addressed by everything it depends on (architecture, weights, transform, images, versions), so it
is shared by every run that asks for the same and can't be stale. It is checked before use (`cache`); of two runs that
need the same file, one computes it and the other waits. A pass that ends early leaves the batches it has to the next.
"""

import difflib
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image
from torch import Tensor

from neuroevo import cache, devices
from neuroevo.arrays import Vectors
from neuroevo.data import Dataset
from neuroevo.errors import InputError
from neuroevo.images import DECODING, MODES, Arrays, Files, Picture, fitted, flattened, pixels
from neuroevo.networks.backbones import Backbone, Transform
from neuroevo.networks.weightfiles import digest

LIVE_KEPT = 64  # batches of live views that are kept for their second use
SLICE = 4096  # rows of features at a time
FLAT = 1e-2  # of the first deviation: by smaller ones, float32 would round logits too coarsely
BATCH = 64  # images at a time through the backbone; fixed, so that computing features again gives the same bytes


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
        """Return weights {name: [n, *shape]} that do on raw features what these do on projected ones.

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


Scale = Standardise | Projection


class Features(NamedTuple):
    """Features of a data set's images, in its order, with their labels; behind them those of augmented views.

    Row `N + v * T + i` is view v of the i-th image of the train split.
    """

    # [N, d], then [T, d] a view: float32 or float16, mapped from disk, in memory or on the device
    pieces: tuple[Tensor, ...]
    labels: Tensor  # [N + views * T] int64, on the run's device
    scale: Scale | None  # that rows go through on their way to the head
    device: torch.device
    live: "Live | None" = None  # makes views as they are asked for, instead

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.pieces[0].shape[1]

    def digest(self) -> str:
        """Return a hash of some 1,024 rows, evenly spaced: features computed anew may round otherwise."""
        return digest({str(i): piece[:: max(1, len(piece) // 1024)] for i, piece in enumerate(self.pieces)})

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features [B, d] as the head sees them, and the labels [B], of the rows in `index`."""
        clean = len(self.pieces[0])
        if self.live is not None and int(index.max()) >= clean:
            features, labels = self.live(index), self.labels[((index - clean) % clean).to(self.device)]
        else:
            features, labels = self._gather(index).to(self.device).float(), self.labels[index.to(self.device)]
        return (self.scale(features) if self.scale else features), labels

    def scaled(self, scale: Scale) -> Self:
        """Return features with every row on the scale given; projected once and for all where that fits into memory."""
        size = 4 * sum(len(piece) for piece in self.pieces)
        if not isinstance(scale, Projection) or self.live is not None:
            return self._replace(scale=scale)
        if size * scale.axes.shape[1] > devices.available_memory(self.pieces[0].device) / 2:
            return self._replace(scale=scale)

        def project(piece: Tensor) -> Tensor:
            out = piece.new_empty(len(piece), scale.axes.shape[1], dtype=torch.float32)
            for rows, into in zip(piece.split(SLICE), out.split(SLICE), strict=True):
                into.copy_(scale(rows.to(self.device).float()))
            return out

        return self._replace(pieces=tuple(project(piece) for piece in self.pieces))

    def _gather(self, index: Tensor) -> Tensor:
        first, *views = self.pieces
        index = index.to(first.device)
        if not views:
            return first[index]
        out = first.new_empty(len(index), self.dim)
        offset = 0
        for piece in self.pieces:
            here = ((index >= offset) & (index < offset + len(piece))).nonzero().squeeze(1)
            out[here] = piece[index[here] - offset]
            offset += len(piece)
        return out


class Live:
    """Runs the backbone on fresh crops of train images: row `N + k * N + i` is image i, augmented by the seed k.

    What one generation asks for twice (a slice of individuals after another) is computed once.
    """

    def __init__(self, backbone: Backbone, dataset: Dataset, augment: "Augment", device: torch.device) -> None:
        self.backbone, self.dataset, self.augment, self.device = backbone, dataset, augment, device
        self.computed = 0  # images so far
        self.kept: dict[bytes, Tensor] = {}

    def __call__(self, index: Tensor) -> Tensor:
        """Return the features [B, d] of rows of views."""
        key = index.cpu().numpy().tobytes()
        if key not in self.kept:
            if len(self.kept) >= LIVE_KEPT:
                self.kept.clear()
            n = len(self.dataset.labels)
            rows, seeds = ((index - n) % n).tolist(), ((index - n) // n).tolist()
            transform, source = self.backbone.transform, self.dataset.images
            assert not isinstance(source, Vectors)  # of which there are no views
            images = [self.augment(source[row], transform, seed) for row, seed in zip(rows, seeds, strict=True)]
            batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            with torch.no_grad():  # not inference_mode: they are trained on
                self.kept[key] = torch.cat(
                    [self.backbone.features(normalised(part, transform, self.device)) for part in batch.split(BATCH)]
                )
            self.computed += len(index)
        return self.kept[key]


class Augment:
    """Torchvision v2 transforms in a row, each `{name: ClassName, option: ...}`, drawn by a seed for each image."""

    def __init__(self, given: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> None:
        from torchvision.transforms import v2

        names = sorted(name for name in dir(v2) if isinstance(getattr(v2, name), type) and name != "Transform")
        parts = []
        for i, entry in enumerate(given):
            options = {key: value for key, value in entry.items() if key != "name"}
            name = str(entry.get("name"))
            if name not in names:
                near = (
                    ", ".join(difflib.get_close_matches(name, names, 3))
                    or "RandomResizedCrop, ColorJitter, RandAugment"
                )
                raise InputError(f"torchvision has no transform {name!r}; near: {near}", option=f"augment.{i}")
            if name in ("RandomResizedCrop", "RandomCrop"):
                options = {"size": list(size), **options}
            try:
                parts.append(getattr(v2, name)(**options))
            except (TypeError, ValueError) as error:
                raise InputError(f"{name}: {error}", option=f"augment.{i}") from None
        self.given, self.transforms = (
            [dict(entry) for entry in given],
            v2.Compose(parts) if len(parts) > 1 else parts[0],
        )

    def __call__(self, image: Picture, transform: Transform, seed: int) -> npt.NDArray[np.uint8]:
        """Return an augmented image as uint8 [H, W, channels]."""
        if isinstance(image, np.ndarray):
            raise InputError(".npy images can't be augmented", option="augment")
        view = flattened(image, transform.channels)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            view = self.transforms(view)
        resample = Image.Resampling[transform.interpolation.upper()]
        return fitted(view.convert(MODES[transform.channels]), transform.size, resample)


def views(count: int, clean: int, train: Tensor) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return how a batch draws among `count` cached views of each train image, or live ones where `count` is 0."""
    place = torch.full((clean,), -1, dtype=torch.int64)
    place[train] = torch.arange(len(train))

    def view(rows: Tensor, source: torch.Generator) -> Tensor:
        if count == 0:
            return clean + clean * torch.randint(2**31, rows.shape, generator=source) + rows
        return clean + len(train) * torch.randint(count, rows.shape, generator=source) + place[rows]

    return view


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


def unsaid(line: str) -> None:
    """Say nothing."""


def principal(
    rows: Tensor, train: Tensor, scale: Standardise, key: str, log: Callable[[str], None] = unsaid
) -> tuple[Tensor, Tensor]:
    """Return the principal axes [d, r] float64 of the train rows on a scale, and deviations [r] along them, falling.

    Computed in float64 and kept in the cache folder under a hash of `key`, of the rows and of the scale. There are
    fewer than d where there are fewer train rows, or where deviations are next to nothing.
    """
    path, what = components_file(rows, train, scale, key), "components"
    content = cache.read(path)
    if content is None:
        with cache.locked(path, what):
            content = cache.read(path)  # another run may have made it while this one waited
            if content is None:
                with cache.explained(what):
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

    def centred(index: Tensor) -> Tensor:
        return scale(rows[index.to(rows.device)].to(scale.mean.device).double())

    if n > d:
        gram = torch.zeros(d, d, dtype=torch.float64, device=scale.mean.device)
        for index in train.split(SLICE):
            x = centred(index)
            gram.addmm_(x.T, x)
    else:
        whole = torch.cat([centred(index) for index in train.split(SLICE)])
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


def there(
    backbone: Backbone, dataset: Dataset, device: torch.device, dtype: str, augment: Augment | None = None,
    view: int = 0,
) -> tuple[Tensor | None, int]:  # fmt: skip
    """Return features [N, d] as `cached` does, None where they are to be computed, and of how many images."""
    if isinstance(dataset.images, Vectors):
        return as_they_are(dataset.images, device, dtype), 0
    path = features_file(backbone, dataset.images, dtype, augment, view)
    if cache.sound(path):
        return _open(path, device), 0
    return None, max(0, len(dataset.images) - BATCH * cache.appended(path))


def rate(backbone: Backbone, dataset: Dataset, device: torch.device, augment: Augment | None, seconds: float) -> float:
    """Return the seconds that an image takes through the backbone, read and all, measured for about so many seconds."""
    backbone.to(device)
    some = np.linspace(0, len(dataset.labels) - 1, min(len(dataset.labels), 64 * BATCH)).astype(np.int64)
    images, done, began = dataset.take(some).images, 0, time.perf_counter()
    assert not isinstance(images, Vectors)  # which go through no backbone
    with torch.inference_mode():
        for i, batch in enumerate(_batches(images, backbone.transform, augment, 0)):
            backbone.features(normalised(batch, backbone.transform, device)).cpu()
            now = time.perf_counter()
            if i == 0 and len(images) > len(batch):  # the first also sets things up
                began = now
            else:
                done += len(batch)
            if done and now - began > seconds:
                break
    return (now - began) / done


def cached(
    backbone: Backbone,
    dataset: Dataset,
    device: torch.device,
    progress: Callable[[int, int], None],
    dtype: str = "float32",
    augment: Augment | None = None,
    view: int = 0,
    log: Callable[[str], None] = unsaid,
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

        def waiting() -> None:
            progress(min(total, cache.appended(path) * BATCH), total)

        with cache.locked(path, what, waiting):
            if not cache.sound(path):  # another run may have made it while this one waited
                with cache.explained(what):
                    damaged = cache.clear(path)
                if damaged:
                    log(f"cached features {path}: damaged, computed anew")
                computed = _compute(path, backbone, dataset.images, device, progress, dtype, augment, view, log)
    return _open(path, device), computed


def as_they_are(samples: Vectors, device: torch.device, dtype: str) -> Tensor:
    """Return rows of numbers [N, d], on a device if they fit there; InputError where float16 can't hold them."""
    rows = torch.from_numpy(samples.rows).to(getattr(torch, dtype))
    if dtype == "float16" and not bool(rows.isfinite().all()):
        row = int((~rows.isfinite()).any(1).nonzero()[0])
        raise InputError(f"float16 can't hold row {row} of x; use float32", option="dtype")
    fits = rows.nbytes < devices.available_memory(device) / 2
    return rows.to(device) if fits else rows


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
    images: Arrays | Files,
    device: torch.device,
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
            rows = backbone.features(normalised(batch, backbone.transform, device))
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


def normalised(batch: Tensor, transform: Transform, device: torch.device) -> Tensor:
    """Return uint8 images [B, channels, H, W] as the backbone takes them: float32, normalised, channels last."""
    x = batch.to(device).to(torch.float32, memory_format=torch.channels_last).div_(255)
    if transform.mean is not None and transform.std is not None:
        mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (transform.mean, transform.std))
        x = x.sub_(mean).div_(std)
    return x
