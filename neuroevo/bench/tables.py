"""Tables of a benchmark's results."""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuroevo.bench import statistics
from neuroevo.bench.statistics import Estimate
from neuroevo.bench.tasks import COSTS, SHARES, Task, is_done, real
from neuroevo.problems.metric import LOWER_IS_BETTER
from neuroevo.storage import files, rundir


class Found(NamedTuple):
    """The result of a run."""

    task: Task
    row: dict[str, Any]  # of results.csv
    curve: list[tuple[int, int, float, float]]  # generation, samples, seconds, best validation so far
    result: dict[str, Any]  # as its file has it

    @property
    def warnings(self) -> list[str]:
        """The lines that its reader must know."""
        found: list[str] = self.result.get("warnings", [])
        return found


def read(task: Task) -> Found | None:
    """Read a finished run; None where it isn't finished."""
    if not is_done(task):
        return None
    metric = task.config.validate.metric.name
    lower = metric in LOWER_IS_BETTER
    result = rundir.read_result(task.folder)
    parts = [(task.folder, result)]
    if "tuning" in result:
        parts.insert(0, (task.folder / rundir.TUNE, result["tuning"]))
    cost = {key: sum(part["cost"][key] for _, part in parts) for key in (*COSTS, "seconds")}
    curve: list[tuple[int, int, float, float]] = []
    generation, samples, seconds, best = 0, 0, 0.0, math.inf if lower else -math.inf
    for folder, part in parts:
        for line in rundir.read_history(folder):
            # A search's trials are thrown away: they cost, but nobody gets what they reached.
            if folder is task.folder and line["validation"] is not None:
                best = (min if lower else max)(best, line["validation"])
                spent = line["forward_samples"] + 2 * line["backward_samples"]
                point = generation + line["generation"], samples + spent, seconds + line["seconds"], best
                curve.append(point)
        generation += part["generations"] if "generations" in part else part["iterations"]
        samples += part["cost"]["forward_samples"] + 2 * part["cost"]["backward_samples"]
        seconds += part["cost"]["seconds"]
    champion = result["champion"]
    if "folds" in result:  # nobody gets their searches' networks, and its own end is all that it is known for
        cost = {key: result["cost"][key] for key in cost}
        samples, seconds = cost["forward_samples"] + 2 * cost["backward_samples"], cost["seconds"]
        curve = [(generation, samples, seconds, real(champion["validation"][metric]))]
    scores = {
        f"{split}_{name}": real(champion[split].get(name))
        for split in ("validation", "test")
        for name in champion["validation"]
    }
    row = {
        "arm": task.arm,
        "split": task.split,
        "seed": task.seed,
        "status": result["status"],
        "stop_reason": result["stop_reason"],
        "generations": generation,
        "champion_kind": champion["kind"],
        "champion_generation": champion["generation"],
        "validation": real(champion["validation"][metric]),
        "test": real(champion["test"][metric]),
        **scores,
        **{key: cost[key] for key in COSTS[:2]},
        "samples": samples,
        **{key: cost[key] for key in (*COSTS[2:], "seconds")},
    }
    return Found(task, row, curve, result)


def count_warnings(names: Sequence[str], found: Sequence[Found]) -> list[str]:
    """Return the warnings of all runs by arm, each with the number of runs that have it."""
    lines = []
    for arm in names:
        own = [run for run in found if run.task.arm == arm]
        for line, count in Counter(line for run in own for line in run.warnings).items():
            lines.append(f"{arm}, {count} of {len(own)} runs: {line}")
    return lines


def table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns as CSV; what isn't known is empty."""
    file = io.StringIO()
    if rows:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)
    files.replace(path, file.getvalue().encode())


def scores(arm: str, column: str, found: Sequence[Found], tasks: Sequence[Task]) -> statistics.Scores:
    """Return an arm's column of results.csv as [splits, seeds], NaN where a run isn't finished."""
    splits, seeds = (sorted({getattr(task, name) for task in tasks}) for name in ("split", "seed"))
    values = np.full((len(splits), len(seeds)), np.nan)
    for run in found:
        if run.task.arm == arm:
            values[splits.index(run.task.split), seeds.index(run.task.seed)] = run.row[column]
    return values


def spread(name: str, estimate: Estimate) -> dict[str, float]:
    """Return an estimate as three columns."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def summary_row(arm: str, found: Sequence[Found], tasks: Sequence[Task], lower: bool) -> dict[str, Any]:
    """Return an arm's row of summary.csv."""
    test, validation = (scores(arm, column, found, tasks) for column in ("test", "validation"))
    # How much better the champion looked where it was chosen.
    gap = test - validation if lower else validation - test
    own = [run.row for run in found if run.task.arm == arm]
    return {
        "arm": arm,
        "runs": len(own),
        **spread("test_mean", statistics.estimate(test)),
        **spread("test_iqm", statistics.estimate(test, statistics.interquartile_mean)),
        **spread("validation_mean", statistics.estimate(validation)),
        **spread("gap", statistics.estimate(gap)),
        "samples_mean": sum(row["samples"] for row in own) / len(own),
        "seconds_mean": sum(row["seconds"] for row in own) / len(own),
    }


def comparison_rows(
    names: Sequence[str], found: Sequence[Found], tasks: Sequence[Task], lower: bool
) -> list[dict[str, Any]]:
    """Return the rows of comparisons.csv: test of each pair of arms, by seed and split."""
    rows = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = statistics.compare(scores(a, "test", found, tasks), scores(b, "test", found, tasks), lower)
            columns = spread("difference", both.difference) | spread("probability", both.probability)
            rows.append({"a": a, "b": b, **columns})
    return rows


def levels_between(found: Sequence[Found], summary: Sequence[Mapping[str, Any]], lower: bool) -> list[float]:
    """Return levels between the worst first validation of a run and the mean of the best arm."""
    firsts, ends = [run.curve[0][3] for run in found if run.curve], [row["validation_mean"] for row in summary]
    if not firsts:
        return []
    start, end = (max(firsts), min(ends)) if lower else (min(firsts), max(ends))
    return list(dict.fromkeys(round(start + share * (end - start), 4) for share in SHARES))


def level_row(arm: str, level: float, found: Sequence[Found], lower: bool) -> dict[str, Any]:
    """Return a row of levels.csv."""
    curves = [[point[1:] for point in run.curve] for run in found if run.task.arm == arm]
    soon = statistics.reach(curves, level, lower)
    known = {"samples_median": soon.samples, "seconds_median": soon.seconds}
    medians = {key: "" if math.isinf(value) else value for key, value in known.items()}
    return {"arm": arm, "level": level, "reached": soon.reached, "runs": len(curves), **medians}
