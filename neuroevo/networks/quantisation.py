"""Networks whose weights are whole levels times a scale, as they would be deployed, and what a closed form mends of it.

Weights are rounded to the nearest of 2 x 2^(bits - 1) - 1 levels around zero, with a scale for each output channel
(Jacob et al. 2018, https://arxiv.org/abs/1712.05877; Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342). They stay
floats that are exactly scale x level, so that any code evaluates them. Bias correction is that of Nagel et al. (2019,
https://arxiv.org/abs/1906.04721), with means taken over inputs.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neuroevo.errors import InputError
from neuroevo.networks.cut import match

BITS = (8, 6, 4, 3)
SHARES = [k / 50 for k in range(10, 51)]  # of a channel's largest weight: what the largest level may stand for
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # whose biases are corrected
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Per = Literal["channel", "tensor"]
Scale = Literal["max", "mse"]


class Rounding(NamedTuple):
    """How weights are rounded, and of which parameters."""

    bits: int = 8
    per: Per = "channel"  # what has a scale of its own: each output channel, or a matrix as a whole
    scale: Scale = "mse"  # the largest level is the largest weight, or what leaves the least squared error
    parts: Sequence[str] = ("*",)  # patterns of parameters' names, or of their leading parts


def quantise(
    model: nn.Module, bits: int = 8, *, per: Per = "channel", scale: Scale = "mse", parts: Sequence[str] = ("*",)
) -> nn.Module:
    """Return a copy of a module whose weights of two or more dimensions are rounded to levels of so many bits.

    `bits` are 8, 6, 4 or 3. `parts` are patterns of parameters' names, or of their leading parts; `*` crosses dots.
    Vectors, such as biases and norms, stay as they are. InputError where a pattern matches nothing to round.
    """
    copy = deepcopy(model)
    round_weights(copy, Rounding(bits, per, scale, parts))
    return copy


def round_weights(network: nn.Module, how: Rounding) -> dict[str, float]:
    """Round weights in place; return how far each moved, by name: the length of the change over that of the weight.

    InputError where a pattern matches nothing to round, or bits can't be.
    """
    if how.bits not in BITS:
        raise InputError(f"{how.bits} given; {', '.join(map(str, BITS))} can be", option="bits")
    parameters = {name: p for name, p in network.named_parameters() if p.ndim > 1 and p.is_floating_point()}
    for pattern in how.parts:
        if not match(parameters, [pattern]):
            there = ", ".join(dict.fromkeys(name.partition(".")[0] for name in parameters)) or "none at all"
            raise InputError(f"{pattern} matches no matrix of weights; there are those of: {there}", option="parts")
    turned = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, TRANSPOSED)}
    moved = {}
    with torch.no_grad():
        for name in match(parameters, how.parts):
            weight = parameters[name]
            rows = (weight.transpose(0, 1) if name in turned else weight).flatten(1)
            rounded = round_rows(rows if how.per == "channel" else rows.reshape(1, -1), how.bits, how.scale)
            error = torch.linalg.vector_norm((rounded.view_as(rows) - rows).double())
            moved[name] = float(error / torch.linalg.vector_norm(rows.double()).clamp(min=torch.finfo().tiny))
            if name in turned:
                swapped = weight.transpose(0, 1)
                weight.copy_(rounded.view(swapped.shape).transpose(0, 1))
            else:
                weight.copy_(rounded.view_as(weight))
    return moved


def round_rows(rows: Tensor, bits: int, scale: Scale) -> Tensor:
    """Return rows [o, k] rounded to levels of so many bits, each row on a scale of its own; rows of zeros stay."""
    top = 2 ** (bits - 1) - 1
    most = rows.abs().amax(1, keepdim=True)

    def by(share: float) -> Tensor:
        unit = (most * (share / top)).where(most > 0, 1)
        levels: Tensor = (rows / unit).round_().clamp_(-top, top)
        return levels.mul_(unit)

    best = by(1.0)
    if scale == "mse":
        least = (best - rows).square().sum(1, keepdim=True)
        for share in SHARES:
            other = by(share)
            error = (other - rows).square().sum(1, keepdim=True)
            best, least = torch.where(error < least, other, best), torch.minimum(error, least)
    return best


def describe(moved: dict[str, float], how: Rounding) -> str:
    """Return a line on what was rounded and how far weights moved."""
    worst = max(moved, key=lambda name: moved[name])
    mean = sum(moved.values()) / len(moved)
    return (
        f"quantised to {how.bits} bits, a scale per {how.per} ({how.scale}): {len(moved)} matrices of weights, moved "
        f"by {mean:.1%} of their length on average, {worst} by {moved[worst]:.1%}"
    )


class _Step(NamedTuple):
    """A layer of a network as it was run."""

    mean: Tensor  # [c] of its outputs
    norm: str | None  # the batch norm that its outputs go to, and nothing before it
    calls: int


def correct_biases(network: nn.Module, quantised: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a copy of a quantised network whose layers give the float one's mean output, channel by channel.

    `inputs` [n, ...] are some hundred samples, which go through each of both once, all at the same time. Layers are
    corrected in the order in which they are run, each on what those before it give by then. What is added goes to a
    layer's bias, or to the running mean of the batch norm behind it; a layer that has neither, or is run more than
    once, stays as it is.
    """
    steps, _ = _run(network, inputs, {})
    copy = deepcopy(quantised)
    _, added = _run(copy, inputs, steps)
    modules = dict(copy.named_modules())
    with torch.no_grad():
        for name, shift in added.items():
            bias, norm = modules[name].bias, steps[name].norm
            if isinstance(bias, Tensor):
                bias += shift.to(bias)
            elif norm is not None:
                mean = modules[norm].running_mean
                assert isinstance(mean, Tensor)
                mean -= shift.to(mean)
    return copy


def _run(network: nn.Module, inputs: Tensor, target: dict[str, _Step]) -> tuple[dict[str, _Step], dict[str, Tensor]]:
    """Run a network once; return its layers, and what was added to each that has a target, as it went."""
    steps: dict[str, _Step] = {}
    added: dict[str, Tensor] = {}
    last: dict[int, tuple[str, Tensor]] = {}  # outputs by identity, kept alive while the network runs

    def watch(name: str, layer: nn.Module) -> RemovableHandle:
        def after(module: nn.Module, given: object, made: Tensor) -> Tensor:
            linear = isinstance(module, nn.Linear)
            mean = (made if linear else made.movedim(1, -1)).flatten(0, -2).double().mean(0)
            calls = steps[name].calls + 1 if name in steps else 1
            steps[name] = _Step(mean, None, calls)
            own = target.get(name)
            if own is not None and own.calls == 1 and (module.bias is not None or own.norm is not None):
                shift = own.mean - mean
                added[name] = shift
                made = made + shift.to(made).view(-1, *[1] * (0 if linear else made.ndim - 2))
            last[id(made)] = name, made
            return made

        return layer.register_forward_hook(after)

    def follow(name: str, norm: nn.Module) -> RemovableHandle:
        def before(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            layer, made = last.get(id(given[0]), ("", given[0]))
            if layer and made is given[0]:
                steps[layer] = steps[layer]._replace(norm=name)

        return norm.register_forward_pre_hook(before)

    hooks = [watch(name, layer) for name, layer in network.named_modules() if isinstance(layer, LAYERS)]
    hooks += [follow(name, norm) for name, norm in network.named_modules() if isinstance(norm, NORMS)]
    was = network.training
    try:
        with torch.no_grad():
            network.eval()(inputs)
    finally:
        network.train(was)
        for hook in hooks:
            hook.remove()
    return steps, added
