"""An experiment, checked: the config's sections and parts in one record."""

import dataclasses
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from neuroevo.config.parts import Part, short
from neuroevo.config.schema import (
    SETTLED,
    Backbone,
    Budget,
    Checkpoint,
    Data,
    Features,
    Fitness,
    Genome,
    Head,
    Memory,
    Refine,
    Section,
    Trial,
    Tune,
    Validate,
)
from neuroevo.config.text import apply
from neuroevo.config.yamlfile import dump
from neuroevo.search.space import Space, Variable, space


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
                    {"metric": short(self.metrics[0]), "ties": self.ties and short(self.ties)}
                    if len(self.metrics) == 1
                    else {"metrics": [short(metric) for metric in self.metrics]}
                ),
                **plain(self.fitness),
            },
            "validate": {"metric": short(self.validation_metric), **plain(self.validate)},
            "budget": plain(self.budget),
            "checkpoint": plain(self.checkpoint),
            "memory": plain(self.memory),
            **({} if self.tune is None else {"tune": {**self.tune.record(), "given": self.searchable()}}),
        }

    def searchable(self) -> dict[str, Any]:
        """Return the sections that hyperparameters may be in, as they were given: defaults may depend on those."""
        return {key: deepcopy(value) for key, value in self.given.items() if key not in SETTLED}

    def trial(self, settings: Mapping[str, Any]) -> "Config":
        """Return the config with hyperparameters written into it in place of the search of them."""
        from neuroevo.config.check import check  # which makes configs

        record = self.record()
        raw = self.searchable() | {key: record[key] for key in SETTLED if key in record and key != "tune"}
        return check(apply(raw, [(key.split("."), value) for key, value in settings.items()], lambda line: None))

    def to_yaml(self) -> str:
        """Return the whole config as YAML."""
        return dump(self.record())
