"""Files in a folder that are checkpoints: they have a generation in their name, the newest the highest."""

import re
from contextlib import suppress
from pathlib import Path

NAME = re.compile(r"generation-(\d+)\.h5", re.ASCII)
ASIDE = ".aside"  # behind the name of a checkpoint that doesn't count any more


def name(generation: int) -> str:
    """Return the file name of a generation's checkpoint."""
    return f"generation-{generation:06d}.h5"


def number(path: Path) -> int | None:
    """Return the generation in a checkpoint's file name, which may have more than six digits; None for another file."""
    found = NAME.fullmatch(path.name)
    return int(found[1]) if found else None


def is_checkpoint(name: str) -> bool:
    """Tell whether a file of this name is a checkpoint, or one that was being written."""
    return number(Path(name.removesuffix(".partial") + ".h5" if name.endswith(".partial") else name)) is not None


def paths(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first."""
    found = [(count, path) for path in _inside(folder) if (count := number(path)) is not None]
    return [path for _, path in sorted(found, key=lambda pair: (pair[0], pair[1].name), reverse=True)]


def sweep(folder: Path) -> None:
    """Remove checkpoints that were being written by a process that is no more; whoever calls it has the run's lock."""
    for path in _inside(folder):
        if path.name.endswith(".partial") and is_checkpoint(path.name):
            with suppress(OSError):
                path.unlink()


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # there is none, or a file in its place
        return []


def put_aside(folder: Path, kept: Path | None) -> list[Path]:
    """Rename the checkpoints that count as newer than one, so that they don't any more; return what they are now.

    A run that goes on from one passed those over. None: all of them.
    """
    newest_first = paths(folder)
    renamed = []
    for path in newest_first if kept is None else newest_first[: newest_first.index(kept)]:
        target, count = path.with_name(path.name + ASIDE), 1
        while target.exists():
            count += 1
            target = path.with_name(f"{path.name}{ASIDE}-{count}")
        renamed.append(path.rename(target))
    return renamed
