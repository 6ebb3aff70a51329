"""Search algorithms by name."""

from collections.abc import Callable
from typing import Any

from neuroevo.algorithms.base import Algorithm, Part
from neuroevo.algorithms.fixed import fixed
from neuroevo.algorithms.ga import ga

ALGORITHMS: dict[str, Callable[..., Algorithm[Any]]] = {
    "ga": ga,
    "fixed": fixed,
}

__all__ = ["ALGORITHMS", "Algorithm", "Part"]
