"""THE generation loop: ask, score, tell, record; validate now and then, and stop when the budget is spent.

It knows nothing but the problem. Each generation it yields a `Step`, whose parts are enough to go on from: a checkpoint
is a written step, and `evolve` goes on from one as if it had never stopped.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.joined import blocks
from neuroevo.engine.problem import VIOLATION, Problem
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores, ranks
from neuroevo.errors import InputError

NOTHING: Mapping[str, float | None] = MappingProxyType({})
DIVERSITY_GENES = 512  # diversity is taken over this many genes at most, evenly spaced


class Champion(NamedTuple):
    """The candidate that did best on validation so far."""

    genome: Tensor  # [g]
    kind: str  # the candidate's name, such as best or elite_mean
    generation: int
    validation: dict[str, float]  # by metric, as reported


@dataclass(frozen=True)
class Step:
    """A run after a generation."""

    generation: int
    state: Any  # the algorithm's own
    population: Population
    scores: Scores
    record: dict[str, float | None]  # the generation's line of the history
    cost: Cost
    seconds: float
    champion: Champion
    stale: int  # validations since the champion changed
    stop: str | None  # why the run ends here, or None
    islands: "tuple[Statistics, ...]" = ()  # of each, where there are several
    looks: tuple[Champion, ...] = ()  # the candidates that were validated, where the rules ask for them


class Ending(NamedTuple):
    """A search whose end was chosen elsewhere: nothing is validated on the way."""

    generation: int  # the last
    candidate: str  # the kind that is its champion


@dataclass(frozen=True)
class Rules:
    """What decides how long a run goes on and who wins it."""

    seed: int
    samples: int  # a generation's batch; all rows where there are fewer
    every: int  # generations from one validation to the next
    patience: int | None  # validations without a better champion
    budget: Budget
    metric: str  # of validation
    lower_is_better: bool  # of that metric as reported
    constrained: bool = False  # whether constraints are put on candidates, so that a target counts where they are met
    ending: Ending | None = None
    looks: bool = False  # whether steps have all candidates that were validated


class Proposal(NamedTuple):
    """A generation's population, and what of it the budget has room for."""

    context: Context
    population: Population  # as asked for without sensitivities, where any are asked for
    asked: Cost  # of the sensitivities
    samples: int  # of the batch; 0 where there is no room for any
    least: Cost  # what the smallest batch takes, with one gradient step where there are any; if samples are limited


def begin(
    problem: Problem,
    algorithm: Algorithm[Any],
    seed: int,
    device: torch.device,
    *,
    champion: Champion | None = None,
) -> Step:
    """Return a run before its first generation.

    Its champion is the first of the starting genomes, which is validated, or the one that is given. `device` is where
    the population is kept.
    """
    start, cost = problem.start.to(device), Cost()
    state = algorithm.init(start, problem.sigma, Context(seed, 0, 0.0, device, problem.layout))
    if champion is None:
        (champion,), cost = validate({"start": start[0]}, problem, 0)
    nobody = Population.new(start, parents=2)
    nothing = torch.full((len(start), 1), -torch.inf, dtype=torch.float64)
    scores = Scores(nothing, torch.zeros(len(start), dtype=torch.bool))
    return Step(0, state, nobody, scores, {}, cost, 0.0, champion, 0, None)


def evolve(
    problem: Problem,
    algorithm: Algorithm[Any],
    rules: Rules,
    start: Step,
    *,
    device: torch.device,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Step]:
    """Yield the run after each generation, going on from `start`, until a limit, the target or patience stops it.

    `device` is where the population is kept; `clock` counts seconds.
    """
    evaluator, sensitivity = problem.evaluator, problem.sensitivity
    step, began = start, clock()

    def propose(state: Any, generation: int, cost: Cost) -> Proposal:
        progress = rules.budget.progress(generation - 1, cost)
        context = Context(rules.seed, generation, progress, device, problem.layout)
        asked = Cost() if sensitivity is None or generation == 1 else sensitivity.cost(algorithm.overhead)
        measured = 0

        def ones(genomes: Tensor) -> Tensor:
            nonlocal measured
            measured += len(genomes)
            return torch.ones_like(genomes)

        # Nothing is measured before it is known whether the budget has room: it has ones in place of sensitivities.
        population = algorithm.ask(state, context._replace(sensitivity=ones) if sensitivity else context)
        honest(algorithm, population, generation, None if sensitivity is None else measured)

        def whole(samples: int, steps: int) -> Cost:
            return asked + evaluator.cost(population, samples, steps)

        def room(samples: int, steps: int) -> bool:
            return rules.budget.allows(cost + whole(samples, steps))

        samples, steps = rules.samples, evaluator.steps
        if not rules.budget.counts:
            return Proposal(context, population, asked, samples, Cost())
        if not room(samples, steps):
            # The last generation learns for as many steps as the budget has left beside its batch, at least for one;
            # then its batch is cut.
            if steps:
                steps = most(1, steps, lambda k: room(samples, k))
                context = context._replace(steps=steps)
            samples = most(0, samples, lambda k: room(k, steps))
        return Proposal(context, population, asked, samples, whole(1, min(1, steps)))

    ahead: Proposal | None = None
    while step.stop is None:
        generation = step.generation + 1
        now = ahead or propose(step.state, generation, step.cost)
        if now.samples < 1:
            raise InputError(
                "the samples allowed are too few for one generation of the smallest batch", option="budget"
            )
        population = now.population
        if now.asked.samples and sensitivity is not None:
            population = algorithm.ask(step.state, now.context._replace(sensitivity=sensitivity.of))
        grown = evaluator.evaluate(population, problem.batch(generation, now.samples), now.context)
        state = algorithm.tell(step.state, grown.inherited, grown.scores)
        cost = step.cost + now.asked + grown.cost
        # The generation's one wait for the device; after it, the clock has all that the generation took.
        found, *apart = statistics_of(parts_of(grown.inherited, grown.scores, algorithm.islands))
        ahead = None
        stop = rules.budget.stop_reason(generation, cost, start.seconds + clock() - began, Cost(forward=1))
        if stop is None and rules.ending is not None and generation == rules.ending.generation:
            stop = "refit"
        # The next generation may take more than this one; and a GPU proposes it while this one is told of.
        if stop is None and (rules.budget.counts or device.type != "cpu"):
            ahead = propose(state, generation + 1, cost)
            stop = rules.budget.stop_reason(generation, cost, start.seconds + clock() - began, ahead.least)
        champion, stale, validation, shown = step.champion, step.stale, None, state
        looks: tuple[Champion, ...] = ()
        looked = generation % rules.every == 0 or stop is not None
        if grown.scored is not grown.inherited and (looked or rules.ending is not None):
            shown = algorithm.tell(step.state, grown.scored, grown.scores)
        if rules.ending is not None:
            champion = pick(algorithm.candidates(shown), rules, generation)
        elif looked:
            validated, checked = validate(algorithm.candidates(shown), problem, generation)
            candidate = max(validated, key=lambda one: problem.merit(one.validation), default=None)
            looks = tuple(validated) if rules.looks else ()
            cost += checked
            stale += 1
            if candidate is not None:
                validation = candidate.validation[rules.metric]
                if problem.merit(candidate.validation) > problem.merit(champion.validation):
                    champion, stale = candidate, 0
            stop = stop or stop_by_validation(rules, champion, stale)
        seconds = start.seconds + clock() - began
        line = record(generation, found, validation=validation, cost=cost, seconds=seconds)
        step = Step(generation, state, grown.inherited, grown.scores, line, cost, seconds, champion, stale, stop)
        step = replace(step, islands=tuple(apart)) if apart else step
        step = replace(step, looks=looks) if looks else step
        yield step


def honest(algorithm: Algorithm[Any], population: Population, generation: int, measured: int | None) -> None:
    """See that an algorithm asks for what it says: estimates and budgets rest on it; InputError where it doesn't.

    `measured` genomes are those whose sensitivity it asked for, None where there is none to ask for.
    """
    first = generation == 1
    name, said = ("size", algorithm.size) if first else ("size + again", algorithm.later)
    for what, tensor in {**population._asdict(), **population.traits}.items():
        if isinstance(tensor, Tensor) and len(tensor) != said:
            line = f"asks for {len(tensor)} rows of {what} in generation {generation}, and says {name} = {said}"
            raise InputError(line, option="algorithm")
    right = 0 if first else algorithm.overhead
    if measured not in (None, right):
        line = f"asks for the sensitivity of {measured} genomes in generation {generation}, and says {right}: overhead"
        raise InputError(line, option="algorithm")


def most(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number of low to high that fits, given that all below it do; `low` where none does."""
    return low + bisect_left(range(low + 1, high + 1), True, key=lambda k: not fits(k))


def validate(candidates: dict[str, Tensor], problem: Problem, generation: int) -> tuple[list[Champion], Cost]:
    """Return candidates with what they are worth on validation."""
    if not candidates:
        return [], Cost()
    found, cost = problem.validate(torch.stack(list(candidates.values())))
    pairs = zip(candidates.items(), found, strict=True)
    return [Champion(genome, kind, generation, metrics) for (kind, genome), metrics in pairs], cost


def pick(candidates: dict[str, Tensor], rules: Rules, generation: int) -> Champion:
    """Return the candidate of the kind that was chosen elsewhere; InputError where there is none."""
    assert rules.ending is not None
    kind = rules.ending.candidate
    if kind not in candidates:
        raise InputError(f"{kind} is no candidate; there are: {', '.join(candidates)}", option="candidate")
    return Champion(candidates[kind], kind, generation, {rules.metric: math.nan})


def stop_by_validation(rules: Rules, champion: Champion, stale: int) -> str | None:
    """Return why validation ends the run, `target` or `patience`, or None."""
    target, value = rules.budget.target, champion.validation[rules.metric]
    feasible = not rules.constrained or champion.validation[VIOLATION] == 0
    if target is not None and feasible and (value <= target if rules.lower_is_better else value >= target):
        return "target"
    return "patience" if rules.patience is not None and stale >= rules.patience else None


class Statistics(NamedTuple):
    """What a line of the history says of a population; None where no individual is valid."""

    fitness_best: float | None
    fitness_mean: float | None
    fitness_std: float | None
    diversity: float | None
    invalid: int
    traits: dict[str, float]  # medians of those that are a number for each individual
    constraints: Mapping[str, float | None] = (
        NOTHING  # with constraints, the share that is feasible and the least violation
    )


def parts_of(population: Population, scores: Scores, islands: int) -> list[tuple[Population, Scores]]:
    """Return a population with its scores, and behind it each of so many islands, where there are several."""
    rows = blocks(len(scores.invalid), islands) if islands > 1 else ()
    return [(population, scores), *((population.rows(own), scores.rows(own)) for own in rows)]


def statistics(population: Population, scores: Scores) -> Statistics:
    """Return statistics over a population's valid individuals, and medians of its traits.

    They leave the device together, by the one transfer that a generation waits for. Invalid individuals are masked,
    since to take the others' rows would wait for how many they are. With constraints the best is that by Deb's rules.
    """
    return statistics_of([(population, scores)])[0]


def statistics_of(parts: Sequence[tuple[Population, Scores]]) -> list[Statistics]:
    """Return the statistics of several populations, which leave the device by one transfer."""
    measured = [_measure(population, scores) for population, scores in parts]
    columns = torch.stack([torch.stack(numbers) for numbers in measured]).tolist()
    return [_tell_of(found, *part) for found, part in zip(columns, parts, strict=True)]


def _measure(population: Population, scores: Scores) -> list[Tensor]:
    """Return what `statistics` say of a population, each [] float64, on its device."""
    valid, genomes = ~scores.invalid, population.genomes
    sample = genomes[:, :: max(1, genomes.shape[1] // DIVERSITY_GENES)]
    highest = scores.values[:, 0].masked_fill(scores.invalid, -torch.inf).max()
    average = scores.values[:, 0].masked_fill(scores.invalid, 0).sum() / valid.sum()
    spread = deviations(scores.values[:, :1], valid)[0]
    apart = deviations(sample, valid.to(genomes.device)).mean()
    traits = {name: trait.median() for name, trait in sorted(population.traits.items()) if trait.ndim == 1}
    numbers = [scores.invalid.sum(), highest, average, spread, apart, *traits.values()]
    if scores.violation is not None:
        first = ranks(scores.keys).masked_fill(scores.invalid, -1).argmax(keepdim=True)
        numbers[1] = scores.values[:, 0].index_select(0, first).squeeze(0)
        numbers += [((scores.violation == 0) & valid).sum() / valid.sum(), scores.violation.min()]
    return [number.to(highest) for number in numbers]


def _tell_of(numbers: list[float], population: Population, scores: Scores) -> Statistics:
    """Return what was measured of a population as statistics."""
    traits = [name for name, trait in sorted(population.traits.items()) if trait.ndim == 1]
    individuals = len(scores.invalid)
    found: list[Any] = list(numbers)  # or None
    invalid = found.pop(0)
    constraints: dict[str, float | None] = {}
    if scores.violation is not None:
        *found, feasible, least = found
        constraints = {"feasible": None, VIOLATION: None}
        if invalid < individuals:
            constraints = {"feasible": feasible, VIOLATION: least if math.isfinite(least) else None}
    if invalid == individuals:
        found[:4] = [None] * 4
    best, mean, deviation, diversity, *medians = found
    medians_by_name = dict(zip(traits, medians, strict=True))
    return Statistics(best, mean, deviation, diversity, int(invalid), medians_by_name, constraints)


def record(
    generation: int, found: Statistics, *, validation: float | None, cost: Cost, seconds: float
) -> dict[str, float | None]:
    """Return a generation's line of the history."""
    return {
        "generation": generation,
        "fitness_best": found.fitness_best,
        "fitness_mean": found.fitness_mean,
        "fitness_std": found.fitness_std,
        "diversity": found.diversity,
        "validation": validation,
        "invalid": found.invalid,
        **found.constraints,
        **found.traits,
        "forward_samples": cost.forward,
        "backward_samples": cost.backward,
        "seconds": seconds,
    }


def deviations(x: Tensor, rows: Tensor) -> Tensor:
    """Return the deviation [k] of the columns of x [n, k] over `rows` [n] bool; 0 exactly where they are equal."""
    last = len(rows) - 1 - rows.flip(0).byte().argmax(keepdim=True)  # no elite, which may be far from all others
    x = (x - x.index_select(0, last)).contiguous()
    bits = x.view(torch.int64 if x.element_size() == 8 else torch.int32)
    bits.bitwise_and_(-rows[:, None].to(bits.dtype))  # a mask of bits takes a quarter of masked_fill's time
    count = rows.sum()
    mean = x.sum(0) / count
    return (x.square_().sum(0) / count - mean.square_()).clamp_(min=0).sqrt_()
