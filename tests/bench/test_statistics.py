import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroevo.bench import statistics
from neuroevo.bench.statistics import Estimate, Reach

SCORES = np.array([[0.80, 0.81, 0.79, 0.802, 0.80], [0.70, 0.72, 0.71, 0.69, 0.705]])


def by_hand(scores: np.ndarray, draws: int = 20000) -> tuple[float, float]:
    """The interval of the mean, seeds drawn anew within each split."""
    rng, found = np.random.default_rng(5), []
    for _ in range(draws):
        found.append(np.mean([rng.choice(row, len(row)) for row in scores]))
    return tuple(np.percentile(found, [2.5, 97.5]))


def test_the_interval_of_a_mean_is_that_of_drawing_seeds_anew_within_each_split() -> None:
    found, expected = statistics.estimate(SCORES), by_hand(SCORES)
    assert found.value == pytest.approx(SCORES.mean())
    assert (found.low, found.high) == pytest.approx(expected, abs=3e-4)
    # Without strata the gap between the splits would be in it.
    flat = statistics.estimate(SCORES.reshape(1, -1))
    assert flat.high - flat.low > 3 * (found.high - found.low)


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    values = np.array([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0]])
    assert statistics.estimate(values, statistics.interquartile_mean).value == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_runs_that_are_not_there_are_left_out_and_too_few_have_no_interval() -> None:
    some = np.array([[0.1, 0.2, np.nan], [np.nan] * 3])
    assert statistics.estimate(some).value == pytest.approx(0.15)
    assert statistics.estimate(some).low == pytest.approx(0.1)
    one = statistics.estimate(np.array([[0.3, np.nan]]))
    assert one.value == 0.3
    assert math.isnan(one.low)
    assert math.isnan(statistics.estimate(np.full((2, 2), np.nan)).value)
    assert statistics.estimate(np.array([[0.5, 0.5]])) == Estimate(0.5, 0.5, 0.5)


def test_with_one_seed_splits_are_drawn_anew() -> None:
    found = statistics.estimate(np.array([[0.8], [0.7], [0.9]]))
    assert found.low < 0.8 < found.high


def test_arms_are_compared_seed_by_seed() -> None:
    a = SCORES + 0.001
    found = statistics.compare(a, SCORES)
    for estimate, value in ((found.difference, 0.001), (found.probability, 1.0)):
        assert tuple(estimate) == pytest.approx((value,) * 3)
    mixed = SCORES.copy()
    mixed[0] += [0.001, -0.001, 0.0, 0.001, 0.001]
    assert statistics.compare(mixed[:1], SCORES[:1]).probability.value == pytest.approx((3 + 0.5) / 5)
    assert statistics.compare(mixed[:1], SCORES[:1], lower_is_better=True).probability.value == pytest.approx(1.5 / 5)
    gone = a.copy()
    gone[:, 1:] = np.nan  # only pairs count
    assert statistics.compare(gone, SCORES).difference.value == pytest.approx(0.001)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_an_interval_lies_within_the_scores(values: list[float]) -> None:
    found = statistics.estimate(np.array([values]))
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack


def test_a_level_is_reached_at_the_first_point_that_has_it_and_medians_count_who_does_not() -> None:
    curves = [[(10, 1.0, 0.5), (20, 2.0, 0.7)], [(10, 1.5, 0.7), (20, 2.5, 0.8)], [(10, 1.0, 0.1), (20, 2.0, 0.2)]]
    assert statistics.reach(curves, 0.7) == Reach(2, 20.0, 2.0)
    assert statistics.reach(curves, 0.8) == Reach(1, math.inf, math.inf)
    assert statistics.reach(curves[:2], 0.7) == Reach(2, 15.0, 1.75)
    assert statistics.reach(curves[::2], 0.7) == Reach(1, math.inf, math.inf)
    assert statistics.reach(curves, 0.5, lower_is_better=True) == Reach(2, 10.0, 1.0)
    assert statistics.reach([], 0.5) == Reach(0, math.inf, math.inf)
