"""What a run keeps as it goes: history, checkpoints, config."""

import json
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import torch

from neuroevo.config import Config
from neuroevo.engine.evaluator import Evaluated
from neuroevo.engine.execution import Executions
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.observer import Observer
from neuroevo.engine.problem import Problem
from neuroevo.engine.rng import Context
from neuroevo.errors import RunError
from neuroevo.storage import checkpoint, files, generations, rundir
from neuroevo.storage.writer import Writer


def make_folder(folder: Path) -> None:
    """Make a folder within a run's; RunError where that can't be."""
    try:
        files.make_folder(folder)
    except OSError as error:
        raise RunError(f"{folder}: not made ({error.strerror})") from error


def aside(folder: Path, saved: checkpoint.Checkpoint | None, log: Callable[[str], None]) -> None:
    """Rename the checkpoints that were passed over for the one that is gone on from, so that they count no more."""
    for path in generations.put_aside(folder / rundir.CHECKPOINTS, None if saved is None else saved.path):
        log(f"{path}: set aside under this name")


def settle(c: Config, folder: Path, writer: Writer, step: Step, history: checkpoint.History, *, changed: bool) -> None:
    """Write the config that a run goes on with: into config.yaml, and if it has `changed` into its checkpoint first."""
    if changed:
        writer.submit(step, history)
        writer.wait()
    text = c.to_yaml().encode()
    if files.content(folder / rundir.CONFIG) != text:
        files.replace(folder / rundir.CONFIG, text)


def once(problem: Problem, first: Callable[[], None]) -> Problem:
    """Return a problem that calls `first` before it develops its first population: the budget has room for it."""
    evaluator, left = problem.evaluator, [first]

    def evaluate(population: Population, index: torch.Tensor, context: Context) -> Evaluated:
        while left:
            left.pop()()
        return evaluator.evaluate(population, index, context)

    return problem._replace(evaluator=evaluator._replace(evaluate=evaluate))


class Recorder(Observer):
    """Keeps a run's history, that of each island, its lineage if asked to, and its checkpoints."""

    def __init__(
        self, folder: Path, writer: Writer, history: checkpoint.History, *, every: int, lineage: bool = True
    ) -> None:
        self.folder, self.writer, self.every, self.lineage = folder, writer, every, lineage
        self.history = list(history)  # up to the step from which the run goes on
        self.lines: FileIO | None = None

    def begin(self, step: Step, rules: Rules) -> None:
        """Write the history as it is."""
        rundir.write_history(self.folder, self.history)
        self.lines = files.open_to_append(self.folder / rundir.HISTORY)
        self.kept = self.whole = step

    def generation(self, step: Step) -> None:
        """Keep a generation's line, and its checkpoint if it is one's turn."""
        files.append(self.lines, files.dumps(step.record) + "\n")
        if step.islands:
            rundir.extend_islands(self.folder, step)
        if self.lineage:
            rundir.extend_lineage(self.folder, step)
        self.history.append(step.record)
        self.whole = step
        if step.generation % self.every == 0 or step.stop:
            self.keep(step)

    def keep(self, step: Step) -> None:
        """Begin to write a step's checkpoint."""
        self.writer.submit(step, self.history)
        self.kept = step

    def end(self, step: Step) -> None:
        """See that the last step is on disk; one that was dropped, or has half of its lines, leaves that before it."""
        if self.kept is not self.whole:
            self.keep(self.whole)
        self.writer.wait()
        self.writer.prune(self.whole)  # whoever wrote the last one may have been killed before it did

    def close(self) -> None:
        """Close what is open."""
        if self.lines is not None:
            self.lines.close()
        self.writer.close()


class Shrinking(Observer):
    """Keeps what lack of memory changed: in the log, and in the attributes of checkpoints from here on."""

    def __init__(self, executions: Executions, writer: Writer, log: Callable[[str], None]) -> None:
        self.executions, self.writer, self.log = executions, writer, log

    def generation(self, step: Step) -> None:
        """Say that slices are smaller, if they are since the last generation."""
        if not self.executions.smaller:
            return
        now, self.executions.smaller = self.executions.now, False
        at_once = {"individuals": now.individuals, "samples": now.samples, "trained": now.trained}
        self.executions.changes.append({"generation": step.generation, **at_once, "micro": now.micro})
        self.log(f"generation {step.generation}: out of memory; from here on at a time: {at_once}")
        self.writer.wait()
        self.writer.attributes = self.writer.attributes | plan_attributes(self.executions)


def plan_attributes(executions: Executions) -> dict[str, str]:
    """Return the plan in force and what lack of memory changed in it, as a checkpoint has them."""
    return {"plan": json.dumps(executions.now._asdict()), "plan_changes": json.dumps(executions.changes)}
