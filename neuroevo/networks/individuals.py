"""A network with the weights of each individual of a population: one after another, or all at once by `torch.vmap`."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ALIGNMENT = 16  # bytes: cuDNN's batch norm reads as many at once, and fails where weights begin between

Own = dict[str, Tensor]  # an individual's weights {name: shape}
Weights = Mapping[str, Tensor]  # {name: [n, *shape]}


def align(weights: Own) -> Own:
    """Return weights as they are, but copies of what a GPU can't read as fast as cuDNN does.

    Weights are views of genomes, which begin anywhere.
    """
    return {name: w.clone() if w.is_cuda and w.data_ptr() % ALIGNMENT else w for name, w in weights.items()}


def each(weights: Weights) -> Iterator[Own]:
    """Yield the weights of one individual after another."""
    parts = {name: w.unbind() for name, w in weights.items()}
    for i in range(len(next(iter(parts.values())))):
        yield align({name: part[i] for name, part in parts.items()})


def vmap(call: Callable[[Own, Any], Tensor], weights: Weights, inputs: Any, *, shared: bool) -> Tensor:
    """Return what `call` makes of each individual's weights and inputs, stacked; inputs are `shared`, or [n, ...]."""
    of_one = align(dict(weights))  # whose convolutions copy nothing
    on_gpu = any(w.is_cuda for w in of_one.values())
    with warnings.catch_warnings(), _OwnNorms() if on_gpu else nullcontext():
        # Operations that it takes one individual after another.
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        return torch.vmap(call, in_dims=(0, None if shared else 0))(of_one, inputs)


class _OwnNorms(TorchFunctionMode):
    """Has batch norms use PyTorch's own kernels: vmap refuses those of cuDNN."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.batch_norm:
            return func(*args, **kwargs or {})
        with torch.backends.cudnn.flags(enabled=False):
            return func(*args, **kwargs or {})
