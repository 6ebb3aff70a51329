"""Which device a run is on and how much memory is free there."""

import psutil
import torch

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
        raise InputError("device: mps has no float64, in which scores are summed; use cpu")
    if name not in there:
        raise InputError(f"device: {name!r} is not on this machine; there are: auto, {', '.join(there)}")
    return torch.device(name)


def available_memory(device: torch.device) -> int:
    """Return the bytes that are free for use on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
