from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from neuroevo.engine import batches, loop, problem
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.rng import generator
from neuroevo.errors import InputError
from neuroevo.problems import function
from neuroevo.search.algorithms import ALGORITHMS
from neuroevo.search.algorithms.evolution_strategies import snes
from neuroevo.search.algorithms.ga import ga
from neuroevo.search.operators.mutation import gaussian

CPU = torch.device("cpu")
RULES = Rules(
    seed=3, samples=1, every=2, patience=None, budget=Budget(generations=6), metric="fitness", lower_is_better=False
)


def sphere(genomes: Tensor) -> Tensor:
    return -genomes.double().square().sum(1)


def same(a: Step, b: Step) -> bool:
    timeless = [{key: v for key, v in step.record.items() if key != "seconds"} for step in (a, b)]
    genomes = torch.equal(a.population.genomes, b.population.genomes) and torch.equal(
        a.champion.genome, b.champion.genome
    )
    return genomes and timeless[0] == timeless[1] and a.cost == b.cost and a.champion.kind == b.champion.kind


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_function_of_genomes_is_searched_and_resumed_to_the_same_bytes(name: str) -> None:
    search, p = ALGORITHMS[name](population=6), function.of_genomes(sphere, torch.ones(5), sigma=0.2)
    first = loop.begin(p, search, RULES.seed, CPU)
    assert first.champion.validation == {"fitness": -5.0}
    whole = list(loop.evolve(p, search, RULES, first, device=CPU))
    assert whole[-1].stop == "generations"
    assert whole[-1].champion.validation["fitness"] >= -5.0
    again = list(loop.evolve(p, search, RULES, whole[2], device=CPU))
    assert [step.generation for step in again] == [4, 5, 6]
    assert all(same(a, b) for a, b in zip(again, whole[3:], strict=True))


def test_a_sphere_is_optimised_without_network_or_config() -> None:
    search, p = snes(population=32), function.of_genomes(sphere, torch.ones(50), sigma=0.3)
    rules = replace(RULES, budget=Budget(generations=300), every=50)
    *_, last = loop.evolve(p, search, rules, loop.begin(p, search, 0, CPU), device=CPU)
    assert last.champion.validation["fitness"] > -1e-3


def test_each_genome_that_is_scored_is_a_sample_of_the_budget() -> None:
    search, p = ALGORITHMS["de"](population=6), function.of_genomes(sphere, torch.ones(5))
    rules = replace(RULES, budget=Budget(samples=6 + 2 * 12 + 11))
    *_, last = loop.evolve(p, search, rules, loop.begin(p, search, 0, CPU), device=CPU)
    assert (last.generation, last.stop) == (3, "samples")
    assert (last.cost.forward, last.cost.validation) == (6 + 2 * 12, 1 + 2 + 2)


def test_a_fitness_that_is_not_finite_is_invalid_and_one_of_another_shape_is_refused() -> None:
    p = function.of_genomes(lambda genomes: genomes[:, 0].log(), torch.tensor([[1.0], [-1.0]]), sigma=0.0)
    step = next(loop.evolve(p, snes(population=4), RULES, loop.begin(p, snes(population=4), 0, CPU), device=CPU))
    assert step.scores.invalid.all()  # around the mean of both, which is zero
    wrong = function.of_genomes(lambda genomes: genomes, torch.ones(3))
    with pytest.raises(InputError, match=r"^fitness: \[1, 3\] returned for 1 genomes, one number each expected"):
        loop.begin(wrong, snes(population=4), 0, CPU)


class Measured:
    """Sensitivities that count how many genomes they were really measured of."""

    def __init__(self) -> None:
        self.genomes = 0

    def of(self, genomes: Tensor) -> Tensor:
        self.genomes += len(genomes)
        return torch.ones_like(genomes)

    def cost(self, n: int) -> Cost:
        return Cost(forward=10 * n)


@pytest.mark.parametrize(("samples", "generations"), [(6 + 35, 1), (6 + 36, 2), (6 + 71, 2), (6 + 72, 3)])
def test_sensitivities_are_measured_only_where_the_budget_has_room_for_the_generation(
    samples: int, generations: int
) -> None:
    measured = Measured()
    p = function.of_genomes(sphere, torch.ones(5))._replace(sensitivity=measured)
    search = ga(population=6, elites=3, mutation=partial(gaussian, safe=True))
    rules = replace(RULES, budget=Budget(samples=samples))
    *_, last = loop.evolve(p, search, rules, loop.begin(p, search, 0, CPU), device=CPU)
    assert (last.generation, last.stop) == (generations, "samples")
    assert measured.genomes == 3 * (generations - 1)
    assert last.cost.forward == 6 * generations + 10 * measured.genomes


def test_a_champion_that_is_given_is_not_validated() -> None:
    p = function.of_genomes(sphere, torch.ones(2))
    given = loop.Champion(torch.ones(2), "none", 0, {"fitness": -1.0})
    step = loop.begin(p, snes(population=4), 0, CPU, champion=given)
    assert (step.champion, step.cost, step.generation, step.stop) == (given, Cost(), 0, None)


def test_candidates_are_compared_by_their_metric_then_by_a_loss() -> None:
    merit = problem.by_metric("error", lower_is_better=True, loss="loss")
    assert merit({"error": 0.1, "loss": 3.0}) > merit({"error": 0.2, "loss": 1.0})
    assert merit({"error": 0.1, "loss": 3.0}) < merit({"error": 0.1, "loss": 1.0})
    assert problem.by_metric("accuracy")({"accuracy": 0.5}) == (0.5,)


def test_batches_are_a_function_of_seed_and_generation_and_balanced_where_labels_are_given() -> None:
    pool = torch.arange(10, 110)
    draw = batches.batches(pool, 5)
    assert torch.equal(draw(1, 8), pool[torch.randperm(100, generator=generator(5, "batch", 1))[:8]])
    assert not torch.equal(draw(1, 8), draw(2, 8))
    assert torch.equal(draw(1, 100), pool)
    labels = (torch.arange(100) < 10).long()
    drawn = batches.batches(pool, 5, labels=labels)(1, 1000)
    assert 0.4 < float((drawn < 20).float().mean()) < 0.6
    seen = batches.batches(pool, 5, view=lambda rows, source: -rows)(1, 8)
    assert torch.equal(seen, -draw(1, 8))
