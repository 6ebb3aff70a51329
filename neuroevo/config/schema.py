"""The sections of a config, as pydantic models: a field's docstring is what `neuroevo list` says of the key."""

from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import Field, InstanceOf, model_validator

from neuroevo.config.inputs import Backbone, Data, Features, Head, Quantise, Top, Transfer
from neuroevo.config.parts import Part, PartSection, short
from neuroevo.config.section import MOST, Section
from neuroevo.config.values import (
    Count,
    DecayRange,
    Mixture,
    Positive,
    PositiveRange,
    Rate,
    RateRange,
    Samples,
    Steps,
)
from neuroevo.engine.execution import Precision
from neuroevo.engine.schedules import Schedule

BARE = "arrays"  # the data set whose samples go to the head as they are, where the config names no backbone


class Genome(Section):
    """What genes are, how far from its start the population begins, and earlier runs or weight files to start from.

    `levels`, short for that space: matrices are whole levels, -1 to 1 (ternary), -127 to 127 (int8) and so on, times a
    float scale for each row.
    """

    space: InstanceOf[Part] = Field(exclude=True)
    """What genes are coordinates of: one of `neuroevo list space`, or one's own function."""
    init_sigma: Annotated[float, Ge(0)] = 0.01
    """Deviation of the first population around its start; 0.1 in a space of coordinates."""
    levels: Literal["ternary", "int3", "int4", "int6", "int8"] | None = None
    """Short for the space levels: whole levels for matrices."""
    start: list[str] = Field(default=[], alias="from")
    """Runs' folders or files of weights that the first population starts from."""

    @property
    def coordinates(self) -> bool:
        """Whether genes are coordinates around a network, and not its weights or their levels."""
        return self.space.name not in ("full", "levels")

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it."""
        own = super().record()
        return own if self.levels else {"space": short(self.space), **own}


class Refine(PartSection):
    """Gradient steps in each generation, beside the optimizer's own options. A range: each individual has its own.

    More than two learning rates are dealt round the first population.
    """

    kind: ClassVar = "refine"
    holds: ClassVar = "optimizer"
    optimizer: InstanceOf[Part] = Field(exclude=True)
    """The optimizer: one of `neuroevo list refine`."""
    steps: Steps = 20
    """Gradient steps a generation: a number, epoch (one pass over train), or {epochs: 5}."""
    lr: Positive | PositiveRange = 0.01
    """Learning rate, or a range of which each individual has its own."""
    batch_size: Count = 128
    """Samples of a step."""
    weight_decay: Annotated[float, Ge(0)] | DecayRange = 0.0
    """Weight decay, or a range."""
    label_smoothing: Rate | RateRange = 0.0
    """Share of each label that is spread over all classes, or a range."""
    dropout: Rate | RateRange | None = None
    """Rate of dropout in an MLP head, or a range; null: the head's own."""
    mixup: Mixture = 0.0
    """Parameter of the Beta distribution that samples are mixed by (Zhang et al. 2018); 0: not at all."""
    decay_to_start: Annotated[float, Ge(0)] = 0.0
    """Weight decay towards the start of the run in place of zero."""
    schedule: Schedule = "constant"
    """How the learning rate changes over the run."""
    final: Annotated[float, Ge(0), Le(1)] = 0.01
    """What share of the learning rate the schedule ends at."""
    who: Literal["all", "children", "elites"] = "all"
    """Who learns: all, the newly made, or the elites."""
    share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Random share of these that learns in a generation."""
    batches: Literal["shared", "own"] = "shared"
    """Minibatches are the same for all, or each individual's own."""
    inheritance: Literal["lamarckian", "baldwinian"] = "lamarckian"
    """Whether children inherit what was learnt (lamarckian), or it counts for fitness alone (baldwinian)."""
    back_off: bool = False
    """Whether who got worse on the generation's batch is put back."""
    optimizer_state: Literal["fresh", "inherit"] = "fresh"
    """Whether the optimizer starts afresh in each generation, or goes on from the parent's."""
    balanced: bool = False
    """Whether batches have as many of each class."""
    class_weights: bool = False
    """Whether losses are weighted by the inverse of a class's share."""
    logit_adjustment: Annotated[float, Ge(0)] = 0.0
    """By how much logits are adjusted by the classes' shares (tau of Menon et al. 2021)."""


class Bound(Section):
    """A constraint: bounds on a metric as reported, or on each of its values by class or by group."""

    metric: InstanceOf[Part] = Field(exclude=True)
    """The metric that is bounded."""
    per: Literal["class", "group"] | None = None
    """What each value is of: every class, or every group; null: one value of all."""
    at_least: float | None = None
    """The lower bound, on the metric as it is reported."""
    at_most: float | None = None
    """The upper bound, on the metric as it is reported."""

    def record(self) -> dict[str, Any]:
        """Return the constraint as the config would spell it."""
        return {"metric": short(self.metric), **{k: v for k, v in super().record().items() if v is not None}}


class Fitness(Section):
    """What individuals are scored by, and on how many samples a generation."""

    metrics: tuple[InstanceOf[Part], ...] = Field(exclude=True)
    """Two or more metrics, as many objectives (NSGA-II), in place of `metric`."""
    ties: InstanceOf[Part] | None = Field(exclude=True)
    """A second metric, which breaks ties of the only one; null: none."""
    subject_to: tuple[InstanceOf[Bound], ...] = Field(default=(), exclude=True)
    """Constraints, which come before fitness: a list of {metric: ..., at_least: ...}."""
    samples: Count | Literal["all"] = 512
    """Samples of a generation's batch, the same for everybody; all: the whole split."""
    split: Literal["train", "validation"] = "train"
    """Where batches come from."""
    precision: Precision = "auto"
    """Of scoring; auto takes half precision where that is clearly quicker. The best are scored again in float32."""
    balanced: bool = False
    """Whether batches have as many of each class."""
    class_weights: bool = False
    """Whether cross-entropy is weighted by the inverse of a class's share."""
    logit_adjustment: Annotated[float, Ge(0)] = 0.0
    """By how much logits are adjusted by the classes' shares (tau of Menon et al. 2021)."""

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it: `metric` and `ties`, or `metrics`."""
        first, *others = map(short, self.metrics)
        own = {"metrics": [first, *others]} if others else {"metric": first, "ties": self.ties and short(self.ties)}
        bounds = {"subject_to": [bound.record() for bound in self.subject_to]} if self.subject_to else {}
        return {**own, **bounds, **super().record()}


class Refit(Section):
    """A fit to train and validation together: its last generation, and the kind of candidate that is its champion."""

    generation: Count
    """The last."""
    candidate: Annotated[str, MinLen(1)]
    """The kind of candidate that is its champion."""


class Validate(Section):
    """By what and how often candidates are validated, and how many validations without a better one end the run.

    With `folds` train and validation together are cut into so many: a search is validated on each, and chooses when a
    last one, on all of them, ends, and who is its champion. `fold` is a run on one of them alone, from 1; without
    `folds` on the data's own split. `refit` has one search choose these, on the own split, or says what they are.
    """

    metric: InstanceOf[Part] = Field(exclude=True)
    """What names the champion: one of `neuroevo list metric`, or one's own."""
    every: Count = 10
    """Generations from one validation to the next."""
    patience: Count | None = None
    """Validations without a better candidate after which the run ends; null: it doesn't."""
    folds: Annotated[int, Ge(2), Le(MOST)] | None = None
    """Parts of train and validation together: a search is validated on each, and they choose when the last one ends."""
    fold: Count | None = None
    """A run on one of the folds alone, from 1; without `folds` on the data's own split."""
    refit: bool | Refit = False
    """Whether a last search is fitted to train and validation together, up to where a search on the split chose."""
    logistic: bool = True
    """Whether a linear head's champion is compared with scikit-learn's logistic regression."""

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it."""
        return {"metric": short(self.metric), **super().record()}


class Budget(Section):
    """Limits; the first one reached stops the run. Without any, 400 generations."""

    generations: Count | None = None
    """Generations at most."""
    samples: Samples | None = None
    """Samples at most, forward + 2 x backward, counted for every individual."""
    forward_samples: Samples | None = None
    """Forward passes of samples at most."""
    seconds: Annotated[float, Gt(0)] | None = None
    """Seconds at most."""
    target: float | None = None
    """The run ends when a champion's validation reaches this."""

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
    """Generations from one checkpoint to the next."""
    keep: Count = 3
    """How many of the newest are kept, beside the champion's."""
    network: bool = True
    """Whether the champion's whole network is written at the end, so that it is loaded from the folder alone."""


class Memory(Section):
    """What evaluation and training may use, and how they go about it.

    `limit` is of what they use beside population and features; None is a share of what is free. `plan` is how what
    comes before the head is evaluated: one individual after another, or several at once; `auto` measures both. `graphs`
    has a GPU launch a slice of scoring as one, which pays where generations are small. At most `individuals` are taken
    at a time, as many as fit if None: slices are what workers share.
    """

    limit: Samples | None = None
    """Bytes for evaluation and training beside population and features; null: a share of what is free."""
    plan: Literal["auto", "loop", "vmap"] = "auto"
    """How what comes before the head is evaluated: one individual after another (loop), or several at once (vmap)."""
    graphs: bool = False
    """Whether a GPU launches a slice of scoring as one graph, which pays where generations are small."""
    individuals: Count | None = None
    """How many individuals are evaluated at a time, at most; null: as many as fit."""


class Remote(Section):
    """Workers of a Ray cluster that slices of individuals are spread over: which cluster, and how many.

    `workers` is a number, or auto: as many as the cluster has room for while the run goes on. A worker takes
    `cpus_per_worker` of Ray's CPUs, the run's threads if None. Without an `address` a cluster is begun on this machine,
    and ends with the run; auto is the one that this machine is of. Workers that differ from the run's process in what
    changes rounding are refused, unless `mixed`.
    """

    engine: Literal["ray"] = "ray"
    """What workers are of."""
    workers: Annotated[int, Ge(0), Le(MOST)] | Literal["auto"] = "auto"
    """How many; auto: as many as the cluster has room for while the run goes on."""
    cpus_per_worker: Annotated[float, Gt(0)] | None = None
    """Ray's CPUs for each; null: the run's threads."""
    gpus_per_worker: Annotated[float, Ge(0)] = 0
    """Ray's GPUs for each."""
    address: str | None = None
    """Of the cluster; auto: the one that this machine is of; null: one is begun here, and ends with the run."""
    mixed: bool = False
    """Whether workers may differ in what changes rounding."""


class Islands(Section):
    """Several populations that search apart, and send each other their best.

    `settings` are overlays, one an island: {config key: value}, of what an island can have of its own.
    """

    count: Annotated[int, Ge(2), Le(MOST)]
    """How many populations."""
    every: Count = 10
    """Generations from one migration to the next."""
    migrants: Annotated[int, Ge(0), Le(MOST)] = 1
    """How many of its best an island sends to each that receives from it; 0: nobody goes."""
    topology: Literal["ring", "full"] | list[list[Annotated[int, Ge(0), Le(MOST)]]] = "ring"
    """From whom each receives: the one before it (ring), all others (full), or for each a list of islands, from 0."""
    settings: list[dict[str, Any]] = Field(default=[])
    """For each island an overlay {config key: value} of what it can have of its own."""


class Trial(Section):
    """How a set of hyperparameters is tried: a run of so many generations, judged by its champion's validation.

    At each of the rungs, counted in generations, only the best share `keep` of the trials begun together goes on.
    """

    generations: Count = 5
    """Generations of a trial."""
    rungs: list[Count] = Field(default=[])
    """Generations after which only the best of the trials begun together go on."""
    keep: Annotated[float, Gt(0), Le(1)] = 0.5
    """The share of trials that goes on at a rung."""

    @model_validator(mode="after")
    def _check_rungs(self) -> Self:
        if self.rungs != sorted({*self.rungs}) or self.rungs[-1:] >= [self.generations]:
            raise ValueError(f"rungs rise, and lie below the {self.generations} generations of a trial")
        return self


class Tune(Section):
    """When a search of hyperparameters ends beside its budget, and whether a final run with the best set follows."""

    patience: Count | None = None
    """Iterations without a better trial after which the search ends; null: it doesn't."""
    final: bool = True
    """Whether a run with the best set follows."""
    included: bool = False
    """Whether the search's samples are taken off the final run's budget.samples."""


SECTIONS: dict[str, type[Section]] = {  # by where they are
    "": Top,
    "data": Data,
    "backbone": Backbone,
    "backbone.transfer": Transfer,
    "backbone.quantise": Quantise,
    "head": Head,
    "features": Features,
    "genome": Genome,
    "refine": Refine,
    "fitness": Fitness,
    "fitness.subject_to": Bound,
    "validate": Validate,
    "budget": Budget,
    "checkpoint": Checkpoint,
    "memory": Memory,
    "remote": Remote,
    "islands": Islands,
    "tune": Tune,
    "tune.trial": Trial,
    "tune.budget": Budget,
}
# What keys are that hold a part or a section of its own, and are no field of theirs.
PARTS: dict[str, str] = {
    "algorithm.name": "The search: one of `neuroevo list algorithm`, or one's own; its options stand beside the name.",
    "fitness.metric": "What individuals are scored by: one of `neuroevo list metric`, or one's own.",
    "tune.sampler": "What proposes trials: one of `neuroevo list sampler`.",
    "tune.space": "What is searched: {config key: {name: ..., low: ..., high: ...}}, of `neuroevo list variable`.",
    "tune.trial": "How a set of hyperparameters is tried.",
    "tune.budget": "When the search ends: keys of budget, where `generations` are the sampler's iterations (10).",
}
BESIDE: dict[str, list[str]] = {  # keys beside a part's own options, by the part's kind
    **{model.kind: model.own_keys() for model in (Data, Head, Refine)},
    "variable": ["when"],
}
# Sections that have no part in what a run comes to: by whom it is done, and who is told. No checkpoint has them.
APART = ("remote", "tracking")
# Sections in which no default depends on what a search can set.
SETTLED = ("seed", "device", "data", "validate", "budget", "checkpoint", "memory", "remote", "tracking", "tune")
