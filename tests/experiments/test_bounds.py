"""Runs with constraints, on the classes and groups of their data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Quiet, scores_of
from PIL import Image
from test_resume import contents

from neuroevo import caveats
from neuroevo.cli import inspection
from neuroevo.cli.program import summary
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import experiment, export
from neuroevo.storage import generations, rundir

SETS = [
    "backbone.name=none", "backbone.weights=none", "algorithm.population=16", "algorithm.elites=4", "memory.limit=1e8",
    "budget.generations=8", "validate.every=2", "checkpoint.every=2", "fitness.samples=100", "features.components=null",
]  # fmt: skip
EACH = "{metric: precision, per: class, at_least: 0.7}"


def samples(seed: int = 0, count: int = 400) -> dict[str, Any]:
    """Rows of three classes, two of them easy to mix up, in two groups of which one is harder."""
    rng = np.random.default_rng(seed)
    y, groups = rng.integers(3, size=count), rng.integers(2, size=count)
    x = np.eye(3)[y] @ rng.normal(size=(3, 8)) + rng.normal(size=(count, 8)) * (0.5 + groups[:, None])
    split = np.array(["train", "validation", "test"])[np.arange(count) % 4 % 3]
    names = np.array(["ant", "bee", "cat"])[y]
    return {"x": x.astype(np.float32), "y": names, "groups": np.array(["day", "night"])[groups], "split": split}


def start(out: Path, *sets: str, quiet: Quiet | None = None, **arrays: Any) -> dict[str, Any]:
    file = out.with_suffix(".npz")
    np.savez(file, **arrays or samples())
    experiment.run(
        load(None, [*SETS, f"data={{name: arrays, file: {file}}}", *sets]), str(out), "test", quiet or Quiet()
    )
    return rundir.read_result(out)


def test_a_run_says_whether_its_champion_is_feasible_on_validation_and_on_test_and_by_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = start(
        tmp_path / "r", "fitness.metric=recall",
        f"fitness.subject_to=[{EACH}, {{metric: {{name: recall, of: cat}}, at_most: 0.1}},"
        "{metric: accuracy, per: group, at_least: 0.2}, {metric: cross_entropy, at_most: 5}]",
    )  # fmt: skip
    champion = result["champion"]
    for found in (champion["constraints"], champion["test"]["constraints"]):
        assert list(found) == [
            "precision of each class at least 0.7",
            "recall (of cat) at most 0.1",
            "accuracy of each group at least 0.2",
            "cross_entropy at most 5",
        ]
        precision, recall, accuracy, loss = found.values()
        assert set(precision["values"]) == {"ant", "bee", "cat"}
        assert set(accuracy["values"]) == {"day", "night"}
        assert precision["slack"] == pytest.approx(min(precision["values"].values()) - 0.7)
        assert precision["worst"] == min(precision["values"], key=precision["values"].get)
        assert recall["slack"] == pytest.approx(0.1 - recall["value"])
        assert loss["feasible"]
        assert loss["violation"] == 0
    total = sum(each["violation"] for each in champion["constraints"].values())
    assert champion["validation"]["violation"] == pytest.approx(total)
    history = rundir.read_history(tmp_path / "r")
    assert all(0 <= line["feasible"] <= 1 and line["violation"] >= 0 for line in history)
    summary(str(tmp_path / "r"))
    said = capsys.readouterr().out
    assert "validation feasible" in said
    assert "test precision of each class at least 0.7" in said
    rows = dict(inspection.describe(str(tmp_path / "r"))[1])
    assert "of 16 individuals (least violation" in rows["feasible"]
    again = scores_of(str(tmp_path / "r"), None, Quiet())
    assert again["constraints"] == champion["test"]["constraints"]


def test_a_row_says_how_a_constraint_is_compliance() -> None:
    met = {"feasible": True, "violation": 0.0, "slack": 0.05, "value": 0.85}
    beyond = {"feasible": False, "violation": 0.3, "slack": -0.2, "worst": "cat", "values": {"cat": 0.6, "dog": 0.7}}
    none = {"feasible": False, "violation": None, "slack": None, "value": None}
    assert caveats.of_constraints("test", {"a": met}) == [
        ("test feasible", "yes"),
        ("test a", "met by 0.0500 (0.8500)"),
    ]
    assert caveats.of_constraints("", {"a": met, "b": beyond, "c": none}) == [
        ("feasible", "no: 1 of 3 constraints met"),
        ("a", "met by 0.0500 (0.8500)"),
        ("b", "violated by 0.2000, 0.3000 in sum (worst cat 0.6000)"),
        ("c", "violated: nothing to judge it by"),
    ]
    assert caveats.of_constraints("test", {}) == []


def test_a_run_without_constraints_is_told_nothing_of_any(tmp_path: Path) -> None:
    result = start(tmp_path / "r")
    assert "violation" not in result["champion"]["validation"]
    assert "constraints" not in result["champion"] | result["champion"]["test"]
    assert not any({"feasible", "violation"} & line.keys() for line in rundir.read_history(tmp_path / "r"))
    assert "subject_to" not in (tmp_path / "r" / "config.yaml").read_text()


def test_constraints_make_a_run_feasible_that_is_not_without(tmp_path: Path) -> None:
    bound = "{metric: {name: false_positive_rate, of: ant}, at_most: 0.02}"
    sets = ["budget.generations=30", "fitness.samples=all"]
    free = start(tmp_path / "free", *sets)
    kept = start(tmp_path / "kept", *sets, f"fitness.subject_to=[{bound}]")
    assert kept["champion"]["constraints"]["false_positive_rate (of ant) at most 0.02"]["feasible"]
    bare = start(tmp_path / "bare", *sets, "validate.metric={name: false_positive_rate, of: ant}")
    assert free["champion"]["validation"]["accuracy"] >= kept["champion"]["validation"]["accuracy"]
    assert bare["champion"]["validation"]["false_positive_rate"] >= 0


@pytest.mark.parametrize("sets", [[], ["fitness.precision=bfloat16"], ["fitness.metrics=[recall, precision]"]])
def test_resume_is_exact_with_constraints(tmp_path: Path, sets: list[str]) -> None:
    sets = [*sets, f"fitness.subject_to=[{EACH}, {{metric: worst_group_accuracy, at_least: 0.9}}]"]
    start(tmp_path / "r", *sets)
    whole = contents(tmp_path / "r")
    assert "population/violation" in whole
    for path in generations.paths(tmp_path / "r" / "checkpoints")[:2]:  # as if it had been killed long before its end
        path.unlink()
    (tmp_path / "r" / "result.json").unlink()
    quiet = Quiet()
    experiment.resume(str(tmp_path / "r"), [], quiet)
    assert [step.generation for step in quiet.steps] == [5, 6, 7, 8]
    assert contents(tmp_path / "r") == whole


def test_permuted_test_labels_change_nothing_but_test_figures(tmp_path: Path) -> None:
    arrays = samples()
    other = {**arrays, "y": arrays["y"].copy()}
    test = np.flatnonzero(arrays["split"] == "test")
    other["y"][test] = np.random.default_rng(1).permutation(other["y"][test])
    sets = [f"fitness.subject_to=[{EACH}, {{metric: accuracy, per: group, at_least: 0.7}}]", "fitness.metric=recall"]
    a = start(tmp_path / "a", *sets, **arrays)
    b = start(tmp_path / "b", *sets, **other)
    assert a["champion"].pop("test") != b["champion"].pop("test")
    assert a["champion"] == b["champion"]
    first, second = (tmp_path / name / "champion.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    lines = [rundir.read_history(tmp_path / name) for name in "ab"]
    assert all(
        {k: v for k, v in x.items() if k != "seconds"} == {k: v for k, v in y.items() if k != "seconds"}
        for x, y in zip(*lines, strict=True)
    )


def test_many_objectives_have_a_front_of_the_feasible(tmp_path: Path) -> None:
    quiet = Quiet()
    sets = ["fitness.metrics=[recall, cross_entropy]", "algorithm.elites=8", "fitness.samples=all"]
    start(tmp_path / "r", *sets, "fitness.subject_to=[{metric: accuracy, at_least: 0.5}]", quiet=quiet)
    step = quiet.steps[-1]
    violation = step.scores.violation
    assert violation is not None
    saved = dict(inspection.describe(str(tmp_path / "r"))[1])
    front = [name for name in saved if name.startswith("front-")]
    assert 0 < len(front) <= int((violation == violation.min()).sum())


def test_groups_may_be_folders_in_class_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for c, name in enumerate(("cat", "dog")):
        for g, group in enumerate(("indoors", "outdoors")):
            folder = tmp_path / "data" / name / group
            folder.mkdir(parents=True)
            for i in range(12):
                pixels = rng.integers(90, size=(6, 6), dtype=np.uint8) + np.uint8(60 * c + 30 * g)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    sets = [*SETS, f"data={{name: image_folder, root: {tmp_path / 'data'}, groups: true, image_size: 6}}"]
    sets += ["fitness.metric=worst_group_accuracy", "fitness.subject_to=[{metric: recall, per: group, at_least: 0.5}]"]
    experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    result = rundir.read_result(tmp_path / "r")
    assert "worst_group_accuracy" in result["champion"]["test"]["interval"]
    found = result["champion"]["constraints"]["recall of each group at least 0.5"]
    assert set(found["values"]) == {"indoors", "outdoors"}
    others = scores_of(str(tmp_path / "r"), str(tmp_path / "data"), Quiet())
    assert set(others["constraints"]["recall of each group at least 0.5"]["values"]) == {"indoors", "outdoors"}
    for name in ("cat", "dog"):  # others are in no group: what asks for groups is left out
        (tmp_path / "plain" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((6, 6), dtype=np.uint8)).save(tmp_path / "plain" / name / "a.png")
    plain = scores_of(str(tmp_path / "r"), str(tmp_path / "plain"), Quiet())
    assert plain["constraints"] == {}
    assert "worst_group_accuracy" not in plain
    Image.fromarray(np.zeros((6, 6), dtype=np.uint8)).save(tmp_path / "data" / "cat" / "a.png")
    with pytest.raises(InputError, match=r"cat/a.png lies right in its class folder; with data.groups it would be in"):
        experiment.run(load(None, sets), str(tmp_path / "s"), "test", Quiet())


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (["fitness.subject_to=[{metric: {name: recall, of: bat}, at_least: 0.1}]"],
         "fitness.subject_to.0.metric.of: no class is called 'bat' (did you mean cat?); there are: ant, bee, cat"),
        (["fitness.metric={name: recall, of: 7}"], "fitness.metric.of: 7 given; the classes are 0 to 2"),
        (["fitness.subject_to=[{metric: auroc, per: class, at_least: 0.1}]"],
         "fitness.subject_to.0.per: class goes with recall, precision, f1, false_positive_rate"),
    ],
)  # fmt: skip
def test_a_class_that_is_not_there_is_refused_in_a_line(tmp_path: Path, sets: list[str], line: str) -> None:
    with pytest.raises(InputError) as error:
        start(tmp_path / "r", *sets)
    assert str(error.value).startswith(line)


def test_groups_that_are_not_there_are_refused_in_a_line(tmp_path: Path) -> None:
    arrays = {key: value for key, value in samples().items() if key != "groups"}
    for sets in (
        "fitness.metric=worst_group_accuracy",
        "fitness.subject_to=[{metric: accuracy, per: group, at_least: 1}]",
    ):
        with pytest.raises(
            InputError, match=r"^fitness\.\S*: the data have no groups of samples; an .npz file has them"
        ):
            start(tmp_path / "r", sets, **arrays)
    with pytest.raises(
        InputError, match=r"groups is int64 \[3\]; a whole number or a name for each of the 400 samples"
    ):
        start(tmp_path / "r", **arrays, groups=np.arange(3))


def test_a_run_under_bounds_of_groups_is_exported_and_scored_where_there_are_none(tmp_path: Path) -> None:
    bounds = "[{metric: worst_group_accuracy, at_least: 0.2}, {metric: accuracy, at_least: 0.1}]"
    start(tmp_path / "r", f"fitness.subject_to={bounds}")
    export.network(str(tmp_path / "r"))
    np.savez(tmp_path / "other.npz", **{key: value for key, value in samples(1).items() if key != "groups"})
    found = scores_of(str(tmp_path / "r"), str(tmp_path / "other.npz"), Quiet())
    assert list(found["constraints"]) == ["accuracy at least 0.1"]


def test_own_metrics_may_be_bounded(tmp_path: Path) -> None:
    result = start(tmp_path / "r", "fitness.subject_to=[{metric: 'test_bounds:spread', at_most: 1e9}]")
    (found,) = result["champion"]["constraints"].values()
    assert found["feasible"]
    assert json.dumps(result)


def spread(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.std((1, 2))
