"""Looks of a search at validation: candidates' figures and logits, kept so that several searches can choose together.

A look is written before the checkpoint of its generation, so that a run that goes on from one has all before it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo.engine.loop import Champion, Ending, Step
from neuroevo.engine.observer import Observer
from neuroevo.engine.problem import Merit
from neuroevo.errors import InputError
from neuroevo.experiments.recorders import make_folder
from neuroevo.networks import weightfiles
from neuroevo.problems import intervals
from neuroevo.problems.metric import OfGenome, OfModule
from neuroevo.problems.scoring import Judgement
from neuroevo.problems.supervised import Supervised
from neuroevo.storage import files, rundir

Figures = dict[str, float]


class Keeper(Observer):
    """Writes what candidates were found to be worth on validation, at each look."""

    def __init__(self, of: Supervised, folder: Path) -> None:
        self.of, self.folder = of, folder / rundir.LOOKS
        make_folder(self.folder)

    def generation(self, step: Step) -> None:
        """Write a look."""
        if step.looks:
            self.write(step.generation, step.looks)

    def write(self, generation: int, looks: Sequence[Champion]) -> None:
        """Write the candidates of a generation: figures in the note, logits [N, C] and labels [N] as tensors."""
        (_, judgement), rows = judge(self.of), self.of.splits["validation"]
        state: dict[str, Tensor] = {}
        for one in looks:
            logits, targets = self.of.logits_of(judgement, one.genome, rows)
            state |= {f"logits/{one.kind}": logits[0], "labels": targets}
        about = {"figures": {one.kind: one.validation for one in looks}}
        files.replace(place(self.folder, generation), weightfiles.seal(state, about))


def place(folder: Path, generation: int) -> Path:
    """Return the file of a look."""
    return folder / f"generation-{generation:06d}.safetensors"


class Choice(NamedTuple):
    """When to stop and whom to take, by several searches together."""

    generation: int
    candidate: str
    validation: Figures  # the mean over searches
    each: list[Figures]  # of each search
    start: Figures  # the mean of what they started from
    looks: int  # among so many means it was chosen


def choose(folders: Sequence[Path], merit: Merit) -> Choice:
    """Return the look that is best in the mean over searches, of those that all of them have; the earliest if equal.

    InputError where looks are damaged, or none is common to all.
    """
    found = [read(folder) for folder in folders]
    common = sorted(set.intersection(*({*own} for own in found)) - {0})
    best: tuple[tuple[float, ...], Choice] | None = None
    start = mean([own[0]["start"] for own in found])
    count = 0
    for generation in common:
        kinds = [kind for kind in found[0][generation] if all(kind in own[generation] for own in found)]
        for kind in kinds:
            each = [own[generation][kind] for own in found]
            value = merit(mean(each))
            count += 1
            if best is None or value > best[0]:
                best = value, Choice(generation, kind, mean(each), each, start, 0)
    if best is None:
        raise InputError(f"{folders[0].parent}: no generation was validated in all of them by one kind of candidate")
    return best[1]._replace(looks=count)


def read(folder: Path) -> dict[int, dict[str, Figures]]:
    """Return the figures of each look of a search, by generation and kind; InputError where one is damaged."""
    paths = sorted((folder / rundir.LOOKS).glob("generation-*.safetensors"))
    if not paths:
        raise InputError(f"{folder / rundir.LOOKS}: no look at validation is there")
    return {int(path.stem.partition("-")[2]): weightfiles.read_safetensors(path)[1]["figures"] for path in paths}


def mean(figures: Sequence[Mapping[str, float]]) -> Figures:
    """Return the mean of each figure."""
    return {name: sum(one[name] for one in figures) / len(figures) for name in figures[0]}


def pool(folders: Sequence[Path], choice: Choice, of: Supervised) -> dict[str, Any]:
    """Return the metrics of logits on all samples that searches were validated on, each predicted by another search.

    With their 95 % intervals, as a test's are.
    """
    files_ = [weightfiles.read_safetensors(place(folder / rundir.LOOKS, choice.generation))[0] for folder in folders]
    logits = torch.cat([state[f"logits/{choice.candidate}"] for state in files_])[None].to(of.network.device)
    labels = torch.cat([state["labels"] for state in files_]).to(of.network.device)
    names, judgement = judge(of)
    return intervals.with_intervals(logits, labels, dict(zip(names, judgement.metrics, strict=True)))


def places(folder: Path, count: int) -> list[Path]:
    """Return the folders of so many searches of a run's folder."""
    return [folder / rundir.FOLDS / str(number) for number in range(1, count + 1)]


def summarise(folder: Path, count: int, last: Ending | None, of: Supervised) -> dict[str, Any]:
    """Return what a result says of so many searches, which chose the `last` generation of a run and its champion.

    {} where its config alone says how it ends. InputError where what they left is damaged.
    """
    if last is None or not (folder / rundir.FOLDS).is_dir():
        return {}
    own = places(folder, count)
    choice = choose(own, of.merit)
    if (choice.generation, choice.candidate) != (last.generation, last.candidate):
        raise InputError(f"{folder / rundir.FOLDS}: of other searches: they chose generation {choice.generation}")
    results = [rundir.read_result(each) for each in own]
    if not all(results):
        raise InputError(f"{folder / rundir.FOLDS}: a search's {rundir.RESULT} is damaged")
    costs = [result["cost"] for result in results]
    found = pool(own, choice, of)
    return {
        "count": len(own),
        "generation": choice.generation,
        "candidate": choice.candidate,
        "looks": choice.looks,
        "validation": choice.validation,
        "interval": found["interval"],
        "images": found["images"],
        "each": choice.each,
        "start": choice.start,
        "cost": {key: sum(cost[key] for cost in costs) for key in costs[0]},
    }


def judge(of: Supervised) -> tuple[list[str], Judgement]:
    """Return the metrics of logits by name, and how genomes are judged by them."""
    metrics = {name: metric for name, metric in of.metrics.items() if not isinstance(metric, OfGenome | OfModule)}
    return [*metrics], of.judgement(metrics.values())
