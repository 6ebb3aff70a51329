"""The section of a search of hyperparameters, checked against the config that it is of."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from neuroevo.config.model import Config, Tuning
from neuroevo.config.parts import DEFAULT_NAMES, part
from neuroevo.config.schema import BESIDE, SETTLED, Budget, Trial, Tune
from neuroevo.config.section import check_keys, section, word
from neuroevo.config.yamlfile import show
from neuroevo.errors import InputError
from neuroevo.search.space import Space

TRIALS = {"generations": 10}  # the budget of a search of hyperparameters that has none, in iterations
# What a search of hyperparameters can't touch: what it is judged by, and what doesn't change a trial.
FIXED = (*SETTLED, "fitness.split", "islands")
FREE = ("data.image_size", "data.augment")


def with_search(c: Config, tune: dict[str, Any]) -> Config:
    """Return a config with its section of a search, in which `given` are the sections as a file gave them."""
    given = tune.pop("given", None)
    if given is not None:
        if not isinstance(given, dict) or set(given) & set(SETTLED):
            raise InputError(f"tune.given: {show(given)} given, the sections expected that a search can change")
        before, now = dataclasses.replace(c, given=given).trial({}).record(), c.record()
        for key, value in now.items():
            if before[key] != value:
                raise InputError(f"tune.given: another {key} than the config has; change both, or leave tune.given out")
        c = dataclasses.replace(c, given=given)
    return dataclasses.replace(c, tune=_tuning(c, tune))


def _tuning(c: Config, given: dict[str, Any]) -> Tuning:
    """Check the section of a search of hyperparameters against the config that it is of."""
    check_keys(given, {"sampler", "space", "trial", "budget", *Tune.model_fields}, "tune")
    for key in ("trial", "budget"):
        if not isinstance(given.get(key) or {}, Mapping):
            raise InputError(f"tune.{key}: {show(given[key])} given, a mapping expected")
    sampler, variables, budget = given.get("sampler", {}), given.get("space"), given.get("budget") or {}
    if not isinstance(variables, Mapping) or not variables:
        raise InputError("tune.space: a mapping of config keys, each with its range, expected")
    if isinstance(sampler, Mapping):
        sampler = {"name": DEFAULT_NAMES["sampler"], **sampler}
    parts, when = {}, {}
    for key, spec in variables.items():
        path = f"tune.space.{key}"
        if isinstance(spec, str):
            spec = {"name": spec}
        if not isinstance(spec, Mapping):
            raise InputError(
                f"{path}: {show(spec)} given, {{name: float, low: ..., high: ...}} or another variable expected"
            )
        options = dict(spec)
        needs = options.pop("when", None) or {}
        if not isinstance(needs, Mapping):
            raise InputError(f"{path}.when: {show(needs)} given, a mapping of other keys to values expected")
        if str(key).rpartition(".")[2] == "batch_size" and options.get("name") == "integer":
            options = {"scale": "power_of_two"} | options  # so that trials that can be trained together are many
        parts[str(key)] = part("variable", options, path, beside=BESIDE["variable"])
        if needs:
            when[str(key)] = {str(k): v if isinstance(v, list) else [v] for k, v in needs.items()}
        if str(key) not in FREE and any(str(key) == root or str(key).startswith(f"{root}.") for root in FIXED):
            raise InputError(f"{path}: {key} can't be tuned: trials would not be judged alike")
        try:
            parts[str(key)].bound()()
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
    rest = {key: value for key, value in given.items() if key in Tune.model_fields}
    unlimited = all(budget.get(key) is None for key in Budget.model_fields if key != "target")
    found = Tuning(
        sampler=part("sampler", sampler, "tune.sampler"),
        variables=parts,
        when=when,
        trial=section(Trial, given.get("trial") or {}, "tune.trial"),
        budget=section(Budget, {**budget, **TRIALS} if unlimited else budget, "tune.budget"),
        rest=section(Tune, rest, "tune", also=("sampler", "space", "trial", "budget")),
    )
    try:
        whole = found.space()
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"tune.space.{error}") from None
    _probe(c, whole)
    found.sampler.bound()(whole)
    return found


def _probe(c: Config, whole: Space) -> None:
    """Check the config at either end of each variable, and at each choice; InputError names the key."""
    together = []
    for name, position, keys in corners(whole):
        settings = {key: value for key, value in whole.settings(position).items() if key in keys}
        try:
            c.trial(settings)
        except InputError as error:
            key = name if name in settings else name.rpartition(".")[0]
            said = str(error)
            raise InputError(f"tune.space.{said if said.startswith(key) else f'{key}: {said}'}") from None
        together.append(position)
    for position in together:
        try:
            c.trial(whole.settings(position))
        except InputError as error:
            raise InputError(f"tune.space: {error}; give one a `when` if it doesn't always go with the other") from None


def corners(whole: Space) -> Iterator[tuple[str, list[float], set[str]]]:
    """Yield positions at either end of each variable, and at each choice, with the conditions of the variable.

    Each comes with the variable's coordinate, and with the keys that it and its needs set; InputError where they can't
    be met.
    """
    names = [coordinate.name for coordinate in whole.coordinates]
    for place, coordinate in enumerate(whole.coordinates):
        cells = coordinate.variable.cells
        for x in [(i + 0.5) / cells for i in range(cells)] or [0.0, 1.0, 0.382]:  # one that is no whole number
            position = [0.5] * len(names)
            position[place] = x
            waiting, keys = dict(coordinate.needs), {coordinate.name}
            while waiting:
                parent, allowed = waiting.popitem()
                other = whole.coordinates[names.index(parent)]
                at = next((i / 1000 for i in range(1001) if other.variable.decode(i / 1000) in allowed), None)
                if at is None:
                    raise InputError(
                        f"tune.space.{coordinate.name}: when: {parent} is never {' or '.join(map(word, allowed[:9]))}"
                    )
                position[names.index(parent)] = at
                waiting |= other.needs
                keys.add(parent)
            yield coordinate.name, position, keys
