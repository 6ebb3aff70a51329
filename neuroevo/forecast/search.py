"""The time of a search of hyperparameters on this machine: the first trials that it will propose, grouped and timed."""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from neuroevo.config import Config
from neuroevo.engine.rng import Context
from neuroevo.errors import ignore
from neuroevo.experiments import compose
from neuroevo.experiments.compose import Run
from neuroevo.experiments.interruption import NEVER
from neuroevo.experiments.sources import Sources
from neuroevo.forecast import pace
from neuroevo.forecast.forecaster import Forecaster
from neuroevo.forecast.length import fresh_views
from neuroevo.forecast.pace import time_call
from neuroevo.forecast.seconds import Seconds
from neuroevo.tuning.search import HOME
from neuroevo.tuning.trials import Trainer
from neuroevo.tuning.tuner import Tuner


class Sparing(Trainer):
    """Begins trials without computing features, and says what they would take."""

    def __init__(self, forecaster: Forecaster, tuner: Tuner) -> None:
        super().__init__(
            forecaster.ready,
            tuner.folder,
            tuner.merit,
            tuner.moves,
            images=lambda done, total: None,
            log=ignore,
            signals=NEVER,
        )
        self.forecaster = forecaster
        self.to_come: list[float] = []  # seconds of features of each kind
        self.reading = 0.0

    def source(self, c: Config) -> tuple[Sources, int]:
        """Return the sources of a trial."""
        found, first = self.forecaster.source(c)
        if first:
            self.to_come.append(first)
        self.reading = max(self.reading, found.each)
        return found.sources, 0

    def assemble(self, c: Config, source: Sources) -> Run:
        """Return a trial's parts."""
        return compose.assemble(c, source, kept=self.forecaster.source(c)[0].kept)


class Search(NamedTuple):
    """The time of a search."""

    seconds: Seconds  # features, search, and final run if there is one
    iterations: int | None
    trials: int  # an iteration
    iteration: float  # seconds
    features: list[float]  # seconds of each kind that trials ask for


def estimate_search(forecaster: Forecaster) -> Search:
    """Estimate a search of hyperparameters and the final run after it."""
    ready, c = forecaster.ready, forecaster.ready.config
    assert c.tune is not None
    tuner = Tuner(ready, Path(), images=lambda done, total: None, log=ignore)
    trainer, algorithm = Sparing(forecaster, tuner), tuner.algorithm()
    context = Context(c.seed, 1, 0.0, HOME, tuner.layout)
    population = algorithm.ask(tuner.initial().state, context)
    settings = [own for own, _ in tuner.new(population)]
    trainer.begin(settings)  # features first
    beginning, (parts, _) = time_call(ready.device, lambda: trainer.begin(settings))
    going, rungs, generations, before = len(settings), trainer.rungs(), 0.0, 0
    for until in rungs:
        generations += (until - before) * going / len(settings)
        before, going = until, trainer.survivors(going)
    allowed, trained = forecaster.seconds / 2 / len(parts), 0.0
    for group, _ in parts:
        run, own, algorithms = group.run, group.configs[0], group.algorithms()
        together = group.algorithm(algorithms)
        generation, step = pace.of_generation(run, together, group.step, group.brought, allowed * 0.7)
        pairs = zip(algorithms, step.state.runs.values(), strict=True)
        candidates = [genome for a, state in pairs for genome in a.candidates(state).values()]
        validation = pace.of_validation(run, torch.stack(candidates), allowed * 0.3) if candidates else 0.0
        counts = {name: len(index) for name, index in run.supervised.splits.items()}
        found, _ = forecaster.source(own)
        generation += found.live * fresh_views(own, counts)
        trained += generations * (generation + validation / own.validate.every)
    iteration, planned, b = beginning + trained, trainer.cost(settings), c.tune.budget
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
