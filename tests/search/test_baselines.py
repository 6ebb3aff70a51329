from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from reference_searches import NOBODY, G, context, scores, worth
from torch import Tensor

from neuroevo.engine.genome import Population, noisy
from neuroevo.engine.rng import generator
from neuroevo.search.algorithms.baselines import Incumbent, hill_climbing, random

both = pytest.mark.parametrize("build", [random, hill_climbing])


def told(algorithm: Any, state: Incumbent, generation: int, values: Any) -> tuple[Incumbent, Population]:
    population = algorithm.ask(state, context(generation))
    return algorithm.tell(state, population, scores(values)), population


def begun(algorithm: Any, sigma: float = 0.1, start: Tensor | None = None) -> Incumbent:
    found: Incumbent = algorithm.init(torch.zeros(1, G) if start is None else start, sigma, context(0))
    return found


def plain(climbs: bool, start: Tensor, sigma: Any, step: Any, n: int, generations: int, device: torch.device) -> Any:
    """Return the genomes that each generation scores, from the same random numbers."""
    s, start_ = len(start), start.cpu().double().numpy()
    sigma_, step_ = (np.broadcast_to(torch.as_tensor(x).cpu().double().numpy(), (G,)) for x in (sigma, step))
    genomes = list(noisy(start, n, sigma, generator(0, "init", 0, device)).cpu().double().numpy())
    asked = [np.stack(genomes)]
    for generation in range(2, generations + 1):
        values = [worth(genome, generation - 1) for genome in genomes]
        best = genomes[max(range(n), key=lambda i: values[i])]
        if climbs:
            source = generator(0, "mutation", generation, device)
            noise = torch.randn(n, G, generator=source, device=device).cpu().double().numpy()
            genomes = [best] + [best + step_ * noise[i] for i in range(1, n)]
        else:
            source = generator(0, "sample", generation, device)
            noise = torch.randn(s + n - 1, G, generator=source, device=device).cpu().double().numpy()
            genomes = [best] + [start_[i % s] + sigma_ * noise[s + i] for i in range(n - 1)]
        asked.append(np.stack(genomes))
    return asked


@pytest.mark.parametrize("climbs", [False, True])
@pytest.mark.parametrize("step", [None, 0.3])
@pytest.mark.parametrize("n", [2, 7])
@pytest.mark.parametrize("s", [1, 3])
@pytest.mark.parametrize("each", [False, True])
def test_they_are_those_in_plain_loops(
    climbs: bool, step: float | None, n: int, s: int, each: bool, device: torch.device
) -> None:
    start = torch.linspace(-1, 1, s * G).view(s, G).to(device)
    sigma = torch.linspace(0.1, 1, G).to(device) if each else 0.5
    algorithm = hill_climbing(population=n, sigma=step) if climbs else random(population=n)
    expected = plain(climbs, start, sigma, sigma if step is None else step, n, 5, device)
    state = algorithm.init(start, sigma, context(0, device))
    for generation in range(1, 6):
        population = algorithm.ask(state, context(generation, device))
        found = population.genomes.cpu().numpy()
        assert found.shape == expected[generation - 1].shape
        assert np.allclose(found, expected[generation - 1], atol=1e-5)
        state = algorithm.tell(state, population, scores([worth(row, generation) for row in found], device))


@both
def test_the_best_is_asked_again_first_and_stays_unless_it_is_beaten(build: Callable[..., Any]) -> None:
    algorithm = build(population=5)
    state, first = told(algorithm, begun(algorithm), 1, [1.0, 2, 5, NOBODY, 4])
    state, second = told(algorithm, state, 2, [3.0, 1, 3, 3, NOBODY])
    assert len(second.genomes) == 5
    assert torch.equal(second.genomes[0], first.genomes[2])
    assert second.parents.tolist() == [[2, -1]] + [[-1, -1] if build is random else [2, 2]] * 4
    state, third = told(algorithm, state, 3, [1.0, 1, 3, 1, 3])  # the best does badly on a new batch
    assert torch.equal(third.genomes[0], second.genomes[0])
    assert torch.equal(algorithm.ask(state, context(4)).genomes[0], third.genomes[2])


def test_random_search_draws_anew_around_the_starts_in_turn() -> None:
    start = torch.linspace(-9, 9, 2)[:, None].expand(2, G)
    algorithm = random(population=1001)
    state, first = told(algorithm, begun(algorithm, 0.1, start), 1, range(1001))
    second = algorithm.ask(state, context(2))
    assert not (second.genomes[1:, None] == first.genomes).all(2).any()
    for place in (0, 1):
        around = second.genomes[1 + place :: 2]
        assert float(around.mean()) == pytest.approx(float(start[place, 0]), abs=0.01)
        assert float(around.std()) == pytest.approx(0.1, abs=0.005)


def test_without_a_deviation_random_search_is_the_starts_and_hill_climbing_stands_still() -> None:
    start = torch.randn(2, G)
    algorithm = random(population=5)
    state, _ = told(algorithm, begun(algorithm, 0.0, start), 1, [0.0, 1, 0, 0, 0])
    assert torch.equal(algorithm.ask(state, context(2)).genomes, start[[1, 0, 1, 0, 1]])
    for sigma in (None, 0.0):
        climber = hill_climbing(population=5, sigma=sigma)
        state, first = told(climber, begun(climber, 0.0 if sigma is None else 1.0, start), 1, [0.0, 1, 0, 0, 0])
        assert torch.equal(climber.ask(state, context(2)).genomes, first.genomes[1].expand(5, G))


def test_hill_climbing_steps_by_its_own_sigma_or_the_starting_deviation() -> None:
    for sigma, deviation in ((None, 0.1), (2.0, 2.0)):
        algorithm = hill_climbing(population=500, sigma=sigma)
        state, first = told(algorithm, begun(algorithm), 1, range(500))
        assert float(first.genomes[1:].std()) == pytest.approx(0.1, rel=0.1)
        steps = algorithm.ask(state, context(2)).genomes[1:] - first.genomes[-1]
        assert float(steps.std()) == pytest.approx(deviation, rel=0.1)


def test_traits_go_on_with_the_best_and_mutations_inherit_them() -> None:
    traits = {"lr": torch.arange(3.0), "velocity": torch.arange(3.0)[:, None].expand(3, G) + 1}
    expected = {random: ([2.0, 1, 2], [3.0, 0, 0]), hill_climbing: ([2.0, 2, 2], [3.0, 3, 3])}
    for build, (rates, velocities) in expected.items():
        algorithm = build(population=3)
        state = begun(algorithm)
        first = algorithm.ask(state, context(1))._replace(traits=traits)
        second = algorithm.ask(algorithm.tell(state, first, scores(range(3))), context(2))
        assert second.traits["lr"].tolist() == rates
        assert second.traits["velocity"].tolist() == [[v] * G for v in velocities]
    assert traits["velocity"][1, 0] == 2


@both
def test_the_candidate_is_the_best_and_never_invalid(build: Callable[..., Any]) -> None:
    algorithm = build(population=3)
    state, first = told(algorithm, begun(algorithm), 1, [NOBODY, 1, 2])
    assert torch.equal(algorithm.candidates(state)["best"], first.genomes[2])
    state, _ = told(algorithm, state, 2, [NOBODY] * 3)
    assert algorithm.candidates(state) == {}


def test_hill_climbing_climbs_a_sphere_further_than_random_search() -> None:
    target, reached = torch.linspace(-1, 1, G), []
    for build in (random, hill_climbing):
        algorithm = build(population=20)
        state = begun(algorithm)
        for generation in range(1, 60):
            population = algorithm.ask(state, context(generation))
            state = algorithm.tell(state, population, scores(-(population.genomes - target).square().sum(1)))
        reached.append(float(state.fitness.max()))
    assert reached[1] > -0.2 > reached[0]
