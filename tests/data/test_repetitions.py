import numpy as np
import pytest

from neuroevo.data.repetitions import count, repetitions, split, statistics

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
LABELS = RNG.integers(0, 3, 40)


def test_samples_are_the_same_wherever_they_were_and_however_they_are_repeated() -> None:
    times = RNG.integers(1, 4, 40)
    weighted = count(X, LABELS, times.astype(float))
    order = RNG.permutation(times.sum())
    repeated = count(X.repeat(times, 0)[order], LABELS.repeat(times)[order], np.ones(times.sum()))
    assert len(weighted.x) == 40
    for a, b in zip(weighted, repeated, strict=True):
        assert np.array_equal(a, b)


def test_equal_numbers_of_two_classes_are_two_samples_and_minus_zero_is_zero() -> None:
    found = count(np.array([[0.0], [-0.0], [0.0]]), np.array([0, 0, 1]), np.ones(3))
    assert sorted(zip(found.labels.tolist(), found.times.tolist(), strict=True)) == [(0, 2), (1, 1)]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 1, 1, 1], [1, 1, 1, 1]),
        ([2, 1, 4, 2], [2, 1, 4, 2]),
        ([0.5, 0.25, 1.0, 0.25], [2, 1, 4, 1]),
        ([0.1, 0.1, 0.3, 0.1], [1, 1, 3, 1]),
        ([1, 1e-12, 1, 1e-12], [21, 0, 21, 0]),
    ],
)
def test_weights_that_are_multiples_are_repetitions(weights: list[float], expected: list[int]) -> None:
    labels = np.array([0, 0, 1, 1])
    found = repetitions(np.array(weights, dtype=float), labels, 4)
    if 0 in expected:  # what is next to nothing is not there, and the others share all there is
        assert (found[1], found[3]) == (0, 0)
        assert abs(int(found[0]) - int(found[2])) <= 1
        assert found.sum() == 64
    else:
        assert found.tolist() == expected


def test_a_class_counts_for_what_it_weighs_to_within_one_and_at_least_for_one() -> None:
    weights, labels = RNG.exponential(size=500) ** 3, RNG.integers(0, 4, 500)
    weights[labels == 3] *= 1e-9
    found = repetitions(weights, labels, 500)
    scaled = weights * 16 / weights.mean()
    for label in range(3):
        assert abs(found[labels == label].sum() - scaled[labels == label].sum()) <= 1
    assert found[labels == 3].sum() == 1
    assert np.abs(found - scaled)[labels < 3].max() < 1 + 1e-6


def test_whole_weights_too_large_to_repeat_keep_their_ratio() -> None:
    found = repetitions(np.array([1000.0, 2001.0]), np.array([0, 1]), 2)
    assert found.tolist() == [11, 21]


def test_each_class_is_on_both_sides_of_a_split_or_there_is_none() -> None:
    train, validation = split(LABELS, 0.2, 0)
    assert len(validation) == 8
    assert sorted([*train, *validation]) == list(range(40))
    assert set(LABELS[train]) == set(LABELS[validation]) == {0, 1, 2}
    for labels, share in ((LABELS, 0.0), (LABELS, 0.05), (np.array([0, 0, 0, 1]), 0.5), (LABELS, 0.99)):
        train, validation = split(labels, share, 0)
        assert train.tolist() == validation.tolist() == list(range(len(labels)))


def test_statistics_are_those_of_repeated_rows_and_a_constant_has_deviation_one() -> None:
    x = np.column_stack([X, np.full(40, 0.1)])
    times = RNG.integers(1, 4, 40)
    mean, deviation = statistics(x, times)
    np.testing.assert_allclose(mean, x.repeat(times, 0).mean(0))
    np.testing.assert_allclose(deviation[:3], x[:, :3].repeat(times, 0).std(0))
    assert deviation[3] == 1
