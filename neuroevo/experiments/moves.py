"""Where a run was computed: what differed each time that it went on elsewhere than where it was left.

On the same device, threads, versions and features a run that goes on ends in the bytes of an uninterrupted one. On
others it may round otherwise, which its checkpoints and its result keep.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from neuroevo.experiments.log import versions
from neuroevo.storage.checkpoint import Checkpoint, Move


def add(saved: Checkpoint, device: torch.device, features: str, log: Callable[[str], None]) -> list[Move]:
    """Return a run's moves up to here, where it goes on from a checkpoint; `log` is told what differs now.

    `features` is the hash of those that there are. A move has the generation after which it was, and of all that
    differed what it was before and after.
    """
    return extend(saved.moves, saved.step.generation, then=site_of(saved), now=site(device, features), log=log)


def extend(
    moves: Sequence[Move], after: int, *, then: Mapping[str, Any], now: Mapping[str, Any], log: Callable[[str], None]
) -> list[Move]:
    """Return moves with another one after a generation, where two sites differ; `log` is told what does."""
    move = compare(then, now, log)
    return [*moves, {"generation": after, **move}] if move else list(moves)


def site_of(saved: Checkpoint) -> dict[str, Any]:
    """Return where a checkpoint was written, as `site` has it."""
    return {
        "threads": saved.plan.threads,
        "device": saved.device,
        "versions": saved.versions,
        "features": saved.features,
    }


def site(device: torch.device, features: str = "") -> dict[str, Any]:
    """Return what the bytes of a run depend on beside its config and data, as this process has it."""
    return {
        "threads": torch.get_num_threads(),
        "device": str(device),
        "versions": versions(),
        "features": features,
    }


def compare(then: Mapping[str, Any], now: Mapping[str, Any], log: Callable[[str], None]) -> Move:
    """Return what differs between two sites, before and after; `log` is told."""
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
    return move


def lines(moves: Sequence[Move], unit: str = "generation") -> list[str]:
    """Return a line on each move for a reader of the result; a `unit` is what a move has the number of."""
    found = []
    for move in moves:
        words = [f"{key} {now} in place of {before}" for key, (before, now) in _changes(move).items()]
        found.append(
            f"went on after {unit} {move['generation']} with {', '.join(words)}: uninterrupted it may have rounded "
            "otherwise"
        )
    return found


def between(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line on each thing that differs among where runs were computed, by their results; old ones have less."""
    sites = [
        {key: result[key] for key in ("threads", "device") if key in result} | dict(result.get("versions", {}))
        for result in results
    ]
    found = []
    for what in dict.fromkeys(key for place in sites for key in place):
        counts = Counter(str(place[what]) for place in sites if what in place)
        if len(counts) > 1:
            words = ", ".join(f"{value} ({count} of {counts.total()})" for value, count in counts.items())
            found.append(f"runs were computed with different {what}: {words}; one made again may round otherwise")
    return found


def _changes(move: Move) -> dict[str, tuple[Any, Any]]:
    """Return what a move changed, each library by its name, and of hashes of features what a reader can take in."""
    found = {key: (pair[0], pair[1]) for key, pair in move.items() if key in ("threads", "device")}
    found |= {name: (pair[0] or "none", pair[1] or "none") for name, pair in move.get("versions", {}).items()}
    if "features" in move:
        found["features"] = ("those of before", "others")
    return found
