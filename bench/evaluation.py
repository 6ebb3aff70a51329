"""Whole populations in one GEMM: the rate of an evaluation against one `torch.mm`, its hits, and its memory.

    python bench/evaluation.py [--rounds 7] [--device cpu]

256 linear heads (1280 to 10) on 10,000 cached features, accuracy of each, interleaved with one `torch.mm` of the same
size, the same with its output allocated before, and a plain loop over heads, whose hits must be the same. Then what an
evaluation of 4,096 heads on 10,000 and 60,000 features uses beyond population and features, in processes of their own.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from neuroevo.engine import execution
from neuroevo.engine.genome import Layout
from neuroevo.networks import heads
from neuroevo.problems import scoring
from neuroevo.problems.metrics import METRICS

D, C = 1280, 10
LAYOUT = Layout(("head.weight", "head.bias"), ((C, D), (C,)))
FORWARD = heads.population_forward(heads.linear(D, C), "head")[1]
EVOLVED: Any = SimpleNamespace(decode=LAYOUT.unflatten, forward=FORWARD)


class Rows:
    """Features in memory."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.x, self.y = torch.randn(n, D, device=device), torch.randint(C, (n,), device=device)

    @property
    def dim(self) -> int:
        return D

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


def rates(rounds: int, device: torch.device) -> None:
    torch.manual_seed(0)
    rows, n, b = Rows(10_000, device), 256, 10_000
    genomes = torch.randn(n, LAYOUT.genes, device=device) / 36
    plan = execution.plan("gemm", LAYOUT.genes, D, [C], limit=2**30, device=device)
    index = torch.arange(b, device=device)
    w = LAYOUT.unflatten(genomes)["head.weight"].flatten(0, 1).t().contiguous()
    out = torch.empty(b, n * C, device=device)

    def evaluate(metric: str) -> Tensor:
        judgement = scoring.Judgement(EVOLVED, rows, [METRICS[metric]()])
        return scoring.evaluate(judgement, genomes, index, plan).values[:, 0]

    def loop() -> Tensor:
        weights = LAYOUT.unflatten(genomes)
        layers = zip(weights["head.weight"], weights["head.bias"], strict=True)
        hits = [torch.nn.functional.linear(rows.x, w, bias).argmax(1) == rows.y for w, bias in layers]
        return torch.stack(hits).double().mean(1)

    timed = {
        "torch.mm": lambda: torch.mm(rows.x, w),
        "torch.mm, out given": lambda: torch.mm(rows.x, w, out=out),
        "evaluate, accuracy": lambda: evaluate("accuracy"),
        "evaluate, cross-entropy": lambda: evaluate("cross_entropy"),
        "loop over heads, accuracy": loop,
    }
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds + 1):  # the first is for warming up
        for name, function in timed.items():
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, median of {rounds}; plan {plan}")
    flops = 2 * n * C * D * b
    for name, times in seconds.items():
        taken = statistics.median(times[1:])
        ratio = statistics.median(m / t for m, t in zip(seconds["torch.mm, out given"][1:], times[1:], strict=True))
        print(f"{name:28}{1e3 * taken:8.1f} ms{flops / taken / 1e9:10.1f} GFLOP/s{ratio:8.3f} of mm with out given")
    worst = int(((evaluate("accuracy") - loop()) * b).abs().max().round())
    print(f"hits that differ from the loop's, at most for one head: {worst} of {b}")


def peak() -> int:
    """Return the most memory that this process has had resident, in KiB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)


def memory(samples: int, metric: str, limit: int) -> None:
    """Print what one evaluation of 4,096 heads adds to the peak of this process's memory."""
    rows, genomes = Rows(samples, torch.device("cpu")), torch.randn(4096, LAYOUT.genes) / 36
    plan = execution.plan("gemm", LAYOUT.genes, D, [C], limit=limit, device=torch.device("cpu"))
    small = execution.plan("gemm", LAYOUT.genes, D, [C], limit=2**25, device=torch.device("cpu"))
    judgement = scoring.Judgement(EVOLVED, rows, [METRICS[metric]()])
    # The libraries' own buffers, before the peak is read.
    scoring.evaluate(judgement, genomes[:2], torch.arange(64), small)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on (Linux)
    before = peak()
    scoring.evaluate(judgement, genomes, torch.arange(samples), plan)
    used = (peak() - before) / 1024
    print(f"4,096 heads on {samples:,} features, {metric}: {used:.0f} MiB more, limit {limit / 2**20:.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)  # samples, metric, limit: a process of its own
    options = parser.parse_args()
    if options.memory:
        memory(int(options.memory[0]), options.memory[1], int(options.memory[2]))
    else:
        rates(options.rounds, torch.device(options.device))
        for metric in ("accuracy", "cross_entropy"):
            for samples in (10_000, 60_000):
                for limit in (2**26, 2**28):
                    given = ["--memory", str(samples), metric, str(limit)]
                    subprocess.run([sys.executable, __file__, *given], check=True)
