"""What of a run differs with the number of threads, or on a GPU, and by how much.

usage: python bench/threads.py [--generations N] [--device cuda] [--large]

Each run is made twice on one thread of the processor and twice on two (with `--device`, on that), and once more,
interrupted half way and gone on with, from an empty cache each time. Those at one place must end in the same bytes
(status 1 if not); of the two places the table says how far genomes, fitness, the champion and its figures are from
each other.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from neuroevo.config import load
from neuroevo.engine.loop import Step
from neuroevo.engine.observer import Observer
from neuroevo.experiments import experiment
from neuroevo.storage import generations, hdf5, rundir

PIXELS = ["data.name=digits", "backbone.name=none", "backbone.weights=none"]
PIXELS += ["memory.limit=1e9", "validate.every=2", "fitness.precision=float32"]  # nothing that a clock decides
SGD = "refine={name: sgd, steps: 5, lr: 0.05}"
RUNS: dict[str, list[str]] = {
    "ga": [],
    "ga, 32 components": ["features.components=32"],
    "ga, all samples": ["fitness.samples=all"],
    "ga, bfloat16": ["fitness.precision=bfloat16"],
    "ga, macro-F1": ["fitness.metric=macro_f1"],
    "ga, two objectives": ["fitness.metrics=[cross_entropy, weight_norm]", "algorithm.elites=16"],
    "islands": ["islands={count: 2, every: 3}"],
    "snes": ["algorithm.name=snes"],
    "xnes, 60 genes": ["algorithm.name=xnes", "features.components=5"],
    "pso": ["algorithm.name=pso"],
    "de": ["algorithm.name=de"],
    "sgd steps": [SGD],
    "adam steps, mlp": ["refine={name: adam, steps: 5, lr: 0.01}", "head={name: mlp, hidden: [64], init: default}"],
    "network's features": ["backbone.name=timm/test_resnet", "data.image_size=32", "data.limit=600"],
    "unfrozen stage": [
        "backbone.name=timm/test_resnet", "data.image_size=32", "data.limit=300", "backbone.trainable=[layer4]",
        "head.init=default", "memory.plan=loop", "algorithm.population=16", "algorithm.elites=4",
    ],
}  # fmt: skip
BIG = ["algorithm.population=1024", "fitness.samples=1024"]
LARGE_SGD = "refine={name: sgd, steps: 10, lr: 0.05, batch_size: 128, momentum: 0.9}"
LARGE = {
    "1,024": BIG,
    "drawn parents": [*BIG, "algorithm.selection=tournament", "algorithm.parents=16"],
    "two objectives": [*BIG, "fitness.metrics=[cross_entropy, weight_norm]", "algorithm.elites=128"],
    "calibration error": [*BIG, "fitness.metric=calibration_error"],
    "ternary levels": [*BIG, "genome.levels=ternary", "algorithm.mutation=levels"],
    "graphs": [*BIG, "memory.graphs=true"],
    "safe mutation": [
        "head={name: mlp, hidden: [64], init: default}", "algorithm.mutation.safe=true", "algorithm.parents=2",
    ],
    "hybrid, mlp of 256": [
        "head={name: mlp, hidden: [256], init: default, dropout: 0.2}", LARGE_SGD, "algorithm.population=128",
    ],
    "stage, loop": [*RUNS["unfrozen stage"], LARGE_SGD],
    "stage, vmap": [*RUNS["unfrozen stage"], LARGE_SGD, "memory.plan=vmap"],
}  # fmt: skip
COMPARED = ("population/genomes", "population/fitness", "champion/genome")
Numbers = Mapping[str, npt.NDArray[Any]]


class Place(NamedTuple):
    """Where a run is made."""

    device: str
    threads: int

    def __str__(self) -> str:
        """Name it in two or three words."""
        return f"{self.threads} thread{'s' * (self.threads > 1)}" if self.device == "cpu" else self.device


class Break(Observer):
    """Interrupts a run after so many generations."""

    def __init__(self, after: int) -> None:
        self.after = after

    def generation(self, step: Step) -> None:
        """Interrupt it."""
        if step.generation == self.after:
            raise KeyboardInterrupt


def make(sets: list[str], place: Place, count: int, folder: Path, *, broken: bool = False) -> Path:
    """Make a run at a place, with a cache of its own, where asked with a break half way; return its folder."""
    given = [*PIXELS, "algorithm.population=64", f"budget.generations={count}", *sets]
    given += [f"device={place.device}", "checkpoint.every=3"]
    os.environ["NEUROEVO_CACHE"] = str(folder / "cache")
    torch.set_num_threads(place.threads)
    run = str(folder / "run")
    if not broken:
        return experiment.run(load(None, given), run, "threads", Observer())
    try:
        experiment.run(load(None, given), run, "threads", Break(count // 2))
    except KeyboardInterrupt:
        return experiment.resume(run, [], Observer())
    raise SystemExit("a run wasn't interrupted")


def read(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a run's last checkpoint, but for seconds."""
    found: dict[str, npt.NDArray[Any]] = {}
    with hdf5.open_file(generations.paths(folder / rundir.CHECKPOINTS)[0]) as file:

        def note(name: str, item: Any) -> None:
            if hasattr(item, "shape") and "seconds" not in name:
                found[name] = item[()]

        file.visititems(note)
        found |= {key: file[key][()] for key in COMPARED}  # of what is linked one name alone is visited
    return found


def same(a: Numbers, b: Numbers) -> bool:
    """Tell whether two runs have the same bytes."""
    return a.keys() == b.keys() and all(a[key].tobytes() == b[key].tobytes() for key in a)


def apart(a: Numbers, b: Numbers, key: str) -> float:
    """Return how far an array's numbers are apart at most, of what is finite in both."""
    x, y = (np.asarray(one[key], dtype=np.float64) for one in (a, b))
    if x.shape != y.shape:
        return float("nan")
    both = np.isfinite(x) & np.isfinite(y)
    return float(np.abs(x - y)[both].max(initial=0))


def main() -> None:
    """Make the runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--generations", type=int, default=20, help="of each run")
    parser.add_argument("--device", default="cpu", help="compares one thread with this device, not with two threads")
    parser.add_argument("--large", action="store_true", help="makes large runs, for a GPU")
    asked = parser.parse_args()
    places = (Place("cpu", 1), Place("cpu", 2) if asked.device == "cpu" else Place(asked.device, 1))
    card = "" if asked.device == "cpu" else f", {torch.cuda.get_device_name(asked.device)}"
    print(
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} processors{card},"
        f" {asked.generations} generations"
    )
    print(
        f"{'run':20} {places[0]!s:9} {places[1]!s:9} {'genomes':>9} {'fitness':>9} {'champion':>9} {'validation':>10}"
    )
    broken = []
    for name, sets in (LARGE if asked.large else RUNS).items():
        with tempfile.TemporaryDirectory() as top:
            folders = {
                (place, i): make(sets, place, asked.generations, Path(top, f"{place}-{i}"), broken=i == 3)
                for place in places
                for i in (1, 2, 3)
            }
            found = {key: read(folder) for key, folder in folders.items()}
            own = [all(same(found[place, 1], found[place, i]) for i in (2, 3)) for place in places]
            scores = [rundir.read_result(folders[place, 1])["champion"]["validation"] for place in places]
        broken += [name] * (not all(own))
        one, two = (found[place, 1] for place in places)
        far = [
            f"{apart(one, two, key):9.1e}" if not same({key: one[key]}, {key: two[key]}) else "     same"
            for key in COMPARED
        ]
        differ = max(abs(scores[0][key] - scores[1][key]) for key in scores[0])
        said = ["repeats" if each else "NO" for each in own]
        print(f"{name:20} {said[0]:9} {said[1]:9} {' '.join(far)} {differ:10.1e}", flush=True)
    if broken:
        raise SystemExit(f"other bytes at the same place: {', '.join(broken)}")


if __name__ == "__main__":
    main()
