"""Checkpoints: one complete HDF5 file each, that h5py or h5ls alone can read, written so that a crash loses none.

A file is written under a temporary name, flushed to disk, renamed, and its folder flushed: whatever bears a
checkpoint's name is whole. Its first 512 bytes (an HDF5 user block) hold a mark and the SHA-256 of all the rest, so
that any changed bit is seen. Large tensors are laid out by HDF5 and then written straight from memory, while another
thread hashes them: a checkpoint costs little more than the bare write of its bytes.
"""

import hashlib
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neuroevo import config, pareto
from neuroevo.cost import Cost
from neuroevo.errors import InputError, RunError
from neuroevo.fitness import Plan, Scores
from neuroevo.genome import Layout, Population
from neuroevo.identity import Identity
from neuroevo.loop import Champion, Step

FORMAT = 1
FRONT = "front-"  # what its members are called, beside a number
TRIALS = "trials"  # of hyperparameters
KEPT = "kept"  # of what other runs' files gave
MARK = b"neuroevo checkpoint\n"
USER_BLOCK = 512
DIRECT = 2**16  # arrays of at least this many bytes are written around HDF5
BLOCK = 2**23  # bytes written or hashed at a time
INTEGERS = ("generation", "invalid", "forward_samples", "backward_samples")

History = list[dict[str, float | None]]


class Front(NamedTuple):
    """The individuals of a generation whom nobody dominates, the best by the first objective first."""

    genomes: Tensor  # [k, g]
    fitness: Tensor  # [k, m] float64, a column an objective, higher is better


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, but for the algorithm's state: that is read into a template, by `state`."""

    path: Path
    config: str  # YAML
    seed: int
    device: str
    layout: Layout
    classes: tuple[str, ...]
    plan: Plan
    changes: list[dict[str, int]]  # that lack of memory made to it
    versions: dict[str, str]
    features: str  # a hash: computed anew by other threads they would round otherwise
    scale: dict[str, Tensor]  # of what the head is given: genomes mean nothing without it
    step: Step  # state None
    history: History
    front: Front | None  # of many objectives
    data: Identity | None = None  # what the splits are of; None, as the next two, in a checkpoint from before these
    native: tuple[int, int, int] | None = None  # height, width and channels of the data set's images
    frozen: str | None = None  # a hash of the weights that never evolve
    kept: dict[str, Tensor] | None = None  # what other runs' files gave: `start` [s, g], and `head/...` as it stays

    @property
    def objectives(self) -> list[str]:
        """The names of many objectives, in the order of the front's columns."""
        given = config.parse(self.config, str(self.path))["fitness"]["metrics"]
        return [metric if isinstance(metric, str) else metric["name"] for metric in given]


def name(generation: int) -> str:
    """Return the file name of a generation's checkpoint."""
    return f"generation-{generation:06d}.h5"


def listed(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first."""
    return sorted(folder.glob("generation-*.h5"), reverse=True)


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
        "population/parents": step.population.parents,
        **{f"population/traits/{key}": trait for key, trait in step.population.traits.items()},
        **_tree(getattr(step.state, TRIALS, {}), TRIALS),
        **_tree(step.state, "algorithm"),
        "champion/genome": step.champion.genome,
        **beside,
    }
    if step.scores.objectives > 1:
        objectives = values[:, : step.scores.objectives]
        rows = pareto.front(objectives)
        tensors |= {"front/genomes": step.population.genomes[rows], "front/fitness": objectives[rows]}
    for key, tensor in tensors.items():
        if id(tensor) in seen:
            shared[key] = seen[id(tensor)]
        else:
            seen[id(tensor)] = key
            arrays[key] = tensor.detach().cpu().contiguous().numpy()
    for column in history[0] if history else ():
        cells = [math.nan if line[column] is None else line[column] for line in history]
        arrays[f"history/{column}"] = np.array(cells, dtype=np.int64 if column in INTEGERS else np.float64)
    attributes = attributes | {
        "format": FORMAT,
        "generation": step.generation,
        "columns": json.dumps(list(history[0]) if history else []),
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
        later = _lay_out(temporary, attributes, champion, arrays, shared)
        _fill(temporary, later)
        temporary.replace(path)
        flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # h5py raises either when a write fails
        reason = (
            os.strerror(error.errno) if isinstance(error, OSError) and error.errno else " ".join(str(error).split())
        )
        raise RunError(f"{path}: checkpoint not written ({reason}); the one before it stands") from error
    finally:
        temporary.unlink(missing_ok=True)


def _lay_out(
    path: Path,
    attributes: dict[str, Any],
    champion: dict[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
    shared: dict[str, str],
) -> list[tuple[int, npt.NDArray[Any]]]:
    """Write all but the large arrays; return where in the file those go."""
    later = []
    with h5py.File(path, "w", userblock_size=USER_BLOCK, libver=("v110", "v110")) as file:
        for key, array in arrays.items():
            if array.nbytes < DIRECT:
                file.create_dataset(key, data=array)
                continue
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_layout(h5py.h5d.CONTIGUOUS)
            creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            link = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            link.set_create_intermediate_group(True)
            space = h5py.h5s.create_simple(array.shape)
            kind = h5py.h5t.py_create(array.dtype, logical=True)
            dataset = h5py.h5d.create(file.id, key.encode(), kind, space, creation, link)
            later.append((dataset.get_offset(), array))
        for key, source in shared.items():
            file[key] = h5py.SoftLink(f"/{source}")
        for notes, place in ((attributes, file.attrs), (champion, file["champion"].attrs)):
            for key, value in notes.items():
                place.create(key, value)
    return sorted(later, key=lambda pair: pair[0])


def _yield_to_others() -> None:
    """Let this thread run when a core is idle: a generation's products wait for their slowest thread."""
    if sys.platform == "linux":  # where priority is a thread's own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _fill(path: Path, later: Sequence[tuple[int, npt.NDArray[Any]]]) -> None:
    """Write the large arrays into their places, hash all that follows the user block, write the hash, flush to disk."""
    pieces = [(offset, array.reshape(-1).view(np.uint8).data) for offset, array in later]
    with open(path, "r+b", buffering=0) as file, ThreadPoolExecutor(1, initializer=_yield_to_others) as hasher:
        descriptor = file.fileno()
        end = os.fstat(descriptor).st_size

        def hashed() -> str:
            sha, place = hashlib.sha256(), USER_BLOCK
            for offset, piece in [*pieces, (end, memoryview(b""))]:
                sha.update(os.pread(descriptor, offset - place, place))  # what HDF5 wrote between
                for start in range(0, len(piece), BLOCK):
                    sha.update(piece[start : start + BLOCK])
                place = offset + len(piece)
            return sha.hexdigest()

        digest = hasher.submit(hashed)
        for offset, piece in pieces:
            start = 0
            while start < len(piece):
                start += os.pwrite(descriptor, piece[start : start + BLOCK], offset + start)
        os.fsync(descriptor)  # the bulk goes to disk while it is still being hashed
        os.pwrite(descriptor, MARK + digest.result().encode() + b"\n", 0)
        os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify(path: Path) -> None:
    """See that a file is a checkpoint of this format and unchanged since it was written; InputError if not."""
    try:
        with open(path, "rb") as file:
            head = file.read(USER_BLOCK)
            if not head.startswith(MARK):
                raise InputError(f"{path}: not a neuroevo checkpoint")
            sha = hashlib.sha256()
            while block := file.read(BLOCK):
                sha.update(block)
    except OSError as error:
        raise InputError(f"{path}: {os.strerror(error.errno or 0)}") from None
    if head[len(MARK) :].split(b"\n")[0] != sha.hexdigest().encode():
        raise InputError(f"{path}: damaged: its content doesn't match its checksum")


def read(path: Path) -> Checkpoint:
    """Read a checkpoint, verified, all but the algorithm's state; InputError where it is damaged or another format."""
    verify(path)
    with h5py.File(path, "r") as file:
        attributes = dict(file.attrs)
        if attributes["format"] != FORMAT:
            raise InputError(f"{path}: checkpoint format {attributes['format']}; this version reads {FORMAT}")
        columns = {column: data[()] for column, data in file["history"].items()} if "history" in file else {}
        order = json.loads(attributes["columns"])
        history = [
            {c: int(columns[c][i]) if c in INTEGERS else _number(columns[c][i]) for c in order if c in columns}
            for i in range(int(attributes["generation"]))
        ]
        scale = {key: torch.from_numpy(data[()]) for key, data in file.get("features", {}).items()}
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
            Population(torch.from_numpy(group["genomes"][()]), traits, torch.from_numpy(group["parents"][()])),
            Scores(
                values if values.ndim == 2 else values[:, None],
                torch.from_numpy(group["invalid"][()]),
                1 if front is None else front.fitness.shape[1],
            ),
            history[-1] if history else {},
            Cost.from_record(json.loads(attributes["cost"])),
            float(attributes["seconds"]),
            champion,
            int(attributes["stale"]),
            str(attributes["stop"]) or None,
        )
    return Checkpoint(
        path,
        str(attributes["config"]),
        int(attributes["seed"]),
        str(attributes["device"]),
        Layout.from_json(str(attributes["layout"])),
        tuple(json.loads(attributes["classes"])),
        Plan(**json.loads(attributes["plan"])),
        json.loads(attributes["plan_changes"]),
        json.loads(attributes["versions"]),
        str(attributes["features"]),
        scale,
        step,
        history,
        front,
        Identity.from_record(json.loads(attributes["data"])) if "data" in attributes else None,
        tuple(json.loads(attributes["native"])) if "native" in attributes else None,
        attributes.get("frozen"),
        tensors(path, KEPT),
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def state(path: Path, template: Any, device: torch.device) -> Any:
    """Read the algorithm's state into the shape of `template`, whose values don't matter; InputError names a leaf."""
    with h5py.File(path, "r") as file:

        def fill(like: Any, key: str) -> Any:
            if isinstance(like, Tensor):
                if key not in file:
                    raise InputError(f"{path}: no {key}; written by another algorithm")
                return torch.from_numpy(np.asarray(file[key][()])).to(device)
            if isinstance(like, dict) and any(not isinstance(v, Tensor) for v in like.values()):
                return {k: fill(v, f"{key}/{k}") for k, v in like.items()}
            if isinstance(like, dict):  # traits come and go with what a run is made of
                return {k: torch.from_numpy(np.asarray(v[()])).to(device) for k, v in file.get(key, {}).items()}
            return type(like)(*(fill(v, f"{key}/{k}") for k, v in like._asdict().items()))

        return fill(template, "algorithm")


def trials(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the trials in a checkpoint, by their paths; empty where there are none."""
    return {f"{TRIALS}/{key}": tensor for key, tensor in tensors(path, TRIALS).items()}


def tensors(path: Path, group: str) -> dict[str, Tensor]:
    """Return the tensors of a group of a checkpoint, by their paths in it; empty where there is no such group."""
    found: dict[str, Tensor] = {}
    with h5py.File(path, "r") as file:

        def take(key: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found[key] = torch.from_numpy(np.asarray(item[()]))

        if group in file:
            file[group].visititems(take)
    return found


def newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint that is good, or None where there is none at all; damaged ones are warned of."""
    paths = listed(folder)
    for path in paths:
        try:
            return read(path)
        except InputError as error:
            warn(f"{error}; trying the one before it")
    if paths:
        raise InputError(f"{folder}: no checkpoint is good")
    return None


class Writer:
    """Writes checkpoints of one run in the background, one at a time, and keeps the newest few and the champion's."""

    def __init__(self, folder: Path, attributes: dict[str, Any], beside: dict[str, Tensor], keep: int) -> None:
        self.folder, self.attributes, self.beside, self.keep = folder, attributes, beside, keep
        self.pool = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def submit(self, step: Step, history: History) -> None:
        """Write a checkpoint of a step, after the one before it is on disk; an error of that one is raised here."""
        self.wait()
        self.pending = self.pool.submit(self._write, step, list(history))

    def wait(self) -> None:
        """Wait until all is on disk; raise what went wrong."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self.pool.shutdown()

    def _write(self, step: Step, history: History) -> None:
        # A generation's tensors are replaced and never changed in place, so they can be read while the next one runs.
        write(self.folder / name(step.generation), self.attributes, self.beside, step, history)
        for path in listed(self.folder)[self.keep :]:
            if path.name != name(step.champion.generation):
                path.unlink(missing_ok=True)
