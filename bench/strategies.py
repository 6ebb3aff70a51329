"""Time a generation of `snes`, ask and tell, against evotorch's SNES set alike, interleaved in one process.

    python bench/strategies.py [--population 256] [--genes 12810] [--rounds 15] [--device cpu]

The fitness is one column of the genomes, so that the searches are all that takes time. The other strategies are timed
too. Ratios are what to compare: times depend on the machine and on what else it is doing.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from evotorch import Problem
from evotorch.algorithms import SNES
from torch import Tensor

from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms import ALGORITHMS

OURS = ("snes", "pgpe", "cem", "sep_cma", "es")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=int, default=256)
    parser.add_argument("--genes", type=int, default=12810)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    n, g, device = options.population, options.genes, torch.device(options.device)

    def first(genomes: Tensor) -> Tensor:
        return genomes[:, 0]

    make_problem: Any = Problem
    make_search: Any = SNES
    problem = make_problem(
        "max", first, solution_length=g, initial_bounds=(0, 0), vectorized=True, seed=0, device=device, dtype="float32"
    )
    theirs = make_search(problem, popsize=n, stdev_init=0.02)
    states: dict[str, Any] = {}
    algorithms = {name: ALGORITHMS[name](population=n) for name in OURS}
    for name, algorithm in algorithms.items():
        states[name] = algorithm.init(torch.zeros(1, g, device=device), 0.02, Context(0, 0, 0.0, device))

    def generation(name: str, number: int) -> None:
        algorithm = algorithms[name]
        population = algorithm.ask(states[name], Context(0, number, 0.0, device))
        values = first(population.genomes).double()
        states[name] = algorithm.tell(states[name], population, Scores(values[:, None], ~values.isfinite()))

    timed: dict[str, Callable[[int], object]] = {
        "evotorch's SNES": lambda number: theirs.step(),
        **{name: partial(generation, name) for name in OURS},
        "torch.randn": lambda number: torch.randn(n, g, device=device),
    }
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(1, options.rounds + 3):  # the first two are for warming up
        for name, function in timed.items():
            synchronize()
            start = time.perf_counter()
            function(number)
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times[2:]) for name, times in seconds.items()}

    print(f"[{n}, {g}] float32 on {device}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"median of {options.rounds}")  # fmt: skip
    print(f"{'a generation':20}{'ms':>8}{'x evotorch':>12}")
    for name, taken in median.items():
        print(f"{name:20}{1e3 * taken:8.1f}{taken / median[next(iter(timed))]:12.2f}")


if __name__ == "__main__":
    main()
