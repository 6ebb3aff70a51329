"""Search algorithms by name."""

from collections.abc import Callable
from typing import Any

from neuroevo.algorithms.base import Algorithm, Part
from neuroevo.algorithms.baselines import hill_climbing, random
from neuroevo.algorithms.de import de
from neuroevo.algorithms.fixed import fixed
from neuroevo.algorithms.ga import ga
from neuroevo.algorithms.pso import pso

ALGORITHMS: dict[str, Callable[..., Algorithm[Any]]] = {
    "ga": ga,
    "fixed": fixed,
    "pso": pso,
    "de": de,
    "random": random,
    "hill_climbing": hill_climbing,
}

__all__ = ["ALGORITHMS", "Algorithm", "Part"]
