"""Gradient steps from Python: `sgd(steps=20, lr=0.01)` is how individuals learn, as `ga(population=64)` is a search.

The options are those of a config's `refine`, checked the same way: the optimizer's own, and how individuals learn.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from neuroevo import config
from neuroevo.config.parts import part_section
from neuroevo.config.schema import Refine
from neuroevo.engine.schedules import Schedule
from neuroevo.errors import InputError
from neuroevo.learning.optimizers import Optimizer
from neuroevo.learning.task import Settings
from neuroevo.problems.supervised import Refinement

Range = float | tuple[float, ...]  # of a range each individual has its own; of a longer list they are dealt round


@contextmanager
def about(argument: str = "") -> Iterator[None]:
    """Have an InputError of a part's check carry the argument that the part was given as; without one, the option."""
    try:
        yield
    except InputError as error:
        error.option = error.option or argument or str(error).partition(":")[0].partition(".")[0]
        raise


class Options(TypedDict, total=False):
    """How a population is trained in each generation."""

    steps: int | Literal["epoch"] | Mapping[str, int]  # 20; epoch, or {"epochs": 5}: passes over the train split
    lr: Range  # 0.01
    batch_size: int  # 128
    weight_decay: Range
    label_smoothing: Range
    dropout: Range | None  # None: the head's own
    mixup: float  # alpha of the Beta distribution
    decay_to_start: float
    schedule: Schedule
    final: float
    who: Literal["all", "children", "elites"]
    share: float
    batches: Literal["shared", "own"]
    inheritance: Literal["lamarckian", "baldwinian"]
    back_off: bool
    optimizer_state: Literal["fresh", "inherit"]
    balanced: bool
    class_weights: bool
    logit_adjustment: float


class Learner(NamedTuple):
    """How individuals learn by gradient steps."""

    options: Refine

    def build(self, **own: Any) -> Optimizer:
        """Return the optimizer, given hyperparameters that individuals bring."""
        made: Optimizer = self.options.optimizer.bound()(**own)
        return made

    def refinement(self, train: int) -> Refinement:
        """Return what becomes of a population, of so many train samples."""
        given = self.options.model_dump()
        inheritance, back_off = given.pop("inheritance"), given.pop("back_off")
        if not isinstance(given["steps"], int):
            epochs = self.options.steps.epochs if isinstance(self.options.steps, config.Epochs) else 1
            given["steps"] = epochs * max(1, train // self.options.batch_size)
        return Refinement(lambda own: self.build(**own), Settings(**given), inheritance, back_off)


def sgd(*, momentum: float | tuple[float, float] = 0.9, nesterov: bool = False, **options: Unpack[Options]) -> Learner:
    """Learn by stochastic gradient descent with momentum; InputError names an option that can't be."""
    return _learner("sgd", {"momentum": momentum, "nesterov": nesterov, **options}, "")


def adam(*, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, **options: Unpack[Options]) -> Learner:
    """Learn by Adam; InputError names an option that can't be."""
    return _learner("adam", {"beta1": beta1, "beta2": beta2, "eps": eps, **options}, "")


def adamw(*, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, **options: Unpack[Options]) -> Learner:
    """Learn by Adam with decoupled weight decay; InputError names an option that can't be."""
    return _learner("adamw", {"beta1": beta1, "beta2": beta2, "eps": eps, **options}, "")


def learner(given: Any, option: str) -> Learner | None:
    """Return a learner as it is given, by name or as `{name: ..., option: ...}`; InputError where it is none."""
    if given is None or isinstance(given, Learner):
        return given
    values = {"name": given} if isinstance(given, str) else given
    if not isinstance(values, Mapping):
        raise InputError(f"sgd(steps=20), a name or a mapping expected, a {type(given).__name__} given", option=option)
    with about(option):
        return Learner(part_section(Refine, values, option))


def _learner(name: Any, given: dict[str, Any], path: str) -> Learner:
    with about(path):
        return Learner(part_section(Refine, {"name": name, **given}, path))
