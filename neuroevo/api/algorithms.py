"""Algorithms from Python: `ga(population=64)` is one, its options checked as a config's are.

A part among the options, such as a mutation, is a function, a name, or `{name: ..., option: ...}`.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from neuroevo.api.learners import about
from neuroevo.config.parts import part, schema
from neuroevo.config.section import check_keys, section
from neuroevo.engine.algorithm import Algorithm
from neuroevo.search.algorithms import ALGORITHMS


def _check(name: str, build: Callable[..., Algorithm[Any]]) -> Callable[..., Algorithm[Any]]:
    """Return a builder that checks its options before it builds; InputError names the one that can't be."""

    @wraps(build)
    def builder(**options: Any) -> Algorithm[Any]:
        with about():
            kinds, model = schema("algorithm", name, name)
            check_keys(options, {*kinds, *model.model_fields}, "")
            plain = {key: value for key, value in options.items() if key not in kinds}
            checked = section(model, plain, "").model_dump(include=set(plain))
            for key, (kind, _) in kinds.items():
                given = options.get(key)
                if isinstance(given, str | Mapping):
                    checked[key] = part(kind, given, key).bound()
                elif key in options:
                    checked[key] = given
            return build(**checked)

    return builder


_BUILDERS = {name: _check(name, build) for name, build in ALGORITHMS.items()}


def __getattr__(name: str) -> Any:
    """Return the builder of an algorithm."""
    try:
        return _BUILDERS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
