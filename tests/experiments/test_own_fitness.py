"""A fitness of a whole network, a user's own, from the config: no gradient, no logits, any head."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Quiet
from test_resume import stopped
from torch import Tensor, nn

from neuroevo.config import load
from neuroevo.data.datasets import digits
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.storage import rundir

DIGITS = digits()
X = torch.stack([torch.tensor(np.asarray(DIGITS.images[i])).float().flatten() / 255 for i in range(400)])
Y = torch.tensor(DIGITS.labels[:400])
OWN = f"{__name__}:f1"
SETS = [
    "data.name=digits", "data.image_size=null", "backbone.name=none", "features.components=20",
    "algorithm.population=24", "algorithm.elites=2", "budget.generations=9", "validate.every=3",
    "checkpoint.every=4", "memory.limit=1e8", f"fitness={{name: {OWN}, of: network}}",
]  # fmt: skip


def f1(module: nn.Module) -> dict[str, float]:
    """Return the F1 score of a threshold on one output: no gradient goes through it."""
    chosen = module(X)[:, 3] > 0.1
    hits = float((chosen & (Y == 3)).sum())
    return {"f1": 2 * hits / max(1.0, float(chosen.sum() + (Y == 3).sum())), "chosen": float(chosen.sum())}


def meddles(module: nn.Module) -> float:
    assert not module.training
    for parameter in module.parameters():
        parameter.data.fill_(9.0)
    module.train()
    return 1.0


def nothing(module: nn.Module) -> float:
    return float("nan")


def no_number(module: nn.Module) -> str:
    return "good"


def breaks(module: nn.Module) -> float:
    raise KeyError("mine")


class Branches(nn.Linear):
    """Refused by vmap: which way it goes depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out if bool(self.bias.sum() > 0) else out.round(decimals=2)


def branches(features: int, classes: int) -> nn.Module:
    return Branches(features, classes)


def run(folder: Path, *sets: str) -> dict[str, Any]:
    experiment.run(load(None, [*SETS, *sets]), str(folder), "test", Quiet())
    return rundir.read_result(folder)


def test_a_fitness_without_a_gradient_evolves_a_network_and_is_reported(tmp_path: Path) -> None:
    result = run(tmp_path / "r")
    history = rundir.read_history(tmp_path / "r")
    assert history[-1]["fitness_best"] > 0.3
    assert {OWN, "chosen", "accuracy"} <= result["champion"]["validation"].keys()
    assert result["champion"]["test"][OWN] == result["champion"]["validation"][OWN]
    assert result["champion"]["test"]["interval"][OWN] == [result["champion"]["test"][OWN]] * 2
    assert result["cost"]["forward_samples"] == sum((24, *[24 + 2 * 0] * 8)), "a call is one sample"


def test_interrupted_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    stopped(tmp_path, [*SETS, f"validate.metric={{name: {OWN}, of: network}}"], 5)


def test_a_head_that_vmap_refuses_is_evolved_by_it_and_by_gradients(tmp_path: Path) -> None:
    head = ["head.name=test_own_fitness:branches", "budget.generations=2", "features.components=null",
            "features.standardise=false"]  # fmt: skip
    assert run(tmp_path / "a", *head)["status"] == "finished"
    of_logits = ["fitness={}", "refine.steps=1", "fitness.samples=32"]
    assert run(tmp_path / "b", *head, *of_logits)["status"] == "finished"


def test_what_it_does_to_its_copy_harms_nobody(tmp_path: Path) -> None:
    run(tmp_path / "r", f"fitness={{name: {__name__}:meddles, of: network}}", "budget.generations=2")
    line = rundir.read_history(tmp_path / "r")[-1]
    assert line["fitness_best"] == 1.0
    assert line["diversity"] > 0


def test_nan_is_invalid(tmp_path: Path) -> None:
    run(tmp_path / "r", f"fitness={{name: {__name__}:nothing, of: network}}", "budget.generations=2")
    assert [line["invalid"] for line in rundir.read_history(tmp_path / "r")] == [24, 24]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([f"fitness={{name: {__name__}:no_number, of: network}}"], "good returned; a number, or numbers by name"),
        ([f"fitness={{name: {__name__}:breaks, of: network}}"], r"breaks failed: KeyError: 'mine' \(.*line \d+\)"),
        ([f"fitness={{name: {OWN}, of: networks}}"], "fitness.metric.of: 'networks' given; logits or network expected"),
        ([f"fitness={{name: {OWN}, of: network, metric: accuracy}}"], "fitness.name: give either a name, or metric"),
        (["fitness.samples=64"], "fitness.samples: 64 has no effect: fitness is of a network as a whole"),
        ([f"fitness={{name: {OWN}, off: network}}"], "fitness.metric.off: unknown key"),
    ],
)
def test_what_is_wrong_with_it_is_said_in_a_line(sets: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path / "r", *sets)
