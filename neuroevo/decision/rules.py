"""Decision rules: logits times a scale for each class plus an offset for each, of which the highest decides."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

CELLS = 2**15  # numbers at a time, so that scoring many rules stays in a core's cache


class Rule(NamedTuple):
    """One rule, or many beside each other: a class is the first of the highest `scales * logits + offsets`."""

    scales: Tensor  # [C] or [n, C] float64, above 0
    offsets: Tensor  # [C] or [n, C] float64

    @classmethod
    def nothing(cls, classes: int) -> Self:
        """Return the rule that is plain argmax."""
        return cls(torch.ones(classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64))

    @classmethod
    def of_offsets(cls, offsets: Tensor) -> Self:
        """Return rules [n, C] or one [C] that shift logits alone."""
        return cls(torch.ones_like(offsets), offsets)

    def many(self) -> "Rule":
        """Return one rule as a row of many, many as they are."""
        return Rule(torch.atleast_2d(self.scales), torch.atleast_2d(self.offsets))

    def apply(self, logits: Tensor) -> Tensor:
        """Return logits [N, C] as one rule sees them, [N, C] float64; as many see them, [n, N, C]."""
        return logits.double() * self.scales.unsqueeze(-2) + self.offsets.unsqueeze(-2)

    def plain(self, *, scale_counts: bool) -> "Rule":
        """Return one rule with what changes no decision taken out: offsets' mean, and the scales' geometric mean.

        Where the logits' scale counts by itself, as for a loss, the scales stay.
        """
        offsets = self.offsets - self.offsets.mean()
        if scale_counts:
            return Rule(self.scales, offsets)
        size = self.scales.log().mean().exp()
        return Rule(self.scales / size, offsets / size)


def predict(rules: Rule, logits: Tensor) -> Tensor:
    """Return the classes [n, N] int64 that rules [n, C] decide of logits [N, C]: the first of the highest.

    Class after class over all samples, which takes no array [n, N, C] and is vectorised, as `argmax` isn't.
    """
    rules, columns = rules.many(), logits.double().T.contiguous()
    rows = max(1, CELLS // max(1, len(logits)))
    parts = []
    for scales, offsets in zip(rules.scales.split(rows), rules.offsets.split(rows), strict=True):
        highest = torch.addcmul(offsets[:, :1], scales[:, :1], columns[0])
        chosen = torch.zeros_like(highest, dtype=torch.int16 if len(columns) < 2**15 else torch.int64)
        for c in range(1, len(columns)):
            here = torch.addcmul(offsets[:, c, None], scales[:, c, None], columns[c])
            chosen.masked_fill_(here > highest, c)
            highest = torch.maximum(highest, here)
        parts.append(chosen)
    return torch.cat(parts).long()
