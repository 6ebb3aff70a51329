"""Rows of ways to decide, each fitted on all folds but one and judged on the one left out, and which of them to trust.

All is judged on the predictions for samples left out, of all folds together: a metric of a fold alone would say less of
rare classes. Standard errors, of values and of differences, are the jackknife's that leaves out one fold after another
(Efron & Tibshirani 1993, chapter 11); for a mean over samples in folds of one size that is the folds' own.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.decision.fits import FITS, Fit, Fitting
from neuroevo.decision.judge import Judge, Samples
from neuroevo.engine.rng import generator

MARGINS = (0.0, 0.03, 0.1)  # by which bounds are further in for a fit: one that is just met on it is missed elsewhere


class Row(NamedTuple):
    """A way to decide, as samples judge it that it wasn't fitted to."""

    name: str
    value: float  # the metric, the higher the better
    se: float  # its standard error over folds
    gap: float  # by how much it was better on the samples that it was fitted to
    violation: float  # by how much constraints are missed, in sum; 0: feasible
    without: tuple[tuple[float, float], ...]  # value and violation without each fold
    fit: Fit  # of all samples

    @property
    def feasible(self) -> bool:
        """Whether all constraints are kept."""
        return self.violation == 0


def split(targets: Tensor, folds: int, seed: int) -> Tensor:
    """Return the fold [N] of each sample, drawn so that those of each target [N] are spread evenly over them."""
    order = torch.randperm(len(targets), generator=generator(seed, "folds", 0))
    order = order[targets[order].argsort(stable=True)]
    found = torch.empty_like(targets)
    found[order] = torch.arange(len(order)) % folds
    return found


def rows(
    judge: Judge,
    samples: Samples,
    prior: Tensor,
    fold: Tensor,
    *,
    seed: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Row]:
    """Return a row for each way to decide, the simplest first; `prior` [C] are the classes' shares in training."""
    names = [(name, margin) for name in FITS for margin in (MARGINS if judge.bound and name != "argmax" else (0.0,))]
    tried: list[Row] = []
    for name, margin in names:
        tried.append(row(judge, samples, prior, fold, how=(name, margin), seed=seed))
        progress(len(tried), len(names))
    # Of margins the least by which bounds are kept on what was left out; where none is, that which misses them least.
    return [min((each for each in tried if each.name == name), key=lambda each: each.violation) for name in FITS]


def row(judge: Judge, samples: Samples, prior: Tensor, fold: Tensor, *, how: tuple[str, float], seed: int) -> Row:
    """Return the row of a way to decide by its name, that is fitted to bounds further in by a margin."""
    (name, margin), folds = how, range(int(fold.max()) + 1)
    fit, tight = FITS[name], judge.tighten(margin)
    out, inside = torch.empty_like(samples.logits), 0.0
    for k in folds:
        within, left = samples.take((fold != k).nonzero()[:, 0]), (fold == k).nonzero()[:, 0]
        rule = fit(Fitting(tight, within, prior, seed)).rule
        inside += float(judge.worth(rule, within).values) / len(folds)
        out[left] = rule.apply(samples.logits[left])
    whole = fit(Fitting(tight, samples, prior, seed))
    about = f"{whole.about} margin {margin:g}".strip() if margin else whole.about
    value, violation = worth_of(judge, out, samples, slice(None))
    without = tuple(worth_of(judge, out, samples, fold != k) for k in folds)
    se = error([value for value, _ in without])
    rule = whole.rule.plain(scale_counts=judge.tables is None)
    return Row(name, value, se, inside - value, violation, without, Fit(rule, about))


def worth_of(judge: Judge, logits: Tensor, samples: Samples, where: Tensor | slice) -> tuple[float, float]:
    """Return value and violation of some of the logits [N, C] that rules of folds made."""
    worth = judge.of_applied(logits[where], samples.take(where))
    return float(worth.values), float(worth.violations)


def error(without: Sequence[float]) -> float:
    """Return the jackknife's standard error of an estimate, given it without each of the folds."""
    k, mean = len(without), math.fsum(without) / len(without)
    return math.sqrt((k - 1) / k * math.fsum((value - mean) ** 2 for value in without))


def choose(found: Sequence[Row]) -> tuple[Row, str]:
    """Return the simplest row within one standard error of the best, and why in words.

    The best is the one of highest value among the feasible, else the least violated. A simpler one that isn't feasible
    is never taken in place of one that is; the error is of the difference, over folds.
    """
    best = min(found, key=lambda row: (row.violation, -row.value))
    for row in found[: found.index(best)]:
        if best.feasible and not row.feasible:
            continue
        ours, theirs = (value_or_violation(each, best.feasible) for each in (best, row))
        apart = error([a - b for a, b in zip(ours[1:], theirs[1:], strict=True)])
        if abs(ours[0] - theirs[0]) <= apart:
            return row, f"within one standard error of {best.name}, {apart:.4f}"
    return best, "nothing is ahead of it" if best is found[0] else "ahead of simpler rows by a standard error"


def value_or_violation(row: Row, value: bool) -> list[float]:
    """Return a row's value, or else its violation, and the same without each fold."""
    return [row.value if value else row.violation, *(each[0 if value else 1] for each in row.without)]
