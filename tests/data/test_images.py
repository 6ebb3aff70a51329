"""Every mode that Pillow writes, in every format, against the picture that a viewer shows."""

import contextlib
import errno
import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFile

from neuroevo.data import pictures
from neuroevo.data.images import Files
from neuroevo.data.pictures import Unreadable, read
from neuroevo.data.pixels import LARGE, TALL, crop, flatten, pixels
from neuroevo.errors import InputError, RunError

BILINEAR = Image.Resampling.BILINEAR
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=2)
T = Image.Transpose
STORED = {1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90,
          7: T.TRANSVERSE, 8: T.ROTATE_270}  # fmt: skip


def seen(path: Path, channels: int = 3) -> npt.NDArray[np.int64]:
    """Return what a network is given of a file that is as large as it wants."""
    image = read(str(path))
    size = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    return pixels(image, channels, size, BILINEAR).astype(np.int64)


def before(image: Image.Image, channels: int, size: tuple[int, int], resample: Image.Resampling) -> Any:
    """Return the pixels as they were before this module knew more than 8 bits of grey or colour."""
    image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    height, width = size
    scale = max(height / image.height, width / image.width)
    around = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if image.size != around:
        image = image.resize(around, resample)
    left, top = (around[0] - width) // 2, (around[1] - height) // 2
    image = image.crop((left, top, left + width, top + height))
    return np.asarray(image).reshape(height, width, channels)


@pytest.mark.parametrize(("width", "height"), [(8, 8), (20, 10), (10, 30), (33, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_shape_are_cut_to_the_centre(width: int, height: int, channels: int) -> None:
    x = np.zeros((height, width, 3), dtype=np.uint8)
    x[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = 255
    out = pixels(Image.fromarray(x), channels, (8, 8), BILINEAR)
    assert out.shape == (8, 8, channels)
    assert out[3:5, 3:5].min() > 100


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("resample", [BILINEAR, Image.Resampling.BICUBIC])
def test_ordinary_images_are_the_same_bytes_as_ever(
    tmp_path: Path, suffix: str, mode: str, resample: Image.Resampling
) -> None:
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate([(32, 32), (57, 23), (20, 99), (8, 90), (3, 40)]):
        shape = (height, width) if mode == "L" else (height, width, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{i}.{suffix}")
        image = read(str(tmp_path / f"{i}.{suffix}"))
        with Image.open(tmp_path / f"{i}.{suffix}") as plain:
            for channels in (1, 3, 4):
                for size in ((32, 32), (8, 12)):
                    found = pixels(image, channels, size, resample)
                    assert np.array_equal(found, before(plain, channels, size, resample))


@pytest.mark.parametrize(("width", "height"), [(1, 60_000), (60_000, 1), (7, 3000), (2000, 5)])
def test_a_strip_takes_no_more_memory_than_its_middle(width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    low = np.repeat(rng.integers(0, 256, (-(-height // 50), -(-width // 50), 3), dtype=np.uint8), 50, axis=0)
    image = Image.fromarray(np.ascontiguousarray(np.repeat(low, 50, axis=1)[:height, :width]))
    asked: list[int] = []
    size = (224, 224)
    real = Image.Image.resize

    def resize(self: Image.Image, size: tuple[int, int], *given: Any) -> Image.Image:
        asked.append(size[0] * size[1])
        return real(self, size, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        found = pixels(image, 3, size, Image.Resampling.BICUBIC)
    assert max(asked) <= max(LARGE, TALL * 224 * 224)
    if height == 3000:
        assert asked == [224 * 224]
        assert np.abs(found.astype(int) - before(image, 3, size, Image.Resampling.BICUBIC)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "options"),
    [("jpg", {"quality": 100, "subsampling": 0}), ("png", {}), ("webp", {"lossless": True}), ("tif", {}),
     ("tif", {"compression": "tiff_lzw"}), ("avif", {"quality": 100})],
)  # fmt: skip
def test_photos_are_turned_as_exif_says(tmp_path: Path, suffix: str, options: dict[str, Any], orientation: int) -> None:
    x = np.zeros((16, 24, 3), dtype=np.uint8)
    x[:8, :12], x[8:, :12], x[:8, 12:] = 250, 160, 80
    turn, exif = STORED[orientation], Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(x) if turn is None else Image.fromarray(x).transpose(turn)
    stored.save(tmp_path / f"x.{suffix}", exif=exif, **options)
    found = seen(tmp_path / f"x.{suffix}")
    assert found.shape == x.shape
    assert np.abs(found - x).max() < 12
    assert Files([str(tmp_path / f"x.{suffix}")])[0].size == (24, 16)  # type: ignore[union-attr]


def test_exif_that_is_damaged_turns_no_picture_and_says_nothing(tmp_path: Path) -> None:
    rng, real = np.random.default_rng(0), Image.Exif()
    real[0x0112], real[0x010F] = 6, "a camera"
    for i in range(60):
        data = bytearray(real.tobytes())
        for place in rng.integers(6, len(data), 4):
            data[place] = rng.integers(0, 256)
        Image.fromarray(COLOUR).save(tmp_path / f"{i}.jpg", exif=bytes(data[: rng.integers(6, len(data))]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert seen(tmp_path / f"{i}.jpg").shape == (16, 16, 3)


def deep(kind: str) -> Image.Image:
    return Image.frombytes(kind, (16, 16), (GREY.astype(np.uint16) * 257).astype(">u2" if "B" in kind else "<u2"))


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [("I;16", "png", {}), ("I;16", "tif", {}), ("I;16B", "tif", {}), ("I;16", "tif", {"compression": "tiff_lzw"}),
     ("I;16", "pgm", {}), ("I;16", "jp2", {}), ("I;16B", "png", {})],
)  # fmt: skip
def test_grey_of_16_bits_is_the_same_picture_in_8(
    tmp_path: Path, mode: str, suffix: str, options: dict[str, Any]
) -> None:
    path = tmp_path / f"x.{suffix}"
    deep(mode).save(path, **options)
    assert np.array_equal(seen(path, 1)[:, :, 0], GREY)
    assert np.array_equal(seen(path, 3), np.repeat(GREY[:, :, None], 3, axis=2))
    assert read(str(path)).mode == "L"  # type: ignore[union-attr]


def test_16_bits_are_rounded_to_the_nearest_8() -> None:
    x = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(pictures._round(x), np.rint(x / 257).astype(np.uint8))


def png(kind: int, bits: int, rows: npt.NDArray[Any], chunks: dict[bytes, bytes] | None = None) -> bytes:
    """Return a PNG file of rows of samples, packed: what Pillow reads and doesn't write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", 16, 16, bits, kind, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    between = b"".join(chunk(name, data) for name, data in (chunks or {}).items())
    body = chunk(b"IHDR", size) + between + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_colour_of_16_bits_is_the_same_picture_in_8(tmp_path: Path) -> None:
    alpha = np.full((16, 16, 1), 255, dtype=np.uint8)
    wide = {2: COLOUR, 6: np.concatenate([COLOUR, alpha], 2), 4: np.concatenate([GREY[:, :, None], alpha], 2)}
    for kind, x in wide.items():
        path = tmp_path / f"{kind}.png"
        path.write_bytes(png(kind, 16, (x.astype(np.uint16) * 257).astype(">u2").reshape(16, -1)))
        expected = COLOUR if kind != 4 else np.repeat(GREY[:, :, None], 3, axis=2)
        assert np.array_equal(seen(path), expected)
    assert read(str(tmp_path / "4.png")).mode == "LA"  # type: ignore[union-attr]
    (tmp_path / "x.ppm").write_bytes(b"P6 16 16 65535\n" + (COLOUR.astype(np.uint16) * 257).astype(">u2").tobytes())
    assert np.array_equal(seen(tmp_path / "x.ppm"), COLOUR)
    (tmp_path / "x.pgm").write_bytes(b"P5 16 16 1023\n" + (GREY.astype(np.uint16) * 4).astype(">u2").tobytes())
    assert np.abs(seen(tmp_path / "x.pgm")[:, :, 0] - GREY).max() <= 1


def tiff(order: str, samples: bytes, tags: dict[int, int], pages: int = 1) -> bytes:
    """Return a TIFF of 16 x 16 samples, each of its pages the same."""
    out = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(samples)) + samples
    whole = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: len(samples), **tags}
    for page in range(pages):
        out += struct.pack(order + "H", len(whole))
        for tag, value in sorted(whole.items()):
            out += struct.pack(order + "HHII", tag, 4, 1, value)
        out += struct.pack(order + "I", 0 if page == pages - 1 else len(out) + 4)
    return out


def test_tiff_of_12_bits_or_with_white_as_zero_is_as_a_viewer_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff("<", (65535 - GREY.astype("<u2") * 257).astype("<u2").tobytes(), {258: 16, 262: 0}))
    assert np.array_equal(seen(path, 1)[:, :, 0], GREY)
    path.write_bytes(tiff("<", (255 - GREY).tobytes(), {262: 0}))
    assert np.array_equal(seen(path, 1)[:, :, 0], GREY)
    twelve = GREY.astype(np.uint32).ravel() * 4095 // 255
    low, high = twelve[::2], twelve[1::2]
    packed = np.stack([low >> 4, (low & 15) << 4 | high >> 8, high & 255], axis=1).astype(np.uint8)
    path.write_bytes(tiff("<", packed.tobytes(), {258: 12}))
    assert np.abs(seen(path, 1)[:, :, 0] - GREY).max() <= 1


@pytest.mark.parametrize(
    ("write", "suffix", "message"),
    [
        (lambda p: Image.fromarray(GREY.astype(np.int32) * 257).save(p), "tif", "32-bit or signed integers"),
        (lambda p: Image.fromarray((GREY / 255).astype(np.float32)).save(p), "tif", "floating point"),
        (lambda p: Image.fromarray((GREY / 255).astype(np.float32)).save(p), "pfm", "floating point"),
        (lambda p: p.write_bytes(tiff("<", GREY.astype("<i2").tobytes(), {258: 16, 339: 2})), "tif", "32-bit or sign"),
        (lambda p: p.write_bytes(tiff("<", GREY.tobytes(), {}, 3)), "tif", "a TIFF of 3 pages"),
        (lambda p: p.write_bytes(png(2, 16, np.zeros((16, 96), np.uint8), {b"tRNS": bytes(6)})), "png", "16-bit col"),
        (lambda p: Image.fromarray(COLOUR).save(p, "EPS"), "png", "EPS files are not read"),
        (lambda p: Image.fromarray(COLOUR).save(p, "ICNS"), "png", "ICNS files are not read"),
        (lambda p: Image.fromarray(GREY).save(p, "SPIDER"), "spi", "SPIDER files are not read"),
    ],
)  # fmt: skip
def test_what_can_be_read_in_more_than_one_way_is_refused_by_name(
    tmp_path: Path, write: Callable[[Path], Any], suffix: str, message: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    write(path)
    with pytest.raises(InputError, match=rf"x.{suffix}: {message}.*; save .* with broken=skip$"):
        Files([str(path)])[0]
    assert message in Files([str(path)]).faults()[0]


def test_thumbnails_of_a_tiff_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    small = tiff("<", GREY.tobytes(), {254: 1}, 1)
    whole = bytearray(tiff("<", GREY.tobytes(), {254: 0}, 1))
    offset = len(whole)
    whole[-4:] = struct.pack("<I", offset)
    path.write_bytes(bytes(whole) + small[8 + 256 :])
    with Image.open(path) as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
    assert np.array_equal(seen(path, 1)[:, :, 0], GREY)


def stack(form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    frames[0].save(out, form, save_all=True, append_images=frames[1:], **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("form", "options"),
    [("WEBP", {"lossless": True}), ("PNG", {}), ("GIF", {}), ("AVIF", {"quality": 100}), ("MPO", {"quality": 100})],
)  # fmt: skip
def test_of_an_animation_and_of_a_phones_pair_the_first_image_is_read(
    tmp_path: Path, form: str, options: dict[str, Any]
) -> None:
    (tmp_path / "x").write_bytes(stack(form, **options))
    assert np.abs(seen(tmp_path / "x") - COLOUR).mean() < 12


def cutout(hidden: int) -> Image.Image:
    x = np.zeros((16, 16, 4), dtype=np.uint8)
    x[..., :3] = hidden
    x[6:10, 6:10] = (120, 120, 120, 255)
    return Image.fromarray(x)


def keyed(hidden: int, mode: str) -> Image.Image:
    return cutout(hidden).convert("RGB").convert(mode)


def palette(hidden: int) -> Image.Image:
    x = np.zeros((16, 16), dtype=np.uint8)
    x[6:10, 6:10] = 1
    image = Image.fromarray(x)
    image.putpalette([hidden] * 3 + [120] * 3)
    return image


CUTOUTS: dict[str, tuple[Callable[[int], Image.Image], str, dict[str, Any]]] = {
    "rgba png": (cutout, "png", {}),
    "la png": (lambda h: cutout(h).convert("LA"), "png", {}),
    "palette png": (palette, "png", {"transparency": 0}),
    "palette png of many alphas": (palette, "png", {"transparency": b"\x00\xff"}),
    "palette gif": (palette, "gif", {"transparency": 0}),
    "webp": (cutout, "webp", {"lossless": True, "exact": True}),
    "rgba tiff": (cutout, "tif", {}),
    "la tiff": (lambda h: cutout(h).convert("LA"), "tif", {}),
    "lzw tiff": (cutout, "tif", {"compression": "tiff_lzw"}),
    "pa tiff": (lambda h: cutout(h).convert("PA"), "tif", {}),
    "avif": (cutout, "avif", {"quality": 100}),
    "jpeg 2000": (cutout, "jp2", {}),
    "la jpeg 2000": (lambda h: cutout(h).convert("LA"), "jp2", {}),
    "tga": (cutout, "tga", {}),
    "qoi": (cutout, "qoi", {}),
    "sgi": (cutout, "sgi", {}),
}


@pytest.mark.parametrize("kind", CUTOUTS)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (7, 7), (40, 30)])
def test_what_is_hidden_under_transparency_does_not_show(
    tmp_path: Path, kind: str, channels: int, size: tuple[int, int]
) -> None:
    make, suffix, options = CUTOUTS[kind]
    found = []
    for hidden in (0, 255):
        make(hidden).save(tmp_path / f"{hidden}.{suffix}", **options)
        found.append(pixels(read(str(tmp_path / f"{hidden}.{suffix}")), channels, size, BILINEAR))
    if kind != "avif":
        assert np.array_equal(*found)
    assert np.abs(found[0].astype(int) - found[1]).max() <= 8
    if size == (16, 16):
        x = np.full((16, 16, channels), 255)
        x[6:10, 6:10] = 120
        if channels == 4:
            x[..., 3] = 0
            x[6:10, 6:10, 3] = 255
        assert np.abs(found[0] - x)[0].max() == 0
        assert np.abs(found[0] - x)[7:9, 7:9].max() <= 4


@pytest.mark.parametrize(
    ("kind", "bits", "key", "value"),
    [(0, 16, 257 * 9, 9), (0, 8, 9, 9), (0, 4, 5, 5 * 17), (0, 2, 2, 2 * 85), (0, 1, 1, 255)],
)
def test_a_transparent_grey_is_transparent_at_any_depth(
    tmp_path: Path, kind: int, bits: int, key: int, value: int
) -> None:
    deep = np.arange(256).reshape(16, 16) % 2**bits * (257 if bits == 16 else 1)
    if bits < 8:
        digits = (deep[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows: Any = np.packbits(digits.reshape(16, -1), axis=1)
    else:
        rows = deep.astype(">u2" if bits == 16 else np.uint8)
    (tmp_path / "x.png").write_bytes(png(kind, bits, rows, {b"tRNS": struct.pack(">H", key)}))
    image = read(str(tmp_path / "x.png"))
    assert isinstance(image, Image.Image)
    assert image.mode == "LA"
    assert np.array_equal(np.asarray(image.getchannel("A")) == 0, deep == key)
    shown = np.asarray(image.getchannel("L"))
    assert (shown[deep == key] == value).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_a_transparent_colour_is_transparent(tmp_path: Path, mode: str) -> None:
    found = []
    for hidden in (0, 255):
        key = (hidden,) * 3 if mode == "RGB" else hidden
        keyed(hidden, mode).save(tmp_path / "x.png", transparency=key)
        found.append(seen(tmp_path / "x.png")[0])
        assert read(str(tmp_path / "x.png")).mode == ("RGBA" if mode == "RGB" else "LA")  # type: ignore[union-attr]
    assert np.array_equal(*found)


def test_transparency_that_is_in_part_is_weighed() -> None:
    x = np.zeros((4, 4, 4), dtype=np.uint8)
    x[..., 3] = 51
    image = Image.fromarray(x)
    assert np.array_equal(flatten(image, 3), np.full((4, 4, 3), 204))
    assert flatten(image, 4).getpixel((0, 0)) == (204, 204, 204, 51)
    assert flatten(Image.fromarray(x).convert("LA"), 1).getpixel((0, 0)) == 204


FORMS: list[tuple[str, str, dict[str, Any], int]] = [
    *[("RGB", form, {}, 0) for form in ("PNG", "BMP", "DIB", "TIFF", "PPM", "TGA", "SGI", "QOI", "PCX", "JPEG2000")],
    *[("L", form, {}, 0) for form in ("PNG", "BMP", "TIFF", "PPM", "TGA", "SGI", "PCX", "JPEG2000")],
    ("RGB", "JPEG", {"quality": 100, "subsampling": 0}, 4),
    ("L", "JPEG", {"quality": 100}, 2),
    ("RGB", "JPEG", {"quality": 100, "subsampling": 0, "progressive": True}, 4),
    ("RGB", "WEBP", {"lossless": True}, 0),
    ("RGB", "AVIF", {"quality": 100}, 12),
    ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}, 0),
    ("RGB", "TIFF", {"compression": "jpeg", "quality": 100}, 6),
    ("RGB", "TIFF", {"compression": "packbits"}, 0),
    ("CMYK", "TIFF", {}, 0),
    ("CMYK", "TIFF", {"compression": "tiff_lzw"}, 0),
    ("CMYK", "JPEG", {"quality": 100}, 5),
    ("YCbCr", "TIFF", {}, 3),
    ("YCbCr", "JPEG", {"quality": 100, "subsampling": 0}, 5),
    ("LAB", "TIFF", {}, 0),
    ("RGBX", "TIFF", {}, 0),
    ("P", "PNG", {}, 0),
    ("P", "PNG", {"bits": 8}, 0),
    ("P", "GIF", {}, 0),
    ("P", "BMP", {}, 0),
    ("P", "TIFF", {}, 0),
    ("P", "TGA", {}, 0),
    ("P", "PCX", {}, 0),
    ("1", "PNG", {}, 0),
    ("1", "BMP", {}, 0),
    ("1", "TIFF", {}, 0),
    ("1", "TIFF", {"compression": "group4"}, 0),
    ("1", "PPM", {}, 0),
    ("1", "PCX", {}, 0),
    ("1", "TGA", {}, 0),
    ("RGBA", "PNG", {}, 0),
]


@pytest.mark.parametrize(("mode", "form", "options", "tolerance"), FORMS)
def test_every_mode_of_every_format_is_as_a_viewer_shows_it_whatever_the_suffix(
    tmp_path: Path, mode: str, form: str, options: dict[str, Any], tolerance: int
) -> None:
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[0:256:16, 0:256:16], np.array(128)), axis=2).astype(np.uint8)
    source = Image.fromarray(smooth)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        picture: Any = ImageCms.profileToProfile(source, *profiles, outputMode="LAB")
    else:
        picture = source.convert(mode)
    picture.save(tmp_path / "x.jpg", form, **options)
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(seen(tmp_path / "x.jpg") - expected).max() <= tolerance
    if mode not in ("L", "1", "P"):
        assert np.abs(expected - smooth).mean() < 4
    grey = mode in ("L", "1")
    assert read(str(tmp_path / "x.jpg")).mode in (("L",) if grey else ("RGB", "RGBA"))  # type: ignore[union-attr]


def encoded(form: str) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, form)
    return out.getvalue()


def lying(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    """Return a .npy file whose header promises more than there is."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"12"


def saved(x: npt.NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, x, allow_pickle=x.dtype == object)
    return out.getvalue()


def damaged_avif() -> bytes:
    raw = bytearray(encoded("AVIF"))
    at = raw.find(b"mdat") + 4
    raw[at : at + 20] = b"\xff" * 20
    return bytes(raw)


WRITTEN = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "TGA", "QOI", "SGI", "PCX")
DAMAGED: dict[str, bytes] = {
    "empty.jpg": b"",
    "empty.npy": b"",
    "page.jpg": b"<!DOCTYPE html><html>404</html>",
    "lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "zeros.png": bytes(1000),
    "avif-called.jpg": damaged_avif(),
    "lying.npy": lying((10**6, 10**6, 3)),
    "beyond-any-machine.npy": lying((10**12, 10**12, 3)),
    "overflowing.npy": lying((10**30, 2, 3)),
    "negative.npy": lying((-1, 2, 3)),
    "no-height.npy": saved(np.zeros((0, 8, 5), np.uint8)),
    "no-channels.npy": saved(np.zeros((8, 8, 0), np.uint8)),
    "two-dimensions.npy": saved(np.zeros((8, 8), np.uint8)),
    "floats.npy": saved(np.zeros((8, 8, 3), np.float32)),
    "pickle.npy": saved(np.array([{}], dtype=object)),
    "two-arrays.npy": saved(np.zeros((8, 8, 3), np.uint8)) * 2,
    "cut.npy": saved(np.zeros((8, 8, 3), np.uint8))[:-1],
    "cut-header.npy": saved(np.zeros((8, 8, 3), np.uint8))[:20],
    **{f"cut.{form}": encoded(form)[: len(encoded(form)) // 2]
       for form in WRITTEN},
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DAMAGED[name])
    files = Files([str(tmp_path / name)])
    with pytest.raises(InputError) as caught:
        files[0]
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / name}: broken image (")
    assert line.endswith("; mend or remove it, or leave such files out with broken=skip")
    assert "\n" not in line
    assert line.count(str(tmp_path)) == 1
    assert list(files.faults()) == [0]


def test_what_is_no_file_is_named_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "link.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(COLOUR).save(tmp_path / "good.png")
    names = ["fifo.png", "good.png", "link.png", "loop.png", "folder.png"]
    files = Files([*(str(tmp_path / name) for name in names), "/dev/zero"])
    assert sorted(files.faults()) == [0, 2, 3, 4, 5]
    for i in files.faults():
        with pytest.raises(InputError, match="broken image"):
            files[i]
        with pytest.raises(
            InputError, match=r"broken image \((not a regular file|No such file|Too many levels|Is a dir)"
        ):
            Files([files.paths[i]]).fingerprint()
    assert files.take(np.array([1])).fingerprint() == Files([str(tmp_path / "good.png")]).fingerprint()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_broken_until_it_has_some(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(COLOUR).save(path)
    path.chmod(0)
    assert Files([str(path)]).faults()[0] == "broken image (Permission denied)"
    path.chmod(0o600)
    assert not Files([str(path)]).faults()


def test_a_link_that_leads_somewhere_again_is_no_longer_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").symlink_to("y.png")
    files = Files([str(tmp_path / "x.png")])
    assert list(files.faults()) == [0]
    Image.fromarray(COLOUR).save(tmp_path / "y.png")
    assert not files.faults()


@pytest.mark.parametrize("form", WRITTEN)
def test_flipped_bytes_give_an_image_or_one_line(tmp_path: Path, form: str) -> None:
    rng, whole, path = np.random.default_rng(0), encoded(form), str(tmp_path / "x")
    for _ in range(40):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 400), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        Path(path).write_bytes(data)
        try:
            image = Files([path], 10**6)[0]
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
        else:
            assert isinstance(image, Image.Image)
            assert image.mode in ("L", "LA", "RGB", "RGBA")


def test_no_flipped_byte_in_the_pixels_of_a_png_goes_unseen(tmp_path: Path) -> None:
    whole, rng = encoded("PNG"), np.random.default_rng(0)
    (tmp_path / "x.png").write_bytes(whole)
    start, right = whole.index(b"IDAT") + 4, seen(tmp_path / "x.png")
    for place in rng.integers(start, len(whole) - 12, 60):
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "x.png").write_bytes(data)
        with contextlib.suppress(Unreadable):
            assert np.array_equal(seen(tmp_path / "x.png"), right)


def test_files_that_a_process_may_not_open_any_more_are_not_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "x.png")

    def none_left(*given: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", none_left)
    files = Files([str(tmp_path / "x.png")])
    for call in (lambda: files[0], files.fingerprint, files.faults):
        with pytest.raises(OSError, match="Too many open files"):
            call()


@pytest.mark.parametrize("suffix", ["npy", "NPY", "png"])
def test_an_array_is_read_whatever_its_suffix(tmp_path: Path, suffix: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (9, 7, 5), dtype=np.uint8)
    for i, array in enumerate((x, np.asfortranarray(x))):
        (tmp_path / f"{i}.{suffix}").write_bytes(saved(array))
        assert np.array_equal(seen(tmp_path / f"{i}.{suffix}", 5), x)
        with pytest.raises(InputError, match="an image has 5 channels, 3 are expected"):
            seen(tmp_path / f"{i}.{suffix}", 3)


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_an_image_beyond_max_pixels_is_not_broken_and_can_be_allowed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "png":
        Image.fromarray(COLOUR).save(path)
    else:
        np.save(path, COLOUR)
    line = rf"x.{suffix}: 16 x 16 pixels are more than max_pixels, 255; allow them with max_pixels=256$"
    with pytest.raises(InputError, match=line):
        Files([str(path)], 255)[0]
    assert "max_pixels" in Files([str(path)], 255).faults()[0]
    assert np.array_equal(seen(path), COLOUR)
    assert not Files([str(path)], 256).faults()
    assert Files([str(path)] * 2, 255).take(np.array([0])).max_pixels == 255


def test_a_bomb_is_known_by_its_header(tmp_path: Path) -> None:
    data = bytearray(png(0, 8, GREY))
    data[16:24] = struct.pack(">II", 60_000, 50_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(InputError, match=r"60,000 x 50,000 .*178,956,970; .*with max_pixels=3000000000$"):
        Files([str(tmp_path / "x.png")])[0]


def test_pillows_limit_and_warnings_are_the_users_own_before_and_after(tmp_path: Path) -> None:
    large = tmp_path / "x.png"
    Image.new("1", (10_000, 9_500), 1).save(large)
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read(str(large))
    assert not said
    small = [tmp_path / f"{i}.png" for i in range(40)]
    for path in small:
        Image.fromarray(COLOUR).save(path)

    def work() -> None:
        assert len(Files([str(path) for path in small]).faults()) == 0

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS
    assert warnings.filters == filters
    assert before is not None


def test_memory_that_runs_out_on_the_machine_is_not_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "x.png")

    def full(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    with pytest.raises(InputError, match="broken image"):
        Files([str(tmp_path / "x.png")])[0]
    monkeypatch.setattr(pictures.devices, "available_memory", lambda device: 100)
    with pytest.raises(RunError, match="x.png: no memory left"):
        Files([str(tmp_path / "x.png")])[0]


def test_a_view_has_the_same_conversion_as_the_image_itself() -> None:
    from neuroevo.data.augment import Augment
    from neuroevo.networks.libraries import Transform

    augment = Augment([{"name": "RandomHorizontalFlip", "p": 0}], (16, 16))
    for channels in (1, 3, 4):
        transform = Transform((16, 16), "bilinear", channels, None, None)
        for make in (cutout, lambda hidden: cutout(hidden).convert("LA")):
            dark, light = (augment(make(hidden), transform, 0) for hidden in (0, 255))
            assert np.array_equal(dark, light)
            assert np.array_equal(dark, pixels(make(0), channels, (16, 16), BILINEAR))
    with pytest.raises(InputError, match=r"^channels: 5, which only .npy images have"):
        augment(cutout(0), Transform((16, 16), "bilinear", 5, None, None), 0)


def test_the_page_of_a_tiff_that_is_no_thumbnail_is_taken_wherever_it_is(tmp_path: Path) -> None:
    from PIL import TiffImagePlugin

    reduced = TiffImagePlugin.ImageFileDirectory_v2()
    reduced[254] = 1
    small, large = Image.new("L", (6, 4), 10), Image.new("L", (24, 16), 200)
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "first.tif"), True) as file:
        small.save(file, "TIFF", tiffinfo=reduced)
        file.newFrame()
        large.save(file, "TIFF")
        file.newFrame()
    found = read(str(tmp_path / "first.tif"))
    assert isinstance(found, Image.Image)
    assert (found.size, found.getpixel((0, 0))) == ((24, 16), 200)


def test_signed_bytes_of_a_tiff_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.tif").write_bytes(tiff("<", bytes(GREY.size), {258: 8, 339: 2}))
    with pytest.raises(Unreadable, match="signed"):
        read(str(tmp_path / "s.tif"))


def test_an_image_with_alpha_is_never_copied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    right = [crop(Image.fromarray(given[:, :, c]), (16, 16), Image.Resampling.BILINEAR) for c in range(4)]
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("a second copy of gigabytes"))
    found = crop(Image.fromarray(given), (16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(found, np.concatenate(right, axis=2))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_that_are_cropped_apart_are_those_of_the_image_flattened_as_a_whole(mode: str, channels: int) -> None:
    bands = Image.new(mode, (1, 1)).getbands()
    random = np.random.default_rng(0)
    for height, width in ((40, 50), (300, 17), (16, 16)):
        given = [Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8)) for _ in bands]
        image = Image.merge(mode, given) if len(given) > 1 else given[0]
        for resample in Image.Resampling:
            if min(width, height) >= 16 or resample is not Image.Resampling.NEAREST:
                found = pixels(image, channels, (16, 16), resample)
                assert np.array_equal(found, crop(flatten(image, channels), (16, 16), resample))


def test_an_image_of_16_bits_is_the_same_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.random.default_rng(0).integers(0, 3, (37, 21), dtype=np.uint16) * 300
    Image.fromarray(given).save(tmp_path / "x.png", transparency=300)
    right = np.asarray(read(str(tmp_path / "x.png")))
    assert right.shape == (37, 21, 2)
    monkeypatch.setattr(pictures, "STRIP", 100)
    assert np.array_equal(np.asarray(read(str(tmp_path / "x.png"))), right)
    assert np.array_equal(right[:, :, 1] == 0, given == 300)
