"""Searches of the cube of hyperparameters, each an `Algorithm` whose genomes are positions.

A trial is dear and the cube has few sides, so the swarm is small and begins on a Latin hypercube (McKay et al. 1979)
instead of around a start.
"""

import math
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import Population
from neuroevo.engine.rng import Context, generator
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError, RunError
from neuroevo.search.algorithms.base import fitness_of
from neuroevo.search.algorithms.pso import pso as swarm_of
from neuroevo.search.space import Space

STEP = 0.2  # of a side of the cube: a swarm's velocities at first; no particle moves by more than thrice that

Sampler = Algorithm[Any]
Size = Annotated[int, Ge(1)]


def hypercube(n: int, d: int, source: torch.Generator) -> Tensor:
    """Return positions [n, d] of which each n-th of each side has one (Latin hypercube sampling)."""
    cells = torch.stack([torch.randperm(n, generator=source) for _ in range(d)], dim=1)
    return (cells + torch.rand(n, d, generator=source)) / n


def pso(
    space: Space,
    *,
    population: Size = 8,
    inertia: Annotated[float, Ge(0)] = 0.7298,
    cognitive: Annotated[float, Ge(0)] = 1.49618,
    social: Annotated[float, Ge(0)] = 1.49618,
    max_velocity: Annotated[float, Gt(0)] | None = 3.0,
    neighbourhood: Literal["global", "ring"] = "global",
    neighbours: Annotated[int, Ge(1)] = 1,
) -> Sampler:
    """Move a swarm through the cube: the `pso` of weights; personal bests are known and cost nothing.

    At a border a particle is thrown back: those that stop there would all try the same.
    """
    swarm = swarm_of(
        population=population,
        inertia=inertia,
        cognitive=cognitive,
        social=social,
        max_velocity=max_velocity,
        neighbourhood=neighbourhood,
        neighbours=neighbours,
    )

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Any:
        places = hypercube(population, len(space.coordinates), generator(context.seed, "hypercube", 0))
        return swarm.init(places.to(start), STEP, context)

    def ask(state: Any, context: Context) -> Population:
        population = swarm.ask(state, context)
        outside = population.genomes
        inside = outside.abs()
        inside = (1 - (1 - inside).abs()).clamp(0, 1)
        return population._replace(genomes=inside)

    return swarm._replace(init=init, ask=ask)


class Positions(NamedTuple):
    """The last positions drawn."""

    population: Population


def random(space: Space, *, population: Size = 8) -> Sampler:
    """Draw positions anew from all of the cube: random search."""
    d = len(space.coordinates)

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Positions:
        return Positions(Population.new(start.new_zeros(population, d)))

    def ask(state: Positions, context: Context) -> Population:
        positions = torch.rand(population, d, generator=context.generator("sample"), device=context.device)
        return state.population._replace(genomes=positions)

    def tell(state: Positions, scored: Population, scores: Scores) -> Positions:
        return Positions(scored)

    return Algorithm(init, ask, tell, lambda state: {}, population)


class Proposals(NamedTuple):
    """All positions that were proposed, and their scores: a study is built from them again."""

    positions: Tensor  # [t, d]
    fitness: Tensor  # [t] float64, higher is better, -inf where invalid


def tpe(space: Space, *, population: Size = 1) -> Sampler:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), `population` trials at a time."""
    return _optuna(space, population, lambda optuna, seed: optuna.samplers.TPESampler(seed=seed))


def cmaes(space: Space, *, population: Size = 8) -> Sampler:
    """Optuna's CMA-ES (Hansen 2016); what has no order or doesn't always exist is drawn at random."""
    return _optuna(
        space, population, lambda optuna, seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    )


def gp(space: Space, *, population: Size = 1) -> Sampler:
    """Optuna's Gaussian process with expected improvement, `population` trials at a time."""
    return _optuna(
        space, population, lambda optuna, seed: optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
    )


def _optuna(space: Space, population: int, sampler: Callable[[Any, int], Any]) -> Sampler:
    """Let one of Optuna's samplers propose positions.

    A study is hidden state, but given its seed a function of what it was told: a resumed run tells it all again.
    """
    study: Any = None
    trials: list[Any] = []  # that were asked for, those that were told first
    told = 0

    def propose(optuna: Any) -> list[float]:
        """Ask for a trial, and return its position [d]."""
        trial = study.ask()
        trials.append(trial)
        values: dict[str, Any] = {}
        position = []
        for coordinate in space.coordinates:
            x, variable = 0.5, coordinate.variable
            if space.exists(coordinate, values):
                if variable.cells:
                    x = (trial.suggest_categorical(coordinate.name, list(range(variable.cells))) + 0.5) / variable.cells
                else:
                    x = trial.suggest_float(coordinate.name, 0.0, 1.0)
                x = float(torch.tensor(x))  # as the genome will have it
                values[coordinate.name] = variable.decode(x)
            position.append(x)
        return position

    def tell_study(optuna: Any, fitness: list[float]) -> None:
        nonlocal told
        for value in fitness[told:]:
            known = value > -math.inf
            study.tell(trials[told], value if known else None, None if known else optuna.trial.TrialState.FAIL)
            told += 1

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Proposals:
        _module()
        return Proposals(start.new_empty(0, len(space.coordinates)), start.new_empty(0, dtype=torch.float64))

    def ask(state: Proposals, context: Context) -> Population:
        nonlocal study, told
        optuna, fitness = _module(), state.fitness.tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if len(trials) != len(fitness) or study is None:
                seed = generator(context.seed, "optuna", 0).initial_seed() % 2**32
                study, told = optuna.create_study(direction="maximize", sampler=sampler(optuna, seed)), 0
                trials.clear()
                for first in range(0, len(fitness), population):
                    again = torch.tensor([propose(optuna) for _ in range(population)], dtype=state.positions.dtype)
                    if not torch.equal(again, state.positions[first : first + population].cpu()):
                        raise RunError("Optuna proposes other trials than it did before; see its version")
                    tell_study(optuna, fitness[: first + population])
            tell_study(optuna, fitness)
            positions = [propose(optuna) for _ in range(population)]
        return Population.new(torch.tensor(positions, device=context.device))

    def tell(state: Proposals, scored: Population, scores: Scores) -> Proposals:
        return Proposals(torch.cat([state.positions, scored.genomes]), torch.cat([state.fitness, fitness_of(scores)]))

    return Algorithm(init, ask, tell, lambda state: {}, population)


def _module() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError(
            "Optuna isn't there; install it with: pip install 'neuroevo[tune]'", option="sampler"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "pso": pso,
    "random": random,
    "optuna/tpe": tpe,
    "optuna/cmaes": cmaes,
    "optuna/gp": gp,
}
