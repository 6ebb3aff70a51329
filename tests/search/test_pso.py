"""Particle swarms, against one in plain loops."""

from typing import Any

import numpy as np
import pytest
import torch
from reference_searches import NOBODY, G, context, scored, scores, worth
from torch import Tensor

from neuroevo.engine.genome import Population, noisy
from neuroevo.engine.rng import generator
from neuroevo.search.algorithms.pso import Swarm, bests, pso


def plain(
    start: Tensor, sigma: Any, n: int, generations: int, inertia: float, cognitive: float, social: float,
    max_velocity: float | None, neighbours: int | None, device: torch.device,
) -> list[Any]:  # fmt: skip
    """Return the genomes that each generation scores, from the same random numbers."""
    sigma = sigma.cpu() if isinstance(sigma, Tensor) else torch.full((G,), sigma)
    x = noisy(start, n, sigma.to(device), generator(0, "init", 0, device)).cpu().double().numpy()
    v = torch.randn(n, G, generator=generator(0, "velocity", 0, device), device=device).cpu() * sigma
    v = v.double().numpy()
    best = x.copy()
    of_x = [worth(genome, 1) for genome in x]
    of_best = list(of_x)
    asked = [x.copy()]
    for generation in range(2, generations + 1):
        source = generator(0, "move", generation, device)
        r1 = torch.rand(n, G, generator=source, device=device).cpu().double().numpy()
        r2 = torch.rand(n, G, generator=source, device=device).cpu().double().numpy()
        for i in range(n):
            if of_x[i] > of_best[i]:
                best[i], of_best[i] = x[i], of_x[i]
        swarms = max(range(n), key=lambda i: of_best[i])
        leaders = []
        for i in range(n):
            leader = swarms
            if neighbours is not None:
                around = [j % n for j in range(i - neighbours, i + neighbours + 1)]
                leader = max(around, key=lambda j: of_best[j])
                if of_best[leader] == NOBODY:
                    leader = swarms
            leaders.append(best[leader].copy())
        for i in range(n):
            if of_best[i] == NOBODY:
                best[i] = leaders[i]
            if of_x[i] == NOBODY:
                x[i], v[i] = best[i], 0
            for j in range(G):
                v[i, j] = (
                    inertia * v[i, j]
                    + cognitive * r1[i, j] * (best[i, j] - x[i, j])
                    + social * r2[i, j] * (leaders[i][j] - x[i, j])
                )
                if max_velocity is not None:
                    limit = max_velocity * float(sigma[j])
                    v[i, j] = min(max(v[i, j], -limit), limit)
                x[i, j] += v[i, j]
        asked.append(np.concatenate([best, x]))
        of_best, of_x = ([worth(genome, generation) for genome in genomes] for genomes in (best, x))
    return asked


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("neighbours", [None, 1, 2])
@pytest.mark.parametrize("max_velocity", [None, 0.7])
@pytest.mark.parametrize("each", [False, True])
def test_a_swarm_is_the_one_in_plain_loops(
    n: int, neighbours: int | None, max_velocity: float | None, each: bool, device: torch.device
) -> None:
    start = torch.linspace(-1, 1, 2 * G).view(2, G).to(device)
    sigma = torch.linspace(0.1, 1, G).to(device) if each else 0.5
    algorithm = pso(
        population=n, inertia=0.8, cognitive=1.1, social=1.7, max_velocity=max_velocity,
        neighbourhood="global" if neighbours is None else "ring", neighbours=neighbours or 1,
    )  # fmt: skip
    expected = plain(start, sigma, n, 6, 0.8, 1.1, 1.7, max_velocity, neighbours, device)
    state, invalid = algorithm.init(start, sigma, context(0, device)), 0
    for generation in range(1, 7):
        population = algorithm.ask(state, context(generation, device))
        found = population.genomes.cpu().numpy()
        assert found.shape == expected[generation - 1].shape
        assert np.allclose(found, expected[generation - 1], atol=1e-5)
        state = algorithm.tell(state, population, scored(population, generation))
        invalid += int((state.fitness == NOBODY).sum())
    assert n < 7 or invalid > 0  # they were among those compared


def told(algorithm: Any, state: Swarm, generation: int, values: Any) -> tuple[Swarm, Population]:
    population = algorithm.ask(state, context(generation))
    return algorithm.tell(state, population, scores(values)), population


def begun(algorithm: Any, sigma: float = 0.1, start: Tensor | None = None) -> Swarm:
    found: Swarm = algorithm.init(torch.zeros(1, G) if start is None else start, sigma, context(0))
    return found


def test_personal_bests_are_asked_again_before_the_positions_from_the_second_generation_on() -> None:
    algorithm = pso(population=3)
    state, first = told(algorithm, begun(algorithm), 1, [1.0, 2, 3])
    assert len(first.genomes) == 3
    state, second = told(algorithm, state, 2, [1.0, 2, 3, 0, 5, 4])
    assert len(second.genomes) == 6
    assert torch.equal(second.genomes[:3], first.genomes)
    assert second.parents.tolist() == [[0, -1, -1], [1, -1, -1], [2, -1, -1], [0, 0, 2], [1, 1, 2], [2, 2, 2]]
    third = algorithm.ask(state, context(3))
    assert torch.equal(third.genomes[:3], second.genomes[[0, 4, 5]])
    assert third.parents.tolist() == [[0, -1, -1], [4, -1, -1], [5, -1, -1], [3, 0, 4], [4, 4, 4], [5, 5, 4]]


def test_a_personal_best_that_does_badly_on_a_new_batch_gives_way_and_one_that_is_equalled_stays() -> None:
    algorithm = pso(population=2)
    state, _ = told(algorithm, begun(algorithm), 1, [9.0, 9])
    state, second = told(algorithm, state, 2, [1.0, 2, 1.5, 2])
    third = algorithm.ask(state, context(3))
    assert torch.equal(third.genomes[:2], second.genomes[[2, 1]])


def test_nobody_moves_without_inertia_and_pulls() -> None:
    algorithm = pso(population=5, inertia=0, cognitive=0, social=0)
    state, first = told(algorithm, begun(algorithm), 1, range(5))
    for generation in (2, 3, 4):
        state, population = told(algorithm, state, generation, range(10))
        assert torch.equal(population.genomes, torch.cat([first.genomes, first.genomes]))


def test_by_inertia_alone_a_particle_moves_on_as_it_did() -> None:
    algorithm = pso(population=5, inertia=0.5, cognitive=0, social=0)
    state = begun(algorithm)
    step = state.velocity
    assert 0.05 < float(step.std()) < 0.2
    state, population = told(algorithm, state, 1, range(5))
    for generation in (2, 3, 4):
        before, step = population.genomes[-5:], step / 2
        state, population = told(algorithm, state, generation, range(10))
        assert torch.allclose(population.genomes[5:] - before, step, atol=1e-6)
        assert torch.allclose(state.velocity, step, atol=1e-6)


def test_a_pull_ends_between_the_particle_and_where_it_is_pulled() -> None:
    algorithm = pso(population=4, inertia=0, cognitive=0, social=1, max_velocity=None)
    state, first = told(algorithm, begun(algorithm), 1, [0.0, 3, 1, 2])
    _, second = told(algorithm, state, 2, range(8))
    low, high = (f(first.genomes, first.genomes[1]) for f in (torch.minimum, torch.maximum))
    assert bool(((second.genomes[4:] >= low) & (second.genomes[4:] <= high)).all())
    assert torch.equal(second.genomes[5], first.genomes[1])
    assert not torch.equal(second.genomes[4], first.genomes[0])


def test_genomes_larger_than_a_block_move_likewise() -> None:
    algorithm = pso(population=3, inertia=0, cognitive=0, social=1, max_velocity=None)
    state, first = told(algorithm, algorithm.init(torch.zeros(1, 50001), 0.1, context(0)), 1, [0.0, 1, 2])
    _, second = told(algorithm, state, 2, range(6))
    share = (second.genomes[3:5] - first.genomes[:2]) / (first.genomes[2] - first.genomes[:2])
    assert bool(((share > -1e-3) & (share < 1 + 1e-3)).all())
    assert [round(float(row.mean()), 2) for row in share] == [0.5, 0.5]
    assert len(share[0].unique()) > 40000


@pytest.mark.parametrize("each", [False, True])
def test_no_gene_moves_by_more_than_the_highest_velocity(each: bool) -> None:
    sigma = torch.linspace(0.1, 1, G) if each else torch.tensor(0.1)
    algorithm = pso(population=5, max_velocity=0.25)
    state = algorithm.init(torch.linspace(-9, 9, 5 * G).view(5, G), sigma, context(0))
    state, population = told(algorithm, state, 1, range(5))
    for generation in (2, 3, 4):
        before = population.genomes[-5:]
        state, population = told(algorithm, state, generation, range(10))
        moved = (population.genomes[5:] - before).abs()
        assert bool((moved <= 0.25 * sigma + 1e-6).all())
        assert bool((moved > 0.25 * sigma - 1e-6).any())


def test_without_a_deviation_from_one_start_nobody_moves() -> None:
    algorithm, start = pso(population=3), torch.randn(1, G)
    state, _ = told(algorithm, begun(algorithm, 0.0, start), 1, range(3))
    _, second = told(algorithm, state, 2, range(6))
    assert torch.equal(second.genomes, start.expand(6, G))


def test_what_a_particle_learnt_is_part_of_its_movement() -> None:
    algorithm = pso(population=3, inertia=1, cognitive=0, social=0, max_velocity=None)
    state, first = told(algorithm, begun(algorithm, 0.0), 1, range(3))
    asked = algorithm.ask(state, context(2))
    learnt = asked._replace(genomes=asked.genomes + 0.5)
    state = algorithm.tell(state, learnt, scores(range(6)))
    assert torch.equal(state.velocity, torch.full((3, G), 0.5))
    assert torch.equal(algorithm.ask(state, context(3)).genomes[3:], first.genomes + 1)


def test_a_particle_that_diverged_goes_back_to_its_personal_best_and_spoils_nobody() -> None:
    algorithm = pso(population=3)
    state, _ = told(algorithm, begun(algorithm), 1, [1.0, 2, 3])
    asked = algorithm.ask(state, context(2))
    asked.genomes[3] = torch.nan
    state = algorithm.tell(state, asked, scores([1.0, 2, 3, NOBODY, 1, 1]))
    state, third = told(algorithm, state, 3, range(6))
    assert third.parents[3].tolist() == [0, 0, 2]
    assert bool(third.genomes.isfinite().all())
    assert torch.equal(third.genomes[0], asked.genomes[0])
    fourth = algorithm.ask(state, context(4))
    assert bool(fourth.genomes.isfinite().all())


@pytest.mark.parametrize("neighbourhood", ["global", "ring"])
def test_a_particle_that_never_was_valid_goes_by_the_best(neighbourhood: Any) -> None:
    algorithm = pso(population=5, neighbourhood=neighbourhood)
    state = begun(algorithm)
    state.population.genomes[1:4] = torch.inf
    state, first = told(algorithm, state, 1, [1.0, NOBODY, NOBODY, NOBODY, 2])
    second = algorithm.ask(state, context(2))
    assert bool(second.genomes.isfinite().all())
    # In the ring the second is beside the first; the third has no valid neighbour.
    assert torch.equal(second.genomes[:5], first.genomes[[0, 0 if neighbourhood == "ring" else 4, 4, 4, 4]])


def test_a_ring_as_wide_as_the_swarm_is_the_whole_swarm() -> None:
    swarms = [
        pso(population=7),
        pso(population=7, neighbourhood="ring", neighbours=3),
        pso(population=7, neighbourhood="ring", neighbours=99),
    ]
    third = []
    for algorithm in swarms:
        state, _ = told(algorithm, begun(algorithm), 1, [1.0, 5, 2, 3, 7, 0, 4])
        state, _ = told(algorithm, state, 2, np.sin(np.arange(14)))
        third.append(algorithm.ask(state, context(3)).genomes)
    assert torch.equal(third[0], third[1])
    assert torch.equal(third[0], third[2])


def test_bests_are_those_of_the_particle_and_of_its_neighbourhood() -> None:
    fitness = torch.tensor([3.0, 1, 5, NOBODY, 2, 4, 1, 5, NOBODY, 0])
    own, leaders = bests(fitness, 5, None)
    assert own.tolist() == [5, 1, 2, 2, 4]
    assert leaders.tolist() == [2] * 5
    own, leaders = bests(fitness, 5, 1)
    assert own.tolist() == [5, 1, 2, 2, 4]
    assert leaders.tolist() == [5, 2, 2, 2, 5]
    own, leaders = bests(fitness[:5], 5, 1)  # of positions alone
    assert own.tolist() == [0, 1, 2, 2, 4]
    assert leaders.tolist() == [0, 2, 2, 2, 0]


@pytest.mark.parametrize("neighbourhood", ["global", "ring"])
def test_a_swarm_none_of_which_is_valid_is_not_drawn_together(neighbourhood: Any) -> None:
    algorithm = pso(population=5, neighbourhood=neighbourhood)
    state, first = told(algorithm, begun(algorithm), 1, [NOBODY] * 5)
    state, second = told(algorithm, state, 2, [NOBODY] * 10)
    assert torch.equal(second.genomes[:5], first.genomes)
    assert torch.equal(algorithm.ask(state, context(3)).genomes[:5], first.genomes)
    assert len(second.genomes[5:].unique(dim=0)) == 5


def test_traits_stay_with_their_rows() -> None:
    algorithm = pso(population=3)
    state = begun(algorithm)
    first = algorithm.ask(state, context(1))._replace(traits={"lr": torch.tensor([1.0, 2, 3])})
    state = algorithm.tell(state, first, scores([0.0, 2, 1]))
    second = algorithm.ask(state, context(2))
    assert second.traits["lr"].tolist() == [1, 2, 3, 1, 2, 3]
    second = second._replace(traits={"lr": torch.tensor([1.0, 2, 3, 10, 20, 30])})
    state = algorithm.tell(state, second, scores([0.0, 2, NOBODY, 5, 1, NOBODY]))
    assert algorithm.ask(state, context(3)).traits["lr"].tolist() == [10, 2, 10, 10, 20, 10]


def test_candidates_are_the_swarms_best_and_the_mean_of_the_personal_bests() -> None:
    algorithm = pso(population=2)
    genomes = torch.arange(4.0).square()[:, None].expand(4, G).clone()
    state = Swarm(
        Population.new(genomes, parents=3),
        torch.tensor([1.0, 3, 2, NOBODY]).double(),
        torch.zeros(2, G),
        torch.tensor(0.1),
    )
    found = algorithm.candidates(state)
    assert float(found["best"][0]) == 1
    assert float(found["personal_mean"][0]) == 2.5
    assert algorithm.candidates(state._replace(fitness=torch.full((4,), NOBODY))) == {}


def test_it_climbs_a_sphere() -> None:
    algorithm, target = pso(population=30), torch.linspace(-1, 1, G)
    state = begun(algorithm, 0.3)
    for generation in range(1, 60):
        population = algorithm.ask(state, context(generation))
        state = algorithm.tell(state, population, scores(-(population.genomes - target).square().sum(1)))
    assert float((algorithm.candidates(state)["best"] - target).square().sum()) < 0.01
