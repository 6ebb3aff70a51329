"""Algorithms from Python: their options are checked, by name as a config's are."""

import inspect
from functools import partial
from typing import Any

import pytest
import torch

import neuroevo as ne
from neuroevo.api import algorithms
from neuroevo.search.algorithms import ALGORITHMS
from neuroevo.search.operators.mutation import gaussian


def sphere(genomes: torch.Tensor) -> torch.Tensor:
    return -genomes.square().sum(1)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_builds_what_its_function_builds_and_shows_its_options(name: str) -> None:
    build = getattr(algorithms, name)
    assert build().size == ALGORITHMS[name]().size
    assert inspect.signature(build) == inspect.signature(ALGORITHMS[name])
    assert build.__doc__ == ALGORITHMS[name].__doc__


@pytest.mark.parametrize(
    ("name", "options", "option", "message"),
    [
        ("pso", {"neighbourhood": "star"}, "neighbourhood", "'star' given"),
        ("de", {"strategy": "bst"}, "strategy", "'bst' given"),
        ("ga", {"elites": 2.5}, "elites", "2.5 given"),
        ("hill_climbing", {"population": 0}, "population", "0 given"),
        ("ga", {"popualtion": 8}, "popualtion", r"unknown key \(did you mean population\?\)"),
        ("ga", {"mutation": "gausian"}, "mutation", "did you mean gaussian"),
        ("ga", {"mutation": {"name": "gaussian", "sigma": -1}}, "mutation", "-1"),
    ],
)
def test_what_cannot_be_is_named(name: str, options: dict[str, Any], option: str, message: str) -> None:
    with pytest.raises(ne.InputError, match=rf"^{option}.*{message}") as found:
        getattr(ne, name)(**options)
    assert str(found.value.option) == option


def test_a_part_is_a_function_a_name_or_a_mapping() -> None:
    budget = ne.Budget(generations=3)
    found = [
        ne.evolve(start=torch.ones(4), fitness=sphere, algorithm=ne.ga(population=8, mutation=mutation), budget=budget)
        for mutation in (partial(gaussian, sigma=0.1), {"name": "gaussian", "sigma": 0.1})
    ]
    assert torch.equal(found[0].genome, found[1].genome)
    assert torch.equal(found[0].population.genomes, found[1].population.genomes)
    ne.evolve(start=torch.ones(4), fitness=sphere, algorithm=ne.ga(crossover="uniform"), budget=budget)
