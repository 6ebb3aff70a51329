"""Logits with their labels: of a run's champion on its splits, or of an .npz file that any library wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuroevo import config
from neuroevo.data.arrays import Source
from neuroevo.data.foldernames import SPLITS
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError
from neuroevo.experiments.compose import Run
from neuroevo.experiments.interruption import NEVER, Interruption
from neuroevo.experiments.reopen import open_run
from neuroevo.problems import intervals
from neuroevo.problems.supervised import exact

KEYS = ("logits", "y", "groups", "classes", "split")
WRITE = "numpy.savez(file, logits=..., y=...) writes one"


class Labelled(NamedTuple):
    """Samples that are decided on."""

    logits: Any  # [N, C]
    y: Any  # [N] int64
    groups: Any  # [N] names, or None


class Logits(NamedTuple):
    """What a decision is fitted to, and what it is scored on afterwards."""

    fitted: Labelled
    test: Labelled | None
    classes: tuple[str, ...]
    prior: Tensor | None  # [C]: the classes' shares in training, where known
    split: str  # what is fitted, in words
    run: tuple[Run, Tensor] | None = None  # with the champion's genome [g], where they are a run's


def read(place: str, observer: Observer, sets: Sequence[str] = (), *, signals: Interruption = NEVER) -> Logits:
    """Return the logits of a run's folder, or of an .npz file; InputError where they can't be had."""
    if not Path(place).is_dir() and place.lower().endswith(".npz"):
        if sets:
            raise InputError(f"--set {sets[0]}: for a run's data; {place} is a file of logits")
        with config.at(file="logits"):
            return of_file(place, observer)
    return of_run(place, observer, sets, signals=signals)


def of_run(run_dir: str, observer: Observer, sets: Sequence[str] = (), *, signals: Interruption = NEVER) -> Logits:
    """Return the logits of a run's champion on its validation split, and on its test split."""
    for text in sets:
        if text.partition("=")[0] not in ("data.root", "data.file"):
            raise InputError(f"--set {text}: a run is decided on as it is; here, only data.root, data.file can be set")
    run, step = open_run(run_dir, observer, None, sets, signals=signals)
    genome, given = step.champion.genome, run.supervised
    if run.refits:
        raise InputError(f"{run_dir}: fitted to train and validation together: nothing is left to decide by")
    groups = None
    if run.whole.groups is not None and run.features.groups is not None:
        groups = np.array(run.whole.groups.names)[run.features.groups.cpu().numpy()]

    def on(split: str) -> Labelled:
        judgement, rows = given.judgement(()), given.splits[split]
        found, targets = given.executions.fit(lambda how: intervals.logits(judgement, genome, rows, exact(how)))
        own = None if groups is None else groups[rows.cpu().numpy()]
        return Labelled(found[0].cpu(), targets.cpu() % len(run.network.classes), own)

    train = given.samples.labels.cpu()[given.splits["train"].cpu()]
    classes = tuple(run.network.classes)
    counts = torch.bincount(train, minlength=len(classes)).double().clamp(min=0.5)
    test = on("test") if len(given.splits["test"]) else None
    return Logits(on("validation"), test, classes, counts / counts.sum(), "validation", (run, genome))


def of_file(file: str, observer: Observer) -> Logits:
    """Return the logits of an .npz file: of `split` test apart, all others, or all there are, to fit."""
    source = Source(file)
    source.notes.clear()  # which are about files of samples
    lacks = [key for key in ("logits", "y") if key not in source.names]
    if lacks:
        source.refuse(f"has no {lacks[0]}; {', '.join(KEYS)} are read ({WRITE})")
    other = [name for name in source.names if name not in KEYS]
    if other:
        source.notes.append(f"{', '.join(other[:5])} left out: {', '.join(KEYS)} are read")
    logits, y = source.array("logits"), source.array("y")
    if logits.ndim != 2 or logits.dtype.kind not in "fiu" or logits.shape[1] < 2 or not len(logits):
        source.refuse(f": logits is {logits.dtype} {list(logits.shape)}; [samples, classes], of two or more, expected")
    names = source.class_names()
    if names is None and y.dtype.kind not in "US":
        names = tuple(map(str, range(logits.shape[1])))
    names, labels = (names, source.labels(len(logits), y, names)) if names else source.classes(len(logits), y)
    if len(names) != logits.shape[1]:
        source.refuse(f": logits are of {logits.shape[1]} classes, and there are {len(names)}: {', '.join(names[:8])}")
    groups = source.array("groups") if "groups" in source.names else None
    if groups is not None and (groups.shape != labels.shape or groups.dtype.kind not in "iubUS"):
        source.refuse(f": groups is {groups.dtype} {list(groups.shape)}; [{len(labels)}] numbers or names expected")
    whole = Labelled(logits, labels, groups)
    for line in source.notes:
        observer.note(line)
    if "split" not in source.names:
        return Logits(whole, None, names, None, "all samples")
    part, _ = source.splits(len(labels), source.array("split"))
    test = part == SPLITS.index("test")
    if not test.any():
        return Logits(whole, None, names, None, "all samples")
    own = part == (SPLITS.index("validation") if (part == SPLITS.index("validation")).any() else SPLITS.index("train"))
    counts = np.bincount(labels[part == SPLITS.index("train")], minlength=len(names))
    prior = torch.from_numpy(counts).double().clamp(min=0.5)
    what = "validation" if (part == SPLITS.index("validation")).any() else "train"
    return Logits(take(whole, own), take(whole, test), names, prior / prior.sum(), what)


def take(samples: Labelled, where: Any) -> Labelled:
    """Return the samples [N] bool that are taken."""
    groups = None if samples.groups is None else samples.groups[where]
    return Labelled(samples.logits[where], samples.y[where], groups)
