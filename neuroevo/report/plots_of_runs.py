"""Pictures of a run: its progress, its champion, whom that descends from."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from neuroevo import caveats
from neuroevo.report.figures import (
    COUNTED,
    INK,
    NAMED,
    SCALE,
    SERIES,
    WIDE,
    WIDTH,
    Plot,
    canvas,
    log_ticks,
    samples_along,
    short,
    style,
    thin,
    words,
)
from neuroevo.storage.lineage import Ancestor


def anytime(name: str, curve: Sequence[tuple[float, float, float]], metric: str) -> Plot:
    """Draw the best validation so far against samples; a row of `curve` is (samples, validation, best so far)."""
    with canvas("samples (forward + 2 x backward)", f"validation {words(metric)}") as (figure, axes):
        shown = thin(curve)
        x = [row[0] for row in shown]
        axes.plot(
            x, [row[1] for row in shown], ".", color=SERIES[5], markersize=4, alpha=0.6, label="that generation's"
        )
        best, mark = [row[2] for row in shown], "." if len(x) < 3 else ""
        axes.plot(x, best, drawstyle="steps-post", marker=mark, color=SERIES[0], label="best so far")
        samples_along(axes, x)
        figure.legend(loc="outside upper left", ncols=2)
    caption = "The best so far, and each validation's own."
    return Plot(name, "Validation against samples", caption, figure, ["samples", "validation", "best"], curve)


def fitness(name: str, history: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the population's best and mean fitness over generations."""
    lines = [line for line in history if line["fitness_mean"] is not None]
    with canvas("generation", "fitness (higher is better)") as (figure, axes):
        shown = thin(lines)
        x = [line["generation"] for line in shown]
        mean, std = (np.array([line[f"fitness_{key}"] or 0.0 for line in shown]) for key in ("mean", "std"))
        mark = "." if len(x) < 3 else ""
        axes.plot(x, [line["fitness_best"] for line in shown], label="best", marker=mark, **style(0))
        axes.plot(x, mean, label="mean", marker=mark, **style(1))
        axes.fill_between(x, mean - std, mean + std, alpha=0.25, color=SERIES[1], linewidth=0, label="mean ± deviation")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(loc="outside upper left", ncols=3)
    header = ["generation", "fitness_best", "fitness_mean", "fitness_std"]
    rows = [[line[key] for key in header] for line in lines]
    return Plot(name, "Fitness", "Of each generation's own batch.", figure, header, rows)


def column(name: str, history: Sequence[Mapping[str, Any]], key: str, caption: str) -> Plot:
    """Draw a column of the history over generations, on a log axis where it spans more than a factor of five."""
    lines = [(line["generation"], line[key]) for line in history if line.get(key) is not None]
    with canvas("generation", words(key), height=2.4) as (figure, axes):
        shown = thin(lines)
        values = [value for _, value in shown]
        axes.plot([generation for generation, _ in shown], values, marker="." if len(shown) < 30 else "", **style(0))
        if values and min(values) > 0 and max(values) > 5 * min(values):
            axes.set_yscale("log")
            log_ticks(axes.yaxis, min(values), max(values), FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return Plot(name, key, caption, figure, ["generation", key], lines)


LEGEND, DRAWN = 12, 1000  # islands that a legend names, and of which a picture has lines


def islands(name: str, lines: Sequence[Mapping[str, Any]], key: str, title: str, caption: str) -> Plot:
    """Draw a column of the islands' histories over generations, a line an island."""
    known = [line for line in lines if line[key] is not None]
    with canvas("generation", words(key)) as (figure, axes):
        points: dict[int, list[tuple[int, float]]] = {i: [] for i in sorted({line["island"] for line in lines})}
        for line in known:
            points[line["island"]].append((line["generation"], line[key]))
        for i, each in itertools.islice(points.items(), DRAWN):
            shown = thin(each)
            x, y, mark = [row[0] for row in shown], [row[1] for row in shown], "." if len(shown) < 3 else ""
            axes.plot(x, y, label=f"island {i}", marker=mark, linewidth=1.2, **style(i))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(points) <= LEGEND:
            figure.legend(loc="outside upper left", ncols=4, columnspacing=1)
    rows = [[line["generation"], line["island"], line[key]] for line in known]
    return Plot(name, title, caption, figure, ["generation", "island", key], rows)


def folds(name: str, histories: Sequence[Sequence[Mapping[str, Any]]], metric: str, chosen: int | None) -> Plot:
    """Draw the validation of searches that chose together over generations, their mean, and the generation chosen."""
    curves = [{line["generation"]: line["validation"] for line in lines if is_validated(line)} for lines in histories]
    common = sorted(set[int]().union(*curves).intersection(*curves))
    rows = [[generation, *(curve[generation] for curve in curves)] for generation in common]
    with canvas("generation", f"validation {words(metric)}") as (figure, axes):
        shown, several = thin(rows), len(curves) > 1
        x, mark = [row[0] for row in shown], "." if len(shown) < 30 else ""
        for i in range(len(curves)):
            label = {0: "each fold"}.get(i) if several else "on the own split"
            own, width = (SERIES[5], 0.9) if several else (SERIES[0], 1.5)
            axes.plot(x, [row[i + 1] for row in shown], marker=mark, linewidth=width, color=own, label=label, alpha=0.8)
        if several:
            mean = [sum(row[1:]) / len(curves) for row in shown]
            axes.plot(x, mean, marker=mark, color=SERIES[0], linewidth=2, label="mean")
        if chosen is not None:
            axes.axvline(chosen, color=INK, linestyle=":", linewidth=1, label=f"chosen: {chosen:,}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(loc="outside upper left", ncols=3)
    header = ["generation", *(f"fold_{i + 1}" for i in range(len(curves)))]
    caption = (
        "Each search's best candidate at each look; one kind of candidate and a generation are chosen by the mean."
    )
    title = "Validation of the folds" if several else "Validation before the fit to all"
    return Plot(name, title, caption, figure, header, rows)


def is_validated(line: Mapping[str, Any]) -> bool:
    """Tell whether a generation was validated."""
    return line["validation"] is not None


COSTS = {
    "forward": "forward_samples",
    "backward x 2": "backward_samples",
    "validation": "validation_samples",
    "backbone": "backbone_samples",
}


def costs(name: str, rows: Mapping[str, Mapping[str, float]]) -> Plot:
    """Draw the cost of runs, a bar each, split into kinds of samples; `rows` {label: counts as results have them}."""
    parts: dict[str, list[float]] = {}
    for label, key in COSTS.items():
        times = 2 if key == COSTS["backward x 2"] else 1
        parts[label] = [times * float(row[key]) for row in rows.values()]
    with canvas("samples", "", height=1.4 + 0.3 * len(rows)) as (figure, axes):
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
    with canvas("predicted class", "true class", size * 0.9, size) as (figure, axes):
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
    with canvas("", "generation", height=4.0) as (figure, axes):
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
        x, y = [place[a.generation, a.row] for a in valid], [a.generation for a in valid]
        values, size = [a.fitness for a in valid], 26 if len(valid) < 150 else 14
        dots = axes.scatter(x, y, zorder=3, c=values, s=size, cmap=ListedColormap(SCALE))
        figure.colorbar(dots, ax=axes, label="fitness", aspect=40)
        axes.set_xticks([])
        axes.set_xlim(-0.02, 1.02)
        axes.set_yticks([generation[0].generation for generation in generations])
        axes.spines["bottom"].set_visible(False)
    header = ["generation", "individual", "fitness", "parents"]
    rows = [[a.generation, a.row, a.fitness, " ".join(map(str, a.parents))] for a in everybody]
    who = "Its best parts and their" if len(generations[0]) > 1 else "It and its"
    about = words(caveats.of_kind(kind, newest, {}))
    caption = (
        f"The champion is {about}. {who} ancestors: lines lead to parents; fitness is of each generation's own batch."
    )
    return Plot(name, "Genealogy of the champion", caption, figure, header, rows)


def descent(name: str, line: Sequence[Ancestor], history: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the fitness of an individual's line of descent by generation, beside the best of each generation."""
    oldest_first = line[::-1]
    span = {a.generation for a in line}
    with canvas("generation", "fitness") as (figure, axes):
        best = thin([row for row in history if row["generation"] in span and row["fitness_best"] is not None])
        x, y = [row["generation"] for row in best], [row["fitness_best"] for row in best]
        axes.plot(x, y, label="best of the generation", color=SERIES[5], linewidth=1)
        shown = thin([a for a in oldest_first if a.fitness is not None])
        x, y, mark = [a.generation for a in shown], [a.fitness for a in shown], "." if len(shown) < 60 else ""
        axes.plot(x, y, label="ancestor", color=SERIES[0], marker=mark)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(loc="outside upper left", ncols=2)
    rows = [[a.generation, a.row, a.fitness] for a in oldest_first]
    caption = "From the champion back to its first ancestor; of two parents the fitter one."
    return Plot(name, "Line of descent", caption, figure, ["generation", "individual", "fitness"], rows)


def front(name: str, names: Sequence[str], points: Sequence[Sequence[float]]) -> Plot:
    """Draw the members of a front by two objectives as reported, [k][2]."""
    with canvas(words(names[0]), words(names[1]), 3.6) as (figure, axes):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o", markersize=4, linewidth=0.7, color=SERIES[0])
        for i in range(0, len(points), max(1, len(points) // 8)):
            axes.annotate(str(i), points[i], textcoords="offset points", xytext=(4, 4))
    rows = [[i, *point] for i, point in enumerate(points)]
    caption = "Those whom nobody beats in both, numbered as neuroevo inspect does."
    return Plot(name, "Pareto front", caption, figure, ["member", *names], rows)
