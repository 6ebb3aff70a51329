"""What a run's champion predicts of validation and test, as rows for its folder."""

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neuroevo.data.images import Files
from neuroevo.experiments.compose import Run
from neuroevo.problems.predictions import Predictions, predict
from neuroevo.problems.supervised import Supervised
from neuroevo.storage.predictions import MOST, Prediction


def of_run(run: Run, champion: Tensor, tested: Predictions) -> list[Prediction]:
    """Return what a champion [g] predicts of validation, and what it and the start predict of test.

    Its predictions of test are those that its scores are of; the others take a forward pass, which no budget counts.
    """
    of, splits = run.supervised, run.supervised.splits
    files = names_of_files(run.whole.images, run.config.data.source.options.get("root"))
    validated = predictions_of(of, champion, splits["validation"][:MOST])
    start = predictions_of(of, of.start[0].to(champion.device), splits["test"][:MOST])
    classes = run.network.classes
    return table("validation", validated, classes, files) + table("test", tested, classes, files, start.predicted)


def predictions_of(of: Supervised, genome: Tensor, rows: Tensor) -> Predictions:
    """Return what a genome [g] predicts of rows of the samples."""
    logits, targets = of.logits_of(of.judgement([]), genome, rows)
    return predict(rows, logits, targets % len(of.names.classes))


def names_of_files(images: Any, root: str | None) -> Sequence[str]:
    """Return each image's path below the data's root; () where images are no files."""
    if not isinstance(images, Files) or root is None:
        return ()
    return [os.path.relpath(path, root) for path in images.paths]


def table(
    split: str,
    found: Predictions,
    classes: Sequence[str],
    files: Sequence[str] = (),
    started: Tensor | None = None,
) -> list[Prediction]:
    """Return the rows of a split's predictions, the first MOST of them; `started` are those of the start [B]."""
    columns = [values[:MOST].tolist() for values in found]
    starts = [""] * len(columns[0]) if started is None else [classes[i] for i in started.tolist()]
    return [
        Prediction(split, row, files[row] if files else "", classes[label], classes[predicted], p, of_label, start)
        for row, label, predicted, p, of_label, start in zip(*columns, starts, strict=True)
    ]
