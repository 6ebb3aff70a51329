"""The GPU of this machine, for tests that otherwise have one on paper: it counts waits as `paper_gpu` does.

PyTorch itself says where an operation has the host wait for the device. It doesn't tell reads from writes that wait:
all are reads here.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from paper_gpu import Gpu, Waits, line_of, paper_gpu

from neuroevo.data import staging

WAITING = "called a synchronizing CUDA operation"


class RealGpu(Gpu):
    """A GPU at hand."""

    @contextmanager
    def count(self) -> Iterator[Waits]:
        """Count the waits of this thread within."""
        waits, show = Waits(), warnings.showwarning

        def look(message: Any, *rest: Any, **more: Any) -> None:
            if WAITING not in str(message):
                show(message, *rest, **more)
            elif threading.get_ident() == waits.thread:
                waits.reads[line_of(sys._getframe(1))] += 1

        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message=WAITING)
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            warnings.showwarning = look
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield waits
            finally:
                torch.cuda.set_sync_debug_mode(before)


@contextmanager
def real_gpu() -> Iterator[Gpu]:
    """Give a test this machine's GPU, and leave nothing of it behind."""
    try:
        yield RealGpu()
    finally:
        staging.copy_stream.cache_clear()


GPUS: dict[str, Callable[[], AbstractContextManager[Gpu]]] = {
    "paper": paper_gpu, **({"real": real_gpu} if torch.cuda.is_available() else {})
}  # fmt: skip
