"""Networks that are taken away together, judged by the mean of their logits, and how they are chosen on validation.

Members are added greedily, the one with which the mean does best (Caruana et al. 2004, "Ensemble selection from
libraries of models"). Theirs adds with replacement, by which models get weights; here nobody is added twice, so that
each copy adds something for what it costs. As there, it goes on past a member that doesn't help, and the best of the
ensembles on the way is taken.
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

    The best alone, then each time the one with which the mean of logits does best, up to `most`; of the ensembles on
    this way the best one, and of equal ones the smallest.
    """
    way: list[int] = []
    merits: list[tuple[float, ...]] = []
    total = torch.zeros_like(logits[0])
    for size in range(1, min(most, len(logits)) + 1):
        left = [i for i in range(len(logits)) if i not in way]
        tried = {i: judge.merit((total + logits[i]) / size, targets) for i in left}
        found = max(tried, key=tried.__getitem__)
        way, merits, total = [*way, found], [*merits, tried[found]], total + logits[found]
    return way[: merits.index(max(merits)) + 1]


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
