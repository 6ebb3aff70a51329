"""A line that tells a person how a search from Python goes: in a terminal, and in a notebook without a widget.

A terminal's is redrawn in its place, a notebook's is one output that is updated; elsewhere, as in a file, there is a
line now and then.
"""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.observer import Observer
from neuroevo.errors import printable
from neuroevo.experiments.terminal import BAR, SHORT_BAR, WIDE, figure, fit

OFTEN, SELDOM = 0.1, 10.0  # seconds between two drawings in place, and between two lines of a file
WIDTH = 100  # characters of a line, where nobody knows a terminal's


def progress(stream: TextIO | None = None) -> Observer:
    """Return an observer that shows how far a search is, for `evolve(observers=[progress()])`.

    It writes to `stream`, the standard error by default; in a notebook the cell has one output, which is updated.
    """
    show = in_notebook() if stream is None else None
    return Bar(stream or sys.stderr) if show is None else Bar(None, show)


def in_notebook() -> Callable[[str], None] | None:
    """Return what shows a text as the output of a notebook's cell, in place of the one before; None elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:  # a terminal's IPython has none
        return None
    display, handle = sys.modules["IPython"].display.display, None

    def show(text: str) -> None:
        nonlocal handle
        shown: Any = {"text/plain": text}
        if handle is None:
            handle = display(shown, raw=True, display_id=True)
        else:
            handle.update(shown, raw=True)

    return show


class Bar(Observer):
    """Shows how far a search is, and what it has found."""

    def __init__(self, stream: TextIO | None, show: Callable[[str], None] | None = None) -> None:
        self.stream, self.show = stream, show
        self.redraws = show is not None or (stream is not None and stream.isatty())
        self.rules: Rules | None = None
        self.before, self.rate = (0.0, 0), 0.0  # seconds and samples of the last generation, and samples a second
        self.validated = ""  # the last validation, which a line goes on showing
        self.drawn = 0.0 if self.redraws else time.monotonic()  # when
        self.lines: list[str] = []  # above the one that is redrawn, in a notebook
        self.open = ""  # the line that is redrawn

    def note(self, line: str) -> None:
        """Show a line for good."""
        self.keep(printable(line))

    def progress(self, done: int, total: int) -> None:
        """Show how many samples have gone through the frozen part."""
        self.draw(f"{drawing(done / max(1, total), BAR)} {done:,} of {total:,} samples read", last=done == total)

    def begin(self, step: Step, rules: Rules) -> None:
        """Remember the limits, of which progress is a share."""
        self.rules, self.before, self.validated = rules, (step.seconds, step.cost.forward), ""

    def generation(self, step: Step) -> None:
        """Show a generation."""
        if step.record["validation"] is not None:
            self.validated = figure(step.record["validation"])
        then, known = self.before
        self.before = step.seconds, step.cost.forward
        self.rate = (step.cost.forward - known) / max(step.seconds - then, 1e-9)
        share = self.share(step)
        left = f"  {clock((1 / share - 1) * step.seconds)} left" if 0 < share < 1 else ""
        self.draw(self.describe(step, share, left), last=step.stop is not None)

    def end(self, step: Step) -> None:
        """Show what a search came to."""
        if self.rules is not None and step.generation:
            how = f"stopped by {step.stop}" if step.stop else "left"
            self.keep(self.describe(step, 1.0, f"  {how}, {clock(step.seconds)}"))

    def close(self) -> None:
        """Leave the line as it is."""
        if self.open:
            self.keep(self.open)

    def describe(self, step: Step, share: float, after: str) -> str:
        """Return a generation as a line that fits: a bar of a share, what was found, and what comes after that."""
        assert self.rules is not None
        width = shutil.get_terminal_size((WIDTH, 24)).columns if self.show is None else WIDTH
        beside = f"{drawing(share, BAR if width >= WIDE else SHORT_BAR)} " if share else ""
        room = max(1, width - len(beside) - len(after) - 1)
        return f"{beside}{fit(step, self.rules.budget.generations, self.validated, self.rate, room)}{after}"

    def share(self, step: Step) -> float:
        """Return the share of its limits that a search has spent."""
        assert self.rules is not None
        budget, last = self.rules.budget, self.rules.ending
        if last is not None:
            return step.generation / last.generation
        spent = step.seconds / budget.seconds if budget.seconds else 0.0
        return min(1.0, max(spent, budget.progress(step.generation, step.cost)))

    def draw(self, line: str, *, last: bool) -> None:
        """Draw a line in place of the one before, unless that is too new."""
        now = time.monotonic()
        if not last and now - self.drawn < (OFTEN if self.redraws else SELDOM):
            return
        self.drawn = now
        if not self.redraws:
            self.write(f"{line}\n")
        elif self.show is None:
            self.write(f"\r\x1b[K{line}")
            self.open = line
        else:
            self.open = line
            self.show("\n".join([*self.lines, line]))

    def keep(self, line: str) -> None:
        """Leave a line for good, in place of the one that was drawn."""
        if self.show is not None:
            self.lines.append(line)
            self.show("\n".join(self.lines))
        else:
            self.write(f"\r\x1b[K{line}\n" if self.redraws else f"{line}\n")
        self.open = ""

    def write(self, text: str) -> None:
        """Write to the stream."""
        assert self.stream is not None
        self.stream.write(text)
        self.stream.flush()


def clock(seconds: float) -> str:
    """Return seconds as minutes and seconds, and hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def drawing(share: float, size: int) -> str:
    """Return a share from 0 to 1 as a bar of so many characters."""
    done = round(size * share)
    return f"[{'#' * done}{'.' * (size - done)}]"
