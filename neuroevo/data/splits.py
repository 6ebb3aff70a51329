"""Splits of a data set: stratified, limited, long-tailed; a function of the seed alone."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neuroevo.data.datasets import Dataset
from neuroevo.data.foldernames import SPLITS
from neuroevo.errors import InputError


def stratify(
    labels: npt.NDArray[np.int64], count: int, rng: np.random.Generator, kept: int = 1
) -> npt.NDArray[np.bool_]:
    """Choose `count` places with each class's share kept by largest remainder.

    Of every class at least one is chosen and `kept` are left; of one that has too few for both, none is chosen.
    """
    names, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    most = np.maximum(sizes - kept, 0)
    least = np.minimum(1, most)
    quota = np.clip(np.floor(exact).astype(np.int64), least, most)
    # One place at a time to whoever is furthest from its share; bounded by the number of classes.
    while quota.sum() != count:
        step = 1 if quota.sum() < count else -1
        room = (quota + step >= least) & (quota + step <= most)
        quota[np.argmax(np.where(room, step * (exact - quota), -np.inf))] += step
    chosen = np.zeros(len(labels), dtype=bool)
    for name, k in zip(names, quota, strict=True):
        chosen[rng.permutation(np.flatnonzero(labels == name))[:k]] = True
    return chosen


def limit_images(data: Dataset, limit: int, split_seed: int) -> Dataset:
    """Return at most `limit` images in all, with the shares of classes and of the data set's own parts kept."""
    if limit >= len(data.labels):
        return data
    strata = data.labels * (len(SPLITS) + 1) + data.part
    if limit < len(np.unique(strata)):
        raise InputError(
            f"{limit} leaves some class without {_one(data)}; at least {len(np.unique(strata))}", option="limit"
        )
    return data.take(np.flatnonzero(stratify(strata, limit, np.random.default_rng([split_seed, 0]), kept=0)))


def _one(data: Dataset) -> str:
    return "an image" if data.noun == "images" else "a sample"


def cut_tail(
    rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int, ratio: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return some rows, with classes' shares that fall exponentially to `ratio` times the first's (Cui et al. 2019).

    At least one of each class is kept.
    """
    kept = []
    for label in range(classes):
        own = rows[labels[rows] == label]
        share = ratio ** (label / max(1, classes - 1))
        kept.append(rng.permutation(own)[: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(kept))


def cut_fold(
    rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], fold: tuple[int, int], split_seed: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Return rows as train and validation, which is the fold of that number, from 1, of so many; number 0 is none.

    Folds differ by one sample at most, and so do their samples of a class. InputError where a class has one alone.
    """
    number, count = fold
    if not number:
        return {"train": rows, "validation": rows[:0]}
    rng = np.random.default_rng([split_seed, 5])
    if int(np.bincount(labels[rows]).max()) < 2 or np.any(np.bincount(labels[rows]) == 1):
        raise InputError("a class has one sample beside test; in folds it is in train or in validation", option="folds")
    if count > len(rows):
        raise InputError(f"{count} given, and beside test there are {len(rows)} samples", option="folds")
    dealt = np.concatenate([rng.permutation(rows[labels[rows] == label]) for label in np.unique(labels[rows])])
    held = np.arange(len(dealt)) % count == number - 1
    return {"train": np.sort(dealt[~held]), "validation": np.sort(dealt[held])}


def _share(wanted: float, total: int, least: int, most: int) -> str:
    """Return the shortest share beside a wanted one by which from `least` to `most` of a total are cut."""
    ways = (math.floor, math.ceil) if wanted == least / total else (math.ceil, math.floor)
    for digits in range(2, 9):
        for way in ways:
            share = way(wanted * 10**digits) / 10**digits
            if least <= round(share * total) <= most:
                return f"{share:g}"
    return f"{wanted:g}"


def split(
    data: Dataset,
    split_seed: int,
    validation: float,
    test: float | None,
    long_tail: float | None = None,
    *,
    fold: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Return the rows of each split, `{name: [rows] int64}`; shares are of samples that have no split yet.

    A class's only image stays in train. `long_tail` thins train and validation, as in life, and leaves test as it is.
    Without a share, None, there is no test split but the data set's own. With a `fold`, its number from 1 and how many
    there are, all that isn't test is cut into so many, of which that one is validation; number 0 leaves none.
    """
    part = data.part.copy()
    for stream, (name, share) in enumerate((("test", test), ("validation", validation)), start=1):
        index = SPLITS.index(name)
        if name == "validation" and fold is not None:
            part[part == index] = 0
            continue
        if share is None or (part == index).any():
            continue
        # Test is cut from undecided images only; validation also from those of the data set's own train part.
        pool = np.flatnonzero(part == -1) if name == "test" else np.flatnonzero((part == -1) | (part == 0))
        total = int((data.part == -1).sum()) or len(pool)
        count = round(share * total)
        sizes = np.bincount(data.labels[pool], minlength=len(data.classes))
        least, most = int((sizes > 1).sum()), int(np.maximum(sizes - 1, 0).sum())
        if not most:
            raise InputError(
                f"no class has two {data.noun} to cut from ({len(pool)} of {len(data.classes)} classes); three "
                f"{data.noun} of a class are the least for train, validation and test",
                option=name,
            )
        if not least <= count <= most:
            few = count < least
            right = _share((least if few else most) / total, total, least, most)
            raise InputError(
                f"{share} of {total} {data.noun} is {count}; every class must be on either side, which takes "
                f"{least if few else most}: {'at least' if few else 'at most'} {right} would do",
                option=name,
            )
        part[pool[stratify(data.labels[pool], count, np.random.default_rng([split_seed, stream]))]] = index
    part[part == -1] = 0
    rows = {name: np.flatnonzero(part == i) for i, name in enumerate(SPLITS)}
    if long_tail is not None:
        for stream, name in enumerate(("train", "validation"), start=3):
            rng = np.random.default_rng([split_seed, stream])
            rows[name] = cut_tail(rows[name], data.labels, len(data.classes), long_tail, rng)
    if fold is not None:
        rows |= cut_fold(rows["train"], data.labels, fold, split_seed)
    missing = set(range(len(data.classes))) - set(data.labels[rows["train"]].tolist())
    if missing:
        raise InputError(
            f"class {data.classes[min(missing)]} has no {data.noun[:-1]} in the train split", option="data"
        )
    return {name: torch.from_numpy(index) for name, index in rows.items()}
