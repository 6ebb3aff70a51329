"""A gradient step for a whole population: its rate against one `torch.mm`, and against a loop of `torch.optim.SGD`.

    python bench/gradient.py [--rounds 5] [--device cpu]

1,024 linear heads (1280 to 10), batch 128; 256 heads of one hidden layer of 256. All in turn within one process.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.learning import optimizers
from neuroevo.learning.refine import refiner, slice_size
from neuroevo.learning.task import Settings, Task
from neuroevo.networks import heads

D, C, B = 1280, 10, 128


class Rows:
    """Features in memory."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.x, self._y = torch.randn(n, D, device=device), torch.randint(C, (n,), device=device)

    @property
    def labels(self) -> Tensor:
        return self._y

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[index.to(self.x.device)], self._y[index.to(self.x.device)]


def setup(make: Callable[[], nn.Module], n: int, steps: int, limit: int, device: torch.device):  # type: ignore[no-untyped-def]
    """Return a head, a task, settings and a population."""
    rows, head = Rows(10_000, device), make().to(device)
    layout = Layout.of({f"fc.{key}": p for key, p in head.named_parameters()})
    linear = "fc" if isinstance(head, nn.Linear) else None
    start, widths = torch.zeros(layout.genes, device=device), heads.widths(head)
    slices = slice_size(
        layout.genes, D, widths, linear=linear is not None, slots=1, own=False, size=B, limit=limit, device=device
    )
    task = Task(layout, heads.population_forward(head, "fc")[1], linear, rows, torch.arange(10_000), C,
                         slices, B, limit // 8, start, device)  # fmt: skip
    settings = Settings(
        steps=steps, batch_size=B, lr=0.01, weight_decay=0.0, label_smoothing=0.0, dropout=None, mixup=0.0,
        decay_to_start=0.0, schedule="constant", final=0.1, who="all", share=1.0, batches="shared",
        optimizer_state="fresh", balanced=False, class_weights=False, logit_adjustment=0.0,
    )  # fmt: skip
    genomes = torch.randn(n, layout.genes, device=device).div_(36)
    return head, task, settings, Population.new(genomes)


def peak() -> int:
    """Return the most memory that this process has had resident, in KiB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)


def memory(n: int, limit: int, hidden: int) -> None:
    """Print what a refine adds to the peak of this process's memory, beside the refined population itself."""
    device = torch.device("cpu")

    def make() -> nn.Module:
        return heads.mlp(D, C, hidden=[hidden]) if hidden else nn.Linear(D, C)

    _, small, settings, few = setup(make, 2, 2, limit, device)
    refiner(small, optimizers.sgd(), settings)[0](few, Context(0, 1, 0.0, device))  # the libraries' own buffers
    _, task, settings, population = setup(make, n, 5, limit, device)
    refine = refiner(task, optimizers.sgd(), settings)[0]
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on (Linux)
    before = peak()
    refine(population, Context(0, 1, 0.0, device))
    used = (peak() - before) / 1024 - population.genomes.nbytes / 2**20
    what = f"hidden layer of {hidden}" if hidden else "linear"
    print(f"{n} heads, {what}: {used:.0f} MiB beside population and refined population, limit {limit / 2**20:.0f} MiB")


def compare(name: str, make: Callable[[], nn.Module], n: int, loop_of: int, rounds: int, device: torch.device) -> None:
    """Print the rate of a step of `n` heads; the loop trains `loop_of` of them, and is scaled up."""
    steps = 10
    head, task, settings, population = setup(make, n, steps, 2**30, device)
    rows, linear = task.source, task.linear
    context = Context(0, 1, 0.0, device)
    ours = {m: refiner(task, optimizers.sgd(momentum=m), settings)[0] for m in (0.0, 0.9)}
    index = torch.randint(10_000, (steps, B), device=device)

    def loop(momentum: float) -> None:
        for _ in range(loop_of):
            net = make().to(device)
            optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum)
            for rows_ in index:
                x, y = rows.batch(rows_)
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()

    # A linear head's step is two products of this size: logits, and the gradient by the weights.
    a, b = torch.randn(n * C, D, device=device), torch.randn(D, B, device=device)
    out = torch.empty(n * C, B, device=device)
    timed: dict[str, Callable[[], object]] = {
        "torch.mm": lambda: [torch.mm(a, b, out=out) for _ in range(steps)],
        "step": lambda: ours[0.0](population, context),
        "step, momentum": lambda: ours[0.9](population, context),
        "loop": lambda: loop(0.0),
        "loop, momentum": lambda: loop(0.9),
    }
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {key: [] for key in timed}
    for _ in range(rounds + 1):
        for key, function in timed.items():
            synchronize()
            began = time.perf_counter()
            function()
            synchronize()
            scale = n / loop_of if key.startswith("loop") else 1
            seconds[key].append((time.perf_counter() - began) * scale / steps)
    median = {key: statistics.median(times[1:]) for key, times in seconds.items()}
    mm = 2 * n * C * D * B / median["torch.mm"]
    print(f"{name}, {n} individuals, batch {B}: torch.mm {mm / 1e9:.0f} GFLOP/s")
    for key in ("step", "step, momentum"):
        flops = 2 * sum(p.numel() for p in head.parameters() if p.ndim == 2) * n * B
        flops = 2 * flops if linear else 3 * flops - 2 * n * D * head[0].out_features * B  # type: ignore[index]
        rate = flops / median[key]
        against = median[key.replace("step", "loop")] / median[key]
        print(f"  {key:16}{1e3 * median[key]:8.1f} ms  {rate / 1e9:6.1f} GFLOP/s, {rate / mm:.2f} of torch.mm's rate; "
              f"{against:.1f} times faster than the loop")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", nargs=3, type=int, help=argparse.SUPPRESS)  # heads, limit, width: its own process
    options = parser.parse_args()
    if options.memory:
        memory(*options.memory)
        sys.exit()
    device = torch.device(options.device)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, median of {options.rounds}")
    compare("linear", lambda: nn.Linear(D, C), 1024, 64, options.rounds, device)
    compare("mlp 256", lambda: heads.mlp(D, C, hidden=[256]), 256, 16, options.rounds, device)
    for n, hidden in ((64, 0), (4096, 0), (16, 256), (256, 256)):
        for limit in (2**26, 2**28):
            subprocess.run([sys.executable, __file__, "--memory", str(n), str(limit), str(hidden)], check=True)
