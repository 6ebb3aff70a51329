"""How far an iteration of a search is, in a file beside the checkpoints of its trials."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from neuroevo.storage import files, rundir

FILE = "rung.json"
WRONG = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # errors of a damaged one

State = dict[str, Any]


def read(folder: Path) -> State | None:
    """Return how far an iteration is, None where none is begun; one of `WRONG` where the file is damaged."""
    file = folder / FILE
    if not file.exists():
        return None
    state: State = json.loads(files.content(file))  # infinite metrics among them
    if state.pop(rundir.CHECKSUM, None) not in (None, checksum(state)):  # those of before have none
        raise ValueError("another checksum")
    return state


def write(folder: Path, state: Mapping[str, Any]) -> None:
    """Write how far an iteration is, with its checksum."""
    files.replace(folder / FILE, json.dumps({**state, rundir.CHECKSUM: checksum(state)}).encode())


def prefix(state: Mapping[str, Any]) -> str:
    """Return how the names of its checkpoints begin."""
    return str(state.get("name", f"{state['iteration']}-{state['rung']}-"))  # searches before this one have no name


def checksum(state: Mapping[str, Any]) -> str:
    """Return the checksum of a state."""
    return sha256(json.dumps(state).encode()).hexdigest()
