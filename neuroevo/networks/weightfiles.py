"""Files of plain weights by name: written with a checksum, and read without ever running code in them.

Training scripts wrap the same names in many ways: what holds weights is opened, and where several do, that is said.
"""

import argparse
import hashlib
import json
import pathlib
import re
import types
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuroevo.errors import InputError
from neuroevo.reading import regular

NOTE = "neuroevo"  # the one entry of a file's metadata
WRAPPINGS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
AVERAGES = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "model_ema_state_dict")
DEPTH = 4  # wrappings within wrappings
PLAIN: list[Any] = [  # what stands beside weights in training scripts' files, and can do nothing
    argparse.Namespace,
    types.SimpleNamespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
]


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def seal(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return a safetensors file of weights by name, with a note that ends in the checksum of weights and note."""
    from safetensors.torch import save

    # Tied weights are one tensor under two names; each name gets its own, so that the file loads strictly.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    # One entry only: safetensors writes several in an order that changes from process to process.
    return save(own, {NOTE: json.dumps({**about, "sha256": _seal(own, about)})})


def _seal(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    return hashlib.sha256((json.dumps(about) + digest(state)).encode()).hexdigest()


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file and its note, {} where it has none; InputError where it isn't as it was written."""
    from safetensors import safe_open

    try:
        regular(path).close()
        with safe_open(path, "pt") as file:
            about = (file.metadata() or {}).get(NOTE)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except Exception as error:  # safetensors and the system raise their own
        raise unreadable(path, error) from None
    if about is None:
        return state, {}
    try:
        note = json.loads(about)
        sha = note.pop("sha256", None)
    except (ValueError, AttributeError, TypeError):
        raise damage(path) from None
    if sha is not None and sha != _seal(state, note):
        raise damage(path)
    return state, note


def damage(path: Path) -> InputError:
    """Return the error of a file that isn't as it was written."""
    return InputError(f"{path}: damaged: its content doesn't match its checksum")


def unreadable(path: Path, error: Exception) -> InputError:
    """Return the error of a file that can't be read, or that holds more than plain weights."""
    reason = " ".join(str(error).split())
    held = re.search(r"GLOBAL (\S+) was not an allowed global", reason)
    reason = f"it holds a {held[1]}; save the network's state_dict alone" if held else reason[:160]
    return InputError(f"{path}: not a file of plain weights, and nothing else is ever read ({reason})")


def read_named(
    path: Path, note: Callable[[str], None] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Read weights, and the names of the classes that their head has a row for; None where the file has none."""
    if path.suffix != ".safetensors":
        return read_weights(path, note), None
    state, about = read_safetensors(path)
    names = about.get("classes")
    if names is None:
        return state, None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise damage(path)
    return state, tuple(names)


def read_weights(path: Path, note: Callable[[str], None] | None = None) -> dict[str, Tensor]:
    """Read a file of plain tensors by name, `.safetensors` or torch's; a pickle that is more is refused, not run.

    `note` is told which of several weights were taken; without it, several are refused.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        regular(path).close()
        with torch.serialization.safe_globals([*PLAIN, *_of_numpy()]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Validating sparse", UserWarning)  # such are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and pickle each raise their own
        raise unreadable(path, error) from None
    found = _candidates(content)
    if not found:
        keys = f"its keys are {_few(content)}" if isinstance(content, dict) else f"it is a {type(content).__name__}"
        raise InputError(f"{path}: holds no weights by name; {keys}")
    order = [*(name for name in (*WRAPPINGS, *AVERAGES) if name in found), *found]
    known = order[0] in WRAPPINGS or order[0] in AVERAGES
    if len(found) > 1:
        if note is None or not known:
            raise InputError(f"{path}: holds several weights, {_few(found)}; save the one that is meant alone")
        note(f"{path}: {order[0]} taken; it also holds {', '.join(name for name in found if name != order[0])}")
    for name, value in found[order[0]].items():
        if value.layout != torch.strided or value.is_meta or value.is_complex():
            kind = "without data" if value.is_meta else "complex" if value.is_complex() else "sparse"
            raise InputError(f"{path}: {name} is {kind}; save plain tensors of real numbers")
    return found[order[0]]


def _of_numpy() -> list[Any]:
    """Return numpy's maker of scalars, under the names that pickles of either version of numpy have."""
    from numpy._core import multiarray

    maker = multiarray.scalar
    return [(maker, f"{package}.multiarray.scalar") for package in ("numpy._core", "numpy.core")]


def _candidates(content: Any, depth: int = 0) -> dict[str, dict[str, Tensor]]:
    """Return the mappings in a file that may be weights, by the key that each is under, "" for the file itself."""
    if not isinstance(content, Mapping) or not content or depth > DEPTH:
        return {}
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        # Within a file there are other tensors by name, such as a callback's best score.
        likely = any("." in name or value.ndim > 1 for name, value in content.items())
        return {"": dict(content)} if likely or not depth else {}
    found = {}
    for key, value in content.items():
        inner = _candidates(value, depth + 1) if isinstance(key, str) else {}
        if inner and not (key.startswith("optim") or key.endswith(("optimizer", "scheduler", "scaler"))):
            names = [name for name in (*WRAPPINGS, *AVERAGES, "") if name in inner] or list(inner)
            if names[0] in ("", *WRAPPINGS, *AVERAGES) or len(inner) == 1:
                found[key] = inner[names[0]]
    return found


def _few(keys: Collection[Any]) -> str:
    return ", ".join(map(str, list(keys)[:8])) + (", ..." if len(keys) > 8 else "")


def strip_prefix(state: dict[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Return weights without the prefix of all their names (`module.`, `_orig_mod.`), if more are then `wanted`."""
    wanted = set(wanted)

    def count_fits(names: Mapping[str, Tensor]) -> int:
        return len(wanted.intersection(names))

    best = state
    while state:
        first = next(iter(state)).partition(".")[0] + "."
        if not all(name.startswith(first) and len(name) > len(first) for name in state):
            break
        state = {name.removeprefix(first): tensor for name, tensor in state.items()}
        best = state if count_fits(state) > count_fits(best) else best
    return best
