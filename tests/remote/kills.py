"""Kill workers and drivers of a run over a cluster at random moments, and compare where it ends with a run left alone.

    python tests/remote/kills.py [--workers 10] [--drivers 10] [--seed 0]

Each run is a hybrid on digits' pixels, in a process of its own; a driver that was killed is resumed with another number
of workers. Exit status 1 where bytes differ, or a process or file of a cluster stays.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "experiments")]

import psutil  # noqa: E402
from test_resume import contents  # noqa: E402

from neuroevo.remote import cluster  # noqa: E402

SETS = [
    "backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=32",
    "budget.generations=60", "validate.every=3", "checkpoint.every=4", "fitness.samples=100", "memory.limit=1e8",
    "memory.individuals=10", "refine.steps=2", "refine.batch_size=30",
]  # fmt: skip


def of_clusters(folder: Path, part: str = "") -> list[psutil.Process]:
    """Return the processes of clusters that runs with this temporary folder began, by a part of their names."""
    found = []
    for process in psutil.process_iter():
        try:
            own = process.environ()
            if cluster.NAME in own and own.get("TMPDIR") == str(folder) and part in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


class Place:
    """A run's folder, and a temporary folder of its own, by which its processes are known."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder, self.temporary = root / name, Path(tempfile.mkdtemp(dir="/tmp"))  # Ray's sockets have short paths

    def start(self, workers: int, resume: bool = False) -> subprocess.Popen[bytes]:
        """Begin the run, or go on with it."""
        words = ["resume", str(self.folder)] if resume else ["run", "--out", str(self.folder)]
        for text in [*([] if resume else SETS), f"remote.workers={workers}"]:
            words += ["--set", text]
        environment = {**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "neuroevo", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def begun(self, run: subprocess.Popen[bytes]) -> None:
        """Wait for its first checkpoint."""
        while run.poll() is None and not list((self.folder / "checkpoints").glob("*.h5")):
            time.sleep(0.02)

    def clean(self) -> list[str]:
        """Return what stays of its clusters, and remove its temporary folder."""
        end = time.monotonic() + 20
        while of_clusters(self.temporary) and time.monotonic() < end:
            time.sleep(0.1)
        left = [" ".join(process.cmdline())[:80] for process in of_clusters(self.temporary)]
        left += [path.name for path in self.temporary.glob("neuroevo*")]
        shutil.rmtree(self.temporary)
        return left


def kill_worker(place: Place, moment: float) -> bool:
    """Kill a worker some seconds after the run has begun; tell whether there was one."""
    run = place.start(2)
    place.begun(run)
    time.sleep(moment)
    workers = of_clusters(place.temporary, "ray::Actor")
    if workers:
        workers[0].kill()
    assert run.wait(300) == 0
    return bool(workers)


def kill_driver(place: Place, moment: float, workers: int) -> bool:
    """Kill the run some seconds after it has begun, and go on with others; tell whether it was still at work."""
    run = place.start(2)
    place.begun(run)
    time.sleep(moment)
    at_work = run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert place.start(workers, resume=True).wait(300) == 0
    return at_work


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--workers", type=int, default=10, help="workers to kill")
    made.add_argument("--drivers", type=int, default=10, help="drivers to kill")
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args()
    source, bad, hits = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as root:
        alone = Place(Path(root), "alone")
        assert alone.start(0).wait(300) == 0
        right, _ = contents(alone.folder), alone.clean()
        for i in range(options.workers + options.drivers):
            place, moment = Place(Path(root), f"{i}"), source.uniform(0, 1.5)
            worker = i < options.workers
            others = source.choice([0, 1, 3])
            hit = kill_worker(place, moment) if worker else kill_driver(place, moment, others)
            same, left = contents(place.folder) == right, place.clean()
            bad, hits = bad + (not same or bool(left)), hits + hit
            what = "a worker" if worker else f"the driver, then {others} workers"
            print(f"{i:3} {what}, after {moment:.2f} s: hit {hit}, same bytes {same}, stays {left}", flush=True)
    print(f"{hits} of {options.workers + options.drivers} hit, {bad} wrong")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
