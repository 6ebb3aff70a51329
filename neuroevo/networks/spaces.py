"""Spaces: what genes are coordinates of, and how coordinates become the weights of a network.

In the full space genes are the weights themselves. In any other they are coordinates around one network, or among
several, and the genome of zeros is where a search starts. Coordinates are relative: one of 0.1 changes what it stands
for by about a tenth of its size, so that one deviation suits them all. What a space leaves out stays as it was.

A space is laid out by shapes alone; what takes time, such as a singular value decomposition, waits for the first genome
that is decoded. Decoding is a few operations with a gradient, so that coordinates learn where weights do.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, MinLen
from torch import Tensor

from neuroevo import devices
from neuroevo.engine.genome import Layout
from neuroevo.engine.rng import generator
from neuroevo.errors import InputError
from neuroevo.networks import quantised
from neuroevo.networks.cut import match
from neuroevo.search.operators import mutation

BLOCK = 2**20  # weights whose directions are drawn at a time
BIAS = "bias"  # the last part of the names of what is added to a layer's outputs
FACTORS = ".left", ".right"  # behind the name of a matrix: the factors of its change

Weights = dict[str, Tensor]
Layers = Annotated[tuple[str, ...], MinLen(1)]


class Origin(NamedTuple):
    """What a space is laid around."""

    weights: Weights  # {name: [1, *shape]}: all that evolves, as the network has it
    sources: tuple[Weights, ...] = ()  # the same of networks from elsewhere
    seed: int = 0

    def around(self) -> Weights:
        """Return the one network that a space is around: that from elsewhere, or the network as it is."""
        if len(self.sources) > 1:
            line = f"is around one network, and {len(self.sources)} are given to start from; merge is among several"
            raise InputError(line, option="name")
        return self.sources[0] if self.sources else self.weights


class Space(NamedTuple):
    """What genes are coordinates of."""

    layout: Layout  # of genomes
    decode: Callable[[Mapping[str, Tensor]], Weights]  # coordinates {name: [n, *shape]} -> all weights
    start: Callable[[], Tensor]  # the genome [1, g] of the network as it is
    encode: Callable[[Weights], Tensor] | None = None  # weights -> genomes, where any network of the layout has one
    identity: bool = False  # genes are the weights themselves
    draws: bool = False  # decoding takes numbers that the host draws


def lay(build: Callable[[Origin], Space], origin: Origin) -> Space:
    """Return the space that a function, perhaps a user's own, lays around an origin; InputError where it is none."""
    found = build(origin)
    if not isinstance(found, Space):
        line = f"a function of Origin that returns a Space expected, a {type(found).__name__} returned"
        raise InputError(line, option="space")
    return found


def full(origin: Origin) -> Space:
    """Take the weights themselves for genes."""
    layout = _layout(origin.weights)
    return Space(
        layout, lambda parts: dict(parts), lambda: layout.flatten(origin.weights), layout.flatten, identity=True
    )


def levels(origin: Origin, *, levels: Literal["ternary", "int3", "int4", "int6", "int8"] = "int8") -> Space:
    """Take whole levels for the genes of matrices, -1 to 1 or -127 to 127 and so on, and a float scale for each row."""
    layout = quantised.add_levels(_layout(origin.weights), quantised.LEVELS[levels])
    if not layout.tops:
        raise InputError("no weight matrix evolves, which could be levels", option="levels")

    def encode(weights: Weights) -> Tensor:
        return quantised.encode(weights, layout)

    return Space(layout, lambda parts: quantised.scale_levels(parts, layout), lambda: encode(origin.weights), encode)


def random(origin: Origin, *, directions: Annotated[int, Ge(1)] = 500, layers: Layers = ("*",)) -> Space:
    """Take a step along each of random directions for a gene: a random subspace of weights.

    As intrinsic dimension is measured (Li et al. 2018, https://arxiv.org/abs/1804.08838), by sparse directions: each
    weight is of one of them, drawn with its sign, so that directions are orthogonal and nothing is stored. They are
    drawn by blocks, from the run's seed.
    """
    around = origin.around()
    names = _choose(around, layers)
    layout = Layout(("directions",), ((directions,),))
    sizes = _sizes(around)

    def move(name: str, block: int, step: Tensor) -> Iterator[Tensor]:
        """Yield the change [n, up to BLOCK] of a parameter's weights by both signs of steps [n, 2 directions]."""
        left = around[name][0].numel()
        while left > 0:
            source = generator(origin.seed, f"space/{name}", block)
            drawn = torch.randint(2 * directions, (min(left, BLOCK),), generator=source)
            yield step.index_select(1, devices.send(drawn, step.device))
            left, block = left - BLOCK, block + 1

    def decode(parts: Mapping[str, Tensor]) -> Weights:
        coordinates = parts["directions"]
        step = torch.cat([coordinates, -coordinates], dim=1)
        found = _as_it_is(around, len(coordinates))
        for name in names:
            change = torch.cat([*move(name, 0, step)], dim=1).view(found[name].shape)
            found[name] = around[name] + sizes()[name] * change
        return found

    return _around(layout, decode, around)._replace(draws=True)


def scales(origin: Origin, *, layers: Layers = ("*",), offsets: bool = True) -> Space:
    """Take a factor for each output channel of a layer for a gene, and, with `offsets`, what is added to it.

    Factors are of weights, matrices' and norms', offsets of biases. What is at whole levels times a scale, as after
    `backbone.quantise`, stays so.
    """
    around = origin.around()
    names = [name for name in _choose(around, layers) if offsets or not _is_bias(name)]
    if not names:
        raise InputError("nothing but biases evolves in them, and offsets is false", option="layers")
    layout = Layout(tuple(names), tuple(tuple(around[name].shape[1:2]) for name in names))
    sizes = _sizes(around)

    @cache
    def steps() -> Weights:
        """Return what a coordinate of one adds to each parameter."""
        _refuse_zeros(around, [name for name in names if around[name].ndim > 2], "scales", "factor")
        own = {name: around[name] for name in names}
        for name, base in own.items():
            if _is_bias(name):
                own[name] = sizes()[name].expand(base.shape)
            elif base.ndim < 3:  # a norm may have channels that are zero
                own[name] = base.where(base != 0, mutation.SMALL)
        return own

    def decode(parts: Mapping[str, Tensor]) -> Weights:
        found = _as_it_is(around, len(parts[names[0]]))
        for name, step in steps().items():
            own = parts[name]
            found[name] = around[name] + step * own.view(*own.shape, *[1] * (step.ndim - own.ndim))
        return found

    return _around(layout, decode, around)


def low_rank(
    origin: Origin, *, rank: Annotated[int, Ge(1)] = 4, vectors: bool = True, layers: Layers = ("*",)
) -> Space:
    """Take the two factors of each matrix's change for genes, and, with `vectors`, biases and norms as they are.

    The change is (A + a) b, of a random A and genes a [o, rank] and b [rank, k] (Hu et al. 2022, LoRA,
    https://arxiv.org/abs/2106.09685): zero where b is, and not flat there.
    """
    around = origin.around()
    names = [name for name in _choose(around, layers) if vectors or around[name].ndim > 2]
    if not names:
        raise InputError("no weight matrix evolves in them, and vectors is false", option="layers")
    sizes = _sizes(around)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        shape = tuple(around[name].shape[1:])
        if len(shape) > 1:
            o, k = shape[0], math.prod(shape[1:])
            of = min(rank, o, k)
            shapes |= {name + FACTORS[0]: (o, of), name + FACTORS[1]: (of, k)}
        else:
            shapes[name] = shape

    @cache
    def draw(name: str) -> Tensor:
        drawn = torch.randn(shapes[name + FACTORS[0]], generator=generator(origin.seed, f"space/{name}", 0))
        return torch.nn.functional.normalize(drawn).to(around[name].device)

    def decode(parts: Mapping[str, Tensor]) -> Weights:
        found = _as_it_is(around, len(next(iter(parts.values()))))
        for name in names:
            change = parts.get(name)
            if change is None:
                left, right = (parts[name + factor] for factor in FACTORS)
                change = ((draw(name) + left) @ right).view(found[name].shape)
            found[name] = around[name] + sizes()[name] * change
        return found

    return _around(Layout(tuple(shapes), tuple(shapes.values())), decode, around)


def singular(
    origin: Origin,
    *,
    count: Annotated[int, Ge(1)] | None = None,
    vectors: bool = True,
    layers: Layers = ("*",),
) -> Space:
    """Take a factor on each singular value of a matrix for a gene, and, with `vectors`, biases and norms as they are.

    Of each matrix [o, k] the `count` largest, or all (Sun et al. 2025, https://arxiv.org/abs/2501.06252).
    """
    around = origin.around()
    names = [name for name in _choose(around, layers) if vectors or around[name].ndim > 2]
    if not names:
        raise InputError("no weight matrix evolves in them, and vectors is false", option="layers")
    sizes = _sizes(around)

    def values(shape: Sequence[int]) -> tuple[int, ...]:
        most = min(shape[0], math.prod(shape[1:]))
        return (most if count is None else min(count, most),)

    shapes = [tuple(around[name].shape[1:]) for name in names]
    layout = Layout(tuple(names), tuple(values(shape) if len(shape) > 1 else shape for shape in shapes))

    @cache
    def decompose(name: str) -> tuple[Tensor, Tensor]:
        """Return U S [o, q] and V' [q, k]; on the CPU in float64, whichever device a run goes on with."""
        _refuse_zeros(around, [name], "singular", "singular value")
        whole = around[name]
        u, s, v = torch.linalg.svd(whole[0].flatten(1).cpu().double(), full_matrices=False)
        most = values(whole.shape[1:])[0]
        return (u * s)[:, :most].to(whole), v[:most].to(whole)

    def decode(parts: Mapping[str, Tensor]) -> Weights:
        found = _as_it_is(around, len(parts[names[0]]))
        for name in names:
            base, own = around[name], parts[name]
            if base.ndim > 2:
                left, right = decompose(name)
                found[name] = base + ((left * own[:, None]) @ right).view(found[name].shape)
            else:
                found[name] = base + sizes()[name] * own
        return found

    return _around(layout, decode, around)


def merge(
    origin: Origin,
    *,
    how: Literal["mean", "arithmetic", "convex"] = "mean",
    per: Literal["tensor", "layer", "network"] = "layer",
    scale: float | None = None,
) -> Space:
    """Take the coefficients of several networks for genes, of each tensor, layer or of all together.

    `mean` starts at their mean (Wortsman et al. 2022), and coefficients are free; `arithmetic` adds what each has
    learnt to the network as it is, `scale` (0.3) times at first (Ilharco et al. 2023,
    https://arxiv.org/abs/2212.04089); `convex` keeps coefficients positive, with sum 1, by a softmax. The networks are
    those that a run starts from.
    """
    k = len(origin.sources)
    if k < 2:
        raise InputError(f"merge is among two networks or more, and {k or 'none'} given to start from", option="name")
    if scale is not None and how != "arithmetic":
        raise InputError(f"{scale} given, but {how} has no scale; it is arithmetic's", option="scale")
    groups: dict[str, list[str]] = {}
    for name in origin.weights:
        group = {"tensor": name, "layer": name.rpartition(".")[0] or name, "network": "network"}[per]
        groups.setdefault(group, []).append(name)
    layout = Layout(tuple(groups), ((k,),) * len(groups))
    first = (0.3 if scale is None else scale) if how == "arithmetic" else 1 / k

    @cache
    def learnt(name: str) -> Tensor:
        """Return the networks' weights [k, numbers], or what they have learnt."""
        rows = torch.cat([source[name].reshape(1, -1) for source in origin.sources])
        return rows - origin.weights[name].reshape(1, -1) if how == "arithmetic" else rows

    def decode(parts: Mapping[str, Tensor]) -> Weights:
        found = {}
        for group, names in groups.items():
            own = parts[group].softmax(1) if how == "convex" else parts[group] + first
            for name in names:
                joint = (own @ learnt(name)).view(len(own), *origin.weights[name].shape[1:])
                found[name] = origin.weights[name] + joint if how == "arithmetic" else joint
        return {name: found[name] for name in origin.weights}

    return _around(layout, decode, origin.weights)


SPACES: dict[str, Callable[..., Space]] = {
    "full": full,
    "random": random,
    "low_rank": low_rank,
    "scales": scales,
    "singular": singular,
    "merge": merge,
    "levels": levels,
}


def _layout(weights: Mapping[str, Tensor]) -> Layout:
    return Layout.of({name: w[0] for name, w in weights.items()})


def _around(layout: Layout, decode: Callable[[Mapping[str, Tensor]], Weights], weights: Weights) -> Space:
    """Return a space whose start is the genome of zeros."""
    like = next(iter(weights.values()))
    return Space(layout, decode, lambda: like.new_zeros(1, layout.genes))


def _as_it_is(weights: Weights, n: int) -> Weights:
    """Return weights {name: [n, *shape]} of n individuals that are all alike, without a copy."""
    return {name: w.expand(n, *w.shape[1:]) for name, w in weights.items()}


def _choose(weights: Weights, layers: Sequence[str]) -> list[str]:
    """Return the names that patterns match; InputError where one matches none."""
    for pattern in layers:
        if not match(weights, [pattern]):
            there = ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in weights))
            there = there if len(there) < 200 else there[:200] + "..."
            raise InputError(f"{pattern} matches nothing that evolves; there are: {there}", option="layers")
    return match(weights, layers)


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == BIAS


def _sizes(weights: Weights) -> Callable[[], dict[str, Tensor]]:
    """Return, once it is called, what is a relative change of one of each parameter: its root mean square, or more."""

    @cache
    def sizes() -> dict[str, Tensor]:
        layout = _layout(weights)
        return dict(zip(weights, mutation.scales(layout.flatten(weights), layout)[0].unbind(), strict=True))

    return sizes


def _refuse_zeros(weights: Weights, names: Sequence[str], space: str, gene: str) -> None:
    """See that parameters aren't all zero, which no factor changes; InputError names the first that is."""
    for name in names:
        if not bool(weights[name].any()):
            raise InputError(
                f"{name} is zero, and {space} would put a {gene} on it; start from a network that has learnt, or leave "
                "it out of layers",
                option="layers",
            )
