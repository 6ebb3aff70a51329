"""Scores of a whole population on one batch: every individual sees the same samples.

Individuals and samples are taken in slices fixed by a `Plan`, so that an evaluation never needs more memory than its
limit and a resumed run rounds as the first one did.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neuroevo.engine import pareto
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import Plan
from neuroevo.engine.genome import Population
from neuroevo.engine.samples import Samples
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.networks.heads import Forward
from neuroevo.problems.metric import Additive, Metric, OfGenome, score

Express = Callable[[Tensor], dict[str, Tensor]]  # genomes [n, g] -> weights {name: [n, *shape]}


def evaluate(
    genomes: Tensor,
    express: Express,
    forward: Forward,
    data: Samples,
    index: Tensor,
    metrics: Sequence[Metric],
    plan: Plan,
    start: Tensor | None = None,
) -> Scores:
    """Score genomes [n, g] on the samples `index` [B] by each metric; `start` [g] is there for metrics of genomes.

    Metrics that add over samples are summed over slices of samples; one that needs all logits of an individual has them
    kept, for as many individuals at a time as the memory limit lets.
    """
    whole = any(not isinstance(metric, Additive | OfGenome) for metric in metrics)
    size = plan.individuals
    if whole:  # such a metric sorts and ranks all logits: some eight copies
        size = max(1, min(size, plan.limit // (8 * 4 * plan.classes * len(index))))
    values, invalid = [], []
    for rows in genomes.split(size):
        weights = express(rows)
        totals: list[Tensor | float] = [0.0] * len(metrics)
        total: Tensor | float = 0.0
        logits_kept, targets_kept = [], []
        for part in index.split(plan.samples):
            features, targets = data.batch(part)
            with torch.autocast(features.device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
                logits = forward(weights, features)
            total = total + logits.sum((1, 2), dtype=torch.float32)  # NaN or Inf if any logit is
            totals = [
                t + m.statistics(logits, targets) if isinstance(m, Additive) else t
                for m, t in zip(metrics, totals, strict=True)
            ]
            if whole:
                logits_kept.append(logits.transpose(1, 2))
                targets_kept.append(targets)
        if whole:
            logits, targets = torch.cat(logits_kept, dim=2).transpose(1, 2), torch.cat(targets_kept)
        columns = []
        for m, t in zip(metrics, totals, strict=True):
            if isinstance(m, OfGenome):
                assert start is not None
                columns.append(m.score(rows, start).to(logits.device))
            else:
                columns.append(m.finish(t) if isinstance(m, Additive) and isinstance(t, Tensor)
                               else score(m, logits, targets))  # fmt: skip
        for metric, column in zip(metrics, columns, strict=True):
            if column.shape != (len(rows),):
                name = getattr(getattr(metric, "func", metric), "__qualname__", "metric")
                raise InputError(f"{name}: a metric returns scores [n]; {tuple(column.shape)} for n = {len(rows)}")
        values.append(torch.stack([column.double() for column in columns], dim=1))
        assert isinstance(total, Tensor)
        invalid.append(~total.isfinite())
    found, bad = torch.cat(values).to(genomes.device), torch.cat(invalid).to(genomes.device)
    bad |= found.isnan().any(1)
    return Scores(found.masked_fill(bad[:, None], -torch.inf), bad)


def fitness(
    population: Population,
    express: Express,
    forward: Forward,
    data: Samples,
    index: Tensor,
    metrics: Sequence[Metric],
    plan: Plan,
    rescored: int,
    start: Tensor | None = None,
    objectives: int = 1,
) -> tuple[Scores, Cost]:
    """Score a population, and say what that cost: individuals times samples, forward.

    In half precision the best `rescored` individuals are scored again in float32, and that counts too. The first
    `objectives` metrics are objectives, the others break ties.
    """
    scores = evaluate(population.genomes, express, forward, data, index, metrics, plan, start)
    scores = scores._replace(objectives=objectives)
    n = len(population.genomes)
    if plan.precision != "float32" and rescored:
        exact = plan._replace(precision="float32")
        order = scores.values[:, 0] if objectives == 1 else pareto.ranked(scores.values[:, :objectives])
        best = order.topk(min(rescored, n)).indices
        again = evaluate(population.genomes[best], express, forward, data, index, metrics, exact, start)
        scores = scores._replace(
            values=scores.values.index_copy(0, best, again.values),
            invalid=scores.invalid.index_copy(0, best, again.invalid),
        )
        n += len(best)
    return scores, Cost(forward=n * len(index))
