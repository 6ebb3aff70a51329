"""The problem that a search of hyperparameters is: its development trains a population of trials."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroevo.engine import loop
from neuroevo.engine.cost import Cost
from neuroevo.engine.evaluator import Evaluated, Evaluator
from neuroevo.engine.execution import LOCAL, Executor
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Champion, Step
from neuroevo.engine.problem import VIOLATION, Problem
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.experiments.experiment import Ready
from neuroevo.experiments.interruption import NEVER, Interruption
from neuroevo.problems.metric import LOWER_IS_BETTER
from neuroevo.tuning.search import COUNTS, HOME, TRIAL, Search
from neuroevo.tuning.trials import Trainer

EXHAUSTED = 20  # iterations without a new trial, after which none is expected any more


class Tuner(Search):
    """A search, and a development that runs its trials."""

    def __init__(
        self,
        ready: Ready,
        folder: Path,
        *,
        images: Callable[[int, int], None],
        log: Callable[[str], None],
        signals: Interruption = NEVER,
        executor: Executor = LOCAL,
        several: Callable[[Mapping[str, float]], None] = lambda shares: None,
    ) -> None:
        super().__init__(ready.config, folder)
        self.ready, self.log = ready, log
        how: Any = {"images": images, "log": log, "signals": signals, "executor": executor, "several": several}
        self.trainer = Trainer(ready, folder, self.merit, self.moves, **how)

    def problem(self) -> Problem:
        """Return the problem that the search is of."""
        return Problem(
            layout=self.layout,
            start=self.start,
            sigma=0.0,
            evaluator=self.evaluator(),
            batch=lambda generation, size: torch.zeros(1, dtype=torch.int64),
            validate=self.validate,
            merit=self.merit,
        )

    def initial(self) -> Step:
        """Return the search before its first iteration: nothing was tried yet."""
        lower = LOWER_IS_BETTER | {VIOLATION}
        worst = {name: math.inf if name in lower else -math.inf for name in self.metrics}
        champion = Champion(self.start[0], "none", 0, worst)
        return loop.begin(self.problem(), self.algorithm(), self.config.seed, HOME, champion=champion)

    def evaluator(self) -> Evaluator:
        """Return how positions are scored: by trials of those that are new."""

        def evaluate(population: Population, index: Tensor, context: Context) -> Evaluated:
            rows, new = population.traits[TRIAL].clone(), self.new(population)
            verdicts, cost = self.trainer.run([settings for settings, _ in new], context.generation)
            for (_, same), verdict in zip(new, verdicts, strict=True):
                spent = verdict.cost
                counts = [context.generation, verdict.generations, spent.forward, spent.backward]
                metrics = [verdict.metrics.get(name, math.nan) for name in self.metrics]
                rows[same] = torch.tensor([*counts, *metrics], dtype=torch.float64)
            value = rows[:, len(COUNTS)]
            value = -value if self.metric in LOWER_IS_BETTER else value
            invalid = ~value.isfinite()
            scored = population._replace(traits=population.traits | {TRIAL: rows})
            scores = Scores(value.masked_fill(invalid, -torch.inf)[:, None], invalid)
            if self.constrained:
                beyond = rows[:, len(COUNTS) + self.metrics.index(VIOLATION)]
                scores = scores._replace(violation=beyond.masked_fill(invalid, torch.inf))
            return Evaluated(scored, scored, scores, cost)

        return Evaluator(evaluate, lambda population, samples, steps: self.cost(population))

    def cost(self, population: Population) -> Cost:
        """Return the cost of the trials of a population, at most."""
        return self.trainer.cost([settings for settings, _ in self.new(population)])

    def new(self, population: Population) -> list[tuple[dict[str, Any], list[int]]]:
        """Return the settings of a population that were never tried, each with the rows that set them."""
        rows, positions = population.traits[TRIAL], population.genomes.tolist()
        found: dict[str, list[int]] = {}
        for i, position in enumerate(positions):
            if rows[i, 1:].isnan().all():
                found.setdefault(self.space.identity(position), []).append(i)
        return [(self.space.settings(positions[same[0]]), same) for same in found.values()]


def until_exhausted(run: Iterator[Step]) -> Iterator[Step]:
    """Yield a search's steps, and stop it when it has long found nothing new to try."""
    for step in run:
        last = step.state.trials.counts["iteration"]
        if step.stop is None and len(last) and step.generation - int(last.max()) >= EXHAUSTED:
            step = replace(step, stop="exhausted")
        yield step
        if step.stop is not None:
            return
