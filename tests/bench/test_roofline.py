import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

BENCH = Path(__file__).parents[2] / "bench" / "roofline.py"


def test_the_bench_of_bounds_compares_each_work_with_what_bounds_it(tmp_path: Path) -> None:
    out = tmp_path / "roofline.json"
    given = ["--small", "--rounds", "2", "--threads", "1", "--folder", str(tmp_path), "--json", str(out)]
    done = subprocess.run([sys.executable, str(BENCH), *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["work"]
    assert len(found) == 9
    for name, row in found.items():
        assert f"| {name} | " in done.stdout
        assert row["bound"] and min(row["seconds"], row["bound_seconds"], row["share"]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["roofline.json"]
