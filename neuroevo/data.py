"""Labelled images, or rows of numbers, and their split into train, validation and test.

A data set is a list of images or rows, their labels, and the part each comes from where the data set says so. A data
set's own test split stays the test split; what it lacks is cut from the rest, stratified by class and decided by
`split_seed` alone, so that runs of different seeds share their splits.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge
from torch import Tensor

from neuroevo import arrays as arrays_
from neuroevo import cache, folders
from neuroevo.arrays import Vectors
from neuroevo.errors import InputError
from neuroevo.images import Arrays, Files, Native

SPLITS = folders.SPLITS


@dataclass(frozen=True)
class Dataset:
    """Labelled samples; `part[i]` is the index in SPLITS that sample i belongs to, or -1 where that is to be chosen."""

    classes: tuple[str, ...]
    images: Arrays | Files | Vectors
    labels: npt.NDArray[np.int64]  # [N]
    part: npt.NDArray[np.int64]  # [N]
    folders: tuple[tuple[str, str], ...] = ()  # (split, the folder that serves it, or what it is cut from)
    notes: tuple[str, ...] = ()  # lines about what was taken and left out

    @property
    def noun(self) -> str:
        """What the samples are called."""
        return arrays_.noun(self.images)

    def native(self) -> Native:
        """Return height, width and channels of the first image, 1 or 3 unless it is an array; of rows, their width."""
        if isinstance(self.images, Vectors):
            return (self.images.width,)
        first = self.images[0]
        if isinstance(first, np.ndarray):
            height, width, channels = first.shape
            return height, width, channels
        return first.height, first.width, 1 if first.mode in ("L", "LA") else 3

    def take(self, rows: npt.NDArray[np.int64]) -> "Dataset":
        """Return the data set of some of the images, in the order given."""
        return replace(self, images=self.images.take(rows), labels=self.labels[rows], part=self.part[rows])


def digits() -> Dataset:
    """Scikit-learn's digits: 1,797 grey images of 8 x 8 in ten classes (Alpaydin and Kaynak 1998); always there."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return Dataset(tuple("0123456789"), Arrays(pixels), labels, np.full(len(labels), -1))


def image_folder(
    *, root: str, broken: Literal["refuse", "skip"] = "refuse", max_pixels: Annotated[int, Ge(1)] | None = None
) -> Dataset:
    """Class folders under train, test and perhaps validation (or right under the root: then all splits are cut)."""
    data = _dataset(folders.scan(root, own=[cache.cache_folder()]), max_pixels)
    return without_broken(data) if broken == "skip" else data


def labelled(
    root: str,
    classes: tuple[str, ...],
    *,
    broken: Literal["refuse", "skip"] = "refuse",
    max_pixels: int | None = None,
) -> Dataset:
    """Return the images of class folders right under a root, or under its test folder; InputError for other classes."""
    found = _dataset(folders.scan_labelled(root, classes, own=[cache.cache_folder()]), max_pixels)
    return without_broken(found) if broken == "skip" else found


def _dataset(found: folders.Found, max_pixels: int | None) -> Dataset:
    labels, part = np.array(found.labels, dtype=np.int64), np.array(found.part, dtype=np.int64)
    return Dataset(
        found.classes, Files(found.paths, max_pixels), labels, part, tuple(found.folders.items()), found.notes
    )


def arrays(*, file: str) -> Dataset:
    """Your own samples, any modality: an .npz file of x [N, ...], y [N], perhaps split [N] of names and classes [C]."""
    return _of_table(arrays_.read(file))


def labelled_arrays(file: str, classes: tuple[str, ...]) -> Dataset:
    """Return the samples of an .npz file by the classes of a run; InputError for other classes."""
    return _of_table(arrays_.read_labelled(file, classes))


def _of_table(found: arrays_.Table) -> Dataset:
    return Dataset(found.classes, found.images, found.labels, found.part, tuple(found.folders.items()), found.notes)


def without_broken(data: Dataset) -> Dataset:
    """Return the data set less the files that can't be read as images, with a note of how many of which class.

    InputError where a class is left without any.
    """
    assert isinstance(data.images, Files)
    faults = data.images.faults()
    if not faults:
        return data
    places = np.array(list(faults), dtype=np.int64)
    left = data.take(np.setdiff1d(np.arange(len(data.labels)), places))
    had, lost = (np.bincount(labels, minlength=len(data.classes)) for labels in (data.labels, data.labels[places]))
    first, reason = next(iter(faults.items()))
    example = f"{data.images.paths[first]}: {reason}"
    for name, before, less in zip(data.classes, had, lost, strict=True):
        if less and less == before:
            raise InputError(f"class {name} has no image that can be read ({example})", option="root")
    counts = [f"{name} {less} of {n}" for name, n, less in zip(data.classes, had, lost, strict=True) if less]
    what = "image" if len(faults) == 1 else "images"
    note = f"broken: {len(faults)} unreadable {what} left out: {', '.join(counts)}; the first is {example}"
    return replace(left, notes=(*data.notes, note))


def _torchvision(name: str, root: str | None, download: bool) -> Dataset:
    from torchvision import datasets

    folder = find_root(root)
    pixels, labels, part = [], [], []
    try:
        for split, train in enumerate((True, False)):
            data = getattr(datasets, name)(folder, train=train, download=download)
            pixels.append(np.asarray(data.data, dtype=np.uint8))
            labels.append(np.asarray(data.targets, dtype=np.int64))
            part.append(np.full(len(data.targets), 2 * split))
    except (RuntimeError, OSError) as error:  # torchvision raises either when a file is absent or can't be fetched
        reason = " ".join(str(error).split()) or type(error).__name__
        how = "could not be downloaded" if download else "is not there"
        raise InputError(f"{name} {how} ({folder}: {reason})", option="root") from None
    classes = tuple(str(c) for c in data.classes)
    return Dataset(classes, Arrays(np.concatenate(pixels)), np.concatenate(labels), np.concatenate(part))


def mnist(*, root: str | None = None, download: bool = True) -> Dataset:
    """MNIST: 60,000 and 10,000 grey images of 28 x 28 (LeCun et al. 1998)."""
    return _torchvision("MNIST", root, download)


def fashion_mnist(*, root: str | None = None, download: bool = True) -> Dataset:
    """Fashion-MNIST: 60,000 and 10,000 grey images of 28 x 28 (Xiao et al. 2017)."""
    return _torchvision("FashionMNIST", root, download)


def cifar10(*, root: str | None = None, download: bool = True) -> Dataset:
    """CIFAR-10: 50,000 and 10,000 colour images of 32 x 32 (Krizhevsky 2009)."""
    return _torchvision("CIFAR10", root, download)


def cifar100(*, root: str | None = None, download: bool = True) -> Dataset:
    """CIFAR-100: 50,000 and 10,000 colour images of 32 x 32 in a hundred classes (Krizhevsky 2009)."""
    return _torchvision("CIFAR100", root, download)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "image_folder": image_folder,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "arrays": arrays,
}


def place_option(name: str) -> str:
    """Return the option of a data set that says where it is."""
    return "file" if name == "arrays" else "root"


def find_root(root: str | None) -> str:
    """Return a data root or file as an absolute path: as it stands, in the current folder, or in NEUROEVO_DATA's.

    None is the folder NEUROEVO_DATA names itself, or one of the cache's where it names none.
    """
    elsewhere = os.environ.get("NEUROEVO_DATA")
    path = Path(root or elsewhere or cache.cache_folder() / "data").expanduser()
    if not path.is_absolute() and not path.exists() and elsewhere and (Path(elsewhere) / path).exists():
        path = Path(elsewhere) / path
    return str(path.absolute())


def _stratified(
    labels: npt.NDArray[np.int64], count: int, rng: np.random.Generator, kept: int = 1
) -> npt.NDArray[np.bool_]:
    """Choose `count` places with each class's share kept by largest remainder.

    Of every class at least one is chosen and `kept` are left; of one that has too few for both, none is chosen.
    """
    names, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    most = np.maximum(sizes - kept, 0)
    least = np.minimum(1, most)
    quota = np.clip(np.floor(exact).astype(np.int64), least, most)
    # One place at a time to whoever is furthest from its share; bounded by the number of classes.
    while quota.sum() != count:
        step = 1 if quota.sum() < count else -1
        room = (quota + step >= least) & (quota + step <= most)
        quota[np.argmax(np.where(room, step * (exact - quota), -np.inf))] += step
    chosen = np.zeros(len(labels), dtype=bool)
    for name, k in zip(names, quota, strict=True):
        chosen[rng.permutation(np.flatnonzero(labels == name))[:k]] = True
    return chosen


def limited(data: Dataset, limit: int, split_seed: int) -> Dataset:
    """Return at most `limit` images in all, with the shares of classes and of the data set's own parts kept."""
    if limit >= len(data.labels):
        return data
    strata = data.labels * (len(SPLITS) + 1) + data.part
    if limit < len(np.unique(strata)):
        raise InputError(
            f"{limit} leaves some class without {_one(data)}; at least {len(np.unique(strata))}", option="limit"
        )
    return data.take(np.flatnonzero(_stratified(strata, limit, np.random.default_rng([split_seed, 0]), kept=0)))


def _one(data: Dataset) -> str:
    return "an image" if data.noun == "images" else "a sample"


def long_tailed(
    rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int, ratio: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return some rows, with classes' shares that fall exponentially to `ratio` times the first's (Cui et al. 2019).

    At least one of each class is kept.
    """
    kept = []
    for label in range(classes):
        own = rows[labels[rows] == label]
        share = ratio ** (label / max(1, classes - 1))
        kept.append(rng.permutation(own)[: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(kept))


def _share(wanted: float, total: int, least: int, most: int) -> str:
    """Return the shortest share beside a wanted one by which from `least` to `most` of a total are cut."""
    ways = (math.floor, math.ceil) if wanted == least / total else (math.ceil, math.floor)
    for digits in range(2, 9):
        for way in ways:
            share = way(wanted * 10**digits) / 10**digits
            if least <= round(share * total) <= most:
                return f"{share:g}"
    return f"{wanted:g}"


def split(
    data: Dataset, split_seed: int, validation: float, test: float, long_tail: float | None = None
) -> dict[str, Tensor]:
    """Return the rows of each split, `{name: [rows] int64}`; shares are of what the data set leaves undecided.

    A class's only image stays in train. `long_tail` thins train and validation, as in life, and leaves test as it is.
    """
    part = data.part.copy()
    for stream, (name, share) in enumerate((("test", test), ("validation", validation)), start=1):
        index = SPLITS.index(name)
        if (part == index).any():
            continue
        # Test is cut from undecided images only; validation also from those of the data set's own train part.
        pool = np.flatnonzero(part == -1) if name == "test" else np.flatnonzero((part == -1) | (part == 0))
        total = int((data.part == -1).sum()) or len(pool)
        count = round(share * total)
        sizes = np.bincount(data.labels[pool], minlength=len(data.classes))
        least, most = int((sizes > 1).sum()), int(np.maximum(sizes - 1, 0).sum())
        if not most:
            raise InputError(
                f"no class has two {data.noun} to cut from ({len(pool)} of {len(data.classes)} classes); three "
                f"{data.noun} of a class are the least for train, validation and test",
                option=name,
            )
        if not least <= count <= most:
            few = count < least
            right = _share((least if few else most) / total, total, least, most)
            raise InputError(
                f"{share} of {total} {data.noun} is {count}; every class must be on either side, which takes "
                f"{least if few else most}: {'at least' if few else 'at most'} {right} would do",
                option=name,
            )
        part[pool[_stratified(data.labels[pool], count, np.random.default_rng([split_seed, stream]))]] = index
    part[part == -1] = 0
    rows = {name: np.flatnonzero(part == i) for i, name in enumerate(SPLITS)}
    if long_tail is not None:
        for stream, name in enumerate(("train", "validation"), start=3):
            rng = np.random.default_rng([split_seed, stream])
            rows[name] = long_tailed(rows[name], data.labels, len(data.classes), long_tail, rng)
    missing = set(range(len(data.classes))) - set(data.labels[rows["train"]].tolist())
    if missing:
        raise InputError(
            f"class {data.classes[min(missing)]} has no {data.noun[:-1]} in the train split", option="data"
        )
    return {name: torch.from_numpy(index) for name, index in rows.items()}
