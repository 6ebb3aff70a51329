from typing import Any

import pytest
import torch
from torch import Tensor

from neuroevo.decision.fits import FITS, Fitting, climb
from neuroevo.decision.goal import goal_of
from neuroevo.decision.judge import Judge, Samples
from neuroevo.decision.rules import Rule
from neuroevo.problems.metric import Names


def overlapping(samples: int = 150, seed: int = 0, shift: Tensor | None = None) -> Samples:
    """Return samples of three classes whose logits are those of the best rule, but for a shift."""
    source = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % 3
    noise = torch.randn(samples, 3, generator=source, dtype=torch.float64)
    logits = 1.5 * (noise + 1.5 * torch.eye(3, dtype=torch.float64)[targets])
    return Samples(logits if shift is None else logits + shift, targets)


def fitting(samples: Samples, metric: Any = "accuracy", constraints: tuple[Any, ...] = ()) -> Fitting:
    classes = samples.logits.shape[1]
    measures = goal_of(metric, constraints, Names(tuple(map(str, range(classes))))).measures
    return Fitting(Judge(measures, samples), samples, torch.full((classes,), 1 / classes, dtype=torch.float64), 0)


def one_offset(given: Fitting, offsets: Tensor, c: int) -> Tensor:
    """Return offsets [k, C] that differ in one class's, at a value between any two at which a decision changes."""
    logits = given.samples.logits + offsets
    others = logits.clone()
    others[:, c] = -torch.inf
    places = (others.amax(1) - given.samples.logits[:, c]).sort().values
    ends = torch.cat([places[:1] - 1, (places[1:] + places[:-1]) / 2, places[-1:] + 1])
    tried = offsets.repeat(len(ends), 1)
    tried[:, c] = ends
    return tried


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mcc", "worst_class_accuracy"])
def test_where_the_climb_ends_no_offset_of_one_class_is_better(metric: str) -> None:
    given = fitting(overlapping(shift=torch.tensor([2.0, 0, -1])), metric)
    offsets = climb(given, torch.zeros(3, dtype=torch.float64))
    here = float(given.judge.worth(Rule.of_offsets(offsets), given.samples).values)
    for c in range(3):
        tried = one_offset(given, offsets, c)
        assert float(given.judge.worth(Rule.of_offsets(tried), given.samples).values.max()) <= here + 1e-12


def test_a_climb_by_some_places_comes_to_what_one_by_all_comes_to() -> None:
    def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.argmax(2) == targets).double().mean(1)

    samples = overlapping(400, shift=torch.tensor([2.0, 0, -1]))
    exact, some = fitting(samples), fitting(samples, lambda logits, targets: accuracy(logits, targets))
    assert some.judge.tables is None
    start = torch.zeros(3, dtype=torch.float64)
    found = [exact.judge.worth(Rule.of_offsets(climb(given, start)), samples).values for given in (exact, some)]
    assert float(found[1]) > float(found[0]) - 0.01
    assert float(found[1]) > float(exact.judge.worth(Rule.of_offsets(start), samples).values) + 0.05


@pytest.mark.parametrize("name", ["coordinate", "evolved"])
def test_the_best_offsets_are_found_where_they_are_known(name: str) -> None:
    shift = torch.tensor([2.0, 0, -1])
    given = fitting(overlapping(3000, shift=shift))
    rule = FITS[name](given).rule.plain(scale_counts=False)
    best = -(shift - shift.mean()).double()
    if name == "coordinate":  # scales make up for some of the offsets
        assert (rule.offsets - best).abs().max() < 0.4
    fresh = overlapping(3000, seed=1, shift=shift)
    ours, known, nothing = (
        float(given.judge.worth(each, fresh).values) for each in (rule, Rule.of_offsets(best), Rule.nothing(3))
    )
    assert known - 0.01 < ours
    assert nothing + 0.1 < ours


def test_the_priors_strength_is_the_one_of_the_best_that_does_least() -> None:
    source = torch.Generator().manual_seed(0)
    prior = torch.tensor([0.9, 0.06, 0.04], dtype=torch.float64)
    samples = overlapping(1200)
    targets = torch.multinomial(prior.float(), 1200, replacement=True, generator=source)
    noise = torch.randn(1200, 3, generator=source, dtype=torch.float64)
    logits = 1.5 * (noise + 1.5 * torch.eye(3, dtype=torch.float64)[targets]) + prior.log()
    given = fitting(Samples(logits, targets), "balanced_accuracy")._replace(prior=prior)
    found = FITS["prior"](given)
    torch.testing.assert_close(found.rule.offsets, -float(found.about.split()[1]) * prior.log())
    assert 0.5 < float(found.about.split()[1]) < 1.6
    assert FITS["prior"](fitting(samples)).about == "tau 0.00"  # of equal shares: all strengths decide the same


@pytest.mark.parametrize("name", ["coordinate", "evolved"])
def test_a_bound_that_can_be_kept_is_kept_on_what_is_fitted(name: str) -> None:
    bound = {"metric": {"name": "recall", "of": 2}, "at_least": 0.9}
    given = fitting(overlapping(600, shift=torch.tensor([1.0, 0, -1])), "accuracy", (bound,))
    worth = given.judge.worth(Rule(*FITS[name](given).rule), given.samples)
    assert float(given.judge.worth(Rule.nothing(3), given.samples).violations) > 0
    assert float(worth.violations) == 0
    assert float(worth.values) > 0.5


def test_a_fit_is_the_same_for_the_same_seed() -> None:
    given = fitting(overlapping())
    first, second, other = (FITS["evolved"](given._replace(seed=seed)).rule for seed in (0, 0, 1))
    assert torch.equal(first.offsets, second.offsets)
    assert not torch.equal(first.offsets, other.offsets)
