"""A benchmark as it was asked for, and its runs."""

import math
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from neuroevo import config
from neuroevo.bench import arms
from neuroevo.bench.arms import Given, Overlay
from neuroevo.config import Config
from neuroevo.errors import InputError
from neuroevo.experiments.reopen import of_before
from neuroevo.storage import rundir

SHARES = (0.5, 0.8, 0.9, 0.95, 0.99)  # of the way from the start to the best arm: the levels, where none are given
# Images through the backbone depend on what was cached when a run began, and are left to its result.json.
COSTS = ("forward_samples", "backward_samples", "validation_samples")


class Task(NamedTuple):
    """One run of a benchmark."""

    arm: str
    split: int  # data.split_seed
    seed: int
    folder: Path
    config: Config

    def __str__(self) -> str:
        return f"{self.arm}, split {self.split}, seed {self.seed}"


@dataclass(frozen=True)
class Bench:
    """A benchmark as it was asked for."""

    base: dict[str, Any]  # the config that arms share, as it was given, with a memory limit
    overlays: dict[str, Overlay | None]  # by arm; None for one of the table
    samples: int
    seeds: int
    splits: int
    levels: list[float]  # of validation; empty: shares of the way to the best arm
    jobs: int | str  # as --jobs gives it
    command: str
    data: dict[str, Any]  # what the data of each split are, by its number

    def record(self) -> dict[str, Any]:
        """Return the content of bench.yaml."""
        return {
            "config": self.base,
            "arms": self.overlays,
            "samples": self.samples,
            "seeds": self.seeds,
            "splits": self.splits,
            "levels": self.levels,
            "jobs": self.jobs,
            "command": self.command,
            "data": self.data,
            "machine": machine(),
            "commit": commit(),
        }

    def tasks(self, folder: Path, given: Given) -> list[Task]:
        """Return all runs, seed by seed, so that a benchmark that goes on has about as many of each arm."""
        c = config.check(self.base)
        found = []
        for split in range(c.data.split_seed, c.data.split_seed + self.splits):
            for seed in range(c.seed, c.seed + self.seeds):
                for arm, overlay in self.overlays.items():
                    own = arms.configure(self.base, arm, overlay, given, seed=seed, split=split)
                    found.append(Task(arm, split, seed, rundir.place_run(folder, arm, split, seed), own))
        return found


def differs(task: Task) -> bool:
    """Tell whether a run that there is was begun under another config; one that is tuned isn't looked at."""
    file = task.folder / rundir.CONFIG
    if task.config.tune is not None or not file.exists():
        return False
    try:
        return of_before(config.check(config.read(str(file))), task.config) != task.config.record()
    except InputError:  # its checkpoint has the config, too
        return False


def is_done(task: Task) -> bool:
    """Tell whether a run came to its end."""
    result, metric = rundir.read_result(task.folder), task.config.validate.metric.name
    champion = result.get("champion", {})
    return result.get("status") == "finished" and all(metric in champion.get(s, {}) for s in ("validation", "test"))


def outcome(task: Task) -> str:
    """Return a finished run in a line."""
    result = rundir.read_result(task.folder)
    metric = task.config.validate.metric.name
    validation, test = (real(result["champion"][split][metric]) for split in ("validation", "test"))
    return f"validation {metric} {validation:.4f}, test {test:.4f}, {result['cost']['seconds']:.0f} s"


def commit() -> str | None:
    """Return the commit of a checkout that the package lies in, marked where files differ from it; None without."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        for words in (
            ["ls-files", "--error-unmatch", Path(__file__).name],
            ["describe", "--always", "--dirty", "--exclude=*"],
        ):
            found = subprocess.run([*git, *words], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def machine() -> str:
    """Return the machine that a benchmark runs on."""
    graphics = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.platform()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads{graphics}"


def real(value: float | None) -> float:
    """Return a number of a result, NaN for one that wasn't finite."""
    return math.nan if value is None else value
