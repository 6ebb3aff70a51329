"""The owner of a folder: a run has it from the moment it claims it, and no other at the same time.

Only an empty folder is claimed, or one with nothing but what a run left that never began; whatever else is there is
somebody's and stays. The lock is a file in the folder. Only its holder takes it off the disk, and whoever gets a lock
looks whether its file is still the folder's: of two that begin together one has the folder, the other touches nothing.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from neuroevo.errors import InputError
from neuroevo.reading import regular
from neuroevo.storage import files, generations, rundir

FIRST = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d " + re.escape(rundir.COMMAND))  # what a run's log begins with
LEFT = (rundir.CONFIG, rundir.LOG, rundir.HISTORY, rundir.LINEAGE)  # by a run that never began, beside checkpoints
BLANK = 4096  # bytes of a log that only begins, at most
SOME = 3  # names in a message
INNER = (  # folders within a run's that are written into
    *(rundir.CHECKPOINTS, rundir.RUNG, rundir.LOOKS, rundir.PLOTS, rundir.TENSORBOARD, rundir.WANDB),
    *(rundir.FOLDS, f"{rundir.FOLDS}/*", rundir.TUNE, f"{rundir.TUNE}/{rundir.CHECKPOINTS}"),
    *(rundir.RUNS, f"{rundir.RUNS}/*", f"{rundir.RUNS}/*/*"),
)


class Claim(NamedTuple):
    """A folder that is ours."""

    folder: Path
    made: list[Path]  # folders made for it, the innermost first
    fresh: bool  # whether its lock is new

    def clear(self) -> None:
        """Take the files that this process made off the disk; others that came to be there meanwhile stay."""
        sweep(self.folder)
        if self.fresh:
            (self.folder / rundir.LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or gone
            for folder in self.made:
                folder.rmdir()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Own a run's folder; InputError where another process does. The lock dies with its process."""
    descriptor = acquire(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def acquire(folder: Path) -> int:
    """Return a descriptor that holds a folder's lock until it is closed; InputError where it can't be had."""
    refuse_links(folder)
    path = folder / rundir.LOCK
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            raise InputError(f"{folder}: the folder was taken away") from None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(f"{folder}: in use by another process") from None
        except OSError as error:
            os.close(descriptor)
            raise InputError(f"{path}: can't be locked ({error.strerror})") from None
        os.close(descriptor)  # its holder cleared the folder just before


def refuse_links(folder: Path) -> None:
    """Raise InputError where a folder within a run's is a link: what is written into it would be elsewhere.

    The run's own folder may be one, or be reached by one.
    """
    for name in INNER:
        for path in sorted(folder.glob(name)) if "*" in name else [folder / name]:
            if path.is_symlink():
                raise InputError(f"{path}: is a link, and no run writes through one; have a folder there, or nothing")


def check(out: str, bench: bool = False) -> None:
    """Raise InputError where `out` can't be claimed as it is now; nothing is written, nor made."""
    folder = out_folder(out)
    try:
        about = folder.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"--out: {out}: {error.strerror}") from None
    if not folder.is_dir():
        what = "a link that leads to no folder" if stat.S_ISLNK(about.st_mode) else "no folder"
        raise InputError(f"--out: {out} is there and is {what}")
    if own_lock(folder):
        with lock(folder):  # whoever has it is said first
            refuse(folder, out, bench)
    else:
        refuse(folder, out, bench)


def out_folder(out: str) -> Path:
    """Return the folder that `--out` names."""
    if not out.strip():
        raise InputError("--out: '' given, a folder expected")
    return Path(out)


def own_lock(folder: Path) -> bool:
    """Tell whether a folder has a lock such as this program makes: an empty file."""
    try:
        about = (folder / rundir.LOCK).lstat()
    except OSError:
        return False
    return stat.S_ISREG(about.st_mode) and about.st_size == 0


def refuse(folder: Path, out: str, bench: bool = False) -> None:
    """Raise InputError unless a folder is empty, but for a lock, or holds a run that never began.

    For a `bench` it is one that is empty or holds a benchmark.
    """
    try:
        names = {path.name for path in list(folder.iterdir())} - ({rundir.LOCK} if own_lock(folder) else set())
    except OSError as error:
        raise InputError(f"--out: {out}: {error.strerror}") from None
    begun = rundir.BENCH in names or names == {f"{rundir.BENCH}.partial"}
    if not names or (begun if bench else never_began(folder, names)):
        return
    if begun:
        raise InputError(f"--out: {out} already holds a benchmark; neuroevo bench and resume go on with it")
    if holds(folder):
        raise InputError(f"--out: {out} already holds a run; go on from it with: neuroevo resume {out}")
    some = ", ".join(sorted(names)[:SOME]) + (", ..." if len(names) > SOME else "")
    raise InputError(f"--out: {out} isn't empty ({some}); give a folder that is new or empty")


def holds(folder: Path) -> bool:
    """Tell whether a run has begun in a folder, or the rest of one is there."""
    if any(generations.paths(each / rundir.CHECKPOINTS) for each in (folder, folder / rundir.TUNE)):
        return True
    return (folder / rundir.CONFIG).is_file() and is_log(folder / rundir.LOG)


def is_log(path: Path) -> bool:
    """Tell whether a file begins as a run's log does."""
    try:
        with regular(path) as file:
            return (
                FIRST.match(file.read(len("2000-01-01 00:00:00 ") + len(rundir.COMMAND)).decode("latin-1")) is not None
            )
    except OSError:
        return False


def is_blank(path: Path) -> bool:
    """Tell whether a file is empty, or has zeros alone, as one that was not flushed may have after a loss of power."""
    try:
        with open(path, "rb") as file:
            return not file.read(BLANK + 1).strip(b"\0") and path.stat().st_size <= BLANK
    except OSError:
        return False


def never_began(folder: Path, names: set[str]) -> bool:
    """Tell whether all that a folder has was left by a run that came to no generation."""
    known = {*LEFT, *(f"{name}.partial" for name in LEFT)}
    if not names <= {*known, rundir.CHECKPOINTS}:
        return False
    try:
        about = {name: (folder / name).lstat() for name in names}
        if not all(stat.S_ISREG(about[name].st_mode) for name in names & known):
            return False
        if any(about[name].st_size for name in names & {rundir.HISTORY, rundir.LINEAGE}):
            return False
        if rundir.CHECKPOINTS in names:
            if not stat.S_ISDIR(about[rundir.CHECKPOINTS].st_mode):
                return False
            inside = [path.with_suffix(".h5") for path in (folder / rundir.CHECKPOINTS).iterdir()]
            if any(generations.number(path) != 0 for path in inside):
                return False
    except OSError:
        return False
    # It came no further, or all else that was written was lost with the power.
    early = names <= {rundir.LOG, f"{rundir.CONFIG}.partial"} and own_lock(folder)
    empty = early and (rundir.LOG not in names or is_blank(folder / rundir.LOG))
    return empty or is_log(folder / rundir.LOG)


def sweep(folder: Path) -> None:
    """Take the files of a run off the disk; whoever calls it has the lock, and knows that they may go."""
    tables = (rundir.CONFUSION, rundir.PREDICTIONS, rundir.TRIALS, rundir.BEST)
    files = (*LEFT, rundir.RESULT, rundir.CHAMPION, rundir.NETWORK, *tables)
    for name in (*files, *(f"{name}.partial" for name in files)):
        with suppress(OSError):
            (folder / name).unlink()
    for inner in (folder / rundir.CHECKPOINTS, folder / rundir.RUNG):
        if inner.is_dir() and not inner.is_symlink():
            for path in list(inner.iterdir()):
                if generations.is_checkpoint(path.name) or inner.name == rundir.RUNG:
                    with suppress(OSError):
                        path.unlink()
            with suppress(OSError):
                inner.rmdir()


@contextmanager
def claim(out: str | None, stem: str, seed: int, bench: bool = False) -> Iterator[Claim]:
    """Own a new run's folder while it is entered: `out`, or the next free one under runs/out.

    InputError where `out` is in use, or has anything in it but what a run left that never began; that is swept out.
    For a `bench` it is a new folder, or a benchmark's, which is left as it is.
    """
    folder, made = next_free(stem, seed) if out is None else choose(out, bench)
    fresh = not (folder / rundir.LOCK).exists()
    with lock(folder):
        claim = Claim(folder, made, fresh)
        try:
            refuse(folder, str(folder), bench)  # it may have been filled just now
        except InputError:
            if fresh:
                (folder / rundir.LOCK).unlink(missing_ok=True)
            raise
        if not bench:
            sweep(folder)
        yield claim


def choose(out: str, bench: bool = False) -> tuple[Path, list[Path]]:
    """Return the folder that `--out` names, made if it isn't there, and which folders were made for it."""
    check(out, bench)
    folder = out_folder(out)
    made: list[Path] = []
    try:
        for place in reversed([folder, *folder.parents]):
            if not place.is_dir():
                with suppress(FileExistsError):  # another made it just now; it's no folder, if the next one fails
                    place.mkdir()
                    made.insert(0, place)
                    with suppress(PermissionError):  # a folder that may be written to and not read
                        files.flush_folder(place.parent)
        if not folder.is_dir():
            raise InputError(f"--out: {out} is there and is no folder")
    except OSError as error:
        raise InputError(f"--out: {out}: {error.strerror}") from None
    return folder, made


def next_free(stem: str, seed: int) -> tuple[Path, list[Path]]:
    """Return the next folder under runs/out that is free, made, and that it was made."""
    suffix = 1
    try:
        rundir.OUT.mkdir(parents=True, exist_ok=True)
        while True:
            folder = rundir.OUT / (f"{stem}-{seed}" + (f"-{suffix}" if suffix > 1 else ""))
            try:
                folder.mkdir()
            except FileExistsError:
                suffix += 1
            else:
                for place in (folder, rundir.OUT, rundir.OUT.parent):  # any of which may be new
                    with suppress(PermissionError):
                        files.flush_folder(place.parent)
                return folder, [folder]
    except OSError as error:
        raise InputError(f"{error.filename or rundir.OUT}: {error.strerror}; --out names another folder") from None
