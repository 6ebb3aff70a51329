"""Quantised genes: rows of a weight matrix as whole levels times a float scale, scale[o] x level[o, ...].

Ternary levels are -1, 0, 1, int3 ones -3 to 3, int4 -7 to 7, int6 -31 to 31, int8 -127 to 127: symmetric, with no
offset, as in ternary weight networks (Li et al. 2016, https://arxiv.org/abs/1605.04711) and integer inference (Jacob et
al. 2018, https://arxiv.org/abs/1712.05877). Vectors stay floats.

Genes are float32, levels among them whole numbers. `scale_levels` rounds and clamps, so that any genome has weights,
exactly scale x level in float32; `whole` keeps the genomes of those algorithms whole that go on from what was scored.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import SCALE, Layout, Population
from neuroevo.engine.rng import Context

LEVELS = {"ternary": 1, "int3": 3, "int4": 7, "int6": 31, "int8": 127}  # the largest

# The weight of the largest level in a row that starts at zero: the one level stands for usual weights, many for large.
FULL = {top: 0.1 if top == 1 else 0.2 for top in LEVELS.values()}
CLIPPED = [k / 20 for k in range(2, 20)]  # of a row's largest weight: what the largest level may stand for


def add_levels(layout: Layout, largest: int) -> Layout:
    """Return the layout in which matrices are levels up to `largest`, each followed by the scales of its rows."""
    names, shapes, levels = [], [], []
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        matrix = len(shape) > 1
        names += [name, name + SCALE] if matrix else [name]
        shapes += [shape, shape[:1]] if matrix else [shape]
        levels += [largest, 0] if matrix else [0]
    return Layout(tuple(names), tuple(shapes), tuple(levels))


def round_levels(genomes: Tensor, layout: Layout) -> Tensor:
    """Return genomes [n, g] with each level the nearest whole one within its range; the floats as they are."""
    if not layout.levels:
        return genomes
    parts = genomes.split(layout.sizes, dim=1)
    return torch.cat(
        [part.round().clamp(-top, top) if top else part for part, top in zip(parts, layout.levels, strict=True)], dim=1
    )


def scale_levels(parts: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return the weights {name: [n, *shape]} that levels and scales {name: [n, *shape]} stand for."""
    found = dict(parts)
    for name, top in layout.tops.items():
        scale = found.pop(name + SCALE)
        level = found[name].round().clamp_(-top, top)
        found[name] = level.mul_(scale.view(*scale.shape, *[1] * (level.ndim - 2)))
    return found


def encode(weights: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """Return the genomes [n, g] nearest to weights {name: [n, *shape]}: `scale_levels` reversed, but for rounding."""
    parts = dict(weights)
    for name, top in layout.tops.items():
        rows = weights[name].flatten(2)
        scale = scales(rows, top)
        parts[name] = (rows / scale[..., None]).round().clamp(-top, top).view_as(weights[name])
        parts[name + SCALE] = scale
    return layout.flatten(parts)


def scales(rows: Tensor, top: int) -> Tensor:
    """Return the scale [n, o] by which levels come nearest to rows [n, o, k], in the sum of squares.

    Rows that have been levels before find their scale again: the largest weight is one of the levels. Or it is more
    than the largest level stands for, which serves the others better where there are few levels.
    """
    most = rows.abs().amax(2)
    best, least = torch.full_like(most, FULL[top] / top), torch.full_like(most, torch.inf)
    for part in [*(1 / level for level in range(top, 0, -1)), *(share / top for share in CLIPPED)]:
        scale = (most * part).where(most > 0, FULL[top] / top)
        error = rows.div(scale[..., None]).round_().clamp_(-top, top).mul_(scale[..., None]).sub_(rows).square_().sum(2)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def spread(start: Tensor, layout: Layout, sigma: float, sizes: Mapping[str, Tensor] | None = None) -> float | Tensor:
    """Return the deviation [g] of genes around start [s, g] for one of weights: of a scale, a share of it.

    With `sizes` [] by name the weights' is relative to those.
    """
    if not layout.levels:
        return sigma
    own = layout.unflatten(start.abs().mean(0, keepdim=True))
    parts = {name: torch.full_like(part, sigma) for name, part in own.items()}
    for name, size in (sizes or {}).items():
        parts[name] *= size
    for name in layout.tops:
        scale = own[name + SCALE]
        parts[name] /= scale.view(*scale.shape, *[1] * (parts[name].ndim - 2))
        parts[name + SCALE] *= scale
    return layout.flatten(parts)[0]


def whole(algorithm: Algorithm[Any], layout: Layout) -> Algorithm[Any]:
    """Let an algorithm's candidates have whole levels, and all that it asks for unless it is continuous."""

    def ask(state: Any, context: Context) -> Population:
        population = algorithm.ask(state, context)
        return population._replace(genomes=round_levels(population.genomes, layout))

    def candidates(state: Any) -> dict[str, Tensor]:
        return {kind: round_levels(genome[None], layout)[0] for kind, genome in algorithm.candidates(state).items()}

    return algorithm._replace(ask=algorithm.ask if algorithm.continuous else ask, candidates=candidates)
