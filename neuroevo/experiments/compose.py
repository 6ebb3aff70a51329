"""What a config becomes: a network, its problem and an algorithm, built and fitted to each other."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuroevo import config
from neuroevo.config import Config
from neuroevo.data import augment, cache
from neuroevo.data.arrays import Vectors
from neuroevo.data.datasets import Dataset
from neuroevo.data.foldernames import SPLITS
from neuroevo.data.identity import Identity
from neuroevo.data.images import Arrays
from neuroevo.data.samples import Features
from neuroevo.engine import loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.batches import View, as_it_is
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import LOCAL, Execution, Executions, Executor
from neuroevo.engine.loop import Champion, Rules, Step
from neuroevo.engine.problem import Problem
from neuroevo.engine.rng import generator
from neuroevo.errors import InputError, ignore
from neuroevo.experiments import starts
from neuroevo.experiments.bounds import groups_of
from neuroevo.experiments.build import identify, make_head, slots
from neuroevo.experiments.costs import CALIBRATED_BY, CALIBRATION_BATCH, batch_size
from neuroevo.experiments.goals import fitness_of, parts_of, refinement_of, rules
from neuroevo.experiments.sizes import check_size
from neuroevo.experiments.sources import Sources, centres, remedy, scaling, sources
from neuroevo.experiments.starts import HEAD, START
from neuroevo.learning.sensitivity import PROBE
from neuroevo.learning.task import Weights
from neuroevo.networks import deep, network, quantised
from neuroevo.networks.affine import Affine
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.network import Calibration, Network
from neuroevo.problems import precision, slicing
from neuroevo.problems.scoring import evaluate
from neuroevo.problems.supervised import Supervised, exact, supervised
from neuroevo.storage.checkpoint import Move

Log = Callable[[str], None]
# Keys of the config for options that errors of a run's parts mention.
KEYS = {"head": "head", "features": "features", "dropout": "refine.dropout"}
KEYS |= {name: f"fitness.{name}" for name in ("class_weights", "balanced", "precision")}


class Saved(NamedTuple):
    """What a run that goes on has of its own: as a checkpoint holds it."""

    execution: Execution
    changes: list[dict[str, int]]  # by lack of memory
    affine: Weights  # of what the head is given, {} where there is none
    kept: Weights  # what other runs' files gave at the start


@dataclass(frozen=True)
class Run:
    """The parts of a run, ready to go."""

    config: Config
    supervised: Supervised
    algorithm: Algorithm[Any]
    whole: Dataset
    features: Features
    kept: Weights  # of a checkpoint: what other runs' files gave at the start, {} at the start itself
    computed: int  # samples that went through the backbone just now
    sources: Tensor | None = None  # genomes [s, g] of weights, of the networks that a space of coordinates is around
    moves: tuple[Move, ...] = ()  # from device to device and so on, where it went on elsewhere

    @property
    def network(self) -> Network:
        """What genes are the weights of."""
        return self.supervised.network

    @property
    def device(self) -> torch.device:
        """Where networks are evaluated."""
        return self.network.device

    @property
    def home(self) -> torch.device:
        """Where the population is kept."""
        return torch.device(self.supervised.executions.now.home)

    @property
    def refits(self) -> bool:
        """Whether it is fitted to all of train and validation, so that nothing is left to validate by."""
        return isinstance(self.config.validate.refit, config.Refit)

    @cached_property
    def data(self) -> Identity:
        """What data the run is of."""
        return identify(self.whole, dict(self.supervised.splits))

    def problem(self, brought: Collection[str] = ()) -> Problem:
        """Return what the run is a search of; individuals bring the hyperparameters `brought` along as traits."""
        with config.at(**KEYS):
            return self.supervised.problem([*brought, *self.config.brings()])

    def rules(self) -> Rules:
        """Return what decides how long the run goes on and who wins it."""
        return rules(self.config, len(self.supervised.splits[self.config.fitness.split]))

    def keeps(self) -> Weights:
        """Return what a checkpoint holds so that other runs' files aren't needed again."""
        c = self.config
        own = {START: self.supervised.start} if c.genome.start or c.backbone.transfer else {}
        if c.genome.coordinates:
            own = {} if self.sources is None else {START: self.sources}
        fixed = {} if c.head.trainable and not c.genome.coordinates else self.network.of_head()
        return own | {f"{HEAD}/{name}": weight for name, weight in fixed.items()}

    def initial(self) -> Step:
        """Return the run before its first generation: its champion so far is the start itself."""
        check_size(self.config, self.network.layout.genes, len(self.supervised.splits["train"]))
        home, champion = self.home, None
        if self.refits:
            champion = Champion(self.supervised.start[0], "start", 0, {self.supervised.metric: math.nan})
        step = loop.begin(self.problem(), self.algorithm, self.config.seed, home, champion=champion)
        if not self.refits and not math.isfinite(step.champion.validation[self.supervised.metric]):
            self.check_outputs(step.champion.genome)
        return replace(step, cost=step.cost + Cost(backbone=self.computed))

    def check_outputs(self, genome: Tensor) -> None:
        """See that a genome [g] has finite logits on the validation split; InputError says what is to blame."""
        of, rows = self.supervised, self.supervised.splits["validation"]
        for part in rows.split(augment.BATCH):
            bad = int((~of.samples.batch(part)[0].isfinite()).any(1).sum())
            if bad:
                how = remedy(self.config)
                raise InputError(
                    f"features: {bad} of {len(part)} validation {self.whole.noun} have NaN or infinite ones{how}"
                )
        judgement = of.judgement([of.metrics["accuracy"]])
        if bool(evaluate(judgement, genome[None], rows, exact(of.executions.now)).invalid.any()):
            raise InputError(
                f"head: {self.config.head.layers.name} starts with outputs that are NaN or infinite; see head.init"
            )

    def view_others(self, rows: Tensor, labels: Tensor, groups: Tensor | None = None) -> Features:
        """Return features of other samples [N, d], as the network gives them to what evolves, in place of the run's."""
        scale = self.network.affine if self.network.backbone.cut is None else None
        return Features((rows,), labels, scale, self.device, groups=groups)


def compose(
    c: Config,
    device: torch.device,
    given: tuple[Dataset, dict[str, Tensor]],
    backbone: Backbone,
    *,
    images: Callable[[int, int], None],
    log: Log,
    saved: Saved | None = None,
    executor: Executor = LOCAL,
) -> Run:
    """Build a run's parts, computing features where they aren't cached; `saved` is what one that goes on has.

    The executor does the work of slices.
    """
    scale = None if saved is None else saved.affine
    found = sources(c, device, given, backbone, images=images, log=log, scale=scale)
    return assemble(c, found, saved=saved, log=log, executor=executor)


def without_data(c: Config, device: torch.device, backbone: Backbone, classes: tuple[str, ...], saved: Saved) -> Run:
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
    given = Dataset(classes, images, labels, labels), dict.fromkeys(SPLITS, none)
    found = scaling(c, backbone, rows, none, saved=saved.affine, log=ignore) if saved.affine else None
    return assemble(c, Sources(device, given, backbone, rows, found, 0), saved=saved)


def assemble(
    c: Config,
    learnt_from: Sources,
    *,
    saved: Saved | None = None,
    kept: Weights | None = None,
    log: Log = ignore,
    executor: Executor = LOCAL,
) -> Run:
    """Build a run's parts on what it learns from; `saved` is what one that goes on has, `kept` what it keeps of it."""
    kept = saved.kept if saved is not None else kept or {}
    whole, splits = learnt_from.given
    algorithm = c.search()
    with config.at(**KEYS):
        evolved = evolve(c, learnt_from, kept, log)
    sources = sources_of(c, evolved, kept)
    with config.at("genome.space", space="genome.space"):
        evolved = evolved.within(c.genome.space.bound(), sources, seed=c.seed)
    algorithm.check(evolved.layout.genes)
    cut = evolved.backbone.cut
    if evolved.recalibrates and not (cut and deep.norms(cut.rest)):
        log("backbone.batchnorm: recalibrate, but no batch norm comes behind what evolves: nothing is re-estimated")
    plan = choose(c, evolved, learnt_from.features.dim, algorithm, log) if saved is None else saved.execution
    evolved = replace(evolved.with_method(plan.method), calibration=calibration(c, evolved, learnt_from))
    home = torch.device(plan.home)
    start = start_of(c, evolved, kept).to(home)
    if c.islands is not None:  # which may begin by deviations of their own
        algorithm = c.search(lambda sigma: evolved.spread(start, sigma))
    if evolved.layout.tops:
        algorithm = quantised.whole(algorithm, evolved.layout)
    samples = (
        learnt_from.features
        if evolved.backbone.cut is not None or evolved.affine is None
        else learnt_from.through_affine
    )
    groups = groups_of(whole)
    of = supervised(
        evolved,
        samples,
        splits,
        metrics={name: part.metric() for name, part in parts_of(c).items()},
        execution=Executions(plan, () if saved is None else saved.changes),
        metric=c.validate.metric.name,
        fitness=fitness_of(c),
        refinement=refinement_of(c, len(splits["train"])),
        start=start,
        sigma=c.genome.init_sigma,
        seed=c.seed,
        rescored=algorithm.exact,
        islands=algorithm.islands,
        sensitive=bool(algorithm.overhead),
        view=view_of(c, learnt_from),
        counter=lambda: count_views(samples),
        note=log,
        executor=executor,
        subject_to=[config.constraint(bound) for bound in c.fitness.subject_to],
        groups=groups,
    )
    if saved is None:
        batch = batch_size(c, len(splits[c.fitness.split]))
        with config.at(**KEYS):
            precision.settle(of, c.fitness.precision, algorithm.later, batch, remember=cache.remember, log=log)
    return Run(c, of, algorithm, whole, samples, kept, learnt_from.computed, sources)


def evolve(c: Config, learnt_from: Sources, kept: Mapping[str, Tensor], log: Log) -> Network:
    """Return the network that evolves, on what it learns from."""
    device, backbone, whole = learnt_from.device, learnt_from.backbone, learnt_from.given[0]
    width = learnt_from.features.dim if backbone.cut is None else starts.own_head(backbone).in_features

    def head_weights(head: nn.Module, seen: int, scale: Affine | None, first: str) -> Weights:
        return starts.head_weights(
            c, backbone, head, width=seen, now=whole.classes, scale=scale, first=first, device=device, kept=kept
        )

    return network.build(
        backbone,
        lambda features: make_head(c, backbone, features, len(whole.classes)),
        whole.classes,
        width=width,
        affine=learnt_from.scale,
        head_weights=head_weights,
        device=device,
        learns_head=c.head.trainable,
        recalibrates=c.backbone.batchnorm == "recalibrate",
        affine_needed=not centres(c),
        name=c.head.layers.name,
        note=log,
    )


def calibration(c: Config, evolved: Network, learnt_from: Sources) -> Calibration | None:
    """Return by which train samples batch norms are re-estimated, the same for everybody, always; None without any."""
    cut = evolved.backbone.cut
    if not evolved.recalibrates or cut is None or not deep.norms(cut.rest):
        return None
    train = learnt_from.given[1]["train"]
    drawn = torch.randperm(len(train), generator=generator(c.seed, "calibration", 0))[:CALIBRATED_BY]
    batches = [rows for rows in train[drawn].split(CALIBRATION_BATCH) if len(rows) > 1]

    def rows_at_the_cut() -> Iterator[Tensor]:
        return (learnt_from.features.batch(rows)[0] for rows in batches)

    return Calibration(rows_at_the_cut, sum(map(len, batches))) if batches else None


@config.at(**starts.KEYS)
def start_of(c: Config, evolved: Network, kept: Mapping[str, Tensor]) -> Tensor:
    """Return the genomes [s, g] that the population starts from."""
    if c.genome.coordinates:
        return evolved.start()
    if START in kept:
        return kept[START]
    return evolved.start() if not c.genome.start else unfold_all(c, evolved)


@config.at(**starts.KEYS)
def sources_of(c: Config, evolved: Network, kept: Mapping[str, Tensor]) -> Tensor | None:
    """Return the genomes [s, g] of weights of the networks that a space of coordinates is around, None without any."""
    if not c.genome.coordinates or not c.genome.start:
        return None
    return kept[START] if START in kept else unfold_all(c, evolved)


def unfold_all(c: Config, evolved: Network) -> Tensor:
    """Return the genomes [s, g] of the networks that a run starts from."""
    return torch.cat([evolved.unfold(*starts.read(source, "genome.from")) for source in c.genome.start])


def view_of(c: Config, learnt_from: Sources) -> View:
    """Return how batches draw among augmented views of train images."""
    if not c.data.augment:
        return as_it_is
    count, clean = c.features.views, len(learnt_from.features.pieces[0])
    return augment.views(0 if count == "live" else count, clean, learnt_from.given[1]["train"])


@contextmanager
def count_views(samples: Features) -> Iterator[Callable[[], Cost]]:
    """Count the images that live views put through the backbone while it is entered."""
    live = samples.live
    if live:
        live.kept.clear()  # so that the count doesn't depend on where a run was resumed
    before = live.computed if live else 0
    yield lambda: Cost(backbone=live.computed - before if live else 0)


def choose(c: Config, evolved: Network, width: int, algorithm: Algorithm[Any], log: Log) -> Execution:
    """Return a run's execution, on samples of `width` numbers: how individuals and samples are sliced."""
    assert c.memory.limit is not None
    probe = PROBE if algorithm.overhead else 0
    with config.at(limit="memory.limit", plan="memory.plan"):
        found = slicing.choose(
            evolved,
            width,
            population=algorithm.later,
            limit=c.memory.limit,
            batch=probe if c.refine is None else c.refine.batch_size,
            slots=slots(c),
            own_batches=c.refine is not None and c.refine.batches == "own",
            method=c.memory.plan,
            graphs=c.memory.graphs,
            most=c.memory.individuals,
            note=log,
        )
    if evolved.recalibrates and evolved.backbone.cut is not None and found.samples < CALIBRATION_BATCH:
        line = f"{c.memory.limit} bytes is too little to re-estimate batch norms on {CALIBRATION_BATCH} images"
        raise InputError(f"memory.limit: {line}")
    return found
