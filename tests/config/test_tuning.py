from typing import Any

import pytest
import yaml

from neuroevo.config import check

BY_HAND: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [  # a config, what a trial sets, both in one
    ({}, {"algorithm.crossover": "uniform"}, {"algorithm": {"crossover": "uniform"}}),
    ({}, {"algorithm.crossover.step": 0}, {"algorithm": {"crossover": {"step": 0}}}),
    (
        {"algorithm": {"crossover": "uniform", "elites": 3}},
        {"algorithm.crossover": "weighted"},
        {"algorithm": {"crossover": "weighted", "elites": 3}},
    ),
    (
        {"genome": {"init_sigma": 0.1}},
        {"genome.from": ["a.safetensors"]},
        {"genome": {"init_sigma": 0.1, "from": ["a.safetensors"]}},
    ),
    (
        {"genome": {"from": ["a.safetensors"]}},
        {"features.components": 64},
        {"genome": {"from": ["a.safetensors"]}, "features": {"components": 64}},
    ),
    ({}, {"features.standardise": False}, {"features": {"standardise": False}}),
    (
        {"algorithm": {"mutation": {"safe": True}}},
        {"backbone.trainable": ["layer4"]},
        {"algorithm": {"mutation": {"safe": True}}, "backbone": {"trainable": ["layer4"]}},
    ),
    (
        {"backbone": {"trainable": ["layer4"]}},
        {"algorithm.mutation.sigma": 0.1},
        {"backbone": {"trainable": ["layer4"]}, "algorithm": {"mutation": {"sigma": 0.1}}},
    ),
    (
        {"refine": {"steps": 3, "momentum": 0.5, "lr": 0.1}},
        {"refine.name": "adam", "refine.batch_size": 9},
        {"refine": {"name": "adam", "steps": 3, "lr": 0.1, "batch_size": 9}},
    ),
    (
        {"head": {"name": "mlp", "hidden": [9]}, "data": {"limit": 50}, "memory": {"limit": 10**9}},
        {"head.name": "linear", "algorithm.name": "snes", "algorithm.population": 6},
        {"head": {"name": "linear"}, "data": {"limit": 50}, "memory": {"limit": 10**9},
         "algorithm": {"name": "snes", "population": 6}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("base", "settings", "written"), BY_HAND)
def test_a_trial_has_the_defaults_of_the_config_written_by_hand(
    base: dict[str, Any], settings: dict[str, Any], written: dict[str, Any]
) -> None:
    space = {key: {"name": "categorical", "choices": [value, value]} for key, value in settings.items()}
    c = check({**base, "tune": {"space": space}})
    assert c.trial(settings) == check(written)
    assert c.trial(settings).to_yaml() == check(written).to_yaml()
    assert check(yaml.safe_load(c.to_yaml())).trial(settings) == check(written)
