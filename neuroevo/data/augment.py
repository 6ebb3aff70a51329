"""Augmented views of train images: drawn by a seed for each, cached or fresh."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from neuroevo import devices
from neuroevo.data.arrays import Vectors
from neuroevo.data.datasets import Dataset
from neuroevo.data.pictures import Picture
from neuroevo.data.pixels import MODES, crop, flatten
from neuroevo.errors import InputError
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.libraries import Transform

LIVE_KEPT = 64  # batches of live views that are kept for their second use
BATCH = 64  # images at a time through the backbone; fixed, so that computing features again gives the same bytes


class Live:
    """Runs the backbone on fresh crops of train images: row `N + k * N + i` is image i, augmented by the seed k.

    What one generation asks for twice (a slice of individuals after another) is computed once.
    """

    def __init__(self, backbone: Backbone, dataset: Dataset, augment: "Augment", device: torch.device) -> None:
        self.backbone, self.dataset, self.augment, self.device = backbone, dataset, augment, device
        self.computed = 0  # images so far
        self.kept: dict[bytes, Tensor] = {}

    def __call__(self, index: Tensor) -> Tensor:
        """Return the features [B, d] of rows of views."""
        key = index.cpu().numpy().tobytes()
        if key not in self.kept:
            if len(self.kept) >= LIVE_KEPT:
                self.kept.clear()
            n = len(self.dataset.labels)
            rows, seeds = ((index - n) % n).tolist(), ((index - n) // n).tolist()
            transform, source = self.backbone.transform, self.dataset.images
            assert not isinstance(source, Vectors)  # of which there are no views
            images = [self.augment(source[row], transform, seed) for row, seed in zip(rows, seeds, strict=True)]
            batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            with torch.no_grad():  # not inference_mode: they are trained on
                self.kept[key] = torch.cat(
                    [self.backbone.features(normalise(part, transform, self.device)) for part in batch.split(BATCH)]
                )
            self.computed += len(index)
        return self.kept[key]


class Augment:
    """Torchvision v2 transforms in a row, each `{name: ClassName, option: ...}`, drawn by a seed for each image."""

    def __init__(self, given: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> None:
        from torchvision.transforms import v2

        names = sorted(name for name in dir(v2) if isinstance(getattr(v2, name), type) and name != "Transform")
        parts = []
        for i, entry in enumerate(given):
            options = {key: value for key, value in entry.items() if key != "name"}
            name = str(entry.get("name"))
            if name not in names:
                near = (
                    ", ".join(difflib.get_close_matches(name, names, 3))
                    or "RandomResizedCrop, ColorJitter, RandAugment"
                )
                raise InputError(f"torchvision has no transform {name!r}; near: {near}", option=f"augment.{i}")
            if name in ("RandomResizedCrop", "RandomCrop"):
                options = {"size": list(size), **options}
            try:
                parts.append(getattr(v2, name)(**options))
            except (TypeError, ValueError) as error:
                raise InputError(f"{name}: {error}", option=f"augment.{i}") from None
        self.given, self.transforms = (
            [dict(entry) for entry in given],
            v2.Compose(parts) if len(parts) > 1 else parts[0],
        )

    def __call__(self, image: Picture, transform: Transform, seed: int) -> npt.NDArray[np.uint8]:
        """Return an augmented image as uint8 [H, W, channels]."""
        if isinstance(image, np.ndarray):
            raise InputError(".npy images can't be augmented", option="augment")
        view = flatten(image, transform.channels)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            view = self.transforms(view)
        resample = Image.Resampling[transform.interpolation.upper()]
        return crop(view.convert(MODES[transform.channels]), transform.size, resample)


def views(count: int, clean: int, train: Tensor) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return how a batch draws among `count` cached views of each train image, or live ones where `count` is 0."""
    place = torch.full((clean,), -1, dtype=torch.int64)
    place[train] = torch.arange(len(train))

    def view(rows: Tensor, source: torch.Generator) -> Tensor:
        if count == 0:
            return clean + clean * torch.randint(2**31, rows.shape, generator=source) + rows
        return clean + len(train) * torch.randint(count, rows.shape, generator=source) + place[rows]

    return view


def normalise(batch: Tensor, transform: Transform, device: torch.device) -> Tensor:
    """Return uint8 images [B, channels, H, W] as the backbone takes them: float32, normalised, channels last."""
    x = devices.send(batch, device).to(torch.float32, memory_format=torch.channels_last).div_(255)
    if transform.mean is not None and transform.std is not None:
        given = (torch.tensor(v).view(1, -1, 1, 1) for v in (transform.mean, transform.std))
        mean, std = (devices.send(v, device) for v in given)
        x = x.sub_(mean).div_(std)
    return x
