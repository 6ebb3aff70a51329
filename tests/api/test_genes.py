"""Spaces from Python."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.networks import spaces
from neuroevo.networks.spaces import SPACES

X = torch.randn(240, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * 2 > X[:, 1]).long() + (X[:, 2] > 0.5).long()


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body, self.norm, self.head = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)).relu())  # type: ignore[no-any-return]


COORDINATES = [name for name in SPACES if name not in ("full", "levels")]
SHORT = {"budget": ne.Budget(generations=6), "samples": 60, "every": 2}


def given(name: str) -> dict[str, Any]:
    space = {"name": name, "directions": 20} if name == "random" else name
    return {"space": space, "sources": [Net(1), Net(2).state_dict()] if name == "merge" else []}


@pytest.mark.parametrize("name", COORDINATES)
def test_a_classifier_is_evolved_in_a_space(name: str, tmp_path: Path) -> None:
    net = Net(0)
    result = ne.evolve(net, (X, Y), trainable="*", out=tmp_path / "r", **given(name), **SHORT)
    assert result.genome.shape[0] < 120
    assert result.model is not None
    own = result.model.state_dict()
    assert own.keys() == net.state_dict().keys()
    logits = result.model(X)
    assert torch.equal(ne.load(tmp_path / "r", net).model(X), logits)
    part = ne.evolve(net, (X, Y), trainable="*", out=tmp_path / "p", **given(name), **SHORT | {"budget": ne.Budget(generations=2)})  # fmt: skip  # noqa: E501
    assert len(part.history) == 2
    sources = given(name)["sources"]
    again = ne.resume(tmp_path / "p", net, (X, Y), sources=sources, budget=ne.Budget(generations=6))
    assert torch.equal(again.population.genomes, result.population.genomes)
    if sources:
        with pytest.raises(ne.InputError, match="^sources: were given as objects when the run began; give them again"):
            ne.resume(tmp_path / "p", net, (X, Y), budget=ne.Budget(generations=8))
        with pytest.raises(ne.InputError, match="sources"):
            ne.resume(tmp_path / "p", net, (X, Y), sources=[Net(1), Net(3)], budget=ne.Budget(generations=8))


class Normal(Net):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.norm = nn.BatchNorm1d(7)  # type: ignore[assignment]
        assert self.norm.running_mean is not None
        self.norm.running_mean += seed


def test_statistics_of_sources_that_differ_are_no_genes() -> None:
    line = r"^sources: sources\[1\] has another norm.running_mean, which is no weight: no space has a gene for it"
    given: dict[str, Any] = {"space": "merge", "sources": [Normal(0), Normal(1)]}
    with pytest.raises(ne.InputError, match=line):
        ne.evolve(Normal(0), (X, Y), trainable="*", **given)
    with pytest.raises(ne.InputError, match=line):
        ne.evolve(Normal(0), fitness=hits, **given)


def test_a_merge_of_networks_finds_the_one_that_has_learnt() -> None:
    learnt = ne.evolve(Net(1), (X, Y), trainable="*", refine=ne.adam(steps=20, lr=0.02), algorithm=ne.ga(population=4),
                       budget=ne.Budget(generations=5), samples=60).model  # fmt: skip
    assert learnt is not None
    found = ne.evolve(Net(0), (X, Y), trainable="*", space={"name": "merge", "how": "convex", "per": "network"},
                      sources=[learnt, Net(2)], sigma=1.0, budget=ne.Budget(generations=20))  # fmt: skip
    assert found.genome.shape == (2,)
    share = found.genome.softmax(0)
    assert share[0] > 0.7
    assert found.model is not None
    mixed = share[0] * learnt.state_dict()["head.weight"] + share[1] * Net(2).head.weight
    torch.testing.assert_close(found.model.state_dict()["head.weight"], mixed.detach(), rtol=1e-3, atol=1e-4)


def hits(module: nn.Module) -> float:
    """Return a score without a gradient."""
    return float((module(X).argmax(1) == Y).double().mean())


@pytest.mark.parametrize("name", COORDINATES)
def test_a_function_of_a_module_is_evolved_in_a_space(name: str) -> None:
    found = ne.evolve(Net(0), fitness=hits, **given(name), budget=ne.Budget(generations=8))
    assert found.model is not None
    assert hits(found.model) == pytest.approx(found.fitness)
    assert found.fitness > (hits(Net(0)) if name != "merge" else 0)


def test_a_space_of_ones_own_is_a_function_of_its_origin() -> None:
    def shift(origin: spaces.Origin) -> spaces.Space:
        around = origin.around()
        layout = spaces.Layout(("shift",), ((1,),))
        return spaces.Space(
            layout,
            lambda parts: {name: w + parts["shift"].view(-1, *[1] * (w.ndim - 1)) for name, w in around.items()},
            lambda: torch.zeros(1, 1),
        )

    found = ne.evolve(Net(0), fitness=lambda module: -abs(float(module.head.bias[0]) - 3), space=shift,
                      budget=ne.Budget(generations=30))  # fmt: skip
    assert found.fitness > -0.1
    found = ne.evolve(
        Net(0), fitness=hits, space=partial(spaces.scales, layers=["norm"]), budget=ne.Budget(generations=2)
    )
    assert found.genome.shape == (14,)


@pytest.mark.parametrize("trainable", ["head", "*"])
def test_levels_are_whole_numbers_from_python(trainable: str) -> None:
    result = ne.evolve(Net(0), (X, Y), trainable=trainable, space={"name": "levels", "levels": "ternary"}, **SHORT)
    assert result.model is not None
    rows = result.model.state_dict()["head.weight"]
    levels = rows / rows.abs().amax(1, keepdim=True)
    assert ((levels == 0) | (levels.abs() > 0.999)).all()


def test_a_ga_by_name_moves_levels_in_whole_steps_as_the_default_does() -> None:
    default, named = (
        ne.evolve(Net(0), (X, Y), space="levels", budget=ne.Budget(generations=2), algorithm=algorithm)
        for algorithm in (None, "ga")
    )
    assert torch.equal(default.genome, named.genome)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda: ne.evolve(Net(0), (X, Y), space="merg"),
            "space.name: no space is called 'merg' (did you mean merge?)",
        ),
        (lambda: ne.evolve(Net(0), (X, Y), space="merge"), "space.name: merge is among two networks or more, and none"),
        (lambda: ne.evolve(Net(0), (X, Y), space=3), "space: a name, a mapping or a function expected, a int given"),
        (lambda: ne.evolve(Net(0), (X, Y), sources=[Net(1)]), "sources: networks to be around go with a space"),
        (
            lambda: ne.evolve(Net(0), (X, Y), space="scales", sources=Net(1)),
            "sources: a list of modules, or of weights",
        ),
        (lambda: ne.evolve(Net(0), (X, Y), space="scales", sources=[3]), "sources: a module, or its weights by name"),
        (
            lambda: ne.evolve(Net(0), (X, Y), space="merge", trainable="*", sources=[Net(1), nn.Linear(2, 2)]),
            "sources[1]: not of this network's layout",
        ),
        (
            lambda: ne.evolve(Net(0), (X, Y), space="merge", sources=[Net(1), Net(2)]),
            "sources: sources[0] has another body.weight, which doesn't evolve here; name it in trainable",
        ),
        (
            lambda: ne.evolve(Net(0), fitness=hits, space="scales", sources=[nn.Linear(2, 2)]),
            "sources: sources[0] has nothing for body.weight",
        ),
        (
            lambda: ne.evolve(start=torch.zeros(3), fitness=hits, space="scales"),
            "space: genes of a function of genomes",
        ),
        (
            lambda: ne.evolve(Net(0), (X, Y), space=lambda origin: 3),
            "space: a function of Origin that returns a Space expected",
        ),
        (
            lambda: ne.evolve(Net(0), fitness=hits, space=lambda origin: 3),
            "space: a function of Origin that returns a Space expected",
        ),
        (lambda: ne.evolve(Net(0), (X, Y), space="levels", refine=ne.sgd(steps=1)), "refine: gradient steps leave"),
        (
            lambda: ne.evolve(Net(0), (X, Y), space="levels", algorithm={"name": "ga", "mutation": "gaussian"}),
            "algorithm: mutation gaussian, but levels of space move in whole steps; use levels",
        ),
        (lambda: ne.evolve(Net(0), (X, Y), space="levels", standardise=True), "standardise: true, but what is folded"),
    ],
)
def test_what_cant_be_is_said_in_a_line(call: Callable[[], object], line: str) -> None:
    with pytest.raises(ne.InputError) as refused:
        call()
    assert str(refused.value).startswith(line), str(refused.value)
