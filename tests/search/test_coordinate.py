import torch
from reference_searches import NOBODY, G, context, scores
from torch import Tensor

from neuroevo.engine.genome import BRED, KEPT, Population
from neuroevo.search.algorithms.coordinate import GROWTH, SHRINKAGE, Exploration, coordinate


def begun(population: int, **options: float) -> tuple[object, Exploration, Population]:
    """Return the algorithm and its state after a first generation whose best is the start, zeros."""
    algorithm = coordinate(population=population, **options)
    state = algorithm.init(torch.zeros(1, G), 0.5, context(0))
    first = algorithm.ask(state, context(1))
    return algorithm, algorithm.tell(state, first, scores([1.0] + [0.0] * (population - 1))), first


def test_each_gene_has_a_step_up_and_one_down_before_any_has_its_second_turn() -> None:
    algorithm, state, _ = begun(2 + 2 * 4)
    seen: list[int] = []
    for generation in range(2, 6):
        population = algorithm.ask(state, context(generation))
        assert population.roles.tolist() == [KEPT] + [BRED] * 9
        trials = population.genomes[2:]
        pairs = trials.view(4, 2, G)
        assert torch.equal(pairs[:, 0], -pairs[:, 1])
        assert ((pairs != 0).sum(2) == 1).all()
        seen += pairs[:, 0].abs().argmax(1).tolist()
        state = algorithm.tell(state, population, scores([1.0] + [0.0] * 9))
    assert len(set(seen[:G])) == G


def test_a_step_grows_where_it_leads_up_and_shrinks_and_turns_where_neither_side_does() -> None:
    algorithm, state, _ = begun(6, sigma=0.25)
    first, second = state.order[:2].tolist()
    population = algorithm.ask(state, context(2))
    state = algorithm.tell(state, population, scores([1.0, 1.0, 0.5, 2.0, 0.9, 1.0]))
    assert float(state.steps[first]) == -0.25 * GROWTH
    assert float(state.steps[second]) == -0.25 * torch.tensor(SHRINKAGE)
    others = [k for k in range(G) if k not in (first, second)]
    assert (state.steps[others] == 0.25).all()


def test_the_next_generation_has_the_best_and_it_with_all_other_steps_that_led_up() -> None:
    algorithm, state, _ = begun(2 + 2 * 3)
    a, b, _ = state.order[:3].tolist()
    population = algorithm.ask(state, context(2))
    state = algorithm.tell(state, population, scores([1.0, 0.0, 2.0, 1.5, NOBODY, 3.0, 0.0, 0.9]))
    population = algorithm.ask(state, context(3))
    expected = torch.zeros(2, G)
    expected[:, b] = -0.5
    expected[1, a] = 0.5
    assert torch.equal(population.genomes[:2], expected)


def test_where_pairs_are_more_than_genes_a_second_pair_is_half_as_long() -> None:
    algorithm, state, _ = begun(2 + 2 * (G + 3))
    trials = algorithm.ask(state, context(2)).genomes[2:]
    lengths = trials.abs().amax(1)
    assert (lengths[: 2 * G] == 0.5).all() and (lengths[2 * G :] == 0.25).all()


def test_the_best_on_a_new_batch_is_what_it_goes_on_from() -> None:
    algorithm, state, first = begun(5)
    population = algorithm.ask(state, context(2))
    state = algorithm.tell(state, population, scores([1.0, 0.0, 0.0, 0.0, 4.0]))
    assert torch.equal(algorithm.ask(state, context(3)).genomes[0], population.genomes[4])
    assert not torch.equal(population.genomes[4], first.genomes[0])


def test_it_climbs_an_ellipsoid_to_its_top() -> None:
    weights, target = torch.logspace(0, 3, G), torch.linspace(-1, 1, G)

    def worth(genomes: Tensor) -> Tensor:
        return -((genomes - target).square() * weights).sum(1).double()

    algorithm = coordinate(population=16)
    state = algorithm.init(torch.zeros(1, G), 0.3, context(0))
    for generation in range(1, 150):
        population = algorithm.ask(state, context(generation))
        state = algorithm.tell(state, population, scores(worth(population.genomes)))
    torch.testing.assert_close(algorithm.candidates(state)["best"], target, rtol=0, atol=1e-4)
