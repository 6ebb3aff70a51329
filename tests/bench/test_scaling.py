import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

BENCH = Path(__file__).parents[2] / "bench" / "scaling.py"


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, str(BENCH), *words], capture_output=True, text=True)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are Linux's")
def test_the_bench_of_growth_measures_each_size_and_prints_slopes(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    done = run("--small", "--axes", "genes", "--rounds", "1", "--threads", "1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["axes"]["genes"]
    assert [row["size"] for row in rows] == [1000, 10_000]
    for row in rows:
        assert 0 < row["proposing"] + row["scoring"] < row["seconds"]
        assert row["bytes"] > 0
    assert "| slope | " in done.stdout


def test_the_bench_of_growth_refuses_an_axis_that_it_does_not_have() -> None:
    done = run("--axes", "genes,time")
    assert done.returncode == 2
    assert "--axes time: none of population, samples, genes" in done.stderr
