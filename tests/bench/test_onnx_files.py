"""What `bench/onnx_files.py` measures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def test_an_individual_is_timed_beside_a_plain_session(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, BENCH / "onnx_files.py", "--small", "--rounds", "1", "--json", tmp_path / "f.json"]
    done = subprocess.run(words, capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert {row["file"] for row in rows} == {"float", "qdq", "qoperator"}
    assert all(row["individual"] > 0 and row["plain"] > 0 and row["genes"] > 0 for row in rows)
