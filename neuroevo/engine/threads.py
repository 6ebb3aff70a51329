"""Small pieces of work for all of torch's threads: operations that torch itself does in one, such as drawing noise."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


def share(work: Callable[[int], None], pieces: Sequence[int]) -> None:
    """Do work on each piece, by as many threads as torch has; what a piece comes to mustn't depend on the others.

    The calling thread is one of them: torch's own may still spin on their cores, waiting for the next product.
    """
    left = list(reversed(pieces))

    def help_out() -> None:
        while left:
            try:
                piece = left.pop()
            except IndexError:  # another thread was quicker
                return
            work(piece)

    helpers = min(torch.get_num_threads(), len(pieces)) - 1
    waited = [_pool(helpers, os.getpid()).submit(help_out) for _ in range(helpers)]
    try:
        help_out()
    finally:
        left.clear()  # where a piece failed
        errors = [error for error in (each.exception() for each in waited) if error is not None]
    for error in errors:
        raise error


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return so many threads, which a forked process doesn't have of its parent."""
    return ThreadPoolExecutor(threads, "neuroevo")
