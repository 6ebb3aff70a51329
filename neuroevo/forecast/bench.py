"""The time of a benchmark on this machine, by one run of each arm."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from neuroevo.bench.arms import Given, Overlay, configure
from neuroevo.experiments import experiment
from neuroevo.forecast.forecaster import Forecaster
from neuroevo.forecast.pace import time_call
from neuroevo.forecast.search import estimate_search
from neuroevo.forecast.seconds import Seconds

PICTURES, PICTURES_OF_ARM = 5, 6  # of a benchmark's page, about


@dataclass(frozen=True)
class Comparison:
    """A benchmark to estimate."""

    base: dict[str, Any]  # the config that arms share, as it was given
    overlays: dict[str, Overlay | None]  # by arm
    seeds: int
    splits: int
    budget: str | None


class Bench(NamedTuple):
    """The time of a benchmark."""

    seconds: Seconds  # features, and runs
    arms: Seconds  # a run of each arm


def estimate_bench(forecaster: Forecaster, comparison: Comparison, given: Given) -> Bench:
    """Estimate a benchmark, one run after another, whose arms are `given` what they are told of the data."""
    c = forecaster.ready.config
    begun, _ = time_call(forecaster.ready.device, lambda: experiment.prepare(c))
    first, each = 0.0, {}
    seconds_each = max(1.5, 2 * forecaster.seconds / len(comparison.overlays))
    for arm, overlay in comparison.overlays.items():
        own = configure(comparison.base, arm, overlay, given, seed=c.seed, split=c.data.split_seed)
        own = replace(own, memory=own.memory.model_copy(update={"limit": c.memory.limit}))
        other = forecaster.for_config(own, seconds_each)
        seconds = estimate_search(other).seconds if own.tune is not None else other.run(own)
        first += seconds.pop("features")
        each[arm] = begun + sum(seconds.values())
    # Each split has a scale of its own.
    first += (comparison.splits - 1) * sum(found.once for found in forecaster.found.values())
    parts = {"features": first, "runs": comparison.seeds * comparison.splits * sum(each.values())}
    return Bench(parts | {"page": page_seconds(len(comparison.overlays))}, each)


def page_seconds(count: int) -> float:
    """Return the seconds of the page of a benchmark of so many arms, by one of its pictures."""
    history = [{"generation": i, "fitness_best": 1.0, "fitness_mean": 0.5, "fitness_std": 0.1} for i in range(64)]
    cpu = torch.device("cpu")

    def draw() -> None:
        from neuroevo.report import figures, plots_of_runs, report  # they bring matplotlib along

        with TemporaryDirectory() as folder:
            plot = plots_of_runs.fitness("fitness", history)
            drawn = figures.draw(plot)
            figures.save(plot, drawn, figures.Files(Path(folder), report.BRIEF))
            figures.svg(plot, drawn)

    first, _ = time_call(cpu, draw)
    again, _ = time_call(cpu, draw)
    return first - again + (PICTURES + PICTURES_OF_ARM * count) * again
