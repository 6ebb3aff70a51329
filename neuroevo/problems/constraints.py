"""Constraints: what a solution has to keep to beside being good, and who is better where some don't.

Deb's rules (Deb 2000, https://doi.org/10.1016/S0045-7825(99)00389-8) need no weights: a solution that is feasible comes
before one that isn't, the less violated before the more, and the objective decides among the feasible ones, and among
those that are violated by the same. `order` is that as one number; a violation is 0 exactly where all bounds are met.

`pose` makes metrics of a constraint, by which a population is scored as by any other: their statistics are taken in the
pass over logits that the fitness takes, and are the same where they are of the same tallies.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from neuroevo.engine.problem import VIOLATION as VIOLATION
from neuroevo.engine.scores import ranks
from neuroevo.errors import InputError, the
from neuroevo.problems.class_metrics import CLASS_METRICS
from neuroevo.problems.class_metrics import each as values_of
from neuroevo.problems.metric import (
    Metric,
    Names,
    OfGenome,
    OfGroups,
    OfModule,
    Unbound,
    as_reported,
    bind,
    change,
    of_network,
    score,
)
from neuroevo.problems.metrics import METRICS

Per = Literal["class", "group"]
SUBJECT_TO = "subject_to"  # the option that errors name, with a constraint's place behind it
KEYS = ("metric", "per", "at_least", "at_most")
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


# Metrics that lie between 0 and 1, and those of them that are a mean over classes.
SHARES = frozenset(
    {"accuracy", "top_k", "balanced_accuracy", "worst_class_accuracy", "macro_f1", "auroc", "calibration_error"}
    | {"recall", "precision", "f1", "false_positive_rate", "recall_at_precision", "group_accuracy"}
    | {"worst_group_accuracy"}
)
MEANS = frozenset({"recall", "precision", "f1", "false_positive_rate"})


class Constraint(NamedTuple):
    """Bounds on a metric as reported, on each of its values where it is taken per class or group."""

    metric: str  # its name
    per: Per | None = None
    at_least: float | None = None
    at_most: float | None = None
    options: Mapping[str, Any] = NO_OPTIONS  # of the metric
    function: Metric | None = None  # the metric, where it is none of the table's and not a number by this name

    def record(self) -> dict[str, Any]:
        """Return the constraint as a mapping that `read` takes."""
        own = {key: value for key, value in self.options.items() if value is not None}
        bounds = {"per": self.per, "at_least": self.at_least, "at_most": self.at_most}
        metric = {"name": self.metric, **own} if own else self.metric
        return {"metric": metric, **{key: value for key, value in bounds.items() if value is not None}}

    @property
    def each(self) -> bool:
        """Whether it is on single classes or groups, of which one without samples says nothing."""
        return self.per is not None or (self.metric in CLASS_METRICS and self.options.get("of") is not None)

    @property
    def of(self) -> str:
        """What is bounded, in words: precision of each class."""
        own = ", ".join(f"{name} {value}" for name, value in self.options.items() if value is not None)
        each = f" of each {self.per}" if self.per else ""
        return f"{self.metric}{each}{f' ({own})' if own else ''}"

    @property
    def bounds(self) -> str:
        """The bounds in words: at least 0.8."""
        both = {"at least": self.at_least, "at most": self.at_most}
        return ", ".join(f"{word} {bound:g}" for word, bound in both.items() if bound is not None)


def excess(values: Tensor, constraint: Constraint) -> Tensor:
    """Return how far each of values is beyond its bound, of their shape, float64: 0 where met, inf where NaN.

    What isn't a number can't be shown to keep to a bound, and metrics have no worst value in common: so it is inf, and
    comes behind all that are numbers.
    """
    values = values.to(torch.float64)
    found = torch.zeros_like(values)
    if constraint.at_least is not None:
        found = torch.maximum(found, constraint.at_least - values)
    if constraint.at_most is not None:
        found = torch.maximum(found, values - constraint.at_most)
    return found.masked_fill(values.isnan(), torch.inf)


def violation(values: Tensor, constraint: Constraint, judged: Tensor | None = None) -> Tensor:
    """Return by how much values [n, k] as reported violate a constraint in sum, [n] float64: 0 exactly where feasible.

    Only those that are `judged` [n, k] or [k] bool count, all by default: a class or group without a sample says
    nothing of anybody.
    """
    found = excess(values, constraint)
    return (found if judged is None else found.masked_fill(~judged, 0)).sum(1)


def asks_for_groups(constraint: Constraint) -> bool:
    """Tell whether a constraint can't be posed until groups of samples are known."""
    c = constraint
    whole = METRICS[c.metric](**c.options) if c.function is None else c.function
    return c.per == "group" or (isinstance(whole, Unbound) and whole.grouped)


class Posed(NamedTuple):
    """A constraint on the classes and groups of a problem."""

    constraint: Constraint
    names: tuple[str, ...]  # [k] of its values: classes or groups; () where it has one
    values: Metric  # which returns [n, k], as reported, NaN for a class or group without samples
    score: Metric  # minus the violation [n]
    sparse: bool = False  # whether NaN is of a class or group without samples, which says nothing

    def of_network(self, weights: Callable[[Tensor], Tensor]) -> "Posed":
        """Return the constraint on what `weights` makes of genomes, where it is on a metric of genomes."""
        return self._replace(values=of_network(self.values, weights), score=of_network(self.score, weights))


def pose(constraint: Constraint, names: Names) -> Posed:
    """Return a constraint on the classes and groups of a problem; InputError where it speaks of others."""
    c = constraint
    if c.function is not None and c.per is not None:
        raise InputError(f"per: {c.per} goes with metrics of the table, and {c.metric} is your own", option="per")
    if c.each:
        found = values_of(c.metric, c.per, names, c.options)
        score = change(found.metric, lambda values: -violation(values, c, ~values.isnan()))
        return Posed(c, found.names, found.metric, score, sparse=True)
    whole = bind(METRICS[c.metric](**c.options) if c.function is None else c.function, names)

    def values(scores: Tensor) -> Tensor:
        return scores[:, None] if c.function is not None else as_reported(c.metric, scores[:, None])

    return Posed(c, (), change(whole, values), change(whole, lambda scores: -violation(values(scores), c)))


def compliance(
    constraints: Sequence[Posed],
    values: Sequence[Metric],
    logits: Tensor,
    targets: Tensor,
    apart: Callable[[OfGenome | OfModule], Tensor],
) -> dict[str, dict[str, Any]]:
    """Return how logits [1, B, C] keep to each constraint, in words, whose values are by metrics of targets [B].

    `apart` says what a metric finds that no logits are for.
    """
    found = {}
    for posed, metric in zip(constraints, values, strict=True):
        assert not isinstance(metric, OfGroups | Unbound)
        own = apart(metric) if isinstance(metric, OfGenome | OfModule) else score(metric, logits, targets)
        found[f"{posed.constraint.of} {posed.constraint.bounds}"] = describe(posed, own[0])
    return found


def describe(posed: Posed, values: Tensor) -> dict[str, Any]:
    """Return how a constraint is kept to by one individual's values [k], for a record.

    `slack` is how far the worst value is within its bound, below 0 where it is beyond; None where no value is known.
    """
    c, values = posed.constraint, values.cpu()
    numbers = [float(value) if bool(value.isfinite()) else None for value in values]
    slacks = [
        min(sign * (value - bound) for sign, bound in ((1, c.at_least), (-1, c.at_most)) if bound is not None)
        if value is not None
        else math.inf
        for value in numbers
    ]
    worst = min(range(len(slacks)), key=slacks.__getitem__)
    beyond = float(violation(values[None], c, ~values.isnan() if posed.sparse else None))
    return {
        "feasible": beyond == 0,
        "violation": beyond if math.isfinite(beyond) else None,
        "slack": slacks[worst] if math.isfinite(slacks[worst]) else None,
        **({"worst": posed.names[worst]} if posed.names else {}),
        **({"values": dict(zip(posed.names, numbers, strict=True))} if posed.names else {"value": numbers[0]}),
    }


def of_numbers(found: Mapping[str, float], constraints: Sequence[Constraint]) -> float:
    """Return by how much numbers by name violate constraints in sum; InputError for a name that isn't among them."""
    there = f"the function returned {', '.join(found)}"
    if VIOLATION in found:
        raise InputError(f"{there}; {VIOLATION} is what constraints are violated by: rename it", option=SUBJECT_TO)
    beyond = 0.0
    for i, each in enumerate(constraints):
        if each.metric not in found:
            line = f"no number is called {each.metric}{near(each.metric, list(found))}; {there}"
            raise InputError(line, option=f"{SUBJECT_TO}.{i}")
        beyond += float(violation(torch.tensor([[found[each.metric]]], dtype=torch.float64), each))
    return beyond


def order(violations: Tensor, objective: Tensor) -> Tensor:
    """Return Deb's order [n] as dense ranks, highest best, of violations [n] and an objective [n] or, for ties, [n, m].

    The objective is the higher the better.
    """
    objective = objective if objective.ndim == 2 else objective[:, None]
    return ranks(torch.cat([-violations[:, None].to(objective.dtype), objective], dim=1))


class On(NamedTuple):
    """What a constraint is on."""

    metric: str
    options: Mapping[str, Any] = NO_OPTIONS
    function: Metric | None = None


def by_name(metric: Any, option: str) -> On:
    """Return a metric given by its name, or by a mapping with one and its options; InputError where none is named."""
    name, own = metric, NO_OPTIONS
    if isinstance(metric, Mapping):
        name, own = metric.get("name"), {key: value for key, value in metric.items() if key != "name"}
    if not isinstance(name, str):
        raise InputError(f"no metric is named; there are: {', '.join(METRICS)}", option=option)
    return On(name, own)


def read(
    given: Any, option: str = SUBJECT_TO, *, table: bool = True, resolve: Callable[[Any, str], On] = by_name
) -> tuple[Constraint, ...]:
    """Return constraints as they are given: a list of them, or of mappings `{metric, per, at_least, at_most}`.

    `resolve` makes of a metric what it is on: one of the `table`, or a number that a function returns by that name.
    InputError names the first that can't be, and why.
    """
    if isinstance(given, Mapping | str | Constraint) or not isinstance(given, Sequence):
        raise InputError(f"{_show(given)} given; a list of {{metric: ..., at_least: ...}} expected", option=option)
    found = tuple(_read_one(each, f"{option}.{i}", resolve) for i, each in enumerate(given))
    check(found, option, table=table)
    return found


def _read_one(given: Any, option: str, resolve: Callable[[Any, str], On]) -> Constraint:
    if isinstance(given, Constraint):
        return given
    if not isinstance(given, Mapping):
        raise InputError(f"{_show(given)} given; a mapping with metric and at_least or at_most expected", option=option)
    for key in given:
        if key not in KEYS:
            raise InputError(f"{key}: unknown key{near(str(key), KEYS)}; there are: {', '.join(KEYS)}", option=option)
    on = by_name(None, option) if given.get("metric") is None else resolve(given["metric"], option)
    bounds = given.get("per"), given.get("at_least"), given.get("at_most")
    return Constraint(on.metric, *bounds, on.options, on.function)


def check(constraints: Sequence[Constraint], option: str = SUBJECT_TO, *, table: bool = True) -> None:
    """See that constraints can be met, each and all of them together; InputError names one that can't."""
    for i, each in enumerate(constraints):
        _check_one(each, f"{option}.{i}", table)
        for j, other in enumerate(constraints[:i]):
            if (each.metric, dict(each.options)) != (other.metric, dict(other.options)):
                continue
            # A mean over classes lies between the lowest and the highest of them.
            if each.per != other.per and (None not in (each.per, other.per) or each.metric not in MEANS):
                continue
            for low, high in ((each, other), (other, each)):
                if low.at_least is not None and high.at_most is not None and low.at_least > high.at_most:
                    line = f"{each.of} {each.bounds} contradicts {the(f'{option}.{j}')}: {other.bounds}"
                    raise InputError(line, option=f"{option}.{i}")


def _check_one(each: Constraint, option: str, table: bool) -> None:
    if table and each.function is None and each.metric not in METRICS:
        line = f"no metric is called {each.metric!r}{near(each.metric, METRICS)}; there are: {', '.join(METRICS)}"
        raise InputError(line, option=option)
    if each.per not in (None, *get_args(Per)):
        raise InputError(f"per: {_show(each.per)} given; class or group expected", option=option)
    for key, bound in (("at_least", each.at_least), ("at_most", each.at_most)):
        if bound is not None and (not isinstance(bound, Real) or isinstance(bound, bool) or not abs(bound) < 1e308):
            raise InputError(f"{key}: {_show(bound)} given; a finite number expected", option=option)
    if not table and (each.per is not None or each.options):
        raise InputError(f"{each.of}: the function's own numbers have no options, and are per nothing", option=option)
    if each.at_least is None and each.at_most is None:
        raise InputError(f"{each.of} has no bound; give at_least, at_most or both", option=option)
    if table and each.metric in SHARES:
        beyond = [bound for bound in (each.at_least,) if bound is not None and bound > 1]
        beyond += [bound for bound in (each.at_most,) if bound is not None and bound < 0]
        if beyond:
            raise InputError(f"{each.of}: {beyond[0]:g} given, and it lies between 0 and 1; nothing meets that", option)
    if each.at_least is not None and each.at_most is not None and each.at_least > each.at_most:
        line = f"{each.of}: at_least {each.at_least:g} is above at_most {each.at_most:g}; nothing meets both"
        raise InputError(line, option=option)


def near(key: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    """Return the nearest of the names to one that is unknown, as an error says it; nothing where none is near."""
    found = difflib.get_close_matches(key[:100], list(names), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _show(value: object) -> str:
    return repr(value)[:80]
