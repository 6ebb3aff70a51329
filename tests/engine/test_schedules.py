from typing import get_args

import pytest

from neuroevo.engine.schedules import LOW, PEAK, WARMUP, Schedule, factor


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_every_schedule_stays_within_its_ends_and_all_but_constant_end_at_final(schedule: Schedule) -> None:
    values = [factor(schedule, p / 1000, 0.2) for p in range(1001)]
    assert all(min(LOW, 0.2) - 1e-12 <= v <= 1 + 1e-12 for v in values)
    assert values[-1] == pytest.approx(1.0 if schedule == "constant" else 0.2)
    assert max(values) == pytest.approx(1)


def test_schedules_rise_and_fall_where_they_say() -> None:
    assert [factor("step", p, 0.01) for p in (0.0, 0.49, 0.5, 0.74, 0.75)] == [1, 1, 0.1, 0.1, 0.01]
    assert factor("linear", 0.25, 0.2) == pytest.approx(0.8)
    assert factor("cosine", 0.5, 0.2) == pytest.approx(0.6)
    assert factor("exponential", 0.5, 0.25) == pytest.approx(0.5)
    assert factor("warmup_cosine", 0, 0.0) == LOW
    assert factor("warmup_cosine", WARMUP, 0.0) == 1
    assert factor("one_cycle", 0, 0.0) == pytest.approx(LOW)
    assert factor("one_cycle", PEAK, 0.0) == 1
