"""What genes are the weights of: a backbone with a head, of which a part evolves.

It needs no data set and no device of birth: a genome becomes weights, logits of a whole population, the weights of a
file, or a module of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuroevo.engine.genome import Layout
from neuroevo.errors import InputError, the
from neuroevo.networks import deep, heads, onnxfiles, quantised, rows
from neuroevo.networks.affine import Affine
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.classes import Classes
from neuroevo.networks.heads import Forward
from neuroevo.networks.rows import Given
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
    layout: Layout  # of genomes
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

    def start(self) -> Tensor:
        """Return the genome [1, g] of the network as it is."""
        return quantised.encode(self.base, self.layout)

    def spread(self, start: Tensor, sigma: float) -> float | Tensor:
        """Return the deviation of the noise around start [s, g]: relative to each parameter's size behind a cut.

        Of an ONNX file's tensors of positive numbers, such as scales, which differ by many orders from one channel to
        the next, it is relative to each number.
        """
        if self.backbone.cut is None:
            return quantised.spread(start, self.layout, sigma)
        scales, sizes = mutation.scales(start, self.layout)[0], self.layout.sizes
        found = scales.repeat_interleave(torch.tensor(sizes, device=scales.device))
        if self.backbone.cut.foreign:
            positive = torch.cat([(part > 0).all().expand(part.shape[1]) for part in start.split(sizes, dim=1)])
            found = torch.where(positive, start[0], found)
        return sigma * found

    def decode(self, genomes: Tensor) -> Weights:
        """Return the weights {name: [n, *shape]} that genomes [n, g] stand for, on features as the head sees them."""
        weights = quantised.decode(genomes.to(self.device), self.layout)
        if self.statistics is not None:
            return weights | {name: value[None].to(self.device) for name, value in self.statistics.items()}
        if self.calibration is not None and self.backbone.cut is not None:
            own = {name: w for name, w in weights.items() if name in self.backbone.trainable}
            with torch.no_grad():
                weights |= deep.recalibrate(self.backbone.cut, own, self.calibration.batches)
        return weights

    def fold(self, genome: Tensor) -> Weights:
        """Return the weights {name: shape} that a genome [g] has in the network, on raw features, head included."""
        fixed = {name: w for name, w in self.base.items() if name not in self.layout.names}
        weights = fixed | self.decode(genome[None])
        if self.affine is not None:
            weights = self.affine.fold(weights, self.first)
        return {name: weight[0] for name, weight in weights.items()}

    def unfold(self, weights: Weights, source: str, classes: Classes | None = None) -> Tensor:
        """Return the genome [1, g] of weights as the network has them; InputError where they are of another layout.

        Parameters of the backbone that they lack are the backbone's own. Rows of the head's output layer are those of
        `classes`, where known, and of this network's in its order if not.
        """
        network = self.backbone.body.state_dict()
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
        given = {name: weights[name][None].to(self.device) for name in self.layout.names if name in weights}
        check_finite(given, source)
        raw = self.base if self.affine is None else self.affine.fold(self.base, self.first)
        try:  # shapes first
            Layout.of({name: w[0] for name, w in raw.items() if name in self.layout.names}).flatten(backbone | given)
        except ValueError as error:
            raise InputError(f"{source}: not of this network's layout: {error}") from None
        if self.affine is not None and f"{self.first}.weight" in given:
            given = rows.unfold(self.affine, given, self.first, source)
        return quantised.encode(backbone | given, self.layout)

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
        found, cut = onnxfiles.inside(self.module(genome)), self.backbone.cut
        if found is None or cut is None:
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
        folds = self.affine is not None and f"{self.first}.weight" in self.layout.names
        if self.affine is None and not self.layout.tops:
            return genomes
        weights = quantised.decode(genomes, self.layout)
        if folds:
            assert self.affine is not None
            weights = self.affine.fold({name: w.to(self.affine.mean.device) for name, w in weights.items()}, self.first)
        return torch.cat([weights[name].flatten(1) for name in self.layout.names if name in weights], dim=1)


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
    largest_level: int | None = None,
    recalibrates: bool = False,
    affine_needed: bool = True,
    name: str = "",
    note: Note = lambda line: None,
) -> Network:
    """Return a network that evolves, of a backbone and the heads that `build_head` builds for so many features.

    `width` is the number of features that the backbone gives, `affine` what is done to them before the head: it folds
    into the head's first linear layer. `head_weights(head, features seen, affine, first layer)` are the head's weights
    {name: [1, *shape]} at the start. With `largest_level` matrices are whole levels up to that. InputError, which calls
    the head by its `name`, where the affine map finds no such layer, unless it isn't needed.
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
    layout = Layout.of({name: w[0] for name, w in (base | (of_head if learns_head else {})).items()})
    if largest_level is not None:
        layout = quantised.add_levels(layout, largest_level)
        if not layout.tops:
            raise InputError(f"{name or type(head).__name__} has no weight matrix", option="levels")
    method, of_features = heads.population_forward(head, backbone.head, (seen, len(classes)), again, note)
    return Network(
        backbone=backbone,
        build_head=build_head,
        head=head,
        layout=layout,
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
