"""What a decision is for: a metric by name or of one's own, and constraints, of classes and groups by name."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import config
from neuroevo.decision import arrays
from neuroevo.decision.judge import Measure, Samples
from neuroevo.errors import InputError
from neuroevo.problems import constraints as bounds
from neuroevo.problems.class_metrics import each as values_of_each
from neuroevo.problems.class_metrics import place
from neuroevo.problems.constraints import Constraint
from neuroevo.problems.metric import (
    LOWER_IS_BETTER,
    Additive,
    Metric,
    Names,
    OfGenome,
    OfGroups,
    OfLogits,
    OfModule,
    Unbound,
    bind,
    change,
    own_metric,
    without_groups,
)
from neuroevo.problems.metrics import METRICS


class Goal(NamedTuple):
    """What a decision is for."""

    name: str  # of the metric
    constraints: tuple[Constraint, ...]
    measures: tuple[Measure, ...]  # the metric, and one for each constraint
    names: Names
    grouped: bool  # whether groups count

    def samples(self, logits: Tensor, labels: Tensor, groups: Any) -> Samples:
        """Return samples as they are judged; InputError where they are of groups that weren't there before."""
        if groups is None and self.grouped:
            raise InputError("what is asked for is of groups; give the group of each sample", option="groups")
        if groups is None or not self.names.groups:
            return Samples(logits, labels)
        index, names = arrays.read_groups(groups, len(labels))
        strange = [name for name in names if name not in self.names.groups]
        if strange:
            raise InputError(f"{strange[0]} is none of {', '.join(self.names.groups[:8])}", option="groups")
        ours = torch.tensor([self.names.groups.index(name) for name in names])
        return Samples(logits, labels + len(self.names.classes) * ours[index])


def goal_of(metric: Any, constraints: Sequence[Any], names: Names) -> Goal:
    """Return what a decision is for, as it is given; InputError where it can't be."""
    name, first = metric_of(metric, "metric", names)
    found = bounds.read(constraints, "constraints")
    metrics = [first, *(values_of(each, f"constraints.{i}", names) for i, each in enumerate(found))]
    plain = without_groups(metrics, len(names.classes))
    measures = [Measure(of, bound) for of, bound in zip(plain, (None, *found), strict=True)]  # type: ignore[arg-type]
    return Goal(name, found, tuple(measures), names, any(isinstance(each, OfGroups) for each in metrics))


@contextmanager
def about(option: str) -> Iterator[None]:
    """Have an InputError say first which argument it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{option}.name: ").removeprefix(f"{option}: "), option) from None


def values_of(each: Constraint, option: str, names: Names) -> Metric:
    """Return what a constraint bounds: scores as reported, [n], or [n, m] where it is per class or group."""
    if each.each:
        with about(option):
            return values_of_each(each.metric, each.per, names, each.options).metric
    name, metric = metric_of({"name": each.metric, **each.options}, option, names)
    return change(metric, torch.neg) if name in LOWER_IS_BETTER else metric


def metric_of(given: Any, option: str, names: Names) -> tuple[str, OfLogits | OfGroups]:
    """Return a metric of logits and its name, as it is given; InputError where it is none."""
    found: Metric
    if isinstance(given, str | Mapping):
        with about(option):
            part = config.part("metric", given, option)
            name, found = part.name, part.metric()
            place(part.options.get("of"), names.classes)
    elif isinstance(given, Additive | OfGroups | Unbound | OfGenome | OfModule):
        name, found = option, given
    elif callable(given):
        name = getattr(given, "__name__", option)
        if name in METRICS:
            raise InputError(f"{name} is the name of another metric; give the function one of its own", option=option)
        found = own_metric(name, given)
    else:
        raise InputError(f"a metric expected, a {type(given).__name__} given; by name: {', '.join(METRICS)}", option)
    if isinstance(found, OfGenome | OfModule):
        raise InputError(f"{name} is of a network and its weights; a metric of logits is expected", option=option)
    with about(option):
        bound = bind(found, names)
    assert not isinstance(bound, OfGenome | OfModule | Unbound)
    return name, bound
