"""Parts `{name: ..., option: ...}`: looked up in tables, and checked by their function's own signature."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar, TypeVar, get_type_hints

from pydantic import create_model

from neuroevo.config.keys import at
from neuroevo.config.section import LARGEST_SEED, MOST, Options, Section, brief, check_keys, near, section, word
from neuroevo.config.yamlfile import show
from neuroevo.data.datasets import DATASETS
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.algorithm import Part as PartMark
from neuroevo.errors import InputError
from neuroevo.learning.optimizers import OPTIMIZERS
from neuroevo.networks.heads import HEADS
from neuroevo.networks.spaces import SPACES
from neuroevo.problems.metric import OfModule, own_metric
from neuroevo.problems.metrics import METRICS
from neuroevo.search.algorithms import ALGORITHMS
from neuroevo.search.operators.crossover import CROSSOVERS
from neuroevo.search.operators.mutation import MUTATIONS
from neuroevo.search.operators.selection import SELECTIONS
from neuroevo.search.samplers import SAMPLERS
from neuroevo.search.space import VARIABLES
from neuroevo.tracking.trackers import TRACKERS

TABLES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "data": DATASETS,
    "head": HEADS,
    "space": SPACES,
    "algorithm": ALGORITHMS,
    "selection": SELECTIONS,
    "crossover": CROSSOVERS,
    "mutation": MUTATIONS,
    "refine": OPTIMIZERS,
    "metric": METRICS,
    "variable": VARIABLES,
    "sampler": SAMPLERS,
    "tracker": TRACKERS,
}
LOGITS, NETWORK = "logits", "network"  # what a user's own metric may be given
DEFAULT_NAMES = {
    "data": "digits",
    "head": "linear",
    "space": "full",
    "algorithm": "ga",
    "refine": "sgd",
    "sampler": "pso",
}  # of parts that the config doesn't name


class Bound(partial[Any]):
    """A part's function with its options bound, whose errors name the keys that the options have at `path`."""

    path: str

    def __call__(self, /, *args: Any, **options: Any) -> Any:
        """Call the function; InputError names the config's keys, also where it doesn't take what it is given."""
        try:
            with at(self.path):
                return self.func(*self.args, *args, **{**self.keywords, **options})
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:  # raised within the function
                raise
            raise InputError(f"{self.path}: {error}") from None


@dataclass(frozen=True)
class Part:
    """A part as the config names it, with its options checked."""

    kind: str
    name: str
    options: dict[str, Any]  # plain values, or Parts
    path: str = dataclasses.field(default="", compare=False)  # where the config has it
    of: str = LOGITS  # what a user's own metric is given: logits, or a network

    def bound(self) -> Callable[..., Any]:
        """Return the part's function with its options bound; parts among them are bound too."""
        options = {key: value.bound() if isinstance(value, Part) else value for key, value in self.options.items()}
        bound = Bound(_function(self.kind, self.name, self.name), **options)
        bound.path = self.path
        return bound

    def metric(self) -> Any:
        """Return a metric: of a table's builder, or a user's own function of logits or of a network."""
        if self.of == NETWORK:
            return OfModule(self.bound())
        return own_metric(self.name, self.bound()) if ":" in self.name else self.bound()()

    def search(self) -> Algorithm[Any]:
        """Return an algorithm; InputError where its options don't go together, or a user's function returns none."""
        function = self.bound()
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is parameter.empty and parameter.kind in (
                parameter.POSITIONAL_ONLY,
                parameter.POSITIONAL_OR_KEYWORD,
            ):
                raise InputError(
                    f"algorithm: {self.name} takes {parameter.name}, but an algorithm is built by its options alone: "
                    "(*, options) -> Algorithm; the layout of genomes is in the context, context.layout"
                )
        found = function()
        if not isinstance(found, Algorithm):
            raise InputError(f"algorithm: {self.name} returns {type(found).__name__}, not an Algorithm")

        def check(genes: int) -> None:
            with at(self.path):
                found.check(genes)

        return found._replace(check=check)

    def record(self) -> dict[str, Any]:
        """Return the part as the config would spell it."""
        plain = {
            key: value.record() if isinstance(value, Part) else list(value) if isinstance(value, tuple) else value
            for key, value in self.options.items()
        }
        return {"name": self.name, **plain, **({} if self.of == LOGITS else {"of": self.of})}


def build_algorithm(algorithm: Part) -> Algorithm[Any]:
    """Return an algorithm for what it says of itself; InputError where it can't be built."""
    try:
        return algorithm.search()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a user's function may fail in any way
        raise InputError(f"algorithm: {algorithm.name} can't be built ({brief(error)})") from None


def short(part: Part) -> Any:
    """Return a part as the config spells it: its name where it has no options."""
    return part.record() if part.options or part.of != LOGITS else part.name


class PartSection(Section):
    """A section that is a part as well: `{name: ..., option: ..., key: ...}`, with the part's options first."""

    kind: ClassVar[str]
    holds: ClassVar[str]  # the field of the part, which `record` spells out and pydantic leaves out

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it."""
        part: Part = getattr(self, self.holds)
        return {**part.record(), **super().record()}


P = TypeVar("P", bound=PartSection)


def part_section(model: type[P], values: Mapping[str, Any], path: str) -> P:
    """Check a section that is a part as well: its own keys, and the options of the part."""
    own = model.own_keys()
    options = {key: value for key, value in values.items() if key not in own}
    found = part(model.kind, {"name": DEFAULT_NAMES[model.kind], **options}, path, beside=own)
    return section(model, {model.holds: found, **{key: values[key] for key in own if key in values}}, path)


def part(kind: str, value: Any, path: str, beside: Collection[str] = ()) -> Part:
    """Check a part of a kind, given by its name or as `{name: ..., option: ...}`; `beside` may stand other keys."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InputError(f"{path}: a name, or a mapping with one, expected; {kind} has: {', '.join(TABLES[kind])}")
    name = value["name"]
    marks, model = schema(kind, name, f"{path}.name")
    options = {key: option for key, option in value.items() if key != "name"}
    of = options.pop("of", LOGITS) if kind == "metric" and ":" in name else LOGITS
    if of not in (LOGITS, NETWORK):
        raise InputError(f"{path}.of: {show(of)} given; logits or network expected")
    check_keys(options, {*marks, *model.model_fields}, path, also=("name", *beside))
    plain = {key: option for key, option in options.items() if key not in marks}
    checked = section(model, plain, path, largest=LARGEST_SEED if ":" in name else MOST).model_dump()
    for key, (inner, default) in marks.items():
        given = options.get(key, default)
        if isinstance(given, Mapping) and default is not None:
            given = {"name": default, **given}
        checked[key] = None if given is default is None else part(inner, given, f"{path}.{key}")
    return Part(kind, name, checked, path, of)


def read_trackers(given: Any, path: str = "tracking") -> tuple[Part, ...]:
    """Check a list of trackers, by name or as `{name: ..., option: ...}`; InputError where one can't be."""
    if not isinstance(given, list | tuple):
        raise InputError(f"{path}: {show(given)} given; a list such as [tensorboard] expected")
    paths = [path if path.startswith("-") else f"{path}.{i}" for i in range(len(given))]  # an option, or a key
    found = tuple(part("tracker", each, where) for each, where in zip(given, paths, strict=True))
    for i, each in enumerate(found):
        if each in found[:i]:
            raise InputError(f"{path}: {each.name} is given twice")
    return found


def schema(kind: str, name: str, path: str) -> tuple[dict[str, tuple[str, str | None]], type[Options]]:
    """Return a part's options: those that are parts, each with its kind and default name, and a model of the others.

    A part without a default name may be left out.
    """
    return _schema(_function(kind, name, path))


@cache  # a model takes a millisecond to make, and a search checks thousands of configs
def _schema(function: Callable[..., Any]) -> tuple[dict[str, tuple[str, str | None]], type[Options]]:
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
    marks: dict[str, tuple[str, str | None]] = {}
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            mark = next((m for m in getattr(hints.get(key), "__metadata__", ()) if isinstance(m, PartMark)), None)
            if mark is not None:
                table = TABLES[mark.kind]
                default = next((n for n, function in table.items() if function is parameter.default), None)
                marks[key] = mark.kind, default
            else:
                fields[key] = (hints.get(key, Any), ... if parameter.default is parameter.empty else parameter.default)
    return marks, create_model(getattr(function, "__name__", "Options"), __base__=Options, **fields)


def _function(kind: str, name: str, path: str) -> Callable[..., Any]:
    table = TABLES[kind]
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(f"{path}: no {kind} is called {show(name)}{near(name, table)}; there are: {', '.join(table)}")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way, or be a script
        raise InputError(f"{path}: {word(name)} can't be imported ({brief(error)})") from None
    if not callable(function):
        raise InputError(f"{path}: {word(name)} is no function")
    return function
