"""A run from its config to a scored champion, and from its folder on."""

import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import caveats, devices
from neuroevo.config import Config
from neuroevo.data import inventory
from neuroevo.data.datasets import Dataset
from neuroevo.engine import loop
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.loop import Champion, Step
from neuroevo.errors import InputError, Interrupted
from neuroevo.experiments import blame, build, compose, sizes
from neuroevo.experiments.compose import Experiment
from neuroevo.experiments.log import Log, Reporter, logged, versions, watched
from neuroevo.experiments.recorders import aside, made, once, planned, recorded, settle
from neuroevo.experiments.reopen import agreed, changed, of_genome, reopened, restored, searched
from neuroevo.experiments.signals import Signals, punctual
from neuroevo.networks.backbones import Backbone
from neuroevo.storage import checkpoint, claims, files, generations, rundir
from neuroevo.storage.writer import Writer

FREE_SHARE = 4  # an evaluation may use up to a quarter of the memory that is free at the start


def run(c: Config, out: str | None, stem: str, reporter: Reporter) -> Path:
    """Run an experiment from data to a scored champion; return its folder. Bad input leaves no folder behind."""
    if c.tune is not None:
        raise InputError("tune: a config with hyperparameters to search is for neuroevo tune; here, set tune null")
    if out is not None:
        claims.check(out)
    with Signals() as signals, blame.on_users(c):
        ready = prepared(c)
        with started(ready, out, stem, reporter) as (folder, log):
            images = watched(reporter, signals)
            experiment = compose.compose(*ready, images, log)
            go(experiment, experiment.initial(), [], folder, signals, reporter, log)
    return folder


class Ready(NamedTuple):
    """What a config needs of the world, before anything is computed."""

    config: Config  # with a memory limit
    device: torch.device
    given: tuple[Dataset, dict[str, torch.Tensor]]
    backbone: Backbone


def prepared(c: Config, log: Callable[[str], None] | None = None) -> Ready:
    """Find device, data and network; a memory limit that isn't given becomes a share of what is free.

    With `log`, which is told, what began on a GPU goes on without one.
    """
    device = devices.resolve(c.device) if log is None else devices.nearest(c.device, log)
    given = build.dataset(c)
    if log is None:
        build.check_splits(c, given[0])
    backbone = build.build_backbone(c, given[0])
    if c.memory.limit is None:
        # A power of two, so that runs of one config on one machine have one limit.
        limit = 1 << (devices.available_memory(device) // FREE_SHARE).bit_length() - 1
        c = replace(c, memory=c.memory.model_copy(update={"limit": limit}))
    dims, _ = sizes.dimensions(c, given, backbone)
    if log is None:
        build.check_crossover(c, dims.genes)
    if c.tune is not None:
        sizes.check_search(c, given, backbone)
    return Ready(c, device, given, backbone)


@contextmanager
def started(ready: Ready, out: str | None, stem: str, reporter: Reporter) -> Iterator[tuple[Path, Log]]:
    """Own a new run's folder, config written, with a log, while it is entered; bad input leaves no folder behind."""
    c = ready.config
    with claims.claim(out, stem, c.seed) as claim:
        folder = claim.folder
        try:
            # The log comes first: it tells whose folder it is.
            with unbegun(folder, reporter), logged(folder, reporter) as log:
                files.replace(folder / rundir.CONFIG, c.to_yaml().encode())
                log(f"{folder}: {c.backbone.name} on {c.dataset.name}, {ready.device}")
                for line in [*inventory.lines(*ready.given), *ready.backbone.notes]:
                    log(line)
                genes = sizes.dimensions(c, ready.given, ready.backbone)[0].genes
                for line in [*caveats.of_config(c.record(), genes), *inventory.absent(*ready.given)]:
                    log(f"{caveats.WARNING}{line}")
                with blame.on_users(c, log.keep):
                    yield folder, log
        except InputError:
            if not begun(folder):
                claim.clear()
            raise


@contextmanager
def unbegun(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Say so where a signal comes before a run's first generation is on disk."""
    try:
        yield
    except Interrupted:
        if (folder / rundir.RUNG).is_dir() and not begun(folder):
            reporter.note(f"{folder}: interrupted within its first iteration; go on with: neuroevo resume {folder}")
        elif not begun(folder):
            reporter.note(f"{folder}: interrupted before its first generation; begin with: neuroevo resume {folder}")
        raise


def begun(folder: Path) -> bool:
    """Tell whether a run has a checkpoint of some generation."""
    return any(generations.number(path) for path in generations.paths(folder / rundir.CHECKPOINTS))


def begin_or_resume(c: Config, out: str | None, stem: str, reporter: Reporter) -> Path:
    """Go on with the run in `out`, or begin it where there is none; InputError where that is of another config.

    Without `out` the folder is runs/out/STEM-SEED. Budget and checkpoint are those of `c`.
    """
    out = str(rundir.OUT / f"{stem}-{c.seed}") if out is None else out
    folder = claims.out_folder(out)
    if not claims.holds(folder):
        return run(c, out, stem, reporter)
    if c.tune is not None:
        raise InputError("tune: a config with hyperparameters to search is for neuroevo tune; here, set tune null")

    def change(then: Config) -> Config:
        agreed(then, c, out)
        return replace(then, budget=c.budget, checkpoint=c.checkpoint)

    return resumed(folder, change, reporter)


def resume(run_dir: str, sets: list[str], reporter: Reporter) -> Path:
    """Go on with a run from its newest good checkpoint; a finished one is left as it is unless its budget grew."""
    folder = rundir.find(run_dir)
    for text in sets:
        if not text.startswith(("budget.", "checkpoint.", "data.root=", "data.file=")):
            raise InputError(
                f"--set {text}: a run goes on as it began; only budget, checkpoint, data.root and data.file can change"
            )
    return resumed(folder, lambda c: changed(c, sets), reporter)


def resumed(folder: Path, change: Callable[[Config], Config], reporter: Reporter) -> Path:
    """Go on with a run whose config changes in budget or checkpoint alone."""
    with Signals() as signals, claims.lock(folder), unbegun(folder, reporter), logged(folder, reporter) as log:
        saved, before = reopened(folder, log)
        c = change(before)
        result = rundir.read_result(folder, log)
        finished = result.get("status") == "finished"
        if saved is not None:  # a run that was given more may have been killed since that result
            known = saved.step.generation
            finished = saved.step.stop is not None or (finished and result["generations"] > known)
        more = False
        if finished:
            if saved is None:
                raise InputError(f"{folder}: finished, and its checkpoints are gone: there is nothing to go on from")
            stop = Budget(**c.budget.model_dump()).spent(
                saved.step.generation, saved.step.cost, saved.step.seconds, Cost(forward=len(saved.step.scores.values))
            )
            more = stop is None and c.budget != before.budget
            if not more and result.get("status") == "finished":
                log(f"{folder}: finished ({result['stop_reason']}); nothing to do")
                return folder
        with blame.on_users(c, log.keep):
            experiment, step, history = restored(c, saved, signals, reporter, log)
            if saved is None:
                searched(folder, experiment, log)
            if more:  # patience that ran out starts anew
                step = replace(step, stop=None, stale=0 if step.stop == "patience" else step.stale)
            if saved is not None:
                log(f"{folder}: going on after generation {step.generation}")
            aside(folder, saved, log)
            same = c.record() == before.record()
            go(experiment, step, history, folder, signals, reporter, log, saved is not None and not same)
    return folder


def go(
    experiment: Experiment,
    step: Step,
    history: checkpoint.History,
    folder: Path,
    signals: Signals,
    reporter: Reporter,
    log: Callable[[str], None],
    changed: bool = False,
) -> None:
    """Evolve until a limit or a signal, writing history and checkpoints; then score the champion on test, once.

    A config that has `changed` since the step's checkpoint is in a new one before the first generation is computed.
    """
    c, rules = experiment.config, experiment.rules()
    made(folder / rundir.CHECKPOINTS)
    rundir.cut_lineage(folder, step.generation, log)
    attributes = {
        "config": c.to_yaml(),
        "seed": c.seed,
        "device": str(experiment.device),
        "layout": experiment.layout.to_json(),
        "classes": json.dumps(experiment.classes),
        **planned(experiment),
        "versions": json.dumps(versions()),
        "features": experiment.features.digest(),
        "data": json.dumps(experiment.data.record()),
        "native": json.dumps(experiment.whole.native()),
        "frozen": experiment.backbone.frozen,
    }
    beside = {
        f"features/{key}": tensor for key, tensor in (experiment.scale._asdict() if experiment.scale else {}).items()
    }
    beside |= {f"{checkpoint.KEPT}/{key}": tensor for key, tensor in experiment.keeps().items()}
    tuned = rundir.newest(folder / rundir.TUNE, log)
    beside |= {} if tuned is None else checkpoint.trials(tuned.path)
    writer = Writer(folder / rundir.CHECKPOINTS, attributes, beside, c.checkpoint.keep)
    if step.generation == 0 and experiment.backbone.cut is not None:
        writer.submit(step, history)  # a plan that was measured is not measured again

    def begin() -> None:
        settle(c, folder, writer, step, history, changed)

    if step.stop is not None:
        begin()
    problem = once(experiment.problem(), begin)
    run = loop.evolve(problem, experiment.algorithm, rules, step, device=experiment.home)

    def after(step: Step) -> None:
        rundir.extend_lineage(folder, step)
        if experiment.plans.halved:
            plan, experiment.plans.halved = experiment.plan, False
            at_once = {"individuals": plan.individuals, "samples": plan.samples, "trained": plan.trained}
            experiment.plans.changes.append({"generation": step.generation, **at_once, "micro": plan.micro})
            log(f"generation {step.generation}: out of memory; from here on at a time: {at_once}")
            writer.wait()
            writer.attributes = attributes | planned(experiment)

    run = punctual(run, signals)
    step = recorded(run, step, history, folder, writer, c.checkpoint.every, rules, signals, reporter, after)
    if not step.generation:
        signals.check()
    before = rundir.read_result(folder)
    finished = step.stop is not None
    record = c.record()
    looks = sum(line["validation"] is not None for line in rundir.read_history(folder))
    finite = math.isfinite(step.champion.validation[rules.metric])
    warnings = caveats.of_champion(record, step.champion.generation, finite, looks)
    rundir.write_champion(
        folder,
        experiment.network_weights(step.champion.genome),
        {"backbone": c.backbone.name, "classes": experiment.classes, "genome": of_genome(step.champion)},
    )
    front = step.scores.objectives > 1
    member = member_of(experiment.algorithm.candidates(step.state), step.champion) if front else None
    kind, generation = step.champion.kind, step.champion.generation
    champion: dict[str, Any] = {
        "kind": kind,
        "generation": generation,
        "about": caveats.of_kind(kind, generation, record, member, step.generation if front else None),
        **({"member": member} if front else {}),
        "validation": step.champion.validation,
    }
    if finished:
        tested = experiment.test(step.champion.genome, experiment.features, experiment.splits["test"])
        champion["test"] = tested.scores
        warnings += caveats.of_predictions(experiment.classes, tested.confusion.sum(0).tolist(), experiment.whole.noun)
        rundir.write_confusion(folder, experiment.classes, tested.confusion)
    else:
        (folder / rundir.CONFUSION).unlink(missing_ok=True)  # of a champion before this one
    for line in warnings:
        log(f"{caveats.WARNING}{line}")
    genes = experiment.layout.genes
    before_it = [*caveats.of_config(record, genes), *inventory.absent(experiment.whole, experiment.splits)]
    tuning = {} if tuned is None else rundir.read_result(folder / rundir.TUNE)
    rundir.write_result(
        folder,
        {
            "status": "finished" if finished else "interrupted",
            "stop_reason": step.stop or signal.Signals((signals.status or 128) - 128).name,
            "generations": step.generation,
            "seed": c.seed,
            "device": str(experiment.device),
            "data": inventory.record(experiment.whole, experiment.splits),
            "champion": champion,
            "warnings": caveats.together(before_it, tuning.get("warnings", []), warnings),
            "cost": {**step.cost.record(), "seconds": step.seconds},
            "views": c.features.views if c.data.augment else None,
            "plan_changes": experiment.plans.changes,
            "test_scored": before.get("test_scored", 0) + finished,
            "versions": versions(),
            **({} if tuned is None else {"tuning": tuning}),
        },
    )
    if not finished:
        log(f"{folder}: interrupted after generation {step.generation}; go on with: neuroevo resume {folder}")
        signals.check()


def member_of(front: Mapping[str, Tensor], champion: Champion) -> int | None:
    """Return the number of a champion in a front {kind: genome}, None where it is no longer in it."""
    return next((i for i, genome in enumerate(front.values()) if torch.equal(genome, champion.genome)), None)
