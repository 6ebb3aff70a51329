"""Networks as libraries make them, with the place of their head and the transform of an image on its way in."""

import importlib
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from neuroevo.errors import InputError
from neuroevo.networks import downloads
from neuroevo.networks.weights import PYPI


class Transform(NamedTuple):
    """Images to inputs: resized to cover `size`, cut to its centre, in [0, 1], normalised per channel."""

    size: tuple[int, int]  # height and width, pixels
    interpolation: str  # a PIL resampling filter: bilinear, bicubic, ...
    channels: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def _timm(model: str, pretrained: bool, image_size: int | None) -> tuple[nn.Module, str, Transform]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # timm scripts functions at import, which torch deprecates
        import timm
        from timm.data.config import resolve_model_data_config
    name = model.split(".")[0]
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:5]) or "see timm.list_models()"
        raise InputError(f"timm has no model {model!r}; near: {near}", option="name")
    fixed = options("timm", model, image_size, pretrained=pretrained)
    network = _make(f"timm/{model}", lambda: timm.create_model(model, pretrained=pretrained, **fixed), pretrained)
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
    fixed = options("torchvision", model, image_size, pretrained=pretrained)
    network = _make(
        f"torchvision/{model}",
        lambda: models.get_model(model, weights=given if pretrained else None, **fixed),
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


def options(library: str, model: str, image_size: int | None, *, pretrained: bool) -> dict[str, Any]:
    """Return the options with which a library makes a network of its own for images of a size."""
    if library == "timm":
        import timm

        given = timm.get_pretrained_cfg(model)
        return {"img_size": image_size} if image_size and given is not None and given.fixed_input_size else {}
    fixed: dict[str, Any] = {"image_size": image_size} if image_size and model.startswith("vit_") else {}
    drawn = model in ("googlenet", "inception_v3") and not pretrained
    return fixed | ({"init_weights": False} if drawn else {})


def make_own(name: str) -> tuple[nn.Module, str]:
    """Make a user's own network, always from the same random numbers; its last linear layer is the head."""
    module, _, attribute = name.partition(":")
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            network = getattr(importlib.import_module(module), attribute)()
    except (Exception, SystemExit) as error:  # a user's module may fail in any way, or be a script
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


def _make(name: str, make: Callable[[], nn.Module], pretrained: bool) -> nn.Module:
    """Return the network that a library makes; InputError where it can't, or can't get its weights."""
    try:
        with downloads.hub() if pretrained and name.startswith("timm/") else nullcontext():
            return make()
    except Exception as error:  # the hubs raise errors of a dozen libraries
        reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
        if not pretrained:
            raise InputError(f"can't be built ({reason})", option="name") from None
        instead = "give a file, pypi, or none" if name in PYPI else "give a file, or none"
        why = downloads.connection_fault(error)
        if why is not None:
            raise InputError(
                f"the default weights of {name} aren't in the cache and can't be downloaded without "
                f"a network ({why}); {instead}",
                option="weights",
            ) from None
        raise InputError(f"the default weights could not be loaded ({reason}); {instead}", option="weights") from None
