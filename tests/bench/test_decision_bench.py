"""What `bench/decision.py` writes of a small case."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "decision.py"


def test_every_row_is_scored_on_test_beside_the_one_that_the_stage_chose(tmp_path: Path) -> None:
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, BENCH, "--small", "--seeds", "2", "--json", tmp_path / "f.json"]
    done = subprocess.run(words, capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "f.json").read_text())
    assert len(found["runs"]) == 4
    for runs in found["runs"].values():
        assert len(runs) == 2
        for run in runs:
            assert {"argmax", "prior", "coordinate", "evolved", "stage"} <= set(run["test"])
            assert run["test"]["stage"] == run["test"][run["chosen"]]
    assert "lowest expected cost" in found["runs"]["cross-entropy, lognormal costs"][0]["test"]
    assert done.stdout.count("| stage |") == 4
