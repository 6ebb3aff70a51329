"""Give neuroevo files that nobody should, and see that each ends in a line: docs/reliability.md has the figures.

usage: python bench/fuzz.py [MINUTES] [SEED] [--only DOOR,...] [--keep FOLDER]      (30, 0, all doors, nothing kept)

A quarter of the time goes to guided fuzzing of what is read by Python alone (`guided.py`, by atheris, where that is
installed), the rest to the doors of `doors.py` in turn: Hypothesis draws files, and a fork of this process uses them.
Wrong is what ends in a traceback or a crash, takes 20 seconds of a processor or 100 in all, has more than 2 GiB in
memory, or runs a pickle. What went wrong is kept in FOLDER.
"""

import argparse
import contextlib
import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import damage
from doors import CANARY, DOORS, NEEDED, Action
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from subjects import give, run_of

from neuroevo.errors import InputError, RunError

SECONDS, WALL, BYTES = 20, 100, 2 * 2**30
TURN = 20.0  # seconds of a door's turn
ROOM = 6 * 2**30  # of addresses beyond what there is, so that a mistake takes no machine down


class Over(KeyboardInterrupt):
    """A door's turn is over."""


class Seen(NamedTuple):
    """What came of a case."""

    wrong: str | None
    text: str
    seconds: float
    bytes: int
    fine: bool


def act(action: Action) -> int:
    """Do what a case asks for; return its exit status."""
    if isinstance(action, list):
        return damage.execute(action)
    try:
        action()
    except (InputError, RunError) as error:
        print(type(error).__name__, error)
        return 2
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def use(actions: list[Action], place: Path) -> Seen:
    """Do what a case asks for, in a fork, in a folder of its own."""
    out = place.with_suffix(".out")
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(place)
        os.environ["NEUROEVO_CACHE"] = str(place / "cache")
        number = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(number, 1)
        os.dup2(number, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        status = 0
        for action in actions:
            status = max(status, act(action))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    hung = False
    while True:
        pid, code, spent = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if not hung and time.monotonic() - began > WALL:
            hung = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.003)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    status, text = os.waitstatus_to_exitcode(code), out.read_text(errors="replace")
    peak = spent.ru_maxrss * 1024
    wrong = None
    if (place / CANARY).exists():
        wrong = "a pickle ran"
    elif hung or -status in (signal.SIGXCPU, signal.SIGKILL):
        wrong = "hangs"
    elif status not in (0, 1, 2) or "Traceback" in text:
        wrong = "traceback" if "Traceback" in text else f"crash ({status})"
    elif peak > BYTES:
        wrong = f"{peak / 2**30:.1f} GiB"
    return Seen(wrong, text, spent.ru_utime + spent.ru_stime, peak, status == 0)


def turn(door: str, number: int, until: float, origin: Path, tell: Callable[[Path, Seen], object]) -> None:
    """Draw cases of a door until a time."""
    place = origin.parent / "case"

    @seed(number)
    @settings(
        max_examples=10**6, phases=[Phase.generate], deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(st.data())
    def cases(data: st.DataObject) -> None:
        if time.monotonic() > until:
            raise Over
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name in NEEDED.get(door, ()):
            source = origin / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, place / name)
        tell(place, use(DOORS[door](data.draw, place), place))

    with contextlib.suppress(Over):
        cases()


def guide(minutes: float, number: int, keep: Path | None) -> int:
    """Fuzz what Python alone reads, guided by coverage; return how many targets came out wrong."""
    if importlib.util.find_spec("atheris") is None:
        print("guided: left out, atheris isn't installed (the extra fuzz has it)")
        return 0
    wrong = 0
    targets = ("config", "setting", "lines", "tables")
    for target in targets:
        folder = tempfile.mkdtemp()
        command = [sys.executable, str(Path(__file__).with_name("guided.py")), target, f"-seed={number + 1}",
                   f"-max_total_time={max(1, round(60 * minutes / len(targets)))}", f"-timeout={SECONDS}",
                   f"-rss_limit_mb={BYTES >> 20}", f"-artifact_prefix={keep or folder}/guided-", folder]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        lines = done.stderr.splitlines()
        count = next((line.split()[1] for line in lines if line.startswith("Done ")), "?")
        print(f"guided {target}: {count} runs, status {done.returncode}", flush=True)
        if done.returncode:
            wrong += 1
            print(done.stdout[-1500:], "\n".join(lines[-40:]), flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    return wrong


def main(minutes: float, number: int, only: list[str], keep: Path | None) -> int:
    """Fuzz for so many minutes; return how many cases came out wrong."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    memory = Path("/dev/shm")
    whole = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    counts, wrongs, slowest, largest = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    taken = Counter[str]()
    try:
        origin, warm = whole / "origin", whole / "warm"
        for folder in (origin, warm):
            folder.mkdir()
            give(folder, damage.onnx_models.write_float)
        damage.warm_up(warm)
        for name in ("run", "rows", "front", "islands", "onnx"):
            status, printed, said = damage.call(run_of(name), origin)
            assert status == 0, (name, printed, said)
        for command in (damage.SUBJECTS["bench"].make[0], damage.SUBJECTS["tune"].make[0]):
            status, printed, said = damage.call(command, origin)
            assert status == 0, (command, printed, said)
        wrong = guide(minutes / 4, number, keep) if not only else 0
        ends, lap = time.monotonic() + 60 * minutes * (1 if only else 0.75), 0
        while time.monotonic() < ends:
            for i, door in enumerate(only or DOORS):

                def tell(place: Path, seen: Seen, door: str = door) -> None:
                    counts[door] += 1
                    taken[door] += seen.fine
                    slowest[door] = max(slowest[door], round(100 * seen.seconds))
                    largest[door] = max(largest[door], seen.bytes >> 20)
                    if seen.wrong is None:
                        return
                    wrongs[door] += 1
                    print(f"{door}: {seen.wrong}: {seen.text.strip().splitlines()[-1:]}", flush=True)
                    if keep is not None and wrongs[door] <= 20:
                        shutil.rmtree(keep / f"{door}-{wrongs[door]}", ignore_errors=True)
                        shutil.copytree(place, keep / f"{door}-{wrongs[door]}", symlinks=True)
                        (keep / f"{door}-{wrongs[door]}.txt").write_text(f"{seen.wrong}\n{seen.text}")

                now = time.monotonic()
                if now < ends:
                    turn(door, 1000 * number + 100 * lap + i, min(ends, now + TURN), origin, tell)
            lap += 1
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    columns = ("door", "cases", "taken", "wrong", "longest, s", "most memory, MiB")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for door in counts:
        row = door, counts[door], taken[door], wrongs[door], f"{slowest[door] / 100:.1f}", largest[door]
        print(f"| {' | '.join(map(str, row))} |")
    wrong += sum(wrongs.values())
    print(f"\n{sum(counts.values())} cases in {minutes:g} minutes: {wrong} wrong")
    return wrong


if __name__ == "__main__":
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("minutes", type=float, nargs="?", default=30.0)
    made.add_argument("seed", type=int, nargs="?", default=0)
    made.add_argument("--only", default="", help="doors, with commas between")
    made.add_argument("--keep", type=Path, help="a folder for what went wrong")
    told = made.parse_args()
    sys.exit(min(1, main(told.minutes, told.seed, [each for each in told.only.split(",") if each], told.keep)))
