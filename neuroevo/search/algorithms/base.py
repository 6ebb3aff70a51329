"""What algorithms share: a population as the state, and scores as one number an individual."""

from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.engine import pareto
from neuroevo.engine.genome import Population
from neuroevo.engine.scores import Scores, ranks


class GAState(NamedTuple):
    """The population and what it was found to be worth."""

    population: Population
    fitness: Tensor  # [n] or, of many objectives, [n, m] float64, higher is better, -inf where invalid; empty at first


def fitness_of(scores: Scores) -> Tensor:
    """Return fitness [n]: the metric itself, or ranks where a second one breaks its ties; -inf where invalid.

    With many objectives, ranks in NSGA-II's order.
    """
    values = scores.values
    if scores.objectives > 1:
        return pareto.rank(objectives_of(scores))
    return values[:, 0] if values.shape[1] == 1 else ranks(values).masked_fill(scores.invalid, -torch.inf)


def objectives_of(scores: Scores) -> Tensor:
    """Return objectives [n, m], -inf throughout where invalid."""
    return scores.values[:, : scores.objectives].masked_fill(scores.invalid[:, None], -torch.inf)
