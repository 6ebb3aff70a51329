"""Evolution strategies, against their papers' formulas written plainly, and against evotorch's."""

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from paper_gpu import CPU, CUDA, EXPONENTIAL, paper_gpu
from scipy.linalg import expm
from torch import Tensor

from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.search.algorithms import ALGORITHMS
from neuroevo.search.algorithms.evolution_strategies import LARGEST, Search, cem, xnes

LAYOUT = Layout(("w", "b"), ((3, 4), (3,)))
G = LAYOUT.genes
STRATEGIES = ("snes", "xnes", "pgpe", "cem", "sep_cma", "es")
MIRRORED = ("pgpe", "es")

Array = npt.NDArray[np.float64]
# center [g], deviations [g], population -> after each (genomes [n, g], order of rows, best first): center, covariance
Reference = Callable[[Array, Array, int], Generator[tuple[Array, Array], tuple[Array, list[int]]]]

every = pytest.mark.parametrize("name", STRATEGIES)


def context(generation: int, device: torch.device, seed: int = 0) -> Context:
    return Context(seed, generation, 0.0, device, LAYOUT)


def scores(values: Tensor) -> Scores:
    values = values.double()
    return Scores(values[:, None], values == -torch.inf)


def worth(genomes: Tensor, generation: int = 0) -> Tensor:
    """What genomes are worth on the batch of a generation: the nearer to a target, the better."""
    target = torch.sin(torch.arange(genomes.shape[1], device=genomes.device) + 0.3 * generation)
    scale = torch.linspace(1, 3, genomes.shape[1], device=genomes.device)
    return -(scale * (genomes - target)).double().square().sum(1)


def covariance(state: Search) -> Tensor:
    return state.sigma.diag().square() if state.sigma.ndim == 1 else state.sigma @ state.sigma.T


def begun(name: str, n: int, device: torch.device, sigma: float | Tensor = 0.3, **options: Any) -> tuple[Any, Search]:
    algorithm = ALGORITHMS[name](population=n, **options)
    return algorithm, algorithm.init(torch.zeros(1, G, device=device), sigma, context(0, device))


def nes_utilities(n: int) -> list[float]:
    """Weights from the best to the worst (Wierstra et al. 2014, section 3.1)."""
    raw = [max(0.0, math.log(n / 2 + 1) - math.log(k)) for k in range(1, n + 1)]
    return [u / sum(raw) - 1 / n for u in raw]


def plain_snes(center: Array, sigma: Array, n: int) -> Generator[tuple[Array, Array], tuple[Array, list[int]]]:
    eta = (3 + math.log(G)) / (5 * math.sqrt(G))
    while True:
        genomes, order = yield center, np.diag(sigma**2)
        u, s = nes_utilities(n), (genomes[order] - center) / sigma
        center = center + sigma * sum(u[k] * s[k] for k in range(n))
        sigma = sigma * np.exp(eta / 2 * sum(u[k] * (s[k] ** 2 - 1) for k in range(n)))


def plain_xnes(center: Array, sigma: Array, n: int) -> Generator[tuple[Array, Array], tuple[Array, list[int]]]:
    root, eta = np.diag(sigma), 3 * (3 + math.log(G)) / (5 * G * math.sqrt(G))
    while True:
        genomes, order = yield center, root @ root.T
        u, s = nes_utilities(n), np.linalg.solve(root, (genomes[order] - center).T).T
        center = center + root @ sum(u[k] * s[k] for k in range(n))
        root = root @ expm(eta / 2 * sum(u[k] * (np.outer(s[k], s[k]) - np.eye(G)) for k in range(n)))


def plain_cem(center: Array, sigma: Array, n: int) -> Generator[tuple[Array, Array], tuple[Array, list[int]]]:
    while True:
        genomes, order = yield center, np.diag(sigma**2)
        elites = genomes[order[: n // 2]]
        center, sigma = elites.mean(0), elites.std(0, ddof=1)


def centred(order: list[int], n: int) -> dict[int, float]:
    """Return the shaped fitness of rows 0 ... n - 1: evenly from 1/2 for the best to -1/2 for the worst."""
    return {row: 0.5 - k / (n - 1) for k, row in enumerate(row for row in order if row < n)}


def plain_pgpe(center: Array, sigma: Array, n: int) -> Generator[tuple[Array, Array], tuple[Array, list[int]]]:
    m, fastest, velocity = n // 2, 0.15 * np.linalg.norm(sigma), np.zeros(G)
    while True:
        genomes, order = yield center, np.diag(sigma**2)
        f = centred(order, 2 * m)
        uphill, wider = np.zeros(G), np.zeros(G)
        for i in range(m):
            step = genomes[2 * i] - center
            uphill += (f[2 * i] - f[2 * i + 1]) / 2 * step
            wider += (f[2 * i] + f[2 * i + 1]) / 2 * (step**2 - sigma**2) / sigma / m
        velocity = 0.9 * velocity + fastest / 2 * uphill / np.linalg.norm(uphill)  # ClipUp
        if np.linalg.norm(velocity) > fastest:
            velocity = fastest * velocity / np.linalg.norm(velocity)
        center = center + velocity
        sigma = np.clip(sigma + 0.1 * wider, 0.8 * sigma, 1.2 * sigma)


def plain_es(center: Array, sigma: Array, n: int) -> Generator[tuple[Array, Array], tuple[Array, list[int]]]:
    m = n // 2
    genes = [torch.nn.Parameter(torch.tensor(gene)) for gene in center]  # each with a rate of its own
    rates = [{"params": [gene], "lr": 0.5 * deviation} for gene, deviation in zip(genes, sigma, strict=True)]
    adam = torch.optim.Adam(rates, maximize=True)
    while True:
        center = np.array([gene.item() for gene in genes])
        genomes, order = yield center, np.diag(sigma**2)
        f = centred(order, 2 * m)
        uphill = sum(f[row] * (genomes[row] - center) / sigma for row in range(2 * m)) / (2 * m) * 2
        for gene, slope in zip(genes, uphill, strict=True):
            gene.grad = torch.tensor(slope)
        adam.step()


def plain_sep_cma(center: Array, sigma: Array, n: int) -> Generator[tuple[Array, Array], tuple[Array, list[int]]]:
    """Hansen's tutorial (2016), figure 6 and table 1, with a diagonal C and (g + 2) / 3 times its learning rates."""
    mu = n // 2
    w = np.array([math.log((n + 1) / 2) - math.log(i) for i in range(1, mu + 1)])
    w /= w.sum()
    mu_eff = 1 / (w**2).sum()
    c_sigma = (mu_eff + 2) / (G + mu_eff + 5)
    d_sigma = 1 + 2 * max(0, math.sqrt((mu_eff - 1) / (G + 1)) - 1) + c_sigma
    c_c = (4 + mu_eff / G) / (G + 4 + 2 * mu_eff / G)
    c_1 = (G + 2) / 3 * 2 / ((G + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, (G + 2) / 3 * 2 * (mu_eff - 2 + 1 / mu_eff) / ((G + 2) ** 2 + mu_eff))
    chi = math.sqrt(G) * (1 - 1 / (4 * G) + 1 / (21 * G**2))
    step = math.sqrt((sigma**2).mean())
    c, p_sigma, p_c, generation = (sigma / step) ** 2, np.zeros(G), np.zeros(G), 0
    while True:
        genomes, order = yield center, np.diag(step**2 * c)
        y = (genomes[order[:mu]] - center) / step
        y_w = w @ y
        center = center + step * y_w
        p_sigma = (1 - c_sigma) * p_sigma + math.sqrt(c_sigma * (2 - c_sigma) * mu_eff) * y_w / np.sqrt(c)
        generation += 1
        norm = float(np.linalg.norm(p_sigma))
        h = float(norm / math.sqrt(1 - (1 - c_sigma) ** (2 * generation)) < (1.4 + 2 / (G + 1)) * chi)
        p_c = (1 - c_c) * p_c + h * math.sqrt(c_c * (2 - c_c) * mu_eff) * y_w
        delta = (1 - h) * c_c * (2 - c_c)
        c = (1 + c_1 * delta - c_1 - c_mu) * c + c_1 * p_c**2 + c_mu * (w @ y**2)
        step *= math.exp(c_sigma / d_sigma * (norm / chi - 1))


REFERENCES: dict[str, Reference] = {
    "snes": plain_snes,
    "xnes": plain_xnes,
    "pgpe": plain_pgpe,
    "cem": plain_cem,
    "sep_cma": plain_sep_cma,
    "es": plain_es,
}


@every
@pytest.mark.parametrize("n", [4, 9, 40])
def test_center_and_covariance_are_those_of_the_paper_generation_by_generation(
    name: str, n: int, device: torch.device
) -> None:
    sigma = torch.linspace(0.1, 0.5, G, device=device)
    options = {"speed": 0.15} if name == "pgpe" else {"lr": 0.5} if name == "es" else {}
    algorithm, state = begun(name, n, device, sigma, **options)
    plain = REFERENCES[name](np.zeros(G), sigma.cpu().double().numpy(), n)
    expected = next(plain)
    for generation in range(1, 9):
        population = algorithm.ask(state, context(generation, device))
        values = worth(population.genomes, generation)
        order = values.argsort(descending=True).tolist()
        # Samples are those of the tensors' own rounding, and what they are drawn around is compared before and after.
        state = algorithm.tell(state, population, scores(values))
        expected = plain.send((population.genomes.cpu().double().numpy(), order))
        rtol, atol = (2e-3, 2e-4) if n < 9 else (1e-3, 2e-5)
        torch.testing.assert_close(state.center.cpu().double(), torch.tensor(expected[0]), rtol=rtol, atol=atol)
        torch.testing.assert_close(covariance(state).cpu().double(), torch.tensor(expected[1]), rtol=rtol, atol=atol)


@every
def test_samples_are_drawn_from_the_distribution(name: str, device: torch.device) -> None:
    algorithm, state = begun(name, 9, device, torch.linspace(0.1, 0.5, G, device=device))
    for generation in (1, 2, 3):
        population = algorithm.ask(state, context(generation, device))
        count = 4 if name in MIRRORED else 9
        source = context(generation, device).generator("sample")
        normal = torch.randn(count, G, generator=source, device=device)
        steps = normal @ state.sigma.T if state.sigma.ndim == 2 else normal * state.sigma
        if name in MIRRORED:  # pairs one after another, and an odd one is the centre
            steps = torch.cat([torch.stack([steps, -steps], 1).flatten(0, 1), torch.zeros(1, G, device=device)])
        torch.testing.assert_close(population.genomes, state.center + steps)
        state = algorithm.tell(state, population, scores(worth(population.genomes)))


def evotorchs(name: str, n: int, sigma: float) -> Any:
    from evotorch import Problem
    from evotorch.algorithms import CEM, PGPE, SNES, XNES

    problem = Problem(
        "max",
        lambda genomes: worth(genomes).float(),
        solution_length=G,
        initial_bounds=(0.0, 0.0),
        vectorized=True,
        seed=3,
        dtype="float32",
    )
    common = {"popsize": n, "stdev_init": sigma}
    if name == "snes":
        return SNES(problem, **common)
    if name == "xnes":
        return XNES(problem, **common)
    if name == "cem":
        return CEM(problem, **common, parenthood_ratio=0.5)
    fastest = 0.15 * sigma * math.sqrt(G)
    config = {"max_speed": fastest, "momentum": 0.9}
    return PGPE(
        problem,
        **common,
        center_learning_rate=fastest / 2,
        stdev_learning_rate=0.1,
        optimizer="clipup",
        optimizer_config=config,
        ranking_method="centered",
        stdev_max_change=0.2,
    )


@pytest.mark.parametrize("name", ["snes", "xnes", "cem", "pgpe"])
def test_told_evotorchs_samples_it_goes_where_evotorchs_own_goes(name: str) -> None:
    device = torch.device("cpu")
    algorithm, state = begun(name, 20, device, 0.3, **({"speed": 0.15} if name == "pgpe" else {}))
    theirs = evotorchs(name, 20, 0.3)
    for _ in range(12):
        theirs.step()  # first goes on by the population before, then samples and scores another
        mu, sigma = (theirs._distribution.parameters[key] for key in ("mu", "sigma"))
        torch.testing.assert_close(state.center, mu, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(state.sigma, sigma, rtol=1e-3, atol=1e-5)
        population = theirs.population
        asked = Population.new(population.values.clone())
        state = algorithm.tell(state, asked, scores(population.evals[:, 0].clone()))
    assert worth(state.center[None]) > worth(torch.zeros(1, G)) + 1


def test_clipup_is_evotorchs(device: torch.device) -> None:
    from evotorch.optimizers import ClipUp

    fastest = 0.4 * 0.3 * math.sqrt(G)
    theirs = ClipUp(solution_length=G, dtype="float32", stepsize=fastest / 2, max_speed=fastest, momentum=0.7)
    algorithm, state = begun("pgpe", 12, device, 0.3, speed=0.4, momentum=0.7, sigma_rate=0.0)
    for generation in range(1, 9):
        population = algorithm.ask(state, context(generation, device))
        values = worth(population.genomes)
        after = algorithm.tell(state, population, scores(values))
        shaped = values.argsort().argsort().float()
        uphill = (shaped[::2] - shaped[1::2]) @ (population.genomes[::2] - state.center)
        torch.testing.assert_close((after.center - state.center).cpu(), theirs.ascent(uphill.cpu()))
        assert torch.equal(after.sigma, state.sigma)
        state = after


def test_a_full_covariance_of_a_large_genome_is_refused() -> None:
    xnes(population=4).check(LARGEST)
    xnes(population=4).init(torch.zeros(1, LARGEST), 0.1, context(0, torch.device("cpu")))
    with pytest.raises(InputError, match=r"^name: xnes takes up to 1000 genes, and there are 1001; use snes"):
        xnes(population=4).check(LARGEST + 1)
    with pytest.raises(InputError, match=r"^name: xnes takes up to 1000 genes, and there are 1001; use snes"):
        xnes(population=4).init(torch.zeros(1, LARGEST + 1), 0.1, context(0, torch.device("cpu")))


def test_a_share_of_less_than_two_is_refused() -> None:
    with pytest.raises(InputError, match=r"^share: 0.1 of a population of 19 is less than two"):
        cem(population=19, share=0.1)
    cem(population=20, share=0.1)


@every
@pytest.mark.parametrize("n", [2, 3])
def test_two_or_three_individuals_are_enough(name: str, n: int, device: torch.device) -> None:
    share = {"share": 0.9} if name == "cem" else {}  # which needs two to have a deviation
    algorithm, state = begun(name, max(n, 3) if share else n, device, **share)
    for generation in range(1, 30):
        population = algorithm.ask(state, context(generation, device))
        state = algorithm.tell(state, population, scores(worth(population.genomes)))
        assert state.center.isfinite().all() and state.sigma.isfinite().all()
    assert not torch.equal(state.center, torch.zeros_like(state.center))


@every
def test_it_starts_from_the_mean_of_its_starts(name: str, device: torch.device) -> None:
    algorithm = ALGORITHMS[name](population=4)
    start = torch.arange(3.0 * G, device=device).view(3, G)
    state = algorithm.init(start, 0.1, context(0, device))
    assert torch.equal(state.center, start[1])
    assert (algorithm.candidates(state)["center"] == start[1]).all()
    start += 1  # and keeps no hold of them
    assert torch.equal(state.center, start[1] - 1)


@every
@pytest.mark.parametrize("all_genes", [False, True])
def test_genes_without_deviation_stay_and_the_others_do_not(name: str, all_genes: bool, device: torch.device) -> None:
    sigma = torch.full((G,), 0.0 if all_genes else 0.3, device=device)
    sigma[::2] = 0
    algorithm, state = begun(name, 9, device, sigma)
    for generation in range(1, 12):
        population = algorithm.ask(state, context(generation, device))
        state = algorithm.tell(state, population, scores(worth(population.genomes)))
    assert torch.equal(state.center == 0, sigma == 0)
    deviations = covariance(state).diag()
    assert torch.equal(deviations == 0, sigma == 0)
    assert deviations.isfinite().all()


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_an_invalid_individual_holds_gets_nowhere(name: str, bad: float, device: torch.device) -> None:
    algorithm, state = begun(name, 9, device)
    for generation in range(1, 20):
        population = algorithm.ask(state, context(generation, device))
        values = worth(population.genomes)
        here, there = population.genomes.clone(), population.genomes.clone()
        rows = [generation % 9, 2 * generation % 9, 5]
        values[rows] = -torch.inf
        here[rows], there[rows] = bad, 0.0
        other = algorithm.tell(state, population._replace(genomes=there), scores(values))
        state = algorithm.tell(state, population._replace(genomes=here), scores(values))
        assert torch.equal(state.center, other.center) and torch.equal(state.sigma, other.sigma)
        assert all(genome.isfinite().all() for genome in algorithm.candidates(state).values())
        assert state.center.isfinite().all() and covariance(state).isfinite().all()


@pytest.mark.parametrize("name", ["snes", "xnes", "pgpe"])
def test_invalid_individuals_do_not_widen_the_distribution(name: str, device: torch.device) -> None:
    """They stand in at the centre, with the lowest rank: as if what is near were bad."""
    algorithm, state = begun(name, 40, device)
    none = begun(name, 40, device)[1]
    for generation in range(1, 100):
        population = algorithm.ask(state, context(generation, device))
        values = torch.rand(40, generator=torch.Generator().manual_seed(generation)).to(device)  # at random
        values[torch.randperm(40, generator=torch.Generator().manual_seed(generation))[:10]] = -torch.inf
        state = algorithm.tell(state, population, scores(values))
    ratio = float((covariance(state).logdet() - covariance(none).logdet()) / G)
    assert abs(ratio) < 1.0


@pytest.mark.parametrize("name", MIRRORED)
def test_a_pair_that_learnt_counts_by_the_way_from_one_to_the_other(name: str, device: torch.device) -> None:
    algorithm, state = begun(name, 8, device)
    population = algorithm.ask(state, context(1, device))
    values = worth(population.genomes)
    plain = algorithm.tell(state, population, scores(values))
    learnt = population.genomes + torch.arange(4.0, device=device).repeat_interleave(2)[:, None]
    moved = algorithm.tell(state, population._replace(genomes=learnt), scores(values))
    torch.testing.assert_close(moved.center, plain.center, rtol=1e-4, atol=1e-5)


@every
def test_only_the_order_of_fitness_counts(name: str, device: torch.device) -> None:
    algorithm, state = begun(name, 11, device)
    population = algorithm.ask(state, context(1, device))
    values = worth(population.genomes)
    one, two = (algorithm.tell(state, population, scores(v)) for v in (values, values**3 - 3))
    assert torch.equal(one.center, two.center) and torch.equal(one.sigma, two.sigma)


@every
def test_candidates_are_the_center_and_the_best_of_the_last_generation(name: str, device: torch.device) -> None:
    algorithm, state = begun(name, 8, device)
    for generation in (1, 2):
        population = algorithm.ask(state, context(generation, device))
        values = worth(population.genomes)
        state = algorithm.tell(state, population, scores(values))
    found = algorithm.candidates(state)
    assert set(found) == {"center", "best"}
    assert torch.equal(found["best"], population.genomes[values.argmax()])
    assert torch.equal(found["center"], state.center)


@pytest.mark.parametrize("name", ["snes", "xnes", "es"])
def test_the_center_moves_at_the_rate_that_is_given(name: str, device: torch.device) -> None:
    moved = []
    for rate in (0.1, 0.2):
        algorithm, state = begun(name, 8, device, **{"lr" if name == "es" else "center_rate": rate})
        population = algorithm.ask(state, context(1, device))
        moved.append(algorithm.tell(state, population, scores(worth(population.genomes))).center)
    torch.testing.assert_close(2 * moved[0], moved[1])


@pytest.mark.parametrize("name", ["snes", "xnes", "pgpe"])
def test_the_deviation_moves_at_the_rate_that_is_given(name: str, device: torch.device) -> None:
    moved = []
    for rate in (1e-3, 2e-3):
        algorithm, state = begun(name, 40, device, 1.0, sigma_rate=rate)
        population = algorithm.ask(state, context(1, device))
        moved.append(algorithm.tell(state, population, scores(worth(population.genomes))).sigma - state.sigma)
    torch.testing.assert_close(2 * moved[0], moved[1], rtol=1e-2, atol=1e-6)
    assert moved[0].abs().max() > 1e-5


@every
def test_where_all_are_invalid_the_distribution_stays(name: str, device: torch.device) -> None:
    algorithm, state = begun(name, 8, device)
    for generation in (1, 2):
        population = algorithm.ask(state, context(generation, device))
        state = algorithm.tell(state, population, scores(worth(population.genomes)))
    population = algorithm.ask(state, context(3, device))
    after = algorithm.tell(state, population, scores(torch.full((8,), -torch.inf, device=device)))
    assert torch.equal(after.center, state.center) and torch.equal(after.sigma, state.sigma)
    assert all(torch.equal(after.memory[key], value) for key, value in state.memory.items())
    assert set(algorithm.candidates(after)) == {"center"}


@every
@pytest.mark.parametrize("valid", [0, 3, 8])
def test_a_step_on_a_gpu_is_that_on_the_cpu_and_waits_for_nothing(name: str, valid: int) -> None:
    algorithm, state = begun(name, 8, CPU)
    asked = algorithm.ask(state, context(1, CPU))
    values = worth(asked.genomes)
    values[valid:] = -torch.inf
    here = algorithm.tell(state, asked, scores(values))
    with paper_gpu() as gpu:
        algorithm, state = begun(name, 8, CUDA)
        there = Population.new(asked.genomes.to("cuda")), scores(values.to("cuda"))
        algorithm.tell(state, *there)  # constants are copied there once
        with gpu.count() as waits:
            found = algorithm.tell(state, *there)
    assert waits.reads.total() == (2 * EXPONENTIAL if name == "xnes" else 0)
    assert not waits.writes
    for a, b in ((found.center, here.center), (found.sigma, here.sigma), *zip(found.best, here.best, strict=True)):
        torch.testing.assert_close(a.elem, b)
