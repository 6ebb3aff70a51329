"""Scores of a whole population on one batch: every individual sees the same samples.

Individuals and samples are taken in slices fixed by an `Execution`, so that an evaluation never needs more memory than
its limit and a resumed run rounds as the first one did. A slice of individuals is the unit of an executor's work.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from neuroevo.engine import pareto
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import LOCAL, Execution, Executor
from neuroevo.engine.genome import Population
from neuroevo.engine.graphs import Graphs
from neuroevo.engine.samples import Samples, walk
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.networks.heads import Forward
from neuroevo.problems.metric import Additive, Metric, OfGenome, OfModule, numbers, score


class Evolved(Protocol):
    """What genomes are the weights of."""

    @property
    def decode(self) -> Callable[[Tensor], dict[str, Tensor]]:
        """Weights {name: [n, *shape]} of genomes [n, g]."""
        ...

    @property
    def forward(self) -> Forward:
        """Logits of weights on samples."""
        ...

    @property
    def module(self) -> Callable[[Tensor], nn.Module]:
        """A network of its own for a genome [g], for metrics that ask for one."""
        ...


class Judgement(NamedTuple):
    """How genomes are judged: by which metrics, on whose samples, in which slices."""

    evolved: Evolved
    samples: Samples
    metrics: Sequence[Metric]
    start: Tensor | None = None  # [g], for metrics of genomes
    executor: Executor = LOCAL
    graphs: Graphs | None = None  # of slices' work, where the execution asks for them

    @property
    def needs_all_logits(self) -> bool:
        """Whether a metric is of all logits of an individual."""
        return any(not isinstance(metric, Additive | OfGenome | OfModule) for metric in self.metrics)


def evaluate(judgement: Judgement, genomes: Tensor, index: Tensor, execution: Execution) -> Scores:
    """Score genomes [n, g] on the samples `index` [B] by each metric.

    Metrics that add over samples are summed over slices of samples; one that needs all logits of an individual has them
    kept, for as many individuals at a time as the memory limit lets. Functions of modules need no logits.
    """
    size = execution.individuals
    if judgement.needs_all_logits:
        # Such a metric sorts and ranks all logits: some eight copies.
        size = max(1, min(size, execution.limit // (8 * 4 * execution.classes * len(index))))

    def work(rows: Tensor) -> tuple[Tensor, Tensor]:
        return _slice(judgement, rows, index, execution)

    found, bad = zip(*judgement.executor.map(work, genomes.split(size)), strict=True)
    values, invalid = torch.cat(found).to(genomes.device), torch.cat(bad).to(genomes.device)
    invalid |= values.isnan().any(1)
    return Scores(values.masked_fill(invalid[:, None], -torch.inf), invalid)


def _slice(judgement: Judgement, rows: Tensor, index: Tensor, execution: Execution) -> tuple[Tensor, Tensor]:
    """Return the values [r, m] float64 of genomes [r, g] by each metric, and which are invalid [r] bool."""
    metrics, evolved = judgement.metrics, judgement.evolved
    whole = judgement.needs_all_logits
    totals: list[Tensor | float] = [0.0] * len(metrics)
    total: Tensor | None = None
    logits_kept, targets_kept = [], []
    if any(not isinstance(metric, OfModule) for metric in metrics):
        weights = evolved.decode(rows)
        for features, targets in walk(judgement.samples, index.split(execution.samples)):
            if judgement.graphs is not None and execution.graphs and not whole:
                work = partial(_replay, judgement, execution, tuple(weights))
                added, *sums = judgement.graphs.call(work, [*weights.values(), features, targets], execution.precision)
            else:
                logits = _logits(evolved, weights, features, execution)
                added, *sums = _sums(metrics, logits, targets, execution)
            total = added if total is None else total + added
            each = iter(sums)
            totals = [t + next(each) if isinstance(m, Additive) else t for m, t in zip(metrics, totals, strict=True)]
            if whole:
                logits_kept.append(logits.transpose(1, 2))
                targets_kept.append(targets)
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
            column = score(metric, torch.cat(logits_kept, dim=2).transpose(1, 2), torch.cat(targets_kept))
        if column.shape != (len(rows),):
            name = getattr(getattr(metric, "func", metric), "__qualname__", "metric")
            raise InputError(f"{name}: a metric returns scores [n]; {tuple(column.shape)} for n = {len(rows)}")
        columns.append(column if total is None else column.to(total.device))
    values = torch.stack([column.double() for column in columns], dim=1)
    return values, values.isnan().any(1) if total is None else ~total.isfinite()


def _logits(evolved: Evolved, weights: dict[str, Tensor], features: Tensor, execution: Execution) -> Tensor:
    with torch.autocast(features.device.type, torch.bfloat16, enabled=execution.precision == "bfloat16"):
        return evolved.forward(weights, features)


def _sums(metrics: Sequence[Metric], logits: Tensor, targets: Tensor, execution: Execution) -> list[Tensor]:
    """Return the sums of logits [r], NaN or Inf if any logit is, and the statistics [r, k] of each additive metric."""
    additive = [metric for metric in metrics if isinstance(metric, Additive)]
    if execution.one_pass and all(metric.of_sample for metric in additive):
        from neuroevo.problems import kernels  # needs Triton

        found = kernels.sums(logits, targets)
        many = torch.full_like(found[:, 0], len(targets))
        of = [found[:, kernels.COLUMNS.index(metric.of_sample)] for metric in additive]
        return [found[:, -1], *(torch.stack([column, many], 1) for column in of)]
    added = logits.sum((1, 2), dtype=torch.float32)
    return [added, *(metric.statistics(logits, targets) for metric in additive)]


def _replay(judgement: Judgement, execution: Execution, names: Sequence[str], *given: Tensor) -> list[Tensor]:
    """Return the sums of a slice, of the weights called so, features and targets: what a graph is captured of."""
    *weights, features, targets = given
    logits = _logits(judgement.evolved, dict(zip(names, weights, strict=True)), features, execution)
    return _sums(judgement.metrics, logits, targets, execution)


def _first(metric: OfModule, evolved: Evolved, genome: Tensor) -> float:
    """Return what counts of a function of a module: the first of its numbers, NaN where that isn't finite."""
    value = next(iter(numbers(metric.score(evolved.module(genome).requires_grad_(False))).values()))
    return value if abs(value) != torch.inf else torch.nan


def fitness(
    judgement: Judgement,
    population: Population,
    index: Tensor,
    execution: Execution,
    *,
    rescored: int = 0,
    objectives: int = 1,
) -> tuple[Scores, Cost]:
    """Score a population, and say what that cost: individuals times samples, forward.

    In half precision the best `rescored` individuals are scored again in float32, and that counts too. The first
    `objectives` metrics are objectives, the others break ties.
    """
    scores = evaluate(judgement, population.genomes, index, execution)._replace(objectives=objectives)
    n = len(population.genomes)
    if execution.precision != "float32" and rescored:
        order = scores.values[:, 0] if objectives == 1 else pareto.rank(scores.values[:, :objectives])
        best = order.topk(min(rescored, n)).indices
        again = evaluate(judgement, population.genomes[best], index, execution._replace(precision="float32"))
        scores = scores._replace(
            values=scores.values.index_copy(0, best, again.values),
            invalid=scores.invalid.index_copy(0, best, again.invalid),
        )
        n += len(best)
    return scores, Cost(forward=n * len(index))
