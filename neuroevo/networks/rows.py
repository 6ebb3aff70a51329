"""Weights from elsewhere, with the rows of a head's output layer in the order of a run's classes.

Files hold weights as the network has them, on raw features. Those that neuroevo wrote name their classes, by which the
rows of the head's output layer are put in the run's order (`classes`); of others the order is taken as it is.
"""

from typing import NamedTuple

from torch import Tensor, nn

from neuroevo.errors import InputError, the
from neuroevo.networks import classes, heads
from neuroevo.networks.affine import Affine
from neuroevo.networks.classes import Classes

LOST = 1e-3  # of a head's weights: what a projection may leave out of it

Weights = dict[str, Tensor]


class Given(NamedTuple):
    """What a run's folder or a file gives."""

    weights: Weights  # {name: shape}
    source: str  # what to call it
    classes: Classes | None  # of its head's rows, where it names them


def match(then: Classes, now: Classes, source: str, *, learns: bool) -> classes.Match:
    """Match the classes of a head from elsewhere with a run's; InputError where one that can't be learnt is new."""
    found = classes.match(then, now, source)
    if found.new and not learns:
        raise InputError(
            f"false, but {source} lacks classes of the data ({classes.few(found.new)}), which a head that doesn't "
            "evolve can't learn",
            option="trainable",
        )
    return found


def in_order(
    head: nn.Module, prefix: str, width: int, given: Given, now: Classes, *, learns: bool = True, whole: bool = False
) -> Weights:
    """Return what is given with the rows of the head's output layer in the order of this run's classes.

    `head` takes features of that `width`, and evolves if it `learns`; with `whole`, as levels. InputError where it has
    no such layer, shares no class, or can't learn a new one. What isn't of this head is left to who compares shapes.
    """
    weights, then, source = given.weights, given.classes, given.source
    if then is None or then == now or not any(name.startswith(prefix + ".") for name in weights):
        return weights
    found = match(then, now, source, learns=learns)
    layer = heads.output_layer(head, prefix, width, len(now))
    if layer is None:
        raise InputError(
            f"{source}: its classes are others or in another order ({found}), and the rows of {type(head).__name__} "
            "can't be put in theirs: its logits aren't those of a last linear layer"
        )
    if any(len(weights.get(f"{layer}.{key}", then)) != len(then) for key in ("weight", "bias")):
        return weights
    return classes.reorder(weights, layer, found, whole) if f"{layer}.weight" in weights else weights


def unfold(affine: Affine, weights: Weights, first: str, source: str) -> Weights:
    """Return weights on a affine from those on raw features; InputError where they need what the map leaves out."""
    found = affine.unfold(weights, first)
    back, given = (w[f"{first}.weight"].double() for w in (affine.fold(found, first), weights))
    if (back - given).norm() > LOST * given.norm():
        raise InputError(
            f"{source}: its head uses more of the features than their principal components; set {the('components')} "
            f"null and {the('whitening')} 0"
        )
    return found
