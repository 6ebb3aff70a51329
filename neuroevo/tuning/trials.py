"""Trials of hyperparameters: short runs, those of one shape trained as one population, the poor ones stopped at rungs.

A trial is a run of the config with what it sets, cut to `tune.trial.generations`. With rungs (successive halving,
Jamieson and Talwalkar 2016) only the best share of the trials begun together goes on at each. How far an iteration is
is written down at each rung and at a signal, so that a resume goes on from there.
"""

import json
import math
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from neuroevo import config
from neuroevo.config import Config
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import AUTO, FULL, LOCAL, Execution, Executor, Work
from neuroevo.engine.genome import KEPT, Layout
from neuroevo.engine.problem import Merit
from neuroevo.errors import InputError, Interrupted, RunError
from neuroevo.experiments import build, compose, moves, recorders, reopen, sources
from neuroevo.experiments.compose import Run
from neuroevo.experiments.costs import generation
from neuroevo.experiments.experiment import Ready
from neuroevo.experiments.interruption import Interruption
from neuroevo.experiments.log import versions
from neuroevo.experiments.sources import Sources
from neuroevo.remote.cluster import Spread
from neuroevo.storage import checkpoint, rundir
from neuroevo.storage.checkpoint import Checkpoint, Move
from neuroevo.tuning import legs, lockstep, rungfile
from neuroevo.tuning.lockstep import Group, Reached, Verdict

KEPT_SOURCES = 3  # kinds of features that are kept in memory

Settings = dict[str, Any]  # config key -> value


class Part(NamedTuple):
    """Trials of an iteration that are one population."""

    group: Group
    rows: list[int]  # which trials of the iteration are left in it


class Outcome(NamedTuple):
    """The results of an iteration's trials."""

    verdicts: list[Verdict]  # of each trial
    cost: Cost  # of all, validation included


class Trainer:
    """Runs trials of a config."""

    def __init__(
        self,
        ready: Ready,
        folder: Path,
        merit: Merit,
        moves: list[Move],
        *,
        images: Callable[[int, int], None],
        log: Callable[[str], None],
        signals: Interruption,
        executor: Executor = LOCAL,
        several: Callable[[Mapping[str, float]], None] = lambda shares: None,
    ) -> None:
        assert ready.config.tune is not None
        self.ready, self.config, self.given = ready, ready.config, ready.config.tune.trial
        self.folder, self.merit = folder / rundir.RUNG, merit
        self.images, self.log, self.signals = images, log, signals
        self.executor, self.several = executor, several
        self.sources: OrderedDict[str, Sources] = OrderedDict()
        self.sent: dict[tuple[str, ...], tuple[Sources, ...]] = {}  # the same ones as the same object
        self.data = build.identify(*ready.given)
        self.moves = moves  # of the search: where it went on elsewhere

    def trial(self, settings: Settings) -> Config:
        """Return the config of a trial."""
        c = self.config.trial(settings)
        # Measured anew they could come out otherwise; and in half precision no two trials are one population.
        plan = "loop" if c.memory.plan == "auto" else c.memory.plan
        precision = FULL if c.fitness.precision == AUTO else c.fitness.precision
        return replace(
            c,
            budget=config.Budget(generations=self.given.generations),
            memory=c.memory.model_copy(update={"plan": plan}),
            fitness=c.fitness.model_copy(update={"precision": precision}),
        )

    def rungs(self) -> list[int]:
        """Return the generations at which trials are compared, and their end."""
        return [*self.given.rungs, self.given.generations]

    def survivors(self, count: int) -> int:
        """Return the number of trials, of so many, that go on at a rung."""
        return math.ceil(self.given.keep * count)

    def cost(self, settings: Sequence[Settings]) -> Cost:
        """Return the cost of trials, at most."""
        counts = {name: len(rows) for name, rows in self.ready.given[1].items()}
        costs = [generation(c, counts) for c in map(self.trial, settings)]
        costs.sort(key=lambda cost: cost.samples, reverse=True)
        whole, before, going = Cost(), 0, len(costs)
        for until in self.rungs():
            for cost in costs[:going]:
                whole += Cost(cost.forward * (until - before), cost.backward * (until - before))
            before, going = until, self.survivors(going)
        return whole

    def run(self, settings: list[Settings], iteration: int) -> Outcome:
        """Run trials to their end, or to the rung where they are stopped; return how each did, and the cost of all.

        A signal ends it at once; what is written down then is how far each trial was after its last generation.
        """
        parts, before = self.begin(settings)
        verdicts, rungs, first = [Verdict({}, 0, Cost())] * len(settings), self.rungs(), 0
        saved = self.read_state(iteration, settings)
        if saved is not None:
            first, before = saved["rung"] + 1, Cost.from_record(saved["cost"])
            verdicts = [Verdict(v["metrics"], v["generations"], Cost.from_record(v["cost"])) for v in saved["verdicts"]]
            kept = [self.folder / f"{rungfile.prefix(saved)}{i}.h5" for i in range(len(parts))]
            left = zip(parts, saved["rows"], kept, strict=True)
            parts = [self.restore(part, rows, file, verdicts) for part, rows, file in left]

        def now() -> Outcome:
            found, cost = list(verdicts), before
            for group, rows in parts:
                cost += group.reached.cost
                for i, verdict in zip(rows, group.verdicts if rows else (), strict=True):
                    found[i] = verdict
            return Outcome(found, cost)

        for rung, until in enumerate(rungs[first:], first):
            try:
                groups = [group for group, rows in parts if rows]
                self.advance(groups, until, rungs[-1], partial(self.tell, iteration, len(settings), groups))
            except Interrupted:
                if any(group.reached.cost.samples for group, _ in parts):  # else the last file has it all
                    self.save(iteration, rung - 1, settings, parts, now())
                raise
            verdicts, cost = now()
            if until != rungs[-1]:
                parts = self.thin(parts, verdicts)
                self.save(iteration, rung, settings, parts, Outcome(verdicts, cost))
                self.signals.check()
        self.several({})
        return Outcome(verdicts, cost)

    def tell(self, iteration: int, count: int, groups: list[Group]) -> None:
        """Tell how far the trials of an iteration are, of so many generations until each has ended."""
        rungs = self.rungs()
        before, left, total, done = 0, count, 0, 0
        reached = min(group.step.generation for group in groups)
        for until in rungs:
            total += (until - before) * left
            if until <= reached:
                done += (until - before) * left
            else:
                now = sum((max(before, group.step.generation) - before) * len(group.configs) for group in groups)
                done += now if before <= reached else 0
            before, left = until, self.survivors(left)
        self.several({f"iteration {iteration}, {count:,} trials": min(1.0, done / total)})

    def advance(
        self, groups: list[Group], until: int, generations: int, told: Callable[[], None] = lambda: None
    ) -> None:
        """Take groups on to the generation `until` of `generations`; Interrupted by a signal.

        `told` is called whenever some have come further.

        Workers, where there are any, each take whole groups; where these are few they do slices of one after another.
        """
        spread = self.executor
        while left := [group for group in groups if group.step.generation < until]:
            if isinstance(spread, Spread) and len(left) > max(1, len(spread.workers) // 2):
                self.hand_out(spread, left, (until, generations), told)
                continue
            with self.signals.prompt():
                for group in left:
                    group.advance(until, generations, told)

    def hand_out(self, spread: Spread, groups: list[Group], way: tuple[int, int], told: Callable[[], None]) -> None:
        """Have workers take groups on to a generation, or as far as they come until a signal; Interrupted."""
        kinds = tuple(sorted(self.sources))
        found = self.sent.setdefault(kinds, tuple(self.sources[kind] for kind in kinds))
        own = [legs.leg_of(group, kinds.index(self.kind(group.configs[0]))) for group in groups]

        def take(place: int, made: tuple[Execution, Reached]) -> None:
            groups[place].run.supervised.executions.now, groups[place].reached = made

        try:
            for what, place, made in spread.as_done(Work(legs.go, found, way), own):
                if what == "ended":
                    raise RunError("trials ended one worker after another; go on with: neuroevo resume")
                if made is not None:
                    take(place, made)
                    told()
                self.signals.check()
        except BaseException:
            for place, made in spread.stop().items():
                take(place, made)
            raise

    def begin(self, settings: Sequence[Settings]) -> tuple[list[Part], Cost]:
        """Return trials at their start, those of one shape in one group, and what their features cost."""
        configs, parts, cost = [self.trial(own) for own in settings], [], Cost()
        for rows in self.group(settings, configs):
            source, computed = self.source(configs[rows[0]])
            cost += Cost(backbone=computed)
            brought = {
                name: [float(settings[i][key]) for i in rows]
                for key, name in config.TRAITS.items()
                if isinstance(settings[rows[0]].get(key), float)
            }
            assembled = self.assemble(configs[rows[0]], source)
            parts.append(Part(Group.begin(assembled, [configs[i] for i in rows], brought), rows))
        return parts, cost

    def assemble(self, c: Config, source: Sources) -> Run:
        """Return a trial's parts."""
        return compose.assemble(c, source, executor=self.executor)

    @staticmethod
    def group(settings: Sequence[Settings], configs: Sequence[Config]) -> list[list[int]]:
        """Return the trials of each population: those that differ in what lockstep allows."""
        groups: dict[str, list[int]] = {}
        for i, (given, c) in enumerate(zip(settings, configs, strict=True)):
            own = {*config.TRAITS, *lockstep.PROPOSALS} & {key for key, v in given.items() if isinstance(v, float)}
            alone = (c.refine is not None and c.refine.share < 1) or c.fitness.precision != FULL
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

    def source(self, c: Config) -> tuple[Sources, int]:
        """Return the sources of a trial, which trials share, and the images that the backbone was just given."""
        record, key, computed = c.record(), self.kind(c), 0
        if key not in self.sources:
            whole = self.config.record()
            same = all(record[name] == whole[name] for name in ("data", "backbone"))
            given = self.ready.given if same else build.dataset(c)
            backbone = self.ready.backbone if same else build.build_backbone(c, given[0])
            self.sources[key] = sources.sources(c, self.ready.device, given, backbone, images=self.images, log=self.log)
            computed = self.sources[key].computed
        self.sources.move_to_end(key)
        while len(self.sources) > KEPT_SOURCES and not isinstance(self.executor, Spread):  # whose workers have them
            self.sources.popitem(last=False)
        return self.sources[key], computed

    @staticmethod
    def kind(c: Config) -> str:
        """Return the name of what a trial learns from."""
        record = c.record()
        return json.dumps([record["data"], record["backbone"], record["features"], c.genome.levels], sort_keys=True)

    def thin(self, parts: list[Part], verdicts: list[Verdict]) -> list[Part]:
        """Return the trials that go on after a rung: the best of all."""
        worst = (-math.inf, -math.inf)
        order = sorted(
            (i for part in parts for i in part.rows),
            key=lambda i: self.merit(verdicts[i].metrics) if verdicts[i].metrics else worst,
        )
        kept = {*order[len(order) - self.survivors(len(order)) :]}
        return [self.keep(part, [i for i in part.rows if i in kept]) for part in parts]

    @staticmethod
    def keep(part: Part, rows: list[int]) -> Part:
        """Return a part with some of its trials."""
        return Part(part.group.only([part.rows.index(i) for i in rows]), rows) if rows else Part(part.group, [])

    def save(self, iteration: int, rung: int, settings: list[Settings], parts: list[Part], outcome: Outcome) -> None:
        """Write where an iteration is, behind which rung; what counts is the last file, which names the others."""
        recorders.make_folder(self.folder)
        # Another name wherever the state is another: the files that are named now must stay until the last is replaced.
        name = f"{iteration}-{rung}-{sum(group.step.generation for group, rows in parts if rows)}-"
        for i, (group, rows) in enumerate(parts):
            if rows and group.step.generation:
                notes = self.attributes(group.run.network.layout, group.run.supervised.executions.now)
                checkpoint.write(self.folder / f"{name}{i}.h5", notes, {}, group.step, [])
        state = {
            "iteration": iteration,
            "rung": rung,
            "name": name,
            "settings": settings,
            "rows": [part.rows for part in parts],
            "cost": outcome.cost.record(),
            "verdicts": [v._asdict() | {"cost": v.cost.record()} for v in outcome.verdicts],
            "site": moves.site(self.ready.device),
            "moves": self.moves,
        }
        rungfile.write(self.folder, state)
        for file in self.folder.glob("*.h5"):
            if not file.name.startswith(name):
                file.unlink()

    def read_state(self, iteration: int, settings: list[Settings]) -> dict[str, Any] | None:
        """Return the state of an iteration with these trials; None at its beginning, or where it is damaged."""
        try:
            state = rungfile.read(self.folder)
            if state is None or (state["iteration"], state["settings"]) != (iteration, settings):
                return None
            name, verdicts = rungfile.prefix(state), state["verdicts"]
            for i, rows in enumerate(state["rows"]):
                if rows and verdicts[rows[0]]["generations"]:
                    checkpoint.verify(self.folder / f"{name}{i}.h5")
        except rungfile.WRONG as error:
            wrong = str(error) if isinstance(error, InputError) else f"{self.folder / rungfile.FILE}: damaged"
            self.log(f"{wrong}; the iteration begins anew")
            return None
        return state

    def locate(self, saved: Checkpoint | None) -> None:
        """Note a search that goes on elsewhere than its newest checkpoint, or an iteration begun since, was left."""
        done = 0 if saved is None else saved.step.generation
        now = moves.site(self.ready.device)
        known, then = ((), now) if saved is None else (saved.moves, moves.site_of(saved))
        try:
            state = rungfile.read(self.folder)
            if state is not None and state["iteration"] == done + 1:  # begun after the checkpoint
                known, then = state["moves"], {key: state["site"][key] for key in now}
        except rungfile.WRONG:  # whoever takes the iteration up says so
            pass
        self.moves[:] = moves.extend(known, done, then=then, now=now, log=self.log)

    def restore(self, part: Part, rows: list[int], file: Path, verdicts: list[Verdict]) -> Part:
        """Return a part with the trials that are left, as far as it was when it was saved."""
        group, _ = left = self.keep(part, rows)
        if rows and verdicts[rows[0]].generations:
            saved = checkpoint.read(file)
            reopen.agree(saved, self.data, self.log)
            build.same_weights(self.ready.backbone, saved.frozen, self.config)
            state = checkpoint.state(file, group.step.state, group.run.home)
            group.reached = Reached(replace(saved.step, state=state), [verdicts[i] for i in rows], Cost())
        return left

    def attributes(self, layout: Layout, plan: Execution | None = None) -> dict[str, Any]:
        """Return the attributes of a checkpoint of the search, or of a rung under a plan."""
        c, classes = self.config, self.ready.given[0].classes
        plan = plan or Execution("trials", len(classes), 0, 0, c.memory.limit or 0, torch.get_num_threads())
        return {
            "config": c.of_result().to_yaml(),
            "seed": c.seed,
            "device": str(self.ready.device),
            "layout": layout.to_json(),
            "classes": json.dumps(classes),
            "plan": json.dumps(plan._asdict()),
            "plan_changes": "[]",
            "versions": json.dumps(versions()),
            "features": "",
            "data": json.dumps(self.data.record()),
            "frozen": self.ready.backbone.frozen,
            **({"moves": json.dumps(self.moves)} if self.moves else {}),
        }

    def clear(self) -> None:
        """Take the files of an iteration off the disk."""
        shutil.rmtree(self.folder, ignore_errors=True)


def crowd_warning(c: Config, count: int) -> str | None:
    """Return what to know where each of so many trials an iteration is a whole population; None where it is not."""
    search = c.search()
    n = search.later
    if search.roles == (KEPT,) or n == 1:
        return None
    learning = "" if c.refine is not None else ", and a refine to train it"
    return (
        f"each trial is a {c.algorithm.name} of {n:,} individuals, so an iteration of {count:,} is {count * n:,} "
        "networks; for one network a trial set algorithm.name fixed, algorithm.population 1, genome.init_sigma 0"
        + learning
    )
