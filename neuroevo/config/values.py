"""The kinds of values that keys of the config have: counts, shares, ranges, steps."""

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, BeforeValidator

from neuroevo.config.section import LARGEST_SEED, MOST, Section

MOST_SAMPLES = 2**53
Count = Annotated[int, Ge(1), Le(MOST)]
Samples = Annotated[int, Ge(1), Le(MOST_SAMPLES)]
Seed = Annotated[int, Ge(0), Le(LARGEST_SEED)]
Share = Annotated[float, Gt(0), Lt(1)]


def _check_rise(value: tuple[float, ...]) -> tuple[float, ...]:
    if any(not low < high for low, high in itertools.pairwise(value)):
        raise ValueError("a range is [low, high] with low below high, and a longer list of values rises as well")
    return value


def _mixable(value: float) -> float:
    if 0 < value < 1e-6:
        raise ValueError("0 is none; the least that a Beta distribution can be drawn with is 1e-6")
    return value


Positive = Annotated[float, Gt(0)]
Rate = Annotated[float, Ge(0), Lt(1)]
Mixture = Annotated[float, Ge(0), AfterValidator(_mixable)]
PositiveRange = Annotated[tuple[Positive, ...], MinLen(2), AfterValidator(_check_rise)]
RateRange = Annotated[tuple[Rate, Rate], AfterValidator(_check_rise)]
DecayRange = Annotated[tuple[Annotated[float, Ge(0)], Positive], AfterValidator(_check_rise)]


class Epochs(Section):
    """So many passes over the train split."""

    epochs: Annotated[int, Ge(1), Le(MOST)]
    """Passes over the train split."""


def _check_steps(value: Any) -> Any:
    right = value == "epoch" or isinstance(value, int | float | Epochs)
    if isinstance(value, Mapping) and [*value] == ["epochs"]:
        right = isinstance(value["epochs"], int) and value["epochs"] > 0
    if not right:
        digits = re.search(r"\d+", str(value))
        raise ValueError(
            f"a number of steps, epoch, or {{epochs: {digits[0] if digits and int(digits[0]) else 5}}} expected"
        )
    return value


Steps = Annotated[Annotated[int, Ge(0), Le(MOST)] | Literal["epoch"] | Epochs, BeforeValidator(_check_steps)]
