"""Run folders of searches from Python: interrupted and resumed, they end in the same bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Quiet
from torch import Tensor, nn
from typer.testing import CliRunner

import neuroevo as ne
from neuroevo.cli.main import app
from neuroevo.engine.loop import Step
from neuroevo.problems import precision, slicing
from neuroevo.storage import checkpoint, rundir

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def f1(module: nn.Module) -> float:
    chosen = module(X)[:, 0] > 0.1
    return 2 * float((chosen & (Y == 1)).sum()) / max(1.0, float(chosen.sum() + Y.sum()))


def sphere(genomes: Tensor) -> Tensor:
    return -genomes.square().sum(1)


def own_metric(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(2) == targets).double().mean(1)


SEARCHES: dict[str, dict[str, Any]] = {
    "data": {"model": model(), "data": (X, Y), "every": 3},
    "data, learning": {"model": model(), "data": (X, Y), "refine": {"name": "adam", "steps": 2}, "algorithm": "snes"},
    "data, objects": {"model": model(), "data": (X, Y), "fitness": own_metric, "algorithm": ne.ga(population=12),
                      "refine": ne.sgd(steps=1, lr=0.1)},
    "fronts": {"model": model(), "data": (X, Y), "fitness": ["cross_entropy", "sparsity"]},
    "module": {"model": model(), "fitness": f1, "algorithm": {"name": "ga", "population": 20}},
    "genomes": {"start": torch.ones(2, 5), "fitness": sphere, "algorithm": "pso", "sigma": torch.full((5,), 0.2)},
}  # fmt: skip
OBJECTS = ("model", "data", "fitness", "start", "algorithm", "refine")


class Stop(Exception):
    pass


def stops(after: int, error: type[BaseException]) -> Callable[[Step], None]:
    def observe(step: Step) -> None:
        if step.generation == after:
            raise error

    return observe


def lines(result: ne.Result) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in result.history]


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop])
@pytest.mark.parametrize("name", SEARCHES)
def test_interrupted_and_resumed_a_search_ends_in_the_same_bytes(
    name: str, error: type[BaseException], tmp_path: Path
) -> None:
    given = {"budget": ne.Budget(generations=9), "seed": 3, **SEARCHES[name]}
    whole = ne.evolve(**given)
    with pytest.raises(error):
        ne.evolve(**given, out=tmp_path / "r", observers=[stops(4, error)])
    assert json.loads((tmp_path / "r" / "result.json").read_text())["status"] == "interrupted"
    again = {key: given[key] for key in OBJECTS if key in given}
    heard: list[int] = []
    found = ne.resume(tmp_path / "r", **again, observers=[lambda step: heard.append(step.generation)])
    assert heard == [5, 6, 7, 8, 9]
    assert found.folder == tmp_path / "r"
    assert torch.equal(found.genome, whole.genome)
    assert torch.equal(found.population.genomes, whole.population.genomes)
    assert lines(found) == lines(whole)
    assert (found.validation, found.test, found.cost) == (whole.validation, whole.test, whole.cost)
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["test_scored"] == (1 if "data" in given else 0)


def test_a_search_goes_on_in_the_precision_that_it_began_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path / "cache"))
    given = {**SEARCHES["data, learning"], "budget": ne.Budget(generations=6)}
    rough = ne.evolve(**given, precision="bfloat16")
    for asked, error in (("bfloat16", None), ("auto", 0.0)):
        if error is not None:  # whatever is measured is clear
            monkeypatch.setattr(precision, "LEAST", error)
            monkeypatch.setattr(precision, "CLEARLY", error)
        folder = tmp_path / asked
        with pytest.raises(Stop):
            ne.evolve(**given, precision=asked, out=folder, observers=[stops(3, Stop)])
        assert "scores in bfloat16" in (folder / "run.log").read_text()
        monkeypatch.setattr(precision, "LEAST", float("inf"))
        found = ne.resume(folder, model(), (X, Y))
        assert torch.equal(found.population.genomes, rough.population.genomes)
        assert found.cost == rough.cost
        assert json.loads((folder / "result.json").read_text())["precision"] == "bfloat16"
    with pytest.raises(ne.InputError, match="^precision: float16 is for GPUs"):
        ne.evolve(**given, precision="float16", device="cpu")
    with pytest.raises(ne.InputError, match="^precision: goes with data"):
        ne.evolve(start=torch.ones(2), fitness=sphere, precision="bfloat16")


def test_one_that_has_ended_is_returned_as_it_is_and_goes_on_with_a_larger_budget(tmp_path: Path) -> None:
    given = {"start": torch.ones(5), "fitness": sphere, "algorithm": "snes"}
    whole = ne.evolve(**given, budget=ne.Budget(generations=8))
    ne.evolve(**given, budget=ne.Budget(generations=5), out=tmp_path / "r")
    assert len(ne.resume(tmp_path / "r", start=torch.ones(5), fitness=sphere).history) == 5
    budget = ne.Budget(generations=8)
    assert torch.equal(
        ne.resume(tmp_path / "r", start=torch.ones(5), fitness=sphere, budget=budget).genome, whole.genome
    )


def test_what_a_run_came_to_is_written_wherever_it_was_killed(tmp_path: Path) -> None:
    given, again = {"model": model(), "data": (X, Y)}, {"model": model(), "data": (X, Y)}
    names = ("result.json", "champion.safetensors", "confusion.csv", "predictions.csv")
    ne.evolve(**given, budget=ne.Budget(generations=5), out=tmp_path / "r")
    for name in names:
        (tmp_path / "r" / name).unlink()
    ne.resume(tmp_path / "r", **again)
    before = {name: (tmp_path / "r" / name).read_bytes() for name in names}
    ne.resume(tmp_path / "r", **again, budget=ne.Budget(generations=8))
    right = {name: (tmp_path / "r" / name).read_bytes() for name in names[1:]}
    for name, content in before.items():
        (tmp_path / "r" / name).write_bytes(content)
    ne.resume(tmp_path / "r", **again)
    assert {name: (tmp_path / "r" / name).read_bytes() for name in right} == right
    assert json.loads((tmp_path / "r" / "result.json").read_text())["generations"] == 8


def test_what_is_missing_or_another_is_named(tmp_path: Path) -> None:
    given = SEARCHES["data, objects"]
    ne.evolve(**given, budget=ne.Budget(generations=2), out=tmp_path / "r")
    rest = {key: given[key] for key in OBJECTS if key in given}
    for change, message in (
        ({"model": None, "data": None}, "fitness: a function expected|model|data"),
        ({"data": (X, 1 - Y)}, "data.labels differ"),
        ({"data": (X + 1, Y)}, "data.mean"),
        ({"model": nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))}, "backbone.weights differ"),
        ({"fitness": None}, "fitness: was given as an object when the run began; give it again"),
        ({"algorithm": "snes"}, "algorithm: the run was begun with another"),
    ):
        with pytest.raises(ne.InputError, match=message):
            ne.resume(tmp_path / "r", **{**rest, **change})
    with pytest.raises(ne.InputError, match="no run is there"):
        ne.resume(tmp_path / "none", model())
    (path,) = (tmp_path / "r" / "checkpoints").iterdir()
    path.unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "r").iterdir() if path.is_file()}
    with pytest.raises(ne.InputError, match=rf"{path.name}: gone, and no other checkpoint is there"):
        ne.resume(tmp_path / "r", **rest, budget=ne.Budget(generations=4))
    assert {path: path.read_bytes() for path in before} == before


def test_slices_are_those_that_the_run_began_with_whatever_memory_is_free_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = SEARCHES["data, learning"]
    ne.evolve(**given, budget=ne.Budget(generations=2), out=tmp_path / "r")
    monkeypatch.setattr(slicing, "memory_limit", lambda device: 100_000)
    ne.evolve(**given, budget=ne.Budget(generations=2), out=tmp_path / "other")
    ne.resume(tmp_path / "r", model(), (X, Y), budget=ne.Budget(generations=4))
    plans = [checkpoint.newest(tmp_path / name / "checkpoints", pytest.fail) for name in ("r", "other")]
    assert plans[0] is not None
    assert plans[1] is not None
    assert plans[0].step.generation == 4
    assert plans[0].plan.limit > plans[1].plan.limit == 100_000
    assert plans[0].plan.individuals > plans[1].plan.individuals


def test_a_folder_that_holds_something_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ne.InputError, match="isn't empty"):
        ne.evolve(start=torch.ones(3), fitness=sphere, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(ne.InputError, match="fitness"):
        ne.evolve(start=torch.ones(3), fitness=3, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    ne.evolve(start=torch.ones(3), fitness=sphere, out=tmp_path / "new", budget=ne.Budget(generations=1))
    with pytest.raises(ne.InputError, match=r"already holds a run; go on from it with neuroevo.resume\('.*new', ...\)"):
        ne.evolve(start=torch.ones(3), fitness=sphere, out=tmp_path / "new")


def test_the_command_line_inspects_and_reports_it_and_says_who_goes_on_with_it(tmp_path: Path) -> None:
    ne.evolve(**SEARCHES["data"], budget=ne.Budget(generations=4), out=tmp_path / "r")
    run = CliRunner()
    assert run.invoke(app, ["report", str(tmp_path / "r")]).exit_code == 0
    assert "accuracy" in (tmp_path / "r" / "report.html").read_text()
    shown = run.invoke(app, ["inspect", str(tmp_path / "r")])
    written = (tmp_path / "r" / "config.yaml").read_bytes()
    for damaged in (b"", written.replace(b"python", b"pyth\xffn"), written.replace(b"python", b"pythnn")):
        (tmp_path / "r" / "config.yaml").write_bytes(damaged)
        assert run.invoke(app, ["inspect", str(tmp_path / "r")]).stdout == shown.stdout
    (tmp_path / "r" / "config.yaml").write_bytes(written)
    assert shown.exit_code == 0
    assert "finished (generations)" in shown.output
    for command in ("resume", "evaluate"):
        refused = run.invoke(app, [command, str(tmp_path / "r")])
        assert isinstance(refused.exception, ne.InputError)
        assert "from Python" in str(refused.exception)


def test_samples_of_test_that_are_in_train_as_well_are_told_and_a_warning_of_the_result(tmp_path: Path) -> None:
    x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    again = torch.cat([x[:40], x[:3]]), torch.cat([y[:40], y[:3]])
    data = {"train": (x[:40], y[:40]), "validation": (x[40:], y[40:]), "test": again}
    given: dict[str, Any] = {"algorithm": ne.ga(population=4), "budget": ne.Budget(generations=1)}
    quiet = Quiet()
    ne.evolve(nn.Linear(4, 2), data, observers=[quiet], **given)
    line = "duplicates: samples in two splits, byte for byte: 43 of test in train"
    assert quiet.lines == [line]
    ne.evolve(nn.Linear(4, 2), data, out=tmp_path / "r", **given)
    assert f"{line}; figures on them flatter" in rundir.read_result(tmp_path / "r")["warnings"]
