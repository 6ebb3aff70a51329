"""HDF5 files written and read so that neither a full disk nor a hostile file does harm.

HDF5 lays a file out in memory, large arrays left out; the bytes are then written plainly, so that a full disk is an
ordinary error: within HDF5 it ends in a file that can't be closed. What is read is looked over first: a file may refer
to others by links, external storage and virtual data sets, and may declare more data than there is memory.
"""

import hashlib
import io
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from neuroevo.errors import InputError
from neuroevo.reading import regular

USER_BLOCK = 512
DIRECT = 2**16  # arrays of at least this many bytes are written around HDF5
BLOCK = 2**23  # bytes written or hashed at a time
PAGE = 2**16
DEPTH, MOST = 32, 100_000  # of groups within groups, and of objects in all: more than any checkpoint has
BROKEN = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)

Array = npt.NDArray[Any]


class Notes(NamedTuple):
    """Attributes of an object in a file."""

    place: str  # its path
    values: Mapping[str, Any]


class Sparse(io.RawIOBase):
    """A file in memory that takes room only for the pages that something was written to; the rest is zero."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.place = self.size = 0

    def seekable(self) -> bool:
        """Return that its position can be set."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set its position and return it."""
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        """Return its position."""
        return self.place

    def truncate(self, size: int | None = None) -> int:
        """Set its size and return it."""
        self.size = self.place if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        """Write bytes where it stands."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            number, within = divmod(self.place + done, PAGE)
            count = min(PAGE - within, len(view) - done)
            self.pages.setdefault(number, bytearray(PAGE))[within : within + count] = view[done : done + count]
            done += count
        self.place += done
        self.size = max(self.size, self.place)
        return done

    def readinto(self, buffer: Any) -> int:
        """Read bytes from where it stands."""
        view = memoryview(buffer).cast("B")
        data = b"".join(bytes(piece) for piece in self.pieces(self.place, min(self.place + len(view), self.size)))
        view[: len(data)] = data
        self.place += len(data)
        return len(data)

    def pieces(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield the bytes from one place to another."""
        empty = memoryview(bytes(PAGE))
        while start < end:
            number, within = divmod(start, PAGE)
            count = min(PAGE - within, end - start)
            page = memoryview(self.pages[number]) if number in self.pages else empty
            yield page[within : within + count]
            start += count


def write(path: Path, mark: bytes, arrays: Mapping[str, Array], shared: Mapping[str, str], notes: list[Notes]) -> None:
    """Write a file: `arrays` by their paths, `shared` paths as links to others, and a user block.

    That has a mark, and the SHA-256 of all that follows it. It is flushed to disk. OSError where that fails.
    """
    image, later = _lay_out(arrays, shared, notes)
    pieces: list[tuple[int, memoryview]] = []
    place = USER_BLOCK
    for offset, array in [*later, (image.size, np.empty(0, np.uint8))]:
        pieces.append((place, memoryview(b"".join(image.pieces(place, offset)))))
        pieces.append((offset, array.reshape(-1).view(np.uint8).data))
        place = offset + array.nbytes
    with open(path, "wb", buffering=0) as file, ThreadPoolExecutor(1, initializer=_yield_to_others) as hasher:
        descriptor = file.fileno()

        def hash_pieces() -> str:
            sha = hashlib.sha256()
            for _, piece in pieces:
                for start in range(0, len(piece), BLOCK):
                    sha.update(piece[start : start + BLOCK])
            return sha.hexdigest()

        digest = hasher.submit(hash_pieces)
        for offset, piece in pieces:
            _put(descriptor, piece, offset)
        os.fsync(descriptor)  # the bulk goes to disk while it is still being hashed
        _put(descriptor, memoryview((mark + digest.result().encode() + b"\n").ljust(USER_BLOCK, b"\0")), 0)
        os.fsync(descriptor)


def _put(descriptor: int, piece: memoryview, offset: int) -> None:
    start = 0
    while start < len(piece):
        start += os.pwrite(descriptor, piece[start : start + BLOCK], offset + start)


def _lay_out(
    arrays: Mapping[str, Array], shared: Mapping[str, str], notes: list[Notes]
) -> tuple[Sparse, list[tuple[int, Array]]]:
    """Return a file without its large arrays, and where in it those go, in order."""
    later, image = [], Sparse()
    with h5py.File(image, "w", userblock_size=USER_BLOCK, libver=("v110", "v110")) as file:
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
        for place, values in notes:
            for key, value in values.items():
                file[place].attrs.create(key, value)
    return image, sorted(later, key=lambda pair: pair[0])


def _yield_to_others() -> None:
    """Let this thread run when a core is idle: a generation's products wait for their slowest thread."""
    if sys.platform == "linux":  # where priority is a thread's own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def verify(path: Path, mark: bytes, what: str) -> None:
    """See that a file has a mark and is unchanged since it was written; InputError if not."""
    try:
        with regular(path) as file:
            head = file.read(USER_BLOCK)
            if not head.startswith(mark):
                raise InputError(f"{path}: not {what}")
            sha = hashlib.sha256()
            while block := file.read(BLOCK):
                sha.update(block)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if head[len(mark) :].split(b"\n")[0] != sha.hexdigest().encode():
        raise InputError(f"{path}: damaged: its content doesn't match its checksum")


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open a file to read numbers from it that are all its own; InputError where it is none, or reading fails."""
    try:
        regular(path).close()  # a pipe would be waited for
        with h5py.File(path, "r", locking=False) as file:
            _look_over(file, path.stat().st_size)
            yield file
    except InputError:
        raise
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not as a checkpoint is ({reason})") from None


def numbers(group: Any) -> Iterator[tuple[str, Any]]:
    """Yield the data sets within a group by their paths."""
    found: list[tuple[str, Any]] = []
    group.visititems(lambda key, item: found.append((key, item)) if isinstance(item, h5py.Dataset) else None)
    yield from found


def _look_over(file: Any, size: int) -> None:
    """Raise ValueError where a file of so many bytes refers to others, or says it has more than can be in it."""
    room, seen, left = 4 * size, {h5py.h5o.get_info(file.id).addr}, [("", file, 0)]
    _attributes(file, "/", size)
    while left:
        path, group, depth = left.pop()
        if depth > DEPTH or len(seen) > MOST:
            raise ValueError("more groups than a checkpoint has")
        for name in group:
            place = f"{path}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):
                continue  # within the file; what it leads to is looked at where that is
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{place} leads to another file")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise ValueError(f"{place} is there twice")
            seen.add(address)
            _attributes(item, place, size)
            if isinstance(item, h5py.Group):
                left.append((place, item, depth + 1))
                continue
            if not isinstance(item, h5py.Dataset):
                raise ValueError(f"{place} is neither a group nor numbers")
            room -= _numbers(item, place, size)
            if room < 0:
                raise ValueError("more data than the file has room for")


def _numbers(item: Any, place: str, size: int) -> int:
    """Return the bytes of a data set; ValueError where they aren't numbers within a file of so many bytes."""
    creation = item.id.get_create_plist()
    if creation.get_external_count():
        raise ValueError(f"{place} is stored in another file")
    if creation.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT):
        raise ValueError(f"{place} is stored as no checkpoint stores it")
    if item.shape is None or item.dtype.kind not in "biuf":
        raise ValueError(f"{place} isn't numbers")
    count = 1
    for length in item.shape:
        count *= int(length)
    taken = count * item.dtype.itemsize
    if taken > size or (taken and item.id.get_storage_size() < taken):
        raise ValueError(f"{place} says it has {taken:,} bytes, more than are there")
    return int(taken)


def _attributes(item: Any, place: str, size: int) -> None:
    """Raise ValueError where an attribute is more than one number or text, or of a size that the file hasn't."""
    for name in item.attrs:
        attribute = h5py.h5a.open(item.id, name.encode())
        if attribute.shape != () or attribute.get_storage_size() > size:
            raise ValueError(f"attribute {name} of {place} isn't one value")
