"""The parts that a config names, built: data set, network, head."""

import traceback
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neuroevo import caveats, config
from neuroevo.config import Config
from neuroevo.data import inventory
from neuroevo.data.arrays import Vectors
from neuroevo.data.datasets import Dataset
from neuroevo.data.identity import Identity
from neuroevo.data.splits import limit_images, split
from neuroevo.engine.rng import fork, generator
from neuroevo.errors import InputError
from neuroevo.experiments import starts
from neuroevo.experiments.memory import fits
from neuroevo.networks import backbones
from neuroevo.networks.backbones import Backbone, Native
from neuroevo.networks.quantisation import Rounding
from neuroevo.networks.weightfiles import digest
from neuroevo.networks.weights import check_finite

NETWORK = 8  # times an image's own size: what a network needs beside it, or more


def error_line(error: BaseException) -> str:
    """Return the message of an error of a user's function, and its place in the user's file."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    where = f"; {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{where}"


def make_head(c: Config, backbone: Backbone, dim: int, classes: int) -> nn.Module:
    """Build the head, its last layer zero where `head.init` says so; InputError where it can't be."""
    name = c.head.layers.name
    if ":" not in name:
        with torch.device("meta"):
            numbers = sum(p.numel() for p in c.head.layers.bound()(dim, classes).parameters())
        fits(2 * 4 * numbers, f"head: {name} of {numbers:,} numbers, and its start, take")
    with fork(generator(c.seed, "head", 0)):
        try:
            head = c.head.layers.bound()(dim, classes)
        except (Exception, SystemExit) as error:  # a user's function may fail in any way
            raise InputError(f"head: {name} can't be built ({error_line(error)})") from None
    if not isinstance(head, nn.Module):
        raise InputError(f"head: {name} returns {type(head).__name__}, not a torch module")
    if any(is_lazy(p) for p in (*head.parameters(), *head.buffers())):
        raise InputError(f"head: {name} has lazy layers; give them their sizes, features and classes")
    if not any(True for _ in head.parameters()):
        raise InputError(f"head: {name} has no parameters to evolve")
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if c.head.init == "zero":
        if not layers:
            raise InputError(f"head.init: zero needs a linear layer, and {name} has none; use default")
        if {key for key, _ in layers[-1].named_parameters()} - {"weight", "bias"}:  # a norm would divide by zero
            raise InputError(f"head.init: zero: the last linear layer of {name} is parametrized; use default")
        with torch.no_grad():
            for parameter in layers[-1].parameters():
                parameter.zero_()
    check_finite(dict(head.named_parameters()), f"head: {name}")
    return head


def dataset(c: Config) -> tuple[Dataset, dict[str, Tensor]]:
    """Return the data set that a config asks for, and its splits."""
    with config.at("data", data="data", folds="validate.folds"):
        whole: Dataset = c.data.source.bound()()
        if not isinstance(whole, Dataset):
            raise InputError(f"data: {c.data.source.name} returns {type(whole).__name__}, not a Dataset")
        check_samples(c, whole)
        if c.data.limit is not None:
            whole = limit_images(whole, c.data.limit, c.data.split_seed)
        own = c.data
        splits = split(whole, own.split_seed, own.validation, own.test, own.long_tail, fold=config.place_of(c))
    whole = replace(whole, notes=config.under("data", whole.notes, ("broken",)))
    return inventory.add_notes(whole, splits, numbered=c.data.limit is None), splits


@config.at(**config.READING)
def identify(whole: Dataset, splits: dict[str, Tensor]) -> Identity:
    """Return the identity of a run's data."""
    return Identity.of(whole, splits)


def check_samples(c: Config, whole: Dataset) -> None:
    """See that rows of numbers are given nothing that is for images; InputError names the key."""
    if not isinstance(whole.images, Vectors):
        return
    asked = {
        "data.image_size": c.data.image_size,
        "data.augment": c.data.augment,
        "backbone.channels": c.backbone.channels,
    }
    for key, value in asked.items():
        if value:
            width = whole.images.width
            raise InputError(f"{key}: {value} is for images, and x of data.file is {width:,} numbers a sample")


def check_splits(c: Config, whole: Dataset) -> None:
    """See that shares of splits have an effect; InputError names one that is given where the data bring that split."""
    for name, why in inventory.own_splits(whole).items():
        given, usual = getattr(c.data, name), type(c.data).model_fields[name].default
        if given != usual:
            raise InputError(f"data.{name}: {given} has no effect: {why}")


def check_crossover(c: Config, genes: int) -> None:
    """See that a crossover gets far in so many genes, or what selects beside it is given; InputError if neither."""
    stall = caveats.stalls(c.record(), genes)
    if stall is not None and not config.gives(c.given, "algorithm.selection"):
        raise InputError(f"algorithm.crossover: {stall}; to have it as it is, add algorithm.selection=tournament")


@config.at(**config.READING)
def build_backbone(c: Config, given: Dataset) -> Backbone:
    """Return the backbone that a run begins with, with notes on the heads that it starts from."""
    b = c.backbone
    native = given.native()
    if c.data.image_size is not None and len(native) > 1:
        channels = b.channels or native[-1]
        copies = 2 if b.name == "none" else NETWORK
        fits(
            4 * copies * channels * c.data.image_size**2,
            f"data.image_size: an image of {c.data.image_size:,} x {c.data.image_size:,} pixels takes",
        )
    found = backbone_for(c, native, None)
    return found._replace(notes=(*found.notes, *starts.lines(c, found, given.classes)))


def backbone_for(c: Config, native: Native, frozen: str | None) -> Backbone:
    """Return the backbone that a config asks for; `native` is the size of the data set's samples.

    `frozen` is the hash that a checkpoint has of its frozen weights: InputError where they are others now. A file of
    `backbone.transfer` isn't needed again where all that it gave evolved.
    """
    b, transfer, missing = c.backbone, [], []
    for i, entry in enumerate(b.transfer):
        try:
            transfer.append((starts.weights_file(entry.source, f"backbone.transfer.{i}.from"), entry.parts))
        except InputError as error:
            if frozen is None:
                raise
            missing.append(str(error))
    rounding = None if b.quantise is None else Rounding(**b.quantise.model_dump())
    places = {key: f"backbone.quantise.{key}" for key in ("bits", "parts")}
    with config.at("backbone", image_size="data.image_size", **places):
        found = backbones.build(
            b.name,
            b.weights,
            c.data.image_size,
            native,
            channels=b.channels,
            trainable=b.trainable,
            transfer=transfer,
            rounding=rounding,
            file=b.file,
            normalise=None if b.mean is None or b.std is None else (b.mean, b.std),
        )
    found = found._replace(notes=config.under("backbone", found.notes, ("weights", "transfer")))
    if c.genome.coordinates:  # around which they are, for ever
        found = found._replace(frozen=digest(found.body.state_dict()))
    if missing and found.frozen != frozen:
        raise InputError(missing[0])
    same_weights(found, frozen, c)
    return found


def same_weights(backbone: Backbone, frozen: str | None, c: Config) -> None:
    """See that a backbone's frozen weights are those that a checkpoint has the hash of; InputError if not."""
    if frozen is not None and backbone.frozen != frozen:
        place = f"weights: {c.backbone.weights}" if c.backbone.file is None else f"file: {c.backbone.file}"
        raise InputError(f"backbone.{place}: the frozen weights of {backbone.name} aren't those that the run was of")


def slots(c: Config) -> int:
    """Return the number of numbers that the optimizer keeps for each gene."""
    return 0 if c.refine is None else len(c.refine.optimizer.bound()().slots)
