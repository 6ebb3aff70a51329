"""Runs of islands: without migrants each is a run of its own, byte for byte, and all of it is written down."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import weights_of_a_network

from neuroevo import config
from neuroevo.config import Config
from neuroevo.engine import joined, loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.evaluator import Evaluated
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Step
from neuroevo.engine.problem import Problem
from neuroevo.engine.rng import Context
from neuroevo.experiments import compose, experiment
from neuroevo.experiments.compose import Run

# Digits' own pixels: quick, and nothing to download.
SETS = [
    "backbone={name: none, weights: none}", "data={name: digits, image_size: null, limit: 300}",
    "algorithm.population=6", "budget.generations=4", "fitness.samples=60", "validate.every=2", "memory.limit=1e8",
    "features.components=null", "fitness.precision=float32",
]  # fmt: skip
THREE = "islands={count: 3, migrants: 0}"
LEARN = ["refine.steps=3", "refine.batch_size=30"]
MLP = ["head={name: mlp, hidden: [8], dropout: 0.2}", "head.init=default"]
DEEP = [
    "backbone={name: timm/test_resnet, trainable: [layer4]}", "data={name: digits, image_size: 32, limit: 120}",
    "algorithm.population=4", "fitness.samples=20", "head.init=default", "memory.limit=1e9", "memory.plan=loop",
]  # fmt: skip


def build(*sets: str) -> Run:
    ready = experiment.prepare(config.load(None, [*SETS, *sets]))
    return compose.compose(*ready, images=lambda done, total: None, log=lambda line: None)


def alone(run: Run, island: int) -> list[Step]:
    """Return the steps of a run by itself, as that island draws."""

    def there(context: Context) -> Context:
        return context._replace(island=island)

    given, problem = run.algorithm, run.problem()
    algorithm: Algorithm[Any] = given._replace(
        init=lambda start, sigma, context: given.init(start, sigma, there(context)),
        ask=lambda state, context: given.ask(state, there(context)),
    )
    inner = problem.evaluator

    def evaluate(population: Population, index: torch.Tensor, context: Context) -> Evaluated:
        return inner.evaluate(population, index, there(context))

    return steps(run, problem._replace(evaluator=inner._replace(evaluate=evaluate)), algorithm)


def steps(run: Run, problem: Problem, algorithm: Algorithm[Any]) -> list[Step]:
    begun = loop.begin(problem, algorithm, run.config.seed, run.home)
    return list(loop.evolve(problem, algorithm, run.rules(), begun, device=run.home, clock=lambda: 0.0))


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["algorithm.crossover=uniform", *LEARN, *MLP],
        [*LEARN, *MLP, "refine.batches=own", "refine.mixup=0.2", "refine.share=0.5", "refine.back_off=true"],
        [*LEARN, "refine.lr=[0.01, 0.1]", "refine.momentum=[0.5, 0.9]", "refine.optimizer_state=inherit"],
        [*LEARN, "refine.lr=[0.01, 0.1, 0.3, 0.5]", "refine.who=children", "algorithm.elites=2"],
        [*LEARN, "refine.inheritance=baldwinian", "refine.batches=own", "refine.balanced=true"],
        [*MLP[1:], "head={name: mlp, hidden: [8]}", "algorithm.mutation.safe=true", "fitness.ties=accuracy"],
        ["algorithm.population=37", "features.components=null", "fitness.samples=131"],
        ["fitness.metrics=[cross_entropy, accuracy]"],
        ["fitness.subject_to=[{metric: precision, per: class, at_least: 0.5}]"],
        ["algorithm={name: snes, population: 6}", "fitness.precision=bfloat16"],
        ["fitness.precision=bfloat16", "algorithm.elites=2"],
        ["algorithm={name: pso, population: 6}", *LEARN],
        ["algorithm={name: de, population: 6}"],
        ["genome.levels=int8"],
        DEEP,
    ],
    ids=str,
)
def test_without_migrants_each_island_is_a_run_of_its_own_byte_for_byte(tmp_path: Path, sets: list[str]) -> None:
    if sets is DEEP:  # without weights each network is another
        sets = [*sets, weights_of_a_network(tmp_path)]
    run, single = build(*sets, THREE), build(*sets)
    together = steps(run, run.problem(), run.algorithm)
    for i in range(3):
        for whole, own in zip(together, alone(single, i), strict=True):
            n = len(own.population.genomes)
            rows = slice(i * n, (i + 1) * n)
            assert torch.equal(whole.population.genomes[rows], own.population.genomes)
            assert torch.equal(whole.scores.values[rows], own.scores.values)
            for name, trait in own.population.traits.items():
                assert torch.equal(whole.population.traits[name][rows], trait)
            assert whole.cost.samples == 3 * own.cost.samples
    plain = steps(single, single.problem(), single.algorithm)
    n = len(plain[-1].population.genomes)
    assert torch.equal(together[-1].population.genomes[:n], plain[-1].population.genomes)
