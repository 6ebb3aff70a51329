"""A search of hyperparameters: trials are short runs, a whole generation of them trained together; then the final run.

The search is an algorithm (`search`) in the one loop, on a problem whose development runs trials (`tuner`). Those that
differ only in what an individual can have of its own are one population (`lockstep`).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from neuroevo import caveats, config
from neuroevo.config import Config
from neuroevo.engine import loop
from neuroevo.engine.cost import Cost
from neuroevo.engine.loop import Step
from neuroevo.engine.observer import Observer, Observers, watch
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError, Interrupted, RunError, ignore
from neuroevo.experiments import blame, build, experiment, folds, recorders, reopen
from neuroevo.experiments.interruption import Interruption
from neuroevo.experiments.log import open_log, watch_prefix
from neuroevo.experiments.spread import executor_of
from neuroevo.storage import checkpoint, claims, files, generations, rundir
from neuroevo.storage.writer import Writer
from neuroevo.tuning import trials
from neuroevo.tuning.search import HOME, Search
from neuroevo.tuning.tuner import Tuner, until_exhausted

CHANGING = (
    "tune.patience",
    "tune.final",
    "remote",
    "tracking",
    "data.root",
    "data.file",
)  # keys of a search that goes on


def run(c: Config, out: str | None, stem: str, observer: Observer, signals: Interruption) -> Path:
    """Search hyperparameters, then run the experiment with the best of them; return the folder.

    `signals`, the program's, is entered while there is something to end at the next safe place.
    """
    if c.tune is None:
        raise InputError("tune: the config has no section tune, which names what to search")
    if out is not None:
        claims.check(out)
    with signals, blame.on_users(c):
        ready = experiment.prepare(c)
        spread = executor_of(c, ready.device, observer.note, stoppable=True)
        with spread as executor, experiment.start(ready, out, stem, observer, signals.command) as (folder, log):
            images = watch_prefix(observer, signals)
            tuner = Tuner(
                ready, folder, images=images, log=log, signals=signals, executor=executor, several=observer.several
            )
            search(tuner, tuner.initial(), [], signals=signals, observer=observer)
            signals.check()
    return final(folder, c, observer, signals)


def begin_or_resume(c: Config, out: str | None, stem: str, observer: Observer, signals: Interruption) -> Path:
    """Go on with the search in `out`, or its final run, or begin it; InputError where that is of another config.

    Without `out` the folder is runs/out/STEM-SEED. What ends the search, `tune.final` and checkpoint are those of `c`.
    """
    if c.tune is None:
        raise InputError("tune: the config has no section tune, which names what to search")
    out = str(rundir.OUT / f"{stem}-{c.seed}") if out is None else out
    folder = claims.out_folder(out)
    if not claims.holds(folder):
        return run(c, out, stem, observer, signals)
    searched = stage(folder, observer.note)
    if searched is None:
        raise InputError(f"--resume: {out} holds a run without a search; give another --out")
    then = searched.config
    reopen.check_config(then, c, out, reopen.CHANGING)
    assert then.tune is not None
    if searched.over and then.tune.budget != c.tune.budget:
        raise InputError(
            f"--resume: {out}: tune.budget: the search is over, and its final run is begun; give another --out"
        )
    if searched.over:
        return experiment.go_on(
            folder,
            lambda own: replace(own, checkpoint=c.checkpoint, remote=c.remote, tracking=c.tracking),
            observer,
            signals=signals,
        )

    def change(own: Config) -> Config:
        return replace(own, tune=update_tuning(own, c), checkpoint=c.checkpoint, remote=c.remote, tracking=c.tracking)

    return go_on(folder, change, observer, signals)


def update_tuning(then: Config, now: Config) -> config.Tuning:
    """Return a search's section with what may change in it as it is now."""
    assert then.tune is not None
    assert now.tune is not None
    rest = then.tune.rest.model_copy(update={"patience": now.tune.rest.patience, "final": now.tune.rest.final})
    return replace(then.tune, budget=now.tune.budget, rest=rest)


class Stage(NamedTuple):
    """The progress of a search in a folder."""

    where: Path  # of the search's files: the folder, or a folder within
    saved: checkpoint.Checkpoint | None  # of the search
    config: Config  # of the search
    over: bool  # whether the final run has taken its place


def stage(folder: Path, log: Callable[[str], None]) -> Stage | None:
    """Return the progress of the search of hyperparameters in a folder; None where there is none."""
    moved = folder / rundir.TUNE
    if not generations.paths(moved / rundir.CHECKPOINTS):
        saved, c = reopen.reopen(folder, log)
        return None if c.tune is None else Stage(folder, saved, c, False)
    # Its checkpoints were moved before anything of the final run was written, and its config after.
    saved = rundir.newest(moved, log)
    if saved is None:
        return None
    c = config.check(config.parse_sections(saved.config, str(saved.path)))
    try:
        now = config.check(config.read(str(folder / rundir.CONFIG)))
    except InputError:
        now = None
    c = c if now is None else replace(c, remote=now.remote, tracking=now.tracking)
    begun = bool(generations.paths(folder / rundir.CHECKPOINTS)) or (now is not None and now.tune is None)
    if not begun and now is not None and now.tune is not None and c.tune is not None:
        c = replace(c, tune=replace(c.tune, rest=c.tune.rest.model_copy(update={"final": now.tune.rest.final})))
    return Stage(moved, saved, c, begun)


def resume(run_dir: str, sets: list[str], observer: Observer, signals: Interruption) -> Path:
    """Go on with a run, a search of hyperparameters or the final run after one."""
    folder = rundir.find(run_dir)
    searched = stage(folder, ignore)  # whoever goes on says what is damaged
    if searched is None or searched.over:
        return folds.resume(run_dir, sets, observer, signals=signals)
    for text in sets:
        key = text.partition("=")[0]
        if key not in CHANGING and not key.startswith(("tune.budget.", "checkpoint.", "remote.")):
            raise InputError(
                f"--set {text}: a search goes on as it began; only tune.budget, tune.patience, tune.final, checkpoint, "
                "remote, tracking, data.root and data.file can change"
            )
    return go_on(folder, lambda c: reopen.apply_sets(c, sets), observer, signals)


def go_on(folder: Path, change: Callable[[Config], Config], observer: Observer, signals: Interruption) -> Path:
    """Go on with a search whose config changes in what ends it, `tune.final` or checkpoint alone."""
    with (
        signals,
        claims.lock(folder),
        experiment.say_unbegun(folder, observer),
        open_log(folder, observer, signals.command) as log,
    ):
        searched = stage(folder, log)
        assert searched is not None
        where, saved, before = searched.where, searched.saved, searched.config
        c = change(before)
        if saved is None and rundir.read_result(where).get("iterations"):
            raise reopen.without_checkpoint(str(where))
        finished = saved is not None and saved.step.stop is not None
        assert c.tune is not None
        assert before.tune is not None
        text = c.to_yaml().encode()
        if finished and (where != folder or c.tune.budget == before.tune.budget):
            assert saved is not None
            own = Search(c, folder)
            last = own.restore(saved)
            log(f"{folder}: the search is finished ({last.stop})")
            own.write(last)  # again, lest they were damaged
            rundir.write_history(where, saved.history)
            known = [rundir.read_result(place, log) for place in (folder, folder / rundir.TUNE)]
            if not any(result.get("iterations") == last.generation for result in known):  # of before it was given more
                rundir.write_result(where, own.result(last, str(last.stop), saved.device))
            if files.content(folder / rundir.CONFIG) != text:
                files.replace(folder / rundir.CONFIG, text)
        else:
            with blame.on_users(c, log.keep):
                ready = experiment.prepare(c if saved is None else reopen.locate_data(c, log), log)
                with executor_of(c, ready.device, log, stoppable=True) as executor:
                    images = watch_prefix(observer, signals)
                    tuner = Tuner(
                        ready,
                        folder,
                        images=images,
                        log=log,
                        signals=signals,
                        executor=executor,
                        several=observer.several,
                    )
                    step: Step = tuner.initial()
                    history: checkpoint.History = []
                    if saved is not None:
                        reopen.agree(saved, tuner.trainer.data, log)
                        build.same_weights(ready.backbone, saved.frozen, c)
                        step, history = replace(tuner.restore(saved), stop=None), saved.history
                        log(f"{folder}: going on after iteration {step.generation}")
                    tuner.trainer.locate(saved)
                    recorders.aside(folder, saved, log)
                    same = c.record() == before.record()
                    changed = saved is not None and not same
                    search(tuner, step, history, signals=signals, observer=observer, changed=changed)
        signals.check()
    return final(folder, c, observer, signals)


def search(
    tuner: Tuner,
    step: Step,
    history: checkpoint.History,
    *,
    signals: Interruption,
    observer: Observer,
    changed: bool = False,
) -> None:
    """Search until a limit or a signal, keeping history, checkpoints and the table of trials; write the result.

    A config that has `changed` since the step's checkpoint is in a new one before the first iteration.
    """
    c, folder, rules = tuner.config, tuner.folder, tuner.rules()
    recorders.make_folder(folder / rundir.CHECKPOINTS)
    notes = tuner.trainer.attributes(tuner.layout)
    lines = rundir.growing(folder)
    writer = Writer(folder / rundir.CHECKPOINTS, notes, {}, c.checkpoint.keep, lines=lines)
    algorithm = tuner.algorithm()
    if step.generation == 0:
        context = Context(c.seed, 1, 0.0, HOME, tuner.layout)
        population = algorithm.ask(step.state, context)
        first = tuner.cost(population)
        limit = rules.budget.stop_reason(0, Cost(), 0.0, first)
        if limit is not None:
            each = f"{first.forward:,} forward, {first.backward:,} backward"
            raise InputError(f"tune.budget.{limit}: one iteration takes more: {first.samples:,} samples ({each})")
        warning = trials.crowd_warning(c, len(population.genomes))
        if warning is not None:
            tuner.log(f"{caveats.WARNING}{warning}")

    def settle() -> None:
        recorders.settle(c, folder, writer, step, history, changed=changed)

    problem = recorders.once(tuner.problem(), settle)
    run = until_exhausted(loop.evolve(problem, algorithm, rules, step, device=HOME))
    table, recorder = Table(tuner, step), recorders.Recorder(folder, writer, history, every=1, lineage=False)
    observers = Observers([table, recorder, observer])
    try:
        step = watch(run, step, rules, observers, stop=lambda: signals.status is not None)
    except Interrupted:  # within an iteration
        step = table.last
    finished = step.stop is not None
    reason = step.stop or signals.name
    rundir.write_result(folder, tuner.result(step, reason, str(tuner.ready.device)))
    if not finished:
        if step.generation:
            tuner.log(f"{folder}: interrupted after iteration {step.generation}; go on with: neuroevo resume {folder}")
        signals.check()
    if tuner.best(step.state.trials) is None:
        raise no_winner(folder)
    tuner.trainer.clear()


class Table(Observer):
    """Writes the table of trials after each iteration, and knows the last."""

    def __init__(self, tuner: Tuner, start: Step) -> None:
        self.tuner, self.last = tuner, start

    def generation(self, step: Step) -> None:
        """Write the table."""
        self.last = step
        self.tuner.write(step)


def no_winner(folder: Path) -> RunError:
    """Return the error of a search that found nothing."""
    return RunError(f"{folder}: no trial came to its end with a finite validation; see {rundir.TRIALS} and the ranges")


def final(folder: Path, c: Config, observer: Observer, signals: Interruption) -> Path:
    """Move a finished search into a folder of its own, and begin the final run in its place, if there is to be one."""
    assert c.tune is not None
    if not (folder / rundir.BEST).exists():
        raise no_winner(folder)
    if not c.tune.rest.final:
        return folder
    with claims.lock(folder):
        moved = folder / rundir.TUNE
        recorders.make_folder(moved)
        for name in (rundir.RESULT, rundir.HISTORY, rundir.CHECKPOINTS):
            if (folder / name).exists() and (name == rundir.RESULT or not (moved / name).exists()):
                (folder / name).rename(moved / name)
        best = config.check(config.read(str(folder / rundir.BEST)))
        best = replace(best, data=best.data.model_copy(update={"source": c.data.source}))
        best = replace(best, remote=c.remote, tracking=c.tracking)
        if c.tune.rest.included and best.budget.samples is not None:
            spent = rundir.read_result(moved, observer.note)["cost"]
            left = best.budget.samples - spent["forward_samples"] - 2 * spent["backward_samples"]
            if left < 1:
                raise InputError("budget.samples: the search took them all; see tune.budget and tune.included")
            best = replace(best, budget=best.budget.model_copy(update={"samples": left}))
        files.replace(moved / rundir.CONFIG, c.to_yaml().encode())
        files.replace(folder / rundir.CONFIG, best.to_yaml().encode())
    found = (rundir.read_result(moved).get("best") or {}).get("settings", {})
    settings = ", ".join(f"{key} {value}" for key, value in found.items())
    observer.note(f"{folder}: the search is over; now the final run, with its best settings: {settings}")
    return experiment.resume(str(folder), [], observer, signals=signals)
