"""What `bench/onnx_files.py` measures."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.long


def test_an_individual_is_timed_beside_a_plain_session(run_bench: Callable[..., Any]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    rows = run_bench("onnx_files.py", "--rounds", "1")["rows"]
    assert {row["file"] for row in rows} == {"float", "qdq", "qoperator"}
    assert all(row["individual"] > 0 and row["plain"] > 0 and row["genes"] > 0 for row in rows)
