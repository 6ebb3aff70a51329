"""What a search from Python comes to, and the steps on its way there."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from neuroevo.api import folders, notebook
from neuroevo.api.folders import Search
from neuroevo.caveats import WARNING
from neuroevo.engine import loop
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Step
from neuroevo.errors import ignore
from neuroevo.storage import rundir
from neuroevo.storage.checkpoint import Checkpoint


class Result(NamedTuple):
    """What a search came to."""

    genome: Tensor  # [g]: the champion's
    fitness: float  # its own, the higher the better; on the validation split where there are data
    validation: dict[str, float]  # all that it was found to be worth there, as reported, or that the function returned
    test: dict[str, Any] | None  # of data with a test split: metrics with `interval`s, and how many `images`
    model: nn.Module | None  # a copy of the module with the champion's weights, where a module was evolved
    classes: tuple[str, ...]  # of the logits, where there are data
    generation: int  # in which it was found; 0: the start
    history: list[dict[str, float | None]]  # a line a generation
    population: Population  # the last
    cost: Cost
    seconds: float
    stop_reason: str  # which limit ended it; left, where none did
    folder: Path | None = None  # of a run that was written down
    constraints: dict[str, dict[str, Any]] | None = None  # how it keeps to each on validation; None: there are none
    folds: dict[str, Any] | None = None  # by what searches a last fit's end was chosen; None: there were none
    logistic: dict[str, Any] | None = None  # the logistic regression beside a linear head's champion, if asked for

    @property
    def metrics(self) -> dict[str, float]:
        """What the champion was found to be worth."""
        return self.validation

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        rows: list[tuple[str, object]] = [
            *notebook.scores("validation" if self.test is not None else "found", self.validation),
            *notebook.scores("test", self.test or {}),
            *notebook.scores("logistic regression, test", (self.logistic or {}).get("test", {})),
            ("champion", f"of generation {self.generation:,}, {len(self.genome):,} genes"),
            ("stopped by", f"{self.stop_reason}, after {len(self.history):,} generations"),
            ("forward samples", self.cost.forward),
            ("seconds", f"{self.seconds:.1f}"),
            *([("folder", self.folder)] if self.folder is not None else []),
        ]
        best = [line.get("fitness_best") for line in self.history]
        return notebook.page("neuroevo: what a search came to", rows, ("best fitness", best))


class Steps(Iterator[Step]):
    """A search that goes on for a generation whenever it is asked for the next step."""

    def __init__(self, search: Search, begun: Step, history: Sequence[dict[str, float | None]] = ()) -> None:
        self.search, self.rules, self.begun = search, search.rules, begun
        self._last, self._history = begun, list(history)
        self._steps = loop.evolve(
            search.problem, search.algorithm, search.rules, begun, device=search.home, clock=time.monotonic
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        self._last = next(self._steps)
        self._history.append(self._last.record)
        return self._last

    def go_on(self, saved: Checkpoint, note: Callable[[str], None], budget: Budget | None) -> "Steps":
        """Return the steps after a checkpoint of the same search, with a larger `budget` beyond its end."""
        return Steps(self.search, folders.restore(self.search, saved, note, budget), saved.history)

    def result(self, folder: Path | None = None, note: Callable[[str], None] = ignore) -> Result:
        """Return what the search has come to; the champion is scored on the test split here, and nowhere else.

        `folder` is that of a run that was written down; `note` is told what a reader must know.
        """
        search, step = self.search, self._last
        champion, tested = step.champion, search.test(step.champion.genome)
        written: Mapping[str, Any] = {} if folder is None else rundir.read_result(folder)
        folds = written.get("folds")
        validation = champion.validation if folds is None else folds["validation"]
        beside = written.get("baseline", {})
        if folder is None:
            beside, lines = search.compare(validation, note)
            for line in lines:
                note(f"{WARNING}{line}")
        return Result(
            genome=champion.genome,
            fitness=search.score(champion._replace(validation=validation)),
            validation=validation,
            test=None if tested is None else tested.scores,
            model=search.module(champion.genome),
            classes=search.classes,
            generation=champion.generation,
            history=list(self._history),
            population=step.population,
            cost=step.cost + (Cost() if folds is None else Cost.from_record(folds["cost"])),
            seconds=step.seconds + (0.0 if folds is None else folds["cost"]["seconds"]),
            stop_reason=step.stop or "left",
            folder=folder,
            constraints=search.constraints_on(champion.genome) or None,
            folds=folds,
            logistic=beside.get("logistic"),
        )
