"""An experiment, checked: the config's sections and parts in one record."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from neuroevo.config.inputs import Backbone, Data, Features, Head
from neuroevo.config.parts import Part, short
from neuroevo.config.schema import (
    SETTLED,
    Budget,
    Checkpoint,
    Fitness,
    Genome,
    Islands,
    Memory,
    Refine,
    Remote,
    Trial,
    Tune,
    Validate,
)
from neuroevo.config.section import Section
from neuroevo.config.text import apply
from neuroevo.config.yamlfile import dump
from neuroevo.engine.algorithm import Algorithm
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
            "trial": self.trial.record(),
            "budget": self.budget.record(),
            **self.rest.record(),
        }


@dataclass(frozen=True)
class Config:
    """An experiment, checked: the sections of its file, each with the parts that it names."""

    seed: int
    device: str
    data: Data
    backbone: Backbone
    head: Head
    features: Features
    genome: Genome
    algorithm: Part
    refine: Refine | None
    fitness: Fitness
    validate: Validate
    budget: Budget
    checkpoint: Checkpoint
    memory: Memory
    remote: Remote | None = None
    tracking: tuple[Part, ...] = ()
    islands: Islands | None = None
    tune: Tuning | None = None
    # The raw config that this was checked from.
    given: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def record(self) -> dict[str, Any]:
        """Return the whole config, defaults spelled out, as a YAML file would hold it."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "tracking" and value:
                found[field.name] = [short(tracker) for tracker in value]
            elif field.name not in ("tune", "given", "tracking") and (
                value is not None or field.name not in ("remote", "islands")
            ):
                found[field.name] = value.record() if isinstance(value, Section | Part) else value
        return found if self.tune is None else {**found, "tune": {**self.tune.record(), "given": self.searchable()}}

    def search(self, spread: Callable[[float], Any] | None = None) -> Algorithm[Any]:
        """Return the algorithm that searches: of islands all of them as one.

        `spread` makes `genome.init_sigma` a deviation of genes, by which islands begin that have their own.
        """
        from neuroevo.config.islands import join  # which is of configs

        return self.algorithm.search() if self.islands is None else join(self, self.islands, spread)

    def brings(self) -> list[str]:
        """Return the hyperparameters of gradient steps that individuals bring along: those that islands differ in."""
        from neuroevo.config.islands import traits

        return [] if self.islands is None else [*traits(self, self.islands)]

    def searchable(self) -> dict[str, Any]:
        """Return the sections that hyperparameters may be in, as they were given: defaults may depend on those."""
        return {key: deepcopy(value) for key, value in self.given.items() if key not in SETTLED}

    def trial(self, settings: Mapping[str, Any]) -> "Config":
        """Return the config with hyperparameters written into it in place of the search of them."""
        from neuroevo.config.check import check  # which makes configs

        record = self.record()
        raw = self.searchable() | {key: record[key] for key in SETTLED if key in record and key != "tune"}
        return check(apply(raw, [(key.split("."), value) for key, value in settings.items()], lambda line: None))

    def of_result(self) -> "Config":
        """Return the config without what has no part in what a run comes to: by whom it is done, and who is told."""
        return dataclasses.replace(self, remote=None, tracking=())

    def to_yaml(self) -> str:
        """Return the whole config as YAML."""
        return dump(self.record())
