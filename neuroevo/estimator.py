"""scikit-learn's contract: a classifier of feature arrays whose weights are evolved.

Samples come to the search as a multiset: neither the order of X nor whether a sample is repeated or weighted makes a
difference, and equal samples are never on both sides of the validation split.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import nn

from neuroevo import devices
from neuroevo.api.classification import Goal, check_sigma, make_goal, of_table
from neuroevo.api.genes import make_algorithm
from neuroevo.api.results import Result
from neuroevo.api.searches import steps_of
from neuroevo.data.repetitions import Multiset, count, split, statistics
from neuroevo.data.samples import Features
from neuroevo.data.tensors import Table
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget
from neuroevo.engine.execution import Precision
from neuroevo.engine.rng import generator
from neuroevo.errors import InputError
from neuroevo.networks import heads
from neuroevo.networks.modules import of_head
from neuroevo.problems.metric import OfModule
from neuroevo.problems.precision import check

Array = npt.NDArray[Any]


class Settings(NamedTuple):
    """What an estimator's parameters say, checked."""

    algorithm: Algorithm[Any]
    goal: Goal
    hidden: list[int]
    budget: Budget  # generations among it
    share: float  # of validation
    every: int
    patience: int | None
    samples: int | Literal["all"]
    precision: Precision
    standardise: bool
    sigma: float
    device: torch.device
    seed: int


class NeuroevoClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # it has no types
    """A linear classifier, or a multilayer perceptron, of features [n, d], whose weights are evolved.

    The population is a matrix of all weights. It is scored on batches of the train part, and of its candidates the one
    that does best on the validation part is what is fitted. The output layer starts from zeros.

    Parameters
    ----------
    algorithm : the search: a name, `{"name": "ga", "population": 64}`, or an object such as `neuroevo.ga()`. Objects
        hold functions that `pickle` refuses; a fitted estimator that is to be pickled has it by name.
    hidden : sizes of hidden layers, with ReLU; without any the classifier is linear.
    refine : gradient steps of individuals before they are scored: None, `"adam"`, `{"name": "sgd", "lr": 0.1}`, or an
        object such as `neuroevo.sgd(steps=20)`.
    fitness, validate : metrics of the train batches and of the validation part: names, mappings, or functions of logits
        [n, B, C] and targets [B] to scores [n], the higher the better. Several of fitness are as many objectives.
    subject_to : constraints, a list such as `[{"metric": "precision", "per": "class", "at_least": 0.8}]`: those that
        keep to all come before others, and the less violated before the more.
    max_iter : generations at most.
    budget : `neuroevo.Budget` of other limits beside it: seconds, samples, a target.
    validation_fraction : share of the samples that are held out to choose the champion, of each class as of all. Where
        that would leave some class out, as it has too few samples, and with 0, the champion is chosen on the train part
        itself, which then is everything: its validation scores tell nothing of other samples.
    every : generations from one look at candidates to the next; by default 10, and 1 with `refine`.
    patience : looks without a better candidate after which it ends; None: none does.
    samples : train samples of a generation's batch, or "all".
    precision : of scoring: float32, bfloat16, float16 (on GPUs) or auto, which is half where that is clearly quicker on
        this machine; the best are scored again in float32.
    standardise : whether features are brought to mean 0 and deviation 1, which is folded into the weights at the end.
    sigma : the deviation of the first population around the start.
    random_state : an int, a `RandomState` or None. The same int gives the same bytes on one machine.
    device : auto, cpu or cuda.

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_ : as scikit-learn has them.
    coefs_, intercepts_ : weights [inputs, outputs] and biases [outputs] of each layer, in float64.
    n_iter_ : generations that it took; `stop_reason_` says which limit ended it.
    history_ : a dict a generation.
    validation_ : the champion's metrics on the validation part.
    constraints_ : how it keeps to each constraint there; None without any.

    """

    def __init__(
        self,
        algorithm: Any = "ga",
        *,
        hidden: Sequence[int] = (),
        refine: Any = None,
        fitness: Any = "cross_entropy",
        subject_to: Any = None,
        validate: Any = "accuracy",
        max_iter: int = 400,
        budget: Budget | None = None,
        validation_fraction: float = 0.15,
        every: int | None = None,
        patience: int | None = 10,
        samples: int | str = 512,
        precision: str = "auto",
        standardise: bool = True,
        sigma: float = 0.01,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.algorithm = algorithm
        self.hidden = hidden
        self.refine = refine
        self.fitness = fitness
        self.subject_to = subject_to
        self.validate = validate
        self.max_iter = max_iter
        self.budget = budget
        self.validation_fraction = validation_fraction
        self.every = every
        self.patience = patience
        self.samples = samples
        self.precision = precision
        self.standardise = standardise
        self.sigma = sigma
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803  scikit-learn's name
        """Evolve the weights on features X [n, d] and labels y [n]; return self.

        `sample_weight` [n] are repetitions: one of 0 is no sample, one of 2 is two, in fitness, gradient steps,
        validation and standardisation alike, whatever the metrics are. Whole numbers of 16 on average, or multiples of
        the smallest, are taken as they are; others in sixteenths of the mean, rounded so that each class has what it
        weighs. ValueError where something can't be.
        """
        x, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(y)
        settings, weights = self._check(), _weights(sample_weight, len(x))
        x, y, weights = x[weights > 0], y[weights > 0], weights[weights > 0]
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"one class, {classes[0]}; samples of two classes are the least", option="y")
        samples = count(x, labels, weights)
        train, validation = split(samples.labels, settings.share, settings.seed)
        mean, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
        if settings.standardise:
            mean, scale = statistics(samples.x[train], samples.times[train])
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = samples._replace(x=((samples.x - mean) / scale).astype(np.float32))
        if not (np.isfinite(scaled.x).all() and np.isfinite(scale).all()):
            raise InputError("its numbers are too large for float32", option="X")
        result = search(scaled, train, validation, tuple(map(str, classes)), settings)
        assert result.model is not None
        layers = [layer for layer in result.model.modules() if isinstance(layer, nn.Linear)]
        self.coefs_ = [layer.weight.detach().cpu().double().numpy().T.copy() for layer in layers]
        self.intercepts_ = [layer.bias.detach().cpu().double().numpy() for layer in layers]
        self.coefs_[0] /= scale[:, None]
        self.intercepts_[0] = self.intercepts_[0] - mean @ self.coefs_[0]
        self.classes_ = classes
        self.n_iter_, self.stop_reason_ = len(result.history), result.stop_reason
        self.history_, self.validation_ = result.history, result.validation
        self.constraints_ = result.constraints
        return self

    def decision_function(self, X: Any) -> Array:  # noqa: N803
        """Return the logits [n, C] of features X [n, d]; of two classes how far the second's is above the first's."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """Return the probability of each class [n, C] for features X [n, d]."""
        logits = self._logits(X)
        shares: Array = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return shares

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Return the class [n] of the highest logit for features X [n, d]."""
        chosen = self._logits(X).argmax(1)
        found: Array = self.classes_[chosen]
        return found

    def _logits(self, X: Any) -> Array:  # noqa: N803
        check_is_fitted(self)
        x: Array = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        x = x.astype(np.float64, copy=False)
        for i, (weights, bias) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            x = (np.maximum(x, 0) if i else x) @ weights + bias
        return x

    def _check(self) -> Settings:
        """Return what the parameters say; InputError names the first that can't be."""
        share, budget = self.validation_fraction, Budget() if self.budget is None else self.budget
        if not isinstance(share, Real) or isinstance(share, bool) or not 0 <= share < 1:
            raise InputError(f"{share!r} given; a number from 0 to below 1 expected", option="validation_fraction")
        if not isinstance(budget, Budget):
            raise InputError(f"neuroevo.Budget(seconds=10) or None expected, {budget!r} given", option="budget")
        if not isinstance(self.standardise, bool | np.bool_):
            raise InputError(f"{self.standardise!r} given; True or False expected", option="standardise")
        check_sigma(self.sigma)
        most = _whole("max_iter", self.max_iter)
        sizes = self.hidden if isinstance(self.hidden, list | tuple | np.ndarray) else [self.hidden]
        goal = make_goal(self.fitness, self.validate, self.refine, self.subject_to)
        if any(isinstance(metric, OfModule) for metric in goal.metrics.values()):
            raise InputError(
                "a function of a network goes with neuroevo.evolve; here it is of logits", option="fitness"
            )
        device = devices.resolve(self.device)
        check(self.precision, device)
        looks = 10 if goal.learns is None else 1
        return Settings(
            algorithm=make_algorithm(self.algorithm, many=len(goal.fitness) > 1),
            goal=goal,
            hidden=[_whole("hidden", size) for size in sizes],
            budget=replace(budget, generations=most if budget.generations is None else min(most, budget.generations)),
            share=float(share),
            every=looks if self.every is None else _whole("every", self.every),
            patience=None if self.patience is None else _whole("patience", self.patience),
            samples="all" if self.samples == "all" else _whole("samples", self.samples),
            precision=cast("Precision", self.precision),
            standardise=bool(self.standardise),
            sigma=float(self.sigma),
            device=device,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
        )


def search(samples: Multiset, train: Array, validation: Array, classes: tuple[str, ...], settings: Settings) -> Result:
    """Return what a search on samples [N, d] float32 comes to, of which rows are in train and in validation."""
    device, seed, width = settings.device, settings.seed, samples.x.shape[1]
    parts = {"train": train, "validation": validation, "test": np.arange(0)}
    labels = torch.from_numpy(samples.labels).to(device)
    of = of_table(
        of_head(build_head(width, len(classes), settings.hidden, seed), width, len(classes)),
        Table(
            Features((torch.from_numpy(samples.x).to(device),), labels, None, device),
            {name: torch.from_numpy(np.repeat(rows, samples.times[rows])) for name, rows in parts.items()},
            classes,
            computed=0,
        ),
        settings.algorithm,
        settings.goal,
        samples=settings.samples,
        precision=settings.precision,
        standardise=False,
        sigma=settings.sigma,
        seed=seed,
        device=device,
    )
    steps = steps_of(of, budget=settings.budget, patience=settings.patience, every=settings.every, seed=seed)
    for _ in steps:
        pass
    return steps.result()


def build_head(width: int, classes: int, hidden: list[int], seed: int) -> nn.Module:
    """Return a head as a search starts from it: its output layer zero, others as torch's by default."""
    with torch.device("meta"):  # where nothing is drawn from the global generator
        head = heads.mlp(width, classes, hidden=hidden) if hidden else heads.linear(width, classes)
    head.to_empty(device="cpu")
    *inner, last = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    source = generator(seed, "head", 0)
    for layer in inner:
        bound = 1 / math.sqrt(layer.in_features)
        for p in layer.parameters():
            nn.init.uniform_(p, -bound, bound, generator=source)
    for p in last.parameters():
        nn.init.zeros_(p)
    return head


def _weights(given: Any, size: int) -> Array:
    """Return the weights [size] of samples, ones where none are given; InputError where they are no such numbers."""
    if given is None:
        return np.ones(size)
    found: Array = check_array(given, dtype=np.float64, ensure_2d=False, input_name="sample_weight")
    if found.shape != (size,) or not found.any() or bool((found < 0).any()):
        wrong = f"shape {list(found.shape)}" if found.shape != (size,) else "negative weights"
        wrong = wrong if found.any() else "weights of zero alone"
        raise InputError(f"{wrong} given; a number from 0 expected for each of {size} samples", option="sample_weight")
    return found


def _whole(option: str, value: Any) -> int:
    """Return a whole number from 1; InputError where it is none."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"{value!r} given; a whole number above 0 expected", option=option)
    return int(value)
