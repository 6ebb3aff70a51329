from typing import Any

import pytest
import torch

from neuroevo.engine.genome import Population
from neuroevo.engine.scores import Scores
from neuroevo.storage import shapes

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
