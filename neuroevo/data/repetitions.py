"""Samples as a multiset: different ones, and how often each counts.

A weight is a repetition, so that whatever is computed of samples in batches, means or metrics of any kind is weighted
without knowing of weights. Samples are in an order that they have of themselves, by a hash of their numbers and label.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuroevo.data.splits import stratify

RESOLUTION = 16  # times that a sample of mean weight counts, where weights are no whole numbers

Array = npt.NDArray[Any]


class Multiset(NamedTuple):
    """Different samples, and how often each counts."""

    x: Array  # [N, d]
    labels: Array  # [N] int64
    times: Array  # [N] int64


def count(x: Array, labels: Array, weights: Array) -> Multiset:
    """Return the different ones of samples x [n, d] with labels [n] and weights [n], and how often each counts.

    They are in the order of their hashes: wherever they were in x, they are the same.
    """
    x = x + 0.0  # no minus zero
    labels = labels.astype(np.int64)
    hashes = [
        hashlib.blake2b(row.tobytes(), digest_size=16, salt=label.tobytes()).digest()
        for row, label in zip(x, labels, strict=True)
    ]
    _, first, places = np.unique(np.array(hashes, dtype="S16"), return_index=True, return_inverse=True)
    times = repetitions(np.bincount(places, weights), labels[first], len(x))
    first, times = first[times > 0], times[times > 0]
    return Multiset(x[first], labels[first], times)


def repetitions(weights: Array, labels: Array, given: int) -> Array:
    """Return how often samples of weights [N] above 0 and labels [N] count, [N] int64, for so many that were given.

    What rounds is the running sum, so that the samples of a class count for what they weigh together, and at least one.
    """
    for unit in (1.0, weights.min(), weights.mean() / RESOLUTION):
        with np.errstate(over="ignore"):
            times = weights / unit
        if np.allclose(times, np.rint(times), rtol=1e-9, atol=0) and times.sum() <= max(
            given, RESOLUTION * len(weights)
        ):
            return np.rint(times).astype(np.int64)
    order = np.argsort(labels, kind="stable")
    found = np.empty(len(weights), dtype=np.int64)
    found[order] = np.diff(np.floor(times[order].cumsum() + 0.5), prepend=0)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if not found[own].any():
            found[own[weights[own].argmax()]] = 1
    return found


def statistics(x: Array, times: Array) -> tuple[Array, Array]:
    """Return the mean and the deviation [d] of x [N, d], rows of which count so many times; 1 where all are alike."""
    x = x.astype(np.float64, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large comes out as infinite
        mean = np.average(x, axis=0, weights=times)
        deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=times))
    alike = deviation <= 10 * np.finfo(np.float64).eps * np.abs(mean)
    return mean, np.where(alike, 1.0, deviation)


def split(labels: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Return the rows of train and of validation, which are all where too few would be held out."""
    sizes, wanted = np.bincount(labels), round(share * len(labels))
    if sizes.min() < 2 or not len(sizes) <= wanted <= len(labels) - len(sizes):
        return np.arange(len(labels)), np.arange(len(labels))
    held = stratify(labels, wanted, np.random.default_rng([seed, 0]))
    return np.flatnonzero(~held), np.flatnonzero(held)
