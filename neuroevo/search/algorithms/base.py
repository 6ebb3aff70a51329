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

    With constraints, ranks by Deb's rules; with many objectives, ranks in NSGA-II's order.
    """
    if scores.objectives > 1:
        return pareto.rank(objectives_of(scores))
    keys = scores.keys
    return keys[:, 0] if keys.shape[1] == 1 else ranks(keys).masked_fill(scores.invalid, -torch.inf)


def objectives_of(scores: Scores) -> Tensor:
    """Return objectives [n, m], -inf throughout where invalid; with constraints moved so that they dominate by them."""
    return pareto.objectives(scores)
