"""The time of the parts of a run on this machine, measured on the run's own sizes in a few seconds.

What takes long is done in part, with fewer individuals, samples and gradient steps, and scaled: slices of individuals
and samples follow one another, and so do steps. Nothing that is measured goes into a run.
"""

import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from neuroevo import devices
from neuroevo.engine import loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.evaluator import Evaluated, Evaluator
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Step
from neuroevo.engine.problem import Sensitivities
from neuroevo.engine.rng import Context
from neuroevo.experiments.compose import Run

MOST = 64  # generations that are measured
SHARE = 5  # of the time there is, what one part of a generation may take
FEW = 32  # samples to begin with
ENDLESS = 2**30

T = TypeVar("T")


class Pace(NamedTuple):
    """Seconds that the parts of a run take."""

    generation: float  # without validation
    validation: float
    test: float


class Part(NamedTuple):
    """The part of a generation that is done."""

    individuals: int
    samples: int
    steps: int


def time_call(device: torch.device, work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that work takes, and what it returns."""
    devices.synchronise(device)
    began = time.perf_counter()
    found = work()
    devices.synchronise(device)
    return time.perf_counter() - began, found


def some(n: int, k: int, device: torch.device) -> Tensor:
    """Return k of n rows, evenly spaced."""
    return torch.arange(k, device=device) * n // k


def rows(population: Population, index: Tensor) -> Population:
    """Return some rows of a population."""
    return population.rows(index)


@dataclass
class Partly:
    """Evaluates a part of each population, gives the others what came of it, and knows what the whole would take."""

    run: Run
    brought: Collection[str]  # as for `Run.problem`
    seconds: float  # that a part may take
    part: Part | None = None
    took: float = 0.0  # seconds since `reset`
    whole: float = 0.0  # that the whole would have taken

    def __post_init__(self) -> None:
        of, refine = self.run.supervised, self.run.supervised.refinement
        self.real, self.scoring = self.run.problem(self.brought).evaluator, of.scoring()
        self.beside, self.passes = of.calibrates, 2 if refine is not None and refine.back_off else 1

    def reset(self) -> None:
        """Forget what was taken so far."""
        self.took = self.whole = 0.0

    def evaluator(self) -> Evaluator:
        """Return the evaluator, for the loop."""
        return Evaluator(self.evaluate, lambda population, samples, steps: Cost())

    def evaluate(self, population: Population, index: Tensor, context: Context) -> Evaluated:
        """Evaluate a population, a part of it for all."""
        began = time.perf_counter()
        if self.part is None:
            self.part = self.fit(population, index, context)
        _, seconds, evaluated = self.of(self.part, population, index, context)
        self.took += time.perf_counter() - began
        self.whole += seconds
        return evaluated

    def fit(self, population: Population, index: Tensor, context: Context) -> Part:
        """Return as large a part as the time allows."""
        whole = Part(len(population.genomes), len(index), self.real.steps)
        part = Part(1, min(FEW, whole.samples), min(1, whole.steps))
        self.of(part, population, index, context)  # which sets things up
        while part != whole:
            # Of two, lest something else on the machine decides.
            took = min(self.of(part, population, index, context)[0] for _ in range(2))
            if took > self.seconds / 2:
                break
            twice = Part(*(min(2 * now, most) for now, most in zip(part, whole, strict=True)))
            if took > self.seconds / 8:  # one after another
                key = next(key for key, now, more in zip(Part._fields, part, twice, strict=True) if now != more)
                twice = part._replace(**{key: getattr(twice, key)})
            part = twice
        return part

    def of(self, part: Part, population: Population, index: Tensor, context: Context) -> tuple[float, float, Evaluated]:
        """Return the seconds that evaluating a part of a population takes and those of all, and what comes of it."""
        n, steps, size, home = len(population.genomes), self.real.steps, len(index), population.genomes.device
        k, b, s = min(part.individuals, n), min(part.samples, size), min(part.steps, steps)
        few = population if k == n else rows(population, some(n, k, home))
        now = context if s == steps else context._replace(steps=s)
        batch = index if b == size else index[some(size, b, index.device)]
        device = self.run.device
        seconds, evaluated = time_call(device, lambda: self.real.evaluate(few, batch, now))
        took = seconds
        share = (size + self.beside) / (b + self.beside)
        if steps and (s < steps or b < size):
            scored = self.passes * time_call(device, lambda: self.scoring.score(evaluated.scored, batch))[0]
            seconds = max(0.0, seconds - scored) * steps / s + scored * share
        else:
            seconds *= share
        if k < n:
            back = torch.arange(n, device=home) * k // n
            scores = evaluated.scores.rows(back)
            both = rows(evaluated.inherited, back), rows(evaluated.scored, back)
            evaluated = Evaluated(*both, scores, evaluated.cost)
        return took, seconds * n / k, evaluated


@dataclass
class PartlySensitive:
    """Measures the sensitivity of a part of all genomes, and knows what all would take."""

    real: Sensitivities
    device: torch.device
    seconds: float
    took: float = field(default=0.0)
    whole: float = field(default=0.0)

    def reset(self) -> None:
        """Forget what was taken so far."""
        self.took = self.whole = 0.0

    def of(self, genomes: Tensor) -> Tensor:
        """Return the sensitivity of genomes [n, g], that of some for all."""
        n, k, began = len(genomes), 1, time.perf_counter()
        while True:
            part = genomes[some(n, k, genomes.device)]
            seconds, found = time_call(self.device, lambda part=part: self.real.of(part))  # type: ignore[misc]
            if k == n or seconds > self.seconds / 8:
                break
            k = min(2 * k, n)
        self.took += time.perf_counter() - began
        self.whole += seconds * n / k
        return found[torch.arange(n, device=genomes.device) * k // n]

    def cost(self, n: int) -> Cost:
        """Return no cost: nothing here is counted."""
        return Cost()


def of_generation(
    run: Run, algorithm: Algorithm[Any], step: Step, brought: Collection[str], seconds: float
) -> tuple[float, Step]:
    """Return the mean seconds of some generations, measured for so long, and the last of them.

    The first is left aside: its population isn't bred.
    """
    problem, partly, sensitive = run.problem(brought), Partly(run, brought, seconds / SHARE), None
    if problem.sensitivity is not None:
        sensitive = PartlySensitive(problem.sensitivity, run.device, seconds / SHARE)
    problem = problem._replace(evaluator=partly.evaluator(), sensitivity=sensitive)
    rules = replace(run.rules(), every=ENDLESS, patience=None, budget=Budget(generations=ENDLESS))
    began = last = time.perf_counter()
    found: list[float] = []
    for reached in loop.evolve(problem, algorithm, rules, step, device=run.home):
        step = reached
        devices.synchronise(run.device)
        now = time.perf_counter()
        parts = [part for part in (partly, sensitive) if part is not None]
        found.append(now - last - sum(part.took for part in parts) + sum(part.whole for part in parts))
        for part in parts:
            part.reset()
        last = now
        if now - began > (3 * seconds if len(found) == 1 else seconds) or len(found) > MOST:
            break
    return statistics.fmean(found[1:] or found), step


def of_validation(run: Run, genomes: Tensor, seconds: float) -> float:
    """Return what the validation of genomes [k, g] takes, measured for so long."""
    of = run.supervised
    every, beside = of.splits["validation"], of.calibrates
    few = genomes[some(len(genomes), min(len(genomes), 8), genomes.device)]

    def take(m: int) -> float:
        part = replace(of, splits={**of.splits, "validation": every[some(len(every), m, every.device)]})
        return time_call(run.device, lambda: part.validate(few))[0]

    found, m = measure_rows(take, len(every), seconds)
    return found * (len(every) + beside) / (m + beside) * len(genomes) / len(few)


def of_test(run: Run, genome: Tensor, seconds: float) -> float:
    """Return what scoring a genome [g] on test takes, measured for so long."""
    every = run.supervised.splits["test"]

    def take(m: int) -> float:
        part = every[some(len(every), m, every.device)]
        return time_call(run.device, lambda: run.supervised.test(genome, part))[0]

    few = min(FEW, len(every))
    once = max(0.0, take(few) - take(few))  # a library is loaded
    found, m = measure_rows(take, len(every), seconds)
    return once + found * len(every) / m


def measure_rows(take: Callable[[int], float], size: int, seconds: float) -> tuple[float, int]:
    """Return the seconds of as many of `size` rows as the time allows, and their number."""
    m = min(FEW, size)
    take(m)  # which sets things up
    while True:
        found = take(m)
        if m == size or found > seconds / 8:
            return found, m
        m = min(4 * m, size)


def first_step(run: Run) -> Step:
    """Return a run before its first generation, its start validated on few images."""
    rows = run.supervised.splits["validation"]
    few = rows[some(len(rows), min(FEW, len(rows)), rows.device)]
    of = replace(run.supervised, splits={**run.supervised.splits, "validation": few})
    return replace(run, supervised=of).initial()


def of_run(run: Run, seconds: float) -> Pace:
    """Return the pace of a run, measured for about so many seconds."""
    generation, step = of_generation(run, run.algorithm, first_step(run), (), seconds / 2)
    candidates = list(run.algorithm.candidates(step.state).values()) or [step.champion.genome]
    validation = of_validation(run, torch.stack(candidates), seconds / 4)
    return Pace(generation, validation, of_test(run, step.champion.genome, seconds / 4))
