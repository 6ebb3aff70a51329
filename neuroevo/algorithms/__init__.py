"""Search algorithms by name."""

from collections.abc import Callable
from typing import Any

from neuroevo.algorithms.base import Algorithm, Part
from neuroevo.algorithms.evolution_strategies import cem, es, pgpe, sep_cma, snes, xnes
from neuroevo.algorithms.fixed import fixed
from neuroevo.algorithms.ga import ga

ALGORITHMS: dict[str, Callable[..., Algorithm[Any]]] = {
    "ga": ga,
    "fixed": fixed,
    "snes": snes,
    "xnes": xnes,
    "pgpe": pgpe,
    "cem": cem,
    "sep_cma": sep_cma,
    "es": es,
}

__all__ = ["ALGORITHMS", "Algorithm", "Part"]
