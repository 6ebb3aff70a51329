import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.api import arguments
from neuroevo.engine.execution import Local
from neuroevo.search.operators.mutation import gaussian

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()


def sphere(genomes: Tensor) -> Tensor:
    return -genomes.square().sum(1)


def f1(module: nn.Module) -> float:
    """Return the F1 score of a threshold on a module's output, which has no gradient."""
    chosen = module(X)[:, 0] > 0.3
    hits = int((chosen & (Y == 1)).sum())
    return 2 * hits / max(1, int(chosen.sum()) + int(Y.sum()))


class Odd(nn.Module):
    """A module that the package has never seen, with control flow, a buffer and no vmap."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.a(x).round()
        return self.b(hidden if hidden.sum().item() > 0 else -hidden)


SEARCHES = {
    "snes": ne.snes(population=20), "pso": ne.pso(population=30),
    "ga": ne.ga(population=50, mutation=partial(gaussian, sigma=0.1)),
}  # fmt: skip


@pytest.mark.parametrize("algorithm", SEARCHES.values(), ids=SEARCHES)
def test_a_sphere_is_evolved_from_python(algorithm: Any) -> None:
    result = ne.evolve(
        start=torch.ones(50), fitness=sphere, algorithm=algorithm, budget=ne.Budget(samples=10_000), sigma=0.3, every=5
    )
    assert result.fitness > -10  # of -50 at the start
    assert result.fitness == pytest.approx(float(sphere(result.genome[None])), rel=1e-4)
    assert result.cost.forward <= 10_000
    assert result.stop_reason == "samples"
    assert len(result.history) == result.history[-1]["generation"]


def test_a_function_without_a_gradient_evolves_a_module_in_a_thread_and_leaves_it_as_it_was() -> None:
    model = Odd().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found: list[ne.Result] = []

    def work() -> None:
        found.append(ne.evolve(model, fitness=f1, algorithm=ne.ga(population=20), budget=ne.Budget(generations=15)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    result = found[0]
    assert result.fitness > f1(Odd()) + 0.1
    assert result.model is not None
    assert f1(result.model) == result.fitness
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_only_what_is_trainable_evolves_and_more_numbers_are_kept_by_name() -> None:
    model = Odd()
    result = ne.evolve(
        model, fitness=lambda m: {"f1": f1(m), "bias": float(m.b.bias)}, trainable="b",
        algorithm=ne.snes(population=8), budget=ne.Budget(generations=4),
    )  # fmt: skip
    assert result.model is not None
    assert torch.equal(result.model.get_parameter("a.weight"), model.a.weight)
    assert list(result.metrics) == ["fitness", "f1", "bias"]
    assert result.metrics["f1"] == result.fitness
    assert len(result.genome) == 9


def test_every_individual_finds_the_module_as_it_was_made() -> None:
    seen = []

    def fitness(module: nn.Module) -> float:
        seen.append((int(module.get_buffer("calls")), module.training, type(module.get_submodule("b")).__name__))
        module.train()
        module(X)
        module.b = nn.Identity()
        return 0.0

    ne.evolve(Odd(), fitness=fitness, algorithm=ne.ga(population=4), budget=ne.Budget(generations=2))
    assert set(seen) == {(0, False, "Linear")}


def test_steps_may_be_left_at_any_time_and_are_those_of_the_whole() -> None:
    given: Any = {"start": torch.ones(5), "fitness": sphere, "algorithm": ne.snes(population=6), "seed": 4}
    some = [step for step, _ in zip(ne.steps(**given), range(5), strict=False)]
    watched: list[Any] = []
    whole = ne.evolve(**given, budget=ne.Budget(generations=5), observers=[watched.append])
    assert torch.equal(some[-1].population.genomes, whole.population.genomes)
    assert [step.generation for step in watched] == [1, 2, 3, 4, 5]


def test_an_algorithm_may_be_given_by_name_and_as_in_a_config() -> None:
    given: Any = {"start": torch.ones(5), "fitness": sphere, "budget": ne.Budget(generations=3)}
    made = ne.evolve(**given, algorithm=ne.snes(population=6))
    assert torch.equal(ne.evolve(**given, algorithm={"name": "snes", "population": 6}).genome, made.genome)
    assert torch.equal(ne.evolve(**given, algorithm="nes").genome, ne.evolve(**given).genome)


def test_a_run_goes_on_with_the_algorithm_that_was_usual_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"start": torch.ones(5), "fitness": sphere}
    whole = ne.evolve(**asked, algorithm="ga", budget=ne.Budget(generations=2))
    with monkeypatch.context() as before:
        before.setattr(arguments, "usual_algorithm", lambda *given, **options: "ga")
        ne.evolve(**asked, budget=ne.Budget(generations=2), out=tmp_path / "r")
    found = ne.resume(tmp_path / "r", **asked)
    assert torch.equal(found.population.genomes, whole.population.genomes)


def test_nan_is_invalid_and_never_wins() -> None:
    result = ne.evolve(
        start=torch.ones(3), fitness=lambda genomes: sphere(genomes).where(genomes[:, 0] > 0, torch.nan),
        budget=ne.Budget(generations=30), algorithm=ne.ga(population=20),
    )  # fmt: skip
    assert np.isfinite(result.fitness)
    assert result.genome[0] > 0


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "start: give a model or a start"),
        ({"model": Odd(), "start": torch.ones(2)}, "start: give either a model or a start, not both"),
        (
            {"model": Odd(), "trainable": "c"},
            "trainable: c matches none; there are: a.weight, a.bias, b.weight, b.bias",
        ),
        ({"model": "resnet"}, "model: a torch module expected, a str given"),
        ({"model": nn.ReLU()}, "trainable: the module has no parameters"),
        ({"start": torch.ones(2, 2, 2)}, r"start: a genome \[g\], or several"),
        ({"start": torch.tensor([torch.nan])}, r"start: a genome \[g\], or several"),
        ({"start": torch.ones(2), "trainable": "b"}, "trainable: b: genomes have no parameters by name"),
        ({"start": torch.ones(2), "executor": Local()}, "executor: goes with a model"),
        ({"start": torch.ones(2), "fitness": lambda genomes: genomes}, r"fitness: \[1, 2\] returned for 1 genomes"),
        ({"model": Odd(), "fitness": lambda module: "good"}, "fitness: good returned; a number"),
        ({"model": Odd(), "fitness": lambda module: {}}, r"fitness: {} returned; a number"),
        (
            {"model": Odd(), "fitness": lambda module: {"a": 1, "fitness": 2}},
            "fitness: the first of the numbers counts",
        ),
        ({"start": torch.ones(2), "device": "cuda:9"}, "cuda:9"),
    ],
)
def test_what_cannot_be_is_a_value_error_that_names_the_option(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        ne.evolve(**{"fitness": sphere, **given})


def test_a_function_of_a_module_is_bounded_by_the_numbers_that_it_returns() -> None:
    def score(module: nn.Module) -> dict[str, float]:
        weight = next(module.parameters())
        return {"sum": float(weight.sum()), "size": float(weight.square().sum())}

    free = ne.evolve(nn.Linear(3, 1, bias=False), fitness=score, budget=ne.Budget(generations=30), seed=1)
    bound = [{"metric": "size", "at_most": 0.75}]
    kept = ne.evolve(
        nn.Linear(3, 1, bias=False), fitness=score, subject_to=bound, budget=ne.Budget(generations=30), seed=1
    )
    assert free.validation["size"] > 1
    assert kept.validation["violation"] == 0
    assert kept.validation["size"] <= 0.75
    assert 1.1 < kept.fitness <= 1.5001  # sqrt(3 * 0.75)
    assert "feasible" in kept.history[-1]
    with pytest.raises(ValueError, match=r"^subject_to.0: no number is called sise \(did you mean size\?\)"):
        ne.evolve(nn.Linear(3, 1), fitness=score, subject_to=[{"metric": "sise", "at_most": 1}])
    with pytest.raises(ValueError, match=r"^subject_to.0: size of each class: the function's own numbers have no"):
        ne.evolve(nn.Linear(3, 1), fitness=score, subject_to=[{"metric": "size", "per": "class", "at_most": 1}])


@pytest.mark.parametrize("own", [False, True], ids=["by name", "a function"])
def test_a_classifier_is_bounded_by_metrics_and_goes_on_as_it_was(tmp_path: Any, own: bool) -> None:
    def hits(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.argmax(2) == targets).double().mean(1)

    data = {"train": (X[:150], Y[:150]), "validation": (X[150:], Y[150:])}
    bound = [
        {"metric": hits if own else "accuracy", "at_least": 0.3},
        {"metric": {"name": "recall", "of": 1}, "at_most": 0.5},
    ]
    given = {"fitness": "recall", "subject_to": bound, "samples": "all", "every": 2}
    model = nn.Linear(6, 2)
    found = ne.evolve(model, data, **given, budget=ne.Budget(generations=8), out=tmp_path / "r")
    assert found.constraints is not None
    assert list(found.constraints) == [f"{'hits' if own else 'accuracy'} at least 0.3", "recall (of 1) at most 0.5"]
    assert all(each["feasible"] for each in found.constraints.values()) == (found.validation["violation"] == 0)
    again = {"subject_to": bound} if own else {}
    more = ne.resume(tmp_path / "r", model, data, **again, budget=ne.Budget(generations=10))
    assert len(more.history) == 10
    assert "violation" in more.validation
    if own:
        with pytest.raises(ValueError, match=r"^subject_to: was given as an object"):
            ne.resume(tmp_path / "r", model, data, budget=ne.Budget(generations=12))
    with pytest.raises(ValueError, match=r"^subject_to.0: no metric is called 'recal' \(did you mean recall\?\)"):
        ne.evolve(model, data, subject_to=[{"metric": "recal", "at_least": 1}])


def test_groups_come_behind_inputs_and_labels() -> None:
    groups = np.where(X[:, 2] > 0, "high", "low")
    bound = [{"metric": "accuracy", "per": "group", "at_least": 0.1}]
    model = nn.Linear(6, 2)
    found = ne.evolve(
        model, (X, Y, groups), fitness="worst_group_accuracy", subject_to=bound, budget=ne.Budget(generations=3)
    )
    assert found.test is not None
    assert found.constraints is not None
    (values,) = (each["values"] for each in found.constraints.values())
    assert set(values) == {"high", "low"}
    assert "worst_group_accuracy" in found.test["interval"]
    with pytest.raises(ValueError, match=r"^data: 200 inputs and 9 groups$"):
        ne.evolve(model, (X, Y, groups[:9]))
    with pytest.raises(ValueError, match=r"^data: validation has no groups, and others have"):
        ne.evolve(model, {"train": (X, Y, groups), "validation": (X, Y)})
    with pytest.raises(ValueError, match="the data have no groups of samples"):
        ne.evolve(model, (X, Y), fitness="worst_group_accuracy")
