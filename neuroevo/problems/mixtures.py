"""Networks that are taken away together, judged by the mean of their logits, and how they are chosen on validation.

Members are added greedily, the one with which the mean does best (Caruana et al. 2004, "Ensemble selection from
libraries of models"). Theirs adds with replacement, by which models get weights; here nobody is added twice, so that
each copy adds something for what it costs, and who adds nothing ends it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neuroevo.engine.problem import VIOLATION
from neuroevo.errors import InputError
from neuroevo.problems import intervals
from neuroevo.problems.metric import OfGenome, OfGroups, OfLogits, OfModule, Unbound, as_reported, score
from neuroevo.problems.supervised import Supervised

COLDEST, HOTTEST = 0.01, 100.0  # temperatures


class Judge:
    """Judges logits [1, B, C] on rows of a problem's samples, as its candidates are judged."""

    def __init__(self, of: Supervised, rows: Tensor) -> None:
        """Take the metrics that logits are enough for; InputError where candidates are compared by another."""
        self.of, self.rows, self.classes = of, rows, len(of.network.classes)
        own = {name: m for name, m in of.metrics.items() if not isinstance(m, OfGenome | OfModule)}
        beyond = [posed.constraint.of for posed in of.constraints if isinstance(posed.score, OfGenome | OfModule)]
        if of.metric not in own:
            raise InputError(f"candidates are compared by {of.metric}, for which logits aren't enough", "logits")
        if beyond:
            raise InputError(f"a constraint is on {beyond[0]}, for which logits aren't enough", "logits")
        self.judgement = of.judgement(own.values(), constrained=True)
        self.metrics = dict(zip(own, map(_of_logits, self.judgement.metrics), strict=True))
        self.constraints = [*map(_of_logits, self.judgement.constraints)]

    def logits(self, genome: Tensor) -> tuple[Tensor, Tensor]:
        """Return a genome's logits [1, B, C], and targets [B] as the metrics have them."""
        return self.of.logits_of(self.judgement, genome, self.rows)

    def mean(self, genomes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the mean of genomes' logits [1, B, C], and targets [B]."""
        parts = [self.logits(genome) for genome in genomes]
        return torch.stack([part for part, _ in parts]).mean(0), parts[0][1]

    def merit(self, logits: Tensor, targets: Tensor) -> tuple[float, ...]:
        """Return what logits are compared by, higher is better."""
        return self.of.merit(self.scores(logits, targets, (self.of.metric, "cross_entropy")))

    def scores(self, logits: Tensor, targets: Tensor, names: Sequence[str] = ()) -> dict[str, float]:
        """Return the metrics of logits, as reported; all, or those of some names."""
        chosen = {name: self.metrics[name] for name in names or self.metrics}
        found = {name: as_reported(name, float(score(m, logits, targets))) for name, m in chosen.items()}
        if self.constraints:
            found[VIOLATION] = abs(sum(float(score(m, logits, targets)) for m in self.constraints))
        return found

    def with_intervals(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        """Return the metrics of logits with their 95 % intervals, and of how many `images` they are."""
        return intervals.with_intervals(logits, targets, self.metrics)


def _of_logits(metric: Any) -> OfLogits:
    assert not isinstance(metric, OfGenome | OfModule | OfGroups | Unbound)
    return metric  # type: ignore[no-any-return]


def choose(judge: Judge, logits: Sequence[Tensor], targets: Tensor, most: int) -> list[int]:
    """Return which of some networks, by their logits [1, B, C], are an ensemble of `most` at most.

    The best alone, and then each with which the mean of logits is better than before, the one with which it is best.
    """
    chosen: list[int] = []
    total, best = torch.zeros_like(logits[0]), None
    while len(chosen) < most:
        left = [i for i in range(len(logits)) if i not in chosen]
        merits = {i: judge.merit((total + logits[i]) / (len(chosen) + 1), targets) for i in left}
        found = max(merits, key=merits.__getitem__, default=None)
        if found is None or (best is not None and merits[found] <= best):
            break
        chosen, best, total = [*chosen, found], merits[found], total + logits[found]
    return chosen


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Return the temperature by which logits [1, B, C] are divided that makes targets [B] likeliest.

    Of COLDEST to HOTTEST. InputError where each sample is right: then the colder the likelier, without an end.
    """
    from scipy.optimize import minimize_scalar

    z, y = logits[0].double().cpu(), targets.cpu()
    if torch.equal(z.argmax(1), y):
        raise InputError(f"all {len(y)} validation samples are right: no temperature is the likeliest", "temperature")

    def loss(log: float) -> float:
        return float(functional.cross_entropy(z / math.exp(log), y))

    ends = (math.log(COLDEST), math.log(HOTTEST))
    return math.exp(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x)
