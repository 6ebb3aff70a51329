import math

import pytest
import torch

from neuroevo.decision import crossfit
from neuroevo.decision.crossfit import Row, choose, error
from neuroevo.decision.fits import Fit
from neuroevo.decision.rules import Rule


def row(name: str, value: float, without: list[float], violation: float = 0.0, missed: float | None = None) -> Row:
    pairs = tuple((each, violation if missed is None else missed * (1 + i)) for i, each in enumerate(without))
    return Row(name, value, error(without), 0.0, violation, pairs, Fit(Rule.nothing(2)))


def test_every_class_is_spread_evenly_over_folds_and_each_fold_is_of_one_size() -> None:
    targets = torch.tensor([0] * 41 + [1] * 13 + [2] * 3)
    fold = crossfit.split(targets, 5, 0)
    assert torch.bincount(fold).tolist() == [12, 12, 11, 11, 11]
    for c in range(3):
        counts = torch.bincount(fold[targets == c], minlength=5)
        assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(fold, crossfit.split(targets, 5, 0))
    assert not torch.equal(fold, crossfit.split(targets, 5, 1))


def test_the_jackknifes_error_of_a_mean_over_equal_folds_is_the_folds_own() -> None:
    folds = torch.tensor([0.7, 0.8, 0.75, 0.9, 0.6])
    without = [float((folds.sum() - each) / 4) for each in folds]
    assert error(without) == pytest.approx(float(folds.std()) / math.sqrt(5), rel=1e-5)


def test_the_simplest_row_within_one_standard_error_of_the_best_is_chosen() -> None:
    plain = row("argmax", 0.70, [0.70, 0.71, 0.69])
    noisy = row("evolved", 0.71, [0.70, 0.74, 0.69])
    clear = row("coordinate", 0.75, [0.75, 0.76, 0.74])
    assert choose([plain, noisy])[0] is plain
    assert choose([plain, clear])[0] is clear
    assert choose([clear, plain])[0] is clear
    assert choose([plain, plain])[0] is plain  # nothing is ahead: do nothing


def test_a_row_that_keeps_bounds_is_before_a_better_one_that_does_not() -> None:
    plain = row("argmax", 0.605, [0.60, 0.63, 0.59], violation=0.1)
    kept = row("coordinate", 0.60, [0.60, 0.61, 0.59])
    level = row("evolved", 0.61, [0.60, 0.64, 0.59])
    assert choose([plain, kept, level])[0] is kept


def test_where_no_row_keeps_bounds_the_least_violated_counts() -> None:
    far = row("argmax", 0.9, [0.9, 0.9], violation=0.5)
    near = row("coordinate", 0.5, [0.5, 0.5], violation=0.1)
    assert choose([far, near])[0] is near
    assert choose([row("argmax", 0.9, [0.9, 0.9], violation=0.12, missed=0.1), near])[0].name == "argmax"
