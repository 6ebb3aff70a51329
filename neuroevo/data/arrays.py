"""Samples of any modality in one .npz file: `x` [N, ...], `y` [N], and perhaps `split`, `groups` [N], `classes` [C].

Numbers go to the head as they are, a row a sample; uint8 [N, H, W] and [N, H, W, channels] are images. Nothing is ever
unpickled. What is converted is said in a note, what is doubtful is refused.
"""

import hashlib
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from neuroevo import devices
from neuroevo.data.foldernames import SPLITS, role
from neuroevo.data.images import Arrays, hash_rows
from neuroevo.data.pictures import reason_of
from neuroevo.errors import InputError

KEYS = ("x", "y", "split", "classes", "groups")
WRITE = "numpy.savez(file, x=..., y=...) writes one"
CHUNK = 1 << 22  # numbers that are looked at at once
EXACT = 2**24  # whole numbers beyond it are rounded in float32
SHOWN = 5  # names in a line

Array = npt.NDArray[Any]


class Vectors:
    """Samples that are rows of numbers: float32 [N, d], in memory."""

    def __init__(self, rows: npt.NDArray[np.float32]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """Numbers of a sample."""
        return int(self.rows.shape[1])

    def take(self, rows: npt.NDArray[np.int64]) -> "Vectors":
        """Return some of the samples, in the order given."""
        return Vectors(self.rows[rows])

    def constant(self) -> bool:
        """Tell whether all samples are the same."""
        step = max(1, CHUNK // self.width)
        return all(bool((self.rows[i : i + step] == self.rows[0]).all()) for i in range(0, len(self), step))

    def fingerprint(self) -> str:
        """Return a hash of the samples' numbers, in order."""
        found = hashlib.sha256(f"float32 {self.rows.shape}".encode())
        found.update(np.ascontiguousarray(self.rows, dtype="<f4").data)
        return found.hexdigest()

    def hashes(self) -> list[str]:
        """Return a hash of each sample's numbers, in order."""
        return hash_rows(self.rows)


class Groups(NamedTuple):
    """The groups of samples."""

    names: tuple[str, ...]
    of: npt.NDArray[np.int64]  # [N]: the place of each sample's among the names

    def take(self, rows: npt.NDArray[np.int64]) -> "Groups":
        """Return the groups of some of the samples, under the same names."""
        return self._replace(of=self.of[rows])

    @classmethod
    def among(cls, names: Sequence[str]) -> "Groups":
        """Return the groups of samples by the names of each one's."""
        every, places = np.unique(np.array(names, dtype=str), return_inverse=True)
        return cls(tuple(every.tolist()), places.astype(np.int64))


class Table(NamedTuple):
    """The contents of a file."""

    classes: tuple[str, ...]
    images: Vectors | Arrays
    labels: npt.NDArray[np.int64]  # [N]
    part: npt.NDArray[np.int64]  # [N]: the index in SPLITS of each, or -1 where that is to be chosen
    folders: dict[str, str]  # {split: where it comes from}
    notes: tuple[str, ...]
    groups: Groups | None = None


def read(file: str) -> Table:
    """Return the labelled samples of a file; InputError where they can't be told."""
    source = Source(file)
    x, y = source.array("x"), source.array("y")
    images = source.samples(x)
    names, labels = source.classes(len(x), y)
    if isinstance(images, Vectors) and images.constant():
        source.refuse(": x is the same in every row: there is nothing to learn from")
    split = source.array("split") if "split" in source.names else None
    part, where = source.splits(len(x), split)
    groups = source.groups(len(x))
    counts = np.bincount(labels, minlength=len(names))
    single = [name for name, count in zip(names, counts.tolist(), strict=True) if count == 1]
    if single:
        source.refuse(f"y has one sample of {_few(single)}; two are the least, for train and test")
    return Table(names, images, labels, part, where, tuple(source.notes), groups)


def read_labelled(file: str, classes: Sequence[str]) -> Table:
    """Return the samples of a file by the classes of a run, all for test; InputError for a class it doesn't know."""
    source = Source(file)
    x, y = source.array("x"), source.array("y")
    images = source.samples(x)
    labels = source.labels(len(x), y, classes)
    if "split" in source.names:
        source.notes.append("split left out: all samples are scored")
    groups = source.groups(len(x))
    return Table(tuple(classes), images, labels, np.full(len(x), 2), {"test": file}, tuple(source.notes), groups)


class Source:
    """A file, and the notes about it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.notes: list[str] = []
        try:
            mode = os.stat(file).st_mode
            if stat.S_ISREG(mode):
                open(file, "rb").close()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # of a NUL in the name
            self.refuse("is not there")
        except OSError as error:
            self.refuse(f"can't be read ({reason_of(error)})")
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            self.refuse(f"is {what}; an .npz file expected ({WRITE})")
        if not zipfile.is_zipfile(file):
            self.refuse(f"is no .npz file, or damaged at its end ({WRITE})")
        try:
            with zipfile.ZipFile(file) as archive:
                self.names = [name.removesuffix(".npy") for name in archive.namelist()]
        except Exception as error:  # a damaged archive fails in any way
            self.refuse(f"is damaged ({reason_of(error)})")
        if len(self.names) != len({*self.names}):
            self.refuse("has an array twice")
        other = [name for name in self.names if name not in KEYS]
        if other:
            self.notes.append(f"{_few(other)} left out: {', '.join(KEYS)} are read")

    def refuse(self, line: str) -> NoReturn:
        """Raise InputError with the file before the line."""
        raise InputError(f"{self.file}{line if line.startswith(':') else f' {line}'}", option="file")

    def array(self, name: str) -> Array:
        """Return an array of the file; InputError where it isn't there, is damaged, or would have to be unpickled."""
        if name not in self.names:
            self.refuse(f"has no {name}; it has: {_few(self.names) or 'nothing'} ({WRITE})")
        try:
            with zipfile.ZipFile(self.file) as archive, archive.open(self._member(archive, name)) as member:
                found = self._read(archive, name, member)
                if member.read(1):  # which also compares the checksum
                    raise ValueError("there is more behind the array")
        except (InputError, KeyboardInterrupt):
            raise
        except MemoryError:
            self.refuse(f": {name} doesn't fit into memory")
        except Exception as error:  # a damaged archive fails in any way
            self.refuse(f"is damaged, in {name} ({reason_of(error)})")
        return found

    @staticmethod
    def _member(archive: zipfile.ZipFile, name: str) -> str:
        return f"{name}.npy" if f"{name}.npy" in archive.namelist() else name

    def _read(self, archive: zipfile.ZipFile, name: str, member: Any) -> Array:
        own, there = archive.getinfo(self._member(archive, name)).file_size, devices.total_memory()
        if own > there:
            self.refuse(f": {name} takes {own / 2**30:,.1f} GiB; this machine has {there / 2**30:,.1f} GiB of memory")
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(member)
        if dtype.hasobject:
            self.refuse(f": {name} is an array of Python objects, which is never unpickled; save numbers or strings")
        if max(1, dtype.itemsize) * int(np.prod(shape, dtype=object)) > own:
            raise ValueError(f"{dtype} {list(shape)} is more than there is")
        member.seek(0)
        found: Array = np.lib.format.read_array(member, allow_pickle=False)
        return found

    def samples(self, x: Array) -> Vectors | Arrays:
        """Return `x` as images where it is uint8 [N, H, W] or [N, H, W, channels], else as rows of numbers."""
        what = f": x is {x.dtype} {list(x.shape)}"
        if x.ndim < 2 or 0 in x.shape:
            self.refuse(f"{what}; [N, ...] with a row for each sample expected")
        if x.dtype.kind not in "fiub":
            self.refuse(f"{what}; numbers expected")
        if x.dtype == np.uint8 and x.ndim in (3, 4):
            if x.ndim == 4 and x.shape[1] <= 4 < x.shape[3]:
                self.refuse(
                    f"{what}, as if channels came first; [N, H, W, channels] expected (x.transpose(0, 2, 3, 1))"
                )
            return Arrays(x[..., 0] if x.shape[3:] == (1,) else x)
        return Vectors(self._numbers(x))

    def _numbers(self, x: Array) -> npt.NDArray[np.float32]:
        width = int(np.prod(x.shape[1:]))
        whole = x.dtype.kind in "iub"
        rows = x.reshape(len(x), width)
        kept = rows if rows.dtype == np.dtype(np.float32) and rows.dtype.isnative and rows.flags.c_contiguous else None
        found = np.empty((len(x), width), dtype=np.float32) if kept is None else kept
        bad, first, beyond = 0, -1, -1
        step = max(1, CHUNK // width)
        for start in range(0, len(x), step):
            part, into = rows[start : start + step], found[start : start + step]
            wrong = None if whole else ~np.isfinite(part)
            if wrong is not None and wrong.any():
                bad += int(wrong.sum())
                first = first if first >= 0 else start + int(wrong.any(1).argmax())
            if kept is None:
                with np.errstate(over="ignore", invalid="ignore"):
                    into[...] = part
                if not bad and beyond < 0 and not np.isfinite(into).all():
                    beyond = start + int((~np.isfinite(into)).any(1).argmax())
        if bad:
            self.refuse(
                f": x has {bad:,} NaN or infinite number{'s' * (bad > 1)}, the first in row {first}; mend them "
                "or leave such rows out"
            )
        if beyond >= 0:
            self.refuse(f": x has numbers beyond float32, the first in row {beyond}; scale them down")
        if x.ndim > 2:
            self.notes.append(f"x {list(x.shape)}: each sample is {width:,} numbers, in C order")
        if whole:
            large = x.dtype != bool and max(int(x.max()), -int(x.min())) > EXACT
            self.notes.append(f"x is {x.dtype}: taken as float32{', which rounds some' if large else ''}")
        return found

    def names_of(self, n: int, y: Array) -> tuple[Array, npt.NDArray[np.int64]]:
        """Return the labels that there are, sorted, as whole numbers or strings, and the place of each sample's."""
        if y.shape != (n,):
            self.refuse(f": y is {list(y.shape)}; one label for each of the {n:,} samples expected, [{n}]")
        if y.dtype.kind == "f":
            if not (np.isfinite(y) & (y == np.rint(y))).all():
                row = int((~(np.isfinite(y) & (y == np.rint(y)))).argmax())
                self.refuse(f": y is {y[row]} in row {row}; a class expected, as a whole number or a name")
            if (np.abs(y.astype(np.float64)) < 2**53).all():  # which float16 doesn't reach
                y = y.astype(np.int64)
        if y.dtype.kind == "b":
            y = np.where(y, "True", "False")
        if y.dtype.kind not in "iuUS":
            self.refuse(f": y is {y.dtype}; classes expected, as whole numbers or names")
        values, places = np.unique(self._text(y, "y") if y.dtype.kind in "US" else y, return_inverse=True)
        return values, places.astype(np.int64)

    def _text(self, values: Array, name: str) -> Array:
        try:
            if values.dtype.kind == "S":
                values = np.char.decode(values, "utf-8")
            "".join(values.tolist()).encode()
        except UnicodeError:
            self.refuse(f": {name} has a name that is not UTF-8")
        return values

    def class_names(self) -> tuple[str, ...] | None:
        """Return the names that `classes` gives, None where it isn't there."""
        if "classes" not in self.names:
            return None
        given = self.array("classes")
        if given.ndim != 1 or given.dtype.kind not in "iubUS":
            self.refuse(f": classes is {given.dtype} {list(given.shape)}; a list of names expected")
        names = tuple(map(str, (self._text(given, "classes") if given.dtype.kind in "US" else given).tolist()))
        name, times = Counter(names).most_common(1)[0] if names else ("", 0)
        if times > 1:
            self.refuse(f": classes has {name} twice")
        return names

    def classes(self, n: int, y: Array) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
        """Return the names of the classes, and each sample's as a place among them."""
        values, places = self.names_of(n, y)
        given = self.class_names()
        if given is not None:
            found = self._place(values, given, by_name=values.dtype.kind == "U")
            names = given
        else:
            found, names = np.arange(len(values)), tuple(map(str, values.tolist()))
            if names != tuple(map(str, range(len(names)))):
                self.notes.append(f"classes, sorted: {_few(names)}")
        if len(names) < 2:
            self.refuse(f": y has {_few(names)} alone; two classes are the least")
        return names, found[places]

    def _place(self, values: Array, classes: Sequence[str], by_name: bool) -> npt.NDArray[np.int64]:
        """Return the place of each label among classes, by its name or as the place itself."""
        if by_name:
            place = {name: i for i, name in enumerate(classes)}
            unknown = [str(value) for value in values.tolist() if str(value) not in place]
            if unknown:
                self.refuse(f": y has {_few(unknown)}, which is none of the classes: {_few(classes, 20)}")
            return np.array([place[str(value)] for value in values.tolist()], dtype=np.int64)
        wrong = [value for value in values.tolist() if not 0 <= value < len(classes)]
        if wrong:
            self.refuse(f": y has {wrong[0]}; the classes are 0 to {len(classes) - 1}: {_few(classes, 20)}")
        return values.astype(np.int64)

    def labels(self, n: int, y: Array, classes: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return each sample's place among a run's classes: by the file's names of classes, or by `y` itself.

        Whole numbers without names are the run's labels where it has classes of such names, else its classes' places.
        """
        values, places = self.names_of(n, y)
        given = self.class_names()
        if given is not None:
            own = self._place(values, given, by_name=values.dtype.kind == "U")
            values = np.array([given[i] for i in own.tolist()])
        by_name = values.dtype.kind == "U" or all(str(value) in classes for value in values.tolist())
        if not by_name:
            self.notes.append(f"y is taken as places among the run's classes: {_few(classes)}")
        return self._place(values, classes, by_name)[places]

    def groups(self, n: int) -> Groups | None:
        """Return the group of each sample, None where the file has none."""
        if "groups" not in self.names:
            return None
        given = self.array("groups")
        if given.shape != (n,) or given.dtype.kind not in "iubUS":
            self.refuse(
                f": groups is {given.dtype} {list(given.shape)}; a whole number or a name for each of the {n:,} "
                "samples expected"
            )
        values, places = np.unique(
            self._text(given, "groups") if given.dtype.kind in "US" else given, return_inverse=True
        )
        found = Groups(tuple(map(str, values.tolist())), places.astype(np.int64))
        self.notes.append(f"groups: {_few(found.names)}")
        return found

    def splits(self, n: int, split: Array | None) -> tuple[npt.NDArray[np.int64], dict[str, str]]:
        """Return the split of each sample, -1 where that is to be chosen, and where each comes from.

        Of two parts the second is test, whatever its name, as of folders.
        """
        cut = f"cut from {self.file}"
        if split is None:
            return np.full(n, -1), dict.fromkeys(SPLITS, cut)
        if split.shape != (n,) or split.dtype.kind not in "US":
            self.refuse(
                f": split is {split.dtype} {list(split.shape)}; train, validation or test for each of the "
                f"{n:,} samples expected"
            )
        names, places = np.unique(self._text(split, "split"), return_inverse=True)
        about: list[str] = []
        for name in names.tolist():
            its = role(name)
            if its is None or its[1]:
                self.refuse(f": split has {name!r}; train, validation or test expected")
            about.append(its[0])
        if "train" not in about:
            self.refuse(f": split has {_few(names.tolist())}, and no train")
        if {*about} == {"train", "validation"}:
            self.notes.append("no test in split: validation serves as test")
            about = ["test" if name == "validation" else name for name in about]
        if {*about} == {"train"}:
            return np.full(n, -1), dict.fromkeys(SPLITS, cut)
        part = np.array([SPLITS.index(name) for name in about])[places]
        own = f"{self.file}, by split"
        train = f"cut from train of {self.file}"
        return part, {name: own if name in about else train for name in SPLITS}


def _few(names: Sequence[str], shown: int = SHOWN) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more


def noun(images: object) -> str:
    """Return the noun for the samples of a data set."""
    return "samples" if isinstance(images, Vectors) else "images"
