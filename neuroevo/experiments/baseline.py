"""What scikit-learn's logistic regression reaches on the features that a linear head evolves on.

C is chosen by cross-validation within the train split, by what the run compares candidates by. Neither validation nor
test has a part in it, so that its figures on both are those of samples that it has not seen.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuroevo import caveats
from neuroevo.data.augment import BATCH
from neuroevo.data.splits import stratify
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import LOCAL
from neuroevo.engine.problem import by_metric
from neuroevo.engine.rng import generator
from neuroevo.experiments.compose import Run
from neuroevo.networks import spaces
from neuroevo.networks.spaces import Origin
from neuroevo.problems import logistic
from neuroevo.problems.metric import LOWER_IS_BETTER, OfModule, bind, of_network
from neuroevo.problems.supervised import Supervised

PENALTIES = tuple(10.0**k for k in range(-4, 5))  # C, from the smallest on, until two in a row are worse
ROUGH = 1e-3  # the tolerance of fits that only tell which C is better
USUAL = 1.0  # C where a class has one sample alone, so that nothing can be held out
FOLDS = 5
# Samples x features x classes: of the folds together, and of the fit. They bound the time to some ten seconds.
CHOICE, FIT = 20_000_000, 500_000_000
LEAST = 10  # samples for each class, whatever the size


class Beside(NamedTuple):
    """What a champion is compared with."""

    record: dict[str, Any]  # of the result: by name
    lines: list[str]  # that a reader must know


NOTHING = Beside({}, [])


class Found(NamedTuple):
    """A logistic regression as a genome of a network."""

    of: Supervised  # whose genes are the head's weights
    genome: Tensor  # [g]
    c: float
    samples: dict[str, int]  # by which C was chosen, and which were fitted; none where nothing was chosen
    validated: dict[str, float]  # by what folds held out, the mean at that C; {} where nothing was chosen
    converged: bool
    cost: Cost  # of all fits, and of looks at what folds held out


def misfit(of: Supervised) -> str | None:
    """Return why a head is none that a logistic regression is, or None."""
    network = of.network
    if network.backbone.cut is not None:
        return "more than the head evolves"
    if not network.learns_head or type(network.head) is not nn.Linear or network.head.bias is None:
        return "the head isn't a linear layer with bias"
    if network.layout.tops:
        return "its weights are whole levels"
    if any(isinstance(metric, OfModule) for metric in of.metrics.values()):
        return "a metric is a function of the whole network"
    return None if finite(of) else "some features are NaN or infinite"


def finite(of: Supervised) -> bool:
    """Tell whether the features of the train split are finite."""
    parts = of.splits["train"].split(BATCH)
    return all(bool(of.samples.batch(part)[0].isfinite().all()) for part in parts)


def balances(run: Run) -> bool:
    """Tell whether all classes of a run count as much, however many samples they have."""
    return run.config.fitness.class_weights or run.config.fitness.balanced


def find(of: Supervised, *, balanced: bool = False) -> Found:
    """Fit a logistic regression to a train split, of as many samples as there is time for.

    Where it is `balanced`, all classes count as much, however many samples they have.
    """
    of = in_weights(of)
    rows = of.splits["train"]
    labels = of.samples.labels.cpu()[rows]
    size = of.network.head_width * len(of.network.classes)
    own = int(torch.randint(2**31, (1,), generator=generator(of.seed, "logistic", 0)))
    chosen = draw(labels, CHOICE // size, own)
    parts = logistic.folds(labels[chosen], FOLDS, own)
    best, validated, cost = USUAL, dict[str, float](), Cost()
    if parts:
        best, validated, cost = choose(of, rows[chosen], parts, balanced)
    fitted = draw(labels, FIT // size, own)
    (model,) = logistic.fit(*read(of, rows[fitted]), len(of.network.classes), [best], balanced=balanced)
    seen = model.passes * len(fitted)
    samples = {**({"choice": len(chosen)} if parts else {}), "fit": len(fitted)}
    cost += Cost(forward=seen, backward=seen)
    return Found(of, genomes(of, [model])[0], best, samples, validated, model.converged, cost)


def choose(
    of: Supervised, rows: Tensor, parts: list[logistic.Rows], balanced: bool
) -> tuple[float, dict[str, float], Cost]:
    """Return the C that is best in the mean over folds of rows [n], by the run's own merit, and that mean."""
    x, y = read(of, rows)
    classes, cost, worse = len(of.network.classes), Cost(), 0
    best: tuple[tuple[float, ...], float, dict[str, float]] | None = None
    how: dict[str, Any] = {"balanced": balanced, "tolerance": ROUGH}
    paths = [logistic.fit(x[fitted], y[fitted], classes, PENALTIES, **how) for fitted, _ in parts]
    for c, models in zip(PENALTIES, zip(*paths, strict=True), strict=True):
        looks = []
        for model, (fitted, held) in zip(models, parts, strict=True):
            looks += of.validate(genomes(of, [model]), rows[held])[0]
            seen = model.passes * len(fitted)
            cost += Cost(forward=seen + len(held), backward=seen)
        found = mean(looks)
        merit = of.merit(found)
        worse = 0 if best is None or merit > best[0] else worse + 1
        best = (merit, c, found) if not worse else best
        if worse == 2:
            break
    assert best is not None
    return best[1], best[2], cost


def mean(looks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure."""
    return {name: sum(look[name] for look in looks) / len(looks) for name in looks[0]}


def draw(labels: Tensor, most: int, seed: int) -> Tensor:
    """Return at most so many places [n] of labels, classes' shares kept, but `LEAST` for each class in all."""
    most = max(most, LEAST * len(labels.unique()))
    if most >= len(labels):
        return torch.arange(len(labels))
    return torch.from_numpy(np.flatnonzero(stratify(labels.numpy(), most, np.random.default_rng(seed))))


def read(of: Supervised, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return features [n, d] as the head sees them, and labels [n], of rows, on the host."""
    parts = [of.samples.batch(part) for part in rows.split(BATCH)]
    return torch.cat([x.float().cpu() for x, _ in parts]), torch.cat([y.cpu() for _, y in parts])


def genomes(of: Supervised, models: list[logistic.Fitted]) -> Tensor:
    """Return models as genomes [n, g] of a head's weights."""
    head = of.network.backbone.head
    stacked = {
        f"{head}.weight": torch.stack([model.weight for model in models]),
        f"{head}.bias": torch.stack([model.bias for model in models]),
    }
    return of.network.layout.flatten(stacked).to(of.start.device)


def in_weights(of: Supervised) -> Supervised:
    """Return what is searched with the weights themselves for genes, whatever their space; done on this machine."""
    if of.network.space.identity:
        return replace(of, executor=LOCAL)
    network = replace(of.network, space=spaces.lay(spaces.full, Origin(of.network.evolving)))
    metrics = {name: of_network(bind(metric, of.names), network.numbers) for name, metric in of.given.items()}
    start = network.start().to(of.start.device)
    return replace(of, network=network, metrics=metrics, start=start, executor=LOCAL)


def compare_run(run: Run, champion: Mapping[str, float], log: Callable[[str], None]) -> Beside:
    """Return what a result says of the regression beside a run's champion; nothing where it isn't asked for."""
    asked = run.config.validate.logistic and run.config.validate.fold is None
    return compare(run.supervised, champion, log, balanced=balances(run)) if asked else NOTHING


def compare(
    of: Supervised, champion: Mapping[str, float], log: Callable[[str], None], *, balanced: bool = False
) -> Beside:
    """Return what a result says of the logistic regression beside a champion, and lines that a reader must know.

    The champion has these figures on validation. Where no sample is left for that, the regression's are those of its
    own folds. Nothing where the head isn't one.
    """
    if misfit(of) is not None:
        return NOTHING
    log("logistic regression on the same features, for comparison")
    began = time.monotonic()
    found = find(of, balanced=balanced)
    held = len(of.splits["validation"])
    (validation,) = found.of.validate(found.genome[None])[0] if held else [found.validated]
    rows = found.of.splits["test"]
    record = {
        "C": found.c,
        "validation": validation,
        **({"test": found.of.test(found.genome, rows).scores} if len(rows) else {}),
        "samples": found.samples,
        "converged": found.converged,
        "seconds": time.monotonic() - began,
    }
    metric = of.metric
    merit = by_metric(metric, lower_is_better=metric in LOWER_IS_BETTER, constrained=bool(of.subject_to))
    lines = []
    if validation and champion and merit(validation) >= merit(champion):
        lines = [caveats.of_baseline(metric, validation[metric], champion[metric])]
    return Beside({"logistic": record}, lines)
