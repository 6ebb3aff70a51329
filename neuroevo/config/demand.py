"""Checks of a config that a user asks for now: no key without effect, and none that spoils a search."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neuroevo import caveats
from neuroevo.config.check import check
from neuroevo.config.islands import configs
from neuroevo.config.model import Config
from neuroevo.config.parts import build_algorithm, schema
from neuroevo.config.schema import SECTIONS, Islands
from neuroevo.config.text import apply, choose_base, find, override
from neuroevo.config.yamlfile import show
from neuroevo.errors import InputError


def load(file: str | None, sets: Sequence[str] = (), note: Callable[[str], None] = lambda line: None) -> Config:
    """Read a config file (None: the built-in default), apply `a.b=value` settings, and check the whole.

    `note` is told of options that a setting made pointless. InputError names the key that is wrong and what would be
    right.
    """
    base = choose_base(file, sets)
    return demand(override(base, sets, note), base if sets else None, sets, note)


def demand(
    raw: dict[str, Any],
    base: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    note: Callable[[str], None] = lambda line: None,
) -> Config:
    """Check a raw config that a user asks for now: as `check`, and InputError where a key does nothing or spoils it.

    What only the settings that were applied to `base` made pointless is dropped, and `note` is told. What was written
    down earlier isn't held to this, so that every run can be gone on with.
    """
    for key, why in without_effect(check(raw)).items():
        given = any(key == name or key.startswith(f"{name}.") for name in (text.partition("=")[0] for text in sets))
        if base is None or given or pointless(base, key):
            raise InputError(f"{key}: {show(find(raw, key.split('.')))} has no effect: {why}")
        note(f"{key} is dropped: {why}")
        raw = apply(raw, [], note)
        *path, last = key.split(".")
        del find(raw, path)[last]
    c = check(raw)
    check_sense(c)
    return c


def check_sense(c: Config) -> None:
    """See that no key of a config spoils the search; InputError names the key."""
    record, learning = c.record(), c.given.get("refine")
    if isinstance(learning, Mapping) and not {"name", "steps"} & learning.keys():
        key = f"refine.{next(iter(learning))}" if learning else "refine"
        raise InputError(f"{key}: has no effect without gradient steps, and none are asked for; add refine.steps")
    if c.refine is not None and c.refine.who != "all":
        wrong = caveats.nobody_learns(record, build_algorithm(c.algorithm).roles)
        if wrong is not None:
            raise InputError(f"refine.who: {wrong}")
    if c.islands is not None:
        check_islands(c, c.islands)
    if c.tracking and c.tune is not None and not c.tune.rest.final:
        raise InputError("tracking: has no effect: of a search its final run is tracked, and tune.final is false")
    drift = caveats.drifts(record)
    if drift is not None and c.refine is None:
        raise InputError(f"algorithm.selection: {drift}")


def check_islands(c: Config, of: Islands) -> None:
    """See that no setting of an island spoils its search or has no effect; InputError names it."""
    for i, (own, settings) in enumerate(zip(configs(c, of), of.settings, strict=False)):
        try:
            check_sense(own)
        except InputError as error:
            raise InputError(f"islands.settings.{i}.{error}") from None
        for key, why in without_effect(own).items():
            if key in settings:
                raise InputError(f"islands.settings.{i}.{key}: {show(settings[key])} has no effect: {why}")


def pointless(raw: Mapping[str, Any], key: str) -> bool:
    """Tell whether a key has no effect in a raw config, as far as that can be a config on its own."""
    try:
        return key in without_effect(check(raw))
    except InputError:
        return False


def without_effect(c: Config) -> dict[str, str]:
    """Return the keys that have another value than their default and no effect, each with the reason."""
    record = c.record()
    found = {}
    for key, why in caveats.idle(record).items():
        *path, last = key.split(".")
        section, inner = ".".join(path), find(record, path)
        model = SECTIONS.get(section)
        fields = {} if model is None else {name: model.model_fields[name] for name in model.own_keys()}
        if last not in fields and isinstance(inner, Mapping):
            fields = schema(path[-1], inner["name"], section)[1].model_fields
        if last in fields and isinstance(inner, Mapping) and inner[last] != fields[last].default:
            found[key] = why
    return found
