"""Searches that choose together when a last one ends and who is its champion; then that one, on all but test.

With `validate.folds: K` there are K searches, each validated on its own part of train and validation; with
`validate.refit: true` one, on the data's own split. Each is a run of its own in `folds/`. By the mean over them of what
candidates were found to be worth, one generation and one kind of candidate are chosen. The final fit is the same search
on train and validation together, up to that generation, whose candidate of that kind is the champion. It is scored on
test, and no other.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from neuroevo import caveats, config
from neuroevo.config import Config
from neuroevo.engine.cost import Cost
from neuroevo.engine.observer import Observer
from neuroevo.engine.problem import Merit
from neuroevo.errors import InputError, Interrupted
from neuroevo.experiments import blame, build, costs, experiment, goals, looks, reopen
from neuroevo.experiments.interruption import NEVER, Interruption
from neuroevo.experiments.log import Log, open_log
from neuroevo.storage import claims, files, rundir

KEYS = ("budget.", "checkpoint.", "data.root=", "data.file=", "remote.", "remote=")  # that can change on the way


def run(c: Config, out: str | None, stem: str, observer: Observer, *, signals: Interruption = NEVER) -> Path:
    """Run an experiment, with the searches that choose its end if it asks for any; return its folder."""
    if not config.chooses(c):
        return experiment.run(c, out, stem, observer, signals=signals)
    if out is not None:
        claims.check(out)
    with signals, blame.on_users(c):
        share(c)  # which refuses a budget that isn't enough
        ready = experiment.prepare(fold_of(c, 1))
        c = replace(c, memory=ready.config.memory)  # with a limit
        with experiment.start(ready._replace(config=c), out, stem, observer, signals.command) as (folder, _):
            signals.check()
    return go_on(folder, c, observer, signals)


def begin_or_resume(
    c: Config, out: str | None, stem: str, observer: Observer, *, signals: Interruption = NEVER
) -> Path:
    """Go on with the run in `out`, or begin it where there is none; InputError where that is of another config."""
    if not config.chooses(c):
        return experiment.begin_or_resume(c, out, stem, observer, signals=signals)
    out = str(rundir.OUT / f"{stem}-{c.seed}") if out is None else out
    folder = claims.out_folder(out)
    if not claims.holds(folder):
        return run(c, out, stem, observer, signals=signals)
    then, over = read(folder)
    reopen.check_config(then, c, out)
    if over and then.budget != c.budget:
        raise InputError(f"--resume: {out}: budget: its folds are done, and the final fit is begun; give another --out")
    if over:
        return experiment.resume(str(folder), [], observer, signals=signals)
    return go_on(folder, replace(then, budget=c.budget, checkpoint=c.checkpoint, remote=c.remote), observer, signals)


def resume(run_dir: str, sets: list[str], observer: Observer, *, signals: Interruption = NEVER) -> Path:
    """Go on with a run, one of searches that choose its end, or its final fit."""
    folder = rundir.find(run_dir)
    try:
        c, over = read(folder)
    except InputError:  # a checkpoint has the config, too
        return experiment.resume(run_dir, sets, observer, signals=signals)
    if over or not config.chooses(c):
        for text in sets if over else ():
            if text.startswith("budget"):
                raise InputError(f"--set {text}: a final fit ends where its folds chose; its budget can't change")
        return experiment.resume(run_dir, sets, observer, signals=signals)
    for text in sets:
        if not text.startswith(KEYS):
            changing = "budget, checkpoint, remote, data.root and data.file"
            raise InputError(f"--set {text}: a run goes on as it began; only {changing} can change")
    return go_on(folder, reopen.apply_sets(c, sets), observer, signals)


def read(folder: Path) -> tuple[Config, bool]:
    """Return the config of a folder's run as it was asked for, and whether a final fit has begun in it."""
    first, now = folder / rundir.FOLDS / rundir.CONFIG, folder / rundir.CONFIG
    c = config.check(config.read(str(first if first.is_file() else now)))
    if not config.chooses(c):
        return c, False
    written = config.check(config.read(str(now)))
    return replace(c, remote=written.remote), not config.chooses(written)


def go_on(folder: Path, c: Config, observer: Observer, signals: Interruption) -> Path:
    """Do what is left of the searches of a folder, choose by them, and do the final fit."""
    count = c.validate.folds or 1
    with claims.lock(folder), open_log(folder, observer, signals.command) as log:
        files.replace(folder / rundir.CONFIG, c.to_yaml().encode())
        spent = share(c)
        for number in range(1, count + 1):
            search(
                folder,
                replace(fold_of(c, number), budget=spent.of_each),
                number,
                observer=observer,
                log=log,
                signals=signals,
            )
        choice = looks.choose(looks.places(folder, count), goals.merit(c))
        for line in tell(choice, c.validate.metric.name, goals.merit(c), c.validate.folds, c.record()):
            log(line)
        last = c.validate.model_copy(
            update={
                "refit": config.Refit(generation=choice.generation, candidate=choice.candidate),
                "patience": None,
            }
        )
        files.replace(folder / rundir.FOLDS / rundir.CONFIG, c.to_yaml().encode())
        final = replace(c, validate=last, budget=spent.of_last)
        files.replace(folder / rundir.CONFIG, final.to_yaml().encode())
    return experiment.resume(str(folder), [], observer, signals=signals)


def search(folder: Path, c: Config, number: int, *, observer: Observer, log: Log, signals: Interruption) -> None:
    """Do what is left of one of the searches."""
    own, count = folder / rundir.FOLDS / str(number), c.validate.folds or 1
    own.parent.mkdir(exist_ok=True)
    if rundir.read_result(own).get("status") == "finished" and reopen_budget(own) == c.budget:
        return
    log(heading(number, c.validate.folds))
    try:
        experiment.begin_or_resume(c, str(own), "", observer, signals=signals)
    except Interrupted:
        log(f"{folder}: interrupted in fold {number} of {count}; go on with: neuroevo resume {folder}")
        raise


def reopen_budget(folder: Path) -> Any:
    """Return the budget of a search, None where its config can't be read."""
    try:
        return config.check(config.read(str(folder / rundir.CONFIG))).budget
    except InputError:
        return None


def fold_of(c: Config, number: int) -> Config:
    """Return the config of one of the searches, less its share of the budget."""
    own = c.validate.model_copy(update={"fold": number, "refit": False, "logistic": True})
    return replace(c, validate=own, checkpoint=c.checkpoint.model_copy(update={"network": False}))


def heading(number: int, count: int | None) -> str:
    """Return the line that one of so many searches begins with; None: there is one, on the data's own split."""
    return "the search that chooses when to stop" if count is None else f"fold {number} of {count}"


class Shares(NamedTuple):
    """A budget, shared."""

    of_each: config.Budget  # of the searches
    of_last: config.Budget


def share(c: Config) -> Shares:
    """Share a budget: all searches and the last fit have it together.

    The last fit has more samples than a search, and takes more where a generation sees all of them: its share grows by
    as much, so that what changes over the budget changes over as many generations. A limit of generations is each
    one's own. InputError where a share is nothing.
    """
    count, b = c.validate.folds or 1, c.budget
    if not any((b.samples, b.forward_samples, b.seconds)):
        last = b.model_copy(update={"target": None})
        return Shares(b, last)
    sizes = {name: len(rows) for name, rows in build.dataset(fold_of(c, 1))[1].items()}
    whole = {**sizes, "train": sizes["train"] + sizes["validation"]}
    each, last_one = costs.generation(c, sizes), costs.generation(c, whole)
    with config.at(**{key: f"budget.{key}" for key in type(b).model_fields}):
        of_each, of_last = divide(b.model_dump(), count, each, last_one)
    return Shares(b.model_copy(update=of_each), b.model_copy(update=of_last | {"target": None}))


def divide(limits: Mapping[str, Any], count: int, each: Cost, last: Cost) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide limits by name among so many searches and a last fit; return those of a search, and of the fit.

    `each` is the cost of a search's generation, `last` of the fit's. InputError where a share is nothing.
    """
    more = {
        "samples": last.samples / each.samples,
        "forward_samples": last.forward / each.forward,
        "seconds": 1.0,
    }
    of_each: dict[str, Any] = {}
    of_last: dict[str, Any] = {}
    for key, ratio in more.items():
        limit = limits[key]
        if limit is None:
            continue
        own = limit / (count + ratio)
        rest = own * ratio
        if key != "seconds":
            own, rest = math.floor(own), math.floor(rest)
        if own <= 0:
            raise InputError(f"{limit} given, for {count} searches and a final fit together", option=key)
        of_each[key], of_last[key] = own, rest
    return of_each, of_last


def tell(choice: looks.Choice, metric: str, merit: Merit, count: int | None, record: Mapping[str, Any]) -> list[str]:
    """Return lines on what so many searches chose, None: one on the data's own split, in a run of such a config."""
    of = "on its own split" if count is None else f"the mean of {count} folds"
    value, start = choice.validation[metric], choice.start[metric]
    line = f"chosen: {choice.candidate} of generation {choice.generation}, validation {metric} {value:.4f} ({of})"
    if merit(choice.start) < merit(choice.validation):
        return [line]
    as_good = f"{caveats.start(record)} is as good in the mean over folds ({metric} {start:.4f})"
    return [line, f"{caveats.WARNING}{as_good}"]
