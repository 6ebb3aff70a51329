"""What is done of a run in part is scaled to what the whole takes, exactly where work is counted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from neuroevo.config import load
from neuroevo.engine.evaluator import Evaluated
from neuroevo.engine.genome import Population
from neuroevo.engine.rng import Context
from neuroevo.experiments import compose, experiment
from neuroevo.experiments.compose import Run
from neuroevo.forecast import pace
from neuroevo.forecast.pace import Part, Partly

# Digits' own pixels: quick, and nothing to download.
SETS = [
    "backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=24",
    "fitness.samples=160", "budget.generations=4", "memory.limit=1e8",
]  # fmt: skip
HYBRID = ["refine.steps=12", "refine.batch_size=32", "refine.lr=[0.01, 0.1]", "refine.optimizer_state=inherit"]


def composed(*sets: str) -> Run:
    ready = experiment.prepare(load(None, [*SETS, *sets]))
    return compose.compose(*ready, images=lambda done, total: None, log=lambda line: None)


def counting(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Count samples in place of seconds."""
    found = work()
    cost = found.cost if isinstance(found, Evaluated) else found[1]
    return float(cost.samples), found


def first(e: Run) -> tuple[Population, Tensor, Context]:
    context = Context(0, 1, 0.0, e.home, e.network.layout)
    return e.algorithm.ask(e.initial().state, context), e.problem().batch(1, 160), context


@pytest.mark.parametrize("sets", [[], HYBRID, [*HYBRID, "refine.back_off=true"], ["refine.steps=0"]])
@pytest.mark.parametrize("part", [Part(24, 160, 12), Part(6, 160, 12), Part(24, 40, 3), Part(3, 20, 1)])
def test_a_part_of_a_generation_tells_what_the_whole_costs(
    monkeypatch: pytest.MonkeyPatch, sets: list[str], part: Part
) -> None:
    e = composed(*sets)
    population, index, context = first(e)
    whole = e.supervised.evaluator().evaluate(population, index, context)
    monkeypatch.setattr(pace, "time_call", counting)
    took, seconds, developed = Partly(e, (), 1.0).of(part, population, index, context)
    assert seconds == pytest.approx(whole.cost.samples)
    assert took <= seconds
    assert developed.inherited.genomes.shape == population.genomes.shape
    assert developed.scores.values.shape == whole.scores.values.shape
    assert developed.inherited.traits.keys() == whole.inherited.traits.keys()
    if part.individuals == 24 and part.samples == 160 and (not sets or part.steps == 12):
        assert torch.equal(developed.scores.values, whole.scores.values)


def test_a_generation_that_is_quick_is_measured_whole() -> None:
    e = composed(*HYBRID)
    population, index, context = first(e)
    assert Partly(e, (), 60.0).fit(population, index, context) == Part(24, 160, 12)
    assert Partly(e, (), 0.0).fit(population, index, context) == Part(1, 32, 1)


@pytest.mark.parametrize(
    "sets",
    [[], HYBRID, ["algorithm.name=pso"], ["algorithm.name=snes"], ["fitness.metrics=[cross_entropy, weight_norm]"],
     ["algorithm.mutation={name: gaussian, safe: true}"]],
)  # fmt: skip
def test_the_pace_of_a_run_changes_nothing_of_it(sets: list[str]) -> None:
    e = composed(*sets)
    before = e.initial()
    found = pace.of_run(e, 0.05)
    assert min(found) > 0
    after = e.initial()
    assert torch.equal(before.population.genomes, after.population.genomes)
    assert before.champion.validation == after.champion.validation
    assert len(e.supervised.splits["validation"]) == 270


def test_what_takes_long_is_measured_in_part() -> None:
    sizes: list[int] = []

    def take(m: int) -> float:
        sizes.append(m)
        return m / 1000

    assert pace.measure_rows(take, 10_000, 1.0) == (0.128, 128)
    assert sizes == [32, 32, 128]
    assert pace.measure_rows(take, 20, 1.0) == (0.02, 20)
