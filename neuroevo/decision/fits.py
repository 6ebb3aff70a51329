"""Ways to fit a decision rule to samples, from doing nothing to a search.

`prior` is post-hoc logit adjustment (Menon et al. 2021, https://arxiv.org/abs/2007.07314) with its strength fitted;
`coordinate` is the classic plug-in: offsets by coordinate ascent, each over all values at which a decision changes
(Narasimhan et al. 2015, https://proceedings.mlr.press/v37/narasimhanb15.html, have such rules as optimal for metrics of
the confusion matrix); `evolved` is a natural evolution strategy over offsets and scales.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.decision.judge import Judge, Samples, Worth
from neuroevo.decision.rules import Rule, predict
from neuroevo.engine import loop
from neuroevo.engine.cost import Budget
from neuroevo.engine.loop import Rules
from neuroevo.problems.function import of_genomes
from neuroevo.problems.metric import FITNESS
from neuroevo.search.algorithms.evolution_strategies import LARGEST, snes, xnes

STRENGTHS = torch.tensor(sorted((k / 20 for k in range(-20, 41)), key=abs), dtype=torch.float64)  # tau; 0 is nothing
SWEEPS = 20  # over all classes, at most
PLACES = 64  # values of an offset that are looked at at a time, where not all are
POPULATION, GENERATIONS, LOOKS = 64, 80, 4
SIGMA = 0.3  # deviation of the first offsets, in units of the logits' own, and a third of it of the scales' logarithms


class Fit(NamedTuple):
    """A rule, and what it has beside, for a reader."""

    rule: Rule
    about: str = ""


class Fitting(NamedTuple):
    """What rules are fitted to."""

    judge: Judge
    samples: Samples
    prior: Tensor  # [C] float64: the classes' shares where the network was trained
    seed: int


def argmax(given: Fitting) -> Fit:
    """Do nothing."""
    return Fit(Rule.nothing(given.samples.logits.shape[1]))


def prior(given: Fitting) -> Fit:
    """Take `tau` times the logarithm of the prior off; tau is the one of the best that does least.

    Below 0 it undoes some of what a network was trained with that was told to treat classes alike.
    """
    rules = Rule.of_offsets(-STRENGTHS[:, None] * given.prior.log())
    first = int(given.judge.worth(rules, given.samples).equals().to(torch.int8).argmax())
    return Fit(Rule(rules.scales[first], rules.offsets[first]), f"tau {STRENGTHS[first]:.2f}")


def coordinate(given: Fitting) -> Fit:
    """Climb by one class's offset after another, from nothing and from the prior's correction; the better counts."""
    found = [climb(given, start.offsets) for start in (argmax(given).rule, prior(given).rule)]
    rules = Rule.of_offsets(torch.stack(found))
    first = int(given.judge.worth(rules, given.samples).equals().to(torch.int8).argmax())
    return Fit(Rule.of_offsets(found[first]))


def climb(given: Fitting, offsets: Tensor) -> Tensor:
    """Return offsets [C] that no change of a single one makes better, from some on."""
    look = _all_places if given.judge.tables is not None else _some_places
    classes, still = len(offsets), 0
    for step in range(SWEEPS * classes):
        c = step % classes
        found = look(given, offsets, c)
        still = still + 1 if found is None else 0
        if found is not None:
            offsets = offsets.clone()
            offsets[c] = found
        if still == classes:
            break
    return offsets


def _thresholds(samples: Samples, offsets: Tensor, c: int) -> tuple[Tensor, Tensor]:
    """Return above which offset of class c each sample is decided as c [N], and as which class below it [N]."""
    others = samples.logits + offsets
    others[:, c] = -torch.inf
    return others.amax(1) - samples.logits[:, c], predict(Rule.of_offsets(torch.zeros_like(offsets)), others)[0]


def _between(thresholds: Tensor) -> Tensor:
    """Return a value in each gap of sorted thresholds [k], below the first and above the last too, [k + 1]."""
    margin = (thresholds[-1] - thresholds[0]).clamp(min=1) / 100
    ends = torch.cat([thresholds[:1] - margin, thresholds, thresholds[-1:] + margin])
    return (ends[:-1] + ends[1:]) / 2


def _pick(worth: Worth, places: Tensor, current: float, here: int) -> float | None:
    """Return the best of places [k], the one nearest to the current value among equals; None where that is `here`."""
    equals = worth.equals()
    if equals[here]:
        return None
    return float(places[(places - current).abs().masked_fill(~equals, torch.inf).argmin()])


def _all_places(given: Fitting, offsets: Tensor, c: int) -> float | None:
    """Return the best offset of class c among all that decide differently; None where none is better than its own."""
    judge, samples = given.judge, given.samples
    thresholds, others = _thresholds(samples, offsets, c)
    order = thresholds.argsort(stable=True)
    ordered = thresholds[order]
    never = judge.totals(others[None], samples)
    moves = judge.moves(others[order], c, samples.take(order))
    totals = [torch.cat([base, base + move.cumsum(0)]) for base, move in zip(never, moves, strict=True)]
    worth = judge.of_totals(totals)
    places = _between(ordered)
    apart = torch.ones(len(places), dtype=torch.bool)
    apart[1:-1] = ordered[1:] > ordered[:-1]  # no value lies between equal thresholds
    here = int((ordered < offsets[c]).sum())
    kept = Worth(worth.values[apart], worth.violations[apart])
    return _pick(kept, places[apart], float(offsets[c]), max(0, int(apart[: here + 1].sum()) - 1))


def _some_places(given: Fitting, offsets: Tensor, c: int) -> float | None:
    """Return the best offset of class c among some, evenly spaced among those that decide differently, then nearby."""
    ordered = _thresholds(given.samples, offsets, c)[0].unique()
    best, low, high = float(offsets[c]), 0, len(ordered)
    while True:
        index = torch.linspace(low, high, PLACES).round().long().unique()
        places = torch.cat([torch.tensor([best], dtype=torch.float64), _between(ordered)[index]])
        tried = offsets.repeat(len(places), 1)
        tried[:, c] = places
        found = _pick(given.judge.worth(Rule.of_offsets(tried), given.samples), places, best, 0)
        best = best if found is None else found
        step = (high - low) // (PLACES - 1)
        if step <= 1:
            return None if best == float(offsets[c]) else best
        near = int((ordered < best).sum())
        low, high = max(0, near - step), min(len(ordered), near + step)


def evolve(given: Fitting) -> Fit:
    """Search offsets and scales by a natural evolution strategy, from the better of nothing and the prior's correction.

    With a full covariance up to 1,000 genes, else with a deviation for each. What counts is the distribution's centre,
    which is better on other samples than the best individual: that one is the luckiest too.
    """
    judge, samples = given.judge, given.samples
    classes = samples.logits.shape[1]
    unit = float((samples.logits - samples.logits.mean(1, keepdim=True)).std()) or 1.0
    start = prior(given).rule.offsets

    def rules(genomes: Tensor) -> Rule:
        genes = genomes.double()
        return Rule((genes[:, classes:] / 3).exp(), start + unit * genes[:, :classes])

    problem = of_genomes(
        lambda genomes: judge.worth(rules(genomes), samples).fitness(), torch.zeros(2 * classes), sigma=SIGMA
    )
    algorithm = (xnes if 2 * classes <= LARGEST else snes)(population=POPULATION)
    algorithm = algorithm._replace(candidates=lambda state: {"center": state.center})
    budget, home = Budget(generations=GENERATIONS), torch.device("cpu")
    how = Rules(given.seed, 1, GENERATIONS // LOOKS, None, budget, FITNESS, False)
    begun = loop.begin(problem, algorithm, given.seed, home)
    *_, last = loop.evolve(problem, algorithm, how, begun, device=home)
    found = rules(last.champion.genome[None])
    return Fit(Rule(found.scales[0], found.offsets[0]))


FITS: dict[str, Callable[[Fitting], Fit]] = {  # the simplest first
    "argmax": argmax,
    "prior": prior,
    "coordinate": coordinate,
    "evolved": evolve,
}
