"""Scores of a whole population on one batch: every individual sees the same samples.

Individuals and samples are taken in slices fixed by an `Execution`, so that an evaluation never needs more memory than
its limit and a resumed run rounds as the first one did. A slice of individuals is the unit of an executor's work.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.engine import pareto
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import LOCAL, Execution, Executor, Work
from neuroevo.engine.genome import Population
from neuroevo.engine.joined import blocks
from neuroevo.engine.samples import Grouped, Samples, walk
from neuroevo.engine.scores import Scores, ranks
from neuroevo.errors import InputError
from neuroevo.problems.metric import (
    Additive,
    Metric,
    OfGenome,
    OfGroups,
    OfModule,
    Unbound,
    numbers,
    score,
    without_groups,
)
from neuroevo.problems.sums import Evolved, Replay, logits_of, replay, sums, weights_of


class Judgement(NamedTuple):
    """How genomes are judged: by which metrics, on whose samples, in which slices."""

    evolved: Evolved
    samples: Samples
    metrics: Sequence[Metric]
    start: Tensor | None = None  # [g], for metrics of genomes
    executor: Executor = LOCAL
    replay: Replay | None = None  # of slices' work, where the execution asks for graphs
    constraints: Sequence[Metric] = ()  # each of minus how far it is violated

    @property
    def columns(self) -> list[Metric]:
        """All that is found in one pass over logits: metrics, and then constraints."""
        return [*self.metrics, *self.constraints]


def by_groups(judgement: Judgement, classes: int) -> Judgement:
    """Return a judgement whose labels say the group as well, where a metric asks for it, and as it is elsewhere."""
    columns = judgement.columns
    if not any(isinstance(metric, OfGroups) for metric in columns):
        return judgement
    assert isinstance(judgement.samples, Grouped)
    found, m = without_groups(columns, classes), len(judgement.metrics)
    samples = judgement.samples.in_groups(classes)
    return judgement._replace(samples=samples, metrics=found[:m], constraints=found[m:])


def needs_all_logits(metrics: Sequence[Metric]) -> bool:
    """Tell whether a metric is of all logits of an individual, and not of sums over samples."""
    return any(not isinstance(metric, Additive | OfGroups | OfGenome | OfModule) for metric in metrics)


def evaluate(judgement: Judgement, genomes: Tensor, index: Tensor, execution: Execution, *, islands: int = 1) -> Scores:
    """Score genomes [n, g] on the samples `index` [B] by each metric.

    On a CPU no slice has individuals of several `islands`, equal parts of the genomes, so that those of each round as
    they would alone.

    Metrics that add over samples are summed over slices of samples; one that needs all logits of an individual has them
    kept, for as many individuals at a time as the memory limit lets. Functions of modules need no logits.
    """
    size = execution.individuals
    if needs_all_logits(judgement.columns):
        # Such a metric sorts and ranks all logits: some eight copies.
        size = max(1, min(size, execution.limit // (8 * 4 * execution.classes * len(index))))

    work = Work(score_slice, judgement, (index, execution))
    parts = genomes.chunk(islands) if genomes.device.type == "cpu" else (genomes,)
    slices = [rows for part in parts for rows in part.split(size)]
    found, bad = zip(*judgement.executor.map(work, slices), strict=True)
    values, invalid = torch.cat(found).to(genomes.device), torch.cat(bad).to(genomes.device)
    invalid |= values.isnan().any(1)
    values = values.masked_fill(invalid[:, None], -torch.inf)
    if not judgement.constraints:
        return Scores(values, invalid)
    m = len(judgement.metrics)
    return Scores(values[:, :m], invalid, violation=values[:, m:].sum(1).neg().abs())  # 0, and not -0


def score_slice(judgement: Judgement, on: tuple[Tensor, Execution], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values [r, m] float64 of genomes [r, g] by each metric, and which are invalid [r] bool.

    They are scored `on` samples [B], in slices of an execution.
    """
    index, execution = on
    metrics, evolved = judgement.columns, judgement.evolved
    whole = needs_all_logits(metrics)
    totals: list[Tensor | float] = [0.0] * len(metrics)
    total: Tensor | None = None
    kept: list[tuple[Tensor, Tensor]] = []  # logits [r, C, B], targets [B]

    def keep(logits: Tensor, targets: Tensor) -> None:
        if whole:
            kept.append((logits.transpose(1, 2), targets))

    if any(not isinstance(metric, OfModule) for metric in metrics):
        for added, *found in _parts(judgement, rows, index, execution, keep):
            total = added if total is None else total + added
            each = iter(found)
            totals = [t + next(each) if isinstance(m, Additive) else t for m, t in zip(metrics, totals, strict=True)]
    columns = []
    for metric, of in zip(metrics, totals, strict=True):
        if isinstance(metric, OfGenome):
            assert judgement.start is not None
            column = metric.score(rows, judgement.start)
        elif isinstance(metric, OfModule):
            column = torch.tensor([_first(metric, evolved, genome) for genome in rows], dtype=torch.float64)
        elif isinstance(metric, Additive):
            assert isinstance(of, Tensor)
            column = metric.finish(of)
        else:
            logits = torch.cat([part for part, _ in kept], dim=2).transpose(1, 2)
            assert not isinstance(metric, OfGroups | Unbound)
            column = score(metric, logits, torch.cat([targets for _, targets in kept]))
        if column.shape != (len(rows),):
            name = getattr(getattr(metric, "func", metric), "__qualname__", "metric")
            raise InputError(f"{name}: a metric returns scores [n]; {tuple(column.shape)} for n = {len(rows)}")
        columns.append(column if total is None else column.to(total.device))
    values = torch.stack([column.double() for column in columns], dim=1)
    return values, values.isnan().any(1) if total is None else ~total.isfinite()


def _parts(
    judgement: Judgement, rows: Tensor, index: Tensor, execution: Execution, keep: Callable[[Tensor, Tensor], None]
) -> Iterator[list[Tensor]]:
    """Yield the `sums` of genomes [r, g] on each slice of samples; `keep` is given logits, unless a graph has them."""
    evolved, samples, metrics = judgement.evolved, judgement.samples, judgement.columns
    if judgement.replay is not None and execution.graphs and not needs_all_logits(metrics):
        yield from replay(judgement.replay, evolved, samples, metrics, (rows, index, execution))
        return
    weights = weights_of(evolved, rows, execution)
    for features, targets in walk(samples, index.split(execution.samples)):
        logits = logits_of(evolved, weights, features, execution)
        keep(logits, targets)
        found = sums(metrics, logits, targets, execution)
        del logits  # before the next slice's are made, which can have their memory
        yield found


def _first(metric: OfModule, evolved: Evolved, genome: Tensor) -> float:
    """Return what counts of a function of a module: the first of its numbers, NaN where that isn't finite."""
    value = next(iter(numbers(metric.score(evolved.module(genome).requires_grad_(False))).values()))
    return value if abs(value) != torch.inf else torch.nan


def scoring_cost(individuals: int, samples: int, beside: int) -> Cost:
    """Return what scoring takes, with so many samples an individual `beside` those of the batch."""
    return Cost(forward=individuals * (samples + beside))


def fitness(
    judgement: Judgement,
    population: Population,
    index: Tensor,
    execution: Execution,
    *,
    rescored: int = 0,
    objectives: int = 1,
    islands: int = 1,
) -> tuple[Scores, Cost]:
    """Score a population, and say what that cost: individuals times samples, forward.

    In half precision the best `rescored` individuals are scored again in float32, and that counts too; so are, and do,
    those that float16 made infinite, which no cost foresees. The first `objectives` metrics are objectives, the others
    break ties. With constraints the best are so by Deb's rules; of several `islands` they are as many of each.
    """
    scores = evaluate(judgement, population.genomes, index, execution, islands=islands)
    scores = scores._replace(objectives=objectives)
    n = scored = len(population.genomes)
    exact = execution._replace(precision="float32")

    def again(rows: Tensor, islands: int = 1) -> Scores:
        found = evaluate(judgement, population.genomes[rows], index, exact, islands=islands)
        values, invalid = (before.index_copy(0, rows, now) for before, now in zip(scores[:2], found[:2], strict=True))
        violation = scores.violation
        if violation is not None and found.violation is not None:
            violation = violation.index_copy(0, rows, found.violation)
        return scores._replace(values=values, invalid=invalid, violation=violation)

    if execution.precision == "float16":  # nothing else asks the device how many
        beyond = scores.invalid.nonzero().squeeze(1)
        if len(beyond):
            scores, scored = again(beyond), scored + len(beyond)
    if execution.precision != "float32" and rescored:
        found = []
        for rows in blocks(n, islands):
            own = scores.rows(rows)
            if own.violation is not None:
                order = ranks(own.keys) if objectives == 1 else pareto.rank(pareto.objectives(own))
            else:
                order = own.values[:, 0] if objectives == 1 else pareto.rank(own.values[:, :objectives])
            found.append(order.topk(min(rescored, n) // islands).indices + rows.start)
        best = torch.cat(found)
        scores, scored = again(best, islands), scored + len(best)
    return scores, Cost(forward=scored * len(index))
