"""What `bench/nobodys_logits.py` measures, and that its solver is right."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.long

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import nobodys_logits

    return nobodys_logits


def test_the_solver_finds_the_best_of_all_paths(bench: Any) -> None:
    costs = torch.rand(20, bench.EDGES, generator=torch.Generator().manual_seed(0))
    found = (bench.shortest(costs) * costs).sum(1)
    right = costs[:, : bench.EDGES // 2].view(-1, bench.SIDE, bench.SIDE - 1)
    down = costs[:, bench.EDGES // 2 :].view(-1, bench.SIDE - 1, bench.SIDE)
    least = torch.full((20,), torch.inf)
    steps = 2 * (bench.SIDE - 1)
    for rights in itertools.combinations(range(steps), bench.SIDE - 1):
        i, j, cost = 0, 0, torch.zeros(20)
        for step in range(steps):
            if step in rights:
                cost, j = cost + right[:, i, j], j + 1
            else:
                cost, i = cost + down[:, i, j], i + 1
        least = torch.minimum(least, cost)
    torch.testing.assert_close(found, least)


def test_regret_of_the_true_costs_is_none_and_of_others_some(bench: Any) -> None:
    of = bench.draw(30, 0, 2, 0.5, 0)
    assert bench.regret(lambda features: of.costs, of) == 0
    assert bench.regret(lambda features: -of.costs, of) > 0
    assert not torch.equal(of.costs, bench.draw(30, 0, 2, 0.5, 1).costs)


def test_every_way_is_measured(run_bench: Callable[..., Any]) -> None:
    found = run_bench("nobodys_logits.py")
    assert {"least squares", "wider", "spo+", "random", "hill_climbing", "ga", "snes", "xnes"} <= found[
        "summary"
    ].keys()
    assert all(0 <= row["test"] < 1 and len(found["runs"][name]) == 2 for name, row in found["summary"].items())
    assert found["summary"]["least squares"]["gain"] == [0, 0, 0]
