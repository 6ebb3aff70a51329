"""A decision stage on logits of any library: offsets and scales of classes, fitted across folds, or none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo.decision import arrays, crossfit
from neuroevo.decision.crossfit import Row
from neuroevo.decision.goal import Goal, goal_of
from neuroevo.decision.judge import Judge
from neuroevo.decision.rules import Rule, predict
from neuroevo.errors import InputError
from neuroevo.problems.metric import Names, as_reported

INFEASIBLE = "no row keeps to all constraints on what was left out: the least violated counts"
Progress = Callable[[int, int], object]


class Score(NamedTuple):
    """What a decision is worth on samples that it wasn't fitted to."""

    value: float  # the metric as reported
    violation: float  # by how much constraints are missed, in sum

    @property
    def feasible(self) -> bool:
        """Whether all constraints are kept."""
        return self.violation == 0


@dataclass(frozen=True, repr=False)
class Decision:
    """How classes are decided by logits: the first of the highest of `scales * logits + offsets`."""

    metric: str
    chosen: str  # the row's name
    why: str
    rows: tuple[Row, ...]  # the simplest first; their values are the higher the better
    rule: Rule  # of the chosen row, fitted to all samples
    goal: Goal
    samples: int
    folds: int
    notes: tuple[str, ...] = ()

    @property
    def offsets(self) -> Tensor:
        """What is added to each class's logit [C] float64; they sum to 0."""
        return self.rule.offsets

    @property
    def scales(self) -> Tensor:
        """What each class's logit is multiplied by before [C] float64, above 0."""
        return self.rule.scales

    @property
    def nothing(self) -> bool:
        """Whether it is plain argmax."""
        return self.chosen == self.rows[0].name

    def as_reported(self, value: float) -> float:
        """Return a row's value as the metric is reported."""
        return as_reported(self.metric, value)

    def apply(self, logits: Any) -> Any:
        """Return logits [N, C] as the rule sees them, float64, of the library of those given."""
        return arrays.like(self.rule.apply(self._check(logits)), logits)

    def predict(self, logits: Any) -> Any:
        """Return the class [N] int64 decided of logits [N, C], of the library of those given."""
        return arrays.like(predict(self.rule, self._check(logits))[0], logits)

    def fold(self, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        """Return weights [C, d] and biases [C] of a linear layer that decides as the rule does of the layer given.

        They are of the library and kind of those given; a layer without a bias gets one.
        """
        classes, given = len(self.offsets), arrays.tensor(weight, "weight")
        if given.ndim != 2 or len(given) != classes or not given.is_floating_point():
            raise InputError(f"of shape {list(given.shape)}; [{classes}, d] real numbers expected", option="weight")
        own = torch.zeros(classes) if bias is None else arrays.tensor(bias, "bias")
        if own.shape != (classes,):
            raise InputError(f"of shape {list(own.shape)}; [{classes}] expected", option="bias")
        rows = (given.double() * self.scales[:, None]).to(given.dtype)
        ends = (own.double() * self.scales + self.offsets).to(given.dtype)
        return arrays.like(rows, weight), arrays.like(ends, weight)

    def score(self, logits: Any, y: Any, groups: Any = None, *, row: str | None = None) -> Score:
        """Return what a row, the chosen one by default, is worth on other samples."""
        rule = self.rule if row is None else next(each.fit.rule for each in self.rows if each.name == row)
        return self.score_of(rule, logits, y, groups)

    def score_of(self, rule: Rule, logits: Any, y: Any, groups: Any = None) -> Score:
        """Return what any rule is worth on samples."""
        checked = self._check(logits)
        samples = self.goal.samples(checked, arrays.read_labels(y, len(checked), len(self.offsets)), groups)
        worth = Judge(self.goal.measures, samples).worth(rule, samples)
        return Score(self.as_reported(float(worth.values)), float(worth.violations))

    def _check(self, logits: Any) -> Tensor:
        found = arrays.read_logits(logits)
        if found.shape[1] != len(self.offsets):
            raise InputError(f"of {found.shape[1]} classes; {len(self.offsets)} expected", option="logits")
        return found

    def lines(self) -> list[str]:
        """Return the rows as a table of 80 columns, the one that is chosen marked, what was asked, and why it was."""
        bounds = [f"subject to {each.of} {each.bounds}" for each in self.goal.constraints]
        body = [["", "row", "out of fold", "fit - held out", *(["violation"] if bounds else []), ""]]
        for row in self.rows:
            value = f"{self.as_reported(row.value):.4f} +- {row.se:.4f}"
            kept = ["kept" if row.feasible else f"{row.violation:.4f}"] if bounds else []
            mark = ">" if row.name == self.chosen else ""
            body.append([mark, row.name, value, f"{self.as_reported(row.gap):+.4f}", *kept, row.fit.about])
        widths = [max(map(len, column)) for column in zip(*body, strict=True)]
        return [
            f"{self.metric} of {self.samples:,} samples, {self.folds} folds",
            *bounds,
            *("  ".join(map(str.ljust, line, widths)).rstrip() for line in body),
            f"chosen: {'do nothing, argmax' if self.nothing else self.chosen} ({self.why})",
            *(f"note: {line}" for line in self.notes),
        ]

    def __repr__(self) -> str:
        """Return the rows as a table."""
        return "\n".join(self.lines())


def tune_decision(
    logits: Any,
    y: Any,
    metric: Any = "balanced_accuracy",
    constraints: Sequence[Any] = (),
    groups: Any = None,
    *,
    classes: Sequence[str] | None = None,
    prior: Any = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Decision:
    """Return how to decide by logits [N, C] for a metric, tuned on labels y [N], each 0 to C - 1.

    Arrays are of any library. A metric is a name, `{name: ..., option: ...}`, or a function of (logits [n, B, C],
    targets [B]) -> scores [n], the higher the better. `constraints` are `{metric: ..., per: class or group, at_least or
    at_most: ...}`; what keeps to them is before what doesn't. `groups` [N] are numbers or names, `classes` [C] names,
    `prior` [C] the classes' shares where the network was trained, those of y by default.

    Ways to decide, the simplest first: argmax (do nothing), the prior's correction, coordinate ascent over offsets, and
    evolved offsets and scales. Each is fitted on all of `folds` but one, and judged on those left out; the simplest
    within one standard error of the best is chosen, and fitted to all. InputError names what can't be.
    """
    found = arrays.read_logits(logits)
    n, c = found.shape
    labels = arrays.read_labels(y, n, c)
    own = arrays.read_groups(groups, n)[1] if groups is not None else ()
    goal = goal_of(metric, constraints, Names(arrays.read_classes(classes, c), own))
    samples = goal.samples(found, labels, groups)
    shares = arrays.read_prior(prior, labels, c)
    if not isinstance(folds, int) or isinstance(folds, bool) or not 2 <= folds <= n:
        raise InputError(f"{folds} given; a whole number from 2 to {n}, as many as samples, expected", option="folds")
    counts = torch.bincount(labels, minlength=c).tolist()
    if sum(count > 0 for count in counts) < 2:
        raise InputError("all samples are of one class; there is nothing to decide", option="y")
    judge = Judge(goal.measures, samples)
    fold = crossfit.split(samples.targets, folds, seed)
    rows = crossfit.rows(judge, samples, shares, fold, seed=seed, progress=progress)
    best, why = crossfit.choose(rows)
    return Decision(
        metric=goal.name,
        chosen=best.name,
        why=why,
        rows=tuple(rows),
        rule=best.fit.rule,
        goal=goal,
        samples=n,
        folds=folds,
        notes=(*notes(counts, folds), *(() if best.feasible else (INFEASIBLE,))),
    )


def notes(counts: Sequence[int], folds: int) -> list[str]:
    """Return lines on classes with few samples or none, of how many there are of each."""
    found = []
    none = [c for c, count in enumerate(counts) if count == 0]
    few = [c for c, count in enumerate(counts) if 0 < count < folds]
    if none:
        found.append(f"no sample of {_classes(none)}: nothing is known of the offsets there")
    if few:
        found.append(f"{_classes(few)} with fewer samples than {folds} folds: not in each fold left out")
    return found


def _classes(which: Sequence[int]) -> str:
    shown = ", ".join(map(str, which[:8])) + (", ..." if len(which) > 8 else "")
    return f"class {shown}" if len(which) == 1 else f"classes {shown}"
