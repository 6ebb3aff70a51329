"""A run read back from its folder: its config, its checkpoint, its parts."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroevo import config, devices
from neuroevo.config import Config
from neuroevo.data import datasets, identity
from neuroevo.data.identity import Identity
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import AUTO, FULL, LOCAL, Execution, Executor
from neuroevo.engine.loop import Champion, Rules, Step
from neuroevo.engine.observer import Observer
from neuroevo.engine.problem import Merit
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError
from neuroevo.experiments import build, compose, moves
from neuroevo.experiments.compose import Run
from neuroevo.experiments.interruption import NEVER, Interruption
from neuroevo.experiments.log import watch_prefix
from neuroevo.networks import weightfiles
from neuroevo.networks.network import STATISTICS
from neuroevo.problems import slicing
from neuroevo.storage import checkpoint, generations, rundir

Take = Callable[[checkpoint.Checkpoint], Champion]  # what takes the champion's place

PYTHON = "python"  # the key of a config that says that a run is from Python
# What can change from one command on a run or a search to the next, as dotted keys begin.
CHANGING = (
    "budget",
    "checkpoint",
    "remote",
    "tracking",
    "data.root",
    "data.file",
    "tune.budget",
    "tune.patience",
    "tune.final",
)


def check_config(then: Config, now: Config, out: str, free: tuple[str, ...] = ("budget", "checkpoint")) -> None:
    """Raise InputError where a run's config is another than now, in what can't change within a run."""
    differ = [key for key in rundir.differences(of_before(then, now), now.record()) if not key.startswith(free)]
    if differ:
        raise InputError(f"--resume: {out} holds a run of another config ({', '.join(differ)}); give another --out")


def of_before(then: Config, now: Config) -> dict[str, Any]:
    """Return the record of a run's config, left open where now it is: what was settled when it began it keeps.

    It is done by whom it is done by now, and told to whom now asks for.
    """
    old = replace(then, remote=now.remote, tracking=now.tracking).record()
    if now.memory.limit is None:
        old["memory"] |= {"limit": None}
    if now.fitness.precision == AUTO:
        old["fitness"] |= {"precision": AUTO}
    return old


def apply_sets(c: Config, sets: list[str]) -> Config:
    """Return a config with settings applied."""
    return config.check(config.override(c.record(), sets, lambda line: None)) if sets else c


def reopen(folder: Path, log: Callable[[str], None]) -> tuple[checkpoint.Checkpoint | None, Config]:
    """Return a run's newest good checkpoint, if it has any, and its config.

    The config is the checkpoint's: where config.yaml differs, `log` is told. InputError where neither can be read.
    """
    file = folder / rundir.CONFIG
    if from_python(folder):
        raise InputError(f"{folder}: a run from Python, whose objects aren't in it; go on with neuroevo.resume")
    try:
        written = config.check(config.read(str(file)))
    except InputError as error:
        written, wrong = None, f"{file}: damaged ({str(error).removeprefix(f'{file}: ')})"
    saved = newest(folder, written, log)
    if saved is None:
        if written is None:
            raise InputError(f"{wrong}; and there is no checkpoint to take the config from")
        return None, written
    c = config.check(config.parse_sections(saved.config, str(saved.path)))
    if written is None:
        log(f"{wrong}; the config is taken from {saved.path.name}")
        return saved, c
    c = replace(c, remote=written.remote, tracking=written.tracking)
    if differ := rundir.differences(c.record(), written.record()):
        log(f"{file}: {', '.join(differ)} differ from {saved.path.name}, which counts")
    return saved, c


def read_config(folder: Path, log: Callable[[str], None]) -> Config:
    """Return a run's config, without reading what was searched: config.yaml's, where the newest checkpoint agrees.

    Else it is the checkpoint's, if that is good, and `log` is told. InputError where neither can be read.
    """
    file, written, wrong = folder / rundir.CONFIG, None, ""
    try:
        written = config.check(config.read(str(file)))
    except InputError as error:
        wrong = f"{file}: damaged ({str(error).removeprefix(f'{file}: ')})"
    for path in generations.paths(folder / rundir.CHECKPOINTS):
        try:
            found = config.check(config.parse_sections(checkpoint.read_config(path), str(path)))
            if written is not None:
                found = replace(found, remote=written.remote, tracking=written.tracking)
                if not rundir.differences(found.record(), written.record()):
                    return written
            checkpoint.verify(path)
        except InputError as error:
            log(str(error))
            continue
        log(f"{wrong or f'{file}: not as the checkpoint has it'}; the config is taken from {path.name}")
        return found
    if written is None:
        raise InputError(wrong)
    return written


def from_python(folder: Path) -> bool:
    """Tell whether a run's folder is of a search from Python, by config.yaml or its newest checkpoint."""
    with suppress(InputError):
        if config.read(str(folder / rundir.CONFIG)).get(PYTHON):
            return True
    for path in generations.paths(folder / rundir.CHECKPOINTS):
        with suppress(InputError):
            return bool(config.parse_sections(checkpoint.read_config(path), str(path)).get(PYTHON))
    return False


def newest(folder: Path, written: Config | None, log: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """Return a run's newest good checkpoint, not one of another run that came to lie there; None where there is none.

    What is of config.yaml's run is told by all of the config that can't change within it.
    """
    found = checkpoint.newest(folder / rundir.CHECKPOINTS, log)
    tell_gone(folder, found, log)
    if found is None or written is None or of_run(found, written):
        return found
    for path in generations.paths(folder / rundir.CHECKPOINTS):
        with suppress(InputError):
            other = checkpoint.read(path)
            if of_run(other, written):
                log(f"{found.path}: of another run than {folder / rundir.CONFIG}; {path.name} is taken")
                return other
    return found


def tell_gone(folder: Path, saved: checkpoint.Checkpoint | None, log: Callable[[str], None]) -> None:
    """Say where a run came further, by its result, than its newest good checkpoint."""
    last = last_generation(folder)
    if saved is not None and last > saved.step.generation:
        path = folder / rundir.CHECKPOINTS / generations.name(last)
        log(f"{path}: gone or damaged; {saved.path.name} is taken, of generation {saved.step.generation}")


def last_generation(folder: Path) -> int:
    """Return the generation, or of a search the iteration, that a folder's result is of; 0 without one."""
    result = rundir.read_result(folder)
    return int(result.get("generations", result.get("iterations", 0)))


def without_checkpoint(run_dir: str) -> InputError:
    """Return the error of a folder that has no checkpoint, or has it no more."""
    last = last_generation(Path(run_dir))
    if not last:
        return InputError(f"{run_dir}: no checkpoint yet")
    path = Path(run_dir) / rundir.CHECKPOINTS / generations.name(last)
    return InputError(f"{path}: gone, and no other checkpoint is there: there is nothing to go on from")


def of_run(saved: checkpoint.Checkpoint, c: Config) -> bool:
    """Tell whether a checkpoint's config is one that a run of a config can have."""
    try:
        then, now = config.check(config.parse_sections(saved.config, str(saved.path))).record(), c.record()
    except InputError:
        return False
    return not [key for key in rundir.differences(then, now) if not key.startswith(CHANGING)]


def concludes(result: Mapping[str, Any], saved: checkpoint.Checkpoint) -> bool:
    """Tell whether a finished run's result is of a checkpoint, and not of one before the run was given more."""
    return result.get("status") == "finished" and result["generations"] >= saved.step.generation


def check_champion(saved: checkpoint.Checkpoint, rules: Rules, merit: Merit) -> None:
    """See that a search can compare others with a checkpoint's champion; InputError where its validation lacks that."""
    if rules.ending is not None:  # which candidate is taken, and when, is known: nobody is compared
        return
    try:
        merit(saved.step.champion.validation)
    except KeyError as error:
        raise InputError(f"{saved.path}: not as a checkpoint is (no validation {error} of the champion)") from None


def restore(
    c: Config,
    saved: checkpoint.Checkpoint | None,
    signals: Interruption,
    observer: Observer,
    log: Callable[[str], None],
    *,
    executor: Executor = LOCAL,
) -> tuple[Run, Step, checkpoint.History]:
    """Compose a run's parts again and read its state from a checkpoint, or begin it where there is none."""
    if saved is None:
        device, given = devices.nearest(c.device, log), build.dataset(c)
        backbone = build.build_backbone(c, given[0])
        images = watch_prefix(observer, signals)
        run = compose.compose(c, device, given, backbone, images=images, log=log, executor=executor)
        return run, run.initial(), []
    device, given = devices.nearest(c.device, log), build.dataset(locate_data(c, log))
    agree(saved, build.identify(*given), log)
    backbone = build.backbone_for(c, given[0].native(), saved.frozen)
    own = of_checkpoint(saved, here(saved.plan, device, log))
    images = watch_prefix(observer, signals)
    run = compose.compose(c, device, given, backbone, images=images, log=log, saved=own, executor=executor)
    if saved.layout != run.network.layout:
        raise InputError(f"{saved.path}: of another layout: {saved.layout.names} {saved.layout.shapes}")
    run = replace(run, moves=tuple(moves.add(saved, device, run.features.digest(), log)))
    context = Context(c.seed, 0, 0.0, run.home, run.network.layout)
    start = run.supervised.start
    template = run.algorithm.init(start, run.supervised.sigma, context)
    step = replace(
        saved.step,
        state=checkpoint.state(saved.path, template, run.home),
        champion=saved.step.champion._replace(genome=saved.step.champion.genome.to(run.home)),
        cost=saved.step.cost + Cost(backbone=run.computed),
    )
    return run, step, saved.history


def of_checkpoint(saved: checkpoint.Checkpoint, execution: Execution) -> compose.Saved:
    """Return what a run that goes on has of its own."""
    return compose.Saved(execution, saved.changes, saved.affine, saved.kept or {})


def agree(saved: checkpoint.Checkpoint, now: Identity, log: Callable[[str], None]) -> None:
    """See that data are those that a checkpoint's run is of; InputError says what differs."""
    line = identity.agree(saved.data, saved.classes, now, saved.path)
    if line is not None:
        log(line)


def check_search(folder: Path, run: Run, log: Callable[[str], None]) -> None:
    """See that a run that follows on a search of hyperparameters is of the search's data; InputError if not."""
    before = checkpoint.newest(folder / rundir.TUNE / rundir.CHECKPOINTS, log)
    if before is not None:
        agree(before, run.data, log)


def locate_data(c: Config, log: Callable[[str], None]) -> Config:
    """Return a run's config with the place that its data set has now, which may have moved."""
    key = datasets.place_option(c.data.source.name)
    root = c.data.source.options.get(key)
    now = root and identity.locate(str(root))
    if now == root:
        return c
    log(f"data.{key}: {root} isn't there; {now} is taken")
    source = replace(c.data.source, options=c.data.source.options | {key: now})
    return replace(c, data=c.data.model_copy(update={"source": source}))


def here(plan: Execution, device: torch.device, log: Callable[[str], None]) -> Execution:
    """Return a plan for this machine, which may lack the GPU on which a population was kept, or its means."""
    plan = plan._replace(threads=torch.get_num_threads())
    plan = slicing.on_device(plan._replace(precision=precision_here(plan, device, log)), device, log)
    if devices.exists(plan.home):
        return plan
    log(f"the population was kept on {plan.home}, which is not on this machine, and is now on {device}")
    return plan._replace(home=str(device))


def precision_here(plan: Execution, device: torch.device, log: Callable[[str], None]) -> str:
    """Return the precision of a plan's scoring on this machine, which may lack the GPU that float16 is for."""
    if plan.precision != "float16" or device.type == "cuda":
        return plan.precision
    log(f"scores were in float16, which is for GPUs; on {device} they are in {FULL}")
    return FULL


def of_genome(champion: Champion) -> str:
    """Return a hash of a champion's genome, by which its file is known to be of it."""
    return weightfiles.digest({"genome": champion.genome})


def read_run(
    run_dir: str, observer: Observer, take: Take | None = None, sets: Sequence[str] = ()
) -> tuple[Config, checkpoint.Checkpoint]:
    """Return a run's config and its newest good checkpoint, in which what `take` takes of it is the champion."""
    folder = rundir.find(run_dir)
    saved, c = reopen(folder, observer.note)
    c = apply_sets(c, list(sets))
    if c.tune is not None:
        raise InputError(f"{run_dir}: a search of hyperparameters, which has no champion; its final run is not begun")
    if saved is None:
        raise without_checkpoint(run_dir)
    if take is not None:
        saved = replace(saved, step=replace(saved.step, champion=take(saved)))
    return c, saved


def open_run(
    run_dir: str,
    observer: Observer,
    take: Take | None = None,
    sets: Sequence[str] = (),
    *,
    signals: Interruption = NEVER,
) -> tuple[Run, Step]:
    """Return the parts of a run, data included, and its newest good step, for use and not to go on from.

    What `take` takes of the checkpoint is the champion in its place.
    """
    c, saved = read_run(run_dir, observer, take, sets)
    with signals:
        run, step, _ = restore(c, saved, signals, observer, observer.note)
    return run, step


def rebuild(
    run_dir: str, observer: Observer, take: Take | None = None, *, signals: Interruption = NEVER
) -> tuple[Run, Champion]:
    """Return the parts of a run and its champion, from its folder alone, without its data.

    What `take` takes of the checkpoint is the champion in its place. Its splits are empty. Only batch norms that are
    re-estimated for a member need the train images.
    """
    c, saved = read_run(run_dir, observer, take)
    champion, statistics = saved.step.champion, None
    if c.backbone.batchnorm == "recalibrate" and c.backbone.trainable:
        statistics = champions_own(Path(run_dir), champion)
        if statistics is None:
            try:
                return open_run(run_dir, observer, take, signals=signals)[0], champion
            except InputError as error:
                raise InputError(
                    f"{error} (the batch norms of {champion.kind} are re-estimated on the run's train images: those of "
                    f"a finished run's champion alone are in {rundir.CHAMPION})"
                ) from None
    device, name = devices.nearest(c.device, observer.note), c.backbone.name
    native = saved.native
    if native is None:  # a checkpoint from before it was in there; only these two keep their images' size
        keep = name == "none" or ":" in name
        native = build.dataset(locate_data(c, observer.note))[0].native() if keep else (1, 1, 3)
    own = of_checkpoint(saved, here(saved.plan, device, observer.note))
    run = compose.without_data(c, device, build.backbone_for(c, native, saved.frozen), saved.classes, own)
    if saved.layout != run.network.layout:
        raise InputError(f"{saved.path}: of another layout: {saved.layout.names} {saved.layout.shapes}")
    network = replace(run.network, statistics=statistics)
    return replace(run, supervised=replace(run.supervised, network=network)), champion


def champions_own(folder: Path, champion: Champion) -> dict[str, Tensor] | None:
    """Return the batch norm statistics in a champion's file, None where that is of another genome or not there."""
    path = folder / rundir.CHAMPION
    if not path.exists():
        return None
    weights, about = weightfiles.read_safetensors(path)
    if about.get("genome") != of_genome(champion):
        return None
    return {name: value for name, value in weights.items() if name.endswith(STATISTICS)}


def member_of(number: int, option: str = "--member") -> Take:
    """Return what takes a member of a checkpoint's front, by its number, as if it were the champion."""

    def take(saved: checkpoint.Checkpoint) -> Champion:
        if saved.front is None:
            raise InputError(f"{option}: {saved.path} has no front; only a run with fitness.metrics has one")
        count = len(saved.front.genomes)
        if not 0 <= number < count:
            raise InputError(f"{option}: {number} given; the front of {saved.path} has {count} members, from 0")
        return Champion(saved.front.genomes[number], f"{checkpoint.FRONT}{number}", saved.step.generation, {})

    return take
