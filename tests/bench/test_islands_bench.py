"""The bench of islands, on a few digits: all ways are there, and test is shown of what validation chose alone."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.long


def test_islands_are_compared_with_one_population_at_equal_samples(run_bench: Callable[..., Any]) -> None:
    record = run_bench("islands.py")
    found, chosen = record["found"], record["chosen"]
    assert "one population" in found
    assert sum(name.startswith("four islands") for name in found) == 6
    generations = {name: of["generations"] for name, of in found.items()}
    assert all(each == generations["one population"] for name, each in generations.items() if name.startswith("four"))
    assert 2 <= len(chosen) <= 3
    best = max((n for n in found if n.startswith("four")), key=lambda n: sum(found[n]["validation"]))
    assert best in chosen
    assert all(len(of["test"]) == 2 for of in chosen.values())
    assert all("test" not in of for of in found.values())
