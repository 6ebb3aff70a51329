"""What a run learns from: cached features, and the affine map before the head."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from neuroevo import config
from neuroevo.config import Config
from neuroevo.data import components, feature_cache
from neuroevo.data.augment import BATCH, Augment, Live
from neuroevo.data.datasets import Dataset
from neuroevo.data.samples import Features, together
from neuroevo.errors import InputError, ignore
from neuroevo.experiments import starts
from neuroevo.learning.task import Weights
from neuroevo.networks import deep
from neuroevo.networks.affine import Affine, Projection, Standardise
from neuroevo.networks.backbones import Backbone

SCALED_BY = 8192  # train images at most by which what precedes an evolved head is standardised


def augmenting(c: Config, backbone: Backbone) -> Augment | None:
    """Return what makes the views of train images, None where there are none; InputError where it can't be."""
    with config.at("data"):
        return Augment(c.data.augment, backbone.transform.size) if c.data.augment else None


@config.at(**config.READING)
def cache(
    c: Config,
    whole: Dataset,
    splits: dict[str, Tensor],
    backbone: Backbone,
    *,
    device: torch.device,
    images: Callable[[int, int], None],
    log: Callable[[str], None] = ignore,
) -> tuple[Features, int]:
    """Return the features of a run's images and of their views, and how many images the backbone was given for them."""
    augment = augmenting(c, backbone)
    rows, computed = feature_cache.fetch(backbone, whole, device, images, dtype=c.features.dtype, log=log)
    pieces, taken, live = [rows], [whole], None
    if augment is not None and c.features.views == "live":
        live = Live(backbone, whole, augment, device)
    elif augment is not None and c.features.views != "live":
        train = whole.take(splits["train"].numpy())
        for view in range(c.features.views):
            piece, more = feature_cache.fetch(
                backbone, train, device, images, dtype=c.features.dtype, augment=augment, view=view, log=log
            )
            pieces.append(piece)
            taken.append(train)
            computed += more
    labels = torch.cat([torch.from_numpy(each.labels) for each in taken]).to(device)
    groups = None
    if whole.groups is not None:
        groups = torch.cat([torch.from_numpy(each.groups.of) for each in taken if each.groups is not None]).to(device)
    return Features(together(pieces), labels, None, device, live, groups), computed


def remedy(c: Config) -> str:
    """Return what to do about features that are infinite, if there is something."""
    return "; they may be beyond float16: give features.dtype float32" if c.features.dtype == "float16" else ""


def centres(c: Config) -> bool:
    """Tell whether features are centred and no more: that folds into biases, and leaves levels as they are."""
    return c.genome.levels is not None


def scaling(
    c: Config,
    backbone: Backbone,
    cached: Features,
    train: Tensor,
    *,
    saved: Weights,
    log: Callable[[str], None],
) -> Affine | None:
    """Return the scale of what the head is given, by the network as it starts out, or as a checkpoint has it.

    InputError where frozen features are the same for all train samples.
    """
    asked, noun = c.features, "images" if backbone.inputs is None else "samples"
    if not saved and backbone.cut is None and not components.vary(cached.pieces[0], train):
        raise InputError(f"features: the same for all {len(train):,} train {noun}: there is nothing to learn from")
    if not asked.standardise and asked.components is None and not asked.whitening and not centres(c):
        return None
    if saved:
        own = {name: value.to(cached.device) for name, value in saved.items()}
        kind = Projection if "axes" in own else Standardise
        if own.keys() != {*kind._fields}:
            raise InputError(f"the checkpoint's features have {', '.join(own)}; {', '.join(kind._fields)} expected")
        found = kind(**own)
        check_scale(found, cached.dim if backbone.cut is None else starts.own_head(backbone).in_features)
        return found
    if backbone.cut is None:
        rows, index = cached.pieces[0], train
    else:
        some = train[torch.linspace(0, len(train) - 1, min(len(train), SCALED_BY)).long()]
        with torch.inference_mode():
            parts = [deep.features(backbone.cut, cached.batch(rows)[0]) for rows in some.split(BATCH)]
        rows, index = torch.cat(parts), torch.arange(len(some))
    standard = standardise(c, rows, index, cached.device)
    if asked.components is None and not asked.whitening:
        return standard
    axes, deviations = components.principal(rows, index, standard, of_network(backbone), log)
    if len(deviations) < (asked.components or 0):
        log(f"features.components: {len(deviations)}, for the train {noun} have no more")
    return components.projection(axes, deviations, standard, asked.components, asked.whitening or 0.0)


def check_scale(scale: Affine, d: int) -> None:
    """Raise InputError where a checkpoint's scale is none of features [N, d]."""
    right = {"mean": (d,), "std": (d,)} if isinstance(scale, Standardise) else {"mean": (d,), "axes": (d, None)}
    for name, shape in right.items():
        tensor: Tensor = getattr(scale, name)
        fits = len(shape) == tensor.ndim and all(b in (None, a) for a, b in zip(tensor.shape, shape, strict=True))
        if not fits or tensor.dtype != torch.float32:
            raise InputError(f"the checkpoint's features have {name} of shape {tuple(tensor.shape)}, {tensor.dtype}")


def standardise(c: Config, rows: Tensor, index: Tensor, device: torch.device) -> Standardise:
    """Return the scale of the rows `index`, their mean alone where no more is asked for; InputError for NaN or Inf."""
    found = components.statistics(rows, index)
    if not bool((found.mean + found.std).isfinite().all()):
        raise InputError(f"features: some of the train images' are NaN or infinite{remedy(c)}")
    standard = Standardise(found.mean.to(device).clone(), found.std.to(device).clone())
    return standard if c.features.standardise else standard._replace(std=torch.ones_like(standard.std))


def of_network(backbone: Backbone) -> str:
    """Return what tells a network's principal components from another's."""
    return f"{backbone.name} {backbone.digest}"


@dataclass(frozen=True)
class Sources:
    """What runs on one data set, backbone and kind of features share."""

    device: torch.device
    given: tuple[Dataset, dict[str, Tensor]]
    backbone: Backbone
    features: Features  # as the network gives them to what evolves
    scale: Affine | None  # of what the head is given
    computed: int  # images that went through the backbone just now

    @cached_property
    def through_affine(self) -> Features:
        """The features as a head alone sees them."""
        return self.features if self.scale is None else self.features.through(self.scale)


def sources(
    c: Config,
    device: torch.device,
    given: tuple[Dataset, dict[str, Tensor]],
    backbone: Backbone,
    *,
    images: Callable[[int, int], None],
    log: Callable[[str], None],
    scale: Weights | None = None,
) -> Sources:
    """Return what a run learns from, computing features where they aren't cached; `scale` is a checkpoint's."""
    backbone.to(device)
    cached, computed = cache(c, *given, backbone, device=device, images=images, log=log)
    scaled = scaling(c, backbone, cached, given[1]["train"], saved=scale or {}, log=log)
    return Sources(device, given, backbone, cached, scaled, computed)
