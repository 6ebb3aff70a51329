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

Z = NormalDist().inv_cdf(0.975)
RESAMPLES = 1000
WHOLE_RESAMPLES = 200
NUMBERS = 2**31  # logits that `widen` looks at, at most, where a metric needs all of them each time
SURE = 1e4  # a logit that is beyond all others
# Metrics of which class is predicted, or of which samples come first, and not of how high logits are.
OF_ORDER = frozenset(
    {"accuracy", "top_k", "balanced_accuracy", "worst_class_accuracy", "macro_f1", "kappa", "mcc", "cost_matrix"}
    | {"auroc", "recall", "precision", "f1", "false_positive_rate", "recall_at_precision", "group_accuracy"}
    | {"worst_group_accuracy"}
)

OF_WORST = frozenset({"worst_class_accuracy", "worst_group_accuracy"})


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

    That of a share of what is counted, such as accuracy or a class's recall, is Wilson's; the others' are percentiles
    of a bootstrap over samples (Efron 1979). Where each of those has the same score, `widen` says what may be.
    """
    metrics: dict[str, OfLogits] = {}
    for name, of in given.items():
        assert not isinstance(of, OfGenome | OfModule | OfGroups | Unbound)
        metrics[name] = of
    values = {name: as_reported(name, float(score(metric, found, targets))) for name, metric in metrics.items()}
    intervals, n = {}, len(targets)
    for name, metric in metrics.items():
        if isinstance(metric, Additive) and metric.share is not None:
            hits, total = metric.share(metric.statistics(found, targets))[0].round().int().tolist()
            intervals[name] = list(wilson(hits, total))
            continue
        scores = bootstrap(metric, found, targets).cpu()
        ends = scores.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        if name in OF_ORDER and bool((scores == scores[0]).all()):
            ends = widen(metric, found, targets, ends[0], of_worst=name in OF_WORST)
        intervals[name] = sorted(as_reported(name, end) for end in ends)
    return {**values, "interval": intervals, "images": n}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share, of `hits` among n samples (Wilson 1927); of none, all there is.

    As scipy.stats has it, which takes a second to import, as long as a small run's search.
    """
    if not n:
        return 0.0, 1.0
    z = Z
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


def widen(metric: OfLogits, logits: Tensor, targets: Tensor, value: float, *, of_worst: bool = False) -> list[float]:
    """Return the ends of an interval around a value that all samples drawn anew have in common, as where all are right.

    They are the lowest and the highest score that there would be with Z^2 samples more of one kind: of some class that
    is there, predicted as it or as another; where it is `of_worst`, of all classes at once as well. Of a share, none or
    all, that is Wilson's interval. A metric that needs all logits is given 4 samples, and its value alone is returned
    where it would have to look at more than NUMBERS of them.
    """
    n, c = logits.shape[1:]
    there = targets.unique().tolist()
    kinds = {(own, place) for own in there for place in (own % c, (own + 1) % c)}
    for place in range(c):  # whatever a class's precision is, somebody else's sample that is predicted as it lowers it
        kinds |= {(own, place) for own in [own for own in there if own % c != place][:1]}
    found = [value]
    totals = metric.statistics(logits, targets) if isinstance(metric, Additive) else None
    every: Tensor | float = 0.0 if totals is None else totals
    if totals is None and len(kinds) * n * c > NUMBERS:
        return [value, value]
    for own, place in sorted(kinds):
        label = targets.new_tensor([own])
        one = logits.new_zeros(1, 1, c)
        one[..., own % c] -= SURE  # a miss is as sure as can be, and so last of its class's
        one[..., place] = SURE
        if isinstance(metric, Additive):
            assert totals is not None
            more = Z**2 * metric.statistics(one, label)
            scores = metric.finish(totals + more)
            every = every + more if own % c == place else every
        else:
            scores = score(metric, torch.cat([logits, one.expand(1, 4, c)], 1), torch.cat([targets, label.expand(4)]))
        found.append(float(scores))
    if of_worst and isinstance(metric, Additive):
        found.append(float(metric.finish(torch.as_tensor(every))))
    found = [each for each in found if math.isfinite(each)]
    return [min(found), max(found)] if found else [value, value]
