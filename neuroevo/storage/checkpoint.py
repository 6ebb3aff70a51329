"""Checkpoints: one complete HDF5 file each, that h5py or h5ls alone can read, written so that a crash loses none.

A file is written under a temporary name, flushed to disk, renamed, and its folder flushed: whatever bears a
checkpoint's name is whole. Its first 512 bytes (an HDF5 user block) hold a mark and the SHA-256 of all the rest, so
that any changed bit is seen. Large tensors are written straight from memory, while another thread hashes them
(`hdf5`): a checkpoint costs little more than the bare write of its bytes. The newest has the highest number in its
name.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neuroevo import config
from neuroevo.data.identity import Identity
from neuroevo.engine import genome, pareto
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import Execution
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.loop import Champion, Step
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError, RunError
from neuroevo.networks.backbones import Native
from neuroevo.storage import generations, hdf5, shapes
from neuroevo.storage.files import make_way, rename
from neuroevo.storage.records import COUNTS, FIGURES, of_checkpoint

FORMAT = 1
FRONT = "front-"  # what its members are called, beside a number
TRIALS = "trials"  # of hyperparameters
KEPT = "kept"  # of what other runs' files gave
MARK = b"neuroevo checkpoint\n"
LINES, KINDS = "line_columns", "line_kinds"  # which columns each line of a history has, where not all have the same
# Attributes in JSON whose form is looked at.
FORMS = ("classes", "plan", "plan_changes", "versions", "moves", "native", "layout", "cost")
History = list[dict[str, float | None]]
Move = dict[str, Any]  # a generation after which a run went on elsewhere, and what differed there


class Front(NamedTuple):
    """The individuals of a generation that no other dominates, the best by the first objective first."""

    genomes: Tensor  # [k, g]
    fitness: Tensor  # [k, m] float64, a column an objective, higher is better


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, but for the algorithm's state: that is read into a template, by `state`."""

    path: Path
    config: str  # YAML
    seed: int
    device: str
    layout: Layout
    classes: tuple[str, ...]
    plan: Execution
    changes: list[dict[str, int]]  # that lack of memory made to it
    versions: dict[str, str]
    features: str  # a hash: computed anew by other threads they would round otherwise
    affine: dict[str, Tensor]  # of what the head is given: genomes mean nothing without it
    step: Step  # state None
    history: History
    front: Front | None  # of many objectives
    data: Identity | None = None  # what the splits are of; None, as the next two, in a checkpoint from before these
    native: Native | None = None  # of the data set's samples
    frozen: str | None = None  # a hash of the weights that never evolve
    kept: dict[str, Tensor] | None = None  # what other runs' files gave: `start` [s, g], and `head/...` as it stays
    moves: tuple[Move, ...] = ()

    @property
    def objectives(self) -> list[str]:
        """The names of many objectives, in the order of the front's columns."""
        try:
            given = config.parse_sections(self.config, str(self.path))["fitness"]["metrics"]
            found = [metric if isinstance(metric, str) else metric["name"] for metric in given]
        except (LookupError, TypeError):
            raise InputError(f"{self.path}: has a front, and its config no metrics") from None
        if self.front is not None and len(found) != self.front.fitness.shape[1]:
            raise InputError(f"{self.path}: has a front of other metrics than its config")
        return found


def _tree(value: object, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of nested NamedTuples and dicts by path."""
    if isinstance(value, Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else value._asdict().items()  # type: ignore[attr-defined]
    return {path: tensor for key, child in items for path, tensor in _tree(child, f"{prefix}/{key}").items()}


def write(path: Path, attributes: dict[str, Any], beside: dict[str, Tensor], step: Step, history: History) -> None:
    """Write a checkpoint; on any error the file of that name is what it was before. RunError where the disk is full.

    `attributes` are those of the file that don't change within a run: config, seed, device, layout and so on; nor do
    the tensors `beside` the step, by their paths. A state's `trials` are at the top.
    """
    values = step.scores.values
    arrays: dict[str, npt.NDArray[Any]] = {}
    shared: dict[str, str] = {}  # a tensor that is there already is linked, not written again
    seen: dict[int, str] = {}
    tensors = {
        "population/genomes": step.population.genomes,
        "population/fitness": values[:, 0] if values.shape[1] == 1 else values,
        "population/invalid": step.scores.invalid,
        **({} if step.scores.violation is None else {"population/violation": step.scores.violation}),
        "population/parents": step.population.parents,
        "population/roles": step.population.roles,
        **{f"population/traits/{key}": trait for key, trait in step.population.traits.items()},
        **_tree(getattr(step.state, TRIALS, {}), TRIALS),
        **_tree(step.state, "algorithm"),
        "champion/genome": step.champion.genome,
        **beside,
    }
    if step.scores.objectives > 1:
        objectives = values[:, : step.scores.objectives]
        rows = pareto.front(pareto.objectives(step.scores))
        tensors |= {"front/genomes": step.population.genomes[rows], "front/fitness": objectives[rows]}
    for key, tensor in tensors.items():
        if id(tensor) in seen:
            shared[key] = seen[id(tensor)]
        else:
            seen[id(tensor)] = key
            arrays[key] = tensor.detach().cpu().contiguous().numpy()
    columns = list(dict.fromkeys(column for line in history for column in line))
    for column in columns:
        cells = [math.nan if line.get(column) is None else line[column] for line in history]
        arrays[f"history/{column}"] = np.array(cells, dtype=np.int64 if column in COUNTS else np.float64)
    kinds = list(dict.fromkeys(map(tuple, history)))
    if len(kinds) > 1:  # a trait that came late: which lines have it, and where
        arrays[KINDS] = np.array([kinds.index(tuple(line)) for line in history])
        attributes = attributes | {LINES: json.dumps(kinds)}
    attributes = attributes | {
        "format": FORMAT,
        "generation": step.generation,
        "columns": json.dumps(columns),
        "cost": json.dumps(step.cost.record()),
        "seconds": step.seconds,
        "stale": step.stale,
        "stop": step.stop or "",
    }
    champion = {
        "kind": step.champion.kind,
        "generation": step.champion.generation,
        "validation": json.dumps(step.champion.validation),
    }
    temporary = path.with_suffix(".partial")
    try:
        make_way(temporary)
        hdf5.write(temporary, MARK, arrays, shared, [hdf5.Notes("/", attributes), hdf5.Notes("champion", champion)])
        rename(temporary, path)
    except OSError as error:
        stands = "; the one before it stands" if generations.paths(path.parent) else ""
        raise RunError(f"{path}: checkpoint not written ({error.strerror or error}){stands}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


_whole: set[tuple[int, ...]] = set()  # files that this process has seen to be as they were written


def verify(path: Path) -> None:
    """See that a file is a checkpoint of this format and unchanged since it was written; InputError if not."""
    before = _identify(path)
    hdf5.verify(path, MARK, "a neuroevo checkpoint")
    if before == _identify(path):
        _whole.add(before)


def _identify(path: Path) -> tuple[int, ...]:
    """Return what tells a file from another, and from itself before it was written to."""
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open a checkpoint, verified: damaged HDF5 can let its library wait for ever, though it is only looked into."""
    if _identify(path) not in _whole:
        verify(path)
    with hdf5.open_file(path) as file:
        yield file


def read_config(path: Path) -> str:
    """Return the config in a checkpoint; InputError where there is none, or it is damaged."""
    with open_file(path) as file:
        return str(file.attrs["config"])


def read(path: Path) -> Checkpoint:
    """Read a checkpoint, verified, all but the algorithm's state; InputError where it is damaged or another format."""
    verify(path)
    with hdf5.open_file(path) as file:
        attributes = dict(file.attrs)
        if attributes["format"] != FORMAT:
            raise InputError(f"{path}: checkpoint format {attributes['format']}; this version reads {FORMAT}")
        history = _history(file, attributes)
        affine = {key: torch.from_numpy(data[()]) for key, data in file.get("features", {}).items()}
        group = file["population"]
        values = torch.from_numpy(group["fitness"][()])
        traits = {key: torch.from_numpy(trait[()]) for key, trait in group.get("traits", {}).items()}
        champion = Champion(
            torch.from_numpy(file["champion/genome"][()]),
            str(file["champion"].attrs["kind"]),
            int(file["champion"].attrs["generation"]),
            json.loads(file["champion"].attrs["validation"]),
        )
        front = None
        if "front" in file:
            front = Front(*(torch.from_numpy(file["front"][field][()]) for field in Front._fields))
        step = Step(
            int(attributes["generation"]),
            None,
            Population(
                torch.from_numpy(group["genomes"][()]), traits, torch.from_numpy(group["parents"][()]), _roles(group)
            ),
            Scores(
                values if values.ndim == 2 else values[:, None],
                torch.from_numpy(group["invalid"][()]),
                1 if front is None else front.fitness.shape[1],
                torch.from_numpy(group["violation"][()]) if "violation" in group else None,
            ),
            history[-1] if history else {},
            Cost.from_record(json.loads(attributes["cost"])),
            float(attributes["seconds"]),
            champion,
            int(attributes["stale"]),
            str(attributes["stop"]) or None,
        )
        told = {key: json.loads(attributes[key]) for key in FORMS if key in attributes}
        wrong = of_checkpoint(told, champion.validation)
        if wrong is not None:
            raise ValueError(f"{wrong} has another form")
        found = Checkpoint(
            path,
            str(attributes["config"]),
            int(attributes["seed"]),
            str(attributes["device"]),
            Layout.from_json(str(attributes["layout"])),
            tuple(told["classes"]),
            Execution(**told["plan"]),
            told["plan_changes"],
            told["versions"],
            str(attributes["features"]),
            affine,
            step,
            history,
            front,
            _identity(attributes),
            cast(Native, tuple(told["native"])) if "native" in told else None,
            attributes.get("frozen"),
            _numbers(file, KEPT),
            tuple(told.get("moves", ())),
        )
        shapes.check(step.population, step.scores, champion.genome, front, found.layout.genes)
        if found.data is not None and list(found.data.classes) != list(found.classes):
            raise ValueError("classes that aren't those of its data")
    return found


def _history(file: Any, attributes: Mapping[str, Any]) -> History:
    """Return a file's history, each line with the columns that it had."""
    columns = {column: data[()] for column, data in file["history"].items()} if "history" in file else {}
    generations = int(attributes["generation"]) if columns else 0  # a rung keeps none
    kinds = [json.loads(attributes["columns"])]
    which = np.zeros(generations, dtype=np.int64)
    if KINDS in file:
        kinds, which = json.loads(attributes[LINES]), file[KINDS][()]
    if any(cells.shape != (generations,) for cells in (*columns.values(), which)):
        raise ValueError("a history of another length")
    if generations:
        needed = {*COUNTS, *FIGURES}
        if not all(needed <= {*kind} & {*columns} for kind in kinds):
            raise ValueError("a history that lacks columns")
        if columns["generation"].tolist() != [*range(1, generations + 1)]:
            raise ValueError("a history of other generations")
    return [
        {c: int(columns[c][i]) if c in COUNTS else _number(columns[c][i]) for c in kinds[which[i]] if c in columns}
        for i in range(generations)
    ]


def _identity(attributes: Mapping[str, Any]) -> Identity | None:
    """Return what a file says its data are, None in one of before."""
    if "data" not in attributes:
        return None
    record = json.loads(attributes["data"])
    if record is not None and not Identity.is_record(record):
        raise ValueError("data has another form")
    return None if record is None else Identity.from_record(record)


def _roles(group: Any) -> Tensor:
    """Return the roles [n] int8 of the population in a group of a file.

    A checkpoint from before there were any tells them by the parents [n, p]: a new individual has none, and one that
    was kept has one fewer than there is room for, or still fewer.
    """
    if "roles" in group:
        return torch.from_numpy(group["roles"][()])
    parents = torch.from_numpy(group["parents"][()])
    unbred = torch.where(parents[..., 0] >= 0, genome.KEPT, genome.NEW)
    return torch.where(parents[..., -1] >= 0, genome.BRED, unbred).to(torch.int8)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def state(path: Path, template: Any, device: torch.device) -> Any:
    """Read the algorithm's state into the shape of `template`, whose values don't matter; InputError names a leaf."""
    with open_file(path) as file:

        def tensor(item: Any) -> Tensor:
            return torch.from_numpy(np.asarray(item[()])).to(device)

        def fill(like: Any, key: str) -> Any:
            if isinstance(like, Tensor):
                if key not in file:
                    raise InputError(f"{path}: no {key}; written by another algorithm")
                return tensor(file[key])
            if isinstance(like, dict) and any(not isinstance(v, Tensor) for v in like.values()):
                return {k: fill(v, f"{key}/{k}") for k, v in like.items()}
            if isinstance(like, dict):  # traits come and go with what a run is made of
                return {k: tensor(v) for k, v in file.get(key, {}).items()}
            fields = like._asdict()
            told = {}
            if isinstance(like, Population) and f"{key}/roles" not in file and f"{key}/parents" in file:
                told["roles"] = _roles(file[key]).to(device)
            return type(like)(*(told[k] if k in told else fill(v, f"{key}/{k}") for k, v in fields.items()))

        found = fill(template, "algorithm")
    try:
        shapes.check_state(found, template, "algorithm")
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return found


def trials(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the trials in a checkpoint, by their paths; empty where there are none."""
    with open_file(path) as file:
        return {f"{TRIALS}/{key}": tensor for key, tensor in _numbers(file, TRIALS).items()}


def _numbers(file: Any, group: str) -> dict[str, Tensor]:
    """Return the tensors of a group of a file, by their paths in it; empty where there is no such group."""
    found = hdf5.numbers(file[group]) if group in file else ()
    return {key: torch.from_numpy(np.asarray(item[()])) for key, item in found}


def newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint that is good, or None where there is none at all; damaged ones are warned of."""
    wrong = []
    for path in generations.paths(folder):
        try:
            return read(path)
        except InputError as error:
            warn(f"{error}; trying the one before it")
            wrong.append(str(error).removeprefix(f"{folder}/"))
    if wrong:
        raise InputError(f"{folder}: no checkpoint is good ({wrong[0]})")
    return None
