"""Time every operator against plain noise and a row gather of the same shape, interleaved in one process.

    python bench/operators.py [--rows 1024] [--genes 12810] [--rounds 7] [--device cpu]

Ratios are what to compare: times depend on the machine and on what else it is doing.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.search.operators.crossover import CROSSOVERS, uniform
from neuroevo.search.operators.mutation import gaussian
from neuroevo.search.operators.selection import SELECTIONS, tournament


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--genes", type=int, default=12810, help="a multiple of 10: a linear head of 10 classes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    n, g, device = options.rows, options.genes, torch.device(options.device)

    layout = Layout(("head.weight", "head.bias"), ((10, g // 10 - 1), (10,)))
    context = Context(0, 1, 0.5, device)
    generator = context.generator("bench")
    genomes = torch.randn(n, layout.genes, generator=generator, device=device)
    fitness = torch.randn(n, generator=generator, device=device, dtype=torch.float64)
    parents = torch.randint(n, (n, 2), generator=generator, device=device)
    children = Population.new(genomes.clone())

    def generation() -> None:
        chosen = tournament(fitness, 2 * n, generator).view(n, 2)
        gaussian(Population.new(uniform(genomes, chosen, layout, generator)), context, layout)

    def obvious() -> None:
        drawn = torch.randint(n, (2 * n, 4), generator=generator, device=device)
        chosen = drawn.gather(1, fitness[drawn].argmax(1, keepdim=True)).view(n, 2)
        mask = torch.empty(genomes.shape, dtype=torch.bool, device=device).bernoulli_(0.5, generator=generator)
        child = torch.where(mask, genomes[chosen[:, 0]], genomes[chosen[:, 1]])
        child + 0.02 * torch.randn(child.shape, generator=generator, device=device)

    mutations = {
        "gaussian": {"self_adaptive": False},
        "gaussian rate 0.1": {"self_adaptive": False, "rate": 0.1},
        "gaussian per tensor 0.5": {"self_adaptive": False, "rate": 0.5, "per": "tensor"},
        "gaussian relative": {"self_adaptive": False, "relative": True},
        "gaussian self-adaptive": {},
    }
    timed: dict[str, Callable[[], object]] = {
        "torch.randn": lambda: torch.randn(n, g, generator=generator, device=device),
        "row gather": lambda: genomes.index_select(0, parents[:, 0]),
        **{name: partial(select, fitness, 2 * n, generator) for name, select in SELECTIONS.items()},
        **{name: partial(cross, genomes, parents, layout, generator) for name, cross in CROSSOVERS.items()},
        "uniform rate 0.3": partial(uniform, genomes, parents, layout, generator, rate=0.3),
        **{name: partial(gaussian, children, context, layout, **given) for name, given in mutations.items()},
        "tournament, uniform, gaussian": generation,
        "the same, obvious": obvious,
    }
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(options.rounds + 1):  # the first is for warming up
        for name, function in timed.items():
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}

    print(f"[{n}, {g}] float32 on {device}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"median of {options.rounds}")  # fmt: skip
    print(f"{'':30}{'ms':>8}{'x randn':>10}{'x gather':>10}")
    for name, taken in median.items():
        ratios = (taken / median[base] for base in ("torch.randn", "row gather"))
        print(f"{name:30}{1e3 * taken:8.1f}" + "".join(f"{ratio:10.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
