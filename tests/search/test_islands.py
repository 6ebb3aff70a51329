"""Islands: apart they are as many runs, and migrants take the places of the worst."""

from typing import Any

import pytest
import torch
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import KEPT
from neuroevo.engine.joined import place
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.search.algorithms import ALGORITHMS
from neuroevo.search.islands import TOPOLOGIES, Archipelago, Migration, exchange, full, islands, ring

CPU = torch.device("cpu")
START = torch.zeros(1, 4)
RECEIVE = ("ga", "pso", "de", "hill_climbing", "random", "fixed")
NEVER = Migration(1, 0, ring(3))


def context(generation: int, island: int = 0) -> Context:
    return Context(0, generation, 0.0, CPU, island=island)


def scored(genomes: Tensor) -> Scores:
    """Score genomes [n, g]: the nearer to 1, the better; every seventh is invalid."""
    values = -(genomes - 1).square().sum(1, keepdim=True).double()
    invalid = torch.arange(len(values)) % 7 == 3
    return Scores(values.masked_fill(invalid[:, None], -torch.inf), invalid)


def built(name: str, **options: Any) -> Algorithm[Any]:
    return ALGORITHMS[name](population=6, **options)


def walk(algorithm: Algorithm[Any], generations: int, island: int = 0) -> list[tuple[Any, Any, Any]]:
    """Return population, scores and state of each generation."""
    state, found = algorithm.init(START, 0.5, context(0, island)), []
    for generation in range(1, generations + 1):
        population = algorithm.ask(state, context(generation, island))
        each = len(population.genomes) // algorithm.islands
        parts = [scored(part) for part in population.genomes.split(each)]
        scores = Scores(torch.cat([p.values for p in parts]), torch.cat([p.invalid for p in parts]))
        state = algorithm.tell(state, population, scores)
        found.append((population, scores, state))
    return found


@pytest.mark.parametrize("name", ALGORITHMS)
def test_without_migrants_each_island_is_the_algorithm_alone(name: str) -> None:
    together = walk(islands([built(name)] * 3, NEVER), 4)
    for i in range(3):
        for (whole, _, state), (own, _, alone) in zip(together, walk(built(name), 4, i), strict=True):
            n = len(own.genomes)
            assert torch.equal(whole.genomes[i * n : (i + 1) * n], own.genomes)
            for a, b in zip(tensors(state.runs[place(i)]), tensors(alone), strict=True):
                assert a.equal(b) or a.isnan().any()
    first, second = (together[0][0].genomes[rows] for rows in (slice(6), slice(6, 12)))
    assert name == "nelder_mead" or not torch.equal(first, second)


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a state, less the lineage, which is of all islands."""
    if isinstance(value, Tensor):
        return [value]
    items = value._asdict() if hasattr(value, "_asdict") else value
    return [tensor for key, item in items.items() if key != "parents" for tensor in tensors(item)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_who_keeps_no_population_receives_nobody(name: str) -> None:
    if name in RECEIVE:
        islands([built(name)] * 2, Migration(1, 1, ring(2)))
        return
    with pytest.raises(InputError, match="migrants: 1, but this algorithm keeps no population"):
        islands([built(name)] * 2, Migration(1, 1, ring(2)))


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("rows", [1, 2])
def test_the_best_take_the_places_of_the_worst_and_all_are_sent_before_any_is_replaced(
    topology: str, rows: int
) -> None:
    k, n, m = 3, 7, 2
    draws = torch.Generator().manual_seed(1)
    scores = Scores(torch.rand(k * rows * n, 1, generator=draws).double(), torch.zeros(k * rows * n, dtype=torch.bool))
    sources = TOPOLOGIES[topology](k)
    found = exchange(scores, Migration(1, m, sources), n)
    value = scores.values.view(k, rows, n)
    for i in range(k):
        order = value[i].amax(0).argsort()  # of individuals, the worst first
        came, expected = m * len(sources[i]), []
        for j in sources[i]:
            best = value[j].amax(0).argsort(descending=True)[:m]
            expected += [float(value[j, :, b].max()) for b in best]
        after = scores.values[found].view(k, rows, n)
        for beside in range(rows):
            assert after[i, beside, order[:came]].tolist() == expected
            assert torch.equal(after[i, beside, order[came:]], value[i, beside, order[came:]])


def test_nobody_goes_who_is_invalid() -> None:
    invalid = torch.tensor([True, True, True, False, False, False])
    scores = Scores(torch.arange(6.0).double()[:, None].masked_fill(invalid[:, None], -torch.inf), invalid)
    assert exchange(scores, Migration(1, 1, ring(2)), 3).tolist() == [0, 1, 5, 3, 4, 5]


@pytest.mark.parametrize("name", RECEIVE)
def test_migrants_go_at_fixed_generations_and_live_on_where_they_came(name: str) -> None:
    algorithm = islands([built(name)] * 3, Migration(2, 1, ring(3)))
    for generation, (population, scores, state) in enumerate(walk(algorithm, 5), 1):
        came = state.origins != torch.arange(len(state.origins))
        assert bool(came.any()) is (generation % 2 == 0)
        if not came.any():
            continue
        each = len(came) // 3
        for i in range(3):
            inner = state.settled[place(i)].population
            best = scores.values[:, 0].view(3, each)[(i - 1) % 3].argmax() + (i - 1) % 3 * each
            arrived = came[i * each : (i + 1) * each]
            assert torch.equal(inner.genomes[arrived][0], population.genomes[best])
            assert inner.roles[arrived].eq(KEPT).all()
        asked = algorithm.ask(state, context(generation + 1))
        parents = asked.parents[asked.parents >= 0]
        assert not came[parents].any()  # a migrant's parent is itself, where it was
        if name == "pso":
            for i in range(3):
                arrived = came[i * each : (i + 1) * each].view(-1, 6).any(0)
                assert state.settled[place(i)].velocity[arrived].eq(0).all()


def test_ranks_are_those_of_the_island_that_a_migrant_came_to() -> None:
    """Where a second metric breaks ties fitness is a rank, which means nothing on another island."""
    algorithm = islands([built("ga")] * 2, Migration(1, 1, ring(2)))
    state = algorithm.init(START, 0.5, context(0))
    population = algorithm.ask(state, context(1))
    values = torch.cat([torch.arange(6.0), torch.arange(6.0) + 100]).double()
    scores = Scores(torch.stack([values, values], 1), torch.zeros(12, dtype=torch.bool))
    settled = algorithm.tell(state, population, scores).settled
    assert settled[place(0)].fitness.tolist() == [5, 0, 1, 2, 3, 4]
    assert settled[place(1)].fitness.tolist() == [0, 1, 2, 3, 4, 5]


def test_candidates_are_those_of_each_island_before_migration() -> None:
    algorithm = islands([built("ga", averaging=False)] * 2, Migration(1, 1, ring(2)))
    _, scores, state = walk(algorithm, 1)[0]
    found = algorithm.candidates(state)
    assert [*found] == ["best of island 0", "best of island 1"]
    for i, genome in enumerate(found.values()):
        best = scores.values.view(2, 6)[i].argmax()
        assert torch.equal(genome, state.runs[place(i)].population.genomes[best])


def test_with_many_objectives_candidates_are_the_front_of_all_islands() -> None:
    algorithm = islands([built("ga")] * 2, NEVER._replace(sources=ring(2)))
    state = algorithm.init(START, 0.5, context(0))
    population = algorithm.ask(state, context(1))
    values = torch.stack([torch.arange(12.0), -torch.arange(12.0)], 1).double()
    values[5:7] = torch.tensor([[20.0, -20.0], [30.0, 5.0]])
    scores = Scores(values, torch.zeros(12, dtype=torch.bool), objectives=2)
    state = algorithm.tell(state, population, scores)
    found = algorithm.candidates(state)
    assert [*found] == ["front-0"]
    assert torch.equal(found["front-0"], population.genomes[6])


@pytest.mark.parametrize(
    ("algorithms", "migration", "line"),
    [
        ([built("ga"), ALGORITHMS["ga"](population=8)], NEVER, "settings: islands have populations of one size"),
        ([built("ga")] * 3, Migration(1, 3, full(3)), "migrants: 6 of the 6 individuals"),
    ],
)
def test_islands_that_do_not_go_together_are_refused(algorithms: Any, migration: Migration, line: str) -> None:
    with pytest.raises(InputError, match=line):
        islands(algorithms, migration)


def test_islands_whose_individuals_carry_different_things_are_refused() -> None:
    from neuroevo.search.operators.mutation import gaussian

    def adaptive(*args: Any) -> Any:
        return gaussian(*args, self_adaptive=True)

    algorithm = islands([built("ga"), built("ga", mutation=adaptive)], NEVER._replace(sources=ring(2)))
    state: Archipelago = algorithm.init(START, 0.5, context(0))
    with pytest.raises(InputError, match="islands: individuals of some have sigma of their own"):
        algorithm.ask(state, context(1))
