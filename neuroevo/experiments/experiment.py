"""A run from its config to a scored champion, and from its folder on."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from neuroevo import caveats, config, devices
from neuroevo.config import Config
from neuroevo.data import inventory
from neuroevo.data.datasets import Dataset
from neuroevo.engine import loop
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.loop import Step
from neuroevo.engine.observer import Observer, Observers, watch
from neuroevo.errors import InputError, Interrupted, ignore
from neuroevo.experiments import baseline, blame, bounds, build, compose, looks, sizes, tracking
from neuroevo.experiments.compose import Run
from neuroevo.experiments.conclusion import conclude, of_folds
from neuroevo.experiments.interruption import NEVER, Interruption, punctual
from neuroevo.experiments.log import Log, open_log, versions, watch_prefix
from neuroevo.experiments.recorders import Recorder, Shrinking, aside, make_folder, once, plan_attributes, settle
from neuroevo.experiments.reopen import (
    apply_sets,
    check_champion,
    check_config,
    check_search,
    concludes,
    reopen,
    restore,
    without_checkpoint,
)
from neuroevo.experiments.spread import executor_of
from neuroevo.networks.backbones import Backbone
from neuroevo.problems import precision, slicing
from neuroevo.storage import checkpoint, claims, files, generations, rundir
from neuroevo.storage.writer import Writer

# Settings that a run that goes on can have, as they begin.
FREE = ("budget.", "checkpoint.", "data.root=", "data.file=", "remote.", "remote=", "tracking=")


def run(c: Config, out: str | None, stem: str, observer: Observer, *, signals: Interruption = NEVER) -> Path:
    """Run an experiment from data to a scored champion; return its folder. Bad input leaves no folder behind.

    `signals`, a program's, are entered while there is something to end at the next safe place.
    """
    if c.tune is not None:
        raise InputError("tune: a config with hyperparameters to search is for neuroevo tune; here, set tune null")
    if out is not None:
        claims.check(out)
    with signals, blame.on_users(c):
        ready = prepare(c)
        spread = executor_of(c, ready.device, observer.note)
        with spread as executor, start(ready, out, stem, observer, signals.command) as (folder, log):
            images = watch_prefix(observer, signals)
            composed = compose.compose(*ready, images=images, log=log, executor=executor)
            go(composed, composed.initial(), [], folder=folder, signals=signals, observer=observer, log=log)
    return folder


class Ready(NamedTuple):
    """What a config needs of the world, before anything is computed."""

    config: Config  # with a memory limit
    device: torch.device
    given: tuple[Dataset, dict[str, torch.Tensor]]
    backbone: Backbone


def prepare(c: Config, log: Callable[[str], None] | None = None) -> Ready:
    """Find device, data and network; a memory limit that isn't given becomes a share of what is free.

    With `log`, which is told, what began on a GPU goes on without one.
    """
    tracking.check_installed(c.tracking)
    device = devices.resolve(c.device) if log is None else devices.nearest(c.device, log)
    if log is None:
        with config.at(precision="fitness.precision"):
            precision.check(c.fitness.precision, device)
    given = build.dataset(c)
    bounds.check(c, given[0])
    if log is None:
        build.check_splits(c, given[0])
    backbone = build.build_backbone(c, given[0])
    if c.memory.limit is None:
        limit = slicing.memory_limit(device)
        c = replace(c, memory=c.memory.model_copy(update={"limit": limit}))
    dims, _ = sizes.dimensions(c, given, backbone)
    if log is None:
        build.check_crossover(c, dims.genes)
    if c.tune is not None:
        sizes.check_search(c, given, backbone)
    return Ready(c, device, given, backbone)


@contextmanager
def start(ready: Ready, out: str | None, stem: str, observer: Observer, by: str) -> Iterator[tuple[Path, Log]]:
    """Own a new run's folder, config written, with a log, while it is entered; bad input leaves no folder behind.

    `by` is the command that the log begins with.
    """
    c = ready.config
    with claims.claim(out, stem, c.seed) as claim:
        folder = claim.folder
        try:
            # The log comes first: it tells whose folder it is.
            with say_unbegun(folder, observer), open_log(folder, observer, by) as log:
                files.replace(folder / rundir.CONFIG, c.to_yaml().encode())
                log(f"{folder}: {c.backbone.name} on {c.data.source.name}, {ready.device}")
                for line in [*inventory.lines(*ready.given), *ready.backbone.notes]:
                    log(line)
                genes = sizes.dimensions(c, ready.given, ready.backbone)[0].genes
                for line in [*caveats.of_config(c.record(), genes), *inventory.absent(*ready.given)]:
                    log(f"{caveats.WARNING}{line}")
                with blame.on_users(c, log.keep):
                    yield folder, log
        except InputError:
            if not has_begun(folder):
                claim.clear()
            raise


@contextmanager
def say_unbegun(folder: Path, observer: Observer) -> Iterator[None]:
    """Say so where a signal comes before a run's first generation is on disk."""
    try:
        yield
    except Interrupted:
        if (folder / rundir.RUNG).is_dir() and not has_begun(folder):
            observer.note(f"{folder}: interrupted within its first iteration; go on with: neuroevo resume {folder}")
        elif not has_begun(folder):
            observer.note(f"{folder}: interrupted before its first generation; begin with: neuroevo resume {folder}")
        raise


def has_begun(folder: Path) -> bool:
    """Tell whether a run has a checkpoint of some generation."""
    return any(generations.number(path) for path in generations.paths(folder / rundir.CHECKPOINTS))


def begin_or_resume(
    c: Config, out: str | None, stem: str, observer: Observer, *, signals: Interruption = NEVER
) -> Path:
    """Go on with the run in `out`, or begin it where there is none; InputError where that is of another config.

    Without `out` the folder is runs/out/STEM-SEED. Budget and checkpoint are those of `c`.
    """
    out = str(rundir.OUT / f"{stem}-{c.seed}") if out is None else out
    folder = claims.out_folder(out)
    if not claims.holds(folder):
        return run(c, out, stem, observer, signals=signals)
    if c.tune is not None:
        raise InputError("tune: a config with hyperparameters to search is for neuroevo tune; here, set tune null")

    def change(then: Config) -> Config:
        check_config(then, c, out)
        return replace(then, budget=c.budget, checkpoint=c.checkpoint, remote=c.remote, tracking=c.tracking)

    return go_on(folder, change, observer, signals=signals)


def resume(run_dir: str, sets: list[str], observer: Observer, *, signals: Interruption = NEVER) -> Path:
    """Go on with a run from its newest good checkpoint; a finished one is left as it is unless its budget grew."""
    folder = rundir.find(run_dir)
    for text in sets:
        if not text.startswith(FREE):
            changing = "budget, checkpoint, remote, tracking, data.root and data.file"
            raise InputError(f"--set {text}: a run goes on as it began; only {changing} can change")
    return go_on(folder, lambda c: apply_sets(c, sets), observer, signals=signals)


def go_on(
    folder: Path, change: Callable[[Config], Config], observer: Observer, *, signals: Interruption = NEVER
) -> Path:
    """Go on with a run whose config changes in budget or checkpoint alone."""
    unbegun, begin = say_unbegun(folder, observer), open_log(folder, observer, signals.command)
    with signals, claims.lock(folder), unbegun, begin as log:
        saved, before = reopen(folder, log)
        c = change(before)
        result = rundir.read_result(folder, log)
        finished = result.get("status") == "finished"
        if saved is not None:  # a run that was given more may have been killed since that result
            known = saved.step.generation
            finished = saved.step.stop is not None or (finished and result["generations"] > known)
        tracking.check_installed(c.tracking)
        more = False
        if saved is None and result.get("generations"):
            raise without_checkpoint(str(folder))
        if finished and saved is not None:
            stop = Budget(**c.budget.model_dump()).stop_reason(
                saved.step.generation, saved.step.cost, saved.step.seconds, Cost(forward=len(saved.step.scores.values))
            )
            more = stop is None and c.budget != before.budget
            if not more and concludes(result, saved):
                log(f"{folder}: finished ({result['stop_reason']}); nothing to do")
                return folder
        with blame.on_users(c, log.keep), executor_of(c, devices.nearest(c.device, ignore), log) as executor:
            composed, step, history = restore(c, saved, signals, observer, log, executor=executor)
            if saved is None:
                check_search(folder, composed, log)
            if more:  # patience that ran out starts anew
                step = replace(step, stop=None, stale=0 if step.stop == "patience" else step.stale)
            if saved is not None:
                check_champion(saved, composed.rules(), composed.problem().merit)
                log(f"{folder}: going on after generation {step.generation}")
            aside(folder, saved, log)
            same = c.record() == before.record()
            changed = saved is not None and not same
            go(composed, step, history, folder=folder, signals=signals, observer=observer, log=log, changed=changed)
    return folder


def go(
    run: Run,
    step: Step,
    history: checkpoint.History,
    *,
    folder: Path,
    signals: Interruption,
    observer: Observer,
    log: Callable[[str], None],
    changed: bool = False,
) -> None:
    """Evolve until a limit or a signal, writing history and checkpoints; then score the champion on test, once.

    A config that has `changed` since the step's checkpoint is in a new one before the first generation is computed.
    """
    c, rules = run.config, run.rules()
    make_folder(folder / rundir.CHECKPOINTS)
    rundir.cut_lineage(folder, step.generation, log)
    writer = writer_of(run, folder, log)
    if step.generation == 0 and run.network.backbone.cut is not None:
        writer.submit(step, history)  # a plan that was measured is not measured again

    def begin() -> None:
        settle(c, folder, writer, step, history, changed=changed)

    if step.stop is not None:
        begin()
    generations = loop.evolve(once(run.problem(), begin), run.algorithm, rules, step, device=run.home)
    shrinking = Shrinking(run.supervised.executions, writer, log)
    keeping = [looks.Keeper(run.supervised, folder)] if c.validate.fold is not None else []
    if keeping and step.generation == 0:
        keeping[0].write(0, [step.champion])
    recorder = Recorder(folder, writer, history, every=c.checkpoint.every)
    with tracking.follow(c.tracking, folder, history, settings=c.of_result().record(), log=log) as tracker:
        observers = Observers([shrinking, *keeping, recorder, tracker, observer])
        with config.at(candidate="validate.refit.candidate"):
            steps = punctual(generations, signals)
            step = watch(steps, step, rules, observers, stop=lambda: signals.status is not None)
        if not step.generation:
            signals.check()
        beside = compare(run, step, folder, signals, log) if step.stop is not None else baseline.NOTHING
        conclude(run, step, folder, stop_reason=step.stop or signals.name, log=log, beside=beside)
        tracker.conclude(rundir.read_result(folder))
    if step.stop is None:
        log(f"{folder}: interrupted after generation {step.generation}; go on with: neuroevo resume {folder}")
        signals.check()


def compare(run: Run, step: Step, folder: Path, signals: Interruption, log: Callable[[str], None]) -> baseline.Beside:
    """Compare a champion with what is asked for; a signal ends that at once, and the run can be gone on with."""
    try:
        with signals.prompt():
            champion = of_folds(folder, run)[0].get("validation", {}) if run.refits else step.champion.validation
            return baseline.compare_run(run, champion, log)
    except Interrupted:
        conclude(run, replace(step, stop=None), folder, stop_reason=signals.name, log=log)
        log(f"{folder}: interrupted before its champion was scored; go on with: neuroevo resume {folder}")
        raise


def writer_of(run: Run, folder: Path, log: Callable[[str], None]) -> Writer:
    """Return who writes a run's checkpoints."""
    c, network = run.config, run.network
    attributes = {
        "config": c.of_result().to_yaml(),
        "seed": c.seed,
        "device": str(run.device),
        "layout": network.layout.to_json(),
        "classes": json.dumps(network.classes),
        **plan_attributes(run.supervised.executions),
        "versions": json.dumps(versions()),
        "features": run.features.digest(),
        "data": json.dumps(run.data.record()),
        "native": json.dumps(run.whole.native()),
        "frozen": network.backbone.frozen,
        **({"moves": json.dumps(run.moves)} if run.moves else {}),
    }
    affine = {} if network.affine is None else network.affine._asdict()
    beside = {f"features/{key}": tensor for key, tensor in affine.items()}
    beside |= {f"{checkpoint.KEPT}/{key}": tensor for key, tensor in run.keeps().items()}
    tuned = rundir.newest(folder / rundir.TUNE, log)
    beside |= {} if tuned is None else checkpoint.trials(tuned.path)
    lines = rundir.growing(folder)
    return Writer(folder / rundir.CHECKPOINTS, attributes, beside, c.checkpoint.keep, lines=lines)
