"""A run's network as a plain file: the library's own network with the evolved head in its place, folded."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from neuroevo import config
from neuroevo.engine.loop import Step
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError
from neuroevo.experiments import card, comparison, formats, reopen, selection
from neuroevo.experiments.comparison import Compared, Place
from neuroevo.experiments.compose import Run
from neuroevo.experiments.formats import Normalise
from neuroevo.experiments.interruption import NEVER, Interruption
from neuroevo.experiments.selection import Choice, Selection
from neuroevo.networks import backbones, ensembles
from neuroevo.networks.ensembles import Taken
from neuroevo.networks.libraries import Transform
from neuroevo.storage import files, rundir

HALVED = 2.0  # a temperature


class Exported(NamedTuple):
    """What was written."""

    line: str  # about the file
    compared: Compared | None  # with the champion, where it was scored


class Opened(NamedTuple):
    """A run, and what is taken of it."""

    run: Run
    choice: Choice
    step: Step | None  # where the run's data are there


def network(
    run_dir: str, select: str = "champion", observer: Observer | None = None, *, signals: Interruption = NEVER
) -> tuple[nn.Module, Run]:
    """Return what is taken of a run as a network, inputs (normalised images, or rows [B, d]) to logits [B, C].

    And the run's parts. Where validation doesn't choose it the run's data aren't needed: the parts have no image then.
    """
    found = open_choice(run_dir, selection.read(select), observer or Observer(), False, signals)
    return ensembles.take(found.run.network, found.choice.genomes).network, found.run


def open_choice(run_dir: str, asked: Selection, observer: Observer, temperature: bool, signals: Interruption) -> Opened:
    """Return the parts of a run and what is asked for of it, with its data where they are needed or can be compared."""
    needed = f"{selection.OPTION} {asked}" if asked.validates else "--temperature" if temperature else None
    if needed is not None or asked.compares:
        reopen.read_run(run_dir, Observer(), asked.take())  # what is wrong with the folder is said as it is
        try:
            run, step = reopen.open_run(run_dir, observer, asked.take(), signals=signals)
        except InputError as error:
            if needed is not None:
                raise InputError(f"{needed} needs the run's data, which can't be had: {error}") from None
            observer.note(f"{asked} is not scored, since the run's data can't be had: {error}")
        else:
            return Opened(run, selection.choose(asked, run, step, Path(run_dir), observer, signals=signals), step)
    run, champion = reopen.rebuild(run_dir, observer, asked.take(), signals=signals)
    return Opened(run, Choice((champion.genome,), selection.describe(champion.kind, champion.generation)), None)


def export(
    run_dir: str,
    format: str | None,
    out: str,
    select: str = "champion",
    observer: Observer | None = None,
    *,
    temperature: bool = False,
    with_transform: bool = False,
    signals: Interruption = NEVER,
) -> Exported:
    """Write what is taken of a run as a state dict (`safetensors`, `pt`) or graph (`onnx`).

    The file's suffix says which, where `format` is None; beside safetensors there is a model card. With `temperature`
    logits are divided by one that is fitted on validation; `with_transform` has a graph take pixels in [0, 1]. What
    validation chooses, a mean and a temperature are scored beside the champion, in the run's result, where the run's
    data are there.
    """
    watch, path, asked = observer or Observer(), Path(out), selection.read(select)
    format = formats.choose_format(format, path)
    check(run_dir, path, format, with_transform)
    with config.at(temperature="--temperature", logits=f"{selection.OPTION} {asked}", genomes=selection.OPTION):
        found = open_choice(run_dir, asked, watch, temperature, signals)
        run, genomes = found.run, found.choice.genomes
        t, inputs = run.network.backbone.transform, run.network.backbone.inputs
        if with_transform and (inputs is not None or run.network.backbone.name == backbones.ONNX):
            what = "rows of numbers have none" if inputs is not None else "an ONNX file is written as it is"
            raise InputError(f"--with-transform: {what}")
        degrees = None
        if temperature:
            ensembles.take(run.network, genomes, HALVED)  # whether one can be folded in is said before any is fitted
            degrees = comparison.calibrate(run.supervised, genomes)
        taken = ensembles.take(run.network, genomes, degrees or 1.0)
    about: dict[str, Any] = {"backbone": run.network.backbone.name, "classes": run.network.classes}
    about |= {"transform": t._asdict()} if inputs is None else {"inputs": inputs}
    about |= {"select": str(asked), "is": found.choice.about, "members": taken.members, "temperature": degrees}
    content = to_bytes(taken, format, about, with_transform)
    compared = None
    if found.step is not None and (asked.compares or degrees is not None):
        place = Place(run, found.step, Path(run_dir))
        compared = comparison.compare(str(asked), found.choice, degrees, place, watch)
    files.replace(path, content)
    if format == "safetensors":
        files.replace(card.place(path), card.write(subject(path, run, about, Path(run_dir), compared)).encode())
    shape = f"inputs {t.size[0]} x {t.size[1]}, mean {t.mean}, std {t.std}"
    if with_transform:
        shape = f"inputs {t.size[0]} x {t.size[1]}, pixels in [0, 1]"
    if inputs is not None:
        shape = f"inputs of {inputs:,} numbers, as they are in x"
    line = f"{path}: {run.network.backbone.name} with {len(run.network.classes)} classes; {shape}"
    return Exported(line if str(asked) == "champion" else f"{line}; {found.choice.about}", compared)


def check(run_dir: str, path: Path, format: str, with_transform: bool) -> None:
    """See that a file can be written in a format; InputError if not."""
    if not path.parent.is_dir():
        raise InputError(f"--out: no folder {path.parent}")
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"--out: {path} is there and is no file")
    if with_transform and format != "onnx":
        raise InputError(f"--with-transform: only a graph (onnx) has one inside; {format} holds weights")
    formats.check_libraries(format)
    rundir.refuse_inside(run_dir, str(path))
    if format == "safetensors":
        card.check(path)


def to_bytes(taken: Taken, format: str, about: Mapping[str, Any], with_transform: bool) -> bytes:
    """Return what is taken of a run as the content of a file."""
    if format != "onnx":
        return formats.weights(taken.state, format, about)
    t = about.get("transform")
    if t is None:
        return formats.graph(taken.network, about, (about["inputs"],), "inputs")
    sample = (t["channels"], *t["size"])
    if with_transform:
        return formats.graph(Normalise(taken.network, Transform(**t)).eval(), about, sample, "pixels")
    return formats.graph(taken.network, about, sample, "images")


def subject(path: Path, run: Run, about: Mapping[str, Any], folder: Path, compared: Compared | None) -> card.Subject:
    """Return what a file's card is about: scores are those of what is in it, where they are known."""
    result = rundir.read_result(folder)
    champion, scores = result.get("champion", {}), {}
    if compared is not None:
        scores = compared.entry
    elif champion and about["is"] == selection.describe(champion["kind"], champion["generation"]):
        scores = champion
    return card.Subject(path, run.config, run.network, about, result, scores, result.get("cost", {}))
