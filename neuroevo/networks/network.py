"""What genes are the weights of: a backbone with a head, of which a part evolves.

It needs no data set and no device of birth: a genome becomes weights, logits of a whole population, the weights of a
file, or a module of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuroevo.engine.genome import Layout
from neuroevo.errors import InputError, the
from neuroevo.networks import deep, heads, onnxfiles, quantised, rows, spaces
from neuroevo.networks.affine import Affine
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.classes import Classes
from neuroevo.networks.heads import Drop, Forward
from neuroevo.networks.rows import Given
from neuroevo.networks.spaces import Origin, Space
from neuroevo.networks.weightfiles import strip_prefix
from neuroevo.networks.weights import check_finite
from neuroevo.search.operators import mutation

STATISTICS = ("running_mean", "running_var")

Weights = dict[str, Tensor]
Note = Callable[[str], None]


class Calibration(NamedTuple):
    """By which samples batch norms are re-estimated for each individual."""

    batches: Callable[[], Iterator[Tensor]]  # of rows at the cut, [B, D] each
    samples: int  # in all


@dataclass(frozen=True)
class Network:
    """A network of which a part evolves, and what its genes are."""

    backbone: Backbone
    build_head: Callable[[int], nn.Module]  # a fresh head on so many features
    head: nn.Module  # one of them, on features as it sees them
    space: Space  # what genes are coordinates of
    base: Weights  # {name: [1, *shape]}: all that evolves, and the head, at the start
    affine: Affine | None  # of what the head is given
    first: str  # the head's first linear layer, into which the affine map folds
    width: int  # features that the network gives its head
    method: str  # by which heads are evaluated: gemm, vmap or loop
    of_features: Forward  # logits of heads on features as they see them
    classes: Classes
    device: torch.device
    name: str  # of the head
    learns_head: bool = True  # whether the head evolves
    forward_: Forward | None = None  # where more than the head evolves
    recalibrates: bool = False  # whether batch norms are re-estimated for each individual
    calibration: Calibration | None = None  # by which samples, where any come behind what evolves
    statistics: Weights | None = None  # {buffer: [channels]} of the one genome that is asked about, where known

    @property
    def layout(self) -> Layout:
        """Which genes of a genome are whose."""
        return self.space.layout

    @property
    def evolving(self) -> Weights:
        """What evolves {name: [1, *shape]}, as it is at the start."""
        head = self.backbone.head + "."
        return {name: w for name, w in self.base.items() if self.learns_head or not name.startswith(head)}

    @property
    def forward(self) -> Forward:
        """Logits [n, B, C] of weights {name: [n, *shape]} on samples, [B, d] shared or [n, B, d]."""
        return self.of_features if self.forward_ is None else self.forward_

    @property
    def head_width(self) -> int:
        """Number of features that the head sees."""
        return self.width if self.affine is None else self.affine.width

    def with_method(self, method: str) -> "Network":
        """Return the network with what evolves before its head, if any does, evaluated by a method of `deep`."""
        return self if self.backbone.cut is None else replace(self, forward_=self.behind_the_cut(method))

    def behind_the_cut(self, method: str) -> Forward:
        """Return the logits of a population on rows at the cut, by a method of `deep`."""
        cut = self.backbone.cut
        assert cut is not None
        fixed = {} if self.learns_head else self.of_head()
        affine = None if self.affine is None else self.affine.__call__
        return deep.forward(cut, self.backbone.head, self.of_features, fixed, affine=affine, method=method)

    def of_head(self) -> Weights:
        """Return the head's weights {name: [1, *shape]} at the start."""
        return {name: w for name, w in self.base.items() if name.startswith(self.backbone.head + ".")}

    def of_coordinates(self, forward: Forward) -> Forward:
        """Return a forward pass of weights as one of coordinates {name: [n, *shape]}, with a gradient."""
        if self.space.identity:
            return forward

        def logits(weights: Mapping[str, Tensor], features: Tensor, drop: Drop = None) -> Tensor:
            return forward(self.space.decode(weights), features, drop)

        return logits

    def within(self, build: Callable[[Origin], Space], sources: Tensor | None = None, *, seed: int = 0) -> "Network":
        """Return the network with its genes in another space, around genomes [s, g] from elsewhere if any are given.

        Those are genomes of this network, whose genes are the weights.
        """
        given = () if sources is None else tuple(self._weights(row[None].to(self.device)) for row in sources)
        space = spaces.lay(build, Origin(self.evolving, given, seed))
        if space.encode is None:
            space.decode(space.layout.unflatten(space.start()))  # which refuses what it can't be around
        return replace(self, space=space)

    def start(self) -> Tensor:
        """Return the genome [1, g] of the network as it is."""
        return self.space.start()

    def spread(self, start: Tensor, sigma: float) -> float | Tensor:
        """Return the deviation of the noise around start [s, g].

        That of weights is relative to each parameter's size behind a cut; of an ONNX file's tensors of positive
        numbers, such as scales, which differ by many orders from one channel to the next, to each number. Coordinates
        of a space are relative already.
        """
        if self.space.encode is None:
            return sigma
        if self.backbone.cut is None:
            return quantised.spread(start, self.layout, sigma)
        weights = self._weights(start.to(self.device))
        layout = Layout.of({name: w[0] for name, w in weights.items()})
        scales = mutation.scales(layout.flatten(weights), layout)[0].to(start.device)
        if not self.space.identity:
            return quantised.spread(start, self.layout, sigma, dict(zip(layout.names, scales.unbind(), strict=True)))
        found = scales.repeat_interleave(torch.tensor(layout.sizes, device=scales.device))
        if self.backbone.cut.foreign:
            positive = torch.cat([(part > 0).all().expand(part.shape[1]) for part in start.split(layout.sizes, dim=1)])
            found = torch.where(positive, start[0], found)
        return sigma * found

    def decode(self, genomes: Tensor) -> Weights:
        """Return the weights {name: [n, *shape]} that genomes [n, g] stand for, on features as the head sees them."""
        weights = self._weights(genomes.to(self.device))
        if self.statistics is not None:
            return weights | {name: value[None].to(self.device) for name, value in self.statistics.items()}
        if self.calibration is not None and self.backbone.cut is not None:
            own = {name: w for name, w in weights.items() if name in self.backbone.trainable}
            with torch.no_grad():
                weights |= deep.recalibrate(self.backbone.cut, own, self.calibration.batches)
        return weights

    def _weights(self, genomes: Tensor) -> Weights:
        return self.space.decode(self.layout.unflatten(genomes))

    def fold(self, genome: Tensor) -> Weights:
        """Return the weights {name: shape} that a genome [g] has in the network, on raw features, head included."""
        weights = self.base | self.decode(genome[None])
        if self.affine is not None:
            weights = self.affine.fold(weights, self.first)
        return {name: weight[0] for name, weight in weights.items()}

    def unfold(self, weights: Weights, source: str, classes: Classes | None = None) -> Tensor:
        """Return the genome [1, g] of weights as the network has them; InputError where they are of another layout.

        Its space is one in which all weights have a genome. Parameters of the backbone that they lack are the
        backbone's own. Rows of the head's output layer are those of `classes`, where known, and of this network's in
        its order if not.
        """
        assert self.space.encode is not None
        network, evolving = self.backbone.body.state_dict(), self.evolving
        weights = strip_prefix(dict(weights), {*network, *self.base})
        for name, weight in weights.items():
            here = None if name in self.base else network.get(name)
            recalibrated = name.endswith(STATISTICS) and self.recalibrates
            passed = recalibrated or name.endswith("num_batches_tracked")
            if here is not None and not passed and not torch.equal(here.cpu(), weight.cpu()):
                raise InputError(f"{source}: its {name} is another, and doesn't evolve here; see {the('transfer')}")
        if self.learns_head:
            found, whole = Given(weights, source, classes), bool(self.layout.tops)
            weights = rows.in_order(self.head, self.backbone.head, self.head_width, found, self.classes, whole=whole)
        backbone = {name: self.base[name] for name in self.backbone.trainable}
        given = {name: weights[name][None].to(self.device) for name in evolving if name in weights}
        check_finite(given, source)
        raw = self.base if self.affine is None else self.affine.fold(self.base, self.first)
        try:  # shapes first
            Layout.of({name: w[0] for name, w in raw.items() if name in evolving}).flatten(backbone | given)
        except ValueError as error:
            raise InputError(f"{source}: not of this network's layout: {error}") from None
        if self.affine is not None and f"{self.first}.weight" in given:
            given = rows.unfold(self.affine, given, self.first, source)
        return self.space.encode(backbone | given)

    def module(self, genome: Tensor) -> nn.Module:
        """Return a network of its own with a genome's [g] weights, in eval mode: samples to logits, all maps folded."""
        whole = deepcopy(self._plain)
        missing = whole.load_state_dict(self.fold(genome), strict=False).unexpected_keys
        assert not missing, missing
        return whole

    def onnx(self, genome: Tensor) -> tuple[bytes, float] | None:
        """Return the ONNX file that the network is with a genome's [g] weights, None where it is none.

        And by how much of the largest logit what it gives differs from what was scored.
        """
        cut = self.backbone.cut
        if cut is None or not cut.foreign:
            return None
        found = onnxfiles.inside(self.module(genome))
        if found is None:
            return None
        content, inputs = found.to_onnx(), found.tried
        assert inputs is not None
        own = {name: w[0] for name, w in self.decode(genome[None]).items()}
        with torch.no_grad():
            logits = torch.func.functional_call(cut.rest, own, cut.prefix(inputs.to(self.device)))
        return content, onnxfiles.difference(content, inputs, logits.cpu())

    @cached_property
    def _plain(self) -> nn.Module:
        return self.backbone.network(self.build_head(self.width)).to(self.device).eval()

    def numbers(self, genomes: Tensor) -> Tensor:
        """Return all that evolves as the plain network has it, [n, numbers], of genomes [n, g]."""
        evolving = self.evolving
        folds = self.affine is not None and f"{self.first}.weight" in evolving
        if self.affine is None and self.space.identity:
            return genomes
        weights = self._weights(genomes.to(self.device))
        if folds:
            assert self.affine is not None
            weights = self.affine.fold({name: w.to(self.affine.mean.device) for name, w in weights.items()}, self.first)
        return torch.cat([weights[name].reshape(len(genomes), -1) for name in evolving], dim=1)


def build(
    backbone: Backbone,
    build_head: Callable[[int], nn.Module],
    classes: Sequence[str],
    *,
    width: int,
    affine: Affine | None,
    head_weights: Callable[[nn.Module, int, Affine | None, str], Weights],
    device: torch.device,
    learns_head: bool = True,
    recalibrates: bool = False,
    affine_needed: bool = True,
    name: str = "",
    note: Note = lambda line: None,
) -> Network:
    """Return a network that evolves, of a backbone and the heads that `build_head` builds for so many features.

    `width` is the number of features that the backbone gives, `affine` what is done to them before the head: it folds
    into the head's first linear layer. `head_weights(head, features seen, affine, first layer)` are the head's weights
    {name: [1, *shape]} at the start. Its genes are the weights; `Network.within` has them in another space. InputError,
    which calls the head by its `name`, where the affine map finds no such layer, unless it isn't needed.
    """
    seen = affine.width if affine else width
    head, again = (build_head(seen).to(device) for _ in range(2))
    first = heads.first_linear(head, backbone.head)
    if first is None:
        if affine is not None and affine_needed:
            raise InputError(
                f"{name or type(head).__name__} doesn't begin with a linear layer with bias, into which a scale could "
                "be folded; set standardise false, components null and whitening 0",
                option="features",
            )
        first, affine = backbone.head, None
    base = {name: backbone.body.get_parameter(name).detach()[None] for name in backbone.trainable}
    of_head = head_weights(head, seen, affine, first)
    space = spaces.full(Origin(base | (of_head if learns_head else {})))
    method, of_features = heads.population_forward(head, backbone.head, (seen, len(classes)), again, note)
    return Network(
        backbone=backbone,
        build_head=build_head,
        head=head,
        space=space,
        base=base | of_head,
        affine=affine,
        first=first,
        width=width,
        method=method,
        of_features=of_features,
        classes=tuple(classes),
        device=device,
        name=name or type(head).__name__,
        learns_head=learns_head,
        recalibrates=recalibrates,
    )
