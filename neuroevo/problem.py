"""What a search is of: where it starts, what becomes of a population, and what candidates are worth.

`loop.begin` makes generation 0 of a problem and `loop.evolve` goes on; they know nothing else. A problem needs no
network and no config: `of_function` makes one of a function of genomes.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from neuroevo.cost import Cost
from neuroevo.development import Development, Scoring, unchanged
from neuroevo.errors import InputError
from neuroevo.fitness import Scores, balanced
from neuroevo.genome import Layout, Population
from neuroevo.gradient import View, as_it_is
from neuroevo.rng import generator

FITNESS = "fitness"  # the metric of a function of genomes

Batch = Callable[[int, int], Tensor]  # (generation, size) -> rows; fewer than asked for where there are no more
Validate = Callable[[Tensor], tuple[list[dict[str, float]], Cost]]  # genomes [k, g] -> each one's metrics as reported
Merit = Callable[[Mapping[str, float]], tuple[float, ...]]  # metrics as reported -> what candidates are compared by


class Sensitivities(Protocol):
    """How much outputs depend on each gene, for mutations that ask for it."""

    def of(self, genomes: Tensor) -> Tensor:
        """Return the sensitivity [n, g] of genomes [n, g]."""
        ...

    def cost(self, n: int) -> Cost:
        """Return what measuring n genomes takes."""
        ...


class Problem(NamedTuple):
    """What a search is of."""

    layout: Layout
    start: Tensor  # [s, g]: genomes that the first population is made around
    sigma: float | Tensor  # deviation of the first population around them, one or [g]
    development: Development
    batch: Batch
    validate: Validate
    merit: Merit
    sensitivity: Sensitivities | None = None


def batches(
    pool: Tensor, seed: int, *, labels: Tensor | None = None, view: View = as_it_is
) -> Callable[[int, int], Tensor]:
    """Return how batches are drawn from rows `pool` [N]: as a function of seed and generation alone.

    Without replacement, unless `labels` [N] are given: then each class is drawn as often as any other. `view` says
    which augmented views of the rows are taken.
    """

    def batch(generation: int, size: int) -> Tensor:
        source = generator(seed, "batch", generation)
        if labels is not None:
            rows = balanced(pool, labels, (size,), source)
        elif size >= len(pool):
            rows = pool
        else:
            rows = pool[torch.randperm(len(pool), generator=source)[:size]]
        return view(rows, source)

    return batch


def by_metric(metric: str, *, lower_is_better: bool = False, loss: str | None = None) -> Merit:
    """Return a merit that compares candidates by a metric, and where it ties by a `loss`, the lower the better."""
    sign = -1 if lower_is_better else 1

    def merit(metrics: Mapping[str, float]) -> tuple[float, ...]:
        value = sign * metrics[metric]
        return (value,) if loss is None else (value, -metrics[loss])

    return merit


def of_function(
    fitness: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    sigma: float | Tensor = 0.1,
    layout: Layout | None = None,
) -> Problem:
    """Return the problem of a function of genomes [n, g] -> fitness [n], the higher the better, around `start` [g].

    `start` may be several genomes [s, g]. A fitness that isn't finite is invalid. Each call for a genome counts as one
    forward sample, and validation calls the function again.
    """
    start = torch.atleast_2d(start)

    def values(genomes: Tensor) -> Tensor:
        found = torch.as_tensor(fitness(genomes), dtype=torch.float64, device=genomes.device)
        if found.shape != (len(genomes),):
            raise InputError(
                f"fitness: {list(found.shape)} returned for {len(genomes)} genomes, one number each expected"
            )
        return found

    def score(population: Population, rows: Tensor) -> tuple[Scores, Cost]:
        found = values(population.genomes)
        invalid = ~found.isfinite()
        return Scores(found.masked_fill(invalid, -torch.inf)[:, None], invalid), Cost(forward=len(found))

    def validate(genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        return [{FITNESS: value} for value in values(genomes).tolist()], Cost(validation=len(genomes))

    return Problem(
        layout=layout or Layout(("genome",), ((start.shape[1],),)),
        start=start,
        sigma=sigma,
        development=unchanged(Scoring(score, lambda n, samples: Cost(forward=n))),
        batch=lambda generation, size: torch.empty(0, dtype=torch.int64),
        validate=validate,
        merit=by_metric(FITNESS),
    )
