"""Search for a genetic algorithm: variants of recombination, step size, batches and diversity at equal samples.

python bench/search.py --samples 30e6 --seeds 3 [--only NAME]   with NEUROEVO_DATA set

CIFAR-10 folders, EfficientNet-Lite0 at 128 px, a linear head from zero, scored on validation only. What helped is in
`neuroevo`; what didn't is only here. docs/search.md has the tables.
"""

import argparse
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from neuroevo import config
from neuroevo.experiments import build, compose

RUNS = Path(__file__).parents[1] / "runs"
BASE = {
    "population": 256, "batch": 512, "batch_end": None, "cross": "weighted", "parents": 256, "step": 0.5, "share": 0.5,
    "elites": 1, "sigma": 0.015, "final": 0.1, "tau": 0.0, "success": False, "reinject": False, "mirrored": False,
    "decay": 0.0, "restart": False, "distance": 0.0, "competition": False, "components": 256, "whitening": 0.25,
}  # fmt: skip
VARIANTS: dict[str, dict[str, object]] = {
    "the base": {},
    "64 parents": {"parents": 64},
    "16 parents": {"parents": 16},
    "step 0.25, sigma 0.03": {"step": 0.25, "sigma": 0.03},
    "step 1": {"step": 1.0},
    "sigma 0.03": {"sigma": 0.03},
    "sigma 0.0075": {"sigma": 0.0075},
    "mean of 64 of the best half": {"cross": "mean", "parents": 64, "sigma": 0.06},
    "mean of 2 of the best quarter": {"cross": "mean", "parents": 2, "share": 0.25, "sigma": 0.03},
    "uniform, 2 of the best quarter": {"cross": "uniform", "parents": 2, "share": 0.25},
    "uniform, 8 of the best quarter": {"cross": "uniform", "parents": 8, "share": 0.25},
    "constant sigma": {"final": 1.0},
    "self-adaptive sigma, tau 0.1": {"final": 1.0, "tau": 0.1},
    "sigma by success (one fifth)": {"final": 1.0, "success": True},
    "mean of the best half is an individual": {"reinject": True},
    "mirrored mutations": {"mirrored": True},
    "16 elites": {"elites": 16},
    "batches grow from 128 to 1,024": {"batch": 128, "batch_end": 1024},
    "batch 256": {"batch": 256},
    "batch 1,024": {"batch": 1024},
    "population 128": {"population": 128, "parents": 128},
    "population 512": {"population": 512, "parents": 512},
    "restarted from the best at half-time": {"restart": True},
    "weights decay by 0.003 a generation": {"decay": 0.003},
    "parents by distance": {"parents": 64, "distance": 1.0},
    "competition for samples": {"competition": True},
    "128 components": {"components": 128},
    "512 components": {"components": 512},
    "no whitening": {"whitening": 0.0},
    "whitening 0.5": {"whitening": 0.5},
    "whitening 1": {"whitening": 1.0},
}


def features(components: int, whitening: float) -> tuple[dict[str, tuple[Tensor, Tensor]], int]:
    """Return train and validation features and labels, and the number of classes."""
    sets = ["data.validation=0.1", f"features.components={components}", f"features.whitening={whitening}"]
    c = config.load(str(RUNS / "cifar10_folder.yaml"), sets)
    c = replace(c, memory=c.memory.model_copy(update={"limit": 2**30}))
    given = build.dataset(c)
    backbone, cpu = build.build_backbone(c, given[0]), torch.device("cpu")
    run = compose.compose(c, cpu, given, backbone, images=lambda done, total: None, log=print)
    splits = run.supervised.splits
    return {name: run.features.batch(splits[name]) for name in ("train", "validation")}, len(run.network.classes)


def log_likelihoods(genomes: Tensor, x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return each individual's log-likelihood of each sample, [n, B]."""
    n, k = len(genomes), x.shape[1]
    logits = (genomes[:, : classes * k].reshape(n * classes, k) @ x.T).view(n, classes, -1)
    logits = logits + genomes[:, classes * k :, None]
    return logits.gather(1, y.expand(n, 1, -1)).squeeze(1) - logits.logsumexp(1)


def evolve(given: dict[str, tuple[Tensor, Tensor]], classes: int, budget: float, seed: int, o: dict) -> float:  # type: ignore[type-arg]
    """Return the best validation accuracy of a GA with options `o` within `budget` forward samples."""
    (x, y), (vx, vy) = given["train"], given["validation"]
    g, n = classes * (x.shape[1] + 1), o["population"]
    draw = torch.Generator().manual_seed(seed)
    population = o["sigma"] * torch.randn(n, g, generator=draw)
    population[0] = 0
    own, mutated = torch.full((n,), float(o["sigma"])), torch.zeros(n, dtype=torch.bool)
    spent, best, checked, restarted = 0, 0.0, 0.0, False
    while spent < budget:
        progress = spent / budget
        if o["restart"]:
            progress = 2 * progress % 1
        size = o["batch"] if o["batch_end"] is None else o["batch"] * (o["batch_end"] / o["batch"]) ** progress
        rows = torch.randperm(len(x), generator=draw)[: int(size)]
        each = log_likelihoods(population, x[rows], y[rows], classes)
        spent += n * len(rows)
        fitness = each.mean(1)
        if o["competition"]:  # a sample's worth is shared by how well all do on it
            right = each.exp()
            fitness = (right / right.sum(0)).mean(1)
        order = fitness.argsort(descending=True)
        top = order[: max(1, round(o["share"] * n))]
        if spent / budget >= checked or spent + n * size > budget:
            checked += 0.02
            for candidate in (population[order[0]], population[order[: n // 4]].mean(0)):
                logits = vx @ candidate[: classes * x.shape[1]].view(classes, -1).T + candidate[-classes:]
                best = max(best, float((logits.argmax(1) == vy).float().mean()))
        if o["restart"] and not restarted and spent > budget / 2:
            restarted = True
            population = population[order[0]] + o["sigma"] * torch.randn(n, g, generator=draw)
            continue
        m, p = n - o["elites"] - o["reinject"], o["parents"]
        if o["cross"] == "weighted":
            mates = torch.randint(n, (m, p), generator=draw)
            if o["distance"]:  # those nearest to the first of twice as many
                many = torch.randint(n, (m, 2 * p), generator=draw)
                sample = population[:, :: max(1, g // 256)]
                near = torch.cdist(sample, sample)[many[:, :1], many].argsort(1)[:, :p]
                mates = many.gather(1, near)
            mates = mates.gather(1, fitness[mates].argsort(1, descending=True))
            weights = 1 / p + o["step"] / math.sqrt(p) * torch.linspace(1, -1, p)
        else:
            mates = top[torch.randint(len(top), (m, p), generator=draw)]
            weights = torch.full((p,), 1 / p)
        if o["cross"] == "uniform":
            children = population.gather(0, mates.gather(1, torch.randint(p, (m, g), generator=draw)))
        else:
            children = torch.zeros(m, n).scatter_add_(1, mates, weights.expand(m, p)) @ population
        sigma = torch.full((m,), float(o["sigma"]))
        if o["tau"]:
            sigma = own[mates[:, 0]] * (o["tau"] * torch.randn(m, generator=draw)).exp()
        if o["success"]:  # Rechenberg's rule, on the share of mutants above the median of the unmutated mean
            better = (
                float((fitness[mutated] > fitness[order[: n // 4]].mean()).float().mean()) if mutated.any() else 0.2
            )
            own *= math.exp((better - 0.2) / 3)
            sigma = own[:m].clone()
        factor = o["final"] + (1 - o["final"]) * (1 + math.cos(math.pi * progress)) / 2
        noise = torch.randn(m, g, generator=draw)
        if o["mirrored"]:
            half = m // 2
            children[half : 2 * half], noise[half : 2 * half] = children[:half].clone(), -noise[:half]
        children += noise * (sigma * factor)[:, None]
        children *= 1 - o["decay"]
        kept = population[order[: o["elites"]]]
        mean = population[top].mean(0, keepdim=True)[: int(o["reinject"])]
        population = torch.cat([kept, mean, children])
        own = torch.cat([own[order[: o["elites"]]], own[top].mean()[None][: int(o["reinject"])], sigma])
        mutated = torch.arange(n) >= n - m
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=float, default=30e6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    kept: dict[tuple[int, float], tuple[dict[str, tuple[Tensor, Tensor]], int]] = {}
    print("| variant | mean | seeds | seconds |\n|---|---|---|---|")
    for name, changes in VARIANTS.items():
        if given.only and name not in given.only:
            continue
        options = BASE | changes
        key = options["components"], options["whitening"]
        kept = {k: v for k, v in kept.items() if k in (key, (256, 0.25))}
        data, classes = kept[key] if key in kept else kept.setdefault(key, features(*key))
        start = time.monotonic()
        found = [evolve(data, classes, given.samples, seed, options) for seed in range(given.seeds)]
        each = " ".join(f"{value:.4f}" for value in found)
        print(f"| {name} | {statistics.mean(found):.4f} | {each} | {time.monotonic() - start:.0f} |", flush=True)
