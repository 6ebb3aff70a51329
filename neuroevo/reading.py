"""Files opened for reading only where they are files: a pipe would be waited for, and a device may never end."""

import os
import stat
from io import BufferedReader
from pathlib import Path


def regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading; OSError for anything else, at once: a FIFO would wait for its other end."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(0, "not a regular file")
    return os.fdopen(number, "rb")
