"""The data of a run in words: the folder behind each split, files left out, images in two splits."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from neuroevo import caveats
from neuroevo.data.datasets import Dataset
from neuroevo.data.foldernames import SPLITS
from neuroevo.data.images import Files
from neuroevo.data.walk import OWN
from neuroevo.errors import InputError

Splits = Mapping[str, Tensor]  # {name: [rows] int64}

LINES, LENGTH = 40, 600  # notes, and characters of one, that are worth keeping
CLASSES = 20  # that have a row of their own
TWICE = "duplicates: "  # begins a note on them
IN_SPLITS = "in two splits"  # which one of them says
NAMED = 5  # classes in a note, and broken images
MANY = 100_000  # images, beyond which validate doesn't decode each


def add_notes(data: Dataset, splits: Splits, *, numbered: bool = True) -> Dataset:
    """Return a data set with notes on the samples that its splits have twice; `numbered` where a row is its place."""
    return replace(data, notes=(*data.notes, *duplicates(data, splits, numbered=numbered)))


def absent(data: Dataset, splits: Splits) -> list[str]:
    """Return a line on each split in which some class has no image."""
    counts = {
        split: np.bincount(data.labels[rows.numpy()], minlength=len(data.classes)).tolist()
        for split, rows in splits.items()
        if len(rows)  # of a fit to train and validation together nothing is left to validate by
    }
    return caveats.of_splits(data.classes, counts, data.noun)


def own_splits(data: Dataset) -> dict[str, str]:
    """Return the keys that cut splits and have no effect, since the data bring these splits along, each with why."""
    own = [split for split in SPLITS[1:] if (data.part == SPLITS.index(split)).any()]
    return {split: f"the data have a {split} split of their own" for split in own}


def duplicates(data: Dataset, splits: Splits, *, numbered: bool = True) -> list[str]:
    """Return a line on samples that are in two splits byte for byte, and one on those that are in two classes.

    Each names two of them: files, or rows where they are `numbered` as in what the data came from.
    """
    images = data.images
    try:
        hashes = images.hashes()
    except InputError as error:
        return [f"{TWICE}not looked for ({str(error).partition(';')[0]})"]
    if isinstance(images, Files):
        return repeats(hashes, data.labels, splits, data.noun, images.paths)
    return repeats(hashes, data.labels, splits, data.noun, [f"row {i}" for i in range(len(hashes))] if numbered else ())


def repeats(
    hashes: Sequence[str], labels: npt.NDArray[np.int64], splits: Splits, noun: str, names: Sequence[str] = ()
) -> list[str]:
    """Return a line on samples of the same hash [N] in two splits, and one on those of two labels [N].

    Each has the `names` [N] of two of them, where there are any.
    """
    split_of = np.full(len(hashes), -1)
    for split, index in splits.items():
        split_of[index.numpy()] = SPLITS.index(split)
    same: dict[str, list[int]] = {}
    for row in np.flatnonzero(split_of >= 0).tolist():
        same.setdefault(hashes[row], []).append(row)
    pairs: Counter[str] = Counter()
    classes: list[tuple[int, int]] = []
    example: tuple[int, int] | None = None
    for rows in same.values():
        if len(rows) == 1:
            continue
        firsts = {int(split_of[row]): row for row in reversed(rows)}
        for a, b in combinations(sorted(firsts), 2):
            pairs[f"of {SPLITS[b]} in {SPLITS[a]}"] += sum(int(split_of[row]) == b for row in rows)
            example = example or (firsts[a], firsts[b])
        other = next((row for row in rows if labels[row] != labels[rows[0]]), None)
        if other is not None:
            classes.append((rows[0], other))

    def such(rows: tuple[int, int]) -> str:
        return f", such as {names[rows[0]]} and {names[rows[1]]}" if names else ""

    found = []
    if example is not None:
        counts = ", ".join(f"{count:,} {where}" for where, count in pairs.items())
        found.append(f"{TWICE}{noun} {IN_SPLITS}, byte for byte: {counts}{such(example)}")
    if classes:
        found.append(f"{TWICE}{noun} in two classes, byte for byte: {len(classes):,}{such(classes[0])}")
    return found


def flatters(notes: Sequence[str]) -> list[str]:
    """Return the note on samples that are in two splits, if it is among notes, as a warning."""
    found = [note for note in notes if note.startswith(TWICE) and f" {IN_SPLITS}, " in note]
    return [f"{_short(note)}; figures on them flatter" for note in found]


def lines(data: Dataset, splits: Splits) -> list[str]:
    """Return the lines of a run's log about its data: none where there is nothing to say."""
    served = [f"{split}: {len(splits[split]):,} {data.noun}, {folder}" for split, folder in data.folders]
    return [_short(line) for line in [*served, *data.notes]][:LINES]


def record(data: Dataset, splits: Splits) -> dict[str, Any]:
    """Return the record of the data in a result."""
    return {
        **({} if data.noun == "images" else {"noun": data.noun}),
        "images": {split: len(rows) for split, rows in splits.items()},
        "folders": {split: _short(folder) for split, folder in data.folders},
        # Not runs that lie beside the classes: a resumed run, which sees itself, has the same result.
        "notes": [_short(note) for note in data.notes if not note.startswith(OWN)][:LINES],
    }


def rows(data: Dataset, splits: Splits) -> list[tuple[str, str]]:
    """Return rows on where each split comes from, its classes and kinds of files, what is left out and duplicates."""
    images = data.images
    if not isinstance(images, Files):
        return _of_arrays(data, splits)
    found = [(split, folder) for split, folder in data.folders]
    kinds = [os.path.splitext(path)[1].lower() for path in images.paths]
    counts: dict[int, dict[str, Counter[str]]] = {label: {} for label in range(len(data.classes))}
    for split, index in splits.items():
        for row in index.tolist():
            counts[int(data.labels[row])].setdefault(split, Counter())[kinds[row]] += 1
    shown = len(data.classes) if len(data.classes) <= CLASSES + 1 else CLASSES
    for label in range(shown):
        parts = [f"{split} {_kinds(counts[label][split]) if split in counts[label] else 0}" for split in splits]
        found.append((f"class {data.classes[label]}", "; ".join(parts)))
    rest = range(shown, len(data.classes))
    if rest:
        parts = []
        for split in splits:
            sizes = [sum(counts[label].get(split, Counter()).values()) for label in rest]
            kind = sum((counts[label].get(split, Counter()) for label in rest), Counter())
            parts.append(f"{split} {_kinds(kind)} ({min(sizes)} to {max(sizes)} a class)")
        found.append((f"... {len(rest)} more", "; ".join(parts)))
    notes = [_short(note) for note in data.notes]
    faults = images.faults() if len(images) <= MANY else {}
    found += [("broken", f"{images.paths[i]}: {reason}") for i, reason in list(faults.items())[:NAMED]]
    if faults:
        found.append(("broken in all", f"{len(faults):,}; --set data.broken=skip leaves such files out"))
    if len(images) > MANY:
        found.append(("broken", f"not looked for among more than {MANY:,} images"))
    twice = [note.removeprefix(TWICE) for note in notes if note.startswith(TWICE)]
    found += [("note", note) for note in notes if not note.startswith(TWICE)]
    return [*found, *(("duplicates", note) for note in twice or ["none across splits or classes"])]


def _of_arrays(data: Dataset, splits: Splits) -> list[tuple[str, str]]:
    """Return rows on samples of a file of arrays; none where a data set is what its name says."""
    if not data.folders:
        return []
    counts = {
        split: np.bincount(data.labels[index.numpy()], minlength=len(data.classes)) for split, index in splits.items()
    }
    found = list(data.folders)
    for label, name in list(enumerate(data.classes))[:CLASSES]:
        found.append((f"class {name}", "; ".join(f"{split} {own[label]:,}" for split, own in counts.items())))
    if len(data.classes) > CLASSES:
        found.append((f"... {len(data.classes) - CLASSES} more", ""))
    return [*found, *(("note", _short(note)) for note in data.notes)]


def _kinds(counts: Mapping[str, int]) -> str:
    return " + ".join(
        f"{count:,} {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _short(line: str) -> str:
    return line if len(line) <= LENGTH else line[: LENGTH - 4] + " ..."
