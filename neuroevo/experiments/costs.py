"""The cost of a generation, before there are data."""

from collections.abc import Mapping
from typing import Any

from neuroevo import config
from neuroevo.config import Config
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import AUTO, FULL
from neuroevo.learning import refine, sensitivity
from neuroevo.problems.scoring import scoring_cost

CALIBRATED_BY, CALIBRATION_BATCH = 512, 128  # train images by which batch norms are re-estimated, and at a time


def steps(c: Config, train: int) -> int:
    """Return the gradient steps of a generation, of so many train images."""
    if c.refine is None:
        return 0
    epochs = c.refine.steps.epochs if isinstance(c.refine.steps, config.Epochs) else 1
    return c.refine.steps if isinstance(c.refine.steps, int) else epochs * max(1, train // c.refine.batch_size)


def batch_size(c: Config, pool: int) -> int:
    """Return the samples of a generation's batch, of so many in its split."""
    if all(metric.of == config.NETWORK for metric in c.fitness.metrics):  # a call is counted as one sample
        return 1
    return pool if c.fitness.samples == "all" else min(c.fitness.samples, pool)


def takes(c: Config, algorithm: Algorithm[Any], counts: Mapping[str, int], first: bool = False) -> Cost:
    """Return the cost of a generation at most, the `first` or any after it, with so many images a split."""
    rows, asked = (algorithm.size, 0) if first else (algorithm.later, algorithm.overhead)
    train, r = counts["train"], c.refine
    recalibrates = c.backbone.batchnorm == "recalibrate" and c.backbone.trainable
    beside, batch = sum(calibration_batches(train)) if recalibrates else 0, batch_size(c, counts[c.fitness.split])
    once = scoring_cost(rows + exact_rows(c, algorithm, rows), batch, beside)
    whole = once + sensitivity.probe_cost(asked, train)
    if r is None:
        return whole
    each = refine.training_cost(rows // algorithm.islands, r.share, steps(c, train), min(r.batch_size, train))
    learnt = sum([each] * algorithm.islands, Cost())
    return whole + learnt + (once if r.back_off else Cost())


def exact_rows(c: Config, algorithm: Algorithm[Any], rows: int) -> int:
    """Return how many of so many individuals are scored again in full precision: none where nobody knows it yet.

    What `auto` comes to is known once a run's parts are there.
    """
    return 0 if c.fitness.precision in (AUTO, FULL) else algorithm.exact(rows)


def calibration_batches(train: int) -> list[int]:
    """Return the sizes of the batches by which batch norms are re-estimated, with so many train images."""
    whole, rest = divmod(min(train, CALIBRATED_BY), CALIBRATION_BATCH)
    return [CALIBRATION_BATCH] * whole + ([rest] if rest > 1 else [])


def generation(c: Config, counts: Mapping[str, int]) -> Cost:
    """Return the cost of a generation at most, from the second on, with so many images a split."""
    return takes(c, c.search(), counts)
