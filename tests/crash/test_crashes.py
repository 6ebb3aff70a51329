"""The campaigns of this folder in a short form; each script has the long one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHIM = pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="shim.c is for Linux, by gcc")


def campaign(name: str, *words: str) -> str:
    """Run a script, and return what it printed at its end; it must find nothing wrong."""
    command = [sys.executable, str(Path(__file__).with_name(name)), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.long
def test_killed_at_7_moments_commands_go_on_to_the_same_bytes() -> None:
    # Not a tracked run: its tracker is waited for so long and no longer, and how far it is depends on the machine.
    only = "run,resume,features,export,API,islands,folds,predict"
    assert campaign("kills.py", "7", "0", "--only", only).endswith("0 wrong")


@pytest.mark.long
@SHIM
def test_of_8_faults_beneath_commands_none_loses_anything() -> None:
    assert campaign("faults.py", "8", "0", "--only", "run,export,API,predict").endswith("0 wrong")


@pytest.mark.long
@SHIM
def test_after_6_cuts_of_the_power_runs_go_on_to_the_same_bytes() -> None:
    assert campaign("power.py", "6", "0", "--only", "run,API,resume") == "6 cuts of the power, 0 wrong"


@pytest.mark.long
def test_commands_beside_each_other_do_each_other_no_harm() -> None:
    assert campaign("together.py", "1") == "1 rounds, 0 wrong"


@pytest.mark.long
def test_a_run_of_2000_generations_stays_small_and_begins_again_at_once() -> None:
    assert campaign("long_run.py", "2000") == "all as it should be"
