"""What a config becomes: the parts of a run, built and fitted to each other."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache as cache_results
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from neuroevo import config, devices
from neuroevo.config import Config
from neuroevo.data import augment, folders
from neuroevo.data.arrays import Vectors
from neuroevo.data.datasets import Dataset
from neuroevo.data.identity import Identity
from neuroevo.data.images import Arrays
from neuroevo.data.samples import Features
from neuroevo.engine import batches as draws
from neuroevo.engine import evaluator, execution, loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.batches import View, as_it_is
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.evaluator import Development, Learning, Refine, Scoring
from neuroevo.engine.execution import Plan
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.problem import Merit, Problem, by_metric
from neuroevo.engine.rng import Context, generator
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.experiments import starts
from neuroevo.experiments.build import identify, make_head, slots
from neuroevo.experiments.costs import (
    CALIBRATED_BY,
    CALIBRATION_BATCH,
    batch_size,
    exact_rows,
    scoring_cost,
    steps,
)
from neuroevo.experiments.sizes import check_size
from neuroevo.experiments.sources import Sources, centred, remedy, scaling, sources
from neuroevo.experiments.starts import HEAD, START, Given
from neuroevo.learning.refine import refiner, slice_size
from neuroevo.learning.sensitivity import PROBE, Sensitivity
from neuroevo.learning.task import Settings, Task
from neuroevo.networks import backbones, deep, heads, quantised
from neuroevo.networks.affine import Scale
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.classes import Classes
from neuroevo.networks.heads import Forward
from neuroevo.networks.weightfiles import stripped
from neuroevo.problems import intervals
from neuroevo.problems.metric import LOWER_IS_BETTER, Metric, OfGenome, adjusted, of_network, reported
from neuroevo.problems.metrics import weighted_cross_entropy
from neuroevo.problems.scoring import evaluate, fitness
from neuroevo.search.operators import mutation

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
            self.now, self.halved = execution.halved(self.now), True  # the failed work's memory is free again here
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
            given = starts.unfold(self.scale, given, self.first, source)
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
        return identify(self.whole, self.splits)

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
            batch=draws.batches(
                pool,
                c.seed,
                labels=self.features.labels.cpu()[pool] if c.fitness.balanced else None,
                view=self.view() if c.fitness.split == "train" else as_it_is,
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
            return as_it_is
        count = self.config.features.views
        return augment.views(0 if count == "live" else count, len(self.features.pieces[0]), self.splits["train"])

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
                raise InputError("fitness.class_weights: only cross_entropy can be weighted; see also balanced")
            chosen[names.index("cross_entropy")] = weighted_cross_entropy(counts.sum() / (len(counts) * counts))
        if given.logit_adjustment:
            offset = given.logit_adjustment * (counts / counts.sum()).log()
            chosen = [adjusted(metric, offset) for metric in chosen]
        return chosen

    def scoring(self) -> Scoring:
        """Return how a population is scored: by the fitness metrics, and by the one that breaks ties."""
        metrics, c = self.fitness_metrics(), self.config
        beside = self.calibrating()

        def whole(n: int, samples: int) -> Cost:
            return scoring_cost(n + exact_rows(c, self.algorithm, n), samples, beside)

        def score(population: Population, index: Tensor) -> tuple[Scores, Cost]:
            n = len(population.genomes)
            with self.counted() as cost:
                scores, spent = self.plans.fitting(
                    lambda plan: fitness(
                        population,
                        self.express,
                        self.forward,
                        self.features,
                        index,
                        metrics,
                        plan,
                        exact_rows(c, self.algorithm, n),
                        self.origin,
                        len(c.metrics),
                    )
                )
            return scores, spent + cost() + whole(n, 0)

        return Scoring(score, whole)

    def calibrating(self) -> int:
        """Return how many samples go forward to re-estimate an individual's batch norms."""
        return sum(len(rows) for rows in self.calibration())

    def task(self, plan: Plan, batch_size: int) -> Task:
        """Return what gradient steps train."""
        layers = heads.steps(self.head, self.backbone.head)
        # A chain of one layer is a linear one.
        alone = self.backbone.cut is None and len(layers) == 1 and self.method == "gemm"
        return Task(
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
            return evaluator.unchanged(scoring)
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
        settings = Settings(**given | {"steps": steps(c, len(self.splits["train"]))})
        task = self.task(self.plan, c.refine.batch_size)

        @cache_results
        def learn(plan: Plan) -> tuple[Refine, Learning]:
            return refiner(
                replace(task, individuals=plan.trained, micro=max(1, plan.micro)), optimizer, settings, brought
            )

        def refine(population: Population, context: Context) -> tuple[Population, Cost]:
            with self.counted() as cost:
                refined, spent = self.plans.fitting(lambda plan: learn(plan)[0](population, context))
            return refined, spent + cost()

        wrap = evaluator.backed_off if back_off else evaluator.lamarckian
        whole = wrap(scoring, refine, learn(self.plan)[1], settings.steps)
        return evaluator.baldwinian(whole) if inheritance == "baldwinian" else whole

    def validate(self, genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        """Score candidates [k, g] on the validation split by every metric, as reported."""
        rows = self.splits["validation"]
        every = list(self.metrics.values())
        scores = self.plans.fitting(
            lambda plan: evaluate(
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
        for part in rows.split(augment.BATCH):
            bad = int((~self.features.batch(part)[0].isfinite()).any(1).sum())
            if bad:
                how = remedy(self.config)
                raise InputError(f"features: {bad} of {len(part)} validation images have NaN or infinite ones{how}")
        accuracy = [self.metrics["accuracy"]]
        scores = evaluate(
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
            lambda plan: intervals.logits(genome, self.express, self.forward, data, rows, exact(plan))
        )
        of_logits = {name: metric for name, metric in self.metrics.items() if not isinstance(metric, OfGenome)}
        found = intervals.with_intervals(logits, targets, of_logits)
        for name, metric in self.metrics.items():
            if isinstance(metric, OfGenome):
                value = reported(name, float(metric.score(genome[None], self.origin.to(genome.device))))
                found = {name: value, **found, "interval": {**found["interval"], name: [value, value]}}
        return Tested(found, intervals.confusion(logits, targets))

    def initial(self) -> Step:
        """Return the run before its first generation: its champion so far is the start itself."""
        check_size(self.config, self.layout.genes, len(self.splits["train"]))
        step = loop.begin(self.problem(), self.algorithm, self.config.seed, self.home)
        if not math.isfinite(step.champion.validation[self.config.validation_metric.name]):
            self.check_outputs(step.champion.genome[None])
        return replace(step, cost=step.cost + Cost(backbone=self.computed))


STATISTICS = ("running_mean", "running_var")


def merit(c: Config) -> Merit:
    """Return what candidates of a run are compared by: the validation metric, and cross-entropy where it ties."""
    metric = c.validation_metric.name
    return by_metric(metric, lower_is_better=metric in LOWER_IS_BETTER, loss="cross_entropy")


def exact(plan: Plan) -> Plan:
    """Return a plan in full precision."""
    return plan._replace(precision="float32")


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
    given = Dataset(classes, images, labels, labels), dict.fromkeys(folders.SPLITS, none)
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
    of_head = starts.head_weights(
        c, backbone, head, width=seen, now=whole.classes, scale=scaled, first=first, device=device, kept=kept or {}
    )
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
    evolved = {name: of_network(part.metric(), network(layout, scaled, first)) for name, part in parts.items()}
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
    plan = execution.plan(method, genes, dim, widths, limit, device)
    if not batch:
        return plan
    own, linear = c.refine is not None and c.refine.batches == "own", type(head) is nn.Linear
    trained = slice_size(genes, dim, widths, linear, slots(c), own, batch, limit, device)
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
