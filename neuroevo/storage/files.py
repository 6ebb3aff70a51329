"""Plain files: written whole or not at all, JSON that everybody reads, and lines that may have been damaged since."""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from neuroevo.errors import InputError, RunError, ignore
from neuroevo.reading import regular

PIECE = 1 << 20  # bytes of a file that are copied at once
Note = Callable[[str], None]


def check_new(out: str | Path, option: str) -> None:
    """See that a file which an option names can be new; InputError where something is there, or its folder isn't."""
    path = Path(out)
    if not path.parent.is_dir():
        raise InputError(f"{option}: no folder {path.parent}")
    if os.path.lexists(path):
        raise InputError(f"{option}: {out} is there; give another name")


@contextmanager
def new(*paths: Path) -> Iterator[None]:
    """Write files under names that are free: none of them stays where the context is left by an error.

    Else a name would be taken by what an error said isn't written, such as after a folder that can't be flushed.
    """
    free = [path for path in paths if not os.path.lexists(path)]  # what took a name meanwhile is somebody's
    try:
        yield
    except BaseException:
        for path in free:
            with suppress(OSError):
                path.unlink()
        raise


@contextmanager
def whole(path: Path) -> Iterator[FileIO]:
    """Give a file to write to, unbuffered: it is there under its name, on disk, once the context is left without error.

    RunError where it can't be made or kept; what else ends the context is raised as it is. After a crash it is the old
    one or the new one.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        with _or_error(path):
            make_way(temporary)
            file = FileIO(temporary, "w")
        with file:  # closing it has nothing left to fail at
            yield file
            with _or_error(path):
                os.fsync(file.fileno())
        with _or_error(path):
            rename(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a whole file, so that after a crash it is the old one or the new one; RunError where that fails."""
    with whole(path) as file, _or_error(path):
        _put(file, content)


def _put(file: Any, content: bytes) -> None:
    """Write all bytes to a file that is unbuffered, which may take them in parts."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


@contextmanager
def _or_error(path: Path) -> Iterator[None]:
    """Raise the error of a file that can't be written where the system says so."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def rename(temporary: Path, path: Path) -> None:
    """Give a file on disk its name, for good; OSError where that fails.

    A network's file system that is asked twice, since its answer was lost, says of one that happened that it failed.
    """
    about = temporary.stat()
    try:
        temporary.replace(path)
    except OSError:
        try:
            happened = os.path.samestat(path.stat(), about) and not temporary.exists()
        except OSError:
            happened = False
        if not happened:
            raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, unless it is there, so that it survives a crash with all that is flushed in it."""
    folder.mkdir(exist_ok=True)
    flush_folder(folder.parent)


def flush(paths: Sequence[Path]) -> None:
    """Flush files to which lines were added, those that are there, and their names. RunError where it fails."""
    folders = {}
    for path in paths:
        with _or_error(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            folders[path.parent] = path
    for folder, path in folders.items():
        with _or_error(path):
            flush_folder(folder)


def make_way(path: Path) -> None:
    """Take away what leads elsewhere where a file is to be written: a link, a pipe, a file of other names as well."""
    try:
        about = path.lstat()
    except OSError:  # nothing is there, or whoever writes says what it is
        return
    if not stat.S_ISDIR(about.st_mode) and not (stat.S_ISREG(about.st_mode) and about.st_nlink == 1):
        path.unlink()


def open_to_append(path: Path) -> FileIO:
    """Open a file to add to, unbuffered, made if it isn't there; RunError where that can't be, as for a link.

    What has other names as well, such as a snapshot's of hard links, stays as it is under those.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

    def open_it() -> tuple[FileIO, int]:
        with _or_error(path):
            file = FileIO(path, "a", opener=opener)
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                file.close()
                raise OSError(0, "not a regular file")
        return file, about.st_nlink

    file, names = open_it()
    if names > 1:
        file.close()
        _separate(path)
        file, _ = open_it()
    return file


def _separate(path: Path) -> None:
    """Put a copy in the place of a file that has other names as well."""
    with _or_error(path), regular(path) as known, whole(path) as own:
        while piece := known.read(PIECE):
            _put(own, piece)


def write_error(path: Path, error: OSError) -> RunError:
    """Return the error that a run ends with when a file can't be written."""
    return RunError(f"{path}: not written ({error.strerror or error})")


def append(file: Any, text: str) -> None:
    """Add text to a file that was opened to append bytes, unbuffered; RunError where it can't be written."""
    with _or_error(Path(file.name)):
        _put(file, text.encode(errors="backslashreplace"))


def dumps(value: Any, indent: int | None = None) -> str:
    """Return plain values as JSON that everybody reads: a number that isn't finite is null."""

    def plain(item: Any) -> Any:
        if isinstance(item, float):
            return item if math.isfinite(item) else None
        if isinstance(item, Mapping):
            return {key: plain(inner) for key, inner in item.items()}
        return [plain(inner) for inner in item] if isinstance(item, list | tuple) else item

    return json.dumps(plain(value), indent=indent, allow_nan=False)


def loads(text: bytes) -> Any:
    """Return the value of JSON, null for a number that isn't finite; ValueError where it is none."""
    try:
        return json.loads(text.decode(), parse_constant=lambda name: None)
    except RecursionError:
        raise ValueError("nested too deep") from None


def content(path: Path, note: Note = ignore) -> bytes:
    """Return the bytes of a file, none where there is no file or it can't be read."""
    try:
        with regular(path) as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        note(f"{path}: can't be read ({error.strerror})")
        return b""


def read_lines(
    path: Path, note: Note = ignore, right: Callable[[dict[str, Any]], bool] = lambda line: True
) -> list[dict[str, Any]]:
    """Return the lines of a JSON Lines file, [] where there is none; a last one that is only half written is left out.

    It may be read while a run goes on, or after one was killed. Lines that are no mappings, or not `right`, are left
    out.
    """
    found, bad = [], 0
    whole = content(path, note).rpartition(b"\n")[0]
    for text in whole.split(b"\n") if whole else []:
        try:
            line = loads(text)
            if not isinstance(line, dict) or not right(line):
                raise ValueError("another line")
        except ValueError:
            bad += 1
        else:
            found.append(line)
    if bad:
        note(f"{path}: {bad} of {bad + len(found)} lines are damaged, and left out")
    return found
