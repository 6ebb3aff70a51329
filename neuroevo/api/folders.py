"""Run folders of searches from Python: written as the command line's are, gone on with, and loaded.

What was given as an object, such as a module or a function, isn't in the folder, at most its hash; whoever goes on
gives it again.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroevo import caveats, config
from neuroevo.config import Part
from neuroevo.data import inventory
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.execution import FULL, Execution, Executions
from neuroevo.engine.loop import Champion, Rules, Step
from neuroevo.engine.observer import Observer, Observers, watch
from neuroevo.engine.problem import Problem
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError
from neuroevo.experiments import baseline, looks, moves
from neuroevo.experiments.baseline import Beside
from neuroevo.experiments.conclusion import total, write_onnx
from neuroevo.experiments.log import Log, open_log, versions
from neuroevo.experiments.predictions import table
from neuroevo.experiments.recorders import Recorder, Shrinking, make_folder, plan_attributes
from neuroevo.experiments.reopen import (
    PYTHON,
    check_champion,
    from_python,
    here,
    last_generation,
    of_genome,
    tell_gone,
    without_checkpoint,
)
from neuroevo.experiments.tracking import follow
from neuroevo.problems.constraints import SUBJECT_TO, Constraint
from neuroevo.problems.intervals import Tested
from neuroevo.problems.supervised import Supervised
from neuroevo.storage import checkpoint, claims, files, generations, predictions, rundir
from neuroevo.storage.writer import Writer

GIVEN = "given"  # the name of a part that was given as an object
EVERY, KEEP = 10, 3  # generations from one checkpoint to the next, and how many are kept
ROUNDED = ("data.mean", "data.deviation")  # what may round otherwise
FREE = ("budget", "checkpoint")  # what may change when a run goes on

Record = dict[str, Any]


@dataclass(frozen=True)
class Search:
    """What is searched, and what a genome of it is, as a run's folder needs to know it."""

    problem: Problem
    algorithm: Algorithm[Any]
    rules: Rules
    device: torch.device
    home: torch.device  # where the population is kept
    record: Record  # of what was asked for: the folder's config
    fold: Callable[[Tensor], dict[str, Tensor]]  # genome [g] -> the weights of the champion's file
    test: Callable[[Tensor], Tested | None]
    score: Callable[[Champion], float]  # of a champion, the higher the better
    module: Callable[[Tensor], nn.Module | None]  # a copy of the module with a genome's [g] weights
    classes: tuple[str, ...] = ()
    counts: Mapping[str, int] | None = None  # samples of each split
    executions: Executions | None = None
    features: str = ""  # a hash of the features
    constraints_on: Callable[[Tensor], dict[str, Record]] = lambda genome: {}  # how a genome keeps to them
    # Of a network that is an ONNX file: a genome [g] -> the file, and by how much its logits differ from what was
    # scored.
    onnx: Callable[[Tensor], tuple[bytes, float] | None] = lambda genome: None
    notes: tuple[str, ...] = ()  # lines about the data
    moves: list[checkpoint.Move] = field(default_factory=list)  # from device to device, where it went on elsewhere
    supervised: Supervised | None = None  # where there are data
    logistic: bool = False  # whether a champion is compared with a logistic regression

    def compare(self, champion: Mapping[str, float], log: Callable[[str], None]) -> Beside:
        """Return what a champion of these figures on validation is compared with."""
        if not self.logistic or self.supervised is None:
            return baseline.NOTHING
        return baseline.compare(self.supervised, champion, log)

    @property
    def slices(self) -> Executions:
        """How evaluations are sliced; of a function not at all."""
        threads = torch.get_num_threads()
        return self.executions or Executions(Execution("function", 0, 1, 1, 0, threads, home=str(self.home)))


def spell(given: Any) -> Any:
    """Return a part as a config spells it: by its name, or that it was given as an object."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, list | tuple) and not hasattr(given, "_fields"):
        return [spell(each) for each in given]
    return {"name": GIVEN}


def spell_constraints(given: Any) -> Any:
    """Return constraints as a config spells them."""
    if not isinstance(given, list | tuple):
        return spell(given)
    plain = [
        each.record() | ({} if each.function is None else {"metric": {"name": GIVEN}})
        if isinstance(each, Constraint)
        else each
        for each in given
    ]
    return [{**each, "metric": spell(each.get("metric"))} if isinstance(each, Mapping) else each for each in plain]


@contextmanager
def claim(out: str | Path, seed: int) -> Iterator[Path]:
    """Own a new run's folder while it is entered; InputError where `out` can't be one, and then nothing is left."""
    try:
        with claims.claim(str(out), "", seed) as claimed:
            try:
                yield claimed.folder
            except InputError:
                own = [claimed.folder, *(claimed.folder / rundir.FOLDS).glob("*")]
                if not any(generations.paths(each / rundir.CHECKPOINTS) for each in own):
                    claimed.clear()
                raise
    except InputError as error:
        line, option = str(error).removeprefix("--out: "), "out" if "--out" in str(error) else None
        if from_python(Path(out)):
            line = line.replace(f"with: neuroevo resume {out}", f"with neuroevo.resume({str(out)!r}, ...)")
        raise InputError(line, option=option) from None


def keep(
    search: Search,
    steps: Iterator[Step],
    start: Step,
    folder: Path,
    observer: Observer,
    *,
    history: checkpoint.History,
    tracking: Sequence[Part] = (),
) -> Step:
    """Take a search to its end, and keep it in its folder; return its last step.

    What ends it early, such as Ctrl-C, leaves a checkpoint of the last generation and a result that says interrupted.
    """
    with open_log(folder, observer, "neuroevo.evolve" if not start.generation else "neuroevo.resume") as log:
        files.replace(folder / rundir.CONFIG, config.dump(search.record).encode())
        if search.slices.now.precision != FULL:
            log(f"scores in {search.slices.now.precision}")
        for line in search.notes:
            log(line)
        make_folder(folder / rundir.CHECKPOINTS)
        rundir.cut_lineage(folder, start.generation, log)
        keep, lines = search.record["checkpoint"]["keep"], rundir.growing(folder)
        writer = Writer(folder / rundir.CHECKPOINTS, attributes(search), {}, keep, lines=lines)
        recorder = Recorder(folder, writer, history, every=search.record["checkpoint"]["every"])
        last, keeping = Last(start), list[Observer]()
        if search.rules.looks and search.supervised is not None:
            keeper = looks.Keeper(search.supervised, folder)
            keeping = [keeper]
            if not start.generation:
                keeper.write(0, [start.champion])
        with follow(tracking, folder, history, settings=search.record, log=log) as tracker:
            shrinking = Shrinking(search.slices, writer, log)
            # The last step is the last that is written down, which the result and the checkpoint are then both of.
            observers = Observers([shrinking, *keeping, recorder, last, tracker, observer])
            try:
                step = watch(steps, start, search.rules, observers)
            except BaseException as error:
                # What ends it may have kept its end from the disk: who goes on comes to that, and scores it on test.
                conclude(search, replace(last.step, stop=None), folder, type(error).__name__, log)
                raise
            conclude(search, step, folder, step.stop or "left", log)
            tracker.conclude(rundir.read_result(folder))
    return step


class Last(Observer):
    """Knows the last step."""

    def __init__(self, start: Step) -> None:
        self.step = start

    def generation(self, step: Step) -> None:
        """Remember a step."""
        self.step = step


def attributes(search: Search) -> Record:
    """Return the attributes of a search's checkpoints."""
    return {
        "config": config.dump(search.record),
        "seed": search.rules.seed,
        "device": str(search.device),
        "layout": search.problem.layout.to_json(),
        "classes": json.dumps(search.classes),
        **plan_attributes(search.slices),
        "versions": json.dumps(versions()),
        "features": search.features,
        **({"moves": json.dumps(search.moves)} if search.moves else {}),
    }


def conclude(search: Search, step: Step, folder: Path, reason: str, log: Log) -> None:
    """Write a search's champion and result; one that has come to its end is scored on test, which is counted."""
    finished, genome, record = step.stop is not None, step.champion.genome, search.record
    before = rundir.read_result(folder)
    about = {"backbone": record["backbone"]["name"], "classes": search.classes, "genome": of_genome(step.champion)}
    rundir.write_champion(folder, search.fold(genome), about)
    warnings = write_onnx(folder, search.onnx(genome))
    folds, lines = of_folds(search, folder)
    champion: Record = {
        "kind": step.champion.kind,
        "generation": step.champion.generation,
        "about": caveats.of_kind(step.champion.kind, step.champion.generation, record),
        "validation": folds.get("validation", step.champion.validation),
    }
    constraints = search.constraints_on(genome)
    champion |= {"constraints": constraints} if constraints else {}
    # What chooses among searches is none of test's business.
    tested = search.test(genome) if finished and not search.rules.looks else None
    beside = baseline.NOTHING
    if finished and not search.rules.looks:
        beside = search.compare(champion["validation"], log)
        warnings += lines + beside.lines
    if tested is not None:
        champion["test"] = tested.scores
        rundir.write_confusion(folder, search.classes, tested.confusion)
        predictions.write(folder, table("test", tested.predictions, search.classes))
    else:
        for name in (rundir.CONFUSION, rundir.PREDICTIONS):
            (folder / name).unlink(missing_ok=True)
    rundir.write_result(
        folder,
        {
            "status": "finished" if finished else "interrupted",
            "stop_reason": reason,
            "generations": step.generation,
            "seed": search.rules.seed,
            "device": str(search.device),
            "threads": torch.get_num_threads(),
            "data": {"images": dict(search.counts or {}), "folders": {}, "notes": list(search.notes)},
            "champion": champion,
            **({"baseline": beside.record} if beside.record else {}),
            "warnings": [*inventory.flatters(search.notes), *moves.lines(search.moves), *warnings],
            **({"folds": folds} if folds else {}),
            "cost": total({**step.cost.record(), "seconds": step.seconds}, folds),
            "views": None,
            "precision": search.slices.now.precision,
            "plan_changes": search.slices.changes,
            "test_scored": before.get("test_scored", 0) + (tested is not None),
            "versions": versions(),
            **({"moves": search.moves} if search.moves else {}),
        },
    )
    if not finished:
        advice = "" if search.rules.looks else "; go on with neuroevo.resume"  # one of several isn't gone on with alone
        log(f"{folder}: interrupted after generation {step.generation}{advice}")


def of_folds(search: Search, folder: Path) -> tuple[Record, list[str]]:
    """Return what a result says of the searches that chose a fit's end, and a line where that is lost."""
    if search.rules.ending is None or search.supervised is None:
        return {}, []
    try:
        count = search.record["validate"].get("folds") or 1
        return looks.summarise(folder, count, search.rules.ending, search.supervised), []
    except InputError as error:
        return {}, [f"no validation figure: {error}"]


def read(folder: Path, note: Callable[[str], None]) -> tuple[Record, checkpoint.Checkpoint | None]:
    """Return the config and the newest good checkpoint of a run from Python; InputError where it isn't one."""
    saved = checkpoint.newest(folder / rundir.CHECKPOINTS, note)
    if saved is None and last_generation(folder):
        raise without_checkpoint(str(folder))
    tell_gone(folder, saved, note)
    file = str(folder / rundir.CONFIG)
    found = config.read(file) if saved is None else config.parse_sections(saved.config, str(folder))
    if not found.get(PYTHON):
        raise InputError(f"{folder}: not a run from Python", option="folder")
    return found, saved


def part(record: Any, given: Any, option: str) -> Any:
    """Return a part to go on with: as the record spells it, or as it is given again where it was an object."""
    if isinstance(record, Mapping) and record.get("default"):
        record = None
    as_record = spell_constraints if option == SUBJECT_TO else spell
    spelt = record == (as_record(given) if option != "algorithm" or not isinstance(given, str) else {"name": given})
    if given is not None and not spelt:
        raise InputError("the run was begun with another; leave it out, or give the same", option=option)
    several = record if isinstance(record, list) else [record]
    several = [each["metric"] if isinstance(each, Mapping) and "metric" in each else each for each in several]
    if given is None and any(isinstance(each, Mapping) and each.get("name") == GIVEN for each in several):
        raise InputError("was given as an object when the run began; give it again", option=option)
    return record if given is None else given


def agree(asked: Record, record: Record, folder: Path) -> None:
    """See that what is asked for is what a run's record says; InputError names what differs."""
    differ = [key for key in rundir.differences(record, asked) if not key.startswith(FREE)]
    then, now = record["data"] or {}, asked["data"] or {}
    differ = [k for k in differ if k not in ROUNDED or not math.isclose(then[k[5:]], now[k[5:]], rel_tol=1e-3)]
    if differ:
        raise InputError(f"{folder} holds a run of another search: {', '.join(differ)} differ", option="folder")


def restore(search: Search, saved: checkpoint.Checkpoint, log: Callable[[str], None], budget: Budget | None) -> Step:
    """Return the step of a checkpoint, to go on from; with a larger `budget` one that had ended goes on."""
    if saved.layout != search.problem.layout:
        raise InputError(f"{saved.path}: of another layout: {saved.layout.names} {saved.layout.shapes}")
    check_champion(saved, search.rules, search.problem.merit)
    search.moves[:] = moves.add(saved, search.device, search.features, log)
    if search.executions is not None:
        search.executions.now = here(saved.plan, search.device, log)  # its slices: with others it would round otherwise
    context = Context(search.rules.seed, 0, 0.0, search.home, search.problem.layout)
    template = search.algorithm.init(search.problem.start.to(search.home), search.problem.sigma, context)
    champion = saved.step.champion._replace(genome=saved.step.champion.genome.to(search.home))
    step = replace(saved.step, state=checkpoint.state(saved.path, template, search.home), champion=champion)
    if step.stop is not None and budget is not None:
        least = Cost(forward=len(step.scores.values))
        if budget.stop_reason(step.generation, step.cost, step.seconds, least) is None:
            step = replace(step, stop=None, stale=0 if step.stop == "patience" else step.stale)
    return step


def number(value: Any) -> Any:
    """Return a number of a record, or a tensor where there are several."""
    return torch.tensor(value) if isinstance(value, list) else value
