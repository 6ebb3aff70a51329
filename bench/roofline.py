"""What a generation is made of, each against what bounds it: a product, noise, a copy, a plain file.

    python bench/roofline.py [--rounds 7] [--threads 1] [--device cpu] [--folder DIR] [--small] [--json FILE]

Scoring against `torch.mm` of the same shape and precision with its output given; a gradient step of 1,024 linear heads
against its two products; all of proposing, as it is by default, against `normal_` of the population, in place; the
crossover of many parents against its product; mutation against `normal_`; crossover of two against a copy of the
population; a batch of rows against `index_select`; a checkpoint against a plain file of the genomes, both with
fsync. A share of 1 is at the bound. Rounds are interleaved.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from about import about, begin, parser
from checkpoints import ATTRIBUTES, first
from peer_heads import score_heads
from peer_networks import gradient_steps
from torch import Tensor

from neuroevo.data.samples import Features
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.search.algorithms.base import GAState
from neuroevo.search.algorithms.ga import ga
from neuroevo.search.operators.crossover import uniform, weighted
from neuroevo.search.operators.mutation import gaussian
from neuroevo.storage import checkpoint

CLASSES = 10


class Bound(NamedTuple):
    """A work, and what bounds it."""

    ours: Callable[[], object]
    bound: Callable[[], object]
    name: str


def products(small: bool, device: torch.device) -> dict[str, Bound]:
    """Return what products bound: scoring, and gradient steps."""
    scores, steps = score_heads(small, device).ways, gradient_steps(small, device)
    done = round(1 / steps.scale["neuroevo float32"])  # steps a call

    def learn() -> None:
        for _ in range(2 * done):
            steps.ways["torch.mm float32"]()  # type: ignore[operator]

    found: dict[str, Any] = {
        "score 256 heads, float32": (scores["neuroevo float32"], scores["torch.mm float32"], "mm"),
        "score 256 heads, bfloat16": (scores["neuroevo best"], scores["torch.mm bfloat16"], "mm in bfloat16"),
        "gradient steps, 1,024 heads": (steps.ways["neuroevo float32"], learn, "its products"),
    }
    return {name: Bound(*given) for name, given in found.items()}


def variation(small: bool, device: torch.device) -> dict[str, Bound]:
    """Return what proposes and hands out a population: all of it, crossover, mutation, batches."""
    n, d = (64, 31) if small else (1024, 1280)
    layout = Layout(("head.weight", "head.bias"), ((CLASSES, d), (CLASSES,)))
    generator = torch.Generator(device).manual_seed(0)
    genomes = torch.randn(n, layout.genes, generator=generator, device=device)
    out, children = torch.empty_like(genomes), Population.new(genomes.clone())
    many = torch.randint(n, (n, min(256, n)), generator=generator, device=device)
    square, rows = torch.randn(n, n, device=device), torch.randperm(10 * n, device=device)[:n]
    samples = Features((torch.randn(10 * n, d, device=device),), rows.new_zeros(10 * n), None, device)
    features, context = torch.randn(10 * n, d, device=device), Context(0, 1, 0.5, device)
    picked = torch.empty(n, d, device=device)

    algorithm = ga(population=n)
    state = GAState(Population.new(genomes), torch.arange(n, device=device).double())

    def copy() -> Tensor:
        return out.copy_(genomes)

    return {
        "proposing": Bound(
            partial(algorithm.ask, state, context._replace(layout=layout)),
            partial(out.normal_, generator=generator),
            "noise",
        ),
        "crossover of many parents": Bound(
            partial(weighted, genomes, many, layout, generator), partial(torch.mm, square, genomes, out=out), "mm"
        ),
        "crossover of two": Bound(partial(uniform, genomes, many[:, :2], layout, generator), copy, "a copy"),
        "Gaussian mutation": Bound(
            partial(gaussian, children, context, layout), partial(out.normal_, generator=generator), "noise"
        ),
        "a batch of samples": Bound(
            partial(samples.batch, rows), partial(torch.index_select, features, 0, rows, out=picked), "index_select"
        ),
    }


def writing(small: bool, folder: Path) -> dict[str, Bound]:
    """Return what writes to the disk: a checkpoint."""
    step = first(16 if small else 1024)
    data = memoryview(step.population.genomes.numpy()).cast("B")

    def plain() -> None:
        with open(folder / "plain", "wb", buffering=0) as file:
            rest = data
            while len(rest):
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        (folder / "plain").unlink()

    def ours() -> None:
        checkpoint.write(folder / "c.h5", ATTRIBUTES, {}, step, [])
        (folder / "c.h5").unlink()

    return {"a checkpoint": Bound(ours, plain, "a plain file")}


def measure(works: dict[str, Bound], rounds: int, device: torch.device) -> dict[str, dict[str, Any]]:
    """Return the medians of both sides' seconds, and of the bound's share round by round."""
    settle: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def taken(call: Callable[[], object]) -> float:
        settle()
        began = time.perf_counter()
        call()
        settle()
        return time.perf_counter() - began

    found = {}
    for name, work in works.items():
        pairs = [(taken(work.ours), taken(work.bound)) for _ in range(rounds + 1)][1:]  # the first is for warming up
        ours, bound = (statistics.median(side) for side in zip(*pairs, strict=True))
        share = statistics.median(b / a for a, b in pairs)
        found[name] = {"seconds": ours, "bound": work.name, "bound_seconds": bound, "share": share}
    return found


def main() -> None:
    made = parser(__doc__, rounds=7)
    made.add_argument("--device", default="cpu")
    made.add_argument("--folder", help="on the disk to measure; default a temporary one")
    options = made.parse_args()
    begin(made, options)
    torch.manual_seed(0)
    device = torch.device(options.device)
    of = about(options.rounds, device)
    print("\n| work | ms | bound by | ms | share of the bound |\n|---|---|---|---|---|")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for make in (products, variation):
            found |= measure(make(options.small, device), options.rounds, device)
        found |= measure(writing(options.small, Path(folder)), options.rounds, device)
    for name, row in found.items():
        times = f"{1e3 * row['seconds']:.1f} | {row['bound']} | {1e3 * row['bound_seconds']:.1f}"
        print(f"| {name} | {times} | {row['share']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps({**of, "work": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
