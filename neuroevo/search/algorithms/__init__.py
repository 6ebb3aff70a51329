"""Search algorithms by name."""

from collections.abc import Callable
from typing import Any

from neuroevo.engine.algorithm import Algorithm, Part
from neuroevo.search.algorithms.baselines import hill_climbing, random
from neuroevo.search.algorithms.coordinate import coordinate
from neuroevo.search.algorithms.de import de
from neuroevo.search.algorithms.evolution_strategies import cem, es, nes, pgpe, sep_cma, snes, xnes
from neuroevo.search.algorithms.fixed import fixed
from neuroevo.search.algorithms.ga import ga
from neuroevo.search.algorithms.nelder_mead import nelder_mead
from neuroevo.search.algorithms.pso import pso
from neuroevo.search.algorithms.spsa import spsa

ALGORITHMS: dict[str, Callable[..., Algorithm[Any]]] = {
    "ga": ga,
    "snes": snes,
    "xnes": xnes,
    "nes": nes,
    "pgpe": pgpe,
    "cem": cem,
    "sep_cma": sep_cma,
    "es": es,
    "pso": pso,
    "de": de,
    "spsa": spsa,
    "coordinate": coordinate,
    "nelder_mead": nelder_mead,
    "hill_climbing": hill_climbing,
    "random": random,
    "fixed": fixed,
}

__all__ = ["ALGORITHMS", "Algorithm", "Part"]
