import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Quiet
from torch import nn

import neuroevo
from neuroevo.config import load
from neuroevo.experiments import experiment, log, moves, reopen
from neuroevo.storage import checkpoint, generations, rundir

BEFORE = {"threads": 77, "device": "cuda:3", "versions": {**log.versions(), "torch": "1.0"}, "features": "others"}


def leave(folder: Path, *, saved_by: dict[str, Any]) -> None:
    """Write a run's newest checkpoint as if it had been written elsewhere."""
    path = generations.paths(folder / "checkpoints")[0]
    saved = checkpoint.read(path)
    _, step = reopen.open_run(str(folder), Quiet())
    attributes = {
        "config": saved.config, "seed": 0, "device": saved.device, "layout": saved.layout.to_json(),
        "classes": json.dumps(saved.classes), "features": saved.features, "versions": json.dumps(saved.versions),
        "plan": json.dumps(saved.plan._asdict()), "plan_changes": "[]", "moves": json.dumps(saved.moves),
    }  # fmt: skip
    if "threads" in saved_by:
        attributes["plan"] = json.dumps(saved.plan._replace(threads=saved_by["threads"])._asdict())
    attributes |= {key: saved_by[key] for key in ("device", "features") if key in saved_by}
    if "versions" in saved_by:
        attributes["versions"] = json.dumps(saved_by["versions"])
    beside = {f"features/{key}": tensor for key, tensor in saved.affine.items()}
    checkpoint.write(path, attributes, beside, step, saved.history)


@pytest.mark.parametrize("what", BEFORE)
def test_a_run_that_goes_on_elsewhere_says_so_in_its_result_and_ever_after(
    tmp_path: Path, quiet: Quiet, what: str
) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*TINY, "budget.generations=2"]), str(folder), "test", Quiet())
    assert "moves" not in rundir.read_result(folder)
    leave(folder, saved_by={what: BEFORE[what]})
    experiment.resume(str(folder), ["budget.generations=4"], quiet)
    assert any(line.startswith(f"{what} were {BEFORE[what]} and are ") for line in quiet.lines)
    (move,) = found = rundir.read_result(folder)["moves"]
    now = {
        "threads": torch.get_num_threads(), "device": "cpu", "versions": {"torch": ["1.0", log.versions()["torch"]]},
        "features": checkpoint.read(generations.paths(folder / "checkpoints")[0]).features,
    }[what]  # fmt: skip
    assert move == {"generation": 2, what: now if what == "versions" else [BEFORE[what], now]}
    (warning,) = (line for line in rundir.read_result(folder)["warnings"] if line.startswith("went on after"))
    assert warning.startswith("went on after generation 2 with ") and "in place of" in warning
    experiment.resume(str(folder), ["budget.generations=6"], quiet)  # where it was left: no other move
    assert rundir.read_result(folder)["moves"] == found
    assert checkpoint.read(generations.paths(folder / "checkpoints")[0]).moves == (move,)


def test_a_run_that_goes_on_where_it_was_left_says_nothing(tmp_path: Path, quiet: Quiet) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*TINY, "budget.generations=2"]), str(folder), "test", Quiet())
    experiment.resume(str(folder), ["budget.generations=4"], quiet)
    found = rundir.read_result(folder)
    assert "moves" not in found and not any("went on after" in line for line in found["warnings"])


def test_a_search_from_python_that_goes_on_with_other_threads_says_so_in_its_result(tmp_path: Path) -> None:
    x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    more: dict[str, Any] = {"algorithm": neuroevo.ga(population=8)}
    budget = neuroevo.Budget(generations=2)
    model, threads = nn.Linear(4, 2), torch.get_num_threads()
    neuroevo.evolve(model, (x, y), budget=budget, out=tmp_path / "r", **more)
    try:
        torch.set_num_threads(threads + 1)
        neuroevo.resume(tmp_path / "r", model, (x, y), budget=neuroevo.Budget(generations=4), **more)
    finally:
        torch.set_num_threads(threads)
    found = rundir.read_result(tmp_path / "r")
    assert found["moves"] == [{"generation": 2, "threads": [threads, threads + 1]}]
    assert any(f"threads {threads + 1} in place of {threads}" in line for line in found["warnings"])


def test_lines_name_each_library_and_no_hashes() -> None:
    (line,) = moves.lines([{"generation": 3, "versions": {"onnxruntime": [None, "1.2"]}, "features": ["ab", "cd"]}])
    assert "onnxruntime 1.2 in place of none, features others in place of those of before" in line


ONE, TWO = ({"threads": n, "device": "cpu", "versions": {"torch": "2.0"}} for n in (1, 2))


def test_runs_that_were_computed_elsewhere_than_each_other_are_counted() -> None:
    assert moves.between([ONE, ONE]) == [] == moves.between([])
    assert moves.between([ONE, {"versions": {"torch": "2.0"}}]) == []  # one of before doesn't say its threads
    (line,) = moves.between([ONE, TWO, ONE])
    assert (
        line == "runs were computed with different threads: 1 (2 of 3), 2 (1 of 3); one made again may round otherwise"
    )
    (line,) = moves.between([ONE, {**ONE, "versions": {"torch": "2.1"}}])
    assert "different torch: 2.0 (1 of 2), 2.1 (1 of 2)" in line
