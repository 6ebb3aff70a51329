import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.long

BENCH = Path(__file__).parents[2] / "bench" / "peers.py"
WAYS = {
    "a": {"torch.mm float32", "torch.mm bfloat16", "neuroevo float32", "neuroevo best", "evotorch", "evotorch loader",
          "EvoX", "PyGAD", "vmap", "loop"},
    "c": {"neuroevo float32", "neuroevo best", "evotorch", "evotorch loader", "proposing", "scoring"},
}  # fmt: skip
PEERS = {"EvoX": "evox", "PyGAD": "pygad"}


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, str(BENCH), *words], capture_output=True, text=True)


def test_the_comparison_with_peers_writes_a_row_for_each_way_and_one_for_a_peer_that_is_not_installed(
    tmp_path: Path,
) -> None:
    out = tmp_path / "peers.json"
    done = run("--small", "--work", "a,c", "--rounds", "1", "--threads", "1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert {letter: set(rows) for letter, rows in found["work"].items()} == WAYS
    assert found["threads"] == 1
    for letter, rows in found["work"].items():
        for way, row in rows.items():
            if way in PEERS and find_spec(PEERS[way]) is None:
                assert row == {"missing": f"pip install {PEERS[way]}"}
            else:
                measured = {"seconds"} if way in ("proposing", "scoring") else {"seconds", "gflops"}
                assert set(row) == measured, (letter, way)
                assert all(value > 0 for value in row.values())
    assert all(difference < 0.01 for work in found["agreement"].values() for difference in work.values())


def test_the_comparison_with_peers_refuses_a_work_that_it_does_not_have() -> None:
    done = run("--work", "a,z")
    assert done.returncode == 2
    assert "--work z: none of a, b, c" in done.stderr


def test_the_other_works_of_the_comparison_with_peers_agree_on_what_they_compute(tmp_path: Path) -> None:
    out = tmp_path / "peers.json"
    done = run("--small", "--work", "b,d,e", "--rounds", "1", "--threads", "1", "--json", str(out))
    assert done.returncode == 0, done.stderr  # a difference beyond rounding ends it
    found = json.loads(out.read_text())
    assert {letter: len(compared) for letter, compared in found["agreement"].items() if letter != "e"} == {
        "b": 2,
        "d": 4,
    }
    assert {"neuroevo float32", "loop", "neuroevo float32, MLP", "loop, MLP"} < set(found["work"]["d"])
    assert {"neuroevo float32", "EvoX", "vmap", "loop"} == set(found["work"]["e"])


def test_the_comparison_with_peers_ends_where_their_results_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH.parent))
    works = importlib.import_module("peer_works")
    assert works.agree("hits", torch.tensor([0.5]), torch.tensor([0.5001]), 1e-3)["hits"] == pytest.approx(
        1e-4, rel=0.1
    )
    for other in (0.6, float("nan")):
        with pytest.raises(RuntimeError, match="hits: results differ"):
            works.agree("hits", torch.tensor([0.5]), torch.tensor([other]), 1e-3)
