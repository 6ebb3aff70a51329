"""Small pieces of work for all of torch's threads: operations that torch itself does in one, such as drawing noise."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


def share(work: Callable[[int], None], pieces: Sequence[int]) -> None:
    """Do work on each piece, by as many threads as torch has; what a piece comes to mustn't depend on the others."""
    if torch.get_num_threads() == 1 or len(pieces) == 1:
        for piece in pieces:
            work(piece)
        return
    for _ in _pool(torch.get_num_threads(), os.getpid()).map(work, pieces):
        pass


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return so many threads, which a forked process doesn't have of its parent."""
    return ThreadPoolExecutor(threads, "neuroevo")
