"""What every algorithm of the table keeps to."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from neuroevo.api.searches import evolve
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import BRED, KEPT, NEW, Layout, Population
from neuroevo.engine.loop import Champion, Step
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms import ALGORITHMS
from neuroevo.search.algorithms.evolution_strategies import snes
from neuroevo.search.algorithms.ga import ga
from neuroevo.search.operators.crossover import uniform
from neuroevo.search.operators.mutation import gaussian
from neuroevo.search.operators.selection import truncation
from neuroevo.storage import checkpoint

LAYOUT = Layout(("w", "b"), ((3, 4), (3,)))
G = LAYOUT.genes

Loss = Callable[[Tensor, int], Tensor]  # genomes [n, g] on the batch of a generation, 0 for all there is -> [n]

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
        state = algorithm.init(start, 0.1, Context(seed, 0, 0.0, device, LAYOUT))
    for generation in range(since, until + 1):
        population = algorithm.ask(state, Context(seed, generation, 0.0, device, LAYOUT))
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
    algorithm = ALGORITHMS[name](population=n)
    state, before = generations(algorithm, device, 1)
    assert len(before.genomes) == n
    assert (before.parents == -1).all()
    assert (before.roles == NEW).all()
    for generation in (2, 3, 4):
        state, population = generations(algorithm, device, generation, state=state, since=generation)
        m = len(population.genomes)
        assert m in (n, 2 * n)
        assert (population.genomes.shape, population.genomes.dtype) == ((m, G), torch.float32)
        assert (population.parents.shape[0], population.parents.dtype) == (m, torch.int64)
        assert (population.roles.shape, population.roles.dtype) == ((m,), torch.int8)
        assert all(len(trait) == m for trait in population.traits.values())
        assert bool((population.parents >= -1).all()) and bool((population.parents < len(before.genomes)).all())
        before = population


@everyone
def test_roles_say_who_is_new_who_has_parents_and_who_goes_on_as_it_was(name: str, device: torch.device) -> None:
    state, before = generations(ALGORITHMS[name](population=9), device, 1)
    for generation in (2, 3):
        state, population = generations(
            ALGORITHMS[name](population=9), device, generation, state=state, since=generation
        )
        for genome, parents, role in zip(population.genomes, population.parents, population.roles, strict=True):
            first, *others = parents.tolist()
            if role == KEPT:
                assert set(others) == {-1}
                assert torch.equal(genome, before.genomes[first])
            elif role == NEW:
                assert {first, *others} == {-1}
            else:
                assert role == BRED
                everybody = ALGORITHMS[name](population=9).init.__qualname__.startswith("ga.")
                assert {first, *others} == {-1} if everybody else min(first, *others) >= 0
        assert {*population.roles.tolist()} == {*ALGORITHMS[name](population=9).roles}
        before = population


@everyone
@pytest.mark.parametrize("n", [4, 9])
def test_it_says_how_many_rows_it_asks_for_and_of_how_many_the_sensitivity(
    name: str, n: int, device: torch.device
) -> None:
    options = {"elites": 3, "mutation": partial(gaussian, safe=True, relative=False)} if name == "ga" else {}
    algorithm, asked = ALGORITHMS[name](population=n, **options), 0

    def sensitivity(genomes: Tensor) -> Tensor:
        nonlocal asked
        asked += len(genomes)
        return torch.ones_like(genomes)

    context = Context(0, 0, 0.0, device, LAYOUT, sensitivity)
    state = algorithm.init(torch.zeros(1, G, device=device), 0.1, context)
    for generation in (1, 2, 3):
        asked = 0
        population = algorithm.ask(state, context._replace(generation=generation))
        first = generation == 1
        assert len(population.genomes) == (algorithm.size if first else algorithm.later)
        assert asked == (0 if first else algorithm.overhead)
        state = algorithm.tell(state, population, scored(population, generation))
    assert algorithm.overhead == (n - 3 if name == "ga" else 0)


def test_an_algorithm_alone_optimises_a_sphere() -> None:
    algorithm = snes(population=32)
    context = Context(seed=0, generation=0, progress=0.0, device=torch.device("cpu"))
    state = algorithm.init(torch.ones(1, 20), 0.3, context)
    for generation in range(1, 201):
        population = algorithm.ask(state, context._replace(generation=generation))
        values = -population.genomes.double().square().sum(1, keepdim=True)
        state = algorithm.tell(state, population, Scores(values, values[:, 0].isnan()))
    assert float(algorithm.candidates(state)["center"].square().sum()) < 1e-4


def height(genomes: Tensor) -> Tensor:
    return -genomes.double().square().sum(1)


def test_snes_and_ga_search_a_sphere_as_well_as_evotorchs_snes_at_equal_evaluations() -> None:
    from evotorch import Problem
    from evotorch.algorithms import SNES

    evaluations, start, sigma = 3000, torch.ones(50), 0.5
    theirs = []
    for seed in range(3):
        problem = Problem(
            "max", height, solution_length=50, initial_bounds=(-1, 1), vectorized=True, seed=seed,
            dtype=torch.float32, eval_dtype=torch.float64,
        )  # fmt: skip
        search = SNES(problem, stdev_init=sigma, popsize=15, center_init=start)  # its own population for 50 genes
        search.run(evaluations // 15)
        theirs.append(float(height(torch.as_tensor(search.status["center"])[None])))

    def ours(algorithm: Algorithm[Any]) -> float:
        budget = Budget(samples=evaluations)
        given = {"start": start, "fitness": height, "sigma": sigma, "budget": budget, "every": 10**9, "device": "cpu"}
        found = [evolve(algorithm=algorithm, seed=seed, **given) for seed in range(3)]
        assert all(evaluations - 15 <= one.cost.samples <= evaluations for one in found)
        return median(one.fitness for one in found)

    adaptive = partial(gaussian, sigma=0.1, self_adaptive=True, tau=None, schedule="constant")
    assert ours(snes(population=15)) > 2 * median(theirs)  # both are negative: the same up to chance
    assert ours(ga(population=15, selection=truncation, crossover=uniform, mutation=adaptive)) > median(theirs)


def test_many_objectives_are_taken_by_what_says_so() -> None:
    assert [name for name, build in ALGORITHMS.items() if build().many] == ["ga"]


@everyone
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(name: str, device: torch.device) -> None:
    first, again, other = (generations(ALGORITHMS[name](population=7), device, 4, seed) for seed in (0, 0, 1))
    assert same(first, again)
    assert not torch.equal(first[1].genomes, other[1].genomes)


@everyone
def test_a_deviation_for_each_gene_is_that_of_all_where_they_are_equal(name: str, device: torch.device) -> None:
    algorithm, context = ALGORITHMS[name](population=7), Context(0, 0, 0.0, device, LAYOUT)
    start = torch.ones(1, G, device=device)
    one, each = (algorithm.init(start, sigma, context) for sigma in (0.25, torch.full((G,), 0.25, device=device)))
    for generation in (1, 2, 3):
        one, population = generations(algorithm, device, generation, state=one, since=generation)
        each, other = generations(algorithm, device, generation, state=each, since=generation)
        assert same(population, other)


@everyone
def test_nothing_that_was_handed_over_is_changed_in_place(name: str, device: torch.device) -> None:
    algorithm = ALGORITHMS[name](population=7)
    state, _ = generations(algorithm, device, 3)
    had = [leaf.clone() for leaf in leaves(state)]
    population = algorithm.ask(state, Context(0, 4, 0.0, device, LAYOUT))
    asked = [leaf.clone() for leaf in leaves(population)]
    algorithm.tell(state, population._replace(genomes=population.genomes + 1), scored(population, 4))  # as it learnt
    after = algorithm.tell(state, population, scored(population, 4))
    told = [leaf.clone() for leaf in leaves(after)]
    algorithm.candidates(after)
    algorithm.ask(after, Context(0, 5, 0.0, device, LAYOUT))
    assert same(had, state)
    assert same(asked, population)
    assert same(told, after)


@everyone
def test_it_goes_on_from_a_checkpoint_to_the_same_bytes(name: str, tmp_path: Path, device: torch.device) -> None:
    algorithm = ALGORITHMS[name](population=7)
    state, population = generations(algorithm, device, 3)
    champion = Champion(population.genomes[0], "best", 3, {"accuracy": 0.5})
    step = Step(3, state, population, scored(population, 3), {}, Cost(), 0.0, champion, 0, None)
    checkpoint.write(tmp_path / "c.h5", {}, {}, step, [])
    template = algorithm.init(torch.zeros(1, G, device=device), 0.5, Context(0, 0, 0.0, device, LAYOUT))
    read = checkpoint.state(tmp_path / "c.h5", template, device)
    assert [leaf.dtype for leaf in leaves(read)] == [leaf.dtype for leaf in leaves(state)]
    assert same(read, state)
    whole = generations(algorithm, device, 6)
    assert same(generations(algorithm, device, 6, state=read, since=4), whole)


@everyone
def test_where_all_are_invalid_it_goes_on_and_names_nobody_best(name: str, device: torch.device) -> None:
    algorithm = ALGORITHMS[name](population=5)
    state = algorithm.init(torch.zeros(1, G, device=device), 0.1, Context(0, 0, 0.0, device, LAYOUT))
    for generation in (1, 2, 3):
        population = algorithm.ask(state, Context(0, generation, 0.0, device, LAYOUT))
        nothing = torch.full((len(population.genomes), 1), -torch.inf, dtype=torch.float64, device=device)
        state = algorithm.tell(state, population, Scores(nothing, nothing[:, 0].isinf()))
        assert "best" not in algorithm.candidates(state)
    population = algorithm.ask(state, Context(0, 4, 0.0, device, LAYOUT))
    values = torch.arange(len(population.genomes), device=device).double()[:, None]
    state = algorithm.tell(state, population, Scores(values, values[:, 0] < 0))
    assert torch.equal(algorithm.candidates(state)["best"], population.genomes[-1])


def sphere(genomes: Tensor, generation: int) -> Tensor:
    """Return the mean square of the distance to a point that is one from the start in each gene."""
    signs = 1 - 2 * (torch.arange(G, device=genomes.device) % 2)
    return (genomes - signs).square().mean(1)


@cache
def samples() -> tuple[Tensor, Tensor]:
    """Return 14 features and a constant [512, 15], and labels [512], 0 or 1, some of them against the odds."""
    source = torch.Generator().manual_seed(0)
    features = torch.randn(512, G - 1, generator=source)
    logits = 4.5 * features @ torch.randn(G - 1, generator=source) / (G - 1) ** 0.5 - 1.5
    labels = (torch.rand(512, generator=source) < logits.sigmoid()).float()
    return torch.cat([features, torch.ones(512, 1)], 1), labels


def two_classes(genomes: Tensor, generation: int) -> Tensor:
    """Return the cross-entropy of logistic regressions on 64 of the samples, or on all; ln 2 at the start."""
    features, labels = samples()
    rows = torch.randperm(512, generator=torch.Generator().manual_seed(generation))[: 64 if generation else 512]
    logits = genomes.cpu() @ features[rows].T
    losses = binary_cross_entropy_with_logits(logits, labels[rows].expand_as(logits), reduction="none")
    return losses.mean(1).to(genomes.device)


@cache
def reached(name: str, loss: Loss, options: tuple[tuple[str, Any], ...], rows: int, device: torch.device) -> float:
    """Return the loss of the best candidate after at most so many individuals were scored; the mean of seeds."""
    found = []
    for seed in range(1 if name == "nelder_mead" else 3):  # which has a generation for each individual
        algorithm, spent, generation = ALGORITHMS[name](**dict(options)), 0, 0
        state = algorithm.init(torch.zeros(1, G, device=device), 0.3, Context(seed, 0, 0.0, device, LAYOUT))
        while True:
            generation += 1
            population = algorithm.ask(state, Context(seed, generation, spent / rows, device, LAYOUT))
            spent += len(population.genomes)
            if spent > rows:
                break
            values = -loss(population.genomes, generation).double()
            state = algorithm.tell(state, population, Scores(values[:, None], values.isnan()))
        found.append(float(loss(torch.stack(list(algorithm.candidates(state).values())), 0).min()))
    return sum(found) / len(found)


LEVELS: dict[str, tuple[dict[str, Any], float, float]] = {  # options, and the losses reached after 2,000 individuals
    "ga": ({"population": 20, "mutation": partial(gaussian, sigma=0.03)}, 0.3, 0.54),
    "snes": ({"population": 20}, 0.001, 0.32),
    "xnes": ({"population": 20}, 0.01, 0.33),
    "nes": ({"population": 20}, 0.01, 0.33),
    "pgpe": ({"population": 20}, 0.02, 0.35),
    "cem": ({"population": 50}, 0.15, 0.42),
    "sep_cma": ({"population": 20}, 0.001, 0.33),
    "es": ({"population": 20}, 0.005, 0.36),
    "pso": ({"population": 10}, 0.005, 0.34),
    "de": ({"population": 20}, 0.2, 0.42),
    "spsa": ({"lr": 3.0}, 0.001, 0.34),
    "coordinate": ({"population": 20}, 0.001, 0.33),
    "nelder_mead": ({}, 0.01, 0.5),
    "hill_climbing": ({"population": 20, "sigma": 0.1}, 0.01, 0.35),
    "random": ({"population": 20}, 0.7, 0.65),
}


@pytest.mark.parametrize(("problem", "column"), [(sphere, 0), (two_classes, 1)])
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "fixed"])
def test_it_reaches_its_level_within_a_budget_and_gets_further_than_chance(
    name: str, problem: Loss, column: int, device: torch.device
) -> None:
    options, *levels = LEVELS[name]
    loss = reached(name, problem, tuple(options.items()), 2000, device)
    assert loss < levels[column]
    if name != "random":
        assert loss < 0.95 * reached("random", problem, tuple(LEVELS["random"][0].items()), 2000, device)


def test_validation_sees_everybody_who_only_learns_and_nobody_invalid() -> None:
    algorithm = ALGORITHMS["fixed"](population=4)
    context = Context(0, 1, 0.0, torch.device("cpu"), LAYOUT)
    population = algorithm.ask(algorithm.init(torch.zeros(1, G), 0.1, context), context)
    values = torch.tensor([[1.0], [-torch.inf], [3.0], [2.0]], dtype=torch.float64)
    found = algorithm.candidates(
        algorithm.tell(
            algorithm.init(torch.zeros(1, G), 0.1, context), population, Scores(values, values[:, 0].isinf())
        )
    )
    assert list(found) == ["individual_0", "best", "individual_3"]
    assert torch.equal(torch.stack(list(found.values())), population.genomes[[0, 2, 3]])


@everyone
@pytest.mark.parametrize("second", [False, True], ids=["", "ties"])
def test_constraints_are_obeyed_by_debs_order_alone(name: str, second: bool, device: torch.device) -> None:
    """What is told with violations is what is told with ranks by Deb's rules in place of the metric."""

    def told(population: Population, generation: int, plain: bool) -> Scores:
        scores = scored(population, generation)
        # Whole steps, so that many are violated by the same and many are feasible.
        beyond = (10 * population.genomes.double()[:, 1]).round().clamp(min=0).masked_fill(scores.invalid, torch.inf)
        values = torch.cat([scores.values.round(), scores.values], 1) if second else scores.values
        if not plain:
            return Scores(values, scores.invalid, violation=beyond)
        columns = torch.cat([-beyond[:, None], values], 1).masked_fill(scores.invalid[:, None], -torch.inf)
        if name == "nelder_mead":  # it compares across generations, where places differ
            return Scores(columns, scores.invalid)
        rows = [tuple(row) for row in columns.tolist()]
        place = {row: i for i, row in enumerate(sorted({*rows}))}
        ranked = torch.tensor([float(place[row]) for row in rows], dtype=torch.float64, device=device)
        return Scores(ranked.masked_fill(scores.invalid, -torch.inf)[:, None], scores.invalid)

    algorithm = ALGORITHMS[name](population=12)
    start = torch.linspace(-1, 1, 2 * G, device=device).view(2, G)
    states = [algorithm.init(start, 0.1, Context(0, 0, 0.0, device, LAYOUT)) for _ in range(2)]
    for generation in range(1, 7):
        context = Context(0, generation, 0.0, device, LAYOUT)
        asked = [algorithm.ask(state, context) for state in states]
        assert torch.equal(asked[0].genomes, asked[1].genomes)
        given = [told(asked[0], generation, plain) for plain in (False, True)]
        states = [algorithm.tell(s, p, scores) for s, p, scores in zip(states, asked, given, strict=True)]
        found, wanted = (algorithm.candidates(state) for state in states)
        assert list(found) == list(wanted)
        assert all(torch.equal(found[kind], wanted[kind]) for kind in found)
        if "best" in found and not given[0].invalid.all() and name != "nelder_mead":  # whose best may be of before
            best = found["best"]
            row = int((asked[0].genomes == best).all(1).nonzero()[0])
            violation = given[0].violation
            assert violation is not None
            assert violation[row] == violation.min()
