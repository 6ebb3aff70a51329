"""Trackers of a test's own, of no library: one that remembers, and one that breaks."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from neuroevo.tracking.trackers import Run, Tracker

TOLD: list[Any] = []  # in the tracker's own process


def remember(run: Run, *, has: int = 0) -> Tracker:
    """Remember what is told."""

    def result(figures: Mapping[str, Any], plots: Sequence[str]) -> None:
        TOLD.append((dict(figures), list(plots)))

    return Tracker("id", "here", TOLD.append, result, TOLD.append, has)


def fail(*what: object) -> None:
    raise OSError("the network is gone")


def hang(*what: object) -> None:
    time.sleep(600)


def die(*what: object) -> None:
    os._exit(7)


WAYS = {"fail": fail, "hang": hang, "die": die}


def broken(run: Run, *, when: str, how: str) -> Tracker:
    """Break at a moment, in a way."""
    if when == "begin":
        WAYS[how]()
    return remember(run)._replace(**({when: WAYS[how]} if when != "begin" else {}))
