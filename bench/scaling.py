"""How seconds and memory of a generation grow with population, samples and genes: slopes of their logarithms.

    python bench/scaling.py [--axes population,samples,genes] [--rounds 5] [--threads 1] [--small] [--json FILE]

The default run's search (genetic algorithm, weighted crossover, linear heads of 10 classes): a population of 64 to
16,384 on 2,000 samples of 511 features; 1,000 to 60,000 samples of 1,280 features for 256 individuals; 1,000 to 10
million genes of 16 individuals on 128 samples. Each point is a process of its own; seconds are medians over generations
after one for warming up, bytes are what the search's peak adds to the data (Linux). A slope of 1 is linear.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from about import about, begin, named, parser
from peer_heads import generations
from peer_works import CLASSES


class Point(NamedTuple):
    """A size of the work."""

    population: int
    features: int
    samples: int


AXES = {
    "population": [Point(n, 511, 2000) for n in (64, 256, 1024, 4096, 16_384)],
    "samples": [Point(256, 1280, rows) for rows in (1000, 4000, 15_000, 60_000)],
    "genes": [Point(16, genes // CLASSES - 1, 128) for genes in (1000, 10_000, 100_000, 1_000_000, 10_000_000)],
}
COLUMNS = ("seconds", "proposing", "scoring", "bytes")


def resident(peak: bool) -> int:
    """Return the bytes that this process has resident, or has had at most (Linux)."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(point: Point, rounds: int) -> dict[str, float]:
    """Return the medians of a generation's seconds, of its parts', and the bytes that the search adds to its data."""
    torch.manual_seed(0)
    torch.randn(64, 64) @ torch.randn(64, 64)  # the libraries' own buffers
    x, y = torch.randn(point.samples, point.features), torch.randint(CLASSES, (point.samples,))
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = resident(peak=False)
    parts: dict[str, list[float]] = {"proposing": [], "scoring": []}
    _, search = generations(point.population, (x, y), point.samples, "float32", parts)
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        next(search)
        taken.append(time.perf_counter() - began)
    medians = {name: statistics.median(found[-rounds:]) for name, found in parts.items()}
    return {"seconds": statistics.median(taken[1:]), **medians, "bytes": float(resident(peak=True) - before)}


def slope(sizes: list[float], found: list[float]) -> float:
    """Return the least squares' slope of the logarithms of what was found over those of sizes."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-9)) for value in found]
    return statistics.linear_regression(x, y).slope


def table(axis: str, rows: list[dict[str, float]]) -> list[str]:
    """Return the lines of an axis: what each size takes, then slopes over all and over the last two sizes."""
    heads = (axis, "generation, ms", "proposing, ms", "scoring, ms", "MiB beside the data")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    for row in rows:
        times = " | ".join(f"{1e3 * row[name]:.1f}" for name in COLUMNS[:3])
        lines.append(f"| {row['size']:,.0f} | {times} | {row['bytes'] / 2**20:.0f} |")
    for label, last in (("slope", rows), ("of the last two", rows[-2:])):
        sizes = [row["size"] for row in last]
        slopes = (f"{slope(sizes, [row[name] for row in last]):.2f}" for name in COLUMNS)
        lines.append(f"| {label} | {' | '.join(slopes)} |")
    return lines


def main() -> None:
    made = parser(__doc__, rounds=5)
    made.add_argument("--axes", default=",".join(AXES), help="with commas between them")
    made.add_argument("--point", type=int, nargs=3, help=argparse.SUPPRESS)  # a process of its own
    options = made.parse_args()
    axes = named(made, "--axes", options.axes, AXES)
    begin(made, options)
    if options.point:
        print(json.dumps(measure(Point(*options.point), options.rounds)))
        return
    threads = ["--threads", str(torch.get_num_threads())]
    of = about(options.rounds, torch.device("cpu"))
    found: dict[str, Any] = {}
    for axis in axes:
        rows = []
        for point in AXES[axis][: 2 if options.small else None]:
            given = ["--point", *(str(size) for size in point), "--rounds", str(options.rounds), *threads]
            done = subprocess.run([sys.executable, __file__, *given], check=True, capture_output=True, text=True)
            size = CLASSES * (point.features + 1) if axis == "genes" else getattr(point, axis)
            rows.append({"size": size, **json.loads(done.stdout)})
        found[axis] = rows
        print("", *table(axis, rows), sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps({**of, "axes": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
