"""Images, in memory and in files, and the pixels that a network is given of them."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from neuroevo.cache import cache_folder
from neuroevo.errors import InputError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
Picture = Image.Image | npt.NDArray[np.uint8]  # an image, or one of any number of channels, uint8 [H, W, channels]


class Arrays:
    """Images that lie in memory: uint8 [N, H, W] (grey) or [N, H, W, 3]."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def take(self, rows: npt.NDArray[np.int64]) -> "Arrays":
        """Return some of the images, in the order given."""
        return Arrays(self.pixels[rows])

    def fingerprint(self) -> str:
        """Return a hash of the images' content, in order."""
        return hashlib.sha256(
            repr(self.pixels.shape).encode() + np.ascontiguousarray(self.pixels).tobytes()
        ).hexdigest()


class Files:
    """Images in files, opened when asked for."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> "Picture":
        try:
            if self.paths[index].endswith(".npy"):
                pixels: npt.NDArray[np.uint8] = np.load(self.paths[index], allow_pickle=False)
                if pixels.ndim != 3 or pixels.dtype != np.uint8:
                    raise ValueError(f"uint8 [H, W, channels] expected, {pixels.dtype} {pixels.shape} found")
                return pixels
            with Image.open(self.paths[index]) as image:
                image.load()
                return image
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(
                f"{self.paths[index]}: broken image ({error}); mend or remove it, or leave such files out with "
                "--set data.broken=skip"
            ) from None

    def take(self, rows: npt.NDArray[np.int64]) -> "Files":
        """Return some of the images, in the order given."""
        return Files([self.paths[i] for i in rows])

    def fingerprint(self) -> str:
        """Return a hash of the files' content, in order; a list seen before and untouched since isn't read again."""
        return str(self._remembered("content", self._hash))

    def broken(self) -> list[int]:
        """Return the places of files that are no readable images."""
        places = self._remembered("broken", lambda: [i for i in range(len(self)) if not self._readable(i)])
        assert isinstance(places, list)
        return places

    def _readable(self, index: int) -> bool:
        try:
            self[index]
        except InputError:
            return False
        return True

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
        return digest.hexdigest()

    def _remembered(self, what: str, find: Callable[[], object]) -> object:
        # As git's index does: known by path, size, inode and both times. ctime can't be set back by a user's tools. A
        # file touched in the last seconds may change again within the clock's resolution, so it isn't remembered.
        stats = [
            (path, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for path in self.paths for s in [os.stat(path)]
        ]
        key = hashlib.sha256(json.dumps([what, stats]).encode()).hexdigest()
        note = cache_folder() / "files" / f"{key}.json"
        if note.exists():
            return json.loads(note.read_text())
        found = find()
        if time.time() - max((s[4] for s in stats), default=0) / 1e9 > 3:
            note.parent.mkdir(parents=True, exist_ok=True)
            temporary = note.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(found))
            temporary.replace(note)
        return found


def pixels(image: Picture, channels: int, size: tuple[int, int], resample: Image.Resampling) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 [H, W, channels]: shorter side to size, centre crop."""
    if isinstance(image, np.ndarray):  # a channel at a time
        planes = [pixels(Image.fromarray(image[:, :, c]), 1, size, resample) for c in range(image.shape[2])]
        if len(planes) != channels:
            raise InputError(f"backbone.channels: an image has {len(planes)} channels, {channels} are expected")
        return np.concatenate(planes, axis=2)
    if channels not in MODES:
        raise InputError(f"backbone.channels: {channels}, which only .npy images have")
    image = image.convert(MODES[channels])
    height, width = size
    scale = max(height / image.height, width / image.width)
    around = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if image.size != around:
        image = image.resize(around, resample)
    left, top = (around[0] - width) // 2, (around[1] - height) // 2
    if around != (width, height):
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image).reshape(height, width, channels)
