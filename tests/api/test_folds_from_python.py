"""Folds and a last fit from Python: those of a run, chosen among by its functions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Quiet
from sklearn.datasets import load_digits
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.config import load
from neuroevo.engine.loop import Step
from neuroevo.experiments import folds, looks
from neuroevo.networks import weightfiles
from neuroevo.storage import rundir

SHORT = ne.Budget(generations=4)
ALGORITHM = {"name": "ga", "population": 8}


def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x[:200], dtype=torch.float32) / 16, torch.tensor(y[:200])


def network() -> nn.Module:
    net = nn.Sequential(nn.Linear(64, 10))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    return net


def search(out: Path | None = None, **options: Any) -> ne.Result:
    asked = {"algorithm": ALGORITHM, "folds": 3, "every": 2, "budget": SHORT, **options}
    return ne.evolve(network(), digits(), out=out, **asked)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[ne.Result, Path]:
    """A search on three folds and its folder, in which nobody writes."""
    place = tmp_path_factory.mktemp("folds") / "run"
    return search(place), place


def test_folds_are_those_of_a_run_on_the_same_samples(tmp_path: Path, whole: tuple[ne.Result, Path]) -> None:
    x, y = digits()
    np.savez(tmp_path / "digits.npz", x=x.numpy(), y=y.numpy())
    sets = ["data.name=arrays", f"data.file={tmp_path / 'digits.npz'}", "backbone.name=none", "backbone.weights=none"]
    sets += ["algorithm.population=8", "validate.every=2", "validate.folds=3", "budget.generations=4"]
    run = folds.run(load(None, [*sets, "validate.logistic=false"]), str(tmp_path / "run"), "", Quiet())
    for there, here in zip(looks.places(run, 3), looks.places(whole[1], 3), strict=True):
        one, other = (weightfiles.read_safetensors(looks.place(each / "looks", 4))[0] for each in (there, here))
        assert one["labels"].equal(other["labels"]) and one.keys() == other.keys()


def test_the_mean_over_folds_chooses_and_the_last_fit_alone_is_tested(whole: tuple[ne.Result, Path]) -> None:
    found, place = whole
    own = [looks.read(each) for each in looks.places(place, 3)]
    means = {
        (generation, kind): sum(one[generation][kind]["accuracy"] for one in own) / 3
        for generation in (2, 4)
        for kind in own[0][generation]
    }
    assert found.folds is not None and found.test is not None
    assert found.folds["looks"] == len(means) == 4
    assert found.validation == found.folds["validation"]
    assert found.validation["accuracy"] == pytest.approx(max(means.values()))
    assert found.generation == found.folds["generation"] and found.fitness == -found.validation["cross_entropy"]
    assert found.test["images"] == 30 and rundir.read_result(place)["test_scored"] == 1
    for each in looks.places(place, 3):
        result = rundir.read_result(each)
        assert result["test_scored"] == 0 and "test" not in result["champion"]
        assert result["data"]["images"]["train"] in (113, 114)
    assert rundir.read_result(place)["data"]["images"] == {"train": 170, "validation": 0, "test": 30}
    spent = sum(rundir.read_result(each)["cost"]["forward_samples"] for each in looks.places(place, 3))
    assert found.cost.forward == spent + found.history[-1]["forward_samples"]


def test_without_a_folder_it_is_the_same_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[ne.Result, Path]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lines: list[str] = []

    class Lines(ne.Observer):
        def note(self, line: str) -> None:
            lines.append(line)

    found = search(observers=[Lines()])
    assert found.genome.equal(whole[0].genome) and found.folder is None and not [*tmp_path.iterdir()]
    assert found.validation == whole[0].validation and found.cost == whole[0].cost
    assert lines[:3] == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"] and lines[3].startswith("chosen: ")
    assert not [line for line in lines if str(tmp_path) in line]


@pytest.mark.parametrize("after", [1, 6, 14])  # generations of all searches: within the first, the second, the last
def test_one_that_is_cut_off_goes_on_to_the_same(after: int, tmp_path: Path, whole: tuple[ne.Result, Path]) -> None:
    seen = 0

    def stop(step: Step) -> None:
        nonlocal seen
        seen += 1
        if seen == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run", observers=[stop])
    found = ne.resume(tmp_path / "run", network(), digits())
    assert found.genome.equal(whole[0].genome) and found.folds is not None and whole[0].folds is not None
    assert found.validation == whole[0].validation and found.folds["each"] == whole[0].folds["each"]
    again = ne.resume(tmp_path / "run", network(), digits())
    assert again.genome.equal(found.genome) and again.validation == found.validation
    assert rundir.read_result(tmp_path / "run")["test_scored"] == 1


def test_one_search_may_choose_and_all_share_a_budget_of_samples() -> None:
    found = search(folds=None, refit=True, patience=1, budget=ne.Budget(samples=20_000))
    assert found.folds is not None and found.folds["count"] == 1
    assert found.cost.samples <= 20_000 and found.folds["cost"]["forward_samples"] < 20_000
    own = search(budget=ne.Budget(samples=40_000))
    assert own.cost.samples <= 40_000
    with pytest.raises(ne.InputError, match=r"budget: samples: 3 given, for 3 searches and a final fit together"):
        search(budget=ne.Budget(samples=3))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"folds": 1}, "folds: 1 given; a whole number from 2"),
        ({"folds": 2.5}, "folds: 2.5 given"),
        ({"folds": 400}, "folds: 400 given, and beside test there are 170 samples"),
        ({"refit": 1}, "refit: 1 given; True or False"),
        ({"logistic": "yes"}, "logistic: 'yes' given"),
        ({"patience": 3}, "patience: no fold ends a search"),
        ({"budget": ne.Budget(generations=4, target=0.9)}, "budget: a target of 0.9: no fold"),
        ({"fitness": ["cross_entropy", "sparsity"]}, "folds: chooses a kind of candidate"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_no_folder(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ne.InputError) as caught:
        search(tmp_path / "run", **options)
    assert str(caught.value).startswith(line)
    assert not (tmp_path / "run").exists()


def test_folds_go_with_data() -> None:
    for options in ({"folds": 3}, {"refit": True}, {"logistic": True}):
        with pytest.raises(ne.InputError, match="goes with data"):
            ne.evolve(start=torch.zeros(3), fitness=lambda g: g.sum(1), **options)


def test_a_last_fit_takes_no_other_budget(whole: tuple[ne.Result, Path]) -> None:
    with pytest.raises(ne.InputError, match=r"budget: a final fit ends where its searches chose"):
        ne.resume(whole[1], network(), digits(), budget=ne.Budget(generations=9))


@pytest.mark.compares
def test_a_linear_head_is_compared_with_a_logistic_regression_if_asked(tmp_path: Path) -> None:
    options: dict[str, Any] = {"algorithm": ALGORITHM, "budget": ne.Budget(generations=1)}
    found = ne.evolve(network(), digits(), logistic=True, **options)
    assert found.logistic is not None and found.logistic["test"]["accuracy"] > 0.8
    assert "logistic regression, test accuracy" in found._repr_html_()
    kept = ne.evolve(network(), digits(), logistic=True, out=tmp_path / "run", **options)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert kept.logistic == result["baseline"]["logistic"] and kept.logistic["C"] == found.logistic["C"]
    assert [line for line in result["warnings"] if "logistic regression is as good" in line]
    assert ne.evolve(network(), digits(), **options).logistic is None


class Refuse(Quiet):
    """Ends a search within its second fold."""

    def __init__(self, last: int = 3) -> None:
        super().__init__()
        self.last = last

    def generation(self, step: Step) -> None:
        super().generation(step)
        if [each.generation for each in self.steps].count(self.last) == 2:
            raise ne.InputError("no more")


def test_what_was_found_before_an_error_is_kept_and_gone_on_with(tmp_path: Path, whole: tuple[ne.Result, Path]) -> None:
    with pytest.raises(ne.InputError, match="no more"):
        search(tmp_path / "r", observers=[Refuse()])
    assert (tmp_path / "r" / "config.yaml").is_file()
    found = ne.resume(tmp_path / "r", network(), digits())
    assert torch.equal(found.genome, whole[0].genome)


def test_a_result_of_before_a_fold_was_given_more_does_not_end_it(tmp_path: Path) -> None:
    folder, more = tmp_path / "r", ne.Budget(generations=8)
    with pytest.raises(ne.InputError, match="no more"):
        search(folder, observers=[Refuse()])
    before = (folder / "folds" / "1" / "result.json").read_bytes()
    with pytest.raises(ne.InputError, match="no more"):
        ne.resume(folder, network(), digits(), budget=more, observers=[Refuse(7)])
    (folder / "folds" / "1" / "result.json").write_bytes(before)  # as after a kill just before it was written anew
    found = ne.resume(folder, network(), digits(), budget=more)
    assert rundir.read_result(folder / "folds" / "1")["generations"] == 8
    assert torch.equal(found.genome, search(budget=more).genome)
