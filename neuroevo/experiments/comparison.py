"""What is taken away of a run, scored beside its champion: on validation, and on test once; kept in the result."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from neuroevo.engine.loop import Step
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError
from neuroevo.experiments.compose import Run
from neuroevo.experiments.selection import Choice
from neuroevo.networks.weightfiles import digest
from neuroevo.problems import mixtures
from neuroevo.problems.mixtures import Judge
from neuroevo.problems.supervised import Supervised
from neuroevo.storage import claims, rundir

SELECTIONS = "selections"  # of a result
IDENTITY = ("genomes", "temperature", "generation")  # by which two of them are the same network


class Compared(NamedTuple):
    """What a result says of what is taken away."""

    name: str  # in the result
    entry: dict[str, Any]
    champion: dict[str, Any]  # {} where there is no result


class Place(NamedTuple):
    """What is compared, where."""

    run: Run  # open with its data
    step: Step
    folder: Path


def name_of(asked: str, temperature: float | None) -> str:
    """Return what a result calls what is taken away."""
    return asked if temperature is None else f"{asked} with temperature"


def calibrate(of: Supervised, genomes: Sequence[Tensor]) -> float:
    """Return the temperature that makes the validation labels likeliest by the mean of genomes' logits."""
    judge = Judge(of, of.splits["validation"])
    logits, targets = judge.mean(genomes)
    return mixtures.fit_temperature(logits, targets % judge.classes)


def validate(of: Supervised, genomes: Sequence[Tensor], temperature: float | None) -> dict[str, float]:
    """Score a genome, or the mean of several's logits, on validation; what changes weights by logits alone."""
    if len(genomes) == 1 and temperature is None:
        return of.validate(genomes[0][None])[0][0]
    judge = Judge(of, of.splits["validation"])
    logits, targets = judge.mean(genomes)
    return judge.scores(logits / (temperature or 1.0), targets)


def test(of: Supervised, genomes: Sequence[Tensor], temperature: float | None) -> dict[str, Any]:
    """Score a genome, or the mean of several's logits, on test, with intervals."""
    rows = of.splits["test"]
    if len(genomes) == 1 and temperature is None:
        return of.test(genomes[0], rows).scores
    judge = Judge(of, rows)
    logits, targets = judge.mean(genomes)
    return judge.with_intervals(logits / (temperature or 1.0), targets)


def compare(asked: str, choice: Choice, temperature: float | None, place: Place, observer: Observer) -> Compared:
    """Return the scores of what is taken away, and keep them in the run's result, where there is one of this step.

    On test it is scored once, where the champion has been: asked for again, what was found is told again.
    """
    run, step, folder = place
    name, of = name_of(asked, temperature), run.supervised
    sha = digest({str(i): genome for i, genome in enumerate(choice.genomes)})
    entry: dict[str, Any] = {
        "about": choice.about,
        "generation": step.generation,
        "members": len(choice.genomes),
        "temperature": temperature,
        "genomes": sha,
    }
    with ExitStack() as held:
        try:
            held.enter_context(claims.lock(folder))
        except InputError as error:
            observer.note(f"{name} is not scored on test, nor in {rundir.RESULT}: {error}")
            return Compared(name, entry | {"validation": validate(of, choice.genomes, temperature)}, {})
        result = rundir.read_result(folder)
        if result.get("generations") != step.generation or "champion" not in result:
            observer.note(f"{folder}: has no result of generation {step.generation}; {name} is not in it")
            return Compared(name, entry | {"validation": validate(of, choice.genomes, temperature)}, {})
        kept = result.get(SELECTIONS, {})
        same = [each for each in kept.values() if all(each.get(key) == entry[key] for key in IDENTITY)]
        if same and name in kept and kept[name] in same:
            return Compared(name, kept[name], result["champion"])
        entry["validation"] = validate(of, choice.genomes, temperature)
        passes = choice.looks + len(choice.genomes)
        entry["cost"] = {"validation_samples": passes * len(of.splits["validation"])}
        tested, looks = result["champion"].get("test"), 0
        if tested is not None:  # another look is taken at what none was taken at yet
            found = [tested] if sha == digest({"0": step.champion.genome}) and temperature is None else []
            found += [each["test"] for each in same if "test" in each]
            looks = not found
            entry["test"] = found[0] if found else test(of, choice.genomes, temperature)
        result[SELECTIONS] = kept | {name: entry}
        result["test_scored"] = result.get("test_scored", 0) + looks
        rundir.write_result(folder, result)
        return Compared(name, entry, result["champion"])
