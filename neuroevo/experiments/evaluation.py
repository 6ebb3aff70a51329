"""A run's champion scored again, on its test split or on other samples."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo import config
from neuroevo.data import datasets, feature_cache
from neuroevo.data.datasets import Dataset
from neuroevo.data.images import Files
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError
from neuroevo.experiments.compose import Run
from neuroevo.experiments.interruption import NEVER, Interruption
from neuroevo.experiments.log import watch_prefix
from neuroevo.experiments.reopen import member_of, open_run, rebuild
from neuroevo.problems.intervals import Tested


class Evaluation(NamedTuple):
    """What a champion was found to be worth, sample by sample."""

    tested: Tested
    classes: tuple[str, ...]
    noun: str  # for the samples
    places: Sequence[str | int]  # [N]: of each sample, its image's file, or its row in the data set

    def predictions(self) -> Iterator[tuple[str | int, str, str, float]]:
        """Yield the place of each sample, its class, the class that is predicted, and the probability of that."""
        _, labels, predicted, shares, _ = self.tested.predictions
        rows = zip(labels.tolist(), predicted.tolist(), shares.tolist(), strict=True)
        for place, (true, said, share) in zip(self.places, rows, strict=True):
            yield place, self.classes[true], self.classes[said], share


def evaluate(
    run_dir: str,
    root: str | None,
    observer: Observer,
    member: int | None = None,
    sets: Sequence[str] = (),
    *,
    signals: Interruption = NEVER,
) -> Evaluation:
    """Score a run's champion, or a member of its front, on its test split, or on class folders or an .npz file, `root`.

    `sets` are settings of how samples are read: `data.root` or `data.file` of the run's own, `data.broken` and
    `data.max_pixels`.
    """
    own = ("data.root", "data.file") if root is None else ()
    keys = (*own, "data.broken", "data.max_pixels")
    for text in sets:
        if text.partition("=")[0] not in keys:
            raise InputError(f"--set {text}: a run is scored as it is; here, only {', '.join(keys)} can be set")
    take = None if member is None else member_of(member)
    if root is None:
        run, step = open_run(run_dir, observer, take, sets, signals=signals)
        rows = run.supervised.splits["test"]
        tested = run.supervised.test(step.champion.genome, rows)
        return Evaluation(tested, run.network.classes, run.whole.noun, places(run.whole, rows))
    run, champion = rebuild(run_dir, observer, take, signals=signals)
    with config.at(root="--data", file="--data", **config.READING):
        other = read_samples(run, root, sets)
    for line in config.under("data", other.notes, ("broken",)):
        observer.note(line)
    with signals, config.at(**config.READING):
        c, show = run.config, watch_prefix(observer, signals)
        features, _ = feature_cache.fetch(
            run.network.backbone, other, run.device, show, dtype=c.features.dtype, log=observer.note
        )
    labels = torch.from_numpy(other.labels).to(run.device)
    groups = None if other.groups is None else torch.from_numpy(other.groups.of).to(run.device)
    of = run.supervised.of_groups(() if other.groups is None else other.groups.names)
    rows = torch.arange(len(labels))
    tested = of.test(champion.genome, rows, run.view_others(features, labels, groups))
    return Evaluation(tested, run.network.classes, other.noun, places(other, rows))


def places(data: Dataset, rows: Tensor) -> Sequence[str | int]:
    """Return where samples are: the files of images, else the rows themselves."""
    found: list[int] = rows.tolist()
    return [data.images.paths[row] for row in found] if isinstance(data.images, Files) else found


def read_samples(run: Run, root: str, sets: Sequence[str]) -> Dataset:
    """Return labelled samples other than a run's own, of its kind: in class folders, or in an .npz file."""
    inputs = run.network.backbone.inputs
    if inputs is None and not root.endswith(".npz"):
        groups = bool(run.config.data.source.options.get("groups"))
        return datasets.read_others(root, run.network.classes, groups=groups, **reading(sets))
    if sets:
        raise InputError(f"--set {sets[0]}: for class folders; {root} is read as an .npz file")
    found = datasets.arrays_of_classes(root, run.network.classes)
    native = found.native()
    width = native[0] if len(native) == 1 else None
    if width != inputs:
        there, here = (f"{n:,} numbers a sample" if n else "images" for n in (width, inputs))
        raise InputError(f"--data: {root} has {there}; the run is of {here}")
    return found


def reading(sets: Sequence[str]) -> dict[str, Any]:
    """Return the options of `labelled` that settings `data.KEY=value` give, checked as an image folder's are."""
    given = config.override({}, sets, lambda line: None).get("data", {})
    checked = config.part("data", {"name": "image_folder", "root": "", **given}, "data").options
    return {key: checked[key] for key in given}
