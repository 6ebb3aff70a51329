from functools import partial

import pytest
import torch

from neuroevo.engine.genome import BRED, KEPT, Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.search.algorithms.base import GAState
from neuroevo.search.algorithms.ga import best_first, ga
from neuroevo.search.operators import crossover, mutation
from neuroevo.search.operators.crossover import CROSSOVERS
from neuroevo.search.operators.selection import SELECTIONS

LAYOUT = Layout(("w", "b"), ((3, 4), (3,)))
G = LAYOUT.genes


def context(generation: int, device: torch.device) -> Context:
    return Context(0, generation, 0.0, device, LAYOUT)


def scores(values: torch.Tensor, invalid: torch.Tensor | None = None) -> Scores:
    values = values if values.ndim == 2 else values[:, None]
    bad = torch.zeros(len(values), dtype=torch.bool, device=values.device) if invalid is None else invalid
    return Scores(values.double(), bad)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_first_population_is_the_starts_unchanged_and_noise_around_them(n: int, device: torch.device) -> None:
    start = torch.randn(2, G, device=device)
    algorithm = ga(population=n, elites=1)
    first = algorithm.ask(algorithm.init(start, 0.1, context(0, device)), context(1, device))
    assert first.genomes.shape == (n, G)
    assert torch.equal(first.genomes[:2], start)
    assert (first.parents == -1).all()
    if n == 8:
        assert 0.05 < float((first.genomes[2::2] - start[0]).std()) < 0.2
        assert not torch.equal(first.genomes[2], first.genomes[4])
    exact = algorithm.init(start, 0.0, context(0, device)).population.genomes
    assert all(torch.equal(row, start[i % 2]) for i, row in enumerate(exact))


@pytest.mark.parametrize("n", [2, 3, 9])
@pytest.mark.parametrize("elites", [0, 1])
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("crossover", CROSSOVERS)
@pytest.mark.filterwarnings("ignore")  # evotorch's import
def test_n_in_is_n_out_with_any_operators(
    n: int, elites: int, selection: str, crossover: str, device: torch.device
) -> None:
    algorithm = ga(
        population=n, elites=elites,
        selection=SELECTIONS[selection], crossover=CROSSOVERS[crossover],
    )  # fmt: skip
    state = algorithm.init(torch.randn(1, G, device=device), 0.1, context(0, device))
    for generation in (1, 2, 3):
        population = algorithm.ask(state, context(generation, device))
        assert population.genomes.shape == (n, G)
        everybody = crossover == "weighted" and selection == "all"
        assert population.parents.shape == (n, 3 if everybody else n if crossover == "weighted" else 2)
        state = algorithm.tell(state, population, scores(torch.arange(n, device=device)))


def test_elites_go_on_unchanged_best_first_and_are_asked_again() -> None:
    algorithm = ga(population=6, elites=2, crossover=crossover.uniform)
    cpu = torch.device("cpu")
    state = algorithm.init(torch.randn(1, G), 0.1, context(0, cpu))
    first = algorithm.ask(state, context(1, cpu))
    state = algorithm.tell(state, first, scores(torch.tensor([0.0, 5, 1, 9, 2, 3])))
    second = algorithm.ask(state, context(2, cpu))
    assert torch.equal(second.genomes[:2], first.genomes[[3, 1]])
    assert second.parents[:2].tolist() == [[3, -1], [1, -1]]
    assert second.roles.tolist() == [KEPT] * 2 + [BRED] * (len(second.roles) - 2)
    assert (second.parents[2:] >= 0).all()
    assert not (second.genomes[2:, None] == first.genomes[None]).all(2).any()


def test_without_variation_children_are_their_parents() -> None:
    still = partial(mutation.gaussian, sigma=0.0)
    algorithm = ga(population=9, elites=0, crossover=crossover.none, mutation=still)
    cpu = torch.device("cpu")
    state = algorithm.init(torch.randn(1, G), 0.1, context(0, cpu))
    first = algorithm.ask(state, context(1, cpu))
    second = algorithm.ask(algorithm.tell(state, first, scores(torch.arange(9.0))), context(2, cpu))
    assert torch.equal(second.genomes, first.genomes[second.parents[:, 0]])


@pytest.mark.parametrize("parents", [2, 9])
def test_traits_are_inherited_from_the_better_of_two_parents_and_by_elites(parents: int) -> None:
    adaptive = partial(mutation.gaussian, self_adaptive=True, tau=0.0, sigma=0.1)
    algorithm = ga(population=9, elites=3, parents=parents, mutation=adaptive)
    cpu = torch.device("cpu")
    state = algorithm.init(torch.randn(1, G), 0.1, context(0, cpu))
    first = algorithm.ask(state, context(1, cpu))
    first = first._replace(traits={"sigma": torch.arange(1.0, 10) / 10})
    second = algorithm.ask(algorithm.tell(state, first, scores(torch.arange(9.0))), context(2, cpu))
    assert torch.equal(second.traits["sigma"][:3], first.traits["sigma"][[8, 7, 6]])
    of_best = first.traits["sigma"][second.parents[3:, 0]]
    if parents == 2:
        assert torch.equal(second.traits["sigma"][3:], of_best)
    else:
        assert (second.traits["sigma"][3:] <= of_best).all()
        assert (second.traits["sigma"][3:] < of_best).any()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(device: torch.device) -> None:
    def third(seed: int) -> torch.Tensor:
        algorithm = ga(population=7, elites=2)
        state = algorithm.init(torch.zeros(1, G, device=device), 0.1, Context(seed, 0, 0.0, device, LAYOUT))
        for generation in (1, 2):
            population = algorithm.ask(state, Context(seed, generation, 0.0, device, LAYOUT))
            state = algorithm.tell(state, population, scores(population.genomes.sum(1)))
        return algorithm.ask(state, Context(seed, 3, 0.0, device, LAYOUT)).genomes

    assert torch.equal(third(0), third(0))
    assert not torch.equal(third(0), third(1))


def test_candidates_are_the_best_and_the_mean_of_the_elites_and_never_invalid() -> None:
    algorithm = ga(population=4, elites=3)
    population = Population.new(torch.arange(4.0)[:, None].expand(4, G).clone(), parents=2)
    invalid = torch.tensor([False, False, True, False])
    values = torch.tensor([1.0, 3, -torch.inf, 2])
    found = algorithm.candidates(GAState(population, values.double()))
    assert float(found["best"][0]) == 1
    assert float(found["elite_mean"][0]) == pytest.approx((1 + 3 + 0) / 3)
    two = algorithm.candidates(GAState(population, values.masked_fill(torch.tensor([1, 0, 1, 0]) > 0, -torch.inf)))
    assert float(two["elite_mean"][0]) == 2
    nobody = algorithm.candidates(
        algorithm.tell(GAState(population, values), population, scores(values, ~invalid | invalid))
    )
    assert set(nobody) == {"best", "elite_mean"} or nobody == {}


def test_a_second_metric_breaks_ties_of_the_first() -> None:
    algorithm = ga(population=3, elites=1)
    population = Population.new(torch.arange(3.0)[:, None].expand(3, G).clone(), parents=2)
    state = algorithm.tell(
        GAState(population, torch.empty(0)), population, scores(torch.tensor([[0.5, 1], [0.5, 2], [0.4, 9]]))
    )
    assert float(algorithm.candidates(state)["best"][0]) == 1
    assert state.fitness.tolist() == [1, 2, 0]


def test_it_climbs_a_sphere_further_than_random_search() -> None:
    cpu, target = torch.device("cpu"), torch.randn(G)

    def value(genomes: torch.Tensor) -> torch.Tensor:
        return -(genomes - target).square().sum(1)

    algorithm = ga(population=50, elites=5, mutation=partial(mutation.gaussian, sigma=0.1))
    state = algorithm.init(torch.zeros(1, G), 0.1, context(0, cpu))
    for generation in range(1, 60):
        population = algorithm.ask(state, context(generation, cpu))
        state = algorithm.tell(state, population, scores(value(population.genomes)))
    random = value(torch.randn(50 * 59, G)).max()
    assert float(state.fitness.max()) > -0.5 > float(random)


def test_parents_come_best_first() -> None:
    algorithm = ga(population=30, elites=0, parents=4)
    cpu = torch.device("cpu")
    state = algorithm.init(torch.randn(1, G), 0.1, context(0, cpu))
    value = torch.randn(30)
    state = algorithm.tell(state, algorithm.ask(state, context(1, cpu)), scores(value))
    mates = algorithm.ask(state, context(2, cpu)).parents
    assert mates.shape == (30, 4)
    assert (value[mates].diff(dim=1) <= 0).all()
    assert len(mates.unique()) > 15


def test_children_of_everybody_start_at_one_point_by_rank_and_nobody_is_recorded(device: torch.device) -> None:
    still = ga(population=7, elites=2, mutation=partial(mutation.gaussian, sigma=0.0))
    state = still.init(torch.randn(1, G, device=device), 0.1, context(0, device))
    first = still.ask(state, context(1, device))
    value = torch.tensor([3.0, 0, 6, 1, 5, 2, 4], device=device)
    second = still.ask(still.tell(state, first, scores(value)), context(2, device))
    assert torch.equal(second.genomes[:2], first.genomes[[2, 4]])
    weights = 1 / 7 + 0.5 / 7**0.5 * (2 * value.double() / 6 - 1)
    right = (weights[:, None] * first.genomes.double()).sum(0).float()
    torch.testing.assert_close(second.genomes[2:], right.expand(5, -1))
    assert second.parents.tolist() == [[2, -1, -1], [4, -1, -1], *[[-1] * 3] * 5]
    assert second.roles.tolist() == [KEPT] * 2 + [BRED] * 5

    moving = ga(population=7, elites=2).ask(still.tell(state, first, scores(value)), context(2, device)).genomes[2:]
    assert len(moving.unique(dim=0)) == 5


def test_the_invalid_are_nobodys_parents_though_everybody_is_one(device: torch.device) -> None:
    still = ga(population=6, elites=1, mutation=partial(mutation.gaussian, sigma=0.0))
    state = still.init(torch.randn(1, G, device=device), 0.1, context(0, device))
    first = still.ask(state, context(1, device))
    first.genomes[[1, 4]] = torch.nan
    value = torch.tensor([3.0, 9, 1, 2, 8, 0], device=device)
    bad = torch.tensor([False, True, False, False, True, False], device=device)
    ranks = best_first(value.masked_fill(bad, -torch.inf)).tolist()
    assert ranks == [0, 0, 3, 2, 2, 5]
    told = still.tell(state, first, scores(value.masked_fill(bad, -torch.inf), bad))
    children = still.ask(told, context(2, device)).genomes[1:]
    weights = 1 / 6 + 0.5 / 6**0.5 * torch.linspace(1, -1, 6, dtype=torch.float64, device=device)
    right = (weights[:, None] * first.genomes[ranks].double()).sum(0).float()
    torch.testing.assert_close(children, right.expand(5, -1))
    assert sorted(best_first(torch.full((4,), -torch.inf, device=device)).tolist()) == [0, 1, 2, 3]
    assert best_first(torch.tensor([-torch.inf, 1.0, -torch.inf], device=device)).tolist() == [1, 1, 1]


def test_children_of_everybody_have_a_trait_of_the_better_of_two_at_random() -> None:
    cpu, n = torch.device("cpu"), 400
    algorithm = ga(population=n, mutation=partial(mutation.gaussian, self_adaptive=True, tau=0.0))
    state = algorithm.init(torch.randn(1, G), 0.1, context(0, cpu))
    first = algorithm.ask(state, context(1, cpu))
    marked = first._replace(traits={"sigma": torch.linspace(1, 2, n) * 0.01})
    second = algorithm.ask(algorithm.tell(state, marked, scores(torch.arange(n))), context(2, cpu))
    given = (second.traits["sigma"][1:] / 0.01 - 1) * (n - 1)
    assert 150 < len(given.round().unique()) < 300  # of nobody in particular
    assert abs(float(given.mean()) / n - 2 / 3) < 0.05  # the better of two


def test_a_mutation_that_returns_other_genomes_is_heard(device: torch.device) -> None:
    def replaced(children: Population, context: Context, layout: Layout) -> Population:
        return children._replace(genomes=torch.full_like(children.genomes, 7.0))

    algorithm = ga(population=5, mutation=replaced)
    state = algorithm.init(torch.randn(1, G, device=device), 0.1, context(0, device))
    first = algorithm.ask(state, context(1, device))
    second = algorithm.ask(algorithm.tell(state, first, scores(torch.arange(5, device=device))), context(2, device))
    assert torch.equal(second.genomes[0], first.genomes[4])
    assert (second.genomes[1:] == 7).all()


def test_only_weighted_crossover_takes_more_than_two_parents() -> None:
    assert ga(population=4, crossover=crossover.row)
    with pytest.raises(InputError, match=r"^parents: 3, and the crossover takes two; weighted takes any"):
        ga(population=4, parents=3, crossover=partial(crossover.row, rate=0.3))


def test_elites_must_be_fewer_than_the_population() -> None:
    with pytest.raises(InputError, match=r"^elites: 4 must be below the population of 4"):
        ga(population=4, elites=4)
