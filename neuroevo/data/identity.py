"""The identity of data: enough of a data set and its splits to tell, later or elsewhere, whether they are the same.

Files are known by their content and by their names below the folder that holds all of them, so a data set may move.
"""

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from neuroevo.data.datasets import Dataset
from neuroevo.data.images import Files
from neuroevo.errors import InputError

LISTED = 8  # names in a message
MOST = 2**53  # images of a class


class Identity(NamedTuple):
    """The images, labels and splits of a run, as a checkpoint holds them."""

    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]  # images of each class, by split
    contents: str  # SHA-256 of the images that are in some split, in order
    splits: str  # SHA-256 of their labels, their groups if any, and of the places of each split among them
    names: str  # SHA-256 of their names, in order; empty where images have none
    noun: str = "images"  # what they are called; not in a checkpoint

    @classmethod
    def of(cls, data: Dataset, splits: Mapping[str, Tensor]) -> Self:
        """Describe a data set [N] and its splits {name: [rows]}; samples in no split don't count."""
        rows = {name: index.numpy() for name, index in splits.items()}
        used = np.unique(np.concatenate(list(rows.values())))
        images = data.images if len(used) == len(data.labels) else data.images.take(used)
        of_splits = hashlib.sha256(data.labels[used].astype("<i8").tobytes())
        if data.groups is not None:
            of_splits.update("\0".join(data.groups.names).encode() + data.groups.of[used].astype("<i8").tobytes())
        for name, index in sorted(rows.items()):
            of_splits.update(name.encode() + np.searchsorted(used, index).astype("<i8").tobytes())
        counts = {name: _counts(data.labels[index], len(data.classes)) for name, index in rows.items()}
        names = _names(images.paths) if isinstance(images, Files) else ""
        return cls(data.classes, counts, images.fingerprint(), of_splits.hexdigest(), names, data.noun)

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {key: value for key, value in self._asdict().items() if key != "noun"}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Make an identity of the record that `record` returned."""
        counts = {name: tuple(each) for name, each in record["counts"].items()}
        return cls(tuple(record["classes"]), counts, record["contents"], record["splits"], record["names"])

    @classmethod
    def is_record(cls, value: object) -> bool:
        """Tell whether a value has the form of `record`'s result."""
        if not isinstance(value, Mapping) or not all(isinstance(value.get(key), str) for key in cls._fields[2:5]):
            return False
        counts, classes = value.get("counts"), value.get("classes")
        if not isinstance(counts, Mapping) or not isinstance(classes, list):
            return False
        return (
            all(isinstance(each, str) for each in classes)
            and bool(counts)
            and all(
                isinstance(each, list)
                and len(each) == len(classes)
                and all(type(n) is int and 0 <= n < MOST for n in each)
                for each in counts.values()
            )
        )

    def total(self) -> dict[str, int]:
        """Return how many images each class has in all splits."""
        sums = np.sum(list(self.counts.values()), axis=0)
        return dict(zip(self.classes, sums.tolist(), strict=True))

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {sum(each):,}" for name, each in self.counts.items())
        return f"{sum(self.total().values()):,} {self.noun} ({sizes}) of {few(self.classes)}"


def _counts(labels: npt.NDArray[np.int64], classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(labels, minlength=classes).tolist())


def _names(paths: Sequence[str]) -> str:
    """Return a hash of paths below the folder that all have in common, whichever way Unicode spells them."""
    top = os.path.commonpath([min(paths), max(paths)])
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(unicodedata.normalize("NFC", path[len(top) :])) + b"\0")
    return digest.hexdigest()


def few(names: Sequence[str]) -> str:
    """Return names with commas between them, the first few of many."""
    more = f", ... ({len(names)})" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def difference(then: Identity, now: Identity) -> str | None:
    """Return the difference between the data of a run and those that are there; None where a run may go on with them.

    Other names for the same files in the same order change nothing.
    """
    found = [_classes(then.classes, now.classes)] if then.classes != now.classes else []
    before, after = then.total(), now.total()
    for what, sign in (("added", 1), ("removed", -1)):
        changes = {name: sign * (after.get(name, 0) - before.get(name, 0)) for name in (before | after)}
        changes = {name: count for name, count in changes.items() if count > 0}
        if changes:
            count = sum(changes.values())
            found.append(f"{count} {now.noun if count > 1 else now.noun[:-1]} {what} ({few(list(changes))})")
    if not found and then.counts != now.counts:
        found.append(f"{now.noun} moved from split to split: now {now}")
    if not found and then.contents != now.contents:
        renamed = then.names != now.names
        found.append("images renamed, or others in their place" if renamed else f"the contents of {now.noun} differ")
    if not found and then.splits != now.splits:
        found.append(f"the same {now.noun} are labelled or split otherwise")
    return "; ".join(found) or None


def _classes(then: Sequence[str], now: Sequence[str]) -> str:
    new, gone = ([c for c in a if c not in b] for a, b in ((now, then), (then, now)))
    if not new and not gone:
        return f"the classes are in another order, {few(now)}"
    parts = [f"{few(names)} {what}" for names, what in ((new, "new"), (gone, "gone")) if names]
    return f"the classes are now {few(now)} ({', '.join(parts)})"


def agree(then: Identity | None, classes: Sequence[str], now: Identity, source: Path) -> str | None:
    """See that data are those of a checkpoint, `source`; return a line about what couldn't be seen, or matters little.

    `then` is None where the checkpoint, of an earlier version, holds its classes alone. InputError says what differs.
    """
    if then is None:
        if tuple(classes) != now.classes:
            raise InputError(f"{_classes(classes, now.classes)}; the run was of {few(classes)}", option="data")
        return f"data: {source.name} is of an earlier version and doesn't hold what they were: not checked"
    then = then._replace(noun=now.noun)
    what = difference(then, now)
    if what is not None:
        raise InputError(f"{what}; the run was of {then} ({source.name}), and goes with those only", option="data")
    if then.names != now.names:
        return "data: files have other names than when the run began; images, order and splits are the same"
    return None


def locate(root: str) -> str:
    """Return where a run's root is: where it was, or under NEUROEVO_DATA by as many of its last parts as lead there."""
    elsewhere = os.environ.get("NEUROEVO_DATA")
    if not elsewhere or Path(root).exists():
        return root
    parts, top = Path(root).parts[1:], Path(elsewhere).expanduser()
    places = [top.joinpath(*parts[i:]) for i in range(len(parts))]
    places += [top] if top.name in parts[-1:] else []
    return next((str(place.absolute()) for place in places if place.exists()), root)
