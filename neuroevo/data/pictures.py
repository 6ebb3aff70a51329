"""One image as a person sees it, read from a file of any format.

Whatever Pillow opens is either read right or refused by name: turned as EXIF says, and scaled to 8 bits a channel.
docs/images.md has the table.
"""

import contextlib
import errno
import os
import threading
import warnings
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from neuroevo import devices
from neuroevo.errors import RunError, setting, the
from neuroevo.reading import regular

DECODING = 2  # changes whenever some file is read as other pixels than before, so that no features of those are taken
STRIP = 2**22  # pixels that are looked at at once
MAX_PIXELS = 178_956_970  # where Pillow, too, takes an image for an attack on memory
FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "TIFF",
    "GIF",
    "BMP",
    "DIB",
    "AVIF",
    "JPEG2000",
    "PPM",
    "PCX",
    "QOI",
    "SGI",
    "TGA",
)
STRAITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the machine, and no fault of a file
SIGNED = "32-bit or signed integers, whose range can't be known"
ORIENTATION = 0x0112  # in EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Picture = (
    Image.Image | npt.NDArray[np.uint8]
)  # L, LA, RGB or RGBA; or of any number of channels, uint8 [H, W, channels]


class Unreadable(Exception):
    """A file can't be read as an image: the reason, and advice."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


def damage(reason: str) -> Unreadable:
    """Return the error of a file that is damaged, or no image."""
    return Unreadable(
        f"broken image ({reason})", f"mend or remove it, or leave such files out with {setting('broken', 'skip')}"
    )


def refusal(reason: str, advice: str) -> Unreadable:
    """Return the error of a sound image that could be read in more than one way, or in none."""
    return Unreadable(reason, f"{advice}, or leave such files out with {setting('broken', 'skip')}")


def reason_of(error: BaseException) -> str:
    """Return an error's words on one line, without the path that it may name."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split()) or type(error).__name__


def read(path: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Return the image in a file, of whatever format its content has, as a person sees it.

    An image is L, LA, RGB or RGBA, turned as EXIF says; a .npy file is an array of any number of channels. Unreadable
    for a file that is damaged, that is no image, that can be read in more than one way, or has more than `max_pixels`.
    """
    size: tuple[int, ...] = ()
    try:
        with _pillow_at_rest(), regular(path) as file:
            start = file.read(64)
            file.seek(0)
            if start.startswith(np.lib.format.MAGIC_PREFIX):
                return _array(path, max_pixels)
            with _open(file, start) as image:
                _to_its_page(image)
                size = image.size
                _within(size, max_pixels)
                return _upright(image)
    except Unreadable:
        raise
    except MemoryError:
        # Four bytes a pixel, twice over; with so much free, it was the file that asked for more than it should.
        if size and devices.available_memory(torch.device("cpu")) < 8 * size[0] * size[1]:
            raise RunError(f"{path}: no memory left to read {size[0]:,} x {size[1]:,} pixels") from None
        raise damage("it asks for more memory than there is") from None
    except Exception as error:  # decoders raise whatever they like
        if getattr(error, "errno", None) in STRAITS:
            raise
        raise damage(reason_of(error)) from None


_rest = threading.Lock()
_resting, _left = 0, contextlib.ExitStack()


@contextlib.contextmanager
def _pillow_at_rest() -> Iterator[None]:
    """Leave the judgement of size to `read`, and its words to the user, while it is entered by any thread.

    Pillow's limit is one for the whole process, and so are warnings; both are as before when the last one leaves.
    """
    global _resting
    with _rest:
        if not _resting:
            _left.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _left.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            Image.MAX_IMAGE_PIXELS = None
        _resting += 1
    try:
        yield
    finally:
        with _rest:
            _resting -= 1
            if not _resting:
                _left.close()


def _within(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise Unreadable(
            f"{width:,} x {height:,} pixels are more than {the('max_pixels')}, {max_pixels:,}",
            f"allow them with {setting('max_pixels', width * height)}",
        )


def _array(path: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # maps no more than there is, whatever the header says
    if mapped.ndim != 3 or mapped.dtype != np.uint8 or 0 in mapped.shape:
        raise ValueError(f"uint8 [H, W, channels] expected, {mapped.dtype} {list(mapped.shape)} found")
    if mapped.offset + mapped.nbytes != os.stat(path).st_size:
        raise ValueError("there is more behind the array")
    _within((mapped.shape[1], mapped.shape[0]), max_pixels)
    return np.array(mapped)


def _open(file: BufferedReader, start: bytes) -> ImageFile:
    Image.init()
    try:
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        pass
    if not start:
        raise damage("the file is empty")
    if start.startswith(b"version https://git-lfs"):
        raise damage("a pointer of Git LFS; git lfs pull fetches the image")
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        raise damage("a TIFF of a kind that isn't read, or damaged at its start")
    file.seek(0)
    try:
        other = Image.open(file).format
    except Exception:
        raise damage("in no format that is known, or damaged at its start") from None
    raise refusal(f"{other} files are not read", "save it as PNG")


def _upright(image: ImageFile) -> Image.Image:
    """Return an opened image as L, LA, RGB or RGBA of 8 bits a channel, turned as EXIF says."""
    if image.format == "TIFF" and 2 in image.tag_v2.get(339, ()):  # type: ignore[attr-defined]  # SampleFormat
        raise refusal(SIGNED, "save it as unsigned 8 or 16 bits")
    raw = image.tile[0][3] if image.tile else None  # how samples lie in the file; gone once they are loaded
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    image.load()
    turn = None
    if image.format != "TIFF":  # which Pillow turns as it loads
        with contextlib.suppress(Exception):  # what can't be read turns no picture, in a viewer neither
            turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    lying = _eight_bits(image, raw if isinstance(raw, str) else "")
    if turn is None:
        return lying
    if lying is not image:
        image.close()  # of three copies two are enough
    return lying.transpose(turn)


def _to_its_page(image: ImageFile) -> None:
    """Go to the only page of a TIFF that is no thumbnail or smaller copy; Unreadable where there are several."""
    if image.format != "TIFF":
        return
    count: int = getattr(image, "n_frames", 1)
    whole = []
    for i in range(count):
        image.seek(i)
        tags = image.tag_v2  # type: ignore[attr-defined]
        if not (tags.get(254, 0) & 1 or tags.get(255) == 2):  # NewSubfileType, SubfileType: reduced in size
            whole.append(i)
    if len(whole) != 1 < count:
        raise refusal(f"a TIFF of {len(whole) or count} pages", "save the one that is meant as a file of its own")
    image.seek(whole[0] if whole else 0)


def _eight_bits(image: Image.Image, raw: str) -> Image.Image:
    key = image.info.pop("transparency", None) if image.mode in ("1", "L", "RGB") or image.mode[0] == "I" else None
    mode = image.mode
    if mode in ("La", "RGBa"):
        return image.convert(mode.upper())
    if mode in ("P", "PA"):
        palette = image.palette.mode if image.palette else "RGB"
        clear = mode == "PA" or "transparency" in image.info or palette.endswith("A")
        return image.convert("RGBA" if clear else "RGB")
    if raw == "LA;16B":  # grey that Pillow widens
        return Image.merge("LA", (image.getchannel("R"), image.getchannel("A")))
    if mode in ("LA", "RGBA"):
        return image
    if mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return image.convert("RGB")
    hidden = None
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
        out, hidden = np.empty(image.size[::-1], np.uint8), None if key is None else _equal(image, key)
        for rows, strip in _strips(image):
            deep: npt.NDArray[np.uint16] = strip.astype(np.uint16)
            if tags.get(258) == (12,):  # BitsPerSample
                deep = (deep << 4 | deep >> 8).astype(np.uint16)
            if tags.get(262) == 0:  # PhotometricInterpretation: white is zero
                deep = ~deep
            out[rows] = _round(deep)
        image.close()  # which frees two bytes a pixel
        image = Image.fromarray(out)
    elif mode == "1":
        image = image.convert("L")
    elif mode == "I":
        raise refusal(SIGNED, "save it as unsigned 8 or 16 bits")
    elif mode == "F":
        raise refusal("floating point, whose range can't be known", "save it as unsigned 8 or 16 bits")
    elif mode not in ("L", "RGB"):
        raise refusal(f"{image.format} of mode {mode} is not read", "save it as PNG")
    if key is None:
        return image
    if raw == "RGB;16B":
        raise refusal("16-bit colour with a transparent colour", "save it with an alpha channel")
    if hidden is None:
        scale = {"L;2": 85, "L;4": 17}.get(raw, 1)  # Pillow scales such pixels, and not the key
        hidden = _equal(image, np.array(key) * scale)
    alpha = np.logical_not(hidden, out=hidden).view(np.uint8)
    alpha *= 255
    image.putalpha(Image.fromarray(alpha))
    return image


def _strips(image: Image.Image) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Yield an image's pixels a few rows at a time, for all of them in other types take gigabytes."""
    width, height = image.size
    step = max(1, STRIP // width)
    for top in range(0, height, step):
        end = min(height, top + step)
        yield slice(top, end), np.asarray(image if step >= height else image.crop((0, top, width, end)))


def _equal(image: Image.Image, key: Any) -> npt.NDArray[np.bool_]:
    """Return which pixels [H, W] have a value, or a colour."""
    found = np.empty(image.size[::-1], np.bool_)
    for rows, strip in _strips(image):
        same = strip == key
        found[rows] = same if same.ndim == 2 else same.all(axis=2)
    return found


def _round(deep: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Return 16 bits as the nearest 8, round(x / 257)."""
    wide = deep.astype(np.uint32)
    wide *= 255
    wide += 32_895
    wide >>= 16
    return wide.astype(np.uint8)
