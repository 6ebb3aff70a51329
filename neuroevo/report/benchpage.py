"""The content of the page of a bench: arms side by side first, then the best run of each, then how it was made.

Of a bench that is still going on it shows what there is; last lines that are half written are left out.
"""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuroevo import caveats, config
from neuroevo.errors import InputError, ignore
from neuroevo.problems.metric import LOWER_IS_BETTER
from neuroevo.report import figures, page, pairs, plots_of_benches, plots_of_runs
from neuroevo.report.figures import Files, Plot, words
from neuroevo.report.plates import plot_grid
from neuroevo.report.plots_of_benches import Interval, Point
from neuroevo.report.runpage import Run, ancestry, front, over_generations, read, short, warnings
from neuroevo.report.testpage import on_test
from neuroevo.storage import files, records, rundir
from neuroevo.storage.files import Note

Row = dict[str, str]
LARGEST = 1e300  # of a table's numbers
WHOLE = ("split", "seed", "runs", "reached")  # its counts
# Of each table the columns that are text, and what a page needs beside them.
TEXTS = {
    rundir.RESULTS: ("arm", "status", "stop_reason", "champion_kind"),
    rundir.CURVES: ("arm",),
    rundir.SUMMARY: ("arm",),
    rundir.COMPARISONS: ("a", "b"),
    rundir.LEVELS: ("arm",),
}
COLUMNS = {
    rundir.RESULTS: ("split", "seed", "validation", "test"),
    rundir.CURVES: ("split", "seed", "samples", "validation"),
    rundir.SUMMARY: ("runs",),
    rundir.COMPARISONS: ("probability",),
    rundir.LEVELS: ("level", "reached", "runs"),
}


class Bench(NamedTuple):
    """The content of a bench's folder, as far as it goes."""

    folder: Path
    about: dict[str, Any]  # bench.yaml
    result: dict[str, Any]
    arms: list[str]  # the best on validation first
    runs: list[Row]
    summary: dict[str, Row]  # by arm

    @property
    def metric(self) -> str:
        """The metric that champions are named by."""
        return str(self.result.get("metric") or config.check(self.about["config"]).validate.metric.name)

    @property
    def lower_is_better(self) -> bool:
        """Whether that metric, as reported, is better when lower."""
        lower: bool = self.metric in LOWER_IS_BETTER
        return lower

    def of(self, arm: str) -> list[Row]:
        """Return the runs of an arm that came to a result."""
        return [row for row in self.runs if row["arm"] == arm]

    def best(self, arm: str) -> Row | None:
        """Return the run of an arm that did best on validation."""
        better = -1 if self.lower_is_better else 1
        scored = [(value, row) for row in self.of(arm) if (value := figure(row, "validation")) is not None]
        return max(scored, key=lambda pair: better * pair[0])[1] if scored else None

    def run(self, row: Row) -> Run | None:
        """Return the run of a row of the results, or None where its folder isn't there."""
        try:
            folder = rundir.place_run(self.folder, row["arm"], row["split"], row["seed"])
            return read(folder) if folder.is_dir() else None
        except InputError:
            return None


def table(path: Path, note: Note = ignore) -> list[Row]:
    """Return the rows of a CSV file, [] where there is none; a last line that is only half written is left out.

    So are damaged rows: those with other cells than the table has columns, or with text where it has numbers.
    """
    text = files.content(path, note).rpartition(b"\n")[0].decode(errors="replace")
    try:
        rows = list(csv.DictReader(text.splitlines()))
    except csv.Error:
        rows, text = [], ""
    asked = {*COLUMNS.get(path.name, ()), *TEXTS.get(path.name, ())}
    kept = [row for row in rows if asked <= row.keys() and is_sound(row, TEXTS.get(path.name, ()))]
    if len(kept) < len(rows) or (not text and path.exists() and path.stat().st_size):
        note(f"{path}: damaged rows are left out; neuroevo resume writes it anew")
    return kept


def is_sound(row: Row, texts: Sequence[str]) -> bool:
    """Tell whether a row has a cell for each column, a number or nothing but in those of `texts`."""
    if None in row or None in row.values() or not all(row.get(key) for key in texts):
        return False
    try:
        return all(
            abs(float(cell)) < LARGEST and (key not in WHOLE or int(cell) >= 0)
            for key, cell in row.items()
            if cell and key not in texts
        )
    except ValueError:
        return False


def figure(row: Mapping[str, str], key: str) -> float | None:
    """Return a number of a row, or None where there is none."""
    cell = row.get(key)
    value = float(cell) if cell else math.nan
    return value if math.isfinite(value) else None


def interval(row: Mapping[str, str], key: str, mean: str = "_mean") -> Interval:
    """Return a mean of a row and its interval."""
    return Interval(*(figure(row, f"{key}{end}") for end in (mean, f"{mean}_low", f"{mean}_high")))


def mean_text(found: Interval) -> str:
    """Return a mean, and below it its interval in brackets where there is one."""
    ends = "" if found.low is None else f"\n[{page.number(found.low)}, {page.number(found.high)}]"
    return page.number(found.mean) + ends


def read_bench(folder: Path, note: Note = ignore) -> Bench:
    """Read what there is of a bench; `note` is told what is damaged. InputError where that is what makes it one."""
    file = folder / rundir.BENCH
    about = config.read(str(file))
    right = {"config": records.any_mapping, "arms": records.of_arms}
    for key in ("config", "arms", "seeds", "splits", "samples"):
        if not right.get(key, records.count)(about.get(key)):
            raise InputError(f"{file}: {key} is damaged or missing")
    if not all(map(rundir.is_arm, about["arms"])):
        raise InputError(f"{file}: arms is damaged: a name of one can't be a folder's")
    summary = {row["arm"]: row for row in table(folder / rundir.SUMMARY, note)}
    runs = [row for row in table(folder / rundir.RESULTS, note) if row["arm"] in about["arms"]]
    found = Bench(folder, about, rundir.read_result(folder, note), [], runs, summary)
    for name, rows, asked in (
        (rundir.RESULTS, len(runs), found.result.get("runs", 0)),
        (rundir.SUMMARY, len(summary), len(found.result.get("arms", {}))),
    ):
        if rows < asked:
            note(f"{folder / name}: {rows} rows, where {rundir.RESULT} has {asked}; neuroevo resume writes it anew")
    sign = 1 if found.lower_is_better else -1

    def place(arm: str) -> float:
        value = figure(summary.get(arm, {}), "validation_mean")
        return math.inf if value is None else sign * value

    return found._replace(arms=sorted(about["arms"], key=place))


def bench_page(folder: Path, pictures: Files | None, refresh: int | None = None, note: Note = ignore) -> str:
    """Return a bench's page; its plots are written as `pictures` says, if that is given.

    With `refresh` the page loads itself again after so many seconds. What is damaged is left out; the page says so, and
    `note` is told.
    """
    bad: list[str] = []
    found = read_bench(folder, bad.append)
    for name in (rundir.COMPARISONS, rundir.CURVES, rundir.LEVELS):
        table(folder / name, bad.append)
    for line in dict.fromkeys(bad):
        note(line)
    planned = len(found.arms) * found.about["seeds"] * found.about["splits"]
    state = found.result.get("status") or "not finished"
    done = f"{state}: {len(found.runs)} of {planned} runs, {found.about['samples']:,} samples each at most"
    told = map(page.note, dict.fromkeys(bad))
    body = (
        page.section(
            "Result",
            page.warnings(found.result.get("warnings", [])),
            page.note(done),
            summary(found),
            pairs.table(table(found.folder / rundir.COMPARISONS), found.lower_is_better),
            plot_grid(probabilities(found), pictures),
            *told,
        )
        + page.section("On the way", plot_grid([*curves(found), *costs(found)], pictures), levels(found))
        + page.section("Runs", plot_grid(spread(found), pictures), every_run(found))
        + "".join(best_run(found, arm, pictures) for arm in found.arms)
        + page.section("How it was made", *origin_of_bench(found))
    )
    return page.document(f"neuroevo bench: {folder.resolve().name}", body, refresh)


def summary(found: Bench) -> str:
    """Return the table of arms, the best on validation first."""
    metric = words(found.metric)
    rows: list[list[Any]] = []
    for arm in found.arms:
        row = found.summary.get(arm)
        if row is None:
            rows.append([arm, *[None] * 7])
            continue
        gap = interval(row, "gap", "")
        means = [interval(row, "validation"), interval(row, "test"), interval(row, "test", "_iqm"), gap]
        cost = [figure(row, key) for key in ("samples_mean", "seconds_mean")]
        rows.append([arm, int(row["runs"]), *map(mean_text, means), *cost])
    header = ["arm", "runs", f"validation {metric}", f"test {metric}", "test IQM", "gap", "samples", "seconds"]
    order = "lower" if found.lower_is_better else "higher"
    caption = (
        f"Means over runs, in brackets their 95 % intervals; arms in the order of validation, where {order} is better. "
        "IQM: mean of the middle half of the runs. Gap: how much better the champion is on validation than on test, "
        "which is how far being selected flatters it."
    )
    return page.grid(header, rows, caption)


def probabilities(found: Bench) -> list[Plot]:
    """Draw the probability that one arm does better than another."""
    values: dict[tuple[str, str], float] = {}
    for row in table(found.folder / rundir.COMPARISONS):
        probability = figure(row, "probability")
        if probability is not None:
            values |= {(row["b"], row["a"]): 1 - probability, (row["a"], row["b"]): probability}
    return [plots_of_benches.probabilities("probability", found.arms, values)] if values else []


def curves(found: Bench) -> list[Plot]:
    """Draw the arms' best validation so far against samples."""
    drawn: dict[str, list[Point]] = {}
    rows = table(found.folder / rundir.CURVES)
    for arm in found.arms:
        runs: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for row in rows:
            samples, value = figure(row, "samples"), figure(row, "validation")
            if row["arm"] == arm and samples is not None and value is not None:
                runs.setdefault((row["split"], row["seed"]), []).append((samples, value))
        if runs:
            drawn[arm] = average(list(runs.values()))
    return [plots_of_benches.curves("curves", drawn, found.metric, list(found.about["arms"]))] if drawn else []


def average(runs: Sequence[Sequence[tuple[float, float]]]) -> list[Point]:
    """Return the mean and the range of runs' (samples, best so far) wherever one of them has a new value.

    From where all have one; a run that has ended keeps its last.
    """
    first = max(run[0][0] for run in runs)
    grid = np.array(sorted({samples for run in runs for samples, _ in run if samples >= first}))

    def on_grid(run: Sequence[tuple[float, float]]) -> Any:
        samples, values = zip(*run, strict=True)
        return np.array(values)[np.searchsorted(samples, grid, "right") - 1]

    values = np.stack([on_grid(run) for run in runs])
    columns = (grid, values.mean(0), values.min(0), values.max(0))
    return [Point(*point) for point in zip(*(column.tolist() for column in columns), strict=True)]


def costs(found: Bench) -> list[Plot]:
    """Draw the mean cost of each arm's runs."""
    rows = {arm: found.of(arm) for arm in found.arms if found.of(arm)}
    means = {
        arm: {key: float(np.mean([figure(run, key) or 0.0 for run in runs])) for key in plots_of_runs.COSTS.values()}
        for arm, runs in rows.items()
    }
    return [plots_of_runs.costs("cost", means)] if means else []


def levels(found: Bench) -> str:
    """Return the table of samples and seconds that arms needed to levels of validation."""
    rows = table(found.folder / rundir.LEVELS)
    asked = sorted({row["level"] for row in rows}, key=float, reverse=found.lower_is_better)

    def cell(arm: str, level: str) -> str:
        row = next((row for row in rows if (row["arm"], row["level"]) == (arm, level)), None)
        if row is None:
            return "-"
        samples, seconds = figure(row, "samples_median"), figure(row, "seconds_median")
        share = f"{row['reached']} of {row['runs']}"
        if samples is None or seconds is None:
            return f"-\n{share}"
        return f"{figures.count_text(samples)}, {seconds:,.1f} s" + (
            "" if row["reached"] == row["runs"] else f"\n{share}"
        )

    lines = [[arm, *(cell(arm, level) for level in asked)] for arm in found.arms if arm in {row["arm"] for row in rows}]
    caption = (
        f"Samples and seconds to levels of validation {words(found.metric)}, medians over runs; a dash where half of "
        "the runs or more did not reach it, and below it how many did."
    )
    return page.grid(["arm", *asked], lines, caption) if lines else ""


def spread(found: Bench) -> list[Plot]:
    """Draw each run's test, and its gap between validation and test, by arm."""
    test: dict[str, tuple[list[float], Interval]] = {}
    gap: dict[str, tuple[list[float], Interval]] = {}
    sign = -1 if found.lower_is_better else 1
    for arm in found.arms:
        pairs = [(figure(row, "validation"), figure(row, "test")) for row in found.of(arm)]
        scored = [(validation, value) for validation, value in pairs if validation is not None and value is not None]
        row = found.summary.get(arm, {})
        if scored:
            test[arm] = [value for _, value in scored], interval(row, "test")
            between = interval(row, "gap", "")
            gap[arm] = [sign * (validation - value) for validation, value in scored], between
    if not test:
        return []
    about = "Each run a dot; the line is their mean, the bar its interval."
    metric, series = words(found.metric), list(found.about["arms"])
    return [
        plots_of_benches.distributions(
            "test", test, series, title="Champions on test", caption=about, xlabel=f"test {metric}"
        ),
        plots_of_benches.distributions(
            "gap",
            gap,
            series,
            title="Better on validation than on test",
            caption=f"By how much the champion is. {about}",
            xlabel=f"{'test - validation' if sign < 0 else 'validation - test'} {metric}",
            zero=True,
        ),
    ]


def every_run(found: Bench) -> str:
    """Return the table of all runs, folded away."""
    if not found.runs:
        return ""
    rows = [
        [cell if _text(cell) else float(cell) if "." in cell else int(cell) for cell in row.values()]
        for row in found.runs
    ]
    kinds = dict.fromkeys(row["champion_kind"] for row in found.runs)
    about = [f"{kind}: {caveats.MADE_OF[kind]}." for kind in kinds if kind in caveats.MADE_OF]
    return page.details("all runs", page.grid([words(key) for key in found.runs[0]], rows, " ".join(about)))


def _text(cell: str) -> bool:
    """Tell whether a cell is no plain number."""
    return re.fullmatch(r"-?\d+(\.\d+(e-?\d+)?)?", cell) is None


def best_run(found: Bench, arm: str, pictures: Files | None) -> str:
    """Return the section of an arm's best run."""
    row = found.best(arm)
    if row is None:
        return page.section(arm, page.note("No run is finished yet."))
    run = found.run(row)
    if run is None or not run.history:
        return page.section(arm, page.note("The folder of the best run isn't there."))
    prefix = f"{re.sub('[^A-Za-z0-9_-]+', '-', arm)}-"
    title = f"{arm}: the best run on validation (split {row['split']}, seed {row['seed']})"
    return page.section(
        title,
        warnings(run),
        page.name_table(short(run)),
        plot_grid([plots_of_runs.fitness("fitness", run.history), *over_generations(run)], pictures, prefix),
        *on_test(run.folder, pictures, prefix),
        *ancestry(run, pictures, prefix),
        plot_grid(front(run), pictures, prefix),
    )


def origin_of_bench(found: Bench) -> list[str]:
    """Return the command that made a bench, what it ran on, and its configs."""
    about = found.about
    run = found.run(found.runs[0]) if found.runs else None
    facts = [("machine", str(about.get("machine"))), ("commit", str(about.get("commit") or "unknown"))]
    facts += [(key, page.number(about[key])) for key in ("seeds", "splits", "samples")]
    overlays = [
        (arm, "\n".join(dotted_lines(overlay or {})) or "as neuroevo list arm has it")
        for arm, overlay in about["arms"].items()
    ]
    return [
        page.text(str(about.get("command"))),
        page.name_table(facts),
        page.details("arms: what each changes in the config", page.name_table(overlays)),
        page.details("versions", page.name_table(page.flat(run.result.get("versions", {})))) if run else "",
        page.details("config of all arms", page.text("\n".join(dotted_lines(about["config"])))),
    ]


def dotted_lines(given: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a config as lines of dotted keys and values, such as --set takes."""
    lines: list[str] = []
    for key, value in given.items():
        name = f"{prefix}{key}"
        lines += dotted_lines(value, f"{name}.") if isinstance(value, dict) else [f"{name}={json.dumps(value)}"]
    return lines
