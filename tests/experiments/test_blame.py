import sys
from pathlib import Path

import pytest
from conftest import Quiet

from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.storage import rundir

QUICK = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=8",
         "budget.generations=3", "memory.limit=1e8"]  # fmt: skip
MODULE = """
from torch import nn
def head(in_features, classes):
    return {head}
def metric(logits, targets):
    return {metric}
"""
RIGHT = {"head": "nn.Linear(in_features, classes)", "metric": "logits.amax(-1).mean(-1)"}


@pytest.mark.parametrize("part", RIGHT)
def test_a_failure_in_a_users_code_is_one_line_and_the_next_try_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"mine_{part}"
    given = [*QUICK, f"head.name={name}:head", f"fitness.metric={name}:metric"]
    file, out = tmp_path / f"{name}.py", str(tmp_path / "r")
    file.write_text(MODULE.format(**{**RIGHT, part: "nothing_of_the_name"}))
    with pytest.raises(
        InputError, match=rf"{name}:{part} (failed: |can't be built \()NameError: .*{name}.py, line [46]\)"
    ):
        experiment.run(load(None, given), out, "x", Quiet())
    assert not (tmp_path / "r").exists()
    file.write_text(MODULE.format(**RIGHT) + "# of another size\n")
    del sys.modules[name]
    experiment.run(load(None, given), out, "x", Quiet())
    assert rundir.read_result(tmp_path / "r")["status"] == "finished"


def test_what_is_no_fault_of_a_users_part_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object, **named: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(experiment, "go", broken)
    with pytest.raises(KeyError):
        experiment.run(load(None, QUICK), str(tmp_path / "r"), "x", Quiet())
