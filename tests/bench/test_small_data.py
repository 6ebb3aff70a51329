"""The bench of small data, on a few digits: each way is there, and folds of as many generations cost more."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.long, pytest.mark.compares]


def test_ways_to_choose_are_compared_on_the_same_draws(run_bench: Callable[..., Any]) -> None:
    found = run_bench("small_data.py")["found"]
    names = [name.partition(": ")[2] for name in found]
    assert names == ["one split", "refit", "folds, same budget", "folds, same generations",
                     "logistic, train", "logistic, all but test"]  # fmt: skip
    assert all(len(of["test"]) == len(of["gap"]) == 2 for of in found.values())
    assert min(found["digits, 20: logistic, all but test"]["test"]) > 0.7
