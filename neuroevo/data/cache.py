"""The cache folder keeps whole files under a seal, and features that are written over several runs; it cleans up.

A file of the cache ends with a seal: the SHA-256 of its own name and of all bytes before. It is checked before use; one
that was damaged, cut short or swapped with another counts as absent and is made anew. Whoever writes a file holds its
lock, writes under another name and renames, so that what a dead owner left is anybody's to go on with or to remove.
"""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import platformdirs
from filelock import FileLock, Timeout

from neuroevo.errors import InputError, RunError

SEAL = "\nsha256 {}\n"
SEALED = len(SEAL.format("0" * 64))  # bytes
ENTRY = "{:20} {}\n"  # of a journal: bytes so far, and their SHA-256
ENTRY_BYTES = len(ENTRY.format(0, "0" * 64))
PIECE = 1 << 20  # bytes that are read at a time
SYNC = 5.0  # seconds between flushes to disk: what a power failure may cost
SYNC_SHARE = 20  # flushes take less than one part of so many of the time
KEPT = 7 * 24 * 3600  # seconds for which features that nobody goes on with are kept
PARTIAL, JOURNAL, LOCK = ".partial", ".journal", ".lock"
LEFT = re.compile(rf"[0-9a-f]{{64}}\..*({PARTIAL}|{JOURNAL})")  # what an owner may leave in the folder of features
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FAULTY = {errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}  # no fault of the folder that was given


def cache_folder() -> Path:
    """Return the user's cache folder for features, or the one that NEUROEVO_CACHE names."""
    return Path(os.environ.get("NEUROEVO_CACHE") or platformdirs.user_cache_dir("neuroevo"))


def no_space(what: str) -> RunError:
    """Return the error of a full disk."""
    return RunError(f"cache folder {cache_folder()}: no space left for {what}; free some, or set NEUROEVO_CACHE")


@contextmanager
def explain(what: str) -> Iterator[None]:
    """Turn the system's errors about `what` in the cache into one line: RunError for a full disk, else InputError."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        number = getattr(error, "errno", None)
        if number in FULL:
            raise no_space(what) from None
        reason = getattr(error, "strerror", None) or str(error)
        where = getattr(error, "filename", None)
        line = f"cache folder {cache_folder()}: {what}: {f'{where}: ' if where else ''}{reason}"
        if number in FAULTY:
            raise RunError(line) from None
        raise InputError(f"{line}; mend that, or set NEUROEVO_CACHE to another folder") from None


@contextmanager
def lock(path: Path, what: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Own a file of the cache while entered, its folder made; `waiting` is called now and then until it is free.

    A lock dies with its process; its empty file stays.
    """
    with explain(what):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    held = False
    while not held:
        with explain(what), suppress(Timeout):
            lock.acquire(timeout=0.5)
            held = True
        if not held:
            waiting()
    try:
        yield
    finally:
        lock.release()


def write(path: Path, content: bytes, what: str) -> None:
    """Write a whole file under its seal, for the holder of its lock; a write that fails leaves nothing."""
    part = path.with_name(path.name + PARTIAL)
    with explain(what):
        clear(part)
        try:
            with open(part, "xb") as file:
                file.write(content)
                file.write(_seal(_digest(path, content)))
                file.flush()
                os.fsync(file.fileno())
            _settle(part, path)
        finally:
            part.unlink(missing_ok=True)


def read(path: Path) -> bytes | None:
    """Return the content of a file, or None where it is absent or damaged; InputError where it may not be read."""
    try:
        with _reading(path) as file:
            content = file.readall()
    except OSError:
        return None
    body, seal = content[:-SEALED], content[-SEALED:]
    return body if seal == _seal(_digest(path, body)) else None


def sound(path: Path) -> bool:
    """Tell whether a file is there and as it was written; InputError where it may not be read."""
    try:
        with _reading(path) as file:
            digest = _digest(path)
            whole = _hash(file, os.fstat(file.fileno()).st_size - SEALED, digest)
            return whole and file.readall() == _seal(digest)
    except OSError:
        return False


def clear(path: Path) -> bool:
    """Remove the file or folder at a path, and tell whether there was one; OSError for a full folder."""
    if not os.path.lexists(path):
        return False
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
    return True


def note(key: str) -> Any:
    """Return the value that `keep_note` kept under a key, None where there is none, or none that is sound."""
    with suppress(OSError, InputError, ValueError):
        content = read(_note(key))
        return None if content is None else json.loads(content)
    return None


def keep_note(key: str, found: object) -> None:
    """Keep a value as JSON that would only be found again; a folder that can't be written doesn't matter."""
    path = _note(key)
    with suppress(OSError, InputError, RunError), lock(path.with_name("notes"), "notes"):
        for left in path.parent.iterdir():  # of who died while writing
            if left.suffix == PARTIAL or (left.suffix[1:].isdigit() and _age(left) > KEPT):
                left.unlink()
        write(path, json.dumps(found).encode(), "notes")


def remember(key: str, find: Callable[[], Any]) -> Any:
    """Return the value kept under a key, found and kept by whoever comes first; others wait for that.

    A folder that can't be written doesn't matter: then the value is found each time.
    """
    with ExitStack() as stack:
        with suppress(InputError, RunError):
            stack.enter_context(lock(_note(key).with_name("finding"), "notes"))
        known = note(key)
        if known is None:
            known = find()
            keep_note(key, known)
    return known


def tidy(own: Path) -> None:
    """Remove the files that dead owners left beside `own`, a file of features that a run is about to use.

    Features under work are left to whoever goes on with them, for a week since the last did.
    """
    with suppress(OSError):
        for left in list(own.parent.iterdir()):
            if not LEFT.fullmatch(left.name):
                continue
            whole = left.with_suffix("")
            wanted = whole.suffix == ".npy" and not whole.exists() and (whole == own or _age(left) < KEPT)
            with suppress(OSError, Timeout):
                if not wanted:
                    with _lock(left).acquire(timeout=0):
                        clear(left)


class Growing:
    """A .npy file of rows, written a batch at a time and over as many runs as it takes; for the holder of its lock.

    Rows are in `NAME.partial`; after each batch a line of `NAME.journal` says how many bytes there are and what their
    SHA-256 is. Whatever of both reached the disk: who goes on keeps as much as they agree on. Left without a `finish`
    they stay for the next, unless there are no rows, or the disk is full.
    """

    def __init__(self, path: Path, rows: int, dtype: str) -> None:
        self.path, self.total, self.dtype = path, rows, np.dtype(dtype)
        self.part, self.journal = (path.with_name(path.name + suffix) for suffix in (PARTIAL, JOURNAL))
        self.done = 0  # rows that are there
        self.width = 0  # features a row; known with the first rows
        self.checked, self.wanted = False, True  # that there is space; for the next
        self.synced, self.pause = time.monotonic(), SYNC
        self.digest = _digest(path)

    def __enter__(self) -> Self:
        with explain(self.what):
            self.file = _workable(self.part)
            try:
                self.lines = _workable(self.journal)
                self._recover()
            except BaseException:
                self.file.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError), self.file, self.lines:
            if self.done and self.wanted:
                self._sync()
            else:
                self.part.unlink(missing_ok=True)
                self.journal.unlink(missing_ok=True)

    @property
    def what(self) -> str:
        """What is written, for an error."""
        size = self.total * self.width * self.dtype.itemsize
        return f"{size / 2**20:,.1f} MiB of features" if size else "features"

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows [B, d]."""
        self.width = rows.shape[1]
        with self._explanation():
            self._check()
            if not self.file.tell():
                head = io.BytesIO()
                about = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.total, self.width)}
                np.lib.format.write_array_header_1_0(head, about)
                self._write(head.getvalue())
            self._write(np.ascontiguousarray(rows).data.cast("B"))
            self.done += len(rows)
            if time.monotonic() - self.synced > self.pause:
                self._sync()

    def finish(self) -> None:
        """Seal the file and give it its name."""
        assert self.done == self.total
        with self._explanation():
            _write(self.file, _seal(self.digest))
            os.fsync(self.file.fileno())
            _settle(self.part, self.path)
        self.wanted = False

    def discard(self) -> None:
        """Leave nothing for the next."""
        self.wanted = False

    @contextmanager
    def _explanation(self) -> Iterator[None]:
        with explain(self.what):
            try:
                yield
            except OSError as error:
                self.wanted = error.errno not in FULL
                raise

    def _check(self) -> None:
        if not self.checked:
            left = (self.total - self.done) * self.width * self.dtype.itemsize
            disk = shutil.disk_usage(self.part.parent)
            if disk.total and disk.free < left:
                raise no_space(self.what)
            self.checked = True

    def _write(self, content: bytes | memoryview) -> None:
        self.digest.update(content)
        _write(self.file, content)
        _write(self.lines, ENTRY.format(self.file.tell(), self.digest.hexdigest()).encode())

    def _sync(self) -> None:
        begin = time.monotonic()
        os.fsync(self.file.fileno())
        os.fsync(self.lines.fileno())
        self.synced = time.monotonic()
        self.pause = max(SYNC, SYNC_SHARE * (self.synced - begin))

    def _recover(self) -> None:
        at = lines = 0
        size = os.fstat(self.file.fileno()).st_size
        while (entry := _entry(self.lines.read(ENTRY_BYTES))) and at < entry[0] <= size:
            digest = self.digest.copy()
            if not _hash(self.file, entry[0] - at, digest) or digest.hexdigest() != entry[1]:
                break
            at, self.digest, lines = entry[0], digest, self.lines.tell()
        if at:
            self.file.seek(0)
            np.lib.format.read_magic(self.file)
            (_, self.width), _, _ = np.lib.format.read_array_header_1_0(self.file)
            self.done = (at - self.file.tell()) // (self.width * self.dtype.itemsize)
        for file, end in ((self.file, at), (self.lines, lines)):
            file.truncate(end)
            file.seek(end)


def count_batches(path: Path) -> int:
    """Return how many batches the file of features that somebody else is at work on has."""
    with suppress(OSError):
        return max(0, path.with_name(path.name + JOURNAL).stat().st_size // ENTRY_BYTES - 1)  # one is the header's
    return 0


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_name(path.name.split(".")[0] + LOCK))


def _note(key: str) -> Path:
    return cache_folder() / "files" / f"{key}.json"


def _age(path: Path) -> float:
    return time.time() - path.lstat().st_mtime


def _digest(path: Path, content: bytes = b"") -> "hashlib._Hash":
    digest = hashlib.sha256(f"{path.name}\n".encode())  # one file isn't another, whole as it may be
    digest.update(content)
    return digest


def _seal(digest: "hashlib._Hash") -> bytes:
    return SEAL.format(digest.hexdigest()).encode()


def _hash(file: io.FileIO, size: int, digest: "hashlib._Hash") -> bool:
    """Hash the next bytes of a file; tell whether there are so many."""
    piece = memoryview(bytearray(PIECE))
    while size > 0:
        count = file.readinto(piece[: min(size, PIECE)])
        if not count:
            return False
        digest.update(piece[:count])
        size -= count
    return size == 0


def _entry(line: bytes) -> tuple[int, str] | None:
    try:
        size, digest = line.decode("ascii").split()
        return int(size), digest
    except ValueError:
        return None


def _write(file: io.FileIO, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while len(left):
        left = left[file.write(left) :]


def _reading(path: Path) -> io.FileIO:
    """Open a file for reading; OSError where there is none or something else in its place, InputError where denied."""
    try:
        if path.exists() and not path.is_file():
            raise FileNotFoundError(path)
        return io.FileIO(path)
    except PermissionError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); mend that, or set NEUROEVO_CACHE") from None


def _workable(path: Path) -> io.FileIO:
    """Open a file to read and write, made where there is none; anything that isn't a file is removed."""
    if path.is_symlink() or not path.is_file():
        clear(path)
    return io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")


def _settle(part: Path, path: Path) -> None:
    """Give a file its name for good: after a crash there is the old one or the new one."""
    if path.is_dir() and not path.is_symlink():
        clear(path)
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
