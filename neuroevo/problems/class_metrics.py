"""Metrics of a class, of each class and of groups of samples: what constraints are put on.

A class is given by its name or its place; without one a metric is the mean over the classes that occur in targets. A
class or a group of which there are no samples can't be judged: among several values its own is NaN, and alone it is 0
for everybody. `each` gives all of them at once, from the same tallies of predictions that other metrics take.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor

from neuroevo.errors import InputError
from neuroevo.problems.metric import Additive, Metric, Names, OfGroups, Unbound, Whole
from neuroevo.problems.tallies import by_class, in_groups, log_sum, of_hits

Class = int | str | None


class Tally(NamedTuple):
    """Of each class [..., C] float64: predictions of it that are right, its samples, and all predictions of it."""

    hits: Tensor
    samples: Tensor
    predicted: Tensor


Values = Callable[[Tally], Tensor]  # -> [..., C], NaN where a class can't be judged
Counts = Callable[[Tally], tuple[Tensor, Tensor]]  # -> hits and of how many [..., C], of which values are the share


class Each(NamedTuple):
    """Values [n, k] of each class or group, as reported, NaN where there are no samples to judge by."""

    metric: Additive | Whole | OfGroups  # which return [n, k]
    names: tuple[str, ...]  # [k]


def _recalls(t: Tally) -> Tensor:
    return t.hits / t.samples


def _precisions(t: Tally) -> Tensor:
    return (t.hits / t.predicted.clamp(min=1)).masked_fill(t.samples == 0, torch.nan)


def _f1s(t: Tally) -> Tensor:
    return (2 * t.hits / (t.samples + t.predicted)).masked_fill(t.samples == 0, torch.nan)


def _false_positives(t: Tally) -> Tensor:
    return (t.predicted - t.hits) / (t.samples.sum(-1, keepdim=True) - t.samples)


def _accuracies(t: Tally) -> Tensor:
    return t.hits.sum(-1, keepdim=True) / t.samples.sum(-1, keepdim=True)


OF_TALLIES: dict[str, Values] = {
    "accuracy": _accuracies,
    "recall": _recalls,
    "precision": _precisions,
    "f1": _f1s,
    "false_positive_rate": _false_positives,
}


CLASS_METRICS = (*(name for name in OF_TALLIES if name != "accuracy"), "recall_at_precision")  # that each class has


def place(of: Class, classes: Sequence[str]) -> int | None:
    """Return the place of a class given by its name or its place among classes; InputError where there is none such."""
    if of is None:
        return None
    if str(of) in classes:
        return list(classes).index(str(of))
    count = len(classes)
    if isinstance(of, int):
        if 0 <= of < count:
            return of
        raise InputError(f"{of} given; the classes are 0 to {count - 1}", option="of")
    near = difflib.get_close_matches(of[:100], classes, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    there = ", ".join(classes[:20]) + (f" and {count - 20:,} more" if count > 20 else "")
    raise InputError(f"no class is called {of!r}{hint}; there are: {there}", option="of")


def _pick(values: Tensor, of: int | None) -> Tensor:
    """Return the value of a class [...], or the mean over those that can be judged, of values [..., C]."""
    return values.nanmean(-1) if of is None else values[..., of]


def _of_class(values: Values, of: Class, sign: int = 1, share: Counts | None = None) -> Additive | Unbound:
    """Make a metric of a class's value, or of the mean over classes; a class may have a `share` of what is counted."""

    def finish(totals: Tensor, where: int | None) -> Tensor:
        return sign * _pick(values(Tally(*totals.chunk(3, 1))), where).nan_to_num(0.0)

    def bind(names: Names) -> Additive:
        where = place(of, names.classes)
        found = Additive(of_hits, lambda totals: finish(totals, where))
        if share is None or where is None:
            return found
        return found._replace(share=lambda totals: torch.stack(share(Tally(*totals.chunk(3, 1))), -1)[:, where])

    return bind(Names(())) if of is None else Unbound(bind)


def recall(*, of: Class = None) -> Metric:
    """Share of a class's samples that are predicted as it (`of`, by name or place), or the mean over classes."""
    return _of_class(_recalls, of, share=lambda t: (t.hits, t.samples))


def precision(*, of: Class = None) -> Metric:
    """Share of the predictions of a class that are right (`of`, by name or place), or the mean over classes.

    0 where it is never predicted; the mean is over the classes that occur in targets.
    """
    return _of_class(_precisions, of, share=lambda t: (t.hits, t.predicted))


def f1(*, of: Class = None) -> Metric:
    """Harmonic mean of a class's recall and precision (`of`, by name or place), or its mean over classes.

    The mean is over the classes that occur in targets; macro_f1 counts those that are only predicted as well, as 0.
    """
    return _of_class(_f1s, of)


def false_positive_rate(*, of: Class = None) -> Metric:
    """Minus the share of the other classes' samples that are predicted as a class (`of`), or the mean over classes."""
    return _of_class(
        _false_positives, of, -1, lambda t: (t.predicted - t.hits, t.samples.sum(-1, keepdim=True) - t.samples)
    )


def recall_at_precision(*, precision: Annotated[float, Ge(0), Le(1)] = 0.9, of: Class = None) -> Metric:
    """Highest recall of a class (`of`) that a threshold on its probability gives at a precision, or the mean over all.

    Samples of equal probability, in float32, are on one side of any threshold; 0 where none gives that precision.
    """

    def scores(logits: Tensor, targets: Tensor, where: int | None) -> Tensor:
        found = _recalls_at(logits, targets, precision, where)
        return _pick(found, None).nan_to_num(0.0)

    def bind(names: Names) -> Whole:
        where = place(of, names.classes)
        return lambda logits, targets: scores(logits, targets, where)

    return bind(Names(())) if of is None else Unbound(bind)


def _recalls_at(logits: Tensor, targets: Tensor, precision: float, of: int | None) -> Tensor:
    """Return the highest recalls [n, C] at a precision, [n, 1] of one class; NaN where it has no samples."""
    x = by_class(logits.detach())
    normaliser, found = log_sum(x), []
    for c in range(x.shape[1]) if of is None else (of,):
        values, rows = (x[:, c] - normaliser).to(torch.float32).sort(dim=1, descending=True, stable=True)
        right = (targets == c).double()
        hits = right[rows].cumsum(1)
        whole = torch.ones_like(values, dtype=torch.bool)
        whole[:, :-1] = values[:, 1:] != values[:, :-1]  # a threshold takes all of equals
        taken = torch.arange(1, len(targets) + 1, dtype=torch.float64, device=x.device)
        fits = whole & (hits / taken >= precision) & ~values.isnan()
        found.append(hits.masked_fill(~fits, 0).amax(1) / right.sum())
    return torch.stack(found, 1)


def group_accuracy() -> Metric:
    """Mean over groups of samples of the accuracy in each; of data that have groups."""
    return Unbound(lambda names: _of_groups(names, lambda values: values.nanmean(1)), grouped=True)


def worst_group_accuracy() -> Metric:
    """Lowest accuracy of any group of samples (Sagawa et al. 2020, https://arxiv.org/abs/1911.08731)."""
    return Unbound(lambda names: _of_groups(names, lambda v: v.nan_to_num(nan=torch.inf).amin(1)), grouped=True)


def _of_groups(names: Names, reduce: Callable[[Tensor], Tensor]) -> OfGroups:
    every = _each_group(_accuracies, names, None)
    return OfGroups(Additive(every.statistics, lambda totals: reduce(every.finish(totals))))


def _each_group(values: Values, names: Names, of: int | None) -> Additive:
    """Return a value [n, G] of each group, of targets `class + C * group`; InputError where there are no groups."""
    groups = len(names.groups or ())
    if not groups:
        raise InputError(
            "the data have no groups of samples; an .npz file has them as an array groups [N], class folders as "
            "folders in them, read with groups: true"
        )

    def finish(totals: Tensor) -> Tensor:
        return _pick(values(Tally(*totals.view(len(totals), 3, groups, -1).unbind(1))), of)

    return Additive(in_groups(groups), finish)


def each(metric: str, per: str | None, names: Names, options: Mapping[str, Any]) -> Each:
    """Return a metric's values for each class or group (`per`), or of the one class that its options name, [n, 1].

    InputError where it has none, or names no class.
    """
    of = place(options.get("of"), names.classes)
    if per == "group":
        if metric not in OF_TALLIES:
            raise InputError(f"group goes with {', '.join(OF_TALLIES)}; {metric} is given", option="per")
        return Each(OfGroups(_each_group(OF_TALLIES[metric], names, of)), names.groups or ())
    if metric not in CLASS_METRICS:
        raise InputError(f"class goes with {', '.join(CLASS_METRICS)}; {metric} is given", option="per")
    if per is not None and of is not None:
        raise InputError(f"class has a value for each, and {options['of']} is one; leave one of them out", option="of")
    called = names.classes if of is None else ()
    if metric == "recall_at_precision":
        at = options.get("precision", 0.9)
        return Each(lambda logits, targets: _recalls_at(logits, targets, at, of), called)
    values = OF_TALLIES[metric]

    def finish(totals: Tensor) -> Tensor:
        found = values(Tally(*totals.chunk(3, 1)))
        return found if of is None else found[:, of, None]

    return Each(Additive(of_hits, finish), called)
