"""A module of one's own, cut for evolution: what of it is frozen goes through once, what evolves follows.

The head is the last linear layer that gives the logits. It is tried and not guessed: with other weights in the layer,
the module must give what the layer gives of its features. Where there is none, or where it isn't what evolves, the
module ends in a linear layer of ones and zeros that leaves logits as they are, and all of it is behind the cut.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neuroevo.errors import InputError
from neuroevo.networks.backbones import HEAD, WHOLE, Backbone, around, as_they_are, cut_at
from neuroevo.networks.cut import match
from neuroevo.networks.libraries import Transform
from neuroevo.networks.weightfiles import digest
from neuroevo.networks.weights import check_finite

TRIED = 4  # inputs that a module is tried on


class Given(NamedTuple):
    """A module of one's own, as evolution takes it."""

    module: nn.Module  # a copy in eval mode; parameters on the device and of the type that they were given in
    backbone: Backbone
    head: nn.Module  # features -> logits
    width: int  # features that it is given
    learns: bool  # whether the head's weights are among what evolves
    classes: int  # logits of a sample
    prefix: str  # what the backbone's names have before the module's own

    def inside(self, network: nn.Module) -> nn.Module:
        """Return what in a network of the backbone is the module given."""
        return network.get_submodule(self.prefix.rstrip("."))

    def with_weights(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return a copy of the module with weights {name: shape} as the network has them."""
        copy = deepcopy(self.module)
        own = {name.removeprefix(self.prefix): w for name, w in weights.items() if name.startswith(self.prefix)}
        copy.load_state_dict(own, strict=False)
        return copy


def of_module(module: nn.Module, inputs: Tensor, *, trainable: Sequence[str] = (), name: str = "given") -> Given:
    """Cut a copy of a classifier, which gives logits [B, C] of inputs [B, ...], before what evolves.

    That is its head, or the parameters that patterns `trainable` match. `inputs` [2 or more, ...] are some samples, of
    whichever shape. The module given stays as it is. InputError where there is nothing to evolve, where it isn't a
    classifier of these inputs, or where its weights are no numbers.
    """
    kind = type(module).__name__
    copy = _copy(module)
    network = deepcopy(copy).cpu().float().requires_grad_(False)
    chosen = _choose(network, trainable, kind)
    inputs = inputs[:TRIED].cpu()
    logits = _logits(network, inputs, kind)
    own = _head(network, inputs, logits.shape[1])
    if own is None and not trainable:
        raise InputError(
            f"no linear layer of {kind} gives its logits as its last step; say what evolves with trainable, such as "
            "trainable=['*'] for all of it",
            option="model",
        )
    of_head = [] if own is None else list(_within(network, own))
    chosen = chosen or of_head
    body: nn.Module
    if own is None or not set(of_head) <= set(chosen):
        body = around(network)
        place, prefix, head = HEAD, f"{WHOLE}.", as_they_are(logits.shape[1])
        beside = [prefix + name for name in chosen]
    else:
        layer = network.get_submodule(own)
        assert isinstance(layer, nn.Linear)
        head, beside = layer, [name for name in chosen if name not in of_head]
        body, place, prefix = network, own, ""
        if not own:
            body, place, prefix = nn.Sequential(), HEAD, f"{HEAD}."
            body.add_module(HEAD, nn.Identity())
        body.set_submodule(place, nn.Identity())
    body.eval()
    frozen = digest(body.state_dict())
    numbers = None if inputs.ndim == 4 and inputs.is_floating_point() else inputs[0].numel()
    channels, height, width = inputs.shape[1:] if numbers is None else (1, 1, numbers)
    transform = Transform((height, width), "bilinear", channels, None, None)
    backbone = Backbone(name, body, place, head, transform, frozen, frozen=frozen, inputs=numbers)
    if beside:
        backbone = cut_at(backbone, beside, inputs, whole=True)
    learns = prefix != f"{WHOLE}."
    return Given(copy, backbone, head, head.in_features, learns=learns, classes=logits.shape[1], prefix=prefix)


def of_head(head: nn.Module, width: int, classes: int) -> Given:
    """Return a head as a module of its own, all of which evolves, on samples [B, width] that are its features."""
    whole, body = nn.Sequential(), nn.Sequential()
    whole.add_module(HEAD, head)
    body.add_module(HEAD, nn.Identity())
    transform = Transform((1, width), "bilinear", 1, None, None)
    backbone = Backbone("features", body, HEAD, None, transform, digest({}), frozen=digest({}), inputs=width)
    return Given(whole.eval(), backbone, head, width, learns=True, classes=classes, prefix="")


def _copy(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode; InputError where there is none, or nothing in it to evolve."""
    kind = type(module).__name__
    if not isinstance(module, nn.Module):
        raise InputError(f"a torch module expected, a {kind} given", option="model")
    if any(is_lazy(p) for p in (*module.parameters(), *module.buffers())):
        raise InputError(f"{kind} has lazy layers; put a batch through it first", option="model")
    if not any(True for _ in module.parameters()):
        raise InputError(f"{kind} has no parameters to evolve", option="model")
    try:
        copy = deepcopy(module).eval()
    except (Exception, SystemExit) as error:  # a user's module may refuse in any way
        raise InputError(f"{kind} can't be copied ({_brief(error)})", option="model") from error
    statistics = {k: b for k, b in copy.named_buffers() if k.endswith(("running_mean", "running_var"))}
    check_finite({**dict(copy.named_parameters()), **statistics}, kind, "model")
    return copy


def _choose(network: nn.Module, trainable: Sequence[str], kind: str) -> list[str]:
    """Return the parameters that patterns match, [] without patterns; InputError where one matches nothing."""
    parameters = dict(network.named_parameters())
    for pattern in trainable:
        if not match(parameters, [pattern]):
            there = ", ".join(dict.fromkeys(name.partition(".")[0] for name in parameters))
            raise InputError(f"{pattern} matches no parameter of {kind}; it has: {there}", option="trainable")
    chosen = match(parameters, trainable)
    odd = [name for name in chosen if not parameters[name].is_floating_point()]
    if odd:
        raise InputError(f"{odd[0]} is no tensor of real numbers", option="trainable")
    return chosen


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _logits(network: nn.Module, inputs: Tensor, kind: str) -> Tensor:
    """Return the logits [n, C] of inputs; InputError where they aren't, or aren't a function of each input alone."""
    given = f"{str(inputs.dtype).removeprefix('torch.')} {list(inputs.shape)}"
    if len(inputs) < 2:
        raise InputError(f"inputs {given}: two samples are the least to try a module on", option="data")

    def refuse(line: str) -> InputError:
        return InputError(f"{kind} {line}", option="model")

    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            found, again, part = network(inputs.clone()), network(inputs.clone()), network(inputs[:1].clone())
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        hint = "" if inputs.is_floating_point() else "; whole numbers are given as ids, floats as features"
        raise refuse(f"fails on inputs {given} ({_brief(error)}){hint}") from error
    if not isinstance(found, Tensor):
        raise refuse(f"gives a {type(found).__name__} of inputs {given}; logits expected, a tensor [samples, classes]")
    if found.ndim != 2 or len(found) != len(inputs) or not found.is_floating_point():
        raise refuse(f"gives {list(found.shape)} of inputs {given}; logits expected, [samples, classes]")
    if found.shape[1] < 2:
        raise refuse("gives one number a sample; a classifier gives a logit for each class, two of two")
    atol = 1e-3 * max(1e-6, float(found.nan_to_num().abs().max()))
    if not torch.allclose(found, again, rtol=0, atol=atol, equal_nan=True):
        raise refuse("gives other logits each time; it must give the same for one sample")
    if part.shape != found[:1].shape or not torch.allclose(part, found[:1], rtol=0, atol=atol, equal_nan=True):
        raise refuse("gives logits for a sample that depend on the others in its batch")
    return found


def _within(network: nn.Module, layer: str) -> list[str]:
    return [name for name, _ in network.named_parameters() if not layer or name.startswith(layer + ".")]


def _head(network: nn.Module, inputs: Tensor, classes: int) -> str | None:
    """Return the name of the linear layer that is the network's last step, by trial; None where none is."""
    every = [module for _, module in network.named_modules(remove_duplicate=False)]
    uses = [id(p) for module in every for p in module.parameters(recurse=False)]
    layers = [(name, layer) for name, layer in network.named_modules() if type(layer) is nn.Linear]
    for name, layer in reversed(layers):
        alone = all(uses.count(id(p)) == 1 for p in layer.parameters())
        plain = {key for key, _ in layer.named_parameters()} <= {"weight", "bias"}
        if layer.out_features == classes and alone and plain and (not name or _is_last(network, name, layer, inputs)):
            return str(name)
    return None


def _is_last(network: nn.Module, name: str, layer: nn.Linear, inputs: Tensor) -> bool:
    """Tell whether a network gives what a layer gives of its features, whatever the layer's weights."""
    other, source = deepcopy(layer), torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.random.fork_rng([]):
        for p in other.parameters():
            p.copy_(torch.randn(p.shape, generator=source))
        try:
            network.set_submodule(name, other)
            whole = network(inputs.clone())
            network.set_submodule(name, nn.Identity())
            features = network(inputs.clone())
            if not isinstance(features, Tensor) or features.shape != (len(inputs), layer.in_features):
                return False
            close = 1e-5 * max(1.0, float(whole.abs().max()))
            return torch.allclose(other(features), whole, rtol=1e-4, atol=close)
        except Exception:  # without its layer a user's module may fail in any way
            return False
        finally:
            network.set_submodule(name, layer)
