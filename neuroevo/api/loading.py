"""A run's champion, taken from its folder as a plain module: without data, a download, or the device of its birth."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from neuroevo import config
from neuroevo.api import notebook, predictions
from neuroevo.api.predictions import AT_ONCE, Prediction, Transform, check_top, find, label
from neuroevo.data.augment import normalise
from neuroevo.data.pictures import MAX_PIXELS, Unreadable, read
from neuroevo.data.pixels import pixels
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError, plain
from neuroevo.experiments import build, reopen
from neuroevo.experiments.interruption import NEVER, Interruption
from neuroevo.networks import backbones, libraries, onnxfiles, weightfiles
from neuroevo.networks.backbones import HEAD, WHOLE
from neuroevo.storage import records, rundir

SHOWN = 20  # classes that a notebook names


class Loaded(NamedTuple):
    """A run's champion."""

    model: nn.Module  # in eval mode, on the CPU: inputs to logits [B, C]
    transform: Transform | None  # an image or a file's name -> an input [C, H, W]; None for rows of numbers
    classes: tuple[str, ...]  # of the logits
    folder: Path
    inputs: int | None = None  # numbers of a row; None for images, or where only the module given knows

    def probabilities(self, inputs: Any) -> Tensor:
        """Return the probabilities [n, C] of images, of rows of numbers [n, d], or of what paths name.

        A path is an image, a folder, of which all images are taken in order, or an .npz file, of which x is. InputError
        where there is nothing at a path, or an image can't be read.
        """
        parts = [predictions.probabilities(self.model, part) for part in self._inputs(inputs)]
        return torch.cat(parts) if parts else torch.empty(0, len(self.classes))

    def predict(self, inputs: Any) -> list[str]:
        """Return the class of each of some images, rows of numbers [n, d], or samples that paths name."""
        return [self.classes[i] for i in self.probabilities(inputs).argmax(1).tolist()]

    def predictions(
        self, paths: Any, *, top: int = 1, skip: Callable[[str], object] | None = None
    ) -> Iterator[Prediction]:
        """Return what is said of each sample that paths name, with the `top` likeliest classes, as it is computed.

        `skip` is told of each image that can't be read, which is left out; without it that is an InputError.
        """
        check_top(top, self.classes)
        found = find(_as_list(paths), self.transform, self.inputs)
        return label(self.model, self.transform, self.classes, found, top=top, skip=skip)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        takes = "images" if self.transform is not None else "rows of numbers"
        if self.inputs is not None:
            takes = f"rows of {self.inputs:,} numbers"
        names = ", ".join(self.classes[:SHOWN]) + (", ..." if len(self.classes) > SHOWN else "")
        rows: list[tuple[str, object]] = [
            ("folder", self.folder),
            ("takes", takes),
            ("classes", f"{len(self.classes):,}: {names}"),
            ("weights", sum(weights.numel() for weights in self.model.parameters())),
        ]
        return notebook.page("neuroevo: a run's champion", rows)

    def _inputs(self, given: Any) -> Iterator[Tensor]:
        """Yield inputs to the network, batch by batch."""
        if isinstance(given, Tensor):
            yield from given.float().split(AT_ONCE)
            return
        listed = [] if isinstance(given, np.ndarray) and self.transform is None else _as_list(given)
        if listed and all(isinstance(item, str | Path) for item in listed):
            found = find(listed, self.transform, self.inputs)
            yield from (inputs for _, inputs in predictions.batches(found, self.transform))
        elif self.transform is None:
            yield from torch.as_tensor(np.asarray(given)).float().split(AT_ONCE)
        else:
            for i in range(0, len(listed), AT_ONCE):
                yield torch.stack([self.transform(image) for image in listed[i : i + AT_ONCE]])


def _as_list(given: Any) -> list[Any]:
    return [given] if isinstance(given, str | Path | Image.Image) else list(given)


def load(
    folder: str | Path,
    model: nn.Module | None = None,
    *,
    observer: Observer | None = None,
    signals: Interruption = NEVER,
) -> Loaded:
    """Return the champion of a run's folder as a plain module, with what goes before it and its classes.

    Of a run from Python the `model` is given again, and a copy of it returned with the champion's weights, unless it is
    an ONNX file, which the folder has. `observer` is told what there is to say where the network has to be built again.
    InputError where there is no champion yet, or its file is damaged.
    """
    place = rundir.find(str(folder))
    if reopen.from_python(place):
        return _from_python(place, model)
    if model is not None:
        raise InputError(f"{folder} says itself what its network is", option="model")
    path, watch = place / rundir.NETWORK, observer or Observer()
    if not path.is_file():
        return _rebuild(place, watch, signals)
    weights, about = weightfiles.read_safetensors(path)
    c = reopen.read_config(place, watch.note)
    with _as_written(path):
        native, classes, t = tuple(about["native"]), _classes(about), libraries.Transform(**about["transform"])
        if not (about["inputs"] is None or records.count(about["inputs"])):
            raise ValueError("inputs is no number")
        if not records.count(about["width"]) or about["width"] > sum(w.numel() for w in weights.values()):
            raise ValueError("width is more than its weights have")  # before a head of that width is made
        transform = _transform(t._replace(size=(t.size[0], t.size[1])), c) if about["inputs"] is None else None
        if c.backbone.name == backbones.ONNX:
            whole = backbones.of_state(weights, str(path))
        else:
            name, size = c.backbone.name, c.data.image_size
            backbone = backbones.build(name, "none", size, native, channels=c.backbone.channels)
            whole = backbone.network(build.make_head(c, backbone, about["width"], len(classes)))
            whole.load_state_dict(weights)
        return Loaded(whole.eval().requires_grad_(False), transform, classes, place, about["inputs"])


@contextmanager
def _as_written(path: Path) -> Iterator[None]:
    """Raise InputError where a sealed file isn't what a run writes under its name."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: not as this run writes it ({type(error).__name__}: {reason})") from None


def _classes(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes that a sealed file names; ValueError where these aren't names."""
    classes = about["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes aren't names")
    return tuple(classes)


def _rebuild(place: Path, observer: Observer, signals: Interruption) -> Loaded:
    """Return the champion of a folder that has no whole network: its backbone's weights are found again."""
    run, champion = reopen.rebuild(str(place), observer, signals=signals)
    backbone = run.network.backbone
    whole = run.network.module(champion.genome).cpu().to(memory_format=torch.contiguous_format)
    images = None if backbone.inputs is not None else _transform(backbone.transform, run.config)
    return Loaded(whole.requires_grad_(False), images, run.network.classes, place, backbone.inputs)


def _from_python(place: Path, model: nn.Module | None) -> Loaded:
    """Return the champion of a run from Python."""
    path = place / rundir.CHAMPION
    if not path.is_file():
        raise InputError(f"{place}: no champion yet")
    weights, about = weightfiles.read_safetensors(path)
    with _as_written(path):
        classes = _classes(about)
    if model is None and (place / rundir.ONNX).is_file():
        return Loaded(onnxfiles.onnx(place / rundir.ONNX), None, classes, place)
    if model is None:
        again = f"give it again: neuroevo.load({str(place)!r}, module)"
        raise InputError(f"the module of a run from Python isn't in its folder; {again}", option="model")
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
    with _as_written(path):
        whole.load_state_dict(own, strict=False)
    return Loaded(whole, None, classes, place)


def _transform(t: libraries.Transform, c: config.Config) -> Transform:
    """Return what makes an input [C, H, W] of an image, or of a file by its name, as the run did."""
    most = c.data.source.options.get("max_pixels") or MAX_PIXELS

    def transform(image: Any) -> Tensor:
        try:
            picture = read(str(image), most) if isinstance(image, str | Path) else image
        except Unreadable as error:
            raise InputError(f"{image}: {plain(error.reason)}") from None
        resample = Image.Resampling[t.interpolation.upper()]
        array = pixels(picture, t.channels, t.size, resample)
        return normalise(torch.from_numpy(array.copy()).permute(2, 0, 1)[None], t, torch.device("cpu"))[0]

    return transform
