"""Pictures of a search of hyperparameters: its path, each one against validation, all at once."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from neuroevo.report.figures import INK, RC, SCALE, SERIES, WIDE, WIDTH, Plot, log_ticks, settle, short, words

MANY = 10_000  # iterations that a line has a point for each of


class Axis(NamedTuple):
    """One hyperparameter of all trials."""

    name: str
    values: list[float]  # NaN where a trial has none
    log: bool
    labels: list[str]  # of choices, whose values are their places

    def shares(self) -> list[float]:
        """Return values as shares of what they span, of their logarithms on a log axis."""
        values = [math.log(v) if self.log and v > 0 else v for v in self.values]
        there = [v for v in values if v == v]
        low, high = min(there, default=0.0), max(there, default=1.0)
        return [(v - low) / (high - low) if high > low else 0.5 + 0 * v for v in values]

    def along(self, axes: Any, which: str) -> None:
        """Give x or y this axis's scale and ticks."""
        few = sorted({v for v in self.values if v == v})
        if self.log:
            getattr(axes, f"set_{which}scale")("log")
            form = FuncFormatter(lambda value, _: f"{value:.3g}")
            log_ticks(getattr(axes, f"{which}axis"), few[0], few[-1], form)
        if self.labels:
            getattr(axes, f"set_{which}ticks")(range(len(self.labels)), [short(label, 12) for label in self.labels])


class Trials(NamedTuple):
    """The trials of a search: its hyperparameters, and each trial's validation and iteration."""

    axes: list[Axis]
    validation: list[float]
    iterations: list[int]
    metric: str
    lower_is_better: bool

    @property
    def sign(self) -> int:
        """The factor of validation by which higher is better."""
        return -1 if self.lower_is_better else 1

    def order(self) -> list[int]:
        """Return the trials that came to a figure, the worst first: the best are drawn last, on top."""
        valid = [i for i, value in enumerate(self.validation) if math.isfinite(value)]
        return sorted(valid, key=lambda i: self.sign * self.validation[i])


class Colours(NamedTuple):
    """The colours of trials by their validation: they tell the better half apart, for the worst are of every kind."""

    cmap: ListedColormap
    vmin: float
    vmax: float
    beyond: str  # the end of the scale that the worse half lies beyond, "min" or "max"

    @classmethod
    def of(cls, given: Trials, order: list[int]) -> "Colours":
        """Return the colours of trials, in their `order`."""
        middle, best = given.validation[order[len(order) // 2]], given.validation[order[-1]]
        higher = not given.lower_is_better
        scale = ListedColormap(SCALE if higher else SCALE[::-1])
        return cls(scale, min(middle, best), max(middle, best), "min" if higher else "max")

    def scale(self) -> dict[str, Any]:
        """Return the scale as matplotlib takes it."""
        return {"cmap": self.cmap, "vmin": self.vmin, "vmax": self.vmax}


def trials(given: Trials) -> list[Plot]:
    """Draw a search's path, each hyperparameter against validation, and all as parallel coordinates."""
    axes, found, iterations, metric, _ = given
    order = given.order()
    if not order:
        return []
    colours = Colours.of(given, order)
    header = ["trial", "iteration", *(axis.name for axis in axes), metric]
    rows = [[i, iterations[i], *(axis.values[i] for axis in axes), found[i]] for i in range(len(found))]
    with matplotlib.rc_context(RC):
        plots = [
            _path(given, order, colours),
            _against(given, order),
            *([_parallel(given, order, colours)] if len(axes) > 1 else []),
        ]
        for plot in plots:
            settle(plot.figure)
    return [plot._replace(header=header, rows=rows) for plot in plots]


def _path(given: Trials, order: list[int], colours: Colours) -> Plot:
    axes, found, iterations = given.axes, given.validation, given.iterations
    known = [found[i] for i in order]
    # The best trial of all up to each iteration; the first may have none that came to a figure.
    until: Sequence[int] = range(min(iterations[i] for i in order), max(iterations) + 1)
    if len(until) > MANY:  # of which nearly all have no trial
        until = sorted({iterations[i] for i in order})
    best = [max((i for i in order if iterations[i] <= last), key=lambda i: given.sign * found[i]) for last in until]
    figure = Figure(figsize=(WIDTH, 1 + 1.6 * len(axes)), layout="constrained")
    for axis, along in zip(axes, figure.subplots(len(axes), 1, sharex=True, squeeze=False)[:, 0], strict=True):
        x, y = [iterations[i] for i in order], [axis.values[i] for i in order]
        dots = along.scatter(x, y, s=14, c=known, **colours.scale())
        along.plot(until, [axis.values[i] for i in best], color=SERIES[1], linewidth=1, label="best so far")
        along.set_ylabel(short(axis.name, 24))
        axis.along(along, "y")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left")
    figure.axes[-1].set_xlabel("iteration")
    figure.axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.colorbar(dots, ax=figure.axes, label=words(given.metric), extend=colours.beyond, aspect=40)
    return Plot("search_path", "Path of the search", "Each trial a dot, its colour its validation.", figure, [], [])


def _against(given: Trials, order: list[int]) -> Plot:
    axes, iterations = given.axes, [given.iterations[i] for i in order]
    known = [given.validation[i] for i in order]
    figure = Figure(figsize=(WIDTH, 0.6 + 2.2 * len(axes)), layout="constrained")
    panels = figure.subplots(len(axes), 1, squeeze=False)[:, 0]
    for axis, along in zip(axes, panels, strict=True):
        x = [axis.values[i] for i in order]
        dots = along.scatter(x, known, s=14, c=iterations, cmap=ListedColormap(SCALE))
        along.set_xlabel(axis.name)
        along.set_ylabel(words(given.metric))
        axis.along(along, "x")
    bar = figure.colorbar(dots, ax=list(panels), label="iteration", aspect=40)
    bar.locator = MaxNLocator(6, integer=True)
    return Plot("hyperparameters", "Hyperparameters", "Each trial's validation by what it set.", figure, [], [])


def _parallel(given: Trials, order: list[int], colours: Colours) -> Plot:
    axes, found = given.axes, given.validation
    figure = Figure(figsize=(WIDE, 4), layout="constrained")
    along = figure.add_subplot()
    shares = [axis.shares() for axis in axes]
    mapped = along.scatter([], [], c=[], **colours.scale())
    for i in order:
        colour = mapped.to_rgba(np.array([found[i]]))[0]
        along.plot(
            range(len(axes)), [values[i] for values in shares], color=colour, linewidth=0.8, alpha=0.8, marker="."
        )
    along.set_xticks(range(len(axes)), [short(axis.name, 28) for axis in axes], rotation=30, ha="right")
    along.set_yticks([])
    along.grid(visible=False)
    for place, axis in enumerate(axes):
        there = [v for v in axis.values if v == v]
        ends = (axis.labels[0], axis.labels[-1]) if axis.labels else (f"{min(there):.3g}", f"{max(there):.3g}")
        for end, height, shift, side in ((ends[0], 0, -4, "top"), (ends[1], 1, 4, "baseline")):
            at: dict[str, Any] = {"xytext": (0, shift), "textcoords": "offset points", "ha": "center", "va": side}
            along.annotate(end, (place, height), fontsize=8, **at)
        along.axvline(place, color=INK, alpha=0.3, linewidth=0.7)
    along.set_ylim(-0.1, 1.1)
    figure.colorbar(mapped, ax=along, label=words(given.metric), extend=colours.beyond)
    return Plot("parallel_coordinates", "All hyperparameters", "A line is a trial.", figure, [], [], wide=True)
