"""Constraints as they are read, how far values are beyond them, and Deb's order."""

from typing import Any

import pytest
import torch

from neuroevo.errors import InputError
from neuroevo.problems.constraints import Constraint, describe, of_numbers, order, pose, read, violation
from neuroevo.problems.metric import Names


def test_a_violation_is_the_sum_of_what_is_beyond_each_bound_and_0_exactly_where_all_are_met() -> None:
    values = torch.tensor([[0.8, 0.9], [0.7, 0.9], [0.7, 0.5]], dtype=torch.float64)
    found = violation(values, Constraint("precision", "class", at_least=0.8))
    assert found[0] == 0
    assert torch.allclose(found, torch.tensor([0, 0.1, 0.4], dtype=torch.float64))
    assert torch.allclose(
        violation(values, Constraint("precision", "class", at_most=0.6)),
        torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64),
    )
    both = violation(values, Constraint("precision", "class", at_least=0.6, at_most=0.8))
    assert torch.allclose(both, torch.tensor([0.1, 0.1, 0.1], dtype=torch.float64))


def test_what_is_no_number_is_the_worst_and_what_has_no_samples_says_nothing() -> None:
    values = torch.tensor([[torch.nan, 0.9], [0.0, 0.0]])
    constraint = Constraint("recall", "class", at_least=0.8)
    assert violation(values, constraint)[0] == torch.inf
    assert violation(values, constraint, ~values.isnan())[0] == 0
    assert violation(values, constraint).argmin() == 1


def test_the_feasible_come_first_then_the_less_violated_and_the_objective_decides_among_equals() -> None:
    violations = torch.tensor([0.0, 0.0, 0.1, 0.1, 0.5, torch.inf], dtype=torch.float64)
    objective = torch.tensor([0.1, 0.2, 0.8, 0.9, 1.0, 5.0], dtype=torch.float64)
    found = order(violations, objective)
    assert found.argsort(descending=True).tolist() == [1, 0, 3, 2, 4, 5]
    assert len({*found.tolist()}) == 6
    assert order(torch.zeros(3), torch.tensor([2.0, 2.0, 1.0])).tolist() == [1, 1, 0]


def test_a_record_says_what_is_worst_and_how_far_it_is_from_its_bound() -> None:
    names = Names(("a", "b", "c"))
    each = pose(Constraint("recall", "class", at_least=0.5, at_most=0.9), names)
    values = torch.tensor([0.6, 0.95, torch.nan], dtype=torch.float64)
    assert describe(each, values) == {
        "feasible": False,
        "violation": pytest.approx(0.05),
        "slack": pytest.approx(-0.05),
        "worst": "b",
        "values": {"a": 0.6, "b": 0.95, "c": None},
    }
    one = pose(Constraint("recall", options={"of": "b"}, at_least=0.5), names)
    found = describe(one, values[2:])  # no sample of it: nothing is held against anybody
    assert found == {"feasible": True, "violation": 0, "slack": None, "value": None}
    whole = pose(Constraint("auroc", at_least=0.5), names)
    assert describe(whole, values[2:]) == {"feasible": False, "violation": None, "slack": None, "value": None}


def test_numbers_by_name_are_bounded() -> None:
    given = [Constraint("size", at_most=1.0), Constraint("speed", at_least=3.0)]
    assert of_numbers({"sum": 9.0, "size": 1.5, "speed": 2.0}, given) == 1.5
    assert of_numbers({"sum": 9.0, "size": 1.0, "speed": 3.0}, given) == 0
    assert of_numbers({"sum": 9.0, "size": float("nan"), "speed": 3.0}, given) == float("inf")
    with pytest.raises(InputError, match=r"^subject_to.1: no number is called speed \(did you mean sped\?\)"):
        of_numbers({"size": 1.0, "sped": 3.0}, given)
    with pytest.raises(InputError, match="^subject_to: .*rename it"):
        of_numbers({"violation": 1.0}, given)


def test_constraints_are_read_from_mappings() -> None:
    found = read(
        [
            {"metric": "precision", "per": "class", "at_least": 0.8},
            {"metric": {"name": "recall", "of": "cat"}, "at_most": 1},
        ]
    )
    assert found == (
        Constraint("precision", "class", 0.8),
        Constraint("recall", None, None, 1, {"of": "cat"}),
    )
    assert read(found) == found
    assert [each.of for each in found] == ["precision of each class", "recall (of cat)"]
    assert [each.bounds for each in found] == ["at least 0.8", "at most 1"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"metric": "recall", "at_least": 1}, "subject_to: {'metric': 'recall', 'at_least': 1} given; a list of"),
        ("recall", "subject_to: 'recall' given; a list of"),
        ([3], "subject_to.0: 3 given; a mapping with metric and"),
        ([{"metric": "recall"}], "subject_to.0: recall has no bound; give at_least, at_most or both"),
        ([{"metric": "recal", "at_least": 1}], "subject_to.0: no metric is called 'recal' (did you mean recall?)"),
        ([{"at_least": 1}], "subject_to.0: no metric is named"),
        ([{"metric": "recall", "at_last": 1}], "subject_to.0: at_last: unknown key (did you mean at_least?)"),
        ([{"metric": "recall", "at_least": True}], "subject_to.0: at_least: True given; a finite number expected"),
        ([{"metric": "recall", "at_least": float("nan")}], "subject_to.0: at_least: nan given"),
        ([{"metric": "recall", "per": "row", "at_least": 1}], "subject_to.0: per: 'row' given; class or group"),
        (
            [{"metric": "recall", "at_least": 0.9, "at_most": 0.8}],
            "subject_to.0: recall: at_least 0.9 is above at_most 0.8; nothing meets both",
        ),
        (
            [{"metric": "recall", "at_least": 0.9}, {"metric": "recall", "at_most": 0.8}],
            "subject_to.1: recall at most 0.8 contradicts subject_to.0: at least 0.9",
        ),
    ],
)
def test_what_can_be_no_constraint_is_refused_in_a_line(given: object, line: str) -> None:
    with pytest.raises(InputError) as error:
        read(given)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([{"metric": "recall", "at_least": 1.5}], "subject_to.0: recall: 1.5 given, and it lies between 0 and 1"),
        ([{"metric": "auroc", "at_most": -0.1}], "subject_to.0: auroc: -0.1 given, and it lies between 0 and 1"),
        (
            [{"metric": "recall", "per": "class", "at_least": 0.8}, {"metric": "recall", "at_most": 0.5}],
            "subject_to.1: recall at most 0.5 contradicts subject_to.0",
        ),
        (
            [{"metric": "precision", "at_least": 0.8}, {"metric": "precision", "per": "class", "at_most": 0.7}],
            "subject_to.1: precision of each class at most 0.7 contradicts subject_to.0",
        ),
    ],
)
def test_bounds_that_nothing_meets_are_refused(given: list[dict[str, Any]], line: str) -> None:
    with pytest.raises(InputError) as refused:
        read(given)
    assert str(refused.value).startswith(line), str(refused.value)


def test_bounds_that_something_meets_are_taken() -> None:
    read([{"metric": "recall", "per": "class", "at_least": 0.5}, {"metric": "recall", "at_most": 0.8}])
    read([{"metric": "accuracy", "per": "group", "at_least": 0.8}, {"metric": "accuracy", "at_most": 0.5}])
    read([{"metric": "cross_entropy", "at_most": 1.5}])
