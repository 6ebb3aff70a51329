"""A run's folder and the plain files in it.

Whatever is replaced is written beside and renamed. What is read back may have been damaged meanwhile: what isn't as it
was written is left out, and `note` is told so in a line.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroevo.engine.loop import Step
from neuroevo.errors import UNSAFE, InputError, ignore, printable
from neuroevo.networks.weightfiles import seal
from neuroevo.storage import checkpoint, generations
from neuroevo.storage.checkpoint import History
from neuroevo.storage.files import Note, append, content, dumps, loads, open_to_append, read_lines, replace
from neuroevo.storage.records import count, of_history, of_island, of_lineage, of_result
from neuroevo.storage.tables import cell

OUT = Path("runs/out")  # where runs are whose folder isn't named
LOCK, CHECKPOINTS = ".lock", "checkpoints"
RUNG = "rung"  # where a search keeps an iteration at a rung
PAGE, PLOTS = "report.html", "plots"
FOLDS, LOOKS = "folds", "looks"  # searches that choose together, and what each found on validation
TUNE, TRIALS, BEST = "tune", "trials.csv", "best.yaml"  # of a search of hyperparameters
BENCH, RUNS = "bench.yaml", "runs"  # of a benchmark: what makes a folder one, and where its runs are
RESULTS, CURVES, SUMMARY, COMPARISONS, LEVELS = (
    "results.csv",
    "curves.csv",
    "summary.csv",
    "comparisons.csv",
    "levels.csv",
)
ISLANDS = "islands.jsonl"  # a line for each island of each generation, where there are several
CONFIG, HISTORY, RESULT, CHAMPION, LOG, LINEAGE, CONFUSION = (
    "config.yaml",
    "history.jsonl",
    "result.json",
    "champion.safetensors",
    "run.log",
    "lineage.jsonl",
    "confusion.csv",
)
PREDICTIONS = "predictions.csv"
NETWORK = "network.safetensors"  # of the champion, whole
ONNX = "champion.onnx"  # where the network is an ONNX file
# Of a run in trackers: what it is known by there, and files that they have in its folder.
TRACKING, TENSORBOARD, WANDB, TABLE = "tracking.json", "tensorboard", "wandb", "history.csv"
CHECKSUM = "checksum"  # a key of a result
COMMAND = "command: "  # begins the log's line, after the time, of each command that worked on the run
LONGEST = 255  # bytes of a name on disk
MOST = 2**53  # samples of a confusion matrix: all sums of them are whole numbers, as a float too
FEW = 2  # parents: with more, often everybody, there is nothing to draw


def find(folder: str) -> Path:
    """Return the folder of a run that is there, or InputError; its checkpoints are enough."""
    path = Path(folder)
    there = (path, path / TUNE)
    if (path / CONFIG).is_file() or any(generations.paths(each / CHECKPOINTS) for each in there):
        return path
    raise InputError(f"{folder}: no run is there ({CONFIG} not found)")


def is_arm(name: Any) -> bool:
    """Tell whether something can be the name of a benchmark's arm, which is that of a folder as well, and no path."""
    if not isinstance(name, str) or not name.strip() or name in (".", "..") or UNSAFE.search(name):
        return False
    return not set("/\\") & set(name) and len(name.encode()) <= LONGEST


def place_run(bench: Path, arm: str, split: int | str, seed: int | str) -> Path:
    """Return the folder of a benchmark's run; InputError where the arm's name would lead elsewhere."""
    if not is_arm(arm):
        raise InputError(f"{bench}: {arm!r} can't be an arm's name")
    return bench / RUNS / arm / f"{split}-{seed}"


def refuse_inside(run_dir: str, out: str, option: str = "--out") -> None:
    """Raise InputError where a file to be written is one of a run's own."""
    folder, path = Path(run_dir).resolve(), Path(out).resolve()
    if path == folder:
        raise InputError(f"{option}: {out} is the run's folder; give a file")
    if folder not in path.parents:
        return
    first = path.relative_to(folder).parts[0]
    own = {value for key, value in globals().items() if key.isupper() and isinstance(value, str)}
    if first in own or first.endswith(".partial"):
        raise InputError(f"{option}: {out} is the run's own; give another file")


def write_history(folder: Path, history: History) -> None:
    """Write the history anew, as far as a checkpoint has it."""
    replace(folder / HISTORY, "".join(dumps(line) + "\n" for line in history).encode())


def read_history(
    folder: Path, note: Note = ignore, compare: checkpoint.Checkpoint | None = None
) -> list[dict[str, Any]]:
    """Return a run's history, one line a generation.

    Where lines are damaged or missing, the newest checkpoint's take their place; of one to `compare` with, also where
    they differ.
    """
    notes: list[str] = []
    path = folder / HISTORY
    lines = {line["generation"]: line for line in read_lines(path, notes.append, of_history)}
    whole = not notes and [*lines] == [*range(1, len(lines) + 1)] and lines
    if compare is not None or not whole:
        saved = compare or newest(folder, notes.append)
        for known in [] if saved is None else saved.history:
            right = loads(dumps(known).encode())  # as a file has it
            line = lines.get(right["generation"], {"": None})
            other = any(line.get(key) != value for key, value in right.items()) or not line.keys() <= right.keys()
            if of_history(right) and other:
                lines[right["generation"]] = right
                notes += [f"{path}: not as the checkpoint has it, which counts"]
    for told in dict.fromkeys(notes):
        note(told)
    return [lines[generation] for generation in sorted(lines)]


def newest(folder: Path, note: Note = ignore) -> checkpoint.Checkpoint | None:
    """Return a run's newest good checkpoint; None where there is none, of which `note` is told if some are damaged."""
    try:
        return checkpoint.newest(folder / CHECKPOINTS, note)
    except InputError as error:
        note(str(error))
        return None


def cut_lineage(folder: Path, generation: int, note: Note = ignore) -> None:
    """Take from the lineage, and from the islands' history, the lines after a generation, and those damaged."""
    for name, right in ((LINEAGE, of_lineage), (ISLANDS, of_island)):
        if (folder / name).exists():
            lines = read_lines(folder / name, note, right)
            kept = [line for line in lines if line["generation"] <= generation]
            replace(folder / name, "".join(dumps(line) + "\n" for line in kept).encode())


def read_islands(folder: Path, note: Note = ignore) -> list[dict[str, Any]]:
    """Return the history of each island, a line a generation for each; [] where there is none."""
    found = {(line["generation"], line["island"]): line for line in read_lines(folder / ISLANDS, note, of_island)}
    return [found[key] for key in sorted(found)]


def growing(folder: Path) -> list[Path]:
    """Return the files of a run to which each generation adds lines."""
    return [folder / HISTORY, folder / LINEAGE, folder / ISLANDS]


def extend_islands(folder: Path, step: Step) -> None:
    """Add a generation's line for each island to their history."""
    lines = []
    for i, found in enumerate(step.islands):
        figures = found._asdict()
        rest = {**figures.pop("constraints"), **figures.pop("traits")}
        lines.append(dumps({"generation": step.generation, "island": i, **figures, **rest}) + "\n")
    _add(folder / ISLANDS, "".join(lines))


def _add(path: Path, text: str) -> None:
    """Add text to a file; RunError where that can't be."""
    with open_to_append(path) as file:
        append(file, text)


def extend_lineage(folder: Path, step: Step) -> None:
    """Add a generation's line to the lineage: its parents [n, p], and its fitness [n] or [n, m], null where invalid.

    Where there are several islands, it says which one each is on.

    Nothing is written where individuals have more than two parents, as where everybody is a parent of everybody, or
    after the first generation none at all.
    """
    parents, values = step.population.parents, step.scores.values
    if step.scores.objectives > 1:
        values = values[:, : step.scores.objectives]
    if parents.shape[1] > FEW:
        return
    m = values.shape[1]
    found = torch.cat([values, step.scores.invalid[:, None], parents], 1).cpu()  # together: one wait for the device
    invalid, parents = found[:, m].bool(), found[:, m + 1 :].long()
    if step.generation > 1 and not (parents >= 0).any():
        return
    fitness = (found[:, 0] if m == 1 else found[:, :m]).tolist()
    each = len(parents) // max(1, len(step.islands))
    line = {
        "generation": step.generation,
        **({} if not step.islands else {"island": [i // each for i in range(len(parents))]}),
        "parents": parents.tolist(),
        "fitness": [None if bad else value for value, bad in zip(fitness, invalid.tolist(), strict=True)],
    }
    _add(folder / LINEAGE, dumps(line) + "\n")


def write_confusion(folder: Path, classes: Sequence[str], counts: Tensor) -> None:
    """Write a confusion matrix [C, C] as CSV: the classes, then a row a true class, a column a predicted one."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[cell(printable(name)) for name in classes], *counts.tolist()])
    replace(folder / CONFUSION, text.getvalue().encode())


def read_confusion(folder: Path, note: Note = ignore) -> tuple[list[str], list[list[int]]] | None:
    """Return the classes and counts [C][C] of a confusion matrix, or None where there is none."""
    path = folder / CONFUSION
    if not path.exists():
        return None
    try:
        written = content(path, note)
        known = read_result(folder).get("files", {}).get(CONFUSION)
        if known is not None and sha256(written).hexdigest() != known:
            raise ValueError("another checksum")
        header, *rows = csv.reader(io.StringIO(written.decode(), newline=""))
        counts = [[int(figure) for figure in row] for row in rows]
        if not all(len(row) == len(header) == len(counts) and all(map(count, row)) for row in counts) or not counts:
            raise ValueError("another shape")
        if sum(map(sum, counts)) > MOST:
            raise ValueError("more than can be added")
    except (ValueError, csv.Error):
        note(f"{path}: damaged, and left out")
        return None
    return [name.removeprefix("'") for name in header], counts


def commands(folder: Path) -> list[str]:
    """Return the commands that worked on a run, as they were given, the one that began it first; each once."""
    lines = content(folder / LOG).decode(errors="replace").splitlines()
    told = [line.split(" ", 2)[-1] for line in lines]
    return list(dict.fromkeys(line.removeprefix(COMMAND) for line in told if line.startswith(COMMAND)))


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write the result, with checksums of itself, and of the tables and lines beside it that are there."""
    beside = [folder / name for name in (CONFUSION, PREDICTIONS, LINEAGE, ISLANDS) if (folder / name).is_file()]
    files = {path.name: _digest(path) for path in beside}
    result = {**result, **({"files": files} if files else {})}
    replace(folder / RESULT, (dumps({**result, CHECKSUM: checksum(result)}, indent=2) + "\n").encode())


def _digest(path: Path) -> str:
    with open(path, "rb") as file:  # read piece by piece: a lineage may be long
        return file_digest(file, "sha256").hexdigest()


def checksum(result: Mapping[str, Any]) -> str:
    """Return a hash of a result, less seconds: in these, two runs of the same differ."""

    def timeless(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: timeless(item) for key, item in value.items() if "seconds" not in key}
        return [timeless(item) for item in value] if isinstance(value, list | tuple) else value

    return sha256(dumps(timeless(result)).encode()).hexdigest()


def read_result(folder: Path, note: Note = ignore) -> dict[str, Any]:
    """Return the result, empty where there is none yet, or a damaged one."""
    path = folder / RESULT
    if not path.exists():
        return {}
    try:
        result = loads(content(path, note))
        if not isinstance(result, dict) or result.pop(CHECKSUM, None) not in (None, checksum(result)):
            raise ValueError("another checksum")  # results of before have none
    except (ValueError, RecursionError):
        result = {}
    if of_result(result):
        return dict(result)
    note(f"{path}: damaged, and taken as not there; a run's or a search's is made again by: neuroevo resume {folder}")
    return {}


def check_beside(folder: Path, note: Note) -> None:
    """Tell of files that a result has checksums of and that are gone, or changed where nobody else would see it.

    The lineage and the islands' lines are looked at where the run ended with the result, and hasn't gone on.
    """
    result = read_result(folder)
    known = result.get("files", {})
    for name in known:
        if name in (CONFUSION, PREDICTIONS, LINEAGE, ISLANDS) and not (folder / name).exists():
            note(f"{folder / name}: gone")
    lines = [(folder / name, known[name]) for name in (LINEAGE, ISLANDS) if name in known and (folder / name).exists()]
    history = read_lines(folder / HISTORY, ignore, of_history) if lines else []
    if history and history[-1]["generation"] == result.get("generations"):
        for path, sha in lines:
            if sha256(content(path)).hexdigest() != sha:
                note(f"{path}: damaged: another checksum than when the run ended")


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys in which two configs differ."""
    found = []
    for key in dict.fromkeys((*one, *other)):
        a, b, name = one.get(key), other.get(key), f"{prefix}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{name}.")
        elif a != b or (key in one) != (key in other):
            found.append(name)
    return found


def write_champion(folder: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the champion's trainable part under its names in the network, with a note and a checksum."""
    replace(folder / CHAMPION, seal(weights, about))


def write_network(folder: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write all of the champion's network, with a note and a checksum."""
    replace(folder / NETWORK, seal(weights, about))
