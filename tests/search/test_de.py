"""Differential evolution, against one in plain loops."""

from collections import Counter
from typing import Any, Literal

import numpy as np
import pytest
import torch
from reference_searches import NOBODY, G, context, scored, scores, worth
from torch import Tensor

from neuroevo.engine.genome import Population, noisy
from neuroevo.engine.rng import generator
from neuroevo.search.algorithms.base import GAState
from neuroevo.search.algorithms.de import DONORS, de, donors, survivors

Strategy = Literal["rand", "best", "current_to_best"]

strategies = pytest.mark.parametrize("strategy", ["rand", "best", "current_to_best"])


def drawn(fitness: list[float], source: torch.Generator) -> list[list[int]]:
    """Draw donors one after another from those that are left, in the order of rows."""
    n = len(fitness)
    shares = torch.stack(
        [torch.rand(n, generator=source, device=source.device, dtype=torch.float64) for _ in range(DONORS)]
    ).cpu()
    valid = [j for j in range(n) if fitness[j] > NOBODY]
    pool = valid if len(valid) > DONORS else valid + [j for j in range(n) if j not in valid]
    found = []
    for i in range(n):
        left = [j for j in pool if j != i]
        found.append([left.pop(int(shares[k, i] * len(left))) for k in range(DONORS)])
    return found


def plain(
    start: Tensor, sigma: float, n: int, generations: int, strategy: Strategy, weight: float, rate: float,
    device: torch.device,
) -> list[Any]:  # fmt: skip
    """Return the genomes that each generation scores, from the same random numbers."""
    targets = noisy(start, n, sigma, generator(0, "init", 0, device)).cpu().double().numpy()
    of_targets = [worth(genome, 1) for genome in targets]
    asked = [targets.copy()]
    for generation in range(2, generations + 1):
        abc = drawn(of_targets, generator(0, "donors", generation, device))
        source = generator(0, "crossover", generation, device)
        certain = torch.randint(G, (n, 1), generator=source, device=device).cpu()
        coins = torch.rand(n, G, generator=source, device=device).cpu()
        best = targets[max(range(n), key=lambda i: of_targets[i])]
        trials = []
        for i in range(n):
            a, b, c = (targets[j] for j in abc[i])
            current = targets[i] if of_targets[i] > NOBODY else a
            trial = current.copy()
            for j in range(G):
                if coins[i, j] < rate or j == certain[i]:
                    if strategy == "rand":
                        trial[j] = a[j] + weight * (b[j] - c[j])
                    elif strategy == "best":
                        trial[j] = best[j] + weight * (b[j] - c[j])
                    else:
                        trial[j] = current[j] + weight * (best[j] - current[j]) + weight * (b[j] - c[j])
            trials.append(trial)
        asked.append(np.concatenate([targets, trials]))
        of_targets = [worth(genome, generation) for genome in targets]
        for i in range(n):
            of_trial = worth(trials[i], generation)
            if of_trial >= of_targets[i]:
                targets[i], of_targets[i] = trials[i], of_trial
    return asked


@strategies
@pytest.mark.parametrize("n", [4, 5, 12])
@pytest.mark.parametrize(("weight", "rate"), [(0.5, 0.9), (0.8, 0.3), (0.5, 1.0)])
def test_it_is_the_one_in_plain_loops(
    strategy: Strategy, n: int, weight: float, rate: float, device: torch.device
) -> None:
    start = torch.linspace(-1, 1, 2 * G).view(2, G).to(device)
    algorithm = de(population=n, strategy=strategy, weight=weight, crossover_rate=rate)
    expected = plain(start, 0.5, n, 6, strategy, weight, rate, device)
    state, invalid, replaced = algorithm.init(start, 0.5, context(0, device)), 0, 0
    for generation in range(1, 7):
        population = algorithm.ask(state, context(generation, device))
        found = population.genomes.cpu().numpy()
        assert found.shape == expected[generation - 1].shape
        assert np.allclose(found, expected[generation - 1], atol=1e-5)
        state = algorithm.tell(state, population, scored(population, generation))
        invalid += int((state.fitness[:n] == NOBODY).sum())
        replaced += int((survivors(state.fitness, n) >= n).sum())
    assert n < 12 or (invalid > 0 and 0 < replaced < 5 * n)  # they were among those compared


def told(algorithm: Any, state: GAState, generation: int, values: Any) -> tuple[GAState, Population]:
    population = algorithm.ask(state, context(generation))
    return algorithm.tell(state, population, scores(values)), population


def begun(algorithm: Any, sigma: float = 0.1, start: Tensor | None = None) -> GAState:
    found: GAState = algorithm.init(torch.zeros(1, G) if start is None else start, sigma, context(0))
    return found


@strategies
def test_targets_are_asked_again_before_their_trials(strategy: Strategy) -> None:
    algorithm = de(population=5, strategy=strategy)
    state, first = told(algorithm, begun(algorithm), 1, [0.0, 3, 4, 1, 2])
    assert len(first.genomes) == 5
    state, second = told(algorithm, state, 2, [0.0, 0, 0, 0, 0, 1, -1, 0, NOBODY, 1])
    assert len(second.genomes) == 10
    assert torch.equal(second.genomes[:5], first.genomes)
    assert second.parents[:5].tolist() == [[i, -1, -1, -1] for i in range(5)]
    assert second.parents[5:, 0].tolist() == list(range(5))
    if strategy != "rand":
        assert (second.parents[5:, 1] == 2).all()
    third = algorithm.ask(state, context(3))
    assert torch.equal(third.genomes[:5], second.genomes[[5, 1, 7, 3, 9]])  # one that isn't worse takes the place
    assert third.parents[:, 0].tolist() == [5, 1, 7, 3, 9] * 2
    for row in third.parents[5:].tolist():
        assert len({row[0], *row[2:], *([row[1]] if strategy == "rand" else [])}) == (4 if strategy == "rand" else 3)
        assert set(row) <= {5, 1, 7, 3, 9}


@strategies
def test_without_crossover_exactly_one_gene_changes(strategy: Strategy) -> None:
    algorithm = de(population=9, strategy=strategy, crossover_rate=0)
    state, first = told(algorithm, begun(algorithm), 1, range(9))
    places: set[int] = set()
    for generation in (2, 3, 4):
        state, population = told(algorithm, state, generation, [0.0] * 9 + [-1.0] * 9)
        changed = population.genomes[9:] != first.genomes
        assert changed.sum(1).tolist() == [1] * 9
        places |= set(changed.nonzero()[:, 1].tolist())
    assert len(places) > G // 2


def test_with_all_genes_of_the_mutant_and_no_weight_a_trial_is_its_base() -> None:
    for strategy in ("rand", "best"):
        algorithm = de(population=9, strategy=strategy, weight=0, crossover_rate=1)  # type: ignore[arg-type]
        state, first = told(algorithm, begun(algorithm), 1, range(9))
        second = algorithm.ask(state, context(2))
        assert torch.equal(second.genomes[9:], first.genomes[second.parents[9:, 1]])
    algorithm = de(population=9, strategy="current_to_best", weight=0, crossover_rate=1)
    state, first = told(algorithm, begun(algorithm), 1, range(9))
    assert torch.equal(algorithm.ask(state, context(2)).genomes[9:], first.genomes)


@strategies
def test_without_a_deviation_from_one_start_nobody_changes(strategy: Strategy) -> None:
    algorithm, start = de(population=5, strategy=strategy), torch.randn(1, G)
    state, _ = told(algorithm, begun(algorithm, 0.0, start), 1, range(5))
    _, second = told(algorithm, state, 2, range(10))
    assert torch.equal(second.genomes, start.expand(10, G))


def test_genomes_larger_than_a_block_are_crossed_likewise() -> None:
    g = 50001
    algorithm = de(population=4, crossover_rate=0.25)
    state = algorithm.init(torch.zeros(1, g), 0.1, context(0))
    state, first = told(algorithm, state, 1, range(4))
    second = algorithm.ask(state, context(2))
    changed = second.genomes[4:] != first.genomes
    assert [round(float(row.double().mean()), 2) for row in changed] == [0.25] * 4
    for i in range(4):
        _, a, b, c = (first.genomes[j] for j in second.parents[4 + i])
        mutant = a + 0.5 * (b - c)
        assert torch.allclose(second.genomes[4 + i], torch.where(changed[i], mutant, first.genomes[i]), atol=1e-6)
    none = de(population=4, crossover_rate=0)
    assert (none.ask(state, context(2)).genomes[4:] != first.genomes).sum(1).tolist() == [1] * 4


@strategies
def test_a_target_that_diverged_lends_no_gene_and_is_replaced(strategy: Strategy) -> None:
    algorithm = de(population=6, strategy=strategy)
    state = begun(algorithm)
    state.population.genomes[2] = torch.nan
    state, _ = told(algorithm, state, 1, [0.0, 1, NOBODY, 2, 3, 4])
    second = algorithm.ask(state, context(2))
    assert bool(second.genomes[6:].isfinite().all())
    assert (second.parents[6:] != 2).all()
    state = algorithm.tell(state, second, scores([0.0, 1, NOBODY, 2, 3, 4] + [-5.0] * 6))
    assert bool(algorithm.ask(state, context(3)).genomes.isfinite().all())


@pytest.mark.parametrize("n", [4, 5, 9])
def test_donors_are_distinct_and_others_than_the_target_and_all_orders_are_as_likely(
    n: int, device: torch.device
) -> None:
    found: Counter[tuple[int, ...]] = Counter()
    for k in range(2000):
        rows = donors(torch.zeros(n, device=device), generator(k, "donors", 0, device))
        assert rows.shape == (n, DONORS)
        for i, row in enumerate(rows.tolist()):
            assert len({i, *row}) == DONORS + 1
        found[tuple(rows[1].tolist())] += 1
    ways = (n - 1) * (n - 2) * (n - 3)
    assert len(found) == ways
    assert sum((count - 2000 / ways) ** 2 for count in found.values()) / (2000 / ways) < 1.5 * ways + 15  # chi squared


@pytest.mark.parametrize("valid", [0, 1, 3, 4, 6])
def test_donors_are_valid_if_there_are_enough(valid: int) -> None:
    fitness = torch.full((7,), NOBODY)
    fitness[1 : 1 + valid] = 1
    for k in range(50):
        rows = donors(fitness, generator(k, "donors", 0))
        for i, row in enumerate(rows.tolist()):
            assert len({i, *row}) == DONORS + 1
        if valid > DONORS:
            assert bool((fitness[rows] == 1).all())


def test_traits_stay_with_their_rows_and_trials_inherit_their_targets() -> None:
    algorithm = de(population=4)
    state = begun(algorithm)
    first = algorithm.ask(state, context(1))._replace(traits={"lr": torch.arange(4.0)})
    state = algorithm.tell(state, first, scores(range(4)))
    second = algorithm.ask(state, context(2))
    assert second.traits["lr"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    second = second._replace(traits={"lr": torch.arange(8.0)})
    state = algorithm.tell(state, second, scores([0.0] * 4 + [1, -1, 1, NOBODY]))
    assert algorithm.ask(state, context(3)).traits["lr"].tolist() == [4, 1, 6, 3] * 2


def test_candidates_are_the_best_and_the_mean_of_those_that_go_on() -> None:
    algorithm = de(population=4)
    genomes = torch.arange(8.0)[:, None].expand(8, G).clone()
    values = torch.tensor([1.0, 3, 2, NOBODY, 5, 2, NOBODY, NOBODY]).double()
    state = GAState(Population.new(genomes, parents=4), values)
    found = algorithm.candidates(state)
    assert float(found["best"][0]) == 4
    assert float(found["mean"][0]) == pytest.approx((4 + 1 + 2) / 3)
    assert algorithm.candidates(state._replace(fitness=torch.full((8,), NOBODY))) == {}


@strategies
def test_it_climbs_a_sphere(strategy: Strategy) -> None:
    algorithm, target = de(population=30, strategy=strategy, weight=0.7), torch.linspace(-1, 1, G)
    state = begun(algorithm, 0.5)
    for generation in range(1, 120):
        population = algorithm.ask(state, context(generation))
        state = algorithm.tell(state, population, scores(-(population.genomes - target).square().sum(1)))
    left = float((algorithm.candidates(state)["best"] - target).square().sum())
    assert left < 0.3 < float(target.square().sum())
