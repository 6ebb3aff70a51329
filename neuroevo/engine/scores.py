"""What an evaluation found of a population, and its order."""

from typing import NamedTuple

import torch
from torch import Tensor


class Scores(NamedTuple):
    """What an evaluation found."""

    values: Tensor  # [n, m] float64, a column a metric, higher is better; -inf throughout for an invalid individual
    invalid: Tensor  # [n] bool: some logit was NaN or Inf
    objectives: int = 1  # the first so many columns; the others break their ties
    violation: Tensor | None = None  # [n] float64 of constraints: 0 where all are met, inf where invalid

    @property
    def keys(self) -> Tensor:
        """What individuals are compared by, [n, k] float64, earlier columns first, the higher the better.

        With constraints these are Deb's rules (2000, https://doi.org/10.1016/S0045-7825(99)00389-8): the less violated
        first, the feasible before all, and the values among those that are violated by the same.
        """
        return self.values if self.violation is None else torch.cat([-self.violation[:, None], self.values], dim=1)

    def rows(self, index: Tensor | slice) -> "Scores":
        """Return the scores of some individuals, in the order of `index` [k], or of a slice of them."""
        violation = None if self.violation is None else self.violation[index]
        return Scores(self.values[index], self.invalid[index], self.objectives, violation)


def sort_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order [n] of the rows of values [n, m], and of each in it whether it differs from the one before it.

    Lowest first; later columns break ties of earlier, and of equal rows the first comes first. What `torch.unique`
    finds, for whose number a GPU would have to be waited for.
    """
    order = torch.arange(len(values), device=values.device)
    for column in values.T.flip(0):
        order = order[column[order].argsort(stable=True)]
    rows = values[order]
    first = torch.ones(len(values), dtype=torch.bool, device=values.device)
    first[1:] = (rows[1:] != rows[:-1]).any(1)
    return order, first


def ranks(values: Tensor) -> Tensor:
    """Return the dense rank [n] of each row of values [n, m], highest best; later columns break ties of earlier."""
    order, first = sort_rows(values)
    return values.new_zeros(len(values)).index_copy_(0, order, (first.cumsum(0) - 1).to(values.dtype))
