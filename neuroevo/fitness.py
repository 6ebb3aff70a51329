"""Scores of a whole population on one batch: every individual sees the same samples.

Individuals and samples are taken in slices fixed by a `Plan`, so that an evaluation never needs more memory than its
limit and a resumed run rounds as the first one did.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.engine import pareto
from neuroevo.engine.cost import Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.samples import Samples
from neuroevo.errors import InputError, RunError
from neuroevo.metrics import Additive, Metric, OfGenome, score
from neuroevo.networks.heads import Forward

Express = Callable[[Tensor], dict[str, Tensor]]  # genomes [n, g] -> weights {name: [n, *shape]}


class Plan(NamedTuple):
    """How evaluations are sliced; fixed at a run's start, since slicing changes rounding."""

    method: str  # gemm or vmap for heads, loop or vmap for what comes before them
    classes: int
    individuals: int  # at most this many at a time
    samples: int  # at most this many at a time, for metrics that add over samples
    limit: int  # bytes that an evaluation may use beside population and features
    threads: int
    precision: str = "float32"  # of scoring; bfloat16: the best are scored again in float32
    trained: int = 0  # individuals at a time in gradient steps
    micro: int = 0  # samples at a time in gradient steps
    home: str = "cpu"  # where the population is kept


class Scores(NamedTuple):
    """What an evaluation found."""

    values: Tensor  # [n, m] float64, a column a metric, higher is better; -inf throughout for an invalid individual
    invalid: Tensor  # [n] bool: some logit was NaN or Inf
    objectives: int = 1  # the first so many columns; the others break their ties


def plan(method: str, genes: int, dim: int, widths: Sequence[int], limit: int, device: torch.device) -> Plan:
    """Choose slices for `genes` genes over `dim` features with layers of these widths; InputError if none fit.

    Slices of activations stay small enough for a CPU's cache and allocator, or large enough to fill a GPU.
    """
    # Two layers' activations are alive at once, and metrics make up to three more of the last one's size.
    per_sample = 4 * max([a + b for a, b in pairwise(widths)] + [4 * widths[-1]])
    best = (16 if device.type == "cpu" else 512) * 2**20
    samples = 1024 if device.type == "cpu" else 8192
    usable = 3 * limit // 4  # the allocator keeps some of what is freed
    while True:
        fixed = 3 * 4 * samples * dim  # a batch of features: gathered, standardised, one temporary
        each = 4 * genes + samples * per_sample
        individuals = min((usable - fixed) // each, max(1, best // (4 * samples * max(widths))))
        if individuals >= 1:
            return Plan(method, widths[-1], int(individuals), samples, limit, torch.get_num_threads())
        if samples <= 32:
            raise InputError(
                f"{limit} bytes is too little for one individual; at least {4 * (fixed + each) // 3 + 1}",
                option="limit",
            )
        samples //= 2


def halved(plan: Plan) -> Plan:
    """Return a plan with half as much at a time; RunError where that is one individual and one sample already."""
    if max(plan.individuals, plan.samples, plan.trained, plan.micro) <= 1:
        raise RunError("out of memory with one individual and one sample at a time; no limit changes that")
    more, many = plan.individuals > 1, plan.trained > 1
    return plan._replace(
        individuals=plan.individuals // 2 if more else 1,
        samples=plan.samples if more else max(1, plan.samples // 2),
        trained=plan.trained // 2 if many else plan.trained,
        micro=plan.micro if many else plan.micro and max(1, plan.micro // 2),
    )


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


def balanced(rows: Tensor, labels: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw from `rows` [N], with replacement, each class as often as any other; `labels` [N] are theirs, on the CPU."""
    classes = labels.unique()
    groups = [rows[labels == label] for label in classes]
    sizes = torch.tensor([len(group) for group in groups])
    firsts = sizes.cumsum(0) - sizes
    picked = torch.randint(len(classes), shape, generator=generator)
    inside = (torch.rand(shape, generator=generator, dtype=torch.float64) * sizes[picked]).long()
    return torch.cat(groups)[firsts[picked] + inside]


def ranks(values: Tensor) -> Tensor:
    """Return the dense rank [n] of each row of values [n, m], highest best; later columns break ties of earlier."""
    dense: Tensor
    _, dense = torch.unique(values, dim=0, return_inverse=True)  # unique sorts rows lexicographically
    return dense.to(values.dtype)
