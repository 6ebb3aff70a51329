"""Evolution strategies: a normal distribution over genomes is sampled, and moves towards what scored well.

Only the order of fitness counts, never its value, and scores of two generations are never compared: each moves the
distribution by its own batch. What is drawn comes from a named stream, so that a resumed run draws the same.
"""

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import NEW, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.search.algorithms.base import fitness_of

LARGEST = 1000  # genes of a full covariance, whose root is exponentiated each generation

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

    `sample` returns genomes [n, g]; `follow` is given them with their ranks [n], the higher the better. An invalid
    individual has rank -1 and the centre's genes, so that nothing that isn't finite gets in.
    """

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Search:
        center = start.mean(0)
        nobody = Best(center, torch.tensor(-torch.inf, dtype=torch.float64, device=start.device))
        return remember(Search(center, torch.zeros_like(center) + sigma, {}, nobody))

    def ask(state: Search, context: Context) -> Population:
        generator, like = context.generator("sample"), state.center

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)

        return Population.new(sample(state, draw))

    def tell(state: Search, scored: Population, scores: Scores) -> Search:
        fitness, genomes = fitness_of(scores), scored.genomes
        top = fitness.argmax(keepdim=True)
        state = state._replace(best=Best(genomes.index_select(0, top)[0], fitness.index_select(0, top)[0]))
        valid = fitness > -torch.inf
        waits = valid.device.type != "cpu"  # for who is valid: all is computed there, and chosen from
        if not waits and not valid.any():
            return state
        if waits or not valid.all():
            genomes = genomes.where(valid[:, None], state.center)
        ranks = fitness.argsort(stable=True).argsort().to(genomes.dtype)
        found = follow(state, genomes, ranks.masked_fill(~valid, -1))
        return _choose(valid.any(), found, state) if waits else found

    def candidates(state: Search) -> dict[str, Tensor]:
        return {"center": state.center} | ({"best": state.best.genome} if state.best.fitness > -torch.inf else {})

    return Algorithm(init, ask, tell, candidates, population, roles=(NEW,), continuous=True)


def _choose(first: Tensor, a: Search, b: Search) -> Search:
    """Return a where `first` [] bool, else b."""
    memory = {name: x.where(first, b.memory[name]) for name, x in a.memory.items()}
    return a._replace(center=a.center.where(first, b.center), sigma=a.sigma.where(first, b.sigma), memory=memory)


def _without_memory(state: Search) -> Search:
    return state


def _separable_sampler(population: int) -> Callable[[Search, Draw], Tensor]:
    return lambda state, draw: draw(population, len(state.center)).mul_(state.sigma).add_(state.center)


def _pair_sampler(population: int) -> Callable[[Search, Draw], Tensor]:
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


@cache
def _ranking() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # evotorch scripts functions at import, which torch deprecates
        from evotorch.tools import ranking
    return ranking


def _pairs(genomes: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Return half the way [m, g] from each pair's second to its first, and centred ranks [m, 2], 0 where invalid."""
    count = len(ranks) // 2 * 2
    ends, ranks = genomes[:count].unflatten(0, (-1, 2)), ranks[:count]
    valid = (ranks >= 0).view(-1, 2).all(1, keepdim=True)
    return (ends[:, 0] - ends[:, 1]) / 2, _ranking().centered(ranks).view(-1, 2).where(valid, 0)


def _utilities(ranks: Tensor) -> Tensor:
    """Return the weights [n] of natural evolution strategies, 0 for an invalid individual (Wierstra et al. 2014)."""
    n = len(ranks)
    size, order = ranks.new_full((), n), torch.arange(n, device=ranks.device)
    shares = ((size / 2 + 1).log() - (size - order).log()).clamp_(min=0)
    weights = torch.empty_like(ranks).index_copy_(0, ranks.argsort(), shares)
    return (weights / weights.sum() - 1 / size).where(ranks >= 0, 0)


def _over(x: Tensor, sigma: Tensor) -> Tensor:
    """Divide by deviations; 0 where there is none."""
    return (x / sigma).where(sigma > 0, 0)


def snes(*, population: Size = 256, center_rate: Rate = 1.0, sigma_rate: Rate | None = None) -> Algorithm[Search]:
    """Follow the natural gradient with a deviation for each gene: separable NES (Schaul et al. 2011).

    `sigma_rate` is (3 + ln g) / (5 sqrt(g)) if None.
    """

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        g = len(state.center)
        rate = sigma_rate or (3 + math.log(g)) / (5 * math.sqrt(g))
        weights, steps = _utilities(ranks), genomes - state.center
        center = state.center + center_rate * (weights @ steps)
        wider = _over(weights @ steps.square_(), state.sigma.square()) - weights.sum()
        return state._replace(center=center, sigma=state.sigma * (rate / 2 * wider).exp())

    return _strategy(population, _without_memory, _separable_sampler(population), follow)


def xnes(*, population: Size = 256, center_rate: Rate = 1.0, sigma_rate: Rate | None = None) -> Algorithm[Search]:
    """Follow the natural gradient with a full covariance: exponential NES (Glasmachers et al. 2010).

    For small genomes only. `sigma_rate` is 3 (3 + ln g) / (5 g sqrt(g)) if None.
    """

    def check(genes: int) -> None:
        if genes > LARGEST:
            line = f"xnes takes up to {LARGEST} genes, and there are {genes}; use snes or sep_cma"
            raise InputError(line, option="name")

    def remember(state: Search) -> Search:
        check(len(state.center))
        inverse = _over(torch.ones_like(state.sigma), state.sigma).diag()
        return state._replace(sigma=state.sigma.diag(), memory={"inverse": inverse})

    def sample(state: Search, draw: Draw) -> Tensor:
        return torch.addmm(state.center, draw(population, len(state.center)), state.sigma.T)

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        g, weights, inverse = len(state.center), _utilities(ranks), state.memory["inverse"]
        rate = sigma_rate or 0.6 * (3 + math.log(g)) / (g * math.sqrt(g))
        drawn = (genomes - state.center) @ inverse.T  # from the standard normal distribution
        shape = (weights[:, None] * drawn).T @ drawn  # the gradient by the root's logarithm
        shape.diagonal().sub_(weights.sum())
        return state._replace(
            center=state.center + center_rate * (state.sigma @ (weights @ drawn)),
            sigma=state.sigma @ torch.linalg.matrix_exp(rate / 2 * shape),
            memory={"inverse": torch.linalg.matrix_exp(-rate / 2 * shape) @ inverse},
        )

    return _strategy(population, remember, sample, follow)._replace(check=check)


def nes(*, population: Size = 32, center_rate: Rate = 1.0, sigma_rate: Rate | None = None) -> Algorithm[Search]:
    """Follow the natural gradient, with a full covariance up to 1,000 genes: `xnes` there, `snes` beyond.

    `sigma_rate` is theirs if None.
    """
    many = snes(population=population, center_rate=center_rate, sigma_rate=sigma_rate)
    few = xnes(population=population, center_rate=center_rate, sigma_rate=sigma_rate)

    def of(genes: int) -> Algorithm[Search]:
        return few if genes <= LARGEST else many

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Search:
        return of(start.shape[1]).init(start, sigma, context)

    def ask(state: Search, context: Context) -> Population:
        return of(len(state.center)).ask(state, context)

    def tell(state: Search, scored: Population, scores: Scores) -> Search:
        return of(len(state.center)).tell(state, scored, scores)

    return many._replace(init=init, ask=ask, tell=tell)


def cem(*, population: Size = 256, share: Annotated[float, Gt(0), Lt(1)] = 0.5) -> Algorithm[Search]:
    """Take mean and deviation of the best `share`: the cross-entropy method (Rubinstein 1999)."""
    elites = int(population * share)
    if elites < 2:
        raise InputError(f"{share} of a population of {population} is less than two individuals", option="share")

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        sigma, center = torch.std_mean(genomes[ranks.topk(elites).indices], dim=0)
        return state._replace(center=center, sigma=sigma)

    return _strategy(population, _without_memory, _separable_sampler(population), follow)


def pgpe(
    *,
    population: Size = 256,
    speed: Rate = 0.05,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
    sigma_rate: Annotated[float, Ge(0)] = 0.1,
    max_change: Annotated[float, Gt(0), Le(1)] = 0.2,
) -> Algorithm[Search]:
    """Follow the gradient of expected fitness by mirrored pairs (Sehnke et al. 2010), with ClipUp (Toklu et al. 2020).

    `speed` is the centre's highest, in multiples of the length of the starting deviations; ClipUp's step is half of it.
    A deviation changes by `max_change` of itself at most.
    """

    def remember(state: Search) -> Search:
        return state._replace(
            memory={"velocity": torch.zeros_like(state.center), "radius": torch.linalg.vector_norm(state.sigma)}
        )

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        steps, shaped = _pairs(genomes, ranks)
        uphill, fastest = (shaped[:, 0] - shaped[:, 1]) @ steps, speed * state.memory["radius"]
        uphill = uphill / torch.linalg.vector_norm(uphill).clamp(min=torch.finfo(genomes.dtype).tiny)
        velocity = momentum * state.memory["velocity"] + uphill * fastest / 2
        velocity = velocity * (fastest / torch.linalg.vector_norm(velocity)).clamp(max=1).nan_to_num(nan=1)
        weights = shaped.mean(1)
        wider = _over(weights @ steps.square(), state.sigma) - weights.sum() * state.sigma
        sigma = state.sigma + sigma_rate * wider / len(steps)
        sigma = sigma.clamp((1 - max_change) * state.sigma, (1 + max_change) * state.sigma)
        memory = state.memory | {"velocity": velocity}
        return state._replace(center=state.center + velocity, sigma=sigma, memory=memory)

    return _strategy(population, remember, _pair_sampler(population), follow)


def es(*, population: Size = 256, lr: Rate = 0.15) -> Algorithm[Search]:
    """Follow mirrored pairs by Adam, with a deviation that stays (Salimans et al. 2017, "OpenAI ES").

    Fitness is shaped to centred ranks. Adam's `lr` is in multiples of each gene's deviation.
    """

    def remember(state: Search) -> Search:
        zero = torch.zeros_like(state.center)
        return state._replace(memory={"mean": zero, "square": zero.clone(), "steps": zero.new_zeros(())})

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        steps, shaped = _pairs(genomes, ranks)
        uphill = _over((shaped[:, 0] - shaped[:, 1]) @ steps, state.sigma) / len(steps)
        count = state.memory["steps"] + 1
        mean = torch.lerp(state.memory["mean"], uphill, 0.1)
        square = torch.lerp(state.memory["square"], uphill.square(), 0.001)
        step = mean / (1 - 0.9**count) / ((square / (1 - 0.999**count)).sqrt() + 1e-8)
        memory = {"mean": mean, "square": square, "steps": count}
        return state._replace(center=state.center + lr * state.sigma * step, memory=memory)

    return _strategy(population, remember, _pair_sampler(population), follow)


def sep_cma(*, population: Size = 256) -> Algorithm[Search]:
    """Adapt step and deviations along the way taken: CMA-ES with a diagonal covariance (Ros and Hansen 2008).

    Constants are those of Hansen's tutorial (2016, https://arxiv.org/abs/1604.00772).
    """
    mu = population // 2
    raw = [math.log((population + 1) / 2) - math.log(i + 1) for i in range(mu)]
    weights = torch.tensor(raw, dtype=torch.float64) / sum(raw)
    effective = 1 / float(weights.square().sum())

    @cache
    def weights_of(dtype: torch.dtype, device: torch.device) -> Tensor:
        return weights.to(device, dtype)

    def remember(state: Search) -> Search:
        zero = torch.zeros_like(state.center)
        step = state.sigma.square().mean().sqrt()
        return state._replace(
            memory={"step": step, "step_path": zero, "path": zero.clone(), "told": zero.new_zeros(())}
        )

    def follow(state: Search, genomes: Tensor, ranks: Tensor) -> Search:
        g = len(state.center)
        c_step = (effective + 2) / (g + effective + 5)
        damping = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (g + 1)) - 1) + c_step
        c_path = (4 + effective / g) / (g + 4 + 2 * effective / g)
        # Fewer parameters than in a full covariance: (g + 2) / 3 times as fast (Ros and Hansen 2008, section 3).
        faster = (g + 2) / 3
        c_one = min(1.0, faster * 2 / ((g + 1.3) ** 2 + effective))
        c_mu = min(1 - c_one, faster * 2 * (effective - 2 + 1 / effective) / ((g + 2) ** 2 + effective))
        expected = math.sqrt(g) * (1 - 1 / (4 * g) + 1 / (21 * g * g))  # length of g standard normal numbers
        memory, w = state.memory, weights_of(genomes.dtype, genomes.device)
        step, deviation = memory["step"], _over(state.sigma, memory["step"])  # the covariance is step^2 deviation^2
        moves = genomes[ranks.topk(mu).indices] - state.center
        drawn = _over(moves, state.sigma)
        move = w @ drawn
        told = memory["told"] + 1
        step_path = (1 - c_step) * memory["step_path"] + math.sqrt(c_step * (2 - c_step) * effective) * move
        length = torch.linalg.vector_norm(step_path)
        going = (length / (1 - (1 - c_step) ** (2 * told)).sqrt() < (1.4 + 2 / (g + 1)) * expected).to(step.dtype)
        path = (1 - c_path) * memory["path"]
        path = path + going * math.sqrt(c_path * (2 - c_path) * effective) * deviation * move
        kept = 1 - c_one - c_mu + (1 - going) * c_one * c_path * (2 - c_path)
        variance = (kept + c_mu * (w @ drawn.square())) * deviation.square() + c_one * path.square()
        step = step * ((c_step / damping) * (length / expected - 1)).exp()
        memory = {"step": step, "step_path": step_path, "path": path, "told": told}
        return state._replace(center=state.center + w @ moves, sigma=step * variance.sqrt(), memory=memory)

    return _strategy(population, remember, _separable_sampler(population), follow)
