"""Evolution strategies: a normal distribution over genomes is sampled, and moves towards what scored well.

The distributions, and the gradients of expected fitness by their parameters, are evotorch's; which rows of a population
were drawn as what is decided here, from named streams, so that a resumed run draws the same.
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from neuroevo.algorithms.base import Algorithm
from neuroevo.algorithms.ga import fitness_of
from neuroevo.errors import InputError
from neuroevo.fitness import Scores
from neuroevo.genome import Layout, Population
from neuroevo.rng import Context

LARGEST = 1000  # genes of a full covariance, whose gradient takes population x genes^2 numbers

Size = Annotated[int, Ge(2)]
Rate = Annotated[float, Gt(0)]


class Best(NamedTuple):
    """The individual that scored highest in the last generation."""

    genome: Tensor  # [g]
    fitness: Tensor  # [] float64, -inf where nobody was valid


class Search(NamedTuple):
    """A normal distribution over genomes, and what the algorithm remembers beside it."""

    center: Tensor  # [g]
    sigma: Tensor  # [g] deviations, or [g, g] a root of the covariance
    memory: dict[str, Tensor]  # the algorithm's own
    best: Best


Draw = Callable[..., Tensor]  # shape -> standard normal numbers


def _strategy(
    population: int,
    remember: Callable[[Search], Search],
    sample: Callable[[Search, Draw], Tensor],
    follow: Callable[[Search, Tensor, Tensor], Search],
) -> Algorithm[Search]:
    """Make an algorithm of how a distribution begins, is sampled, and follows what scored well.

    `sample` returns genomes [n, g]; `follow` is given them with their ranks [n], from 0 for the worst. An invalid
    individual has the lowest rank, and the centre's genes, so that nothing that isn't finite gets in.
    """

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Search:
        center = start.mean(0)
        nobody = Best(center, torch.tensor(-torch.inf, dtype=torch.float64, device=start.device))
        return remember(Search(center, torch.zeros_like(center) + sigma, {}, nobody))

    def ask(state: Search, context: Context) -> Population:
        generator, like = context.generator("sample"), state.center

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)

        return Population(sample(state, draw), {}, torch.full((population, 1), -1, device=like.device))

    def tell(state: Search, scored: Population, scores: Scores) -> Search:
        fitness, genomes = fitness_of(scores), scored.genomes
        top = int(fitness.argmax())
        state = state._replace(best=Best(genomes[top].clone(), fitness[top]))
        valid = fitness > -torch.inf
        if not valid.any():
            return state
        if not valid.all():
            genomes = genomes.where(valid[:, None], state.center)
        return follow(state, genomes, fitness.argsort(stable=True).argsort().to(genomes.dtype))

    def candidates(state: Search) -> dict[str, Tensor]:
        return {"center": state.center} | ({"best": state.best.genome} if state.best.fitness > -torch.inf else {})

    return Algorithm(init, ask, tell, candidates)


def _as_it_is(state: Search) -> Search:
    return state


def _separable(population: int) -> Callable[[Search, Draw], Tensor]:
    return lambda state, draw: draw(population, len(state.center)).mul_(state.sigma).add_(state.center)


def _mirrored(population: int) -> Callable[[Search, Draw], Tensor]:
    """Sample pairs around the centre, one after another; an odd individual is the centre itself."""

    def sample(state: Search, draw: Draw) -> Tensor:
        g = len(state.center)
        steps = draw(population // 2, g).mul_(state.sigma)
        genomes = state.center.repeat(population, 1)
        pairs = genomes[: population // 2 * 2].view(-1, 2, g)
        pairs[:, 0] += steps
        pairs[:, 1] -= steps
        return genomes

    return sample


def snes(
    layout: Layout, *, population: Size = 256, center_rate: Rate = 1.0, sigma_rate: Rate | None = None
) -> Algorithm[Search]:
    """Follow the natural gradient with a deviation for each gene: separable NES (Schaul et al. 2011).

    `sigma_rate` is (3 + ln g) / (5 sqrt(g)) if None.
    """
    g = layout.genes
    rates = {"mu": center_rate, "sigma": sigma_rate or (3 + math.log(g)) / (5 * math.sqrt(g))}

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        from evotorch.distributions import ExpSeparableGaussian

        now = ExpSeparableGaussian({"mu": state.center, "sigma": state.sigma})
        steps = now.compute_gradients(genomes, ranks, objective_sense="max", ranking_method="nes")
        after = now.update_parameters(steps, learning_rates=rates)
        return state._replace(center=after.mu, sigma=after.sigma)

    return _strategy(population, _as_it_is, _separable(population), follow)


def xnes(
    layout: Layout, *, population: Size = 256, center_rate: Rate = 1.0, sigma_rate: Rate | None = None
) -> Algorithm[Search]:
    """Follow the natural gradient with a full covariance: exponential NES (Glasmachers et al. 2010).

    For small genomes only. `sigma_rate` is 3 (3 + ln g) / (5 g sqrt(g)) if None.
    """
    g = layout.genes
    if g > LARGEST:
        raise InputError(f"algorithm.name: xnes takes up to {LARGEST} genes, and there are {g}; use snes or sep_cma")
    rates = {"mu": center_rate, "sigma": sigma_rate or 0.6 * (3 + math.log(g)) / (g * math.sqrt(g))}

    def remember(state: Search) -> Search:
        root = state.sigma.clamp(min=torch.finfo(state.sigma.dtype).tiny).diag()
        return state._replace(sigma=root, memory={"inverse": root.diag().reciprocal().diag()})

    def sample(state: Search, draw: Draw) -> Tensor:
        return torch.addmm(state.center, draw(population, g), state.sigma.T)

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        from evotorch.distributions import ExpGaussian

        now = ExpGaussian({"mu": state.center, "sigma": state.sigma, "sigma_inv": state.memory["inverse"]})
        steps = now.compute_gradients(genomes, ranks, objective_sense="max", ranking_method="nes")
        after = now.update_parameters(steps, learning_rates=dict(rates))
        return state._replace(center=after.mu, sigma=after.sigma, memory={"inverse": after.sigma_inv})

    return _strategy(population, remember, sample, follow)


def cem(layout: Layout, *, population: Size = 256, share: Annotated[float, Gt(0), Lt(1)] = 0.5) -> Algorithm[Search]:
    """Take mean and deviation of the best `share`: the cross-entropy method (Rubinstein 1999)."""
    if int(population * share) < 2:
        raise InputError(f"algorithm.share: {share} of a population of {population} is less than two individuals")

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        from evotorch.distributions import SeparableGaussian

        now = SeparableGaussian({"mu": state.center, "sigma": state.sigma, "parenthood_ratio": share})
        steps = now.compute_gradients(genomes, ranks, objective_sense="max", ranking_method="raw")
        after = now.update_parameters(steps, learning_rates={"mu": 1.0, "sigma": 1.0})
        return state._replace(center=after.mu, sigma=after.sigma)

    return _strategy(population, _as_it_is, _separable(population), follow)


def pgpe(
    layout: Layout,
    *,
    population: Size = 256,
    speed: Rate = 0.15,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
    sigma_rate: Annotated[float, Ge(0)] = 0.1,
    max_change: Annotated[float, Gt(0), Le(1)] = 0.2,
) -> Algorithm[Search]:
    """Follow the gradient of expected fitness by mirrored pairs (Sehnke et al. 2010), with ClipUp (Toklu et al. 2020).

    `speed` is the centre's highest, in multiples of the length of the starting deviations; ClipUp's step is half of it.
    A deviation changes by `max_change` of itself at most.
    """
    pairs = population // 2 * 2

    def remember(state: Search) -> Search:
        return state._replace(
            memory={"velocity": torch.zeros_like(state.center), "radius": torch.linalg.vector_norm(state.sigma)}
        )

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        from evotorch.distributions import SymmetricSeparableGaussian

        by = {"divide_mu_grad_by": "num_directions", "divide_sigma_grad_by": "num_directions"}
        now = SymmetricSeparableGaussian({"mu": state.center, "sigma": state.sigma, **by})
        steps = now.compute_gradients(genomes[:pairs], ranks[:pairs], objective_sense="max", ranking_method="centered")
        fastest = speed * state.memory["radius"]
        uphill = steps["mu"] / torch.linalg.vector_norm(steps["mu"]).clamp(min=torch.finfo(genomes.dtype).tiny)
        velocity = momentum * state.memory["velocity"] + uphill * fastest / 2
        velocity = velocity * (fastest / torch.linalg.vector_norm(velocity)).clamp(max=1).nan_to_num(nan=1)
        sigma = state.sigma + sigma_rate * steps["sigma"]
        sigma = sigma.clamp((1 - max_change) * state.sigma, (1 + max_change) * state.sigma)
        memory = state.memory | {"velocity": velocity}
        return state._replace(center=state.center + velocity, sigma=sigma, memory=memory)

    return _strategy(population, remember, _mirrored(population), follow)


def es(
    layout: Layout,
    *,
    population: Size = 256,
    lr: Rate = 0.01,
) -> Algorithm[Search]:
    """Follow mirrored pairs by Adam, with a deviation that stays (Salimans et al. 2017, "OpenAI ES").

    Fitness is shaped to centred ranks.
    """
    pairs = population // 2 * 2

    def remember(state: Search) -> Search:
        zero = torch.zeros_like(state.center)
        return state._replace(memory={"mean": zero, "square": zero.clone(), "steps": zero.new_zeros(())})

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        shaped = ranks[:pairs].argsort().argsort().to(genomes.dtype) / (pairs - 1) - 0.5
        weights = (shaped[::2] - shaped[1::2]) / pairs
        steps = (genomes[:pairs:2] - state.center) / state.sigma.square().clamp(min=torch.finfo(genomes.dtype).tiny)
        uphill, memory = weights @ steps, state.memory
        count = memory["steps"] + 1
        mean = 0.9 * memory["mean"] + 0.1 * uphill
        square = 0.999 * memory["square"] + 0.001 * uphill.square()
        step = mean / (1 - 0.9**count) / ((square / (1 - 0.999**count)).sqrt() + 1e-8)
        memory = {"mean": mean, "square": square, "steps": count}
        return state._replace(center=state.center + lr * step, memory=memory)

    return _strategy(population, remember, _mirrored(population), follow)


def sep_cma(layout: Layout, *, population: Size = 256) -> Algorithm[Search]:
    """Adapt step and deviations along the way taken: CMA-ES with a diagonal covariance (Ros and Hansen 2008)."""
    g, mu = layout.genes, population // 2
    raw = [math.log((population + 1) / 2) - math.log(i + 1) for i in range(mu)]
    weights = torch.tensor(raw) / sum(raw)
    effective = 1 / float(weights.square().sum())
    c_step = (effective + 2) / (g + effective + 5)
    damping = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (g + 1)) - 1) + c_step
    c_path = (4 + effective / g) / (g + 4 + 2 * effective / g)
    # Fewer parameters than in a full covariance: (g + 2) / 3 times as fast (Ros and Hansen 2008, section 3).
    faster = (g + 2) / 3
    c_one = min(1.0, faster * 2 / ((g + 1.3) ** 2 + effective))
    c_mu = min(1 - c_one, faster * 2 * (effective - 2 + 1 / effective) / ((g + 2) ** 2 + effective))
    expected = math.sqrt(g) * (1 - 1 / (4 * g) + 1 / (21 * g * g))  # length of g standard normal numbers

    def remember(state: Search) -> Search:
        step = state.sigma.square().mean().sqrt()
        zero = torch.zeros_like(state.center)
        # The variance is that of sigma / step.
        return state._replace(
            memory={"step": step, "step_path": zero, "path": zero.clone(), "told": zero.new_zeros(())}
        )

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        memory = state.memory
        step, deviation = memory["step"], (state.sigma / memory["step"]).nan_to_num(nan=0)
        best = genomes[ranks.topk(mu).indices]
        w = weights.to(genomes)
        moves = (best - state.center) / step
        move = w @ moves
        told = memory["told"] + 1
        step_path = (1 - c_step) * memory["step_path"] + math.sqrt(c_step * (2 - c_step) * effective) * move / deviation
        length = torch.linalg.vector_norm(step_path)
        going = (length / (1 - (1 - c_step) ** (2 * told)).sqrt() < (1.4 + 2 / (g + 1)) * expected).to(step.dtype)
        path = (1 - c_path) * memory["path"] + going * math.sqrt(c_path * (2 - c_path) * effective) * move
        variance = (1 - c_one - c_mu + (1 - going) * c_one * c_path * (2 - c_path)) * deviation.square()
        variance = variance + c_one * path.square() + c_mu * (w @ moves.square())
        step_after = step * ((c_step / damping) * (length / expected - 1)).exp()
        memory = {"step": step_after, "step_path": step_path, "path": path, "told": told}
        center, sigma = state.center + step * move, step_after * variance.sqrt()
        return state._replace(center=center, sigma=sigma, memory=memory)

    return _strategy(population, remember, _separable(population), follow)
