"""Where a run was computed: what differed each time that it went on elsewhere than where it was left.

On the same device, threads, versions and features a run that goes on ends in the bytes of an uninterrupted one. On
others it may round otherwise, which its checkpoints and its result keep.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from neuroevo.experiments.log import versions
from neuroevo.storage.checkpoint import Checkpoint, Move


def add(saved: Checkpoint, device: torch.device, features: str, log: Callable[[str], None]) -> list[Move]:
    """Return a run's moves up to here, where it goes on from a checkpoint; `log` is told what differs now.

    `features` is the hash of those that there are. A move has the generation after which it was, and of all that
    differed what it was before and after.
    """
    now: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "device": str(device),
        "versions": versions(),
        "features": features,
    }
    then: dict[str, Any] = {
        "threads": saved.plan.threads,
        "device": saved.device,
        "versions": saved.versions,
        "features": saved.features,
    }
    move: Move = {}
    for what, value in now.items():
        before = then[what]
        if before == value:
            continue
        log(f"{what} were {before} and are {value}: the run goes on, but may round otherwise than uninterrupted")
        if what == "versions":
            names = [name for name in before | value if before.get(name) != value.get(name)]
            move[what] = {name: [before.get(name), value.get(name)] for name in names}
        else:
            move[what] = [before, value]
    return [*saved.moves, {"generation": saved.step.generation, **move}] if move else list(saved.moves)


def lines(moves: Sequence[Move]) -> list[str]:
    """Return a line on each move for a reader of the result."""
    found = []
    for move in moves:
        words = [f"{key} {now} in place of {before}" for key, (before, now) in _changes(move).items()]
        found.append(
            f"went on after generation {move['generation']} with {', '.join(words)}: uninterrupted it may have rounded "
            "otherwise"
        )
    return found


def _changes(move: Move) -> dict[str, tuple[Any, Any]]:
    """Return what a move changed, each library by its name, and of hashes of features what a reader can take in."""
    found = {key: (pair[0], pair[1]) for key, pair in move.items() if key in ("threads", "device")}
    found |= {name: (pair[0] or "none", pair[1] or "none") for name, pair in move.get("versions", {}).items()}
    if "features" in move:
        found["features"] = ("those of before", "others")
    return found
