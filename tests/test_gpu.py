"""All that a config can name, on a GPU on paper: run, resume, evaluate and export, with no device mistake.

`paper_gpu` says what it refuses. Where a run's numbers are compared with those of a run on the CPU they are the same,
since it draws by the same generator.
"""

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from conftest import Quiet, make_folder
from paper_gpu import CUDA, Gpu, Paper, Waits, paper_gpu
from pydantic import BaseModel
from torch import Tensor, nn

import neuroevo
from neuroevo import config
from neuroevo.config import Config, load
from neuroevo.config.parts import TABLES, Part, schema
from neuroevo.config.schema import Backbone, Features, Fitness, Genome, Head, Memory, Refine
from neuroevo.engine.cost import Budget
from neuroevo.engine.loop import Step
from neuroevo.experiments import evaluation, experiment, export
from neuroevo.experiments.signals import Signals
from neuroevo.problems import intervals
from neuroevo.storage import rundir
from neuroevo.tuning import tune

# Digits' own pixels.
BASE = [
    "device=cuda", "backbone={name: none, weights: none}", "data={name: digits, image_size: null, limit: 300}",
    "memory.limit=1e8", "algorithm.population=8", "budget.generations=3", "fitness.samples=60", "validate.every=2",
]  # fmt: skip
LEARN = ["refine.steps=2", "refine.batch_size=30"]
MLP = ["head={name: mlp, hidden: [8]}", "head.init=default"]
DROPOUT = ["head={name: mlp, hidden: [8], dropout: 0.1}", "head.init=default"]
FLIP = ["data.augment=[{name: RandomHorizontalFlip}]", "data.limit=200"]
# A network of timm's own tests, of which a stage evolves.
DEEP = [
    "backbone={name: timm/test_resnet, weights: none, trainable: [layer4]}", "data.image_size=32", "data.limit=120",
    "algorithm.population=4", "fitness.samples=20", "head.init=default", "memory.limit=1e9",
]  # fmt: skip
CASES: dict[str, list[str]] = {
    # Genetic algorithms: a selection, a crossover, a mutation and a metric at a time.
    "default": ["validate.metric=auroc"],
    "uniform": ["algorithm.crossover=uniform", "algorithm.selection=truncation", "fitness.metric=accuracy",
                "fitness.ties=top_k", "algorithm.mutation.schedule=linear", "algorithm.averaging=false"],
    "k_point": ["algorithm.crossover=k_point", "algorithm.selection=roulette", "fitness.metric=balanced_accuracy",
                "algorithm.mutation={name: gaussian, rate: 0.5, per: tensor, schedule: step}"],
    "sbx": ["algorithm.crossover=sbx", "algorithm.selection=rank", "fitness.metric=worst_class_accuracy",
            "algorithm.mutation={name: gaussian, rate: 0.5, schedule: exponential}"],
    "row": ["algorithm.crossover=row", "algorithm.selection=stochastic_universal", "fitness.metric=macro_f1",
            "algorithm.mutation={name: gaussian, relative: true, rank: 2, schedule: warmup_cosine}"],
    "layer": ["algorithm.crossover=layer", "algorithm.selection=random", "algorithm.elites=4", "fitness.metric=mcc",
              "algorithm.mutation={name: gaussian, self_adaptive: true, schedule: one_cycle}"],
    "arithmetic": ["algorithm.crossover=arithmetic", "fitness.metric=brier", "algorithm.mutation.self_adaptive=true",
                   "algorithm.mutation.tau=null", "algorithm.mutation.schedule=constant"],
    "arithmetic, weighted": ["algorithm.crossover={name: arithmetic, weight: 0.3}", "algorithm.elites=0",
                             "fitness.metric=calibration_error"],
    "none": ["algorithm.crossover=none", "algorithm.selection=tournament", "fitness.metric=auroc"],
    "safe": [*MLP, "algorithm.mutation.safe=true", "algorithm.parents=2", "fitness.metric=kappa"],
    "ternary": ["genome.levels=ternary", "algorithm.mutation=levels", "fitness.metric={name: kappa, weights: linear}"],
    "int4": [*MLP, "genome.levels=int4", "algorithm.mutation={name: levels, schedule: constant}",
             "fitness.metric={name: kappa, weights: quadratic}"],
    "int8": ["genome.levels=int8", "algorithm.mutation={name: levels, schedule: linear}",
             "fitness.metrics=[cross_entropy, sparsity, weight_norm, distance]", "algorithm.elites=4"],
    **{f"levels, {schedule}": ["genome.levels=int8", f"algorithm.mutation={{name: levels, schedule: {schedule}}}"]
       for schedule in ("exponential", "step", "warmup_cosine", "one_cycle")},
    "a cost matrix": ["fitness.metric=" + json.dumps(
        {"name": "cost_matrix", "costs": [[float(i != j) for i in range(10)] for j in range(10)]})],
    # The other algorithms, and how samples are scored.
    "snes": ["algorithm={name: snes, population: 8}", "fitness.precision=bfloat16", "features.dtype=float16"],
    "snes, its rate": ["algorithm={name: snes, population: 8, sigma_rate: 0.1}", "fitness.split=validation"],
    "xnes": ["algorithm={name: xnes, population: 8}", "features={components: 4}"],
    "xnes, its rate": ["algorithm={name: xnes, population: 8, sigma_rate: 0.1}", "features={components: 4, whitening: 0.5}"],
    "pgpe": ["algorithm={name: pgpe, population: 8}", "fitness.balanced=true"],
    "cem": ["algorithm={name: cem, population: 8}", "fitness.class_weights=true"],
    "sep_cma": ["algorithm={name: sep_cma, population: 8}", "features={standardise: false, components: null}"],
    "es": ["algorithm={name: es, population: 8}", "head={name: mlp, hidden: [8], activation: silu}", "head.init=default"],
    "pso": ["algorithm={name: pso, population: 8}", "head={name: mlp, hidden: [8], activation: tanh}", "head.init=default"],
    "pso in a ring": ["algorithm={name: pso, population: 8, neighbourhood: ring, max_velocity: null}",
                      "fitness={logit_adjustment: 1.0, samples: all}", "data.long_tail=0.3"],
    "de": ["algorithm={name: de, population: 8}"],
    "de, best": ["algorithm={name: de, population: 8, strategy: best}"],
    "de, current": ["algorithm={name: de, population: 8, strategy: current_to_best}"],
    "hill climbing": ["algorithm={name: hill_climbing, population: 8}"],
    "hill climbing by a sigma": ["algorithm={name: hill_climbing, population: 8, sigma: 0.1}"],
    "random": ["algorithm={name: random, population: 8}"],
    "fixed": ["algorithm={name: fixed, population: 4}", *LEARN, "refine.momentum=0", "refine.back_off=true"],
    # Gradient steps.
    "mlp, normalised": ["head={name: mlp, hidden: [8, 8], norm: layer, activation: gelu, dropout: 0.2}",
                        "head.init=default", *LEARN, "refine.who=elites", "algorithm.elites=4"],
    "ranges": [*LEARN, "refine.lr=[0.01, 0.1]", "refine.momentum=[0.5, 0.9]", "refine.nesterov=true",
               "refine.weight_decay=[0.001, 0.01]", "refine.label_smoothing=[0.01, 0.1]", "refine.back_off=true",
               "refine.optimizer_state=inherit", "refine.batches=own", "refine.schedule=linear"],
    "adam": [*DROPOUT, *LEARN, "refine.name=adam", "refine.optimizer_state=inherit", "refine.who=children",
             "refine.mixup=0.2", "refine.dropout=[0.1, 0.2]", "refine.schedule=cosine", "refine.class_weights=true"],
    "adamw": [*DROPOUT, *LEARN, "refine.name=adamw", "refine.inheritance=baldwinian", "refine.balanced=true",
              "refine.decay_to_start=0.01", "refine.share=0.5", "refine.logit_adjustment=1.0", "refine.dropout=0.1",
              "refine.label_smoothing=0.1", "refine.weight_decay=0.01", "refine.schedule=warmup_cosine"],
    "own batches": [*LEARN, "refine.batches=own", "refine.balanced=true", "refine.schedule=exponential"],
    "epoch": ["refine.steps=epoch", "refine.batch_size=60", "refine.schedule=step"],
    "epochs": ["refine.steps={epochs: 2}", "refine.batch_size=60", "refine.schedule=one_cycle"],
    "views": [*LEARN, *FLIP, "features.views=2"],
    "live views": [*LEARN, *FLIP, "features.views=live"],
    # More than the head.
    "a stage, one after another": [*DEEP, *LEARN, "memory.plan=loop", "backbone.batchnorm=recalibrate"],
    "a stage at once": [*DEEP, *LEARN, "memory.plan=vmap"],
    "a stage, safe": [*DEEP, "algorithm.mutation.safe=true", "algorithm.mutation.relative=false"],
    "a stage alone": [*DEEP, "head={init: network, trainable: false}", "backbone.channels=1"],
}  # fmt: skip

@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with paper_gpu() as device:
        yield device


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 10)
    monkeypatch.setattr(intervals, "WHOLE_RESAMPLES", 4)
    torch.manual_seed(0)  # weights none: the library's own initialisation


def configured(*sets: str) -> Config:
    return load(None, [*BASE, *sets])


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_begun_resumed_evaluated_and_exported(gpu: Gpu, tmp_path: Path, case: str) -> None:
    folder = tmp_path / "r"
    quiet = Quiet()
    experiment.run(configured(*CASES[case]), str(folder), "test", quiet)
    assert {x.device for step in quiet.steps for x in (step.population.genomes, step.scores.values)} == {CUDA}
    experiment.resume(str(folder), ["budget.generations=4"], quiet)
    assert [step.generation for step in quiet.steps] == [1, 2, 3, 4]
    result = rundir.read_result(folder)
    assert result["status"] == "finished"
    found = evaluation.evaluate(str(folder), None, quiet)
    assert found == {**result["champion"]["test"], **{k: found[k] for k in found if k not in result["champion"]["test"]}}
    export.export(str(folder), None, str(tmp_path / "n.safetensors"))
    assert (tmp_path / "n.safetensors").stat().st_size
