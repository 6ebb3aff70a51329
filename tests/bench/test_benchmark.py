"""Benchmarks, by running them: what each arm takes, counted from the inside, and what is left after a crash."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from conftest import Quiet

from neuroevo import config
from neuroevo.bench import arms, benchmark
from neuroevo.bench.tasks import commit
from neuroevo.errors import InputError, Interrupted, RunError
from neuroevo.experiments import experiment, predictions, signals
from neuroevo.experiments.signals import Signals
from neuroevo.learning.draws import Batch, Draws
from neuroevo.learning.task import Task
from neuroevo.networks import heads
from neuroevo.problems.supervised import Supervised
from neuroevo.report import report
from neuroevo.storage import rundir

# Digits' own pixels: quick, and nothing to download.
BASE = "data: {name: digits}\nbackbone: {name: none, weights: none}\nmemory: {limit: 100000000}\n"
SAMPLES = 600_000
SEARCHES = [arm for arm in arms.ARMS if arm not in {*arms.NEEDS, "logistic"}]  # closed forms are in test_closed.py
TUNED = """
algorithm: {name: fixed, population: 1}
refine: {name: sgd, steps: 10, batch_size: 64}
genome: {init_sigma: 0}
features: {components: null}
tune:
  space: {refine.lr: {name: float, low: 0.001, high: 0.3, scale: log}}
  sampler: {name: random, population: 4}
  trial: {generations: 5}
"""


@pytest.fixture
def base(tmp_path: Path) -> str:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "tuned.yaml").write_text(TUNED)
    return str(tmp_path / "base.yaml")


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Pages that were asked for; tests/report/test_report.py draws them."""
    drawn: list[Path] = []
    monkeypatch.setattr(report, "report", lambda folder, **_: drawn.append(Path(folder)))
    return drawn


def benched(file: str, names: Sequence[str], out: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "seeds": 1, "splits": 1, "budget": f"samples={SAMPLES}", "jobs": 1, "levels": [], "sets": [],
        "observer": Quiet(), "signals": Signals(),
    }  # fmt: skip
    return benchmark.run(file, list(names), out=str(out), **(given | changes))


def rows(file: Path, but: str = "nothing") -> list[dict[str, str]]:
    with open(file, newline="") as lines:
        return [{key: value for key, value in row.items() if but not in key} for row in csv.DictReader(lines)]


class Counted:
    """Counts samples from the inside: what goes through heads forward, and what they are trained on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forward = self.backward = 0
        self.off = False
        population_forward, batches = heads.population_forward, Draws.batches

        def watched(*args: Any) -> tuple[str, Callable[..., Any]]:
            method, forward = population_forward(*args)

            def counting(weights: dict[str, torch.Tensor], features: torch.Tensor, *rest: Any) -> torch.Tensor:
                if not self.off:
                    self.forward += len(next(iter(weights.values()))) * features.shape[-2]
                return forward(weights, features, *rest)

            return method, counting

        def trained(draws: Draws, task: Task, individuals: torch.Tensor) -> Iterator[Batch]:
            for batch in batches(draws, task, individuals):
                self.backward += len(individuals) * batch[0].shape[-2]
                yield batch

        monkeypatch.setattr(heads, "population_forward", watched)
        monkeypatch.setattr(Draws, "batches", trained)
        for name in ("validate", "test"):
            monkeypatch.setattr(Supervised, name, self.uncounted(getattr(Supervised, name)))
        monkeypatch.setattr(predictions, "predictions_of", self.uncounted(predictions.predictions_of))

    def uncounted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def quiet(*args: Any) -> Any:
            self.off = True
            try:
                return function(*args)
            finally:
                self.off = False

        return quiet


@pytest.mark.parametrize("arm", [*SEARCHES, "tuned.yaml"])
def test_every_arm_takes_its_budget_to_within_one_batch(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    counted = Counted(monkeypatch)
    out = benched(base, [str(tmp_path / arm) if arm.endswith(".yaml") else arm], tmp_path / "out")
    (row,) = rows(out / "results.csv")
    assert (counted.forward, counted.backward) == (int(row["forward_samples"]), int(row["backward_samples"]))
    taken = counted.forward + 2 * counted.backward
    c = config.check(config.read(str(out / "runs" / row["arm"] / "0-0" / "config.yaml")))
    n = 2 * c.algorithm.options["population"] if c.algorithm.name == "pso" else c.algorithm.options["population"]
    batch = n if c.refine is None else n * (1 + 3 * c.refine.batch_size)  # a step of all, and a sample of fitness
    assert SAMPLES - batch < taken <= SAMPLES
    assert row["samples"] == str(taken)
    if arm == "tuned.yaml":
        assert (out / "runs" / "tuned" / "0-0" / "tune" / "result.json").exists()


def test_arms_see_the_same_splits_and_features(base: str, tmp_path: Path) -> None:
    given = arms.Given(SAMPLES, 1257, 270)
    raw = config.read(base)
    for split in (0, 3):
        found = []
        for arm in SEARCHES:
            c = arms.configure(raw, arm, None, given, seed=7, split=split)
            assert (c.seed, c.data.split_seed, c.budget.samples, c.budget.generations) == (7, split, SAMPLES, None)
            found.append((c.data, c.backbone, c.head, c.validate.metric))
        assert all(other == found[0] for other in found)
    kept = {"features": {"components": 16, "whitening": 0.5}}
    for arm in SEARCHES:  # what the config says of features holds for all
        assert arms.configure(raw | kept, arm, None, given, seed=0, split=0).features.components == 16


def test_arms_have_about_as_many_chances_to_name_a_champion(base: str, tmp_path: Path) -> None:
    out = benched(base, ["random", "sgd", "snes", "hybrid"], tmp_path / "out", budget="samples=2e6")
    looks = Counter(row["arm"] for row in rows(out / "curves.csv"))
    assert all(0.7 * arms.LOOKS <= count <= 1.4 * arms.LOOKS for count in looks.values()), looks


def test_a_benchmark_has_tables_of_all_its_runs_and_they_are_what_the_runs_say(base: str, tmp_path: Path) -> None:
    out = benched(base, ["ga", "sgd"], tmp_path / "out", seeds=2, splits=2, levels=[0.3, 0.99999], budget="samples=2e5")
    results = rows(out / "results.csv")
    assert [(row["arm"], row["split"], row["seed"]) for row in results] == [
        (arm, split, seed) for split in "01" for seed in "01" for arm in ("ga", "sgd")
    ]
    for row in results:
        result = rundir.read_result(out / "runs" / row["arm"] / f"{row['split']}-{row['seed']}")
        assert float(row["validation"]) == result["champion"]["validation"]["accuracy"]
        assert float(row["test_cross_entropy"]) == result["champion"]["test"]["cross_entropy"]
        assert result["test_scored"] == 1
    assert len({row["validation_cross_entropy"] for row in results}) == len(results)  # seeds and splits differ
    summary = {row["arm"]: row for row in rows(out / "summary.csv")}
    for arm, row in summary.items():
        own = [float(result["test"]) for result in results if result["arm"] == arm]
        gaps = [float(result["validation"]) - float(result["test"]) for result in results if result["arm"] == arm]
        assert (row["runs"], float(row["test_mean"])) == ("4", pytest.approx(sum(own) / 4))
        assert float(row["gap"]) == pytest.approx(sum(gaps) / 4)
        assert min(own) <= float(row["test_mean_low"]) <= float(row["test_mean_high"]) <= max(own)
    (pair,) = rows(out / "comparisons.csv")
    assert (pair["a"], pair["b"]) == ("ga", "sgd")
    assert float(pair["difference"]) == pytest.approx(
        float(summary["ga"]["test_mean"]) - float(summary["sgd"]["test_mean"])
    )
    levels = rows(out / "levels.csv")
    assert [(row["arm"], float(row["level"]), row["reached"]) for row in levels] == [
        ("ga", 0.3, "4"), ("ga", 0.99999, "0"), ("sgd", 0.3, "4"), ("sgd", 0.99999, "0"),
    ]  # fmt: skip
    assert levels[1]["samples_median"] == ""
    result = rundir.read_result(out)
    assert (result["status"], result["runs"], result["metric"], result["samples"]) == (
        "finished",
        4 * 2,
        "accuracy",
        200_000,
    )
    json.loads((out / "result.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    curve = [
        float(r["validation"])
        for r in rows(out / "curves.csv")
        if (r["arm"], r["split"], r["seed"]) == ("ga", "0", "1")
    ]
    assert curve == sorted(curve)


def test_arms_and_seeds_are_added_and_finished_runs_left_alone(base: str, tmp_path: Path) -> None:
    out = benched(base, ["sgd"], tmp_path / "out", budget="samples=1e5")
    when = (out / "runs/sgd/0-0/result.json").stat().st_mtime_ns
    quiet = Quiet()
    benched(base, ["random"], tmp_path / "out", seeds=2, budget="samples=1e5", observer=quiet)
    assert [(r["arm"], r["seed"]) for r in rows(out / "results.csv")] == [
        ("sgd", "0"), ("random", "0"), ("sgd", "1"), ("random", "1"),
    ]  # fmt: skip
    assert (out / "runs/sgd/0-0/result.json").stat().st_mtime_ns == when
    assert any("1 of 4 runs are finished" in line for line in quiet.lines)
    whole = {name: (out / name).read_bytes() for name in ("results.csv", "summary.csv", "curves.csv")}
    benchmark.resume(str(out), Quiet(), Signals())
    assert whole == {name: (out / name).read_bytes() for name in whole}


COMMAND = (
    "neuroevo bench base.yaml --arms ga,sgd_restarts,tuned.yaml --seeds 2 --budget samples=600000 --out b --jobs 2"
)


@pytest.mark.long
def test_a_benchmark_whose_runs_had_different_threads_says_so(base: str, tmp_path: Path) -> None:
    folder, threads = benched(base, ["ga"], tmp_path / "b"), torch.get_num_threads()
    assert not any("different threads" in line for line in rundir.read_result(folder)["warnings"])
    try:
        torch.set_num_threads(threads + 1)
        benched(base, ["ga"], tmp_path / "b", seeds=2)
    finally:
        torch.set_num_threads(threads)
    (line,) = (line for line in rundir.read_result(folder)["warnings"] if "different" in line)
    assert f"threads: {threads} (1 of 2), {threads + 1} (1 of 2)" in line


@pytest.mark.long
def test_a_benchmark_killed_in_its_middle_ends_in_the_tables_of_one_that_ran_through(base: str, tmp_path: Path) -> None:
    names = ["ga", "sgd_restarts", str(tmp_path / "tuned.yaml")]
    whole = benched(base, names, tmp_path / "whole", seeds=2)
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    devnull = subprocess.DEVNULL
    first = subprocess.Popen(
        [sys.executable, "-m", *COMMAND.split()], cwd=tmp_path, env=env, stdout=devnull, stderr=devnull
    )
    until = time.monotonic() + 100
    while len(list((tmp_path / "b").glob("runs/*/*/history.jsonl"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    workers = [child.pid for child in psutil.Process(first.pid).children(recursive=True)]
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=20)
    assert not alive  # its processes go with it
    runs = [rundir.read_result(folder).get("status") for folder in (tmp_path / "b").glob("runs/*/*")]
    assert 1 <= runs.count("finished") < 6
    benched(base, names, tmp_path / "b", seeds=2)
    for name in ("results.csv", "curves.csv", "summary.csv", "comparisons.csv", "levels.csv"):
        assert rows(whole / name, "seconds") == rows(tmp_path / "b" / name, "seconds"), name


def test_ctrl_c_leaves_checkpoints_and_tables_and_the_same_command_goes_on(base: str, tmp_path: Path) -> None:
    whole = benched(base, ["ga", "sgd"], tmp_path / "whole")

    class Impatient(Quiet):
        def generation(self, step: Any) -> None:
            super().generation(step)
            if len(self.steps) == 15:
                os.kill(os.getpid(), signal.SIGINT)

    for _ in range(2):
        with pytest.raises(Interrupted):
            benched(base, ["ga", "sgd"], tmp_path / "b", observer=Impatient())
    assert rundir.read_result(tmp_path / "b")["status"] == "interrupted"
    benched(base, ["ga", "sgd"], tmp_path / "b")
    for name in ("results.csv", "curves.csv"):
        assert rows(whole / name, "seconds") == rows(tmp_path / "b" / name, "seconds"), name


def test_an_arm_that_fails_keeps_no_other_from_finishing_and_can_be_mended(
    base: str, tmp_path: Path, pages: list[Path]
) -> None:
    """All trials of a search end in NaN; another arm's population is too large for the budget."""
    hopeless = TUNED.replace("low: 0.001, high: 0.3", "low: 1.0e+37, high: 1.0e+38")
    (tmp_path / "hopeless.yaml").write_text(hopeless)
    (tmp_path / "large.yaml").write_text("algorithm: {name: ga, population: 200000}")
    names = [str(tmp_path / f"{name}.yaml") for name in ("hopeless", "large")]
    changes: dict[str, Any] = {"budget": "samples=1e5", "sets": ["head={name: mlp, hidden: [8]}"]}
    for seeds in (1, 2):  # the same again doesn't stop there either
        with pytest.raises(RunError, match=f"{2 * seeds} of {3 * seeds} runs failed; the first: hopeless, .*no trial"):
            benched(base, [*names, "random"], tmp_path / "out", seeds=seeds, **changes)
        assert [row["arm"] for row in rows(tmp_path / "out" / "results.csv")] == ["random"] * seeds
        assert pages == [tmp_path / "out"] * seeds
    (tmp_path / "large.yaml").write_text("algorithm: {name: ga, population: 200}")
    with pytest.raises(RunError, match="2 of 6 runs failed"):
        benched(base, names[1:], tmp_path / "out", **changes)
    assert {row["arm"] for row in rows(tmp_path / "out" / "results.csv")} == {"random", "large"}


def test_what_all_arms_fail_by_is_the_users_to_mend(base: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 of 2 runs failed; the first: random, split 0, seed 0: budget"):
        benched(base, ["random", "ga"], tmp_path / "out", budget="samples=10")


def test_a_run_that_was_begun_with_other_settings_is_said_to_be(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, quiet = benched(base, ["random"], tmp_path / "out", budget="samples=1e5"), Quiet()
    monkeypatch.setitem(arms.ARMS, "random", lambda given: {"algorithm": {"name": "random", "population": 7}})
    benched(base, ["random"], out, budget="samples=1e5", observer=quiet)
    assert any("begun with other settings" in line for line in quiet.lines)


def test_a_search_leaves_no_mark_in_the_curve_of_what_is_kept(base: str, tmp_path: Path) -> None:
    out = benched(base, [str(tmp_path / "tuned.yaml")], tmp_path / "out")
    (row,), curve = rows(out / "results.csv"), rows(out / "curves.csv")
    assert float(curve[-1]["validation"]) == float(row["validation"])
    search = rundir.read_result(out / "runs/tuned/0-0")["tuning"]["cost"]
    assert int(curve[0]["samples"]) > search["forward_samples"] + 2 * search["backward_samples"] > 0.4 * SAMPLES
    assert curve[-1]["samples"] == row["samples"]


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["gaa"], {}, "no arm is called 'gaa'"),
        (["ga", "ga"], {}, "given twice"),
        (["missing.yaml"], {}, "missing.yaml: can't be read"),
        (["ga"], {"budget": "seconds=5"}, "samples=N"),
        (["ga"], {"budget": "samples=0"}, "samples=N"),
        (["ga"], {"budget": "samples=many"}, "samples=N"),
        (["ga"], {"seeds": 0}, "--seeds: 0"),
        (["ga"], {"sets": ["head.nme=mlp"]}, "head.nme"),
        (["ga"], {"budget": "samples=10"}, "ga, split 0, seed 0: budget"),
        (["ga"], {"budget": "samples=.inf"}, "samples=N"),
        (["config"], {"budget": None, "sets": ["budget.seconds=3"]}, "--budget"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_names_it(
    base: str, tmp_path: Path, names: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        benched(base, names, tmp_path / "out", **changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("data: {name: mnist}", "data is the same for all arms"),
        ("validate: {metric: kappa}", "validate.metric is the same"),
        ("seed: 3", "seed is the same"),
        ("optimiser: {}", "optimiser: unknown section"),
        ("algorithm: {name: gaa}", "arm own: algorithm.name"),
        ("validate: {patience: 3}", "validate.patience is the same"),
        ("checkpoint: {every: 3}", "checkpoint: unknown section"),
        ("tune: 5", "arm own: tune"),
        ("tune: {budget: 3, space: {}}", "arm own: tune.budget: 3 given"),
        (
            "tune: {budget: {samples: 600000}, space: {}}",
            "arm own: tune.budget.samples: 600,000 given, of which 600,000",
        ),
        ("[1]", "a mapping of sections"),
    ],
)
def test_an_overlay_changes_how_an_arm_searches_and_nothing_that_arms_share(
    base: str, tmp_path: Path, overlay: str, message: str
) -> None:
    (tmp_path / "own.yaml").write_text(overlay)
    with pytest.raises(InputError, match=message):
        benched(base, [str(tmp_path / "own.yaml")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_benchmark_of_another_config_or_budget_is_not_mixed_in(base: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("algorithm: {name: random}")
    out = benched(base, [str(tmp_path / "own.yaml")], tmp_path / "out", budget="samples=1e5")
    for changes, message in (
        ({"sets": ["head.name=mlp"]}, "another config .head."),
        ({"budget": "samples=2e5"}, "at 100,000"),
    ):
        with pytest.raises(InputError, match=message):
            benched(base, ["ga"], out, **({"budget": "samples=1e5"} | changes))
    (tmp_path / "own.yaml").write_text("algorithm: {name: hill_climbing}")
    with pytest.raises(InputError, match="own was another"):
        benched(base, [str(tmp_path / "own.yaml")], out, budget="samples=1e5")
    experiment.run(config.load(base, ["budget.generations=1"]), str(tmp_path / "run"), "", Quiet())
    with pytest.raises(InputError, match="already holds a run"):
        benched(base, ["ga"], tmp_path / "run")


def test_without_a_budget_of_its_own_an_arm_gets_what_the_configs_run_takes(base: str) -> None:
    c = config.load(base, ["budget.generations=30", "algorithm.population=16", "fitness.samples=100"])
    assert benchmark.own_budget(c, arms.Given(0, 1257, 270)) == 30 * 16 * 100
    both = ["budget.generations=10", "budget.samples=1000000000", "algorithm.population=16", "fitness.samples=100"]
    assert benchmark.own_budget(config.load(base, both), arms.Given(0, 1257, 270)) == 10 * 16 * 100
    forward = ["refine.steps=2", "refine.batch_size=50", "budget.forward_samples=6120", "fitness.samples=512"]
    expected = 6120 * (512 + 300) // (512 + 100)
    assert benchmark.own_budget(config.load(base, forward), arms.Given(0, 1257, 270)) == expected
    c = config.load(base, ["refine.steps=2", "refine.batch_size=50", "budget.generations=3", "algorithm.population=4"])
    assert benchmark.own_budget(c, arms.Given(0, 1257, 270)) == 3 * 4 * (512 + 3 * 2 * 50)


def test_bench_yaml_says_what_was_asked_for(base: str, tmp_path: Path) -> None:
    out = benched(base, ["random"], tmp_path / "out", budget="samples=1e5")
    found = yaml.safe_load((out / "bench.yaml").read_text())
    assert (found["samples"], found["seeds"], found["splits"], list(found["arms"])) == (100_000, 1, 1, ["random"])
    assert found["command"] == signals.command()


def test_a_folder_that_is_no_benchmarks_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "bench.yaml").write_text("{}")
    with pytest.raises(InputError, match="bench.yaml: config is missing"):
        benchmark.resume(str(tmp_path), Quiet(), Signals())


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit() is None
