"""Let calls to the system fail beneath commands, and see that nothing is lost: one line, and going on works.

    python tests/crash/faults.py [COUNT] [SEED] [--only NAME,...]      (300 and 0)

What a command writes is counted first. Then, COUNT times, one of its calls fails: a write is short, finds a full disk
or a bad block; a flush, a rename, the making of a file or folder fails; all is read-only from some moment on; a rename
says that it failed though it happened, or a handle is stale, as on NFS; the clock is set back; the folder is deleted. A
command must come to the same bytes all the same, or leave with one line and status 1 (2 where nothing has begun). Then
its newest checkpoint must be good, no half file be left, and going on come to the same bytes. Exit status 1 where not.
"""

import argparse
import errno
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import shim
from shim import Kind


class Fault(NamedTuple):
    """What goes wrong."""

    kind: Kind
    error: int
    more: bool = False  # from then on
    done: bool = False  # it happens all the same


FAULTS = {
    "a short write": Fault(Kind.WRITE, 0),
    "all writes short": Fault(Kind.WRITE, 0, more=True),
    "a full disk": Fault(Kind.WRITE, errno.ENOSPC, more=True),
    "a full disk for a moment": Fault(Kind.WRITE, errno.ENOSPC),
    "no quota for new files": Fault(Kind.OPEN, errno.EDQUOT, more=True),
    "a bad block": Fault(Kind.WRITE, errno.EIO),
    "a failed flush": Fault(Kind.SYNC, errno.EIO),
    "a failed rename": Fault(Kind.RENAME, errno.EACCES),
    "a failed unlink": Fault(Kind.UNLINK, errno.EACCES),
    "a failed cut": Fault(Kind.TRUNCATE, errno.EIO),
    "a folder that can't be made": Fault(Kind.MAKE, errno.EACCES),
    "a file that can't be made": Fault(Kind.OPEN, errno.EACCES),
    "read-only from then on": Fault(Kind.ANY, errno.EROFS, more=True),
    "a rename that says it failed": Fault(Kind.RENAME, errno.ENOENT, done=True),
    "an unlink that says it failed": Fault(Kind.UNLINK, errno.ENOENT, done=True),
    "a stale handle": Fault(Kind.WRITE, errno.ESTALE),
    "a stale handle at a flush": Fault(Kind.SYNC, errno.ESTALE),
}
CLOCK, DELETED = "the clock set back by a day", "the folder deleted"
COMMANDS = ("run", "resume", "tune", "bench", "features", "export", "report", "API", "islands", "folds", "predict")


class Subject(NamedTuple):
    """A victim with what it needs, what it comes to undisturbed, and how often it makes which call."""

    victim: Any
    source: Path
    seconds: float
    right: dict[str, Any]
    calls: Counter[Kind]


def measure(name: str, root: Path) -> Subject:
    """Prepare a victim, and let it run undisturbed, its calls counted."""
    from kills import measure

    subject = measure(name, root)
    folder, calls = victims.copy(subject.source, root / f"{name}, counted"), root / f"{name}.calls"
    status, text = victims.Running(subject.victim.command, folder, partial(shim.record, str(folder), calls)).wait()
    assert status == 0, text
    counts = Counter(call.kind for call in shim.read(calls))
    counts[Kind.ANY] = sum(counts.values())
    return Subject(*subject, counts)


def choose(subject: Subject, source: random.Random) -> tuple[str, Callable[[str], None], float | None]:
    """Return a fault in words, what brings it about beneath a folder, and after how many seconds that is deleted."""
    names = [name for name, fault in FAULTS.items() if subject.calls[fault.kind]]
    name = source.choice([*names, CLOCK, DELETED])
    if name == CLOCK:
        return name, lambda part: shim.turn_back(source.randrange(50), 86_400), None
    if name == DELETED:
        return name, lambda part: None, source.uniform(0, subject.seconds)
    fault = FAULTS[name]
    at = source.randint(1, subject.calls[fault.kind])

    def enter(part: str) -> None:
        shim.fail(part, fault.kind, at, fault.error, more=fault.more, done=fault.done)

    return f"{name}, {fault.kind.name.lower()} {at} of {subject.calls[fault.kind]}", enter, None


def said(status: int | None, text: str) -> list[str]:
    """Return what is wrong with what a command that a fault befell said, and left with."""
    lines = [line for line in text.splitlines() if line.startswith("neuroevo: ")]
    wrong = ["a traceback"] if victims.traceback_in(text) else []
    wrong += [] if status in (0, 1, 2) else [f"status {status}"]
    wrong += [f"{len(lines)} lines that say why"] if status and len(lines) != 1 else []
    return [*wrong, text[-700:]] if wrong else []


def state(folder: Path, *, whole: bool) -> list[str]:
    """Return what is wrong with a folder after a fault: no good checkpoint where there is one, half files."""
    from neuroevo.errors import InputError
    from neuroevo.storage import checkpoint

    wrong = []
    for place in {path.parent for path in folder.rglob("generation-*.h5")}:
        try:
            checkpoint.newest(place, lambda line: wrong.append(line))
        except InputError as error:
            wrong.append(str(error))
    left = [path for path in folder.rglob("*.partial") if "cache" not in path.parts]
    return wrong + [f"left: {path}" for path in left if whole]


def compare(right: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return where what a victim came to differs from what is right; which checkpoints are spare may differ."""

    def unspared(contents: dict[str, Any]) -> dict[str, Any]:
        newest = {name.rpartition("/")[0]: name for name in sorted(contents) if name.endswith(".h5")}
        return {name: c for name, c in contents.items() if not name.endswith(".h5") or name in newest.values()}

    return victims.differences(unspared(right), unspared(found))[:5]


def hurt(subject: Subject, folder: Path, source: random.Random) -> tuple[str, str, list[str]]:
    """Let a fault befall a victim, and go on; return the fault, what came of it, and what is wrong."""
    from kills import go_on

    victims.copy(subject.source, folder)
    name, bring, deleted = choose(subject, source)
    running = victims.Running(subject.victim.command, folder, partial(bring, str(folder)))
    if deleted is not None:
        victims.time.sleep(deleted)
        if (folder / "r").exists():
            (folder / "r").rename(folder / "gone")
            shutil.rmtree(folder / "gone")
    status, text = running.wait()
    wrong = said(status, text)
    line = next((line for line in text.splitlines() if line.startswith("neuroevo: ")), "")
    came = f"status {status} {line[:160].replace(str(folder), '.')}"
    if deleted is not None and (status or subject.victim.before):
        return name, came, wrong  # nothing is left to go on from
    if status == 0 and deleted is None and "is not scored on test, nor in result.json" in text:
        return name, came, []  # an export says so
    if status == 0 and deleted is None:
        return name, came, wrong + compare(subject.right, victims.contents(folder))
    wrong += state(folder, whole="read-only" not in name and "unlink" not in name)
    status, text = go_on(subject.victim, folder).wait()
    if status:
        return name, came, [*wrong, f"going on left with status {status}: {text[-600:]}"]
    return name, came, wrong + compare(subject.right, victims.contents(folder))


def main() -> int:
    """Let calls fail, and say what came of it."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("count", nargs="?", type=int, default=300)
    made.add_argument("seed", nargs="?", type=int, default=0)
    made.add_argument("--only", help="names of victims", default=",".join(COMMANDS))
    options = made.parse_args()
    names = options.only.split(",")
    source, bad, ends = random.Random(options.seed), 0, Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        subjects = {name: measure(name, root) for name in names[: options.count]}
        for i in range(options.count):
            victim, folder = names[i % len(names)], root / f"{i}"
            name, came, wrong = hurt(subjects[victim], folder, source)
            bad += bool(wrong)
            ends[came[:8]] += 1
            print(f"{i:3} {victim}, {name}: {came}; {'; '.join(wrong) or 'right'}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{options.count} faults ({', '.join(f'{n} with {end}' for end, n in sorted(ends.items()))}), {bad} wrong")
    return bool(bad)


os.environ.setdefault("OMP_NUM_THREADS", "1")
if __name__ == "__main__":
    shim.reload()

import victims  # noqa: E402  which imports everything: once, after the library is loaded

if __name__ == "__main__":
    sys.exit(main())
