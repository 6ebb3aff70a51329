"""Logistic regression by scikit-learn: what a linear head on fixed features should be compared with.

Multinomial, with an L2 penalty of 1 / (2 C), by L-BFGS (scikit-learn's `LogisticRegression`).
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ITERATIONS = 100  # of L-BFGS at most
NEVER = 10.0  # logits below all others that a class gets which no sample has
Rows = tuple[Tensor, Tensor]  # of samples, [n] int64: those that are fitted, and those that are held out


class Fitted(NamedTuple):
    """A linear map from features to logits."""

    weight: Tensor  # [C, d] float32
    bias: Tensor  # [C] float32
    passes: int  # over its samples, each forward and backward
    converged: bool  # within ITERATIONS


def fit(
    x: Tensor, y: Tensor, classes: int, penalties: Sequence[float], *, balanced: bool = False, tolerance: float = 1e-4
) -> Iterator[Fitted]:
    """Yield fits of labels y [n], of which there are two at least, to features x [n, d], one for each C of `penalties`.

    Each begins where the one before it ended. `balanced` weighs a sample by the inverse of its class's share;
    a fit ends where no derivative of the mean loss is beyond the `tolerance`.
    """
    from sklearn.exceptions import ConvergenceWarning  # it takes a second to import
    from sklearn.linear_model import LogisticRegression

    weight = "balanced" if balanced else None
    model = LogisticRegression(max_iter=ITERATIONS, tol=tolerance, warm_start=True, class_weight=weight)
    for c in penalties:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says so
            warnings.simplefilter("ignore", RuntimeWarning)  # of steps too long, which L-BFGS takes back
            model.set_params(C=c).fit(x.numpy(), y.numpy())
        passes = int(model.n_iter_.max())
        slopes, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
        if len(slopes) == 1:  # of two classes it has the difference
            slopes, bias = torch.cat([-slopes, slopes]) / 2, torch.cat([-bias, bias]) / 2
        there = torch.from_numpy(model.classes_)
        whole = slopes.new_zeros(classes, slopes.shape[1]).index_copy(0, there, slopes)
        biases = bias.new_full((classes,), float(bias.min()) - NEVER).index_copy(0, there, bias)
        yield Fitted(whole, biases, passes, passes < ITERATIONS)


def folds(y: Tensor, most: int, seed: int) -> list[Rows]:
    """Return stratified folds of labels y [n], `most` of them or as many as the smallest class has samples.

    There are none where a class has one sample alone.
    """
    from sklearn.model_selection import StratifiedKFold

    count = min(most, int(y.unique(return_counts=True)[1].min()))
    if count < 2:
        return []
    parts = StratifiedKFold(count, shuffle=True, random_state=seed % 2**32).split(np.zeros(len(y)), y.numpy())
    return [(torch.from_numpy(fitted), torch.from_numpy(held)) for fitted, held in parts]
