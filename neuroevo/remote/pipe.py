"""A pipe between two processes of one machine, for pickles and the large buffers beside them.

Buffers go from where they lie to where they shall lie, with no copy in between: a pickle that holds them is copied when
it is made, when it is sent, when it comes and when it is read.
"""

import pickle
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

HEAD = struct.Struct("!Q")  # the length of a message's pickle


class Pipe:
    """One end of a pipe. `allocate` gives memory of so many bytes, for each buffer that comes."""

    def __init__(self, end: socket.socket, allocate: Callable[[int], Any] = bytearray) -> None:
        self.end, self.allocate = end, allocate
        self.turn = threading.Lock()

    def send(self, message: Any, buffers: Sequence[Any] = ()) -> None:
        """Send what can be pickled, and buffers, whole, before anything else is sent; OSError where nobody is there."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        content = pickle.dumps((message, [view.nbytes for view in views]), protocol=5)
        with self.turn:
            self.end.sendall(HEAD.pack(len(content)) + content)
            for view in views:
                self.end.sendall(view)

    def receive(self) -> tuple[Any, list[Any]]:
        """Return the next message and its buffers; EOFError or OSError where nobody is there any more."""
        head = bytearray(HEAD.size)
        self._fill(head)
        content = bytearray(HEAD.unpack(head)[0])
        self._fill(content)
        message, sizes = pickle.loads(content)  # noqa: S301  from our own processes alone
        buffers = [self.allocate(size) for size in sizes]
        for buffer in buffers:
            self._fill(buffer)
        return message, buffers

    def shut(self) -> None:
        """Have either end hear that the other is gone."""
        self.end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give back what the system holds for it."""
        self.end.close()

    def _fill(self, buffer: Any) -> None:
        view = memoryview(buffer).cast("B")
        while view.nbytes:
            n = self.end.recv_into(view)
            if not n:
                raise EOFError
            view = view[n:]
