"""Who watches a search: an observer is told how it goes, and changes nothing of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it brings torch along, which a terminal doesn't wait for
    from neuroevo.engine.loop import Rules, Step


class Observer:
    """Who is told how a search goes; a subclass overrides what it wants to hear."""

    def note(self, line: str) -> None:
        """Hear a line for the user."""

    def progress(self, done: int, total: int) -> None:
        """Hear how many samples of all have gone through the frozen prefix."""

    def begin(self, step: "Step", rules: "Rules") -> None:
        """Hear that a search begins, or goes on after a step."""

    def generation(self, step: "Step") -> None:
        """Hear of a generation."""

    def end(self, step: "Step") -> None:
        """Hear that a search ends with a step, by a limit or because it is told to stop."""

    def close(self) -> None:
        """Let go of what is held, however the search ends."""

    def candidates(self, done: int, total: int) -> None:
        """Hear how many candidates of all have been validated, for what is taken away of a run."""

    def several(self, shares: Mapping[str, float]) -> None:
        """Hear how far each of some searches beside each other is, from 0 to 1."""


class EachGeneration(Observer):
    """Calls a function with the step of each generation."""

    def __init__(self, function: Callable[["Step"], object]) -> None:
        self.function = function

    def generation(self, step: "Step") -> None:
        """Pass a step on."""
        self.function(step)


class Observers(Observer):
    """Several observers as one, told in their order; plain functions are called with each generation's step."""

    def __init__(self, several: Sequence[Observer | Callable[["Step"], object]]) -> None:
        self.each = [one if isinstance(one, Observer) else EachGeneration(one) for one in several]

    def note(self, line: str) -> None:
        """Tell all a line."""
        for one in self.each:
            one.note(line)

    def progress(self, done: int, total: int) -> None:
        """Tell all how far the frozen prefix is."""
        for one in self.each:
            one.progress(done, total)

    def candidates(self, done: int, total: int) -> None:
        """Tell all how many candidates have been validated."""
        for one in self.each:
            one.candidates(done, total)

    def begin(self, step: "Step", rules: "Rules") -> None:
        """Tell all that a search begins."""
        for one in self.each:
            one.begin(step, rules)

    def generation(self, step: "Step") -> None:
        """Tell all of a generation."""
        for one in self.each:
            one.generation(step)

    def end(self, step: "Step") -> None:
        """Tell all that a search ends."""
        for one in self.each:
            one.end(step)

    def close(self) -> None:
        """Let all go."""
        for one in self.each:
            one.close()


def watch(
    generations: Iterable["Step"],
    start: "Step",
    rules: "Rules",
    observer: Observer,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> "Step":
    """Take a search from `start` to its end, or until told to `stop` after a generation; return its last step.

    A generation that fails, or is interrupted, ends it after the one before; then its error is raised.
    """
    step = start
    try:
        observer.begin(start, rules)
        for step in generations:
            halted = step.stop is None and stop()  # what observers take is no generation's
            observer.generation(step)
            if halted:
                break
        observer.end(step)
    except BaseException:
        with suppress(Exception):  # what failed first is raised
            observer.end(step)
        raise
    finally:
        observer.close()
    return step
