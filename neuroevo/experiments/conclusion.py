"""What a run comes to: its champion, scored on test once, and its result."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroevo import caveats
from neuroevo.data import inventory
from neuroevo.engine.loop import Champion, Step
from neuroevo.errors import InputError
from neuroevo.experiments import looks as looks_
from neuroevo.experiments import moves
from neuroevo.experiments.baseline import NOTHING, Beside
from neuroevo.experiments.compose import Run
from neuroevo.experiments.log import versions
from neuroevo.experiments.predictions import of_run
from neuroevo.experiments.reopen import of_genome
from neuroevo.networks import onnxfiles
from neuroevo.storage import files, predictions, rundir


def conclude(
    run: Run, step: Step, folder: Path, *, stop_reason: str, log: Callable[[str], None], beside: Beside = NOTHING
) -> None:
    """Write a run's champion and result; one that has come to its end is scored on test, which is counted.

    `beside` is what the champion is compared with.
    """
    c, network, finished = run.config, run.network, step.stop is not None
    before, record = rundir.read_result(folder), c.record()
    looks = sum(line["validation"] is not None for line in rundir.read_history(folder))
    finite = math.isfinite(step.champion.validation[run.supervised.metric])
    warnings = [] if run.refits else caveats.of_champion(record, step.champion.generation, finite, looks)
    about: dict[str, Any] = {
        "backbone": c.backbone.name,
        "classes": network.classes,
        "genome": of_genome(step.champion),
    }
    rundir.write_champion(folder, network.fold(step.champion.genome), about)
    if c.checkpoint.network:
        backbone, whole = network.backbone, network.module(step.champion.genome).cpu()
        about |= {"transform": backbone.transform._asdict(), "inputs": backbone.inputs, "native": run.whole.native()}
        about |= {"width": network.width}
        rundir.write_network(folder, {name: w.contiguous() for name, w in whole.state_dict().items()}, about)
    warnings += write_onnx(folder, network.onnx(step.champion.genome))
    champion = describe(run, step, record)
    folds: dict[str, Any] = {}
    if run.refits:
        folds, lines = of_folds(folder, run)
        warnings += lines
        champion["validation"] = folds.get("validation", champion["validation"])
    elif c.fitness.subject_to:
        champion["constraints"] = run.supervised.constraints_on(
            step.champion.genome, run.supervised.splits["validation"]
        )
    scored = finished and c.validate.fold is None  # what chooses among searches is none of test's business
    if scored:
        tested = run.supervised.test(step.champion.genome, run.supervised.splits["test"])
        champion["test"] = tested.scores
        warnings += caveats.of_predictions(network.classes, tested.confusion.sum(0).tolist(), run.whole.noun)
        rundir.write_confusion(folder, network.classes, tested.confusion)
        predictions.write(folder, of_run(run, step.champion.genome, tested.predictions))
    else:
        for name in (rundir.CONFUSION, rundir.PREDICTIONS):  # of a champion before this one
            (folder / name).unlink(missing_ok=True)
    warnings += beside.lines
    executor = run.supervised.executor
    warnings += caveats.of_workers(getattr(executor, "differing", ()), getattr(executor, "idle", False))
    for line in warnings:
        log(f"{caveats.WARNING}{line}")
    splits = dict(run.supervised.splits)
    before_it = [*caveats.of_config(record, network.layout.genes), *inventory.absent(run.whole, splits)]
    before_it += [*inventory.flatters(run.whole.notes), *moves.lines(run.moves)]
    searched = rundir.newest(folder / rundir.TUNE, log) is not None
    tuning = rundir.read_result(folder / rundir.TUNE) if searched else {}
    rundir.write_result(
        folder,
        {
            "status": "finished" if finished else "interrupted",
            "stop_reason": stop_reason,
            "generations": step.generation,
            "seed": c.seed,
            "device": str(run.device),
            "threads": torch.get_num_threads(),
            "data": inventory.record(run.whole, splits),
            "champion": champion,
            **({"baseline": beside.record} if beside.record else {}),
            "warnings": caveats.together(before_it, tuning.get("warnings", []), warnings),
            **({"folds": folds} if folds else {}),
            "cost": total({**step.cost.record(), "seconds": step.seconds}, folds),
            "views": c.features.views if c.data.augment else None,
            "precision": run.supervised.executions.now.precision,
            **({"quantised": dict(network.backbone.moved)} if network.backbone.moved else {}),
            "plan_changes": run.supervised.executions.changes,
            "test_scored": before.get("test_scored", 0) + scored,
            "versions": versions(),
            **({"moves": list(run.moves)} if run.moves else {}),
            **({"tuning": tuning} if searched else {}),
            **({"selections": before["selections"]} if keeps_selections(before, step) else {}),
        },
    )


def of_folds(folder: Path, run: Run) -> tuple[dict[str, Any], list[str]]:
    """Return what a result says of the searches that chose a run's end, and a line where that is lost."""
    try:
        own = run.config.validate
        return looks_.summarise(folder, own.folds or 1, run.rules().ending, run.supervised), []
    except InputError as error:
        return {}, [f"no validation figure: {error}"]


def total(own: Mapping[str, float], folds: Mapping[str, Any]) -> dict[str, float]:
    """Return a run's cost with that of the searches that chose its end."""
    return {key: value + folds.get("cost", {}).get(key, 0) for key, value in own.items()}


def keeps_selections(before: Mapping[str, Any], step: Step) -> bool:
    """Tell whether a result of before has what was taken away of this same step."""
    return "selections" in before and before.get("generations") == step.generation


def write_onnx(folder: Path, found: tuple[bytes, float] | None) -> list[str]:
    """Write a champion that is an ONNX file, if it is one; return a line where it differs from what was scored."""
    if found is None:
        return []
    content, difference = found
    files.replace(folder / rundir.ONNX, content)
    if difference <= onnxfiles.CLOSE:
        return []
    line = f"{rundir.ONNX}: onnxruntime's logits of it differ from those that were scored by {difference:.2g} of the"
    return [f"{line} largest"]


def describe(run: Run, step: Step, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a result says of a champion, before it is scored on test."""
    front, kind, generation = step.scores.objectives > 1, step.champion.kind, step.champion.generation
    member = member_of(run.algorithm.candidates(step.state), step.champion) if front else None
    return {
        "kind": kind,
        "generation": generation,
        "about": caveats.of_kind(kind, generation, record, member, step.generation if front else None),
        **({"member": member} if front else {}),
        "validation": step.champion.validation,
    }


def member_of(front: Mapping[str, Tensor], champion: Champion) -> int | None:
    """Return the number of a champion in a front {kind: genome}, None where it is no longer in it."""
    return next((i for i, genome in enumerate(front.values()) if torch.equal(genome, champion.genome)), None)
