"""The samples that paths name, and what a network says of them: images, folders of these, and .npz files.

Samples are read batch by batch as they are asked for, so that any number of images takes the memory of one batch.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuroevo import config
from neuroevo.data import cache
from neuroevo.data.arrays import Source, Vectors
from neuroevo.data.images import Arrays
from neuroevo.data.walk import Walk
from neuroevo.errors import InputError, ignore
from neuroevo.experiments.interruption import NEVER, Interruption

AT_ONCE = 16  # samples through the network: enough for a CPU, and soon done where somebody waits

Transform = Callable[[Any], Tensor]  # an image, or a file's name, to an input [C, H, W]


class Prediction(NamedTuple):
    """What a network says of a sample: the classes that are likeliest, and their probabilities, highest first."""

    file: str
    row: int | None  # of an .npz file, from 0
    classes: tuple[str, ...]  # [K]
    probabilities: tuple[float, ...]  # [K]


class Group(NamedTuple):
    """Samples of one kind, in order."""

    samples: list[str] | Arrays | Tensor  # images by their files' names, images in an .npz file, or inputs [N, ...]
    file: str | None = None  # that .npz file

    def place(self, i: int) -> tuple[str, int | None]:
        """Return the file of a sample, and its row where it is an .npz file."""
        return (self.samples[i], None) if isinstance(self.samples, list) else (str(self.file), i)


def find(
    paths: Sequence[str | Path],
    transform: Transform | None,
    inputs: int | None = None,
    *,
    option: str = "paths",
    note: Callable[[str], object] = ignore,
) -> list[Group]:
    """Return the samples that paths name: images, folders (of which all images are taken), and .npz files of `x`.

    A network without a `transform` takes rows, of so many `inputs` where that is known. `note` is told what is left out
    of folders. InputError names the `option` and a path that isn't there or holds samples of another kind.
    """
    groups: list[Group] = []

    def add(files: list[str]) -> None:
        if groups and isinstance(last := groups[-1].samples, list):
            last += files
        else:
            groups.append(Group(files))

    check_there(paths, option)
    for path in map(str, paths):
        with config.at(root=option, file=option, channels=option):
            folder = Path(path).is_dir()
            if not folder and path.lower().endswith(".npz"):
                groups.append(_of_arrays(path, transform, inputs, option=option, note=note))
            elif transform is None:
                raise InputError(f"{path} is no .npz file, and the run is of rows of numbers: x of such files", option)
            else:
                add(_of_folder(path, option, note) if folder else [path])
    return groups


def check_there(paths: Sequence[str | Path], option: str) -> None:
    """See that there is something at each path; InputError where there isn't."""
    if not paths:
        raise InputError("none given; images, folders or .npz files expected", option)
    for path in paths:
        if not os.path.lexists(path):
            raise InputError(f"{path} is not there", option)


def _of_folder(path: str, option: str, note: Callable[[str], object]) -> list[str]:
    walk = Walk(path, own=[cache.cache_folder()])
    found, _ = walk.images(path, path)
    for line in walk.all_notes():
        note(line)
    if not found:
        raise InputError(f"{path} has no images in it", option)
    return found


def _of_arrays(
    path: str, transform: Transform | None, inputs: int | None, *, option: str, note: Callable[[str], object]
) -> Group:
    source = Source(path)
    source.notes.clear()  # about arrays that aren't read here
    x = source.array("x")
    samples, what = source.samples(x), f"{path}: x is {x.dtype} {list(x.shape)}"
    for line in source.notes:
        note(f"{path}: {line}")
    if transform is not None:
        if not isinstance(samples, Arrays):
            raise InputError(
                f"{what}; the run is of images, uint8 [N, H, W] or [N, H, W, channels] are expected", option
            )
        transform(samples[0])  # which sees that there are as many channels
        return Group(samples, path)
    if inputs is None:  # the module given takes its own shape
        rows = samples.rows if isinstance(samples, Vectors) else samples.pixels.astype(np.float32)
        return Group(torch.from_numpy(rows.reshape(x.shape)), path)
    if not isinstance(samples, Vectors) or samples.width != inputs:
        raise InputError(f"{what}; the run is of {inputs:,} numbers a sample", option)
    return Group(torch.from_numpy(samples.rows), path)


def count(groups: Sequence[Group]) -> int:
    """Return how many samples there are."""
    return sum(len(group.samples) for group in groups)


def batches(
    groups: Sequence[Group],
    transform: Transform | None,
    skip: Callable[[str], object] | None = None,
    signals: Interruption = NEVER,
) -> Iterator[tuple[list[tuple[str, int | None]], Tensor]]:
    """Yield the places of samples and the samples [B, ...], up to AT_ONCE of them.

    `skip` is told of an image that can't be read, which is left out; without it that is an InputError.
    """
    for group in groups:
        for start in range(0, len(group.samples), AT_ONCE):
            rows = range(start, min(start + AT_ONCE, len(group.samples)))
            if isinstance(group.samples, Tensor):
                signals.check()
                yield [group.place(i) for i in rows], group.samples[rows.start : rows.stop].float()
                continue
            assert transform is not None
            places, inputs = [], []
            for i in rows:
                signals.check()
                try:
                    inputs.append(transform(group.samples[i]))
                except InputError as error:
                    if skip is None:
                        raise
                    skip(str(error))
                else:
                    places.append(group.place(i))
            if places:
                yield places, torch.stack(inputs)


def probabilities(model: nn.Module, inputs: Tensor, signals: Interruption = NEVER) -> Tensor:
    """Return the probabilities [B, C] of inputs [B, ...]."""
    with torch.inference_mode(), signals.prompt():
        found: Tensor = model(inputs).softmax(1)
    return found


def check_top(top: int, classes: Sequence[str], option: str = "top") -> None:
    """See that there are so many classes; InputError where there aren't."""
    if not 1 <= top <= len(classes):
        raise InputError(f"{top} given; the run has {len(classes)} classes, 1 to {len(classes)} expected", option)


def label(
    model: nn.Module,
    transform: Transform | None,
    classes: Sequence[str],
    groups: Sequence[Group],
    *,
    top: int = 1,
    skip: Callable[[str], object] | None = None,
    signals: Interruption = NEVER,
) -> Iterator[Prediction]:
    """Yield what a network says of each sample, with the `top` likeliest classes; of equals the first comes first."""
    for places, inputs in batches(groups, transform, skip, signals):
        values, order = probabilities(model, inputs, signals).sort(dim=1, descending=True, stable=True)
        for place, best, shares in zip(places, order[:, :top].tolist(), values[:, :top].tolist(), strict=True):
            yield Prediction(*place, tuple(classes[i] for i in best), tuple(shares))
