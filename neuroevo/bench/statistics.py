"""Statistics of several runs of an arm: means, intervals, comparisons paired over seeds, samples to a level.

Scores are arrays [splits, seeds], NaN where a run isn't there. Intervals are percentiles of a stratified bootstrap
(Efron 1979): seeds are drawn anew within each split, as Agarwal et al. 2021 (rliable) do within each task. With few
seeds they are too narrow: of normal scores five seeds give 85 % in place of 95 %.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9999
QUARTER = 0.25  # of the runs at either end that an interquartile mean leaves out

Scores = NDArray[np.float64]
Statistic = Callable[[Scores, int], Scores]  # values and the axis that it takes away


class Estimate(NamedTuple):
    """A figure with its 95 % interval; NaN where there is too little to tell."""

    value: float
    low: float
    high: float


def mean(values: Scores, axis: int = -1) -> Scores:
    """Return the mean."""
    return np.asarray(values.mean(axis))


def interquartile_mean(values: Scores, axis: int = -1) -> Scores:
    """Return the mean of the middle half of the values."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(values, QUARTER, axis))


def estimate(scores: Scores, statistic: Statistic = mean) -> Estimate:
    """Return a statistic of all scores [splits, seeds], with its interval.

    Where each split has one run only, splits are what is drawn anew.
    """
    from scipy.stats import bootstrap

    strata = [row[~np.isnan(row)] for row in np.atleast_2d(scores)]
    strata = [row for row in strata if len(row)]
    if not strata:
        return Estimate(float("nan"), float("nan"), float("nan"))
    if max(map(len, strata)) == 1:
        strata = [np.concatenate(strata)]
    whole = np.concatenate(strata)
    value = float(statistic(whole, -1))
    if min(map(len, strata)) < 2:
        return Estimate(value, float("nan"), float("nan"))
    if float(np.ptp(whole)) == 0:
        return Estimate(value, value, value)

    def of_pool(*parts: Scores, axis: int = -1) -> Scores:
        return statistic(np.concatenate(parts, axis), axis)

    found = bootstrap(
        strata, of_pool, n_resamples=RESAMPLES, method="percentile", vectorized=True, rng=np.random.default_rng(0)
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


class Comparison(NamedTuple):
    """Arm a against arm b, run by run of the same seed and split."""

    difference: Estimate  # of their scores, a minus b
    probability: Estimate  # that a is better than b; a tie is half


def compare(a: Scores, b: Scores, lower_is_better: bool = False) -> Comparison:
    """Compare two arms' scores [splits, seeds], paired."""
    gap = a - b
    wins = (np.sign(-gap if lower_is_better else gap) + 1) / 2  # NaN stays NaN
    return Comparison(estimate(gap), estimate(wins))


class Reach(NamedTuple):
    """The samples and seconds in which runs come to a level."""

    reached: int  # runs that do
    samples: float  # median over all runs; infinite where half of them don't come to it
    seconds: float


def reach(curves: Sequence[Sequence[tuple[float, float, float]]], level: float, lower_is_better: bool = False) -> Reach:
    """Return the samples and seconds in which runs come to a level.

    Each curve's points are samples, seconds, and the best so far.
    """
    firsts = []
    for curve in curves:
        there = (
            (samples, seconds)
            for samples, seconds, value in curve
            if (value <= level if lower_is_better else value >= level)
        )
        firsts.append(next(there, (np.inf, np.inf)))
    if not firsts:
        return Reach(0, np.inf, np.inf)
    samples, seconds = np.array(firsts).T
    return Reach(int(np.isfinite(samples).sum()), middle(samples), middle(seconds))


def middle(values: Scores) -> float:
    """Return the median; of an even number the higher of the two in the middle, where the other is infinite."""
    ordered = np.sort(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(high if np.isinf(high) else (low + high) / 2)
