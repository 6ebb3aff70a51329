"""A champion judged class by class and sample by sample, against scikit-learn and by hand."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Quiet, make_folder, scores_of
from sklearn.metrics import precision_recall_fscore_support

from neuroevo.cli import results
from neuroevo.config import load
from neuroevo.experiments import evaluation, experiment
from neuroevo.experiments.evaluation import Evaluation
from neuroevo.problems import intervals
from neuroevo.problems.intervals import Share, confusion, wilson
from neuroevo.problems.predictions import predict
from neuroevo.storage import rundir, tables

SMALL = ["backbone.name=none", "backbone.weights=none", "algorithm.population=8", "algorithm.elites=2",
         "budget.generations=2", "memory.limit=1e9"]  # fmt: skip


def judged(truth: list[int], predicted: list[int], classes: tuple[str, ...]) -> Evaluation:
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), len(classes)).float()
    true = torch.tensor(truth)
    rows = predict(torch.arange(len(truth)), logits[None], true)
    return Evaluation(intervals.Tested({}, confusion(logits[None], true), rows), classes, "images", range(len(truth)))


def test_recall_and_precision_of_each_class_are_scikit_learns_with_wilsons_intervals() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    found = intervals.of_classes(judged(truth.tolist(), predicted.tolist(), tuple("abcde")).tested.confusion)
    precision, recall, _, support = precision_recall_fscore_support(truth, predicted)
    assert [of.recall.value for of in found] == pytest.approx(recall.tolist())
    assert [of.precision.value for of in found] == pytest.approx(precision.tolist())
    assert [of.recall.total for of in found] == support.tolist()
    for share in (found[0].recall, found[3].precision):
        assert share.value is not None
        assert share[1:3] == wilson(round(share.value * share.total), share.total)
    assert Share.of(0, 0) == (None, None, None, 0)


def test_all_classes_are_there_the_worst_first_at_any_width() -> None:
    classes = ("a\x1b", "never seen", "a class of a rather long name", *(f"c{i}" for i in range(40)))
    truth, predicted = [0, 0, 2, 2, *range(3, 43)], [0, 1, 2, 2, *range(3, 43)]
    for room in (None, 80, 50):
        lines = [*results.of_classes(judged(truth, predicted, classes), room)]
        assert all(room is None or len(line) <= room for line in lines)
        text = "\n".join(lines)
        assert "\x1b" not in text
        assert all(name in text for name in (r"a\x1b", *classes[1:]))
        order = [text.index(name) for name in (r"a\x1b", "a class of a rather", "never seen")]
        assert order == sorted(order)
        assert "0.500 [0.095, 0.905] of 2" in text
        assert "-  of 0" in text


def test_predictions_are_written_sample_by_sample_and_add_up(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {".": {"=a": 20, "b": 20}})
    make_folder(tmp_path / "other", {".": {"b": 5, "=a": 3}})
    sets = [f"data={{name: image_folder, root: {tmp_path / 'data'}}}", *SMALL, "data.image_size=8"]
    folder = experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    known = rundir.read_result(folder)["champion"]["test"]
    for root in (None, str(tmp_path / "other")):
        found = evaluation.evaluate(str(folder), root, Quiet())
        if root is None:
            assert found.tested.scores == known == scores_of(str(folder), None, Quiet())
        path = tmp_path / f"p{root is None}.csv"
        count = found.tested.scores["images"]
        assert results.write_predictions(found, path) == f"{path}: predictions for {count} images"
        rows = [*csv.DictReader(path.read_text().splitlines())]
        assert [*rows[0]] == ["file", "true", "predicted", "probability"]
        assert len(rows) == count
        assert all(Path(row["file"]).parent.name == tables.restore(row["true"]) for row in rows)
        right = [row["true"] == row["predicted"] for row in rows]
        assert np.mean(right) == pytest.approx(found.tested.scores["accuracy"])
        assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)


def test_of_rows_the_place_is_their_row_in_the_file(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    split = np.array(["train", "validation", "test"])[np.arange(90) % 3]
    np.savez(tmp_path / "x.npz", x=x, y=np.where(x[:, 0] > 0, "up", "down"), split=split)
    sets = [f"data={{name: arrays, file: {tmp_path / 'x.npz'}}}", *SMALL]
    sets += ["validate.metric={name: recall, of: up}", "fitness.metric={name: precision, of: up}", "fitness.ties=null"]
    folder = experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    found = evaluation.evaluate(str(folder), None, Quiet())
    rows = [*found.predictions()]
    assert [place for place, *_ in rows] == [*range(2, 90, 3)]
    assert [true for _, true, *_ in rows] == ["up" if value > 0 else "down" for value in x[2::3, 0]]
    up = intervals.of_classes(found.tested.confusion)[found.classes.index("up")]
    assert found.tested.scores["recall"] == pytest.approx(up.recall.value)
    assert found.tested.scores["precision"] == pytest.approx(up.precision.value)
    said = dict(row for _, rows in results.describe(str(folder)) for row in rows)
    assert {"validation recall (of up)", "test precision (of up)", "test accuracy"} <= said.keys()
