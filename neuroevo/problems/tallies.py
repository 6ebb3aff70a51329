"""What metrics take of a whole population's logits: the predicted classes, and tallies of them by class and by group.

Shapes are those of `metrics`: logits `[n, B, C]`, usually a view of `[n, C, B]`, and targets `[B]`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

CACHED = 2**17  # numbers that stay in a core's cache


def by_class(logits: Tensor) -> Tensor:
    """Return logits `[n, B, C]` as `[n, C, B]`; free in the layout the GEMM leaves, else one copy."""
    return logits.mT.to(torch.promote_types(logits.dtype, torch.float32)).contiguous()


def log_sum(x: Tensor) -> Tensor:
    """Return the log of the sum of exp of logits over classes, [n, B] float64 of x [n, C, B]."""
    highest = x.amax(1).to(torch.float64)
    total = torch.zeros_like(highest)
    for c in range(x.shape[1]):
        total += (x[:, c] - highest).exp_()
    return highest + total.log()


def prediction(x: Tensor) -> Tensor:
    """Return the first class of the highest logit, `[n, B]`; C, which is no class, where a logit is NaN.

    Forty times as fast as `argmax` over an inner dimension, which isn't vectorised: classes at the maximum get the
    weights C, C - 1, ..., 1, so that the highest names the first. Nor is a comparison into bools. On a CPU a few
    individuals at a time stay in cache.
    """
    classes, samples = x.shape[1:]
    rows = max(1, CACHED // max(1, classes * samples)) if x.device.type == "cpu" else max(1, len(x))
    weights = torch.arange(classes, 0, -1, dtype=x.dtype, device=x.device)[:, None]
    highest, equal = x.new_empty(len(x), samples), x.new_empty(min(rows, len(x)), classes, samples)
    for part, out in zip(x.split(rows), highest.split(rows), strict=True):
        here = torch.eq(part, part.amax(1, keepdim=True), out=equal[: len(part)])
        torch.amax(here.mul_(weights), 1, out=out)
    return classes - highest.to(torch.uint8 if classes < 256 else torch.int32)


def per_class(values: Tensor, x: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of `values [n, B]`, such as hits, and the samples of each class, `[n, 2, C]` float64."""
    shape = len(x), x.shape[1]
    sums = torch.zeros(shape, dtype=torch.float64, device=x.device).index_add_(1, targets, values.double())
    return torch.stack([sums, counts(targets, shape[1]).expand(shape)], 1)


def counts(targets: Tensor, classes: int) -> Tensor:
    """Return the samples of each class, `[C]` float64; `bincount` would look for the highest, and wait for it."""
    ones = torch.ones(len(targets), dtype=torch.float64, device=targets.device)
    return ones.new_zeros(classes).index_add_(0, targets, ones)


def tallies(values: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Make statistics `[n, 3 C]`: of each class the sum of `values`, its samples, and how often it is predicted.

    `(targets [B], predicted [n, B], C) -> values [n, B]`; the class predicted is C where there is none. What a metric
    needs of the confusion matrix is in these 3 C numbers, where the matrix would take C * C of every individual.
    """

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        x = by_class(logits)
        chosen, classes = prediction(x), x.shape[1]
        often = x.new_zeros(len(x), classes + 1, dtype=torch.float64)  # one more, for no class
        often.scatter_add_(1, chosen.long(), often.new_ones(()).expand(chosen.shape))
        found = per_class(values(targets, chosen, classes), x, targets)
        return torch.cat([found.flatten(1), often[:, :-1]], 1)

    return statistics


def _hits(targets: Tensor, chosen: Tensor, classes: int) -> Tensor:
    return chosen == targets


of_hits = tallies(_hits)  # one function for all metrics of these, so that a pass over logits makes them once


def in_groups(groups: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Make statistics `[n, 3 groups C]`, as `of_hits` of each group, of targets `class + C * group` [B]."""

    def statistics(logits: Tensor, codes: Tensor) -> Tensor:
        x = by_class(logits)
        n, classes, _ = x.shape
        chosen, targets, group = prediction(x), codes % classes, codes.div(classes, rounding_mode="floor")
        often = x.new_zeros(n, groups * (classes + 1), dtype=torch.float64)
        places = chosen.long() + group * (classes + 1)
        often.scatter_add_(1, places, often.new_ones(()).expand(chosen.shape))
        hits = x.new_zeros(n, groups * classes, dtype=torch.float64).index_add_(1, codes, (chosen == targets).double())
        samples = counts(codes, groups * classes).expand(n, -1)
        predicted = often.view(n, groups, classes + 1)[:, :, :-1]
        return torch.cat([hits, samples, predicted.flatten(1)], 1)

    return statistics
