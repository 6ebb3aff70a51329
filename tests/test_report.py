import re
from pathlib import Path

import pytest
from conftest import Quiet

from neuroevo import experiment, report
from neuroevo.config import load
from neuroevo.errors import InputError

SETS = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=8",
        "budget.generations=4", "memory.limit=1e8", "validate.every=2", "refine.name=sgd", "refine.steps=1",
        "refine.lr=[0.01, 0.1]", "algorithm.mutation.self_adaptive=true"]  # fmt: skip


def test_a_run_is_drawn_and_written_to_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    experiment.run(load(None, SETS), str(tmp_path / "r"), "test", Quiet())
    page = report.report(str(tmp_path / "r"))
    plots = {path.stem for path in (tmp_path / "r" / "plots").glob("*.png")}
    assert plots == {"fitness", "validation", "diversity", "lr", "sigma"}
    text = page.read_text()
    assert len(re.findall("data:image/png;base64,", text)) == len(plots)
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert "champion test accuracy" in text
    assert all((tmp_path / "r" / "plots" / f"{plot}.png").read_bytes().startswith(b"\x89PNG") for plot in plots)


def test_the_front_of_two_objectives_is_drawn(tmp_path: Path) -> None:
    for folder, metrics in (("two", "[cross_entropy, weight_norm]"), ("three", "[cross_entropy, brier, weight_norm]")):
        sets = [*(s for s in SETS if "refine" not in s), f"fitness.metrics={metrics}"]
        experiment.run(load(None, sets), str(tmp_path / folder), "test", Quiet())
        page = report.report(str(tmp_path / folder)).read_text()
        assert (tmp_path / folder / "plots" / "front.png").exists() == (folder == "two") == ("<h2>front</h2>" in page)


def test_a_folder_without_a_run_or_a_generation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run is there"):
        report.report(str(tmp_path))
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(InputError, match="no generation is recorded yet"):
        report.report(str(tmp_path))
