"""A run to look at: plots as PNG, and one HTML page that holds them and the result, and opens without a network."""

import base64
import html
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from neuroevo import checkpoint, config, rundir
from neuroevo.errors import InputError
from neuroevo.metrics import reported
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
            rows += [(name, " to ".join(f"{number:.4f}" for number in inner))]
        else:
            rows += [(name, f"{inner:.4f}" if isinstance(inner, float) else f"{inner:,}" if isinstance(inner, int)
                      else str(inner))]  # fmt: skip
    return rows
