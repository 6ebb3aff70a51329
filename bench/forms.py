"""Give what a checkpoint holds every wrong form there is, seal it, use it, and count tracebacks: docs/reliability.md.

usage: python bench/forms.py [SUBJECT,...] [--part K/N]   (run, front, islands, rows and tune; the K-th of N parts)

Chance finds one array in one form in hours; this goes through all of them. Each array of the newest checkpoint is left
out, has other shapes, one row or column less or more, other types, and extreme numbers; each attribute, and each value
within those that are JSON or a config, is left out or of another kind. Then one command uses the checkpoint. Whatever
comes is right but for a traceback, a crash or a hang: a checksum that is right says that nobody damaged it.
"""

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import damage
import h5py
import numpy as np
import onnx_models
import yaml
from doors import ATTRIBUTES, seal
from subjects import SUBJECTS, give

SHAPES = [(), (0,), (1,), (2,), (2, 1), (1, 2, 1), (3, 0)]
TYPES = ["f8", "i1", "u8", "bool", "f2", "S4"]
NUMBERS = [0, 1, -1, 127, float("nan"), float("inf"), 1e300, 2**31, -(2**40)]
VALUES = [3, -1, 1.5, "x", None, [], {}, [[]], True, 10**30]
USES = ("inspect", "evaluate", "export", "report", "resume with more budget", "predict", "load")
DEEPEST = 3  # sections, keys and options of a config


def arrays(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield wrong forms of an array, each with its name; None for none."""
    yield "gone", None
    for shape in SHAPES:
        if shape != found.shape:
            yield f"of shape {shape}", np.resize(found, shape)
    for axis in (axis for axis in range(found.ndim) if found.shape[axis]):
        yield f"one less along axis {axis}", np.delete(found, -1, axis)
        yield f"one more along axis {axis}", np.concatenate([found, np.take(found, [-1], axis)], axis)
    with np.errstate(all="ignore"):
        for kind in (kind for kind in TYPES if np.dtype(kind) != found.dtype):
            yield f"of {kind}", found.astype(kind)
        for number in NUMBERS:
            yield f"full of {number}", np.full(found.shape, number).astype(found.dtype)


def values(text: str, is_config: bool) -> Iterator[tuple[str, Any]]:
    """Yield wrong forms of an attribute's text: of what it says as a whole, and of each value in it."""
    yield "gone", None
    yield from ((repr(value)[:20], value) for value in ATTRIBUTES)
    read, write = (yaml.safe_load, yaml.safe_dump) if is_config else (json.loads, json.dumps)
    if not is_config and text[:1] not in ("{", "["):
        return

    def paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if path:
            yield path
        if len(path) < DEEPEST:
            first = range(min(1, len(value))) if isinstance(value, list) else ()
            for key in value if isinstance(value, dict) else first:
                yield from paths(value[key], (*path, key))

    tree = read(text)
    for path in paths(tree, ()):
        for value in [*VALUES, "gone"]:
            changed = copy.deepcopy(tree)
            place = changed
            for key in path[:-1]:
                place = place[key]
            if value == "gone":
                del place[path[-1]]
            else:
                place[path[-1]] = value
            yield f"{path} {value!r}", write(changed)


def forms(path: Path) -> Iterator[tuple[str, str, str, Any]]:
    """Yield what is wrong with a checkpoint: its group and attribute, or array and "", what it is, and its content."""
    with h5py.File(path) as file:
        found: dict[str, Any] = {}
        file.visititems(lambda key, item: found.update({key: item[()]}) if isinstance(item, h5py.Dataset) else None)
        groups = ["/", *(key for key in file if isinstance(file[key], h5py.Group))]
        attributes = {(group, key): file[group].attrs[key] for group in groups for key in file[group].attrs}
    for key, array in found.items():
        yield from ((key, "", name, content) for name, content in arrays(np.asarray(array)))
    for (group, key), value in attributes.items():
        each = values(value, key == "config") if isinstance(value, str) else ((repr(v)[:20], v) for v in ATTRIBUTES)
        yield from ((group, key, name, content) for name, content in each)


def write(path: Path, place: str, attribute: str, content: Any) -> None:
    """Change an array or an attribute of a checkpoint, seal it, and leave no other beside it."""
    with h5py.File(path, "r+") as file:
        if attribute:
            file[place].attrs.pop(attribute) if content is None else file[place].attrs.update({attribute: content})
        else:
            del file[place]
            if content is not None:
                file[place] = content
    path.write_bytes(seal(path.read_bytes()))
    for other in path.parent.glob("*.h5"):
        if other != path:
            other.unlink()


def main(names: list[str], part: int, parts: int) -> int:
    """Try a part of all forms; return how many came to a traceback, a crash or a hang."""
    memory = Path("/dev/shm")
    whole = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    tried = wrong = 0
    try:
        origin, work = whole / "origin", whole / "work"
        for folder in (work, origin):
            folder.mkdir()
            give(folder, onnx_models.write_float)
        damage.warm_up(work)
        damage.make(origin, damage.call)
        for name in names:
            path = max((origin / name / "checkpoints").glob("*.h5")).relative_to(origin)
            commands = [SUBJECTS[name].commands[use] for use in USES if use in SUBJECTS[name].commands]
            for i, (place, attribute, what, content) in enumerate(forms(origin / path)):
                if i % parts != part:
                    continue
                command = random.Random(f"{part} {i}").choice(commands)
                damage.fresh(name, origin, work)
                write(work / path, place, attribute, content)
                found = damage.run(command, work)
                tried += 1
                if found.status not in (0, 1, 2) or "Traceback" in found.text:
                    wrong += 1
                    last = [line for line in found.text.strip().splitlines() if line][-1:]
                    print(f"{name}: {place} {attribute} {what}: {command[0]}: {found.status}: {last}", flush=True)
            print(f"{name}: {tried} tried so far, {wrong} wrong", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    print(f"{tried} forms, {wrong} wrong")
    return wrong


if __name__ == "__main__":
    given = argparse.ArgumentParser()
    given.add_argument("subjects", nargs="?", default="run,front,islands,rows,tune")
    given.add_argument("--part", default="0/1")
    told = given.parse_args()
    k, n = map(int, told.part.split("/"))
    sys.exit(min(1, main(told.subjects.split(","), k, n)))
