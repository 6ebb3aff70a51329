"""What `bench/decision.py` writes of a small case."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.long


def test_every_row_is_scored_on_test_beside_the_one_that_the_stage_chose(
    run_bench: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_bench("decision.py", "--seeds", "2")
    assert len(found["runs"]) == 4
    for runs in found["runs"].values():
        assert len(runs) == 2
        for run in runs:
            assert {"argmax", "prior", "coordinate", "evolved", "stage"} <= set(run["test"])
            assert run["test"]["stage"] == run["test"][run["chosen"]]
    assert "lowest expected cost" in found["runs"]["cross-entropy, lognormal costs"][0]["test"]
    assert capsys.readouterr().out.count("| stage |") == 4
