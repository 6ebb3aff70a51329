"""Islands from Python: the first draws as a search alone, and a folder of them is gone on with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.engine.loop import Step
from neuroevo.report import runpage
from neuroevo.storage import rundir

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def sphere(genomes: Tensor) -> Tensor:
    return -(genomes - 1).square().sum(1)


GA = {"name": "ga", "population": 8, "crossover": "uniform"}
BUDGET = ne.Budget(generations=6)
SEARCHES: dict[str, dict[str, Any]] = {
    "data": {"data": (X, Y), "algorithm": GA, "refine": ne.sgd(steps=2, lr=0.1, batches="own")},
    "a module": {"fitness": lambda module: float(module(X)[:, 0].mean()), "algorithm": ne.ga(population=8)},
}


@pytest.mark.parametrize("name", SEARCHES)
def test_without_migrants_the_first_island_is_the_search_alone(name: str) -> None:
    given = SEARCHES[name]
    alone = ne.evolve(model(), **given, budget=BUDGET)
    together = ne.evolve(model(), **given, budget=BUDGET, islands=ne.islands(count=3, migrants=0))
    assert len(together.population.genomes) == 3 * 8
    assert torch.equal(together.population.genomes[:8], alone.population.genomes)
    assert together.cost.samples == 3 * alone.cost.samples


def test_islands_of_a_function_of_genomes_send_each_other_their_best() -> None:
    found: dict[int, Tensor] = {}
    for migrants in (0, 2):
        result = ne.evolve(
            start=torch.zeros(5), fitness=sphere, algorithm="pso", budget=BUDGET,
            islands=ne.islands(count=2, every=2, migrants=migrants, topology=[[1], [0]]),
        )  # fmt: skip
        found[migrants] = result.population.genomes
    assert found[0].shape == found[2].shape
    assert not torch.equal(found[0], found[2])


def test_a_folder_of_islands_is_gone_on_with_to_the_same_bytes(tmp_path: Path) -> None:
    settings = [{}, {"algorithm.mutation.sigma": 0.3}]
    given: dict[str, Any] = {**SEARCHES["data"], "model": model()}
    islands = ne.islands(count=2, every=2, settings=settings)
    whole = ne.evolve(**given, budget=BUDGET, islands=islands, out=tmp_path / "whole")

    def stop(step: Step) -> None:
        if step.generation == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ne.evolve(**given, budget=BUDGET, islands=islands, out=tmp_path / "cut", observers=[stop])
    again = ne.resume(tmp_path / "cut", model(), (X, Y), refine=given["refine"])
    assert torch.equal(again.population.genomes, whole.population.genomes)
    assert torch.equal(again.genome, whole.genome)
    lines = [(tmp_path / name / rundir.ISLANDS).read_bytes() for name in ("cut", "whole")]
    assert lines[0] == lines[1]
    assert "algorithm.mutation.sigma 0.3" in runpage.run_page(tmp_path / "whole", None)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"count": 1}, "count: 1 given"),
        ({"count": 2, "topology": [[1], [1]]}, "topology.1: "),
        ({"count": 2, "settings": [{}]}, "settings: 1 given for 2 islands"),
        ({"count": 2, "settings": [{"lr": 1}, {}]}, "settings: 0: lr given"),
    ],
)
def test_islands_that_cannot_be_are_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ne.InputError) as refused:
        ne.islands(**given)
    assert str(refused.value).startswith(line)


@pytest.mark.parametrize(
    ("islands", "algorithm", "line"),
    [
        (4, "ga", "islands: islands\\(count=4\\) or another expected, a int given"),
        (ne.islands(count=2), ne.snes(population=8), "migrants: 1, but this algorithm keeps no population"),
        (ne.islands(count=2, settings=[{}, {"algorithm.elites": 2}]), ne.ga(), "islands: islands with settings"),
        (ne.islands(count=2, settings=[{}, {"algorithm.elite": 2}]), "ga", "elite: unknown key"),
    ],
)
def test_islands_that_do_not_go_with_a_search_are_refused(islands: Any, algorithm: Any, line: str) -> None:
    with pytest.raises(ne.InputError, match=line):
        ne.evolve(start=torch.zeros(3), fitness=sphere, algorithm=algorithm, budget=BUDGET, islands=islands)
