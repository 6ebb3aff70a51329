"""The section of islands, checked against the config that they are of, and the algorithm that they are together.

An island's own settings are written down as what they make of it, default operators included, so that a config that is
read back has the same islands.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from neuroevo.config.keys import at
from neuroevo.config.model import Config
from neuroevo.config.schema import Islands
from neuroevo.config.section import near, section, word
from neuroevo.config.text import apply
from neuroevo.config.yamlfile import show
from neuroevo.engine.algorithm import Algorithm
from neuroevo.errors import InputError
from neuroevo.search import islands
from neuroevo.search.islands import TOPOLOGIES, Migration, Topology

TRAITS = {  # config keys that are traits of individuals when they learn
    "refine.lr": "lr",
    "refine.momentum": "momentum",
    "refine.weight_decay": "weight_decay",
    "refine.label_smoothing": "label_smoothing",
    "refine.dropout": "dropout",
}
SIGMA = "genome.init_sigma"
ALGORITHM = "algorithm."
Check = Callable[[Mapping[str, Any]], Config]


def with_islands(c: Config, given: dict[str, Any], check: Check) -> Config:
    """Return a config with its section of islands; InputError names the key that can't be."""
    found = section(Islands, given, "islands")
    k = found.count
    if isinstance(found.topology, list):
        with at("islands"):
            check_topology(found.topology, k)
    if found.settings and len(found.settings) != k:
        raise InputError(f"islands.settings: {len(found.settings)} given for {k} islands; {{}} is one that has no own")
    settings = []
    for i, own in enumerate(found.settings):
        with _of_island(i):
            _check_keys(c, own)
            settings.append(_differences(c, check(_overlay(c, own))))
    c = dataclasses.replace(c, islands=found.model_copy(update={"settings": settings}))
    c.search()
    return c


def check_topology(given: list[list[int]], count: int) -> None:
    """See that a topology names other islands for each; InputError if not."""
    if len(given) != count:
        raise InputError(f"{len(given)} lists given for {count} islands, one for each expected", option="topology")
    for i, sources in enumerate(given):
        wrong = [j for j in sources if j >= count or j == i or sources.count(j) > 1]
        if wrong:
            line = f"{show(sources)} given; other islands from 0 to {count - 1}, each once, expected"
            raise InputError(line, option=f"topology.{i}")
    if not any(given):
        raise InputError("nobody receives from anybody; with migrants 0 leave it out", option="topology")


@contextmanager
def _of_island(i: int) -> Iterator[None]:
    """Have an InputError name the island whose settings it is of."""
    try:
        yield
    except InputError as error:
        raise InputError(f"islands.settings.{i}.{error}") from None


def _check_keys(c: Config, own: Mapping[str, Any]) -> None:
    """See that settings are what an island can have of its own."""
    for key in map(str, own):
        if key in TRAITS and c.refine is None:
            raise InputError(f"{key}: there are no gradient steps; add refine.steps")
        if key in TRAITS and (isinstance(own[key], bool) or not isinstance(own[key], int | float)):
            raise InputError(f"{key}: {show(own[key])} given; a number expected, which all of the island have")
        if key in (ALGORITHM + "name", ALGORITHM + "population"):
            raise InputError(f"{key}: islands are of one algorithm and one size; leave it out")
        if not key.startswith(ALGORITHM) and key not in (SIGMA, *TRAITS):
            right = (SIGMA, *TRAITS)
            line = f"options of the algorithm, {', '.join(right)}"
            raise InputError(f"{word(key)}: not an island's own{near(key, right)}; there are: {line}")


def _overlay(c: Config, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the raw config of an island alone."""
    raw = {key: value for key, value in c.given.items() if key not in ("islands", "tune")}
    return apply(raw, [(str(key).split("."), value) for key, value in own.items()], lambda line: None)


def _differences(c: Config, own: Config) -> dict[str, Any]:
    """Return what an island's config has otherwise, by key: parts of another name as a whole."""

    def differ(a: Mapping[str, Any], b: Mapping[str, Any], path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in b.items():
            there = a.get(key)
            both = isinstance(there, Mapping) and isinstance(value, Mapping)
            if both and there["name"] == value["name"]:  # type: ignore[index]
                found |= differ(there, value, f"{path}.{key}")  # type: ignore[arg-type]
            elif there != value:
                found[f"{path}.{key}"] = value
        return found

    found = differ(c.algorithm.record(), own.algorithm.record(), "algorithm")
    for key in (SIGMA, *TRAITS):
        if _value(own, key) != _value(c, key):
            found[key] = _value(own, key)
    return found


def _value(c: Config, key: str) -> Any:
    """Return a config's value at a key of genomes or gradient steps, None where it has none."""
    part, _, name = key.partition(".")
    return (c.record().get(part) or {}).get(name)


def configs(c: Config, of: Islands) -> list[Config]:
    """Return the config of each island, as if it were alone."""
    from neuroevo.config.check import check  # which makes configs

    alone = [check(_overlay(c, own)) for own in of.settings]
    return alone or [dataclasses.replace(c, islands=None)] * of.count


def traits(c: Config, of: Islands) -> dict[str, list[float]]:
    """Return the hyperparameters that individuals bring along, {name: each island's}; InputError where one has none."""
    keys = [key for key in TRAITS if any(key in own for own in of.settings)]
    found = {}
    for key in keys:
        values = [own.get(key, _value(c, key)) for own in of.settings]
        for i, value in enumerate(values):
            if not isinstance(value, int | float):
                line = "other islands have a number of their own; give this one, or all, a number"
                raise InputError(f"islands.settings.{i}.{key}: {show(value)}, and {line}")
        found[TRAITS[key]] = [float(value) for value in values]
    return found


def sources(of: Islands) -> Topology:
    """Return for each island those from which it receives."""
    return TOPOLOGIES[of.topology](of.count) if isinstance(of.topology, str) else of.topology


def join(c: Config, of: Islands, spread: Callable[[float], Any] | None = None) -> Algorithm[Any]:
    """Return a config's islands as one algorithm; InputError where they don't go together.

    `spread` makes an `init_sigma` a deviation of genes, by which islands begin that have their own.
    """
    alone = configs(c, of)
    algorithms = [own.algorithm.search() for own in alone]
    sigmas = [own.get(SIGMA) for own in of.settings] if spread is not None else []
    with at("islands"):
        return islands.islands(
            algorithms,
            Migration(of.every, of.migrants, sources(of)),
            spreads=[None if sigma is None else spread(sigma) for sigma in sigmas],  # type: ignore[misc]
            traits=traits(c, of),
        )
