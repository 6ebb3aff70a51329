"""The composition root: a config becomes parts, the parts a run; a run's folder becomes a run that goes on."""

import json
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neuroevo import (
    backbones,
    checkpoint,
    config,
    data,
    development,
    devices,
    evaluation,
    features,
    fitness,
    gradient,
    heads,
    loop,
    metrics,
    rundir,
)
from neuroevo.algorithms import Algorithm
from neuroevo.backbones import Backbone
from neuroevo.config import Config
from neuroevo.cost import Budget, Cost
from neuroevo.data import Dataset
from neuroevo.development import Development
from neuroevo.errors import InputError, Interrupted
from neuroevo.features import Features
from neuroevo.fitness import Plan, Scores
from neuroevo.genome import Layout, Population
from neuroevo.gradient import View
from neuroevo.heads import Forward
from neuroevo.loop import Rules, Step
from neuroevo.metrics import LOWER_IS_BETTER, Metric, reported
from neuroevo.rng import Context, forked, generator

FREE_SHARE = 4  # an evaluation may use up to a quarter of the memory that is free at the start


class Reporter(Protocol):
    """Who is told how a run goes."""

    def note(self, line: str) -> None: ...  # noqa: D102

    def images(self, done: int, total: int) -> None: ...  # noqa: D102

    def generation(self, step: Step, rules: Rules) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Experiment:
    """The parts of a run, ready to go."""

    config: Config
    device: torch.device
    classes: tuple[str, ...]
    splits: dict[str, Tensor]  # {name: [rows]} of the features
    features: Features
    backbone: Backbone
    head: nn.Module
    first: str  # the head's first linear layer, into which standardisation folds
    layout: Layout
    forward: Forward
    plan: Plan
    algorithm: Algorithm[Any]
    metrics: dict[str, Metric]  # all that the config names, and accuracy and cross-entropy, by name
    computed: int  # images that went through the backbone just now

    def express(self, genomes: Tensor) -> dict[str, Tensor]:
        """Return the weights {name: [n, *shape]} that genomes [n, g] stand for, on features as the head sees them."""
        return self.layout.unflatten(genomes)

    def network_weights(self, genome: Tensor) -> dict[str, Tensor]:
        """Return the weights {name: shape} that a genome [g] has in the network, on raw features."""
        weights = self.express(genome[None])
        if self.features.standardise is not None:
            weights = self.features.standardise.fold(weights, self.first)
        return {name: weight[0] for name, weight in weights.items()}

    def from_network(self, weights: dict[str, Tensor], source: str) -> Tensor:
        """Return the genome [1, g] of weights as the network has them; InputError where they are of another layout."""
        try:
            batched = {name: weights[name][None].to(self.device) for name in self.layout.names if name in weights}
            if self.features.standardise is not None:
                self.layout.flatten(batched)  # shapes first
                batched = self.features.standardise.unfold(batched, self.first)
            return self.layout.flatten(batched)
        except ValueError as error:
            raise InputError(f"{source}: not of this network's layout: {error}") from None

    def start(self) -> Tensor:
        """Return the genomes [s, g] that the population starts from."""
        sources = self.config.genome.start
        if sources:
            return torch.cat(
                [self.from_network(champion_weights(source), f"genome.from: {source}") for source in sources]
            )
        if self.config.head.init == "network":
            own = self.backbone.own_head
            assert own is not None  # seen to in make_head
            weights = {f"{self.backbone.head}.{name}": value for name, value in own.state_dict().items()}
            return self.from_network(weights, "head.init: network")
        named = {f"{self.backbone.head}.{name}": p.detach()[None] for name, p in self.head.named_parameters()}
        return self.layout.flatten(named).to(self.device)

    def rules(self) -> Rules:
        """Return what decides how long the run goes on and who wins it."""
        c, pool = self.config, self.splits[self.config.fitness.split]
        return Rules(
            seed=c.seed,
            samples=min(c.fitness.samples, len(pool)),
            pool=pool,
            every=c.validate.every,
            patience=c.validate.patience,
            budget=Budget(**c.budget.model_dump()),
            metric=c.validation_metric.name,
            lower_is_better=c.validation_metric.name in LOWER_IS_BETTER,
            balance=self.features.labels.cpu()[pool] if c.fitness.balanced else None,
            view=self.view() if c.fitness.split == "train" else gradient.as_it_is,
        )

    def view(self) -> View:
        """Return how batches draw among augmented views of train images."""
        if not self.config.data.augment:
            return gradient.as_it_is
        count = self.config.features.views
        return features.views(0 if count == "live" else count, len(self.features.pieces[0]), self.splits["train"])

    @contextmanager
    def counted(self) -> Iterator[Callable[[], Cost]]:
        """Count the images that live views put through the backbone while it is entered."""
        live = self.features.live
        if live:
            live.kept.clear()  # so that the count doesn't depend on where a run was resumed
        before = live.computed if live else 0
        yield lambda: Cost(backbone=live.computed - before if live else 0)

    def fitness_metrics(self) -> list[Metric]:
        """Return the metric of fitness, and the one that breaks its ties, with what they do against imbalance."""
        given, counts = self.config.fitness, torch.bincount(self.features.labels[self.splits["train"].to(self.device)])
        chosen = [self.metrics[part.name] for part in (self.config.metric, self.config.ties) if part is not None]
        if given.class_weights:
            if self.config.metric.name != "cross_entropy":
                raise InputError("fitness.class_weights: only cross_entropy can be weighted; see also fitness.balanced")
            chosen[0] = metrics.weighted_cross_entropy(counts.sum() / (len(counts) * counts))
        if given.logit_adjustment:
            offset = given.logit_adjustment * (counts / counts.sum()).log()
            chosen = [metrics.adjusted(metric, offset) for metric in chosen]
        return chosen

    def score(self, population: Population, index: Tensor) -> tuple[Scores, Cost]:
        """Score a population on a batch by the fitness metric, and by the one that breaks ties."""
        metrics = self.fitness_metrics()
        with self.counted() as cost:
            scores, spent = fitness.fitness(
                population, self.express, self.forward, self.features, index, metrics, self.plan
            )
        return scores, spent + cost()

    def development(self) -> Development:
        """Return what becomes of a population in its generation: scored as it is, or trained first."""
        c = self.config
        if c.refine is None or c.optimizer is None:
            return development.unchanged(self.score)
        given = c.refine.model_dump()
        inheritance, back_off = given.pop("inheritance"), given.pop("back_off")
        layers = heads.steps(self.head, self.backbone.head)
        dropouts = [module for module in self.head.modules() if isinstance(module, nn.Dropout) and module.p > 0]
        if self.plan.method == "vmap" and dropouts:
            raise InputError(f"head: {c.head_part.name} has dropout, which only a chain of layers can be trained with")
        if c.refine.dropout and not dropouts:
            raise InputError(
                f"refine.dropout: {c.head_part.name} has no dropout layer; give the head a dropout above 0"
            )
        task = gradient.Task(
            layout=self.layout,
            forward=self.forward,
            linear=layers[0][0] if len(layers) == 1 and isinstance(layers[0][1], nn.Linear) else None,
            source=self.features,
            train=self.splits["train"],
            classes=len(self.classes),
            dim=self.features.dim,
            widths=tuple(heads.widths(self.head) or [len(self.classes)]),
            limit=self.plan.limit,
            start=self.start()[0],
            view=self.view(),
        )
        refine_, planned = gradient.refiner(task, c.optimizer.bound()(), gradient.Settings(**given))

        def refine(population: Population, context: Context) -> tuple[Population, Cost]:
            with self.counted() as cost:
                refined, spent = refine_(population, context)
            return refined, spent + cost()

        wrap = development.backed_off if back_off else development.lamarckian
        whole = wrap(self.score, refine, planned)
        return development.baldwinian(whole) if inheritance == "baldwinian" else whole

    def validate(self, genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        """Score candidates [k, g] on the validation split by every metric, as reported."""
        rows = self.splits["validation"]
        scores = fitness.evaluate(
            genomes, self.express, self.forward, self.features, rows, list(self.metrics.values()), self.plan
        )
        found = [
            {name: reported(name, value) for name, value in zip(self.metrics, line, strict=True)}
            for line in scores.values.tolist()
        ]
        return found, Cost(validation=len(genomes) * len(rows))

    def test(self, genome: Tensor, data: Features, rows: Tensor) -> dict[str, Any]:
        """Score a genome [g] on the rows of some features by every metric, with intervals."""
        logits, targets = evaluation.logits(genome, self.express, self.forward, data, rows, self.plan)
        return evaluation.with_intervals(logits, targets, self.metrics)

    def initial(self) -> Step:
        """Return the run before its first generation: its champion so far is the start itself."""
        context = Context(self.config.seed, 0, 0.0, self.device)
        start = self.start()
        state = self.algorithm.init(start, self.config.genome.init_sigma, context)
        found, cost = loop.best({"start": start[0]}, self.validate, self.rules(), 0)
        assert found is not None
        nobody = Population(start, {}, torch.full((len(start), 2), -1))
        scores = Scores(torch.full((len(start), 1), -torch.inf), torch.zeros(len(start), dtype=torch.bool))
        return Step(0, state, nobody, scores, {}, cost + Cost(backbone=self.computed), 0.0, found, 0, None)


def champion_weights(source: str) -> dict[str, Tensor]:
    """Read the trainable weights of an earlier run's champion, or of a file."""
    path = Path(source).expanduser()
    path = path / rundir.CHAMPION if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"genome.from: {source} is neither a finished run nor a file of weights")
    return backbones.read_weights(path)


def make_head(c: Config, backbone: Backbone, dim: int, classes: int) -> nn.Module:
    """Build the head and set its last layer as `head.init` says; InputError where it can't be so."""
    with forked(generator(c.seed, "head", 0)):
        try:
            head = c.head_part.bound()(dim, classes)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"head: {c.head_part.name} can't be built ({error})") from None
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if c.head.init == "zero":
        if not layers:
            raise InputError(f"head.init: zero needs a linear layer, and {c.head_part.name} has none; use default")
        with torch.no_grad():
            for parameter in layers[-1].parameters():
                parameter.zero_()
    own = backbone.own_head
    if c.head.init == "network" and (c.head_part.name != "linear" or own is None or own.out_features != classes):
        has = "no head" if own is None else f"a linear head of {own.out_features} classes"
        raise InputError(f"head.init: network: the weights have {has}, the data {classes} classes")
    return head  # type: ignore[no-any-return]


def dataset(c: Config) -> tuple[Dataset, dict[str, Tensor]]:
    """Return the data set that a config asks for, and its splits."""
    whole: Dataset = c.dataset.bound()()
    if c.data.limit is not None:
        whole = data.limited(whole, c.data.limit, c.data.split_seed)
    return whole, data.split(whole, c.data.split_seed, c.data.validation, c.data.test, c.data.long_tail)


def build_backbone(c: Config, given: Dataset) -> Backbone:
    """Return the backbone that a config asks for."""
    b = c.backbone
    return backbones.build(b.name, b.weights, c.data.image_size, given.native(), b.channels)


def compose(
    c: Config, device: torch.device, given: tuple[Dataset, dict[str, Tensor]], backbone: Backbone,
    plan: Plan | None, images: Callable[[int, int], None],
) -> Experiment:  # fmt: skip
    """Build a run's parts, computing features where they aren't cached; `plan` is a resumed run's own."""
    whole, splits = given
    augment = features.Augment(c.data.augment, backbone.transform.size) if c.data.augment else None
    rows, computed = features.cached(backbone, whole, device, images)
    pieces, labels, live = [rows], [torch.from_numpy(whole.labels)], None
    if augment is not None and c.features.views == "live":
        live = features.Live(backbone, whole, augment, device)
    elif augment is not None and c.features.views != "live":
        train = whole.take(splits["train"].numpy())
        for view in range(c.features.views):
            piece, more = features.cached(backbone, train, device, images, augment, view)
            pieces.append(piece)
            labels.append(torch.from_numpy(train.labels))
            computed += more
    standardise = features.statistics(rows, splits["train"]) if c.features.standardise else None
    if standardise is not None:
        standardise = features.Standardise(standardise.mean.to(device), standardise.std.to(device))
    cached = Features(tuple(pieces), torch.cat(labels).to(device), standardise, device, live)
    head = make_head(c, backbone, cached.dim, len(whole.classes))
    layout = Layout.of({f"{backbone.head}.{name}": p for name, p in head.named_parameters()})
    method, forward = heads.population_forward(head.to(device), backbone.head)
    first, layer = heads.steps(head, backbone.head)[0]
    if standardise is not None and not (isinstance(layer, nn.Linear) and layer.bias is not None):
        raise InputError(
            f"features.standardise: {c.head_part.name} doesn't begin with a linear layer with bias; set false"
        )
    if plan is None:
        assert c.memory.limit is not None
        widths = heads.widths(head) or [len(whole.classes)]
        plan = fitness.plan(method, layout.genes, cached.dim, widths, c.memory.limit, device)
    parts = {part.name: part for part in (c.validation_metric, c.metric, c.ties) if part is not None}
    for name in ("accuracy", "cross_entropy"):
        parts.setdefault(name, config.part("metric", name, name))
    return Experiment(
        c, device, whole.classes, splits, cached, backbone, head, first, layout, forward, plan,
        c.algorithm.bound()(layout), {name: part.metric() for name, part in parts.items()}, computed,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("neuroevo", "torch", "torchvision", "timm", "evotorch", "numpy", "h5py")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


class Signals:
    """While it is entered, SIGINT and SIGTERM only leave a status behind; a second one ends the process at once."""

    def __init__(self) -> None:
        self.status: int | None = None

    def __enter__(self) -> "Signals":
        self.before = {s: signal.signal(s, self._arrived) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self.status is not None:
            os._exit(128 + number)
        self.status = 128 + number

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.status is not None:
            raise Interrupted(self.status)


def run(c: Config, out: str | None, stem: str, reporter: Reporter) -> Path:
    """Run an experiment from data to a scored champion; return its folder. Bad input leaves no folder behind."""
    with Signals() as signals:
        device = devices.resolve(c.device)
        given = dataset(c)
        backbone = build_backbone(c, given[0])
        if c.memory.limit is None:
            # A power of two, so that runs of one config on one machine have one limit.
            limit = 1 << (devices.available_memory(device) // FREE_SHARE).bit_length() - 1
            c = replace(c, memory=c.memory.model_copy(update={"limit": limit}))
        was_there = out is not None and Path(out).exists()
        folder = rundir.claim(out, stem, c.seed)
        try:
            with rundir.locked(folder):
                rundir.replace(folder / rundir.CONFIG, c.to_yaml().encode())
                with logged(folder, reporter) as log:
                    log(f"{folder}: {c.backbone.name} on {c.dataset.name}, {device}")
                    experiment = compose(c, device, given, backbone, None, watched(reporter, signals))
                    go(experiment, experiment.initial(), [], folder, signals, reporter, log)
        except Interrupted:
            if not checkpoint.listed(folder / "checkpoints"):
                reporter.note(
                    f"{folder}: interrupted before its first generation; begin with: neuroevo resume {folder}"
                )
            raise
        except InputError:
            if not checkpoint.listed(folder / "checkpoints"):
                clear(folder, was_there)
            raise
    return folder


def clear(folder: Path, was_there: bool) -> None:
    """Take a run that never began off the disk, and its folder too unless it was there before."""
    if not was_there:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in (rundir.CONFIG, rundir.HISTORY, rundir.LOG, ".lock"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def resume(run_dir: str, sets: list[str], reporter: Reporter) -> Path:
    """Go on with a run from its newest good checkpoint; a finished one is left as it is unless its budget grew."""
    folder = rundir.existing(run_dir)
    for text in sets:
        if not text.startswith(("budget.", "checkpoint.")):
            raise InputError(f"--set {text}: a run goes on as it began; only budget and checkpoint can change")
    with Signals() as signals, rundir.locked(folder), logged(folder, reporter) as log:
        c, before = reopened(folder, sets)
        saved = checkpoint.newest(folder / "checkpoints", log)
        finished = rundir.read_result(folder).get("status") == "finished"
        if saved is not None and finished:
            stop = Budget(**c.budget.model_dump()).spent(
                saved.step.generation, saved.step.cost, saved.step.seconds, Cost(forward=len(saved.step.scores.values))
            )
            if stop is not None or c.budget == before.budget:
                log(f"{folder}: finished ({rundir.read_result(folder)['stop_reason']}); nothing to do")
                return folder
        if c.record() != before.record():
            rundir.replace(folder / rundir.CONFIG, c.to_yaml().encode())
        experiment, step, history = restored(c, saved, signals, reporter, log)
        if finished:  # its budget grew: patience that ran out starts anew
            step = replace(step, stop=None, stale=0 if step.stop == "patience" else step.stale)
        if saved is not None:
            log(f"{folder}: going on after generation {step.generation}")
        go(experiment, step, history, folder, signals, reporter, log)
    return folder


def reopened(folder: Path, sets: list[str] | None = None) -> tuple[Config, Config]:
    """Return a run's config with settings applied, and as it was."""
    text = (folder / rundir.CONFIG).read_text()
    raw = config.parse(text, str(folder / rundir.CONFIG))
    return config.check(config.override(raw, sets or [], lambda line: None)), config.check(raw)


def restored(
    c: Config, saved: checkpoint.Checkpoint | None, signals: Signals, reporter: Reporter, log: Callable[[str], None]
) -> tuple[Experiment, Step, checkpoint.History]:
    """Compose a run's parts again and read its state from a checkpoint, or begin it where there is none."""
    device = devices.resolve(c.device)
    given = dataset(c)
    plan = None if saved is None else saved.plan
    experiment = compose(c, device, given, build_backbone(c, given[0]), plan, watched(reporter, signals))
    if saved is None:
        return experiment, experiment.initial(), []
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
    context = Context(c.seed, 0, 0.0, device)
    template = experiment.algorithm.init(experiment.start(), c.genome.init_sigma, context)
    step = replace(
        saved.step,
        state=checkpoint.state(saved.path, template, device),
        champion=saved.step.champion._replace(genome=saved.step.champion.genome.to(device)),
        cost=saved.step.cost + Cost(backbone=experiment.computed),
    )
    return experiment, step, saved.history


def watched(reporter: Reporter, signals: Signals) -> Callable[[int, int], None]:
    """Return a callback for the backbone's pass that reports it and ends it at a signal."""

    def images(done: int, total: int) -> None:
        signals.check()
        reporter.images(done, total)

    return images


@contextmanager
def logged(folder: Path, reporter: Reporter) -> Iterator[Callable[[str], None]]:
    """Return a function that tells the user a line and keeps it in the run's log."""
    with open(folder / rundir.LOG, "a", buffering=1) as file:

        def log(line: str) -> None:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            reporter.note(line)

        yield log


def go(
    experiment: Experiment,
    step: Step,
    history: checkpoint.History,
    folder: Path,
    signals: Signals,
    reporter: Reporter,
    log: Callable[[str], None],
) -> None:
    """Evolve until a limit or a signal, writing history and checkpoints; then score the champion on test, once."""
    c, rules = experiment.config, experiment.rules()
    (folder / "checkpoints").mkdir(exist_ok=True)
    attributes = {
        "config": c.to_yaml(),
        "seed": c.seed,
        "device": str(experiment.device),
        "layout": experiment.layout.to_json(),
        "classes": json.dumps(experiment.classes),
        "plan": json.dumps(experiment.plan._asdict()),
        "versions": json.dumps(versions()),
        "features": experiment.features.digest(),
    }
    history = list(history)
    rundir.write_history(folder, history)
    writer = checkpoint.Writer(folder / "checkpoints", attributes, c.checkpoint.keep)
    run = loop.evolve(
        experiment.algorithm,
        experiment.development(),
        experiment.validate,
        rules,
        step,
        experiment.device,
        time.monotonic,
    )
    try:
        with open(folder / rundir.HISTORY, "a", buffering=1) as lines:
            for step in run:
                history.append(step.record)
                lines.write(json.dumps(step.record) + "\n")
                interrupted = signals.status is not None and step.stop is None
                if step.generation % c.checkpoint.every == 0 or step.stop or interrupted:
                    writer.submit(step, history)
                reporter.generation(step, rules)
                if interrupted:
                    break
        writer.wait()
    finally:
        writer.close()
    before = rundir.read_result(folder)
    finished = step.stop is not None
    rundir.write_champion(
        folder,
        experiment.network_weights(step.champion.genome),
        {"backbone": c.backbone.name, "classes": experiment.classes},
    )
    champion: dict[str, Any] = {
        "kind": step.champion.kind,
        "generation": step.champion.generation,
        "validation": step.champion.validation,
    }
    if finished:
        champion["test"] = experiment.test(step.champion.genome, experiment.features, experiment.splits["test"])
    rundir.write_result(
        folder,
        {
            "status": "finished" if finished else "interrupted",
            "stop_reason": step.stop or signal.Signals((signals.status or 128) - 128).name,
            "generations": step.generation,
            "seed": c.seed,
            "device": str(experiment.device),
            "champion": champion,
            "cost": {**step.cost.record(), "seconds": step.seconds},
            "views": c.features.views if c.data.augment else None,
            "test_scored": before.get("test_scored", 0) + finished,
            "versions": versions(),
        },
    )
    if not finished:
        log(f"{folder}: interrupted after generation {step.generation}; go on with: neuroevo resume {folder}")
        signals.check()


def opened(run_dir: str, reporter: Reporter) -> tuple[Experiment, Step]:
    """Return the parts of a run and its newest good step, for use and not to go on from."""
    folder = rundir.existing(run_dir)
    c, _ = reopened(folder)
    saved = checkpoint.newest(folder / "checkpoints", reporter.note)
    if saved is None:
        raise InputError(f"{run_dir}: no checkpoint yet")
    with Signals() as signals:
        experiment, step, _ = restored(c, saved, signals, reporter, reporter.note)
    return experiment, step


def evaluate(run_dir: str, root: str | None, reporter: Reporter) -> dict[str, Any]:
    """Score a run's champion on its test split, or on the class folders under `root`."""
    experiment, step = opened(run_dir, reporter)
    if root is None:
        return experiment.test(step.champion.genome, experiment.features, experiment.splits["test"])
    other = data.labelled(root, experiment.classes)
    with Signals() as signals:
        rows, _ = features.cached(experiment.backbone, other, experiment.device, watched(reporter, signals))
    labels = torch.from_numpy(other.labels).to(experiment.device)
    return experiment.test(
        step.champion.genome, experiment.features._replace(pieces=(rows,), labels=labels), torch.arange(len(labels))
    )
