"""Labelled images, or rows of numbers, and their split into train, validation and test.

A data set is a list of images or rows, their labels, and the part each comes from where the data set says so. A data
set's own test split stays the test split; what it lacks is cut from the rest, stratified by class and decided by
`split_seed` alone, so that runs of different seeds share their splits.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from neuroevo.data import cache
from neuroevo.data.arrays import Groups, Table, Vectors, read, read_labelled
from neuroevo.data.arrays import noun as noun_
from neuroevo.data.folders import Found, scan, scan_labelled
from neuroevo.data.images import Arrays, Files
from neuroevo.errors import InputError
from neuroevo.networks.backbones import Native


@dataclass(frozen=True)
class Dataset:
    """Labelled samples; `part[i]` is the index in SPLITS that sample i belongs to, or -1 where that is to be chosen."""

    classes: tuple[str, ...]
    images: Arrays | Files | Vectors
    labels: npt.NDArray[np.int64]  # [N]
    part: npt.NDArray[np.int64]  # [N]
    folders: tuple[tuple[str, str], ...] = ()  # (split, the folder that serves it, or what it is cut from)
    notes: tuple[str, ...] = ()  # lines about what was taken and left out
    groups: Groups | None = None  # of samples, beside their classes

    @property
    def noun(self) -> str:
        """The noun for the samples."""
        return noun_(self.images)

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
        groups = None if self.groups is None else self.groups.take(rows)
        return replace(
            self, images=self.images.take(rows), labels=self.labels[rows], part=self.part[rows], groups=groups
        )


def digits() -> Dataset:
    """Scikit-learn's digits: 1,797 grey images of 8 x 8 in ten classes (Alpaydin and Kaynak 1998); always there.

    The package's file is read without the package, whose import takes longer than the search of a small run.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise InputError("digits are scikit-learn's; install it with: pip install 'neuroevo[demo]'", option="name")
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", np.int64, delimiter=",")
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].copy()
    return Dataset(tuple("0123456789"), Arrays(pixels), labels, np.full(len(labels), -1))


def image_folder(
    *,
    root: str,
    broken: Literal["refuse", "skip"] = "refuse",
    max_pixels: Annotated[int, Ge(1)] | None = None,
    groups: bool = False,
) -> Dataset:
    """Class folders under train, test and perhaps validation (or right under the root: then all splits are cut).

    With `groups` the folder right in its class's that an image is in is its group: class/group/image.
    """
    data = _dataset(scan(root, own=[cache.cache_folder()], groups=groups), max_pixels)
    return drop_broken(data) if broken == "skip" else data


def read_others(
    root: str,
    classes: tuple[str, ...],
    *,
    broken: Literal["refuse", "skip"] = "refuse",
    max_pixels: int | None = None,
    groups: bool = False,
) -> Dataset:
    """Return the images of class folders right under a root, or under its test folder; InputError for other classes."""
    found = _dataset(scan_labelled(root, classes, own=[cache.cache_folder()], groups=groups), max_pixels)
    return drop_broken(found) if broken == "skip" else found


def _dataset(found: Found, max_pixels: int | None) -> Dataset:
    labels, part = np.array(found.labels, dtype=np.int64), np.array(found.part, dtype=np.int64)
    images, groups = Files(found.paths, max_pixels), None if found.groups is None else Groups.among(found.groups)
    return Dataset(found.classes, images, labels, part, tuple(found.folders.items()), found.notes, groups)


def arrays(*, file: str) -> Dataset:
    """Your own samples, any modality: an .npz file of x [N, ...], y [N], perhaps split [N] of names and classes [C].

    `groups` [N] in it are groups of samples beside their classes, for metrics that ask for them.
    """
    return _of_table(read(file))


def arrays_of_classes(file: str, classes: tuple[str, ...]) -> Dataset:
    """Return the samples of an .npz file by the classes of a run; InputError for other classes."""
    return _of_table(read_labelled(file, classes))


def _of_table(found: Table) -> Dataset:
    folders = tuple(found.folders.items())
    return Dataset(found.classes, found.images, found.labels, found.part, folders, found.notes, found.groups)


def drop_broken(data: Dataset) -> Dataset:
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
