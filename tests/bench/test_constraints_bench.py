"""`bench/constraints.py` on small data."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_each_arm_is_judged_on_test_by_each_goal_and_paired(tmp_path: Path) -> None:
    words = ["--small", "--rounds", "2", "--json", str(tmp_path / "c.json")]
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, BENCH / "constraints.py", *words], capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "c.json").read_text())
    arms = {"sgd", "plug-in", "weighted", "decision stage", "evolved", "evolved on"}
    assert {row["arm"] for row in found["rows"] if row["goal"] == "recall"} == arms
    assert {row["arm"] for row in found["rows"] if row["goal"] == "near"} == arms | {"expected cost"}
    assert len({row["goal"] for row in found["rows"]}) == 5
    assert all(0 <= row["feasible"] <= 2 and len(row["values"]) == 2 for row in found["rows"])
    assert all(row["evolved_ahead"][0] == 0 for row in found["rows"] if row["arm"] == "evolved")
