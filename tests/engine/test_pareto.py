"""NSGA-II's order against a plain reference, evotorch, and on a problem whose front is known."""

import math
from functools import partial

import pytest
import torch
from paper_gpu import paper_gpu
from torch import Tensor

from neuroevo.engine import pareto
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms.base import GAState
from neuroevo.search.algorithms.ga import ga
from neuroevo.search.operators import crossover, mutation

CPU = torch.device("cpu")
INF = math.inf


def dominates(a: list[float], b: list[float]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and a != b


def reference(values: list[list[float]]) -> tuple[list[int], list[float]]:
    """Return fronts, by repeated removal, and crowding distances, by definition; copies of an individual have none."""
    number, distance = [-1] * len(values), [0.0] * len(values)
    left, k = list(range(len(values))), 0
    while left:
        now = [i for i in left if not any(dominates(values[j], values[i]) for j in left)]
        points = sorted({tuple(values[i]): i for i in reversed(now)}.items())  # the first of equals
        for c in range(len(values[0])):
            line = sorted(points, key=lambda point: point[0][c])
            span = line[-1][0][c] - line[0][0][c]
            for place, (_, i) in enumerate(line):
                if not span > 0:
                    continue
                ends = place in (0, len(line) - 1)
                distance[i] += INF if ends else (line[place + 1][0][c] - line[place - 1][0][c]) / span
        for i in now:
            number[i] = k
        left, k = [i for i in left if i not in now], k + 1
    return number, distance


def random_values(n: int, m: int, seed: int, steps: int | None, invalid: bool) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(n, m, generator=g, dtype=torch.float64)
    if steps:  # so coarse that many are equal in one objective, or in all
        values = (values * steps).round()
    if invalid:
        values[torch.rand(n, generator=g) < 0.3] = -INF
    return values


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 60])
@pytest.mark.parametrize("steps", [None, 1, 3])
@pytest.mark.parametrize("invalid", [False, True])
def test_fronts_and_crowding_are_those_of_the_reference(
    n: int, m: int, steps: int | None, invalid: bool, device: torch.device
) -> None:
    for seed in range(3):
        values = random_values(n, m, seed, steps, invalid)
        number, distance = reference(values.tolist())
        found = pareto.fronts(values.to(device))
        assert found.tolist() == number
        crowding = pareto.crowding(values.to(device), found).cpu()
        torch.testing.assert_close(crowding, torch.tensor(distance, dtype=torch.float64), rtol=1e-12, atol=0)
        order = pareto.rank(values.to(device)).tolist()
        keys = [(-k, round(d, 9)) for k, d in zip(number, distance, strict=True)]
        for i in range(n):
            if values[i, 0] == -INF:
                assert order[i] == -INF
                continue
            for j in range(n):
                assert keys[i] >= keys[j] or order[i] < order[j]
                assert keys[i] != keys[j] or values[j, 0] == -INF or abs(order[i] - order[j]) <= 1


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.filterwarnings("ignore")  # evotorch's import
def test_domination_is_evotorchs_whose_counts_are_not_fronts(steps: int | None) -> None:
    from evotorch.operators.functional import domination_counts, domination_matrix

    values = random_values(60, 2, 0, steps, invalid=True)
    expected = domination_matrix(values, objective_sense=["max", "max"])
    assert torch.equal(pareto.domination(values), expected)
    counts, number = domination_counts(values, objective_sense=["max", "max"]), pareto.fronts(values)
    assert torch.equal(counts == 0, number == 0)
    higher = counts[:, None] > counts
    assert bool((higher & (number[:, None] < number)).any())  # another order, beyond the first front


def test_the_front_has_one_of_each_equals_in_order_of_the_first_objective() -> None:
    values = torch.tensor([[1, 5], [3, 3], [1, 5], [2, 2], [5, 1], [-INF, -INF], [3, 3]], dtype=torch.float64)
    assert pareto.front(values).tolist() == [4, 1, 0]
    assert pareto.front(torch.full((3, 2), -INF, dtype=torch.float64)).tolist() == []


def test_copies_of_an_extreme_do_not_fill_the_population() -> None:
    line = torch.linspace(0, 1, 9, dtype=torch.float64)
    points = torch.stack([line, 1 - line], 1)
    values = torch.cat([points[:1].expand(9, 2), points[1:]])
    best = pareto.rank(values).topk(9).indices
    assert sorted(best.tolist()) == [0, *range(9, 17)]


def test_an_objective_at_infinity_is_no_error() -> None:
    values = torch.tensor([[INF, 0], [1, 1], [0, 2], [2, -INF], [-INF, INF]], dtype=torch.float64)
    assert pareto.rank(values).isfinite().all()
    assert pareto.front(values).tolist() == [0, 1, 2, 4]


# Two spheres, whose centres are 2 apart: the front is the line between them, (-t^2, -(2 - t)^2).

G, N, GENERATIONS = 12, 64, 60
LAYOUT = Layout(("w",), ((G,),))
CENTRE = torch.full((G,), 1 / math.sqrt(G), dtype=torch.float64)
WORST = (-5.0, -5.0)


def spheres(genomes: Tensor) -> Tensor:
    x = genomes.double()
    return torch.stack([-(x - CENTRE).square().sum(1), -(x + CENTRE).square().sum(1)], 1)


def hypervolume(values: Tensor) -> float:
    """Return the area that two objectives dominate above WORST."""
    area, height = 0.0, WORST[1]
    for first, second in sorted(values.tolist(), reverse=True):
        if first > WORST[0] and second > height:
            area, height = area + (first - WORST[0]) * (second - height), second
    return area


def evolved(n: int, seed: int) -> Tensor:
    """Return the last population's objectives, by NSGA-II with its own crossover."""
    from neuroevo.config import check

    c = check({"fitness": {"metrics": ["cross_entropy", "weight_norm"]},
               "algorithm": {"population": n, "crossover": "sbx", "mutation": {"sigma": 0.15}}})  # fmt: skip
    algorithm = c.algorithm.search()
    state = algorithm.init(torch.full((1, G), 0.5), 0.1, Context(seed, 0, 0.0, CPU, LAYOUT))
    for generation in range(1, GENERATIONS + 1):
        population = algorithm.ask(state, Context(seed, generation, generation / GENERATIONS, CPU, LAYOUT))
        assert len(population.genomes) == n
        values = spheres(population.genomes)
        state = algorithm.tell(state, population, Scores(values, torch.zeros(n, dtype=torch.bool), 2))
    assert list(algorithm.candidates(state)) == [f"front-{i}" for i in range(len(pareto.front(values)))]
    return values


@pytest.mark.parametrize("n", [N, N + 1])
def test_the_front_of_two_spheres_is_approached_along_all_of_its_length(n: int) -> None:
    t = torch.linspace(0, 2, 1001, dtype=torch.float64)
    true = hypervolume(torch.stack([-t.square(), -(2 - t).square()], 1))
    noise = torch.randn(n * GENERATIONS, G, generator=torch.Generator().manual_seed(0)) / math.sqrt(G)
    random = max(hypervolume(spheres(scale * noise)) for scale in (0.25, 0.5, 1.0))  # around the middle of the front
    for seed in range(2):
        values = evolved(n, seed)
        assert hypervolume(values) > 0.95 * true > random + 0.03 * true
        front = values[pareto.front(values)]
        along = (front[:, 1] - front[:, 0] + 4).clamp(0, 8) / 8  # 1 at the first sphere's centre, 0 at the second's
        assert len(front) > n // 3
        assert float(along.max()) > 0.85 and float(along.min()) < 0.15  # 0.87 and 0.07 in the worst of 32 runs
        assert float(along.diff().abs().max()) < 0.15


def test_elites_are_the_survivors_of_parents_and_children() -> None:
    algorithm = ga(population=10, elites=5, crossover=crossover.uniform)
    state = algorithm.init(torch.zeros(1, G), 0.1, Context(0, 0, 0.0, CPU, LAYOUT))
    first = algorithm.ask(state, Context(0, 1, 0.0, CPU, LAYOUT))
    values = random_values(10, 2, 0, None, invalid=True)
    invalid = values[:, 0].isinf()
    state = algorithm.tell(state, first, Scores(values.nan_to_num(neginf=9.0), invalid, 2))
    second = algorithm.ask(state, Context(0, 2, 0.0, CPU, LAYOUT))
    number, distance = reference(values.tolist())
    wanted = sorted(range(10), key=lambda i: (number[i], -distance[i]))[:5]
    assert {tuple(g) for g in second.genomes[:5].tolist()} == {tuple(first.genomes[i].tolist()) for i in wanted}
    assert (second.parents[5:] >= 0).all()
    assert not invalid[second.parents[5:]].any()


def test_nobody_valid_is_no_front_and_no_error() -> None:
    algorithm = ga(population=4, elites=2, mutation=partial(mutation.gaussian, sigma=0.1))
    population = Population.new(torch.randn(4, G), parents=2)
    scores = Scores(torch.full((4, 2), math.nan, dtype=torch.float64), torch.ones(4, dtype=torch.bool), 2)
    state = algorithm.tell(GAState(population, torch.empty(0)), population, scores)
    assert algorithm.candidates(state) == {}
    assert algorithm.ask(state, Context(0, 2, 0.0, CPU, LAYOUT)).genomes.shape == (4, G)


@pytest.mark.parametrize(("fronts", "waits"), [(1, 1), (15, 1), (16, 2), (111, 3), (112, 4)])
def test_ranks_on_a_gpu_are_those_on_the_cpu_and_wait_seldom_for_the_fronts(fronts: int, waits: int) -> None:
    generator = torch.Generator().manual_seed(fronts)
    along = torch.randint(5, (150,), generator=generator).double()  # copies among them
    layer = (torch.arange(150) % fronts).double() * 10
    values = torch.stack([layer + along, layer - along], 1)
    values[7] = -INF  # a front of its own
    with paper_gpu() as gpu:
        there = values.to("cuda")
        with gpu.count() as counted:
            number, order = pareto.fronts(there), pareto.rank(there)
        first = pareto.front(there)
    assert counted.reads.total() == 2 * waits
    assert int(number.elem.max()) == fronts
    assert torch.equal(number.elem, pareto.fronts(values))
    assert torch.equal(order.elem, pareto.rank(values))
    assert torch.equal(first.elem, pareto.front(values))


@pytest.mark.parametrize("invalid", [False, True], ids=["", "invalid"])
@pytest.mark.parametrize("steps", [None, 1])
@pytest.mark.parametrize("seed", range(5))
def test_with_constraints_the_less_violated_dominates_and_among_equals_the_objectives_do(
    seed: int, steps: int | None, invalid: bool
) -> None:
    values = random_values(24, 3, seed, steps, invalid)
    bad = values[:, 0] == -INF
    drawn = torch.randint(3, (24,), generator=torch.Generator().manual_seed(seed)).double()
    violation = (drawn / 7).masked_fill(bad, INF)

    def by_definition(i: int, j: int) -> bool:
        if violation[i] == violation[j]:
            return dominates(values[i].tolist(), values[j].tolist())
        return bool(violation[i] < violation[j])

    scores = Scores(values, bad, 3, violation)
    found = pareto.domination(pareto.objectives(scores))
    assert found.tolist() == [[by_definition(j, i) for j in range(24)] for i in range(24)]
    if bool((violation == 0).any()):
        feasible = violation == 0
        assert torch.equal(pareto.objectives(scores)[feasible], values[feasible])
    assert torch.equal(pareto.objectives(scores._replace(violation=None)), values)
    front = pareto.front(pareto.objectives(scores))
    assert (violation[front] == violation.min()).all()
