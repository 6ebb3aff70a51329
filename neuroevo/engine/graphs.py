"""CUDA graphs: a function of tensors is launched as one, where launching its kernels takes longer than they do.

A function is captured for each shape that it meets, with buffers of its own for what it is given. What can't be
captured, such as a function that asks the device for a number, is called as it is, and that is said once.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

Work = Callable[..., list[Tensor]]  # (*inputs) -> outputs, by operations on one device alone
SHAPES = 8  # that are kept: full slices of individuals and samples, the last ones, and those of elites
WARM_UP = 3  # calls before one is captured: libraries set themselves up in the first


class Captured(NamedTuple):
    """A graph, with where it reads and writes."""

    graph: Any  # torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: list[Tensor]
    work: Work  # which keeps what else the graph reads


class Graphs:
    """Graphs of one function's calls."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.kept: OrderedDict[Hashable, Captured] = OrderedDict()
        self.pool: Any = None  # of memory, shared by graphs that run one after another
        self.refused = False
        self.lock = Lock()  # a graph has one set of buffers

    def call(self, work: Work, inputs: Sequence[Tensor], key: Hashable = None) -> list[Tensor]:
        """Return what `work` makes of inputs, on the GPU of the first; others may be in pinned memory.

        A graph is the function of one `key` and shape of inputs.
        """
        if self.refused:
            return _plain(work, inputs)
        with self.lock:
            whole = (key, *((x.shape, x.dtype) for x in inputs))
            if whole not in self.kept:
                try:
                    self.kept[whole] = self._capture(work, inputs)
                except RuntimeError as error:
                    if isinstance(error, torch.OutOfMemoryError):
                        self.kept.clear()
                        raise
                    self.refused = True
                    self.kept.clear()
                    self.note(f"CUDA graphs: this can't be captured ({_reason(error)}); runs without")
                    return _plain(work, inputs)
                while len(self.kept) > SHAPES:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(whole)
            found = self.kept[whole]
            for own, x in zip(found.inputs, inputs, strict=True):
                own.copy_(x, non_blocking=True)
            found.graph.replay()
            outputs = [torch.empty_like(out) for out in found.outputs]
            torch._foreach_copy_(outputs, found.outputs)  # by one launch, where they are of one kind
            return outputs

    def _capture(self, work: Work, inputs: Sequence[Tensor]) -> Captured:
        own = [torch.empty(x.shape, dtype=x.dtype, device=inputs[0].device).copy_(x) for x in inputs]
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work(*own)
        here.wait_stream(aside)
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that writes checkpoints, may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            outputs = list(work(*own))
        return Captured(graph, own, outputs, work)


def _plain(work: Work, inputs: Sequence[Tensor]) -> list[Tensor]:
    return work(*(x.to(inputs[0].device, non_blocking=True) for x in inputs))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
