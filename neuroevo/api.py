"""The public door: a search of one's own function, from Python, without a config and without files."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuroevo import devices
from neuroevo.engine import loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Rules, Step
from neuroevo.engine.problem import Problem
from neuroevo.errors import InputError
from neuroevo.problems import function
from neuroevo.problems.metric import FITNESS
from neuroevo.search.algorithms.ga import ga

GENERATIONS = 400  # of a search without a budget, as of a run without one


class Result(NamedTuple):
    """What a search came to."""

    genome: Tensor  # [g]: the champion's
    fitness: float  # its own
    metrics: dict[str, float]  # all that the function returned for it, and its fitness under that name
    model: nn.Module | None  # a copy of the module with the champion's weights, where a module was evolved
    generation: int  # in which it was found; 0: the start
    history: list[dict[str, float | None]]  # a line a generation
    population: Population  # the last
    cost: Cost
    seconds: float
    stop_reason: str  # which limit ended it


def evolve(
    model: nn.Module | None = None,
    *,
    fitness: Callable[..., Any],
    start: Tensor | None = None,
    trainable: Sequence[str] = (),
    sigma: float | Tensor = 0.1,
    algorithm: Algorithm[Any] | None = None,
    budget: Budget | None = None,
    patience: int | None = None,
    every: int = 1,
    seed: int = 0,
    device: str = "auto",
    observers: Sequence[Callable[[Step], object]] = (),
) -> Result:
    """Evolve a module, or genomes, by a function of one's own, the higher the better; return what came of it.

    Either `model` is given, whose parameters (those that patterns `trainable` match by name, all by default) are the
    genes: then `fitness` takes a module, which is a copy in eval mode, and returns a number, or numbers by name of
    which the first counts. Or `start` is, a genome [g] or several [s, g]: then it takes genomes [n, g] and returns [n].
    NaN is invalid. `sigma` is the deviation of the first population around the start; `algorithm` is a genetic one by
    default; without a `budget` it takes 400 generations. Candidates are looked at again `every` so many generations,
    and after `patience` looks without a better one it ends. Observers are called with each generation's step.
    InputError, a ValueError, where something can't be. Nothing is printed, and the model given stays as it is.
    """
    search = _search(model, fitness, start, trainable, sigma, device)
    history: list[dict[str, float | None]] = []
    step: Step | None = None
    for step in _steps(search, algorithm, budget, patience, every, seed):
        history.append(step.record)
        for observer in observers:
            observer(step)
    assert step is not None
    assert step.stop is not None
    champion, metrics = step.champion, step.champion.validation
    whole = None if search.evolvable is None else search.evolvable.of(champion.genome)
    return Result(
        genome=champion.genome,
        fitness=metrics[FITNESS],
        metrics=metrics,
        model=whole,
        generation=champion.generation,
        history=history,
        population=step.population,
        cost=step.cost,
        seconds=step.seconds,
        stop_reason=step.stop,
    )


def steps(
    model: nn.Module | None = None,
    *,
    fitness: Callable[..., Any],
    start: Tensor | None = None,
    trainable: Sequence[str] = (),
    sigma: float | Tensor = 0.1,
    algorithm: Algorithm[Any] | None = None,
    budget: Budget | None = None,
    patience: int | None = None,
    every: int = 1,
    seed: int = 0,
    device: str = "auto",
) -> Iterator[Step]:
    """Yield the step of each generation of what `evolve` does, so that one may look, or leave, in between."""
    search = _search(model, fitness, start, trainable, sigma, device)
    return _steps(search, algorithm, budget, patience, every, seed)


class _Search(NamedTuple):
    problem: Problem
    device: torch.device
    evolvable: function.Evolvable | None


def _search(
    model: nn.Module | None, fitness: Callable[..., Any], start: Tensor | None, trainable: Sequence[str],
    sigma: float | Tensor, device: str,
) -> _Search:  # fmt: skip
    """Return the problem of what is to be evolved, and where."""
    if (model is None) == (start is None):
        raise InputError("give either a model or a start, not both" if start is not None else "give a model or a start",
                         option="start")  # fmt: skip
    if isinstance(trainable, str):
        trainable = [trainable]
    place = devices.resolve(device)
    if model is not None:
        evolvable = function.Evolvable(model, trainable, place)
        return _Search(function.of_module(fitness, evolvable, sigma=sigma), place, evolvable)
    if trainable:
        raise InputError(f"{', '.join(trainable)}: genomes have no parameters by name", option="trainable")
    genomes = torch.as_tensor(start, dtype=torch.float32, device=place)
    if not genomes.numel() or genomes.ndim > 2 or not bool(genomes.isfinite().all()):
        raise InputError("a genome [g], or several [s, g], of finite numbers expected", option="start")
    return _Search(function.of_genomes(fitness, genomes, sigma=sigma), place, None)


def _steps(
    search: _Search,
    algorithm: Algorithm[Any] | None,
    budget: Budget | None,
    patience: int | None,
    every: int,
    seed: int,
) -> Iterator[Step]:
    problem, algorithm = search.problem, algorithm or ga()
    algorithm.check(problem.layout.genes)
    rules = Rules(
        seed=seed, samples=1, every=every, patience=patience, budget=budget or Budget(generations=GENERATIONS),
        metric=FITNESS, lower_is_better=False,
    )  # fmt: skip
    begun = loop.begin(problem, algorithm, seed, search.device)
    return loop.evolve(problem, algorithm, rules, begun, device=search.device, clock=time.monotonic)
