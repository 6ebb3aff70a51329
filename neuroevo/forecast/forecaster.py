"""The time of a run on this machine, before it begins.

Its parts are built as they will be, on features that are there or, where they are yet to be computed, on `stand_ins`,
which are kept nowhere; and the pace of each is measured (`pace`).
"""

import json
import math
import time
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo import config
from neuroevo.config import Config
from neuroevo.data import components, feature_cache
from neuroevo.data.augment import Augment
from neuroevo.data.datasets import Dataset
from neuroevo.data.samples import Features
from neuroevo.engine.execution import AUTO, FULL
from neuroevo.errors import ignore
from neuroevo.experiments import build, compose, sizes
from neuroevo.experiments.experiment import Ready
from neuroevo.experiments.sources import SCALED_BY, Sources, augmenting, centres, of_network, scaling, standardise
from neuroevo.forecast import pace
from neuroevo.forecast.length import fresh_views, run_seconds
from neuroevo.forecast.pace import time_call
from neuroevo.forecast.seconds import Seconds
from neuroevo.forecast.stand_ins import Views, axes_seconds, random_features, stand_in_weights
from neuroevo.networks import deep
from neuroevo.networks.affine import Affine, Projection
from neuroevo.networks.backbones import Backbone

SECONDS = 8.0  # that measuring takes, about, beside building the parts
PASS_SECONDS = 2.0  # of it through the backbone
PROBED_ROWS = 64  # by which scales are timed


class Found(NamedTuple):
    """Sources of runs, as far as they are there, and the time of the rest."""

    sources: Sources
    kept: dict[str, Tensor]  # as of a checkpoint, where the scale is made up: others' weights can't be brought onto it
    features: float  # seconds of those that are to be computed, once
    once: float  # and of their scale
    each: float  # seconds of reading both
    live: float  # seconds of an augmented view that is made as it is asked for; 0 where none is


class Forecaster:
    """Foretells runs on the same images and network; what it found out about features it remembers."""

    def __init__(self, ready: Ready, seconds: float | None = None) -> None:
        self.ready, self.seconds = ready, SECONDS if seconds is None else seconds
        self.found: dict[str, Found] = {}
        self.rates: dict[str, float] = {}  # seconds of an image through the backbone
        self.precision: str = FULL  # of the last run that was foretold

    @property
    def counts(self) -> dict[str, int]:
        """Images a split."""
        return {name: len(rows) for name, rows in self.ready.given[1].items()}

    def source(self, c: Config) -> tuple[Found, float]:
        """Return the sources of a run of a config, and the seconds of those that have not been asked for before."""
        record = c.record()
        key = json.dumps([record["data"], record["backbone"], record["features"], c.genome.levels], sort_keys=True)
        if key in self.found:
            return self.found[key], 0.0
        whole = self.ready.config.record()
        given, backbone = self.ready.given, self.ready.backbone
        if any(record[name] != whole[name] for name in ("data", "backbone")):
            given = build.dataset(c)
            backbone = build.build_backbone(c, given[0])
        self.found[key] = self.find(c, given, backbone)
        return self.found[key], self.found[key].features + self.found[key].once

    @config.at(**config.READING)
    def find(self, c: Config, given: tuple[Dataset, dict[str, Tensor]], backbone: Backbone) -> Found:
        """Find the sources of a run of a config."""
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
            random_features(len(own), dims.stored, dtype) if piece is None else piece
            for piece, own in zip(pieces, labels, strict=True)
        ]
        cached = Features(tuple(filled), torch.cat(labels).to(device), None, device, live)
        scale, once, again, invented = self.scale(c, backbone, cached, splits["train"], made_up)
        kept = stand_in_weights(c, backbone, dims, given, scale) if invented else {}
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
        if not asked.standardise and not projected and not centres(c):
            return None, 0.0, 0.0, made_up
        count, n = len(train), min(len(train), SCALED_BY)
        if backbone.cut is not None:
            own = train[pace.some(count, min(count, PROBED_ROWS), train.device)]
            with torch.inference_mode():
                deep.features(backbone.cut, cached.batch(own)[0])  # which sets things up
                seconds, rows = time_call(cached.device, partial(deep.features, backbone.cut, cached.batch(own)[0]))
            rows, d, every = rows.clone(), rows.shape[1], seconds * n / len(own)
            standard = standardise(c, rows, torch.arange(len(rows)), cached.device)
        else:
            every, standard = time_call(cached.device, lambda: standardise(c, cached.pieces[0], train, cached.device))
            if not made_up and not projected:
                return standard, 0.0, every, False
            if not made_up:
                file = components.components_file(cached.pieces[0], train, standard, of_network(backbone))
                if file.exists():
                    once_more = partial(scaling, c, backbone, cached, train, saved={}, log=ignore)
                    every, scale = time_call(cached.device, once_more)
                    return scale, 0.0, every, False
            n = count
        if not projected:
            return standard, 0.0, every, True
        k = min(asked.components or d, d, max(1, n - 1))
        axes = torch.randn(d, k, device=cached.device) / math.sqrt(d)
        return Projection(standard.mean, axes), axes_seconds(n, d, cached.device), every, True

    def for_config(self, c: Config, seconds: float) -> "Forecaster":
        """Return one for another config on the same images and network."""
        other = Forecaster(self.ready._replace(config=c), seconds)
        other.found, other.rates = self.found, self.rates
        return other

    def settle(self, c: Config) -> Config:
        """Return a config with the precision that `auto` came to in the last run that was foretold."""
        auto = c.fitness.precision == AUTO
        return replace(c, fitness=c.fitness.model_copy(update={"precision": self.precision})) if auto else c

    def run(self, c: Config) -> Seconds:
        """Return the seconds of a run's features, as far as they were not asked for before, and of the run itself."""
        found, first = self.source(c)
        composing, run = time_call(found.sources.device, lambda: compose.assemble(c, found.sources, kept=found.kept))
        identity, _ = time_call(found.sources.device, lambda: (run.features.digest(), run.data))
        own = pace.of_run(run, self.seconds / 2)
        counts = {name: len(rows) for name, rows in run.supervised.splits.items()}
        generation = own.generation + found.live * fresh_views(c, counts)
        self.precision = run.supervised.executions.now.precision
        took = run_seconds(self.settle(c), counts, generation, own.validation) + own.test
        return {"features": first, "run": found.each + composing + identity + took}
