"""Work done one after another, or side by side in processes; what fails keeps nothing else from being done."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

import torch

from neuroevo.engine.cost import Budget
from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError, Interrupted, RunError
from neuroevo.experiments.interruption import Interruption
from neuroevo.experiments.signals import Signals, withhold

T = TypeVar("T")
Work = Callable[[Any, Observer, Interruption], None]  # a function of a module, of something that can be pickled


class Failure(NamedTuple):
    """Why something wasn't done."""

    of_input: bool  # the user's to mend
    line: str


Done = Generator[tuple[T, Failure | None], None, None]  # each thing, with why it failed


class Telling(Observer):
    """Tells another process how far a run is, once a second; run.log has all else."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.last, self.budget = pipe, 0.0, Budget()

    def begin(self, step: Step, rules: Rules) -> None:
        """Remember the budget, of which progress is a share."""
        self.budget = rules.budget

    def generation(self, step: Step) -> None:
        """Tell the share of the budget that is used."""
        if time.monotonic() - self.last > 1:
            self.last = time.monotonic()
            with suppress(OSError):  # nobody listens any more: a signal is on its way, and a checkpoint comes first
                self.pipe.send(self.budget.progress(step.generation, step.cost))


def attempt(work: Work, item: Any, observer: Observer, signals: Interruption) -> Failure | None:
    """Do one thing; return why it failed, if it did."""
    try:
        work(item, observer, signals)
    except InputError as error:
        return Failure(True, str(error))
    except (RunError, OSError) as error:
        return Failure(False, str(error))
    return None


def run_in_turn(work: Work, items: Iterable[T], observer: Observer, signals: Interruption) -> Done[T]:
    """Do things one after another in this process, and yield each that is done or has failed.

    A signal ends it after what is at work; Interrupted.
    """
    with signals:
        for item in items:
            observer.note(f"{item}: begun")
            yield item, attempt(work, item, observer, signals)
            signals.check()


def run_in_parallel(work: Work, items: Iterable[T], jobs: int, observer: Observer, signals: Interruption) -> Done[T]:
    """Do things in processes, so many at a time, and yield each that is done or has failed.

    Unless OMP_NUM_THREADS says otherwise, the processes share the threads of this one. A signal is passed on to all,
    and they are waited for; Interrupted. A process that is killed fails what it was at.
    """
    waiting = list(items)
    if not waiting:
        return
    jobs = min(jobs, len(waiting))
    threads = max(1, torch.get_num_threads() // jobs)
    if "OMP_NUM_THREADS" not in os.environ:
        observer.note(f"{jobs} at a time, {threads} threads each")
    crew: dict[Connection, BaseProcess] = {}
    at_work: dict[Connection, T] = {}
    shares: dict[Connection, float] = {}

    def hand_over(pipe: Connection) -> None:
        at_work[pipe], shares[pipe] = waiting.pop(0), 0.0
        observer.note(f"{at_work[pipe]}: begun")
        pipe.send(at_work[pipe])

    with signals:
        try:
            for _ in range(jobs):
                hand_over(start_worker(crew, work, threads))
            while at_work:
                signals.check()
                observer.several({str(item): shares[pipe] for pipe, item in at_work.items()})
                for ready in wait(list(at_work), timeout=0.5):
                    assert isinstance(ready, Connection)
                    pipe = ready
                    try:
                        told: float | Failure | None = ready.recv()
                        if isinstance(told, float):
                            shares[ready] = told
                            continue
                    except (EOFError, OSError):
                        signals.check()
                        crew[ready].join()
                        told = Failure(False, f"its process ended with status {crew[ready].exitcode}")
                        if waiting:
                            pipe = start_worker(crew, work, threads)
                    item = at_work.pop(ready)
                    if waiting:
                        hand_over(pipe)
                    yield item, told
        finally:
            observer.several({})
            for pipe in crew:  # who waits for more goes home
                pipe.close()
            for process in crew.values():  # each writes its checkpoint
                process.terminate()
            for process in crew.values():
                process.join()


def start_worker(crew: dict[Connection, BaseProcess], work: Work, threads: int) -> Connection:
    """Start a process, and return the pipe to it."""
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    process = spawn.Process(target=worker, args=(work, theirs, threads))
    with withhold():  # a signal is for this process, which passes it on
        process.start()
    theirs.close()
    crew[mine] = process
    return mine


def worker(work: Work, pipe: Connection, threads: int) -> None:
    """Do what comes through the pipe, as a process's own program, and say of each why it failed, or None."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:  # who is killed leaves no process behind, and a run that is killed can be resumed
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    with Signals() as signals:
        try:
            while signals.status is None:
                pipe.send(attempt(work, pipe.recv(), Telling(pipe), signals))
        except (EOFError, BrokenPipeError, ConnectionResetError):  # nothing more to do, or nobody to tell
            pass
        except Interrupted as error:
            sys.exit(error.status)
    sys.exit(signals.status or 0)
