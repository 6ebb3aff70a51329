"""The length of a run, by its budget alone."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from neuroevo.config import Config
from neuroevo.engine.cost import Cost
from neuroevo.experiments import costs


class Length(NamedTuple):
    """The length of a run, by its budget."""

    generations: int | None  # None: until the seconds are over
    whole: float  # generations, the last one a part, for its batch is cut; inf where None
    cost: Cost  # forward and backward


def run_length(c: Config, counts: Mapping[str, int]) -> Length:
    """Return the length of a run that neither finds its target nor loses patience, with so many images a split."""
    own, b = c.search(), c.budget
    begin, each = costs.takes(c, own, counts, first=True), costs.takes(c, own, counts)
    wholes = [float(b.generations)] if b.generations else []
    limits = (b.samples, begin.samples, each.samples), (b.forward_samples, begin.forward, each.forward)
    for limit, first, later in limits:
        if limit is not None:
            wholes.append(1 + (limit - first) / later if limit > first else limit / first)
    if not wholes:
        return Length(None, math.inf, Cost())
    whole = min(wholes)
    generations = max(1, math.ceil(whole - 1e-9))
    later = generations - 1
    return Length(
        generations, whole, Cost(begin.forward + later * each.forward, begin.backward + later * each.backward)
    )


def fresh_views(c: Config, counts: Mapping[str, int]) -> int:
    """Return the number of views that a generation makes where they are made as they are asked for."""
    r, train = c.refine, counts["train"]
    scored = costs.batch_size(c, train) if c.fitness.split == "train" else 0
    if r is None:
        return scored
    apart = c.search().later if r.batches == "own" else 1
    return scored + apart * costs.steps(c, train) * min(r.batch_size, train)


def run_seconds(c: Config, counts: Mapping[str, int], generation: float, validation: float) -> float:
    """Return the seconds of a run's generations, of so many seconds each, and of its validations."""
    found, limit = run_length(c, counts), c.budget.seconds or math.inf
    if found.generations is None:
        return limit
    return min(limit, found.whole * generation + math.ceil(found.generations / c.validate.every) * validation)
