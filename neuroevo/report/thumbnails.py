"""Small copies of samples' images for a page, embedded in it, as far as the run's data is where it was.

Images of the data sets that neuroevo brings along are found by their row, those in folders by their path; rows of
numbers, and what a user's own function read, have none.
"""

import base64
import inspect
import io
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neuroevo.data import pictures
from neuroevo.data.arrays import Vectors
from neuroevo.data.datasets import DATASETS, Dataset, find_root
from neuroevo.data.pictures import Picture, Unreadable
from neuroevo.data.splits import limit_images
from neuroevo.errors import InputError
from neuroevo.storage.predictions import Prediction

SIDE, TINY = 96, 32  # pixels of a copy's longer side, and up to which an image is kept as it is
BYTES = 3600  # of a copy: 60 of them in base64 take less than 300 kB
QUALITIES = (80, 60, 40, 20)


class Unavailable(Exception):
    """There is no image to show: why, in words."""


class Images:
    """The images of a run's samples, from the data of its config."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        data = config.get("data")
        self.data: Mapping[str, Any] = data if isinstance(data, dict) else {}

    def thumbnail(self, row: Prediction) -> tuple[str, int, int]:
        """Return a small copy of a sample's image as a data URI, its width and height; Unavailable where none is."""
        return encode(self._file(row) if row.file else self._of_set(row))

    def _file(self, row: Prediction) -> Picture:
        root = self.data.get("root")
        if not isinstance(root, str):
            raise Unavailable("the config names no folder of images")
        below = Path(row.file)
        if below.is_absolute() or ".." in below.parts:  # links below the root are followed, as runs do
            raise Unavailable(f"{row.file}: not a path below the folder of images")
        try:
            return pictures.read(str(Path(root) / row.file))
        except (Unreadable, OSError) as error:
            raise Unavailable(f"{Path(root) / row.file}: {error}") from None

    def _of_set(self, row: Prediction) -> Picture:
        found = self._set
        if isinstance(found, Unavailable):
            raise found
        if isinstance(found.images, Vectors):
            raise Unavailable("its samples are rows of numbers")
        if row.sample >= len(found.labels) or found.classes[found.labels[row.sample]] != row.label:
            raise Unavailable("the data are others now")
        return found.images[row.sample]

    @cached_property
    def _set(self) -> Dataset | Unavailable:
        name = self.data.get("name")
        if name not in DATASETS or name == "image_folder":
            return Unavailable("its data have no images that can be found again")
        given = DATASETS[str(name)]
        options = {key: self.data[key] for key in inspect.signature(given).parameters if key in self.data}
        if "download" in options:  # which is never done for a page, nor is a folder made for it
            options["download"] = False
            if not Path(find_root(options["root"])).is_dir():
                return Unavailable(f"its data are no longer in {find_root(options['root'])}")
        try:
            found = given(**options)
            limit = self.data.get("limit")
            return found if limit is None else limit_images(found, int(limit), int(self.data["split_seed"]))
        except (InputError, OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            return Unavailable(str(error))


def encode(picture: Picture) -> tuple[str, int, int]:
    """Return an image, small, as a data URI, its width and height: PNG of a tiny one, else JPEG of at most BYTES."""
    image = _rgb(picture)
    if max(image.size) <= TINY:
        return _uri("png", _bytes(image, "PNG", optimize=True)), *image.size
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in QUALITIES:
        content = _bytes(image, "JPEG", quality=quality, optimize=True)
        if len(content) <= BYTES:
            break
    else:
        image.thumbnail((SIDE // 2, SIDE // 2))
        content = _bytes(image, "JPEG", quality=QUALITIES[-1], optimize=True)
    return _uri("jpeg", content), *image.size


def _rgb(picture: Picture) -> Image.Image:
    """Return an image in colour, on white where it is clear; of other channels than these the first, or first three."""
    if isinstance(picture, np.ndarray):
        channels = picture.shape[2]
        return Image.fromarray(np.ascontiguousarray(picture[..., :3] if channels >= 3 else picture[..., 0])).convert(
            "RGB"
        )
    if picture.mode in ("LA", "RGBA"):
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def _bytes(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
