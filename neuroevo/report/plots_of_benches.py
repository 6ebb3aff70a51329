"""Pictures of a bench: arms beside each other."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator

from neuroevo.report.figures import INK, SERIES, WIDE, WIDTH, Plot, canvas, samples_along, short, style, thin, words
from neuroevo.report.plots_of_runs import matrix


class Point(NamedTuple):
    """The mean and the range of an arm's runs at some number of samples."""

    samples: float
    mean: float
    low: float
    high: float


def curves(name: str, arms: Mapping[str, Sequence[Point]], metric: str, series: Sequence[str]) -> Plot:
    """Draw each arm's mean best validation against samples, with a band from its worst to its best run.

    Colours are by the place of an arm in `series`, whichever is ahead.
    """
    with canvas("samples (forward + 2 x backward)", f"best validation {words(metric)}", 3.8) as (figure, axes):
        for arm, points in arms.items():
            shown, i = thin(points), series.index(arm)
            x = [point.samples for point in shown]
            mark = "." if len(x) < 3 else ""
            y = [point.mean for point in shown]
            axes.plot(x, y, drawstyle="steps-post", marker=mark, label=short(arm, 28), **style(i))
            low, high = [point.low for point in shown], [point.high for point in shown]
            axes.fill_between(x, low, high, step="post", alpha=0.15, color=SERIES[i % len(SERIES)], linewidth=0)
        samples_along(axes, [point.samples for points in arms.values() for point in points])
        figure.legend(loc="outside upper left", ncols=3)
    rows = [[arm, *point] for arm, points in arms.items() for point in points]
    caption = "The mean over runs of the best validation so far; the band is from the worst run to the best."
    return Plot(name, "Best validation against samples", caption, figure, ["arm", *Point._fields], rows)


class Interval(NamedTuple):
    """A mean and its interval, None where it is unknown."""

    mean: float | None
    low: float | None
    high: float | None


def distributions(
    name: str,
    arms: Mapping[str, tuple[Sequence[float], Interval]],
    series: Sequence[str],
    *,
    title: str,
    caption: str,
    xlabel: str,
    zero: bool = False,
) -> Plot:
    """Draw each arm's runs as dots over the interval of their mean as a bar, one arm a row, coloured as in curves."""
    with canvas(xlabel, "", height=1.0 + 0.35 * len(arms)) as (figure, axes):
        if zero:
            axes.axvline(0, color=INK, alpha=0.5, linewidth=0.8)
        for i, (arm, (values, (mean, low, high))) in enumerate(arms.items()):
            colour = style(series.index(arm))["color"]
            if mean is not None:
                ends = (mean if low is None else low, mean if high is None else high)
                axes.plot(ends, [i, i], color=colour, linewidth=8, alpha=0.35, solid_capstyle="butt")
                axes.plot([mean], [i], "|", color=colour, markersize=12, markeredgewidth=2)
            axes.plot(values, [i + 0.25] * len(values), "o", color=colour, markersize=3.5, alpha=0.8)
        axes.set_yticks(range(len(arms)), [short(arm, 24) for arm in arms])
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6))
    rows: list[list[Any]] = []
    for arm, (values, interval) in arms.items():
        rows += [[arm, "run", value] for value in values]
        rows += [[arm, what, value] for what, value in interval._asdict().items() if value is not None]
    return Plot(name, title, caption, figure, ["arm", "what", "value"], rows)


def probabilities(name: str, arms: Sequence[str], found: Mapping[tuple[str, str], float]) -> Plot:
    """Draw the probability that an arm (a row) does better than another (a column); `found` {(row, column): p}."""
    n = len(arms)
    size = WIDTH if n <= 8 else WIDE
    values = np.array([[found.get((a, b), math.nan) for b in arms] for a in arms])
    with canvas("", "", size * 0.85, size) as (figure, axes):
        matrix(axes, np.abs(np.nan_to_num(values, nan=0.5) - 0.5) * 2, SERIES[0])
        cells = np.array(axes.images[0].get_array())
        cells[values < 0.5, :3] = to_rgba(SERIES[1])[:3]
        axes.images[0].set_data(cells)
        for i, j in np.argwhere(~np.isnan(values)):
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=8)
        names = [short(arm, 18) for arm in arms]
        axes.set_xticks(range(n), names, rotation=45, ha="right")
        axes.set_yticks(range(n), names)
    rows = [[arm, *row] for arm, row in zip(arms, values.tolist(), strict=True)]
    caption = "How likely a run of the row's arm is better on test than one of the column's, with 0.5 for neither."
    return Plot(name, "Probability of improvement", caption, figure, ["", *arms], rows, wide=size > WIDTH)
