"""The types that metrics are: of logits, whole or added over samples, of genomes, and of modules."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from neuroevo.errors import InputError


class Additive(NamedTuple):
    """A metric whose statistics add over samples, so that batches can be sliced."""

    statistics: Callable[
        [Tensor, Tensor], Tensor
    ]  # (logits [n, B, C], targets [B]) -> sums over samples [n, k] float64
    finish: Callable[[Tensor], Tensor]  # summed statistics [n, k] -> scores [n] float64, higher is better
    of_sample: str = ""  # `hits` or `losses` where statistics are their sum and how many, in which a kernel may help
    # Summed statistics [n, k] -> hits and of how many [n, 2], where what is reported is a share of what is counted.
    share: Callable[[Tensor], Tensor] | None = None


class OfGenome(NamedTuple):
    """A metric of the genome, on which samples have no influence."""

    score: Callable[[Tensor, Tensor], Tensor]  # (genomes [n, g], start [g]) -> scores [n] float64, higher is better


class OfModule(NamedTuple):
    """A metric of a whole network, one individual after another: no gradient and no logits are needed."""

    score: Callable[[nn.Module], Any]  # a number, or numbers by name of which the first counts; higher is better


Whole = Callable[[Tensor, Tensor], Tensor]  # (logits [n, B, C], targets [B]) -> scores [n], higher is better
OfLogits = Additive | Whole


class Names(NamedTuple):
    """The classes of a problem, and the groups of its samples: none where it has none."""

    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = ()  # None: not known yet


class OfGroups(NamedTuple):
    """A metric of logits of samples in groups: its targets say both, class + C * group, of C logits."""

    metric: Additive


class Unbound(NamedTuple):
    """A metric that speaks of classes or groups by name: it is one of logits once they are known."""

    bind: Callable[[Names], "Additive | Whole | OfGroups"]
    grouped: bool = False  # whether it asks for groups


Metric = OfLogits | OfGenome | OfModule | OfGroups | Unbound
FITNESS = "fitness"  # the name of what a function returns that gives a number without one


def numbers(found: Any) -> dict[str, float]:
    """Return what a function of a module found by name, the fitness first; InputError where that is no number."""
    by_name = dict(found) if isinstance(found, Mapping) else {FITNESS: found}
    if FITNESS in list(by_name)[1:]:
        raise InputError(f"the first of the numbers counts, and {FITNESS} is another of them", option="fitness")
    try:
        if by_name:
            return {str(name): float(value) for name, value in by_name.items()}
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InputError(f"{str(found)[:80]} returned; a number, or numbers by name, expected", option="fitness")


def own_metric(name: str, function: Whole) -> Whole:
    """Return a user's metric on copies of its own, so that it can't change what others are given.

    InputError where it returns something else than scores [n].
    """

    def metric(logits: Tensor, targets: Tensor) -> Tensor:
        scores = function(logits.clone(), targets.clone())
        if not isinstance(scores, Tensor) or scores.shape != (len(logits),):
            found = f"of shape {list(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            here = f"here a tensor [{len(logits)}] is expected, {found} came"
            raise InputError(f"{name}: a metric returns scores [n], one an individual; {here}")
        return scores

    return metric


def score(metric: OfLogits, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the scores `[n]` float64 of logits `[n, B, C]` against classes `targets [B]` int64, all at once."""
    if isinstance(metric, Additive):
        return metric.finish(metric.statistics(logits, targets))
    return metric(logits, targets).to(torch.float64)


def bind(metric: Metric, names: Names) -> Metric:
    """Return a metric for the classes and groups of a problem; InputError where it speaks of others.

    One that asks for groups stays as it is where they aren't known yet.
    """
    if not isinstance(metric, Unbound) or (metric.grouped and names.groups is None):
        return metric
    return metric.bind(names)


def without_groups(metrics: Sequence[Metric], classes: int) -> list[Metric]:
    """Return metrics of targets `class + C * group`, of which those that ask for no groups are given the class alone.

    Metrics that have statistics in common go on having them in common.
    """

    @cache
    def plain(whole: Whole) -> Whole:
        return lambda logits, codes: whole(logits, codes % classes)

    def of_codes(metric: Metric) -> Metric:
        if isinstance(metric, OfGroups):
            return metric.metric
        if isinstance(metric, Additive):
            return metric._replace(statistics=plain(metric.statistics), of_sample="")
        return metric if isinstance(metric, OfGenome | OfModule | Unbound) else plain(metric)

    return [of_codes(metric) for metric in metrics]


def change(metric: Metric, function: Callable[[Tensor], Tensor]) -> Metric:
    """Return a metric whose scores [n] are a function of another's, which may have several values [n, k]."""
    if isinstance(metric, Unbound):
        raise TypeError("a metric is bound before it is changed")
    if isinstance(metric, OfGroups):
        return OfGroups(_change_sums(metric.metric, function))
    if isinstance(metric, Additive):
        return _change_sums(metric, function)
    if isinstance(metric, OfGenome):
        return OfGenome(lambda genomes, start: function(metric.score(genomes, start)))
    if isinstance(metric, OfModule):
        first = metric.score
        return OfModule(lambda network: float(function(torch.tensor([next(iter(numbers(first(network)).values()))]))))
    return lambda logits, targets: function(metric(logits, targets))


def _change_sums(metric: Additive, function: Callable[[Tensor], Tensor]) -> Additive:
    return Additive(metric.statistics, lambda totals: function(metric.finish(totals)))


Number = TypeVar("Number", float, Tensor)


def as_reported(name: str, score: Number) -> Number:
    """Return the usual, positive quantity behind a score of the metric called `name`."""
    return -score if name in LOWER_IS_BETTER else score


def of_network(metric: Metric, weights: Callable[[Tensor], Tensor]) -> Metric:
    """Return a metric of genomes as one of what `weights` makes of them, [n, g] to [n, numbers]; others as they are."""
    if not isinstance(metric, OfGenome):
        return metric
    return OfGenome(lambda genomes, start: metric.score(weights(genomes), weights(start[None])[0]))


LOWER_IS_BETTER = frozenset(  # their scores are negated
    {"cross_entropy", "cost_matrix", "calibration_error", "brier", "false_positive_rate", "weight_norm", "distance"}
)


def adjust(metric: Metric, offset: Tensor) -> Metric:
    """Return a metric of logits with `offset` [C] added, such as the log of the classes' shares (Menon et al. 2021)."""
    if isinstance(metric, OfGenome | OfModule | Unbound):
        return metric
    if isinstance(metric, OfGroups):
        return OfGroups(_adjust_sums(metric.metric, offset))
    if isinstance(metric, Additive):
        return _adjust_sums(metric, offset)
    return lambda logits, targets: metric(logits + offset, targets)


def _adjust_sums(metric: Additive, offset: Tensor) -> Additive:
    whole = metric.statistics
    return metric._replace(statistics=lambda logits, targets: whole(logits + offset, targets), of_sample="")
