"""bench/gpu.py times what it says, on whatever device there is, and refuses one that there isn't."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.long

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_scoring_is_timed_beside_what_it_takes_on_paper_and_generations_too(run_bench: Callable[..., Any]) -> None:
    found = run_bench("gpu.py", "--device", DEVICE, "--rounds", "1")
    assert [row["precision"] for row in found["scoring"]] == ["float32", "bfloat16"]
    for row in found["scoring"]:
        assert {"product alone", "operations"} <= {*row["seconds"]} <= {*row["paper"]}
        assert min(row["seconds"].values()) > 0
    assert len(found["generations"]) == 4
    assert all(row["seconds"]["cpu"] > 0 for row in found["generations"])


@pytest.mark.parametrize("options", [("--works", "scorin"), *([] if DEVICE == "cuda" else [("--device", "cuda")])])
def test_what_is_not_there_is_refused(run_bench: Callable[..., Any], options: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_bench("gpu.py", *options)
