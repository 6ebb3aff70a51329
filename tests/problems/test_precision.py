"""The precision of scoring: what the probe takes, when there is none, and that an answer is kept and held to."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Quiet

from neuroevo.cli import inspection
from neuroevo.config import load
from neuroevo.engine.execution import Execution
from neuroevo.errors import InputError, ignore
from neuroevo.experiments import compose, experiment, reopen
from neuroevo.experiments.compose import Run
from neuroevo.problems import precision
from neuroevo.problems.precision import Choice, Probe
from neuroevo.storage import checkpoint, generations, rundir
from neuroevo.tuning.tuner import Tuner

N, B = 8, 100  # as TINY has them


def composed(*sets: str, log: Callable[[str], None] = ignore) -> Run:
    ready = experiment.prepare(load(None, [*TINY, *sets]))
    return compose.compose(*ready, images=lambda done, total: None, log=log)


def answers(ratio: float) -> precision.Remember:
    return lambda key, find: ratio


def never(key: str, find: Callable[[], float]) -> float:
    pytest.fail("nothing is to be measured here")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest of generations is large enough."""
    monkeypatch.setattr(precision, "LEAST", 0.0)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder that knows nothing."""
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "files"


@pytest.fixture
def clearly(monkeypatch: pytest.MonkeyPatch, measured: None, memory: Path) -> None:
    """Half precision is always taken, whatever is measured."""
    monkeypatch.setattr(precision, "CLEARLY", 0.0)


def told(path: Path) -> str:
    """Return the precision in the plan of a run's newest checkpoint."""
    return checkpoint.read(generations.paths(path / rundir.CHECKPOINTS)[0]).plan.precision


# What is taken


@pytest.mark.parametrize(
    ("ratio", "whole", "found"), [(1.8, "1.5", "bfloat16"), (1.6, "1.3", "bfloat16"), (1.5, "1.3", "float32")]
)
def test_half_is_taken_where_scoring_is_clearly_quicker_with_those_that_are_scored_again(
    measured: None, ratio: float, whole: str, found: str
) -> None:
    of = composed().supervised  # one of eight is scored again
    line = {
        "bfloat16": f"scores in bfloat16: {whole} times as fast as in float32 here",
        "float32": f"scores in float32: in bfloat16 it would be {whole} times as fast here",
    }
    assert precision.choose(of, N, B, remember=answers(ratio)) == Choice(found, line[found])


@pytest.mark.parametrize(("times", "ratio"), [((2.0, 1.0), 2.0), ((1.0, 1.0), 1.0), ((1.0, 4.0), 0.25)])
def test_the_least_of_several_turns_counts(
    monkeypatch: pytest.MonkeyPatch, times: tuple[float, float], ratio: float
) -> None:
    def seconds() -> Iterator[float]:
        for i in itertools.count():
            late = 100.0 if i == 1 else 0.0  # something else went on in the second turn
            yield from (times[0] + late, times[1] + 2 * late)

    taken, now, calls = seconds(), [0.0], itertools.count()

    def clock() -> float:
        # It is asked at the beginning, before and after each slice, and after each turn.
        after = (next(calls) - 1) % 5 in (1, 3)
        now[0] += next(taken) * 1e-3 if after else 0.0
        return now[0]

    of = composed().supervised
    monkeypatch.setattr(precision, "ROUNDS", (1, 3))
    assert Probe(of, N, B, clock).ratio("bfloat16") == pytest.approx(ratio)


def test_the_probe_draws_nothing_from_the_global_generator_and_changes_no_execution(measured: None) -> None:
    of = composed().supervised
    state, now = torch.get_rng_state(), of.executions.now
    assert Probe(of, N, B).ratio("bfloat16") > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert of.executions.now == now


# When nothing is measured


def least(monkeypatch: pytest.MonkeyPatch, of: Any, factor: float) -> None:
    work = 2 * of.start.shape[1] * N * B
    monkeypatch.setattr(precision, "LEAST", factor * work / of.executions.now.threads)


def test_what_is_too_little_work_is_scored_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    of = composed().supervised
    least(monkeypatch, of, 1.01)
    assert precision.choose(of, N, B, remember=never) == Choice("float32")
    least(monkeypatch, of, 1.0)
    assert precision.choose(of, N, B, remember=answers(3.0)).precision == "bfloat16"


def numbers(network: torch.nn.Module) -> float:
    return 0.0


@pytest.mark.parametrize(
    "sets",
    [
        ["fitness.metric={name: 'test_precision:numbers', of: network}", "fitness.samples=512"],
        ["fitness.metric=weight_norm"],
        ["algorithm.elites=7"],  # all but one are scored again
    ],
)
def test_nothing_is_measured_where_half_precision_can_save_nothing(measured: None, sets: list[str]) -> None:
    of = composed(*sets).supervised
    assert not precision.matters(of, N, B)
    assert precision.choose(of, N, B, remember=never) == Choice("float32")


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_what_is_asked_for_is_not_measured(measured: None, asked: str) -> None:
    of = composed(f"fitness.precision={asked}").supervised
    precision.settle(of, asked, N, B, remember=never, log=ignore)
    assert of.executions.now.precision == asked


def test_float16_is_refused_on_a_cpu_before_anything_is_read() -> None:
    line = "^fitness.precision: float16 is for GPUs; on a CPU give auto, bfloat16 or float32$"
    with pytest.raises(InputError, match=line):
        experiment.prepare(load(None, [*TINY, "device=cpu", "fitness.precision=float16"]))
    with pytest.raises(InputError, match="^fitness.precision: .*auto.*float16"):
        load(None, [*TINY, "fitness.precision=half"])


def test_a_run_in_float16_goes_on_in_float32_where_there_is_no_gpu() -> None:
    lines: list[str] = []
    plan = Execution("gemm", 10, 1, 1, 2**30, 1, precision="float16")
    assert reopen.here(plan, torch.device("cpu"), lines.append).precision == "float32"
    assert lines == ["scores were in float16, which is for GPUs; on cpu they are in float32"]


# What is known


def test_an_answer_is_remembered_and_one_of_other_sizes_is_another(
    monkeypatch: pytest.MonkeyPatch, measured: None, memory: Path
) -> None:
    monkeypatch.setattr(Probe, "ratio", lambda self, lower: 9.0)
    lines: list[str] = []
    assert composed(log=lines.append).supervised.executions.now.precision == "bfloat16"
    monkeypatch.setattr(Probe, "ratio", lambda self, lower: 1.0)
    for _ in range(2):
        assert composed(log=lines.append).supervised.executions.now.precision == "bfloat16"
    assert [line for line in lines if line.startswith("scores in")] == [
        "scores in bfloat16: 4.2 times as fast as in float32 here"
    ] * 3
    assert composed("fitness.samples=101").supervised.executions.now.precision == "float32"
    (note,) = (file for file in memory.glob("precision-*.json") if b"9.0" in file.read_bytes())
    note.write_bytes(b"damaged")
    assert composed().supervised.executions.now.precision == "float32"


def test_a_resume_keeps_the_precision_whatever_is_found_now(
    monkeypatch: pytest.MonkeyPatch, clearly: None, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "r"
    experiment.run(load(None, [*TINY, "checkpoint={every: 1, keep: 9}"]), str(whole), "test", Quiet())
    shutil.copytree(whole, cut)
    (cut / rundir.RESULT).unlink()
    for path in generations.paths(cut / rundir.CHECKPOINTS):
        if generations.number(path) > 3:
            path.unlink()
    monkeypatch.setattr(precision, "CLEARLY", float("inf"))  # now it would be float32
    assert composed().supervised.executions.now.precision == "float32"
    experiment.resume(str(cut), [], Quiet())
    assert told(cut) == told(whole) == "bfloat16"
    for name in ("champion.safetensors", "confusion.csv"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    costs = [rundir.read_result(folder)["cost"]["forward_samples"] for folder in (cut, whole)]
    assert costs == 2 * [6 * (N + 1) * B]


def test_a_run_of_float32_by_default_before_is_gone_on_with(tmp_path: Path) -> None:
    experiment.run(load(None, [*TINY, "fitness.precision=float32"]), str(tmp_path / "r"), "test", Quiet())
    c = load(None, [*TINY, "budget.generations=7"])
    experiment.begin_or_resume(c, str(tmp_path / "r"), "test", Quiet())
    assert rundir.read_result(tmp_path / "r")["generations"] == 7
    with pytest.raises(InputError, match="another config \\(fitness.precision\\)"):
        experiment.begin_or_resume(
            load(None, [*TINY, "fitness.precision=bfloat16"]), str(tmp_path / "r"), "test", Quiet()
        )


# What it costs


def test_what_is_foretold_of_auto_is_what_the_run_costs(clearly: None, tmp_path: Path) -> None:
    sets = [*TINY, "algorithm.elites=2"]
    rows = dict(inspection.estimate(load(None, sets)))
    experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    result = rundir.read_result(tmp_path / "r")
    assert rows["forward samples"] == f"{result['cost']['forward_samples']:,}" == f"{6 * (N + 2) * B:,}"
    assert result["precision"] == told(tmp_path / "r") == "bfloat16"


def test_auto_stays_within_a_budget_of_samples(clearly: None, tmp_path: Path) -> None:
    sets = [*TINY, "algorithm.elites=2", "budget={forward_samples: 2345}"]
    experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    assert rundir.read_result(tmp_path / "r")["cost"]["forward_samples"] <= 2345


def test_trials_are_scored_in_float32_so_that_they_can_be_one_population(clearly: None, tmp_path: Path) -> None:
    space = {"refine.lr": {"name": "float", "low": 0.001, "high": 1}}
    tune = {"space": space, "budget": {"generations": 1}, "sampler": {"name": "random", "population": 2}}
    c = load(None, [*TINY, "refine.steps=1", f"tune={json.dumps(tune)}"])
    trainer = Tuner(experiment.prepare(c), tmp_path, images=lambda done, total: None, log=ignore).trainer
    settings: list[dict[str, Any]] = [{"refine.lr": 0.1}, {"refine.lr": 0.2}]
    ((group, rows),), _ = trainer.begin(settings)
    assert rows == [0, 1]
    assert group.run.supervised.executions.now.precision == "float32"
