"""What a run, a search of hyperparameters or a benchmark takes on this machine, before it begins.

Its parts are built as they will be, on features that are there or, where they are yet to be computed, on random ones of
the same shape, which are kept nowhere; and the pace of each is measured (`pace`).
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import config, devices
from neuroevo.bench.arms import Given, Overlay, applied
from neuroevo.config import Config
from neuroevo.data import components, feature_cache
from neuroevo.data.augment import Augment, Live
from neuroevo.data.datasets import Dataset
from neuroevo.data.samples import Features
from neuroevo.engine.cost import Cost
from neuroevo.engine.rng import Context
from neuroevo.errors import ignore
from neuroevo.experiments import build, compose, costs, experiment, sizes, starts
from neuroevo.experiments.compose import Experiment
from neuroevo.experiments.experiment import Ready
from neuroevo.experiments.signals import Signals
from neuroevo.experiments.sources import SCALED_BY, Sources, augmenting, centred, of_network, scaling, standardised
from neuroevo.forecast import pace
from neuroevo.forecast.pace import timed
from neuroevo.networks import deep
from neuroevo.networks.affine import Affine, Projection
from neuroevo.networks.backbones import Backbone
from neuroevo.tuning.trials import Trainer
from neuroevo.tuning.tune import HOME, Tuner

SECONDS = 8.0  # that measuring takes, about, beside building the parts
PASS_SECONDS = 2.0  # of it through the backbone
PROBED_ROWS, PROBED_AXES = 64, 512  # by which scales are timed
PICTURES, PICTURES_OF_ARM = 5, 6  # of a benchmark's page, about

Seconds = dict[str, float]  # by part


class Length(NamedTuple):
    """How long a run goes on, by its budget."""

    generations: int | None  # None: until the seconds are over
    whole: float  # generations, the last one a part, for its batch is cut; inf where None
    cost: Cost  # forward and backward


def length(c: Config, counts: Mapping[str, int]) -> Length:
    """Return how long a run goes on that neither finds its target nor loses patience, with so many images a split."""
    own, b = c.algorithm.search(), c.budget
    begin, each = costs.takes(c, own, counts, first=True), costs.takes(c, own, counts)
    wholes = [float(b.generations)] if b.generations else []
    for limit, first, later in (
        (b.samples, begin.samples, each.samples), (b.forward_samples, begin.forward, each.forward),
    ):  # fmt: skip
        if limit is not None:
            wholes.append(1 + (limit - first) / later if limit > first else limit / first)
    if not wholes:
        return Length(None, math.inf, Cost())
    whole = min(wholes)
    generations = max(1, math.ceil(whole - 1e-9))
    later = generations - 1
    return Length(
        generations, whole, Cost(begin.forward + later * each.forward, begin.backward + later * each.backward)
    )


class Found(NamedTuple):
    """What runs learn from, as far as it is there, and what the rest takes."""

    sources: Sources
    kept: dict[str, Tensor]  # as of a checkpoint, where the scale is made up: others' weights can't be brought onto it
    features: float  # seconds of those that are to be computed, once
    once: float  # and of their scale
    each: float  # seconds of reading both
    live: float  # seconds of an augmented view that is made as it is asked for; 0 where none is


class Views(Live):
    """Gives random features in place of those of fresh views."""

    def __call__(self, index: Tensor) -> Tensor:
        """Return features [B, d]."""
        return torch.rand(len(index), self.width, device=self.device)

    width = 0


class Forecaster:
    """Foretells runs on the same images and network; what it found out about features it remembers."""

    def __init__(self, ready: Ready, seconds: float | None = None) -> None:
        self.ready, self.seconds = ready, SECONDS if seconds is None else seconds
        self.found: dict[str, Found] = {}
        self.rates: dict[str, float] = {}  # seconds of an image through the backbone

    @property
    def counts(self) -> dict[str, int]:
        """Images a split."""
        return {name: len(rows) for name, rows in self.ready.given[1].items()}

    def source(self, c: Config) -> tuple[Found, float]:
        """Return what a run of a config learns from, and the seconds of what has not been asked for before."""
        record = c.record()
        key = json.dumps([record["data"], record["backbone"], record["features"], c.genome.levels], sort_keys=True)
        if key in self.found:
            return self.found[key], 0.0
        whole = self.ready.config.record()
        given, backbone = self.ready.given, self.ready.backbone
        if any(record[name] != whole[name] for name in ("data", "backbone")):
            given = build.dataset(c)
            backbone = build.build_backbone(c, given[0])
        self.found[key] = self.looked_up(c, given, backbone)
        return self.found[key], self.found[key].features + self.found[key].once

    @config.at(**config.READING)
    def looked_up(self, c: Config, given: tuple[Dataset, dict[str, Tensor]], backbone: Backbone) -> Found:
        """Return what a run of a config learns from."""
        device, (whole, splits), dtype = self.ready.device, given, c.features.dtype
        backbone.to(device)
        augment = augmenting(c, backbone)
        dims, _ = sizes.dimensions(c, given, backbone)
        began = time.perf_counter()
        first, left = feature_cache.look_up(backbone, whole, device, dtype)
        pieces, labels, to_come = (
            [first],
            [torch.from_numpy(whole.labels)],
            left * self.rate(backbone, whole, None, left),
        )
        live, of_view = None, 0.0
        if augment is not None and c.features.views == "live":
            live = Views(backbone, whole, augment, device)
            live.width = dims.stored
            of_view = self.rate(backbone, whole, augment, 1)
        elif augment is not None and isinstance(c.features.views, int):
            train = whole.take(splits["train"].numpy())
            for view in range(c.features.views):
                piece, left = feature_cache.look_up(backbone, train, device, dtype, augment=augment, view=view)
                pieces.append(piece)
                labels.append(torch.from_numpy(train.labels))
                to_come += left * self.rate(backbone, train, augment, left)
        made_up = any(piece is None for piece in pieces)
        each = 0.0 if made_up else time.perf_counter() - began
        filled = [
            random(len(own), dims.stored, dtype) if piece is None else piece
            for piece, own in zip(pieces, labels, strict=True)
        ]
        cached = Features(tuple(filled), torch.cat(labels).to(device), None, device, live)
        scale, once, again, invented = self.scale(c, backbone, cached, splits["train"], made_up)
        kept = invention(c, backbone, dims, given, scale) if invented else {}
        sources = Sources(device, given, backbone, cached, scale, 0)
        return Found(sources, kept, to_come, once, each + again, of_view)

    def rate(self, backbone: Backbone, images: Dataset, augment: Augment | None, left: int) -> float:
        """Return the seconds of an image through the backbone, 0 where none are left to go."""
        key = f"{backbone.digest} {backbone.transform} {augment and augment.given}"
        if left and key not in self.rates:
            self.rates[key] = feature_cache.rate(backbone, images, self.ready.device, augment, PASS_SECONDS)
        return self.rates[key] if left else 0.0

    def scale(
        self, c: Config, backbone: Backbone, cached: Features, train: Tensor, made_up: bool
    ) -> tuple[Affine | None, float, float, bool]:
        """Return a run's scale, the seconds of it that come once, those of each run, and whether it is made up."""
        asked, d = c.features, cached.dim
        projected = asked.components is not None or bool(asked.whitening)
        if not asked.standardise and not projected and not centred(c):
            return None, 0.0, 0.0, made_up
        count, n = len(train), min(len(train), SCALED_BY)
        if backbone.cut is not None:
            own = train[pace.some(count, min(count, PROBED_ROWS), train.device)]
            with torch.inference_mode():
                deep.features(backbone.cut, cached.batch(own)[0])  # which sets things up
                seconds, rows = timed(cached.device, partial(deep.features, backbone.cut, cached.batch(own)[0]))
            rows, d, every = rows.clone(), rows.shape[1], seconds * n / len(own)
            standard = standardised(c, rows, torch.arange(len(rows)), cached.device)
        else:
            every, standard = timed(cached.device, lambda: standardised(c, cached.pieces[0], train, cached.device))
            if not made_up and not projected:
                return standard, 0.0, every, False
            if not made_up:
                file = components.components_file(cached.pieces[0], train, standard, of_network(backbone))
                if file.exists():
                    every, scale = timed(
                        cached.device,
                        lambda: scaling(c, backbone, cached, train, {}, ignore),
                    )  # fmt: skip
                    return scale, 0.0, every, False
            n = count
        if not projected:
            return standard, 0.0, every, True
        k = min(asked.components or d, d, max(1, n - 1))
        axes = torch.randn(d, k, device=cached.device) / math.sqrt(d)
        return Projection(standard.mean, axes), axes_seconds(n, d, cached.device), every, True

    def beside(self, c: Config, seconds: float) -> "Forecaster":
        """Return one for another config on the same images and network."""
        other = Forecaster(self.ready._replace(config=c), seconds)
        other.found, other.rates = self.found, self.rates
        return other

    def run(self, c: Config) -> Seconds:
        """Return the seconds of a run's features, as far as they were not asked for before, and of the run itself."""
        found, first = self.source(c)
        composing, e = timed(found.sources.device, lambda: compose.assemble(c, found.sources, kept=found.kept))
        identity, _ = timed(found.sources.device, lambda: (e.features.digest(), e.data))
        own = pace.of_run(e, self.seconds / 2)
        counts = {name: len(rows) for name, rows in e.splits.items()}
        generation = own.generation + found.live * fresh_views(c, counts)
        took = lasting(c, counts, generation, own.validation) + own.test
        return {"features": first, "run": found.each + composing + identity + took}


def random(n: int, d: int, dtype: str) -> Tensor:
    """Return random features [n, d], rows that are one and the same where they would take much memory."""
    kind: torch.dtype = getattr(torch, dtype)
    if 4 * n * d > devices.available_memory(torch.device("cpu")) / 4:
        return torch.rand(1, d).to(kind).expand(n, d)
    return torch.rand(n, d).to(kind)


def invention(
    c: Config, backbone: Backbone, dims: sizes.Dims, given: tuple[Dataset, dict[str, Tensor]], scale: Affine | None
) -> dict[str, Tensor]:
    """Return what a checkpoint would keep of other runs' weights, and of a head that isn't drawn, as zeros."""
    width = scale.width if scale is not None else dims.seen
    head = build.make_head(c, backbone, width, len(given[0].classes))
    of_head = {f"{starts.HEAD}/{backbone.head}.{name}": torch.zeros(1, *p.shape)
               for name, p in head.named_parameters()}  # fmt: skip
    fixed = {} if c.head.trainable and c.head.init != "network" else of_head
    if not c.genome.start:
        return fixed
    genes = dims.genes
    if c.head.trainable:  # the head may be narrower than foreseen
        own = build.make_head(c, backbone, dims.seen, len(given[0].classes))
        genes += sum(p.numel() for p in head.parameters()) - sum(p.numel() for p in own.parameters())
    return fixed | {starts.START: torch.zeros(len(c.genome.start), genes)}


def axes_seconds(n: int, d: int, device: torch.device) -> float:
    """Return the seconds of the principal axes of n rows [d], by a smaller product and a smaller decomposition."""
    m, w = min(n, d), min(n, d, PROBED_AXES)
    x = torch.randn(2 * PROBED_AXES, w, dtype=torch.float64, device=device)
    x.T @ x
    product, gram = timed(device, lambda: x.T @ x)
    torch.linalg.eigh(gram.cpu())
    decomposition, _ = timed(device, lambda: torch.linalg.eigh(gram.cpu()))
    return product * n * d * m / (len(x) * w * w) + decomposition * (m / w) ** 3


def fresh_views(c: Config, counts: Mapping[str, int]) -> int:
    """Return how many views a generation makes where they are made as they are asked for."""
    r, train = c.refine, counts["train"]
    scored = costs.batch_size(c, train) if c.fitness.split == "train" else 0
    if r is None:
        return scored
    apart = c.algorithm.search().later if r.batches == "own" else 1
    return scored + apart * costs.steps(c, train) * min(r.batch_size, train)


def lasting(c: Config, counts: Mapping[str, int], generation: float, validation: float) -> float:
    """Return the seconds of a run's generations, of so many seconds each, and of its validations."""
    found, limit = length(c, counts), c.budget.seconds or math.inf
    if found.generations is None:
        return limit
    return min(limit, found.whole * generation + math.ceil(found.generations / c.validate.every) * validation)


class Sparing(Trainer):
    """Begins trials without computing features, and says what they would take."""

    def __init__(self, forecaster: Forecaster, tuner: Tuner) -> None:
        super().__init__(forecaster.ready, tuner.folder, tuner.merit, lambda done, total: None, ignore, Signals())
        self.forecaster = forecaster
        self.to_come: list[float] = []  # seconds of features of each kind
        self.reading = 0.0

    def source(self, c: Config) -> tuple[Sources, int]:
        """Return what a trial learns from."""
        found, first = self.forecaster.source(c)
        if first:
            self.to_come.append(first)
        self.reading = max(self.reading, found.each)
        return found.sources, 0

    def assembled(self, c: Config, source: Sources) -> Experiment:
        """Return a trial's parts."""
        return compose.assemble(c, source, kept=self.forecaster.source(c)[0].kept)


class Search(NamedTuple):
    """What a search takes."""

    seconds: Seconds  # features, search, and final run if there is one
    iterations: int | None
    trials: int  # an iteration
    iteration: float  # seconds
    features: list[float]  # seconds of each kind that trials ask for


def search(forecaster: Forecaster) -> Search:
    """Foretell a search of hyperparameters and the final run after it."""
    ready, c = forecaster.ready, forecaster.ready.config
    assert c.tune is not None
    tuner = Tuner(ready, Path(), lambda done, total: None, ignore)
    trainer, algorithm = Sparing(forecaster, tuner), tuner.algorithm()
    context = Context(c.seed, 1, 0.0, HOME, tuner.layout)
    population = algorithm.ask(tuner.initial().state, context)
    settings = [own for own, _ in tuner.new(population)]
    trainer.begun(settings)  # features first
    beginning, (parts, _) = timed(ready.device, lambda: trainer.begun(settings))
    going, rungs, generations, before = len(settings), trainer.rungs(), 0.0, 0
    for until in rungs:
        generations += (until - before) * going / len(settings)
        before, going = until, trainer.survivors(going)
    allowed, trained = forecaster.seconds / 2 / len(parts), 0.0
    for group, _ in parts:
        e, own = group.experiment, group.configs[0]
        algorithms = group.algorithms()
        generation, step = pace.of_generation(e, group.algorithm(algorithms), group.step, group.brought, allowed * 0.7)
        named = [
            genome for a, state in zip(algorithms, step.state.runs.values(), strict=True)
            for genome in a.candidates(state).values()
        ]  # fmt: skip
        validation = pace.of_validation(e, torch.stack(named), allowed * 0.3) if named else 0.0
        counts = {name: len(index) for name, index in e.splits.items()}
        found, _ = forecaster.source(own)
        generation += found.live * fresh_views(own, counts)
        trained += generations * (generation + validation / own.validate.every)
    iteration, planned, b = beginning + trained, trainer.planned(settings), c.tune.budget
    limits = [b.generations] if b.generations else []
    limits += [max(1, b.samples // planned.samples)] if b.samples else []
    limits += [max(1, b.forward_samples // planned.forward)] if b.forward_samples else []
    cells = [coordinate.variable.cells for coordinate in tuner.space.coordinates]
    if all(cells):  # there are no more sets than these
        limits.append(math.ceil(math.prod(cells) / len(settings)))
    iterations = min(limits, default=None)
    whole = math.inf if iterations is None else iterations * iteration
    # A search that is too long is stopped after the iteration in which its seconds end.
    if b.seconds is not None and whole > b.seconds:
        whole = math.ceil(b.seconds / iteration) * iteration
    seconds = {"features": sum(trainer.to_come), "search": trainer.reading + whole}
    if c.tune.rest.final:
        middle = c.trial(tuner.space.settings([0.5] * len(tuner.space.coordinates)))
        if c.tune.rest.included and middle.budget.samples is not None and iterations is not None:
            left = max(1, middle.budget.samples - iterations * planned.samples)
            middle = replace(middle, budget=middle.budget.model_copy(update={"samples": left}))
        last = forecaster.run(middle)
        seconds |= {"features": seconds["features"] + last["features"], "final run": last["run"]}
    return Search(seconds, iterations, len(settings), iteration, trainer.to_come)


class Bench(NamedTuple):
    """What a benchmark takes."""

    seconds: Seconds  # features, and runs
    arms: Seconds  # a run of each arm


def bench(
    forecaster: Forecaster, base: Mapping[str, Any], overlays: Mapping[str, Overlay | None], seeds: int, splits: int,
    given: Given,
) -> Bench:  # fmt: skip
    """Foretell a benchmark, one run after another."""
    c = forecaster.ready.config
    begun, _ = timed(forecaster.ready.device, lambda: experiment.prepared(c))
    first, each = 0.0, {}
    seconds_each = max(1.5, 2 * forecaster.seconds / len(overlays))
    for arm, overlay in overlays.items():
        own = applied(base, arm, overlay, given, c.seed, c.data.split_seed)
        own = replace(own, memory=own.memory.model_copy(update={"limit": c.memory.limit}))
        beside = forecaster.beside(own, seconds_each)
        seconds = search(beside).seconds if own.tune is not None else beside.run(own)
        first += seconds.pop("features")
        each[arm] = begun + sum(seconds.values())
    first += (splits - 1) * sum(found.once for found in forecaster.found.values())  # each split has a scale of its own
    parts = {"features": first, "runs": seeds * splits * sum(each.values())}
    return Bench(parts | {"page": page_seconds(len(overlays))}, each)


def page_seconds(count: int) -> float:
    """Return the seconds of the page of a benchmark of so many arms, by one of its pictures."""
    history = [{"generation": i, "fitness_best": 1.0, "fitness_mean": 0.5, "fitness_std": 0.1} for i in range(64)]
    cpu = torch.device("cpu")

    def draw() -> None:
        from neuroevo.report import figures, plots_of_runs  # they bring matplotlib along

        with TemporaryDirectory() as folder:
            plot = plots_of_runs.fitness("fitness", history)
            figures.save(plot, Path(folder))
            figures.svg(plot)

    first, _ = timed(cpu, draw)
    again, _ = timed(cpu, draw)
    return first - again + (PICTURES + PICTURES_OF_ARM * count) * again


def told(seconds: Mapping[str, float]) -> str:
    """Return seconds in all and by part, as people read them."""
    parts = ", ".join(f"{name} {spelled(value)}" for name, value in seconds.items() if value > 0)
    return f"about {spelled(sum(seconds.values()))} in all: {parts}"


def spelled(seconds: float) -> str:
    """Return seconds, and hours and minutes where they are many."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    long = f" ({minutes // 60} h {minutes % 60} min)" if minutes >= 60 else f" ({minutes} min)" if minutes >= 10 else ""
    return f"{seconds:,.0f} s{long}"
