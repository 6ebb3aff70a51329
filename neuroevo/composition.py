"""What a config becomes: the parts of a run, built and fitted to each other."""

import math
import shutil
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache as cache_results
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neuroevo import caveats, config, data, devices, evaluation, features, fitness, gradient, inventory, metrics, starts
from neuroevo.arrays import Vectors
from neuroevo.cache import cache_folder
from neuroevo.config import Config
from neuroevo.data import Dataset
from neuroevo.engine import development, loop, problem
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.development import Development, Scoring
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.problem import Merit, Problem
from neuroevo.engine.rng import Context, forked, generator
from neuroevo.errors import InputError
from neuroevo.features import Features, Projection, Scale, Standardise
from neuroevo.fitness import Plan, Scores
from neuroevo.gradient import PROBE, Learning, Refine, Sensitivity, View
from neuroevo.identity import Identity
from neuroevo.images import Arrays, Native
from neuroevo.metrics import LOWER_IS_BETTER, Metric, OfGenome, reported
from neuroevo.networks import backbones, deep, heads, quantised
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.classes import Classes
from neuroevo.networks.heads import Forward
from neuroevo.networks.weightfiles import stripped
from neuroevo.search.algorithms import Algorithm
from neuroevo.search.operators import mutation
from neuroevo.starts import HEAD, START, Given

SCALED_BY = 8192  # train images at most by which what precedes an evolved head is standardised
NETWORK = 8  # times an image's own size: what a network needs beside it, or more
CALIBRATED_BY, CALIBRATION_BATCH = 512, 128  # train images by which batch norms are re-estimated, and at a time

T = TypeVar("T")
Weights = dict[str, Tensor]


class Plans:
    """The plan in force; what doesn't fit into memory halves it."""

    def __init__(self, now: Plan, changes: list[dict[str, int]]) -> None:
        self.now = now
        self.changes = changes  # each with its generation, individuals and samples at a time
        self.halved = False  # since this was last looked at

    def fitting(self, work: Callable[[Plan], T]) -> T:
        """Do what fits into memory, with smaller slices until it does; RunError where one sample doesn't."""
        while True:
            try:
                return work(self.now)
            except (RuntimeError, MemoryError) as error:
                if not devices.out_of_memory(error):
                    raise
            self.now, self.halved = fitness.halved(self.now), True  # the failed work's memory is free again here
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class Tested(NamedTuple):
    """What one network was found to be worth."""

    scores: dict[str, Any]  # by metric, as reported; their intervals under `interval`, and how many `images`
    confusion: Tensor  # [C, C] int64: samples of a class (a row) that are predicted as another (a column)


@dataclass(frozen=True)
class Experiment:
    """The parts of a run, ready to go."""

    config: Config
    device: torch.device
    home: torch.device  # where the population is kept
    classes: tuple[str, ...]
    splits: dict[str, Tensor]  # {name: [rows]} of the features
    features: Features
    scale: Scale | None  # of what the head is given
    backbone: Backbone
    head: nn.Module
    first: str  # the head's first linear layer, into which the scale folds
    dim: int  # features that the network gives its head
    layout: Layout
    base: Weights  # {name: [1, *shape]}: all that evolves, and the head, before `genome.from`
    forward: Forward
    method: str  # by which heads are evaluated: gemm or vmap
    plans: Plans
    algorithm: Algorithm[Any]
    metrics: dict[str, Metric]  # all that the config names, and accuracy and cross-entropy, by name
    computed: int  # images that went through the backbone just now
    whole: Dataset
    kept: Weights  # of a checkpoint: what other runs' files gave at the start, {} at the start itself
    statistics: Weights | None = None  # {buffer: [channels]} of the one genome that is asked about, where known

    @property
    def plan(self) -> Plan:
        """How populations are sliced now."""
        return self.plans.now

    def express(self, genomes: Tensor) -> Weights:
        """Return the weights {name: [n, *shape]} that genomes [n, g] stand for, on features as the head sees them."""
        weights = quantised.express(genomes.to(self.device), self.layout)
        if self.statistics is not None:
            return weights | {name: value[None].to(self.device) for name, value in self.statistics.items()}
        batches = self.calibration()
        if batches and self.backbone.cut is not None:
            own = {name: w for name, w in weights.items() if name in self.backbone.trainable}
            with torch.no_grad():
                weights |= deep.recalibrated(
                    self.backbone.cut, own, lambda: (self.features.batch(rows)[0] for rows in batches)
                )
        return weights

    def seen(self, rows: Tensor, labels: Tensor) -> Features:
        """Return features of other images [N, d], as the network gives them to what evolves, in place of the run's."""
        scale = self.scale if self.backbone.cut is None else None
        return Features((rows,), labels, scale, self.device)

    def calibration(self) -> list[Tensor]:
        """Return the train rows, batch by batch, by which batch norms are re-estimated; for everybody, always."""
        cut = self.backbone.cut
        if self.config.backbone.batchnorm != "recalibrate" or cut is None or not deep.norms(cut.rest):
            return []
        train = self.splits["train"]
        drawn = torch.randperm(len(train), generator=generator(self.config.seed, "calibration", 0))[:CALIBRATED_BY]
        return [rows for rows in train[drawn].split(CALIBRATION_BATCH) if len(rows) > 1]

    def network_weights(self, genome: Tensor) -> Weights:
        """Return the weights {name: shape} that a genome [g] has in the network, on raw features, head included."""
        fixed = {name: w for name, w in self.base.items() if name not in self.layout.names}
        weights = fixed | self.express(genome[None])
        if self.scale is not None:
            weights = self.scale.fold(weights, self.first)
        return {name: weight[0] for name, weight in weights.items()}

    def from_network(self, weights: Weights, source: str, classes: Classes | None = None) -> Tensor:
        """Return the genome [1, g] of weights as the network has them; InputError where they are of another layout.

        Parameters of the backbone that they lack are the backbone's own. Rows of the head's output layer are those of
        `classes`, where known, and of this run's in its order if not.
        """
        network = self.backbone.body.state_dict()
        weights = stripped(dict(weights), {*network, *self.base})
        for name, weight in weights.items():
            here = None if name in self.base else network.get(name)
            recalibrated = name.endswith(STATISTICS) and self.config.backbone.batchnorm == "recalibrate"
            passed = recalibrated or name.endswith("num_batches_tracked")
            if here is not None and not passed and not torch.equal(here.cpu(), weight.cpu()):
                raise InputError(f"{source}: its {name} is another, and doesn't evolve here; see backbone.transfer")
        if self.config.head.trainable:
            width, whole = self.scale.width if self.scale else self.dim, bool(self.layout.tops)
            found = Given(weights, source, classes)
            weights = starts.in_order(self.head, self.backbone.head, width, found, self.classes, whole=whole)
        backbone = {name: self.base[name] for name in self.backbone.trainable}
        given = {name: weights[name][None].to(self.device) for name in self.layout.names if name in weights}
        backbones.check_finite(given, source)
        raw = self.base if self.scale is None else self.scale.fold(self.base, self.first)
        try:  # shapes first
            Layout.of({name: w[0] for name, w in raw.items() if name in self.layout.names}).flatten(backbone | given)
        except ValueError as error:
            raise InputError(f"{source}: not of this network's layout: {error}") from None
        if self.scale is not None and f"{self.first}.weight" in given:
            given = starts.unfolded(self.scale, given, self.first, source)
        return quantised.genomes(backbone | given, self.layout)

    def start(self) -> Tensor:
        """Return the genomes [s, g] that the population starts from."""
        sources = self.config.genome.start
        if START in self.kept:
            return self.kept[START].to(self.home)
        if not sources:
            return quantised.genomes(self.base, self.layout).to(self.home)
        return torch.cat([self.from_network(*starts.read(source, "genome.from")) for source in sources]).to(self.home)

    def keeps(self) -> Weights:
        """Return what a checkpoint holds so that other runs' files aren't needed again."""
        own = {START: self.start()} if self.config.genome.start or self.config.backbone.transfer else {}
        names = [name for name in self.base if name.startswith(self.backbone.head + ".")]
        fixed = () if self.config.head.trainable else names
        return own | {f"{HEAD}/{name}": self.base[name] for name in fixed}

    @cached_property
    def data(self) -> Identity:
        """What data the run is of."""
        return identified(self.whole, self.splits)

    @cached_property
    def origin(self) -> Tensor:
        """The genome [g] from which distances are taken."""
        return self.start()[0]

    def spread(self, start: Tensor) -> float | Tensor:
        """Return the deviation of the noise that the population starts with: of each parameter's size in deep ones."""
        sigma = self.config.genome.init_sigma
        if self.backbone.cut is None:
            return quantised.spread(start, self.layout, sigma)
        scales = mutation.scales(start, self.layout)[0]
        return sigma * scales.repeat_interleave(torch.tensor(self.layout.sizes, device=scales.device))

    def problem(self, brought: Collection[str] = ()) -> Problem:
        """Return what the run is a search of; individuals bring the hyperparameters `brought` along as traits."""
        c, pool, start = self.config, self.splits[self.config.fitness.split], self.start()
        return Problem(
            layout=self.layout,
            start=start,
            sigma=self.spread(start),
            development=self.development(brought),
            batch=problem.batches(
                pool,
                c.seed,
                labels=self.features.labels.cpu()[pool] if c.fitness.balanced else None,
                view=self.view() if c.fitness.split == "train" else gradient.as_it_is,
            ),
            validate=self.validate,
            merit=merit(c),
            sensitivity=self.sensitivity(),
        )

    def rules(self) -> Rules:
        """Return what decides how long the run goes on and who wins it."""
        c = self.config
        return Rules(
            seed=c.seed,
            samples=batch_size(c, len(self.splits[c.fitness.split])),
            every=c.validate.every,
            patience=c.validate.patience,
            budget=Budget(**c.budget.model_dump()),
            metric=c.validation_metric.name,
            lower_is_better=c.validation_metric.name in LOWER_IS_BETTER,
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
        """Return the metrics of fitness, and the one that breaks ties, with what they do against imbalance."""
        given, counts = self.config.fitness, torch.bincount(self.features.labels[self.splits["train"].to(self.device)])
        names = [part.name for part in (*self.config.metrics, self.config.ties) if part is not None]
        chosen = [self.metrics[name] for name in names]
        if given.class_weights:
            if "cross_entropy" not in (part.name for part in self.config.metrics):
                raise InputError("fitness.class_weights: only cross_entropy can be weighted; see also fitness.balanced")
            chosen[names.index("cross_entropy")] = metrics.weighted_cross_entropy(counts.sum() / (len(counts) * counts))
        if given.logit_adjustment:
            offset = given.logit_adjustment * (counts / counts.sum()).log()
            chosen = [metrics.adjusted(metric, offset) for metric in chosen]
        return chosen

    def scoring(self) -> Scoring:
        """Return how a population is scored: by the fitness metrics, and by the one that breaks ties."""
        metrics, c = self.fitness_metrics(), self.config
        beside = self.calibrating()

        def whole(n: int, samples: int) -> Cost:
            return scoring_cost(n + rescored(c, self.algorithm, n), samples, beside)

        def score(population: Population, index: Tensor) -> tuple[Scores, Cost]:
            n = len(population.genomes)
            with self.counted() as cost:
                scores, spent = self.plans.fitting(
                    lambda plan: fitness.fitness(
                        population,
                        self.express,
                        self.forward,
                        self.features,
                        index,
                        metrics,
                        plan,
                        rescored(c, self.algorithm, n),
                        self.origin,
                        len(c.metrics),
                    )
                )
            return scores, spent + cost() + whole(n, 0)

        return Scoring(score, whole)

    def calibrating(self) -> int:
        """Return how many samples go forward to re-estimate an individual's batch norms."""
        return sum(len(rows) for rows in self.calibration())

    def task(self, plan: Plan, batch_size: int) -> gradient.Task:
        """Return what gradient steps train."""
        layers = heads.steps(self.head, self.backbone.head)
        # A chain of one layer is a linear one.
        alone = self.backbone.cut is None and len(layers) == 1 and self.method == "gemm"
        return gradient.Task(
            layout=self.layout,
            forward=self.forward,
            linear=layers[0][0] if alone else None,
            source=self.features,
            train=self.splits["train"],
            classes=len(self.classes),
            individuals=max(1, plan.trained),
            micro=max(1, plan.micro or batch_size),
            keep=plan.limit // 8,
            start=self.start()[0].to(self.device),
            device=self.device,
            view=self.view(),
        )

    def sensitivity(self) -> Sensitivity | None:
        """Return how the outputs' sensitivity to genes is measured, where the mutation asks for it."""
        return Sensitivity(self.task(self.plan, PROBE), self.config.seed) if self.algorithm.overhead else None

    def development(self, brought: Collection[str] = ()) -> Development:
        """Return what becomes of a population in its generation: scored as it is, or trained first.

        Individuals bring the hyperparameters `brought` along as traits.
        """
        c, scoring = self.config, self.scoring()
        if c.refine is None or c.optimizer is None:
            return development.unchanged(scoring)
        given = c.refine.model_dump()
        inheritance, back_off = given.pop("inheritance"), given.pop("back_off")
        dropouts = [module for module in self.head.modules() if isinstance(module, nn.Dropout) and module.p > 0]
        if self.method == "vmap" and heads.noisy_in_training(self.head, self.scale.width if self.scale else self.dim):
            raise InputError(f"head: {c.head_part.name} has dropout, which only a chain of layers can be trained with")
        if (c.refine.dropout or "dropout" in brought) and not dropouts:
            raise InputError(
                f"refine.dropout: {c.head_part.name} has no dropout layer; give the head a dropout above 0"
            )
        own = {"momentum": (0.0, 1.0)} if "momentum" in brought else {}
        optimizer = c.optimizer.bound()(**own)
        settings = gradient.Settings(**given | {"steps": steps(c, len(self.splits["train"]))})
        task = self.task(self.plan, c.refine.batch_size)

        @cache_results
        def learn(plan: Plan) -> tuple[Refine, Learning]:
            return gradient.refiner(
                replace(task, individuals=plan.trained, micro=max(1, plan.micro)), optimizer, settings, brought
            )

        def refine(population: Population, context: Context) -> tuple[Population, Cost]:
            with self.counted() as cost:
                refined, spent = self.plans.fitting(lambda plan: learn(plan)[0](population, context))
            return refined, spent + cost()

        wrap = development.backed_off if back_off else development.lamarckian
        whole = wrap(scoring, refine, learn(self.plan)[1], settings.steps)
        return development.baldwinian(whole) if inheritance == "baldwinian" else whole

    def validate(self, genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        """Score candidates [k, g] on the validation split by every metric, as reported."""
        rows = self.splits["validation"]
        every = list(self.metrics.values())
        scores = self.plans.fitting(
            lambda plan: fitness.evaluate(
                genomes, self.express, self.forward, self.features, rows, every, exact(plan), self.origin
            )
        )
        found = [
            {name: reported(name, value) for name, value in zip(self.metrics, line, strict=True)}
            for line in scores.values.tolist()
        ]
        return found, Cost(validation=len(genomes) * (len(rows) + self.calibrating()))

    def check_outputs(self, genomes: Tensor) -> None:
        """See that genomes [k, g] have finite logits on the validation split; InputError says what is to blame."""
        rows = self.splits["validation"]
        for part in rows.split(features.BATCH):
            bad = int((~self.features.batch(part)[0].isfinite()).any(1).sum())
            if bad:
                how = remedy(self.config)
                raise InputError(f"features: {bad} of {len(part)} validation images have NaN or infinite ones{how}")
        accuracy = [self.metrics["accuracy"]]
        scores = fitness.evaluate(
            genomes, self.express, self.forward, self.features, rows, accuracy, exact(self.plan), self.origin
        )
        if bool(scores.invalid.any()):
            raise InputError(
                f"head: {self.config.head_part.name} starts with outputs that are NaN or infinite; see head.init"
            )

    def test(self, genome: Tensor, data: Features, rows: Tensor) -> Tested:
        """Score a genome [g] on the rows of some features by every metric, with intervals.

        What is a metric of the genome is exact: its interval has no width.
        """
        logits, targets = self.plans.fitting(
            lambda plan: evaluation.logits(genome, self.express, self.forward, data, rows, exact(plan))
        )
        of_logits = {name: metric for name, metric in self.metrics.items() if not isinstance(metric, OfGenome)}
        found = evaluation.with_intervals(logits, targets, of_logits)
        for name, metric in self.metrics.items():
            if isinstance(metric, OfGenome):
                value = reported(name, float(metric.score(genome[None], self.origin.to(genome.device))))
                found = {name: value, **found, "interval": {**found["interval"], name: [value, value]}}
        return Tested(found, evaluation.confusion(logits, targets))

    def initial(self) -> Step:
        """Return the run before its first generation: its champion so far is the start itself."""
        check_size(self.config, self.layout.genes, len(self.splits["train"]))
        step = loop.begin(self.problem(), self.algorithm, self.config.seed, self.home)
        if not math.isfinite(step.champion.validation[self.config.validation_metric.name]):
            self.check_outputs(step.champion.genome[None])
        return replace(step, cost=step.cost + Cost(backbone=self.computed))


STATISTICS = ("running_mean", "running_var")


def steps(c: Config, train: int) -> int:
    """Return the gradient steps of a generation, of so many train images."""
    if c.refine is None:
        return 0
    epochs = c.refine.steps.epochs if isinstance(c.refine.steps, config.Epochs) else 1
    return c.refine.steps if isinstance(c.refine.steps, int) else epochs * max(1, train // c.refine.batch_size)


def merit(c: Config) -> Merit:
    """Return what candidates of a run are compared by: the validation metric, and cross-entropy where it ties."""
    metric = c.validation_metric.name
    return problem.by_metric(metric, lower_is_better=metric in LOWER_IS_BETTER, loss="cross_entropy")


def batch_size(c: Config, pool: int) -> int:
    """Return the samples of a generation's batch, of so many in its split."""
    return pool if c.fitness.samples == "all" else min(c.fitness.samples, pool)


def takes(c: Config, algorithm: Algorithm[Any], counts: Mapping[str, int], first: bool = False) -> Cost:
    """Return what a generation takes at most, the `first` or any after it, with so many images a split."""
    rows, asked = (algorithm.size, 0) if first else (algorithm.later, algorithm.overhead)
    train, r = counts["train"], c.refine
    recalibrates = c.backbone.batchnorm == "recalibrate" and c.backbone.trainable
    beside, batch = sum(calibration_batches(train)) if recalibrates else 0, batch_size(c, counts[c.fitness.split])
    once = scoring_cost(rows + rescored(c, algorithm, rows), batch, beside)
    whole = once + gradient.probed(asked, train)
    if r is None:
        return whole
    learnt = gradient.training_cost(rows, r.share, steps(c, train), min(r.batch_size, train))
    return whole + learnt + (once if r.back_off else Cost())


def scoring_cost(individuals: int, samples: int, beside: int) -> Cost:
    """Return what scoring takes, with so many samples an individual `beside` those of the batch."""
    return Cost(forward=individuals * (samples + beside))


def rescored(c: Config, algorithm: Algorithm[Any], rows: int) -> int:
    """Return how many of so many individuals are scored again in full precision."""
    return 0 if c.fitness.precision == "float32" else algorithm.exact(rows)


def calibration_batches(train: int) -> list[int]:
    """Return the sizes of the batches by which batch norms are re-estimated, with so many train images."""
    whole, rest = divmod(min(train, CALIBRATED_BY), CALIBRATION_BATCH)
    return [CALIBRATION_BATCH] * whole + ([rest] if rest > 1 else [])


def generation(c: Config, counts: Mapping[str, int]) -> Cost:
    """Return what a generation takes at most, from the second on, with so many images a split."""
    return takes(c, c.algorithm.search(), counts)


def fits(size: int, what: str) -> None:
    """See that so many bytes fit into this machine's memory; InputError says `what` takes them."""
    there = devices.total_memory()
    if size > there:
        raise InputError(f"{what} {spelled(size)} of memory; this machine has {spelled(there)}")


def spelled(size: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or unit == "PiB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    raise AssertionError


def check_size(c: Config, genes: int, train: int) -> None:
    """See that the parts of a run fit into memory, before any is made; InputError names the key that is too large."""
    options, own = c.algorithm.options, c.algorithm.search()
    fits(
        2 * 4 * own.later * genes,
        f"algorithm.population: {own.later:,} individuals of {genes:,} genes and their children take",
    )
    parents, selection = options.get("parents"), options.get("selection")
    if isinstance(parents, int):
        fits(3 * 8 * own.later * parents, f"algorithm.parents: {parents:,} for each of {own.later:,} individuals take")
    for part in (selection, options.get("crossover"), options.get("mutation")):
        for key in ("size", "points", "rank"):
            count = part.options.get(key) if isinstance(part, config.Part) else None
            if isinstance(part, config.Part) and isinstance(count, int):
                each = (parents if isinstance(parents, int) else min(256, own.later)) if key == "size" else 1
                fits(8 * own.later * each * count, f"algorithm.{part.kind}.{key}: {count:,} for each individual take")
    r = c.refine
    if r is not None:
        drawn = steps(c, train) * min(r.batch_size, train)
        batches = own.later if r.batches == "own" else 1
        fits(8 * drawn * batches, f"refine.steps: the batches of {steps(c, train):,} steps take")
        if r.optimizer_state == "inherit":
            fits(
                (2 + slots(c)) * 4 * own.later * genes,
                f"refine.optimizer_state: what the optimizer keeps for {own.later:,} individuals takes",
            )


class Dims(NamedTuple):
    """How large a run's parts are."""

    stored: int  # numbers of an image that are cached
    seen: int  # features that the head sees, at most
    genes: int


def dimensions(c: Config, given: tuple[Dataset, dict[str, Tensor]], backbone: Backbone) -> tuple[Dims, nn.Module]:
    """Return how large a run's parts are, and its head; InputError where they are larger than this machine."""
    whole, splits = given
    t = backbone.transform
    dim = t.size[0] * t.size[1] * t.channels if backbone.own_head is None else backbone.own_head.in_features
    stored = dim if backbone.cut is None else backbone.cut.width
    views = c.features.views if c.data.augment and isinstance(c.features.views, int) else 0
    rows = len(whole.labels) + views * len(splits["train"])
    size, disk = rows * stored * (4 if c.features.dtype == "float32" else 2), cache_folder()
    there = shutil.disk_usage(next(path for path in (disk, *disk.absolute().parents) if path.exists())).total
    if size > max(there, devices.total_memory()):  # a disk that is merely too small is said where it is written to
        key = "data.image_size" if views * len(splits["train"]) < len(whole.labels) else "features.views"
        raise InputError(f"{key}: features of {rows:,} images and views take {spelled(size)}; the cache's disk has "
                         f"space for {spelled(there)} in all")  # fmt: skip
    seen = dim
    if c.features.components is not None or c.features.whitening:  # constant features have no component: at most
        seen = min(c.features.components or dim, dim, len(splits["train"]) - 1)
    head = make_head(c, backbone, seen, len(whole.classes))
    starts.check_head(c, backbone, len(whole.classes))
    evolved = [backbone.body.get_parameter(name) for name in backbone.trainable]
    of_head = list(head.parameters()) if c.head.trainable else []
    genes = sum(p.numel() for p in (*evolved, *of_head))
    if c.genome.levels:  # and the scales
        genes += sum(len(p) for p in of_head if p.ndim > 1)
    check_size(c, genes, len(splits["train"]))
    return Dims(stored, seen, genes), head


def check_search(c: Config, given: tuple[Dataset, dict[str, Tensor]], backbone: Backbone) -> None:
    """See that the largest trials of a search fit into memory; InputError names the key that is too large."""
    assert c.tune is not None
    space = c.tune.space()
    count = int(c.tune.sampler.options.get("population", 1))
    fits(count * (1024 + 64 * len(space.coordinates)), f"tune.sampler.population: {count:,} trials an iteration take")
    for name, position, keys in config.corners(space):
        sized = name.startswith(("algorithm", "head", "refine.steps", "refine.batch_size", "features"))
        if sized or name.startswith("data"):
            settings = {key: value for key, value in space.settings(position).items() if key in keys}
            try:
                check_samples(c.trial(settings), given[0])
                if sized:
                    dimensions(c.trial(settings), given, backbone)
            except InputError as error:
                raise InputError(f"tune.space.{error}") from None
    try:
        largest = c.trial(space.settings([1.0] * len(space.coordinates)))
    except InputError:  # not all that is largest goes together
        return
    dimensions(largest, given, backbone)


def exact(plan: Plan) -> Plan:
    """Return a plan in full precision."""
    return plan._replace(precision="float32")


def said(error: Exception) -> str:
    """Return what an error of a user's function says, and where in the user's file it came up."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    where = f"; {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{where}"


def make_head(c: Config, backbone: Backbone, dim: int, classes: int) -> nn.Module:
    """Build the head, its last layer zero where `head.init` says so; InputError where it can't be."""
    name = c.head_part.name
    if ":" not in name:
        with torch.device("meta"):
            numbers = sum(p.numel() for p in c.head_part.bound()(dim, classes).parameters())
        fits(2 * 4 * numbers, f"head: {name} of {numbers:,} numbers, and its start, take")
    with forked(generator(c.seed, "head", 0)):
        try:
            head = c.head_part.bound()(dim, classes)
        except Exception as error:  # a user's function may fail in any way
            raise InputError(f"head: {name} can't be built ({said(error)})") from None
    if not isinstance(head, nn.Module):
        raise InputError(f"head: {name} returns {type(head).__name__}, not a torch module")
    if any(is_lazy(p) for p in (*head.parameters(), *head.buffers())):
        raise InputError(f"head: {name} has lazy layers; give them their sizes, features and classes")
    if not any(True for _ in head.parameters()):
        raise InputError(f"head: {name} has no parameters to evolve")
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if c.head.init == "zero":
        if not layers:
            raise InputError(f"head.init: zero needs a linear layer, and {name} has none; use default")
        if {key for key, _ in layers[-1].named_parameters()} - {"weight", "bias"}:  # a norm would divide by zero
            raise InputError(f"head.init: zero: the last linear layer of {name} is parametrized; use default")
        with torch.no_grad():
            for parameter in layers[-1].parameters():
                parameter.zero_()
    backbones.check_finite(dict(head.named_parameters()), f"head: {name}")
    return head


def dataset(c: Config) -> tuple[Dataset, dict[str, Tensor]]:
    """Return the data set that a config asks for, and its splits."""
    with config.at("data", data="data"):
        whole: Dataset = c.dataset.bound()()
        check_samples(c, whole)
        if c.data.limit is not None:
            whole = data.limited(whole, c.data.limit, c.data.split_seed)
        splits = data.split(whole, c.data.split_seed, c.data.validation, c.data.test, c.data.long_tail)
    whole = replace(whole, notes=config.under("data", whole.notes, ("broken",)))
    return inventory.noted(whole, splits), splits


@config.at(**config.READING)
def identified(whole: Dataset, splits: dict[str, Tensor]) -> Identity:
    """Return what data a run is of."""
    return Identity.of(whole, splits)


def check_samples(c: Config, whole: Dataset) -> None:
    """See that rows of numbers are given nothing that is for images; InputError names the key."""
    if not isinstance(whole.images, Vectors):
        return
    asked = {
        "data.image_size": c.data.image_size,
        "data.augment": c.data.augment,
        "backbone.channels": c.backbone.channels,
    }
    for key, value in asked.items():
        if value:
            width = whole.images.width
            raise InputError(f"{key}: {value} is for images, and x of data.file is {width:,} numbers a sample")


def check_splits(c: Config, whole: Dataset) -> None:
    """See that shares of splits have an effect; InputError names one that is given where the data bring that split."""
    for name, why in inventory.own_splits(whole).items():
        given, usual = getattr(c.data, name), type(c.data).model_fields[name].default
        if given != usual:
            raise InputError(f"data.{name}: {given} has no effect: {why}")


def check_crossover(c: Config, genes: int) -> None:
    """See that a crossover gets far in so many genes, or what selects beside it is given; InputError if neither."""
    stall = caveats.stalls(c.record(), genes)
    if stall is not None and not config.gives(c.given, "algorithm.selection"):
        raise InputError(f"algorithm.crossover: {stall}; to have it as it is, add algorithm.selection=tournament")


@config.at(**config.READING)
def build_backbone(c: Config, given: Dataset) -> Backbone:
    """Return the backbone that a run begins with, with notes on the heads that it starts from."""
    b = c.backbone
    native = given.native()
    if c.data.image_size is not None and len(native) > 1:
        channels = b.channels or native[-1]
        copies = 2 if b.name == "none" else NETWORK
        fits(
            4 * copies * channels * c.data.image_size**2,
            f"data.image_size: an image of {c.data.image_size:,} x {c.data.image_size:,} pixels takes",
        )
    found = backbone_for(c, native, None)
    return found._replace(notes=(*found.notes, *starts.lines(c, found, given.classes)))


def backbone_for(c: Config, native: Native, frozen: str | None) -> Backbone:
    """Return the backbone that a config asks for; `native` is the size of the data set's samples.

    `frozen` is the hash that a checkpoint has of its frozen weights: InputError where they are others now. A file of
    `backbone.transfer` isn't needed again where all that it gave evolved.
    """
    b, transfer, missing = c.backbone, [], []
    for i, entry in enumerate(b.transfer):
        try:
            transfer.append((starts.weights_file(entry.source, f"backbone.transfer.{i}.from"), entry.parts))
        except InputError as error:
            if frozen is None:
                raise
            missing.append(str(error))
    with config.at("backbone", image_size="data.image_size"):
        found = backbones.build(b.name, b.weights, c.data.image_size, native, b.channels, b.trainable, transfer)
    found = found._replace(notes=config.under("backbone", found.notes, ("weights", "transfer")))
    if missing and found.frozen != frozen:
        raise InputError(missing[0])
    same_weights(found, frozen, b.weights)
    return found


def same_weights(backbone: Backbone, frozen: str | None, weights: str) -> None:
    """See that a backbone's frozen weights are those that a checkpoint has the hash of; InputError if not."""
    if frozen is not None and backbone.frozen != frozen:
        raise InputError(
            f"backbone.weights: {weights}: the frozen weights of {backbone.name} aren't those that the run was of"
        )


def augmenting(c: Config, backbone: Backbone) -> features.Augment | None:
    """Return what makes the views of train images, None where there are none; InputError where it can't be."""
    with config.at("data"):
        return features.Augment(c.data.augment, backbone.transform.size) if c.data.augment else None


@config.at(**config.READING)
def cache(
    c: Config, whole: Dataset, splits: dict[str, Tensor], backbone: Backbone, device: torch.device,
    images: Callable[[int, int], None], log: Callable[[str], None] = features.unsaid,
) -> tuple[Features, int]:  # fmt: skip
    """Return the features of a run's images and of their views, and how many images the backbone was given for them."""
    augment = augmenting(c, backbone)
    rows, computed = features.cached(backbone, whole, device, images, c.features.dtype, log=log)
    pieces, labels, live = [rows], [torch.from_numpy(whole.labels)], None
    if augment is not None and c.features.views == "live":
        live = features.Live(backbone, whole, augment, device)
    elif augment is not None and c.features.views != "live":
        train = whole.take(splits["train"].numpy())
        for view in range(c.features.views):
            piece, more = features.cached(backbone, train, device, images, c.features.dtype, augment, view, log)
            pieces.append(piece)
            labels.append(torch.from_numpy(train.labels))
            computed += more
    return Features(tuple(pieces), torch.cat(labels).to(device), None, device, live), computed


def remedy(c: Config) -> str:
    """Return what to do about features that are infinite, if there is something."""
    return "; they may be beyond float16: give features.dtype float32" if c.features.dtype == "float16" else ""


def centred(c: Config) -> bool:
    """Tell whether features are centred and no more: that folds into biases, and leaves levels as they are."""
    return c.genome.levels is not None


def scaling(
    c: Config, backbone: Backbone, cached: Features, train: Tensor, saved: Weights, log: Callable[[str], None]
) -> Scale | None:
    """Return the scale of what the head is given, by the network as it starts out, or as a checkpoint has it."""
    asked = c.features
    if not asked.standardise and asked.components is None and not asked.whitening and not centred(c):
        return None
    if saved:
        own = {name: value.to(cached.device) for name, value in saved.items()}
        return Projection(**own) if "axes" in own else Standardise(**own)
    if backbone.cut is None:
        rows, index = cached.pieces[0], train
    else:
        some = train[torch.linspace(0, len(train) - 1, min(len(train), SCALED_BY)).long()]
        with torch.inference_mode():
            parts = [deep.features(backbone.cut, cached.batch(rows)[0]) for rows in some.split(features.BATCH)]
        rows, index = torch.cat(parts), torch.arange(len(some))
    standard = standardised(c, rows, index, cached.device)
    if asked.components is None and not asked.whitening:
        return standard
    axes, deviations = features.principal(rows, index, standard, of_network(backbone), log)
    if len(deviations) < (asked.components or 0):
        noun = "images" if backbone.inputs is None else "samples"
        log(f"features.components: {len(deviations)}, for the train {noun} have no more")
    return features.projection(axes, deviations, standard, asked.components, asked.whitening or 0.0)


def standardised(c: Config, rows: Tensor, index: Tensor, device: torch.device) -> Standardise:
    """Return the scale of the rows `index`, their mean alone where no more is asked for; InputError for NaN or Inf."""
    found = features.statistics(rows, index)
    if not bool((found.mean + found.std).isfinite().all()):
        raise InputError(f"features: some of the train images' are NaN or infinite{remedy(c)}")
    standard = Standardise(found.mean.to(device).clone(), found.std.to(device).clone())
    return standard if c.features.standardise else standard._replace(std=torch.ones_like(standard.std))


def of_network(backbone: Backbone) -> str:
    """Return what tells a network's principal components from another's."""
    return f"{backbone.name} {backbone.digest}"


@dataclass(frozen=True)
class Sources:
    """What runs on one data set, backbone and kind of features share."""

    device: torch.device
    given: tuple[Dataset, dict[str, Tensor]]
    backbone: Backbone
    features: Features  # as the network gives them to what evolves
    scale: Scale | None  # of what the head is given
    computed: int  # images that went through the backbone just now

    @cached_property
    def scaled(self) -> Features:
        """The features as a head alone sees them."""
        return self.features if self.scale is None else self.features.scaled(self.scale)


def sources(
    c: Config, device: torch.device, given: tuple[Dataset, dict[str, Tensor]], backbone: Backbone,
    images: Callable[[int, int], None], log: Callable[[str], None], scale: Weights | None = None,
) -> Sources:  # fmt: skip
    """Return what a run learns from, computing features where they aren't cached; `scale` is a checkpoint's."""
    backbone.to(device)
    cached, computed = cache(c, *given, backbone, device, images, log)
    scaled = scaling(c, backbone, cached, given[1]["train"], scale or {}, log)
    return Sources(device, given, backbone, cached, scaled, computed)


def compose(
    c: Config, device: torch.device, given: tuple[Dataset, dict[str, Tensor]], backbone: Backbone,
    images: Callable[[int, int], None], log: Callable[[str], None],
    plan: Plan | None = None, changes: Sequence[dict[str, int]] = (), scale: Weights | None = None,
    kept: Weights | None = None,
) -> Experiment:  # fmt: skip
    """Build a run's parts; `plan`, its changes, the tensors of `scale` and what is `kept` are a resumed run's own."""
    return assemble(c, sources(c, device, given, backbone, images, log, scale), plan, changes, kept, log)


def without_data(
    c: Config, device: torch.device, backbone: Backbone, classes: tuple[str, ...], plan: Plan,
    changes: Sequence[dict[str, int]], scale: Weights, kept: Weights,
) -> Experiment:  # fmt: skip
    """Build a run's parts from its config and what a checkpoint holds, with no image in any split."""
    backbone.to(device)
    height, width = backbone.transform.size
    if backbone.cut is not None:
        dim = backbone.cut.width
    elif backbone.own_head is not None:
        dim = backbone.own_head.in_features
    else:
        dim = height * width * backbone.transform.channels
    none = torch.empty(0, dtype=torch.int64)
    rows = Features((torch.empty(0, dim, device=device),), none.to(device), None, device)
    labels = none.numpy()
    images: Arrays | Vectors = Arrays(np.empty((0, height, width), dtype=np.uint8))
    if backbone.inputs is not None:
        images = Vectors(np.empty((0, backbone.inputs), dtype=np.float32))
    given = Dataset(classes, images, labels, labels), dict.fromkeys(data.SPLITS, none)
    found = scaling(c, backbone, rows, none, scale, lambda line: None) if scale else None
    return assemble(c, Sources(device, given, backbone, rows, found, 0), plan, changes, kept)


def assemble(
    c: Config, learnt_from: Sources, plan: Plan | None = None, changes: Sequence[dict[str, int]] = (),
    kept: Weights | None = None, log: Callable[[str], None] = lambda line: None,
) -> Experiment:  # fmt: skip
    """Build a run's parts on what it learns from; `plan`, its changes and what is `kept` are a resumed run's own."""
    device, backbone, cached, scaled = (
        learnt_from.device, learnt_from.backbone, learnt_from.features, learnt_from.scale,
    )  # fmt: skip
    whole, splits = learnt_from.given
    dim = cached.dim if backbone.cut is None else starts.own_head(backbone).in_features
    classes = len(whole.classes)
    seen = scaled.width if scaled else dim
    head, again = (make_head(c, backbone, seen, classes).to(device) for _ in range(2))
    first = heads.first_linear(head, backbone.head)
    if scaled is not None and first is None:
        if not centred(c):
            raise InputError(
                f"features: {c.head_part.name} doesn't begin with a linear layer with bias, into which a scale could "
                "be folded; set standardise false, components null and whitening 0"
            )
        scaled = None
    first = first or backbone.head
    if c.backbone.batchnorm == "recalibrate" and not (backbone.cut and deep.norms(backbone.cut.rest)):
        log("backbone.batchnorm: recalibrate, but no batch norm comes behind what evolves: nothing is re-estimated")
    base = {name: backbone.body.get_parameter(name).detach()[None] for name in backbone.trainable}
    of_head = starts.head_weights(c, backbone, head, seen, whole.classes, scaled, first, device, kept or {})
    layout = Layout.of({name: w[0] for name, w in (base | (of_head if c.head.trainable else {})).items()})
    if c.genome.levels:
        layout = quantised.levelled(layout, quantised.LEVELS[c.genome.levels])
        if not layout.tops:
            raise InputError(f"genome.levels: {c.head_part.name} has no weight matrix")
    algorithm = c.algorithm.search()
    algorithm.check(layout.genes)
    size = algorithm.later
    method, of_features = heads.population_forward(head, backbone.head, (seen, classes), again, log)
    if backbone.cut is None:
        forward, cached = of_features, cached if scaled is None else learnt_from.scaled
    else:
        fixed = {} if c.head.trainable else of_head
        cut = backbone.cut

        def make(name: str) -> Forward:
            return deep.forward(cut, backbone.head, of_features, fixed, scaled and scaled.__call__, name)

        start = {name: w for name, w in (base | of_head).items() if name in layout.names}
        if plan is None:
            plan = choose(c, layout.genes * size, device, lambda limit, batch: plan_deep(
                c, make, start, cut.width, classes, limit, size, batch, device))  # fmt: skip
        forward = make(plan.method)
    if plan is None:
        held = 3 if layout.tops else 1  # copies of an individual: levels are rounded and scaled
        plan = choose(c, layout.genes * size, device, lambda limit, batch: plan_heads(
            c, method, held * layout.genes, cached.dim, head, classes, limit, batch, device,
        ))  # fmt: skip
    home = torch.device(plan.home)
    if layout.tops:
        algorithm = quantised.whole(algorithm, layout)
    parts = {part.name: part for part in (c.validation_metric, *c.metrics, c.ties) if part is not None}
    for name in ("accuracy", "cross_entropy"):
        parts.setdefault(name, config.part("metric", name, name))
    evolved = {name: metrics.of_network(part.metric(), network(layout, scaled, first)) for name, part in parts.items()}
    return Experiment(
        c, device, home, whole.classes, splits, cached, scaled, backbone, head, first, dim, layout, base | of_head,
        forward, method, Plans(plan, list(changes)), algorithm,
        evolved, learnt_from.computed, whole, kept or {},
    )  # fmt: skip


def network(layout: Layout, scale: Scale | None, first: str) -> Callable[[Tensor], Tensor]:
    """Return a function from genomes [n, g] to all that evolves as the exported network has it [n, numbers]."""
    folds = scale is not None and f"{first}.weight" in layout.names

    def weights(genomes: Tensor) -> Tensor:
        if scale is None and not layout.tops:
            return genomes
        of_names = quantised.express(genomes, layout)
        if folds:
            assert scale is not None
            of_names = scale.fold({name: w.to(scale.mean.device) for name, w in of_names.items()}, first)
        return torch.cat([of_names[name].flatten(1) for name in layout.names if name in of_names], dim=1)

    return weights


def choose(c: Config, numbers: int, device: torch.device, chosen: Callable[[int, int], Plan]) -> Plan:
    """Return a run's plan: `chosen(memory limit, samples of a gradient step)`, and what all plans share.

    `numbers` are the genes of a whole population.
    """
    assert c.memory.limit is not None
    probe = PROBE if c.algorithm.search().overhead else 0
    with config.at(limit="memory.limit"):
        plan = chosen(c.memory.limit, probe if c.refine is None else c.refine.batch_size)
    # A population is kept on the device if it fits there with its children and what refines them.
    fits = 4 * 4 * numbers < devices.available_memory(device) / 2
    return plan._replace(precision=c.fitness.precision, home=str(device if fits else "cpu"))


def plan_heads(
    c: Config, method: str, genes: int, dim: int, head: nn.Module, classes: int, limit: int, batch: int,
    device: torch.device,
) -> Plan:  # fmt: skip
    """Choose how heads are evaluated, and trained unless `batch` is 0, within the memory limit."""
    widths = heads.widths(head) or [classes]
    plan = fitness.plan(method, genes, dim, widths, limit, device)
    if not batch:
        return plan
    own, linear = c.refine is not None and c.refine.batches == "own", type(head) is nn.Linear
    trained = gradient.slice_size(genes, dim, widths, linear, slots(c), own, batch, limit, device)
    return plan._replace(trained=trained, micro=batch)


def plan_deep(
    c: Config, make: Callable[[str], Forward], start: Weights, width: int, classes: int, limit: int, size: int,
    batch: int, device: torch.device,
) -> Plan:  # fmt: skip
    """Choose how networks are evaluated beyond their heads, and trained unless `batch` is 0, by a short probe."""
    plan = deep.plan(make, start, width, classes, limit, device, c.memory.plan, size, batch, slots(c))
    if c.backbone.batchnorm == "recalibrate" and plan.samples < CALIBRATION_BATCH:
        raise InputError(
            f"memory.limit: {limit} bytes is too little to re-estimate batch norms on {CALIBRATION_BATCH} images"
        )
    return plan


def slots(c: Config) -> int:
    """Return how many numbers the optimizer keeps for each gene."""
    return 0 if c.optimizer is None else len(c.optimizer.bound()().slots)
