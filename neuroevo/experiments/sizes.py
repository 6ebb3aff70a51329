"""The sizes of a run's parts, and errors where they are more than this machine has."""

import shutil
from typing import NamedTuple

from torch import Tensor, nn

from neuroevo import config, devices
from neuroevo.config import Config
from neuroevo.data.cache import cache_folder
from neuroevo.data.datasets import Dataset
from neuroevo.errors import InputError
from neuroevo.experiments import starts
from neuroevo.experiments.build import check_samples, make_head, slots
from neuroevo.experiments.costs import steps
from neuroevo.experiments.memory import amount, fits
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.spaces import Origin, lay


def check_size(c: Config, genes: int, train: int) -> None:
    """See that the parts of a run fit into memory, before any is made; InputError names the key that is too large."""
    options, own = c.algorithm.options, c.search()
    fits(
        2 * 4 * own.later * genes,
        f"algorithm.population: {own.later:,} individuals of {genes:,} genes and their children take",
    )
    parents, selection = options.get("parents"), options.get("selection")
    if isinstance(parents, int):
        fits(3 * 8 * own.later * parents, f"algorithm.parents: {parents:,} for each of {own.later:,} individuals take")
    for part in (selection, options.get("crossover"), options.get("mutation")):
        for key in ("size", "points", "rank"):
            count = part.options.get(key) if isinstance(part, config.Part) else None
            if isinstance(part, config.Part) and isinstance(count, int):
                each = (parents if isinstance(parents, int) else min(256, own.later)) if key == "size" else 1
                fits(8 * own.later * each * count, f"algorithm.{part.kind}.{key}: {count:,} for each individual take")
    r = c.refine
    if r is not None:
        drawn = steps(c, train) * min(r.batch_size, train)
        batches = own.later if r.batches == "own" else 1
        fits(8 * drawn * batches, f"refine.steps: the batches of {steps(c, train):,} steps take")
        if r.optimizer_state == "inherit":
            fits(
                (2 + slots(c)) * 4 * own.later * genes,
                f"refine.optimizer_state: what the optimizer keeps for {own.later:,} individuals takes",
            )


class Dims(NamedTuple):
    """The sizes of a run's parts."""

    stored: int  # numbers of an image that are cached
    seen: int  # features that the head sees, at most
    weights: int  # numbers that evolve
    genes: int


def dimensions(c: Config, given: tuple[Dataset, dict[str, Tensor]], backbone: Backbone) -> tuple[Dims, nn.Module]:
    """Return the sizes of a run's parts, and its head; InputError where they are larger than this machine."""
    whole, splits = given
    t = backbone.transform
    dim = t.size[0] * t.size[1] * t.channels if backbone.own_head is None else backbone.own_head.in_features
    stored = dim if backbone.cut is None else backbone.cut.width
    views = c.features.views if c.data.augment and isinstance(c.features.views, int) else 0
    rows = len(whole.labels) + views * len(splits["train"])
    size, disk = rows * stored * (4 if c.features.dtype == "float32" else 2), cache_folder()
    there = shutil.disk_usage(next(path for path in (disk, *disk.absolute().parents) if path.exists())).total
    if size > max(there, devices.total_memory()):  # a disk that is merely too small is said where it is written to
        key = "data.image_size" if views * len(splits["train"]) < len(whole.labels) else "features.views"
        raise InputError(
            f"{key}: features of {rows:,} images and views take {amount(size)}; the cache's disk has space for "
            f"{amount(there)} in all"
        )
    seen = dim
    if c.features.components is not None or c.features.whitening:  # constant features have no component: at most
        seen = min(c.features.components or dim, dim, len(splits["train"]) - 1)
    head = make_head(c, backbone, seen, len(whole.classes))
    starts.check_head(c, backbone, len(whole.classes))
    evolved = {name: backbone.body.get_parameter(name).detach() for name in backbone.trainable}
    if c.head.trainable:
        evolved |= {f"{backbone.head}.{name}": p.detach() for name, p in head.named_parameters()}
    genes = count_genes(c, evolved)
    check_size(c, genes, len(splits["train"]))
    return Dims(stored, seen, sum(p.numel() for p in evolved.values()), genes), head


def count_genes(c: Config, evolved: dict[str, Tensor]) -> int:
    """Return the genes of what evolves, {name: shape}, in a config's space."""
    weights = {name: p[None] for name, p in evolved.items()}
    around = Origin(weights, (weights,) * len(c.genome.start) if c.genome.coordinates else ())
    with config.at(space="genome.space"):
        return lay(c.genome.space.bound(), around).layout.genes


def check_search(c: Config, given: tuple[Dataset, dict[str, Tensor]], backbone: Backbone) -> None:
    """See that the largest trials of a search fit into memory; InputError names the key that is too large."""
    assert c.tune is not None
    space = c.tune.space()
    count = int(c.tune.sampler.options.get("population", 1))
    fits(count * (1024 + 64 * len(space.coordinates)), f"tune.sampler.population: {count:,} trials an iteration take")
    for name, position, keys in config.corners(space):
        sized = name.startswith(("algorithm", "head", "refine.steps", "refine.batch_size", "features"))
        if sized or name.startswith("data"):
            settings = {key: value for key, value in space.settings(position).items() if key in keys}
            try:
                check_samples(c.trial(settings), given[0])
                if sized:
                    dimensions(c.trial(settings), given, backbone)
            except InputError as error:
                raise InputError(f"tune.space.{error}") from None
    try:
        largest = c.trial(space.settings([1.0] * len(space.coordinates)))
    except InputError:  # not all that is largest goes together
        return
    dimensions(largest, given, backbone)
