from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from neuroevo.engine.execution import Execution
from neuroevo.problems import intervals
from neuroevo.problems.intervals import wilson
from neuroevo.problems.metric import Names, bind, without_groups
from neuroevo.problems.metrics import METRICS
from neuroevo.problems.scoring import Judgement


def test_intervals_hold_the_value_and_shrink_with_the_sample() -> None:
    torch.manual_seed(0)
    widths = []
    for n in (100, 1000):
        targets = torch.randint(3, (n,))
        logits = torch.randn(1, n, 3) + 2 * torch.nn.functional.one_hot(targets, 3)
        metrics = {name: METRICS[name]() for name in ("accuracy", "cross_entropy", "macro_f1")}
        found = intervals.with_intervals(logits, targets, metrics)
        assert found["images"] == n
        assert found["cross_entropy"] > 0
        for name in metrics:
            low, high = found["interval"][name]
            assert low < found[name] < high
        widths.append([found["interval"][name][1] - found["interval"][name][0] for name in metrics])
    assert all(large < small for small, large in zip(*widths, strict=True))


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (1, 1), (3, 50), (50, 50), (49_999, 60_000)])
def test_accuracys_interval_is_wilsons(hits: int, n: int) -> None:
    targets = torch.arange(n).ge(hits).long()  # class 0 for as many as are right
    found = intervals.with_intervals(
        torch.tensor([1.0, 0.0]).repeat(1, n, 1), targets, {"accuracy": METRICS["accuracy"]()}
    )
    theirs = binomtest(hits, n).proportion_ci(method="wilson")
    assert found["interval"]["accuracy"] == pytest.approx([theirs.low, theirs.high], abs=1e-12)


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    torch.manual_seed(1)
    targets = torch.randint(4, (2000,))
    logits = torch.randn(1, 2000, 4)
    found = intervals.with_intervals(logits, targets, {"cross_entropy": METRICS["cross_entropy"]()})
    losses = torch.nn.functional.cross_entropy(logits[0], targets, reduction="none")
    half = 1.96 * float(losses.std()) / 2000**0.5
    low, high = found["interval"]["cross_entropy"]
    assert low == pytest.approx(float(losses.mean()) - half, abs=0.15 * half)
    assert high == pytest.approx(float(losses.mean()) + half, abs=0.15 * half)


def test_a_confusion_matrix_has_a_row_for_a_true_class_and_a_column_for_a_predicted_one() -> None:
    torch.manual_seed(0)
    targets, logits = torch.randint(3, (200,)), torch.randn(1, 200, 5)
    expected = confusion_matrix(targets, logits[0].argmax(1), labels=range(5))
    assert intervals.confusion(logits, targets).tolist() == expected.tolist()


def test_a_genome_is_scored_from_the_same_place_in_memory_whether_it_is_a_row_or_was_read() -> None:
    places = []

    def decode(genomes: torch.Tensor) -> dict[str, torch.Tensor]:
        places.append(genomes.data_ptr() % 64)
        return {"w": genomes.view(1, 3, 7)}

    class Rows:
        def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ones(len(index), 7), torch.zeros(len(index), dtype=torch.int64)

    plan = Execution("gemm", 3, 1, 4, 10**6, 1)
    evolved: Any = SimpleNamespace(decode=decode, forward=lambda w, x: x @ w["w"].mT)
    judgement = Judgement(evolved, Rows(), [])  # type: ignore[arg-type]
    for row in torch.randn(3, 21):
        intervals.logits(judgement, row, torch.arange(6), plan)
    assert places == [0, 0, 0]


NAMES = Names(("cat", "dog", "bird"), ())
TARGETS = torch.tensor([0] * 8 + [1] * 20 + [2] * 30)
OPTIONS = {"cost_matrix": {"costs": [[0, 1, 2], [1, 0, 1], [2, 1, 0]]}}


def ends(name: str, predicted: torch.Tensor, **options: Any) -> tuple[float, float, float]:
    """Return a metric of sure predictions [B], and the ends of its interval."""
    metric = bind(METRICS[name](**OPTIONS.get(name, {}), **options), NAMES)
    logits = torch.nn.functional.one_hot(predicted, 3).float()[None]
    found = intervals.with_intervals(logits, TARGETS, {name: metric})
    return found[name], *found["interval"][name]


@pytest.mark.parametrize(("hits", "false"), [(0, 0), (0, 5), (3, 5), (8, 0), (8, 50)])
def test_the_interval_of_a_classs_share_is_wilsons(hits: int, false: int) -> None:
    predicted = TARGETS.clone()
    predicted[hits:8], predicted[8 : 8 + false] = 1, 0
    of = {"of": "cat"}
    assert ends("recall", predicted, **of) == pytest.approx((hits / 8, *wilson(hits, 8)))
    said = hits + false
    assert ends("precision", predicted, **of) == pytest.approx((hits / max(1, said), *wilson(hits, said)))
    assert ends("false_positive_rate", predicted, **of) == pytest.approx((false / 50, *wilson(false, 50)))


def test_a_share_of_nothing_is_known_to_nobody() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("name", sorted(intervals.OF_ORDER - {"group_accuracy", "worst_group_accuracy"}))
def test_where_all_are_right_an_interval_still_has_a_width(name: str) -> None:
    value, low, high = ends(name, TARGETS)
    best = name in ("cost_matrix", "false_positive_rate")  # the lower the better
    assert (value == low < high) if best else (low < high == value)


@pytest.mark.parametrize("name", ["balanced_accuracy", "worst_class_accuracy", "macro_f1", "recall", "precision", "f1"])
def test_where_none_is_right_an_interval_still_has_a_width(name: str) -> None:
    value, low, high = ends(name, (TARGETS + 1) % 3)
    assert value == low == 0 < high < 0.5


def test_the_lowest_recall_is_as_uncertain_as_that_of_the_class_with_the_fewest_samples() -> None:
    assert ends("worst_class_accuracy", TARGETS)[1] == pytest.approx(wilson(8, 8)[0])


def test_what_looks_at_logits_alone_and_finds_all_the_same_is_exact() -> None:
    found = intervals.with_intervals(
        torch.zeros(1, 58, 3), TARGETS, {name: METRICS[name]() for name in ("cross_entropy", "brier")}
    )
    assert all(low == high == pytest.approx(found[name]) for name, (low, high) in found["interval"].items())


def test_a_metric_of_all_logits_that_would_take_too_long_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "NUMBERS", 0)
    assert ends("auroc", TARGETS) == (1, 1, 1)


@pytest.mark.parametrize("name", ["group_accuracy", "worst_group_accuracy"])
def test_groups_that_are_all_right_have_an_interval_with_a_width(name: str) -> None:
    groups = torch.arange(len(TARGETS)) % 2
    metric = bind(METRICS[name](), NAMES._replace(groups=("a", "b")))
    logits = torch.nn.functional.one_hot(TARGETS, 3).float()[None]
    found = intervals.with_intervals(logits, TARGETS + 3 * groups, {name: without_groups([metric], 3)[0]})
    low, high = found["interval"][name]
    assert low < high == 1
