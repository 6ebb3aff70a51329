from typing import Any, get_type_hints

import pytest

import neuroevo as ne
from neuroevo import config
from neuroevo.api.learners import Learner, Options, learner
from neuroevo.config.schema import Refine
from neuroevo.errors import InputError
from neuroevo.learning.optimizers import OPTIMIZERS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learner_without_options_is_what_a_config_with_that_name_has(name: str) -> None:
    made: Learner = getattr(ne, name)()
    assert made.options == Refine(optimizer=config.part("refine", name, ""))
    assert made.build().slots == OPTIMIZERS[name]().slots
    assert learner({"name": name}, "refine") is not None


def test_its_options_are_those_of_a_config() -> None:
    assert {*get_type_hints(Options)} == {*Refine.own_keys()}


def test_options_of_the_optimizer_and_of_the_training_come_where_they_belong() -> None:
    made = ne.sgd(steps=3, lr=(0.01, 0.1), momentum=0.5, back_off=True, inheritance="baldwinian")
    found = made.refinement(1000)
    assert (found.settings.steps, found.settings.lr, found.settings.batch_size) == (3, (0.01, 0.1), 128)
    assert found.optimizer({}).momentum == 0.5
    assert found.optimizer({"momentum": (0.0, 1.0)}).momentum == (0.0, 1.0)
    assert found.back_off
    assert found.inheritance == "baldwinian"
    same = learner({"steps": 3, "lr": [0.01, 0.1], "momentum": 0.5, "back_off": True, "inheritance": "baldwinian"}, "")
    assert same is not None
    assert same.options == made.options


@pytest.mark.parametrize(("steps", "expected"), [(7, 7), ("epoch", 10), ({"epochs": 3}, 30)])
def test_steps_may_be_passes_over_the_train_split(steps: Any, expected: int) -> None:
    assert ne.adam(steps=steps, batch_size=100).refinement(1000).settings.steps == expected


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: ne.sgd(lr=-1), "lr: -1 given"),
        (lambda: ne.sgd(learning_rate=0.1), "learning_rate: unknown key"),
        (lambda: ne.adam(beta1=1.0), "beta1: 1.0 given"),
        (lambda: ne.adamw(steps="many"), "steps: 'many' given; a number of steps, epoch"),
        (lambda: learner({"name": "sdg"}, "refine"), "refine.name: no refine is called 'sdg' .did you mean sgd"),
        (lambda: learner({"lr": 0}, "refine"), "refine.lr: 0 given"),
        (lambda: learner(3, "refine"), "refine: sgd.steps=20., a name or a mapping expected, a int given"),
    ],
)
def test_an_option_that_cannot_be_is_named(make: Any, line: str) -> None:
    with pytest.raises(InputError, match=f"^{line}") as caught:
        make()
    assert caught.value.option == line.partition(":")[0].partition(".")[0]
