"""Which device a run is on, how much memory is free there, and how much some work needs."""

import ctypes
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neuroevo.errors import InputError


def resolve(name: str) -> torch.device:
    """Return the device called `auto`, `cpu`, `cuda` or `cuda:N`; InputError where it isn't there.

    `mps` is refused: it has no float64, in which scores are summed.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    there = ["cpu", *(["cuda"] if cuda else []), *(f"cuda:{i}" for i in range(cuda))]
    if name == "mps":
        raise InputError("mps has no float64, in which scores are summed; use cpu", option="device")
    if name not in there:
        raise InputError(f"{name!r} is not on this machine; there are: auto, {', '.join(there)}", option="device")
    return torch.device(name)


def exists(name: str) -> bool:
    """Tell whether this machine has a device."""
    device = torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return device.type != "cuda" or (device.index or 0) < count


def nearest(name: str, note: Callable[[str], None]) -> torch.device:
    """Return a device, or in place of a GPU that isn't there what `auto` is; `note` is told."""
    if re.fullmatch(r"cuda(:\d+)?", name) and not exists(name):
        device = resolve("auto")
        note(f"device: {name} is not on this machine; {device} takes its place")
        return device
    return resolve(name)


def model(device: torch.device) -> str:
    """Return what a device is called, a CPU with what of it torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")  # where it isn't there, the platform knows
    name = re.search(r"^model name\s*:\s*(.+)$", about.read_text() if about.exists() else "", re.MULTILINE)
    return f"{name[1] if name else platform.processor()} {torch.backends.cpu.get_cpu_capability()}"


def available_memory(device: torch.device) -> int:
    """Return the bytes that are free for use on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def kill_all(variable: str, value: str) -> None:
    """Kill all processes in whose environment a variable has this value; those of others stay."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(variable) == value:
                process.kill()


def began() -> float:
    """Return when this process began, in seconds since the epoch."""
    return float(psutil.Process().create_time())


def end_process() -> None:
    """Send this process a SIGTERM."""
    psutil.Process().terminate()


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def send(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the host doesn't wait for its way to a GPU.

    The pinned copy is the allocator's again when this returns, and it gives none away that a copy still reads.
    """
    if x.device.type != "cpu" or device.type != "cuda":
        return x.to(device)
    return (x if x.is_pinned() else x.pin_memory()).to(device, non_blocking=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Have what this thread computes on the CPU not be split while entered, where OpenMP can be asked.

    `torch.set_num_threads` would leave MKL in another mode, which rounds otherwise.
    """
    try:
        openmp = ctypes.CDLL(None)  # of the process: torch has loaded it for all
        threads, split = openmp.omp_get_max_threads(), openmp.omp_set_num_threads
    except (AttributeError, OSError, TypeError):
        yield
        return
    split(1)
    try:
        yield
    finally:
        split(threads)


def total_memory() -> int:
    """Return the bytes of this machine's memory."""
    return int(psutil.virtual_memory().total)


class _Meter(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, while these are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        self.alive = {key: pair for key, pair in self.alive.items() if not pair[0].expired()}
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in given:
                storage = x.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that tensors made by `work` take at a time; a library's own scratch isn't counted."""
    meter = _Meter()
    with meter:
        work()
    return meter.peak


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is that of a device or the machine without memory for a tensor."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
