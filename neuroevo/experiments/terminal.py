"""The progress of a run: a live line on a terminal, plain lines elsewhere. All of it goes to stderr."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from neuroevo.engine.cost import Budget
from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.observer import Observer
from neuroevo.errors import printable

QUIET = 1.0  # seconds between plain lines that bring no validation


def describe(step: Step, rate: float) -> str:
    """Return a generation in a line: best and mean fitness, validation, samples per second."""

    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    r = step.record
    line = f"best {figure(r['fitness_best'])}  mean {figure(r['fitness_mean'])}  validation {figure(r['validation'])}"
    if r.get("feasible") is not None:
        line += f"  feasible {r['feasible']:.0%}"
    invalid = f"  {r['invalid']} invalid" if r["invalid"] else ""
    return f"{line}  {rate:,.0f} samples/s{invalid}"


class Terminal(Observer):
    """Tells a person how a run goes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr)
        self.live: Progress | None = None
        self.task: tuple[str, TaskID] | None = None
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

    def candidates(self, done: int, total: int) -> None:
        """Show how far the validation of candidates is."""
        self._show("candidates", f"{done} of {total} candidates validated", done, total, whole=done == total)

    def begin(self, step: Step, rules: Rules) -> None:
        """Remember the budget, of which progress is a share."""
        self.budget = rules.budget

    def generation(self, step: Step) -> None:
        """Show a generation."""
        now, samples = step.seconds, step.cost.forward
        rate = (
            (samples - self.before[1]) / max(now - self.before[0], 1e-9)
            if self.before and self.before[1] <= samples
            else 0.0
        )
        self.before = now, samples
        total = self.budget.generations
        text = f"generation {step.generation}{f' of {total}' if total else ''}  {describe(step, rate)}"
        progress = self.budget.progress(step.generation, step.cost)
        whole = step.record["validation"] is not None
        if whole:
            self.validated = f"{step.record['validation']:.4f}"
        elif self.live is not None and self.validated:
            text = text.replace("validation -", f"validation {self.validated}")
        self._show("generations", text, progress * 1000, 1000 if progress else None, whole)

    def several(self, shares: Mapping[str, float]) -> None:
        """Show how far each of some runs beside each other is, from 0 to 1; who isn't among them is done."""
        if self.live is None:
            return
        for name in self.beside.keys() - shares.keys():
            self.live.remove_task(self.beside.pop(name))
        for name, share in shares.items():
            if name not in self.beside:
                self.beside[name] = self.live.add_task(name, total=1)
            self.live.update(self.beside[name], completed=share)

    def _show(self, what: str, text: str, done: float, total: float | None, whole: bool) -> None:
        if self.live is None:  # no terminal: a line now and then
            if whole or time.monotonic() - self.last > QUIET:
                self.last = time.monotonic()
                self.note(f"{what}: {text}" if what == "features" else text)
            return
        if self.task is None or self.task[0] != what:
            self.task = what, self.live.add_task(text, total=total)
        self.live.update(self.task[1], description=text, completed=done, total=total)


@contextmanager
def show() -> Iterator[Terminal]:
    """Show a run while it is entered."""
    terminal = Terminal()
    if not terminal.console.is_terminal:
        yield terminal
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), TimeRemainingColumn())
    with Progress(*columns, console=terminal.console) as terminal.live:
        yield terminal
