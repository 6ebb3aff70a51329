"""Kill -9 commands at random moments, go on, and compare where they end with ones that were left alone.

    python tests/crash/kills.py [COUNT] [SEED] [--only NAME,...]      (200 and 0)

A run, a resume, a search of hyperparameters, a benchmark, a pass of features, an export, a report, a search from
Python, islands, a run with a tracker, folds and predictions take turns. Each is killed at a moment spread over all of
its time, one in three once more while it goes on. Then it goes on as a user would (`resume`, or the same command), and
all files must hold the same bytes, seconds aside: no file more, none fewer, and no process stays. Exit status 1 where
not.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from victims import VICTIMS, Running, Victim, contents, copy, differences, prepare, traceback_in

SLOW = "bench of 2 jobs"  # each of which imports everything: it has its turn one time in four


class Subject(NamedTuple):
    """A victim with what it needs, and what it comes to when it is left alone."""

    victim: Victim
    source: Path
    seconds: float
    right: dict[str, Any]


def measure(name: str, root: Path) -> Subject:
    """Prepare a victim, and let it run undisturbed."""
    victim = VICTIMS[name]
    source = prepare(victim, root / f"{name}, prepared")
    folder = copy(source, root / f"{name}, left alone")
    running = Running(victim.command, folder)
    status, text = running.wait()
    seconds = time.monotonic() - running.began
    assert status == 0, f"{name}: {text}"
    print(f"{name}, left alone: {seconds:.2f} s", flush=True)
    return Subject(victim, source, seconds, contents(folder))


def go_on(victim: Victim, folder: Path) -> Running:
    """Go on as a user would: by what is for that, or by the same command where it hadn't begun."""
    begun = (folder / "r" / "config.yaml").exists() or any((folder / "r").glob("checkpoints/*.h5"))
    return Running(victim.again if victim.again is not None and begun else victim.command, folder)


def kill(subject: Subject, folder: Path, source: random.Random) -> tuple[str, list[str]]:
    """Kill a victim, go on, and return what was done and what is wrong."""
    copy(subject.source, folder)
    moment, twice = source.uniform(0, subject.seconds), source.random() < 1 / 3
    running = Running(subject.victim.command, folder)
    hit, wrong = running.kill(moment), running.left()
    said = f"after {moment:.2f} of {subject.seconds:.2f} s" + ("" if hit else ", which was too late")
    if twice:
        moment = source.uniform(0, subject.seconds)
        again = go_on(subject.victim, folder)
        hit = again.kill(moment) or hit
        wrong += again.left()
        said += f", and once more after {moment:.2f} s"
    if (folder / "labels.csv").exists():  # whole, as it is written: there is nothing to go on with
        return said, wrong + differences(subject.right, contents(folder))[:6]
    last = go_on(subject.victim, folder)
    status, text = last.wait()
    wrong = [f"stays: {line}" for line in wrong + last.left()]
    if status != 0 or traceback_in(text):
        return said, [*wrong, f"going on left with status {status}: {text[-600:]}"]
    return said, wrong + differences(subject.right, contents(folder))[:6]


def main() -> int:
    """Kill, and say what came of it."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("count", nargs="?", type=int, default=200)
    made.add_argument("seed", nargs="?", type=int, default=0)
    made.add_argument("--only", help="names of victims", default=",".join(VICTIMS))
    options = made.parse_args()
    names = options.only.split(",")
    source, bad, done = random.Random(options.seed), 0, Counter[str]()
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        subjects = {name: measure(name, root) for name in names[: options.count]}
        for i in range(options.count):
            turn, place = divmod(i, len(names))
            name = names[place] if names[place] != SLOW or turn % 4 == 0 else names[0]
            folder = root / f"{i}"
            said, wrong = kill(subjects[name], folder, source)
            done[name] += 1
            bad += bool(wrong)
            print(f"{i:3} {name}, {said}: {'; '.join(wrong) or 'the same bytes'}", flush=True)
            if not wrong:
                shutil.rmtree(folder)
    print(f"{sum(done.values())} kills ({', '.join(f'{n} of {name}' for name, n in done.items())}), {bad} wrong")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
