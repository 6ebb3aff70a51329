"""What ends a run at its next safe place. By itself nothing does: a program hands in its `Signals`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Self

from neuroevo.engine.loop import Step
from neuroevo.errors import Interrupted


class Interruption:
    """Asks a run to end, by a status; entered while there is something to end."""

    status: int | None = None  # the exit status, once a run is to end
    command: str = "python"  # of the program, for a run's log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def name(self) -> str:
        """What came."""
        return ""

    def prompt(self) -> AbstractContextManager[None]:
        """Raise Interrupted as soon as something comes, while it is entered."""
        return nullcontext()

    def patient(self) -> AbstractContextManager[None]:
        """Raise Interrupted where what is done isn't done some seconds after something came, while it is entered."""
        return nullcontext()

    def check(self) -> None:
        """Raise Interrupted if something came."""
        if self.status is not None:
            raise Interrupted(self.status)


NEVER = Interruption()


def punctual(run: Iterator[Step], signals: Interruption) -> Iterator[Step]:
    """Yield a run's steps; end without one that isn't there in time after a signal. A resume computes it."""
    with suppress(StopIteration, Interrupted):
        while True:
            with signals.patient():
                step = next(run)
            yield step
