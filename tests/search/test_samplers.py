"""Samplers on a space of their own: they stay in the cube, find its best, and are the same again when resumed."""

import builtins
from typing import Any

import pytest
import torch
from torch import Tensor

from neuroevo.engine.rng import Context, generator
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError, RunError
from neuroevo.search.samplers import SAMPLERS, Sampler, hypercube
from neuroevo.search.space import Space, boolean, integer, real, sequence, space

CPU = torch.device("cpu")
SPACE = space({
    "x": (real(low=0, high=1), {}),
    "y": (real(low=1e-3, high=1, scale="log"), {}),
    "hidden": (sequence(low=0, high=2, item=lambda: integer(low=1, high=8)), {}),
    "flag": (boolean(), {}),
})  # fmt: skip


def context(generation: int, seed: int = 0) -> Context:
    return Context(seed, generation, 0.0, CPU)


def value(s: Space, position: list[float]) -> float:
    """A hill at x = 0.3, y = 0.1, two items, flag set."""
    found = s.settings(position)
    y = position[[c.name for c in s.coordinates].index("y")]
    return -((found["x"] - 0.3) ** 2) - (y - 2 / 3) ** 2 - 0.1 * (2 - len(found["hidden"])) - 0.1 * (not found["flag"])


def searched(sampler: Sampler, s: Space, generations: int, seed: int = 0, state: Any = None, first: int = 1) -> Any:
    state = sampler.init(torch.full((1, len(s.coordinates)), 0.5), 0.0, context(0, seed)) if state is None else state
    asked: list[Tensor] = []
    best = -torch.inf
    for generation in range(first, first + generations):
        population = sampler.ask(state, context(generation, seed))
        asked.append(population.genomes)
        values = torch.tensor([value(s, p) for p in population.genomes.tolist()], dtype=torch.float64)
        best = max(best, float(values.max()))
        state = sampler.tell(state, population, Scores(values[:, None], torch.zeros(len(values)).bool()))
    return state, asked, best


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_stay_in_the_cube_and_are_the_same_for_the_same_seed(name: str) -> None:
    _, asked, _ = searched(SAMPLERS[name](SPACE, population=4), SPACE, 4)
    _, again, _ = searched(SAMPLERS[name](SPACE, population=4), SPACE, 4)
    _, other, _ = searched(SAMPLERS[name](SPACE, population=4), SPACE, 1, seed=1)
    for positions in asked:
        assert positions.shape[1] == 6
        assert bool(((positions >= 0) & (positions <= 1)).all())
    assert all(torch.equal(a, b) for a, b in zip(asked, again, strict=True))
    assert not torch.equal(asked[0], other[0])


@pytest.mark.parametrize("name", ["pso", "optuna/tpe"])
def test_samplers_come_nearer_than_chance(name: str) -> None:
    """By the mean of three seeds, at 64 trials."""
    found = [searched(SAMPLERS[name](SPACE, population=8), SPACE, 8, seed)[2] for seed in range(3)]
    chance = [searched(SAMPLERS["random"](SPACE, population=8), SPACE, 8, seed)[2] for seed in range(3)]
    assert sum(found) > sum(chance)
    assert max(found) > -0.02


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_built_anew_goes_on_from_its_state(name: str) -> None:
    build = lambda: SAMPLERS[name](SPACE, population=3)  # noqa: E731
    _, whole, _ = searched(build(), SPACE, 6)
    state, _, _ = searched(build(), SPACE, 4)
    anew = build()
    _, rest, _ = searched(anew, SPACE, 2, state=state, first=5)
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert torch.equal(anew.ask(state, context(5)).genomes, whole[4])  # asked once more, as if it hadn't gone on


def test_a_swarm_begins_on_a_latin_hypercube() -> None:
    positions = hypercube(10, 3, generator(0, "test", 0))
    for side in positions.T:
        assert sorted((10 * side).long().tolist()) == list(range(10))
    first = searched(SAMPLERS["pso"](SPACE, population=10), SPACE, 1)[1][0]
    for side in first.T:
        assert sorted((10 * side).long().tolist()) == list(range(10))


def test_a_particle_is_thrown_back_at_the_border() -> None:
    """Its best is at the border itself: the swarm gathers there without standing on it."""
    s = space({"x": (real(low=0, high=1), {})})
    sampler = SAMPLERS["pso"](s, population=5)
    state = sampler.init(torch.full((1, 1), 0.5), 0.0, context(0))
    seen = []
    for generation in range(1, 16):
        population = sampler.ask(state, context(generation))
        seen += population.genomes[-5:, 0].tolist()
        values = population.genomes.double()
        state = sampler.tell(state, population, Scores(values, torch.zeros(len(values)).bool()))
    assert max(seen) > 0.999
    assert len({x for x in seen if 0 < x < 1}) > 70  # of 75


def test_random_draws_all_of_the_cube() -> None:
    _, asked, _ = searched(SAMPLERS["random"](SPACE, population=50), SPACE, 40)
    positions = torch.cat(asked)
    assert len(positions) == 2000
    assert float((positions.mean(0) - 0.5).abs().max()) < 0.03
    assert float((positions.std(0) - 12**-0.5).abs().max()) < 0.02


def test_trials_that_failed_are_told_so() -> None:
    sampler = SAMPLERS["optuna/tpe"](SPACE, population=2)
    state = sampler.init(torch.full((1, 6), 0.5), 0.0, context(0))
    for generation in range(1, 4):
        population = sampler.ask(state, context(generation))
        values = torch.tensor([[-torch.inf], [1.0]], dtype=torch.float64)
        state = sampler.tell(state, population, Scores(values, values.isinf().squeeze(1)))
    assert len(state.fitness) == 6
    assert len(SAMPLERS["optuna/tpe"](SPACE, population=2).ask(state, context(4)).genomes) == 2


def test_an_optuna_that_proposes_otherwise_is_found_out() -> None:
    sampler = SAMPLERS["optuna/tpe"](SPACE, population=2)
    state, _, _ = searched(sampler, SPACE, 3)
    changed = state._replace(positions=state.positions + 0.01)
    with pytest.raises(RunError, match="proposes other trials than it did before"):
        SAMPLERS["optuna/tpe"](SPACE, population=2).ask(changed, context(4))


def test_without_optuna_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "optuna":
            raise ModuleNotFoundError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r"pip install 'neuroevo\[tune\]'"):
        SAMPLERS["optuna/tpe"](SPACE).init(torch.full((1, 6), 0.5), 0.0, context(0))
