"""Rows of the host on their way to a GPU: through pinned memory, so that neither waits for the other.

A copy from plain memory makes the host wait until the device has done all that it was given before. From pinned memory
it is one more thing in a stream, and on a stream of its own it runs while the device computes.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache

import torch
from torch import Tensor

Fill = Callable[[Tensor, Tensor], object]  # (a part of an index [B], out [B, d] of the host): gathers the part's rows


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that copies to a device; one, since the allocator keeps memory for each stream apart."""
    return torch.cuda.Stream(device)


def ahead(fill: Fill, parts: Iterable[Tensor], like: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Yield the rows [B, d] of each part of an index on a GPU: gathered and copied while it works on those before.

    What is launched between one part and the next is what a part is for. `like` [N, d] is what `fill` gathers from. Two
    pinned buffers take turns. One is filled again when the device has done what its rows were for, so that no copy can
    read it any more, and no more than three parts take memory of the device.
    """
    copies = copy_stream(device)
    buffers: list[Tensor] = []
    free: list[torch.cuda.Event] = []  # of each buffer's rows: when the device has done what they were for
    for i, part in enumerate(parts):
        turn = i % 2
        if i < 2:
            free.append(torch.cuda.Event())
            buffers.append(torch.empty(len(part), *like.shape[1:], dtype=like.dtype, pin_memory=True))
        else:
            free[turn].synchronize()
        if len(part) > len(buffers[turn]):
            buffers[turn] = torch.empty(len(part), *like.shape[1:], dtype=like.dtype, pin_memory=True)
        rows = buffers[turn][: len(part)]
        fill(part, rows)
        with torch.cuda.stream(copies):
            out = torch.empty(rows.shape, dtype=rows.dtype, device=device)
            out.copy_(rows, non_blocking=True)
        here = torch.cuda.current_stream(device)
        here.wait_stream(copies)
        out.record_stream(here)  # it is of the other stream's memory, and is used here
        yield out
        del out
        free[turn].record(torch.cuda.current_stream(device))
