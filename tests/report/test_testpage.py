import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Quiet, draw_classes
from sklearn.metrics import precision_recall_fscore_support

from neuroevo.config import load
from neuroevo.experiments import experiment
from neuroevo.problems.intervals import wilson
from neuroevo.report import overview, predictions, runpage, testpage
from neuroevo.report.figures import Files
from neuroevo.storage import predictions as stored
from neuroevo.storage import rundir
from neuroevo.storage.predictions import Prediction


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("testpage")
    draw_classes(folder / "images", {"train": 12, "test": 20}, 40)
    sets = [*TINY, "data.name=image_folder", f"data.root={folder / 'images'}", "data.image_size=8"]
    return experiment.run(load(None, sets), str(folder / "r"), "test", Quiet())


def prediction(label: str, predicted: str, p: float, of_label: float | None = None, **rest: object) -> Prediction:
    own = p if of_label is None else of_label
    given = {"split": "test", "sample": 0, "file": "", "start": "", **rest}
    return Prediction(label=label, predicted=predicted, probability=p, of_label=own, **given)  # type: ignore[arg-type]


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    targets, predicted = np.random.default_rng(0).integers(0, 5, (2, 300))
    counts = np.zeros((5, 5), dtype=np.int64)
    np.add.at(counts, (targets, predicted), 1)
    rows = testpage.by_class(list("abcde"), counts)
    expected = precision_recall_fscore_support(targets, predicted)
    np.testing.assert_allclose(np.array([row[1:5] for row in rows], dtype=float).T, np.stack(expected))
    assert rows[2].of_recall == wilson(int(counts[2, 2]), int(counts[2].sum()))
    assert rows[2].of_precision == wilson(int(counts[2, 2]), int(counts[:, 2].sum()))


def test_a_class_that_is_never_predicted_or_not_there_has_no_such_score() -> None:
    counts = np.array([[1, 0, 0], [2, 0, 0], [0, 0, 0]])
    assert [row[:5] for row in testpage.by_class(["a", "b", "c"], counts)] == [
        ("a", 1 / 3, 1.0, 0.5, 1),
        ("b", None, 0.0, 0.0, 2),
        ("c", None, None, None, 0),
    ]


def test_the_calibration_error_is_the_mean_distance_weighted_by_samples() -> None:
    rows = [prediction("a", "a", 0.99)] * 8 + [prediction("b", "a", 0.99, 0.01)] * 2 + [prediction("b", "b", 0.52)] * 5
    found = predictions.bins(rows)
    assert [b.samples for b in found] == [5, 10]
    assert predictions.calibration_error(found) == pytest.approx((10 * abs(0.8 - 0.99) + 5 * abs(1 - 0.52)) / 15)
    shares = np.random.default_rng(0).random(20_000)
    hits = np.random.default_rng(1).random(20_000) < shares
    calibrated = [prediction("a", "a" if hit else "b", p) for hit, p in zip(hits, shares, strict=True)]
    assert predictions.calibration_error(predictions.bins(calibrated)) < 0.02


@pytest.mark.parametrize("p", [0.0, 1 / 15, 0.2, 1 / 3, 0.5, 14 / 15, 1.0])
def test_each_probability_is_in_one_bin(p: float) -> None:
    (found,) = predictions.bins([prediction("a", "a", p)])
    assert found.low - 1e-9 <= p <= found.high + 1e-9
    assert predictions.bins([prediction("a", "a", float("nan"))]) == []


def test_what_was_mended_and_spoilt_adds_up() -> None:
    rows = [prediction("a", now, 0.9, start=start) for now, start in ("aa", "ab", "ab", "ba", "bb")]
    every, a = predictions.changes(rows, ["a", "b"])
    assert every._replace(label="a") == a == predictions.Change("a", 5, before=2, after=3, mended=2, spoilt=1)
    assert predictions.changes([prediction("a", "a", 0.9)], ["a"]) == []


def test_examples_are_the_confident_mistakes_extremes_and_the_pair_confused_most() -> None:
    rng = np.random.default_rng(0)
    classes = [f"c{i}" for i in range(30)]
    rows = []
    for i in range(3000):
        label, predicted = classes[i % 30], classes[i % 30 if rng.random() < 0.7 else rng.integers(30)]
        p = rng.uniform(0.5, 1)
        rows.append(prediction(label, predicted, p, p if label == predicted else (1 - p) / 2, sample=i))
    rows += [prediction("c4", "c2", 0.51, 0.4, sample=3000 + i) for i in range(30)]
    mistakes, extremes, pair = predictions.examples(rows, classes)
    wrong = sorted((row.probability for row in rows if not row.right), reverse=True)
    assert [row.probability for row in mistakes.rows] == wrong[:12]
    assert set(Counter(row.label for row in extremes.rows).values()) == {2}
    for label in {row.label for row in extremes.rows}:
        own = [row.of_label for row in rows if row.label == label]
        assert [row.of_label for row in extremes.rows if row.label == label] == [max(own), min(own)]
    assert len(extremes.rows) == 20
    assert "of 30" in extremes.caption
    assert pair.title.endswith("c2 and c4")
    assert {(row.label, row.predicted) for row in pair.rows} >= {("c4", "c2"), ("c2", "c2"), ("c4", "c4")}
    assert sum(len(group.rows) for group in (mistakes, extremes, pair)) <= 60


def test_a_champion_without_a_mistake_has_extremes_alone() -> None:
    rows = [prediction("a", "a", 0.9), prediction("a", "a", 0.6), prediction("b", "b", 0.7)]
    (only,) = predictions.examples(rows, ["a", "b", "never there"])
    assert [row.of_label for row in only.rows] == [0.9, 0.6, 0.7]


def test_the_page_shows_test_images_that_are_small_and_have_words(made: Path) -> None:
    text = "".join(testpage.samples(made, runpage.read(made).config))
    shown = re.findall(
        r'<img src="(data:image/(?:png|jpeg);base64,[^"]+)" width="\d+" height="\d+" alt="([^"]+)">', text
    )
    assert 6 <= len(shown) == text.count("<img") <= 60
    assert sum(len(uri) for uri, _ in shown) < 300_000
    assert all(re.search(r"of class .+, predicted .+ with probability [01]\.\d{3}$", alt) for _, alt in shown)
    assert "green &amp; &lt;b&gt;" in text
    assert "<b>&" not in text
    assert "without images" not in text


def test_images_that_have_moved_are_said_and_shown_by_row(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "r")
    given = {"data": {"name": "image_folder", "root": str(tmp_path / "gone")}}
    text = "".join(testpage.samples(folder, given))
    assert "<img" not in text
    assert text.count("without images") == 1
    assert re.search(r"test/(red|blue)/\d+\.png", text)


def test_rows_of_numbers_are_shown_by_row(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32), np.arange(90) % 3
    np.savez(tmp_path / "x.npz", x=x, y=y)
    sets = [*TINY, "data.name=arrays", f"data.file={tmp_path / 'x.npz'}", "features.components=null"]
    folder = experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    text = runpage.run_page(folder, None)
    assert "<img" not in text
    assert "By row, without images: its samples are rows of numbers." in text
    test = [row for row in stored.read(folder) if row.split == "test"]
    assert {y[row.sample] for row in test} == {int(row.label) for row in test}
    assert "Reliability of probabilities" in text


def test_figures_by_class_are_kept_with_their_intervals(made: Path, tmp_path: Path) -> None:
    testpage.on_test(made, Files(tmp_path / "plots", ("svg",)))
    header = (tmp_path / "plots" / "per_class.csv").read_text().splitlines()[0].split(",")
    assert header[1:5] == ["precision", "recall", "F1", "support"]
    assert header[5:] == ["precision_low", "precision_high", "recall_low", "recall_high"]


def test_the_top_of_the_page_says_what_the_run_is_of(made: Path) -> None:
    text = runpage.run_page(made, None)
    top = text[: text.index("<h2>")]
    for word in ("image_folder", str(made.parent / "images"), "3: blue, green &amp; &lt;b&gt;, red", " train, ",
                 "60 test", "none", "linear", "ga, population 8"):  # fmt: skip
        assert word in top, word


@pytest.mark.parametrize(
    "config", [{}, {"data": None, "backbone": "given", "algorithm": {"name": "snes"}}, {"data": 3}]
)
def test_of_any_config_the_rows_are_those_that_are_known(config: dict[str, object]) -> None:
    rows = dict(overview.rows(config, {}, []))
    assert rows.get("algorithm", "") == ("snes" if "algorithm" in config else "")
    assert "classes" not in rows


def test_a_hash_of_weights_is_shortened_and_a_name_is_not() -> None:
    for weights, shown in (("0123456789ab" + "f" * 52, "0123456789ab"), ("IMAGENET1K_V1", "IMAGENET1K_V1")):
        rows = dict(overview.rows({"backbone": {"name": "Net", "weights": weights}}, {}, []))
        assert rows["backbone"] == f"Net with weights {shown}"
    assert dict(overview.rows({"backbone": {"name": "none", "weights": "none"}}, {}, []))["backbone"] == "none"


def test_classes_of_control_characters_are_called_the_same_throughout(tmp_path: Path, made: Path) -> None:
    """The confusion matrix and the predictions each spell them in a way of their own."""
    names = ("red\r", "b\t", "\x1b[1m=")
    classes = ["red", "green & <b>", "blue"]
    for split, folders in {"train": classes, "test": classes[::-1]}.items():  # so that some are taken for others
        for name, own in zip(names, folders, strict=True):
            shutil.copytree(made.parent / "images" / split / own, tmp_path / "images" / split / name)
    sets = [*TINY, "data.name=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=8"]
    folder = experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    assert any(row.label != row.predicted for row in stored.read(folder))
    parts = testpage.samples(folder, {})
    assert r"red\r" in "".join(parts)
    assert r"b\t" in "".join(testpage.on_test(folder, None))


def test_predictions_of_other_classes_than_the_matrix_has_are_left_out_and_said(tmp_path: Path) -> None:
    rows = [Prediction("test", i, "", name, "a", 0.5, 0.5, "") for i, name in enumerate(("a", "b", "zzz"))]
    stored.write(tmp_path, rows)
    rundir.write_confusion(tmp_path, ["a", "b"], torch.eye(2, dtype=torch.int64))
    lines: list[str] = []
    assert testpage.read(tmp_path, lines.append) == rows[:2]
    assert lines == [f"{tmp_path / rundir.PREDICTIONS}: 1 rows of other classes are left out"]
    assert "zzz" not in "".join(testpage.samples(tmp_path, {}))


def test_a_trainable_part_that_is_no_list_is_not_told() -> None:
    rows = dict(overview.rows({"backbone": {"name": "x", "trainable": 3}}, {}, ()))
    assert rows["backbone"] == "x"
