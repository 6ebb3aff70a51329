"""The benches of docs/when.md on networks, on a few images: every row is there, and nothing of test is chosen by."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.long

Bench = Callable[..., Any]


def test_a_quantised_network_is_mended_by_each_row(run_bench: Bench) -> None:
    record = run_bench("quantisation.py", "--data", "digits", "--rows", "evolved, no labels")
    assert record["commit"]
    assert record["command"].startswith("python bench/quantisation.py --small")
    (rows,) = record["found"].values()
    assert rows.keys() == {"float", "round to nearest", "bias correction", "evolved, no labels"}
    assert rows["float"]["test"][0] > rows["round to nearest"]["test"][0]
    assert rows["bias correction"]["test"][0] > rows["round to nearest"]["test"][0]


@pytest.mark.parametrize(
    ("name", "option"), [("quantisation.py", "--rows"), ("merging.py", "--arms"), ("coordinates.py", "--arms")]
)
def test_a_search_that_is_not_there_is_refused_before_anything_is_computed(
    run_bench: Bench, capsys: pytest.CaptureFixture[str], name: str, option: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_bench(name, option, "evolve")
    assert ended.value.code == 2
    assert f"error: {option} evolve: none of " in capsys.readouterr().err


def test_strategies_are_compared_on_functions_of_few_genes(run_bench: Bench) -> None:
    rows = run_bench("functions.py", "--rounds", "1")["found"]
    assert [row["function"] for row in rows] == ["ellipsoid", "rosenbrock"]
    for row in rows:
        assert 0 <= row["xnes"] < 1e4


@pytest.mark.usefixtures("data_root")
def test_the_last_stage_is_searched_in_each_space(run_bench: Bench) -> None:
    rows = run_bench("coordinates.py", "--arms", "scales by snes")["found"]
    gradients = {"full by gradients", "scales by gradients", "low_rank by gradients"}
    assert rows.keys() == {"the head", "scales by snes"} | gradients
    assert {len(of["test"]) for of in rows.values()} == {1}


@pytest.mark.usefixtures("data_root")
def test_networks_are_merged_in_each_way(run_bench: Bench) -> None:
    rows = run_bench("merging.py", "--arms", "evolved, from RegMean")["found"]
    closed = {"the best alone", "mean", "task arithmetic", "RegMean", "greedy soup"}
    assert rows.keys() == {"the head", "plain", "inverted", "rotated", "noisy", *closed, "evolved, from RegMean"}
    for of in rows.values():
        assert of["test worst"][0] <= of["test mean"][0]
