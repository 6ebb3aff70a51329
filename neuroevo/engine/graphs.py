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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neuroevo.errors import ignore

Work = Callable[..., list[Tensor]]  # (*inputs) -> outputs, by operations on one device alone
SHAPES = 8  # that are kept: full slices of individuals and samples, the last ones, and those of elites
WARM_UP = 2  # calls before one that may not wait for the device: libraries set themselves up in the first
READS = {  # operations whose result, or its shape, the host needs before it goes on
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "equal",
    "is_nonzero",
    "repeat_interleave",
    "_linalg_eigh",
    "_linalg_svd",
}
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}


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
        self.stream: Any = None  # on which they are captured
        self.refused = False
        self.lock = Lock()  # a graph has one set of buffers

    def __reduce__(self) -> Any:
        return Graphs, (ignore,)  # they are of this process's device

    def call(self, work: Work, inputs: Sequence[Tensor], key: Hashable = None) -> list[Tensor]:
        """Return what `work` makes of inputs, on the GPU of the first; others may be in pinned memory.

        A graph is the function of one `key` and shape of inputs.
        """
        if self.refused:
            return _plain(work, inputs)
        with self.lock, torch.cuda.device_of(inputs[0]):
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
        here = torch.cuda.current_stream()
        self.stream = self.stream or torch.cuda.Stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                work(*own)
            with _Alone():  # type: ignore[no-untyped-call]
                work(*own)
        here.wait_stream(self.stream)
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        options = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        # Other threads, such as the one that writes checkpoints, may use the device meanwhile. A capture that fails
        # leaves its own stream the current one, which the first of these puts right.
        with torch.cuda.stream(here), torch.cuda.graph(graph, **options):
            outputs = work(*own)
        return Captured(graph, own, outputs, work)


class _Alone(TorchDispatchMode):
    """Has operations of this thread that make the host wait for the device raise RuntimeError.

    A capture that such a one ends leaves the allocator in a state in which it keeps what other streams used.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        masks = [x for x in tree_leaves(args[1:]) if isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8)]
        if name in READS or (name in INDEXING and masks):
            raise RuntimeError(f"{name.strip('_')} waits for the device")
        if name == "_to_copy" and args[0].is_cuda != (
            torch.device(kwargs.get("device") or args[0].device).type == "cuda"
        ):
            raise RuntimeError("a copy between host and device waits for the device")
        return func(*args, **kwargs)


def _plain(work: Work, inputs: Sequence[Tensor]) -> list[Tensor]:
    return work(*(x.to(inputs[0].device, non_blocking=True) for x in inputs))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
