"""The library of shim.c, which is between this process and the C library where `reload` has loaded it."""

import ctypes
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

LOADED = "NEUROEVO_SHIM"
HEAD = struct.Struct("<IIIIQQQ")  # as shim.c writes it


class Kind(IntEnum):
    """Kinds of calls."""

    ANY, OPEN, WRITE, SYNC, RENAME, UNLINK, MAKE, TRUNCATE = range(8)


class Call(NamedTuple):
    """A call that changed something, or flushed it."""

    kind: Kind
    path: str
    other: str  # where a file is renamed to
    there: bool  # of an open: whether the file was there, and is emptied
    inode: int
    offset: int
    size: int
    data: bytes


def reload() -> None:
    """Begin this program again with the library loaded, unless it is; SystemExit where it can't be built."""
    if os.environ.get(LOADED) == str(os.getpid()):
        del os.environ["LD_PRELOAD"]  # children that are other programs do without
        return
    built = Path(tempfile.mkdtemp()) / "shim.so"
    source = Path(__file__).with_suffix(".c")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(built), str(source), "-ldl", "-lpthread"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{source.name} can't be built: {error}") from None
    os.environ |= {"LD_PRELOAD": str(built), LOADED: str(os.getpid())}
    os.execv(sys.executable, [sys.executable, *sys.argv])


def fail(part: str, kind: Kind, at: int, error: int, *, more: bool = False, done: bool = False) -> None:
    """Let a call of a kind on paths with a part fail: the `at`th; `more`: all after it; `done`: though it happens.

    Error 0 is a write that takes half of what it is given.
    """
    ctypes.CDLL(None).shim_fail(part.encode(), int(kind), at, error, int(more), int(done))


def turn_back(calls: int, seconds: int) -> None:
    """Set the clock back by so many seconds, once it was asked so many times."""
    ctypes.CDLL(None).shim_turn_back(calls, seconds)


def record(part: str, path: Path) -> None:
    """Write down to a file each call on paths with a part from here on."""
    ctypes.CDLL(None).shim_record(part.encode(), str(path).encode())


def read(path: Path) -> Iterator[Call]:
    """Yield the calls that were written down."""
    content = path.read_bytes()
    place = 0
    while place < len(content):
        kind, first, second, flags, inode, offset, size = HEAD.unpack_from(content, place)
        place += HEAD.size
        names = [content[place : place + first].decode(), content[place + first : place + first + second].decode()]
        place += first + second
        data = content[place : place + size] if kind == Kind.WRITE else b""
        place += len(data)
        yield Call(Kind(kind), names[0], names[1], bool(flags), inode, offset, size, data)
