"""Several networks of one layout merged into one by closed forms, without a step of any search.

Means and greedy soups (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482), task arithmetic (Ilharco et al. 2023,
https://arxiv.org/abs/2212.04089), and RegMean (Jin et al. 2023, https://arxiv.org/abs/2212.09849), which merges each
linear map by least squares on its own inputs. Networks are dicts of tensors by name, as `state_dict` gives them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from neuroevo.errors import InputError

State = Mapping[str, Tensor]
MAPS = (nn.Linear, nn.Conv2d)  # layers that are linear maps of their inputs, or of patches of these


def check_layouts(states: Sequence[State], *others: State) -> None:
    """See that networks have the same tensors; InputError names the first that differs."""
    if not states:
        raise InputError("no network is given", option="states")
    first = states[0]
    for place, state in enumerate([*states[1:], *others], 1):
        for name in [*first, *state]:
            found = [tuple(s[name].shape) if name in s else "nothing" for s in (first, state)]
            if found[0] != found[1]:
                line = f"network {place} has {found[1]} for {name}, and the first has {found[0]}: they have one layout"
                raise InputError(line, option="states")


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors; of whole numbers, such as counts of batches, the first."""
    if not tensors[0].is_floating_point():
        return tensors[0].clone()
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)


def mix(states: Sequence[State]) -> dict[str, Tensor]:
    """Return the mean of networks: the uniform soup."""
    check_layouts(states)
    return {name: _mean([state[name] for state in states]) for name in states[0]}


def choose_greedily(states: Sequence[State], score: Callable[[dict[str, Tensor]], Any]) -> list[int]:
    """Return which networks a greedy soup is of: the best, and each other, the better first, that does no harm.

    `score`, a number or a tuple, the higher the better, is asked of each of n networks and then of n - 1 means: a
    network is in where the mean with it is no worse than without.
    """
    check_layouts(states)
    scores = [score(dict(state)) for state in states]
    order = sorted(range(len(states)), key=scores.__getitem__, reverse=True)
    chosen, best = order[:1], scores[order[0]]
    for i in order[1:]:
        found = score(mix([states[k] for k in [*chosen, i]]))
        if found >= best:
            chosen, best = [*chosen, i], found
    return chosen


def mix_greedily(states: Sequence[State], score: Callable[[dict[str, Tensor]], Any]) -> dict[str, Tensor]:
    """Return the greedy soup, the mean of the networks that `choose_greedily` chooses."""
    return mix([states[i] for i in choose_greedily(states, score)])


def add_tasks(base: State, states: Sequence[State], scale: float = 1.0) -> dict[str, Tensor]:
    """Return a base and `scale` times the sum of what networks differ by from it: task arithmetic."""
    check_layouts(states, base)
    merged = {}
    for name, start in base.items():
        if not start.is_floating_point():
            merged[name] = start.clone()
            continue
        ways = torch.stack([state[name].double() - start.double() for state in states])
        merged[name] = (start.double() + scale * ways.sum(0)).to(start.dtype)
    return merged


class Covariance(NamedTuple):
    """Sums over a layer's inputs x [n, groups, k]; a column of ones stands for its bias."""

    products: Tensor  # [groups, k, k] float64: of x and x
    rows: int


def covariances(network: nn.Module, batches: Sequence[Tensor]) -> dict[str, Covariance]:
    """Return the inputs' covariances of each linear layer and 2-d convolution, by name, over batches of inputs.

    A convolution's inputs are its patches, those of each group apart. Batches go through the network once, in eval
    mode; a layer that is never run isn't there.
    """
    watch, was = _Inputs(network), network.training
    try:
        with torch.no_grad(), watch:
            network.eval()
            for batch in batches:
                network(batch)
    finally:
        network.train(was)
    return watch.found


class _Inputs(TorchFunctionMode):
    """Sums up what linear maps are given where they are computed, so that whatever pads them has been before."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.names = {id(m.weight): name for name, m in network.named_modules() if isinstance(m, MAPS)}
        self.found: dict[str, Covariance] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear or func is functional.conv2d:
            given = dict(zip(ARGUMENTS, args, strict=False)) | (kwargs or {})
            name = self.names.get(id(given["weight"]))
            if name is not None:
                x = (_rows_of_linear if func is functional.linear else _rows_of_patches)(given).double()
                own = Covariance(torch.einsum("ngj,ngk->gjk", x, x), len(x))
                before = self.found.get(name)
                if before is not None:
                    own = Covariance(before.products + own.products, before.rows + own.rows)
                self.found[name] = own
        return func(*args, **(kwargs or {}))


ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")  # of conv2d, of linear the first


def _rows_of_linear(given: Mapping[str, Any]) -> Tensor:
    """Return what a linear layer is a map of [n, 1, k]."""
    return _with_ones(given["input"].flatten(0, -2)[:, None], given.get("bias"))


def _rows_of_patches(given: Mapping[str, Any]) -> Tensor:
    """Return what a convolution is a linear map of [n, groups, k]."""
    x, kernel = given["input"], given["weight"].shape[2:]
    padding, dilation = given.get("padding", 0), given.get("dilation", 1)
    if padding == "same":  # as torch pads: the odd pixel behind
        steps = (dilation, dilation) if isinstance(dilation, int) else dilation
        totals = [step * (size - 1) for step, size in zip(steps, kernel, strict=True)]
        x = functional.pad(x, [side for t in reversed(totals) for side in (t // 2, t - t // 2)])
    padding = 0 if isinstance(padding, str) else padding
    patches = functional.unfold(x, kernel, dilation=dilation, padding=padding, stride=given.get("stride", 1))
    rows = patches.movedim(1, 2).flatten(0, 1).unflatten(1, (given.get("groups", 1), -1))
    return _with_ones(rows, given.get("bias"))


def _with_ones(rows: Tensor, bias: Tensor | None) -> Tensor:
    return rows if bias is None else torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], dim=2)


def merge_by_regression(
    states: Sequence[State], inputs: Sequence[Mapping[str, Covariance]], *, alpha: float = 0.9
) -> dict[str, Tensor]:
    """Return networks merged by RegMean: each layer's outputs are nearest to those of all on their own inputs.

    `inputs` are the covariances of each network's own layers on its own data (`covariances`), per row of which they
    count alike. Entries off the diagonal are shrunk by `alpha`, 1 for none (the paper's equation 4 with its 0.9). All
    that is no weight or bias of such a layer is averaged.
    """
    check_layouts(states)
    if not 0 <= alpha <= 1:
        raise InputError(f"{alpha} given; a number from 0 to 1 expected", option="alpha")
    if len(inputs) != len(states):
        raise InputError(f"{len(inputs)} given for {len(states)} networks", option="inputs")
    merged = mix(states)
    for layer in inputs[0]:
        weight, bias = f"{layer}.weight" if layer else "weight", f"{layer}.bias" if layer else "bias"
        if weight not in merged or not all(layer in own for own in inputs):
            continue
        shape, biased = merged[weight].shape, bias in merged
        k = merged[weight][0].numel() + biased  # without a bias that is the same for all
        products = [_shrink(own[layer].products[:, :k, :k] / own[layer].rows, alpha) for own in inputs]
        groups = len(products[0])
        maps = [_map(state[weight], state[bias] if biased else None, groups) for state in states]
        total = torch.stack(products).sum(0)
        wanted = torch.stack([gram @ own for gram, own in zip(products, maps, strict=True)]).sum(0)
        found = torch.linalg.pinv(total, hermitian=True) @ wanted  # [groups, k, o]
        # Where inputs never are, the mean stays.
        mean = torch.stack(maps).mean(0)
        rest = mean - torch.linalg.pinv(total, hermitian=True) @ (total @ mean)
        found = (found + rest).transpose(1, 2).flatten(0, 1)  # [outputs, k]
        dtype = merged[weight].dtype
        if biased:
            merged[bias] = found[:, -1].to(dtype)
            found = found[:, :-1]
        merged[weight] = found.reshape(shape).to(dtype)
    return merged


def _shrink(products: Tensor, alpha: float) -> Tensor:
    diagonal = products.diagonal(dim1=1, dim2=2).diag_embed()
    return alpha * products + (1 - alpha) * diagonal


def _map(weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Return a layer's map [groups, k, outputs a group], float64, its bias the last row."""
    rows = weight.double().flatten(1)
    if bias is not None:
        rows = torch.cat([rows, bias.double()[:, None]], dim=1)
    maps: Tensor = rows.unflatten(0, (groups, -1)).transpose(1, 2)
    return maps
