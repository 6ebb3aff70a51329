"""`bench/constraints.py` on small data."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.long


def test_each_arm_is_judged_on_test_by_each_goal_and_paired(run_bench: Callable[..., Any]) -> None:
    found = run_bench("constraints.py", "--rounds", "2", "--goals", "recall,near")
    arms = {"sgd", "plug-in", "weighted", "decision stage", "evolved", "evolved on"}
    assert {row["arm"] for row in found["rows"] if row["goal"] == "recall"} == arms
    assert {row["arm"] for row in found["rows"] if row["goal"] == "near"} == arms | {"expected cost"}
    assert {row["goal"] for row in found["rows"]} == {"recall", "near"}
    assert all(0 <= row["feasible"] <= 2 and len(row["values"]) == 2 for row in found["rows"])
    assert all(row["evolved_ahead"][0] == 0 for row in found["rows"] if row["arm"] == "evolved")
