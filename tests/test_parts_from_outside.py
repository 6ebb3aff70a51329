"""Parts that the package has never seen: what one has to touch for each, which is nothing of the package.

An algorithm, a metric, a head and a data source are a function each, which YAML names as `module:function` and Python
hands in; an observer is handed in. Each is under 15 lines.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import TINY, Quiet
from safetensors.torch import load_file
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.config import load
from neuroevo.data.datasets import Dataset
from neuroevo.data.images import Arrays
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import Population, noisy
from neuroevo.engine.loop import Step
from neuroevo.experiments import experiment
from neuroevo.storage import rundir

LINES = 15  # a part has fewer


class Ball(NamedTuple):
    center: Tensor  # [g]
    radius: Tensor


def closing_in(*, population: int = 32, shrink: float = 0.97) -> Algorithm[Ball]:
    def ask(state: Ball, context: Any) -> Population:
        return Population.new(noisy(state.center[None], population, state.radius, context.generator("draw")))

    def tell(state: Ball, scored: Population, scores: Any) -> Ball:
        return Ball(scored.genomes[scores.values[:, 0].argmax()], state.radius * shrink)

    def init(start: Tensor, sigma: float | Tensor, context: Any) -> Ball:
        return Ball(start[0], torch.as_tensor(sigma))

    return Algorithm(init, ask, tell, lambda state: {"center": state.center}, size=population)


def margin(logits: Tensor, targets: Tensor, *, power: float = 1.0) -> Tensor:
    right = logits.gather(2, targets.expand(len(logits), -1)[..., None])
    others = logits.scatter(2, targets.expand(len(logits), -1)[..., None], -torch.inf)
    return (right[..., 0] - others.amax(2)).clamp(max=1).sign().mean(1) ** power


def bottleneck(in_features: int, classes: int, *, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, width), nn.Tanh(), nn.Linear(width, classes))


def stripes(*, count: int = 200) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 100, (count, 8, 8), dtype=np.uint8)
    labels = np.arange(count) % 2
    pixels[labels == 0, ::2] += 150  # lying
    pixels[labels == 1, :, ::2] += 150  # upright
    return Dataset(("lying", "upright"), Arrays(pixels), labels, np.full(count, -1))


class Spread:
    def __init__(self) -> None:
        self.widths: list[float] = []

    def __call__(self, step: Step) -> None:
        self.widths.append(float(step.population.genomes.std(0).mean()))


class Threads:
    def __init__(self, count: int) -> None:
        self.pool, self.slices = ThreadPoolExecutor(count), 0

    def map(self, work: Callable[[Any], Any], slices: Iterable[Any]) -> Iterator[Any]:
        for result in self.pool.map(work, slices):
            self.slices += 1
            yield result


PARTS: dict[str, tuple[Callable[..., Any], ...]] = {
    "algorithm": (Ball, closing_in), "metric": (margin,), "head": (bottleneck,), "data source": (stripes,),
    "observer": (Spread,), "executor": (Threads,),
}  # fmt: skip


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_takes_fewer_than_fifteen_lines(kind: str) -> None:
    lines = [line for part in PARTS[kind] for line in inspect.getsource(part).splitlines() if line.strip()]
    assert len(lines) < LINES


def name(part: Callable[..., Any]) -> str:
    return f"{__name__}:{part.__name__}"


@pytest.mark.parametrize(
    ("sets", "key", "options"),
    [
        ([f"algorithm.name={name(closing_in)}", "algorithm.shrink=0.9"], "algorithm", {"shrink": 0.9, "population": 8}),
        ([f"fitness.metric={{name: {name(margin)}, power: 1}}"], "fitness.metric", {"power": 1.0}),
        ([f"validate.metric={name(margin)}"], "validate.metric", {"power": 1.0}),
        ([f"head.name={name(bottleneck)}", "head.width=3"], "head", {"width": 3}),
        ([f"data.name={name(stripes)}", "data.count=90"], "data", {"count": 90}),
    ],
    ids=str,
)
def test_a_config_names_a_part_and_its_options_and_a_resume_goes_on_with_it(
    sets: list[str], key: str, options: dict[str, Any], tmp_path: Path
) -> None:
    given = [*TINY, "algorithm.name=snes", *sets]  # which goes by no schedule, so that a longer budget changes nothing
    c = load(None, given)
    found: Any = c.record()
    for word in key.split("."):
        found = found[word]
    assert ":" in found["name"]
    assert {option: found[option] for option in options} == options
    straight = experiment.run(c, str(tmp_path / "straight"), "test", Quiet())
    again = experiment.run(load(None, [*given, "budget.generations=3"]), str(tmp_path / "again"), "test", Quiet())
    experiment.resume(str(again), ["budget.generations=6"], Quiet())
    assert rundir.read_result(straight)["status"] == "finished"
    one, other = (load_file(folder / "champion.safetensors") for folder in (straight, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def sphere(genomes: Tensor) -> Tensor:
    return -genomes.square().sum(1)


def test_python_takes_an_algorithm_and_an_observer_as_they_are() -> None:
    watch, budget = Spread(), ne.Budget(generations=150)
    found = ne.evolve(
        start=torch.ones(5),
        fitness=sphere,
        algorithm=closing_in(),
        budget=budget,
        observers=[watch],
    )
    assert found.fitness > -1e-3
    assert len(watch.widths) == 150
    assert watch.widths[-1] < watch.widths[0] / 50


def test_an_executor_of_threads_gives_the_same_bytes_with_data_and_without() -> None:
    torch.manual_seed(0)
    x, model = torch.randn(300, 6), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    y, budget = (x[:, 0] * x[:, 1] > 0).long(), ne.Budget(generations=3)
    with_data = {"data": (x, y), "refine": ne.sgd(steps=2, lr=0.1), "trainable": "*", "budget": budget}
    of_module = {"fitness": lambda module: float(module(x)[:, 0].mean()), "budget": budget}
    for given in (with_data, of_module):
        threads = Threads(2)
        found, alone = ne.evolve(model, **given, executor=threads), ne.evolve(model, **given)
        assert threads.slices > 3
        assert torch.equal(found.population.genomes, alone.population.genomes)
        assert found.validation == alone.validation
