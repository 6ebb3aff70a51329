"""Several runs of one shape as a single population: they propose apart, and learn and are scored together.

Runs of a group differ in what an individual can have of its own (learning rate, momentum, ...) or in what only their
proposals depend on (sigma). They see the same batches and the same random numbers, so each goes as it would alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import loop, quantised
from neuroevo.algorithms import Algorithm
from neuroevo.composition import Experiment
from neuroevo.config import Config
from neuroevo.cost import Budget, Cost
from neuroevo.fitness import Scores
from neuroevo.genome import Population
from neuroevo.loop import Champion, Step
from neuroevo.rng import Context

TRAITS = {  # config keys that are traits of individuals when they learn
    "refine.lr": "lr",
    "refine.momentum": "momentum",
    "refine.weight_decay": "weight_decay",
    "refine.label_smoothing": "label_smoothing",
    "refine.dropout": "dropout",
}
PROPOSALS = ("algorithm.mutation.sigma", "genome.init_sigma")  # config keys that only proposals depend on


class Joined(NamedTuple):
    """The states of all runs, by their place."""

    runs: dict[str, Any]


def joined(
    algorithms: Sequence[Algorithm[Any]], spreads: Sequence[Any], traits: Mapping[str, Tensor]
) -> Algorithm[Any]:
    """Return r algorithms as one, whose populations are theirs one behind the other, as large each.

    `spreads` are the deviations of their starting noise; `traits` {name: [r]} what each run's individuals bring along.
    """
    r = len(algorithms)

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Joined:
        pairs = zip(algorithms, spreads, strict=True)
        return Joined({place(i): a.init(start, spread, context) for i, (a, spread) in enumerate(pairs)})

    def ask(state: Joined, context: Context) -> Population:
        asked = [a.ask(own, context) for a, own in zip(algorithms, state.runs.values(), strict=True)]
        genomes = torch.cat([population.genomes for population in asked])
        n = len(genomes) // r
        own = {name: torch.cat([population.traits[name] for population in asked]) for name in asked[0].traits}
        own |= {name: value.to(genomes).repeat_interleave(n) for name, value in traits.items()}
        own["stream"] = torch.arange(n, device=genomes.device).repeat(r)
        return Population(genomes, own, torch.cat([population.parents for population in asked]))

    def tell(state: Joined, scored: Population, scores: Scores) -> Joined:
        n = len(scored.genomes) // r
        told = {}
        for i, (a, (key, own)) in enumerate(zip(algorithms, state.runs.items(), strict=True)):
            rows = slice(i * n, (i + 1) * n)
            part = Population(
                scored.genomes[rows], {k: t[rows] for k, t in scored.traits.items()}, scored.parents[rows]
            )
            told[key] = a.tell(own, part, scores._replace(values=scores.values[rows], invalid=scores.invalid[rows]))
        return Joined(told)

    return Algorithm(init, ask, tell, lambda state: {})  # `Group.judge` asks each run for its candidates


def place(i: int) -> str:
    """Return the name of a run's state, which sorts by its place."""
    return f"{i:06d}"


class Verdict(NamedTuple):
    """What a run has come to: its champion's validation, and what it took."""

    metrics: dict[str, float]  # of the best candidate so far, as reported; empty where there was none
    generations: int
    cost: Cost  # of learning and fitness


@dataclass
class Group:
    """Runs in lockstep, and how far they are."""

    experiment: Experiment  # of the first of them
    configs: list[Config]
    brought: dict[str, list[float]]  # {trait: a value for each run}
    step: Step
    verdicts: list[Verdict]

    @classmethod
    def begun(cls, experiment: Experiment, configs: list[Config], brought: dict[str, list[float]]) -> "Group":
        """Return runs at their start."""
        e, start = experiment, experiment.start()
        nobody = Population(start, {}, torch.full((len(start), 2), -1))
        nothing = Scores(
            start.new_full((len(start), 1), -torch.inf, dtype=torch.float64), torch.zeros(len(start)).bool()
        )
        champion = Champion(start[0], "start", 0, {e.config.validation_metric.name: float("nan")})
        step = Step(0, None, nobody, nothing, {}, Cost(), 0.0, champion, 0, None)
        group = cls(experiment, configs, brought, step, [Verdict({}, 0, Cost()) for _ in configs])
        state = group.algorithm(group.algorithms()).init(start, 0.0, Context(e.config.seed, 0, 0.0, e.home))
        group.step = replace(step, state=state)
        return group

    def algorithms(self) -> list[Algorithm[Any]]:
        """Return each run's algorithm."""
        layout = self.experiment.layout
        own = [c.algorithm.bound()(layout) for c in self.configs]
        return [quantised.whole(a, layout) if layout.tops else a for a in own]

    def algorithm(self, algorithms: Sequence[Algorithm[Any]]) -> Algorithm[Any]:
        """Return all runs' algorithms as one."""
        start = self.experiment.start()
        spreads = [replace(self.experiment, config=c).spread(start) for c in self.configs]
        return joined(algorithms, spreads, {name: torch.tensor(values) for name, values in self.brought.items()})

    def advance(self, until: int, generations: int) -> Cost:
        """Take all runs on to the generation `until` of `generations`; return what it took, validation included."""
        e = self.experiment
        before = self.step.cost
        algorithms = self.algorithms()
        rules = replace(e.rules(), every=generations + 1, patience=None, budget=Budget(generations=generations))
        spent = Cost()
        run = loop.evolve(
            self.algorithm(algorithms), e.development(self.brought), e.validate, rules, self.step, e.home, lambda: 0.0,
            e.sensitivity(),
        )  # fmt: skip
        for self.step in run:
            if self.step.generation % e.config.validate.every == 0 or self.step.generation == until:
                spent += self.judge(algorithms)
            if self.step.generation == until:
                break
        used = self.step.cost - before
        each = Cost(used.forward // len(self.configs), used.backward // len(self.configs))
        self.verdicts = [Verdict(v.metrics, until, v.cost + each) for v in self.verdicts]
        return spent + used

    def judge(self, algorithms: Sequence[Algorithm[Any]]) -> Cost:
        """Validate each run's candidates, and keep what the best so far has; return what it took."""
        rules = self.experiment.rules()
        pairs = zip(algorithms, self.step.state.runs.values(), strict=True)
        named = [(i, genome) for i, (a, own) in enumerate(pairs) for genome in a.candidates(own).values()]
        if not named:
            return Cost()
        found, cost = self.experiment.validate(torch.stack([genome for _, genome in named]))
        best = [v.metrics for v in self.verdicts]
        for (i, _), metrics in zip(named, found, strict=True):
            if not best[i] or loop.merit(metrics, rules) > loop.merit(best[i], rules):
                best[i] = metrics
        self.verdicts = [v._replace(metrics=metrics) for v, metrics in zip(self.verdicts, best, strict=True)]
        return cost

    def only(self, places: Sequence[int]) -> "Group":
        """Return the group of some of its runs, as far as they are."""
        runs = list(self.step.state.runs.values())
        return Group(
            self.experiment,
            [self.configs[i] for i in places],
            {name: [values[i] for i in places] for name, values in self.brought.items()},
            replace(self.step, state=Joined({place(k): runs[i] for k, i in enumerate(places)})),
            [self.verdicts[i] for i in places],
        )
