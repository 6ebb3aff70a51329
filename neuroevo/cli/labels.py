"""What a run's champion says of files, as lines of a table or as a file of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from neuroevo.api import loading, predictions
from neuroevo.api.predictions import Group, Prediction
from neuroevo.cli.columns import GAP, cut, pad, span
from neuroevo.cli.results import writable
from neuroevo.config import at
from neuroevo.engine.observer import Observer
from neuroevo.errors import RunError, printable
from neuroevo.experiments.interruption import Interruption
from neuroevo.storage import tables

PATH, TOP, OUT = "PATH", "--top", "--out"  # what errors name
SHARE = 6  # columns of a probability
NAME, LABEL = 24, 12  # columns that a file's name, and a label, keep where others are to be had


class Layout(NamedTuple):
    """The columns of the table."""

    name: int
    label: int
    together: bool  # whether all labels of a sample are in one line, or each in a line of its own

    def rows(self, name: str, labels: Sequence[str], shares: Sequence[str]) -> Iterator[str]:
        """Yield the lines of a sample."""
        cells = [
            f"{pad(cut(label, self.label), self.label)}{GAP}{share:<{SHARE}}"
            for label, share in zip(labels, shares, strict=True)
        ]
        name = pad(cut(name, self.name), self.name)
        if self.together:
            yield GAP.join([name, *cells]).rstrip()
            return
        for i, cell in enumerate(cells):
            yield f"{name if i == 0 else ' ' * self.name}{GAP}{cell}".rstrip()

    def header(self, top: int) -> Iterator[str]:
        """Yield the line above all."""
        nth = ["label", *(f"{i}." for i in range(2, top + 1))][: top if self.together else 1]
        return self.rows("file", nth, ["prob."] * len(nth))


class Outcome(NamedTuple):
    """How many samples have a label."""

    done: int
    total: int
    out: str | None

    def summary(self) -> list[str]:
        """Return what is to be said of a file that was written, in a line."""
        return [] if self.out is None else [f"{self.out}: {self.done:,} of {self.total:,} labelled"]

    def check(self) -> None:
        """See that all have one; RunError where some couldn't be read."""
        bad = self.total - self.done
        if bad:
            raise RunError(f"{bad:,} of {self.total:,} can't be read, and {'has' if bad == 1 else 'have'} no label")


def layout(names: int, labels: int, top: int, room: int | None) -> Layout:
    """Return the columns for names and labels of so many at most, where there is so much room."""
    names, labels = max(names, len("file")), max(labels, len("label"))
    beside = len(GAP) + SHARE + len(GAP)  # of each label
    left = names if room is None else room - top * (labels + beside)
    if left >= min(names, NAME):
        return Layout(min(names, left), labels, True)
    assert room is not None
    labels = max(min(labels, room - beside - min(names, NAME)), min(labels, LABEL))
    return Layout(max(1, min(names, room - beside - labels)), labels, top == 1)


def name_of(file: str, row: int | None) -> str:
    """Return what a sample is called in the table."""
    return printable(file if row is None else f"{file}[{row}]")


def widest(groups: Sequence[Group]) -> int:
    """Return how many columns the longest name of a sample takes."""
    found = 0
    for group in groups:
        if isinstance(group.samples, list):
            found = max(found, *(span(printable(file)) for file in group.samples))
        else:
            found = max(found, span(name_of(*group.place(len(group.samples) - 1))))
    return found


def predict(
    run_dir: str,
    paths: Sequence[str],
    *,
    top: int,
    out: str | None,
    observer: Observer,
    progress: Callable[[int, int], object] | None,
    room: int | None,
    say: Callable[[str], object],
    signals: Interruption,
) -> Outcome:
    """Say what a run's champion says of samples, line by line of a table, or write it to `out`.

    `observer` is told of files that can't be read, which are left out.
    """
    path = None if out is None else writable(out, run_dir, OUT)
    predictions.check_there(paths, PATH)
    with signals:
        with at(model=run_dir):
            champion = loading.load(run_dir, observer=observer, signals=signals)
        predictions.check_top(top, champion.classes, TOP)
        groups = predictions.find(paths, champion.transform, champion.inputs, option=PATH, note=observer.note)
        total, done = predictions.count(groups), 0
        found = predictions.label(
            champion.model,
            champion.transform,
            champion.classes,
            groups,
            top=top,
            skip=observer.note,
            signals=signals,
        )
        rows = any(group.file is not None for group in groups)
        header = ["file", *(["row"] if rows else []), "label", "probability"]
        header += [f"{name}_{i}" for i in range(2, top + 1) for name in ("label", "probability")]
        shape = layout(widest(groups), max(span(printable(name)) for name in champion.classes), top, room)
        with nullcontext() if path is None else tables.write(path, header) as add:
            for said in found:
                if add is not None:
                    pairs = zip(said.classes, said.probabilities, strict=True)
                    add([said.file, *([said.row] if rows else []), *(cell for pair in pairs for cell in pair)])
                else:
                    for line in [*(shape.header(top) if not done else ()), *in_columns(said, shape)]:
                        say(line)
                done += 1
                if progress is not None and done % predictions.AT_ONCE == 0:
                    progress(done, total)
    return Outcome(done, total, out)


def in_columns(said: Prediction, shape: Layout) -> Iterator[str]:
    """Yield the lines of a sample."""
    labels = [printable(name) for name in said.classes]
    return shape.rows(name_of(said.file, said.row), labels, [f"{share:.4f}" for share in said.probabilities])
