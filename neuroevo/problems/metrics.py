"""Metrics for a whole population at once; higher is always better.

Shapes: `n` individuals, `B` samples, `C >= 2` classes. Logits `[n, B, C]` are usually a transposed view of the
`[n, C, B]` that one GEMM over all heads wrote. Every metric works on that layout, where a reduction over classes runs
along contiguous samples, and takes any other by one copy; half precision is computed in float32.

A metric whose statistics add over samples is `Additive`, so that the logits never have to exist all at once; any other
is a plain function of all of them (`Whole`), as a user's own metric is. What is asked of the weights themselves, beside
the quality of predictions, is `OfGenome`. The predicted class is the first of the highest
logits, as for `argmax`. A NaN or infinite logit never raises and touches its own individual only, whose score then
means nothing (NaN or, where only predictions count, a NaN sample is of no predicted class: the worst miss there is).
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from neuroevo.errors import InputError
from neuroevo.problems.class_metrics import (
    f1,
    false_positive_rate,
    group_accuracy,
    precision,
    recall,
    recall_at_precision,
    worst_group_accuracy,
)
from neuroevo.problems.metric import Additive, Metric, OfGenome, adjust
from neuroevo.problems.tallies import by_class, log_sum, of_hits, per_class, prediction, tallies


def _of_target(x: Tensor, targets: Tensor) -> Tensor:
    """Pick each sample's value of its own class: `[n, C, B] -> [n, B]`."""
    samples = len(targets)
    return x.flatten(1).index_select(1, targets * samples + torch.arange(samples, device=x.device))


def _one_hot(targets: Tensor, like: Tensor) -> Tensor:
    """Return `[C, B]`, one where a sample is of the class, for `like [n, C, B]`."""
    return (torch.arange(like.shape[1], device=like.device)[:, None] == targets).to(like.dtype)


def _with_none(samples: Tensor, predicted: Tensor) -> Tensor:
    """Return how often each class and none is predicted, `[n, C + 1]`, of samples and predictions `[n, C]`."""
    return torch.cat([predicted, (samples - predicted).sum(1, keepdim=True)], 1)


def _mean(per_sample: Callable[[Tensor, Tensor], Tensor]) -> Additive:
    """Make a metric of the mean over samples of `(x [n, C, B], targets [B]) -> values [n, B]`."""

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        sums = per_sample(by_class(logits), targets).sum(-1, dtype=torch.float64)
        return torch.stack([sums, torch.full_like(sums, len(targets))], 1)

    return Additive(statistics, lambda totals: totals[:, 0] / totals[:, 1])


def _as_they_are(totals: Tensor) -> Tensor:
    return totals


def _recalls(reduce: Callable[[Tensor, Tensor], Tensor]) -> Additive:
    """Make a metric of `(recalls [n, C], present [n, C] bool) -> scores [n]`; a class not in targets has recall 0."""

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        x = by_class(logits)
        return per_class(prediction(x) == targets, x, targets).flatten(1)

    def finish(totals: Tensor) -> Tensor:
        hits, samples = totals.chunk(2, 1)
        return reduce(hits / samples.clamp(min=1), samples > 0)

    return Additive(statistics, finish)


def cross_entropy() -> Metric:
    """Minus the mean cross-entropy, in nats."""
    return _mean(lambda x, targets: _of_target(x.log_softmax(1), targets))._replace(of_sample="losses")


def accuracy() -> Metric:
    """Share of samples whose predicted class is the right one."""
    return _mean(lambda x, targets: prediction(x) == targets)._replace(of_sample="hits", share=_as_they_are)


def top_k(*, k: Annotated[int, Ge(1)] = 5) -> Metric:
    """Share of samples whose class is among the k highest; of equal logits the first class counts as higher."""

    def hits(x: Tensor, targets: Tensor) -> Tensor:
        own = _of_target(x, targets)[:, None]
        not_before = torch.arange(x.shape[1], device=x.device)[:, None] >= targets
        behind = (x < own) | ((x == own) & not_before)  # the class itself is one of these, unless it is NaN
        return behind.sum(1) > x.shape[1] - k

    return _mean(hits)._replace(share=_as_they_are)


def balanced_accuracy() -> Metric:
    """Mean recall over the classes that occur in targets."""
    return _recalls(lambda recalls, present: recalls.sum(1) / present.sum(1))


def worst_class_accuracy() -> Metric:
    """Lowest recall of the classes that occur in targets."""
    return _recalls(lambda recalls, present: recalls.masked_fill(~present, torch.inf).amin(1))


def macro_f1() -> Metric:
    """Mean F1 over the classes that occur in targets or predictions."""

    def finish(totals: Tensor) -> Tensor:
        hits, samples, predicted = totals.chunk(3, 1)
        either = samples + predicted
        return (2 * hits / either.clamp(min=1)).sum(1) / (either > 0).sum(1)

    return Additive(of_hits, finish)


def kappa(*, weights: Literal["linear", "quadratic"] | None = None) -> Metric:
    """Cohen's kappa: 1 - disagreement / disagreement by chance, of targets and predictions; 0 where both are one class.

    Cohen 1960, https://doi.org/10.1177/001316446002000104, and with weights 1968, https://doi.org/10.1037/h0026256:
    classes disagree by 1, by their distance (`linear`) or by its square. A sample of no predicted class (NaN) disagrees
    as if with the class farthest from its own, and counts among the predictions as a class apart: where all are NaN,
    kappa is 0.
    """

    def apart(true: Tensor, chosen: Tensor, classes: int) -> Tensor:
        farthest = torch.maximum(true, classes - 1 - true)
        distance = torch.where(chosen == classes, farthest, (chosen - true).abs())
        return distance.clamp_(max=1) if weights is None else distance if weights == "linear" else distance.square_()

    def finish(totals: Tensor) -> Tensor:
        sums, samples, predicted = totals.chunk(3, 1)
        classes = torch.arange(samples.shape[1] + 1, device=totals.device)
        weight = apart(classes[:-1, None], classes, len(classes) - 1).to(totals.dtype)
        by_chance = (samples @ weight * _with_none(samples, predicted)).sum(1)  # as sums: integers, exact below 2**53
        return (1 - sums.sum(1) * samples.sum(1) / by_chance).masked_fill(by_chance == 0, 0.0)

    return Additive(tallies(apart), finish)


def mcc() -> Metric:
    """Matthews correlation of targets and predictions, of any number of classes; 0 where either are all of one class.

    R_K of Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006, as scikit-learn's. A sample of no
    predicted class (NaN) is a miss, and counts among the predictions as a class apart.
    """

    def finish(totals: Tensor) -> Tensor:
        hits, samples, predicted = totals.chunk(3, 1)
        n = samples.sum(1)
        together = n * hits.sum(1) - (samples * predicted).sum(1)
        spread = n**2 - samples.square().sum(1)
        spread = spread * (n**2 - _with_none(samples, predicted).square().sum(1))
        return (together / spread.sqrt()).masked_fill(spread == 0, 0.0)

    return Additive(of_hits, finish)


def cost_matrix(*, costs: list[list[float]]) -> Metric:
    """Minus the mean cost of the predictions, `costs[true][predicted]`.

    A sample of no predicted class (NaN) costs the most that any prediction of its class does. InputError where `costs`
    is not a square of finite numbers, and, when scoring, where its size is not the number of classes.
    """
    where = "cost_matrix.costs"
    for i, row in enumerate(costs):
        if len(row) != len(costs):
            raise InputError(
                f"{where}: row {i} has {len(row)} costs, of {len(costs)} rows; costs[true][predicted] is square"
            )
        if not all(map(math.isfinite, row)):
            raise InputError(f"{where}: row {i} is {row}; a cost is a finite number")
    if len(costs) < 2:
        raise InputError(f"{where}: {len(costs)} rows given; it has a row for each class, two at least")
    table = torch.tensor(costs, dtype=torch.float64)
    table = torch.cat([table, table.amax(1, keepdim=True)], 1)
    table_on = cache(table.to)  # a copy to a device is waited for

    def scores(x: Tensor, targets: Tensor) -> Tensor:
        if x.shape[1] != len(table):
            raise InputError(f"{where}: {len(table)} x {len(table)} given; there are {x.shape[1]} classes")
        return -table_on(x.device).take(targets * table.shape[1] + prediction(x))

    return _mean(scores)


def auroc() -> Metric:
    """Area under the ROC curve of each class against the rest, averaged over the classes with both; ties count half.

    Orders samples by log-probability: the order of the probabilities, without their underflow. It is computed in
    float64 and rounded to float32, so that what differs by rounding alone is a tie (in float32 even equal samples may
    differ, by where a vector register ends). With targets all of one class there is no such curve: NaN.
    """

    def scores(logits: Tensor, targets: Tensor) -> Tensor:
        x = by_class(logits.detach())
        samples, normaliser = len(targets), log_sum(x)
        if x.device.type != "cpu":
            return _areas((x - normaliser[:, None]).to(torch.float32), targets)
        areas = []
        counts = torch.bincount(targets, minlength=x.shape[1]).tolist()
        for c, members in enumerate(targets.argsort().split_with_sizes(counts)):
            p = len(members)
            if 0 < p < samples:
                values = (x[:, c] - normaliser).to(torch.float32)
                own = values.index_select(1, members)
                values.numpy().sort()  # seven times as fast as torch's sort
                below = torch.searchsorted(values, own).sum(1)
                not_above = torch.searchsorted(values, own, right=True).sum(1)
                # Twice the wins, ties half, over all samples; against each other the positives win p * p / 2.
                areas.append((below + not_above - p * p).to(torch.float64) / (2 * p * (samples - p)))
        return torch.stack(areas, 1).mean(1) if areas else torch.full_like(normaliser[:, 0], torch.nan)

    return scores


def _areas(values: Tensor, targets: Tensor) -> Tensor:
    """Return the mean area [n] under the curves of `values [n, C, B]`, for a GPU: all classes are sorted at once.

    Nobody waits for how many samples a class has; places that aren't its own samples' count nothing. A CPU would take
    several times as long as class by class.
    """
    positive = torch.arange(values.shape[1], device=values.device)[:, None] == targets
    ranked, order = values.sort(-1)
    del values
    places = torch.searchsorted(ranked, ranked, out_int32=True)
    places += torch.searchsorted(ranked, ranked, right=True, out_int32=True)
    places.masked_fill_(~positive.expand(order.shape).gather(2, order), 0)
    p, samples = positive.sum(1), len(targets)
    curves = (p > 0) & (p < samples)
    areas = (places.sum(2) - p * p).to(torch.float64) / (2 * p * (samples - p))
    return areas.masked_fill(~curves, 0).sum(1) / curves.sum()


def calibration_error(*, bins: Annotated[int, Ge(1)] = 15) -> Metric:
    """Minus the expected calibration error of the predicted class (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Bins of equal width, each without its lower and with its upper edge: the sum over bins of |hits - confidences| / B.
    """

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        x = by_class(logits)
        confidence = (x - x.amax(1, keepdim=True)).exp_().sum(1).reciprocal()
        gap = (prediction(x) == targets).to(x.dtype) - confidence
        place = (confidence * bins).ceil_().sub_(1).clamp_(0, bins - 1).nan_to_num_().long()
        # In float64 these sums of float32 gaps are exact, and so the same in whatever order a GPU adds them.
        sums = gap.new_zeros(len(x), bins, dtype=torch.float64).scatter_add_(1, place, gap.double())
        return torch.cat([sums, torch.full_like(sums[:, :1], len(targets))], 1)

    return Additive(statistics, lambda totals: -totals[:, :-1].abs().sum(1) / totals[:, -1])


def brier() -> Metric:
    """Minus the Brier score: mean over samples of the squared distance between probabilities and truth, in [0, 2]."""
    return _mean(lambda x, targets: -(x.softmax(1) - _one_hot(targets, x)).square_().sum(1))


def sparsity() -> Metric:
    """How much few weights hold of a network, from 0 (all of one size) to 1 (all but one are zero, or all).

    (sqrt(g) - L1 / L2) / (sqrt(g) - 1) of Hoyer 2004 (https://www.jmlr.org/papers/v5/hoyer04a.html): whatever the
    weights' scale, and smooth where a count of zeros, which mutation never hits, would be flat.
    """

    def scores(genomes: Tensor, start: Tensor) -> Tensor:
        first, second = (torch.linalg.vector_norm(genomes, k, dim=1, dtype=torch.float64) for k in (1, 2))
        root = math.sqrt(genomes.shape[1])
        found: Tensor = (root - first / second) / (root - 1)
        return found.masked_fill((second == 0) | (root == 1), 1.0).clamp(0, 1)

    return OfGenome(scores)


def weight_norm() -> Metric:
    """Minus the L2 norm of the weights that evolve."""
    return OfGenome(lambda genomes, start: -torch.linalg.vector_norm(genomes, dim=1, dtype=torch.float64))


def distance() -> Metric:
    """Minus the L2 distance of the weights that evolve from those that the run started from, the first if several."""
    return OfGenome(lambda genomes, start: -torch.linalg.vector_norm(genomes - start, dim=1, dtype=torch.float64))


METRICS: dict[str, Callable[..., Metric]] = {
    "cross_entropy": cross_entropy,
    "accuracy": accuracy,
    "top_k": top_k,
    "balanced_accuracy": balanced_accuracy,
    "worst_class_accuracy": worst_class_accuracy,
    "macro_f1": macro_f1,
    "kappa": kappa,
    "mcc": mcc,
    "cost_matrix": cost_matrix,
    "auroc": auroc,
    "recall": recall,
    "precision": precision,
    "f1": f1,
    "false_positive_rate": false_positive_rate,
    "recall_at_precision": recall_at_precision,
    "group_accuracy": group_accuracy,
    "worst_group_accuracy": worst_group_accuracy,
    "calibration_error": calibration_error,
    "brier": brier,
    "sparsity": sparsity,
    "weight_norm": weight_norm,
    "distance": distance,
}


def weighted_cross_entropy(weights: Tensor) -> Metric:
    """Minus the cross-entropy's mean, weighted by the sample's class, `weights` [C]; as torch's with `weight`."""

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        own = _of_target(by_class(logits).log_softmax(1), targets)
        weight = weights[targets].to(own.dtype)
        sums = torch.stack([(own * weight).sum(1, dtype=torch.float64), weight.sum().double().expand(len(own))], dim=1)
        return sums

    return Additive(statistics, lambda totals: totals[:, 0] / totals[:, 1])


def against_imbalance(
    chosen: Sequence[tuple[str, Metric]], counts: Tensor, *, weights: bool, tau: float
) -> list[Metric]:
    """Return metrics by name with what they do against imbalance, of classes with `counts` [C] train samples.

    Cross-entropy, the first of that name, is weighted by the inverse of a class's share with `weights`; `tau` is that
    of Menon et al. 2021.
    """
    names, found = [name for name, _ in chosen], [metric for _, metric in chosen]
    if weights:
        found[names.index("cross_entropy")] = weighted_cross_entropy(counts.sum() / (len(counts) * counts))
    if tau:
        offset = tau * (counts / counts.sum()).log()
        found = [adjust(metric, offset) for metric in found]
    return found
