"""What every algorithm of the table keeps to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neuroevo import checkpoint
from neuroevo.algorithms import ALGORITHMS, Algorithm
from neuroevo.cost import Cost
from neuroevo.fitness import Scores
from neuroevo.genome import Layout, Population
from neuroevo.loop import Champion, Step
from neuroevo.rng import Context

LAYOUT = Layout(("w", "b"), ((3, 4), (3,)))
G = LAYOUT.genes

everyone = pytest.mark.parametrize("name", ALGORITHMS)


def scored(population: Population, generation: int) -> Scores:
    """Score a population on a batch that differs from generation to generation; now and then one is invalid."""
    genomes = population.genomes
    values = -(genomes.double() - 0.1 * generation).square().sum(1)
    invalid = genomes[:, 0] > 0.15
    return Scores(values.masked_fill(invalid, -torch.inf)[:, None], invalid)


def generations(
    algorithm: Algorithm[Any], device: torch.device, until: int, seed: int = 0, state: Any = None, since: int = 1
) -> tuple[Any, Population]:
    """Return an algorithm's state and population after a generation."""
    if state is None:
        start = torch.linspace(-1, 1, 2 * G, device=device).view(2, G)
        state = algorithm.init(start, 0.1, Context(seed, 0, 0.0, device))
    for generation in range(since, until + 1):
        population = algorithm.ask(state, Context(seed, generation, 0.0, device))
        state = algorithm.tell(state, population, scored(population, generation))
    return state, population


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    children = [child for _, child in sorted(value.items())] if isinstance(value, dict) else value
    return [leaf for child in children for leaf in leaves(child)]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


@everyone
@pytest.mark.parametrize("n", [4, 5, 9])
def test_a_population_has_whole_rows_whose_parents_are_rows_of_the_one_before(
    name: str, n: int, device: torch.device
) -> None:
    algorithm = ALGORITHMS[name](LAYOUT, population=n)
    state, before = generations(algorithm, device, 1)
    assert len(before.genomes) == n
    assert (before.parents == -1).all()
    for generation in (2, 3, 4):
        state, population = generations(algorithm, device, generation, state=state, since=generation)
        m = len(population.genomes)
        assert m in (n, 2 * n)
        assert (population.genomes.shape, population.genomes.dtype) == ((m, G), torch.float32)
        assert (population.parents.shape[0], population.parents.dtype) == (m, torch.int64)
        assert all(len(trait) == m for trait in population.traits.values())
        assert bool((population.parents >= -1).all()) and bool((population.parents < len(before.genomes)).all())
        before = population


@everyone
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(name: str, device: torch.device) -> None:
    first, again, other = (generations(ALGORITHMS[name](LAYOUT, population=7), device, 4, seed) for seed in (0, 0, 1))
    assert same(first, again)
    assert not torch.equal(first[1].genomes, other[1].genomes)


@everyone
def test_a_deviation_for_each_gene_is_that_of_all_where_they_are_equal(name: str, device: torch.device) -> None:
    algorithm, context = ALGORITHMS[name](LAYOUT, population=7), Context(0, 0, 0.0, device)
    start = torch.ones(1, G, device=device)
    one, each = (algorithm.init(start, sigma, context) for sigma in (0.25, torch.full((G,), 0.25, device=device)))
    for generation in (1, 2, 3):
        one, population = generations(algorithm, device, generation, state=one, since=generation)
        each, other = generations(algorithm, device, generation, state=each, since=generation)
        assert same(population, other)


@everyone
def test_nothing_that_was_handed_over_is_changed_in_place(name: str, device: torch.device) -> None:
    algorithm = ALGORITHMS[name](LAYOUT, population=7)
    state, _ = generations(algorithm, device, 3)
    had = [leaf.clone() for leaf in leaves(state)]
    population = algorithm.ask(state, Context(0, 4, 0.0, device))
    asked = [leaf.clone() for leaf in leaves(population)]
    algorithm.tell(state, population._replace(genomes=population.genomes + 1), scored(population, 4))  # as it learnt
    after = algorithm.tell(state, population, scored(population, 4))
    told = [leaf.clone() for leaf in leaves(after)]
    algorithm.candidates(after)
    algorithm.ask(after, Context(0, 5, 0.0, device))
    assert same(had, state)
    assert same(asked, population)
    assert same(told, after)


@everyone
def test_it_goes_on_from_a_checkpoint_to_the_same_bytes(name: str, tmp_path: Path, device: torch.device) -> None:
    algorithm = ALGORITHMS[name](LAYOUT, population=7)
    state, population = generations(algorithm, device, 3)
    champion = Champion(population.genomes[0], "best", 3, {"accuracy": 0.5})
    step = Step(3, state, population, scored(population, 3), {}, Cost(), 0.0, champion, 0, None)
    checkpoint.write(tmp_path / "c.h5", {}, {}, step, [])
    template = algorithm.init(torch.zeros(1, G, device=device), 0.5, Context(0, 0, 0.0, device))
    read = checkpoint.state(tmp_path / "c.h5", template, device)
    assert [leaf.dtype for leaf in leaves(read)] == [leaf.dtype for leaf in leaves(state)]
    assert same(read, state)
    whole = generations(algorithm, device, 6)
    assert same(generations(algorithm, device, 6, state=read, since=4), whole)


@everyone
def test_where_all_are_invalid_it_goes_on_and_names_nobody_best(name: str, device: torch.device) -> None:
    algorithm = ALGORITHMS[name](LAYOUT, population=5)
    state = algorithm.init(torch.zeros(1, G, device=device), 0.1, Context(0, 0, 0.0, device))
    for generation in (1, 2, 3):
        population = algorithm.ask(state, Context(0, generation, 0.0, device))
        nothing = torch.full((len(population.genomes), 1), -torch.inf, dtype=torch.float64, device=device)
        state = algorithm.tell(state, population, Scores(nothing, nothing[:, 0].isinf()))
        assert "best" not in algorithm.candidates(state)
    population = algorithm.ask(state, Context(0, 4, 0.0, device))
    values = torch.arange(len(population.genomes), device=device).double()[:, None]
    state = algorithm.tell(state, population, Scores(values, values[:, 0] < 0))
    assert torch.equal(algorithm.candidates(state)["best"], population.genomes[-1])
