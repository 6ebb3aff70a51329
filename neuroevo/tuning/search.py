"""A search of hyperparameters as an algorithm that remembers its trials.

Its genomes are positions in the cube of `space`, and its fitness is the validation of the run that a position stands
for. A trial is a function of what it sets alone, so what sets the same is not trained twice.
"""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import caveats, config
from neuroevo.config import Config
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.problem import VIOLATION
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.experiments import goals, moves
from neuroevo.experiments.log import versions
from neuroevo.problems.metric import LOWER_IS_BETTER
from neuroevo.storage import checkpoint, files, rundir
from neuroevo.storage.checkpoint import Move

HOME = torch.device("cpu")  # of positions, wherever trials are trained
TRIAL = "trial"  # trait of a position: what is known of it
COUNTS = ("iteration", "generations", "forward_samples", "backward_samples")  # its first columns; then the metrics


class Trials(NamedTuple):
    """All sets of hyperparameters that were tried, in the order of their trials."""

    positions: Tensor  # [t, d] float32, in the unit cube
    values: Tensor  # [t, d] float64: what they stand for; of a choice its place, NaN where there is nothing
    counts: dict[str, Tensor]  # each [t] int64: iteration, generations trained, samples forward and backward
    metrics: dict[str, Tensor]  # each [t] float64: validation of the trial's champion, as reported


class Remembering(NamedTuple):
    """A sampler's own state, and the trials so far."""

    search: Any
    trials: Trials


class Search:
    """A search without the means to run a trial: an algorithm that remembers trials, and what is told of them."""

    def __init__(self, c: Config, folder: Path) -> None:
        assert c.tune is not None
        self.config, self.tune, self.folder = c, c.tune, folder
        self.space = c.tune.space()
        self.layout: Layout = self.space.layout
        self.start = torch.full((1, self.layout.genes), 0.5)
        self.metric = c.validate.metric.name
        self.merit = goals.merit(c)
        self.constrained = bool(c.fitness.subject_to)
        constraints = (VIOLATION,) if self.constrained else ()
        self.metrics = list(dict.fromkeys((self.metric, "accuracy", "cross_entropy", *constraints)))
        self.sampler: Algorithm[Any] = c.tune.sampler.bound()(self.space)
        self.moves: list[Move] = []  # where it went on elsewhere, after which iteration
        self.latest = self.no_trials()  # the trials that a candidate was last taken from

    def no_trials(self) -> Trials:
        """Return no trials."""
        d = self.layout.genes
        return Trials(
            torch.empty(0, d),
            torch.empty(0, d, dtype=torch.float64),
            {name: torch.empty(0, dtype=torch.int64) for name in COUNTS},
            {name: torch.empty(0, dtype=torch.float64) for name in self.metrics},
        )

    def algorithm(self) -> Algorithm[Remembering]:
        """Return the sampler, with a memory of all trials."""

        def init(start: Tensor, sigma: float | Tensor, context: Context) -> Remembering:
            with config.at(sampler="tune.sampler"):
                return Remembering(self.sampler.init(start, sigma, context), self.no_trials())

        def ask(state: Remembering, context: Context) -> Population:
            with config.at(sampler="tune.sampler"):
                population = self.sampler.ask(state.search, context)
            known = self.rows(state.trials)
            rows = [
                known.get(
                    self.space.identity(position),
                    [context.generation, *[math.nan] * (len(COUNTS) - 1 + len(self.metrics))],
                )
                for position in population.genomes.tolist()
            ]
            return population._replace(traits=population.traits | {TRIAL: torch.tensor(rows, dtype=torch.float64)})

        def tell(state: Remembering, scored: Population, scores: Scores) -> Remembering:
            traits = {name: trait for name, trait in scored.traits.items() if name != TRIAL}
            search = self.sampler.tell(state.search, scored._replace(traits=traits), scores)
            return Remembering(search, self.remember(state.trials, scored))

        def candidates(state: Remembering) -> dict[str, Tensor]:
            self.latest = state.trials
            best = self.best(state.trials)
            return {} if best is None else {TRIAL: state.trials.positions[best]}

        return self.sampler._replace(init=init, ask=ask, tell=tell, candidates=candidates)

    def rows(self, trials: Trials) -> dict[str, list[float]]:
        """Return a row of the trait for each set that was tried."""
        columns = [*(trials.counts[name].double() for name in COUNTS), *(trials.metrics[name] for name in self.metrics)]
        rows = torch.stack(columns, dim=1).tolist()
        return {
            self.space.identity(position): row for position, row in zip(trials.positions.tolist(), rows, strict=True)
        }

    def remember(self, trials: Trials, scored: Population) -> Trials:
        """Return trials with those that a population adds to them."""
        seen, new = set(self.rows(trials)), []
        for i, position in enumerate(scored.genomes.tolist()):
            identity = self.space.identity(position)
            if identity not in seen:
                seen.add(identity)
                new.append(i)
        positions, rows = scored.genomes[new], scored.traits[TRIAL][new]
        values = torch.tensor([self.space.numbers(p) for p in positions.tolist()], dtype=torch.float64)
        columns = dict(zip((*COUNTS, *self.metrics), rows.T, strict=True))
        return Trials(
            torch.cat([trials.positions, positions]),
            torch.cat([trials.values, values.view(len(new), self.layout.genes)]),
            {name: torch.cat([old, columns[name].long()]) for name, old in trials.counts.items()},
            {name: torch.cat([old, columns[name]]) for name, old in trials.metrics.items()},
        )

    def best(self, trials: Trials) -> int | None:
        """Return the number of the best trial of those that went on to their end; None where there is none."""
        whole = [i for i, g in enumerate(trials.counts["generations"].tolist()) if g == self.tune.trial.generations]
        found = {i: {name: float(value[i]) for name, value in trials.metrics.items()} for i in whole}
        valid = [i for i in whole if math.isfinite(found[i][self.metric])]
        return max(valid, key=lambda i: self.merit(found[i]), default=None)

    def validate(self, genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        """Return the validation of candidates: they are trials, and it costs nothing to ask them again."""
        known = self.rows(self.latest)
        rows = [known[self.space.identity(position)] for position in genomes.tolist()]
        return [dict(zip(self.metrics, row[len(COUNTS) :], strict=True)) for row in rows], Cost()

    def rules(self) -> Rules:
        """Return the rules by which the search ends and a trial wins it."""
        return Rules(
            seed=self.config.seed,
            samples=1,
            every=1,
            patience=self.tune.rest.patience,
            budget=Budget(**self.tune.budget.model_dump()),
            metric=self.metric,
            lower_is_better=self.metric in LOWER_IS_BETTER,
            constrained=self.constrained,
        )

    def restore(self, saved: checkpoint.Checkpoint) -> Step:
        """Return the search as a checkpoint has it."""
        context = Context(self.config.seed, 0, 0.0, HOME, self.layout)
        template = self.algorithm().init(self.start, 0.0, context)
        return replace(saved.step, state=checkpoint.state(saved.path, template, HOME))

    def write(self, step: Step) -> None:
        """Write the table of trials, and the config with the best of them."""
        files.replace(self.folder / rundir.TRIALS, self.table(step.state.trials).encode())
        best = self.best(step.state.trials)
        if best is not None:
            settings = self.space.settings(step.state.trials.positions[best].tolist())
            winner = self.config.trial(settings).of_result()
            files.replace(self.folder / rundir.BEST, winner.to_yaml().encode())

    def table(self, trials: Trials) -> str:
        """Return the trials as CSV: what each set, how long it was trained, its validation, what it took."""
        file = io.StringIO()
        table = csv.writer(file, lineterminator="\n")
        keys = [c.name for c in self.space.coordinates if c.name in self.tune.variables]
        table.writerow(["trial", *COUNTS[:2], *keys, *self.metrics, *COUNTS[2:]])
        for i, position in enumerate(trials.positions.tolist()):
            settings = self.space.settings(position)
            counts = {name: int(column[i]) for name, column in trials.counts.items()}
            cells = [cell(settings.get(key, "")) for key in keys]
            metrics = [float(trials.metrics[name][i]) for name in self.metrics]
            table.writerow([i, *(counts[n] for n in COUNTS[:2]), *cells, *metrics, *(counts[n] for n in COUNTS[2:])])
        return file.getvalue()

    def result(self, step: Step, reason: str, device: str) -> dict[str, Any]:
        """Return the search's result, as result.json has it; `reason` is why it ended."""
        table = step.state.trials
        best = self.best(table)
        position = None if best is None else table.positions[best].tolist()
        winner: dict[str, Any] | None = None
        if best is not None and position is not None:
            validation = {name: float(value[best]) for name, value in table.metrics.items()}
            winner = {"trial": best, "settings": self.space.settings(position), "validation": validation}
        return {
            "status": "finished" if step.stop is not None else "interrupted",
            "stop_reason": reason,
            "iterations": step.generation,
            "trials": len(table.positions),
            "seed": self.config.seed,
            "device": device,
            "threads": torch.get_num_threads(),
            "best": winner,
            "warnings": [*moves.lines(self.moves, "iteration"), *([] if position is None else self.at_ends(position))],
            "cost": {**step.cost.record(), "seconds": step.seconds},
            "versions": versions(),
            **({"moves": list(self.moves)} if self.moves else {}),
        }

    def at_ends(self, position: list[float]) -> list[str]:
        """Return a line on each number of a set that lies at an end of its range, where a trial may go beyond it."""
        found = []
        values, settings = self.space.values(position), self.space.settings(position)
        for name, variable, _ in self.space.coordinates:
            end = variable.beyond(values[name]) if name in values else None
            if end is None:
                continue
            key, _, place = name.rpartition(".")
            items = settings.get(key)
            further = {name: end}
            if name not in settings and isinstance(items, list):
                further = {key: [*items[: int(place)], end, *items[int(place) + 1 :]]}
            try:
                self.config.trial(settings | further)
            except InputError:  # there is nothing beyond
                continue
            found.append(caveats.end_of_range(name, values[name], variable.decode(0.0), variable.decode(1.0)))
        return found


def cell(value: Any) -> Any:
    """Return a value as a cell of a CSV table has it."""
    return value if isinstance(value, int | float | str) else json.dumps(value)
