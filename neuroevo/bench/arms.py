"""The arms of a benchmark: what each changes in the config that all share, given the budget.

Settings were chosen on validation, with the effort that docs/benchmark.md tells of each; those that depend on the
budget are functions of it. What decides what an arm sees and how it is judged is none of its business.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

from neuroevo import config as config_
from neuroevo.config import Config
from neuroevo.errors import InputError
from neuroevo.experiments import costs
from neuroevo.storage import rundir

LOOKS = 60  # validations of a run, about: each arm gets as many chances to name its champion
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1)  # that SGD pays for trying
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01, "schedule": "cosine"}
# What arms have in common, or the comparison means nothing: whole sections, and keys.
SHARED = {"seed", "device", "data", "backbone", "head", "budget"}
SHARED |= {"validate.metric", "validate.patience", "memory.limit"}
SECTIONS = ("algorithm", "refine", "genome", "features", "fitness", "validate", "memory", "islands", "tune")
REPLACED = ("algorithm", "refine", "tune")  # sections that an arm brings whole

Overlay = dict[str, Any]


class Given(NamedTuple):
    """The budget and the sizes of the data, which an arm is a function of."""

    samples: int  # of its budget: forward + 2 x backward
    train: int  # images
    validation: int

    @property
    def counts(self) -> dict[str, int]:
        """Images a split."""
        return {"train": self.train, "validation": self.validation}


def _batch(given: Given, population: int, generations: int = 400, least: int = 128, most: int = 1024) -> int:
    """Return a generation's samples for a search without gradients: fewer in short runs, as docs/search.md has it."""
    wanted = given.samples // (population * generations)
    return min(most, max(least, 1 << max(0, wanted.bit_length() - 1)))


def _search_without_gradients(given: Given, algorithm: str, population: int = 256) -> Overlay:
    return {
        "algorithm": {"name": algorithm, "population": population},
        "refine": None,
        "fitness": {"samples": _batch(given, population)},
    }


def _steps(given: Given, individuals: int, batch_size: int) -> int:
    """Return a generation's gradient steps such that it can be validated `LOOKS` times."""
    return max(1, given.samples // (LOOKS * individuals * 3 * min(batch_size, given.train)))


def ga(given: Given) -> Overlay:
    """Search by the default genetic algorithm, without gradients."""
    return _search_without_gradients(given, "ga")


def config(given: Given) -> Overlay:
    """Run the config as it is, but for budget, validations and checkpoints."""
    return {}


def snes(given: Given) -> Overlay:
    """Search by a separable natural evolution strategy (Wierstra et al. 2014)."""
    return _search_without_gradients(given, "snes", population=128)


def spsa(given: Given) -> Overlay:
    """Step along random directions by two forward passes each (Spall 1992; MeZO's form), with momentum."""
    batch = _batch(given, 2, generations=15_000, least=64, most=1024)
    return {
        "algorithm": {"name": "spsa", "population": 2, "lr": 30.0},
        "refine": None,
        "genome": {"init_sigma": 0.01},
        "fitness": {"samples": batch},
    }


def coordinate(given: Given) -> Overlay:
    """Try a step up and one down along some genes a generation, and go on with the best: for few genes."""
    return _search_without_gradients(given, "coordinate", population=64) | {"genome": {"init_sigma": 0.03}}


def pso(given: Given) -> Overlay:
    """Let a particle swarm search the weights: few particles in a ring, small steps, few genes, many generations."""
    n = 32
    return {
        "algorithm": {"name": "pso", "population": n, "neighbourhood": "ring", "max_velocity": 1.0},
        "refine": None,
        "genome": {"init_sigma": 0.02},
        "features": {"components": 128},
        "fitness": {"samples": _batch(given, 2 * n, generations=2000, least=64, most=256)},
    }


def random(given: Given) -> Overlay:
    """Search at random: a new population around the start each generation."""
    return _search_without_gradients(given, "random")


def sgd(given: Given) -> Overlay:
    """Train by SGD at four learning rates, each with a quarter of the budget; validation chooses among them."""
    n = len(LEARNING_RATES)
    return _sgd(given, n) | {"genome": {"init_sigma": 0}}


def sgd_restarts(given: Given) -> Overlay:
    """Train by SGD from many starts, on batches of their own, at the same four learning rates; validation chooses."""
    n = len(LEARNING_RATES) * min(16, max(2, given.samples // (3 * given.train * 20 * len(LEARNING_RATES))))
    found = _sgd(given, n) | {"genome": {"init_sigma": 0.02}}
    found["refine"]["batches"] = "own"
    return found


def _sgd(given: Given, individuals: int) -> Overlay:
    own = {"batch_size": 128, "steps": _steps(given, individuals, 128), "optimizer_state": "inherit"}
    return {
        "algorithm": {"name": "fixed", "population": individuals},
        "refine": {**SGD, "lr": list(LEARNING_RATES), **own},
        "features": {"components": None, "whitening": 0.0},
        "fitness": {"samples": 128},
    }


def hybrid(given: Given) -> Overlay:
    """Evolve few individuals that SGD trains on batches of their own, and whose children inherit what they learnt."""
    n = 4
    mutation = {"name": "gaussian", "sigma": 0.001, "schedule": "constant", "self_adaptive": True}
    breeding = {"selection": "tournament", "crossover": "uniform", "mutation": mutation}
    own = {"batch_size": 128, "steps": _steps(given, n, 128), "batches": "own"}
    return {
        "algorithm": {"name": "ga", "population": n, "elites": n // 2, **breeding},
        "refine": {**SGD, "lr": [LEARNING_RATES[0], LEARNING_RATES[-1]], **own},
        "genome": {"init_sigma": 0.001},
        "features": {"components": None, "whitening": 0.0},
        "fitness": {"samples": 512},
    }


def classic(given: Given) -> Overlay:
    """Follow the classic recipe: ten individuals, random parents, five epochs each, fitness = validation accuracy."""
    noise = {"name": "gaussian", "sigma": 0.1, "schedule": "constant", "self_adaptive": False}
    return {
        "algorithm": {
            "name": "ga",
            "population": 10,
            "elites": 0,
            "selection": "random",
            "crossover": {"name": "uniform", "rate": 0.5},
            "mutation": {**noise, "rate": 0.1, "per": "tensor"},
            "averaging": False,
        },
        "refine": {"name": "sgd", "momentum": 0.9, "lr": 0.01, "batch_size": 32, "steps": {"epochs": 5}},
        "genome": {"init_sigma": 0.1},
        "features": {"standardise": False, "components": None, "whitening": 0.0},
        "fitness": {"metric": "accuracy", "split": "validation", "samples": "all"},
        "validate": {"every": 1},
    }


def _make_once() -> Overlay:
    """Return what an arm has that is a closed form (`closed`): one network, in one generation."""
    return {
        "algorithm": {"name": "fixed", "population": 1},
        "refine": None,
        "genome": {"init_sigma": 0, "space": "full", "levels": None},  # its starts are the networks themselves
        "fitness": {"samples": 128},
        "validate": {"every": 1},
    }


def soup(given: Given) -> Overlay:
    """Take the mean of the networks of `genome.from` (Wortsman et al. 2022): a closed form."""
    return _make_once()


def greedy_soup(given: Given) -> Overlay:
    """Take the mean of those of `genome.from` that make it no worse on validation (Wortsman et al. 2022)."""
    return _make_once()


def regmean(given: Given) -> Overlay:
    """Merge the networks of `genome.from` layer by layer, by least squares on their inputs (Jin et al. 2023)."""
    return _make_once()


def bias_correction(given: Given) -> Overlay:
    """Take the start, its quantised backbone's biases corrected by means over train images (Nagel et al. 2019)."""
    return _make_once()


def logistic(given: Given) -> Overlay:
    """Fit scikit-learn's logistic regression to a linear head's features, C by cross-validation within train."""
    return _make_once() | {"features": {"components": None, "whitening": 0.0}}


# What a closed form needs, and what for.
NEEDS = {
    **dict.fromkeys(("soup", "greedy_soup", "regmean"), ("genome", "from", "two networks or more, to merge")),
    "bias_correction": ("backbone", "quantise", "a backbone that is rounded, to mend"),
}
TABLE: tuple[Callable[[Given], Overlay], ...] = (
    ga,
    hybrid,
    sgd,
    sgd_restarts,
    snes,
    spsa,
    coordinate,
    pso,
    random,
    classic,
    soup,
    greedy_soup,
    regmean,
    bias_correction,
    logistic,
    config,
)
ARMS: dict[str, Callable[[Given], Overlay]] = {arm.__name__: arm for arm in TABLE}


def read_arm(arm: str) -> tuple[str, Overlay | None]:
    """Return an arm's name, and the overlay where it is a YAML file; InputError where it is neither that nor known."""
    if arm in ARMS:
        return arm, None
    if not arm.endswith((".yaml", ".yml")):
        raise InputError(f"--arms: no arm is called {arm!r}; there are {', '.join(ARMS)}, and YAML files")
    overlay = config_.read(arm)
    for key, value in overlay.items():
        inner = value if isinstance(value, Mapping) else {}
        for wrong in sorted(SHARED & {key, *(f"{key}.{name}" for name in inner)}):
            raise InputError(f"{arm}: {wrong} is the same for all arms; set it in the config that they share")
        if key not in SECTIONS:
            raise InputError(f"{arm}: {key}: unknown section; an arm can have: {', '.join(SECTIONS)}")
    name = os.path.splitext(os.path.basename(arm))[0]
    if name in ARMS:
        raise InputError(f"{arm}: {name} is the name of an arm already; give the file another")
    return name, overlay


def configure(
    base: Mapping[str, Any], arm: str, overlay: Overlay | None, given: Given, *, seed: int, split: int
) -> Config:
    """Return the config of an arm's run; what the base says of features holds for every arm of the table."""
    raw: dict[str, Any] = deepcopy(dict(base))
    raw |= {"seed": seed, "budget": {"samples": given.samples}}
    raw["data"] = {**_mapping(raw.get("data")), "split_seed": split}
    changes = ARMS[arm](given) if overlay is None else overlay
    if overlay is None and arm == "logistic":
        raw["budget"] = {"generations": 1}  # it takes what it takes, which is counted
    if overlay is None and arm in NEEDS:
        raw["budget"]["generations"] = 1
        section, key, what = NEEDS[arm]
        found = _mapping(raw.get(section)).get(key)
        if not found or (isinstance(found, list) and len(found) < 2):
            raise InputError(f"arm {arm}: {section}.{key}: the config has none; give it {what}")
    if changes and "tune" not in changes:
        raw["tune"] = None
    if overlay is None and changes:
        bare = config_.check(raw | {"algorithm": {}, "refine": None, "tune": None})
        if bare.features.components is None or {"components", "whitening"} & _mapping(base.get("features")).keys():
            changes.pop("features", None)
    for key, value in changes.items():
        whole = key in REPLACED and (not isinstance(value, Mapping) or "name" in value or key == "tune")
        kept = _mapping(raw.get(key)) if isinstance(value, Mapping) and not whole else {}
        if key == "fitness" and isinstance(value, Mapping) and "metric" in value:
            kept.pop("metrics", None)
        raw[key] = {**kept, **value} if isinstance(value, Mapping) else value
    try:
        if isinstance(raw.get("tune"), Mapping):
            raw["tune"] = share_budget(raw["tune"], given)
        c = config_.check(raw)
    except InputError as error:
        raise InputError(f"arm {arm}: {error}") from None
    return schedule_validation(c, given, _mapping(changes.get("validate")))


def share_budget(search: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """Return a section tune whose search is paid for out of the arm's budget: half of it unless it says otherwise."""
    budget = search.get("budget") or {}
    if isinstance(budget, Mapping):  # else the check says what is wrong
        samples = budget.get("samples")
        if isinstance(samples, int | float) and not samples < given.samples:
            raise InputError(f"tune.budget.samples: {samples:,} given, of which {given.samples:,} are the arm's in all")
        budget = {**budget, "samples": given.samples // 2 if samples is None else samples}
    return {**search, "budget": budget, "included": True, "final": True}


def schedule_validation(c: Config, given: Given, validate: Mapping[str, Any]) -> Config:
    """Return a config that validates `LOOKS` times, unless its arm says how often, and checkpoints as often."""
    takes = costs.generation(c, given.counts).samples
    every = int(validate.get("every") or max(1, round(given.samples / max(1, takes) / LOOKS)))
    return replace(
        c,
        validate=c.validate.model_copy(update={"every": every, "patience": None, "logistic": False}),
        checkpoint=c.checkpoint.model_copy(update={"every": every, "keep": 1, "network": False}),
    )


def _mapping(section: Any) -> dict[str, Any]:
    return {"name": section} if isinstance(section, str) else dict(section or {})


def read_arms(arms: Sequence[str]) -> dict[str, Overlay | None]:
    """Return the overlays of arms by name, in their order; InputError where one is given twice."""
    found: dict[str, Overlay | None] = {}
    for arm in arms:
        name, overlay = read_arm(arm)
        if not rundir.is_arm(name):
            raise InputError(f"--arms: {arm}: {name!r} can't be a folder's name; give the file another")
        if name in found:
            raise InputError(f"--arms: {name} is given twice")
        found[name] = overlay
    return found
