"""What a champion's predictions tell: how far its probabilities can be trusted, what the search changed, examples."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from neuroevo.problems.intervals import wilson
from neuroevo.storage.predictions import Prediction

BINS = 15  # of equal width, as in Guo et al. 2017
MISTAKES, CLASSES, EACH = 12, 10, 4  # examples: in all, of how many classes, and of each kind of a pair


class Bin(NamedTuple):
    """Samples whose prediction has a probability within (low, high]."""

    low: float
    high: float
    samples: int
    probability: float  # the mean
    accuracy: float
    least: float  # the ends of its 95 % interval
    most: float


def bins(given: Sequence[Prediction]) -> list[Bin]:
    """Return the bins that have samples, BINS of equal width."""
    groups: dict[int, list[Prediction]] = {}
    for row in given:
        if row.probability == row.probability:
            groups.setdefault(max(0, -int(-row.probability * BINS // 1) - 1), []).append(row)
    found = []
    for i, rows in sorted(groups.items()):
        hits, n = sum(row.right for row in rows), len(rows)
        mean = sum(row.probability for row in rows) / n
        found.append(Bin(i / BINS, (i + 1) / BINS, n, mean, hits / n, *wilson(hits, n)))
    return found


def calibration_error(found: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean distance of accuracy from probability, bins by their samples."""
    return sum(b.samples * abs(b.accuracy - b.probability) for b in found) / sum(b.samples for b in found)


class Change(NamedTuple):
    """What became of a class's samples between the start and the champion."""

    label: str  # "all" for all classes
    samples: int
    before: int  # predicted right by the start
    after: int  # and by the champion
    mended: int  # wrong before, right after
    spoilt: int


def changes(given: Sequence[Prediction], classes: Sequence[str]) -> list[Change]:
    """Return what changed in each class that has samples, and in all; [] where the start's predictions are unknown."""
    rows = [row for row in given if row.start]
    parts = [(name, [row for row in rows if row.label == name]) for name in classes] if rows else []
    found = []
    for label, part in [("all", rows), *parts]:
        before = [row.start == row.label for row in part]
        pairs = Counter(zip(before, (row.right for row in part), strict=True))
        mended, spoilt, kept = pairs[False, True], pairs[True, False], pairs[True, True]
        found.append(Change(label, len(part), kept + spoilt, kept + mended, mended, spoilt))
    return [change for change in found if change.samples]


class Group(NamedTuple):
    """Examples under a heading."""

    title: str
    caption: str
    rows: list[Prediction]


def examples(given: Sequence[Prediction], classes: Sequence[str]) -> list[Group]:
    """Return the samples that are worth a look: mistakes, each class's best and worst, the two most confused classes.

    At most 12 + 20 + 16, of which some may be the same.
    """
    known = [row for row in given if row.probability == row.probability]
    wrong = sorted((row for row in known if not row.right), key=lambda row: -row.probability)
    groups = [Group("The most confident mistakes", "Those with the highest probability first.", wrong[:MISTAKES])]
    by_class = {name: [row for row in known if row.label == name] for name in classes}
    there = [(sum(row.right for row in rows) / len(rows), name) for name, rows in by_class.items() if rows]
    shown = {name for _, name in sorted(there, key=lambda pair: pair[0])[:CLASSES]}
    extremes = []
    for name in classes:
        if name in shown:
            best, worst = (pick(by_class[name], key=lambda row: row.of_label) for pick in (max, min))
            extremes += [best, worst] if best is not worst else [best]
    which = "" if len(there) <= CLASSES else f" The {CLASSES} classes with the lowest recall, of {len(there)}."
    about = f"Of each class the sample to which its own class was given the highest probability, and the lowest.{which}"
    groups.append(Group("Each class's best and worst", about, extremes))
    pairs = Counter(frozenset((row.label, row.predicted)) for row in wrong)
    if pairs:
        # Of pairs that are as often confused, the first in the classes' order.
        order = [sorted(pair, key=classes.index) for pair in pairs]
        a, b = min(order, key=lambda pair: (-pairs[frozenset(pair)], *map(classes.index, pair)))
        kinds = [(a, b), (b, a), (a, a), (b, b)]
        both = [[row for row in known if (row.label, row.predicted) == kind] for kind in kinds]
        chosen = [row for rows in both for row in sorted(rows, key=lambda row: -row.probability)[:EACH]]
        about = f"{a} taken for {b} {len(both[0]):,} times, {b} for {a} {len(both[1]):,} times; beside these some of "
        groups.append(
            Group(f"The two classes confused most: {a} and {b}", f"{about}each that were told apart.", chosen)
        )
    return [group for group in groups if group.rows]
