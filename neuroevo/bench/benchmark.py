"""A benchmark: arms at equal budget over seeds and splits, each run an ordinary one, then tables of what they came to.

Everything is read back from the runs' folders, so an interrupted benchmark goes on by the same command, and arms and
seeds may be added by another.
"""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neuroevo import config, devices
from neuroevo.bench import arms, closed, workers
from neuroevo.bench import jobs as jobs_
from neuroevo.bench.arms import Given, Overlay
from neuroevo.bench.tables import comparison_rows, count_warnings, level_row, levels_between, read, summary_row, table
from neuroevo.bench.tasks import Bench, Task, differs, is_done, outcome
from neuroevo.bench.workers import Failure
from neuroevo.config import Config
from neuroevo.data import identity, inventory
from neuroevo.data.datasets import Dataset
from neuroevo.data.identity import Identity
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError, RunError
from neuroevo.experiments import build, costs, experiment, folds, log, moves
from neuroevo.experiments.interruption import Interruption
from neuroevo.problems.metric import LOWER_IS_BETTER
from neuroevo.remote.cluster import Spread
from neuroevo.storage import claims, files, records, rundir
from neuroevo.tuning import tune

POINT = ("generation", "samples", "seconds", "validation")  # columns of curves.csv beside the run's


def run(
    file: str,
    names: Sequence[str],
    observer: Observer,
    signals: Interruption,
    *,
    seeds: int,
    splits: int,
    jobs: int | str,
    budget: str | None = None,
    levels: Sequence[float] = (),
    sets: Sequence[str] = (),
    out: str | None = None,
) -> Path:
    """Run what is missing of a benchmark in `out`, beginning it where there is none; return the folder."""
    base = config.override(config.read(file), sets, observer.note)
    c = config.check(base)
    overlays = arms.read_arms(names)
    check_counts(seeds=seeds, splits=splits)
    asked = jobs_.read(jobs)
    out = str(rundir.OUT / f"{Path(file).stem}-bench") if out is None else out
    claims.check(out, bench=True)
    ready = experiment.prepare(c)
    check_splits(c, ready.given[0], splits)
    given = terms(c, ready.given[1], budget)
    samples = given.samples
    # What is free differs from run to run; slices, and with them rounding, must not.
    assert ready.config.memory.limit is not None
    limit = c.memory.limit or ready.config.memory.limit // asked.share
    base = base | {"memory": {**(base.get("memory") or {}), "limit": limit}}
    bench = Bench(base, overlays, samples, seeds, splits, sorted(levels), jobs, signals.command, {})
    with claims.claim(out, "", 0, bench=True) as claim:
        try:
            if (claim.folder / rundir.BENCH).exists():
                bench = merge(read_bench(claim.folder), bench, claim.folder)
            tasks = bench.tasks(claim.folder, given)
            demand(bench.base, bench.overlays, {task.arm: task.config for task in tasks})
            bench = same_data(bench, claim.folder, observer)
            return complete(claim.folder, bench, tasks, observer, signals)
        except InputError:  # a wrong arm, or a cluster that can't be had, leaves nothing behind
            if not (claim.folder / rundir.BENCH).exists():
                claim.clear()
            raise


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
                config.check_sense(configs[arm])
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


def check_counts(**options: int) -> None:
    """Raise InputError for an option of the command line that isn't one or more."""
    for name, count in options.items():
        if count < 1:
            raise InputError(f"--{name}: {count} given, one or more expected")


def terms(c: Config, splits: Mapping[str, torch.Tensor], budget: str | None) -> Given:
    """Return the terms that arms are told, with the budget that is asked for or the config's own."""
    given = sizes(c, splits)
    return given._replace(samples=parse_budget(budget) or own_budget(c, given))


def resume(run_dir: str, observer: Observer, signals: Interruption) -> Path:
    """Go on with a benchmark; one that is finished is left as it is, its tables written anew."""
    folder = Path(run_dir)
    with claims.lock(folder):
        bench = read_bench(folder)
        c = config.check(bench.base)
        given = sizes(c, experiment.prepare(c).given[1])._replace(samples=bench.samples)
        bench = same_data(bench, folder, observer)
        return complete(folder, bench, bench.tasks(folder, given), observer, signals)


def read_bench(folder: Path) -> Bench:
    """Read a benchmark's file."""
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
        "arms": all(map(rundir.is_arm, overlays)) and all(o is None or isinstance(o, dict) for o in overlays.values()),
        **{key: records.count(raw[key]) and raw[key] > 0 for key in ("samples", "seeds", "splits")},
        "jobs": are_jobs(raw["jobs"]),
        "levels": isinstance(raw["levels"], list) and all(map(records.number, raw["levels"])),
        "command": isinstance(raw["command"], str),
        "data": isinstance(data, dict) and all(map(Identity.is_record, data.values())),
    }
    for key, fine in right.items():
        if not fine:
            raise InputError(f"{file}: {key} is damaged; {wrote}")
    values = {"base" if key == "config" else "overlays" if key == "arms" else key: raw[key] for key in keys}
    return Bench(**values, data=data)


def are_jobs(given: Any) -> bool:
    """Tell whether something is what `--jobs` takes."""
    try:
        jobs_.read(given)
    except InputError:
        return False
    return not isinstance(given, bool)


def same_data(bench: Bench, folder: Path, observer: Observer) -> Bench:
    """Return a benchmark with what its data are; InputError where they aren't those of the runs that it has."""
    found, c = {}, config.check(bench.base)
    for split in range(c.data.split_seed, c.data.split_seed + bench.splits):
        own = replace(c, data=c.data.model_copy(update={"split_seed": split}))
        now = build.identify(*build.dataset(own))
        known = bench.data.get(str(split))
        if known is not None:
            line = identity.agree(Identity.from_record(known), now.classes, now, folder / rundir.BENCH)
            if line is not None:
                observer.note(line)
        found[str(split)] = known or now.record()
    return replace(bench, data=found)


def merge(known: Bench, more: Bench, folder: Path) -> Bench:
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
        more,
        base=known.base,
        data=known.data,
        overlays={**known.overlays, **more.overlays},
        seeds=max(known.seeds, more.seeds),
        splits=max(known.splits, more.splits),
        levels=more.levels or known.levels,
    )


def parse_budget(budget: str | None) -> int | None:
    """Read `samples=N`; InputError where it is something else."""
    if budget is None:
        return None
    key, _, text = budget.partition("=")
    value = config.parse(text, "--budget")
    if key != "samples" or not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value < math.inf:
        raise InputError(f"--budget {budget}: give it as samples=N, forward + 2 x backward; arms are compared on those")
    return int(value)


def sizes(c: Config, splits: Mapping[str, torch.Tensor]) -> Given:
    """Return the sizes of the data, as arms are told them."""
    return Given(0, len(splits["train"]), len(splits["validation"]))


def own_budget(c: Config, given: Given) -> int:
    """Return the samples that the config's own run takes; InputError where nothing says how many."""
    each, b = costs.generation(c, given.counts), c.budget
    limits = [
        b.samples,
        None if b.generations is None else each.samples * b.generations,
        None if b.forward_samples is None else b.forward_samples * each.samples // max(1, each.forward),
    ]
    known = [limit for limit in limits if limit is not None]
    if not known:
        raise InputError("--budget: the config has no budget in samples or generations; give samples=N")
    return min(known)


def complete(folder: Path, bench: Bench, tasks: list[Task], observer: Observer, signals: Interruption) -> Path:
    """Do what is left of a benchmark, keeping its tables up to date, and write its page; raise what runs failed by."""
    left, jobs = [task for task in tasks if not is_done(task)], jobs_.read(bench.jobs)
    for task in left if jobs.remote else ():
        if task.config.remote is not None and task.config.remote.workers != 0:
            why = f"with --jobs {bench.jobs} runs have no workers of their own; give 0"
            raise InputError(f"arm {task.arm}: remote.workers: {task.config.remote.workers} given; {why}")
    c = config.check(bench.base)
    with jobs_.crew(jobs, len(left), devices.resolve(c.device), observer.note, c.remote) as spread:
        return work_off(folder, bench, tasks, left, spread=spread, observer=observer, signals=signals)


def work_off(
    folder: Path,
    bench: Bench,
    tasks: list[Task],
    left: list[Task],
    *,
    spread: Spread | None,
    observer: Observer,
    signals: Interruption,
) -> Path:
    """Do what is left of a benchmark's tasks, by workers where there is a cluster."""
    content = config.dump(bench.record()).encode()
    files.replace(folder / rundir.BENCH, content)
    if len(left) < len(tasks):
        observer.note(f"{folder}: {len(tasks) - len(left)} of {len(tasks)} runs are finished")
    for task in tasks:
        if differs(task):
            observer.note(f"{task}: was begun with other settings than now; to have it again, delete {task.folder}")
    failed: list[tuple[Task, Failure]] = []
    count = jobs_.read(bench.jobs).n
    if spread is not None:
        site = jobs_.Site(work, os.getcwd(), folder / rundir.BENCH, content, signals.command)
        todo = jobs_.run_on_cluster(spread, site, left, observer, signals)
    elif count is None or count == 1:
        todo = workers.run_in_turn(work, left, observer, signals)
    else:
        todo = workers.run_in_parallel(work, left, count, observer, signals)
    try:
        with closing(todo):
            for task, failure in todo:
                observer.note(f"{task}: {failure.line if failure else outcome(task)}")
                failed += [(task, failure)] if failure else []
                write(folder, bench, tasks)
    finally:
        write(folder, bench, tasks)
    from neuroevo.report import report  # it brings matplotlib along, which no worker needs

    report.report(str(folder), formats=report.BRIEF)
    if failed:
        first, failure = failed[0]
        kind = InputError if all(failure.of_input for _, failure in failed) else RunError
        raise kind(f"{folder}: {len(failed)} of {len(tasks)} runs failed; the first: {first}: {failure.line}")
    return folder


def work(task: Task, observer: Observer, signals: Interruption) -> None:
    """Begin a run, or go on with it."""
    if task.arm in closed.FORMS:
        closed.run(task, observer, signals)
    elif (task.folder / rundir.CONFIG).exists() or claims.holds(task.folder):
        tune.resume(str(task.folder), [], observer, signals)
    elif task.config.tune is not None:
        tune.run(task.config, str(task.folder), "", observer, signals)
    else:
        folds.run(task.config, str(task.folder), "", observer, signals=signals)


def write(folder: Path, bench: Bench, tasks: Sequence[Task]) -> None:
    """Write all tables of what is finished."""
    found = [run for run in map(read, tasks) if run is not None]
    metric = tasks[0].config.validate.metric.name
    lower = metric in LOWER_IS_BETTER
    table(folder / rundir.RESULTS, [run.row for run in found])
    curves = [
        {"arm": run.task.arm, "split": run.task.split, "seed": run.task.seed, **dict(zip(POINT, point, strict=True))}
        for run in found
        for point in run.curve
    ]
    table(folder / rundir.CURVES, curves)
    names = [arm for arm in bench.overlays if any(run.task.arm == arm for run in found)]
    summary = [summary_row(arm, found, tasks, lower) for arm in names]
    table(folder / rundir.SUMMARY, summary)
    table(folder / rundir.COMPARISONS, comparison_rows(names, found, tasks, lower))
    levels = bench.levels or levels_between(found, summary, lower)
    table(folder / rundir.LEVELS, [level_row(arm, level, found, lower) for arm in names for level in levels])
    result = {
        "status": "finished" if len(found) == len(tasks) else "interrupted",
        "metric": metric,
        "lower_is_better": lower,
        "samples": bench.samples,
        "runs": len(found),
        "runs_asked": len(tasks),
        "warnings": [*moves.between([run.result for run in found]), *count_warnings(names, found)],
        "arms": {row["arm"]: {k: v if v == v else None for k, v in row.items() if k != "arm"} for row in summary},
        "versions": log.versions(),
    }
    rundir.write_result(folder, result)
