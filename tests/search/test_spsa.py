import pytest
import torch
from paper_gpu import CUDA, paper_gpu
from reference_searches import NOBODY, G, context, scores
from torch import Tensor

from neuroevo.engine.genome import Population
from neuroevo.engine.rng import generator
from neuroevo.search.algorithms.spsa import spsa


def test_a_pair_is_on_either_side_of_the_centre_by_one_sign_a_gene() -> None:
    sigma = torch.linspace(0.1, 0.5, G)
    algorithm = spsa(population=5)
    start = torch.arange(2.0 * G).view(2, G)
    state = algorithm.init(start, sigma, context(0))
    genomes = algorithm.ask(state, context(1)).genomes
    center = start.mean(0)
    signs = 2 * torch.randint(2, (2, G), generator=generator(0, "sample", 1)).float() - 1
    expected = torch.stack([center + signs * sigma, center - signs * sigma], 1).flatten(0, 1)
    torch.testing.assert_close(genomes, torch.cat([expected, center[None]]))


def test_its_own_sigma_is_in_place_of_the_starting_deviation() -> None:
    algorithm = spsa(sigma=0.25)
    genomes = algorithm.ask(algorithm.init(torch.zeros(1, G), 0.1, context(0)), context(1)).genomes
    assert (genomes.abs() == 0.25).all()


@pytest.mark.parametrize("n", [2, 7, 40])
def test_a_step_is_that_of_plain_loops(n: int) -> None:
    """The gradient is the mean of slopes times directions, slopes over the largest that they have been of late."""
    algorithm, lr, momentum = spsa(population=n, lr=0.7, momentum=0.6), 0.7, 0.6
    state = algorithm.init(torch.zeros(1, G), 0.3, context(0))
    center, velocity, m, recent, largest = torch.zeros(G), torch.zeros(G), n // 2, 0.0, 0.0
    for generation in range(1, 9):
        population = algorithm.ask(state, context(generation))
        values = -(population.genomes.double() - torch.linspace(-1, 1, G)).square().sum(1)
        state = algorithm.tell(state, population, scores(values))
        steps = torch.zeros(G)
        differences = [float(values[2 * i] - values[2 * i + 1]) for i in range(m)]
        recent = 0.9 * recent + 0.1 * sum(d**2 for d in differences) / m
        largest = max(largest, (recent / (1 - 0.9**generation)) ** 0.5)
        for i, d in enumerate(differences):
            direction = (population.genomes[2 * i] - population.genomes[2 * i + 1]) / 2
            steps += d / largest * direction / m
        velocity = momentum * velocity + (1 - momentum) * lr * G**0.5 * m / (m + G - 1) * steps
        center = center + velocity
        torch.testing.assert_close(state.center, center)


def test_what_the_metric_is_multiplied_by_makes_no_difference() -> None:
    algorithm = spsa(population=4)
    one = two = algorithm.init(torch.zeros(1, G), 0.3, context(0))
    for generation in range(1, 9):
        population = algorithm.ask(one, context(generation))
        values = -(population.genomes.double() - 1).square().sum(1)
        one = algorithm.tell(one, population, scores(values))
        two = algorithm.tell(two, population, scores(1024 * values))
    assert torch.equal(one.center, two.center)
    half = algorithm.tell(one, population, scores(values.pow(3)))
    assert not torch.equal(half.center, algorithm.tell(one, population, scores(values)).center)  # values count


def test_a_pair_of_which_one_is_invalid_makes_no_step_and_its_genes_get_nowhere() -> None:
    algorithm = spsa(population=6)
    state = algorithm.init(torch.zeros(1, G), 0.3, context(0))
    population = algorithm.ask(state, context(1))
    values = torch.tensor([1.0, 2, NOBODY, 9, 3, 1])
    bad = population.genomes.clone()
    bad[2] = torch.nan
    one = algorithm.tell(state, population._replace(genomes=bad), scores(values))
    values[3] = -9
    two = algorithm.tell(state, population, scores(values))
    assert torch.equal(one.center, two.center) and one.center.isfinite().all()
    assert one.steps == 1
    none = algorithm.tell(one, population, scores([NOBODY] * 6))
    assert torch.equal(none.center, one.center)
    assert none.steps == 1 and none.largest == one.largest
    assert set(algorithm.candidates(none)) == {"center"}


def test_equal_scores_make_no_step() -> None:
    algorithm = spsa()
    state = algorithm.init(torch.zeros(1, G), 0.3, context(0))
    state = algorithm.tell(state, algorithm.ask(state, context(1)), scores([1.0, 1.0]))
    assert torch.equal(state.center, torch.zeros(G))


def test_genes_without_deviation_stay() -> None:
    sigma = torch.full((G,), 0.3)
    sigma[::2] = 0
    algorithm = spsa(population=4)
    state = algorithm.init(torch.zeros(1, G), sigma, context(0))
    for generation in range(1, 9):
        population = algorithm.ask(state, context(generation))
        state = algorithm.tell(state, population, scores(-(population.genomes - 1).square().sum(1)))
    assert torch.equal(state.center == 0, sigma == 0)


@pytest.mark.parametrize("population", [2, 20])
def test_it_climbs_a_sphere_whose_top_is_lr_deviations_away_about_as_fast_as_theory_says(population: int) -> None:
    """The square of the distance shrinks by m / (m + g - 1) of itself a step, or by less, and doesn't grow again."""
    g, m = 50, population // 2
    target = torch.full((g,), 0.3)

    def worth(genomes: Tensor) -> Tensor:
        return -(genomes - target).square().sum(1).double()

    left, expected = [], (1 - m / (m + g - 1)) ** 60
    for seed in range(5):
        algorithm = spsa(population=population, lr=1.0, momentum=0.0)
        state = algorithm.init(torch.zeros(1, g), 0.3, context(0)._replace(seed=seed))
        for generation in range(1, 401):
            asked: Population = algorithm.ask(state, context(generation)._replace(seed=seed))
            state = algorithm.tell(state, asked, scores(worth(asked.genomes)))
            if generation == 60:
                left.append(float((state.center - target).square().sum() / target.square().sum()))
        assert float((state.center - target).abs().max()) < 0.05
    assert expected < sum(left) / len(left) < expected**0.4


def test_a_step_on_a_gpu_waits_for_nothing() -> None:
    algorithm = spsa(population=7)
    with paper_gpu() as gpu:
        state = algorithm.init(torch.zeros(1, G, device=CUDA), 0.3, context(0, CUDA))
        with gpu.count() as waits:
            for generation in (1, 2):
                population = algorithm.ask(state, context(generation, CUDA))
                state = algorithm.tell(state, population, scores(population.genomes.sum(1).double(), CUDA))
    assert not waits.reads
