"""The same work by us and by our peers, interleaved in one process; results are checked against each other.

    python bench/peers.py [--work a,b,c,d,e,f] [--rounds 5] [--threads 1] [--device cpu] [--small] [--json FILE]

a: accuracy of 256 linear heads (1280 to 10) on 10,000 samples. b: a whole generation of 1,024 of them, cross-entropy on
all 10,000 samples, a genetic algorithm each. c: the same at the default run's size (256 heads, 512 features, 512
samples). d: a gradient step (batch 128) for 1,024 linear heads, and for 256 with a hidden layer of 256. e: the last
stage of EfficientNet-Lite0 at 128 pixels for 16 individuals on 256 samples. f: a run to a validation accuracy on digits
features, wall clock from process start to result, each by its own means: the default run, the hybrid one as our best,
evotorch's SNES, EvoX's OpenES, PyGAD's GA, torch.optim.SGD alone; one that takes too long is said to be short of it.

Medians over rounds after one for warming up. Ratios are what to compare; where a machine has other work, those of
processor time. Peers come with `pip install -e '.[bench]'`; one that isn't installed is a row that says so. What peers
are given is the kindest setting known: evotorch's GA evaluates children only (elitist=False, re_evaluate=False: as it
comes it evaluates twice as many) and crosses at one point; but for the row `evotorch loader`, batches are handed in
ready-made, to EvoX as well.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from about import about, begin, named, parser
from peer_heads import default_generation, large_generation, score_heads
from peer_networks import gradient_steps, last_stage
from peer_runs import whole_runs
from peer_works import Missing, Work

BEST = "neuroevo best"
OURS = "neuroevo float32"
WORKS: dict[str, Callable[[bool, torch.device], Work]] = {
    "a": score_heads,
    "b": large_generation,
    "c": default_generation,
    "d": gradient_steps,
    "e": last_stage,
    "f": whole_runs,
}


class Measured(NamedTuple):
    """What a work came to."""

    rows: dict[str, dict[str, Any]]  # way -> seconds and gflops, or what is missing
    processor: dict[str, float]  # way -> seconds of processor time of this process, its threads together
    agreement: dict[str, float]  # what was compared -> the largest difference


def measure(work: Work, rounds: int, device: torch.device) -> Measured:
    """Do a work in every way, one after another, `rounds` times; RuntimeError where results differ."""
    settle: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    ways = {name: way for name, way in work.ways.items() if not isinstance(way, Missing)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for _ in range(rounds + work.warm):
        for name, way in ways.items():
            settle()
            began, used = time.perf_counter(), time.process_time()
            results[name] = way()
            settle()
            seconds[name].append((time.perf_counter() - began) * work.scale.get(name, 1))
            processor[name].append((time.process_time() - used) * work.scale.get(name, 1))
    seconds |= work.parts
    rows: dict[str, dict[str, Any]] = {}
    for name in [*work.ways, *work.parts]:
        given = work.ways.get(name)
        if isinstance(given, Missing):
            rows[name] = {"missing": given.how}
            continue
        taken = statistics.median(seconds[name][work.warm :])
        rows[name] = {"seconds": taken}
        if name not in work.parts and work.flops is not None:
            rows[name]["gflops"] = work.flops(name) / taken / 1e9
    spent = {name: statistics.median(times[work.warm :]) for name, times in processor.items()}
    return Measured(rows, spent, work.check(results))


def lines(rows: dict[str, dict[str, Any]], spent: dict[str, float]) -> Iterable[str]:
    """Yield a table of a work: by how much our ways are quicker than each, in wall time and in processor time."""
    yield f"| {'way':24} | {'ms':>10} | GFLOP/s | of float32's time | of best's time | in processor time |"
    yield "|---|---|---|---|---|---|"
    wall = {name: row["seconds"] for name, row in rows.items() if "seconds" in row}
    for name, row in rows.items():
        if "missing" in row:
            yield f"| {name:24} | not installed: {row['missing']} | | | | |"
            continue
        own = OURS + ", MLP" if name.endswith(", MLP") else OURS
        cells = [f"{1e3 * row['seconds']:10.1f}", f"{row['gflops']:.1f}" if "gflops" in row else ""]
        cells += [f"{wall[name] / wall[base]:.2f}" if base in wall else "" for base in (own, BEST)]
        bases = [base for base in (own, BEST) if base in spent and name in spent]
        cells.append(", ".join(f"{spent[name] / spent[base]:.2f}" for base in bases))
        yield f"| {name:24} | {' | '.join(cells)} |"


def main() -> None:
    made = parser(__doc__, rounds=5)
    made.add_argument("--work", default=",".join(WORKS), help="letters, with commas between them")
    made.add_argument("--device", default="cpu")
    options = made.parse_args()
    letters = named(made, "--work", options.work, WORKS)
    begin(made, options)
    device = torch.device(options.device)
    of = about(options.rounds, device)
    found: dict[str, Measured] = {}
    for letter in letters:
        torch.manual_seed(0)
        work = WORKS[letter](options.small, device)
        found[letter] = measure(work, options.rounds, device)
        print(f"\n({letter}) {work.title}\n", *lines(found[letter].rows, found[letter].processor), sep="\n", flush=True)
        for what, difference in found[letter].agreement.items():
            print(f"{what}: differs by {difference:.2g} at most", flush=True)
    if options.json:
        columns = {"work": "rows", "processor_seconds": "processor", "agreement": "agreement"}
        figures = {
            key: {letter: getattr(measured, name) for letter, measured in found.items()}
            for key, name in columns.items()
        }
        options.json.write_text(json.dumps({**of, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
