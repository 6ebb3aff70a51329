"""Logistic regression, against its own definition and scikit-learn's other ways to it."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from neuroevo.problems import logistic


def samples(classes: int, n: int = 120, d: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=source)
    y = (x @ torch.randn(d, classes, generator=source) + torch.randn(n, classes, generator=source)).argmax(1)
    return x, y


@pytest.mark.parametrize("classes", [2, 4])
def test_a_fit_gives_the_probabilities_of_the_library_of_two_classes_as_of_many(classes: int) -> None:
    x, y = samples(classes)
    (found,) = logistic.fit(x, y, classes, [0.5], tolerance=1e-6)
    right = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(x.numpy(), y.numpy()).predict_proba(x.numpy())
    ours = (x @ found.weight.T + found.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, right, atol=1e-3)
    assert found.converged and 1 < found.passes < logistic.ITERATIONS


def test_penalties_are_fitted_one_after_the_other_and_only_as_far_as_they_are_asked_for() -> None:
    x, y = samples(3)
    path = logistic.fit(x, y, 3, [1e-3, 1.0, 100.0])
    sizes = [float(next(path).weight.norm()) for _ in range(2)]
    assert sizes[0] < sizes[1]


def test_a_class_without_a_sample_is_never_predicted() -> None:
    x, y = samples(3)
    (found,) = logistic.fit(x[y != 1], y[y != 1], 3, [1.0])
    assert found.weight.shape == (3, 5) and not found.weight[1].any()
    assert not ((x @ found.weight.T + found.bias).argmax(1) == 1).any()


def test_balanced_fits_give_a_rare_class_more() -> None:
    x, y = samples(2)
    keep = (y == 0) | (torch.arange(len(y)) % 8 == 0)
    plain, balanced = (next(logistic.fit(x[keep], y[keep], 2, [1.0], balanced=b)) for b in (False, True))
    share = [float(((x @ of.weight.T + of.bias).argmax(1) == 1).float().mean()) for of in (plain, balanced)]
    assert share[1] > share[0]


def test_folds_hold_out_each_sample_once_with_all_classes_in_what_is_fitted() -> None:
    y = torch.tensor([0] * 9 + [1] * 3)
    found = logistic.folds(y, 5, 0)
    assert len(found) == 3  # as many as the smallest class has
    assert sorted(torch.cat([held for _, held in found]).tolist()) == list(range(12))
    for fitted, held in found:
        assert {*fitted.tolist()} | {*held.tolist()} == {*range(12)}
        assert (y[held] == 1).sum() == 1
    assert not torch.equal(found[0][1], logistic.folds(y, 5, 1)[0][1])
    assert logistic.folds(torch.tensor([0, 0, 1]), 5, 0) == []
