"""A search of hyperparameters: trials are short runs, a whole generation of them trained together; then the final run.

The search is an algorithm in the one loop. Its genomes are positions in the cube of `space`, and its fitness is the
validation of the run that a position stands for. Trials that differ only in what an individual can have of its own are
one population (`lockstep`). Each is a function of what it sets alone, so what sets the same is not trained twice.
"""

import csv
import io
import json
import math
import shutil
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import checkpoint, composition, config, experiment, lockstep, loop, rundir
from neuroevo.algorithms import Algorithm
from neuroevo.composition import Sources
from neuroevo.config import Config
from neuroevo.cost import Budget, Cost
from neuroevo.development import Developed, Development
from neuroevo.errors import InputError, RunError
from neuroevo.experiment import Ready, Reporter, Signals
from neuroevo.fitness import Plan, Scores
from neuroevo.genome import Layout, Population
from neuroevo.lockstep import Group, Verdict
from neuroevo.loop import Champion, Rules, Step
from neuroevo.metrics import LOWER_IS_BETTER
from neuroevo.rng import Context

EXHAUSTED = 20  # iterations without a new trial, after which none is expected any more
KEPT_SOURCES = 3  # kinds of features that are kept in memory
RUNG, RUNG_FILE = "rung", "rung.json"  # where an iteration is, between its rungs
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


class Tuner:
    """The parts of a search: an algorithm that remembers trials, and a development that runs them."""

    def __init__(
        self, ready: Ready, folder: Path, images: Callable[[int, int], None], log: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        c = ready.config
        assert c.tune is not None
        self.ready, self.config, self.tune, self.folder = ready, c, c.tune, folder
        self.images, self.log, self.check = images, log, check
        self.space = c.tune.space()
        self.layout: Layout = self.space.layout
        self.metric = c.validation_metric.name
        self.metrics = list(dict.fromkeys((self.metric, "accuracy", "cross_entropy")))
        self.sampler: Algorithm[Any] = c.tune.sampler.bound()(self.space)
        self.sources: OrderedDict[str, Sources] = OrderedDict()
        self.latest = self.nothing()  # the trials that a candidate was last taken from

    # What the loop is given

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
            return Remembering(self.sampler.init(start, sigma, context), self.nothing())

        def ask(state: Remembering, context: Context) -> Population:
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
        rules = self.rules()
        whole = [i for i, g in enumerate(trials.counts["generations"].tolist()) if g == self.tune.trial.generations]
        found = {i: {name: float(value[i]) for name, value in trials.metrics.items()} for i in whole}
        valid = [i for i in whole if math.isfinite(found[i][self.metric])]
        return max(valid, key=lambda i: loop.merit(found[i], rules), default=None)

    def validate(self, genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        """Return what candidates had in validation: they are trials, and it costs nothing to ask them again."""
        known = self.known(self.latest)
        rows = [known[self.space.identity(position)] for position in genomes.tolist()]
        return [dict(zip(self.metrics, row[len(COUNTS) :], strict=True)) for row in rows], Cost()

    def rules(self) -> Rules:
        """Return what decides how long the search goes on and which trial wins it."""
        nothing = torch.zeros(1, dtype=torch.int64)
        return Rules(
            seed=self.config.seed, samples=1, pool=nothing, every=1, patience=self.tune.rest.patience,
            budget=Budget(**self.tune.budget.model_dump()), metric=self.metric,
            lower_is_better=self.metric in LOWER_IS_BETTER,
        )  # fmt: skip

    def initial(self) -> Step:
        """Return the search before its first iteration."""
        home = torch.device("cpu")
        start = torch.full((1, self.layout.genes), 0.5)
        state = self.algorithm().init(start, 0.0, Context(self.config.seed, 0, 0.0, home))
        worst = {name: math.inf if name in LOWER_IS_BETTER else -math.inf for name in self.metrics}
        nobody = Population(start, {}, torch.full((1, 2), -1))
        nothing = Scores(torch.full((1, 1), -torch.inf, dtype=torch.float64), torch.zeros(1, dtype=torch.bool))
        return Step(0, state, nobody, nothing, {}, Cost(), 0.0, Champion(start[0], "none", 0, worst), 0, None)

    def development(self) -> Development:
        """Return how positions are scored: by trials of those that are new."""

        def develop(population: Population, index: Tensor, context: Context) -> Developed:
            rows, positions = population.traits[TRIAL].clone(), population.genomes.tolist()
            new: dict[str, list[int]] = {}
            for i, position in enumerate(positions):
                if rows[i, 1:].isnan().all():
                    new.setdefault(self.space.identity(position), []).append(i)
            verdicts, cost = self.tried([self.space.settings(positions[same[0]]) for same in new.values()], context)
            for same, verdict in zip(new.values(), verdicts, strict=True):
                spent = verdict.cost
                counts = [context.generation, verdict.generations, spent.forward, spent.backward]
                metrics = [verdict.metrics.get(name, math.nan) for name in self.metrics]
                rows[same] = torch.tensor([*counts, *metrics], dtype=torch.float64)
            value = rows[:, len(COUNTS)]
            value = -value if self.metric in LOWER_IS_BETTER else value
            invalid = ~value.isfinite()
            scored = population._replace(traits=population.traits | {TRIAL: rows})
            return Developed(scored, scored, Scores(value.masked_fill(invalid, -torch.inf)[:, None], invalid), cost)

        return Development(develop, self.planned, lambda n: 0)

    def planned(self, population: Population, context: Context) -> Cost:
        """Return what the trials of a population will take, at most."""
        rows, positions = population.traits[TRIAL], population.genomes.tolist()
        new = {self.space.identity(p): p for i, p in enumerate(positions) if rows[i, 1:].isnan().all()}
        train = len(self.ready.given[1]["train"])
        costs = [self.each(self.trial(self.space.settings(position)), train) for position in new.values()]
        costs.sort(key=lambda cost: cost.samples, reverse=True)
        whole, before, going = Cost(), 0, len(costs)
        for until in self.rungs():
            for cost in costs[:going]:
                whole += Cost(cost.forward * (until - before), cost.backward * (until - before))
            before, going = until, self.survivors(going)
        return whole

    @staticmethod
    def each(c: Config, train: int) -> Cost:
        """Return what a generation of a trial takes, at most."""
        algorithm = c.algorithm.bound()(Layout(("genes",), ((1,),)))
        return composition.takes(c, composition.population_size(c, algorithm), train)

    # Trials

    def rungs(self) -> list[int]:
        """Return the generations at which trials are compared, the last one's end among them."""
        return [*self.tune.trial.rungs, self.tune.trial.generations]

    def survivors(self, count: int) -> int:
        """Return how many of so many trials go on at a rung."""
        return math.ceil(self.tune.trial.keep * count)

    def trial(self, settings: dict[str, Any]) -> Config:
        """Return the config of a trial."""
        c = self.config.trial(settings)
        plan = "loop" if c.memory.plan == "auto" else c.memory.plan  # measured anew it could come out otherwise
        generations = self.tune.trial.generations
        return replace(
            c,
            budget=config.Budget(generations=generations),
            memory=c.memory.model_copy(update={"plan": plan}),
        )

    def grouped(self, trials: Sequence[tuple[dict[str, Any], Config]]) -> list[list[int]]:
        """Return which trials are one population: those that differ in what lockstep allows."""
        groups: dict[str, list[int]] = {}
        for i, (settings, c) in enumerate(trials):
            own = {*lockstep.TRAITS, *lockstep.PROPOSALS} & {key for key, v in settings.items() if isinstance(v, float)}
            alone = (c.refine is not None and c.refine.share < 1) or c.fitness.precision != "float32"
            rest = c.record()
            for key in own:
                *path, last = key.split(".")
                inner = rest
                for name in path:
                    inner = inner[name]
                inner[last] = None
            identity = json.dumps([rest, sorted(own), i if alone else None], sort_keys=True)
            groups.setdefault(identity, []).append(i)
        return list(groups.values())

    def source(self, c: Config) -> Sources:
        """Return the features that a trial learns from; trials share them."""
        record = c.record()
        key = json.dumps([record["data"], record["backbone"], record["features"], c.genome.levels], sort_keys=True)
        if key not in self.sources:
            same = all(record[name] == self.config.record()[name] for name in ("data", "backbone"))
            given = self.ready.given if same else composition.dataset(c)
            backbone = self.ready.backbone if same else composition.build_backbone(c, given[0])
            self.sources[key] = composition.sources(c, self.ready.device, given, backbone, self.images, self.log)
        self.sources.move_to_end(key)
        while len(self.sources) > KEPT_SOURCES:
            self.sources.popitem(last=False)
        return self.sources[key]

    def tried(self, settings: list[dict[str, Any]], context: Context) -> tuple[list[Verdict], Cost]:
        """Run trials to their end, or to the rung where they are stopped; return how each did, and the cost of all."""
        trials = [(own, self.trial(own)) for own in settings]
        groups, numbers, cost = [], [], Cost()
        for rows in self.grouped(trials):
            first = trials[rows[0]][1]
            fresh = len(self.sources)
            source = self.source(first)
            cost += Cost(backbone=source.computed if len(self.sources) > fresh else 0)
            brought = {
                name: [float(trials[i][0][key]) for i in rows]
                for key, name in lockstep.TRAITS.items()
                if isinstance(trials[rows[0]][0].get(key), float)
            }
            groups.append(Group(composition.assemble(first, source), [trials[i][1] for i in rows], brought))
            numbers.append(rows)
        verdicts = [Verdict({}, 0, Cost())] * len(trials)
        rungs, passed = self.rungs(), 0
        saved = self.at_rung(context.generation)
        if saved is not None:
            passed, numbers = saved["rung"] + 1, saved["numbers"]
            verdicts = [Verdict(v["metrics"], v["generations"], Cost.from_record(v["cost"])) for v in saved["verdicts"]]
            cost = Cost.from_record(saved["cost"])
            before = self.grouped(trials)
            groups = [
                self.restored(group, rows, before[i], self.rung_file(context.generation, saved["rung"], i), verdicts)
                for i, (group, rows) in enumerate(zip(groups, numbers, strict=True))
            ]
        for rung in range(passed, len(rungs)):
            for group, rows in zip(groups, numbers, strict=True):
                if rows:
                    cost += group.advance(rungs[rung], rungs[-1])
                    assert group.verdicts is not None
                    for i, verdict in zip(rows, group.verdicts, strict=True):
                        verdicts[i] = verdict
            if rung + 1 < len(rungs):
                groups, numbers = self.thinned(groups, numbers, verdicts)
                self.save(context.generation, rung, groups, numbers, verdicts, cost)
                self.check()
        return verdicts, cost

    def thinned(
        self, groups: list[Group], numbers: list[list[int]], verdicts: list[Verdict]
    ) -> tuple[list[Group], list[list[int]]]:
        """Return the trials that go on after a rung: the best of all."""
        rules = self.rules()
        going = [i for rows in numbers for i in rows]
        worst = (-math.inf, -math.inf)
        order = sorted(going, key=lambda i: loop.merit(verdicts[i].metrics, rules) if verdicts[i].metrics else worst)
        kept = set(order[len(order) - self.survivors(len(order)) :])
        places = [[k for k, i in enumerate(rows) if i in kept] for rows in numbers]
        return (
            [group.only(own) if own else group for group, own in zip(groups, places, strict=True)],
            [[i for i in rows if i in kept] for rows in numbers],
        )

    # Between rungs

    def save(
        self,
        iteration: int,
        rung: int,
        groups: list[Group],
        numbers: list[list[int]],
        verdicts: list[Verdict],
        cost: Cost,
    ) -> None:
        """Write where an iteration is, so that a resume goes on from this rung."""
        folder = self.folder / RUNG
        folder.mkdir(exist_ok=True)
        for i, (group, rows) in enumerate(zip(groups, numbers, strict=True)):
            if rows and group.step is not None:
                e = group.experiment
                attributes = self.attributes(e.layout, e.plan)
                checkpoint.write(self.rung_file(iteration, rung, i), attributes, {}, group.step, [])
        state = {
            "iteration": iteration, "rung": rung, "numbers": numbers, "cost": cost.record(),
            "verdicts": [
                {"metrics": v.metrics, "generations": v.generations, "cost": v.cost.record()} for v in verdicts
            ],
        }  # fmt: skip
        rundir.replace(folder / RUNG_FILE, json.dumps(state).encode())
        for file in folder.glob("*.h5"):
            if not file.name.startswith(f"{iteration}-{rung}-"):
                file.unlink()

    def rung_file(self, iteration: int, rung: int, group: int) -> Path:
        """Return where a group of trials is kept at a rung."""
        return self.folder / RUNG / f"{iteration}-{rung}-{group}.h5"

    def at_rung(self, iteration: int) -> dict[str, Any] | None:
        """Return where this iteration is, None at its beginning."""
        file = self.folder / RUNG / RUNG_FILE
        state: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
        return state if state is not None and state["iteration"] == iteration else None

    def restored(self, group: Group, rows: list[int], before: list[int], file: Path, verdicts: list[Verdict]) -> Group:
        """Return what is left of a group at the rung that was saved."""
        if not rows:
            return group
        group.begin()
        left = group.only([before.index(i) for i in rows])
        saved = checkpoint.read(file)
        assert left.step is not None
        left.step = replace(saved.step, state=checkpoint.state(saved.path, left.step.state, group.experiment.home))
        left.verdicts = [verdicts[i] for i in rows]
        return left

    # Files

    def attributes(self, layout: Layout, plan: Plan) -> dict[str, Any]:
        """Return the attributes of a checkpoint."""
        return {
            "config": self.config.to_yaml(),
            "seed": self.config.seed,
            "device": str(self.ready.device),
            "layout": layout.to_json(),
            "classes": json.dumps(self.ready.given[0].classes),
            "plan": json.dumps(plan._asdict()),
            "plan_changes": "[]",
            "versions": json.dumps(experiment.versions()),
            "features": "",
        }

    def write(self, step: Step) -> None:
        """Write the table of trials, and the config with the best of them."""
        rundir.replace(self.folder / rundir.TRIALS, self.table(step.state.trials).encode())
        best = self.best(step.state.trials)
        if best is not None:
            settings = self.space.settings(step.state.trials.positions[best].tolist())
            rundir.replace(self.folder / rundir.BEST, self.config.trial(settings).to_yaml().encode())

    def table(self, trials: Trials) -> str:
        """Return the trials as CSV: what each set, how long it was trained, its validation, what it took."""
        file = io.StringIO()
        table = csv.writer(file, lineterminator="\n")
        keys = list(dict.fromkeys(self.keys()))
        table.writerow(["trial", *COUNTS[:2], *keys, *self.metrics, *COUNTS[2:]])
        for i, position in enumerate(trials.positions.tolist()):
            settings = self.space.settings(position)
            counts = {name: int(column[i]) for name, column in trials.counts.items()}
            cells = [
                settings[key]
                if isinstance(settings.get(key), int | float)
                else json.dumps(settings[key])
                if key in settings
                else ""
                for key in keys
            ]
            metrics = [float(trials.metrics[name][i]) for name in self.metrics]
            table.writerow([i, *(counts[n] for n in COUNTS[:2]), *cells, *metrics, *(counts[n] for n in COUNTS[2:])])
        return file.getvalue()

    def keys(self) -> list[str]:
        """Return the config keys of the space, in the order of its coordinates."""
        assert self.config.tune is not None
        names = [coordinate.name for coordinate in self.space.coordinates]
        return [name for name in names if name in self.config.tune.variables]


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
    with Signals() as signals:
        ready = experiment.prepared(c)
        with experiment.started(ready, out, stem, reporter) as (folder, log):
            tuner = Tuner(ready, folder, experiment.watched(reporter, signals), log, signals.check)
            search(tuner, tuner.initial(), [], signals, reporter)
    return final(folder, reporter)


def resume(run_dir: str, sets: list[str], reporter: Reporter) -> Path:
    """Go on with a run, a search of hyperparameters or the final run after one."""
    folder = rundir.existing(run_dir)
    c, before = experiment.reopened(folder)
    if c.tune is None:
        return experiment.resume(run_dir, sets, reporter)
    for text in sets:
        if not text.startswith(("tune.budget.", "tune.patience=", "tune.final=", "checkpoint.")):
            raise InputError(f"--set {text}: a search goes on as it began; only tune.budget, tune.patience, tune.final "
                             "and checkpoint can change")  # fmt: skip
    with Signals() as signals, rundir.locked(folder), experiment.logged(folder, reporter) as log:
        c, before = experiment.reopened(folder, sets)
        moved = folder / rundir.TUNE
        where = folder if (folder / rundir.CHECKPOINTS).exists() or not moved.exists() else moved
        saved = checkpoint.newest(where / rundir.CHECKPOINTS, log)
        finished = saved is not None and saved.step.stop is not None
        assert c.tune is not None and before.tune is not None
        if saved is not None and finished and (where is moved or c.tune.budget == before.tune.budget):
            log(f"{folder}: the search is finished ({saved.step.stop})")
        else:
            if c.record() != before.record():
                rundir.replace(folder / rundir.CONFIG, c.to_yaml().encode())
            tuner = Tuner(experiment.prepared(c), folder, experiment.watched(reporter, signals), log, signals.check)
            step, history = tuner.initial(), []
            if saved is not None:
                context = Context(c.seed, 0, 0.0, torch.device("cpu"))
                template = tuner.algorithm().init(torch.full((1, tuner.layout.genes), 0.5), 0.0, context)
                step = replace(saved.step, state=checkpoint.state(saved.path, template, torch.device("cpu")), stop=None)
                history = saved.history
                log(f"{folder}: going on after iteration {step.generation}")
            search(tuner, step, history, signals, reporter)
    return final(folder, reporter)


def search(tuner: Tuner, step: Step, history: checkpoint.History, signals: Signals, reporter: Reporter) -> None:
    """Search until a limit or a signal, keeping history, checkpoints and the table of trials; write the result."""
    c, folder, rules = tuner.config, tuner.folder, tuner.rules()
    (folder / rundir.CHECKPOINTS).mkdir(exist_ok=True)
    assert c.memory.limit is not None
    plan = Plan("trials", len(tuner.ready.given[0].classes), 0, 0, c.memory.limit, torch.get_num_threads())
    writer = checkpoint.Writer(folder / rundir.CHECKPOINTS, tuner.attributes(tuner.layout, plan), {}, c.checkpoint.keep)
    algorithm = tuner.algorithm()
    if step.generation == 0:
        first = tuner.planned(
            algorithm.ask(step.state, Context(c.seed, 1, 0.0, torch.device("cpu"))),
            Context(c.seed, 1, 0.0, torch.device("cpu")),
        )
        limit = rules.budget.spent(0, Cost(), 0.0, first)
        if limit is not None:
            raise InputError(f"tune.budget.{limit}: one iteration takes more: {first.samples:,} samples "
                             f"({first.forward:,} forward, {first.backward:,} backward)")  # fmt: skip
    run = until_exhausted(loop.evolve(
        algorithm, tuner.development(), tuner.validate, rules, step, torch.device("cpu"), time.monotonic
    ))  # fmt: skip
    step = experiment.recorded(run, step, history, folder, writer, 1, rules, signals, reporter, tuner.write)
    finished = step.stop is not None
    trials = step.state.trials
    best = tuner.best(trials)
    rundir.write_result(folder, {
        "status": "finished" if finished else "interrupted",
        "stop_reason": step.stop or signal.Signals((signals.status or 128) - 128).name,
        "iterations": step.generation,
        "trials": len(trials.positions),
        "seed": c.seed,
        "device": str(tuner.ready.device),
        "best": None if best is None else {
            "trial": best,
            "settings": tuner.space.settings(trials.positions[best].tolist()),
            "validation": {name: float(value[best]) for name, value in trials.metrics.items()},
        },
        "cost": {**step.cost.record(), "seconds": step.seconds},
        "versions": experiment.versions(),
    })  # fmt: skip
    if not finished:
        tuner.log(f"{folder}: interrupted after iteration {step.generation}; go on with: neuroevo resume {folder}")
        signals.check()
    if best is None:
        raise RunError(
            f"{folder}: no trial came to its end with a finite validation; see {rundir.TRIALS} and the ranges"
        )
    shutil.rmtree(folder / RUNG, ignore_errors=True)


def final(folder: Path, reporter: Reporter) -> Path:
    """Move a finished search into a folder of its own, and begin the final run in its place, if there is to be one."""
    c, _ = experiment.reopened(folder)
    assert c.tune is not None
    if not c.tune.rest.final:
        return folder
    with rundir.locked(folder):
        moved = folder / rundir.TUNE
        moved.mkdir(exist_ok=True)
        for name in (rundir.RESULT, rundir.HISTORY, rundir.CHECKPOINTS):
            if (folder / name).exists() and not (moved / name).exists():
                (folder / name).rename(moved / name)
        rundir.replace(moved / rundir.CONFIG, (folder / rundir.CONFIG).read_bytes())
        rundir.replace(folder / rundir.CONFIG, (folder / rundir.BEST).read_bytes())
    return experiment.resume(str(folder), [], reporter)
