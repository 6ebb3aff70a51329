"""What travels to workers and back: pickles, beside which what tensors hold goes as it lies in memory.

The large tensors of a run's parts go once, by their numbers; all others go with the pickle that lacks them.
"""

import io
import pickle
import warnings
from collections.abc import Callable, Sequence
from functools import _lru_cache_wrapper, lru_cache
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

LARGE = 2**20  # bytes of a tensor that goes by its number
MEDIUM = 2**14  # bytes of one that goes beside its pickle

Find = Callable[[int], Tensor]  # a large tensor by its number


class Shape(NamedTuple):
    """How a tensor lies in its bytes."""

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    device: torch.device


class Parcel(NamedTuple):
    """A pickle, what the tensors beside it hold, and the numbers of the large tensors that it lacks."""

    content: bytes
    buffers: list[Any]
    tensors: tuple[int, ...] = ()


def take_apart(x: Tensor) -> tuple[Shape, memoryview]:
    """Return how a tensor lies in its bytes, and the bytes: those that it spans, as they are in memory."""
    x = x.detach()
    span = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
    flat = torch.as_strided(x, (span,), (1,), x.storage_offset()).cpu()
    return Shape(x.dtype, tuple(x.shape), x.stride(), x.device), flat.view(torch.uint8).numpy().data


def put_together(shape: Shape, content: Any) -> Tensor:
    """Return the tensor of bytes that lie so; on a CPU it shares their memory, to which nobody may write."""
    if not len(content):
        return torch.empty_strided(shape.size, shape.stride, dtype=shape.dtype, device=shape.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        flat = torch.frombuffer(content, dtype=torch.uint8).view(shape.dtype)
    return flat.as_strided(shape.size, shape.stride).to(shape.device)


def copy_together(shape: Shape, content: Any) -> Tensor:
    """Return a tensor of bytes that lie so, to which one may write: in their memory if one may, or in its own."""
    if not memoryview(content).readonly:
        return put_together(shape, content)
    own = allocate(memoryview(content).nbytes)
    own[:] = np.frombuffer(content, np.uint8)
    return put_together(shape, own)


def allocate(size: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return so many bytes of memory that begin where PyTorch's do: products may round by where their factors begin."""
    return torch.empty(size, dtype=torch.uint8).numpy()


def pack(what: Any, number: Callable[[Tensor], int] | None = None) -> Parcel:
    """Return a parcel of anything, functions of any kind included.

    With `number`, which gives them numbers, large tensors are left out of it.
    """
    import cloudpickle

    file, beside, left_out = io.BytesIO(), [], []

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, x: Any) -> Any:
            if isinstance(x, _lru_cache_wrapper) and "<locals>" in x.__qualname__:
                return _remake, (x.__wrapped__, x.cache_parameters())
            if type(x) is not Tensor or x.is_quantized or x.layout != torch.strided or x.requires_grad:
                return super().reducer_override(x)
            if number is not None and x.nbytes >= LARGE:
                left_out.append(number(x))
                return find, (left_out[-1],)
            shape, content = take_apart(x)
            if content.nbytes < MEDIUM:
                return copy_together, (shape, bytes(content))
            beside.append(content)
            return take, (shape, len(beside) - 1)

    Pickler(file, protocol=5).dump(what)
    return Parcel(file.getvalue(), beside, tuple(dict.fromkeys(left_out)))


def _remake(function: Callable[..., Any], how: dict[str, Any]) -> Any:
    return lru_cache(**how)(function)


_opened: list[tuple[Sequence[Any], Find]] = []


def unpack(content: bytes, buffers: Sequence[Any] = (), by: Find | None = None) -> Any:
    """Return what a parcel holds; `by` finds the large tensors that it lacks."""
    _opened.append((buffers, by or _nothing))
    try:
        return pickle.loads(content)  # noqa: S301  from our own processes alone
    finally:
        _opened.pop()


def find(number: int) -> Tensor:
    """Return a large tensor of the parcel that is being unpacked."""
    return _opened[-1][1](number)


def take(shape: Shape, place: int) -> Tensor:
    """Return a tensor that lies beside the parcel that is being unpacked."""
    return copy_together(shape, _opened[-1][0][place])


def _nothing(number: int) -> Tensor:
    raise KeyError(number)


class Numbers:
    """The numbers of large tensors: the same one for the same numbers at the same place."""

    def __init__(self) -> None:
        self.next = count()
        self.tensors: dict[int, Tensor] = {}  # kept, so that no other tensor comes to be in that place
        self.places: dict[tuple[Any, ...], int] = {}

    def __call__(self, x: Tensor) -> int:
        """Return the number of a tensor, a new one where it hasn't any."""
        place = x.data_ptr(), x.dtype, tuple(x.shape), x.stride(), x.device
        if place not in self.places:
            self.places[place] = next(self.next)
            self.tensors[self.places[place]] = x
        return self.places[place]
