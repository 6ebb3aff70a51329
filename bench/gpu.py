"""Time scoring on a GPU, beside what `gpu_paper.py` reckons, and whole generations on it and on the CPU.

    python bench/gpu.py [--rounds 21] [--device cuda] [--works scoring,generations]

Scoring: linear heads by cross-entropy, from the gathering of the batch to a score for each individual, all of it on the
device; a round is ten evaluations, and the device is waited for at its ends. Generations: runs on arrays of noise, from
the end of one generation to the end of the next, each of which waits for its statistics; history and lineage are
written, checkpoints and validation are left to the last one.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from about import about, begin, named, parser
from gpu_paper import H100, WORKS, Work, estimate, seconds, written
from torch import Tensor

from neuroevo.config import load
from neuroevo.engine import execution
from neuroevo.engine.genome import Layout
from neuroevo.engine.graphs import Graphs
from neuroevo.engine.loop import Step
from neuroevo.engine.observer import Observer
from neuroevo.experiments import experiment
from neuroevo.networks import heads
from neuroevo.problems import scoring, slicing
from neuroevo.problems.metrics import METRICS
from neuroevo.problems.sums import Replay

EVALUATIONS = 10  # of a round
GENERATIONS = {
    "default: GA, 256 heads of 512 features, 512 samples": [],
    "the same, CUDA graphs": ["memory.graphs=true"],
    "snes": ["algorithm=snes"],
    "hybrid, two gradient steps of 256": ["refine.steps=2", "refine.batch_size=256"],
    "1,024 heads, 8,192 samples": ["algorithm.population=1024", "fitness.samples=8192"],
    "the same, bfloat16": ["algorithm.population=1024", "fitness.samples=8192", "fitness.precision=bfloat16"],
    "16,384 heads": ["algorithm.population=16384"],
    "a hidden layer of 64": ["head={name: mlp, hidden: [64]}", "head.init=default"],
}
RUN = [
    "backbone={name: none, weights: none}", "features={components: null}", "fitness.precision=float32",
    "validate.every=1000000", "checkpoint.every=1000000",
]  # fmt: skip


class Rows:
    """Features in memory."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self.x = torch.randn(work.samples, work.features, device=device)
        self.labels = torch.randint(work.classes, (work.samples,), device=device)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[index], self.labels[index]


class Clock(Observer):
    """Notes when each generation ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def generation(self, step: Step) -> None:
        self.ends.append(time.perf_counter())


def ways(work: Work, precision: str, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return the ways in which a work's heads are scored: all that this device has."""
    layout = Layout(("head.weight", "head.bias"), ((work.classes, work.features), (work.classes,)))
    forward = heads.population_forward(heads.linear(work.features, work.classes), "head")[1]
    evolved: Any = SimpleNamespace(decode=layout.unflatten, forward=forward)
    judgement = scoring.Judgement(evolved, Rows(work, device), [METRICS["cross_entropy"]()])
    genomes = torch.randn(work.heads, layout.genes, device=device) / work.features**0.5
    index = torch.arange(work.samples, device=device)
    plan = execution.plan("gemm", layout.genes, work.features, [work.classes], limit=2**34, device=device)
    plan = plan._replace(precision=precision)
    half = {"bfloat16": torch.bfloat16}.get(precision, torch.float32)
    x = torch.randn(work.samples, work.features, device=device).to(half)
    w = torch.randn(work.features, work.heads * work.classes, device=device).to(half)
    found: dict[str, Callable[[], object]] = {
        "product alone": partial(torch.mm, x, w, out=x.new_empty(work.samples, w.shape[1])),
        "operations": partial(scoring.evaluate, judgement, genomes, index, plan),
    }
    if slicing.one_pass_lacks(device) is None:
        plan = plan._replace(one_pass=True)
        found["one pass"] = partial(scoring.evaluate, judgement, genomes, index, plan)
        replayed = judgement._replace(replay=Replay(Graphs(print), True, True))
        found["one pass, graph"] = partial(scoring.evaluate, replayed, genomes, index, plan._replace(graphs=True))
    return found


def time_ways(work: Work, precision: str, rounds: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of an evaluation by each way, taken in turn."""
    settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    timed = ways(work, precision, device)
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds + 2):  # the first two are for warming up
        for name, function in timed.items():
            settle()
            start = time.perf_counter()
            for _ in range(EVALUATIONS):
                function()
            settle()
            taken[name].append((time.perf_counter() - start) / EVALUATIONS)
    return {name: statistics.median(times[2:]) for name, times in taken.items()}


def reckon(work: Work, precision: str) -> dict[str, float]:
    """Return what the same takes on paper."""
    alone = {"product alone": seconds([written(work, precision)[0]], H100, precision)}
    return alone | estimate(work, H100, precision)


def score(works: list[Work], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    rows = []
    for work in works:
        for precision in ("float32", "bfloat16"):
            found, paper = time_ways(work, precision, rounds, device), reckon(work, precision)
            cells = [f"{1e6 * each:,.0f} ({1e6 * paper[name]:,.0f})" for name, each in found.items()]
            if not rows:
                print(f"| {device}, microseconds (on paper) | precision | {' | '.join(found)} |")
                print("|---|---|" + "---|" * len(found))
            print(f"| {work.name} | {precision} | {' | '.join(cells)} |", flush=True)
            rows.append({"work": work.name, "precision": precision, "seconds": found, "paper": paper})
    return rows


def evolve(sets: list[str], generations: int, folder: str) -> float:
    """Return the median seconds of a generation, the first tenth left out."""
    clock = Clock()
    experiment.run(load(None, [*RUN, f"budget.generations={generations}", *sets]), folder, "bench", clock)
    gone = np.diff(clock.ends)[generations // 10 :]
    return float(np.median(gone))


def generate(names: list[str], small: bool, device: torch.device) -> list[dict[str, Any]]:
    rows, source = [], np.random.default_rng(0)
    samples, features = (300, 16) if small else (20_000, 512)
    with tempfile.TemporaryDirectory() as root:
        file = Path(root) / "noise.npz"
        x = source.standard_normal((samples, features), np.float32)
        np.savez(file, x=x, y=source.integers(10, size=samples))
        print(f"| milliseconds of a generation | cpu | {device} |\n|---|---|---|")
        for i, name in enumerate(names):
            found = {}
            for where, count in (("cpu", 12), (str(device), 100)):
                sets = [f"data={{name: arrays, file: {file}}}", f"device={where}", *GENERATIONS[name]]
                if small:
                    sets += ["algorithm.population=8", "fitness.samples=32"]
                if where not in found:
                    found[where] = evolve(sets, 10 if small else count, f"{root}/{i}-{where.replace(':', '')}")
            cells = [f"{1e3 * each:,.2f}" for each in found.values()]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
            rows.append({"work": name, "seconds": found})
    return rows


def main() -> None:
    made = parser(__doc__, 21)
    made.add_argument("--device", default="cuda")
    made.add_argument("--works", default="scoring,generations", help="scoring, generations, or both")
    options = made.parse_args()
    begin(made, options)
    works = named(made, "--works", options.works, dict.fromkeys(("scoring", "generations")))
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        made.error("--device cuda: there is none here")
    torch.manual_seed(0)
    record = about(options.rounds, device)
    small = [WORKS[2]._replace(name="(small)", heads=8, features=16, samples=64)]
    if "scoring" in works:
        record["scoring"] = score(small if options.small else WORKS, options.rounds, device)
    if "generations" in works:
        names = [*GENERATIONS][:4] if options.small else [*GENERATIONS]
        record["generations"] = generate(names, options.small, device)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
