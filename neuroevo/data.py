"""Labelled images and their split into train, validation and test.

A data set is a list of images, their labels, and the part each comes from where the data set says so. A data set's own
test split stays the test split; what it lacks is cut from the rest, stratified by class and decided by `split_seed`
alone, so that runs of different seeds share their splits.
"""

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

from neuroevo.cache import cache_folder
from neuroevo.errors import InputError
from neuroevo.images import Arrays, Files

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".npy"}
SPLITS = ("train", "validation", "test")
FOLDERS = {"train": ("train", "training"), "validation": ("validation", "val", "valid"), "test": ("test", "testing")}


@dataclass(frozen=True)
class Dataset:
    """Labelled images; `part[i]` is the index in SPLITS that image i belongs to, or -1 where that is ours to choose."""

    classes: tuple[str, ...]
    images: Arrays | Files
    labels: npt.NDArray[np.int64]  # [N]
    part: npt.NDArray[np.int64]  # [N]
    notes: tuple[str, ...] = ()  # what was taken and left out, a line each

    def native(self) -> tuple[int, int, int]:
        """Return height, width and channels of the first image; 1 or 3 unless it is an array."""
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
    top = Path(root)
    if not top.is_dir():
        raise InputError(f"data.root: {root} is not a folder")
    parts = {split: [top / name for name in FOLDERS[split] if (top / name).is_dir()] for split in SPLITS}
    for split, folders in parts.items():
        if len(folders) > 1:
            raise InputError(
                f"data.root: {root} has {folders[0].name} and {folders[1].name}: which is the {split} split?"
            )
    found = {split: folders[0] for split, folders in parts.items() if folders}
    if found and "train" not in found:
        raise InputError(f"data.root: {root} has {', '.join(p.name for p in found.values())} but no train folder")
    if len(found) == 2:  # two parts only: the second is the test split, whatever its name
        found = {"train": found["train"], "test": found.get("test") or found["validation"]}
    if len(found) < 2:
        found = {"pool": found.get("train", top)}
    classes = class_folders(next(iter(found.values())))
    if len(classes) < 2:
        raise InputError(f"data.root: {next(iter(found.values()))} has fewer than two class folders")
    paths: list[str] = []
    labels: list[int] = []
    part: list[int] = []
    for split, folder in found.items():
        for name in class_folders(folder):
            if name not in classes:
                raise InputError(f"data.root: {folder / name} is a class that the train split doesn't have")
            files = image_files(folder / name)
            if not files:
                raise InputError(f"data.root: {folder / name} has no images")
            paths += files
            labels += [classes.index(name)] * len(files)
            part += [SPLITS.index(split) if split in SPLITS else -1] * len(files)
    data = Dataset(
        tuple(classes), Files(paths, max_pixels), np.array(labels, dtype=np.int64), np.array(part, dtype=np.int64)
    )
    return without_broken(data) if broken == "skip" else data


def labelled(
    root: str,
    classes: tuple[str, ...],
    *,
    broken: Literal["refuse", "skip"] = "refuse",
    max_pixels: int | None = None,
) -> Dataset:
    """Return the images of class folders right under a root, or under its test folder; InputError for other classes."""
    top = Path(root)
    if not top.is_dir():
        raise InputError(f"--data: {root} is not a folder")
    top = next((top / name for name in FOLDERS["test"] if (top / name).is_dir() and name not in classes), top)
    names = class_folders(top)
    strange = [name for name in names if name not in classes]
    if strange or not names:
        what = f"class {strange[0]}, which the run doesn't know" if strange else "no class folders"
        raise InputError(f"--data: {top} has {what}; the run's classes are {', '.join(classes)}")
    files = {name: image_files(top / name) for name in names}
    labels = np.repeat([classes.index(name) for name in names], [len(files[name]) for name in names]).astype(np.int64)
    if not len(labels):
        raise InputError(f"--data: {top} has no images")
    images = Files([path for name in names for path in files[name]], max_pixels)
    found = Dataset(classes, images, labels, np.full(len(labels), 2))
    return without_broken(found) if broken == "skip" else found


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in a folder, sorted; dot folders are none."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def image_files(folder: Path) -> list[str]:
    """Return the image files at any depth below a folder, sorted; dot files and other suffixes are ignored."""
    found = []
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(base, name)
            for name in sorted(files)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return found


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
            raise InputError(f"data.root: class {name} has no image that can be read ({example})")
    counts = [f"{name} {less} of {n}" for name, n, less in zip(data.classes, had, lost, strict=True) if less]
    what = "image" if len(faults) == 1 else "images"
    note = f"data.broken: {len(faults)} unreadable {what} left out: {', '.join(counts)}; the first is {example}"
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
        raise InputError(f"data.root: {name} {how} ({folder}: {reason})") from None
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
}


def find_root(root: str | None) -> str:
    """Return a data root as an absolute path: as it stands, in the current folder, or in the one NEUROEVO_DATA names.

    None is the folder NEUROEVO_DATA names itself, or one of the cache's where it names none.
    """
    elsewhere = os.environ.get("NEUROEVO_DATA")
    path = Path(root or elsewhere or cache_folder() / "data").expanduser()
    if not path.is_absolute() and not path.exists() and elsewhere and (Path(elsewhere) / path).exists():
        path = Path(elsewhere) / path
    return str(path.absolute())


def _stratified(labels: npt.NDArray[np.int64], count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose `count` places with each class's share kept by largest remainder; every class keeps one on either side."""
    names, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    quota = np.clip(np.floor(exact).astype(np.int64), np.minimum(1, sizes - 1), np.maximum(sizes - 1, 0))
    # One place at a time to whoever is furthest from its share; bounded by the number of classes.
    while quota.sum() != count:
        step = 1 if quota.sum() < count else -1
        room = (quota + step >= 0) & (quota + step <= sizes)
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
        raise InputError(f"data.limit: {limit} leaves some class without an image; at least {len(np.unique(strata))}")
    return data.take(np.flatnonzero(_stratified(strata, limit, np.random.default_rng([split_seed, 0]))))


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


def split(
    data: Dataset, split_seed: int, validation: float, test: float, long_tail: float | None = None
) -> dict[str, Tensor]:
    """Return the rows of each split, `{name: [rows] int64}`; shares are of what the data set leaves undecided.

    `long_tail` thins train and validation, as in life, and leaves test as it is.
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
        classes = len(np.unique(data.labels[pool]))
        if not classes <= count <= len(pool) - classes:
            raise InputError(f"data.{name}: {share} of {total} images is {count}; every class must be on either side")
        part[pool[_stratified(data.labels[pool], count, np.random.default_rng([split_seed, stream]))]] = index
    part[part == -1] = 0
    rows = {name: np.flatnonzero(part == i) for i, name in enumerate(SPLITS)}
    if long_tail is not None:
        for stream, name in enumerate(("train", "validation"), start=3):
            rng = np.random.default_rng([split_seed, stream])
            rows[name] = long_tailed(rows[name], data.labels, len(data.classes), long_tail, rng)
    missing = set(range(len(data.classes))) - set(data.labels[rows["train"]].tolist())
    if missing:
        raise InputError(f"data: class {data.classes[min(missing)]} has no image in the train split")
    return {name: torch.from_numpy(index) for name, index in rows.items()}
