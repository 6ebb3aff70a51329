"""A sphere of 50 genes by `neuroevo.evolve` and by evotorch's SNES, at equal evaluations.

    python bench/sphere.py [--evaluations 10000] [--seeds 11]

All begin at a genome of ones, whose sum of squares is 50, with a deviation of 0.5; one thread. What is compared is the
sum of squares, the lower the better: of evotorch the better of its centre and of the best that it ever sampled, of ours
the champion, which is looked at once, at the end.
"""

import argparse
import logging
import os
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor

import neuroevo as ne
from neuroevo.search.operators.crossover import uniform
from neuroevo.search.operators.mutation import gaussian
from neuroevo.search.operators.selection import truncation

GENES, SIGMA = 50, 0.5


def sphere(genomes: Tensor) -> Tensor:
    """Return the sums of squares [n] of genomes [n, g]."""
    return genomes.double().square().sum(-1)


def evotorchs(population: int, seed: int, evaluations: int) -> float:
    """Return what evotorch's SNES comes to."""
    from evotorch import Problem
    from evotorch.algorithms import SNES

    problem = Problem("min", sphere, solution_length=GENES, initial_bounds=(-1, 1), vectorized=True, seed=seed,
                      dtype=torch.float32, eval_dtype=torch.float64)  # fmt: skip
    search = SNES(problem, stdev_init=SIGMA, popsize=population, center_init=torch.ones(GENES))
    best = float("inf")
    for _ in range(evaluations // population):
        search.step()
        best = min(best, float(search.status["best_eval"]))
    return min(best, float(sphere(torch.as_tensor(search.status["center"]))))


def ours(algorithm: Callable[[], Any], seed: int, evaluations: int) -> float:
    """Return what an algorithm of the package comes to."""
    found = ne.evolve(
        start=torch.ones(GENES), fitness=lambda genomes: -sphere(genomes), sigma=SIGMA, algorithm=algorithm(),
        budget=ne.Budget(samples=evaluations), every=10**9, seed=seed, device="cpu",
    )  # fmt: skip
    return -found.fitness


adaptive = partial(gaussian, sigma=0.1, self_adaptive=True, tau=None, schedule="constant")
RIVALS: dict[str, Callable[[int, int], float]] = {
    "evotorch `SNES`, 15, its own for 50 genes": partial(evotorchs, 15),
    "`snes(population=15)`": partial(ours, partial(ne.snes, population=15)),
    "evotorch `SNES`, 64": partial(evotorchs, 64),
    "`snes(population=64)`": partial(ours, partial(ne.snes, population=64)),
    "evotorch `SNES`, 256": partial(evotorchs, 256),
    "`snes()`: 256": partial(ours, ne.snes),
    "`ga()`": partial(ours, ne.ga),
    "`ga(population=16, selection=truncation, crossover=uniform, mutation=adaptive)`": partial(
        ours, partial(ne.ga, population=16, selection=truncation, crossover=uniform, mutation=adaptive)
    ),
    "`ga(population=64, mutation=partial(gaussian, sigma=0.05, final=0.001))`": partial(
        ours, partial(ne.ga, population=64, mutation=partial(gaussian, sigma=0.05, final=0.001))
    ),
    "`pso()`": partial(ours, ne.pso),
    '`pso(population=8, inertia=0.5, cognitive=2, social=2, max_velocity=0.3, neighbourhood="ring")`': partial(
        ours, partial(ne.pso, population=8, inertia=0.5, cognitive=2, social=2, max_velocity=0.3, neighbourhood="ring")
    ),
}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=11)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"| {given.evaluations:,} evaluations, {given.seeds} seeds | median | lowest | highest |\n|---|---|---|---|")
    for name, search in RIVALS.items():
        found = [search(seed, given.evaluations) for seed in range(given.seeds)]
        print(f"| {name} | {statistics.median(found):.2g} | {min(found):.2g} | {max(found):.2g} |", flush=True)


if __name__ == "__main__":
    main()
