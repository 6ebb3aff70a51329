"""What of a run differs with the number of threads, and by how much.

usage: python bench/threads.py [--generations N]

Each run is made twice on one thread and twice on two, from an empty cache each time. Those on the same number of
threads must end in the same bytes (status 1 if not); of those on one and two the table says how far genomes, fitness,
the champion and its figures are from each other.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from neuroevo.config import load
from neuroevo.engine.observer import Observer
from neuroevo.experiments import experiment
from neuroevo.storage import generations, hdf5, rundir

PIXELS = ["data.name=digits", "backbone.name=none", "backbone.weights=none", "validate.logistic=false"]
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
Numbers = Mapping[str, npt.NDArray[Any]]


def make(name: str, threads: int, count: int, folder: Path) -> Path:
    """Make a run on so many threads, with a cache of its own; return its folder."""
    given = [*PIXELS, "algorithm.population=64", f"budget.generations={count}", *RUNS[name]]
    os.environ["NEUROEVO_CACHE"] = str(folder / "cache")
    torch.set_num_threads(threads)
    return experiment.run(load(None, given), str(folder / "run"), "threads", Observer())


def read(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a run's last checkpoint, but for seconds."""
    found: dict[str, npt.NDArray[Any]] = {}
    with hdf5.open_file(generations.paths(folder / rundir.CHECKPOINTS)[0]) as file:

        def note(name: str, item: Any) -> None:
            if hasattr(item, "shape") and "seconds" not in name:
                found[name] = item[()]

        file.visititems(note)
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
    asked = parser.parse_args()
    print(
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} processors, {asked.generations} generations"
    )
    print(f"{'run':20} {'1 = 1':6} {'2 = 2':6} {'genomes':>9} {'fitness':>9} {'champion':>9} {'validation':>10}")
    broken = []
    for name in RUNS:
        with tempfile.TemporaryDirectory() as top:
            folders = {(n, i): make(name, n, asked.generations, Path(top, f"{n}-{i}")) for n in (1, 2) for i in (1, 2)}
            found = {key: read(folder) for key, folder in folders.items()}
            own = [same(found[n, 1], found[n, 2]) for n in (1, 2)]
            scores = [rundir.read_result(folders[n, 1])["champion"]["validation"] for n in (1, 2)]
        broken += [name] * (not all(own))
        one, two = found[1, 1], found[2, 1]
        keys = ("population/genomes", "population/fitness", "champion/genome")
        far = [
            f"{apart(one, two, key):9.1e}" if not same({key: one[key]}, {key: two[key]}) else "     same"
            for key in keys
        ]
        differ = max(abs(scores[0][key] - scores[1][key]) for key in scores[0])
        said = ["yes" if each else "NO" for each in own]
        print(f"{name:20} {said[0]:6} {said[1]:6} {' '.join(far)} {differ:10.1e}", flush=True)
    if broken:
        raise SystemExit(f"other bytes on the same number of threads: {', '.join(broken)}")


if __name__ == "__main__":
    main()
