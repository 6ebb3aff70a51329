"""Errors where something takes more memory than this machine has, before any is taken."""

from neuroevo import devices
from neuroevo.errors import InputError


def fits(size: int, what: str) -> None:
    """See that so many bytes fit into this machine's memory; InputError says `what` takes them."""
    there = devices.total_memory()
    if size > there:
        raise InputError(f"{what} {amount(size)} of memory; this machine has {amount(there)}")


def amount(size: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or unit == "PiB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    raise AssertionError
