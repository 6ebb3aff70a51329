from typing import Any, NamedTuple

import pytest
import torch

from neuroevo.engine.genome import Population
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms.base import GAState
from neuroevo.storage import shapes
from neuroevo.tuning.search import Trials

N, G = 3, 5


def parts() -> dict[str, Any]:
    population = Population.new(torch.zeros(N, G))
    scores = Scores(torch.zeros(N, 1, dtype=torch.float64), torch.zeros(N, dtype=torch.bool))
    return {"population": population, "scores": scores, "champion": torch.zeros(G), "front": None, "genes": G}


def test_what_fits_is_taken() -> None:
    shapes.check(**parts())
    front = torch.zeros(2, G), torch.zeros(2, 2, dtype=torch.float64)
    shapes.check(**parts() | {"front": front})


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"genes": G + 1}, "population/genomes"),
        ({"champion": torch.zeros(G + 1)}, "champion/genome"),
        ({"champion": torch.zeros(G, dtype=torch.float64)}, "champion/genome"),
        ({"front": (torch.zeros(2, G), torch.zeros(3, 2, dtype=torch.float64))}, "front/fitness"),
        ({"front": (torch.zeros(2, G + 1), torch.zeros(2, 2, dtype=torch.float64))}, "front/genomes"),
        ({"population": Population.new(torch.zeros(N, G))._replace(traits={"lr": torch.zeros(N + 1)})}, "traits/lr"),
        (
            {
                "scores": Scores(
                    torch.zeros(N, 1, dtype=torch.float64), torch.zeros(N, dtype=torch.bool), 1, torch.ones(N)
                )
            },
            "population/violation",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        shapes.check(**parts() | change)


def of_population(n: int) -> GAState:
    """A GA's state that was told."""
    told = Population.new(torch.zeros(n, G))._replace(traits={"lr": torch.ones(n)})
    return GAState(told, torch.zeros(n, dtype=torch.float64))


BEGUN = GAState(Population.new(torch.zeros(N, G)), torch.zeros(0, dtype=torch.float64))


@pytest.mark.parametrize("state", [
    of_population(N), of_population(2 * N), BEGUN,  # 2 N: with those whom it remembers
    of_population(N)._replace(fitness=torch.zeros(N, 2, dtype=torch.float64)),  # of two objectives
])  # fmt: skip
def test_a_state_that_an_algorithm_comes_to_fits_the_one_that_it_begins_with(state: GAState) -> None:
    shapes.check_state(state, BEGUN, "algorithm")


@pytest.mark.parametrize(("change", "place"), [
    ({"fitness": torch.tensor(0.0, dtype=torch.float64)}, "algorithm/fitness is"),
    ({"fitness": torch.zeros(1, 2, 1, dtype=torch.float64)}, "algorithm/fitness is"),
    ({"fitness": torch.zeros(N)}, "algorithm/fitness is"),
    ({"fitness": torch.zeros(N + 1, dtype=torch.float64)}, "algorithm has .* rows beside each other"),
    ({"population": Population.new(torch.zeros(N + 1, G))}, "population/.* is"),
    ({"population": Population.new(torch.zeros(N, G + 1))}, "population/genomes is"),
    ({"population": Population.new(torch.zeros(N, G))._replace(traits={"lr": torch.ones(2)})}, "population has"),
    ({"population": Population.new(torch.zeros(N, G))._replace(traits={"lr": torch.ones([])})}, "population has"),
])  # fmt: skip
def test_a_state_that_does_not_fit_is_named(change: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        shapes.check_state(of_population(N)._replace(**change), BEGUN, "algorithm")


def test_a_users_own_state_may_grow_as_it_likes() -> None:
    class Archive(NamedTuple):
        kept: torch.Tensor
        told: torch.Tensor
        seen: torch.Tensor
        best: Population

    few, many = (Population.new(torch.zeros(n, G)) for n in (2, 7))
    begun = Archive(torch.zeros(2, G), torch.zeros(0), torch.zeros(0), few)
    grown = Archive(torch.zeros(7, G), torch.zeros(3), torch.zeros(5), many)
    shapes.check_state(grown, begun, "algorithm")
    with pytest.raises(ValueError, match="algorithm/kept is"):
        shapes.check_state(grown._replace(kept=torch.zeros(7, G + 1)), begun, "algorithm")
    with pytest.raises(ValueError, match="best has"):
        shapes.check_state(grown._replace(best=many._replace(roles=few.roles)), begun, "algorithm")


def test_trials_are_of_one_length() -> None:
    def trials(*lengths: int) -> Trials:
        columns = {str(i): torch.zeros(n) for i, n in enumerate(lengths[2:])}
        return Trials(torch.zeros(lengths[0], G), torch.zeros(lengths[1], G), columns, {})

    shapes.check_state(trials(4, 4, 4), trials(0, 0, 0), "trials")
    for lengths in ((4, 3, 4), (0, 4, 4), (4, 4, 0)):
        with pytest.raises(ValueError, match="rows beside each other"):
            shapes.check_state(trials(*lengths), trials(0, 0, 0), "trials")
