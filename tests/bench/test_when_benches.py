"""The benches of docs/when.md on networks, on a few images: every row is there, and nothing of test is chosen by."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def run(name: str, tmp_path: Path, *options: str) -> Any:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(BENCH / name), "--small", "--threads", "1", "--json", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["commit"]
    assert name in found["command"]
    return found["found"]


def test_a_quantised_network_is_mended_by_each_row(tmp_path: Path) -> None:
    (rows,) = run("quantisation.py", tmp_path, "--data", "digits", "--rows", "evolved, no labels").values()
    assert rows.keys() == {"float", "round to nearest", "bias correction", "evolved, no labels"}
    assert rows["float"]["test"][0] > rows["round to nearest"]["test"][0]
    assert rows["bias correction"]["test"][0] > rows["round to nearest"]["test"][0]


def test_strategies_are_compared_on_functions_of_few_genes(tmp_path: Path) -> None:
    rows = run("functions.py", tmp_path, "--rounds", "1")
    assert [row["function"] for row in rows] == ["ellipsoid", "rosenbrock"]
    for row in rows:
        assert 0 <= row["xnes"] < 1e4


@pytest.mark.usefixtures("data_root")
def test_the_last_stage_is_searched_in_each_space(tmp_path: Path) -> None:
    rows = run("coordinates.py", tmp_path, "--arms", "scales by snes")
    gradients = {"full by gradients", "scales by gradients", "low_rank by gradients"}
    assert rows.keys() == {"the head", "scales by snes"} | gradients
    assert {len(of["test"]) for of in rows.values()} == {1}


@pytest.mark.usefixtures("data_root")
def test_networks_are_merged_in_each_way(tmp_path: Path) -> None:
    rows = run("merging.py", tmp_path, "--arms", "evolved, from RegMean")
    closed = {"the best alone", "mean", "task arithmetic", "RegMean", "greedy soup"}
    assert rows.keys() == {"the head", "plain", "inverted", "rotated", "noisy", *closed, "evolved, from RegMean"}
    for of in rows.values():
        assert of["test worst"][0] <= of["test mean"][0]
