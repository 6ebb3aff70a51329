"""Trackers read back what a run told them, and whatever they do, the run is the same."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import readers
import torch
import yaml
from conftest import Quiet
from test_resume import contents

import neuroevo as ne
from neuroevo.bench import benchmark
from neuroevo.config import load
from neuroevo.errors import InputError, Interrupted, RunError
from neuroevo.experiments import experiment, tracking
from neuroevo.experiments.interruption import Interruption
from neuroevo.report import runpage
from neuroevo.storage import generations, rundir
from neuroevo.tracking import trackers
from neuroevo.tracking.trackers import figures_of
from neuroevo.tuning import tune

SETS = [
    "backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=16",
    "algorithm.elites=4", "budget.generations=5", "validate.every=2", "checkpoint.every=2", "fitness.samples=100",
    "memory.limit=1e8",
]  # fmt: skip
ALL = "tracking=[csv, tensorboard, wandb, {name: mlflow, uri: 'file:%s'}]"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(tracking, "SECONDS", 60.0)  # machines differ; who hangs is tested apart


def start(out: Path, *sets: str, quiet: Quiet | None = None) -> Quiet:
    quiet = quiet or Quiet()
    experiment.run(load(None, [*SETS, *sets]), str(out), "test", quiet)
    return quiet


def mlflow(store: Path) -> dict[str, Any]:
    """Return the only run of a store as its files have it: metrics as {name: [[step, value], ...]}."""
    (run,) = (path.parent for path in store.glob("*/*/meta.yaml"))
    values: dict[str, list[list[float]]] = {}
    for file in (path for path in (run / "metrics").rglob("*") if path.is_file()):
        rows = [line.split() for line in file.read_text().splitlines()]
        values[str(file.relative_to(run / "metrics"))] = [[int(step), float(value)] for _, value, step, *_ in rows]
    about = yaml.safe_load((run / "meta.yaml").read_text())
    params = {path.name: path.read_text() for path in (run / "params").iterdir()}
    tags = {str(p.relative_to(run / "tags")): p.read_text() for p in (run / "tags").rglob("*") if p.is_file()}
    plots = sorted(path.name for path in (run / "artifacts").rglob("*.png"))
    return {**about, "metrics": values, "params": params, "tags": tags, "plots": plots}


def read_back(run: Path) -> dict[str, Any]:
    found = subprocess.run([sys.executable, readers.__file__, str(run)], capture_output=True, text=True, check=True)
    return json.loads(found.stdout)  # type: ignore[no-any-return]


def by_column(lines: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Return a history as {column: [[generation, value], ...]}, without what is no number."""
    columns = dict.fromkeys(key for line in lines for key in line)
    found = {key: [[line["generation"], line[key]] for line in lines if line.get(key) is not None] for key in columns}
    return {key: rows for key, rows in found.items() if rows}


def see_all_of_it(run: Path, store: Path, *, seconds: bool = True) -> None:
    """See that each tracker has the whole history, each line once, and the result; `seconds` may be another run's."""
    lines = rundir.read_history(run)
    history, figures, found = by_column(lines), figures_of(rundir.read_result(run)), read_back(run)
    numbers = {key: value for key, value in figures.items() if not isinstance(value, str)}

    def agree(told: dict[str, list[list[float]]], right: dict[str, list[list[float]]], single: bool = False) -> None:
        assert told.keys() == right.keys()
        for key in right:
            expected = [[step, float(np.float32(value)) if single else value] for step, value in right[key]]
            if seconds or key != "seconds":
                assert told[key] == expected, key
            else:
                assert [step for step, _ in told[key]] == [step for step, _ in expected]

    events = found["tensorboard"]
    results = {key: [[lines[-1]["generation"], value]] for key, value in numbers.items()}
    agree(events["scalars"], {k: v for k, v in history.items() if k != "generation"} | results, single=True)
    assert {"config/text_summary", "result/text_summary"} <= {*events["tensors"]}
    stored = mlflow(store)
    told = {key: rows for key, rows in stored["metrics"].items() if not key.startswith("result/")}
    agree(told, history)
    assert {key: rows[-1][1] for key, rows in stored["metrics"].items() if key.startswith("result/")} == numbers
    assert stored["tags"]["result/status"] == figures["result/status"]
    weights = found["wandb"]
    agree(by_column([{k: v for k, v in line.items() if k[0] != "_"} for line in weights["lines"]]), history)
    assert [line["_step"] for line in weights["lines"]] == [line["generation"] for line in lines]
    assert weights["summary"].items() >= figures.items()
    assert len({*weights["ids"]}) == 1
    rows = (run / "history.csv").read_text().splitlines()
    assert rows[0].split(",") == [*lines[0]]
    cells = [[float(cell) if cell else None for cell in row.split(",")] for row in rows[1:]]
    assert cells == [[*line.values()] for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody is told of."""
    return experiment.run(load(None, SETS), str(tmp_path_factory.mktemp("whole") / "r"), "test", Quiet())


@pytest.mark.long
def test_each_tracker_has_what_the_history_and_the_result_have_and_the_run_is_the_same(
    tmp_path: Path, whole: Path
) -> None:
    run, store = tmp_path / "r", tmp_path / "store"
    quiet = start(run, ALL % store)
    assert contents(run) == contents(whole)
    see_all_of_it(run, store)
    found = mlflow(store)
    assert (found["run_name"], found["status"]) == ("r", 3)  # finished
    assert found["params"]["algorithm.population"] == "16"
    assert read_back(run)["wandb"]["config"]["algorithm"]["population"] == 16
    places = {"csv": "history.csv", "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "file:"}
    for name, place in places.items():
        assert sum(line.startswith(f"tracking: {name}: ") and place in line for line in quiet.lines) == 1
    # It goes on in the same runs, and may be told of twice.
    experiment.resume(str(run), ["budget.generations=8"], Quiet())
    see_all_of_it(run, store)
    for name in ("a.png", "b.png"):
        (run / "plots").mkdir(exist_ok=True)
        (run / "plots" / name).write_bytes(PNG)
    for _ in range(2):
        tracking.log_run(str(run), f"csv,tensorboard,wandb,{{name: mlflow, uri: 'file:{store}'}}", Quiet())
        see_all_of_it(run, store)
    assert mlflow(store)["plots"] == ["a.png", "b.png"]
    assert read_back(run)["tensorboard"]["images"] == ["plots/a", "plots/b"]


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f0005000"
    "1ff89993d1d0000000049454e44ae426082"
)


def put(path: Path, what: str, secret: Path) -> None:
    """Put something that is no plot where one is looked for."""
    if what == "a link":
        path.symlink_to(secret)
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    elif what == "a large file":
        with open(path, "wb") as file:
            file.write(PNG)
            file.truncate(33 << 20)
    else:
        path.write_bytes({"another file": b"GIF89a" * 10, "too short": PNG[:12], "nothing": b""}[what])


@pytest.mark.parametrize(
    "what", ["a link", "a pipe", "a folder", "a large file", "another file", "too short", "nothing"]
)
def test_trackers_are_told_of_plots_alone_and_wait_for_no_pipe(
    tmp_path: Path, whole: Path, quiet: Quiet, what: str
) -> None:
    secret, plots = tmp_path / "secret.png", tmp_path / "r" / "plots"
    plots.mkdir(parents=True)
    secret.write_bytes(PNG)
    put(plots / "a.png", what, secret)
    (plots / "b.png").write_bytes(PNG)
    told: list[dict[str, Any]] = []
    follow = tracking.Tracking([], tmp_path / "r", [], settings={}, log=quiet.note)
    follow.followers = [SimpleNamespace(tell=told.append)]  # type: ignore[list-item]
    follow.conclude(rundir.read_result(whole), sorted(plots.glob("*.png")))
    assert [message["plots"] for message in told] == [[str(plots.resolve() / "b.png")]]
    assert len(quiet.lines) == 1 and quiet.lines[0].startswith(f"tracking: {plots / 'a.png'}: ")
    with pytest.raises(OSError):
        trackers.picture(plots / "a.png")
    assert trackers.picture(plots / "b.png") == PNG


def test_a_run_that_nobody_was_told_of_is_told_of_afterwards(tmp_path: Path, whole: Path) -> None:
    run, store, quiet = tmp_path / "r", tmp_path / "store", Quiet()
    start(run)
    before = contents(run)
    tracking.log_run(str(run), f"csv, tensorboard, wandb, {{name: mlflow, uri: 'file:{store}'}}", quiet)
    see_all_of_it(run, store)
    assert contents(run) == before
    assert len(quiet.lines) == 4


class Stop(Interruption):
    """Asks a run to end after its third generation."""

    name = "SIGTERM"

    def hear(self, step: object) -> None:
        if getattr(step, "generation", 0) == 3:
            self.status = 143


def test_an_interrupted_run_is_told_as_such_and_ends_in_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    run, store, stop = tmp_path / "r", tmp_path / "store", Stop()

    class Stopping(Quiet):
        def generation(self, step: Any) -> None:
            stop.hear(step)

    with pytest.raises(Interrupted):
        experiment.run(load(None, [*SETS, ALL % store]), str(run), "test", Stopping(), signals=stop)
    see_all_of_it(run, store)
    assert (mlflow(store)["status"], mlflow(store)["tags"]["result/status"]) == (5, "interrupted")  # killed
    # Killed beyond its newest checkpoint it goes on from an earlier one, and no generation is there twice.
    generations.paths(run / "checkpoints")[0].unlink()
    assert generations.number(generations.paths(run / "checkpoints")[0]) == 2
    quiet = Quiet()
    experiment.resume(str(run), [], quiet)
    assert contents(run) == contents(whole)
    see_all_of_it(run, store, seconds=False)
    kept = [f"tracking: {name}: keeps generations 3 to 4 as it was told of them before" for name in ("mlflow", "wandb")]
    assert sorted(line for line in quiet.lines if "keeps" in line) == kept
    assert mlflow(store)["status"] == 3


@pytest.mark.parametrize("when", ["begin", "line", "result", "close"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("fail", "OSError: the network is gone"),
        ("die", "its process ended with status 7"),
        ("hang", "has not come to its end in time, and is left"),
    ],
)
def test_a_tracker_that_breaks_is_one_line_and_the_run_goes_on_the_same(
    when: str, how: str, said: str, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS", 1.5 if how == "hang" else 60.0)
    began = time.monotonic()
    name = "doubles:broken"
    quiet = start(tmp_path / "r", f"tracking=[{{name: '{name}', when: {when}, how: {how}}}]")
    assert time.monotonic() - began < 30
    assert contents(tmp_path / "r") == contents(whole)
    lines = [line for line in quiet.lines if line.startswith("tracking: ")]
    again = f"tracking: once that is mended: neuroevo log {tmp_path / 'r'} --to {name}"
    assert [line for line in lines if not line.endswith("here")] == [f"tracking: {name}: {said}", again]
    assert f"tracking: {name}: {said}" in (tmp_path / "r" / "run.log").read_text()


def test_beside_a_tracker_that_breaks_another_is_told_all(tmp_path: Path) -> None:
    start(tmp_path / "r", "tracking=[{name: 'doubles:broken', when: line, how: fail}, csv]")
    assert len((tmp_path / "r" / "history.csv").read_text().splitlines()) == 6


def test_a_tracker_that_can_not_begin_or_be_written_down_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Quiet()
    (tmp_path / "a").mkdir()
    asked = tracking.read_trackers(["csv"])
    follower = tracking.Tracking(asked, tmp_path / "a", [], settings={}, log=quiet.note)
    (tmp_path / "a" / rundir.TRACKING).mkdir()  # where the file should be
    follower.conclude({"status": "finished"})
    assert follower.finish(60.0) == []
    assert [line for line in quiet.lines if "another in its trackers" in line and "not written" in line]
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no_python"))
    quiet = start(tmp_path / "r", "tracking=[csv]")
    (line,) = (line for line in quiet.lines if "no_python" in line)
    assert line.startswith("tracking: csv: ")
    assert rundir.read_result(tmp_path / "r")["status"] == "finished"


@pytest.mark.parametrize("content", ["{", "3", '{"a": 1}', '[{"id": 3, "tracker": {}}]', "[3]", '[{"id": "x"}]'])
def test_a_damaged_record_of_trackers_is_told_and_others_begin(content: str, tmp_path: Path, quiet: Quiet) -> None:
    (tmp_path / rundir.TRACKING).write_text(content)
    assert tracking.read_state(tmp_path, quiet.note) == []
    assert "damaged" in quiet.lines[0]
    assert tracking.read_state(tmp_path / "nowhere", quiet.note) == []
    assert len(quiet.lines) == 1


def test_a_tracker_that_more_messages_wait_for_than_it_may_have_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    monkeypatch.setattr(tracking, "MOST", 10)
    asked = tracking.read_trackers([{"name": "doubles:broken", "when": "begin", "how": "hang"}])
    told = tracking.Tracking(
        asked, tmp_path, [], settings={"long": "x" * 2**20}, log=quiet.note
    )  # beyond a pipe's room
    for _ in range(30):
        told.conclude({"status": "interrupted"})
    told.hear()
    assert quiet.lines == ["tracking: doubles:broken: 10 messages wait for it"]
    assert told.finish(0.0) == ["doubles:broken: 10 messages wait for it"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tensorboard", "tracking: 'tensorboard' given; a list such as [tensorboard] expected"),
        ("[tensorbord]", "tracking.0.name: no tracker is called 'tensorbord' (did you mean tensorboard?)"),
        ("[csv, csv]", "tracking: csv is given twice"),
        ("[csv, {name: mlflow, url: x}]", "tracking.1.url: unknown key (did you mean uri?)"),
        ("[{name: csv, file: x}]", "tracking.0.file: unknown key"),
        ("[3]", "tracking.0: a name, or a mapping with one, expected"),
    ],
)
def test_trackers_that_can_not_be_are_refused_by_key(given: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        load(None, [f"tracking={given}"])
    assert str(error.value).startswith(said)


def test_trackers_are_no_part_of_a_run_and_may_change_when_it_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "r"
    start(run)
    for given, rows in (("[csv]", 8), ("null", 8), ("[csv]", 11)):
        experiment.resume(str(run), [f"tracking={given}", f"budget.generations={rows - 1}"], Quiet())
        assert len((run / "history.csv").read_text().splitlines()) == rows
    assert yaml.safe_load((run / "config.yaml").read_text())["tracking"] == ["csv"]
    noted = Quiet()
    runpage.read(run, noted.note, compare=True)
    assert noted.lines == []  # config.yaml differs from the checkpoint in what has no part in the run
    (run / "history.csv").unlink()
    experiment.begin_or_resume(load(None, [*SETS, "budget.generations=12", "tracking=[csv]"]), str(run), "", Quiet())
    assert len((run / "history.csv").read_text().splitlines()) == 13


def test_bad_input_and_a_missing_library_begin_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="budget: the samples allowed are too few"):
        start(tmp_path / "r", "tracking=[csv]", "budget.samples=1")
    assert not (tmp_path / "r").exists()
    start(tmp_path / "s")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for begin in (
        lambda: start(tmp_path / "r", "tracking=[wandb]"),
        lambda: experiment.resume(str(tmp_path / "s"), ["tracking=[wandb]", "budget.generations=9"], Quiet()),
        lambda: tracking.log_run(str(tmp_path / "s"), "wandb", Quiet()),
        lambda: ne.evolve(start=torch.zeros(2), fitness=sphere, out=tmp_path / "r", tracking=["wandb"]),
    ):
        with pytest.raises(InputError, match="wandb isn't installed"):
            begin()
    assert not (tmp_path / "r").exists()
    assert rundir.read_result(tmp_path / "s")["generations"] == 5


def test_what_can_not_be_logged_is_refused(tmp_path: Path, whole: Path) -> None:
    for run, to, said in (
        (tmp_path, "csv", "no run is there"),
        (whole, "", "--to: no tracker is named; there are: csv, tensorboard, wandb, mlflow"),
        (whole, "wandbb", r"--to.name: no tracker is called 'wandbb' \(did you mean wandb\?\)"),
        (whole, "csv,csv", "--to: csv is given twice"),
        (whole, "{name: mlflow", "--to"),
    ):
        with pytest.raises(InputError, match=said):
            tracking.log_run(str(run), to, Quiet())
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(InputError, match="no generation yet"):
        tracking.log_run(str(tmp_path), "csv", Quiet())
    name = "doubles:broken"
    with pytest.raises(RunError, match=f"{name}: OSError: the network is gone"):
        tracking.log_run(str(whole), f"{{name: '{name}', when: line, how: fail}}", Quiet())


def kept(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in rundir.read_history(folder)]


def sphere(genomes: torch.Tensor) -> torch.Tensor:
    return -(genomes**2).sum(1)


def test_a_search_from_python_is_tracked_in_its_folder_and_goes_on_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tracking: goes with out"):
        ne.evolve(start=torch.zeros(2), fitness=sphere, tracking=["csv"])
    with pytest.raises(InputError, match=r"tracking.0.name: no tracker"):
        ne.evolve(start=torch.zeros(2), fitness=sphere, out=tmp_path / "r", tracking=["x"])
    search: Mapping[str, Any] = {"start": torch.ones(2), "fitness": sphere}
    found = ne.evolve(**search, budget=ne.Budget(generations=4), out=tmp_path / "r", tracking=["csv", "tensorboard"])
    plain = ne.evolve(**search, budget=ne.Budget(generations=4), out=tmp_path / "s")
    assert torch.equal(found.population.genomes, plain.population.genomes)
    assert kept(tmp_path / "r") == kept(tmp_path / "s")
    ne.resume(tmp_path / "r", **search, budget=ne.Budget(generations=7), tracking=["tensorboard"])
    scalars = read_back(tmp_path / "r")["tensorboard"]["scalars"]
    assert [step for step, _ in scalars["fitness_best"]] == [*range(1, 8)]
    assert scalars["result/generations"] == [[7, 7.0]]
    assert len((tmp_path / "r" / "history.csv").read_text().splitlines()) == 5


def test_an_event_file_lies_in_a_folder_that_is_named_and_no_two_runs_share_one(tmp_path: Path) -> None:
    events, tracker = tmp_path / "events", f"tracking=[{{name: tensorboard, dir: '{tmp_path / 'events'}'}}]"
    start(tmp_path / "a" / "r", tracker)
    start(tmp_path / "b" / "r", tracker)
    experiment.resume(str(tmp_path / "a" / "r"), ["budget.generations=7"], Quiet())
    steps = {place.name: len(readers_scalars(place)["fitness_best"]) for place in events.iterdir()}
    assert steps == {"r": 7, "r-2": 5}


def readers_scalars(folder: Path) -> dict[str, Any]:
    code = f"import json, pathlib, readers; print(json.dumps(readers.tensorboard(pathlib.Path({str(folder)!r}))))"
    path = os.pathsep.join([str(Path(readers.__file__).parent), *sys.path])
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": path}
    )
    return json.loads(found.stdout)["scalars"]  # type: ignore[no-any-return]


def test_of_a_search_of_hyperparameters_the_final_run_is_tracked(tmp_path: Path) -> None:
    search = [*SETS, "tune.space.algorithm.mutation.sigma={name: float, low: 0.001, high: 0.1}", "tracking=[csv]"]
    search += ["tune.sampler={name: random, population: 2}", "tune.trial.generations=2", "tune.budget.generations=1"]
    with pytest.raises(InputError, match="tracking: has no effect: of a search its final run is tracked"):
        load(None, [*search, "tune.final=false"])
    tune.run(load(None, search), str(tmp_path / "r"), "", Quiet(), Interruption())
    assert len((tmp_path / "r" / "history.csv").read_text().splitlines()) == 6
    assert not (tmp_path / "r" / "tune" / "history.csv").exists()


def test_each_run_of_a_benchmark_is_tracked_under_a_name_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(load(None, [*SETS, "tracking=[csv]"]).record()))
    folder = benchmark.run(
        str(file), ["ga", "random"], Quiet(), Interruption(), seeds=1, splits=1, jobs=1, out=str(tmp_path / "b")
    )
    runs = sorted(path.parent for path in folder.rglob("history.csv"))
    assert [tracking.name_of(run) for run in runs] == ["b-runs-ga-0-0", "b-runs-random-0-0"]
    assert tracking.name_of(tmp_path / "x" / "y") == "y"
