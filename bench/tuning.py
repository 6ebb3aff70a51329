"""A search of hyperparameters: against pyswarm and a trainer of one network at a time, against a grid, by sampler.

python bench/tuning.py pyswarm [--rounds 3]      32 particles over (lr, momentum, weight decay), linear head, 3 epochs
python bench/tuning.py grid [--seeds 5]          runs/tune_lr.yaml against a fine grid, in two ranges
python bench/tuning.py samplers [--seeds 5]      runs/tune_full.yaml, each sampler at equal samples

NEUROEVO_DATA names the folder with cifar10-images. docs/tuning.md has the tables.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neuroevo import config
from neuroevo.engine.observer import Observer
from neuroevo.engine.rng import Context
from neuroevo.experiments import experiment
from neuroevo.experiments.signals import Signals
from neuroevo.tuning import tune
from neuroevo.tuning.tuner import Tuner

RUNS = Path(__file__).parents[1] / "runs"
RANGES = {"lr": (1e-5, 1e-1), "momentum": (0.0, 0.99), "weight_decay": (1e-6, 1e-2)}  # lr and decay by their logarithms
HOME = torch.device("cpu")


def tuner(sets: list[str], preset: str = "tune_lr.yaml") -> Tuner:
    c = config.load(str(RUNS / preset), sets)
    nothing = lambda *_: None  # noqa: E731
    return Tuner(experiment.prepare(c), Path(tempfile.mkdtemp()), images=nothing, log=nothing)


def against_pyswarm(rounds: int, particles: int = 32, epochs: int = 3) -> None:
    from pyswarm import pso

    t = tuner([
        "tune.space={refine.lr: {name: float, low: 1.0e-5, high: 0.1, scale: log}, refine.momentum: {name: float, "
        "low: 0, high: 0.99}, refine.weight_decay: {name: float, low: 1.0e-6, high: 1.0e-2, scale: log}}",
        f"tune.trial.generations={epochs}", f"tune.sampler.population={particles}",
    ])  # fmt: skip
    c = t.config
    assert c.refine is not None
    trainer, splits, size = t.trainer, t.ready.given[1], c.refine.batch_size
    source, _ = trainer.source(trainer.trial({}))
    x, y = source.through_affine.batch(splits["train"])
    x_validation, y_validation = source.through_affine.batch(splits["validation"])

    def settings(particle: Any) -> dict[str, float]:
        return {"refine.lr": 10 ** float(particle[0]), "refine.momentum": float(particle[1]),
                "refine.weight_decay": 10 ** float(particle[2])}  # fmt: skip

    def train(particle: Any) -> float:
        """Train one head as anybody would, on the batches that neuroevo draws; return its best validation accuracy."""
        own = settings(particle)
        head = nn.Linear(x.shape[1], 10)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.SGD(
            head.parameters(),
            own["refine.lr"],
            momentum=own["refine.momentum"],
            weight_decay=own["refine.weight_decay"],
        )
        loss, best = nn.CrossEntropyLoss(), 0.0
        for epoch in range(1, epochs + 1):
            draws = Context(c.seed, epoch, 0.0, HOME).generator("refine/batches")
            for slot in optimizer.state.values():  # neuroevo's optimizers begin each generation anew by default
                slot.clear()
            order = torch.randperm(len(x), generator=draws)
            for index in order[: len(x) - len(x) % size].split(size):
                optimizer.zero_grad()
                loss(head(x[index]), y[index]).backward()
                optimizer.step()
            with torch.no_grad():
                best = max(best, float((head(x_validation).argmax(1) == y_validation).float().mean()))
        return best

    ratios: list[float] = []
    differences: list[tuple[float, dict[str, float]]] = []
    for seed in range(rounds):
        np.random.seed(seed)  # pyswarm draws from the global state
        asked: list[tuple[Any, float]] = []

        def cost(particle: Any, asked: list[tuple[Any, float]] = asked) -> float:
            asked.append((particle.copy(), train(particle)))
            return -asked[-1][1]

        began = time.perf_counter()
        pso(cost, [-5, 0, -6], [-1, 0.99, -2], swarmsize=particles, maxiter=1)
        theirs = time.perf_counter() - began
        began = time.perf_counter()
        found = []
        for first in range(0, len(asked), particles):
            part = [settings(particle) for particle, _ in asked[first : first + particles]]
            found += trainer.run(part, 1)[0]
        ours = time.perf_counter() - began
        ratios.append(theirs / ours)
        differences += [
            (abs(v.metrics["accuracy"] - a), settings(particle)) for v, (particle, a) in zip(found, asked, strict=True)
        ]
        print(f"{len(asked)} trials: pyswarm {theirs:.1f} s, neuroevo {ours:.1f} s, {theirs / ours:.1f} times")
    same = sum(difference < 1e-6 for difference, _ in differences)
    most, where = max(differences, key=lambda pair: pair[0])
    print(f"median {statistics.median(ratios):.1f} times; {same} of {len(differences)} accuracies are the same")
    print(f"the others differ by {most:.4f} at most: {where}")


def searched(preset: str, sets: list[str]) -> dict[str, Any]:
    """Search without a final run; return the result."""
    with tempfile.TemporaryDirectory() as folder:
        c = config.load(str(RUNS / preset), [*sets, "tune.final=false"])
        return json.loads((tune.run(c, f"{folder}/run", "", Observer(), Signals()) / "result.json").read_text())  # type: ignore[no-any-return]


def against_grid(seeds: int, per_decade: int = 15) -> None:
    print("| range | seed | grid's best (lr) | the search's (lr) | behind, in points |\n|---|---|---|---|---|")
    for low, high in ((-6, -2), (-5, 0)):
        for seed in range(seeds):
            space = f"tune.space.refine.lr={{name: float, low: 1.0e{low}, high: 1.0e{high}, scale: log}}"
            sets = [f"seed={seed}", space]
            lrs = [10 ** (low + i / per_decade) for i in range(per_decade * (high - low) + 1)]
            t = tuner(sets)
            found = t.trainer.run([{"refine.lr": lr} for lr in lrs], 1)[0]
            accuracy, lr = max((v.metrics.get("accuracy", 0.0), lr) for v, lr in zip(found, lrs, strict=True))
            best = searched("tune_lr.yaml", sets)["best"]
            reached, own = best["validation"]["accuracy"], best["settings"]["refine.lr"]
            print(f"| 1e{low} to 1e{high} | {seed} | {accuracy:.4f} ({lr:.2g}) | {reached:.4f} "
                  f"({own:.2g}) | {100 * (accuracy - reached):.2f} |", flush=True)  # fmt: skip


def by_sampler(seeds: int, samplers: list[str], sets: list[str]) -> None:
    print("| sampler | mean | seeds | trials |\n|---|---|---|---|")
    for sampler in samplers:
        found, trials = [], []
        for seed in range(seeds):
            result = searched("tune_full.yaml", [f"seed={seed}", f"tune.sampler={sampler}", *sets])
            found.append(result["best"]["validation"]["accuracy"])
            trials.append(result["trials"])
        print(f"| {sampler} | {statistics.mean(found):.4f} | {' '.join(f'{v:.4f}' for v in found)} | "
              f"{' '.join(map(str, trials))} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["pyswarm", "grid", "samplers"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samplers", nargs="*", default=["{name: pso}", "{name: random}", "{name: optuna/tpe}"])
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    match given.what:
        case "pyswarm":
            against_pyswarm(given.rounds)
        case "grid":
            against_grid(given.seeds)
        case "samplers":
            by_sampler(given.seeds, given.samplers, given.set)
