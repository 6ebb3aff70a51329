"""What a page says of a champion on the test split: by class, by sample, beside the start, with images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuroevo.errors import ignore, printable
from neuroevo.problems.intervals import wilson
from neuroevo.report import figures, page, plots_of_predictions, plots_of_runs, predictions
from neuroevo.report.figures import Files
from neuroevo.report.plates import plot_grid
from neuroevo.report.predictions import Group
from neuroevo.report.thumbnails import Images, Unavailable
from neuroevo.storage import predictions as stored
from neuroevo.storage import rundir
from neuroevo.storage.files import Note
from neuroevo.storage.predictions import Prediction

HEADER = ["class", "precision", "recall", "F1", "support"]
ENDS = ("precision_low", "precision_high", "recall_low", "recall_high")


class Scores(NamedTuple):
    """A class's scores; None for 0 / 0."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    of_precision: tuple[float, float] | None  # 95 % intervals (Wilson)
    of_recall: tuple[float, float] | None


def by_class(classes: Sequence[str], counts: npt.NDArray[np.int64]) -> list[Scores]:
    """Return each class's scores from a confusion matrix [C, C]."""
    hits, predicted, support = counts.diagonal(), counts.sum(0), counts.sum(1)

    def share(part: float, whole: float) -> float | None:
        return float(part / whole) if whole else None

    def ends(part: int, whole: int) -> tuple[float, float] | None:
        return wilson(int(part), int(whole)) if whole else None

    return [
        Scores(name, share(hit, p), share(hit, s), share(2 * hit, p + s), int(s), ends(hit, p), ends(hit, s))
        for name, hit, p, s in zip(classes, hits, predicted, support, strict=True)
    ]


def on_test(folder: Path, pictures: Files | None, prefix: str = "") -> list[str]:
    """Return the champion's confusion matrix on test and its scores for each class; [] where test wasn't scored.

    Beside them is what its predictions of each sample tell, where the folder has them.
    """
    found = rundir.read_confusion(folder)
    if found is None:
        return []
    classes, counts = found[0], np.array(found[1], dtype=np.int64)
    scores = by_class(classes, counts)
    if pictures is not None:
        rows = [[of.label, *of[1:5], *(of.of_precision or ("", "")), *(of.of_recall or ("", ""))] for of in scores]
        pictures.write_table(figures.safe(f"{prefix}per_class") + ".csv", [[*HEADER, *ENDS], *rows])
    shown = [
        [of.label, _with_ends(of.precision, of.of_precision), _with_ends(of.recall, of.of_recall), of.f1, of.support]
        for of in scores
    ]
    about = (
        "In brackets 95 % intervals (Wilson), of a class at a time; what another seed or another split would change "
        "is not in them. A dash: of a class that is never predicted, or not there."
    )
    table = page.grid(HEADER, shown, about)
    if len(classes) > figures.COUNTED:
        table = page.details(f"scores of each of {len(classes)} classes", table)
    given = read(folder)
    drawn = [plots_of_runs.confusion("confusion", classes, counts)]
    drawn += [plots_of_predictions.reliability("reliability", by_split)] if (by_split := bins_by_split(given)) else []
    test = [row for row in given if row.split == "test"]
    return [plot_grid(drawn, pictures, prefix, f"<div>{table}</div>"), change_table(test, classes)]


def _with_ends(value: float | None, ends: tuple[float, float] | None) -> str:
    return page.number(value) + ("" if ends is None else f"\n[{page.number(ends[0])}, {page.number(ends[1])}]")


def read(folder: Path, note: Note = ignore) -> list[Prediction]:
    """Return the predictions in a run's folder, with classes called as its confusion matrix calls them.

    Those of classes that the matrix doesn't have are left out, and `note` is told.
    """
    found, confusion = [], rundir.read_confusion(folder)
    for row in stored.read(folder, note):
        label, predicted, start = map(printable, (row.label, row.predicted, row.start))
        found.append(row._replace(label=label, predicted=predicted, start=start))
    classes = None if confusion is None else {*confusion[0]}
    known = [row for row in found if classes is None or {row.label, row.predicted} <= classes]
    if len(known) < len(found):
        note(f"{folder / rundir.PREDICTIONS}: {len(found) - len(known)} rows of other classes are left out")
    return known


def bins_by_split(given: Sequence[Prediction]) -> dict[str, list[predictions.Bin]]:
    """Return the bins of a reliability diagram for each split that has some, test first."""
    each = {split: predictions.bins([row for row in given if row.split == split]) for split in ("test", "validation")}
    return {split: found for split, found in each.items() if found}


def change_table(test: Sequence[Prediction], classes: Sequence[str]) -> str:
    """Return what changed between the start and the champion, a row a class; nothing where the start isn't known."""
    found = predictions.changes(test, classes)
    if not found:
        return ""
    rows = [[of.label, of.samples, of.before / of.samples, of.after / of.samples, of.mended, of.spoilt] for of in found]
    total = found[0]
    said = (
        f"Of {total.samples:,} test samples the search mended {total.mended:,} and spoilt {total.spoilt:,}: "
        f"{total.before:,} were predicted right at the start, {total.after:,} are now."
    )
    header = ["class", "samples", "right at the start", "right now", "mended", "spoilt"]
    table = page.grid(header, rows, "The start is the network that the search began with. Shares are of the class.")
    if len(classes) > figures.COUNTED:
        table = page.details(f"what changed in each of {len(classes)} classes", table)
    return f"<h3>From the start to the champion</h3>{page.paragraph(said)}{table}"


def samples(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Return test samples worth a look, with their images where the run's data has them; else by row."""
    found, test = rundir.read_confusion(folder), [row for row in read(folder) if row.split == "test"]
    if found is None or not test:
        return []
    groups, images, why = predictions.examples(test, found[0]), Images(config), ""
    parts = []
    for group in groups:
        shown = ""
        if not why:
            try:
                shown = gallery(group, images)
            except Unavailable as error:
                why = str(error)
        parts.append(f"<h3>{page.escape(group.title)}</h3>{page.note(group.caption)}{shown or by_row(group)}")
    return [page.note(f"By row, without images: {why}.") if why else "", *parts]


def gallery(group: Group, images: Images) -> str:
    """Return a group's images, each with its class and what was predicted; Unavailable where one isn't there."""
    shown = []
    for row in group.rows:
        uri, width, height = images.thumbnail(row)
        shown.append((uri, width, height, alt(row), text_below(row)))
    return page.gallery(shown)


def text_below(row: Prediction) -> tuple[str, str]:
    """Return what stands below an image: its class, and what was predicted with which probability."""
    if row.right:
        return row.label, f"right, {row.probability:.3f}"
    return row.label, f"taken for {row.predicted}, {row.probability:.3f} (own class {row.of_label:.3f})"


def alt(row: Prediction) -> str:
    """Return an image in words."""
    name = row.file or f"sample {row.sample}"
    return f"{name}: of class {row.label}, predicted {row.predicted} with probability {row.probability:.3f}"


def by_row(group: Group) -> str:
    """Return a group's samples as a table."""
    header = ["sample", "class", "predicted", "probability", "of its class"]
    rows = [
        [row.file or f"{row.sample:,}", row.label, row.predicted, row.probability, row.of_label] for row in group.rows
    ]
    return page.grid(header, rows)
