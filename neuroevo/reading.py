"""Files opened for reading only where they are files: a pipe would be waited for, and a device may never end."""

import os
import stat
from io import BufferedReader
from pathlib import Path


def regular(path: str | Path, *, links: bool = True) -> BufferedReader:
    """Open a regular file for reading; OSError for anything else, at once: a FIFO would wait for its other end.

    One that a link leads to is none either where `links` don't count.
    """
    flags = ("O_NONBLOCK", "O_BINARY", *(() if links else ("O_NOFOLLOW",)))
    number = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in flags))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(0, "not a regular file")
    return os.fdopen(number, "rb")
