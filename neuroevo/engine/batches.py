"""How batches are drawn: as a function of seed and generation alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from neuroevo.engine.rng import generator

Batch = Callable[[int, int], Tensor]  # (generation, size) -> rows; fewer than asked for where there are no more
View = Callable[[Tensor, torch.Generator], Tensor]  # rows of the train split -> rows of augmented views of them


def as_it_is(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return rows as they are: nothing is augmented."""
    return rows


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
            rows = draw_balanced(pool, labels, (size,), source)
        elif size >= len(pool):
            rows = pool
        else:
            rows = pool[torch.randperm(len(pool), generator=source)[:size]]
        return view(rows, source)

    return batch


def draw_balanced(rows: Tensor, labels: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw from `rows` [N], with replacement, each class as often as any other; `labels` [N] are theirs, on the CPU."""
    classes = labels.unique()
    groups = [rows[labels == label] for label in classes]
    sizes = torch.tensor([len(group) for group in groups])
    firsts = sizes.cumsum(0) - sizes
    picked = torch.randint(len(classes), shape, generator=generator)
    inside = (torch.rand(shape, generator=generator, dtype=torch.float64) * sizes[picked]).long()
    return torch.cat(groups)[firsts[picked] + inside]
