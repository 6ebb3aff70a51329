from typing import Any

import pytest
import torch

from neuroevo.errors import InputError
from neuroevo.problems import mixtures


def test_the_temperature_is_the_one_that_makes_labels_likeliest() -> None:
    y = torch.arange(600) % 3
    logits = torch.nn.functional.one_hot(y, 3).float() + torch.randn(600, 3, generator=torch.Generator().manual_seed(0))

    def loss(t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / t, y))

    t = mixtures.fit_temperature(logits[None], y)
    assert loss(t) < min(loss(t * 1.02), loss(t / 1.02), loss(1.0))
    assert mixtures.fit_temperature(logits[None] * 8, y) == pytest.approx(8 * t, rel=1e-3)
    right = 5 * torch.nn.functional.one_hot(y, 3).float()
    with pytest.raises(InputError, match="all 600 validation samples are right"):
        mixtures.fit_temperature(right[None], y)


def test_an_ensemble_is_no_worse_on_validation_than_the_best_alone() -> None:
    random = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 4
    logits = [torch.nn.functional.one_hot(y, 4) + torch.randn(1, 200, 4, generator=random) for _ in range(9)]

    class Judge:
        def merit(self, found: torch.Tensor, targets: torch.Tensor) -> tuple[float, ...]:
            return (-float(torch.nn.functional.cross_entropy(found[0], targets)),)

    judge: Any = Judge()
    merits = [judge.merit(each, y) for each in logits]
    chosen = mixtures.choose(judge, logits, y, 5)
    assert chosen[0] == merits.index(max(merits))
    assert len(set(chosen)) == len(chosen) == 5
    sizes = [judge.merit(torch.stack([logits[i] for i in chosen[:k]]).mean(0), y) for k in range(1, 6)]
    assert sizes == sorted(sizes)
    assert mixtures.choose(judge, logits, y, 1) == chosen[:1]
    assert mixtures.choose(judge, [logits[0]] * 3, y, 3) == [0]  # who adds nothing isn't in
