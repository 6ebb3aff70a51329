"""Damage files of runs, of the cache and of users, use them, and count what comes: docs/reliability.md has the figures.

usage: python bench/damage.py [COUNT] [SEED] [--show]      (600 and 0; --show prints what was not as it should be)

What is in `subjects.py` is made once. Then, COUNT times: one of the files is damaged, and one command uses it. It is
right if what comes out is the same as from the undamaged file, or if a line says what is damaged; a traceback, a crash,
a hang, or another result without a word is wrong. Commands run in forks of one process, which has imported all.
"""

import contextlib
import gc
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import h5py
import onnx_models
from subjects import NAMES, SUBJECTS, api, give, make

from neuroevo.cli.main import main as command_line
from neuroevo.errors import InputError, RunError

LIMIT = 120  # seconds
PAGE = 4096


class Outcome(NamedTuple):
    """What came of a command."""

    status: int | None  # None: it hung
    text: str  # what it printed
    result: dict[str, str]  # hashes of what a user gets


def execute(command: list[str]) -> int:
    """Run a command of neuroevo, or what `api` does from Python; return its exit status."""
    try:
        if command[0] != "api":
            sys.argv = ["neuroevo", *command]
            command_line()
        api(*command[1:])
        return 0
    except (InputError, RunError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 70
    except BaseException:
        traceback.print_exc()
        return 70


def call(command: list[str], folder: Path) -> tuple[int | None, str, str]:
    """Run a command in a fork, in a folder; return its exit status, standard output and error."""
    out, err = folder / ".out", folder / ".err"
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        os.environ["NEUROEVO_CACHE"] = str(folder / "cache")
        for path, number in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        status = execute(command)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    end = time.monotonic() + LIMIT
    status: int | None = None
    while time.monotonic() < end:
        pid, code = os.waitpid(child, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(code)
            break
        time.sleep(0.01)
    else:
        _kill(child)
        os.waitpid(child, 0)
    _kill(child)  # what it may have begun
    return status, out.read_text(errors="replace"), err.read_text(errors="replace")


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def warm_up(folder: Path) -> None:
    """Run some commands in this process, so that all that they import is there in each fork."""
    here = Path.cwd()
    os.chdir(folder)
    os.environ["NEUROEVO_CACHE"] = str(folder / "cache")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        commands = SUBJECTS["run"].commands
        some = [commands[key] for key in ("inspect", "report", "evaluate", "predict", "export", "decide", "load")]
        for command in [*SUBJECTS["run"].make[:1], *some]:
            status = execute(command)
            assert status == 0, command
    os.chdir(here)
    gc.freeze()


def without_times(value: object) -> object:
    """Return a JSON value less what may differ between two runs of the same."""
    if isinstance(value, dict):
        # How often test was scored is in result.json alone, and begins anew with it.
        skip = ("seconds", "backbone_samples", "command", "machine", "test_scored", "checksum", "files")
        return {key: without_times(v) for key, v in value.items() if key not in skip and "seconds" not in key}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def digest(*parts: object) -> str:
    """Return a hash of parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def taken(command: list[str], folder: Path, status: int | None, printed: str) -> dict[str, str]:
    """Return what a user gets of a command, as hashes: of what it printed, or of files by their paths."""
    found = {"status": digest(status)}
    verb = command[0] if command[0] != "api" else command[1]
    if verb in ("inspect", "evaluate", "predict", "load", "decide"):
        # Which files lie there, and how long it took, is not what the run is.
        found["printed"] = digest(re.sub(r"(?m)^  (checkpoints|seconds|damaged|file) .*\n", "", printed))
    elif verb == "export":
        path = folder / command[command.index("--out") + 1]
        found["file"] = digest(content(path))
    else:
        places = [command[command.index("--out") + 1]] if "--out" in command else command[1:]
        for run in (folder / place for place in places if (folder / place).is_dir()):
            for path in sorted(path for path in run.rglob("*") if path.is_file()):
                try:
                    value = of_file(path, verb)
                except (OSError, ValueError, KeyError):
                    value = "unreadable"
                if value is not None:
                    found[str(path.relative_to(folder))] = value
    return found


def of_file(path: Path, verb: str) -> str | None:
    """Return a hash of what a file says, of a `report`, a `log` or a run; None for one that is no result."""
    if verb == "report":
        is_table = path.parent.name == "plots" and path.suffix == ".csv" and "curve" not in path.name
        return digest(path.read_bytes()) if is_table else None
    if verb == "log":  # its last column is the seconds
        return digest(re.sub(r"(?m),[^,\n]*$", "", path.read_text())) if path.name == "history.csv" else None
    if path.name in ("champion.safetensors", "network.safetensors", "champion.onnx", "predictions.csv"):
        return digest(path.read_bytes())
    if path.name in ("history.jsonl", "islands.jsonl"):
        return digest(without_times([json.loads(line) for line in path.read_text().splitlines()]))
    if path.name == "result.json":
        return digest(without_times(json.loads(path.read_text())))
    if path.suffix == ".h5" and path == max(path.parent.glob("*.h5")):  # those before it are spares
        with h5py.File(path) as file:
            return digest(file["population/genomes"][()].tobytes())
    return None


def run(command: list[str], folder: Path) -> Outcome:
    """Run a command in a folder, and take down what came of it."""
    status, printed, said = call(command, folder)
    return Outcome(status, printed + said, taken(command, folder, status, printed))


def damages(rng: random.Random, others: list[Path]) -> Iterator[tuple[str, object]]:
    """Yield kinds of damage, each with what it does to a file."""

    def changed(how: object) -> object:
        return lambda path: path.write_bytes(how(bytearray(path.read_bytes())))  # type: ignore[operator]

    def flip(data: bytearray) -> bytearray:
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return data

    def high(data: bytearray) -> bytearray:
        if data:
            data[rng.randrange(len(data))] = 0xFF
        return data

    def zeros(data: bytearray) -> bytearray:
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((16, 512)))
        data[start:end] = bytes(end - start)
        return data

    def page(data: bytearray) -> bytearray:
        start = PAGE * rng.randrange(len(data) // PAGE + 1)
        end = min(len(data), start + PAGE)
        data[start:end] = bytes(end - start)
        return data

    def swapped(data: bytearray) -> bytearray:
        size = next((size for size in (PAGE, 512, 64, 8) if len(data) >= 2 * size), 1)
        one, two = (size * rng.randrange(max(1, len(data) // size)) for _ in range(2))
        data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]
        return data

    def into_folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    yield "one bit flipped", changed(flip)
    yield "one bit flipped", changed(flip)  # twice as often: the quietest
    yield "a byte of 0xff", changed(high)
    yield "zeros over a part", changed(zeros)
    yield "a page of zeros", changed(page)
    yield "two blocks swapped", changed(swapped)
    yield "cut in half", changed(lambda data: data[: len(data) // 2])
    yield "cut anywhere", changed(lambda data: data[: rng.randrange(len(data) + 1)])
    yield "cut by a byte", changed(lambda data: data[:-1])
    yield "empty", changed(lambda data: b"")
    yield "more at its end", changed(lambda data: data + rng.randbytes(100))
    yield "a line twice", changed(lambda data: data + data.splitlines(keepends=True)[-1] if data else data)
    yield "another file's content", changed(lambda data: rng.choice(others).read_bytes())
    yield "gone", Path.unlink
    yield "a folder in its place", into_folder


def content(path: Path) -> bytes | None:
    """Return a file's bytes, or None where there is no file."""
    return path.read_bytes() if path.is_file() else None


def files(name: str, folder: Path) -> list[Path]:
    """Return the files of a subject, by their paths within the folder."""
    top = folder / NAMES.get(name, name)
    patterns = SUBJECTS[name].files
    found = [path for pattern in patterns for path in folder.glob(pattern)] if patterns else [*top.rglob("*")]
    return sorted(
        path.relative_to(folder)
        for path in found
        if path.is_file() and path.suffix != ".lock" and path.name not in (".lock", "report.html", "broken.png")
    )


def fresh(name: str, origin: Path, work: Path) -> None:
    """Copy what a subject's commands need into a new folder."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    needed = {NAMES.get(name, name), *SUBJECTS[name].beside, *(p.parts[0] for p in files(name, origin))}
    needed |= {"cache", "photos", "features.npz", "model.onnx", "tune.yaml", "bench.yaml"}
    if name in ("weights", "pickled", "exports"):
        needed |= {"whole.safetensors", "whole.pt"}
    for each in sorted(needed):
        source = origin / each
        if source.is_dir():
            shutil.copytree(source, work / each, symlinks=True)
        elif source.exists():
            shutil.copy2(source, work / each)


def without(path: Path, result: dict[str, str]) -> dict[str, str]:
    """Return a result less a file; less all checkpoints beside it, if it is one: the newest of them speaks for all."""
    return {
        key: value
        for key, value in result.items()
        if Path(key) != path and not (path.suffix == Path(key).suffix == ".h5" and Path(key).parent == path.parent)
    }


def judge(found: Outcome, right: Outcome, path: Path) -> str:
    """Return what is to be said of an outcome, beside the one of the undamaged file."""
    told = path.name in found.text or "damaged" in found.text or path.stem in found.text
    if found.status is None:
        return "hangs"
    if "Traceback" in found.text or found.status not in (0, 1, 2):
        return "traceback or crash"
    if found.status in (1, 2):
        return "refused in a line" if told else "refused, the file not named"
    if found.result == right.result:
        return "the same"
    return "said, and other" if told else "silently other"


def main(count: int, seed: int, show: bool) -> int:
    """Damage `count` files; return how many times it came out wrong."""
    rng = random.Random(seed)
    memory = Path("/dev/shm")  # where there is one, a copy costs the disk nothing
    whole = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    verdicts, kinds = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    wrong = 0
    try:
        origin, work = whole / "origin", whole / "work"
        for folder in (work, origin):
            folder.mkdir()
            give(folder, onnx_models.write_float)
        warm_up(work)
        make(origin, call)
        references: dict[tuple[str, str], Outcome] = {}
        for i in range(count):
            name = rng.choice(list(SUBJECTS))
            path = rng.choice(files(name, origin))
            use = rng.choice(list(SUBJECTS[name].commands))
            command = SUBJECTS[name].commands[use]
            if (name, use) not in references:
                fresh(name, origin, work)
                references[name, use] = run(command, work)
                assert references[name, use].status == 0, (name, use, references[name, use])
            fresh(name, origin, work)
            kind, damage = rng.choice(list(damages(rng, [origin / p for p in files(name, origin)])))
            before = content(work / path)
            damage(work / path)  # type: ignore[operator]
            after = content(work / path)
            if after == before:
                continue
            found, right = run(command, work), references[name, use]
            if content(work / path) == after:  # a file that the command left alone is no result of it
                found, right = (one._replace(result=without(path, one.result)) for one in (found, right))
            verdict = judge(found, right, path)
            bad = verdict in ("hangs", "traceback or crash", "refused, the file not named", "silently other")
            wrong += bad
            group = "cache" if name == "cache" else path.name if path.suffix not in (".h5", ".png") else path.suffix
            verdicts[group, verdict] += 1
            kinds[kind, verdict] += 1
            if bad and show:
                last = [line for line in found.text.strip().splitlines() if line][-1:]
                differ = [key for key in found.result | right.result if found.result.get(key) != right.result.get(key)]
                print(f"{i}: {path}: {kind}; {use}: {verdict} (status {found.status}): {last} {differ}", flush=True)
    except KeyboardInterrupt:  # what was counted so far is told
        pass
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    columns = sorted({verdict for _, verdict in verdicts})
    for counted, title in ((verdicts, "file"), (kinds, "damage")):
        print("\n| " + " | ".join([title, *columns]) + " |\n" + "|---" * (len(columns) + 1) + "|")
        for row in sorted({row for row, _ in counted}):
            print("| " + " | ".join([row, *(str(counted[row, column] or "") for column in columns)]) + " |")
    print(f"\n{sum(verdicts.values())} damages: {wrong} wrong")
    return wrong


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--show"]
    numbers = [int(word) for word in words]
    sys.exit(min(1, main(*(numbers + [600, 0][len(numbers) :]), show="--show" in sys.argv)))
