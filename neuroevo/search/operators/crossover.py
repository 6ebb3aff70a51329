"""What children take of their parents."""

import math
import warnings
from collections.abc import Callable
from functools import reduce
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from neuroevo.engine.genome import Layout
from neuroevo.engine.rng import fork
from neuroevo.search.operators.masks import (
    Coins,
    Probability,
    blocks,
    draw_integers,
    hold,
    integers,
    layers_of,
    spread,
    units_of,
)

Crossover = Callable[[Tensor, Tensor, Layout, torch.Generator], Tensor]
SPARSE = 10  # times as many individuals as a child has parents: from here on a sum of rows is quicker than a product


def _exchange(genomes: Tensor, parents: Tensor, mask: Callable[[slice, slice], Tensor]) -> Tensor:
    """Copy first parents, with the genes that `mask(rows, columns)` chooses from the second.

    In bits: a NaN of the gene not chosen can't get through, and `torch.where` takes ten times as long on a random mask.
    """

    def mix(first: Tensor, second: Tensor, rows: slice, columns: slice) -> None:
        first.bitwise_xor_(second.bitwise_xor_(first).bitwise_and_(mask(rows, columns)))

    return _mate(integers(genomes), parents, mix).view(genomes.dtype)


def _mate(genomes: Tensor, parents: Tensor, mix: Callable[[Tensor, Tensor, slice, slice], None]) -> Tensor:
    """Make children block by block: `mix(first, second, rows, columns)` turns first parents' genes into children's."""
    children = genomes.new_empty(len(parents), genomes.shape[1])
    first, second = parents.T.contiguous()
    for rows, columns in blocks(children):
        child, source = children[rows, columns], genomes[:, columns]
        torch.index_select(source, 0, first[rows], out=child)
        mix(child, source.index_select(0, second[rows]), rows, columns)
    return children


def uniform(
    genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator, *, rate: Probability = 0.5
) -> Tensor:
    """Take each gene from the second parent with probability `rate`, else from the first (Syswerda 1989)."""
    coins = Coins(len(parents), genomes.shape[1], rate, generator)
    return _exchange(genomes, parents, coins.mask)


def k_point(
    genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator, *, points: Annotated[int, Ge(1)] = 2
) -> Tensor:
    """Change to the other parent at `points` distinct places, or at all where there are fewer (De Jong 1975)."""
    cuts = _cuts(len(parents), genomes.shape[1], points, generator)
    places = torch.arange(genomes.shape[1], dtype=torch.int32, device=genomes.device)

    def mask(rows: slice, columns: slice) -> Tensor:
        here = places[columns]
        ahead = (cut - here for cut in cuts[rows].T[..., None])  # negative behind the cut
        return reduce(torch.bitwise_xor, ahead, here) >> 31  # the sign, as a mask: an odd number of cuts passed

    return _exchange(genomes, parents, mask)


def _cuts(children: int, genes: int, points: int, generator: torch.Generator) -> Tensor:
    """Draw the genes behind which to cut, distinct and uniform, `[children, points]` int32 (Floyd's sampling).

    See Bentley and Floyd 1987, https://doi.org/10.1145/30401.315746.
    """
    places = genes - 1
    points = min(points, places)
    cuts = torch.full((children, points), -1, dtype=torch.int32, device=generator.device)
    for i, last in enumerate(range(places - points, places)):
        drawn = draw_integers(last + 1, (children, 1), generator).int()
        cuts[:, i : i + 1] = drawn.masked_fill_((cuts == drawn).any(1, keepdim=True), last)
    return cuts


def row(
    genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator, *, rate: Probability = 0.5
) -> Tensor:
    """Take each output neuron whole from the second parent with probability `rate`, else from the first.

    A neuron, or filter, is a row of `X.weight [o, ...]` with its entry of `X.bias [o]`; any other parameter goes by its
    first dimension, a scalar on its own.
    """
    units = hold(units_of, layout, genomes.device)
    chosen = Coins(len(parents), int(units_of(layout).max()) + 1, rate, generator).mask()
    return _exchange(genomes, parents, lambda rows, columns: spread(chosen[rows], units[columns]))


def layer(
    genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator, *, rate: Probability = 0.5
) -> Tensor:
    """Take each layer whole, weight and bias together, from the second parent with probability `rate`."""
    layers = hold(layers_of, layout, genomes.device)
    chosen = Coins(len(parents), int(layers_of(layout).max()) + 1, rate, generator).mask()
    return _exchange(genomes, parents, lambda rows, columns: spread(chosen[rows], layers[columns]))


def arithmetic(
    genomes: Tensor,
    parents: Tensor,
    layout: Layout,
    generator: torch.Generator,
    *,
    weight: Probability | None = None,
) -> Tensor:
    """Return `weight` x first + (1 - `weight`) x second parent; None draws a weight uniformly for each child."""
    if weight is None:
        weights = torch.rand(len(parents), 1, generator=generator, device=genomes.device, dtype=genomes.dtype)
    else:
        weights = genomes.new_full((len(parents), 1), weight)

    def mix(first: Tensor, second: Tensor, rows: slice, columns: slice) -> None:
        torch.lerp(second, first, weights[rows], out=first)  # exact at 0 and 1, and for two equal parents

    return _mate(genomes, parents, mix)


def weighted(
    genomes: Tensor,
    parents: Tensor,
    layout: Layout,
    generator: torch.Generator,
    *,
    step: Annotated[float, Ge(0), Le(1)] = 0.5,
) -> Tensor:
    """Return the mean of two or more parents, moved by `step` from the worse of them towards the better.

    The j-th best of p has the weight 1 / p + step / sqrt(p) (1 - 2 j / (p - 1)), j from 0: intermediate recombination
    at 0 (Beyer 1995), else weights that are negative for the worse (Arnold 2006), as in Wright's heuristic crossover
    (1991) of two. With the square root, what chance alone moves is step / sqrt(3) of the parents' deviation, however
    many they are: below sqrt(3) a population can't spread by this alone.
    """
    p = parents.shape[1]
    own = 1 / p + step / math.sqrt(p) * torch.linspace(1, -1, p, dtype=genomes.dtype, device=genomes.device)
    if len(genomes) >= SPARSE * p:
        each = own.expand(parents.shape).contiguous()
        return torch.nn.functional.embedding_bag(parents, genomes, per_sample_weights=each, mode="sum")
    used = torch.zeros(len(genomes), dtype=torch.bool, device=genomes.device).index_fill_(0, parents.flatten(), True)
    if genomes.device.type != "cpu":  # which would have to wait for how many are used
        genomes = genomes.where(used[:, None], 0)  # 0 times a stranger's NaN is NaN
    elif not used.all():
        genomes, parents = genomes[used], (used.cumsum(0) - 1)[parents]
    weights, each = genomes.new_zeros(len(parents), len(genomes)), own.expand(parents.shape)
    if genomes.device.type == "cpu":
        weights.scatter_add_(1, parents, each)
    else:  # where that adds what a parent has twice or more in any order; this sorts first
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        weights.index_put_((rows, parents), each, accumulate=True)
    return weights @ genomes


def sbx(
    genomes: Tensor,
    parents: Tensor,
    layout: Layout,
    generator: torch.Generator,
    *,
    eta: Annotated[float, Ge(0)] = 20.0,
) -> Tensor:
    """Spread genes around the parents, the closer the higher `eta`: simulated binary crossover (Deb and Agrawal 1995).

    Of the two children that evotorch makes of each pair, the first, which is the one nearer to the first parent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # evotorch scripts functions at import, which torch deprecates
        from evotorch.operators.functional import simulated_binary_cross_over

    def mix(first: Tensor, second: Tensor, rows: slice, columns: slice) -> None:
        # A number of Python would be copied to the device.
        found = simulated_binary_cross_over(torch.cat([first, second]), eta=first.new_full((), eta))
        first.copy_(found[: len(first)])

    with fork(generator):
        return _mate(genomes, parents, mix)


def none(genomes: Tensor, parents: Tensor, layout: Layout, generator: torch.Generator) -> Tensor:
    """Copy the first parent."""
    return genomes.index_select(0, parents[:, 0])


CROSSOVERS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "k_point": k_point,
    "sbx": sbx,
    "row": row,
    "layer": layer,
    "arithmetic": arithmetic,
    "weighted": weighted,
    "none": none,
}
ANY_NUMBER = (weighted,)  # crossovers that take any number of parents
