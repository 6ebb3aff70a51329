from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import pytest
import torch
from paper_gpu import CUDA, Waits, paper_gpu
from torch import Tensor

from neuroevo.engine import loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.batches import batches
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.evaluator import Evaluated, Evaluator, Scoring, plain
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.loop import Champion, Ending, Rules, Step, statistics
from neuroevo.engine.problem import Problem, Sensitivities, Validate, by_metric
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError

CPU = torch.device("cpu")


class Walk(NamedTuple):
    """The state of a search that goes one step up each generation."""

    at: Tensor


def walk(growing: bool = False) -> Algorithm[Walk]:
    """Ask for 4 individuals; where it is growing, for 8 after the first generation."""

    def ask(state: Walk, context: Context) -> Population:
        n = 8 if growing and context.generation > 1 else 4
        return Population.new(state.at + torch.arange(n, device=state.at.device)[:, None], parents=2)

    return Algorithm(
        lambda start, sigma, context: Walk(start[0]),
        ask,
        lambda state, population, scores: Walk(state.at + 1),
        lambda state: {"best": state.at, "other": state.at - 10},
        size=4,
        again=4 if growing else 0,
    )


def rules(**changes: object) -> Rules:
    base = Rules(0, 8, 2, None, Budget(generations=6), "accuracy", False)
    return base.__class__(**{**base.__dict__, **changes})  # type: ignore[arg-type]


def problem(evaluator: Evaluator, validate: Validate, r: Rules, pool: int = 100) -> Problem:
    """Return the problem of one gene, whose batches are drawn from so many rows."""
    merit = by_metric("accuracy", lower_is_better=r.lower_is_better, loss="cross_entropy")
    draw = batches(torch.arange(pool), r.seed)
    return Problem(Layout(("x",), ((1,),)), torch.zeros(1, 1), 0.0, evaluator, draw, validate, merit)


FIRST = Champion(torch.zeros(1), "start", 0, {"accuracy": -1.0, "cross_entropy": 1.0})


def run(
    r: Rules,
    quality: Callable[[float], float] = lambda x: x,
    bad: float | None = None,
    algorithm: Algorithm[Walk] | None = None,
    pool: int = 100,
    sensitivity: Sensitivities | None = None,
) -> tuple[list[Step], list[Tensor]]:
    """Run the walk; the validation accuracy of a genome is `quality` of its value, its fitness the value itself."""
    taken: list[Tensor] = []

    def score(population: Population, index: Tensor) -> tuple[Scores, Cost]:
        taken.append(index)
        values = population.genomes[:, :1].double()
        invalid = values[:, 0] == (float("nan") if bad is None else bad)
        return Scores(values.masked_fill(invalid[:, None], -torch.inf), invalid), Cost(forward=len(values) * len(index))

    def validate(genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        found = [{"accuracy": quality(float(g[0])), "cross_entropy": 1.0} for g in genomes]
        return found, Cost(validation=len(genomes))

    ticks, search = count(), algorithm or walk()
    p = problem(plain(Scoring(score, lambda n, samples: Cost(forward=n * samples))), validate, r, pool)
    p = p._replace(sensitivity=sensitivity)
    start = loop.begin(p, search, r.seed, CPU, champion=FIRST)
    return list(loop.evolve(p, search, r, start, device=CPU, clock=lambda: float(next(ticks)))), taken


def test_an_algorithm_that_asks_for_another_number_of_rows_than_it_says_is_one_line() -> None:
    first = walk()._replace(size=5)
    with pytest.raises(InputError, match=r"^algorithm: asks for 4 rows of genomes in generation 1, and says size = 5$"):
        run(rules(), algorithm=first)
    later = walk(growing=True)._replace(again=3)
    with pytest.raises(InputError, match=r"^algorithm: .* 8 rows .* in generation 2, and says size \+ again = 7$"):
        run(rules(), algorithm=later)

    def ask(state: Walk, context: Context) -> Population:
        population = walk().ask(state, context)
        return population._replace(roles=population.roles[:3])

    with pytest.raises(InputError, match=r"^algorithm: asks for 3 rows of roles in generation 1, and says size = 4$"):
        run(rules(), algorithm=walk()._replace(ask=ask))


def test_an_algorithm_that_asks_for_more_sensitivities_than_it_says_is_one_line() -> None:
    class Ones:
        def of(self, genomes: Tensor) -> Tensor:
            return torch.ones_like(genomes)

        def cost(self, n: int) -> Cost:
            return Cost(forward=n)

    def ask(state: Walk, context: Context) -> Population:
        population = walk().ask(state, context)
        if context.generation > 1:
            assert context.sensitivity is not None
            context.sensitivity(population.genomes[:2])
        return population

    algorithm = walk()._replace(ask=ask)
    assert len(run(rules(), algorithm=algorithm._replace(overhead=2), sensitivity=Ones())[0]) == 6
    with pytest.raises(InputError, match=r"^algorithm: .* sensitivity of 2 genomes in generation 2, and says 1: over"):
        run(rules(), algorithm=algorithm._replace(overhead=1), sensitivity=Ones())


def test_generations_stop_a_run_and_are_counted_from_1() -> None:
    steps, _ = run(rules())
    assert [step.generation for step in steps] == [1, 2, 3, 4, 5, 6]
    assert [step.stop for step in steps] == [None] * 5 + ["generations"]


def test_validation_comes_every_so_often_and_at_the_end_and_is_counted_apart() -> None:
    steps, _ = run(rules(budget=Budget(generations=5)))
    assert [step.record["validation"] for step in steps] == [None, 2, None, 4, 5]
    assert steps[-1].cost == Cost(forward=5 * 4 * 8, validation=6)


def test_the_champion_is_the_best_on_validation_and_not_the_last() -> None:
    steps, _ = run(rules(), quality=lambda x: -abs(x - 2))
    champion = steps[-1].champion
    assert (champion.kind, champion.generation, float(champion.genome)) == ("best", 2, 2.0)


def test_patience_counts_validations_without_a_better_champion() -> None:
    steps, _ = run(rules(budget=Budget(generations=100), patience=3), quality=lambda x: -abs(x - 2))
    assert (steps[-1].generation, steps[-1].stop) == (8, "patience")


@pytest.mark.parametrize(("lower", "target", "generation"), [(False, 4.0, 4), (True, -14.0, 4)])
def test_the_target_is_of_the_validation_metric(lower: bool, target: float, generation: int) -> None:
    quality = (lambda x: x) if not lower else (lambda x: -x - 10 if x >= 0 else 0.0)
    steps, _ = run(rules(budget=Budget(generations=50, target=target), lower_is_better=lower), quality=quality)
    assert (steps[-1].generation, steps[-1].stop) == (generation, "target")


def test_the_last_batch_is_cut_so_that_samples_are_spent_to_within_one_each() -> None:
    steps, batches = run(rules(budget=Budget(samples=75)))
    assert [len(index) for index in batches] == [8, 8, 2]
    assert (steps[-1].cost.samples, steps[-1].stop) == (72, "samples")
    steps, batches = run(rules(budget=Budget(forward_samples=64)))
    assert [len(index) for index in batches] == [8, 8]
    assert steps[-1].stop == "forward_samples"


@pytest.mark.parametrize(
    ("budget", "batches", "stop"),
    [
        (Budget(samples=39), [8], "samples"),
        (Budget(forward_samples=35), [8], "forward_samples"),
        (Budget(samples=40), [8, 1], "samples"),
        (Budget(samples=100), [8, 8], "samples"),
        (Budget(samples=1000, generations=1), [8], "generations"),
        (Budget(samples=35, generations=1), [8], "generations"),
    ],
)
def test_a_run_ends_before_a_generation_that_takes_more_than_is_left(
    budget: Budget, batches: list[int], stop: str
) -> None:
    steps, taken = run(rules(budget=budget), algorithm=walk(growing=True))
    assert [len(index) for index in taken] == batches
    assert [step.stop for step in steps] == [None] * (len(batches) - 1) + [stop]
    assert steps[-1].record["validation"] is not None


def test_a_budget_of_less_than_the_first_generation_is_refused() -> None:
    with pytest.raises(InputError, match="too few for one generation of the smallest batch"):
        run(rules(budget=Budget(samples=3)))


def test_seconds_stop_a_run() -> None:
    steps, _ = run(rules(budget=Budget(seconds=3.5)))
    assert steps[-1].stop == "seconds"
    assert steps[-1].generation < 6


def test_a_batch_is_a_function_of_seed_and_generation_without_replacement() -> None:
    _, batches = run(rules())
    _, again = run(rules())
    _, other = run(rules(seed=1))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], other[0])
    assert all(len(set(index.tolist())) == 8 for index in batches)


def test_a_batch_larger_than_the_train_split_is_all_of_it_and_counted_as_such() -> None:
    steps, batches = run(rules(samples=1000), pool=10)
    assert batches[0].tolist() == list(range(10))
    assert steps[0].cost.forward == 40


def test_invalid_individuals_are_counted_and_left_out_of_the_statistics() -> None:
    steps, _ = run(rules(), bad=3.0)
    record = steps[0].record
    assert (record["invalid"], record["fitness_best"], record["fitness_mean"]) == (1, 2.0, 1.0)
    assert record["fitness_std"] == pytest.approx((2 / 3) ** 0.5)


@pytest.mark.parametrize("invalid", [[], [0], [2, 5], [0, 1, 2, 3, 4]])
def test_the_history_of_masked_rows_is_that_of_the_valid_rows_alone(invalid: list[int], device: torch.device) -> None:
    bad = torch.tensor([i in invalid for i in range(6)])
    genomes, values = torch.randn(6, 5000), torch.randn(6, 1, dtype=torch.float64)
    genomes[bad], values[bad] = torch.nan, -torch.inf
    traits = {"sigma": torch.rand(6), "matrix": torch.rand(6, 2)}
    population = Population.new(genomes.to(device))._replace(traits={k: v.to(device) for k, v in traits.items()})
    found = statistics(population, Scores(values.to(device), bad.to(device)))
    valid = values[~bad, 0]
    assert (found.invalid, found.fitness_best) == (len(invalid), float(valid.max()))
    assert found.fitness_mean == pytest.approx(float(valid.mean()), rel=1e-13)
    assert found.fitness_std == pytest.approx(float(valid.std(correction=0)), rel=1e-13)
    diversity = genomes[~bad, :: 5000 // 512].std(0, correction=0).mean()
    assert found.diversity == pytest.approx(float(diversity), rel=1e-6)
    assert found.traits == {"sigma": float(traits["sigma"].median())}


def on_paper(clock: Callable[[Waits], float], told: Callable[[int], None], algorithm: Algorithm[Walk]) -> list[Step]:
    """Run the walk for four generations on a GPU on paper."""

    def score(population: Population, index: Tensor) -> tuple[Scores, Cost]:
        values = population.genomes.double()
        return Scores(values, values.isnan().any(1)), Cost(forward=len(values))

    def validate(genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        return [{"accuracy": 0.0, "cross_entropy": 1.0}] * len(genomes), Cost()

    r = rules(budget=Budget(generations=4, seconds=1e9), every=9)
    p = problem(plain(Scoring(score, lambda n, samples: Cost(forward=n))), validate, r)
    steps = []
    with paper_gpu() as gpu, gpu.count() as waits:
        begun = loop.begin(p, algorithm, 0, CUDA, champion=FIRST)
        for step in loop.evolve(p, algorithm, r, begun, device=CUDA, clock=lambda: clock(waits)):
            told(step.generation)
            steps.append(step)
    return steps


def test_the_clock_is_asked_when_the_device_has_done_the_generation() -> None:
    steps = on_paper(lambda waits: float(waits.reads.total()), lambda generation: None, walk())
    assert [step.seconds for step in steps] == [1, 2, 3, 4]  # a wait a generation, and each is in its time


def test_a_gpu_proposes_the_next_generation_while_observers_hear_of_this_one() -> None:
    done: list[tuple[str, int]] = []
    algorithm = walk()

    def ask(state: Walk, context: Context) -> Population:
        done.append(("asked", context.generation))
        return algorithm.ask(state, context)

    on_paper(lambda waits: 0.0, lambda generation: done.append(("told", generation)), algorithm._replace(ask=ask))
    each = [(("asked", k + 1), ("told", k)) for k in (1, 2, 3)]
    assert done == [("asked", 1), *(event for pair in each for event in pair), ("told", 4)]


def test_equal_individuals_have_no_diversity_at_all_and_invalid_ones_no_statistics() -> None:
    population = Population.new(torch.full((3, 7), 0.1))
    values = torch.full((3, 1), 0.1, dtype=torch.float64)
    for invalid, spread in ((False, 0.0), (True, None)):
        found = statistics(population, Scores(values, torch.full((3,), invalid)))
        assert (found.fitness_std, found.diversity, found.invalid) == (spread, spread, 3 * invalid)


def test_history_has_its_columns_in_order() -> None:
    steps, _ = run(rules())
    assert list(steps[0].record) == [
        "generation", "fitness_best", "fitness_mean", "fitness_std", "diversity", "validation", "invalid",
        "forward_samples", "backward_samples", "seconds",
    ]  # fmt: skip
    assert steps[0].record["diversity"] == pytest.approx(float(torch.arange(4.0).std(correction=0)))


def test_ties_on_the_metric_are_broken_by_cross_entropy() -> None:
    merit = by_metric("accuracy", loss="cross_entropy")
    a = Champion(torch.zeros(1), "a", 1, {"accuracy": 0.5, "cross_entropy": 2.0})
    b = a._replace(validation={"accuracy": 0.5, "cross_entropy": 1.0})
    assert merit(b.validation) > merit(a.validation)


def learning(steps: int, batch: int, budget: Budget) -> tuple[list[Step], list[int | None]]:
    """Run the walk, whose 4 individuals learn `steps` steps of `batch` samples a generation; return what was taken."""
    taken: list[int | None] = []

    def cost(population: Population, samples: int, taken: int) -> Cost:
        n = len(population.genomes)
        return Cost(forward=n * (batch * taken + samples), backward=n * batch * taken)

    def evaluate(population: Population, index: Tensor, context: Context) -> Evaluated:
        taken.append(context.steps)
        n = len(population.genomes)
        scores = Scores(population.genomes[:, :1].double(), torch.zeros(n, dtype=torch.bool))
        return Evaluated(
            population,
            population,
            scores,
            cost(population, len(index), steps if context.steps is None else context.steps),
        )

    def validate(genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        return [{"accuracy": 0.0, "cross_entropy": 1.0} for _ in genomes], Cost()

    d = Evaluator(evaluate, cost, steps)
    r = rules(budget=budget)
    p = problem(d, validate, r)
    start = loop.begin(p, walk(), r.seed, CPU, champion=FIRST)
    return list(loop.evolve(p, walk(), r, start, device=CPU, clock=lambda: 0.0)), taken


def test_the_last_generation_learns_for_as_many_steps_as_the_budget_has_left() -> None:
    # A generation: 5 steps of 4 x 10 samples, forward and twice backward, a batch of 8: 5 x 120 + 32 = 632 samples.
    for extra, expected in ((0, 0), (123, 0), (124, 1), (151, 1), (152, 1), (2 * 120 + 31, 1), (2 * 120 + 32, 2),
                            (631, 4)):  # fmt: skip
        steps, taken = learning(5, 10, Budget(samples=632 + extra))
        assert taken == [None, *([expected] if expected else [])], extra
        spent = steps[-1].cost.samples
        assert 632 + extra - 120 - 4 < spent <= 632 + extra
        assert steps[-1].stop == "samples"


def test_a_budget_that_one_step_of_the_smallest_batch_exceeds_is_refused_and_one_that_it_fits_is_not() -> None:
    steps, taken = learning(5, 10, Budget(samples=124))
    assert (taken, steps[-1].cost.samples) == ([1], 124)
    with pytest.raises(InputError, match="too few"):
        learning(5, 10, Budget(samples=123))


def test_steps_are_cut_to_forward_samples_too() -> None:
    steps, taken = learning(5, 10, Budget(forward_samples=232 + 100))
    assert taken == [None, 1]
    assert steps[-1].cost.forward == 232 + 72


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deviations_are_those_of_valid_rows_whatever_the_others_hold(dtype: torch.dtype) -> None:
    x = torch.randn(50, 7, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 1e-3 + 100
    x[0] += 1000
    rows = torch.ones(50, dtype=torch.bool)
    rows[[3, 49]] = False
    x[3], x[49] = torch.nan, torch.inf
    right = x[rows].double().std(0, correction=0)
    torch.testing.assert_close(loop.deviations(x, rows).double(), right, rtol=1e-5, atol=0)
    x[:] = x[7]
    assert (loop.deviations(x, rows) == 0).all()


def test_with_constraints_the_history_tells_of_the_feasible_and_the_best_is_so_by_debs_rules() -> None:
    values = torch.tensor([[9.0], [1.0], [2.0], [-torch.inf]], dtype=torch.float64)
    invalid = values[:, 0].isinf()
    scores = Scores(values, invalid, violation=torch.tensor([0.5, 0.0, 0.0, torch.inf], dtype=torch.float64))
    population = Population.new(torch.randn(4, 7))
    found = statistics(population, scores)
    assert found.fitness_best == 2.0
    assert found.fitness_mean == pytest.approx(4.0)
    assert found.constraints == {"feasible": pytest.approx(2 / 3), "violation": 0.0}
    nobody = statistics(population, scores._replace(invalid=torch.ones(4, dtype=torch.bool)))
    assert nobody.constraints == {"feasible": None, "violation": None}
    assert statistics(population, scores._replace(violation=None)).constraints == {}
    line = loop.record(1, found, validation=None, cost=Cost(), seconds=0.0)
    assert list(line)[6:9] == ["invalid", "feasible", "violation"]


@pytest.mark.parametrize(("beyond", "stop"), [(0.0, "target"), (0.1, None)])
def test_a_target_stops_a_run_by_a_feasible_champion_alone(beyond: float, stop: str | None) -> None:
    r = rules(budget=Budget(generations=9, target=0.5), constrained=True, patience=None)
    champion = FIRST._replace(validation={"accuracy": 0.9, "cross_entropy": 1.0, "violation": beyond})
    assert loop.stop_by_validation(r, champion, 0) == stop


def test_candidates_are_compared_by_constraints_before_the_metric() -> None:
    merit = by_metric("accuracy", loss="cross_entropy", constrained=True)
    a, b = {"accuracy": 0.9, "cross_entropy": 1.0, "violation": 0.1}, {"accuracy": 0.2, "cross_entropy": 1.0}
    assert merit({**b, "violation": 0.0}) > merit(a) > merit({**b, "violation": 0.1})
    assert merit(a) > merit({**b, "violation": float("inf")})


def equal(population: Population, index: Tensor) -> tuple[Scores, Cost]:
    n = len(population.genomes)
    return Scores(torch.zeros(n, 1, dtype=torch.float64), torch.zeros(n, dtype=torch.bool)), Cost(forward=n)


EQUAL = Scoring(equal, lambda n, samples: Cost(forward=n))


def test_a_search_whose_end_was_chosen_validates_nothing_and_takes_that_candidate() -> None:
    r = rules(ending=Ending(3, "other"))

    def never(genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        raise AssertionError("nothing is left to validate by")

    nobody = problem(plain(EQUAL), never, r)
    first = loop.begin(nobody, walk(), 0, CPU, champion=FIRST)
    steps = list(loop.evolve(nobody, walk(), r, first, device=CPU))
    assert [step.stop for step in steps] == [None, None, "refit"]
    last = steps[-1].champion
    assert (last.kind, last.generation, last.genome.tolist()) == ("other", 3, [-7.0])
    assert not [step for step in steps if step.record["validation"] is not None]
    with pytest.raises(InputError, match="center is no candidate; there are: best, other"):
        next(loop.evolve(nobody, walk(), rules(ending=Ending(3, "center")), first, device=CPU))


def test_looks_have_all_candidates_where_they_are_asked_for() -> None:
    def worth(genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        return [{"accuracy": float(x), "cross_entropy": 0.0} for x in genomes[:, 0]], Cost()

    for asked in (False, True):
        r = rules(looks=asked)
        of = problem(plain(EQUAL), worth, r)
        first = loop.begin(of, walk(), 0, CPU, champion=FIRST)
        steps = list(loop.evolve(of, walk(), r, first, device=CPU))
        found = [[(one.kind, one.validation["accuracy"]) for one in step.looks] for step in steps]
        assert found[0] == [] and found[1] == ([("best", 2.0), ("other", -8.0)] if asked else [])
