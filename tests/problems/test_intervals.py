from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from neuroevo.engine.execution import Execution
from neuroevo.problems import intervals
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
