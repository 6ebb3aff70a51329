"""The space of hyperparameters: a unit cube whose points stand for settings of config keys.

Each key is a variable with one coordinate x in [0, 1] or, for a list, one for its length and one for each item. What a
coordinate stands for is exact, in double precision:

    float, linear            low + x (high - low)
    float, log               low (high / low) ** x
    integer, linear          the low + k whose k-th of (high - low + 1) equal parts of [0, 1] holds x
    integer, log             low ((high + 1) / low) ** x, rounded down
    integer, power_of_two    as integer linear, over the exponents
    categorical, boolean     the k-th choice, whose k-th of equal parts holds x
    list                     its length as integer linear, each item as its variable says

A variable with `when` exists only where the variables named there have the values given (a list: its length), and an
item only where the list is so long; coordinates of what doesn't exist stand for nothing.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Le, MinLen

from neuroevo.engine.algorithm import Part
from neuroevo.engine.genome import Layout

LONGEST = 100  # a list, each of whose items is a side of the cube


class Variable(NamedTuple):
    """What one coordinate stands for."""

    decode: Callable[[float], Any]
    cells: int = 0  # of [0, 1], where values have no order
    item: "Variable | None" = None  # of a list: the coordinate is its length
    # Of a number: a value that lies at an end of the range -> one beyond that end, else None.
    beyond: Callable[[Any], Any] = lambda value: None


def _cell(x: float, count: int) -> int:
    return min(int(x * count), count - 1)


def _check(low: float, high: float, least: float | None = None) -> None:
    if not low < high:
        raise ValueError(f"an empty range: low {low} is not below high {high}")
    if least is not None and low < least:
        raise ValueError(f"a log range is above zero; low is {low}")


NEAR = 0.01  # of a range: what is nearer to an end than this is at it


def _beyond(x: Callable[[float], float], at: Callable[[float], float]) -> Callable[[float], float | None]:
    """Return `Variable.beyond` of a range, given a value's coordinate, and the value at one also outside [0, 1]."""

    def beyond(value: float) -> float | None:
        place = x(value)
        return at(-0.1) if place <= NEAR else at(1.1) if place >= 1 - NEAR else None

    return beyond


def _next(first: int, last: int, double: bool = False) -> Callable[[int], int | None]:
    """Return `Variable.beyond` of whole numbers, or of powers of two; of two values alone neither is at an end."""

    def beyond(value: int) -> int | None:
        if value not in (first, last) or last <= (2 * first if double else first + 1):
            return None
        return (value // 2 if double else value - 1) if value == first else (value * 2 if double else value + 1)

    return beyond


def real(*, low: float, high: float, scale: Literal["linear", "log"] = "linear") -> Variable:
    """Take any number from low to high."""
    _check(low, high)
    if scale == "log":
        if low <= 0:
            raise ValueError(f"a log range is above zero; low is {low}")
        beyond = _beyond(lambda v: math.log(v / low) / math.log(high / low), lambda x: low * (high / low) ** x)
        return Variable(lambda x: min(high, low * (high / low) ** x), beyond=beyond)
    beyond = _beyond(lambda v: (v - low) / (high - low), lambda x: low + x * (high - low))
    return Variable(lambda x: low + x * (high - low), beyond=beyond)


def integer(*, low: int, high: int, scale: Literal["linear", "log", "power_of_two"] = "linear") -> Variable:
    """Take any whole number from low to high, or any power of two among them."""
    _check(low, high, None if scale == "linear" else 1)
    if scale == "log":
        return Variable(lambda x: min(high, int(low * ((high + 1) / low) ** x)), beyond=_next(low, high))
    if scale == "power_of_two":
        first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
        if first > last:
            raise ValueError(f"an empty range: no power of two from {low} to {high}")
        return Variable(
            lambda x: 2 ** (first + _cell(x, last - first + 1)), beyond=_next(2**first, 2**last, double=True)
        )
    return Variable(lambda x: low + _cell(x, high - low + 1), beyond=_next(low, high))


def categorical(*, choices: Annotated[list[Any], MinLen(2)]) -> Variable:
    """Take one of the choices, which have no order."""
    return Variable(lambda x: choices[_cell(x, len(choices))], len(choices))


def boolean() -> Variable:
    """Take false or true."""
    return categorical(choices=[False, True])


def sequence(
    *,
    low: int,
    high: Annotated[int, Le(LONGEST)],
    item: Annotated[Callable[..., Variable], Part("variable")] = integer,
) -> Variable:
    """Take a list of low to high items, each a variable of its own, such as the widths of hidden layers."""
    if not 0 <= low <= high or high < 1:
        raise ValueError(f"an empty range of lengths: {low} to {high}")
    inner = item()
    if inner.item is not None:
        raise ValueError("an item of a list is no list")
    return Variable(lambda x: low + _cell(x, high - low + 1), 0, inner)


VARIABLES: dict[str, Callable[..., Variable]] = {
    "float": real,
    "integer": integer,
    "categorical": categorical,
    "boolean": boolean,
    "list": sequence,
}


class Coordinate(NamedTuple):
    """One side of the cube."""

    name: str  # the config key; of a list's item the key, a dot, and its place from 0
    variable: Variable
    needs: dict[str, tuple[Any, ...]]  # it exists where each coordinate named here has one of these values


class Space(NamedTuple):
    """The unit cube, and what its points stand for."""

    coordinates: tuple[Coordinate, ...]  # what a coordinate needs comes before it

    @property
    def layout(self) -> Layout:
        """The cube as genomes: each coordinate is a gene."""
        return Layout(tuple(c.name for c in self.coordinates), ((),) * len(self.coordinates))

    def exists(self, coordinate: Coordinate, values: Mapping[str, Any]) -> bool:
        """Tell whether a coordinate stands for something beside the values before it."""
        return all(name in values and values[name] in allowed for name, allowed in coordinate.needs.items())

    def values(self, position: Sequence[float]) -> dict[str, Any]:
        """Return the value of each coordinate that exists at a position [d], which is taken to the cube's border."""
        found: dict[str, Any] = {}
        for coordinate, x in zip(self.coordinates, position, strict=True):
            if self.exists(coordinate, found):
                found[coordinate.name] = coordinate.variable.decode(min(1.0, max(0.0, x)))
        return found

    def settings(self, position: Sequence[float]) -> dict[str, Any]:
        """Return the config keys that a position [d] sets, each with its value."""
        values = self.values(position)
        found: dict[str, Any] = {}
        lists = {c.name for c in self.coordinates if c.variable.item is not None}
        for name, value in values.items():
            key, _, place = name.rpartition(".")
            if name in lists:
                found[name] = []
            elif key in lists and place.isdigit():
                found[key].append(value)
            else:
                found[name] = value
        return found

    def numbers(self, position: Sequence[float]) -> list[float]:
        """Return each coordinate's value at a position [d] as a number: a choice's place, NaN where it is nothing."""
        values = self.values(position)
        found = []
        for coordinate, x in zip(self.coordinates, position, strict=True):
            value: Any = values.get(coordinate.name, math.nan)
            if coordinate.variable.cells and coordinate.name in values:
                value = _cell(min(1.0, max(0.0, x)), coordinate.variable.cells)
            found.append(float(value))
        return found

    def identity(self, position: Sequence[float]) -> str:
        """Return what is the same for positions that set the same."""
        return json.dumps(self.settings(position), sort_keys=True)


def space(variables: Mapping[str, tuple[Variable, Mapping[str, Sequence[Any]]]]) -> Space:
    """Return the space of variables by config key, each with what it needs; ValueError names a key that can't be."""
    waiting = {
        key: Coordinate(key, variable, {name: tuple(allowed) for name, allowed in needs.items()})
        for key, (variable, needs) in variables.items()
    }
    order: list[Coordinate] = []
    while waiting:
        ready = [key for key, c in waiting.items() if not set(c.needs) & set(waiting)]
        if not ready:
            raise ValueError(f"{min(waiting)}: when: each needs the other")
        for key in ready:
            coordinate = waiting.pop(key)
            for parent in coordinate.needs:
                if parent not in variables:
                    raise ValueError(f"{key}: when: {parent} isn't in the space; there are: {', '.join(variables)}")
            order.append(coordinate)
            item = coordinate.variable.item
            if item is not None:
                length = coordinate.variable.decode(1.0)
                order += [Coordinate(f"{key}.{i}", item, {key: tuple(range(i + 1, length + 1))}) for i in range(length)]
    return Space(tuple(order))
