"""Images as a sequence, in memory or in files, with a fingerprint of their content."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from neuroevo.data import cache
from neuroevo.data.pictures import DECODING, MAX_PIXELS, STRAITS, Picture, Unreadable, damage, read, reason_of
from neuroevo.errors import InputError, plain
from neuroevo.reading import regular


class Arrays:
    """Images that lie in memory: uint8 [N, H, W] (grey), [N, H, W, 3], or of any other number of channels."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Picture:
        image = self.pixels[index]
        return Image.fromarray(image) if image.ndim == 2 or image.shape[2] == 3 else image

    def take(self, rows: npt.NDArray[np.int64]) -> "Arrays":
        """Return some of the images, in the order given."""
        return Arrays(self.pixels[rows])

    def fingerprint(self) -> str:
        """Return a hash of the images' content, in order."""
        found = hashlib.sha256(repr(self.pixels.shape).encode())
        found.update(np.ascontiguousarray(self.pixels).data)
        return found.hexdigest()

    def hashes(self) -> list[str]:
        """Return a hash of each image's content, in order."""
        return hash_rows(self.pixels)


class Files:
    """Images in files, opened when asked for; InputError for one that can't be read, or of more than `max_pixels`."""

    def __init__(self, paths: Sequence[str], max_pixels: int | None = None) -> None:
        self.paths, self.max_pixels = paths, max_pixels or MAX_PIXELS

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:
        try:
            return read(self.paths[index], self.max_pixels)
        except Unreadable as error:
            raise InputError(f"{self.paths[index]}: {error}") from None

    def take(self, rows: npt.NDArray[np.int64]) -> "Files":
        """Return some of the images, in the order given."""
        return Files([self.paths[i] for i in rows], self.max_pixels)

    def fingerprint(self) -> str:
        """Return a hash of the files' content, in order; a list seen before and untouched since isn't read again."""
        return hashlib.sha256(b"".join(bytes.fromhex(content) for content in self.hashes())).hexdigest()

    def faults(self) -> dict[int, str]:
        """Return the places of files that can't be read, each with the reason."""
        what = f"faults {DECODING} {PIL.__version__} {self.max_pixels}"
        found = self._remember(what, self._faults)
        assert isinstance(found, list)
        return {int(place): str(reason) for place, reason in found}

    def _faults(self) -> list[tuple[int, str]]:
        def fault(path: str) -> str | None:
            try:
                read(path, self.max_pixels)
            except Unreadable as error:
                return plain(error.reason)
            return None

        with ThreadPoolExecutor() as pool:
            return [(i, reason) for i, reason in enumerate(pool.map(fault, self.paths)) if reason]

    def hashes(self) -> list[str]:
        """Return a hash of each file's content, in order."""
        found = self._remember("each", lambda: [_hash(path) for path in self.paths])
        assert isinstance(found, list)
        return found

    def _remember(self, what: str, find: Callable[[], object]) -> object:
        # As git's index does: known by path, size, inode and both times. ctime can't be set back by a user's tools. A
        # file touched in the last seconds may change again within the clock's resolution, so it isn't remembered.
        stats = [_identity(path) for path in self.paths]
        key = hashlib.sha256(json.dumps([what, stats]).encode()).hexdigest()
        noted: object = cache.note(key)
        if noted is not None:
            return noted
        found = find()
        if time.time() - max((s[-1] for s in stats), default=0) / 1e9 > 3:
            cache.keep_note(key, found)
        return found


def hash_rows(rows: npt.NDArray[Any]) -> list[str]:
    """Return a hash of each row's bytes, of an array [N, ...]."""
    whole = np.ascontiguousarray(rows).reshape(len(rows), -1)
    return [hashlib.sha256(row.data).hexdigest() for row in whole]


def _hash(path: str) -> str:
    try:
        with regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if error.errno in STRAITS:
            raise
        raise InputError(f"{path}: {damage(reason_of(error))}") from None


def _identity(path: str) -> tuple[str, bool, int, int, int, int]:
    try:
        s = os.stat(path)
    except OSError:  # a dangling link
        return path, False, 0, 0, 0, 0
    return path, os.access(path, os.R_OK), s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns
