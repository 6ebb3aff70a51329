"""Let one run go on for many generations, and see that memory, files and the start of `resume` stay small.

    python tests/crash/long_run.py [GENERATIONS]      (20,000)

A run on digits' pixels, in a process of its own, is looked at twice a second: its memory, its files, and that its
history is readable to its newest line. At its end `resume` is given more budget, and timed to its first generation.
Exit status 1 where memory grows by more than 1 MB per 1,000 generations, there are more checkpoints than are kept and
the champion's, the history can't be read, or `resume` takes more than 2 s beside its imports.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import psutil

KEEP = 3
SETS = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=16",
        "fitness.samples=100", "memory.limit=1e8", "validate.every=5", "validate.patience=null",
        f"checkpoint.keep={KEEP}", "checkpoint.network=false"]  # fmt: skip
SLOPE = 1.0  # MB per 1,000 generations
STEP = 1.0  # MB by which an allocator may grow at once: of a short run, as much as all that it grows
START = 2.0  # seconds of resume beside its imports
TIMED = """
import sys, time
from neuroevo.cli import main
from neuroevo.engine.observer import Observer
from neuroevo.experiments import experiment
import timm, torchvision, sklearn.linear_model
class First(Observer):
    def generation(self, step):
        print(time.monotonic() - began, flush=True)
        raise SystemExit
began = time.monotonic()
experiment.resume(sys.argv[1], sys.argv[2:], First())
"""


class Look(NamedTuple):
    """What was seen of a run at a moment."""

    generation: int
    memory: float  # resident, MB
    checkpoints: int


def count_lines(folder: Path) -> int:
    """Return the newest generation of a history that all lines lead up to; ValueError where they don't."""
    from neuroevo.storage import records, rundir
    from neuroevo.storage.files import read_lines

    notes: list[str] = []
    lines = read_lines(folder / rundir.HISTORY, notes.append, records.of_history)
    if notes or [line["generation"] for line in lines] != [*range(1, len(lines) + 1)]:
        raise ValueError(f"history of {len(lines)} lines: {notes}")
    return len(lines)


def look(process: psutil.Process, folder: Path) -> Look:
    """Look at a run."""
    from neuroevo.storage import generations, rundir

    memory = process.memory_info().rss / 1e6
    return Look(count_lines(folder), memory, len(generations.paths(folder / rundir.CHECKPOINTS)))


def run(folder: Path, count: int) -> list[Look]:
    """Make a run of so many generations; return what was seen of it."""
    words = [word for text in (*SETS, f"budget.generations={count}") for word in ("--set", text)]
    command = [sys.executable, "-m", "neuroevo", "run", *words, "--out", str(folder)]
    found: list[Look] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        process = psutil.Process(started.pid)
        while started.poll() is None:
            time.sleep(0.5)
            if (folder / "checkpoints").is_dir() and not (folder / "result.json").exists():
                try:
                    found.append(look(process, folder))
                except psutil.Error:
                    break
    if started.returncode:
        raise SystemExit(f"the run left with status {started.returncode}")
    return found


def time_resume(folder: Path, count: int) -> tuple[float, float]:
    """Return the seconds that `resume` takes to its first generation, less and with its imports: medians of three."""
    command = [sys.executable, "-c", TIMED, str(folder), f"budget.generations={count + 1000}"]
    starts, wholes = [], []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        starts.append(float(done.stdout.split()[-1]))
        wholes.append(time.monotonic() - began)
    return statistics.median(starts), statistics.median(wholes)


def main() -> int:
    """Run, and say what was found."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("generations", nargs="?", type=int, default=20_000)
    count, wrong = made.parse_args().generations, []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "r"
        began = time.monotonic()
        # Memory of its beginning, and of what follows on its last generation, is another matter.
        looks = [each for each in run(folder, count) if count / 10 < each.generation < count]
        seconds = time.monotonic() - began
        if len(looks) < 3 or count_lines(folder) != count:
            raise SystemExit("too few looks, or another history than the run's")
        slope = float(np.polyfit([each.generation / 1000 for each in looks], [each.memory for each in looks], 1)[0])
        most = max(each.checkpoints for each in looks)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        largest = max(path.stat().st_size for path in (folder / "checkpoints").iterdir()) / 1e6
        start, whole = time_resume(folder, count)
    print(f"{count:,} generations in {seconds:.0f} s, looked at {len(looks)} times, history readable each time")
    print(f"memory: {looks[0].memory:.1f} MB at {looks[0].generation:,}, {looks[-1].memory:.1f} MB at "
          f"{looks[-1].generation:,}, slope {slope:.3f} MB per 1,000 generations")  # fmt: skip
    print(f"files: at most {most} checkpoints (keep {KEEP}), the largest {largest:.2f} MB, {size:.1f} MB in all")
    print(f"resume to its first generation: {start:.2f} s beside its imports, {whole:.2f} s with them")
    span = (looks[-1].generation - looks[0].generation) / 1000
    wrong += [f"memory grows by {slope:.2f} MB"] if slope * span > SLOPE * span + STEP else []
    wrong += [f"{most} checkpoints"] if most > KEEP + 2 else []  # the champion's, and one that is being written
    wrong += [f"resume begins after {start:.1f} s"] if start > START else []
    print(f"wrong: {'; '.join(wrong)}" if wrong else "all as it should be")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
