"""A section of the config, and how its keys and values are checked."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from neuroevo.config.yamlfile import show
from neuroevo.errors import InputError

MOST, LARGEST_SEED = 2**31 - 1, 2**63 - 1
LARGEST_FLOAT = 3.4028234663852886e38  # of float32


class Options(BaseModel):
    """Keys and values, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Section(Options):
    """A section of the config; the docstring of a field says what the key means."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    @classmethod
    def own_keys(cls) -> list[str]:
        """Return the section's own keys, without those that its parts have."""
        return [name for name, field in cls.model_fields.items() if not field.exclude]

    def record(self) -> dict[str, Any]:
        """Return the section's own keys as the config would spell them, ranges as lists."""
        return self.model_dump(by_alias=True, mode="json")


def word(value: Any) -> str:
    """Return a value as an error shows it, without quotes where it is a short word."""
    return value if isinstance(value, str) and len(value) < 100 and value.isprintable() else show(value)


def brief(error: BaseException) -> str:
    """Return an error as a few words."""
    return f"{type(error).__name__}: {' '.join(str(getattr(error, 'strerror', None) or error).split())[:200]}"


def near(key: str, names: Iterable[str]) -> str:
    """Return the nearest of the names to one that is unknown, as an error says it; nothing where none is near."""
    found = difflib.get_close_matches(key[:100], list(names), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def check_keys(values: Mapping[str, Any], names: set[str], path: str, also: Collection[str] = ()) -> None:
    """See that all keys are known; InputError names the first that is not, and the nearest that is."""
    for key in values:
        if key not in names:
            right, where = sorted({*names, *also}), f"{path}.{word(key)}" if path else word(key)
            raise InputError(f"{where}: unknown key{near(str(key), right)}; there are: {', '.join(right) or 'none'}")


M = TypeVar("M", bound=Options)


def section(
    model: type[M], values: Mapping[str, Any], path: str, also: Collection[str] = (), largest: int = LARGEST_SEED
) -> M:
    """Check the values of a section; `also` names keys that belong to it and were taken out before.

    Whole numbers are `largest` at most, where the section itself doesn't say.
    """
    check_keys(values, {field.alias or name for name, field in model.model_fields.items()}, path, also)
    try:
        found = model.model_validate(values)
    except (RecursionError, OverflowError) as error:
        raise InputError(f"{path}: {error}") from None
    except ValidationError as error:
        # Of the ways in which a number or a range can be wrong, the one that isn't about its type says more; the names
        # that pydantic gives the alternatives say nothing.
        wrong = error.errors()
        wrong = [e for e in wrong if e["loc"][:1] == wrong[0]["loc"][:1]]
        first = next((e for e in wrong if not e["type"].endswith("_type")), wrong[0])
        keys = (path, *first["loc"][:1], *(key for key in first["loc"][1:] if isinstance(key, int)))
        where = ".".join(str(key) for key in keys if key != "")
        given = "" if first["type"] == "missing" else f"{show(first['input'])} given; "
        said = "no whole number is so large" if first["type"] == "int_parsing_size" else first["msg"]
        said = said.removeprefix("Value error, ")
        raise InputError(f"{where}: {given}{said[0].lower()}{said[1:][:300]}") from None
    for name in model.model_fields:
        _check_bounds(getattr(found, name), f"{path}.{name}" if path else name, largest)
    return found


def _check_bounds(value: Any, path: str, largest: int) -> None:
    """See that numbers are such that a tensor can hold them; InputError names the first that isn't."""
    if isinstance(value, float) and abs(value) > LARGEST_FLOAT:
        raise InputError(f"{path}: {value} given; a number of float32, {LARGEST_FLOAT:.3g} at most, expected")
    if isinstance(value, int) and abs(value) > largest:
        raise InputError(f"{path}: {show(value)} given; a whole number of {largest:,} at most expected")
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_bounds(item, f"{path}.{i}", largest)
