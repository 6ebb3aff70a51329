"""A run to look at: plots as PNG, and one HTML page that holds them and the result, and opens without a network."""

import base64
import csv
import html
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from neuroevo import checkpoint, config, rundir
from neuroevo.errors import InputError
from neuroevo.metrics import LOWER_IS_BETTER, reported
from neuroevo.rundir import CONFIG, HISTORY

COST = ("generation", "forward_samples", "backward_samples", "seconds")
FITNESS = ("fitness_best", "fitness_mean", "fitness_std")
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
img { max-width: 100%; background: white; } pre { overflow-x: auto; font-size: 13px; }
"""


def report(run_dir: str) -> Path:
    """Draw a run's plots and write its page, whose path is returned; InputError where no run or no history is there."""
    folder = rundir.existing(run_dir)
    path = folder / HISTORY
    history = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not history:
        raise InputError(f"{run_dir}: no generation is recorded yet")
    plots = draw(history, folder / "plots")
    saved = checkpoint.newest(folder / rundir.CHECKPOINTS, lambda line: None)
    if saved is not None and saved.front is not None and saved.front.fitness.shape[1] == 2:
        plots.append(draw_front(saved.front.fitness, objectives(saved), folder / "plots"))
    if (folder / rundir.TRIALS).exists():
        plots += draw_trials(folder, folder / "plots")
    page = folder / "report.html"
    rundir.replace(page, render(folder, plots).encode())
    return page


def draw(history: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw fitness, validation, and what else the history has a column of, over generations; return the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    folder.mkdir(exist_ok=True)
    others = [column for column in history[0] if column not in (*COST, *FITNESS, "validation", "invalid")]
    others += ["invalid"] if any(line["invalid"] for line in history) else []
    files = []
    for name in ("fitness", "validation", *others):
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(xlabel="generation", ylabel=name.replace("_", " "))
        if name == "fitness":
            lines = [line for line in history if line["fitness_mean"] is not None]
            x = [line["generation"] for line in lines]
            mean, std = ([line[f"fitness_{key}"] or 0.0 for line in lines] for key in ("mean", "std"))
            axes.plot(x, [line["fitness_best"] for line in lines], label="best")
            axes.plot(x, mean, label="mean")
            axes.fill_between(
                x, [m - s for m, s in zip(mean, std, strict=True)], [m + s for m, s in zip(mean, std, strict=True)],
                alpha=0.2, label="mean ± deviation",
            )  # fmt: skip
            axes.legend()
        else:
            lines = [line for line in history if line.get(name) is not None]
            values = [line[name] for line in lines]
            axes.plot([line["generation"] for line in lines], values, marker="." if len(lines) < 60 else "")
            if name not in ("validation", "invalid") and values and min(v or 0 for v in values) > 0:
                axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def objectives(saved: checkpoint.Checkpoint) -> list[str]:
    """Return the names of a checkpoint's objectives."""
    given = config.parse(saved.config, str(saved.path))["fitness"]["metrics"]
    return [metric if isinstance(metric, str) else metric["name"] for metric in given]


def draw_front(fitness: Tensor, names: list[str], folder: Path) -> Path:
    """Draw the members of a front by two objectives, fitness [k, 2], as reported; return the file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    x, y = ([reported(name, value) for value in column] for name, column in zip(names, fitness.T.tolist(), strict=True))
    axes = figure.add_subplot(xlabel=names[0].replace("_", " "), ylabel=names[1].replace("_", " "))
    axes.plot(x, y, marker="o", markersize=4, linewidth=0.5)
    for i in range(0, len(x), max(1, len(x) // 12)):
        axes.annotate(str(i), (x[i], y[i]), textcoords="offset points", xytext=(4, 4))
    axes.grid(alpha=0.3)
    path = folder / "front.png"
    figure.savefig(path, dpi=120)
    return path


class Axis(NamedTuple):
    """One hyperparameter of all trials."""

    name: str
    values: list[float]  # NaN where a trial has none
    log: bool
    labels: list[str]  # of choices, whose values are their places


def read_trials(folder: Path) -> tuple[list[Axis], list[float], list[int], str]:
    """Return the hyperparameters of a run's trials, their validation, iterations, and what validation is called."""
    searched = folder / rundir.TUNE / CONFIG
    given = config.parse((searched if searched.exists() else folder / CONFIG).read_text(), str(folder))
    space, metric = given["tune"]["space"], given["validate"]["metric"]
    metric = metric if isinstance(metric, str) else metric["name"]
    with open(folder / rundir.TRIALS, newline="") as file:
        rows = list(csv.DictReader(file))
    axes: list[Axis] = []
    for key, variable in space.items():
        cells = [row[key] for row in rows]
        if variable["name"] == "list":
            lists = [json.loads(cell) if cell else [] for cell in cells]
            axes.append(
                Axis(key, [len(i) if cell else math.nan for i, cell in zip(lists, cells, strict=True)], False, [])
            )
            log = variable["item"].get("scale", "linear") != "linear"
            for i in range(max(map(len, lists), default=0)):
                axes.append(
                    Axis(f"{key}.{i}", [float(items[i]) if i < len(items) else math.nan for items in lists], log, [])
                )
        elif variable["name"] in ("categorical", "boolean"):
            labels = sorted({cell for cell in cells if cell})
            axes.append(Axis(key, [labels.index(cell) if cell else math.nan for cell in cells], False, labels))
        else:
            values = [float(cell) if cell else math.nan for cell in cells]
            axes.append(Axis(key, values, variable.get("scale", "linear") != "linear", []))
    there = [axis for axis in axes if any(value == value for value in axis.values)]
    return there, [float(row[metric]) for row in rows], [int(row["iteration"]) for row in rows], metric


def draw_trials(run: Path, folder: Path) -> list[Path]:
    """Draw a search's path, each hyperparameter against validation, and all as parallel coordinates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes, found, iterations, metric = read_trials(run)
    better = -1 if metric in LOWER_IS_BETTER else 1
    valid = [i for i, value in enumerate(found) if math.isfinite(value)]
    if not valid:
        return []
    order = sorted(valid, key=lambda i: better * found[i])  # the best are drawn last, on top
    # The best trial of all up to each iteration; the first may have none that came to a figure.
    until = range(min(iterations[i] for i in valid), max(iterations) + 1)
    best = [max((i for i in valid if iterations[i] <= last), key=lambda i: better * found[i]) for last in until]
    # Colours tell the better half apart: a search's worst trials are of every kind.
    middle = sorted((found[i] for i in valid), key=lambda v: better * v)[len(valid) // 2]
    ends = (middle, max(found[i] for i in valid)) if better > 0 else (min(found[i] for i in valid), middle)
    colours = {"cmap": "viridis" if better > 0 else "viridis_r", "vmin": ends[0], "vmax": ends[1]}
    files = []

    def page(name: str, height: float) -> Any:
        figure = Figure(figsize=(7, height), layout="constrained")
        FigureCanvasAgg(figure)
        files.append((figure, folder / f"{name}.png"))
        return figure

    def scaled(axis: Axis, along: Any, which: str) -> None:
        few = sorted({v for v in axis.values if v == v})
        if axis.log:
            getattr(along, f"set_{which}scale")("log")
        if axis.log and len(few) < 8:
            getattr(along, f"set_{which}ticks")([], minor=True)
            getattr(along, f"set_{which}ticks")(few, [f"{v:g}" for v in few])
        if axis.labels:
            getattr(along, f"set_{which}ticks")(range(len(axis.labels)), axis.labels)

    rows = len(axes)
    path = page("search_path", 1 + 1.8 * rows)
    for axis, along in zip(axes, path.subplots(rows, 1, sharex=True, squeeze=False)[:, 0], strict=True):
        dots = along.scatter([iterations[i] for i in order], [axis.values[i] for i in order], s=14,
                             c=[found[i] for i in order], **colours)  # fmt: skip
        along.plot(until, [axis.values[i] for i in best], color="tab:red", linewidth=1, label="best so far")
        along.set_ylabel(axis.name)
        scaled(axis, along, "y")
        along.grid(alpha=0.3)
    path.axes[0].legend(loc="upper right", fontsize="small")
    path.axes[-1].set_xlabel("iteration")
    path.colorbar(dots, ax=path.axes, label=metric, extend="min" if better > 0 else "max", aspect=40)

    across = page("hyperparameters", 1 + 2.2 * -(-rows // 2))
    plots = across.subplots(-(-rows // 2), 2 if rows > 1 else 1, squeeze=False).flatten()
    for axis, along in zip(axes, plots, strict=False):
        dots = along.scatter(
            [axis.values[i] for i in order], [found[i] for i in order], s=14, c=[iterations[i] for i in order]
        )
        along.set_xlabel(axis.name)
        along.set_ylabel(metric)
        scaled(axis, along, "x")
        along.grid(alpha=0.3)
    for along in plots[rows:]:
        along.remove()
    across.colorbar(dots, ax=list(plots[:rows]), label="iteration", aspect=40)

    if rows > 1:
        parallel = page("parallel_coordinates", 4)
        along = parallel.add_subplot()
        shares = [share(axis) for axis in axes]
        mapped = along.scatter([], [], c=[], **colours)
        for i in order:
            colour = mapped.cmap(mapped.norm(found[i]))
            along.plot(
                range(rows), [values[i] for values in shares], color=colour, linewidth=0.8, alpha=0.8, marker="."
            )
        along.set_xticks(range(rows), [axis.name for axis in axes], rotation=30, ha="right")
        along.set_yticks([])
        for place, axis in enumerate(axes):
            ends_of = [v for v in axis.values if v == v]
            low, high = (
                (axis.labels[0], axis.labels[-1]) if axis.labels else (f"{min(ends_of):.3g}", f"{max(ends_of):.3g}")
            )
            along.annotate(
                low, (place, 0), xytext=(0, -4), textcoords="offset points", ha="center", va="top", fontsize="small"
            )
            along.annotate(high, (place, 1), xytext=(0, 4), textcoords="offset points", ha="center", fontsize="small")
            along.axvline(place, color="grey", linewidth=0.5)
        along.set_ylim(-0.1, 1.1)
        parallel.colorbar(mapped, ax=along, label=metric, extend="min" if better > 0 else "max")
    for figure, file in files:
        figure.savefig(file, dpi=120)
    return [file for _, file in files]


def share(axis: Axis) -> list[float]:
    """Return values as shares of what they span, of their logarithms on a log axis."""
    values = [math.log(v) if axis.log and v > 0 else v for v in axis.values]
    there = [v for v in values if v == v]
    low, high = min(there, default=0.0), max(there, default=1.0)
    return [(v - low) / (high - low) if high > low else 0.5 + 0 * v for v in values]


def render(folder: Path, plots: list[Path]) -> str:
    """Return the page: the result as a table, the plots within it, and the config."""
    result = rundir.read_result(folder)
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in flat(result))
    images = "".join(
        f'<h2>{plot.stem.replace("_", " ")}</h2><img alt="{plot.stem}" '
        f'src="data:image/png;base64,{base64.b64encode(plot.read_bytes()).decode()}">'
        for plot in plots
    )
    text = html.escape((folder / CONFIG).read_text())
    title = html.escape(f"neuroevo: {folder.name}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1><table>{rows or '<tr><td>not finished</td></tr>'}"
        f"</table>{images}<h2>config</h2><pre>{text}</pre></html>\n"
    )


def flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested results as rows, numbers as a reader wants them."""
    rows: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(inner, dict):
            rows += flat(inner, name)
        elif isinstance(inner, list):
            interval = len(inner) == 2 and all(isinstance(number, float) for number in inner)
            rows += [
                (name, " to ".join(f"{v:.4f}" for v in inner) if interval else ", ".join(map(str, inner)) or "none")
            ]
        else:
            rows += [(name, f"{inner:.4f}" if isinstance(inner, float) else f"{inner:,}" if isinstance(inner, int)
                      else str(inner))]  # fmt: skip
    return rows
