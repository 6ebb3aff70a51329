"""What a linear head's champion is compared with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Quiet
from sklearn.linear_model import LogisticRegression

from neuroevo.config import load
from neuroevo.errors import InputError, Interrupted
from neuroevo.experiments import baseline, experiment, reopen
from neuroevo.experiments.interruption import Interruption
from neuroevo.report import runpage

pytestmark = pytest.mark.compares
SMALL = ["data.name=digits", "data.limit=300", "backbone.name=none", "backbone.weights=none", "budget.generations=3"]
NONE = ["backbone.name=none", "backbone.weights=none", "algorithm.population=8"]
SMALL += ["algorithm.population=8", "fitness.samples=64"]


def result(out: Path, *sets: str) -> dict[str, Any]:
    experiment.run(load(None, [*SMALL, *sets]), str(out), "test", Quiet())
    return dict(json.loads((out / "result.json").read_text()))


def test_a_linear_heads_run_says_what_the_library_reaches_on_the_same_features(tmp_path: Path) -> None:
    found = result(tmp_path / "run", "features.components=null")
    own = found["baseline"]["logistic"]
    run, _ = reopen.open_run(str(tmp_path / "run"), Quiet())
    of = run.supervised
    (x, y), (tx, ty) = (of.samples.batch(of.splits[name]) for name in ("train", "test"))
    right = LogisticRegression(C=own["C"], max_iter=1000).fit(x.numpy(), y.numpy()).score(tx.numpy(), ty.numpy())
    assert own["test"]["accuracy"] == pytest.approx(right, abs=1.5 / len(ty))
    low, high = own["test"]["interval"]["accuracy"]
    assert low < own["test"]["accuracy"] < high
    assert own["samples"] == {"choice": len(y), "fit": len(y)}
    # Its cost is no part of the record.
    alone = result(tmp_path / "alone", "features.components=null", "validate.logistic=false")
    for key in ("forward_samples", "backward_samples", "validation_samples"):
        assert found["cost"][key] == alone["cost"][key]
    assert "baseline" not in alone


def test_whoever_should_have_used_it_is_told(tmp_path: Path) -> None:
    found = result(tmp_path / "bad", "genome.init_sigma=1", "algorithm.name=random")
    own, champion = (each["validation"]["accuracy"] for each in (found["baseline"]["logistic"], found["champion"]))
    assert own > champion
    assert [line for line in found["warnings"] if "logistic regression is as good" in line]
    page = runpage.run_page(tmp_path / "bad", None)
    assert "logistic regression, test accuracy" in page


def test_one_that_is_worse_is_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "PENALTIES", (1e-12,))
    found = result(
        tmp_path / "good", "algorithm.population=32", "budget.generations=10", "validate.metric=cross_entropy"
    )
    own, champion = (each["validation"]["cross_entropy"] for each in (found["baseline"]["logistic"], found["champion"]))
    assert own > champion  # the lower the better
    assert not [line for line in found["warnings"] if "logistic" in line]


def test_neither_validation_nor_test_has_a_part_in_its_choice(tmp_path: Path) -> None:
    found = result(tmp_path / "run")
    run, _ = reopen.open_run(str(tmp_path / "run"), Quiet())
    labels = run.supervised.samples.labels
    for name in ("validation", "test"):
        labels[run.supervised.splits[name]] = 0
    again = baseline.find(run.supervised)
    assert again.c == found["baseline"]["logistic"]["C"]


@pytest.mark.parametrize(
    "sets",
    [
        ["head.name=mlp", "head.init=default"],
        ["genome.levels=int8", "features.components=null"],
    ],
)
def test_other_heads_are_not_compared(tmp_path: Path, sets: list[str]) -> None:
    assert "baseline" not in result(tmp_path / "run", *sets)


def test_the_key_has_an_effect_or_is_refused() -> None:
    with pytest.raises(InputError, match=r"^validate.logistic: False has no effect: only a linear head"):
        load(None, [*SMALL, "head.name=mlp", "head.init=default", "validate.logistic=false"])


def test_heads_in_another_space_are_compared_with_all_weights(tmp_path: Path) -> None:
    found = result(tmp_path / "run", "genome.space={name: random, directions: 10}", "features.components=null")
    assert found["baseline"]["logistic"]["test"]["accuracy"] > found["champion"]["test"]["accuracy"]


def test_two_classes_and_other_metrics_have_their_own_figures(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(120, 6)), np.arange(120) % 2
    x[:, 0] += 2 * y
    np.savez(tmp_path / "two.npz", x=x, y=y)
    sets = ["data={name: arrays, file: %s}" % (tmp_path / "two.npz"), *NONE, "budget.generations=2"]
    experiment.run(load(None, [*sets, "validate.metric=auroc"]), str(tmp_path / "run"), "test", Quiet())
    own = json.loads((tmp_path / "run" / "result.json").read_text())["baseline"]["logistic"]
    assert own["test"]["auroc"] > 0.8 and len(own["test"]["interval"]["auroc"]) == 2


def test_a_class_of_one_sample_leaves_the_usual_penalty(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(62, 6)), np.r_[np.arange(60) % 2, 2, 2]
    np.savez(tmp_path / "few.npz", x=x, y=y)
    sets = ["data={name: arrays, file: %s}" % (tmp_path / "few.npz"), *NONE, "budget.generations=2"]
    experiment.run(load(None, sets), str(tmp_path / "run"), "test", Quiet())
    own = json.loads((tmp_path / "run" / "result.json").read_text())["baseline"]["logistic"]
    assert own["C"] == baseline.USUAL and "choice" not in own["samples"]


def test_many_samples_are_drawn_with_every_class() -> None:
    labels = torch.arange(1000) % 10
    rows = baseline.draw(labels, 200, 0)
    assert len(rows) == 200 and labels[rows].bincount().tolist() == [20] * 10
    assert len(baseline.draw(labels, 5, 0)) == 100


def test_a_signal_ends_the_comparison_and_resume_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Coming(Interruption):
        def check(self) -> None:
            if self.status:
                raise Interrupted(self.status)

    def stop(*given: object, **how: object) -> None:
        signals.status = 130
        signals.check()

    signals, whole = Coming(), result(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(baseline, "find", stop)
        with pytest.raises(Interrupted):
            experiment.run(load(None, SMALL), str(tmp_path / "run"), "test", Quiet(), signals=signals)
    experiment.resume(str(tmp_path / "run"), [], Quiet())
    again = json.loads((tmp_path / "run" / "result.json").read_text())
    assert again["test_scored"] == 1
    for key in ("C", "validation", "test"):
        assert again["baseline"]["logistic"][key] == whole["baseline"]["logistic"][key]
