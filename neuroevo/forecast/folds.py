"""The time of searches on folds, or of one on the data's own split, and of the fit to all that they choose."""

from dataclasses import replace
from typing import NamedTuple

from neuroevo.config import Config
from neuroevo.experiments import costs, folds
from neuroevo.forecast.forecaster import Forecaster
from neuroevo.forecast.length import Length, run_length
from neuroevo.forecast.seconds import Seconds


class Chosen(NamedTuple):
    """The size and the time of searches that choose, and of the last fit at its longest."""

    searches: int
    each: Length  # of a search
    last: Length  # of the fit, where the last generation is chosen
    seconds: Seconds  # features, searches, and the fit


def estimate_folds(forecaster: Forecaster, c: Config) -> Chosen:
    """Foretell what a config with folds or a refit takes; the forecaster is one of its first fold.

    The fit is to more samples: it takes longer by as much as its generations cost more.
    """
    counts, shares = forecaster.counts, folds.share(c)
    whole = {**counts, "train": counts["train"] + counts["validation"]}
    searches = c.validate.folds or 1
    own = replace(forecaster.ready.config, budget=shares.of_each)
    seconds = forecaster.run(own)
    own, last = forecaster.settle(own), forecaster.settle(replace(c, budget=shares.of_last))
    each, fit = run_length(own, counts), run_length(last, whole)
    longer = costs.generation(last, whole).samples / costs.generation(own, counts).samples
    if None not in (each.generations, fit.generations):
        longer *= fit.whole / each.whole
    else:
        longer = 1.0  # each has its seconds
    run = seconds.pop("run")
    return Chosen(searches, each, fit, seconds | {"searches": run * searches, "fit to all": run * longer})
