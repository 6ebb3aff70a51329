"""The start of a run: weights of earlier runs, of files, and of the network's own head.

Files hold weights as the network has them, on raw features. Those that neuroevo wrote name their classes, by which the
rows of the head's output layer are put in the run's order (`classes`); of others the order is taken as it is.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from neuroevo import config
from neuroevo.config import Config
from neuroevo.errors import InputError
from neuroevo.networks import rows as rows_
from neuroevo.networks.affine import Affine
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.classes import Classes
from neuroevo.networks.rows import Given
from neuroevo.networks.weightfiles import read_named, strip_prefix
from neuroevo.networks.weights import check_finite
from neuroevo.storage import rundir

# Keys of the config for options that errors about heads from elsewhere mention.
KEYS = {"transfer": "backbone.transfer", "trainable": "head.trainable", "components": "features.components"}
START, HEAD = "start", "head"  # names of what a checkpoint keeps: genomes [s, g], weights {name: [1, *shape]}

Weights = dict[str, Tensor]


def weights_file(source: str, key: str) -> Path:
    """Return the file of an earlier run's champion, or a file of weights itself; InputError where neither is there."""
    path = Path(source).expanduser()
    path = path / rundir.CHAMPION if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{key}: {source} is neither a finished run nor a file of weights")
    return path


def read(source: str, key: str) -> Given:
    """Read the trainable weights of an earlier run's champion, or of a file."""
    weights, names = read_named(weights_file(source, key))
    return Given(weights, f"{key}: {source}", names)


@config.at(**KEYS)
def lines(c: Config, backbone: Backbone, now: Classes) -> list[str]:
    """Return a line on each head that has learnt before and that a run takes; InputError where it can't be.

    And one on rounded weights whose place others take.
    """
    found: list[str] = []
    sources = c.genome.start if c.head.trainable else c.genome.start[:1]
    for source in sources:
        given = read(source, "genome.from")
        own = strip_prefix(given.weights, {*backbone.body.state_dict(), f"{backbone.head}.weight"})
        matrices = [w for name, w in own.items() if name.startswith(backbone.head + ".") and w.ndim == 2]
        rows = {len(matrix) for matrix in matrices}
        found += _lines(given.source, given.classes, now, rows, c.head.trainable)
    if c.head.init == "network" and backbone.own_head is not None and not (found or (sources and c.head.trainable)):
        rows = {backbone.own_head.out_features}
        source = "head.init: network" if c.backbone.file is None else f"backbone.file: {c.backbone.file}"
        found += _lines(source, backbone.classes, now, rows, c.head.trainable)
    rounded = [name for name in backbone.trainable if name in backbone.moved]
    if sources and rounded:
        found.append(
            f"genome.from: {rounded[0]} ({len(rounded)} in all) is as it is there, and not as backbone.quantise rounds "
            "it; backbone.transfer takes weights before they are rounded"
        )
    return found


def _lines(source: str, then: Classes | None, now: Classes, rows: Collection[int], learns: bool) -> list[str]:
    """Return a line on a head some of whose matrices have so many rows, none where they are of no use."""
    if then is None and len(now) in rows:
        return [f"{source}: names no classes: the rows of its head are taken in the order of this run's"]
    if then is not None and len(then) in rows:
        return [f"{source}: classes by name: {rows_.match(then, now, source, learns=learns)}"]
    return []


def own_head(backbone: Backbone) -> nn.Linear:
    """Return the head that the network came with."""
    assert backbone.own_head is not None  # only without a network there is none
    return backbone.own_head


def check_head(c: Config, backbone: Backbone, count: int) -> None:
    """See that the network's own head can be that of so many classes, where `head.init` asks for it; InputError if not.

    Where its classes have names, those decide.
    """
    if c.head.init != "network":
        return
    own = backbone.own_head
    if c.head.layers.name != "linear" or own is None or (backbone.classes is None and own.out_features != count):
        if c.backbone.file is not None and own is not None:
            line = f"its logits are of {own.out_features} classes, the data have {count}"
            raise InputError(f"backbone.file: {c.backbone.file}: {line}")
        has = "no head" if own is None else f"a linear head of {own.out_features} classes"
        raise InputError(f"head.init: network: the weights have {has}, the data {count} classes")


@config.at(**KEYS)
def head_weights(
    c: Config,
    backbone: Backbone,
    head: nn.Module,
    *,
    width: int,
    now: Classes,
    scale: Affine | None,
    first: str,
    device: torch.device,
    kept: Mapping[str, Tensor],
) -> Weights:
    """Return the weights {name: [1, *shape]} of a head of so many features at the start, on features as it sees them.

    Those of the network are on raw features. A head that doesn't evolve is that of the first of `genome.from`, if any,
    or what a checkpoint `kept` of it. Where genomes start from elsewhere, one that evolves is its module's own, unless
    it is what a merge adds to.
    """
    own = {key.removeprefix(HEAD + "/"): value.to(device) for key, value in kept.items() if key.startswith(HEAD + "/")}
    weights = {f"{backbone.head}.{name}": p.detach()[None] for name, p in head.named_parameters()}
    if own:
        return {name: own[name] for name in weights}  # in the head's own order
    added_to = c.genome.space.options.get("how") == "arithmetic"  # by what networks from elsewhere have learnt
    if START in kept or (c.genome.start and c.head.trainable and not added_to):
        return weights
    given: Given | None = None
    if c.genome.start and not (c.head.trainable and added_to):
        found = read(c.genome.start[0], "genome.from")
        found = found._replace(weights=strip_prefix(found.weights, {*weights, *backbone.body.state_dict()}))
        found = found._replace(weights=rows_.in_order(head, backbone.head, width, found, now, learns=False))
        expected = weights if scale is None else scale.fold(weights, first)
        if all(name in found.weights and found.weights[name].shape == w.shape[1:] for name, w in expected.items()):
            given = found._replace(weights={name: found.weights[name] for name in weights})
            check_finite(given.weights, given.source)
    if given is None and c.head.init == "network":
        check_head(c, backbone, len(now))
        state = {f"{backbone.head}.{name}": value for name, value in own_head(backbone).state_dict().items()}
        given = Given(state, "head.init: network", backbone.classes)
        learns, whole = c.head.trainable, c.genome.levels is not None
        given = given._replace(
            weights=rows_.in_order(head, backbone.head, width, given, now, learns=learns, whole=whole)
        )
    if given is None:
        if not c.head.trainable and c.head.init == "zero":
            raise InputError(
                "head.trainable: false, and the head is zero; give head.init network, or genome.from a run"
            )
        return weights
    batched = {name: value[None].to(device) for name, value in given.weights.items()}
    return batched if scale is None else rows_.unfold(scale, batched, first, given.source)
