import pytest
import torch

from neuroevo.engine.scores import Scores, ranks

INF = torch.inf


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 3), (2, 2), (50, 1), (50, 2), (50, 3)])
@pytest.mark.parametrize("kinds", [1, 2, 4, 1000])
def test_ranks_are_the_places_among_the_distinct_rows_in_order(
    n: int, m: int, kinds: int, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(n + m + kinds)
    values = torch.randint(kinds, (n, m), generator=generator).double() - 2
    values[::7] = -INF
    rows = [tuple(row) for row in values.tolist()]
    distinct = sorted(set(rows))
    found = ranks(values.to(device))
    assert found.dtype == torch.float64
    assert found.tolist() == [distinct.index(row) for row in rows]


def test_zero_and_minus_zero_have_one_rank() -> None:
    assert ranks(torch.tensor([[0.0], [-0.0], [1.0], [-INF]])).tolist() == [1, 1, 2, 0]


def test_keys_are_what_is_beyond_constraints_before_all_values() -> None:
    values = torch.tensor([[3.0, 0.0], [1.0, 1.0], [1.0, 2.0], [9.0, 9.0]], dtype=torch.float64)
    invalid = torch.zeros(4, dtype=torch.bool)
    bare = Scores(values, invalid)
    assert bare.keys is values
    bound = bare._replace(violation=torch.tensor([0.0, 0.0, 0.0, 0.5], dtype=torch.float64))
    assert ranks(bound.keys).tolist() == [3, 1, 2, 0]
    some = bound.rows(torch.tensor([3, 0]))
    assert some.violation is not None
    assert (some.values.tolist(), some.violation.tolist()) == ([[9, 9], [3, 0]], [0.5, 0])
    assert bare.rows(slice(1, 2)).violation is None
