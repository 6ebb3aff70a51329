"""Time slices done by workers against the same in one process, and reckon where more workers stop paying.

    python bench/cluster.py [--rounds 5] [--works efficiency,messages,simulation] [--network 1.25e9] [--measured FILE]

Efficiency: two workers with one thread each against one process with two threads, on this machine alone, interleaved:
scoring and gradient steps of linear heads, and the last stage of EfficientNet-Lite0; 1 is as quick. A work is what one
generation evaluates, by the plan's own slices; parts are at the workers before the clock starts. Messages: a slice that
does nothing, with as many bytes there and back. Simulation: each generation is what a run proposes by itself, messages
that leave it one after another, at the network's rate (bytes a second, given) or at what was measured here if that is
slower, and what is lost on each (measured here), and workers that take one slice at a time; nothing else is busy, and
nobody dies. `--measured` takes what an earlier run's --json has of the first two.
"""

import heapq
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import blocks
import torch
from about import about, begin, named, parser
from torch import Tensor

import neuroevo as ne
from neuroevo.engine.execution import LOCAL, Execution, Executor, Work, plan
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.learning import optimizers
from neuroevo.learning.refine import refiner
from neuroevo.learning.task import Settings, Task
from neuroevo.networks import heads
from neuroevo.problems import scoring
from neuroevo.problems.metrics import METRICS

WORKS = ("efficiency", "messages", "simulation")
CPU = torch.device("cpu")
SIZES = [0, 10**5, 10**6, 10**7, 10**8]  # bytes of a slice
WORKERS = [1, 10, 100, 1000]


class Sizes(NamedTuple):
    """How large the works are."""

    heads: int = 2048
    dim: int = 1280
    samples: int = 4096
    slice: int = 128
    stages: int = 8


class Rows:
    """Features in memory."""

    def __init__(self, n: int, dim: int) -> None:
        self.x, self.labels = torch.randn(n, dim), torch.randint(10, (n,))
        self.dim = dim

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[index], self.labels[index]


def score(sizes: Sizes, executor: Executor) -> Callable[[], object]:
    """Return what scores linear heads."""
    layout = Layout(("head.weight", "head.bias"), ((10, sizes.dim), (10,)))
    forward = heads.population_forward(heads.linear(sizes.dim, 10), "head")[1]
    evolved: Any = SimpleNamespace(decode=layout.unflatten, forward=forward)
    judgement = scoring.Judgement(evolved, Rows(sizes.samples, sizes.dim), [METRICS["cross_entropy"]()])
    judgement = judgement._replace(executor=executor)
    genomes = torch.randn(sizes.heads, layout.genes) / sizes.dim**0.5
    execution = plan("gemm", layout.genes, sizes.dim, [10], limit=2**30, device=CPU)._replace(individuals=sizes.slice)
    return partial(scoring.evaluate, judgement, genomes, torch.arange(sizes.samples), execution)


def learn(sizes: Sizes, executor: Executor) -> Callable[[], object]:
    """Return what takes linear heads through four gradient steps."""
    layout = Layout(("head.weight", "head.bias"), ((10, sizes.dim), (10,)))
    rows = Rows(sizes.samples, sizes.dim)
    task = Task(
        layout=layout, forward=heads.population_forward(heads.linear(sizes.dim, 10), "head")[1], linear="head",
        source=rows, train=torch.arange(sizes.samples), classes=10, individuals=sizes.slice, micro=128, keep=2**27,
        start=torch.zeros(layout.genes), device=CPU, executor=executor,
    )  # fmt: skip
    settings = Settings(
        steps=4, batch_size=128, lr=0.01, weight_decay=0.0, label_smoothing=0.0, dropout=0.0, mixup=0.0,
        decay_to_start=0.0, schedule="constant", final=0.0, who="all", share=1.0, batches="shared",
        optimizer_state="fresh", balanced=False, class_weights=False, logit_adjustment=0.0,
    )  # fmt: skip
    population = Population.new(torch.randn(sizes.heads, layout.genes) / sizes.dim**0.5)
    return partial(refiner(task, optimizers.sgd(), settings).refine, population, Context(0, 1, 0.0, CPU))


def stage(sizes: Sizes, executor: Executor) -> Callable[[], object]:
    """Return what scores last stages of EfficientNet-Lite0, one after another, on what comes before them."""
    backbone, _, start, make = blocks.setup("EfficientNet-Lite0, last stage", CPU)
    assert backbone.cut is not None
    layout = Layout.of({key: w[0] for key, w in start.items()})
    rows = blocks.Rows(256, backbone.cut.width, CPU)
    judgement = blocks.judge(layout, make("loop"), rows)._replace(executor=executor)
    execution = Execution("loop", blocks.CLASSES, 1, 128, 2**30, 1)
    genomes = layout.flatten(start).repeat(sizes.stages, 1)
    return partial(scoring.evaluate, judgement, genomes, torch.arange(256), execution)


EFFICIENCY: dict[str, Callable[[Sizes, Executor], Callable[[], object]]] = {
    "scoring": score, "gradient steps": learn, "last stage": stage,
}  # fmt: skip


def clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """Return, and print, the seconds of each work in one process with two threads, and by two workers with one each."""
    rows = []
    torch.set_num_threads(1)  # which workers take over
    with ne.workers(2) as executor:
        for name, make in EFFICIENCY.items():
            torch.manual_seed(0)
            here, there = make(sizes, LOCAL), make(sizes, executor)
            here(), there()  # parts go, and libraries set themselves up
            seconds: dict[str, list[float]] = {"one process": [], "two workers": []}
            for _ in range(rounds):
                torch.set_num_threads(2)
                seconds["one process"].append(clock(here))
                torch.set_num_threads(1)
                seconds["two workers"].append(clock(there))
            torch.set_num_threads(2)
            ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
            found = {key: statistics.median(times) for key, times in seconds.items()}
            rows.append({"work": name, "seconds": found, "efficiency": ratio})
            print(f"{name:16}{found['one process']:8.3f} s{found['two workers']:8.3f} s  efficiency {ratio:.2f}")
    return rows


def echo(parts: None, common: None, piece: Tensor) -> Tensor:
    return piece


def ask_all(executor: Executor, work: Work[Tensor, Tensor], pieces: list[Tensor]) -> list[Tensor]:
    return list(executor.map(work, pieces))


def measure(rounds: int, largest: int) -> list[dict[str, float]]:
    """Return, and print, the seconds of a slice that does nothing, by its bytes there and back."""
    rows = []
    with ne.workers(1) as executor:
        for size in [size for size in SIZES if size <= largest]:
            pieces = [torch.zeros(size, dtype=torch.uint8)] * 8
            work: Work[Tensor, Tensor] = Work(echo, None)
            ask = partial(ask_all, executor, work, pieces)
            ask()
            seconds = statistics.median(clock(ask) for _ in range(rounds)) / 8
            rows.append({"bytes": size, "seconds": seconds})
            print(f"{size:12,} bytes there and back{1e3 * seconds:10.2f} ms a slice")
    return rows


class Generation(NamedTuple):
    """What a generation is, for its simulation."""

    name: str
    slices: int
    seconds: float  # of one slice, at a worker
    there: float  # bytes of one slice
    back: float  # bytes of what it comes to
    alone: float = 0.0  # seconds of what the run itself does, proposing above all


def simulate(of: Generation, workers: int, lost: float, rate: float) -> float:
    """Return the seconds of a generation with so many workers.

    `lost` seconds on each message, which goes at `rate` bytes a second; the run's own link takes one at a time, a slice
    for a worker that has nothing to do before an answer.
    """
    send, receive = lost + of.there / rate, lost + of.back / rate
    link, left = of.alone, of.slices  # when the run's link is free, and slices that are to be sent
    free, answers = workers, [0.0][:0]  # workers with nothing to do, and when others' answers are ready
    while left or answers:
        if left and free:
            link += send
            heapq.heappush(answers, link + of.seconds)
            left, free = left - 1, free - 1
        else:
            link = max(link, heapq.heappop(answers)) + receive
            free += 1
    return link


def generations(rates: dict[str, float]) -> list[Generation]:
    """Return generations of sizes that machines may meet; `rates` are seconds of an individual on this machine."""
    head, deep = 4 * 12_810, 4 * 1_030_410
    return [
        Generation("1,024 heads", 8, 128 * rates["scoring"], 128 * head, 128 * 16, 1024 * rates["propose"]),
        Generation("16,384 heads", 128, 128 * rates["scoring"], 128 * head, 128 * 16, 16_384 * rates["propose"]),
        Generation("a million heads", 7813, 128 * rates["scoring"], 128 * head, 128 * 16, 1e6 * rates["propose"]),
        Generation("256 last stages", 256, rates["last stage"], deep, 16, 256 * 80 * rates["propose"]),
        Generation("256 networks of a billion genes", 256, 1000 * rates["last stage"], 4e9, 16, 0.0),
    ]


def reckon(rates: dict[str, float], lost: float, rate: float) -> list[dict[str, Any]]:
    """Return, and print, how many times as fast as one worker more of them are."""
    rows = []
    print(f"| generation | {' | '.join(f'{n:,} workers' for n in WORKERS)} |\n|---|{'---|' * len(WORKERS)}")
    for of in generations(rates):
        seconds = [simulate(of, n, lost, rate) for n in WORKERS]
        cells = [f"{t:,.3g} s, {seconds[0] / t:,.1f}" for t in seconds]
        print(f"| {of.name} | {' | '.join(cells)} |")
        rows.append({**of._asdict(), "of": dict(zip(WORKERS, seconds, strict=True))})
    return rows


def way(found: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Return what is lost on each message, and the bytes a second of those that aren't the largest: one of two ways."""
    lost = found[0]["seconds"] / 2
    row = max(found[1:-1] or found[1:], key=lambda row: row["bytes"])
    return lost, row["bytes"] / (row["seconds"] / 2 - lost)


def individual(found: Sequence[dict[str, Any]], sizes: Sizes) -> dict[str, float]:
    """Return the seconds of one individual, of what one process took for all."""
    counts = {"scoring": sizes.heads, "last stage": sizes.stages, "gradient steps": sizes.heads}
    rates = {row["work"]: row["seconds"]["one process"] / counts[row["work"]] for row in found}
    noise = torch.empty(64, 12_810)
    return rates | {"propose": clock(noise.normal_) / 64}


def main() -> None:
    made = parser(__doc__, 5)
    made.add_argument("--works", default=",".join(WORKS), help=", ".join(WORKS))
    made.add_argument("--measured", type=Path, help="a file of an earlier --json")
    made.add_argument("--network", type=float, default=1.25e9, help="bytes a second between machines")
    options = made.parse_args()
    begin(made, options)
    works = named(made, "--works", options.works, dict.fromkeys(WORKS))
    measured = {"efficiency", "messages"}
    known = json.loads(options.measured.read_text()) if options.measured else {}
    if "simulation" in works and not measured <= {*works, *known}:
        made.error("--works simulation: takes what efficiency and messages measure")
    sizes = Sizes(heads=32, dim=16, samples=64, slice=8, stages=2) if options.small else Sizes()
    record = about(options.rounds, CPU) | {name: known[name] for name in measured & {*known}}
    if "efficiency" in works:
        record["efficiency"] = compare(sizes, options.rounds)
    if "messages" in works:
        record["messages"] = measure(options.rounds, 10**5 if options.small else SIZES[-1])
    if "simulation" in works:
        lost, own = way(record["messages"])
        rate = min(own, options.network)
        print(f"{1e3 * lost:.2f} ms and a byte's time at {rate / 1e6:,.0f} MB/s on each message")
        record["simulation"] = reckon(individual(record["efficiency"], sizes), lost, rate)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
