"""The keys of cross-validation: what goes together with them, and what doesn't."""

from neuroevo.config.model import Config
from neuroevo.config.schema import Refit
from neuroevo.errors import InputError


def chooses(c: Config) -> bool:
    """Tell whether a config asks for searches that choose when a last one ends, and for that one."""
    own = c.validate
    return own.fold is None and not isinstance(own.refit, Refit) and (own.folds is not None or own.refit is True)


def place_of(c: Config) -> tuple[int, int] | None:
    """Return which fold of how many a run is validated on, 0 of them where it is fitted to all; None: the own split."""
    own = c.validate
    if isinstance(own.refit, Refit):
        return 0, own.folds or 1
    return None if own.folds is None or own.fold is None else (own.fold, own.folds)


def check_folds(c: Config) -> None:
    """See that folds and a fit to all go with the rest of a config; InputError names what doesn't."""
    own = c.validate
    if own.fold is not None:
        if own.refit is not False:
            raise InputError("validate.refit: a run on one fold (validate.fold) has no final fit; leave one out")
        if own.fold > (own.folds or 1):
            raise InputError(f"validate.fold: {own.fold} given, of {own.folds or 1}; see validate.folds")
    if own.folds is None and own.fold is None and own.refit is False:
        return
    key = "validate.folds" if own.folds is not None else "validate.refit" if own.refit is not False else "validate.fold"
    if c.tune is not None:
        raise InputError(f"{key}: a search of hyperparameters chooses on one split; leave it out, or set tune null")
    if len(c.fitness.metrics) > 1:
        raise InputError(f"{key}: chooses a kind of candidate, and a front of many objectives has none that stay")
    if c.fitness.split == "validation":
        raise InputError(f"{key}: its last fit is to validation images as well; fitness.split has to be train")
    whole = own.folds is not None or isinstance(own.refit, Refit)
    if whole and own.patience is not None:
        raise InputError("validate.patience: no fold ends a search whose mean over folds is looked at; leave it out")
    if whole and c.budget.target is not None:
        raise InputError("budget.target: no fold ends a search whose mean over folds is looked at; leave it out")
