"""Neuroevolution for fine-tuning pretrained networks: the trainable part as rows of a matrix, evolved in batches.

Public names are loaded when they are first asked for, so that importing the package takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuroevo.api.islands import islands as islands
    from neuroevo.api.learners import adam as adam
    from neuroevo.api.learners import adamw as adamw
    from neuroevo.api.learners import sgd as sgd
    from neuroevo.api.loading import load as load
    from neuroevo.api.progress import progress as progress
    from neuroevo.api.results import Result as Result
    from neuroevo.api.searches import evolve as evolve
    from neuroevo.api.searches import resume as resume
    from neuroevo.api.searches import steps as steps
    from neuroevo.api.workers import workers as workers
    from neuroevo.decision.tune import Decision as Decision
    from neuroevo.decision.tune import tune_decision as tune_decision
    from neuroevo.engine.cost import Budget as Budget
    from neuroevo.engine.observer import Observer as Observer
    from neuroevo.errors import InputError as InputError
    from neuroevo.errors import RunError as RunError
    from neuroevo.estimator import NeuroevoClassifier as NeuroevoClassifier
    from neuroevo.networks.onnxfiles import onnx as onnx
    from neuroevo.networks.quantisation import correct_biases as correct_biases
    from neuroevo.networks.quantisation import quantise as quantise
    from neuroevo.search.algorithms.baselines import hill_climbing as hill_climbing
    from neuroevo.search.algorithms.baselines import random as random
    from neuroevo.search.algorithms.coordinate import coordinate as coordinate
    from neuroevo.search.algorithms.de import de as de
    from neuroevo.search.algorithms.evolution_strategies import cem as cem
    from neuroevo.search.algorithms.evolution_strategies import es as es
    from neuroevo.search.algorithms.evolution_strategies import nes as nes
    from neuroevo.search.algorithms.evolution_strategies import pgpe as pgpe
    from neuroevo.search.algorithms.evolution_strategies import sep_cma as sep_cma
    from neuroevo.search.algorithms.evolution_strategies import snes as snes
    from neuroevo.search.algorithms.evolution_strategies import xnes as xnes
    from neuroevo.search.algorithms.fixed import fixed as fixed
    from neuroevo.search.algorithms.ga import ga as ga
    from neuroevo.search.algorithms.nelder_mead import nelder_mead as nelder_mead
    from neuroevo.search.algorithms.pso import pso as pso
    from neuroevo.search.algorithms.spsa import spsa as spsa

__version__ = "0.1.0"

_HOMES = {  # of the public names, by module
    "api.algorithms": (
        "cem",
        "coordinate",
        "de",
        "es",
        "fixed",
        "ga",
        "hill_climbing",
        "nelder_mead",
        "nes",
        "pgpe",
        "pso",
        "random",
        "sep_cma",
        "snes",
        "spsa",
        "xnes",
    ),
    "api.progress": ("progress",),
    "api.results": ("Result",),
    "api.searches": ("evolve", "resume", "steps"),
    "api.workers": ("workers",),
    "decision.tune": ("Decision", "tune_decision"),
    "engine.observer": ("Observer",),
    "engine.cost": ("Budget",),
    "errors": ("InputError", "RunError"),
    "estimator": ("NeuroevoClassifier",),
    "api.loading": ("load",),
    "networks.quantisation": ("correct_biases", "quantise"),
    "networks.onnxfiles": ("onnx",),
    "api.islands": ("islands",),
    "api.learners": ("adam", "adamw", "sgd"),
}
_HOME = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Return a public name from its module, and keep it; AttributeError for any other."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOME[name]), name)
    return found


def __dir__() -> list[str]:
    """Return what the package has, public names among it, loaded or not."""
    return sorted({*globals(), *__all__})
