from typing import Any

import numpy as np
import pytest
import torch
from paper_gpu import CUDA, paper_gpu
from reference_searches import context, scores
from torch import Tensor

from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.search.algorithms.nelder_mead import LARGEST, nelder_mead


def rosenbrock(genomes: Any) -> Any:
    x = genomes
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def bowl(genomes: Any) -> Any:
    return ((genomes - 0.5) ** 2).sum(1) + 0.3 * (genomes.sum(1) - 1) ** 2 + abs(genomes).sum(1)


def asked(loss: Any, g: int, population: int, rows: int) -> tuple[Tensor, Any, Any]:
    """Return the points [n, g] that it asks for on a loss, one generation after another, and where it is then."""
    algorithm, found = nelder_mead(population=population), []
    state = algorithm.init(torch.linspace(0.13, 0.31, g)[None], 0.5, context(0))
    for generation in range(1, rows // population + 1):
        one = algorithm.ask(state, context(generation))
        found.append(one.genomes)
        state = algorithm.tell(state, one, scores(-loss(one.genomes.double())))
    return torch.cat(found), algorithm, state


@pytest.mark.parametrize("loss", [rosenbrock, bowl])
@pytest.mark.parametrize("g", [2, 3, 8])
def test_it_asks_for_the_points_that_scipy_asks_for(loss: Any, g: int) -> None:
    from scipy.optimize import minimize

    rows = 60
    ours, _, _ = asked(loss, g, 1, rows)
    theirs: list[np.ndarray[Any, Any]] = []

    def noted(x: np.ndarray[Any, Any]) -> float:
        theirs.append(x.copy())
        return float(loss(x.astype(np.float32).astype(np.float64)[None])[0])

    options = {
        "adaptive": True,
        "initial_simplex": ours[: g + 1].double().numpy(),
        "maxfev": rows,
        "xatol": 0,
        "fatol": 0,
    }
    minimize(noted, ours[0].double().numpy(), method="Nelder-Mead", options=options)
    np.testing.assert_allclose(ours.numpy(), np.stack(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("population", [2, 3, 5, 9, 40])
def test_more_individuals_take_the_way_of_one_in_fewer_generations(population: int) -> None:
    g, way = 3, 120
    _, _, one = asked(bowl, g, 1, way)
    _, _, many = asked(bowl, g, population, way * population)
    assert bowl(many.best[None]) <= bowl(one.best[None])
    points, _, _ = asked(bowl, g, 1, 40)
    others, _, _ = asked(bowl, g, population, 40 * population)
    near = (points[:, None] - others).abs().amax(2).amin(1)
    assert float(near.max()) < 1e-6  # each point of the one's way is among theirs


def test_it_starts_with_the_mean_of_its_starts_and_a_step_along_each_gene() -> None:
    algorithm = nelder_mead(population=5)
    start = torch.tensor([[0.0, 2, 4, 0], [2, 4, 6, 2]])
    sigma = torch.tensor([0.1, 0.2, 0.3, 0.0])
    first = algorithm.ask(algorithm.init(start, sigma, context(0)), context(1)).genomes
    assert torch.equal(first[0], torch.tensor([1.0, 3, 5, 1]))
    torch.testing.assert_close((first[1:] - first[0]).abs(), sigma.diag())


def test_it_is_refused_where_genes_are_many() -> None:
    nelder_mead().check(LARGEST)
    with pytest.raises(InputError, match=r"^name: nelder_mead takes up to 200 genes, and there are 201; use snes"):
        nelder_mead().check(LARGEST + 1)
    with pytest.raises(InputError, match=r"^name: nelder_mead takes up to 200 genes, and there are 201"):
        nelder_mead().init(torch.zeros(1, LARGEST + 1), 0.1, context(0))


def test_invalid_individuals_are_the_worst_and_never_the_best() -> None:
    def loss(genomes: Tensor) -> Tensor:
        return torch.where(genomes[:, 0] > 0.4, torch.inf, bowl(genomes))

    _, algorithm, state = asked(loss, 3, 1, 200)
    assert float(algorithm.candidates(state)["best"][0]) <= 0.4
    plain = asked(bowl, 3, 1, 200)[2].best
    assert bool(plain[0] < 0.4) and float(bowl(state.best[None])) < float(bowl(plain[None])) + 1e-3
    assert state.points.isfinite().all()


def test_ties_of_one_metric_are_broken_by_the_second_across_generations() -> None:
    """Ranks of two generations can't be compared: raw values are kept, and ranked together."""
    algorithm = nelder_mead(population=1)
    state = algorithm.init(torch.linspace(0.13, 0.31, 3)[None], 0.5, context(0))
    for generation in range(1, 81):
        one = algorithm.ask(state, context(generation))
        value = -bowl(one.genomes.double())
        state = algorithm.tell(state, one, scores(0 * value)._replace(values=torch.stack([0 * value, value], 1)))
    plain = asked(bowl, 3, 1, 80)[2]
    assert torch.equal(state.best, plain.best)


@pytest.mark.parametrize("population", [1, 6])
def test_a_generation_on_a_gpu_waits_for_nothing(population: int) -> None:
    _, algorithm, here = asked(bowl, 4, population, 30)
    with paper_gpu() as gpu:
        state = algorithm.init(torch.full((1, 4), 0.2, device=CUDA), 0.5, context(0, CUDA))
        state = state._replace(**{name: field.to("cuda") for name, field in here._asdict().items()})
        for _ in range(2):
            with gpu.count() as waits:  # coefficients are copied there once
                one = algorithm.ask(state, context(31, CUDA))
                values = torch.linspace(0, 1, population).double().to("cuda")[:, None]
                state = algorithm.tell(state, one, Scores(values, values[:, 0] < -1))
        assert not waits.reads
    assert state.points.shape == (9, 4)
