"""A search's trials come to the same by workers of a Ray cluster: whole groups, or slices of one."""

from __future__ import annotations  # a class within a function goes to workers

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Quiet, when
from test_tune import HALVING, MLP, contents, load

from neuroevo import config
from neuroevo.errors import Interrupted
from neuroevo.experiments import experiment
from neuroevo.experiments.signals import Signals
from neuroevo.remote import cluster
from neuroevo.remote.cluster import Cluster, Spread
from neuroevo.tuning import legs, lockstep, tune
from neuroevo.tuning.tuner import Tuner

pytest.importorskip("ray", reason="the extra ray is not installed")
SLICED = ["memory.individuals=2"]
CASES = {"groups": [*MLP, *HALVING], "slices of one group": SLICED}


@pytest.fixture(scope="module")
def spread() -> Iterator[Spread]:
    with cluster.connect(Cluster(workers=2), torch.device("cpu"), ["torch"], stoppable=True) as executor:
        assert isinstance(executor, Spread)
        yield executor


@pytest.fixture
def by_workers(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> Spread:
    """Let searches that ask for workers have them of one cluster."""

    @contextmanager
    def executor_of(c: config.Config, *_: object, **__: object) -> Iterator[object]:
        yield spread if c.remote and c.remote.workers else cluster.LOCAL

    for module in (tune, experiment):
        monkeypatch.setattr(module, "executor_of", executor_of)
    return spread


def left(folder: Path) -> dict[str, Any]:
    """Return what a search must end in, whoever did it."""
    found = contents(folder)
    found["config.yaml"] = yaml.safe_load(found["config.yaml"]) | {"remote": None}
    return found


def go(folder: Path, *sets: str) -> None:
    tune.run(load(*sets), str(folder), "test", Quiet(), Signals())


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_search_by_workers_ends_in_the_bytes_of_one_without(tmp_path: Path, by_workers: Spread, case: str) -> None:
    go(tmp_path / "here", *CASES[case])
    before = by_workers.slices
    go(tmp_path / "there", *CASES[case], "remote.workers=2")
    assert by_workers.slices > before
    assert left(tmp_path / "there") == left(tmp_path / "here")
    assert yaml.safe_load((tmp_path / "there" / "config.yaml").read_text())["remote"]["workers"] == 2


def test_a_leg_comes_to_what_its_group_would_have_come_to(tmp_path: Path) -> None:
    ready = experiment.prepare(load())
    trainer = Tuner(ready, tmp_path, images=lambda done, total: None, log=lambda line: None).trainer
    parts, _ = trainer.begin([{"refine.lr": 0.01}, {"refine.lr": 0.1}])
    group = parts[0].group
    sources = tuple(trainer.sources.values())
    _, reached = legs.go(sources, (2, 2), legs.leg_of(group, 0))
    assert group.step.generation == 0
    group.advance(2, 2)
    assert reached.verdicts == group.verdicts
    assert reached.cost == group.reached.cost


def slow(mark: Path) -> Callable[..., Any]:
    """Return what takes groups on as `legs.go` does, slowly, and makes a file once there is a generation."""

    def go(sources: Any, way: Any, leg: Any) -> Any:
        class Slow(lockstep.Group):
            def __setattr__(self, name: str, value: Any) -> None:
                super().__setattr__(name, value)
                if name == "reached" and value.step.generation:
                    mark.touch()
                    time.sleep(0.05)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(legs, "Group", Slow)
            return legs.go(sources, way, leg)

    return go


@pytest.mark.long
def test_a_search_that_is_interrupted_while_workers_are_at_it_goes_on_from_there_without_them(
    tmp_path: Path, by_workers: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:  # the last: workers that were told to end do nothing more
    sets, folder = (
        [*MLP, "tune.trial.generations=150", "tune.budget.generations=1", "tune.sampler.population=2"],
        tmp_path / "cut",
    )
    mark = tmp_path / "begun"
    monkeypatch.setattr(legs, "go", slow(mark))
    with when(mark.exists, lambda _: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(Interrupted):
        go(folder, *sets, "remote.workers=2")
    state = json.loads((folder / "rung" / "rung.json").read_text())
    assert any(0 < verdict["generations"] < 150 for verdict in state["verdicts"])
    tune.resume(str(folder), ["remote.workers=0"], Quiet(), Signals())
    go(tmp_path / "whole", *sets)
    assert left(folder) == left(tmp_path / "whole")
