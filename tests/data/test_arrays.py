"""Samples of any modality in an .npz file: what is read, what is said, what is refused, and runs on them."""

import io
import json
import os
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from conftest import TINY, Quiet, make_folder, scores_of
from safetensors.torch import load_file
from sklearn.datasets import load_breast_cancer, load_digits
from test_resume import contents
from torch import nn

from neuroevo.cli import inspection, main
from neuroevo.config import check, load
from neuroevo.data import arrays, cache, datasets, feature_cache, identity
from neuroevo.data.arrays import Vectors
from neuroevo.data.images import Arrays
from neuroevo.data.splits import split
from neuroevo.engine.loop import Step
from neuroevo.errors import InputError, Interrupted
from neuroevo.experiments import build, experiment, export
from neuroevo.experiments.signals import Signals
from neuroevo.networks import backbones
from neuroevo.report import report
from neuroevo.tuning import tune

LENGTH = ["memory.limit=1e8", "validate.every=2", "algorithm.population=16", "budget.generations=12",
          "checkpoint.every=3"]  # fmt: skip


def write(path: Path, **given: Any) -> str:
    np.savez(path, **given)
    return str(path)


def cancer(path: Path, **given: Any) -> str:
    bunch = load_breast_cancer()
    return write(path, **{"x": bunch.data, "y": bunch.target, "classes": bunch.target_names} | given)


def sets(file: str) -> list[str]:
    return ["data.name=arrays", f"data.file={file}", *LENGTH]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the breast cancer data, `bc.npz`, and a run on it, `r`."""
    top = tmp_path_factory.mktemp("arrays")
    experiment.run(load(None, sets(cancer(top / "bc.npz"))), str(top / "r"), "test", Quiet())
    return top


def test_a_file_is_all_that_a_config_needs_and_nothing_of_it_is_cached_as_features(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROEVO_CACHE", str(finished / "cache"))
    c = check({"data": {"name": "arrays", "file": str(finished / "bc.npz")}, "memory": {"limit": 10**8}})
    assert c.backbone.name == "none"
    quiet = Quiet()
    experiment.run(c, str(finished / "whole"), "test", quiet)
    result = json.loads((finished / "whole" / "result.json").read_text())
    assert result["champion"]["test"]["accuracy"] > 0.88
    assert result["data"]["noun"] == "samples"
    assert not list(cache.cache_folder().glob("features/*.npy"))
    assert any(line.startswith("train: 399 samples, cut from") for line in quiet.lines)
    assert not any("image" in line for line in quiet.lines)


def test_rows_are_handed_on_without_a_copy(tmp_path: Path) -> None:
    found = datasets.arrays(file=cancer(tmp_path / "a.npz", x=load_breast_cancer().data.astype(np.float32)))
    assert isinstance(found.images, Vectors)
    backbone = backbones.build("none", "default", None, found.native())
    rows, computed = feature_cache.fetch(backbone, found, torch.device("cpu"), lambda *_: None)
    assert (rows.data_ptr(), computed) == (found.images.rows.ctypes.data, 0)
    half, _ = feature_cache.look_up(backbone, found, torch.device("cpu"), "float16")
    assert half is not None
    assert half.dtype == torch.float16
    whole = Vectors(np.full((2, 3), 1e6, dtype=np.float32))
    with pytest.raises(InputError, match="^dtype: float16 can't hold row 0 of x; use float32"):
        feature_cache.as_they_are(whole, torch.device("cpu"), "float16")


@pytest.mark.parametrize("refine", [[], ["refine={name: adam, steps: 2, lr: [0.001, 0.1]}"]])
def test_a_run_that_is_interrupted_resumes_to_the_same_bytes(tmp_path: Path, refine: list[str]) -> None:
    given = [*sets(cancer(tmp_path / "bc.npz")), *refine]
    experiment.run(load(None, given), str(tmp_path / "whole"), "test", Quiet())

    class Stops(Quiet):
        def generation(self, step: Step) -> None:
            if step.generation == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        experiment.run(load(None, given), str(tmp_path / "r"), "test", Stops(), signals=Signals())
    experiment.resume(str(tmp_path / "r"), [], Quiet())
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def test_a_champion_is_scored_on_its_test_split_and_on_another_file(finished: Path, tmp_path: Path) -> None:
    run, quiet, bunch = str(finished / "r"), Quiet(), load_breast_cancer()
    known = json.loads((finished / "r" / "result.json").read_text())["champion"]["test"]
    assert scores_of(run, None, quiet) == {**known, "noun": "samples"}
    whole = datasets.arrays(file=str(finished / "bc.npz"))
    rows = split(whole, 0, 0.15, 0.15)["test"].numpy()
    x, y = bunch.data[rows], bunch.target[rows]
    named = write(tmp_path / "names.npz", x=x, y=bunch.target_names[y])
    places = write(tmp_path / "places.npz", x=x, y=y)
    turned = write(tmp_path / "turned.npz", x=x, y=1 - y, classes=bunch.target_names[::-1])
    for other in (named, places, turned):
        found = scores_of(run, other, quiet)
        assert {key: found[key] for key in ("accuracy", "cross_entropy", "images")} == pytest.approx(
            {key: known[key] for key in ("accuracy", "cross_entropy", "images")}
        )
    assert "y is taken as places among the run's classes: malignant, benign" in quiet.lines
    for other, line in (
        (write(tmp_path / "w.npz", x=x[:, :5], y=y), "has 5 numbers a sample; the run is of 30 numbers a sample"),
        (
            write(tmp_path / "i.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.zeros(4, int)),
            "has images; the run is of 30",
        ),
        (
            write(tmp_path / "c.npz", x=x, y=np.full(len(x), "odd")),
            "y has odd, which is none of the classes: malignant",
        ),
        (write(tmp_path / "n.npz", x=x, y=y + 5), "y has 5; the classes are 0 to 1: malignant, benign"),
        (str(tmp_path), "is a folder; an .npz file expected"),
        (str(tmp_path / "none.npz"), "is not there"),
    ):
        with pytest.raises(InputError, match=f"^--data: .*{line}"):
            scores_of(run, other, quiet)
    with pytest.raises(InputError, match=r"^--set data.broken=skip: for class folders"):
        scores_of(run, named, quiet, sets=["data.broken=skip"])


def test_the_exported_network_is_the_head_on_raw_numbers_and_scores_the_same(finished: Path, tmp_path: Path) -> None:
    said = export.export(str(finished / "r"), None, str(tmp_path / "m.safetensors"))
    assert said.line.endswith("2 classes; inputs of 30 numbers, as they are in x")
    export.export(str(finished / "r"), None, str(tmp_path / "m.pt"))
    plain = nn.Sequential()
    plain.add_module("head", nn.Linear(30, 2))
    plain.load_state_dict(load_file(tmp_path / "m.safetensors"), strict=True)
    plain.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True), strict=True)
    whole = datasets.arrays(file=str(finished / "bc.npz"))
    assert isinstance(whole.images, Vectors)
    rows = split(whole, 0, 0.15, 0.15)["test"]
    logits = plain(torch.from_numpy(whole.images.rows)[rows])
    right = (logits.argmax(1) == torch.from_numpy(whole.labels)[rows]).float().mean()
    test = json.loads((finished / "r" / "result.json").read_text())["champion"]["test"]
    assert float(right) == pytest.approx(test["accuracy"])
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    export.export(str(finished / "r"), None, str(tmp_path / "m.onnx"))
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert graph.input[0].name == "inputs"
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim][1:] == [30]


def test_validate_and_report_speak_of_samples(finished: Path) -> None:
    rows = dict(inspection.estimate(load(None, sets(str(finished / "bc.npz")))))
    assert rows["samples"] == "train 399, validation 85, test 85"
    assert rows["class benign"] == "train 251; validation 53; test 53"
    assert rows["features"].endswith("as they are")
    report.report(str(finished / "r"))
    page = (finished / "r" / "report.html").read_text()
    assert "399 samples, cut from" in page
    assert "test samples" in page
    assert "399 images" not in page


def test_hyperparameters_are_searched_on_arrays(tmp_path: Path) -> None:
    bunch = load_digits()
    file = write(tmp_path / "digits.npz", x=bunch.images, y=bunch.target)
    raw = {
        "data": {"name": "arrays", "file": file, "limit": 300},
        "algorithm": {"population": 4}, "refine": {"steps": 2}, "memory": {"limit": 10**8},
        "budget": {"generations": 2},
        "tune": {"sampler": {"population": 2}, "space": {"refine.lr": {"name": "float", "low": 1e-3, "high": 1}},
                 "trial": {"generations": 2}, "budget": {"generations": 2}},
    }  # fmt: skip
    tune.run(check(raw), str(tmp_path / "t"), "test", Quiet(), Signals())
    result = json.loads((tmp_path / "t" / "result.json").read_text())
    assert result["status"] == "finished"
    raw["tune"]["space"] = {"data.image_size": {"name": "integer", "low": 8, "high": 16}}  # type: ignore[index]
    with pytest.raises(InputError, match=r"^tune.space.data.image_size: 8 is for images, and x of data.file is 64"):
        tune.run(check(raw), str(tmp_path / "u"), "test", Quiet(), Signals())


def test_a_run_goes_on_with_a_file_that_moved_and_with_no_other(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "budget.generations=14"
    run, moved = str(tmp_path / "r"), tmp_path / "moved.npz"
    shutil.copytree(finished / "r", run)
    shutil.move(finished / "bc.npz", moved)
    try:
        with pytest.raises(InputError, match=r"^data.file: .*bc.npz is not there"):
            experiment.resume(run, [more], Quiet())
        bunch = load_breast_cancer()
        changed = bunch.data.copy()
        changed[7, 3] += 1
        for other, line in (
            (cancer(tmp_path / "x.npz", x=changed), "the contents of samples differ"),
            (cancer(tmp_path / "n.npz", x=bunch.data[1:], y=bunch.target[1:]), r"1 sample removed \(malignant\)"),
            (cancer(tmp_path / "c.npz", classes=["a", "b"]), "the classes are now a, b"),
        ):
            with pytest.raises(InputError, match=f"^data: .*{line}.*the run was of.* 569 samples"):
                experiment.resume(run, [more, f"data.file={other}"], Quiet())
            with pytest.raises(InputError, match=f"^data: .*{line}"):
                scores_of(run, None, Quiet(), sets=[f"data.file={other}"])
        assert scores_of(run, None, Quiet(), sets=[f"data.file={moved}"])["images"] == 85
        (tmp_path / "store").mkdir()
        shutil.copy(moved, tmp_path / "store" / "bc.npz")
        monkeypatch.setenv("NEUROEVO_DATA", str(tmp_path / "store"))
        quiet = Quiet()
        assert scores_of(run, None, quiet)["images"] == 85
        assert any(line.startswith("data.file: ") and "is taken" in line for line in quiet.lines)
        monkeypatch.delenv("NEUROEVO_DATA")
        experiment.resume(run, [more, f"data.file={moved}"], Quiet())
        assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["data"]["file"] == str(moved)
    finally:
        shutil.move(moved, finished / "bc.npz")


def test_a_file_is_found_where_the_data_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    cancer(tmp_path / "there" / "f.npz")
    monkeypatch.setenv("NEUROEVO_DATA", str(tmp_path / "there"))
    c = check({"data": {"name": "arrays", "file": "f.npz"}})
    assert c.data.source.options["file"] == str(tmp_path / "there" / "f.npz")


X = np.arange(24, dtype=np.float32).reshape(12, 2)
Y = np.arange(12) % 2


@pytest.mark.parametrize(
    ("x", "width", "note"),
    [
        (X, 2, None),
        (np.asfortranarray(X), 2, None),
        (X.astype(">f8"), 2, None),
        (X.astype(np.float16), 2, None),
        (X.reshape(12, 2, 1, 1), 2, "x [12, 2, 1, 1]: each sample is 2 numbers, in C order"),
        (X.astype(int), 2, "x is int64: taken as float32"),
        (X.astype(np.int64) * 99 + 2**30, 2, "x is int64: taken as float32, which rounds some"),
        (X.astype(np.uint8), 2, "x is uint8: taken as float32"),
        (X > 5, 2, "x is bool: taken as float32"),
    ],
)
def test_numbers_of_any_type_and_rank_become_rows(
    tmp_path: Path, x: npt.NDArray[Any], width: int, note: str | None
) -> None:
    found = arrays.read(write(tmp_path / "a.npz", x=x, y=Y))
    assert isinstance(found.images, Vectors)
    assert found.images.rows.shape == (12, width)
    np.testing.assert_array_equal(found.images.rows, x.reshape(12, width).astype(np.float32))
    assert found.notes == (() if note is None else (note,))
    assert found.images.fingerprint() == Vectors(found.images.rows.copy()).fingerprint()


def test_compressed_files_are_read_and_what_else_is_in_one_is_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=X, y=Y, ids=Y)
    assert arrays.read(str(tmp_path / "a.npz")).notes == ("ids left out: x, y, split, classes, groups are read",)


@pytest.mark.parametrize("shape", [(12, 8, 8), (12, 8, 8, 1), (12, 8, 8, 3), (12, 8, 8, 5)])
def test_bytes_of_such_a_shape_are_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = datasets.arrays(file=write(tmp_path / "a.npz", x=np.zeros(shape, np.uint8), y=Y))
    assert isinstance(found.images, Arrays)
    assert found.native() == (8, 8, shape[3] if len(shape) == 4 else 1)


def test_images_in_a_file_go_through_a_backbone_and_score_as_the_digits_do(tmp_path: Path) -> None:
    digits = datasets.digits()
    assert isinstance(digits.images, Arrays)
    file = write(tmp_path / "d.npz", x=digits.images.pixels, y=digits.labels)
    through = ["data.limit=200", "backbone.name=timm/test_resnet", "backbone.weights=none", "data.image_size=32",
               "algorithm.population=8", "budget.generations=2", "memory.limit=1e8"]  # fmt: skip
    experiment.run(load(None, [f"data.file={file}", "data.name=arrays", *through]), str(tmp_path / "a"), "t", Quiet())
    experiment.run(load(None, through), str(tmp_path / "b"), "test", Quiet())
    a, b = (json.loads((tmp_path / name / "result.json").read_text())["champion"] for name in "ab")
    assert a == b
    assert scores_of(str(tmp_path / "b"), file, Quiet())["images"] == 1797
    with pytest.raises(InputError, match=r"^--data: .* has 2 numbers a sample; the run is of images"):
        scores_of(str(tmp_path / "b"), write(tmp_path / "v.npz", x=X, y=Y), Quiet())
    make_folder(tmp_path / "folder", {"test": {"0": 2, "1": 2}})
    assert scores_of(str(tmp_path / "a"), str(tmp_path / "folder"), Quiet())["images"] == 4


@pytest.mark.parametrize(
    ("y", "classes", "names", "note"),
    [
        (Y, None, ("0", "1"), None),
        (Y.astype(float), None, ("0", "1"), None),
        (Y[:, None][:, 0].astype(np.uint8), ["no", "yes"], ("no", "yes"), None),
        (np.where(Y, 10, -2), None, ("-2", "10"), "classes, sorted: -2, 10"),
        (np.where(Y, "b", "a"), None, ("a", "b"), "classes, sorted: a, b"),
        (np.where(Y, b"b", b"a"), None, ("a", "b"), "classes, sorted: a, b"),
        (np.where(Y, "a", "b"), ["b", "a"], ("b", "a"), None),
        (Y == 1, None, ("False", "True"), "classes, sorted: False, True"),
    ],
)
def test_labels_are_places_or_names(
    tmp_path: Path, y: npt.NDArray[Any], classes: list[str] | None, names: tuple[str, ...], note: str | None
) -> None:
    given = {} if classes is None else {"classes": classes}
    found = arrays.read(write(tmp_path / "a.npz", x=X, y=y, **given))
    assert found.classes == names
    assert found.labels.tolist() == Y.tolist()
    assert found.notes == (() if note is None else (note,))
    run = arrays.read_labelled(write(tmp_path / "b.npz", x=X, y=y, **given), names)
    assert run.labels.tolist() == Y.tolist()


def test_whole_numbers_are_the_runs_labels_where_all_are_and_its_classes_places_if_not(tmp_path: Path) -> None:
    file = write(tmp_path / "a.npz", x=X, y=Y)
    places = arrays.read_labelled(file, ("1", "2"))
    assert places.labels.tolist() == Y.tolist()
    assert places.notes == ("y is taken as places among the run's classes: 1, 2",)
    labels = arrays.read_labelled(file, ("1", "0"))
    assert labels.labels.tolist() == (1 - Y).tolist()
    assert labels.notes == ()


def test_splits_go_by_their_usual_names_and_a_missing_one_is_cut(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    three = datasets.arrays(
        file=write(tmp_path / "a.npz", x=x, y=y, split=["Train"] * 20 + ["val"] * 10 + ["testing"] * 10)
    )
    sizes = {name: len(rows) for name, rows in split(three, 0, 0.2, 0.2).items()}
    assert sizes == {"train": 20, "validation": 10, "test": 10}
    two = datasets.arrays(file=write(tmp_path / "b.npz", x=x, y=y, split=[b"train"] * 30 + [b"val"] * 10))
    assert two.notes == ("no test in split: validation serves as test",)
    sizes = {name: len(rows) for name, rows in split(two, 0, 0.2, 0.2).items()}
    assert sizes == {"train": 24, "validation": 6, "test": 10}
    assert dict(two.folders)["validation"] == f"cut from train of {tmp_path / 'b.npz'}"
    one = datasets.arrays(file=write(tmp_path / "c.npz", x=x, y=y, split=["train"] * 40))
    assert (one.part == -1).all()
    c = load(None, [*sets(str(tmp_path / "a.npz")), "data.test=0.3"])
    with pytest.raises(InputError, match="data.test: 0.3 has no effect: the data have a test split of their own"):
        experiment.run(c, str(tmp_path / "r"), "test", Quiet())


def test_limit_and_long_tail_thin_arrays(finished: Path, tmp_path: Path) -> None:
    c = load(None, [*sets(str(finished / "bc.npz")), "data.limit=200", "data.long_tail=0.1"])
    whole, splits = build.dataset(c)
    assert len(whole.images) == 200
    counts = identity.Identity.of(whole, splits).counts["train"]
    assert counts[1] < counts[0]
    experiment.run(c, str(tmp_path / "r"), "test", Quiet())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no x": ({"y": Y}, "has no x; it has: y"),
    "no y": ({"x": X}, "has no y; it has: x"),
    "a vector": ({"x": X[:, 0], "y": Y}, r"x is float32 \[12\]; \[N, ...\] with a row for each"),
    "no samples": ({"x": X[:0], "y": Y[:0]}, r"x is float32 \[0, 2\]"),
    "no numbers": ({"x": X[:, :0], "y": Y}, r"x is float32 \[12, 0\]"),
    "too few labels": ({"x": X, "y": Y[1:]}, r"y is \[11\]; one label for each of the 12 samples expected, \[12\]"),
    "one-hot": ({"x": X, "y": np.eye(2)[Y]}, r"y is \[12, 2\]; one label"),
    "objects": ({"x": X.astype(object), "y": Y}, "x is an array of Python objects, which is never unpickled"),
    "labels that are objects": ({"x": X, "y": Y.astype(object)}, "y is an array of Python objects"),
    "words": ({"x": X.astype(str), "y": Y}, "numbers expected"),
    "complex": ({"x": X.astype(complex), "y": Y}, "numbers expected"),
    "nan": ({"x": np.where(X > 20, np.nan, X), "y": Y}, "x has 3 NaN or infinite numbers, the first in row 10"),
    "infinite": ({"x": np.where(X == 5, np.inf, X), "y": Y}, "x has 1 NaN or infinite number, the first in row 2"),
    "large": ({"x": X.astype(float) * 1e38, "y": Y}, "x has numbers beyond float32, the first in row 2"),
    "constant": ({"x": X * 0 + 3, "y": Y}, "x is the same in every row: there is nothing to learn from"),
    "channels first": ({"x": np.zeros((12, 3, 8, 8), np.uint8), "y": Y}, "as if channels came first"),
    "a target": ({"x": X, "y": Y + 0.5}, "y is 0.5 in row 0; a class expected"),
    "one class": ({"x": X, "y": Y * 0}, "y has 0 alone; two classes are the least"),
    "a class of one": ({"x": X, "y": np.arange(12) // 11}, "y has one sample of 1; two are the least"),
    "beyond classes": ({"x": X, "y": Y, "classes": ["a"]}, "y has 1; the classes are 0 to 0: a"),
    "unknown class": ({"x": X, "y": np.where(Y, "a", "b"), "classes": ["a", "c"]}, "y has b, which is none of"),
    "classes twice": ({"x": X, "y": Y, "classes": ["a", "a"]}, "classes has a twice"),
    "classes of floats": ({"x": X, "y": Y, "classes": [0.5, 1]}, "a list of names expected"),
    "a class without samples": ({"x": X, "y": Y, "classes": ["a", "b", "c"]}, "class c has no sample in the train"),
    "split of numbers": ({"x": X, "y": Y, "split": Y}, "train, validation or test for each of the 12"),
    "few splits": ({"x": X, "y": Y, "split": ["train"]}, "train, validation or test for each of the 12"),
    "folds": ({"x": X, "y": Y, "split": ["train", "fold3"] * 6}, "split has 'fold3'; train, validation or test"),
    "no train": ({"x": X, "y": Y, "split": ["val", "test"] * 6}, "split has test, val, and no train"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    given, line = BAD[name]
    file = write(tmp_path / "bad.npz", **given)
    assert_refused(monkeypatch, capfd, tmp_path, file, line)


def assert_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, file: str, line: str, *more: str
) -> None:
    given = [*sets(file), "data.validation=0.25", "data.test=0.25", *more]
    monkeypatch.setattr(sys, "argv", ["neuroevo", "run", "--out", str(tmp_path / "r"), *(f"--set={s}" for s in given)])
    with pytest.raises(SystemExit) as left:
        main.main()
    said = capfd.readouterr().err
    assert left.value.code == 2
    assert len(said.splitlines()) == 1
    with pytest.raises(InputError, match=f"(data|backbone).*{line}"):
        experiment.run(load(None, given), str(tmp_path / "r"), "test", Quiet())
    assert not (tmp_path / "r").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(X.tobytes()) + 5] ^= 1
    path.write_bytes(content)


def wide(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(12, 2)", b"(99, 2)"))


def endless(path: Path) -> None:
    """Names without a character, of which any number takes no bytes."""
    write(path, x=X, y=Y)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<U0", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("classes.npy", header.getvalue())


def more(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content + b"more")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (cut, "is no .npz file, or damaged at its end"),
    "half": (half, "is no .npz file, or damaged at its end"),
    "empty": (lambda path: path.write_bytes(b""), "is no .npz file"),
    "text": (lambda path: path.write_text("x,y"), "is no .npz file"),
    "a bit": (flip, r"is damaged, in x \(Bad CRC"),
    "a header": (wide, r"is damaged, in x \("),
    "endless": (endless, r"is damaged, in classes \(<U0"),
    "more": (more, r"is damaged, in x \(there is more behind the array"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder; an .npz file expected"),
    "gone": (lambda path: path.unlink(), "is not there"),
    "a fifo": (lambda path: (path.unlink(), os.mkfifo(path)), "is no regular file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    change, line = DAMAGE[name]
    file = write(tmp_path / "bad.npz", x=X, y=Y)
    change(Path(file))
    assert_refused(monkeypatch, capfd, tmp_path, file, line)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("backbone.name=timm/resnet18", "name: timm/resnet18 takes images, and a sample of these data is 2 numbers"),
        ("backbone.trainable=[a]", "trainable: there is no backbone"),
        ("backbone.channels=3", "channels: 3 is for images, and x of data.file is 2 numbers a sample"),
        ("data.image_size=32", "image_size: 32 is for images, and x of data.file is 2 numbers a sample"),
        ("data.augment=[{name: RandomHorizontalFlip}]", "augment: .* is for images"),
        ("data.broken=skip", "broken: unknown key"),
    ],
)
def test_what_is_for_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], more: str, line: str
) -> None:
    assert_refused(monkeypatch, capfd, tmp_path, write(tmp_path / "a.npz", x=X, y=Y), line, more)


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.npz", x=X, y=Y)
    monkeypatch.setattr(arrays.devices, "total_memory", lambda: 64)
    with pytest.raises(InputError, match="x takes 0.0 GiB; this machine has 0.0 GiB of memory"):
        arrays.read(file)


@pytest.mark.parametrize(("name", "line"), [("a\0b", "is not there"), ("a" * 300, "can't be read")])
def test_a_name_that_can_be_no_file_is_one_line(name: str, line: str) -> None:
    with pytest.raises(InputError, match=f"^file: .* {line}"):
        arrays.read(f"/tmp/{name}")


def test_the_built_in_default_is_for_images_and_is_not_taken_with_arrays(finished: Path) -> None:
    c = load(None, ["data.name=arrays", f"data.file={finished / 'bc.npz'}"])
    assert (c.backbone.name, c.data.image_size) == ("none", None)
    assert load(None, TINY).backbone.name == "none"


def test_many_classes_are_read_in_no_time(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(100_000)]
    file = write(tmp_path / "many.npz", x=X, y=Y, classes=np.array([*names, "class 7"]))
    began = time.process_time()
    with pytest.raises(InputError, match="classes has class 7 twice"):
        arrays.read(file)
    assert time.process_time() - began < 5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["float16", "float32", "longdouble"])
def test_labels_may_be_floats_of_any_size(tmp_path: Path, kind: str) -> None:
    arrays.read(write(tmp_path / "half.npz", x=X, y=Y.astype(kind)))
