from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.long
def test_what_is_taken_away_is_scored_for_each_arm_and_seed(run_bench: Callable[..., Any]) -> None:
    found = run_bench("takeaway.py")
    figures = found["figures"]
    assert [*figures] == [
        "hybrid, champion", "hybrid, soup", "hybrid, ensemble", "diverse, champion", "diverse, ensemble",
        "sgd_restarts, champion", "sgd_restarts, ensemble", "restarts, champion", "restarts, ensemble",
    ]  # fmt: skip
    for name, seeds in figures.items():
        assert len(seeds) == 2
        assert all(0 < each["test"] <= 1 and (each["looks"] > 0) == (not name.endswith("champion")) for each in seeds)
    for one, champion in zip(figures["hybrid, ensemble"], figures["hybrid, champion"], strict=True):
        assert one["validation"] >= champion["validation"]  # the champion is among those it is chosen of
