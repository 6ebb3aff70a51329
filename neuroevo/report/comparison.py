"""The content of a page of several runs side by side: their figures, the settings that differ, curves in one plot.

Where two runs predicted the same test samples, their difference is paired, sample by sample.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

from neuroevo.errors import InputError, ignore
from neuroevo.report import overview, page, plots_of_benches, plots_of_runs, runpage
from neuroevo.report.figures import Files, Plot, words
from neuroevo.report.plates import plot_grid
from neuroevo.report.plots_of_benches import Point
from neuroevo.report.runpage import Run
from neuroevo.storage import predictions, rundir
from neuroevo.storage.files import Note
from neuroevo.storage.predictions import Prediction

Z = NormalDist().inv_cdf(0.975)
OF_DATA = ("data.root", "data.file")
LEFT_OUT = (
    "Intervals are 95 %, of the test samples alone: what another seed or another split would change is not in them, "
    "nor is that the best of several runs looks better than it is. neuroevo bench repeats each over seeds."
)


class Paired(NamedTuple):
    """Two runs on the same test samples."""

    samples: int
    first: int  # that only the first predicts right
    second: int  # that only the second does
    difference: float  # of accuracy, second minus first
    low: float  # the ends of its 95 % interval
    high: float


def pair(first: Sequence[Prediction], second: Sequence[Prediction]) -> Paired | None:
    """Compare two runs' predictions of test, paired; None where they aren't of the same samples.

    The interval is that of Agresti and Min 2005: Wald's, after half a sample is added to each of the four cells.
    """
    one, other = ({(row.sample, row.file, row.label): row.right for row in rows} for rows in (first, second))
    if not one or one.keys() != other.keys():
        return None
    counts = Counter((one[key], other[key]) for key in one)
    n, b, c = len(one), counts[True, False], counts[False, True]
    share = (c - b) / (n + 2)
    half = Z * math.sqrt(max(0.0, (b + c + 1) / (n + 2) - share**2) / (n + 2))
    return Paired(n, b, c, (c - b) / n, max(-1.0, share - half), min(1.0, share + half))


class Compared(NamedTuple):
    """Several runs by name, as far as they go."""

    runs: dict[str, Run]
    tests: dict[str, list[Prediction]]  # of the test split
    bad: list[str]  # what is damaged


def read(folders: Sequence[Path], note: Note = ignore) -> Compared:
    """Read several runs; what is damaged is left out, and `note` is told. InputError where one has no generation."""
    bad: list[str] = []
    runs, tests = {}, {}
    for name, folder in zip(labels(folders), folders, strict=True):
        run = runpage.read(folder, bad.append, compare=True)
        if not run.history:
            raise InputError("; ".join([f"{folder}: no generation is recorded yet", *bad]))
        runs[name] = run
        rundir.check_beside(folder, bad.append)
        tests[name] = [row for row in predictions.read(folder, bad.append) if row.split == "test"]
    bad = list(dict.fromkeys(bad))
    for line in bad:
        note(line)
    return Compared(runs, tests, bad)


def comparison_page(given: Compared, pictures: Files) -> str:
    """Return the page of several runs; its plots are written as `pictures` says."""
    runs = given.runs
    costs = plots_of_runs.costs("cost", {name: run.cost for name, run in runs.items()})
    body = (
        page.section("Runs", page.grid(*of_runs(runs)), page.note(LEFT_OUT), *map(page.note, given.bad))
        + page.section("Paired differences on test", *differences(given.tests))
        + page.section("Settings that differ", *settings(runs))
        + page.section("Progress", plot_grid([*curves(runs), costs], pictures))
        + page.section("What the runs are of", *(of_one(name, run) for name, run in runs.items()))
    )
    return page.document(f"neuroevo: {', '.join(runs)}", body)


def labels(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, with as many of those above it as tell all apart."""
    parts = [folder.resolve().parts for folder in folders]
    for k in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-k:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("the same run twice; name each once")


def of_runs(runs: Mapping[str, Run]) -> tuple[list[str], list[list[Any]]]:
    """Return the header and the rows of the table of runs: figures with intervals, and what each took."""
    rows = []
    for name, run in runs.items():
        test, metric, cost = run.champion.get("test", {}), run.metric, run.cost
        ends = test.get("interval", {}).get(metric)
        on_test = page.number(test.get(metric)) + (f"\n[{', '.join(map(page.number, ends))}]" if ends else "")
        best = [value for _, _, value in runpage.validations(run)]
        validation = run.champion.get("validation", {}).get(metric, best[-1] if best else None)
        samples = int(cost["forward_samples"] + 2 * cost["backward_samples"])
        state = run.result.get("status", "not finished")
        rows.append([name, words(metric), validation, on_test, run.generation, samples, cost["seconds"], state])
    return ["run", "metric", "validation", "test", "generations", "samples", "seconds", "status"], rows


def differences(tests: Mapping[str, Sequence[Prediction]]) -> list[str]:
    """Return the table of each run against the first, where both predicted the same test samples."""
    (first, base), *others = tests.items()
    rows: list[list[Any]] = []
    apart = []
    for name, test in others:
        found = pair(base, test)
        if found is None:
            apart.append(name)
            continue
        ends = f"[{page.number(found.low)}, {page.number(found.high)}]"
        rows.append([name, f"{found.difference:+.4f}\n{ends}", found.second, found.first, found.samples])
    header = ["run", f"accuracy beside {first}", "right here only", f"right in {first} only", "samples"]
    about = (
        f"Each run against {first}, the one named first, on the same test samples: the difference of accuracy with its "
        "95 % interval (Agresti and Min 2005). One that has 0 within it may be by chance."
    )
    gone = f"Not paired, since the test samples are others or not recorded: {', '.join(apart)}." if apart else ""
    return [page.grid(header, rows, about) if rows else "", page.note(gone) if gone else ""]


def settings(runs: Mapping[str, Run]) -> list[str]:
    """Return the table of settings in which the runs differ, a column a run."""
    configs = [flatten(run.config) for run in runs.values()]
    keys = [key for key in dict.fromkeys(key for each in configs for key in each) if key not in OF_DATA]
    rows = []
    for key in keys:
        values = [text_of(each, key) for each in configs]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return [page.grid(["setting", *runs], rows)] if rows else [page.note("None: the configs are the same.")]


def text_of(config: Mapping[str, Any], key: str) -> str:
    """Return a setting as text; a dash where there is none."""
    if key not in config:
        return "-"
    return config[key] if isinstance(config[key], str) else json.dumps(config[key], default=str)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def curves(runs: Mapping[str, Run]) -> list[Plot]:
    """Draw the runs' best validation so far against samples; those by another metric have a plot of their own."""
    metrics, drawn = list(dict.fromkeys(run.metric for run in runs.values())), []
    for metric in metrics:
        each = {name: runpage.validations(run) for name, run in runs.items() if run.metric == metric}
        points = {name: [Point(x, best, best, best) for x, _, best in rows] for name, rows in each.items() if rows}
        if points:
            name = "curves" if len(metrics) == 1 else f"curves-{metric}"
            plot = plots_of_benches.curves(name, points, metric, list(runs))
            drawn.append(plot._replace(caption="The best validation so far of each run."))
    return drawn


def of_one(name: str, run: Run) -> str:
    """Return what one run is of, under its name."""
    classes = rundir.read_confusion(run.folder)
    rows = overview.rows(run.config, run.result, classes[0] if classes else ())
    return f"<h3>{page.escape(name)}</h3>{runpage.warnings(run)}{page.name_table(rows)}"
