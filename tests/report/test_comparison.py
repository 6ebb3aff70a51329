import csv
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Quiet

from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.report import comparison, pairs, report
from neuroevo.storage.predictions import Prediction


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("compared")
    each = {"one": [], "two <b>": ["algorithm.mutation.sigma=0.05"], "three": ["data.split_seed=1"]}
    return [
        experiment.run(load(None, [*TINY, *sets]), str(folder / name), "test", Quiet()) for name, sets in each.items()
    ]


def rows(hits: str) -> list[Prediction]:
    return [Prediction("test", i, "", "a", "a" if hit == "1" else "b", 0.5, 0.5, "") for i, hit in enumerate(hits)]


def test_a_pair_counts_where_one_alone_is_right() -> None:
    found = comparison.pair(rows("1111100000"), rows("1110111000"))
    assert found is not None
    assert found[:3] == (10, 1, 2)
    assert found.difference == pytest.approx(0.1)
    assert found.low < 0 < found.high
    same = comparison.pair(rows("1100"), rows("1100"))
    assert same is not None
    assert same.difference == 0
    assert same.low == -same.high < 0


def test_runs_of_other_samples_are_no_pair() -> None:
    assert comparison.pair(rows("110"), rows("1100")) is None
    assert comparison.pair([], []) is None


def test_the_interval_of_a_pair_holds_the_difference_in_about_95_percent_of_samples() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        kind = rng.choice(4, 200, p=[0.6, 0.15, 0.1, 0.15])
        found = comparison.pair(rows("".join("1100"[k] for k in kind)), rows("".join("1010"[k] for k in kind)))
        assert found is not None
        held += found.low <= 0.1 - 0.15 <= found.high
    assert 0.92 < held / 400 < 0.985


def test_several_runs_are_on_one_page_in_a_folder_of_its_own(runs: list[Path], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}
    page = report.compare([str(run) for run in runs], str(tmp_path / "new" / "page"), formats=["svg"])
    text = page.read_text()
    assert page == tmp_path / "new" / "page" / "report.html"
    assert {path.name for path in (page.parent / "plots").iterdir()} == {
        "curves.svg", "curves.csv", "cost.svg", "cost.csv",
    }  # fmt: skip
    assert "two &lt;b&gt;" in text
    assert "two <b>" not in text
    table = text[text.index("Settings that differ") : text.index("Progress")]
    assert "algorithm.mutation.sigma" in table
    assert "data.split_seed" in table
    assert "budget" not in table
    assert "Not paired, since the test samples are others or not recorded: three." in text
    curves = list(csv.DictReader((page.parent / "plots" / "curves.csv").read_text().splitlines()))
    assert {row["arm"] for row in curves} == {"one", "two <b>", "three"}
    assert before == {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}


def test_a_page_of_several_runs_replaces_nothing(runs: list[Path], tmp_path: Path, bench_folder: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("")
    both = [str(run) for run in runs[:2]]
    with pytest.raises(InputError, match="isn't empty"):
        report.compare(both, str(tmp_path / "mine"))
    for folders, why in (
        ([both[0], str(bench_folder)], "a benchmark"),
        ([both[0], str(tmp_path)], "no run is there"),
        ([both[0], both[0]], "same run twice"),
    ):
        with pytest.raises(InputError, match=why):
            report.compare(folders, str(tmp_path / "new"))
    (tmp_path / "begun").mkdir()
    shutil.copy(runs[0] / "config.yaml", tmp_path / "begun")
    with pytest.raises(InputError, match="no generation is recorded yet"):
        report.compare([both[0], str(tmp_path / "begun")], str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_runs_of_the_same_name_are_told_apart_by_their_folders() -> None:
    assert comparison.labels([Path("/a/x/0-0"), Path("/a/y/0-0")]) == ["x/0-0", "y/0-0"]
    assert comparison.labels([Path("/a/x"), Path("/a/y")]) == ["x", "y"]


def test_the_table_of_pairs_has_differences_with_their_sign_and_says_what_is_left_out() -> None:
    row = {"a": "x", "b": "<y>", "difference": "0.1", "difference_low": "-0.02", "difference_high": "0.2",
           "probability": "0.75", "probability_low": "", "probability_high": ""}  # fmt: skip
    text = pairs.table([row], lower_is_better=False)
    assert "x - &lt;y&gt;" in text
    assert "+0.1000\n[-0.0200, 0.2000]" in text
    assert "above 0 the first is better" in text
    assert "below 0 the first is better" in pairs.table([row], lower_is_better=True)
    assert "leave out" in text
    assert pairs.table([], lower_is_better=False) == ""
    assert pairs.table([row | {"difference": str(math.nan)}], lower_is_better=False) == ""
