"""Time the parts of the default run's generation, interleaved in one process.

    python bench/generation.py [--rounds 15]

256 linear heads on 512 components and 512 samples, of ten classes, float32, one thread unless OMP_NUM_THREADS says
otherwise. Proposing is `ask`. Its bounds are below: the noise alone, and the product of weights and genomes where each
child has parents of its own.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
from torch import Tensor

from neuroevo.engine import execution, loop
from neuroevo.engine.genome import Layout
from neuroevo.engine.rng import Context
from neuroevo.networks import heads
from neuroevo.problems import scoring
from neuroevo.problems.metrics import METRICS
from neuroevo.search.algorithms.ga import ga

N, D, B, C = 256, 512, 512, 10
LAYOUT = Layout(("head.weight", "head.bias"), ((C, D), (C,)))
CPU = torch.device("cpu")


class Rows:
    """Features in memory."""

    dim = D

    def __init__(self) -> None:
        self.x, self.y = torch.randn(10 * B, D), torch.randint(C, (10 * B,))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    evolved: Any = SimpleNamespace(
        decode=LAYOUT.unflatten, forward=heads.population_forward(heads.linear(D, C), "head")[1]
    )
    judgement = scoring.Judgement(evolved, Rows(), [METRICS["cross_entropy"]()])
    plan = execution.plan("gemm", LAYOUT.genes, D, [C], limit=2**30, device=CPU)
    index = torch.randperm(10 * B)[:B]
    contexts = [Context(0, generation, 0.1, CPU, LAYOUT) for generation in range(3)]
    algorithm, own = ga(population=N), ga(population=N, parents=N)
    state = algorithm.init(torch.zeros(1, LAYOUT.genes), 0.01, contexts[0])
    population = algorithm.ask(state, contexts[1])
    scores, _ = scoring.fitness(judgement, population, index, plan)
    state = algorithm.tell(state, population, scores)
    bfloat16 = plan._replace(precision="bfloat16")
    weights, noise = torch.rand(N, N), torch.empty_like(population.genomes)
    timed: dict[str, Callable[[], object]] = {
        "ask": partial(algorithm.ask, state, contexts[2]),
        "ask, parents=256": partial(own.ask, state, contexts[2]),
        "score": partial(scoring.fitness, judgement, population, index, plan),
        "score, bfloat16": partial(scoring.fitness, judgement, population, index, bfloat16, rescored=1),
        "tell": partial(algorithm.tell, state, population, scores),
        "statistics": partial(loop.statistics, population, scores),
        "candidates": partial(algorithm.candidates, state),
        "normal_ of the population": noise.normal_,
        "torch.mm, [n, n] x [n, g]": partial(torch.mm, weights, population.genomes, out=noise),
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds + 1):  # the first is for warming up
        for name, function in timed.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {rounds}")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times[1:], seconds["score"][1:], strict=True))
        print(f"{name:28}{1e3 * statistics.median(times[1:]):8.2f} ms{ratio:8.3f} of scoring")


if __name__ == "__main__":
    main()
