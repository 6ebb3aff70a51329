"""How far natural evolution strategies and the GA get on functions of few genes, by evaluations.

    python bench/functions.py [--rounds 3] [--threads 1] [--json FILE]

An ellipsoid with a condition of 1,000 in axes that are turned, and Rosenbrock's valley, from 1.5 in all genes, sigma
0.3. Cells are the loss of the best candidate, the median of so many seeds. `nes` is `xnes` up to 20 genes, and `snes`.
"""

import json
import statistics
from collections.abc import Callable

import torch
from about import about, begin, parser
from torch import Tensor

import neuroevo as ne

GENES, EVALUATIONS = (3, 5, 10, 20, 30, 50, 100), (3_200, 12_800, 51_200)


def ellipsoid(x: Tensor) -> Tensor:
    """Return the loss [n] of an ellipsoid whose axes are turned."""
    g = x.shape[1]
    turn = torch.linalg.qr(torch.randn(g, g, generator=torch.Generator().manual_seed(1)))[0]
    return (10 ** (3 * torch.arange(g) / (g - 1)) * (x @ turn.T).square()).sum(1)


def rosenbrock(x: Tensor) -> Tensor:
    """Return the loss [n] of Rosenbrock's valley."""
    return (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"ellipsoid": ellipsoid, "rosenbrock": rosenbrock}
ALGORITHMS = {
    "xnes": lambda: ne.xnes(population=32),
    "snes": lambda: ne.snes(population=32),
    "sep_cma": lambda: ne.sep_cma(population=32),
    "ga": lambda: ne.ga(population=64),
}


def main() -> None:
    made = parser(__doc__, rounds=3)
    options = made.parse_args()
    begin(made, options)
    sizes, budgets = ((3,), (320,)) if options.small else (GENES, EVALUATIONS)
    record, found = about(options.rounds, torch.device("cpu")), []
    print(
        "| function | genes | evaluations | " + " | ".join(ALGORITHMS) + " |\n" + "|---" * (3 + len(ALGORITHMS)) + "|"
    )
    for name, loss in LOSSES.items():
        for g in sizes:
            for count in budgets:
                row = {key: reach(loss, g, count, key, options.rounds) for key in ALGORITHMS}
                found.append({"function": name, "genes": g, "evaluations": count, **row})
                print(
                    f"| {name} | {g} | {count:,} | " + " | ".join(f"{v:.2g}" for v in row.values()) + " |", flush=True
                )
    if options.json:
        options.json.write_text(json.dumps({**record, "found": found}, indent=1))


def reach(loss: Callable[[Tensor], Tensor], g: int, count: int, name: str, rounds: int) -> float:
    """Return the median loss that an algorithm reaches."""
    start, budget = torch.full((g,), 1.5), ne.Budget(samples=count)
    return statistics.median(
        -ne.evolve(start=start, fitness=lambda x: -loss(x), algorithm=ALGORITHMS[name](), sigma=0.3, budget=budget,
                   every=20, seed=seed).fitness
        for seed in range(rounds)
    )  # fmt: skip


if __name__ == "__main__":
    main()
