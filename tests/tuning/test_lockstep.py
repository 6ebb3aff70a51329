"""Runs in lockstep: each goes as it would alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import weights_of_a_network

from neuroevo import config
from neuroevo.config import Config
from neuroevo.engine import loop
from neuroevo.experiments import compose, experiment, sources
from neuroevo.tuning import lockstep
from neuroevo.tuning.lockstep import Group

# Digits' own pixels: quick, and nothing to download.
SETS = [
    "backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.name=fixed",
    "algorithm.population=1", "genome.init_sigma=0", "refine.name=sgd", "refine.steps=12", "refine.batch_size=32",
    "refine.lr=0.1",
    "fitness.samples=50", "validate.every=1", "budget.generations=4", "memory.limit=1e8", "features.components=null",
]  # fmt: skip
MLP = ["head.name=mlp", "head.hidden=[16]", "head.dropout=0.1"]
DEEP = [
    "backbone.name=timm/test_resnet", "backbone.trainable=[layer4]", "data.image_size=32", "data.limit=240",
    "memory.plan=loop", "memory.limit=2e9", "refine.steps=3", "head.init=default",
]  # fmt: skip
GA = ["algorithm.name=ga", "algorithm.population=9", "algorithm.elites=1", "genome.init_sigma=0.02"]


def group(c: Config, settings: Sequence[dict[str, Any]]) -> Group:
    configs = [c.trial(own) for own in settings]
    ready = experiment.prepare(configs[0])
    source = sources.sources(*ready, images=lambda done, total: None, log=lambda line: None)
    brought = {name: [own[key] for own in settings] for key, name in config.TRAITS.items() if key in settings[0]}
    return Group.begin(compose.assemble(ready.config, source), configs, brought)


def alone(c: Config) -> loop.Step:
    """Run a config by itself, as `neuroevo run` would, and return its last step."""
    ready = experiment.prepare(c)
    e = compose.compose(*ready, images=lambda done, total: None, log=lambda line: None)
    *_, step = loop.evolve(e.problem(), e.algorithm, e.rules(), e.initial(), device=e.home, clock=lambda: 0.0)
    return step


@pytest.mark.parametrize(
    ("sets", "settings"),
    [
        ([], [{"refine.lr": lr} for lr in (0.3, 0.01, 1e-5)]),
        (["refine.schedule=cosine"], [{"refine.lr": 0.3, "refine.momentum": m} for m in (0.0, 0.9)]),
        ([], [{"refine.weight_decay": decay} for decay in (0.1, 0.0, 1e-3)]),
        (["refine.mixup=0.4"], [{"refine.label_smoothing": smoothing} for smoothing in (0.3, 0.0)]),
        (MLP, [{"refine.dropout": rate} for rate in (0.5, 0.05)]),
        (["refine.batches=own"], [{"refine.lr": lr} for lr in (0.2, 0.02)]),
        (["refine.optimizer_state=inherit", "refine.nesterov=true"], [{"refine.momentum": m} for m in (0.9, 0.5)]),
        (["refine.name=adamw"], [{"refine.lr": lr} for lr in (0.01, 0.001)]),
        (GA, [{"algorithm.mutation.sigma": sigma} for sigma in (0.3, 0.01)]),
        (["algorithm.population=3", "refine.lr=[0.01, 0.1]"], [{"refine.momentum": m} for m in (0.9, 0.5)]),
        (["algorithm.population=3", "refine.lr=[0.01, 0.1, 0.3]"], [{"refine.momentum": m} for m in (0.9, 0.5)]),
        (GA, [{"genome.init_sigma": 0.5, "refine.lr": 0.1}, {"genome.init_sigma": 0.01, "refine.lr": 0.5}]),
        ([*GA, "refine=null"], [{"algorithm.mutation.sigma": sigma} for sigma in (0.3, 0.01)]),
        (["algorithm.name=pso", *GA[1:2], *GA[3:]], [{"refine.lr": lr} for lr in (0.3, 0.01)]),
        (DEEP, [{"refine.lr": lr, "refine.weight_decay": decay} for lr, decay in ((1e-4, 0.0), (1e-5, 0.1))]),
        ([*GA, "genome.levels=int8", "refine=null"], [{"genome.init_sigma": sigma} for sigma in (0.5, 0.1)]),
    ],
)  # fmt: skip
def test_a_run_goes_in_a_group_as_it_goes_alone(
    tmp_path: Path, sets: list[str], settings: list[dict[str, Any]]
) -> None:
    if sets is DEEP:  # without weights each network is another
        sets = [*sets, weights_of_a_network(tmp_path)]
    without = "refine=null" in sets
    c = config.load(None, [s for s in [*SETS, *sets] if not (without and s.startswith("refine."))])
    together = group(c, settings)
    together.advance(4, 4)
    found = set()
    for i, own in enumerate(settings):
        step, verdict = alone(c.trial(own)), together.verdicts[i]
        state = together.step.state.runs[lockstep.place(i)]
        torch.testing.assert_close(state.population.genomes, step.population.genomes, rtol=1e-4, atol=1e-5)
        assert verdict.generations == 4
        assert (verdict.cost.forward, verdict.cost.backward) == (step.cost.forward, step.cost.backward)
        if step.champion.generation:  # who starts well has a champion that a trial doesn't look at
            assert verdict.metrics == pytest.approx(step.champion.validation, rel=1e-4)
        found.add(round(verdict.metrics["cross_entropy"], 9))
    assert len(found) == len(settings)  # they differ


def test_what_all_cost_is_what_each_cost() -> None:
    together = group(config.load(None, SETS), [{"refine.lr": 0.1}, {"refine.lr": 0.2}, {"refine.lr": 0.3}])
    spent = together.advance(1, 4) + together.advance(3, 4)
    assert [v.generations for v in together.verdicts] == [3, 3, 3]
    assert sum(v.cost.forward for v in together.verdicts) == spent.forward == 3 * 3 * (12 * 32 + 50)
    assert sum(v.cost.backward for v in together.verdicts) == spent.backward == 3 * 3 * 12 * 32
    assert spent.validation == 3 * 3 * 270


@pytest.mark.parametrize("sets", [[], [*MLP, "refine.batches=own"], GA])
def test_those_that_are_left_go_on_as_if_all_had(sets: list[str]) -> None:
    c = config.load(None, [*SETS, *sets])
    settings = [{"refine.lr": lr} for lr in (0.3, 0.1, 0.03)]
    whole, part = group(c, settings), group(c, settings)
    whole.advance(4, 4)
    part.advance(2, 4)
    part = part.only([0, 2])
    part.advance(4, 4)
    for verdict, same in zip(part.verdicts, (whole.verdicts[0], whole.verdicts[2]), strict=True):
        assert (verdict.generations, verdict.cost) == (same.generations, same.cost)
        assert verdict.metrics == pytest.approx(same.metrics, rel=1e-4)


def test_a_run_that_fails_harms_nobody() -> None:
    """A learning rate that leads to infinity leaves a verdict without a figure, and the others as they were."""
    c = config.load(None, [*SETS, *MLP[:2]])
    together = group(c, [{"refine.lr": 1e30}, {"refine.lr": 0.1}])
    together.advance(4, 4)
    lost, good = together.verdicts
    assert not lost.metrics or not torch.tensor(lost.metrics["accuracy"]).isfinite()
    assert good.metrics == pytest.approx(alone(c.trial({"refine.lr": 0.1})).champion.validation, rel=1e-4)


def test_schedules_are_of_the_whole_trial_wherever_it_is_cut() -> None:
    c = config.load(None, [*SETS, "refine.schedule=cosine"])
    cut, whole = group(c, [{"refine.lr": 0.3}]), group(c, [{"refine.lr": 0.3}])
    cut.advance(1, 4)
    cut.advance(4, 4)
    whole.advance(4, 4)
    a, b = (g.step.state.runs[lockstep.place(0)].population.genomes for g in (cut, whole))
    assert torch.equal(a, b)
