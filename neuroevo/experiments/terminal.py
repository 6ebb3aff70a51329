"""The progress of a run: a live line on a terminal, plain lines elsewhere. All of it goes to stderr.

It is there before anything heavy is imported, so that a person sees at once that something is going on.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from neuroevo.engine.cost import Budget
from neuroevo.engine.observer import Observer
from neuroevo.errors import printable

if TYPE_CHECKING:  # they bring torch along
    from neuroevo.engine.loop import Rules, Step

QUIET = 1.0  # seconds between plain lines that bring no validation
BAR, SHORT_BAR = 20, 8  # characters
WIDE = 70  # columns of a terminal, from which the bar is long
ROOMY = 70  # characters for the text of a live line, from which names aren't shortened
BESIDE = len("s  0:00:00 ")  # what else is in a live line: spinner, time left, spaces


def figure(value: float | None) -> str:
    """Return a score as text, a dash for none."""
    return "-" if value is None else f"{value:.4f}"


def describe(step: "Step", rate: float) -> str:
    """Return a generation in a line: best and mean fitness, validation, samples per second."""
    r = step.record
    line = f"best {figure(r['fitness_best'])}  mean {figure(r['fitness_mean'])}  validation {figure(r['validation'])}"
    if r.get("feasible") is not None:
        line += f"  feasible {r['feasible']:.0%}"
    invalid = f"  {r['invalid']} invalid" if r["invalid"] else ""
    return f"{line}  {rate:,.0f} samples/s{invalid}"


def fit(step: "Step", total: int | None, validated: str, rate: float, room: int) -> str:
    """Return a generation in at most so many characters: what matters most first, the rest as there is room."""
    r, roomy = step.record, room >= ROOMY
    if roomy:
        line = f"generation {step.generation}{f' of {total}' if total else ''}"
    else:
        line = f"gen {step.generation}{f'/{total}' if total else ''}"
    if total and len(line) + len(f"  validation {validated or '-'}") > room:  # the bar says as much
        line = f"gen {step.generation}"
    feasible = "" if r.get("feasible") is None else f"feasible {r['feasible']:.0%}"
    parts = [f"validation {validated or '-'}", f"{r['invalid']} invalid" if r["invalid"] else "", feasible]
    parts += [f"best {figure(r['fitness_best'])}", f"mean {figure(r['fitness_mean'])}", f"{rate:,.0f} samples/s"]
    for part in filter(None, parts):
        if len(line) + 2 + len(part) <= room:
            line += f"  {part}"
    return line


class Terminal(Observer):
    """Tells a person how a run goes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr)
        self.live: Progress | None = None
        self.column = Column(no_wrap=True, overflow="ellipsis")  # of the text
        self.bar = BarColumn(bar_width=BAR)
        self.task: tuple[str, TaskID] | None = None
        self.waiting: TaskID | None = None  # for what has no measure
        self.beside: dict[str, TaskID] = {}
        self.last = 0.0
        self.validated = ""  # the last validation, which a live line goes on showing
        self.before: tuple[float, int] | None = None
        self.budget = Budget()

    def note(self, line: str) -> None:
        """Say something once."""
        self.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def progress(self, done: int, total: int) -> None:
        """Show how far the backbone's pass is."""
        self._show("features", f"{done} of {total} images", done, total, whole=done == total)

    def predictions(self, done: int, total: int) -> None:
        """Show how many of samples have a label."""
        if self.live is None and not self.last:
            self.last = time.monotonic()  # who is done in a moment needs no line about it
        self._show("predictions", f"{done:,} of {total:,} labelled", done, total, whole=False)

    def candidates(self, done: int, total: int) -> None:
        """Show how far the validation of candidates is."""
        self._show("candidates", f"{done} of {total} candidates validated", done, total, whole=done == total)

    def begin(self, step: "Step", rules: "Rules") -> None:
        """Remember the budget, of which progress is a share; a search before this one is no longer shown."""
        self.budget, self.validated, self.before = rules.budget, "", None
        if self.live is not None and self.task is not None:
            self.live.remove_task(self.task[1])
            self.task = None
            self.wait("the first generation")

    def generation(self, step: "Step") -> None:
        """Show a generation."""
        now, samples = step.seconds, step.cost.forward
        rate = (
            (samples - self.before[1]) / max(now - self.before[0], 1e-9)
            if self.before and self.before[1] <= samples
            else 0.0
        )
        self.before = now, samples
        total = self.budget.generations
        progress = self.budget.progress(step.generation, step.cost)
        whole = step.record["validation"] is not None
        if whole:
            self.validated = figure(step.record["validation"])
        if self.live is None:
            text = f"generation {step.generation}{f' of {total}' if total else ''}  {describe(step, rate)}"
        else:
            text = fit(step, total, self.validated, rate, self.room())
        self._show("generations", text, progress * 1000, 1000 if progress else None, whole)

    def end(self, step: "Step") -> None:
        """Show that the champion is scored and written, which takes a while."""
        self.wait("the champion: test, files")

    def several(self, shares: Mapping[str, float]) -> None:
        """Show how far each of some runs beside each other is, from 0 to 1; who isn't among them is done."""
        if self.live is None:
            return
        for name in self.beside.keys() - shares.keys():
            self.live.remove_task(self.beside.pop(name))
        if shares:
            self.room()
            self.wait_no_more()
        elif self.task is None:
            self.wait("at work")
        for name, share in shares.items():
            if name not in self.beside:
                self.beside[name] = self.live.add_task(name, total=1)
            self.live.update(self.beside[name], completed=share)

    def room(self) -> int:
        """Return the characters that a live line's text has, so that bar and time left are never pushed out."""
        width = self.console.width
        self.bar.bar_width = BAR if width >= WIDE else SHORT_BAR
        room = max(1, width - BESIDE - self.bar.bar_width - 1)
        self.column.max_width = room
        return room

    def wait(self, what: str) -> None:
        """Show that something is done that has no measure."""
        if self.live is None:
            return
        self.room()
        if self.waiting is None:
            self.waiting = self.live.add_task(what, total=None)
        self.live.update(self.waiting, description=what)

    def wait_no_more(self) -> None:
        """Take that off the screen."""
        if self.live is not None and self.waiting is not None:
            self.live.remove_task(self.waiting)
            self.waiting = None

    def _show(self, what: str, text: str, done: float, total: float | None, whole: bool) -> None:
        if self.live is None:  # no terminal: a line now and then
            if whole or time.monotonic() - self.last > QUIET:
                self.last = time.monotonic()
                self.note(f"{what}: {text}" if what == "features" else text)
            return
        self.room()
        self.wait_no_more()
        if self.task is None or self.task[0] != what:
            self.task = what, self.live.add_task(text, total=total)
        self.live.update(self.task[1], description=text, completed=done, total=total)
        if done == total:
            self.wait("getting ready to go on")


@contextmanager
def show(*, bar: bool = True) -> Iterator[Terminal]:
    """Show a run while it is entered; without a `bar` lines alone, as where there is no terminal."""
    terminal = Terminal()
    if not bar or not terminal.console.is_terminal:
        yield terminal
        return
    text = TextColumn("{task.description}", markup=False, table_column=terminal.column)
    columns = (SpinnerColumn(), text, terminal.bar, TimeRemainingColumn())
    with Progress(*columns, console=terminal.console) as terminal.live:
        terminal.wait("at work")
        try:
            yield terminal
        finally:
            terminal.wait_no_more()
