"""Logits and labels as they are given, from any library, checked and made tensors of."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuroevo.errors import InputError


def tensor(given: Any, option: str) -> Tensor:
    """Return numbers as a tensor on the CPU, whatever library they are of; InputError where they are none."""
    try:
        found = given.detach() if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    except (TypeError, ValueError, RuntimeError):
        raise InputError("an array of numbers expected", option=option) from None
    if found.is_complex():
        raise InputError("complex numbers given; real ones expected", option=option)
    return found.cpu()


def read_logits(given: Any, option: str = "logits") -> Tensor:
    """Return logits [N, C] as float64; InputError where they aren't finite, or are probabilities."""
    found = tensor(given, option).double()
    if found.ndim != 2 or found.shape[1] < 2 or not len(found):
        raise InputError(f"of shape {list(found.shape)}; [samples, classes], of two classes at least, expected", option)
    bad = int((~found.isfinite()).any(1).sum())
    if bad:
        raise InputError(f"NaN or infinite in {bad:,} of {len(found):,} samples", option=option)
    if bool((found >= 0).all()) and torch.allclose(found.sum(1), torch.ones(1, dtype=torch.float64), atol=1e-4):
        raise InputError("rows are probabilities; give their logarithms, such as log(p.clip(1e-12))", option=option)
    return found


def read_labels(given: Any, samples: int, classes: int | None, option: str = "y") -> Tensor:
    """Return whole numbers [N] from 0 as int64, below `classes` where that is known; InputError where they aren't."""
    found = tensor(given, option)
    if found.shape != (samples,):
        raise InputError(f"of shape {list(found.shape)}; [{samples}] expected, one a sample", option=option)
    whole = found.double()
    if found.dtype == torch.bool or not bool((whole == whole.floor()).all()):
        raise InputError("whole numbers from 0 expected, one a sample", option=option)
    low, high = int(whole.min()), int(whole.max())
    if low < 0 or (classes is not None and high >= classes):
        most = "" if classes is None else f" to {classes - 1}, as many classes as logits have"
        raise InputError(f"{low if low < 0 else high} given; whole numbers from 0{most} expected", option=option)
    return found.long()


def read_groups(given: Any, samples: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the place [N] of each sample's group, of whole numbers or names, among the groups' names in order."""
    values = np.array(given.cpu() if isinstance(given, Tensor) else given)
    if values.shape != (samples,) or values.dtype.kind not in "iubUSO":
        raise InputError(f"{values.dtype} {list(values.shape)}; [{samples}] whole numbers or names expected", "groups")
    names, index = np.unique(values.astype(str) if values.dtype.kind in "OS" else values, return_inverse=True)
    return torch.from_numpy(index.reshape(-1)).long(), tuple(map(str, names.tolist()))


def read_classes(given: Any, count: int) -> tuple[str, ...]:
    """Return the classes' names, as given, or their places; InputError where they aren't as many, or not distinct."""
    names = tuple(map(str, range(count) if given is None else given))
    if len(names) != count or len({*names}) < count:
        raise InputError(f"{len(names)} names given; {count} different ones expected", option="classes")
    return names


def read_prior(given: Any, targets: Tensor, classes: int) -> Tensor:
    """Return the classes' shares [C]: as given, or those of labels, where a class that is none of them counts half."""
    if given is None:
        return as_shares(torch.bincount(targets, minlength=classes).double().clamp(min=0.5))
    found = tensor(given, "prior").double()
    if found.shape != (classes,) or not bool((found > 0).all()) or not bool(found.isfinite().all()):
        raise InputError(f"{classes} shares above 0 expected, those of the classes in training", option="prior")
    return as_shares(found)


def as_shares(counts: Tensor) -> Tensor:
    """Return counts as shares."""
    return counts / counts.sum()


def like(found: Tensor, given: Any) -> Any:
    """Return a tensor as what was given is: a tensor on its device, else an array."""
    return found.to(given.device) if isinstance(given, Tensor) else found.numpy()
