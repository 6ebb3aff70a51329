"""Particle swarm optimisation of weights.

Particles move by inertia and by random pulls towards the best place each has been at and the best its neighbourhood has
(Kennedy and Eberhart 1995, https://doi.org/10.1109/ICNN.1995.488968; inertia: Shi and Eberhart 1998). The default
coefficients are those of Clerc and Kennedy's constriction (2002), under which a swarm comes to rest.

Places of two generations were scored on two batches. So the personal bests are asked again with the positions, and all
that is compared was scored on one batch.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import BRED, KEPT, Population, noisy, roles
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms.base import fitness_of
from neuroevo.search.operators.masks import blocks


class Swarm(NamedTuple):
    """Personal bests and positions, as they were last scored, and how the particles got there."""

    population: Population  # [2n, g]: particle i's personal best is row i, its position row n + i; at first positions
    fitness: Tensor  # [2n] float64, higher is better, -inf where invalid; empty before the first scores
    velocity: Tensor  # [n, g]: what each moved by since the generation before, learning included
    sigma: Tensor  # [] or [g]: the starting deviation, in which the highest velocity is given


def pso(
    *,
    population: Annotated[int, Ge(1)] = 128,
    inertia: Annotated[float, Ge(0)] = 0.7298,
    cognitive: Annotated[float, Ge(0)] = 1.49618,
    social: Annotated[float, Ge(0)] = 1.49618,
    max_velocity: Annotated[float, Gt(0)] | None = 3.0,
    neighbourhood: Literal["global", "ring"] = "global",
    neighbours: Annotated[int, Ge(1)] = 1,
) -> Algorithm[Swarm]:
    """Move `population` particles towards their own best and their neighbourhood's; each counts twice a generation.

    Beside its position [g] a particle's personal best is scored again on every batch after the first. No gene moves by
    more than `max_velocity` starting deviations in a generation. In a ring a particle's neighbourhood are the
    `neighbours` on either side and itself. An invalid particle goes back to its personal best and starts there at rest.
    """
    n, around = population, neighbours if neighbourhood == "ring" else None

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Swarm:
        genomes = noisy(start, n, sigma, context.generator("init"))
        source = context.generator("velocity")
        velocity = torch.randn(genomes.shape, generator=source, device=start.device, dtype=start.dtype).mul_(sigma)
        first = Population.new(genomes, parents=3)
        spread = torch.as_tensor(sigma, dtype=start.dtype, device=start.device)
        return Swarm(first, start.new_empty(0, dtype=torch.float64), velocity, spread)

    def ask(state: Swarm, context: Context) -> Population:
        before = state.population
        if not len(state.fitness):
            return before
        own, leaders = bests(state.fitness, n, around)
        here = _positions(state.fitness, n)
        at_rest = state.fitness[here] == -torch.inf
        origin = torch.where(at_rest, own, here)
        limit = None if max_velocity is None else (max_velocity * state.sigma).expand(before.genomes.shape[1])
        kept = torch.cat([own, origin])
        genomes = before.genomes.index_select(0, kept)
        remembered, moved = genomes[:n], genomes[n:]
        source = context.generator("move")

        def pull(velocity: Tensor, x: Tensor, towards: Tensor, strength: float) -> None:
            share = torch.rand(x.shape, generator=source, device=x.device, dtype=x.dtype)
            velocity.addcmul_(share, towards - x, value=strength)

        for rows, columns in blocks(moved):
            x = moved[rows, columns]
            velocity = (inertia * state.velocity[rows, columns]).masked_fill_(at_rest[rows, None], 0)
            pull(velocity, x, remembered[rows, columns], cognitive)
            pull(velocity, x, before.genomes[:, columns].index_select(0, leaders[rows]), social)
            if limit is not None:
                velocity.clamp_(-limit[columns], limit[columns])
            x.add_(velocity)
        none = torch.full_like(own, -1)
        lineage = torch.cat([torch.stack([own, none, none], dim=1), torch.stack([origin, own, leaders], dim=1)])
        traits = {name: trait[kept] for name, trait in before.traits.items()}
        return Population(genomes, traits, lineage, roles({KEPT: n, BRED: n}, own.device))

    def tell(state: Swarm, scored: Population, scores: Scores) -> Swarm:
        velocity = state.velocity
        if len(state.fitness):
            own, _ = bests(state.fitness, n, around)
            here = _positions(state.fitness, n)
            origin = torch.where(state.fitness[here] == -torch.inf, own, here)
            before = state.population.genomes.index_select(0, origin)
            velocity = torch.sub(scored.genomes[n:], before, out=before)
        came = scored.roles[-n:] == KEPT  # from elsewhere: at rest
        velocity = velocity.masked_fill(came[:, None], 0)
        return Swarm(scored, fitness_of(scores), velocity, state.sigma)

    def candidates(state: Swarm) -> dict[str, Tensor]:
        own, leaders = bests(state.fitness, n, None)
        if state.fitness.index_select(0, leaders[:1]) == -torch.inf:
            return {}
        genomes = state.population.genomes
        return {"best": genomes.index_select(0, leaders[:1])[0], "personal_mean": genomes.index_select(0, own).mean(0)}

    return Algorithm(init, ask, tell, candidates, size=n, again=n, roles=(BRED, KEPT), continuous=True, receives=True)


def _positions(fitness: Tensor, n: int) -> Tensor:
    """Return the rows [n] of the positions: the last."""
    return torch.arange(len(fitness) - n, len(fitness), device=fitness.device)


def bests(fitness: Tensor, n: int, neighbours: int | None) -> tuple[Tensor, Tensor]:
    """Return the rows [n] of the particles' personal bests, and those of their neighbourhoods' bests.

    `fitness` [2n], or [n] of the positions alone; `neighbours` on either side in a ring, None for the whole swarm. Rows
    are of valid individuals if there is any: where no neighbour is, the swarm's best leads, and it is what a particle
    goes by that was never valid itself. Where nobody is valid, each goes by its own.
    """
    here = _positions(fitness, n)
    own = here - here[0]
    own = torch.where(fitness[here] > fitness[own], here, own)
    value = fitness[own]
    leader = value.argmax().expand(n)
    if neighbours is not None:
        reach = min(neighbours, n // 2)
        places = torch.arange(n, device=fitness.device)[:, None]
        around = (places + torch.arange(-reach, reach + 1, device=fitness.device)) % n
        nearest = around.gather(1, value[around].argmax(1, keepdim=True)).squeeze(1)
        leader = torch.where(value[nearest] > -torch.inf, nearest, leader)
    leaders = own[leader]
    return torch.where((value > -torch.inf) | (value.max() == -torch.inf), own, leaders), leaders
