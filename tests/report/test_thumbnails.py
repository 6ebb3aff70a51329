import base64
import io
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neuroevo.report import thumbnails
from neuroevo.report.thumbnails import Images, Unavailable
from neuroevo.storage.predictions import Prediction


def picture_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def row(sample: int, label: str, file: str = "") -> Prediction:
    return Prediction("test", sample, file, label, label, 0.5, 0.5, "")


@pytest.mark.parametrize("size", [(400, 300), (3000, 90), (97, 1200), (33, 33)])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_copy_of_noise_is_within_its_bytes_and_keeps_its_sides(size: tuple[int, int], mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    uri, width, height = thumbnails.encode(Image.fromarray(noise.squeeze(), mode))
    assert len(uri) < 300_000 / 60
    assert picture_of(uri).size == (width, height)
    assert max(width, height) <= thumbnails.SIDE
    assert width / height == pytest.approx(size[0] / size[1], rel=0.5)


def test_a_tiny_image_is_kept_to_the_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    uri, width, height = thumbnails.encode(Image.fromarray(pixels))
    assert (width, height) == (32, 32)
    assert len(uri) < 300_000 / 60
    assert np.array_equal(np.asarray(picture_of(uri)), pixels)


def test_what_is_clear_is_white_and_of_many_channels_three_are_shown() -> None:
    clear = picture_of(thumbnails.encode(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))[0])
    assert clear.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    many = np.zeros((8, 8, 5), dtype=np.uint8)
    many[..., 1] = 200
    assert picture_of(thumbnails.encode(many)[0]).convert("RGB").getpixel((0, 0)) == (0, 200, 0)
    assert picture_of(thumbnails.encode(many[..., 1:3])[0]).convert("L").getpixel((0, 0)) == 200


def test_images_of_a_set_are_found_by_their_row_also_where_it_is_limited() -> None:
    for limit in (None, 200):
        images = Images({"data": {"name": "digits", "limit": limit, "split_seed": 0}})
        labels = images._set.labels  # type: ignore[union-attr]
        assert len(labels) == (limit or 1797)
        uri, *_ = images.thumbnail(row(7, str(labels[7])))
        assert picture_of(uri).size == (8, 8)
        with pytest.raises(Unavailable, match="others now"):
            images.thumbnail(row(7, str((labels[7] + 1) % 10)))
        with pytest.raises(Unavailable, match="others now"):
            images.thumbnail(row(5000, "1"))


@pytest.mark.parametrize("data", [None, {}, {"name": "mine:f"}, {"name": "arrays", "file": "gone.npz"},
                                  {"name": "mnist", "root": "gone", "download": True}, {"name": "digits", "limit": "x"},
                                  {"name": "digits", "limit": float("inf"), "split_seed": 1},
                                  {"name": "cifar10", "root": ".", "download": True}])  # fmt: skip
def test_data_that_are_not_there_are_a_reason_and_nothing_is_fetched(
    data: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("asks the network"))
    with pytest.raises(Unavailable):
        Images({"data": data}).thumbnail(row(0, "0"))
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_is_no_image_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(Unavailable, match=r"a\.png"):
        Images({"data": {"root": str(tmp_path)}}).thumbnail(row(0, "0", "a.png"))


def test_a_file_beside_the_datas_folder_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    for name in ("private.png", "root/sub/..a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    images = Images({"data": {"root": str(tmp_path / "root")}})
    assert images.thumbnail(row(0, "0", "sub/..a.png"))[1:] == (8, 8)
    for file in (str(tmp_path / "private.png"), "../private.png", "sub/../../private.png"):
        with pytest.raises(Unavailable, match="not a path below"):
            images.thumbnail(row(0, "0", file))
