import pytest

from neuroevo.engine.cost import Budget, Cost


def test_costs_add_and_samples_count_backward_twice() -> None:
    total = Cost(forward=10, backward=3) + Cost(forward=1, validation=5, backbone=7)
    assert total == Cost(forward=11, backward=3, validation=5, backbone=7)
    assert total.samples == 17


def test_a_record_reads_back() -> None:
    cost = Cost(1, 2, 3, 4)
    assert cost.record() == {
        "forward_samples": 1,
        "backward_samples": 2,
        "validation_samples": 3,
        "backbone_samples": 4,
    }
    assert Cost.from_record(cost.record()) == cost


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(), None),
        (Budget(generations=6), None),
        (Budget(generations=5), "generations"),
        (Budget(samples=141), None),
        (Budget(samples=140), "samples"),
        (Budget(samples=149), "samples"),
        (Budget(samples=150), None),
        (Budget(forward_samples=109), "forward_samples"),
        (Budget(forward_samples=110), None),
        (Budget(seconds=2.0), "seconds"),
        (Budget(seconds=2.1), None),
    ],
)
def test_the_limit_that_is_reached_is_named(budget: Budget, reason: str | None) -> None:
    # 100 forward and 20 backward are 140 samples; a limit within fewer than `unit` of them is reached.
    unit = 1 if budget.samples in (140, 141) else 10
    cost = Cost(forward=100, backward=20, validation=10**9)
    assert budget.stop_reason(5, cost, 2.0, Cost(forward=unit)) == reason


def test_what_is_left_is_the_smaller_of_the_sample_limits() -> None:
    cost = Cost(forward=100, backward=20)
    assert Budget().allows(cost + Cost(forward=10**12))
    for budget, left in ((Budget(samples=150), 10), (Budget(samples=150, forward_samples=103), 3)):
        assert budget.allows(cost + Cost(forward=left))
        assert not budget.allows(cost + Cost(forward=left + 1))
    assert not Budget(samples=100).allows(cost)
    limited = [b.counts for b in (Budget(), Budget(seconds=1), Budget(samples=1), Budget(forward_samples=1))]
    assert limited == [False, False, True, True]


def test_progress_is_of_generations_or_samples_and_never_of_the_clock() -> None:
    cost = Cost(forward=50)
    assert Budget(seconds=1.0).progress(7, cost) == 0
    assert Budget(generations=10).progress(5, cost) == 0.5
    assert Budget(generations=10, forward_samples=60).progress(5, cost) == pytest.approx(5 / 6)
    assert Budget(generations=1).progress(5, cost) == 1
