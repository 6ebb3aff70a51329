import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from conftest import Quiet
from test_terminal import RULES, step

from neuroevo.bench import workers
from neuroevo.bench.workers import Failure
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError, Interrupted, RunError
from neuroevo.experiments.signals import Signals


def numbered(item: int, observer: Observer, signals: Signals) -> None:
    """Fail in one way or another, but for even numbers."""
    if item == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 1:
        raise InputError("one")
    if item == 3:
        raise RunError("three")
    if item == 5:
        raise OSError(28, "No space left")


def absorbed(folder: str, observer: Observer, signals: Signals) -> None:
    """Take a signal as a run does in its last generation: it ends as if none had come."""
    with Signals():
        (Path(folder) / str(time.monotonic_ns())).touch()
        time.sleep(0.7)


def halfway(item: int, observer: Observer, signals: Signals) -> None:
    """Be at half of a budget, for so long that it is seen."""
    observer.note("not heard")
    observer.begin(step(0, None), RULES)
    for generation in (3, 4):  # the second comes too soon
        observer.generation(step(generation, None))
    time.sleep(1.0)


EXPECTED = {0: None, 1: Failure(True, "one"), 2: None, 3: Failure(False, "three"), 4: None,
            5: Failure(False, "[Errno 28] No space left"), 6: None}  # fmt: skip


def crew() -> list[str]:
    """Return the command lines of this process's workers."""
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    return [line for line in lines if "spawn_main" in line]


def test_what_fails_keeps_nothing_else_from_being_done() -> None:
    assert dict(workers.run_in_turn(numbered, range(7), Quiet(), Signals())) == EXPECTED


def test_nor_does_it_side_by_side_even_if_a_process_is_killed() -> None:
    found = dict(workers.run_in_parallel(numbered, [7, *range(7)], 2, Quiet(), Signals()))
    assert found == {7: Failure(False, "its process ended with status -9"), **EXPECTED}
    assert not crew()


def test_it_is_told_how_far_each_process_is() -> None:
    quiet = Quiet()
    assert dict(workers.run_in_parallel(halfway, [0, 1, 2], 2, quiet, Signals())) == {0: None, 1: None, 2: None}
    assert {pair for shares in quiet.shares for pair in shares.items()} == {(i, s) for i in "012" for s in (0.0, 0.5)}
    assert all(len(shares) <= 2 for shares in quiet.shares)
    assert quiet.shares[-1] == {}
    assert quiet.lines[-3:] == ["0: begun", "1: begun", "2: begun"]


def test_a_run_to_which_nobody_listens_goes_on() -> None:
    mine, theirs = multiprocessing.Pipe()
    mine.close()
    told = workers.Telling(theirs)
    told.begin(step(0, None), RULES)
    told.generation(step(3, None))


def test_nothing_to_do_starts_no_process() -> None:
    assert list(workers.run_in_parallel(numbered, [], 4, Quiet(), Signals())) == []


@pytest.mark.parametrize(("jobs", "number"), [(1, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_signal_that_comes_in_the_last_moment_of_what_is_at_work_ends_it_all(
    tmp_path: Path, jobs: int, number: signal.Signals
) -> None:
    items = [str(tmp_path)] * 20

    def begin() -> None:
        while len(list(tmp_path.iterdir())) < jobs:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=begin, daemon=True).start()
    make: Callable[[], workers.Done[str]] = lambda: (  # noqa: E731
        workers.run_in_turn(absorbed, items, Quiet(), Signals())
        if jobs == 1
        else workers.run_in_parallel(absorbed, items, jobs, Quiet(), Signals())
    )
    with pytest.raises(Interrupted) as raised, closing(make()) as todo:
        for _ in todo:
            pass
    assert raised.value.status == 128 + number
    assert len(list(tmp_path.iterdir())) <= 2 * jobs
    assert not crew()


def test_a_signal_is_handed_on_to_whoever_waits_for_it_outside() -> None:
    with Signals() as outer:
        with Signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner.status == outer.status == 128 + signal.SIGTERM
        with pytest.raises(Interrupted):
            outer.check()


def test_signals_that_are_handed_in_are_listened_to_until_the_last_who_entered_them_leaves() -> None:
    before, signals = signal.getsignal(signal.SIGTERM), Signals()
    with signals:
        with signals:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert (signals.status, signals.name) == (128 + signal.SIGTERM, "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before
