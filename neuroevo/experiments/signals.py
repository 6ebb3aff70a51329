"""The program's signals and command: SIGINT and SIGTERM leave a status behind, and runs end at the next safe place."""

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

from neuroevo.errors import Interrupted
from neuroevo.experiments.interruption import Interruption

PATIENCE = 3.0  # seconds that a generation has left when a signal comes, before it is dropped


class Signals(Interruption):
    """While it is entered, SIGINT and SIGTERM only leave a status behind; a second one ends the process at once.

    `say` is told of the first one at once, by a thread: Python's own handlers wait for the operation that is at work.

    Within `prompt` or `patient` they raise Interrupted, at once or after a while: for what computes and writes nothing.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.status, self.command, self.say = None, command(), say
        self.prompted = self.awaited = False
        self.depth = 0  # how often it is entered: who is handed one enters it again

    def __enter__(self) -> Self:
        self.depth += 1
        if self.depth > 1:
            return self
        self.before = {s: signal.signal(s, self._arrive) for s in (signal.SIGINT, signal.SIGTERM)}
        self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._overdue)
        self.listening = contextlib.ExitStack()
        if self.say is not None:
            self.listening.enter_context(listen(self.say))
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if self.depth:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.listening.close()
        for number, handler in self.before.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, Signals):  # what came here is for whoever waits for it, too
                outer.status = outer.status or self.status

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if self.status is not None:
            os._exit(128 + number)
        self.status = 128 + number
        if self.prompted:
            raise Interrupted(self.status)
        if self.awaited:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _overdue(self, number: int, frame: FrameType | None) -> None:
        if self.awaited:
            self.check()

    @property
    def name(self) -> str:
        """The name of the signal that came."""
        return signal.Signals((self.status or 128) - 128).name

    @contextmanager
    def prompt(self) -> Iterator[None]:
        """Raise Interrupted as soon as a signal comes, while it is entered."""
        self.prompted = True
        try:
            self.check()
            yield
        finally:
            self.prompted = False

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Raise Interrupted where what is done isn't done PATIENCE seconds after a signal, while it is entered."""
        self.awaited = True
        if self.status is not None:  # it came before
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            yield
        finally:
            self.awaited = False


@contextmanager
def listen(say: Callable[[str], None]) -> Iterator[None]:
    """Tell `say` of the first SIGINT or SIGTERM as soon as it comes, whatever the main thread is at, while entered."""
    out, into = os.pipe()
    os.set_blocking(into, False)
    before = signal.set_wakeup_fd(into, warn_on_full_buffer=False)

    def wait() -> None:
        while arrived := os.read(out, 1):
            if arrived[0] in (signal.SIGINT, signal.SIGTERM):
                name = signal.Signals(arrived[0]).name
                say(f"{name}: ends as soon as what is at work is on disk; a second one ends it at once")
                return

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(into)
        thread.join()
        os.close(out)


@contextmanager
def withhold() -> Iterator[None]:
    """Keep SIGINT from processes that are started meanwhile; Ctrl-C on a terminal goes to all processes of a group."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def restore_interrupt() -> None:
    """Let SIGINT raise KeyboardInterrupt; a shell's background job begins with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def command() -> str:
    """Return the command of this process, quoted for a shell."""
    program = Path(sys.argv[0])
    name = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*name, *sys.argv[1:]])
