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
    order = torch.arange(len(values), device=values.device)
    for column in values.T.flip(0):
        order = order[column[order].argsort(stable=True)]
    rows = values[order]
    rises = (rows[1:] != rows[:-1]).any(1).cumsum(0)  # `unique` would make a GPU wait for how many there are
    return values.new_zeros(len(values)).index_copy_(0, order[1:], rises.to(values.dtype))
