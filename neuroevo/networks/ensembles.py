"""Several genomes of one network as one module whose logits are the mean of theirs.

The mean of linear heads' logits is the logits of one linear head, whose weights are the mean of theirs: such an
ensemble folds, exactly, and costs what one network does. Of any other, what is frozen is computed once and what evolves
as often as there are members. A temperature (Guo et al. 2017, https://arxiv.org/abs/1706.04599) divides logits, which
the last linear layer does if its weights are divided.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from neuroevo.errors import InputError
from neuroevo.networks import heads, merging, onnxfiles
from neuroevo.networks.network import Network, Weights

MEMBERS = "members"  # begins the names of what each member has of its own: members.I.NAME
Apply = Callable[[Tensor], Tensor]


class Taken(nn.Module):
    """What is taken away, with the weights under the names that a file has them by."""

    def __init__(self, network: nn.Module, state: Weights, members: int) -> None:
        super().__init__()
        self.network, self.members = network, members
        self.state = state  # of one network, its own; of several, members.I.NAME, and NAME of what they share

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [B, C]."""
        logits: Tensor = self.network(inputs)
        return logits


class MeanOfHeads(nn.Module):
    """Heads on the same features: the mean of their logits."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, d]."""
        return torch.stack([member(features) for member in self.members]).mean(0)


class MeanOfParts(nn.Module):
    """Networks that are the same before a cut: that is computed once, the rest and the head by each."""

    def __init__(self, prefix: nn.Module, rests: Sequence[nn.Module], members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.prefix, self.rests, self.members = prefix, nn.ModuleList(rests), nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, channels, H, W]."""
        at_cut = tuple(self.prefix(images))
        pairs = zip(self.rests, self.members, strict=True)
        return torch.stack([head(rest(*at_cut)) for rest, head in pairs]).mean(0)


def take(network: Network, genomes: Sequence[Tensor], temperature: float = 1.0) -> Taken:
    """Return the network of a genome [g], or the ensemble of several, as a module on the CPU: inputs to logits.

    InputError where a temperature can't be folded, or where several are of an ONNX file, which is one graph.
    """
    wholes = [network.module(genome).cpu().to(memory_format=torch.contiguous_format) for genome in genomes]
    foreign = onnxfiles.inside(wholes[0]) is not None
    if foreign and (len(genomes) > 1 or temperature != 1):
        line = "an ONNX file is one graph, and is written as it is"
        raise InputError(line, option="temperature" if temperature != 1 else "genomes")
    for whole in wholes:
        if temperature != 1:
            divide(whole, network.backbone.head, temperature)
    if len(wholes) == 1:
        return Taken(wholes[0], wholes[0].state_dict(), 1)
    states = [whole.state_dict() for whole in wholes]
    if network.backbone.cut is None and type(network.head) is nn.Linear:
        wholes[0].load_state_dict(merging.mix(states))
        return Taken(wholes[0], wholes[0].state_dict(), 1)
    own = [name for name, value in states[0].items() if any(not torch.equal(value, s[name]) for s in states[1:])]
    shared = {name: value for name, value in states[0].items() if name not in own}
    each = {f"{MEMBERS}.{i}.{name}": state[name] for i, state in enumerate(states) for name in own}
    return Taken(_join(network, wholes), shared | each, len(wholes))


def _join(network: Network, wholes: Sequence[nn.Module]) -> nn.Module:
    """Return networks as one module, whose frozen part is computed once."""
    place, cut = network.backbone.head, network.backbone.cut
    own = [whole.get_submodule(place) for whole in wholes]
    if cut is None:
        joined = deepcopy(wholes[0])
        joined.set_submodule(place, MeanOfHeads(own))
        return joined.eval()
    prefix, rests = deepcopy(cut.prefix).cpu(), []
    for whole in wholes:
        rest = deepcopy(cut.rest).cpu()
        rest.load_state_dict(whole.state_dict(), strict=False)
        rests.append(rest)
    return MeanOfParts(prefix, rests, own).to(memory_format=torch.contiguous_format).eval()


def divide(whole: nn.Module, place: str, temperature: float) -> None:
    """Divide a network's logits by a temperature, within its last layer; InputError where that isn't a linear one."""
    name, layer = heads.steps(whole.get_submodule(place), place)[-1]
    if type(layer) is not nn.Linear:
        raise InputError(
            f"{name} ends in a {type(layer).__name__}: only a linear layer has a temperature folded in", "temperature"
        )
    with torch.no_grad():
        layer.weight.div_(temperature)
        if layer.bias is not None:
            layer.bias.div_(temperature)
