"""What a run's champion predicted, sample by sample: a table in the run's folder, from which its page is made.

One row a sample of the validation and test splits, of at most MOST in each. `start` is the class that the network
which the search began with predicted, of test samples alone.
"""

import csv
import io
import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from neuroevo.errors import ignore
from neuroevo.storage import rundir, tables
from neuroevo.storage.files import Note, content, replace

MOST = 20_000  # samples of a split, so that the file has a few MB at most
HEADER = ("split", "sample", "file", "class", "predicted", "probability", "class_probability", "start")


class Prediction(NamedTuple):
    """What was predicted of a sample."""

    split: str
    sample: int  # its row in the data set
    file: str  # its path below the data's root, "" where it is no file
    label: str
    predicted: str
    probability: float  # of the class predicted; NaN where the logits are
    of_label: float  # the probability of its own class
    start: str  # predicted before the search, "" where unknown

    @property
    def right(self) -> bool:
        """Whether its own class was predicted."""
        return self.label == self.predicted


def write(folder: Path, rows: Sequence[Prediction]) -> None:
    """Write predictions as CSV, probabilities to six figures."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEADER)
    for row in rows:
        names = [tables.escape(name) for name in (row.file, row.label, row.predicted, row.start)]
        figures = ["" if math.isnan(p) else f"{p:.6g}" for p in (row.probability, row.of_label)]
        lines.writerow([row.split, row.sample, *names[:3], *figures, names[3]])
    replace(folder / rundir.PREDICTIONS, text.getvalue().encode(errors="backslashreplace"))


def read(folder: Path, note: Note = ignore) -> list[Prediction]:
    """Return the predictions in a run's folder; [] where there are none, or damaged ones, of which `note` is told."""
    path = folder / rundir.PREDICTIONS
    if not path.exists():
        return []
    try:
        written = content(path, note)
        known = rundir.read_result(folder).get("files", {}).get(rundir.PREDICTIONS)
        if known is not None and sha256(written).hexdigest() != known:
            raise ValueError("another checksum")
        header, *rows = csv.reader(io.StringIO(written.decode(), newline=""))
        if tuple(header) != HEADER:
            raise ValueError("other columns")
        return [_parse(row) for row in rows]
    except (ValueError, csv.Error):
        note(f"{path}: damaged, and left out")
        return []


def _parse(row: Sequence[Any]) -> Prediction:
    split, sample, *names, one, other, start = row
    file, label, predicted, start = map(tables.restore, (*names, start))
    probability, of_label = (float(p) if p else math.nan for p in (one, other))
    if int(sample) < 0 or any(p < 0 or p > 1 for p in (probability, of_label)):
        raise ValueError("another number")
    return Prediction(split, int(sample), file, label, predicted, probability, of_label, start)
