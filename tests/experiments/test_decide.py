"""`neuroevo decide`: from a run or a file of logits to a table, a file, and a champion with the decision folded in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Quiet
from safetensors.torch import load_file

from neuroevo.cli import decisions
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import decide, experiment, logits, reopen
from neuroevo.experiments.decide import read_constraint

SHARES = np.array([0.7, 0.2, 0.1])


def tailed(samples: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = rng.choice(3, samples, p=SHARES)
    return 1.5 * (rng.normal(size=(samples, 3)) + 1.5 * np.eye(3)[y]) + np.log(SHARES), y


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Logits of three classes by name, in all three splits."""
    found, y = tailed(1500, 0)
    split = np.array(["train"] * 300 + ["val"] * 600 + ["test"] * 600)
    np.savez(tmp_path / "l.npz", logits=found, y=y, split=split, classes=["cat", "dog", "eel"])
    return tmp_path / "l.npz"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on rows of numbers, whose features are what logits would be."""
    folder = tmp_path_factory.mktemp("decide")
    x, y = tailed(1200, 1)
    np.savez(folder / "d.npz", x=x.astype(np.float32), y=y, groups=np.resize(["day", "night", "dusk"], 1200))
    sets = [
        "data.name=arrays", f"data.file={folder / 'd.npz'}", "backbone.name=none", "backbone.weights=none",
        "algorithm.population=16", "algorithm.elites=4", "budget.generations=30", "features.components=null",
    ]  # fmt: skip
    experiment.run(load(None, sets), str(folder / "r"), "test", Quiet())
    return str(folder / "r")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_validation_is_fitted_and_test_is_scored_apart_by_the_row_chosen_beside_argmax(file: Path) -> None:
    found = decide.decide(str(file), "balanced_accuracy", ["recall of eel >= 0.5"], Quiet())
    assert found.decision.samples == 600
    assert [*found.test] == ["argmax", found.decision.chosen]
    assert found.test[found.decision.chosen].value > found.test["argmax"].value + 0.02
    shares = torch.bincount(torch.from_numpy(np.load(file)["y"][:300]), minlength=3) / 300
    torch.testing.assert_close(found.given.prior, shares.double())
    lines = decisions.lines("l.npz", found)
    assert max(map(len, lines)) <= 80
    assert [line.split()[1] for line in lines if line.startswith("test")] == [*found.test]


def test_a_file_without_splits_is_fitted_whole_and_nothing_is_scored(tmp_path: Path) -> None:
    found, y = tailed(300, 0)
    np.savez(tmp_path / "l.npz", logits=found, y=np.array(["a", "b", "c"])[y])
    read = logits.read(str(tmp_path / "l.npz"), Quiet())
    assert read.classes == ("a", "b", "c")
    assert read.test is None
    assert len(read.fitted.y) == 300


def test_the_champion_is_written_with_the_decision_folded_in_and_the_run_stays_as_it_is(
    run: str, tmp_path: Path
) -> None:
    before = bytes_of(Path(run))
    found = decide.decide(run, "balanced_accuracy", [], Quiet(), out=str(tmp_path / "d.json"))
    assert bytes_of(Path(run)) == before
    assert not found.decision.nothing
    written = json.loads((tmp_path / "d.json").read_text())
    assert written["chosen"] == found.decision.chosen
    assert written["offsets"] == found.decision.offsets.tolist()
    assert written["test"][written["chosen"]]["value"] > written["test"]["argmax"]["value"]
    assert len(found.written) == 3
    champion, whole = (load_file(tmp_path / f"d.{name}.safetensors") for name in ("champion", "network"))
    x = torch.from_numpy(tailed(500, 2)[0]).float()
    plain = load_file(Path(run) / "champion.safetensors")
    weight, bias = (next(name for name in plain if name.endswith(end)) for end in ("weight", "bias"))
    given = x @ plain[weight].T + plain[bias]
    for state in (champion, whole):
        folded = x @ state[weight].T + state[bias]
        assert torch.equal(folded.argmax(1), found.decision.predict(given))
    assert not torch.equal(given.argmax(1), found.decision.predict(given))


def test_the_groups_of_a_runs_samples_are_those_of_its_logits(run: str) -> None:
    found = logits.read(run, Quiet())
    assert {*found.fitted.groups.tolist()} == {"day", "night", "dusk"}
    assert found.test is not None
    assert len(found.test.groups) == len(found.test.y)
    given, step = reopen.open_run(run, Quiet())
    rows = given.supervised.splits["validation"]
    data = np.load(given.config.data.source.options["file"])
    assert found.fitted.groups.tolist() == data["groups"][rows.numpy()].tolist()
    assert found.fitted.y.tolist() == data["y"][rows.numpy()].tolist()
    assert step.champion.validation["accuracy"] == pytest.approx(
        float((found.fitted.logits.argmax(1) == found.fitted.y).double().mean())
    )


def test_where_nothing_is_better_only_the_record_is_written(run: str, tmp_path: Path) -> None:
    found = decide.decide(run, "accuracy", [], Quiet(), out=str(tmp_path / "d.json"))
    assert found.decision.nothing
    assert [path.name for path in tmp_path.iterdir()] == ["d.json"]
    assert any("do nothing" in line for line in decisions.lines(run, found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("precision per class >= 0.8", {"metric": "precision", "per": "class", "at_least": 0.8}),
        ("accuracy per group>=.5", {"metric": "accuracy", "per": "group", "at_least": 0.5}),
        ("accuracy <= 1e-1", {"metric": "accuracy", "at_most": 0.1}),
        ("recall of 2 >= 0.9", {"metric": {"name": "recall", "of": 2}, "at_least": 0.9}),
        ("recall of polar bear >= 0.9", {"metric": {"name": "recall", "of": "polar bear"}, "at_least": 0.9}),
        (
            "{name: recall_at_precision, precision: 0.8} of cat >= 0.5",
            {"metric": {"name": "recall_at_precision", "precision": 0.8, "of": "cat"}, "at_least": 0.5},
        ),
    ],
)
def test_a_bound_is_read_as_it_is_said(text: str, expected: dict[str, Any]) -> None:
    assert read_constraint(text) == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"place": "no.npz"}, "logits: no.npz is not there"),
        ({"place": "no"}, "no"),
        ({"subject_to": ["recall"]}, "--subject-to: 'recall' given; METRIC [per class | per group | of CLASS]"),
        ({"subject_to": ["recall >= much"]}, "--subject-to: 'much' given for a number in 'recall >= much'"),
        ({"subject_to": ["recal >= 1"]}, "--subject-to 'recal >= 1': no metric is called 'recal' (did you mean recall"),
        ({"subject_to": ["recall of cow >= 1"]}, "--subject-to 'recall of cow >= 1': of: no class is called 'cow'"),
        ({"metric": "weight_norm"}, "--metric: weight_norm is of a network"),
        ({"metric": "{name: cost_matrix"}, "--metric"),
        ({"folds": 1}, "--folds: 1 given"),
        ({"out": "d.txt"}, "--out: d.txt doesn't end in .json"),
        ({"out": "none/d.json"}, "--out: no folder none"),
        ({"sets": ["data.root=x"]}, "--set data.root=x: for a run's data"),
    ],
)
def test_what_cannot_be_is_one_line(file: Path, change: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {"place": str(file), "metric": "accuracy", "subject_to": [], "observer": Quiet(), **change}
    with pytest.raises(InputError) as found:
        decide.decide(**asked)
    assert str(found.value).startswith(said)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"logits": np.zeros((4, 3))}, "has no y; logits, y, groups, classes, split are read"),
        ({"logits": np.zeros(4), "y": np.arange(4)}, ": logits is float64 [4]; [samples, classes]"),
        ({"logits": np.zeros((4, 3)), "y": np.arange(4)}, ": y has 3; the classes are 0 to 2"),
        ({"logits": np.zeros((4, 3)), "y": np.array(["a", "b", "a", "b"])}, ": logits are of 3 classes"),
        ({"logits": np.zeros((4, 2)), "y": np.arange(4) % 2, "groups": np.zeros(3)}, ": groups is float64 [3]"),
    ],
)
def test_a_file_that_holds_no_logits_with_their_labels_is_refused(
    tmp_path: Path, arrays: dict[str, Any], said: str
) -> None:
    np.savez(tmp_path / "l.npz", **arrays)
    with pytest.raises(InputError, match="l.npz") as found:
        decide.decide(str(tmp_path / "l.npz"), "accuracy", [], Quiet())
    assert said in str(found.value)


def test_a_file_that_is_there_is_not_written_over(file: Path) -> None:
    out = file.parent / "d.json"
    out.write_text("mine")
    with pytest.raises(InputError, match="is there; give another name"):
        decide.decide(str(file), "accuracy", [], Quiet(), out=str(out))
    assert out.read_text() == "mine"
