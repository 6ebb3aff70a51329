from typing import Any

import pytest
import torch
from torch import Tensor

from neuroevo.decision.goal import goal_of
from neuroevo.decision.judge import Judge, Samples, Worth
from neuroevo.decision.rules import Rule, predict
from neuroevo.problems.metric import Names

GROUPED: list[dict[str, Any]] = [
    {"metric": "precision", "per": "class", "at_least": 0.5},
    {"metric": "accuracy", "per": "group", "at_least": 0.6},
    {"metric": {"name": "false_positive_rate", "of": "c"}, "at_most": 0.1},
]


def make(n: int = 6, samples: int = 90) -> tuple[Rule, Samples]:
    source = torch.Generator().manual_seed(1)
    logits = torch.randn(samples, 3, generator=source, dtype=torch.float64)
    targets = torch.randint(3, (samples,), generator=source)
    groups = torch.arange(samples) % 2
    offsets = torch.randn(n, 3, generator=source, dtype=torch.float64)
    return Rule(offsets.flip(0).exp(), offsets), Samples(logits, targets + 3 * groups)


def judge_of(metric: Any, constraints: list[dict[str, Any]], samples: Samples) -> Judge:
    return Judge(goal_of(metric, constraints, Names(("a", "b", "c"), ("x", "y"))).measures, samples)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mcc", "kappa", "worst_class_accuracy", "group_accuracy"])
def test_counts_of_cells_are_worth_what_logits_are(metric: str) -> None:
    rules, samples = make()
    judge = judge_of(metric, GROUPED, samples)
    assert judge.tables is not None
    found, slow = judge.worth(rules, samples), judge.of_logits(rules, samples)
    torch.testing.assert_close(found.values, slow.values)
    torch.testing.assert_close(found.violations, slow.violations)
    assert (found.violations > 0).any()


@pytest.mark.parametrize("metric", ["cross_entropy", "calibration_error", "auroc", {"name": "top_k", "k": 2}])
def test_a_metric_of_more_than_decisions_is_of_the_logits_that_a_rule_makes(metric: Any) -> None:
    rules, samples = make()
    judge = judge_of(metric, [], samples)
    assert judge.tables is None
    one = Rule(rules.scales[2], rules.offsets[2])
    expected = judge.of_applied(one.apply(samples.logits), samples).values
    torch.testing.assert_close(judge.worth(rules, samples).values[2:3], expected)


def test_a_bound_is_missed_by_how_much_each_of_its_values_is_beyond_it_in_sum() -> None:
    rules, samples = make(1)
    worth = judge_of("accuracy", GROUPED[:1], samples).worth(rules, samples)
    chosen, labels = predict(rules, samples.logits)[0], samples.targets % 3
    precisions = [float((labels[chosen == c] == c).double().mean()) if (chosen == c).any() else 0.0 for c in range(3)]
    assert float(worth.violations) == pytest.approx(sum(max(0.0, 0.5 - p) for p in precisions))


def test_a_move_from_cell_to_cell_is_the_difference_of_the_totals() -> None:
    rules, samples = make(1)
    judge = judge_of("macro_f1", GROUPED, samples)
    before = predict(rules, samples.logits)[0]
    after = torch.full_like(before, 2)
    moved = [base + move.sum(0) for base, move in zip(
        judge.totals(before[None], samples), judge.moves(before, 2, samples), strict=True)]  # fmt: skip
    for found, expected in zip(moved, judge.totals(after[None], samples), strict=True):
        torch.testing.assert_close(found, expected)


def test_less_violated_is_before_more_and_then_the_higher_value() -> None:
    def worth(*pairs: tuple[float, float]) -> Worth:
        return Worth(*torch.tensor(pairs, dtype=torch.float64).T)

    found = worth((9.0, 0.2), (1.0, 0.0), (2.0, 0.0), (-torch.inf, 0.0), (5.0, 0.1))
    assert found.fitness().argsort(descending=True).tolist() == [2, 1, 3, 4, 0]
    assert found.equals().tolist() == [False, False, True, False, False]
    assert worth((1.0, 0.5), (9.0, 0.2), (3.0, 0.2)).equals().tolist() == [False, True, False]


def test_a_metric_of_ones_own_is_judged_by_logits() -> None:
    def first(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.argmax(2) == 0).double().mean(1)

    rules, samples = make()
    judge = judge_of(first, [], samples)
    assert judge.tables is None
    expected = (predict(rules, samples.logits) == 0).double().mean(1)
    torch.testing.assert_close(judge.worth(rules, samples).values, expected)
