"""A search of hyperparameters: trials are short runs, a whole generation of them trained together; then the final run.

The search is an algorithm in the one loop. Its genomes are positions in the cube of `space`, and its fitness is the
validation of the run that a position stands for. Trials that differ only in what an individual can have of its own are
one population (`lockstep`). Each is a function of what it sets alone, so what sets the same is not trained twice.
"""

import csv
import io
import json
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import caveats, config
from neuroevo.config import Config
from neuroevo.engine import loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.evaluator import Developed, Development
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.loop import Champion, Rules, Step
from neuroevo.engine.problem import Problem
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError, Interrupted, RunError, ignore
from neuroevo.experiments import blame, build, compose, experiment, recorders, reopen
from neuroevo.experiments.experiment import Ready
from neuroevo.experiments.log import Reporter, logged, versions, watched
from neuroevo.experiments.signals import Signals
from neuroevo.problems.metric import LOWER_IS_BETTER
from neuroevo.storage import checkpoint, claims, files, generations, rundir
from neuroevo.storage.writer import Writer
from neuroevo.tuning import trials
from neuroevo.tuning.trials import Trainer

HOME = torch.device("cpu")  # of positions, wherever trials are trained
EXHAUSTED = 20  # iterations without a new trial, after which none is expected any more
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
        self.metric = c.validation_metric.name
        self.merit = compose.merit(c)
        self.metrics = list(dict.fromkeys((self.metric, "accuracy", "cross_entropy")))
        self.sampler: Algorithm[Any] = c.tune.sampler.bound()(self.space)
        self.latest = self.nothing()  # the trials that a candidate was last taken from

    def nothing(self) -> Trials:
        """Return no trials."""
        d = self.layout.genes
        return Trials(
            torch.empty(0, d), torch.empty(0, d, dtype=torch.float64),
            {name: torch.empty(0, dtype=torch.int64) for name in COUNTS},
            {name: torch.empty(0, dtype=torch.float64) for name in self.metrics},
        )  # fmt: skip

    def algorithm(self) -> Algorithm[Remembering]:
        """Return the sampler, with a memory of all trials."""

        def init(start: Tensor, sigma: float | Tensor, context: Context) -> Remembering:
            with config.at(sampler="tune.sampler"):
                return Remembering(self.sampler.init(start, sigma, context), self.nothing())

        def ask(state: Remembering, context: Context) -> Population:
            with config.at(sampler="tune.sampler"):
                population = self.sampler.ask(state.search, context)
            known = self.known(state.trials)
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
            return Remembering(search, self.remembered(state.trials, scored))

        def candidates(state: Remembering) -> dict[str, Tensor]:
            self.latest = state.trials
            best = self.best(state.trials)
            return {} if best is None else {TRIAL: state.trials.positions[best]}

        return self.sampler._replace(init=init, ask=ask, tell=tell, candidates=candidates)

    def known(self, trials: Trials) -> dict[str, list[float]]:
        """Return a row of the trait for each set that was tried."""
        columns = [*(trials.counts[name].double() for name in COUNTS), *(trials.metrics[name] for name in self.metrics)]
        rows = torch.stack(columns, dim=1).tolist()
        return {
            self.space.identity(position): row for position, row in zip(trials.positions.tolist(), rows, strict=True)
        }

    def remembered(self, trials: Trials, scored: Population) -> Trials:
        """Return trials with those that a population adds to them."""
        seen, new = set(self.known(trials)), []
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
        """Return which trial did best of those that went on to their end; None where there is none."""
        whole = [i for i, g in enumerate(trials.counts["generations"].tolist()) if g == self.tune.trial.generations]
        found = {i: {name: float(value[i]) for name, value in trials.metrics.items()} for i in whole}
        valid = [i for i in whole if math.isfinite(found[i][self.metric])]
        return max(valid, key=lambda i: self.merit(found[i]), default=None)

    def validate(self, genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        """Return what candidates had in validation: they are trials, and it costs nothing to ask them again."""
        known = self.known(self.latest)
        rows = [known[self.space.identity(position)] for position in genomes.tolist()]
        return [dict(zip(self.metrics, row[len(COUNTS) :], strict=True)) for row in rows], Cost()

    def rules(self) -> Rules:
        """Return what decides how long the search goes on and which trial wins it."""
        return Rules(
            seed=self.config.seed, samples=1, every=1, patience=self.tune.rest.patience,
            budget=Budget(**self.tune.budget.model_dump()), metric=self.metric,
            lower_is_better=self.metric in LOWER_IS_BETTER,
        )  # fmt: skip

    def restored(self, saved: checkpoint.Checkpoint) -> Step:
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
            files.replace(self.folder / rundir.BEST, self.config.trial(settings).to_yaml().encode())

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
        """Return what the search came to, as result.json has it; `reason` is why it ended."""
        table = step.state.trials
        best = self.best(table)
        position = None if best is None else table.positions[best].tolist()
        return {
            "status": "finished" if step.stop is not None else "interrupted",
            "stop_reason": reason,
            "iterations": step.generation,
            "trials": len(table.positions),
            "seed": self.config.seed,
            "device": device,
            "best": None if best is None or position is None else {
                "trial": best,
                "settings": self.space.settings(position),
                "validation": {name: float(value[best]) for name, value in table.metrics.items()},
            },
            "warnings": [] if position is None else self.at_ends(position),
            "cost": {**step.cost.record(), "seconds": step.seconds},
            "versions": versions(),
        }  # fmt: skip

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


class Tuner(Search):
    """A search, and a development that runs its trials."""

    def __init__(
        self, ready: Ready, folder: Path, images: Callable[[int, int], None], log: Callable[[str], None],
        signals: Signals | None = None,
    ) -> None:  # fmt: skip
        super().__init__(ready.config, folder)
        self.ready, self.log = ready, log
        self.trainer = Trainer(ready, folder, self.merit, images, log, signals or Signals())

    def problem(self) -> Problem:
        """Return what the search is of."""
        return Problem(
            layout=self.layout,
            start=self.start,
            sigma=0.0,
            development=self.development(),
            batch=lambda generation, size: torch.zeros(1, dtype=torch.int64),
            validate=self.validate,
            merit=self.merit,
        )

    def initial(self) -> Step:
        """Return the search before its first iteration: nothing was tried yet."""
        worst = {name: math.inf if name in LOWER_IS_BETTER else -math.inf for name in self.metrics}
        champion = Champion(self.start[0], "none", 0, worst)
        return loop.begin(self.problem(), self.algorithm(), self.config.seed, HOME, champion=champion)

    def development(self) -> Development:
        """Return how positions are scored: by trials of those that are new."""

        def develop(population: Population, index: Tensor, context: Context) -> Developed:
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
            return Developed(scored, scored, Scores(value.masked_fill(invalid, -torch.inf)[:, None], invalid), cost)

        return Development(develop, lambda population, samples, steps: self.planned(population))

    def planned(self, population: Population) -> Cost:
        """Return what the trials of a population will take, at most."""
        return self.trainer.planned([settings for settings, _ in self.new(population)])

    def new(self, population: Population) -> list[tuple[dict[str, Any], list[int]]]:
        """Return what a population sets that was never tried, each with the rows that set it."""
        rows, positions = population.traits[TRIAL], population.genomes.tolist()
        found: dict[str, list[int]] = {}
        for i, position in enumerate(positions):
            if rows[i, 1:].isnan().all():
                found.setdefault(self.space.identity(position), []).append(i)
        return [(self.space.settings(positions[same[0]]), same) for same in found.values()]


def cell(value: Any) -> Any:
    """Return a value as a cell of a CSV table has it."""
    return value if isinstance(value, int | float | str) else json.dumps(value)


def until_exhausted(run: Iterator[Step]) -> Iterator[Step]:
    """Yield a search's steps, and stop it when it has long found nothing new to try."""
    for step in run:
        last = step.state.trials.counts["iteration"]
        if step.stop is None and len(last) and step.generation - int(last.max()) >= EXHAUSTED:
            step = replace(step, stop="exhausted")
        yield step
        if step.stop is not None:
            return


def run(c: Config, out: str | None, stem: str, reporter: Reporter) -> Path:
    """Search hyperparameters, then run the experiment with the best of them; return the folder."""
    if c.tune is None:
        raise InputError("tune: the config has no section tune, which names what to search")
    if out is not None:
        claims.check(out)
    with Signals() as signals, blame.on_users(c):
        ready = experiment.prepared(c)
        with experiment.started(ready, out, stem, reporter) as (folder, log):
            tuner = Tuner(ready, folder, watched(reporter, signals), log, signals)
            search(tuner, tuner.initial(), [], signals, reporter)
            signals.check()
    return final(folder, c, reporter)


def begin_or_resume(c: Config, out: str | None, stem: str, reporter: Reporter) -> Path:
    """Go on with the search in `out`, or its final run, or begin it; InputError where that is of another config.

    Without `out` the folder is runs/out/STEM-SEED. What ends the search, `tune.final` and checkpoint are those of `c`.
    """
    if c.tune is None:
        raise InputError("tune: the config has no section tune, which names what to search")
    out = str(rundir.OUT / f"{stem}-{c.seed}") if out is None else out
    folder = claims.out_folder(out)
    if not claims.holds(folder):
        return run(c, out, stem, reporter)
    searched = stage(folder, reporter.note)
    if searched is None:
        raise InputError(f"--resume: {out} holds a run without a search; give another --out")
    then = searched.config
    reopen.agreed(then, c, out, reopen.CHANGING)
    assert then.tune is not None
    if searched.over and then.tune.budget != c.tune.budget:
        raise InputError(
            f"--resume: {out}: tune.budget: the search is over, and its final run is begun; give another --out"
        )
    if searched.over:
        return experiment.resumed(folder, lambda own: replace(own, checkpoint=c.checkpoint), reporter)
    return resumed(folder, lambda own: replace(own, tune=changed(own, c), checkpoint=c.checkpoint), reporter)


def changed(then: Config, now: Config) -> config.Tuning:
    """Return a search's section with what may change in it as it is now."""
    assert then.tune is not None
    assert now.tune is not None
    rest = then.tune.rest.model_copy(update={"patience": now.tune.rest.patience, "final": now.tune.rest.final})
    return replace(then.tune, budget=now.tune.budget, rest=rest)


class Stage(NamedTuple):
    """How far a folder is with a search."""

    where: Path  # of the search's files: the folder, or a folder within
    saved: checkpoint.Checkpoint | None  # of the search
    config: Config  # of the search
    over: bool  # whether the final run has taken its place


def stage(folder: Path, log: Callable[[str], None]) -> Stage | None:
    """Return how far a folder is with a search of hyperparameters; None where there is none."""
    moved = folder / rundir.TUNE
    if not generations.paths(moved / rundir.CHECKPOINTS):
        saved, c = reopen.reopened(folder, log)
        return None if c.tune is None else Stage(folder, saved, c, False)
    # Its checkpoints were moved before anything of the final run was written, and its config after.
    saved = rundir.newest(moved, log)
    if saved is None:
        return None
    c = config.check(config.parse(saved.config, str(saved.path)))
    try:
        now = config.check(config.read(str(folder / rundir.CONFIG)))
    except InputError:
        now = None
    begun = bool(generations.paths(folder / rundir.CHECKPOINTS)) or (now is not None and now.tune is None)
    if not begun and now is not None and now.tune is not None and c.tune is not None:
        c = replace(c, tune=replace(c.tune, rest=c.tune.rest.model_copy(update={"final": now.tune.rest.final})))
    return Stage(moved, saved, c, begun)


def resume(run_dir: str, sets: list[str], reporter: Reporter) -> Path:
    """Go on with a run, a search of hyperparameters or the final run after one."""
    folder = rundir.find(run_dir)
    searched = stage(folder, ignore)  # whoever goes on says what is damaged
    if searched is None or searched.over:
        return experiment.resume(run_dir, sets, reporter)
    for text in sets:
        if not text.startswith(
            ("tune.budget.", "tune.patience=", "tune.final=", "checkpoint.", "data.root=", "data.file=")
        ):
            raise InputError(f"--set {text}: a search goes on as it began; only tune.budget, tune.patience, "
                             "tune.final, checkpoint, data.root and data.file can change")  # fmt: skip
    return resumed(folder, lambda c: reopen.changed(c, sets), reporter)


def resumed(folder: Path, change: Callable[[Config], Config], reporter: Reporter) -> Path:
    """Go on with a search whose config changes in what ends it, `tune.final` or checkpoint alone."""
    with (
        Signals() as signals, claims.lock(folder), experiment.unbegun(folder, reporter),
        logged(folder, reporter) as log,
    ):  # fmt: skip
        searched = stage(folder, log)
        assert searched is not None
        where, saved, before = searched.where, searched.saved, searched.config
        c = change(before)
        finished = saved is not None and saved.step.stop is not None
        assert c.tune is not None
        assert before.tune is not None
        text = c.to_yaml().encode()
        if finished and (where != folder or c.tune.budget == before.tune.budget):
            assert saved is not None
            own = Search(c, folder)
            last = own.restored(saved)
            log(f"{folder}: the search is finished ({last.stop})")
            own.write(last)  # again, lest they were damaged
            rundir.write_history(where, saved.history)
            if not any(rundir.read_result(place, log) for place in (folder, folder / rundir.TUNE)):
                rundir.write_result(where, own.result(last, str(last.stop), saved.device))
            if files.content(folder / rundir.CONFIG) != text:
                files.replace(folder / rundir.CONFIG, text)
        else:
            with blame.on_users(c, log.keep):
                ready = experiment.prepared(c if saved is None else reopen.found(c, log), log)
                tuner = Tuner(ready, folder, watched(reporter, signals), log, signals)
                step: Step = tuner.initial()
                history: checkpoint.History = []
                if saved is not None:
                    reopen.agree(saved, tuner.trainer.data, log)
                    build.same_weights(ready.backbone, saved.frozen, c.backbone.weights)
                    step, history = replace(tuner.restored(saved), stop=None), saved.history
                    log(f"{folder}: going on after iteration {step.generation}")
                recorders.aside(folder, saved, log)
                same = c.record() == before.record()
                search(tuner, step, history, signals, reporter, saved is not None and not same)
        signals.check()
    return final(folder, c, reporter)


def search(
    tuner: Tuner, step: Step, history: checkpoint.History, signals: Signals, reporter: Reporter, changed: bool = False
) -> None:
    """Search until a limit or a signal, keeping history, checkpoints and the table of trials; write the result.

    A config that has `changed` since the step's checkpoint is in a new one before the first iteration.
    """
    c, folder, rules = tuner.config, tuner.folder, tuner.rules()
    recorders.made(folder / rundir.CHECKPOINTS)
    notes = trials.attributes(tuner.ready, tuner.trainer.data, tuner.layout)
    writer = Writer(folder / rundir.CHECKPOINTS, notes, {}, c.checkpoint.keep)
    algorithm = tuner.algorithm()
    if step.generation == 0:
        context = Context(c.seed, 1, 0.0, HOME, tuner.layout)
        population = algorithm.ask(step.state, context)
        first = tuner.planned(population)
        limit = rules.budget.spent(0, Cost(), 0.0, first)
        if limit is not None:
            raise InputError(f"tune.budget.{limit}: one iteration takes more: {first.samples:,} samples "
                             f"({first.forward:,} forward, {first.backward:,} backward)")  # fmt: skip
        warning = trials.crowded(c, len(population.genomes))
        if warning is not None:
            tuner.log(f"{caveats.WARNING}{warning}")

    def settle() -> None:
        recorders.settle(c, folder, writer, step, history, changed)

    problem = recorders.once(tuner.problem(), settle)
    run = until_exhausted(loop.evolve(problem, algorithm, rules, step, device=HOME))
    last = step

    def after(step: Step) -> None:
        nonlocal last
        last = step
        tuner.write(step)

    try:
        step = recorders.recorded(run, step, history, folder, writer, 1, rules, signals, reporter, after)
    except Interrupted:  # within an iteration
        step = last
    finished = step.stop is not None
    reason = step.stop or signal.Signals((signals.status or 128) - 128).name
    rundir.write_result(folder, tuner.result(step, reason, str(tuner.ready.device)))
    if not finished:
        if step.generation:
            tuner.log(f"{folder}: interrupted after iteration {step.generation}; go on with: neuroevo resume {folder}")
        signals.check()
    if tuner.best(step.state.trials) is None:
        raise hopeless(folder)
    tuner.trainer.clear()


def hopeless(folder: Path) -> RunError:
    """Return what a search ends with that found nothing."""
    return RunError(f"{folder}: no trial came to its end with a finite validation; see {rundir.TRIALS} and the ranges")


def final(folder: Path, c: Config, reporter: Reporter) -> Path:
    """Move a finished search into a folder of its own, and begin the final run in its place, if there is to be one."""
    assert c.tune is not None
    if not (folder / rundir.BEST).exists():
        raise hopeless(folder)
    if not c.tune.rest.final:
        return folder
    with claims.lock(folder):
        moved = folder / rundir.TUNE
        recorders.made(moved)
        for name in (rundir.RESULT, rundir.HISTORY, rundir.CHECKPOINTS):
            if (folder / name).exists() and (name == rundir.RESULT or not (moved / name).exists()):
                (folder / name).rename(moved / name)
        best = replace(config.check(config.read(str(folder / rundir.BEST))), dataset=c.dataset)
        if c.tune.rest.included and best.budget.samples is not None:
            spent = rundir.read_result(moved, reporter.note)["cost"]
            left = best.budget.samples - spent["forward_samples"] - 2 * spent["backward_samples"]
            if left < 1:
                raise InputError("budget.samples: the search took them all; see tune.budget and tune.included")
            best = replace(best, budget=best.budget.model_copy(update={"samples": left}))
        files.replace(moved / rundir.CONFIG, c.to_yaml().encode())
        files.replace(folder / rundir.CONFIG, best.to_yaml().encode())
    return experiment.resume(str(folder), [], reporter)
