"""Searches on folds that choose together, and the final fit, by running them on digits' own pixels."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Quiet
from safetensors.torch import load_file

from neuroevo.config import Config, load
from neuroevo.data import datasets
from neuroevo.data.splits import split
from neuroevo.engine.loop import Step
from neuroevo.errors import InputError, Interrupted
from neuroevo.experiments import experiment, folds, looks
from neuroevo.experiments.interruption import Interruption
from neuroevo.report import runpage
from neuroevo.storage import rundir

SMALL = ["data.name=digits", "data.limit=200", "backbone.name=none", "backbone.weights=none"]
SMALL += ["algorithm.population=8", "fitness.samples=64", "validate.every=2", "validate.logistic=false"]
SMALL += ["checkpoint.every=2"]
FOLDS = ["validate.folds=3", "budget.generations=8"]


def config(*sets: str) -> Config:
    return load(None, [*SMALL, *sets])


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on three folds; nobody writes into it."""
    return folds.run(config(*FOLDS), str(tmp_path_factory.mktemp("folds") / "run"), "", Quiet())


def test_folds_hold_out_each_sample_once_and_are_the_splits_seeds() -> None:
    data = datasets.DATASETS["digits"]()
    plain = split(data, 0, 0.15, 0.15)
    parts = [split(data, 0, 0.15, 0.15, fold=(number, 4)) for number in (1, 2, 3, 4)]
    pool = {*plain["train"].tolist(), *plain["validation"].tolist()}
    for part in parts:
        assert part["test"].equal(plain["test"])  # whatever the folds
        assert {*part["train"].tolist()} | {*part["validation"].tolist()} == pool
        assert not {*part["train"].tolist()} & {*part["validation"].tolist()}
    held = torch.cat([part["validation"] for part in parts])
    assert sorted(held.tolist()) == sorted(pool)
    counts = torch.stack([torch.tensor(data.labels)[part["validation"]].bincount(minlength=10) for part in parts])
    assert int((counts.max(0).values - counts.min(0).values).max()) <= 1
    everything = split(data, 0, 0.15, 0.15, fold=(0, 4))
    assert {*everything["train"].tolist()} == pool and not len(everything["validation"])
    other = split(data, 1, 0.15, None, fold=(1, 4))
    assert not other["validation"].equal(split(data, 2, 0.15, None, fold=(1, 4))["validation"])


def test_the_mean_over_folds_chooses_and_is_the_figure_that_is_told(whole: Path) -> None:
    found, own = result(whole), [looks.read(whole / "folds" / str(k)) for k in (1, 2, 3)]
    chosen = found["folds"]
    means = {
        (generation, kind): sum(one[generation][kind]["accuracy"] for one in own) / 3
        for generation in own[0]
        if generation
        for kind in own[0][generation]
    }
    assert len(means) == chosen["looks"] == 8  # of 4 generations, two kinds each
    assert chosen["validation"]["accuracy"] == pytest.approx(max(means.values()))
    assert means[chosen["generation"], chosen["candidate"]] == pytest.approx(max(means.values()))
    assert found["champion"]["validation"] == chosen["validation"]
    assert (found["champion"]["generation"], found["champion"]["kind"]) == (chosen["generation"], chosen["candidate"])
    low, high = chosen["interval"]["accuracy"]
    assert low < chosen["validation"]["accuracy"] < high
    assert chosen["images"] == 170  # all that isn't test, each predicted by a search that hasn't seen it


def test_test_is_scored_once_by_the_final_fit_alone_which_has_all_the_rest(whole: Path) -> None:
    found = result(whole)
    assert found["test_scored"] == 1 and found["champion"]["test"]["images"] == 30
    assert found["data"]["images"] == {"train": 170, "validation": 0, "test": 30}
    for k in (1, 2, 3):
        own = result(whole / "folds" / str(k))
        assert own["test_scored"] == 0 and "test" not in own["champion"]
        assert not (whole / "folds" / str(k) / "confusion.csv").exists()
    assert not [line for line in rundir.read_history(whole) if line["validation"] is not None]


def test_all_that_was_spent_is_counted(whole: Path) -> None:
    found = result(whole)
    parts = [result(whole / "folds" / str(k))["cost"] for k in (1, 2, 3)]
    last = rundir.read_history(whole)[-1]
    assert found["cost"]["forward_samples"] == sum(p["forward_samples"] for p in parts) + last["forward_samples"]
    assert found["folds"]["cost"]["validation_samples"] == sum(p["validation_samples"] for p in parts) > 0


def test_the_final_fit_is_the_run_of_what_was_chosen(whole: Path, tmp_path: Path) -> None:
    chosen = result(whole)["folds"]
    refit = f"{{generation: {chosen['generation']}, candidate: {chosen['candidate']}}}"
    alone = folds.run(config("budget.generations=8", f"validate.refit={refit}"), str(tmp_path / "alone"), "", Quiet())
    for name, weight in load_file(whole / "champion.safetensors").items():
        assert weight.equal(load_file(alone / "champion.safetensors")[name])
    assert result(alone)["champion"]["validation"] == {"accuracy": None}


@pytest.mark.parametrize("place", [(1, 5), (3, 1), (0, 3)])  # (fold, generation), 0: the final fit
def test_a_run_that_is_cut_off_goes_on_to_the_same_bytes(whole: Path, tmp_path: Path, place: tuple[int, int]) -> None:
    class Falls(Quiet):
        fold = 0

        def note(self, line: str) -> None:
            super().note(line)
            self.fold = (
                int(line.split()[1]) if line.startswith("fold ") else 0 if line.startswith("chosen") else self.fold
            )

        def generation(self, step: Step) -> None:
            if (self.fold, step.generation) == place:
                raise RuntimeError("power is gone")

    with pytest.raises(RuntimeError, match="power"):
        folds.run(config(*FOLDS), str(tmp_path / "run"), "", Falls())
    folds.resume(str(tmp_path / "run"), [], Quiet())
    assert (tmp_path / "run" / "champion.safetensors").read_bytes() == (whole / "champion.safetensors").read_bytes()
    again, before = result(tmp_path / "run"), result(whole)
    for key in ("champion", "generations", "test_scored"):
        assert again[key] == before[key]
    assert {**again["folds"], "cost": 0} == {**before["folds"], "cost": 0}
    for name in ("generation-000002", "generation-000008"):
        own = Path("folds", "3", "looks", f"{name}.safetensors")
        assert (tmp_path / "run" / own).read_bytes() == (whole / own).read_bytes()


def test_a_signal_ends_it_in_its_fold_and_resume_goes_on(whole: Path, tmp_path: Path) -> None:
    class Coming(Interruption):
        def check(self) -> None:
            if self.status:
                raise Interrupted(self.status)

    class Asks(Quiet):
        def generation(self, step: Step) -> None:
            signals.status = 130 if step.generation == 3 else signals.status

    signals, quiet = Coming(), Asks()
    with pytest.raises(Interrupted):
        folds.run(config(*FOLDS), str(tmp_path / "run"), "", quiet, signals=signals)
    assert any(f"interrupted in fold 1 of 3; go on with: neuroevo resume {tmp_path}" in line for line in quiet.lines)
    folds.begin_or_resume(config(*FOLDS), str(tmp_path / "run"), "", Quiet())
    assert (tmp_path / "run" / "champion.safetensors").read_bytes() == (whole / "champion.safetensors").read_bytes()


def test_a_budget_in_samples_is_of_all_searches_together(tmp_path: Path) -> None:
    out = folds.run(config("validate.folds=3", "budget.samples=30000"), str(tmp_path / "run"), "", Quiet())
    assert 0.8 * 30_000 < result(out)["cost"]["forward_samples"] <= 30_000
    budget = ["validate.folds=3", "budget.samples=30000"]
    more, same = (folds.share(config(*budget, *sets)) for sets in (["fitness.samples=all"], []))
    assert more.of_last.samples > 1.4 * more.of_each.samples  # it has all of 3 parts, each search has 2
    assert same.of_last.samples == same.of_each.samples == 7500
    with pytest.raises(InputError, match=r"^budget.samples: 3 given, for 3 searches and a final fit together"):
        folds.run(config("validate.folds=3", "budget.samples=3"), str(tmp_path / "few"), "", Quiet())
    assert not (tmp_path / "few").exists()


def test_refit_alone_has_the_own_split_choose(tmp_path: Path) -> None:
    out = folds.run(config("validate.refit=true", "budget.generations=6"), str(tmp_path / "run"), "", Quiet())
    found, own = result(out), result(out / "folds" / "1")
    plain = experiment.run(config("budget.generations=6"), str(tmp_path / "plain"), "", Quiet())
    assert own["data"]["images"] == result(plain)["data"]["images"]
    assert found["folds"]["count"] == 1 and found["data"]["images"]["validation"] == 0
    best = result(plain)["champion"]
    assert (found["champion"]["generation"], found["champion"]["kind"]) == (best["generation"], best["kind"])
    assert found["champion"]["validation"] == best["validation"]


def test_only_what_can_change_on_the_way_can_be_set(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    run = str(tmp_path / "run")
    with pytest.raises(InputError, match=r"^--set budget.generations=20: a final fit ends where its folds chose"):
        folds.resume(run, ["budget.generations=20"], Quiet())
    with pytest.raises(InputError, match=r"budget: its folds are done"):
        folds.begin_or_resume(config("validate.folds=3", "budget.generations=9"), run, "", Quiet())
    with pytest.raises(InputError, match=r"validate.folds"):
        folds.begin_or_resume(config("validate.folds=4", "budget.generations=8"), run, "", Quiet())
    quiet = Quiet()
    folds.begin_or_resume(config(*FOLDS), run, "", quiet)
    assert any("nothing to do" in line for line in quiet.lines)


def test_a_run_that_is_still_choosing_can_be_given_more(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    run = tmp_path / "run"
    for name in ("checkpoints", "folds/3"):
        shutil.rmtree(run / name)
    (run / "config.yaml").write_bytes((run / "folds" / "config.yaml").read_bytes())
    for name in ("result.json", "history.jsonl", "folds/config.yaml"):
        (run / name).unlink()
    with pytest.raises(InputError, match=r"^--set seed=1: a run goes on as it began"):
        folds.resume(str(run), ["seed=1"], Quiet())
    folds.resume(str(run), ["budget.generations=10"], Quiet())
    assert {result(run / "folds" / str(k))["generations"] for k in (1, 2, 3)} == {10}


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (["validate.folds=3", "validate.patience=2"], "validate.patience: no fold ends a search"),
        (["validate.folds=3", "budget.target=0.9"], "budget.target: no fold ends a search"),
        (["validate.folds=3", "validate.refit=true"], "validate.refit: True has no effect: folds end in a fit"),
        (["validate.folds=3", "data.validation=0.3"], "data.validation: 0.3 has no effect: train and validation are"),
        (["validate.folds=3", "fitness.split=validation"], "validate.folds: its last fit is to validation images"),
        (["validate.folds=3", "fitness.metrics=[cross_entropy, weight_norm]"], "validate.folds: chooses a kind of"),
        (["validate.fold=4", "validate.folds=3"], "validate.fold: 4 given, of 3"),
        (["validate.fold=1", "validate.refit=true"], "validate.refit: a run on one fold"),
        (["validate.folds=1"], "validate.folds: "),
        (["validate.refit={generation: 3}"], "validate.refit"),
        (["validate.refit=true", "tune={space: {refine.lr: {name: float, low: 0.01, high: 0.1}}}", "refine.steps=1"],
         "validate.refit: a search of hyperparameters chooses on one split"),
    ],
)  # fmt: skip
def test_keys_that_dont_go_together_are_refused(sets: list[str], line: str) -> None:
    with pytest.raises(InputError) as error:
        load(None, [*SMALL[:-2], *sets])
    assert str(error.value).startswith(line)


def test_folds_that_cant_be_cut_and_candidates_that_arent_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^validate.folds: 500 given, and beside test there are 170 samples"):
        folds.run(config("validate.folds=500"), str(tmp_path / "many"), "", Quiet())
    assert not (tmp_path / "many").exists()
    with pytest.raises(InputError, match=r"^validate.refit.candidate: center is no candidate; there are: best"):
        refit = "validate.refit={generation: 2, candidate: center}"
        folds.run(config(refit), str(tmp_path / "who"), "", Quiet())
    assert not (tmp_path / "who").exists()


def test_damaged_looks_are_one_line_and_cost_no_run(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    run = tmp_path / "run"
    look = sorted((run / "folds" / "2" / "looks").iterdir())[2]
    look.write_bytes(look.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(InputError, match="damaged"):
        looks.choose([run / "folds" / str(k) for k in (1, 2, 3)], lambda found: (found["accuracy"],))
    (run / "result.json").unlink()
    folds.resume(str(run), [], Quiet())
    found = result(run)
    assert found["champion"]["validation"] == {"accuracy": None}
    assert any(line.startswith("no validation figure: ") and "damaged" in line for line in found["warnings"])
    assert found["champion"]["test"] == result(whole)["champion"]["test"]


def test_the_page_says_by_what_it_was_chosen(whole: Path) -> None:
    page = runpage.run_page(whole, None)
    assert "3 folds, the best mean of 8 looks" in page
    assert "Validation of the folds" in page and "Validation against samples" not in page
    drawn = runpage.choice(runpage.read(whole))
    assert drawn is not None and list(drawn.header) == ["generation", "fold_1", "fold_2", "fold_3"]
    lines = [line for line in rundir.read_history(whole / "folds" / "2") if line["validation"] is not None]
    assert [row[2] for row in drawn.rows] == [line["validation"] for line in lines]
    assert runpage.choice(runpage.read(whole / "folds" / "2")) is None
