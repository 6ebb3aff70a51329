"""Pretrained networks: the frozen part that turns images into features, and the place where the head goes.

The head is found by the library's own means, taken out, and the rest of the network gives the features; `network`
puts a head back, so that what comes out is the library's plain network under the library's own parameter names. Where
more than the head is trainable, the network is cut before that (`cut`), and what passes the cut are the features.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuroevo.errors import InputError, RunError
from neuroevo.networks import onnxfiles
from neuroevo.networks.cut import IMAGES, Cut, cut, match
from neuroevo.networks.libraries import LIBRARIES, Transform, make_own
from neuroevo.networks.quantisation import Rounding, describe, round_weights
from neuroevo.networks.weightfiles import digest
from neuroevo.networks.weights import Head, check_network, load, take, weights_file

HEAD, WHOLE = "head", "network"  # where a module that is all head, or that has none, is in its backbone
ONNX = "onnx"  # the name of a backbone that is an ONNX file, all of it
# Height, width and channels of images; how many numbers, of samples that are rows of numbers.
Native = tuple[int, int, int] | tuple[int]


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
    moved: Mapping[str, float] = {}  # by name, how far quantised weights moved, as a share of their length

    def network(self, head: nn.Module) -> nn.Module:
        """Return a whole network of its own, with `head` in its place: images to logits."""
        whole = deepcopy(self.body)
        whole.set_submodule(self.head, head)
        return whole

    def features(self, images: Tensor) -> Tensor:
        """Return the features [B, d] of normalised images, or the tensors at the cut as rows [B, D]."""
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
    *,
    channels: int | None = None,
    trainable: Sequence[str] = (),
    transfer: Sequence[tuple[Path, Sequence[str]]] = (),
    rounding: Rounding | None = None,
    file: str | None = None,
    normalise: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Backbone:
    """Build the backbone `timm/NAME`, `torchvision/NAME`, `onnx`, a user's `module:function`, or `none`, with weights.

    InputError where it can't be. `image_size` in pixels, None for what the weights were made for; `native` is the
    images' own height, width and channels, which `none` and a user's own network keep, or how many numbers a sample is,
    which `none` alone takes. `channels` adapts the first
    layer to images of as many, as timm does (None: 3). `trainable` are patterns of the parameters that evolve beside
    the head; `transfer` files from which to take those that patterns match. `rounding` is how weights are quantised
    once they are all there, the head's aside. `onnx` is of a `file`, whose images are in
    [0, 1], or have a mean taken off and are divided by a deviation, those of each channel or of all (`normalise`).
    """
    if rounding is not None and name in ("none", ONNX):
        raise InputError(
            "there is no backbone" if name == "none" else "an ONNX file is taken as it is", option="quantise"
        )
    if name == ONNX:
        assert file is not None
        return _onnx(file, image_size, native, trainable, normalise)
    if len(native) == 1:
        return _rows(name, native[0], trainable, transfer)
    if name == "none":
        body = _none(trainable, transfer)
        size = (image_size, image_size) if image_size else native[:2]
        transform = Transform(size, "bilinear", channels or native[2], None, None)
        return Backbone(name, body, "head", None, transform, digest({}), frozen=digest({}))
    path = weights_file(name, weights)
    library, _, model = name.partition("/")
    if ":" in name:
        network, head = make_own(name)
        size = (image_size, image_size) if image_size else native[:2]
        transform, channels = Transform(size, "bilinear", channels or native[2], None, None), None
    elif library in LIBRARIES and model:
        with torch.random.fork_rng([]):  # weights none: the same in every process, as a resume and an export need
            torch.manual_seed(0)
            network, head, transform = LIBRARIES[library](model, weights == "default", image_size)
    else:
        raise InputError(f"{name!r} is none of timm/NAME, torchvision/NAME, onnx, module:function, none", option="name")
    linear = network.get_submodule(head)
    if not isinstance(linear, nn.Linear):
        raise InputError(f"the head of {name} ({head}) is a {type(linear).__name__}, not a linear layer", option="name")
    notes: list[str] = []
    own = Head(head, linear)
    if path is not None:
        own = load(network, own, path, in_order=weights == "pypi", notes=notes)
    check_network(network, own, name if path is None else str(path), "name" if path is None else "weights")
    if channels not in (None, transform.channels):
        transform = _adapt(name, network, transform, channels)
    for place, (source, parts) in enumerate(transfer):
        own, lines = take(network, own, source, parts, f"transfer.{place}")
        check_network(network, own, str(source), f"transfer.{place}")
        notes += lines
    network.requires_grad_(False).eval()
    _probe(name, network, own, transform)
    moved: dict[str, float] = {}
    if rounding is not None:
        moved = round_weights(network, rounding)
        notes.append(describe(moved, rounding))
    frozen = {key: value for key, value in network.state_dict().items() if not key.startswith(head + ".")}
    sha = digest(frozen)
    classes = own.classes if own.classes is not None and len(own.classes) == own.linear.out_features else None
    whole = Backbone(name, network, head, own.linear, transform, sha, frozen=sha, classes=classes, moved=moved)
    whole = whole._replace(notes=tuple(notes))
    return _cut_before(whole, trainable) if trainable else whole


def around(network: nn.Module) -> nn.Sequential:
    """Return a network that gives logits with a place for a head after it, where nothing is."""
    body = nn.Sequential()
    body.add_module(WHOLE, network)
    body.add_module(HEAD, nn.Identity())
    return body


def as_they_are(classes: int) -> nn.Linear:
    """Return a linear layer that gives logits as it is given them."""
    layer: nn.Linear = torch.nn.utils.skip_init(nn.Linear, classes, classes)  # which draws nothing
    with torch.no_grad():
        layer.weight.copy_(torch.eye(classes))
        layer.bias.zero_()
    return layer.requires_grad_(False)


def of_state(weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """Return the whole network of an ONNX file, inputs to logits, of its state dict."""
    content = weights[f"{WHOLE}.{onnxfiles.FILE}"].numpy().tobytes()
    whole = around(onnxfiles.of_bytes(content, source))
    whole.set_submodule(HEAD, as_they_are(len(weights[f"{HEAD}.bias"])))
    whole.load_state_dict(weights)
    return whole


def _onnx(
    file: str,
    image_size: int | None,
    native: Native,
    patterns: Sequence[str],
    normalise: tuple[Sequence[float], Sequence[float]] | None,
) -> Backbone:
    """Return the backbone that an ONNX file is, whose logits are its features; InputError where it can't be."""
    network = onnxfiles.onnx(file)
    network.whole = len(native) == 1  # rows of numbers are kept as they are
    transform = _transform_of(network, file, image_size, native, normalise)
    sample = (transform.channels, *transform.size) if len(native) > 1 else native
    inputs = torch.linspace(0, 1, 2 * math.prod(sample)).view(2, *sample)
    try:
        logits = network(inputs)
    except RunError as error:
        raise InputError(f"{str(error)[:300]}", option="file") from None
    if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
        raise InputError(
            f"{file} gives {list(logits.shape)} of {list(inputs.shape)}; logits [samples, classes] expected",
            option="file",
        )
    body, sha = around(network), digest(network.state_dict())
    names = [*network.names.values()]
    for pattern in patterns:
        if not match(names, [pattern]):
            there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise InputError(f"{pattern} matches no float32 initialiser of {file}; it has: {there}", option="trainable")
    width = native[0] if len(native) == 1 else None
    head = as_they_are(logits.shape[1])
    found = Backbone(ONNX, body, HEAD, head, transform, sha, frozen=sha, inputs=width)
    chosen = [f"{WHOLE}.{name}" for name in match(names, patterns)]
    return cut_at(found, chosen, inputs, whole=True) if chosen else found


def _transform_of(
    network: onnxfiles.OnnxNetwork,
    file: str,
    image_size: int | None,
    native: Native,
    normalise: tuple[Sequence[float], Sequence[float]] | None,
) -> Transform:
    """Return what makes inputs of an ONNX file of images, or of rows; InputError where its input is another."""
    dims, kind = network.graph.dims, network.input_type()
    shape = ["batch" if d is None and not i else d or "free" for i, d in enumerate(dims)]
    line = f"{file} takes {kind} {shape}".replace("'", "")
    if not kind.startswith("float"):
        raise InputError(f"{line}; floats expected", option="file")
    if len(native) == 1:
        if len(dims) != 2 or dims[1] not in (None, native[0]):
            raise InputError(f"{line}, and a sample of these data is {native[0]:,} numbers", option="file")
        if normalise:
            raise InputError("is for images; a sample of these data is a row of numbers", option="mean")
        return Transform((1, native[0]), "bilinear", 1, None, None)
    if len(dims) != 4 or dims[1] not in (None, 1, 3):
        raise InputError(f"{line}; images [batch, 1 or 3 channels, height, width] expected", option="file")
    channels = dims[1] or native[2]
    size = tuple(dims[i] or image_size or native[i - 2] for i in (2, 3))
    if image_size and size != (image_size, image_size):
        raise InputError(f"{image_size}, but {line}; leave it out", option="image_size")
    found = Transform((size[0], size[1]), "bilinear", channels, None, None)
    if normalise is None:
        return found
    for option, given in zip(("mean", "std"), normalise, strict=True):
        if len(given) not in (1, channels):
            raise InputError(f"{len(given)} numbers for {channels} channels", option=option)
    mean, std = (tuple(given) * (channels if len(given) == 1 else 1) for given in normalise)
    return found._replace(mean=mean, std=std)


def _rows(name: str, width: int, trainable: Sequence[object], transfer: Sequence[object]) -> Backbone:
    """Return the backbone of rows of numbers, which leaves them as they are; InputError for a network."""
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


def _cut_before(backbone: Backbone, patterns: Sequence[str]) -> Backbone:
    """Cut a backbone before the first parameter that a pattern matches."""
    network = backbone.body
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not match(names, [pattern]):
            there = ", ".join(key for key, child in network.named_children() if any(True for _ in child.parameters()))
            raise InputError(f"{pattern} matches no parameter of {backbone.name}; it has: {there}", option="trainable")
    t = backbone.transform
    images = torch.linspace(-1, 1, 2 * t.channels * t.size[0] * t.size[1]).view(2, t.channels, *t.size)
    return cut_at(backbone, match(names, patterns), images)


def cut_at(backbone: Backbone, trainable: Sequence[str], images: Tensor, *, whole: bool = False) -> Backbone:
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


def _probe(name: str, network: nn.Module, head: Head, transform: Transform) -> None:
    """See that the head is the network's last step, so that features and head make the whole; InputError if not."""
    height, width = transform.size
    channels = transform.channels
    image = torch.linspace(-1, 1, channels * height * width).view(1, channels, height, width)
    network.set_submodule(head.name, head.linear)
    steps: list[tuple[Tensor, Tensor]] = []
    hook = head.linear.register_forward_hook(
        lambda module, given, named, made: steps.append(((*given, *named.values())[0], made)), with_kwargs=True
    )
    with torch.inference_mode(), hook:
        try:
            whole = network(image)
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{name} does not take images of {height} pixels ({reason})", option="image_size"
            ) from None
    network.set_submodule(head.name, nn.Identity())
    if [step[0].shape for step in steps] != [(1, head.linear.in_features)] or not torch.allclose(
        steps[0][1], whole, rtol=1e-4, atol=1e-5
    ):
        raise InputError(f"the head of {name} ({head.name}) is not its last step", option="name")
