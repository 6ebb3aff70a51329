"""Pictures of runs and benches, drawn from plain numbers; each is kept as PNG and as CSV, and shown as SVG.

The SVG is for a page: its text stays text, its ink is the page's (`currentColor`), its ground transparent, and its ids
are its own among all pictures of the page. Series have colours of about the same lightness, that stand out from light
and from dark ground, in an order that the colour-blind can tell apart (after Okabe and Ito 2008), and line styles too.
"""

import csv
import html
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from neuroevo import caveats, glyphs
from neuroevo.errors import printable
from neuroevo.genealogy import Ancestor

INK = "#010203"  # stands for the page's own colour, and is all but black in a PNG
SERIES = ("#2f7fc1", "#d5602b", "#0f9b72", "#b5629a", "#a8810f", "#7f7f7f", "#8069c9", "#4f9da6")
STYLES = ("-", "--", "-.", ":")
SCALE = matplotlib.colormaps["viridis"](np.linspace(0.3, 0.9, 256))  # neither end is lost on light or dark ground
RC: Any = {
    "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.15, "legend.frameon": False,
    "axes.facecolor": "none", "lines.linewidth": 1.5, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.unicode_minus": False, "legend.fontsize": 8,
    "text.parse_math": False,  # names with dollars are no formulas
}  # fmt: skip
WIDTH, HEIGHT = 4.8, 3.0  # inches; as wide as a phone, so that text is as large there as it is meant to be
WIDE = 7.5
POINTS = 1500  # of a line, beyond which a picture gains nothing
NAMED, COUNTED = 30, 20  # classes, up to which a confusion matrix has names and counts


class Plot(NamedTuple):
    """A picture and the numbers behind it."""

    name: str  # of its files
    title: str
    caption: str
    figure: Any
    header: Sequence[str]  # of the numbers
    rows: Sequence[Sequence[Any]]
    wide: bool = False  # it scrolls on a phone


def save(plot: Plot, folder: Path) -> None:
    """Write a picture as PNG, and its numbers as CSV."""
    with matplotlib.rc_context(RC):
        plot.figure.savefig(folder / f"{plot.name}.png", dpi=150, facecolor="white")
    with open(folder / f"{plot.name}.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([plot.header, *plot.rows])


def svg(plot: Plot) -> str:
    """Return a picture as an SVG element to put into a page, whose fonts draw all names: nothing is spelled out."""
    file = io.StringIO()
    with matplotlib.rc_context({**RC, "svg.hashsalt": plot.name}):
        plot.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue().partition("<svg")[2]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{plot.name}-", text)
    text = re.sub(r'^.*?(viewBox="[^"]*").*?>', r"\1>", text, count=1, flags=re.DOTALL)
    for as_drawn, given in plot.figure.spelled.items():
        text = text.replace(html.escape(as_drawn, quote=False), html.escape(printable(given), quote=False))
    label = html.escape(f"{plot.title}: {plot.caption}" if plot.caption else plot.title)
    return f'<svg role="img" aria-label="{label}" {text}'.replace(INK, "currentColor").strip()


def style(i: int) -> dict[str, Any]:
    """Return the colour and the line style of a series."""
    return {"color": SERIES[i % len(SERIES)], "linestyle": STYLES[i // len(SERIES) % len(STYLES)]}


@contextmanager
def drawing(xlabel: str, ylabel: str, height: float = HEIGHT, width: float = WIDTH) -> Iterator[tuple[Any, Any]]:
    """Yield a figure and its only axes, while they are drawn on."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
        settle(figure)


def settle(figure: Any) -> None:
    """Lay a figure out once and for all: each time that it is drawn, the layout would move a little."""
    glyphs.fit(figure)
    for _ in range(2):
        figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")


def words(name: str) -> str:
    """Return a name as a reader wants it."""
    return name.replace("_", " ")


def rounded(samples: float) -> str:
    """Return a count of samples to three figures, with k, M or G behind it."""
    return EngFormatter(sep="", places=1 if samples < 1e9 else 2)(samples)


def thinned(rows: Sequence[Any]) -> Sequence[Any]:
    """Return as many rows as a line needs, the last among them."""
    every = -(-len(rows) // POINTS)
    return rows if every <= 1 else [*rows[:-1:every], rows[-1]]


def short(name: str, length: int) -> str:
    """Return a name cut to a length, in its middle: many names begin alike, or end so."""
    end = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - end]}…{name[-end:]}"


def log_ticks(along: Any, low: float, high: float, form: Any) -> None:
    """Give a log axis as many labelled ticks as have room: within half a decade round ones."""
    decades = math.log10(high / low) if low > 0 else 0.0
    subs = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 3 else (1.0,)
    along.set_major_locator(LogLocator(subs=subs, numticks=12) if decades > 0.5 else MaxNLocator(4))
    along.set_minor_locator(NullLocator())
    along.set_major_formatter(form)


def samples_along(axes: Any, samples: Sequence[float]) -> None:
    """Make x a log axis of samples."""
    there = [value for value in samples if value > 0]
    if there:
        axes.set_xscale("log")
        log_ticks(axes.xaxis, min(there), max(there), EngFormatter(sep=""))


def anytime(name: str, curve: Sequence[tuple[float, float, float]], metric: str) -> Plot:
    """Draw the best validation so far against samples; a row of `curve` is (samples, validation, best so far)."""
    with drawing("samples (forward + 2 x backward)", f"validation {words(metric)}") as (figure, axes):
        shown = thinned(curve)
        x = [row[0] for row in shown]
        axes.plot(
            x, [row[1] for row in shown], ".", color=SERIES[5], markersize=4, alpha=0.6, label="that generation's"
        )
        axes.plot(x, [row[2] for row in shown], drawstyle="steps-post", marker="." if len(x) < 3 else "",
                  color=SERIES[0], label="best so far")  # fmt: skip
        samples_along(axes, x)
        figure.legend(loc="outside upper left", ncols=2)
    caption = "The best so far, and each validation's own."
    return Plot(name, "Validation against samples", caption, figure, ["samples", "validation", "best"], curve)


def fitness(name: str, history: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the population's best and mean fitness over generations."""
    lines = [line for line in history if line["fitness_mean"] is not None]
    with drawing("generation", "fitness (higher is better)") as (figure, axes):
        shown = thinned(lines)
        x = [line["generation"] for line in shown]
        mean, std = (np.array([line[f"fitness_{key}"] or 0.0 for line in shown]) for key in ("mean", "std"))
        mark = "." if len(x) < 3 else ""
        axes.plot(x, [line["fitness_best"] for line in shown], label="best", marker=mark, **style(0))
        axes.plot(x, mean, label="mean", marker=mark, **style(1))
        axes.fill_between(x, mean - std, mean + std, alpha=0.25, color=SERIES[1], linewidth=0, label="mean ± deviation")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(loc="outside upper left", ncols=3)
    header = ["generation", "fitness_best", "fitness_mean", "fitness_std"]
    return Plot(name, "Fitness", "Of each generation's own batch.", figure,
                header, [[line[key] for key in header] for line in lines])  # fmt: skip


def column(name: str, history: Sequence[Mapping[str, Any]], key: str, caption: str) -> Plot:
    """Draw a column of the history over generations, on a log axis where it spans more than a factor of five."""
    lines = [(line["generation"], line[key]) for line in history if line.get(key) is not None]
    with drawing("generation", words(key), height=2.4) as (figure, axes):
        shown = thinned(lines)
        values = [value for _, value in shown]
        axes.plot([generation for generation, _ in shown], values, marker="." if len(shown) < 30 else "", **style(0))
        if values and min(values) > 0 and max(values) > 5 * min(values):
            axes.set_yscale("log")
            log_ticks(axes.yaxis, min(values), max(values), FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return Plot(name, key, caption, figure, ["generation", key], lines)


COSTS = {"forward": "forward_samples", "backward x 2": "backward_samples", "validation": "validation_samples",
         "backbone": "backbone_samples"}  # fmt: skip


def costs(name: str, rows: Mapping[str, Mapping[str, float]]) -> Plot:
    """Draw what runs took, a bar each, split into its kinds of samples; `rows` {label: counts as results have them}."""
    parts = {label: [float(row[key]) * (2 if key == COSTS["backward x 2"] else 1) for row in rows.values()]
             for label, key in COSTS.items()}  # fmt: skip
    with drawing("samples", "", height=1.4 + 0.3 * len(rows)) as (figure, axes):
        left = np.zeros(len(rows))
        places = np.arange(len(rows))
        for i, (label, found) in enumerate(parts.items()):
            if any(found):
                axes.barh(places, found, left=left, label=label, color=SERIES[i], height=0.6)
            left += found
        axes.set_yticks(places, [short(label, 24) for label in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper left", ncols=4, columnspacing=1, handlelength=1)
    table = [[label, *(found[i] for found in parts.values())] for i, label in enumerate(rows)]
    caption = "Through the trainable part: forward, and backward counted twice; validation and the backbone apart."
    return Plot(name, "What it took", caption, figure, ["", *parts], table)


def matrix(axes: Any, shares: npt.NDArray[Any], colour: str) -> None:
    """Draw a matrix of shares in [0, 1], NaN for none, as how much of a colour covers the ground."""
    cells = np.empty((*shares.shape, 4))
    cells[...] = to_rgba(colour)
    cells[..., 3] = 0.75 * np.sqrt(np.nan_to_num(shares))  # so that a few are seen
    axes.imshow(cells, interpolation="none", aspect="equal")
    axes.grid(visible=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)


def confusion(name: str, classes: Sequence[str], counts: npt.NDArray[Any]) -> Plot:
    """Draw a confusion matrix [C, C]: a row a true class, its colour the share of that class's samples."""
    c = len(classes)
    wide = c > 12
    size = WIDE if wide else WIDTH
    support = counts.sum(1, keepdims=True)
    shares = np.divide(counts, support, out=np.zeros(counts.shape), where=support > 0)
    with drawing("predicted class", "true class", size * 0.9, size) as (figure, axes):
        matrix(axes, shares, SERIES[0])
        text = 9 if c <= 10 else 7
        if c <= NAMED:
            names = [short(label, 14) for label in classes]
            upright = max(map(len, names)) <= 2
            axes.set_xticks(range(c), names, rotation=0 if upright else 90, fontsize=text)
            axes.set_yticks(range(c), names, fontsize=text)
        else:
            for along in (axes.xaxis, axes.yaxis):
                along.set_major_locator(MaxNLocator(10, integer=True))
        if c <= COUNTED:
            for i, j in np.argwhere(counts > 0):
                axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=text - (counts.max() > 999))
    caption = "Test images: a row a true class, a column what was predicted; colour grows with the share of the row."
    caption += "" if c <= NAMED else " Classes are numbered, from 0, in the order of the table."
    rows = [[label, *row] for label, row in zip(classes, counts.tolist(), strict=True)]
    return Plot(name, "Confusion matrix", caption, figure, ["", *classes], rows, wide)


def genealogy(name: str, generations: Sequence[Sequence[Ancestor]], kind: str) -> Plot:
    """Draw individuals and their ancestors as a tree, the newest generation on top, each over its parents."""
    place: dict[tuple[int, int], float] = {}
    for i, generation in enumerate(generations):
        wanted: dict[int, list[float]] = {}
        for child in generations[i - 1] if i else ():
            for parent in child.parents:
                wanted.setdefault(parent, []).append(place[child.generation, child.row])
        # Below its children where there is room: in their order, evenly spaced.
        order = sorted(generation, key=lambda a: (np.mean(wanted.get(a.row, [0.0])), a.row))
        for k, individual in enumerate(order):
            place[individual.generation, individual.row] = (k + 0.5) / len(order)
    everybody = [individual for generation in generations for individual in generation]
    with drawing("", "generation", height=4.0) as (figure, axes):
        for a in everybody:
            here = place[a.generation, a.row]
            for parent in a.parents:
                there = place.get((a.generation - 1, parent))
                if there is not None:
                    axes.plot([here, there], [a.generation, a.generation - 1], color=INK, alpha=0.3, linewidth=0.6)
        newest = generations[0][0].generation
        if len(generations[0]) > 1:
            for a in generations[0]:
                axes.plot([0.5, place[a.generation, a.row]], [newest + 1, newest], color=INK, alpha=0.3, linewidth=0.6)
            axes.plot([0.5], [newest + 1], "*", color=SERIES[1], markersize=11)
            axes.annotate("champion", (0.5, newest + 1), (8, 0), textcoords="offset points", va="center")
        valid = [a for a in everybody if a.fitness is not None]
        dots = axes.scatter([place[a.generation, a.row] for a in valid], [a.generation for a in valid], zorder=3,
                            c=[a.fitness for a in valid], s=26 if len(valid) < 150 else 14,
                            cmap=ListedColormap(SCALE))  # fmt: skip
        figure.colorbar(dots, ax=axes, label="fitness", aspect=40)
        axes.set_xticks([])
        axes.set_xlim(-0.02, 1.02)
        axes.set_yticks([generation[0].generation for generation in generations])
        axes.spines["bottom"].set_visible(False)
    header = ["generation", "individual", "fitness", "parents"]
    rows = [[a.generation, a.row, a.fitness, " ".join(map(str, a.parents))] for a in everybody]
    who = "Its best parts and their" if len(generations[0]) > 1 else "It and its"
    caption = (f"The champion is {words(caveats.of_kind(kind, newest, {}))}. {who} ancestors: lines lead to parents; "
               "fitness is of each generation's own batch.")  # fmt: skip
    return Plot(name, "Genealogy of the champion", caption, figure, header, rows)


def descent(name: str, line: Sequence[Ancestor], history: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the fitness of an individual's line of descent by generation, beside the best of each generation."""
    oldest_first = line[::-1]
    span = {a.generation for a in line}
    with drawing("generation", "fitness") as (figure, axes):
        best = thinned([row for row in history if row["generation"] in span and row["fitness_best"] is not None])
        axes.plot([row["generation"] for row in best], [row["fitness_best"] for row in best],
                  label="best of the generation", color=SERIES[5], linewidth=1)  # fmt: skip
        shown = thinned([a for a in oldest_first if a.fitness is not None])
        axes.plot([a.generation for a in shown], [a.fitness for a in shown], label="ancestor", color=SERIES[0],
                  marker="." if len(shown) < 60 else "")  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(loc="outside upper left", ncols=2)
    rows = [[a.generation, a.row, a.fitness] for a in oldest_first]
    caption = "From the champion back to its first ancestor; of two parents the fitter one."
    return Plot(name, "Line of descent", caption, figure, ["generation", "individual", "fitness"], rows)


def front(name: str, names: Sequence[str], points: Sequence[Sequence[float]]) -> Plot:
    """Draw the members of a front by two objectives as reported, [k][2]."""
    with drawing(words(names[0]), words(names[1]), 3.6) as (figure, axes):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o", markersize=4, linewidth=0.7, color=SERIES[0])
        for i in range(0, len(points), max(1, len(points) // 8)):
            axes.annotate(str(i), points[i], textcoords="offset points", xytext=(4, 4))
    rows = [[i, *point] for i, point in enumerate(points)]
    caption = "Those whom nobody beats in both, numbered as neuroevo inspect does."
    return Plot(name, "Pareto front", caption, figure, ["member", *names], rows)


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
    """What a search tried: its hyperparameters, and each trial's validation and iteration."""

    axes: list[Axis]
    validation: list[float]
    iterations: list[int]
    metric: str
    lower_is_better: bool


def trials(given: Trials) -> list[Plot]:
    """Draw a search's path, each hyperparameter against validation, and all as parallel coordinates."""
    axes, found, iterations, metric, lower = given
    better = -1 if lower else 1
    valid = [i for i, value in enumerate(found) if math.isfinite(value)]
    if not valid:
        return []
    order = sorted(valid, key=lambda i: better * found[i])  # the best are drawn last, on top
    # Colours tell the better half apart: a search's worst trials are of every kind.
    middle = found[order[len(order) // 2]]
    best = found[order[-1]]
    scale = ListedColormap(SCALE if better > 0 else SCALE[::-1])
    colours: dict[str, Any] = {"cmap": scale, "vmin": min(middle, best), "vmax": max(middle, best)}
    beyond = "min" if better > 0 else "max"
    header = ["trial", "iteration", *(axis.name for axis in axes), metric]
    rows = [[i, iterations[i], *(axis.values[i] for axis in axes), found[i]] for i in range(len(found))]
    with matplotlib.rc_context(RC):
        plots = [
            _path(axes, found, iterations, order, colours, metric, beyond, better),
            _against(axes, found, iterations, order, metric),
            *([_parallel(axes, found, order, colours, metric, beyond)] if len(axes) > 1 else []),
        ]
        for plot in plots:
            settle(plot.figure)
    return [plot._replace(header=header, rows=rows) for plot in plots]


def _path(
    axes: list[Axis], found: list[float], iterations: list[int], order: list[int], colours: dict[str, Any], metric: str,
    beyond: str, better: int,
) -> Plot:  # fmt: skip
    # The best trial of all up to each iteration; the first may have none that came to a figure.
    until = range(min(iterations[i] for i in order), max(iterations) + 1)
    best = [max((i for i in order if iterations[i] <= last), key=lambda i: better * found[i]) for last in until]
    figure = Figure(figsize=(WIDTH, 1 + 1.6 * len(axes)), layout="constrained")
    for axis, along in zip(axes, figure.subplots(len(axes), 1, sharex=True, squeeze=False)[:, 0], strict=True):
        dots = along.scatter([iterations[i] for i in order], [axis.values[i] for i in order], s=14,
                             c=[found[i] for i in order], **colours)  # fmt: skip
        along.plot(until, [axis.values[i] for i in best], color=SERIES[1], linewidth=1, label="best so far")
        along.set_ylabel(short(axis.name, 24))
        axis.along(along, "y")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left")
    figure.axes[-1].set_xlabel("iteration")
    figure.axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.colorbar(dots, ax=figure.axes, label=words(metric), extend=beyond, aspect=40)
    return Plot("search_path", "Path of the search", "Each trial a dot, its colour its validation.", figure, [], [])


def _against(axes: list[Axis], found: list[float], iterations: list[int], order: list[int], metric: str) -> Plot:
    figure = Figure(figsize=(WIDTH, 0.6 + 2.2 * len(axes)), layout="constrained")
    panels = figure.subplots(len(axes), 1, squeeze=False)[:, 0]
    for axis, along in zip(axes, panels, strict=True):
        dots = along.scatter([axis.values[i] for i in order], [found[i] for i in order], s=14,
                             c=[iterations[i] for i in order], cmap=ListedColormap(SCALE))  # fmt: skip
        along.set_xlabel(axis.name)
        along.set_ylabel(words(metric))
        axis.along(along, "x")
    bar = figure.colorbar(dots, ax=list(panels), label="iteration", aspect=40)
    bar.locator = MaxNLocator(6, integer=True)
    return Plot("hyperparameters", "Hyperparameters", "Each trial's validation by what it set.", figure, [], [])


def _parallel(
    axes: list[Axis], found: list[float], order: list[int], colours: dict[str, Any], metric: str, beyond: str
) -> Plot:
    figure = Figure(figsize=(WIDE, 4), layout="constrained")
    along = figure.add_subplot()
    shares = [axis.shares() for axis in axes]
    mapped = along.scatter([], [], c=[], **colours)
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
            along.annotate(end, (place, height), xytext=(0, shift), textcoords="offset points", ha="center", va=side,
                           fontsize=8)  # fmt: skip
        along.axvline(place, color=INK, alpha=0.3, linewidth=0.7)
    along.set_ylim(-0.1, 1.1)
    figure.colorbar(mapped, ax=along, label=words(metric), extend=beyond)
    return Plot("parallel_coordinates", "All hyperparameters", "A line is a trial.", figure, [], [], wide=True)


# Of benches. Arms come in the order in which they have their colours.


class Point(NamedTuple):
    """Where an arm's runs were at some number of samples."""

    samples: float
    mean: float
    low: float
    high: float


def curves(name: str, arms: Mapping[str, Sequence[Point]], metric: str, series: Sequence[str]) -> Plot:
    """Draw each arm's mean best validation against samples, with a band from its worst to its best run.

    Colours are by the place of an arm in `series`, whichever is ahead.
    """
    with drawing("samples (forward + 2 x backward)", f"best validation {words(metric)}", 3.8) as (figure, axes):
        for arm, points in arms.items():
            shown, i = thinned(points), series.index(arm)
            x = [point.samples for point in shown]
            axes.plot(x, [point.mean for point in shown], drawstyle="steps-post", label=short(arm, 28), **style(i))
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
    name: str, title: str, caption: str, xlabel: str, arms: Mapping[str, tuple[Sequence[float], Interval]],
    series: Sequence[str], zero: bool = False,
) -> Plot:  # fmt: skip
    """Draw each arm's runs as dots over the interval of their mean as a bar, one arm a row, coloured as in curves."""
    with drawing(xlabel, "", height=1.0 + 0.35 * len(arms)) as (figure, axes):
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
    with drawing("", "", size * 0.85, size) as (figure, axes):
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
