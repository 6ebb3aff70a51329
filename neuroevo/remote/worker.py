"""What a worker is: a process that gets a run's parts once, and makes of slices what the run would make of them."""

import os
import pickle
import platform
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import devices
from neuroevo.data import feature_cache
from neuroevo.remote import parcels

PARTS = 8  # that are kept
ASK = 0.5  # seconds from one question whether to end to the next

Fetch = Callable[[Any], Any]  # what a reference is of


class Settings(NamedTuple):
    """What of PyTorch's settings changes rounding: a worker has those of the run."""

    threads: int
    matmul: str
    tf32: bool
    benchmark: bool
    deterministic: bool
    strict: bool

    @classmethod
    def here(cls) -> "Settings":
        """Return this process's."""
        cudnn = torch.backends.cudnn
        return cls(
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            cudnn.allow_tf32,
            cudnn.benchmark,
            cudnn.deterministic,
            torch.are_deterministic_algorithms_enabled(),
        )

    def apply(self) -> None:
        """Have them in this process."""
        cudnn = torch.backends.cudnn
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.matmul)
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = self.tf32, self.benchmark, self.deterministic
        torch.use_deterministic_algorithms(self.strict)


class Grad(NamedTuple):
    """How autograd is in the process that asks."""

    enabled: bool
    inference: bool

    @classmethod
    def here(cls) -> "Grad":
        """Return this process's, now."""
        return cls(torch.is_grad_enabled(), torch.is_inference_mode_enabled())


class Order(NamedTuple):
    """A slice of work, and where all else that it needs is: each thing by its number, and a reference to it."""

    parts: tuple[int, Any]  # (function, parts)
    common: tuple[int, Any]  # (common, Grad)
    piece: bytes
    buffers: Sequence[Any]  # of piece
    tensors: Mapping[int, Any]  # of parts; None where one wasn't sent


class Missing(NamedTuple):
    """Large tensors that a worker hasn't got: they are to be sent."""

    numbers: tuple[int, ...]


def describe(device: torch.device, packages: Sequence[str]) -> dict[str, str]:
    """Return what else changes rounding, by name: a worker that differs in it can't stand in for a run's process."""
    found = {"device": devices.model(device), "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in packages}


class Worker:
    """A worker; Ray makes an actor of it."""

    def __init__(self, settings: Settings, device: str, path: Sequence[str]) -> None:
        sys.path[:] = list(dict.fromkeys([*path, *sys.path]))
        settings.apply()
        self.device = torch.device(device)
        self.parts: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
        self.common: tuple[int, Any] = -1, None
        self.tensors: dict[int, Tensor] = {}

    def describe(self, packages: Sequence[str]) -> tuple[int, dict[str, str]]:
        """Return the process's number, and what it computes with."""
        return os.getpid(), describe(self.device, packages)

    def do(self, order: Order, sources: Mapping[int, str], fetch: Fetch) -> parcels.Parcel | Missing:
        """Return what the work makes of a slice, or what it raised.

        `sources` are the names of tensors that are cached features, which may be in this machine's cache as well.
        """
        number, reference = order.parts
        if number not in self.parts:
            lacking = [n for n in order.tensors if not self.gain(n, order.tensors[n], sources.get(n), fetch)]
            if lacking:
                return Missing(tuple(lacking))
            content, buffers = fetch(reference)
            self.parts[number] = parcels.unpack(content, buffers, self.tensors.__getitem__)
            while len(self.parts) > PARTS:
                self.parts.popitem(last=False)
        self.parts.move_to_end(number)
        if self.common[0] != order.common[0]:
            self.common = order.common[0], parcels.unpack(*fetch(order.common[1]))
        function, parts = self.parts[number]
        common, grad = self.common[1]
        try:
            with torch.inference_mode(grad.inference), torch.set_grad_enabled(grad.enabled):
                made = function(parts, common, parcels.unpack(order.piece, order.buffers))
            return parcels.pack((True, made))
        except Exception as error:  # is raised where the run is
            return parcels.Parcel(dump(error), [])

    def gain(self, number: int, reference: Any, source: str | None, fetch: Fetch) -> bool:
        """See that a tensor is here, from the cache or from where it was sent to; tell whether it is."""
        if number not in self.tensors:
            found = None if source is None else feature_cache.open_named(source, self.device)
            if found is None and reference is not None:
                found = parcels.put_together(*fetch(reference))
            if found is None:
                return False
            self.tensors[number] = found
        return True


def end_when(told: Callable[[], bool]) -> None:
    """Send this process a SIGTERM when it is told to end, which it is asked from now on."""

    def watch() -> None:
        with suppress(Exception):  # nobody is there to ask any more
            while not told():
                time.sleep(ASK)
            devices.end_process()

    threading.Thread(target=watch, daemon=True).start()


def dump(error: Exception) -> bytes:
    """Return a pickle of what was raised: of itself, or of its words where it can't be pickled."""
    try:
        content = pickle.dumps((False, error))
        pickle.loads(content)  # noqa: S301  our own: some can be dumped and not loaded
        return content
    except Exception:
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
