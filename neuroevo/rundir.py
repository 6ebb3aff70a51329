"""A run's folder: who owns it, and the plain files in it. Whatever is replaced is written beside and renamed."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from neuroevo.checkpoint import History, flush_folder
from neuroevo.errors import InputError, printable
from neuroevo.loop import Step
from neuroevo.weightfiles import sealed

CHECKPOINTS = "checkpoints"
TUNE, TRIALS, BEST = "tune", "trials.csv", "best.yaml"  # of a search of hyperparameters
BENCH, RUNS = "bench.yaml", "runs"  # of a benchmark: what makes a folder one, and where its runs are
RESULTS, CURVES, SUMMARY, COMPARISONS, LEVELS = (
    "results.csv", "curves.csv", "summary.csv", "comparisons.csv", "levels.csv",
)  # fmt: skip
CONFIG, HISTORY, RESULT, CHAMPION, LOG, LINEAGE, CONFUSION = (
    "config.yaml",
    "history.jsonl",
    "result.json",
    "champion.safetensors",
    "run.log",
    "lineage.jsonl",
    "confusion.csv",
)
COMMAND = "command: "  # begins the log's line, after the time, of each command that worked on the run
FEW = 2  # parents: with more, often everybody, there is nothing to draw


def claim(out: str | None, stem: str, seed: int) -> Path:
    """Make a run's folder: `out`, which must not hold a run already, or the next free one under runs/out."""
    if out is not None:
        folder = Path(out)
        if (folder / CONFIG).exists():
            raise InputError(f"--out: {out} already holds a run; go on from it with: neuroevo resume {out}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out: {out}: {error.strerror}") from None
        return folder
    suffix = 1
    while True:
        folder = Path("runs/out") / (f"{stem}-{seed}" + (f"-{suffix}" if suffix > 1 else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            suffix += 1
        else:
            return folder


def existing(folder: str) -> Path:
    """Return the folder of a run that is there, or InputError."""
    path = Path(folder)
    if not (path / CONFIG).is_file():
        raise InputError(f"{folder}: no run is there ({CONFIG} not found)")
    return path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Own a run's folder; InputError where another process does. The lock dies with its process."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{folder}: in use by another process") from None
    try:
        yield
    finally:
        lock.release()


def replace(path: Path, content: bytes) -> None:
    """Write a whole file, so that after a crash it is the old one or the new one."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_history(folder: Path, history: History) -> None:
    """Write the history anew, as far as a checkpoint has it."""
    replace(folder / HISTORY, "".join(json.dumps(line) + "\n" for line in history).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON Lines file, [] where there is none; a last one that is only half written is left out.

    It may be read while a run goes on, or after one was killed.
    """
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [json.loads(line) for line in whole]


def cut_lineage(folder: Path, generation: int) -> None:
    """Take from the lineage what comes after a generation."""
    if (folder / LINEAGE).exists():
        kept = [line for line in read_lines(folder / LINEAGE) if line["generation"] <= generation]
        replace(folder / LINEAGE, "".join(json.dumps(line) + "\n" for line in kept).encode())


def extend_lineage(folder: Path, step: Step) -> None:
    """Add a generation's line to the lineage: its parents [n, p], and its fitness [n] or [n, m], null where invalid.

    Nothing is written where individuals have more than two parents, or after the first generation none at all.
    """
    parents, values = step.population.parents, step.scores.values
    if step.scores.objectives > 1:
        values = values[:, : step.scores.objectives]
    if parents.shape[1] > FEW or (step.generation > 1 and not (parents >= 0).any()):
        return
    fitness = (values[:, 0] if values.shape[1] == 1 else values).tolist()
    invalid = step.scores.invalid.tolist()
    line = {
        "generation": step.generation,
        "parents": parents.tolist(),
        "fitness": [None if bad else value for value, bad in zip(fitness, invalid, strict=True)],
    }
    with open(folder / LINEAGE, "a") as file:
        file.write(json.dumps(line) + "\n")


def write_confusion(folder: Path, classes: Sequence[str], counts: Tensor) -> None:
    """Write a confusion matrix [C, C] as CSV: the classes, then a row a true class, a column a predicted one."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([map(printable, classes), *counts.tolist()])
    replace(folder / CONFUSION, text.getvalue().encode())


def commands(folder: Path) -> list[str]:
    """Return the commands that worked on a run, as they were given, the one that began it first; each once."""
    lines = (folder / LOG).read_text().splitlines() if (folder / LOG).exists() else []
    told = [line.split(" ", 2)[-1] for line in lines]
    return list(dict.fromkeys(line.removeprefix(COMMAND) for line in told if line.startswith(COMMAND)))


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write the result."""
    replace(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())


def read_result(folder: Path) -> dict[str, Any]:
    """Return the result, empty where there is none yet."""
    path = folder / RESULT
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return result


def write_champion(folder: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the champion's trainable part under its names in the network, with a note and a checksum."""
    replace(folder / CHAMPION, sealed(weights, about))
