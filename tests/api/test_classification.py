import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Quiet
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import neuroevo as ne
from neuroevo.config import load
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.networks.weightfiles import read_safetensors

SOURCE = torch.Generator().manual_seed(0)
Y = torch.arange(300) % 3
X = torch.randn(300, 8, generator=SOURCE) + 2.0 * torch.eye(8)[Y]
IMAGES = torch.rand(300, 1, 6, 6, generator=SOURCE) + 0.5 * torch.eye(36)[4 * Y].view(-1, 1, 6, 6)
TOKENS = torch.randint(1, 20, (300, 7), generator=SOURCE).where(torch.arange(7) < 5, 20 + Y[:, None])


class Vision(nn.Module):
    """A module that the package has never seen: a skip connection, norms, dropout, a head that isn't named last."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.block, self.drop = nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head(self.drop((x + self.block(x).relu()).amax((2, 3))))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(23, 6), nn.Linear(6, 6), nn.Linear(6, 3, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids > 0).unsqueeze(-1)
        return self.out((self.mix(self.embed(ids)).tanh() * mask).sum(1))


class Recurrent(nn.Module):
    """What vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(23, 6), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.embed(ids))[0][:, -1])


class Gated(nn.Module):
    """Logits that no linear layer gives as the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.b(x).sigmoid()


MODULES: dict[str, tuple[type[nn.Module] | Any, Tensor, list[str]]] = {
    "a linear layer": (lambda: nn.Linear(8, 3), X, []),
    "a head": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 3)), X, []),
    "a head of images": (Vision, IMAGES, []),
    "a block and the head": (Vision, IMAGES, ["block", "head"]),
    "norms alone": (Vision, IMAGES, ["norm"]),
    "tokens": (Text, TOKENS, ["mix", "out"]),
    "what vmap refuses": (Recurrent, TOKENS, ["rnn", "out"]),
    "all of it": (Gated, X, ["*"]),
}


def made(kind: str) -> tuple[nn.Module, Tensor, list[str]]:
    make, x, trainable = MODULES[kind]
    torch.manual_seed(1)
    return make(), x, trainable


def parts(x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    return {"train": (x[:180], Y[:180]), "validation": (x[180:240], Y[180:240]), "test": (x[240:], Y[240:])}


def accuracy(module: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((module(x).argmax(1) == y).double().mean())


def shown(result: ne.Result) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in result.history]


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_of_ones_own_evolves_on_tensors_and_comes_back_as_the_copy_that_was_scored(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, x, trainable = made(kind)
    model.train()
    model.get_parameter(next(name for name, _ in model.named_parameters())).requires_grad_(False)
    grads = [p.requires_grad for p in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = parts(x)
    copies = {name: tuple(each.clone() for each in part) for name, part in data.items()}
    state = torch.get_rng_state()
    result = ne.evolve(
        model, data, trainable=trainable, algorithm={"name": "ga", "population": 16}, every=2, samples=64,
        refine=ne.adam(steps=4, lr=0.02, batch_size=32), budget=ne.Budget(generations=8),
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")
    assert type(result.model) is type(model)
    assert result.classes == ("0", "1", "2")
    assert result.generation > 0
    assert result.test is not None
    for name, scores in (("validation", result.validation), ("test", result.test)):
        assert scores["accuracy"] == pytest.approx(accuracy(result.model, *data[name]))
    was = accuracy(model.eval(), *data["validation"])
    assert result.validation["accuracy"] > was
    assert result.fitness == -result.validation["cross_entropy"]
    model.train()
    found = {name: p for name, p in result.model.named_parameters() if not torch.equal(p, before[name])}
    assert len(result.genome) == sum(p.numel() for p in found.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == grads
    assert all(torch.equal(a, b) for name in data for a, b in zip(data[name], copies[name], strict=True))


def test_it_is_what_a_run_of_the_command_line_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X.numpy(), y=Y.numpy())
    sets = ["data.name=arrays", f"data.file={tmp_path}/x.npz", "features.components=null", "algorithm.population=24",
            "budget.generations=12", "validate.every=3", "fitness.samples=100", "seed=5",
            "refine={name: sgd, steps: 2}", "device=cpu"]  # fmt: skip
    folder = experiment.run(load(None, sets), str(tmp_path / "run"), "test", Quiet())
    model = nn.Linear(8, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    result = ne.evolve(
        model, (X, Y), algorithm=ne.ga(population=24), budget=ne.Budget(generations=12), every=3, samples=100, seed=5,
        refine="sgd" and {"name": "sgd", "steps": 2}, device="cpu",
    )  # fmt: skip
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert shown(result) == [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    said = json.loads((folder / "result.json").read_text())["champion"]
    assert result.test == said["test"]
    weights, _ = read_safetensors(folder / "champion.safetensors")
    assert result.model is not None
    assert torch.equal(weights["head.weight"], result.model.get_parameter("weight"))


def evolved(data: Any = (X, Y), kind: str = "a head", **options: Any) -> ne.Result:
    model, _, trainable = made(kind)
    given = {"algorithm": ne.ga(population=12), "budget": ne.Budget(generations=4), "every": 2, "samples": 50}
    return ne.evolve(model, data, trainable=trainable, **{**given, **options})


def test_in_a_thread_and_from_a_loader_it_is_the_same_bytes() -> None:
    found: list[ne.Result] = []
    loader = DataLoader(TensorDataset(X, Y), batch_size=17)
    thread = threading.Thread(target=lambda: found.append(evolved(loader)))
    thread.start()
    thread.join()
    first = evolved()
    assert torch.equal(found[0].population.genomes, first.population.genomes)
    assert torch.equal(found[0].genome, first.genome)
    assert found[0].cost.backbone == 300
    assert not torch.equal(evolved(seed=1).genome, first.genome)


def test_gradient_steps_reach_further_and_none_are_no_refine() -> None:
    alone, learns = evolved(), evolved(refine=ne.sgd(steps=10, lr=0.05, batch_size=32))
    assert learns.validation["cross_entropy"] < alone.validation["cross_entropy"] - 0.1
    assert torch.equal(evolved(refine=ne.sgd(steps=0)).genome, alone.genome)


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Return how far the class is above the best other [n]: a metric of one's own."""
    own = torch.nn.functional.one_hot(targets, logits.shape[2]).bool()
    return (logits[:, own] - logits.masked_fill(own, -torch.inf).amax(2)).mean(1)


def test_metrics_are_given_by_name_with_options_of_ones_own_or_several_of_them() -> None:
    result = evolved(fitness=margin, validate={"name": "top_k", "k": 2})
    assert {"margin", "top_k", "accuracy", "cross_entropy"} == set(result.validation)
    assert result.fitness == result.validation["margin"]
    many = evolved(fitness=["cross_entropy", "weight_norm"], algorithm=None, budget=ne.Budget(generations=2))
    assert {"accuracy", "cross_entropy", "weight_norm"} == set(many.validation)
    assert result.test is not None
    assert set(result.test["interval"]) == set(result.validation)


@pytest.mark.parametrize("kind", ["a linear layer", "a block and the head", "all of it"])
def test_a_function_of_a_module_is_given_the_users_own_beside_metrics_of_data(kind: str) -> None:
    model, x, trainable = made(kind)
    seen: set[tuple[type, bool]] = set()

    def hit(module: nn.Module) -> dict[str, float]:
        seen.add((type(module), module.training))
        chosen = module(x)[:, 0] > 0.3  # no gradient goes through it
        hits = float((chosen & (Y == 0)).sum())
        return {"hit": 2 * hits / max(1.0, float(chosen.sum() + (Y == 0).sum())), "chosen": float(chosen.sum())}

    result = ne.evolve(
        model, (x, Y), trainable=trainable, fitness=hit, validate="accuracy", algorithm=ne.ga(population=6), every=1,
        refine=ne.adam(steps=2, lr=0.02, batch_size=32), budget=ne.Budget(generations=4),
    )  # fmt: skip
    assert seen == {(type(model), False)}
    assert {"hit", "chosen", "accuracy", "cross_entropy"} == set(result.validation)
    assert result.model is not None
    assert result.fitness == pytest.approx(hit(result.model)["hit"])


def test_standardised_features_are_folded_and_start_with_the_modules_own_logits() -> None:
    for kind in ("a head", "a block and the head"):
        model, x, trainable = made(kind)
        wide = x * 30 + 7
        begun = [ne.steps(model, (wide, Y), trainable=trainable, standardise=on).result() for on in (True, False)]
        assert begun[0].generation == 0
        assert begun[0].stop_reason == "left"
        assert begun[0].validation["cross_entropy"] == pytest.approx(begun[1].validation["cross_entropy"], rel=1e-4)
        assert begun[0].model is not None
        torch.testing.assert_close(begun[0].model(wide), model.eval()(wide), rtol=1e-3, atol=1e-3)


def test_without_a_test_split_there_is_no_test_score() -> None:
    result = evolved({"train": (X, Y)})
    assert result.test is None
    assert result.validation["accuracy"] > 0


def test_names_of_classes_are_those_of_the_data() -> None:
    names = np.array(["cat", "dog", "owl"])[Y]
    result = evolved((X.numpy(), names))
    assert result.classes == ("cat", "dog", "owl")


def test_steps_may_be_left_and_the_champion_taken() -> None:
    model, x, _ = made("a head")
    search = ne.steps(model, (x, Y), algorithm=ne.snes(population=10), every=1)
    for step in search:
        if step.generation == 3:
            break
    result = search.result()
    assert len(result.history) == 3
    assert result.stop_reason == "left"
    assert result.model is not None
    rows = result.population.genomes
    assert rows.shape == (10, 51)
    assert [step.generation for step, _ in zip(search, range(2), strict=False)] == [4, 5]


class Ear(Observer):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def progress(self, done: int, total: int) -> None:
        self.heard.append(f"{done}/{total}")

    def begin(self, step: Any, rules: Any) -> None:
        self.heard.append(f"begin {step.generation} of {rules.budget.generations}")

    def end(self, step: Any) -> None:
        self.heard.append(f"end {step.generation}")


def test_observers_and_functions_are_told() -> None:
    ear, seen = Ear(), []
    evolved(observers=[ear, seen.append])
    assert ear.heard == ["64/300", "128/300", "192/300", "256/300", "300/300", "begin 0 of 4", "end 4"]
    assert [step.generation for step in seen] == [1, 2, 3, 4]


def test_a_budget_of_samples_is_never_passed() -> None:
    result = evolved(refine=ne.sgd(steps=3, batch_size=20), budget=ne.Budget(samples=10_000), every=100)
    assert 9_000 < result.cost.samples <= 10_000
    assert result.stop_reason == "samples"


MODEL = nn.Linear(8, 3)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"model": None}, "model: data go with a model"),
        ({"start": torch.ones(3)}, "start: a model given with data starts from its own weights"),
        ({"data": None, "fitness": None}, "fitness: a function expected; a metric by name goes with data"),
        ({"data": None, "fitness": len, "refine": "sgd"}, "refine: goes with data"),
        ({"data": None, "fitness": len, "samples": 3}, "samples: goes with data"),
        ({"fitness": "f7"}, "fitness.name: no metric is called 'f7'"),
        ({"fitness": {"name": "top_k", "k": 0}}, "fitness.k: 0 given"),
        ({"fitness": lambda module: "good"}, "fitness: good returned; a number, or numbers by name, expected"),
        ({"fitness": 3}, "fitness: a metric expected, a int given"),
        ({"fitness": ["accuracy", "accuracy"]}, "fitness: metrics of different names expected"),
        ({"fitness": []}, "fitness: metrics of different names expected"),
        ({"validate": "weight_norm"}, "validate: weight_norm is of the weights alone"),
        (
            {"fitness": {"name": "top_k", "k": 1}, "validate": {"name": "top_k", "k": 2}},
            "validate: top_k is also fitness",
        ),
        ({"fitness": ["accuracy", "brier"], "algorithm": ne.snes()}, "algorithm: many objectives go with ga"),
        ({"algorithm": "gaa"}, "algorithm.name: no algorithm is called 'gaa'"),
        ({"algorithm": 256}, r"algorithm: ga\(\), a name or a mapping expected, a int given"),
        ({"algorithm": ne.ga(population=2**31)}, "algorithm: 2,147,483,648 individuals"),
        ({"refine": ne.sgd}, r"refine: sgd\(steps=20\), a name or a mapping expected"),
        ({"refine": {"dropout": 0.2}}, "dropout: Linear has no dropout layer"),
        ({"trainable": "fc"}, "trainable: fc matches no parameter of Linear; it has: weight, bias"),
        ({"trainable": "bias", "standardise": True}, "standardise: the head has no bias that evolves"),
        ({"samples": 0}, "samples: 0 given"),
        ({"samples": "some"}, "samples: 'some' given"),
        ({"every": True}, "every: True given"),
        ({"patience": 1.5}, "patience: 1.5 given"),
        ({"seed": -1}, "seed: -1 given"),
        ({"seed": 0.5}, "seed: 0.5 given"),
        ({"samples": np.int64(50), "seed": np.int64(1)}, None),
        ({"sigma": -1.0}, "sigma: -1.0 given"),
        ({"budget": 100}, r"budget: Budget\(generations=100\) or another expected"),
        ({"budget": ne.Budget(samples=3)}, "budget: the samples allowed are too few"),
        ({"data": (X, Y % 2)}, None),
        ({"data": (X, torch.arange(300) % 4)}, "data: labels are 0, 1, 2, 3: 4 classes, and the model gives 3 logits"),
        ({"device": "tpu"}, "device: 'tpu' is not on this machine"),
    ],
)
def test_what_cannot_be_is_a_value_error_that_names_the_option(given: dict[str, Any], line: str | None) -> None:
    options: dict[str, Any] = {"model": MODEL, "data": (X, Y), "budget": ne.Budget(generations=1), **given}
    if line is None:
        ne.evolve(**options)
        return
    with pytest.raises(InputError, match=f"^{line}"):
        ne.evolve(**options)


class Once(nn.Module):
    """What can be put through it, but learns nothing: it has a step that gradients don't go through."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.from_numpy(self.a(x).detach().numpy()))


def test_a_module_that_cannot_learn_is_named_by_a_line() -> None:
    with pytest.raises(InputError, match=r"^model: Once can't be trained behind its cut \("):
        ne.evolve(Once(), (X, Y), trainable="*", refine="sgd")


def test_logits_that_are_no_numbers_are_the_models_fault() -> None:
    model = nn.Linear(8, 3)
    with torch.no_grad():
        model.weight.fill_(3e38)
    with pytest.raises(InputError, match="^model: its logits are NaN or infinite"):
        ne.evolve(model, (X * 100, Y), standardise=False)
