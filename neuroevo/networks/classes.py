"""Classes by name: the rows that a file has of a class go to the place where a run has the class.

The rows of an output layer are its classes'. Those that file and run share keep their weights, wherever they stand;
what the run lacks is dropped. A class that is new must not take predictions from those that are known before anything
is learnt. A row of zeros would, wherever the others' logits are negative; the mean of the known rows has the mean of
their logits, which is never above the highest. Where they are all alike, or there is one alone, the mean is as high as
they are: so its bias is lower by `BELOW`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.errors import InputError, the

Classes = tuple[str, ...]

BELOW = 0.1  # in logits: much to rounding, little to learning
NAMED = 5  # classes in a line


class Match(NamedTuple):
    """The row in a file of each class of a run."""

    rows: tuple[int, ...]  # of each of the run's classes: its row in the file, -1 where it is new
    new: Classes  # of the run alone
    dropped: Classes  # of the file alone

    @property
    def moves(self) -> int:
        """Number of classes that file and run have at different places."""
        return sum(row not in (-1, place) for place, row in enumerate(self.rows))

    def __str__(self) -> str:
        kept = len(self.rows) - len(self.new)
        text = f"{kept} kept" + (f" ({self.moves} at another place)" if self.moves else "")
        text += f", new: {few(self.new)}" if self.new else ""
        return text + (f", dropped: {few(self.dropped)}" if self.dropped else "")


def match(then: Classes, now: Classes, source: str) -> Match:
    """Find a file's classes `then` among a run's `now`; InputError names `source` where none is, or a name is twice."""
    if then == now:
        return Match(tuple(range(len(now))), (), ())
    twice = [name for names in (then, now) for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(f"{source}: classes go by their names, and {few(twice)} is the name of several")
    places = {name: row for row, name in enumerate(then)}
    found = Match(
        tuple(places.get(name, -1) for name in now),
        tuple(name for name in now if name not in places),
        tuple(name for name in then if name not in set(now)),
    )
    if len(found.new) == len(now):
        raise InputError(
            f"{source}: none of its classes ({few(then)}) is one of this run's ({few(now)}): its head is of no "
            f"use here; {the('transfer')} takes other parts of it"
        )
    return found


def reorder(weights: Mapping[str, Tensor], layer: str, found: Match, whole: bool = False) -> dict[str, Tensor]:
    """Return weights {name: shape} with the rows of an output layer, [then, ...], as a match has them: [now, ...].

    With `whole`, a new class is a copy of the known row nearest to their mean, of which levels stay levels.
    """
    rows = torch.tensor(found.rows)
    known, new = rows[rows >= 0], rows < 0
    matrix = weights[f"{layer}.weight"].double()[known]
    mean = matrix.mean(0, keepdim=True)
    nearest = known[(matrix - mean).flatten(1).norm(dim=1).argmin()][None]
    of_new = nearest if whole else known
    changed = {}
    for name, lower in ((f"{layer}.weight", 0.0), (f"{layer}.bias", BELOW)):
        if name in weights:
            value = weights[name][rows.clamp(min=0)]
            value[new] = (weights[name][of_new].double().mean(0) - lower).to(value.dtype)
            changed[name] = value
    return {**weights, **changed}


def few(names: Sequence[str]) -> str:
    """Return names as a line has them: the first few, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
