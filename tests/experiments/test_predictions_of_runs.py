import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Quiet, draw_classes
from sklearn.metrics import confusion_matrix

from neuroevo.config import load
from neuroevo.experiments import experiment
from neuroevo.problems.predictions import predict
from neuroevo.storage import predictions, rundir
from neuroevo.storage.predictions import Prediction


def test_probabilities_are_those_of_a_softmax() -> None:
    logits, labels = torch.randn(1, 50, 4), torch.arange(50) % 4
    found = predict(torch.arange(50), logits, labels)
    shares = logits[0].softmax(1)
    torch.testing.assert_close(found.probability, shares.max(1).values)
    torch.testing.assert_close(found.of_label, shares[range(50), labels])
    assert torch.equal(found.predicted, shares.argmax(1))


ROWS = [
    Prediction("validation", 3, "", "=cat", "'dog", 0.5, 0.25, ""),
    Prediction("test", 10**9, "test/=a b/1,2.jpg", "'dog", "=cat", float("nan"), float("nan"), "=cat"),
]


def test_predictions_are_read_back_as_they_were(tmp_path: Path) -> None:
    predictions.write(tmp_path, ROWS)
    found = predictions.read(tmp_path)
    assert [*map(repr, found)] == [*map(repr, ROWS)]
    for row in csv.reader((tmp_path / "predictions.csv").read_text().splitlines()):
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)  # a spreadsheet runs none of it


@pytest.mark.parametrize("damage", ["probability,", ",0.5", ",9,", "\n"])
def test_damaged_predictions_are_left_out_and_said(tmp_path: Path, damage: str) -> None:
    predictions.write(tmp_path, [row._replace(probability=0.5, of_label=0.5) for row in ROWS])
    path = tmp_path / "predictions.csv"
    new = {"probability,": "", ",0.5": ",1.5", ",9,": ",-9,", "\n": "\n,\n"}[damage]
    text = path.read_text().replace("1000000000", "9")
    path.write_text(text.replace(damage, new, 1))
    notes: list[str] = []
    assert predictions.read(tmp_path, notes.append) == []
    assert notes == [f"{path}: damaged, and left out"]


@pytest.fixture(scope="module")
def run_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictions")
    draw_classes(folder / "images", {"train": 12, "test": 6})
    sets = [*TINY, "data.name=image_folder", f"data.root={folder / 'images'}", "data.validation=0.5"]
    return experiment.run(load(None, sets), str(folder / "r"), "test", Quiet())


def test_a_run_leaves_its_champions_predictions_that_are_its_scores(run_of_images: Path) -> None:
    rows = predictions.read(run_of_images)
    result = json.loads((run_of_images / "result.json").read_text())
    for split, scores in (("validation", result["champion"]["validation"]), ("test", result["champion"]["test"])):
        own = [row for row in rows if row.split == split]
        assert len(own) == result["data"]["images"][split]
        assert np.mean([row.right for row in own]) == pytest.approx(scores["accuracy"])
        loss = -np.mean([np.log(row.of_label) for row in own])
        assert loss == pytest.approx(scores["cross_entropy"], abs=1e-4)
        assert all((row.probability == row.of_label) == row.right for row in own)
        assert {bool(row.start) for row in own} == {split == "test"}
    classes, counts = rundir.read_confusion(run_of_images) or ([], [])
    test = [row for row in rows if row.split == "test"]
    assert confusion_matrix([r.label for r in test], [r.predicted for r in test], labels=classes).tolist() == counts
    root = run_of_images.parent / "images"
    assert all((root / row.file).parent.name == row.label for row in rows)


def test_the_starts_predictions_are_those_of_the_network_before_the_search(run_of_images: Path) -> None:
    of_zero = {row.start for row in predictions.read(run_of_images) if row.split == "test"}
    assert len(of_zero) == 1  # logits of a head of zeros are all the same


def test_predictions_that_were_changed_since_are_left_out(run_of_images: Path) -> None:
    assert rundir.PREDICTIONS in json.loads((run_of_images / "result.json").read_text())["files"]
    with open(run_of_images / "predictions.csv", "a") as file:
        file.write("test,1,,a,a,0.5,0.5,\n")
    notes: list[str] = []
    assert predictions.read(run_of_images, notes.append) == []
    assert notes
