from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from reference_metrics import OF_LOGITS, required
from torch import Tensor, nn

from neuroevo.engine import batches, execution, pareto, scores
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import Execution
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.networks import heads
from neuroevo.problems import scoring
from neuroevo.problems.class_metrics import each as values_of
from neuroevo.problems.constraints import Constraint, pose, violation
from neuroevo.problems.metric import Additive, Metric, Names, score
from neuroevo.problems.metrics import METRICS

D, C, N, B = 6, 3, 7, 50
LAYOUT = Layout(("fc.weight", "fc.bias"), ((C, D), (C,)))
METHOD, FORWARD = heads.population_forward(heads.linear(D, C), "fc")
CPU = torch.device("cpu")


class Rows:
    """Features in memory."""

    def __init__(self, n: int = 200, device: torch.device = CPU) -> None:
        g = torch.Generator().manual_seed(1)
        self.x, self.y = torch.randn(n, D, generator=g).to(device), torch.randint(C, (n,), generator=g).to(device)
        self.most = 0

    @property
    def dim(self) -> int:
        return D

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        self.most = max(self.most, len(index))
        return self.x[index], self.y[index]


class Linear(NamedTuple):
    """Genomes as linear heads."""

    decode: Callable[[Tensor], dict[str, Tensor]] = LAYOUT.unflatten
    forward: heads.Forward = FORWARD
    module: Callable[[Tensor], nn.Module] = lambda genome: nn.Identity()


def judgement(rows: Rows, metrics: Sequence[Metric], start: Tensor | None = None) -> scoring.Judgement:
    return scoring.Judgement(Linear(), rows, metrics, start)


def genomes(n: int = N) -> Tensor:
    return torch.randn(n, LAYOUT.genes, generator=torch.Generator().manual_seed(0))


def plan(individuals: int = 1000, samples: int = 1000, limit: int = 2**30) -> Execution:
    return Execution("gemm", C, individuals, samples, limit, 2)


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize(
    ("individuals", "samples", "limit"), [(1000, 1000, 2**30), (3, 7, 2**30), (1, 1, 1), (4, 1000, 9000)]
)
def test_scores_are_those_of_a_plain_loop_however_they_are_sliced(
    name: str, individuals: int, samples: int, limit: int, device: torch.device
) -> None:
    rows, index, metric = Rows(device=device), torch.arange(0, 2 * B, 2), METRICS[name](**required(name, C))
    population = genomes().to(device)
    found = scoring.evaluate(judgement(rows, [metric]), population, index, plan(individuals, samples, limit))
    x, y = rows.batch(index)
    for i, genome in enumerate(population):
        w, b = genome[: C * D].view(C, D), genome[C * D :]
        alone = score(metric, (x @ w.T + b)[None], y)[0]
        torch.testing.assert_close(found.values[i, 0], alone, rtol=1e-5, atol=1e-6)
    assert not found.invalid.any()


def test_every_metric_has_its_column() -> None:
    names = ["accuracy", "auroc", "cross_entropy"]
    metrics = [METRICS[name]() for name in names]
    index = torch.arange(B)
    together = scoring.evaluate(judgement(Rows(), metrics), genomes(), index, plan(2, 16)).values
    for column, metric in enumerate(metrics):
        alone = scoring.evaluate(judgement(Rows(), [metric]), genomes(), index, plan(2, 16)).values
        assert torch.equal(together[:, column], alone[:, 0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", OF_LOGITS)
def test_individuals_with_nan_or_inf_rank_last_and_change_nobody_else(name: str, bad: float) -> None:
    population = genomes()
    population[2, 4] = bad
    metric, index = METRICS[name](**required(name, C)), torch.arange(B)
    found = scoring.evaluate(judgement(Rows(), [metric]), population, index, plan())
    clean = scoring.evaluate(judgement(Rows(), [metric]), genomes(), index, plan())
    assert found.invalid.tolist() == [i == 2 for i in range(N)]
    assert found.values[2, 0] == -torch.inf
    others = ~found.invalid
    torch.testing.assert_close(found.values[others], clean.values[others], rtol=1e-6, atol=1e-7)


def test_fitness_costs_individuals_times_samples() -> None:
    population = Population.new(genomes(), parents=2)
    metric = METRICS["accuracy"]()
    _, cost = scoring.fitness(judgement(Rows(), [metric]), population, torch.arange(B), plan())
    assert cost == Cost(forward=N * B)


def test_in_half_precision_the_best_and_only_they_have_scores_in_full() -> None:
    population, metric = Population.new(genomes(), parents=2), METRICS["cross_entropy"]()
    half = plan()._replace(precision="bfloat16")

    def scored(p: Execution, rescored: int) -> Tensor:
        given = (judgement(Rows(), [metric]), population, torch.arange(B), p)
        return scoring.fitness(*given, rescored=rescored)[0].values[:, 0]

    full, rough, mixed = scored(plan(), 3), scored(half, 0), scored(half, 3)
    best = rough.topk(3).indices
    rest = torch.ones(N, dtype=torch.bool).index_fill(0, best, False)
    torch.testing.assert_close(mixed[best], full[best], rtol=1e-6, atol=1e-7)
    assert torch.equal(mixed[rest], rough[rest])
    assert not torch.equal(rough, full)
    torch.testing.assert_close(rough, full, rtol=0.05, atol=0.05)


def test_whom_float16_makes_infinite_is_scored_again_and_that_counts() -> None:
    large = genomes()
    large[2], large[4, 0] = 1e5, torch.nan  # logits beyond 65,504, and one who is invalid in whatever precision
    population, metric, half = Population.new(large, parents=2), METRICS["accuracy"](), plan()

    def scored(precision: str, rescored: int) -> tuple[Scores, Cost]:
        given = judgement(Rows(), [metric]), population, torch.arange(B), half._replace(precision=precision)
        return scoring.fitness(*given, rescored=rescored)

    (full, _), (wide, spent), (narrow, more) = scored("float32", 0), scored("bfloat16", 0), scored("float16", 1)
    alone = scoring.evaluate(judgement(Rows(), [metric]), large, torch.arange(B), half._replace(precision="float16"))
    assert alone.invalid.tolist() == [i in (2, 4) for i in range(N)]
    for found in (full, wide, narrow):
        assert found.invalid.tolist() == [i == 4 for i in range(N)]
    assert narrow.values[2, 0] == full.values[2, 0]
    assert (spent, more) == (Cost(forward=N * B), Cost(forward=(N + 2 + 1) * B))


def test_samples_are_taken_in_slices_of_the_plan() -> None:
    rows = Rows()
    scoring.evaluate(judgement(rows, [METRICS["accuracy"]()]), genomes(), torch.arange(B), plan(samples=8))
    assert rows.most == 8


@pytest.mark.parametrize("limit", [2**22, 2**24, 2**28])
def test_a_plan_stays_within_its_limit(limit: int) -> None:
    genes, dim, widths = 12810, 1280, [10]
    p = execution.plan("gemm", genes, dim, widths, limit=limit, device=CPU)
    used = 3 * 4 * p.samples * dim + p.individuals * (4 * genes + p.samples * 4 * 4 * 10)
    assert used <= limit
    assert p.limit == limit


def test_a_limit_too_small_for_one_individual_is_refused() -> None:
    with pytest.raises(InputError, match=r"^limit: 1000 bytes is too little"):
        execution.plan("gemm", 12810, 1280, [10], limit=1000, device=CPU)


def test_a_metric_of_the_wrong_shape_is_refused_by_name() -> None:
    def wrong(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.mean((0, 2))

    with pytest.raises(InputError, match=r"wrong: a metric returns scores \[n\]"):
        scoring.evaluate(judgement(Rows(), [wrong]), genomes(), torch.arange(B), plan())


def test_ranks_are_lexicographic_and_dense() -> None:
    inf = float("inf")
    values = torch.tensor([[0.5, 1.0], [0.7, -3.0], [0.5, 2.0], [-inf, -inf], [0.5, 1.0]], dtype=torch.float64)
    assert scores.ranks(values).tolist() == [1, 3, 2, 0, 1]


def test_balanced_rows_have_as_many_of_each_class_and_the_right_ones() -> None:
    rows = torch.arange(1000, 2000)
    labels = (torch.arange(1000) % 50 == 0).long()
    drawn = batches.draw_balanced(rows, labels, (4000,), torch.Generator().manual_seed(0))
    share = float(labels[drawn - 1000].double().mean())
    assert share == pytest.approx(0.5, abs=0.04)
    assert len(drawn[labels[drawn - 1000] == 0].unique()) > 800


@pytest.mark.parametrize(("individuals", "samples", "limit"), [(1000, 1000, 2**30), (3, 7, 2**30), (2, 9, 9000)])
def test_metrics_of_genomes_stand_beside_others_however_they_are_sliced(
    individuals: int, samples: int, limit: int, device: torch.device
) -> None:
    rows, names, start = (
        Rows(device=device),
        ["weight_norm", "cross_entropy", "distance", "auroc", "sparsity"],
        genomes(1)[0],
    )
    population = genomes().to(device)
    population[2, 0] = torch.nan
    judged = judgement(rows, [METRICS[name]() for name in names], start.to(device))
    found = scoring.evaluate(judged, population, torch.arange(B), plan(individuals, samples, limit))
    assert found.values.shape == (N, len(names))
    assert found.invalid.tolist() == [i == 2 for i in range(N)]
    good = [i for i in range(N) if i != 2]
    torch.testing.assert_close(found.values[good, 0], -population[good].double().norm(dim=1))
    torch.testing.assert_close(found.values[good, 2], -(population[good].cpu() - start).double().norm(dim=1).to(device))
    alone = scoring.evaluate(judgement(rows, [METRICS["auroc"]()]), population, torch.arange(B), plan()).values[good, 0]
    torch.testing.assert_close(found.values[good, 3], alone, rtol=1e-5, atol=1e-6)


def test_in_half_precision_the_best_by_nsga_iis_order_are_scored_again() -> None:
    population, names = Population.new(genomes(), parents=2), ["sparsity", "cross_entropy"]
    judged = judgement(Rows(), [METRICS[name]() for name in names], genomes(1)[0])
    given, rough = (judged, population, torch.arange(B)), plan()._replace(precision="bfloat16")
    exact, _ = scoring.fitness(*given, plan(), objectives=2)
    half, _ = scoring.fitness(*given, rough, objectives=2)
    again, cost = scoring.fitness(*given, rough, rescored=3, objectives=2)
    assert (again.objectives, cost) == (2, Cost(forward=(N + 3) * B))
    best = pareto.rank(half.values).topk(3).indices
    assert set(best.tolist()) != set(half.values[:, 0].topk(3).indices.tolist())
    rest = [i for i in range(N) if i not in best.tolist()]
    torch.testing.assert_close(again.values[best], exact.values[best], rtol=1e-5, atol=1e-6)  # of another slice
    assert torch.equal(again.values[rest], half.values[rest])
    assert not torch.equal(half.values[best], exact.values[best])


def constrained(rows: Rows, metrics: Sequence[Metric], *given: Constraint) -> scoring.Judgement:
    names = Names(tuple("abc"), ("day", "night"))
    return judgement(rows, metrics)._replace(constraints=[pose(each, names).score for each in given])


@pytest.mark.parametrize("samples", [7, 1000])
def test_violations_are_those_of_the_values_by_hand(samples: int, device: torch.device) -> None:
    each, at_most = Constraint("precision", "class", at_least=0.6), Constraint("cross_entropy", at_most=1.2)
    rows, index = Rows(device=device), torch.arange(0, 2 * B, 2)
    found = scoring.evaluate(
        constrained(rows, [METRICS["recall"]()], each, at_most), genomes().to(device), index, plan(samples=samples)
    )
    names = Names(tuple("abc"))
    features, targets = rows.batch(index.to(device))
    logits = FORWARD(LAYOUT.unflatten(genomes().to(device)), features)
    precision = values_of("precision", "class", names, {}).metric
    beyond = violation(score(precision, logits, targets), each)  # type: ignore[arg-type]
    beyond += violation(-score(METRICS["cross_entropy"](), logits, targets)[:, None], at_most)
    assert found.violation is not None
    torch.testing.assert_close(found.violation, beyond)
    assert found.values.shape == (N, 1)
    alone = scoring.evaluate(judgement(rows, [METRICS["recall"]()]), genomes().to(device), index, plan())
    torch.testing.assert_close(found.values, alone.values)
    assert alone.violation is None


def test_constraints_join_the_pass_over_logits_and_tallies_are_made_once() -> None:
    passes, tallied = [], []

    def forward(weights: dict[str, Tensor], features: Tensor) -> Tensor:
        passes.append(len(features))
        return FORWARD(weights, features)

    recall = METRICS["recall"]()
    assert isinstance(recall, Additive)
    made = recall.statistics

    def count(logits: Tensor, targets: Tensor) -> Tensor:
        tallied.append(len(targets))
        return made(logits, targets)

    given = [Constraint("precision", "class", at_least=0.6), Constraint("false_positive_rate", at_most=0.2)]
    judged = constrained(Rows(), [recall], *given)
    shared = [metric._replace(statistics=count) for metric in judged.columns if isinstance(metric, Additive)]
    assert all(metric.statistics is made for metric in judged.columns if isinstance(metric, Additive))
    judged = judged._replace(evolved=Linear(forward=forward), metrics=shared[:1], constraints=shared[1:])
    scoring.evaluate(judged, genomes(), torch.arange(B), plan(samples=20))
    assert passes == tallied == [20, 20, 10]


def test_a_class_that_a_batch_has_no_sample_of_is_not_held_against_anybody() -> None:
    rows = Rows()
    rows.y = rows.y.clamp(max=1)
    names = [Constraint("recall", "class", at_least=0.0), Constraint("recall", options={"of": "c"}, at_least=0.5)]
    found = scoring.evaluate(constrained(rows, [METRICS["recall"]()], *names), genomes(), torch.arange(B), plan())
    assert found.violation is not None
    assert found.violation.tolist() == [0.0] * N


def test_an_invalid_individual_is_violated_without_end() -> None:
    bad = genomes()
    bad[3] = torch.nan
    judged = constrained(Rows(), [METRICS["recall"]()], Constraint("accuracy", at_least=0.0))
    found = scoring.evaluate(judged, bad, torch.arange(B), plan())
    assert found.violation is not None
    assert found.violation.tolist() == [torch.inf if i == 3 else 0.0 for i in range(N)]


@pytest.mark.parametrize("objectives", [1, 2])
def test_in_half_precision_the_best_by_debs_rules_are_scored_again(objectives: int) -> None:
    population = Population.new(genomes(), parents=2)
    metrics = [METRICS["cross_entropy"](), METRICS["brier"]()][:objectives]
    judged = constrained(Rows(), metrics, Constraint("balanced_accuracy", at_least=0.4))
    given = (judged, population, torch.arange(B), plan()._replace(precision="bfloat16"))
    rough, _ = scoring.fitness(*given, rescored=0, objectives=objectives)
    mixed, cost = scoring.fitness(*given, rescored=3, objectives=objectives)
    exact, _ = scoring.fitness(*given[:3], plan(), objectives=objectives)
    changed = (mixed.values != rough.values).any(1)
    assert cost == Cost(forward=(N + 3) * B)
    assert rough.violation is not None
    assert mixed.violation is not None
    assert exact.violation is not None
    least = rough.violation.sort().values[2]
    assert changed.sum() == 3
    assert (rough.violation[changed] <= least).all()
    torch.testing.assert_close(mixed.violation[changed], exact.violation[changed])


def test_groups_are_those_of_the_samples() -> None:
    class Grouped(Rows):
        groups = torch.arange(200) % 2

        def in_groups(self, classes: int) -> "Rows":
            found = Rows()
            found.y = self.y + classes * self.groups
            return found

    judged = constrained(Grouped(), [METRICS["recall"]()], Constraint("accuracy", "group", at_least=0.5))
    found = scoring.evaluate(scoring.by_groups(judged, C), genomes(), torch.arange(B), plan())
    beyond = torch.zeros(N, dtype=torch.float64)
    for g in range(2):
        alone = scoring.evaluate(judgement(Rows(), [METRICS["accuracy"]()]), genomes(), torch.arange(g, B, 2), plan())
        beyond += (0.5 - alone.values[:, 0]).clamp(min=0)
    assert found.violation is not None
    torch.testing.assert_close(found.violation, beyond)
    plain = scoring.evaluate(judgement(Rows(), [METRICS["recall"]()]), genomes(), torch.arange(B), plan())
    assert torch.equal(found.values, plain.values)
