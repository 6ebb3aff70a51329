"""The task that gradient steps train networks on, and its settings."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from neuroevo.engine.batches import View, as_it_is
from neuroevo.engine.execution import LOCAL, Executor
from neuroevo.engine.genome import Layout
from neuroevo.engine.samples import Samples
from neuroevo.engine.schedules import Schedule
from neuroevo.networks.heads import Forward

Range = tuple[float, ...]  # a hyperparameter that each individual has its own of, between the first and the last
Weights = dict[str, Tensor]  # {name: [r, *shape]}


@dataclass(frozen=True)
class Task:
    """A task: networks of a layout are trained on the rows of a train split."""

    layout: Layout
    forward: Forward
    linear: str | None  # the name of the layer where the head is one linear layer
    source: Samples
    train: Tensor  # [rows] int64
    classes: int
    individuals: int  # at a time
    micro: int  # samples at a time
    keep: int  # bytes of batches that are kept for the next slice of individuals
    start: Tensor  # genome [g] that `decay_to_start` pulls towards
    device: torch.device  # where it is trained, wherever the population is kept
    view: View = as_it_is
    executor: Executor = LOCAL

    @cached_property
    def labels(self) -> Tensor:
        """The labels [rows] of the train split, on the CPU."""
        return self.source.labels.cpu()[self.train]


@dataclass(frozen=True)
class Settings:
    """The settings of training in each generation: the config's `refine` section, checked."""

    steps: int
    batch_size: int
    lr: float | Range
    weight_decay: float | Range
    label_smoothing: float | Range
    dropout: float | Range | None  # None: the head's own
    mixup: float  # alpha of the Beta distribution; 0 is none
    decay_to_start: float
    schedule: Schedule
    final: float
    who: Literal["all", "children", "elites"]
    share: float
    batches: Literal["shared", "own"]
    optimizer_state: Literal["fresh", "inherit"]
    balanced: bool
    class_weights: bool
    logit_adjustment: float
