"""A run's champion, taken from its folder as a plain module: without data, a download, or the device of its birth."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from neuroevo import config
from neuroevo.data.augment import normalise
from neuroevo.data.images import Files
from neuroevo.data.pixels import pixels
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError
from neuroevo.experiments import build, reopen
from neuroevo.networks import backbones, onnxfiles, weightfiles
from neuroevo.networks.backbones import HEAD, WHOLE
from neuroevo.networks.libraries import Transform
from neuroevo.storage import rundir

AT_ONCE = 64  # images through the network


class Loaded(NamedTuple):
    """A run's champion."""

    model: nn.Module  # in eval mode, on the CPU: inputs to logits [B, C]
    transform: (
        Callable[[Any], Tensor] | None
    )  # an image or a file's name -> an input [C, H, W]; None for rows of numbers
    classes: tuple[str, ...]  # of the logits
    folder: Path

    def probabilities(self, inputs: Any) -> Tensor:
        """Return the probabilities [n, C] of images, of files by name, or of rows of numbers [n, d]."""
        whole = inputs if isinstance(inputs, Tensor) else None
        if whole is None and self.transform is None:
            whole = torch.as_tensor(np.asarray(inputs))
        if whole is None:
            listed = [inputs] if isinstance(inputs, str | Path | Image.Image) else list(inputs)
            parts: Iterable[Tensor] = (self._stack(listed[i : i + AT_ONCE]) for i in range(0, len(listed), AT_ONCE))
        else:
            parts = whole.float().split(AT_ONCE)
        with torch.inference_mode():
            found = [self.model(part).softmax(1) for part in parts]
        return torch.cat(found) if found else torch.empty(0, len(self.classes))

    def predict(self, inputs: Any) -> list[str]:
        """Return the class of each of some images, files by name, or rows of numbers [n, d]."""
        return [self.classes[i] for i in self.probabilities(inputs).argmax(1).tolist()]

    def _stack(self, images: list[Any]) -> Tensor:
        assert self.transform is not None
        return torch.stack([self.transform(image) for image in images])


def load(folder: str | Path, model: nn.Module | None = None) -> Loaded:
    """Return the champion of a run's folder as a plain module, with what goes before it and its classes.

    Of a run from Python the `model` is given again, and a copy of it returned with the champion's weights, unless it is
    an ONNX file, which the folder has. InputError
    where there is no champion yet, or its file is damaged.
    """
    place = rundir.find(str(folder))
    if reopen.from_python(place):
        return _from_python(place, model)
    if model is not None:
        raise InputError(f"{folder} says itself what its network is", option="model")
    path = place / rundir.NETWORK
    if not path.is_file():
        return _rebuild(place)
    weights, about = weightfiles.read_safetensors(path)
    transform = Transform(**about["transform"])
    transform = transform._replace(size=(transform.size[0], transform.size[1]))
    c, native, classes = config.check(config.read(str(place / rundir.CONFIG))), about["native"], tuple(about["classes"])
    if c.backbone.name == backbones.ONNX:
        whole = backbones.of_state(weights, str(path)).eval().requires_grad_(False)
        return Loaded(whole, None if about["inputs"] is not None else _transform(transform), classes, place)
    backbone = backbones.build(c.backbone.name, "none", c.data.image_size, tuple(native), channels=c.backbone.channels)
    whole = backbone.network(build.make_head(c, backbone, about["width"], len(classes)))
    whole.load_state_dict(weights)
    images = None if about["inputs"] is not None else _transform(transform)
    return Loaded(whole.eval().requires_grad_(False), images, classes, place)


def _rebuild(place: Path) -> Loaded:
    """Return the champion of a folder that has no whole network: its backbone's weights are found again."""
    run, champion = reopen.rebuild(str(place), Observer())
    backbone = run.network.backbone
    whole = run.network.module(champion.genome).cpu().to(memory_format=torch.contiguous_format)
    images = None if backbone.inputs is not None else _transform(backbone.transform)
    return Loaded(whole.requires_grad_(False), images, run.network.classes, place)


def _from_python(place: Path, model: nn.Module | None) -> Loaded:
    """Return the champion of a run from Python."""
    path = place / rundir.CHAMPION
    if not path.is_file():
        raise InputError(f"{place}: no champion yet")
    weights, about = weightfiles.read_safetensors(path)
    if model is None and (place / rundir.ONNX).is_file():
        return Loaded(onnxfiles.onnx(place / rundir.ONNX), None, tuple(about["classes"]), place)
    if model is None:
        raise InputError("the run was given it from Python; give it again, for its code isn't in the folder", "model")
    whole = deepcopy(model).cpu().eval().requires_grad_(False)
    there = {name for name, _ in whole.named_parameters()} | {*whole.state_dict()}
    # A module that is all head, or that has none, is within what evolved (`modules`).
    for prefix in ("", f"{WHOLE}.", f"{HEAD}."):
        own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        if own and own.keys() <= there:
            break
    else:
        wrong = next(name for name in weights if name not in there)
        raise InputError(f"another than the run's: it has no {wrong}", option="model")
    whole.load_state_dict(own, strict=False)
    return Loaded(whole, None, tuple(about["classes"]), place)


def _transform(t: Transform) -> Callable[[Any], Tensor]:
    """Return what makes an input [C, H, W] of an image, or of a file by its name, as the run did."""

    def transform(image: Any) -> Tensor:
        picture = Files([str(image)])[0] if isinstance(image, str | Path) else image
        resample = Image.Resampling[t.interpolation.upper()]
        array = pixels(picture, t.channels, t.size, resample)
        return normalise(torch.from_numpy(array.copy()).permute(2, 0, 1)[None], t, torch.device("cpu"))[0]

    return transform
