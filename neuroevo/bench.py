"""A benchmark: arms at equal budget over seeds and splits, each run an ordinary one, then tables of what they came to.

Everything is read back from the runs' folders, so an interrupted benchmark goes on by the same command, and arms and
seeds may be added by another.
"""

import csv
import io
import math
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from neuroevo import arms, composition, config, experiment, identity, inventory, statistics, workers
from neuroevo.arms import Given, Overlay
from neuroevo.config import Config
from neuroevo.data import Dataset
from neuroevo.errors import InputError, RunError
from neuroevo.experiment import Reporter
from neuroevo.identity import Identity
from neuroevo.metrics import LOWER_IS_BETTER
from neuroevo.statistics import Estimate
from neuroevo.storage import claims, rundir
from neuroevo.tuning import tune
from neuroevo.workers import Failure

SHARES = (0.5, 0.8, 0.9, 0.95, 0.99)  # of the way from the start to the best arm: the levels, where none are given
# Images through the backbone depend on what was cached when a run began, and are left to its result.json.
COSTS = ("forward_samples", "backward_samples", "validation_samples")


class Task(NamedTuple):
    """One run of a benchmark."""

    arm: str
    split: int  # data.split_seed
    seed: int
    folder: Path
    config: Config

    def __str__(self) -> str:
        return f"{self.arm}, split {self.split}, seed {self.seed}"


@dataclass(frozen=True)
class Bench:
    """A benchmark as it was asked for."""

    base: dict[str, Any]  # the config that arms share, as it was given, with a memory limit
    overlays: dict[str, Overlay | None]  # by arm; None for one of the table
    samples: int
    seeds: int
    splits: int
    levels: list[float]  # of validation; empty: shares of the way to the best arm
    jobs: int
    command: str
    data: dict[str, Any]  # what the data of each split are, by its number

    def record(self) -> dict[str, Any]:
        """Return what bench.yaml holds."""
        return {
            "config": self.base, "arms": self.overlays, "samples": self.samples, "seeds": self.seeds,
            "splits": self.splits, "levels": self.levels, "jobs": self.jobs, "command": self.command,
            "data": self.data,
            "machine": machine(), "commit": commit(),
        }  # fmt: skip

    def tasks(self, folder: Path, given: Given) -> list[Task]:
        """Return all runs, seed by seed, so that a benchmark that goes on has about as many of each arm."""
        c = config.check(self.base)
        found = []
        for split in range(c.data.split_seed, c.data.split_seed + self.splits):
            for seed in range(c.seed, c.seed + self.seeds):
                for arm, overlay in self.overlays.items():
                    own = arms.applied(self.base, arm, overlay, given, seed, split)
                    found.append(Task(arm, split, seed, folder / rundir.RUNS / arm / f"{split}-{seed}", own))
        return found


def commit() -> str | None:
    """Return the commit of a checkout that the package lies in, marked where files differ from it; None without."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        for words in (
            ["ls-files", "--error-unmatch", Path(__file__).name],
            ["describe", "--always", "--dirty", "--exclude=*"],
        ):
            found = subprocess.run([*git, *words], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def machine() -> str:
    """Return what a benchmark runs on."""
    graphics = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.platform()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads{graphics}"


def run(
    file: str, names: Sequence[str], seeds: int, splits: int, budget: str | None, jobs: int, levels: Sequence[float],
    sets: Sequence[str], out: str | None, reporter: Reporter,
) -> Path:  # fmt: skip
    """Run what is missing of a benchmark in `out`, beginning it where there is none; return the folder."""
    base = config.override(config.read(file), sets, reporter.note)
    c = config.check(base)
    overlays = arms.listed(names)
    counted(seeds=seeds, splits=splits, jobs=jobs)
    out = str(rundir.OUT / f"{Path(file).stem}-bench") if out is None else out
    claims.check(out, bench=True)
    ready = experiment.prepared(c)
    check_splits(c, ready.given[0], splits)
    given = given_to_arms(c, ready.given[1], budget)
    samples = given.samples
    # What is free differs from run to run; slices, and with them rounding, must not.
    assert ready.config.memory.limit is not None
    limit = c.memory.limit or ready.config.memory.limit // jobs
    base = base | {"memory": {**(base.get("memory") or {}), "limit": limit}}
    bench = Bench(base, overlays, samples, seeds, splits, sorted(levels), jobs, experiment.command(), {})
    with claims.claimed(out, "", 0, bench=True) as claim:
        there = (claim.folder / rundir.BENCH).exists()
        try:
            if there:
                bench = joined(opened(claim.folder), bench, claim.folder)
            tasks = bench.tasks(claim.folder, given)
            demand(bench.base, bench.overlays, {task.arm: task.config for task in tasks})
            bench = same_data(bench, claim.folder, reporter)
        except InputError:  # a wrong arm leaves nothing behind
            if not there:
                claim.clear()
            raise
        return finished(claim.folder, bench, tasks, reporter)


def demand(base: Mapping[str, Any], overlays: Mapping[str, Overlay | None], configs: Mapping[str, Config]) -> None:
    """See that each key has an effect in some arm, and nothing spoils an arm of the user's own; InputError if not."""
    nowhere: dict[str, str] | None = None
    for arm, overlay in overlays.items():
        idle = config.without_effect(configs[arm])
        for key, why in idle.items():
            if overlay is not None and config.gives(overlay, key):
                raise InputError(f"arm {arm}: {key} has no effect: {why}")
        if overlay is not None or arm == "config":
            try:
                config.spoilt(configs[arm])
            except InputError as error:
                raise InputError(f"arm {arm}: {error}") from None
        nowhere = idle if nowhere is None else {key: why for key, why in idle.items() if key in nowhere}
    for key, why in (nowhere or {}).items():
        if config.gives(base, key):
            raise InputError(f"{key} has no effect in any arm: {why}")


def check_splits(c: Config, whole: Dataset, splits: int) -> None:
    """See that several splits differ; InputError where the data bring their own along."""
    if splits > 1 and len(inventory.own_splits(whole)) == 2 and not (c.data.limit or c.data.long_tail):
        raise InputError(f"--splits: {splits} given, but the data have splits of their own: all would be the same")


def counted(**options: int) -> None:
    """Raise InputError for an option of the command line that isn't one or more."""
    for name, count in options.items():
        if count < 1:
            raise InputError(f"--{name}: {count} given, one or more expected")


def given_to_arms(c: Config, splits: Mapping[str, torch.Tensor], budget: str | None) -> Given:
    """Return what arms are told, with the budget that is asked for or the config's own."""
    given = sizes(c, splits)
    return given._replace(samples=asked(budget) or own_budget(c, given))


def resume(run_dir: str, reporter: Reporter) -> Path:
    """Go on with a benchmark; one that is finished is left as it is, its tables written anew."""
    folder = Path(run_dir)
    with claims.locked(folder):
        bench = opened(folder)
        c = config.check(bench.base)
        given = sizes(c, experiment.prepared(c).given[1])._replace(samples=bench.samples)
        bench = same_data(bench, folder, reporter)
        return finished(folder, bench, bench.tasks(folder, given), reporter)


def opened(folder: Path) -> Bench:
    """Read what a benchmark was asked for."""
    raw = config.read(str(folder / rundir.BENCH))
    file, wrote = folder / rundir.BENCH, "a benchmark's folder has what neuroevo bench wrote"
    keys = ("config", "arms", "samples", "seeds", "splits", "levels", "jobs", "command")
    for key in keys:
        if key not in raw:
            raise InputError(f"{file}: {key} is missing; {wrote}")
    memory = raw["config"].get("memory") if isinstance(raw["config"], dict) else None
    overlays = raw["arms"] if isinstance(raw["arms"], dict) else {"": ""}
    data = raw.get("data") or {}
    right = {
        "config": isinstance(memory, dict) and memory.get("limit") is not None,
        "arms": all(overlay is None or isinstance(overlay, dict) for overlay in overlays.values()),
        **{key: rundir.count(raw[key]) and raw[key] > 0 for key in ("samples", "seeds", "splits", "jobs")},
        "levels": isinstance(raw["levels"], list) and all(map(rundir.number, raw["levels"])),
        "command": isinstance(raw["command"], str),
        "data": isinstance(data, dict) and all(map(Identity.is_record, data.values())),
    }
    for key, fine in right.items():
        if not fine:
            raise InputError(f"{file}: {key} is damaged; {wrote}")
    values = {"base" if key == "config" else "overlays" if key == "arms" else key: raw[key] for key in keys}
    return Bench(**values, data=data)


def same_data(bench: Bench, folder: Path, reporter: Reporter) -> Bench:
    """Return a benchmark with what its data are; InputError where they aren't those of the runs that it has."""
    found, c = {}, config.check(bench.base)
    for split in range(c.data.split_seed, c.data.split_seed + bench.splits):
        own = replace(c, data=c.data.model_copy(update={"split_seed": split}))
        now = composition.identified(*composition.dataset(own))
        known = bench.data.get(str(split))
        if known is not None:
            line = identity.agree(Identity.from_record(known), now.classes, now, folder / rundir.BENCH)
            if line is not None:
                reporter.note(line)
        found[str(split)] = known or now.record()
    return replace(bench, data=found)


def joined(known: Bench, more: Bench, folder: Path) -> Bench:
    """Return a benchmark with what another command adds to it; InputError where the two don't compare."""
    limit = known.base["memory"]["limit"]  # what was free when it began
    base = more.base | {"memory": more.base["memory"] | {"limit": limit}}
    if known.base != base:
        differ = ", ".join(key for key in {**known.base, **base} if known.base.get(key) != base.get(key))
        raise InputError(f"--out: {folder} holds a benchmark of another config ({differ}); give another --out")
    if known.samples != more.samples:
        raise InputError(f"--out: {folder} holds a benchmark at {known.samples:,} samples; give another --out")
    for arm, overlay in more.overlays.items():
        begun = any((folder / rundir.RUNS / arm).glob(f"*/{rundir.CONFIG}"))
        if begun and arm in known.overlays and known.overlays[arm] != overlay:
            raise InputError(f"--arms: {arm} was another in {folder}; give the file another name")
    return replace(
        more, base=known.base, data=known.data, overlays={**known.overlays, **more.overlays},
        seeds=max(known.seeds, more.seeds), splits=max(known.splits, more.splits), levels=more.levels or known.levels,
    )  # fmt: skip


def asked(budget: str | None) -> int | None:
    """Read `samples=N`; InputError where it is something else."""
    if budget is None:
        return None
    key, _, text = budget.partition("=")
    value = config.parse(text, "--budget")
    if key != "samples" or not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value < math.inf:
        raise InputError(f"--budget {budget}: give it as samples=N, forward + 2 x backward; arms are compared on those")
    return int(value)


def sizes(c: Config, splits: Mapping[str, torch.Tensor]) -> Given:
    """Return what arms are told of the data."""
    return Given(0, len(splits["train"]), len(splits["validation"]))


def own_budget(c: Config, given: Given) -> int:
    """Return the samples that the config's own run takes; InputError where nothing says how many."""
    each, b = composition.generation(c, given.counts), c.budget
    limits = [
        b.samples,
        None if b.generations is None else each.samples * b.generations,
        None if b.forward_samples is None else b.forward_samples * each.samples // max(1, each.forward),
    ]
    known = [limit for limit in limits if limit is not None]
    if not known:
        raise InputError("--budget: the config has no budget in samples or generations; give samples=N")
    return min(known)


def finished(folder: Path, bench: Bench, tasks: list[Task], reporter: Reporter) -> Path:
    """Do what is left of a benchmark, keeping its tables up to date, and write its page; raise what runs failed by."""
    rundir.replace(folder / rundir.BENCH, config.dump(bench.record()).encode())
    left = [task for task in tasks if not done(task)]
    if len(left) < len(tasks):
        reporter.note(f"{folder}: {len(tasks) - len(left)} of {len(tasks)} runs are finished")
    for task in tasks:
        if altered(task):
            reporter.note(f"{task}: was begun with other settings than now; to have it again, delete {task.folder}")
    failed: list[tuple[Task, Failure]] = []
    todo = workers.alone(work, left, reporter) if bench.jobs == 1 else workers.together(
        work, left, bench.jobs, reporter)  # fmt: skip
    try:
        with closing(todo):
            for task, failure in todo:
                reporter.note(f"{task}: {failure.line if failure else outcome(task)}")
                failed += [(task, failure)] if failure else []
                write(folder, bench, tasks)
    finally:
        write(folder, bench, tasks)
    from neuroevo.report import report  # it brings matplotlib along, which no worker needs

    report.report(str(folder))
    if failed:
        first, failure = failed[0]
        kind = InputError if all(failure.of_input for _, failure in failed) else RunError
        raise kind(f"{folder}: {len(failed)} of {len(tasks)} runs failed; the first: {first}: {failure.line}")
    return folder


def altered(task: Task) -> bool:
    """Tell whether a run that there is was begun under another config; one that is tuned isn't looked at."""
    file = task.folder / rundir.CONFIG
    if task.config.tune is not None or not file.exists():
        return False
    try:
        return config.check(config.read(str(file))).record() != task.config.record()
    except InputError:  # its checkpoint has the config, too
        return False


def done(task: Task) -> bool:
    """Tell whether a run came to its end."""
    result, metric = rundir.read_result(task.folder), task.config.validation_metric.name
    champion = result.get("champion", {})
    return result.get("status") == "finished" and all(metric in champion.get(s, {}) for s in ("validation", "test"))


def outcome(task: Task) -> str:
    """Return a finished run in a line."""
    result = rundir.read_result(task.folder)
    metric = task.config.validation_metric.name
    champion = result["champion"]
    return (f"validation {metric} {real(champion['validation'][metric]):.4f}, "
            f"test {real(champion['test'][metric]):.4f}, {result['cost']['seconds']:.0f} s")  # fmt: skip


def real(value: float | None) -> float:
    """Return a number of a result, NaN for one that wasn't finite."""
    return math.nan if value is None else value


def work(task: Task, reporter: Reporter) -> None:
    """Begin a run, or go on with it."""
    if (task.folder / rundir.CONFIG).exists() or claims.holds(task.folder):
        tune.resume(str(task.folder), [], reporter)
    elif task.config.tune is not None:
        tune.run(task.config, str(task.folder), "", reporter)
    else:
        experiment.run(task.config, str(task.folder), "", reporter)


class Found(NamedTuple):
    """What a run came to."""

    task: Task
    row: dict[str, Any]  # of results.csv
    curve: list[tuple[int, int, float, float]]  # generation, samples, seconds, best validation so far
    warnings: list[str]


def read(task: Task) -> Found | None:
    """Read a finished run; None where it isn't finished."""
    if not done(task):
        return None
    metric = task.config.validation_metric.name
    lower = metric in LOWER_IS_BETTER
    result = rundir.read_result(task.folder)
    parts = [(task.folder / rundir.TUNE, result["tuning"]), (task.folder, result)] if "tuning" in result else [
        (task.folder, result)
    ]  # fmt: skip
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
    scores = {f"{split}_{name}": real(champion[split].get(name)) for split in ("validation", "test")
              for name in champion["validation"]}  # fmt: skip
    row = {
        "arm": task.arm, "split": task.split, "seed": task.seed, "status": result["status"],
        "stop_reason": result["stop_reason"], "generations": generation, "champion_kind": champion["kind"],
        "champion_generation": champion["generation"], "validation": real(champion["validation"][metric]),
        "test": real(champion["test"][metric]), **scores, **{key: cost[key] for key in COSTS[:2]}, "samples": samples,
        **{key: cost[key] for key in (*COSTS[2:], "seconds")},
    }  # fmt: skip
    return Found(task, row, curve, result.get("warnings", []))


def write(folder: Path, bench: Bench, tasks: Sequence[Task]) -> None:
    """Write all tables of what is finished."""
    found = [run for run in map(read, tasks) if run is not None]
    metric = tasks[0].config.validation_metric.name
    lower = metric in LOWER_IS_BETTER
    table(folder / rundir.RESULTS, [run.row for run in found])
    curves = [
        {"arm": run.task.arm, "split": run.task.split, "seed": run.task.seed,
         **dict(zip(("generation", "samples", "seconds", "validation"), point, strict=True))}
        for run in found for point in run.curve
    ]  # fmt: skip
    table(folder / rundir.CURVES, curves)
    names = [arm for arm in bench.overlays if any(run.task.arm == arm for run in found)]
    summary = [summarised(arm, found, tasks, lower) for arm in names]
    table(folder / rundir.SUMMARY, summary)
    table(folder / rundir.COMPARISONS, compared(names, found, tasks, lower))
    levels = bench.levels or between(found, summary, lower)
    table(folder / rundir.LEVELS, [reached(arm, level, found, lower) for arm in names for level in levels])
    rundir.write_result(folder, {
        "status": "finished" if len(found) == len(tasks) else "interrupted",
        "metric": metric,
        "lower_is_better": lower,
        "samples": bench.samples,
        "runs": len(found),
        "runs_asked": len(tasks),
        "warnings": warned(names, found),
        "arms": {row["arm"]: {k: v if v == v else None for k, v in row.items() if k != "arm"} for row in summary},
        "versions": experiment.versions(),
    })  # fmt: skip


def warned(names: Sequence[str], found: Sequence[Found]) -> list[str]:
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
    rundir.replace(path, file.getvalue().encode())


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


def summarised(arm: str, found: Sequence[Found], tasks: Sequence[Task], lower: bool) -> dict[str, Any]:
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


def compared(names: Sequence[str], found: Sequence[Found], tasks: Sequence[Task], lower: bool) -> list[dict[str, Any]]:
    """Return the rows of comparisons.csv: test of each pair of arms, by seed and split."""
    rows = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = statistics.compare(scores(a, "test", found, tasks), scores(b, "test", found, tasks), lower)
            rows.append({
                "a": a, "b": b, **spread("difference", both.difference), **spread("probability", both.probability)
            })  # fmt: skip
    return rows


def between(found: Sequence[Found], summary: Sequence[Mapping[str, Any]], lower: bool) -> list[float]:
    """Return levels between the worst first validation of a run and the mean of the best arm."""
    firsts, ends = [run.curve[0][3] for run in found if run.curve], [row["validation_mean"] for row in summary]
    if not firsts:
        return []
    start, end = (max(firsts), min(ends)) if lower else (min(firsts), max(ends))
    return list(dict.fromkeys(round(start + share * (end - start), 4) for share in SHARES))


def reached(arm: str, level: float, found: Sequence[Found], lower: bool) -> dict[str, Any]:
    """Return a row of levels.csv."""
    curves = [[point[1:] for point in run.curve] for run in found if run.task.arm == arm]
    soon = statistics.reach(curves, level, lower)
    known = {"samples_median": soon.samples, "seconds_median": soon.seconds}
    return {
        "arm": arm, "level": level, "reached": soon.reached, "runs": len(curves),
        **{key: "" if math.isinf(value) else value for key, value in known.items()},
    }  # fmt: skip
