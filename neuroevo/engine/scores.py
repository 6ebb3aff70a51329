"""What an evaluation found of a population, and its order."""

from typing import NamedTuple

import torch
from torch import Tensor


class Scores(NamedTuple):
    """What an evaluation found."""

    values: Tensor  # [n, m] float64, a column a metric, higher is better; -inf throughout for an invalid individual
    invalid: Tensor  # [n] bool: some logit was NaN or Inf
    objectives: int = 1  # the first so many columns; the others break their ties


def ranks(values: Tensor) -> Tensor:
    """Return the dense rank [n] of each row of values [n, m], highest best; later columns break ties of earlier."""
    dense: Tensor
    _, dense = torch.unique(values, dim=0, return_inverse=True)  # unique sorts rows lexicographically
    return dense.to(values.dtype)
