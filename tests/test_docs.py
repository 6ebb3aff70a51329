"""The examples of the documents run, as they stand there."""

import re
import sys
from pathlib import Path

import pytest
from conftest import Quiet

import neuroevo
from neuroevo.config import load
from neuroevo.experiments import experiment
from neuroevo.storage import rundir

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", ["README.md", "docs/api.md"])
def test_the_examples_in_python_run_one_after_another(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / file).read_text(), re.M | re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, file, "exec"), names)


def test_the_guide_from_python_names_all_that_is_public() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    assert not [name for name in neuroevo.__all__ if name != "__version__" and f"`{name}`" not in text]


def test_the_fitness_of_the_readme_evolves_the_features_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    blocks = re.findall(r"^```(?:python|yaml)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    features = next(block for block in blocks if "np.savez" in block)
    exec(compile(features, "README.md", "exec"), {})
    for name in ("mine.py", "own.yaml"):
        Path(name).write_text(next(block for block in blocks if block.startswith(f"# {name}")))
    sets = ["budget.generations=3", "algorithm.population=16", "memory.limit=1e8"]
    folder = experiment.run(load("own.yaml", sets), "r", "own", Quiet())
    validation = rundir.read_result(folder)["champion"]["validation"]
    assert 0 < validation["mine:f1"] < 1
    assert validation["found"] > 0
