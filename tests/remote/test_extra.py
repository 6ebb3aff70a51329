"""Without the extra there are no workers, and a line says what to install."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from conftest import Quiet

import neuroevo as ne
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import experiment

LINE = "ray: not installed; pip install 'neuroevo[ray]'"
SMALL = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "budget.generations=2"]


@pytest.fixture(params=["ray", "cloudpickle"])
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    found = importlib.util.find_spec

    def find(name: str, *given: Any) -> Any:
        return None if name == request.param else found(name, *given)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    return str(request.param)


def test_a_run_and_a_search_from_python_say_what_to_install(lacking: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ray: not installed") as error:
        experiment.run(load(None, [*SMALL, "remote.workers=2"]), str(tmp_path / "run"), "test", Quiet())
    assert LINE in str(error.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="ray: not installed"), ne.workers(2):
        pass


def test_a_run_without_workers_needs_none_of_it(lacking: str, tmp_path: Path) -> None:
    folder = experiment.run(load(None, [*SMALL, "remote.workers=0"]), str(tmp_path / "run"), "test", Quiet())
    assert (folder / "result.json").is_file()
