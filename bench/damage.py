"""Damage files of runs and of the cache, use them, and count what comes of it: docs/reliability.md has the figures.

usage: python bench/damage.py [COUNT] [SEED] [--show]      (600 and 0; --show prints what was not as it should be)

A run with a lineage, one with two objectives, one on images in files with broken ones among them, a search of
hyperparameters and a benchmark are made once. Then, COUNT times: one of their files, or of the cache's, is damaged, and
one command uses it. It is right if what comes out is the same as from the undamaged file, or if a line says what is
damaged; a traceback, a crash, a hang, or another result without a word is wrong. Commands run in forks of one process.
"""

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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
from PIL import Image

from neuroevo.cli.main import main as command_line

TINY = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=16",
        "fitness.samples=100", "memory.limit=1e8", "validate.every=5"]  # fmt: skip
SIZES = ["budget.generations=20"]
DIGITS = [*TINY, *SIZES, "algorithm.crossover=uniform", "algorithm.selection=tournament"]
FRONT = [*TINY, *SIZES, 'fitness.metrics=["cross_entropy","weight_norm"]']
PHOTOS = [*TINY, *SIZES, "data.name=image_folder", "data.root=photos", "data.broken=skip"]
TUNE = """
data: {name: digits}
backbone: {name: none, weights: none}
algorithm: {name: fixed, population: 1}
refine: {steps: 5}
memory: {limit: 100000000}
budget: {generations: 3}
tune:
  sampler: {name: pso, population: 4}
  space: {refine.lr: {name: float, low: 0.001, high: 1.0, scale: log}}
  trial: {generations: 2}
  budget: {generations: 3}
"""
BENCH = """
data: {name: digits}
backbone: {name: none, weights: none}
memory: {limit: 100000000}
budget: {samples: 200000}
"""
BENCHED = ["bench", "bench.yaml", "--arms", "sgd,random", "--seeds", "1", "--out", "bench"]
LIMIT = 120  # seconds


def sets(given: list[str]) -> list[str]:
    """Return --set options."""
    return [word for one in given for word in ("--set", one)]


class Subject(NamedTuple):
    """What is damaged, and what uses it."""

    make: list[str]
    commands: dict[str, list[str]]


def uses(name: str, *more: str) -> dict[str, list[str]]:
    """Return the commands that use a run's folder."""
    found = {
        "inspect": ["inspect", name],
        "report": ["report", name],
        "evaluate": ["evaluate", name],
        "export": ["export", name, "--out", "taken.safetensors"],
        "resume": ["resume", name],
        "resume with more budget": ["resume", name, "--set", "budget.generations=25"],
        "genome.from": ["run", *sets([*DIGITS, f"genome.from=[{name}]"]), "--out", "begun"],
    }
    return {key: command for key, command in found.items() if key not in more}


SUBJECTS = {
    "run": Subject(["run", *sets(DIGITS), "--out", "run"], uses("run")),
    "front": Subject(
        ["run", *sets(FRONT), "--out", "front"],
        {
            **uses("front", "genome.from"),
            "export of a member": ["export", "front", "--member", "0", "--out", "taken.pt"],
        },
    ),
    "photos": Subject(["run", *sets(PHOTOS), "--out", "photo"], uses("photo", "genome.from")),
    "tune": Subject(
        ["tune", "tune.yaml", "--no-final", "--out", "tune"],
        {
            "inspect": ["inspect", "tune"],
            "report": ["report", "tune"],
            "resume": ["resume", "tune"],
            "resume with more budget": ["resume", "tune", "--set", "tune.budget.generations=4"],
            "resume to the final run": ["resume", "tune", "--set", "tune.final=true"],
        },
    ),
    "tuned": Subject(["tune", "tune.yaml", "--out", "tuned"], uses("tuned", "genome.from")),
    "bench": Subject(BENCHED, {"bench": BENCHED, "report": ["report", "bench"], "resume": ["resume", "bench"]}),
    "cache": Subject(
        ["validate", *sets(DIGITS)],
        {
            "run": ["run", *sets(DIGITS), "--out", "begun"],
            "run on photos": ["run", *sets(PHOTOS), "--out", "begun"],
            "evaluate photos": ["evaluate", "photo"],
            "validate": ["validate", *sets(PHOTOS)],
        },
    ),
}


class Outcome(NamedTuple):
    """What came of a command."""

    status: int | None  # None: it hung
    text: str  # what it printed
    result: dict[str, str]  # hashes of what a user gets


def call(command: list[str], folder: Path) -> tuple[int | None, str, str]:
    """Run a command of neuroevo in a fork, in a folder; return its exit status, standard output and error."""
    out, err = folder / ".out", folder / ".err"
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        os.environ["NEUROEVO_CACHE"] = str(folder / "cache")
        for path, number in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["neuroevo", *command]
        status = 70
        try:
            command_line()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 70
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
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
        time.sleep(0.02)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return status, out.read_text(errors="replace"), err.read_text(errors="replace")


def without_times(value: object) -> object:
    """Return a JSON value less what may differ between two runs of the same."""
    if isinstance(value, dict):
        # How often test was scored is in result.json alone, and begins anew with it.
        skip = ("seconds", "backbone_samples", "command", "machine", "test_scored", "checksum")
        return {key: without_times(v) for key, v in value.items() if key not in skip and "seconds" not in key}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def digest(*parts: object) -> str:
    """Return a hash of parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def taken(command: list[str], folder: Path, status: int | None, printed: str) -> dict[str, str]:
    """Return what a user gets of a command, as hashes: of what it printed, or of files by their paths."""
    found = {"status": digest(status)}
    run = next((folder / word for word in command[1:] if (folder / word).is_dir() and word != "photos"), None)
    if command[0] in ("inspect", "evaluate"):
        # Which files lie there, and how long it took, is not what the run is.
        found["printed"] = digest(re.sub(r"(?m)^  (checkpoints|seconds|damaged|file) .*\n", "", printed))
    elif command[0] == "export":
        path = folder / command[command.index("--out") + 1]
        found["file"] = digest(path.read_bytes() if path.exists() else None)
    elif run is not None:
        for path in sorted(path for path in run.rglob("*") if path.is_file()):
            try:
                value = of_file(path, command[0] == "report")
            except (OSError, ValueError):
                value = "unreadable"
            if value is not None:
                found[str(path.relative_to(folder))] = value
    return found


def of_file(path: Path, report: bool) -> str | None:
    """Return a hash of what a file says, of a `report` or of a run; None for one that is no result."""
    if report:
        is_table = path.parent.name == "plots" and path.suffix == ".csv" and "curve" not in path.name
        return digest(path.read_bytes()) if is_table else None
    if path.name == "champion.safetensors":
        return digest(path.read_bytes())
    if path.name == "history.jsonl":
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
        end = min(len(data), start + rng.choice((16, 512, 4096)))
        data[start:end] = bytes(end - start)
        return data

    def into_folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    yield "one bit flipped", changed(flip)
    yield "one bit flipped", changed(flip)  # twice as often: the quietest
    yield "a byte of 0xff", changed(high)
    yield "zeros over a part", changed(zeros)
    yield "cut in half", changed(lambda data: data[: len(data) // 2])
    yield "cut by a byte", changed(lambda data: data[:-1])
    yield "empty", changed(lambda data: b"")
    yield "more at its end", changed(lambda data: data + rng.randbytes(100))
    yield "a line twice", changed(lambda data: data + data.splitlines(keepends=True)[-1] if data else data)
    yield "another file's content", changed(lambda data: rng.choice(others).read_bytes())
    yield "gone", Path.unlink
    yield "a folder in its place", into_folder


def make(folder: Path) -> None:
    """Make what is to be damaged."""
    numbers = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(40):
            pixels = np.clip(numbers.normal(60 + 60 * label, 40, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i:02d}.png")
        (folder / "photos" / name / "broken.png").write_bytes(b"broken")
    (folder / "tune.yaml").write_text(TUNE)
    (folder / "bench.yaml").write_text(BENCH)
    time.sleep(4)  # a file touched just now isn't remembered
    for name, subject in SUBJECTS.items():
        status, printed, said = call(subject.make, folder)
        assert status == 0, (name, printed, said)
        if name in ("run", "front", "photos", "tuned", "bench"):
            call(["report", subject.make[-1]], folder)
    call(["validate", *sets(PHOTOS)], folder)


def content(path: Path) -> bytes | None:
    """Return a file's bytes, or None where there is no file."""
    return path.read_bytes() if path.is_file() else None


def files(name: str, folder: Path) -> list[Path]:
    """Return the files of a subject, by their paths within the folder."""
    top = folder / {"photos": "photo"}.get(name, name)
    found = (path for path in top.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != ".lock")
    return sorted(
        path.relative_to(folder) for path in found if path.name != "report.html" and path.parent.name != "plots"
    )


def main(count: int, seed: int, show: bool) -> int:
    """Damage `count` files; return how many times it came out wrong."""
    rng = random.Random(seed)
    whole, verdicts, kinds = Path(tempfile.mkdtemp()), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    wrong = 0
    try:
        origin, work = whole / "origin", whole / "work"
        origin.mkdir()
        make(origin)

        def fresh() -> None:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(origin, work, symlinks=True)

        references: dict[tuple[str, str], Outcome] = {}
        for i in range(count):
            name = rng.choice(list(SUBJECTS))
            path = rng.choice(files(name, origin))
            use = rng.choice(list(SUBJECTS[name].commands))
            command = SUBJECTS[name].commands[use]
            if (name, use) not in references:
                fresh()
                references[name, use] = run(command, work)
                assert references[name, use].status == 0, (name, use, references[name, use])
            fresh()
            kind, damage = rng.choice(list(damages(rng, [origin / p for p in files(name, origin)])))
            before = content(work / path)
            damage(work / path)  # type: ignore[operator]
            after = content(work / path)
            if after == before:
                continue
            found, right = run(command, work), references[name, use]
            own = str(path)  # a file that the command left alone is no result of it
            if content(work / path) == after:
                found, right = (one._replace(result={**one.result, own: ""}) for one in (found, right))
            told = path.name in found.text or "damaged" in found.text or path.stem in found.text
            if found.status is None:
                verdict = "hangs"
            elif "Traceback" in found.text or found.status not in (0, 1, 2):
                verdict = "traceback or crash"
            elif found.status in (1, 2):
                verdict = "refused in a line" if told else "refused, the file not named"
            elif found.result == right.result:
                verdict = "the same"
            else:
                verdict = "said, and other" if told else "silently other"
            bad = verdict in ("hangs", "traceback or crash", "refused, the file not named", "silently other")
            wrong += bad
            group = "cache" if name == "cache" else path.name if path.suffix != ".h5" else "checkpoints"
            verdicts[group, verdict] += 1
            kinds[kind, verdict] += 1
            if bad and show:
                last = [line for line in found.text.strip().splitlines() if line][-1:]
                print(f"{i}: {path}: {kind}; {use}: {verdict} (status {found.status}): {last}", flush=True)
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
