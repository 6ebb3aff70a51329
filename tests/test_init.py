"""The public names: there, from where they are, and loaded no sooner than asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import neuroevo
from neuroevo import estimator
from neuroevo.api import algorithms, islands, learners, loading, progress, searches, workers
from neuroevo.decision import tune
from neuroevo.engine.cost import Budget
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError, RunError
from neuroevo.learning.optimizers import OPTIMIZERS
from neuroevo.networks import onnxfiles, quantisation
from neuroevo.search.algorithms import ALGORITHMS


def test_public_names_are_the_things_of_the_tables() -> None:
    expected = {name: getattr(algorithms, name) for name in ALGORITHMS}
    expected |= {"Budget": Budget, "InputError": InputError, "RunError": RunError}
    expected |= {name: getattr(learners, name) for name in OPTIMIZERS}
    expected |= {name: getattr(searches, name) for name in ("evolve", "resume", "steps", "Result")}
    expected |= {"tune_decision": tune.tune_decision, "Decision": tune.Decision}
    expected |= {"load": loading.load, "Observer": Observer, "NeuroevoClassifier": estimator.NeuroevoClassifier}
    expected |= {"islands": islands.islands, "onnx": onnxfiles.onnx, "workers": workers.workers}
    expected |= {"progress": progress.progress}
    expected |= {name: getattr(quantisation, name) for name in ("correct_biases", "quantise")}
    assert {*expected, "__version__"} == set(neuroevo.__all__) <= set(dir(neuroevo))
    for name, thing in expected.items():
        assert getattr(neuroevo, name) is thing


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'neuroevo' has no attribute 'gaa'"):
        neuroevo.gaa  # noqa: B018


def test_no_public_name_is_that_of_a_module_beside_it() -> None:
    modules = {path.stem for path in Path(neuroevo.__file__).parent.iterdir()}
    assert not modules & set(neuroevo.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import time; began = time.perf_counter()\nimport neuroevo, sys; took = time.perf_counter() - began\n"
        "from neuroevo import Budget, InputError\n"
        "assert not {'torch', 'numpy', 'pydantic', 'evotorch', 'sklearn'} & sys.modules.keys(), 'heavy'\n"
        "assert took < 0.2, took\n"
        "neuroevo.snes\nassert 'torch' in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
