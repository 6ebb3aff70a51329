"""What `bench/shares.py` and `bench/generation.py` say of a run's time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

BENCH = Path(__file__).parents[2] / "bench"


def bench(*words: str) -> str:
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, BENCH / words[0], *words[1:]], capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_shares_are_of_every_part_of_a_run_and_no_more_than_all(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "data: {name: digits, image_size: 8}\nbackbone: {name: none, weights: none}\nfeatures: {components: null}\n"
        "algorithm: {population: 8}\nfitness: {samples: 64}\nbudget: {generations: 20}\n"
    )
    lines = [line.split() for line in bench("shares.py", str(config), "--rounds", "1").splitlines()]
    seconds = {line[0]: float(line[1]) for line in lines if line[0] in ("proposing", "scoring", "statistics", "all")}
    assert len(seconds) == 4
    assert min(seconds.values()) > 0
    assert seconds["proposing"] + seconds["scoring"] + seconds["statistics"] < seconds["all"]
    assert lines[-1][:-1] == ["statistics,", "history", "and", "checkpoints,", "terminal:"]


def test_a_generations_parts_are_timed_against_scoring() -> None:
    lines = bench("generation.py", "--rounds", "1").splitlines()[1:]
    found = {line.split("  ")[0].strip(): line for line in lines}
    assert {"ask", "score", "statistics", "tell", "candidates"} <= set(found)
    assert found["score"].endswith("1.000 of scoring")
