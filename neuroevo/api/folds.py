"""Searches from Python that choose together when a last one ends, and that one: what `evolve(folds=...)` is.

They are those of a run with `validate.folds` or `validate.refit`, in a folder of the same shape, and chosen among by
the same functions (`experiments/folds.py`, `experiments/looks.py`). Without a folder of one's own it is a temporary
one.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from neuroevo import config
from neuroevo.api import folders
from neuroevo.api.arguments import Arguments
from neuroevo.api.folders import Record, Search
from neuroevo.api.results import Result, Steps
from neuroevo.config import Part
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Ending
from neuroevo.engine.observer import Observer, Observers
from neuroevo.errors import InputError, ignore
from neuroevo.experiments import looks
from neuroevo.experiments.folds import divide, heading, tell
from neuroevo.experiments.log import open_log
from neuroevo.experiments.recorders import aside
from neuroevo.experiments.reopen import concludes
from neuroevo.storage import checkpoint, claims, files, generations, rundir


class Silent(Observers):
    """Observers that hear no line about a folder that will be gone."""

    def __init__(self, observer: Observer, folder: str) -> None:
        super().__init__([observer])
        self.folder = folder

    def note(self, line: str) -> None:
        """Tell a line that doesn't name it."""
        if self.folder not in line:
            super().note(line)


def run(asked: Arguments, observer: Observer) -> Result:
    """Return what searches that choose, and the last fit, come to; nothing is written down for good."""
    with tempfile.TemporaryDirectory(prefix="neuroevo-") as place:
        asked = replace(asked, checkpoint={"every": folders.EVERY, "keep": 1})
        return go_on(asked, Path(place), Silent(observer, place))._replace(folder=None)


def resume(
    asked: Arguments, record: Record, folder: Path, observer: Observer, *, tracking: Sequence[Part] = ()
) -> Result:
    """Go on with searches that choose, of a folder that has this record."""
    asked.check()
    asked = asked.read()
    folders.agree(record_of(asked), record, folder)
    return go_on(asked, folder, observer, tracking=tracking)


def go_on(asked: Arguments, folder: Path, observer: Observer, *, tracking: Sequence[Part] = ()) -> Result:
    """Do what is left of the searches of a folder, choose by them, and do the last fit; return what it came to."""
    asked, count = asked.read(), asked.folds or 1
    of_each, of_last = share(asked)
    record = record_of(asked)
    with open_log(folder, observer, "neuroevo.evolve") as log:
        files.replace(folder / rundir.CONFIG, config.dump(record).encode())
        found: Search | None = None
        for number in range(1, count + 1):
            one = replace(asked, fold=number, budget=of_each, logistic=False)
            own = folder / rundir.FOLDS / str(number)
            if not over(own, of_each):
                log(heading(number, asked.folds))
                try:
                    found = search(one, own, observer)
                except BaseException:
                    log(f"{folder}: ended in fold {number} of {count}; go on with neuroevo.resume")
                    raise
        found = found or replace(asked, fold=1, budget=of_each).search()[0]
        merit = found.problem.merit
        choice = looks.choose(looks.places(folder, count), merit)
        for line in tell(choice, found.rules.metric, merit, asked.folds, record):
            log(line)
        files.replace(folder / rundir.FOLDS / rundir.CONFIG, config.dump(record).encode())
    last = replace(asked, ending=Ending(choice.generation, choice.candidate), budget=of_last, patience=None)
    steps = Steps(*last.search())
    folders.keep(steps.search, steps, steps.begun, folder, observer, history=[], tracking=tracking)
    return steps.result(folder)


def arguments(record: Record) -> dict[str, Any]:
    """Return the arguments that a run's record has of its searches."""
    own = record["validate"]
    last = own.get("refit")
    return {
        "folds": own.get("folds"),
        "refit": last is True,
        "ending": Ending(**last) if isinstance(last, Mapping) else None,
        "logistic": own.get("logistic", False),
    }


def record_of(asked: Arguments) -> Record:
    """Return the record of what was asked for, whose data are read."""
    assert asked.reading is not None
    return asked.record_of(asked.reading.table)


def over(folder: Path, budget: Budget) -> bool:
    """Tell whether a search is finished, with this budget: its result is of its newest checkpoint, not of before."""
    result, saved = rundir.read_result(folder), checkpoint.newest(folder / rundir.CHECKPOINTS, ignore)
    if result.get("status") != "finished":
        return False
    if saved is not None and (saved.step.stop is None or not concludes(result, saved)):
        return False
    record: Any = config.read(str(folder / rundir.CONFIG))
    return bool(record["budget"] == asdict(budget))


def search(one: Arguments, folder: Path, observer: Observer) -> Search:
    """Do what is left of one of the searches; return it."""
    steps = Steps(*one.search())
    history: checkpoint.History = []
    folder.mkdir(parents=True, exist_ok=True)
    with claims.lock(folder):
        if generations.paths(folder / rundir.CHECKPOINTS):
            record, saved = folders.read(folder, observer.note)
            folders.agree(steps.search.record, record, folder)
            if saved is not None:
                steps, history = steps.go_on(saved, observer.note, one.limits), saved.history
            aside(folder, saved, observer.note)
        folders.keep(steps.search, steps, steps.begun, folder, observer, history=history)
    return steps.search


def share(asked: Arguments) -> tuple[Budget, Budget]:
    """Return the budgets of a search and of the last fit, which share what was given; generations are each one's own.

    InputError where a share is nothing.
    """
    limits = asked.limits
    each = last = Cost(forward=1)
    if limits.counts:
        each = of_generation(replace(asked, fold=1))
        last = of_generation(replace(asked, ending=Ending(1, "")))
    try:
        of_each, of_last = divide(asdict(limits), asked.folds or 1, each, last)
    except InputError as error:
        raise InputError(str(error), option="budget") from None
    return replace(limits, **of_each), replace(limits, **of_last, target=None)


def of_generation(asked: Arguments) -> Cost:
    """Return the cost of a search's generation at most, from the second on."""
    found, _ = asked.search()
    problem, algorithm = found.problem, found.algorithm
    population = Population.new(problem.start[:1].expand(algorithm.later, -1), parents=2)
    probes = Cost() if problem.sensitivity is None else problem.sensitivity.cost(algorithm.overhead)
    return probes + problem.evaluator.cost(population, found.rules.samples, problem.evaluator.steps)
