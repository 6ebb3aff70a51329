"""One network scored for the record: metrics as reported, with 95 % intervals."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import devices
from neuroevo.engine.execution import Execution
from neuroevo.engine.rng import generator
from neuroevo.engine.samples import walk
from neuroevo.problems.metric import (
    Additive,
    Metric,
    OfGenome,
    OfGroups,
    OfLogits,
    OfModule,
    Unbound,
    as_reported,
    score,
)
from neuroevo.problems.predictions import Predictions
from neuroevo.problems.scoring import Judgement

RESAMPLES = 1000
WHOLE_RESAMPLES = 200


class Tested(NamedTuple):
    """What one network was found to be worth."""

    scores: dict[str, Any]  # by metric, as reported; their intervals under `interval`, and how many `images`
    confusion: Tensor  # [C, C] int64: samples of a class (a row) that are predicted as another (a column)
    predictions: Predictions


def logits(judgement: Judgement, genome: Tensor, index: Tensor, execution: Execution) -> tuple[Tensor, Tensor]:
    """Return one genome's logits [1, B, C] on the rows in `index`, and their labels [B]."""
    # A row of a population and the same read from a checkpoint lie otherwise in memory, by which products round.
    weights = judgement.evolved.decode(genome[None].clone())
    parts = []
    for features, targets in walk(judgement.samples, index.split(execution.samples)):
        parts.append((judgement.evolved.forward(weights, features), targets))
    return torch.cat([part for part, _ in parts], dim=1), torch.cat([targets for _, targets in parts])


def confusion(logits: Tensor, targets: Tensor) -> Tensor:
    """Return how many samples [C, C] of each class (a row) are predicted as which (a column), of logits [1, B, C]."""
    c = logits.shape[2]
    return torch.bincount(targets * c + logits[0].argmax(1), minlength=c * c).view(c, c)


def with_intervals(found: Tensor, targets: Tensor, given: Mapping[str, Metric]) -> dict[str, Any]:
    """Return each metric of logits [1, B, C] as as_reported, and under `interval` its 95 % interval.

    Accuracy's is Wilson's; the others' are percentiles of a bootstrap over samples (Efron 1979).
    """
    metrics: dict[str, OfLogits] = {}
    for name, of in given.items():
        assert not isinstance(of, OfGenome | OfModule | OfGroups | Unbound)
        metrics[name] = of
    values = {name: as_reported(name, float(score(metric, found, targets))) for name, metric in metrics.items()}
    intervals, n = {}, len(targets)
    for name, metric in metrics.items():
        if name == "accuracy":
            intervals[name] = list(wilson(round(values[name] * n), n))
            continue
        scores = bootstrap(metric, found, targets)
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        intervals[name] = sorted(as_reported(name, end) for end in scores.cpu().quantile(ends).tolist())
    return {**values, "interval": intervals, "images": n}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share, of `hits` among n samples (Wilson 1927).

    As scipy.stats has it, which takes a second to import, as long as a small run's search.
    """
    z = NormalDist().inv_cdf(0.975)
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return (middle - half if hits else 0.0), (middle + half if hits < n else 1.0)


class Share(NamedTuple):
    """A share of things that are counted, with the ends of its 95 % interval; None of none."""

    value: float | None
    low: float | None
    high: float | None
    total: int  # of which it is the share

    @classmethod
    def of(cls, hits: int, total: int) -> "Share":
        """Return the share of so many hits, with Wilson's interval."""
        return cls(hits / total, *wilson(hits, total), total) if total else cls(None, None, None, 0)


class OfClass(NamedTuple):
    """How a class is told from the others."""

    recall: Share  # of its samples, those that are predicted as it
    precision: Share  # of the predictions of it, those that are right


def of_classes(confusion: Tensor) -> list[OfClass]:
    """Return recall and precision of each class, of a matrix as `confusion` returns it."""
    hits, samples, predicted = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return [OfClass(Share.of(h, n), Share.of(h, said)) for h, n, said in zip(hits, samples, predicted, strict=True)]


def bootstrap(metric: OfLogits, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the scores [RESAMPLES] of a metric on samples drawn anew, with replacement, from logits [1, B, C].

    A metric that adds over samples is resampled by its statistics, one row a sample: the samples of a class are scored
    as if they were individuals with one sample each. One that needs all logits is scored on WHOLE_RESAMPLES, in turn.
    """
    n, source = len(targets), generator(0, "bootstrap", 0)
    if not isinstance(metric, Additive):
        drawn = (torch.randint(n, (n,), generator=source) for _ in range(WHOLE_RESAMPLES))
        draws = (devices.send(rows, targets.device) for rows in drawn)
        return torch.cat([score(metric, logits[:, rows], targets[rows]).double() for rows in draws])
    counts = targets.bincount().tolist()
    groups = targets.argsort(stable=True).split(counts)
    rows = torch.cat([metric.statistics(logits[0, i, None], targets[i[:1]]) for i in groups if len(i)])
    weights = torch.empty(RESAMPLES, n, dtype=torch.float64)
    for line in weights:
        line.copy_(torch.bincount(torch.randint(n, (n,), generator=source), minlength=n))
    return metric.finish(weights.to(rows.device) @ rows.double())
