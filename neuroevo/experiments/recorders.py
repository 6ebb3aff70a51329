"""What a run keeps as it goes: history, checkpoints, config."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from neuroevo.config import Config
from neuroevo.engine.evaluator import Developed
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.problem import Problem
from neuroevo.engine.rng import Context
from neuroevo.errors import RunError
from neuroevo.experiments.compose import Experiment
from neuroevo.experiments.log import Reporter
from neuroevo.experiments.signals import Signals
from neuroevo.storage import checkpoint, files, generations, rundir
from neuroevo.storage.writer import Writer


def made(folder: Path) -> None:
    """Make a folder within a run's; RunError where that can't be."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: not made ({error.strerror})") from error


def aside(folder: Path, saved: checkpoint.Checkpoint | None, log: Callable[[str], None]) -> None:
    """Rename the checkpoints that were passed over for the one that is gone on from, so that they count no more."""
    for path in generations.put_aside(folder / rundir.CHECKPOINTS, None if saved is None else saved.path):
        log(f"{path}: set aside under this name")


def settle(c: Config, folder: Path, writer: Writer, step: Step, history: checkpoint.History, changed: bool) -> None:
    """Write the config that a run goes on with: into config.yaml, and if it has `changed` into its checkpoint first."""
    if changed:
        writer.submit(step, history)
        writer.wait()
    text = c.to_yaml().encode()
    if files.content(folder / rundir.CONFIG) != text:
        files.replace(folder / rundir.CONFIG, text)


def once(problem: Problem, first: Callable[[], None]) -> Problem:
    """Return a problem that calls `first` before it develops its first population: the budget has room for it."""
    development, left = problem.development, [first]

    def develop(population: Population, index: torch.Tensor, context: Context) -> Developed:
        while left:
            left.pop()()
        return development.develop(population, index, context)

    return problem._replace(development=development._replace(develop=develop))


def recorded(
    run: Iterator[Step], step: Step, history: checkpoint.History, folder: Path, writer: Writer, every: int,
    rules: Rules, signals: Signals, reporter: Reporter, after: Callable[[Step], None] = lambda step: None,
) -> Step:  # fmt: skip
    """Keep a run's history and checkpoints until it stops or a signal comes; return its last step, which is on disk.

    `history` is that up to `step`; `after` is called after each generation, before its checkpoint is written.
    """
    history, kept = list(history), step
    rundir.write_history(folder, history)
    try:
        with open(folder / rundir.HISTORY, "ab", buffering=0) as lines:
            for step in run:
                history.append(step.record)
                files.append(lines, files.dumps(step.record) + "\n")
                after(step)
                interrupted = signals.status is not None and step.stop is None
                if step.generation % every == 0 or step.stop or interrupted:
                    writer.submit(step, history)
                    kept = step
                reporter.generation(step, rules)
                if interrupted:
                    break
        if kept is not step:  # the generation after it was dropped
            writer.submit(step, history)
        writer.wait()
    finally:
        writer.close()
    return step


def planned(experiment: Experiment) -> dict[str, str]:
    """Return the plan in force and what lack of memory changed in it, as a checkpoint has them."""
    return {"plan": json.dumps(experiment.plan._asdict()), "plan_changes": json.dumps(experiment.plans.changes)}
