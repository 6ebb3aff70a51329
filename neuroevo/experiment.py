"""A run from its config to a scored champion, and from its folder on."""

import json
import math
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from neuroevo import blame, caveats, composition, config, data, devices, features, identity, inventory
from neuroevo.composition import Experiment
from neuroevo.config import Config
from neuroevo.data import Dataset
from neuroevo.engine import loop
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.development import Developed
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Champion, Rules, Step
from neuroevo.engine.problem import Problem
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError, Interrupted, RunError, printable
from neuroevo.fitness import Plan
from neuroevo.identity import Identity
from neuroevo.networks import weightfiles
from neuroevo.networks.backbones import Backbone
from neuroevo.storage import checkpoint, claims, rundir

# What can change from one command on a run or a search to the next, as dotted keys begin.
CHANGING = ("budget", "checkpoint", "data.root", "data.file", "tune.budget", "tune.patience", "tune.final")
PATIENCE = 3.0  # seconds that a generation has left when a signal comes, before it is dropped
FREE_SHARE = 4  # an evaluation may use up to a quarter of the memory that is free at the start


class Reporter(Protocol):
    """Who is told how a run goes."""

    def note(self, line: str) -> None: ...  # noqa: D102

    def images(self, done: int, total: int) -> None: ...  # noqa: D102

    def generation(self, step: Step, rules: Rules) -> None: ...  # noqa: D102

    def several(self, shares: Mapping[str, float]) -> None: ...  # noqa: D102


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("neuroevo", "torch", "torchvision", "timm", "evotorch", "numpy", "h5py")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


class Signals:
    """While it is entered, SIGINT and SIGTERM only leave a status behind; a second one ends the process at once.

    Within `prompt` or `patient` they raise Interrupted, at once or after a while: for what computes and writes nothing.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.prompted = self.awaited = False

    def __enter__(self) -> "Signals":
        self.before = {s: signal.signal(s, self._arrived) for s in (signal.SIGINT, signal.SIGTERM)}
        self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._overdue)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.before.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, Signals):  # what came here is for whoever waits for it, too
                outer.status = outer.status or self.status

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self.status is not None:
            os._exit(128 + number)
        self.status = 128 + number
        if self.prompted:
            raise Interrupted(self.status)
        if self.awaited:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _overdue(self, number: int, frame: FrameType | None) -> None:
        if self.awaited:
            self.check()

    @contextmanager
    def prompt(self) -> Iterator[None]:
        """Raise Interrupted as soon as a signal comes."""
        self.prompted = True
        try:
            self.check()
            yield
        finally:
            self.prompted = False

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Raise Interrupted where what is done isn't done PATIENCE seconds after a signal."""
        self.awaited = True
        if self.status is not None:  # it came before
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            yield
        finally:
            self.awaited = False

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.status is not None:
            raise Interrupted(self.status)


class Log:
    """A run's log, which the user is told too."""

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self.reporter = reporter
        try:
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115  `logged` closes it
        except OSError as error:
            raise rundir.unwritten(path, error) from error

    def __call__(self, line: str) -> None:
        """Tell the user a line and keep it."""
        self.keep(line)
        self.reporter.note(line)

    def keep(self, line: str) -> None:
        """Keep a line; RunError where it can't be written."""
        text = "\n".join(map(printable, line.split("\n")))  # of a traceback there are several
        rundir.append(self.file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


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
            experiment = composition.compose(*ready, images, log)
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
    given = composition.dataset(c)
    if log is None:
        composition.check_splits(c, given[0])
    backbone = composition.build_backbone(c, given[0])
    if c.memory.limit is None:
        # A power of two, so that runs of one config on one machine have one limit.
        limit = 1 << (devices.available_memory(device) // FREE_SHARE).bit_length() - 1
        c = replace(c, memory=c.memory.model_copy(update={"limit": limit}))
    dims, _ = composition.dimensions(c, given, backbone)
    if log is None:
        composition.check_crossover(c, dims.genes)
    if c.tune is not None:
        composition.check_search(c, given, backbone)
    return Ready(c, device, given, backbone)


@contextmanager
def started(ready: Ready, out: str | None, stem: str, reporter: Reporter) -> Iterator[tuple[Path, Log]]:
    """Own a new run's folder, config written, with a log, while it is entered; bad input leaves no folder behind."""
    c = ready.config
    with claims.claimed(out, stem, c.seed) as claim:
        folder = claim.folder
        try:
            # The log comes first: it tells whose folder it is.
            with unbegun(folder, reporter), logged(folder, reporter) as log:
                rundir.replace(folder / rundir.CONFIG, c.to_yaml().encode())
                log(f"{folder}: {c.backbone.name} on {c.dataset.name}, {ready.device}")
                for line in [*inventory.lines(*ready.given), *ready.backbone.notes]:
                    log(line)
                genes = composition.dimensions(c, ready.given, ready.backbone)[0].genes
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
    return any(checkpoint.number(path) for path in checkpoint.listed(folder / rundir.CHECKPOINTS))


def begin_or_resume(c: Config, out: str | None, stem: str, reporter: Reporter) -> Path:
    """Go on with the run in `out`, or begin it where there is none; InputError where that is of another config.

    Without `out` the folder is runs/out/STEM-SEED. Budget and checkpoint are those of `c`.
    """
    out = str(rundir.OUT / f"{stem}-{c.seed}") if out is None else out
    folder = claims.named(out)
    if not claims.holds(folder):
        return run(c, out, stem, reporter)
    if c.tune is not None:
        raise InputError("tune: a config with hyperparameters to search is for neuroevo tune; here, set tune null")

    def change(then: Config) -> Config:
        agreed(then, c, out)
        return replace(then, budget=c.budget, checkpoint=c.checkpoint)

    return resumed(folder, change, reporter)


def agreed(then: Config, now: Config, out: str, free: tuple[str, ...] = ("budget", "checkpoint")) -> None:
    """Raise InputError where a run's config is another than now, in what can't change within a run."""
    old, new = then.record(), now.record()
    if now.memory.limit is None:  # it was resolved when the run began
        old["memory"] |= {"limit": None}
    differ = [key for key in rundir.differing(old, new) if not key.startswith(free)]
    if differ:
        raise InputError(f"--resume: {out} holds a run of another config ({', '.join(differ)}); give another --out")


def resume(run_dir: str, sets: list[str], reporter: Reporter) -> Path:
    """Go on with a run from its newest good checkpoint; a finished one is left as it is unless its budget grew."""
    folder = rundir.existing(run_dir)
    for text in sets:
        if not text.startswith(("budget.", "checkpoint.", "data.root=", "data.file=")):
            raise InputError(
                f"--set {text}: a run goes on as it began; only budget, checkpoint, data.root and data.file can change"
            )
    return resumed(folder, lambda c: changed(c, sets), reporter)


def changed(c: Config, sets: list[str]) -> Config:
    """Return a config with settings applied."""
    return config.check(config.override(c.record(), sets, lambda line: None)) if sets else c


def resumed(folder: Path, change: Callable[[Config], Config], reporter: Reporter) -> Path:
    """Go on with a run whose config changes in budget or checkpoint alone."""
    with Signals() as signals, claims.locked(folder), unbegun(folder, reporter), logged(folder, reporter) as log:
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


def reopened(folder: Path, log: Callable[[str], None]) -> tuple[checkpoint.Checkpoint | None, Config]:
    """Return a run's newest good checkpoint, if it has any, and its config.

    The config is the checkpoint's: where config.yaml differs, `log` is told. InputError where neither can be read.
    """
    file = folder / rundir.CONFIG
    try:
        written = config.check(config.read(str(file)))
    except InputError as error:
        written, wrong = None, f"{file}: damaged ({str(error).removeprefix(f'{file}: ')})"
    saved = newest(folder, written, log)
    if saved is None:
        if written is None:
            raise InputError(f"{wrong}; and there is no checkpoint to take the config from")
        return None, written
    c = config.check(config.parse(saved.config, str(saved.path)))
    if written is None:
        log(f"{wrong}; the config is taken from {saved.path.name}")
    elif differ := rundir.differing(c.record(), written.record()):
        log(f"{file}: {', '.join(differ)} differ from {saved.path.name}, which counts")
    return saved, c


def newest(folder: Path, written: Config | None, log: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """Return a run's newest good checkpoint, not one of another run that came to lie there; None where there is none.

    What is of config.yaml's run is told by all of the config that can't change within it.
    """
    found = checkpoint.newest(folder / rundir.CHECKPOINTS, log)
    if found is None or written is None or of_run(found, written):
        return found
    for path in checkpoint.listed(folder / rundir.CHECKPOINTS):
        with suppress(InputError):
            other = checkpoint.read(path)
            if of_run(other, written):
                log(f"{found.path}: of another run than {folder / rundir.CONFIG}; {path.name} is taken")
                return other
    return found


def of_run(saved: checkpoint.Checkpoint, c: Config) -> bool:
    """Tell whether a checkpoint's config is one that a run of a config can have."""
    try:
        then, now = config.check(config.parse(saved.config, str(saved.path))).record(), c.record()
    except InputError:
        return False
    return not [key for key in rundir.differing(then, now) if not key.startswith(CHANGING)]


def restored(
    c: Config, saved: checkpoint.Checkpoint | None, signals: Signals, reporter: Reporter, log: Callable[[str], None]
) -> tuple[Experiment, Step, checkpoint.History]:
    """Compose a run's parts again and read its state from a checkpoint, or begin it where there is none."""
    if saved is None:
        device, given = devices.nearest(c.device, log), composition.dataset(c)
        backbone = composition.build_backbone(c, given[0])
        experiment = composition.compose(c, device, given, backbone, watched(reporter, signals), log)
        return experiment, experiment.initial(), []
    device, given = devices.nearest(c.device, log), composition.dataset(found(c, log))
    agree(saved, composition.identified(*given), log)
    experiment = composition.compose(
        c, device, given, composition.backbone_for(c, given[0].native(), saved.frozen), watched(reporter, signals), log,
        here(saved.plan, device, log), saved.changes, saved.scale, saved.kept,
    )  # fmt: skip
    if saved.layout != experiment.layout:
        raise InputError(f"{saved.path}: of another layout: {saved.layout.names} {saved.layout.shapes}")
    for what, then, now in (
        ("threads", saved.plan.threads, torch.get_num_threads()),
        ("device", saved.device, str(device)),
        ("versions", saved.versions, versions()),
        ("features", saved.features, experiment.features.digest()),
    ):
        if then != now:
            log(f"{what} were {then} and are {now}: the run goes on, but may round otherwise than uninterrupted")
    context = Context(c.seed, 0, 0.0, experiment.home, experiment.layout)
    start = experiment.start()
    template = experiment.algorithm.init(start, experiment.spread(start), context)
    step = replace(
        saved.step,
        state=checkpoint.state(saved.path, template, experiment.home),
        champion=saved.step.champion._replace(genome=saved.step.champion.genome.to(experiment.home)),
        cost=saved.step.cost + Cost(backbone=experiment.computed),
    )
    return experiment, step, saved.history


def agree(saved: checkpoint.Checkpoint, now: Identity, log: Callable[[str], None]) -> None:
    """See that data are those that a checkpoint's run is of; InputError says what differs."""
    line = identity.agree(saved.data, saved.classes, now, saved.path)
    if line is not None:
        log(line)


def searched(folder: Path, experiment: Experiment, log: Callable[[str], None]) -> None:
    """See that a run that follows on a search of hyperparameters is of the search's data; InputError if not."""
    before = checkpoint.newest(folder / rundir.TUNE / rundir.CHECKPOINTS, log)
    if before is not None:
        agree(before, experiment.data, log)


def found(c: Config, log: Callable[[str], None]) -> Config:
    """Return a run's config with the place that its data set has now, which may have moved."""
    key = data.place_option(c.dataset.name)
    root = c.dataset.options.get(key)
    now = root and identity.located(str(root))
    if now == root:
        return c
    log(f"data.{key}: {root} isn't there; {now} is taken")
    return replace(c, dataset=replace(c.dataset, options=c.dataset.options | {key: now}))


def here(plan: Plan, device: torch.device, log: Callable[[str], None]) -> Plan:
    """Return a plan for this machine, which may lack the GPU on which a population was kept."""
    if devices.there(plan.home):
        return plan
    log(f"the population was kept on {plan.home}, which is not on this machine, and is now on {device}")
    return plan._replace(home=str(device))


def watched(reporter: Reporter, signals: Signals) -> Callable[[int, int], None]:
    """Return a callback for the backbone's pass that reports it and ends it at a signal."""

    def images(done: int, total: int) -> None:
        signals.check()
        reporter.images(done, total)

    return images


@contextmanager
def logged(folder: Path, reporter: Reporter) -> Iterator[Log]:
    """Return a run's log, in which the command comes first."""
    log = Log(folder / rundir.LOG, reporter)
    with closing(log.file):
        log.keep(rundir.COMMAND + command())
        yield log


def command() -> str:
    """Return the command of this process, quoted for a shell."""
    program = Path(sys.argv[0])
    name = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*name, *sys.argv[1:]])


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
    writer = checkpoint.Writer(folder / rundir.CHECKPOINTS, attributes, beside, c.checkpoint.keep)
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


def made(folder: Path) -> None:
    """Make a folder within a run's; RunError where that can't be."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: not made ({error.strerror})") from error


def aside(folder: Path, saved: checkpoint.Checkpoint | None, log: Callable[[str], None]) -> None:
    """Rename the checkpoints that were passed over for the one that is gone on from, so that they count no more."""
    for path in checkpoint.put_aside(folder / rundir.CHECKPOINTS, None if saved is None else saved.path):
        log(f"{path}: set aside under this name")


def settle(
    c: Config, folder: Path, writer: checkpoint.Writer, step: Step, history: checkpoint.History, changed: bool
) -> None:
    """Write the config that a run goes on with: into config.yaml, and if it has `changed` into its checkpoint first."""
    if changed:
        writer.submit(step, history)
        writer.wait()
    text = c.to_yaml().encode()
    if rundir.content(folder / rundir.CONFIG) != text:
        rundir.replace(folder / rundir.CONFIG, text)


def once(problem: Problem, first: Callable[[], None]) -> Problem:
    """Return a problem that calls `first` before it develops its first population: the budget has room for it."""
    development, left = problem.development, [first]

    def develop(population: Population, index: torch.Tensor, context: Context) -> Developed:
        while left:
            left.pop()()
        return development.develop(population, index, context)

    return problem._replace(development=development._replace(develop=develop))


def punctual(run: Iterator[Step], signals: Signals) -> Iterator[Step]:
    """Yield a run's steps; end without one that isn't there PATIENCE seconds after a signal. A resume computes it."""
    with suppress(StopIteration, Interrupted):
        while True:
            with signals.patient():
                step = next(run)
            yield step


def recorded(
    run: Iterator[Step], step: Step, history: checkpoint.History, folder: Path, writer: checkpoint.Writer, every: int,
    rules: Rules, signals: Signals, reporter: Reporter, after: Callable[[Step], None] = lambda step: None,
) -> Step:  # fmt: skip
    """Keep a run's history and checkpoints until it stops or a signal comes; return its last step, which is on disk.

    `history` is that up to `step`; `after` is called after each generation, before its checkpoint is written.
    """
    history, kept = list(history), step
    rundir.write_history(folder, history)
    try:
        with open(folder / rundir.HISTORY, "ab", buffering=0) as lines:
            for step in run:
                history.append(step.record)
                rundir.append(lines, rundir.dumps(step.record) + "\n")
                after(step)
                interrupted = signals.status is not None and step.stop is None
                if step.generation % every == 0 or step.stop or interrupted:
                    writer.submit(step, history)
                    kept = step
                reporter.generation(step, rules)
                if interrupted:
                    break
        if kept is not step:  # the generation after it was dropped
            writer.submit(step, history)
        writer.wait()
    finally:
        writer.close()
    return step


def planned(experiment: Experiment) -> dict[str, str]:
    """Return the plan in force and what lack of memory changed in it, as a checkpoint has them."""
    return {"plan": json.dumps(experiment.plan._asdict()), "plan_changes": json.dumps(experiment.plans.changes)}


def of_genome(champion: Champion) -> str:
    """Return a hash of a champion's genome, by which its file is known to be of it."""
    return weightfiles.digest({"genome": champion.genome})


def saved_run(
    run_dir: str, reporter: Reporter, member: int | None, sets: Sequence[str] = ()
) -> tuple[Config, checkpoint.Checkpoint]:
    """Return a run's config and its newest good checkpoint, in which a member of the front may be the champion."""
    folder = rundir.existing(run_dir)
    saved, c = reopened(folder, reporter.note)
    c = changed(c, list(sets))
    if c.tune is not None:
        raise InputError(f"{run_dir}: a search of hyperparameters, which has no champion; its final run is not begun")
    if saved is None:
        raise InputError(f"{run_dir}: no checkpoint yet")
    if member is not None:
        saved = replace(saved, step=replace(saved.step, champion=chosen(saved, member)))
    return c, saved


def opened(
    run_dir: str, reporter: Reporter, member: int | None = None, sets: Sequence[str] = ()
) -> tuple[Experiment, Step]:
    """Return the parts of a run, data included, and its newest good step, for use and not to go on from.

    With `member`, that one of the step's front takes the champion's place; InputError where there is none.
    """
    c, saved = saved_run(run_dir, reporter, member, sets)
    with Signals() as signals:
        experiment, step, _ = restored(c, saved, signals, reporter, reporter.note)
    return experiment, step


def rebuilt(run_dir: str, reporter: Reporter, member: int | None = None) -> tuple[Experiment, Champion]:
    """Return the parts of a run and its champion, or a member of its front, from its folder alone, without its data.

    Its splits are empty. Only batch norms that are re-estimated for a member need the train images.
    """
    c, saved = saved_run(run_dir, reporter, member)
    champion, statistics = saved.step.champion, None
    if c.backbone.batchnorm == "recalibrate" and c.backbone.trainable:
        statistics = champions_own(Path(run_dir), champion)
        if statistics is None:
            try:
                return opened(run_dir, reporter, member)[0], champion
            except InputError as error:
                raise InputError(
                    f"{error} (the batch norms of {champion.kind} are re-estimated on the run's train images: those of "
                    f"a finished run's champion alone are in {rundir.CHAMPION})"
                ) from None
    device, name = devices.nearest(c.device, reporter.note), c.backbone.name
    native = saved.native
    if native is None:  # a checkpoint from before it was in there; only these two keep their images' size
        own = name == "none" or ":" in name
        native = composition.dataset(found(c, reporter.note))[0].native() if own else (1, 1, 3)
    experiment = composition.without_data(
        c, device, composition.backbone_for(c, native, saved.frozen), saved.classes,
        here(saved.plan, device, reporter.note), saved.changes, saved.scale, saved.kept or {},
    )  # fmt: skip
    if saved.layout != experiment.layout:
        raise InputError(f"{saved.path}: of another layout: {saved.layout.names} {saved.layout.shapes}")
    return replace(experiment, statistics=statistics), champion


def champions_own(folder: Path, champion: Champion) -> dict[str, Tensor] | None:
    """Return the batch norm statistics in a champion's file, None where that is of another genome or not there."""
    path = folder / rundir.CHAMPION
    if not path.exists():
        return None
    weights, about = weightfiles.read_safetensors(path)
    if about.get("genome") != of_genome(champion):
        return None
    return {name: value for name, value in weights.items() if name.endswith(composition.STATISTICS)}


def chosen(saved: checkpoint.Checkpoint, member: int) -> Champion:
    """Return a member of a checkpoint's front, by its number, as if it were the champion."""
    if saved.front is None:
        raise InputError(f"--member: {saved.path} has no front; only a run with fitness.metrics has one")
    count = len(saved.front.genomes)
    if not 0 <= member < count:
        raise InputError(f"--member: {member} given; the front of {saved.path} has {count} members, from 0")
    return Champion(saved.front.genomes[member], f"{checkpoint.FRONT}{member}", saved.step.generation, {})


def evaluate(
    run_dir: str, root: str | None, reporter: Reporter, member: int | None = None, sets: Sequence[str] = ()
) -> dict[str, Any]:
    """Score a run's champion, or a member of its front, on its test split, or on class folders or an .npz file, `root`.

    `sets` are settings of how samples are read: `data.root` or `data.file` of the run's own, `data.broken` and
    `data.max_pixels`. Scores are of so many `images`; where these are rows of numbers, `noun` says samples.
    """
    own = ("data.root", "data.file") if root is None else ()
    keys = (*own, "data.broken", "data.max_pixels")
    for text in sets:
        if text.partition("=")[0] not in keys:
            raise InputError(f"--set {text}: a run is scored as it is; here, only {', '.join(keys)} can be set")
    if root is None:
        experiment, step = opened(run_dir, reporter, member, sets)
        tested = experiment.test(step.champion.genome, experiment.features, experiment.splits["test"])
        return tested.scores | named(experiment)
    experiment, champion = rebuilt(run_dir, reporter, member)
    with config.at(root="--data", file="--data", **config.READING):
        other = others(experiment, root, sets)
    for line in config.under("data", other.notes, ("broken",)):
        reporter.note(line)
    with Signals() as signals, config.at(**config.READING):
        c, show = experiment.config, watched(reporter, signals)
        rows, _ = features.cached(
            experiment.backbone, other, experiment.device, show, c.features.dtype, log=reporter.note
        )
    labels = torch.from_numpy(other.labels).to(experiment.device)
    tested = experiment.test(champion.genome, experiment.seen(rows, labels), torch.arange(len(labels)))
    return tested.scores | named(experiment)


def named(experiment: Experiment) -> dict[str, str]:
    """Return what a run's samples are called beside its scores, where they are no images."""
    return {} if experiment.backbone.inputs is None else {"noun": experiment.whole.noun}


def others(experiment: Experiment, root: str, sets: Sequence[str]) -> Dataset:
    """Return labelled samples other than a run's own, of its kind: in class folders, or in an .npz file."""
    inputs = experiment.backbone.inputs
    if inputs is None and not root.endswith(".npz"):
        return data.labelled(root, experiment.classes, **reading(sets))
    if sets:
        raise InputError(f"--set {sets[0]}: for class folders; {root} is read as an .npz file")
    found = data.labelled_arrays(root, experiment.classes)
    native = found.native()
    width = native[0] if len(native) == 1 else None
    if width != inputs:
        there, here = (f"{n:,} numbers a sample" if n else "images" for n in (width, inputs))
        raise InputError(f"--data: {root} has {there}; the run is of {here}")
    return found


def reading(sets: Sequence[str]) -> dict[str, Any]:
    """Return the options of `data.labelled` that settings `data.KEY=value` give, checked as an image folder's are."""
    given = config.override({}, sets, lambda line: None).get("data", {})
    checked = config.part("data", {"name": "image_folder", "root": "", **given}, "data").options
    return {key: checked[key] for key in given}
