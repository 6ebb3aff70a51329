"""The cube of hyperparameters: what its points stand for, against the formulas of neuroevo/space.py written out."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroevo.search.space import VARIABLES, Space, Variable, boolean, categorical, integer, real, sequence, space

unit = st.floats(0, 1)


def whole() -> Space:
    return space({
        "lr": (real(low=1e-5, high=1, scale="log"), {}),
        "dropout": (real(low=0, high=0.5), {"hidden": [1, 2, 3]}),
        "hidden": (sequence(low=0, high=3, item=lambda: integer(low=32, high=512, scale="power_of_two")), {}),
        "name": (categorical(choices=["sgd", "adam", "adamw"]), {}),
        "momentum": (real(low=0.5, high=0.99), {"name": ["sgd"]}),
        "nesterov": (boolean(), {"name": ["sgd"]}),
    })  # fmt: skip


@given(unit)
def test_numbers_are_decoded_by_the_formulas(x: float) -> None:
    assert real(low=-2, high=3).decode(x) == -2 + x * 5
    assert real(low=1e-6, high=1e-2, scale="log").decode(x) == min(1e-2, 1e-6 * (1e-2 / 1e-6) ** x)
    assert integer(low=3, high=6).decode(x) == min(6, 3 + math.floor(4 * x))
    assert integer(low=1, high=100, scale="log").decode(x) == min(100, math.floor(101**x))
    assert integer(low=20, high=300, scale="power_of_two").decode(x) == [32, 64, 128, 256][min(3, math.floor(4 * x))]
    assert categorical(choices=["a", None, 3]).decode(x) == ["a", None, 3][min(2, math.floor(3 * x))]
    assert boolean().decode(x) is (x >= 0.5)


def test_the_ends_of_a_range_are_reached() -> None:
    for variable, low, high in (
        (real(low=1e-6, high=1e-2, scale="log"), 1e-6, 1e-2),
        (real(low=-1, high=2), -1, 2),
        (integer(low=0, high=7), 0, 7),
        (integer(low=5, high=700, scale="log"), 5, 700),
        (integer(low=16, high=512, scale="power_of_two"), 16, 512),
    ):
        assert (variable.decode(0.0), variable.decode(1.0)) == (low, high)


def test_each_whole_number_and_power_has_an_equal_share() -> None:
    points = [(i + 0.5) / 6000 for i in range(6000)]
    for variable, count in ((integer(low=1, high=6), 6), (integer(low=16, high=512, scale="power_of_two"), 6)):
        found = [variable.decode(x) for x in points]
        assert {found.count(v) for v in set(found)} == {6000 // count}


@given(st.lists(unit, min_size=9, max_size=9))
def test_what_does_not_exist_is_not_set_and_not_told_apart(position: list[float]) -> None:
    s = whole()
    names = [coordinate.name for coordinate in s.coordinates]
    assert sorted(names) == sorted(
        ["lr", "dropout", "hidden", "hidden.0", "hidden.1", "hidden.2", "name", "momentum", "nesterov"]
    )
    found = s.settings(position)
    length = len(found["hidden"])
    assert set(found) == {"lr", "hidden", "name"} | ({"dropout"} if length else set()) | (
        {"momentum", "nesterov"} if found["name"] == "sgd" else set()
    )
    numbers = dict(zip(names, s.numbers(position), strict=True))
    assert numbers["hidden"] == length
    assert [not math.isnan(numbers[f"hidden.{i}"]) for i in range(3)] == [i < length for i in range(3)]
    assert numbers["name"] == ["sgd", "adam", "adamw"].index(found["name"])
    other = [x if not math.isnan(numbers[name]) else 1 - x for name, x in zip(names, position, strict=True)]
    assert s.identity(other) == s.identity(position)
    assert json.loads(s.identity(position)) == found


def test_positions_outside_stand_for_the_border() -> None:
    s = space({"a": (real(low=1, high=2), {}), "b": (categorical(choices=[5, 6]), {})})
    assert s.settings([-3.0, 7.0]) == {"a": 1.0, "b": 6} == s.settings([0.0, 1.0])


def test_what_is_needed_comes_first_however_it_is_written() -> None:
    s = space({
        "c": (real(low=0, high=1), {"b": [True]}), "b": (boolean(), {"a": [2]}), "a": (integer(low=1, high=2), {}),
    })  # fmt: skip
    assert [coordinate.name for coordinate in s.coordinates] == ["a", "b", "c"]
    assert s.settings([0.9, 0.9, 0.25]) == {"a": 2, "b": True, "c": 0.25}
    assert s.settings([0.1, 0.9, 0.25]) == {"a": 1}  # b isn't there, so c isn't


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("float", {"low": 1, "high": 1}, "an empty range: low 1 is not below high 1"),
        ("float", {"low": 0, "high": 1, "scale": "log"}, "a log range is above zero; low is 0"),
        ("float", {"low": -1, "high": 1, "scale": "log"}, "a log range is above zero; low is -1"),
        ("integer", {"low": 5, "high": 3}, "an empty range"),
        ("integer", {"low": 0, "high": 8, "scale": "log"}, "a log range is above zero"),
        ("integer", {"low": 5, "high": 7, "scale": "power_of_two"}, "no power of two from 5 to 7"),
        ("list", {"low": 2, "high": 1, "item": boolean}, "an empty range of lengths"),
        ("list", {"low": 1, "high": 2, "item": lambda: sequence(low=1, high=2, item=boolean)}, "no list"),
    ],
)
def test_what_has_no_points_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VARIABLES[name](**options)


def test_needs_that_can_not_be_are_refused() -> None:
    with pytest.raises(ValueError, match="a: when: b isn't in the space; there are: a"):
        space({"a": (boolean(), {"b": [1]})})
    with pytest.raises(ValueError, match="a: when: each needs the other"):
        space({"a": (boolean(), {"b": [True]}), "b": (boolean(), {"a": [True]})})


@pytest.mark.parametrize(
    ("variable", "values"),
    [
        (real(low=0.0, high=1.0), {0.0: -0.1, 0.005: -0.1, 0.5: None, 0.995: 1.1, 1.0: 1.1}),
        (real(low=1e-4, high=1.0, scale="log"), {1e-4: 1e-4**1.1, 0.01: None, 1.0: 1e4**0.1}),
        (integer(low=2, high=9), {2: 1, 5: None, 9: 10}),
        (integer(low=1, high=2), {1: None, 2: None}),
        (integer(low=2, high=9, scale="log"), {2: 1, 9: 10}),
        (integer(low=30, high=300, scale="power_of_two"), {32: 16, 64: None, 256: 512}),
        (boolean(), {True: None, False: None}),
        (categorical(choices=[1, 2, 3]), {1: None, 3: None}),
    ],
)
def test_a_number_at_an_end_of_its_range_has_one_beyond_it(variable: Variable, values: dict[float, Any]) -> None:
    for value, beyond in values.items():
        found = variable.beyond(value)
        assert (found is None) if beyond is None else found == pytest.approx(beyond)
