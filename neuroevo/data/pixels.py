"""The pixels that a network is given of an image: of its channels, on white, resized and cut to its size."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from neuroevo.data.pictures import Picture
from neuroevo.errors import InputError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
BACKGROUND = "white"  # what is transparent lies on it, as on a page
BAND = 2**22  # pixels of an image that are put on its background at once
TALL, LARGE = 16, 2**24  # a resized image of more than so many times the pixels wanted, and pixels, is made in part


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Return an image as L, RGB or RGBA by its number of channels; transparent pixels lie on white.

    Of four channels, the first three are the colours as they are seen on white, so that none is hidden there either.
    """
    if channels not in MODES:
        raise InputError(f"{channels}, which only .npy images have", option="channels")
    if image.mode not in ("LA", "RGBA"):
        return image.convert(MODES[channels])
    mode = "RGB" if channels > 1 else "L"
    seen = Image.new(mode, image.size)
    for box in _bands(image.size):  # so that an image is there twice and not four times
        band = image.crop(box)
        white = Image.new(image.mode[:-1], band.size, BACKGROUND)
        white.paste(band.convert(white.mode), mask=band.getchannel("A"))
        seen.paste(white.convert(mode), box)
    if channels == 4:
        seen.putalpha(image.getchannel("A"))
    return seen


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes that an image is cut into, each of so many pixels at most."""
    width, height = size
    across = min(width, BAND)
    down = max(1, BAND // across)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


def pixels(image: Picture, channels: int, size: tuple[int, int], resample: Image.Resampling) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 [H, W, channels]: shorter side to size, centre crop."""
    if isinstance(image, Image.Image):
        # Grey once and not three times, alpha apart: channels are resized each alone, and a large image has gigabytes.
        if channels == 4:
            colours = pixels(image, 3, size, resample)
            if image.mode not in ("LA", "RGBA"):
                return np.concatenate([colours, np.full_like(colours[:, :, :1], 255)], axis=2)
            return np.concatenate([colours, crop(image.getchannel("A"), size, resample)], axis=2)
        if channels == 3 and image.mode in ("L", "LA"):
            return np.repeat(pixels(image, 1, size, resample), 3, axis=2)
        return crop(flatten(image, channels), size, resample)
    if image.shape[2] != channels:
        raise InputError(
            f"an image has {image.shape[2]} channels, {channels} are expected, in [H, W, channels]", option="channels"
        )
    planes = [crop(Image.fromarray(image[:, :, c]), size, resample) for c in range(channels)]
    return np.concatenate(planes, axis=2)


def crop(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> npt.NDArray[np.uint8]:
    """Return an image of mode L, RGB or RGBA as uint8 [H, W, channels]: shorter side to size, centre crop."""
    if image.mode == "RGBA":  # apart, for Pillow weighs colours by alpha; one by one, for a large image has gigabytes
        return np.concatenate([crop(image.getchannel(part), size, resample) for part in image.mode], axis=2)
    height, width = size
    scale = max(height / image.height, width / image.width)
    around = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    left, top = (around[0] - width) // 2, (around[1] - height) // 2
    if around[0] * around[1] > max(TALL * width * height, LARGE):  # a strip, which takes gigabytes as a whole
        across, down = image.width / around[0], image.height / around[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        image = image.resize((width, height), resample, box)
    else:
        if image.size != around:
            image = image.resize(around, resample)
        if around != (width, height):
            image = image.crop((left, top, left + width, top + height))
    return np.asarray(image).reshape(height, width, -1)
