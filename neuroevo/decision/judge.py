"""What decision rules are worth: a metric, and bounds that come first, for many rules at once.

Where only decisions count, and a metric adds over samples, all that is needed of a sample is its cell: its class, with
its group, and the class decided. Rules are scored by counts of cells then, and a sample that moves from one cell to
another moves its statistics. Any other metric is of the logits as the rule makes them.
"""

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.decision.rules import CELLS, Rule, predict
from neuroevo.engine.rng import generator
from neuroevo.problems.constraints import Constraint, violation
from neuroevo.problems.metric import Additive, OfLogits, score

LARGEST = 2**23  # numbers of a table of cells
PROBES = 8  # random rules by which it is seen whether only decisions count


class Samples(NamedTuple):
    """Logits, and what they are judged against."""

    logits: Tensor  # [N, C] float64
    targets: Tensor  # [N] int64: class + C * group

    def take(self, rows: Tensor | slice) -> "Samples":
        """Return some rows [B]."""
        return Samples(self.logits[rows], self.targets[rows])


class Measure(NamedTuple):
    """What counts of rules: a metric of logits and `Samples.targets`."""

    metric: OfLogits  # its scores are [n]; those of a bound are as reported, [n] or [n, m], NaN where nothing is judged
    bound: Constraint | None = None  # what they have to keep to; None of the one that is to be high

    def tighten(self, margin: float) -> "Measure":
        """Return the measure with its bound further in by a margin."""
        if self.bound is None:
            return self
        low, high = self.bound.at_least, self.bound.at_most
        low, high = (None if end is None else end + by for end, by in ((low, margin), (high, -margin)))
        return self._replace(bound=self.bound._replace(at_least=low, at_most=high))


class Worth(NamedTuple):
    """What rules are worth, n of them: less violated before more, then by value."""

    values: Tensor  # [n] float64, the higher the better; -inf where it isn't a number
    violations: Tensor  # [n] float64: by how much bounds are missed, in sum; 0 where all are kept

    def equals(self) -> Tensor:
        """Return which rules [n] bool nothing is better than."""
        least = self.violations == self.violations.min()
        values = self.values.masked_fill(~least, -torch.inf)
        return least & (values == values.max())

    def fitness(self) -> Tensor:
        """Return one number [n] in the same order: within [-1, 1] where all bounds are kept, else below -2."""
        bounded = self.values / (1 + self.values.abs())
        bounded = bounded.where(self.values.isfinite(), self.values.sign())
        return bounded.where(self.violations == 0, -2 - self.violations)


class Judge:
    """A metric and bounds, of rules on samples like those given, of C classes."""

    def __init__(self, measures: Sequence[Measure], samples: Samples) -> None:
        self.measures = list(measures)
        self.tables = _tables(self.measures, samples)

    @property
    def bound(self) -> bool:
        """Whether there are bounds."""
        return any(measure.bound is not None for measure in self.measures)

    def tighten(self, margin: float) -> "Judge":
        """Return a judge whose bounds are all further in by a margin."""
        found = copy(self)
        found.measures = [measure.tighten(margin) for measure in self.measures]
        return found

    def worth(self, rules: Rule, samples: Samples) -> Worth:
        """Return what rules, [n, C] or one, are worth on samples."""
        if self.tables is None:
            return self.of_logits(rules.many(), samples)
        return self.of_totals(self.totals(predict(rules, samples.logits), samples))

    def totals(self, chosen: Tensor, samples: Samples) -> list[Tensor]:
        """Return the summed statistics [n, k] of each measure, of classes decided [n, N]."""
        assert self.tables is not None
        n, (codes, classes) = len(chosen), self.tables[0].shape[:2]
        place = samples.targets * classes + torch.arange(n)[:, None] * (codes * classes)
        counts = torch.bincount((place + chosen).flatten(), minlength=n * codes * classes)
        cells = counts.view(n, codes * classes).double()
        return [cells @ table.flatten(0, 1) for table in self.tables]

    def moves(self, before: Tensor, after: int, samples: Samples) -> list[Tensor]:
        """Return by how much each sample's statistics change [N, k], from a class before [N] to one after."""
        assert self.tables is not None
        return [table[samples.targets, after] - table[samples.targets, before] for table in self.tables]

    def of_totals(self, totals: Sequence[Tensor]) -> Worth:
        """Return what summed statistics [n, k] of each measure are worth."""
        scores = []
        for measure, total in zip(self.measures, totals, strict=True):
            assert isinstance(measure.metric, Additive)
            scores.append(measure.metric.finish(total))
        return self._worth(scores)

    def of_logits(self, rules: Rule, samples: Samples) -> Worth:
        """Return what rules [n, C] are worth by the logits that they make."""
        rows = max(1, 128 * CELLS // max(1, samples.logits.numel()))
        parts = []
        for scales, offsets in zip(rules.scales.split(rows), rules.offsets.split(rows), strict=True):
            parts.append(self._scores(Rule(scales, offsets).apply(samples.logits), samples))
        return self._worth([torch.cat(of_one) for of_one in zip(*parts, strict=True)])

    def of_applied(self, logits: Tensor, samples: Samples) -> Worth:
        """Return what logits [N, C] that rules have made already are worth, of one rule or one a fold."""
        return self._worth(self._scores(logits[None], samples))

    def _scores(self, logits: Tensor, samples: Samples) -> list[Tensor]:
        """Return each measure's scores of logits [n, N, C]."""
        logits = logits.mT.contiguous().mT  # as metrics take them without a copy
        return [score(measure.metric, logits, samples.targets) for measure in self.measures]

    def _worth(self, scores: Sequence[Tensor]) -> Worth:
        values = scores[0].double()
        violations = torch.zeros_like(values)
        for measure, found in zip(self.measures, scores, strict=True):
            if measure.bound is not None:
                reported = found.reshape(len(values), -1)
                violations += violation(reported, measure.bound, ~reported.isnan() if measure.bound.each else None)
        return Worth(values.masked_fill(values.isnan(), -torch.inf), violations)


def _tables(measures: Sequence[Measure], samples: Samples) -> list[Tensor] | None:
    """Return each metric's statistics [codes, C, k] of a sample by its class, with its group, and the class decided.

    None where a metric doesn't add over samples, or tells apart logits that decide the same.
    """
    classes, codes = samples.logits.shape[1], int(samples.targets.max()) + 1
    codes += -codes % classes
    one_hot = torch.eye(classes, dtype=torch.float64)[:, None]  # [C, 1, C]: each class decided, of one sample
    found = []
    for measure in measures:
        if not isinstance(measure.metric, Additive):
            return None
        of_class = [measure.metric.statistics(one_hot, torch.tensor([t])).double() for t in range(codes)]
        found.append(torch.stack(of_class))
        if found[-1].numel() > LARGEST:
            return None
    source = generator(0, "probe", 0)
    noise = torch.randn(PROBES, classes, generator=source, dtype=torch.float64)
    rules = Rule((noise / 4).exp(), noise.flip(0) * samples.logits.std())
    applied = rules.apply(samples.logits).mT.contiguous().mT
    chosen = predict(rules, samples.logits)
    decided = torch.nn.functional.one_hot(chosen, classes).double().mT.contiguous().mT
    for measure in measures:
        there, here = (score(measure.metric, logits, samples.targets) for logits in (applied, decided))
        if not torch.allclose(there, here, rtol=0, atol=1e-9, equal_nan=True):
            return None
    return found
