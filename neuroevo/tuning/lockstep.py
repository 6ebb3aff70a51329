"""Several runs of one shape as a single population: they propose apart, and learn and are scored together.

Runs of a group differ in what an individual can have of its own (learning rate, momentum, ...) or in what only their
proposals depend on (sigma). They see the same batches and the same random numbers, so each goes as it would alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo.config import Config
from neuroevo.engine import joined, loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.joined import place
from neuroevo.engine.loop import Champion, Step
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.experiments.compose import Run
from neuroevo.networks import quantised

PROPOSALS = ("algorithm.mutation.sigma", "genome.init_sigma")  # config keys that only proposals depend on


class Joined(NamedTuple):
    """The states of all runs, by their place."""

    runs: dict[str, Any]


def join(algorithms: Sequence[Algorithm[Any]], spreads: Sequence[Any], traits: Mapping[str, Tensor]) -> Algorithm[Any]:
    """Return r algorithms as one, whose populations are theirs one behind the other, as large each.

    `spreads` are the deviations of their starting noise; `traits` {name: [r]} what each run's individuals bring along.
    """
    r = len(algorithms)

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Joined:
        return Joined(joined.begin(algorithms, start, spreads, [context] * r))

    def ask(state: Joined, context: Context) -> Population:
        whole = joined.stack(joined.ask(algorithms, state.runs, [context] * r))
        n = len(whole.genomes) // r
        own = {name: value.to(whole.genomes).repeat_interleave(n) for name, value in traits.items()}
        own["stream"] = torch.arange(n, device=whole.genomes.device).repeat(r)
        return whole._replace(traits=whole.traits | own)

    def tell(state: Joined, scored: Population, scores: Scores) -> Joined:
        return Joined(joined.tell(algorithms, state.runs, scored, scores))

    # `Group.judge` asks each run for its candidates.
    return Algorithm(init, ask, tell, lambda state: {}, **joined.sizes(algorithms)._asdict())


class Verdict(NamedTuple):
    """The result of a run so far: its champion's validation, and its cost."""

    metrics: dict[str, float]  # of the best candidate so far, as reported; empty where there was none
    generations: int
    cost: Cost  # of learning and fitness


class Reached(NamedTuple):
    """The progress of runs: all of it is of the last generation that they finished, whatever came in between."""

    step: Step
    verdicts: list[Verdict]  # of each run
    cost: Cost  # of all runs since the group was made, validation included


@dataclass
class Group:
    """Runs in lockstep, and how far they are."""

    run: Run  # of the first of them
    configs: list[Config]
    brought: dict[str, list[float]]  # {trait: a value for each run}
    reached: Reached

    @property
    def step(self) -> Step:
        """All runs after the last generation that they finished."""
        return self.reached.step

    @property
    def verdicts(self) -> list[Verdict]:
        """The result of each run so far."""
        return self.reached.verdicts

    @classmethod
    def begin(cls, run: Run, configs: list[Config], brought: dict[str, list[float]]) -> "Group":
        """Return runs at their start."""
        problem = run.problem(brought)
        champion = Champion(problem.start[0], "start", 0, {run.supervised.metric: float("nan")})
        together = combine(run, configs, brought, algorithms(run, configs))
        step = loop.begin(problem, together, run.config.seed, run.home, champion=champion)
        return cls(run, configs, brought, Reached(step, [Verdict({}, 0, Cost()) for _ in configs], Cost()))

    def algorithms(self) -> list[Algorithm[Any]]:
        """Return each run's algorithm."""
        return algorithms(self.run, self.configs)

    def algorithm(self, algorithms: Sequence[Algorithm[Any]]) -> Algorithm[Any]:
        """Return all runs' algorithms as one."""
        return combine(self.run, self.configs, self.brought, algorithms)

    def advance(self, until: int, generations: int, told: Callable[[], None] = lambda: None) -> Cost:
        """Take all runs on to the generation `until` of `generations`; return what it took, validation included.

        `told` is called after each generation.

        Whatever ends it early leaves the runs after the last generation that they finished, to be taken on from there.
        """
        whole, before = self.run, self.reached.cost
        if self.step.generation >= until:
            return Cost()
        algorithms, problem = self.algorithms(), whole.problem(self.brought)
        rules = replace(whole.rules(), every=generations + 1, patience=None, budget=Budget(generations=generations))
        together = self.algorithm(algorithms)
        run = loop.evolve(problem, together, rules, self.step, device=whole.home, clock=lambda: 0.0)
        for step in run:
            used, spent, best = step.cost - self.step.cost, Cost(), [v.metrics for v in self.verdicts]
            if step.generation % whole.config.validate.every == 0 or step.generation == until:
                best, spent = self.judge(algorithms, step)
            each = Cost(used.forward // len(self.configs), used.backward // len(self.configs))
            verdicts = [
                Verdict(metrics, step.generation, v.cost + each) for v, metrics in zip(self.verdicts, best, strict=True)
            ]
            self.reached = Reached(step, verdicts, self.reached.cost + used + spent)  # at once: a signal may come
            told()
            if step.generation == until:
                break
        return self.reached.cost - before

    def judge(self, algorithms: Sequence[Algorithm[Any]], step: Step) -> tuple[list[dict[str, float]], Cost]:
        """Validate each run's candidates after a step; return what the best so far of each has, and what it took."""
        merit = self.run.supervised.merit
        best = [v.metrics for v in self.verdicts]
        pairs = zip(algorithms, step.state.runs.values(), strict=True)
        named = [(i, genome) for i, (a, own) in enumerate(pairs) for genome in a.candidates(own).values()]
        if not named:
            return best, Cost()
        found, cost = self.run.supervised.validate(torch.stack([genome for _, genome in named]))
        for (i, _), metrics in zip(named, found, strict=True):
            if not best[i] or merit(metrics) > merit(best[i]):
                best[i] = metrics
        return best, cost

    def only(self, places: Sequence[int]) -> "Group":
        """Return the group of some of its runs, as far as they are."""
        runs = list(self.step.state.runs.values())
        return Group(
            self.run,
            [self.configs[i] for i in places],
            {name: [values[i] for i in places] for name, values in self.brought.items()},
            Reached(
                replace(self.step, state=Joined({place(k): runs[i] for k, i in enumerate(places)})),
                [self.verdicts[i] for i in places],
                self.reached.cost,
            ),
        )


def algorithms(run: Run, configs: Sequence[Config]) -> list[Algorithm[Any]]:
    """Return each run's algorithm."""
    layout, own = run.network.layout, [c.algorithm.search() for c in configs]
    return [quantised.whole(a, layout) if layout.tops else a for a in own]


def combine(
    run: Run,
    configs: Sequence[Config],
    brought: Mapping[str, list[float]],
    algorithms: Sequence[Algorithm[Any]],
) -> Algorithm[Any]:
    """Return all runs' algorithms as one."""
    start = run.supervised.start
    spreads = [run.network.spread(start, c.genome.init_sigma) for c in configs]
    return join(algorithms, spreads, {name: torch.tensor(values, device=run.home) for name, values in brought.items()})
