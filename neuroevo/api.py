"""The public door: a search of a classifier on data, or of one's own function, from Python and without a config."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from neuroevo import devices
from neuroevo.classification import Classification, classification, make_algorithm
from neuroevo.engine import loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Champion, Rules, Step
from neuroevo.engine.observer import Observer, Observers, watch
from neuroevo.engine.problem import Problem
from neuroevo.errors import InputError
from neuroevo.problems import function
from neuroevo.problems.metric import FITNESS, LOWER_IS_BETTER

GENERATIONS = 400  # of a search without a budget, as of a run without one


class Result(NamedTuple):
    """What a search came to."""

    genome: Tensor  # [g]: the champion's
    fitness: float  # its own, the higher the better; on the validation split where there are data
    validation: dict[str, float]  # all that it was found to be worth there, as reported, or that the function returned
    test: dict[str, Any] | None  # of data with a test split: metrics with `interval`s, and how many `images`
    model: nn.Module | None  # a copy of the module with the champion's weights, where a module was evolved
    classes: tuple[str, ...]  # of the logits, where there are data
    generation: int  # in which it was found; 0: the start
    history: list[dict[str, float | None]]  # a line a generation
    population: Population  # the last
    cost: Cost
    seconds: float
    stop_reason: str  # which limit ended it; left, where none did
    folder: str | None = None  # of a run that was written down

    @property
    def metrics(self) -> dict[str, float]:
        """What the champion was found to be worth."""
        return self.validation


class Steps(Iterator[Step]):
    """A search that goes on for a generation whenever it is asked for the next step."""

    def __init__(self, search: "_Search", rules: Rules, begun: Step) -> None:
        self.rules, self.begun = rules, begun
        self._search, self._last = search, begun
        self._history: list[dict[str, float | None]] = []
        self._steps = loop.evolve(
            search.problem, search.algorithm, rules, begun, device=search.home, clock=time.monotonic
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        self._last = next(self._steps)
        self._history.append(self._last.record)
        return self._last

    def result(self) -> Result:
        """Return what the search has come to; the champion is scored on the test split here, and nowhere else."""
        search, step = self._search, self._last
        champion = step.champion
        return Result(
            genome=champion.genome,
            fitness=search.fitness(champion),
            validation=champion.validation,
            test=search.test(champion.genome),
            model=search.module(champion.genome),
            classes=search.classes,
            generation=champion.generation,
            history=list(self._history),
            population=step.population,
            cost=step.cost,
            seconds=step.seconds,
            stop_reason=step.stop or "left",
        )


def evolve(
    model: nn.Module | None = None,
    data: Any = None,
    *,
    fitness: Any = None,
    start: Tensor | None = None,
    trainable: str | Sequence[str] = (),
    algorithm: Any = None,
    refine: Any = None,
    validate: Any = None,
    samples: int | Literal["all"] | None = None,
    standardise: bool | None = None,
    sigma: float | Tensor | None = None,
    budget: Budget | None = None,
    patience: int | None = None,
    every: int | None = None,
    seed: int = 0,
    device: str = "auto",
    observers: Sequence[Observer | Callable[[Step], object]] = (),
) -> Result:
    """Evolve a classifier on data, a module, or genomes; return what came of it.

    With `data` the module gives logits [B, C] of inputs [B, ...]. They are `(x, y)`, tensors or arrays, a Dataset, a
    DataLoader, or a mapping of train, validation and test to any of those; what lacks is cut from train, 15 % each, and
    a mapping without test has none. What evolves is the module's last linear layer, or the parameters that patterns
    `trainable` match; all before it sees each input once. `fitness` is a metric (cross_entropy) on batches of `samples`
    (512, or all) of train, and `validate` one (accuracy) that names the champion: by name, as `{name: ..., option:
    ...}`, or a function of (logits [n, B, C], targets [B]) -> scores [n], the higher the better. Several metrics of
    fitness are as many objectives. `refine`, such as `sgd(steps=20)`, has individuals learn before they are scored.
    Features of a head are standardised, unless `standardise` is False; that is folded into the weights at the end.

    Without data, `fitness` is a function of one's own, the higher the better. Either `model` is given, whose parameters
    (those that `trainable` matches, all by default) are the genes: then it takes a module, which is a copy in eval
    mode, and returns a number, or numbers by name of which the first counts. Or `start` is, a genome [g] or several
    [s, g]: then it takes genomes [n, g] and returns [n]. NaN is invalid.

    `sigma` is the deviation of the first population around the start (0.01 with data, and relative to each parameter's
    size where more than a head evolves; else 0.1). `algorithm` is a genetic one by default; without a `budget` it takes
    400 generations. Candidates are looked at `every` so many generations (10 with data, else 1), and after `patience`
    looks without a better one it ends. Observers are told, and functions among them called with each generation's step.
    InputError, a ValueError, where something can't be. Nothing is printed, and the model given stays as it is.
    """
    observer = Observers(observers)
    found = steps(
        model,
        data,
        fitness=fitness,
        start=start,
        trainable=trainable,
        algorithm=algorithm,
        refine=refine,
        validate=validate,
        samples=samples,
        standardise=standardise,
        sigma=sigma,
        budget=budget,
        patience=patience,
        every=every,
        seed=seed,
        device=device,
        progress=observer.progress,
    )
    watch(found, found.begun, found.rules, observer)
    return found.result()


def steps(
    model: nn.Module | None = None,
    data: Any = None,
    *,
    fitness: Any = None,
    start: Tensor | None = None,
    trainable: str | Sequence[str] = (),
    algorithm: Any = None,
    refine: Any = None,
    validate: Any = None,
    samples: int | Literal["all"] | None = None,
    standardise: bool | None = None,
    sigma: float | Tensor | None = None,
    budget: Budget | None = None,
    patience: int | None = None,
    every: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Steps:
    """Return the steps of what `evolve` does, so that one may look, or leave, in between; `result()` ends it.

    `progress(done, total)` hears how many samples have gone through the frozen prefix, where it is known of how many.
    """
    trainable = [trainable] if isinstance(trainable, str) else list(trainable)
    place = devices.resolve(device)
    check_numbers(samples=samples, every=every, patience=patience)
    if not (budget is None or isinstance(budget, Budget)):
        raise InputError(f"Budget(generations=100) or another expected, a {type(budget).__name__} given", "budget")
    if data is not None:
        if model is None or start is not None:
            line = "data go with a model" if model is None else "a model given with data starts from its own weights"
            raise InputError(line, option="start" if model is not None else "model")
        if isinstance(sigma, Tensor):
            raise InputError("one number expected, with data", option="sigma")
        of = classification(
            model,
            data,
            trainable=trainable,
            algorithm=algorithm,
            refine=refine,
            fitness="cross_entropy" if fitness is None else fitness,
            validate="accuracy" if validate is None else validate,
            samples=512 if samples is None else samples,
            standardise=standardise,
            sigma=0.01 if sigma is None else sigma,
            seed=seed,
            device=place,
            progress=progress,
        )
        return steps_of(
            of,
            budget=budget or Budget(generations=GENERATIONS),
            patience=patience,
            every=10 if every is None else every,
            seed=seed,
        )
    only = {"refine": refine, "validate": validate, "samples": samples, "standardise": standardise}
    for option, value in only.items():
        if value is not None:
            raise InputError("goes with data", option=option)
    search = _of_function(
        model,
        fitness=fitness,
        start=start,
        trainable=trainable,
        sigma=0.1 if sigma is None else sigma,
        algorithm=algorithm,
        place=place,
    )
    rules = Rules(
        seed=seed,
        samples=1,
        every=1 if every is None else every,
        patience=patience,
        budget=budget or Budget(generations=GENERATIONS),
        metric=FITNESS,
        lower_is_better=False,
    )
    return Steps(search, rules, loop.begin(search.problem, search.algorithm, seed, search.home))


def steps_of(of: Classification, *, budget: Budget, patience: int | None, every: int, seed: int) -> Steps:
    """Return the steps of a classifier's search that is ready to go."""
    problem, metric, judged = of.problem(), of.supervised.metric, of.supervised.fitness.metrics[0]
    search = _Search(
        problem=problem,
        algorithm=of.algorithm,
        home=of.home,
        fitness=lambda champion: _score(champion, judged),
        module=of.module,
        test=lambda genome: None if (found := of.test(genome)) is None else found.scores,
        classes=of.table.classes,
    )
    rules = Rules(
        seed=seed,
        samples=of.samples,
        every=every,
        patience=patience,
        budget=budget,
        metric=metric,
        lower_is_better=metric in LOWER_IS_BETTER,
    )
    return Steps(search, rules, of.begin(problem, seed))


class _Search(NamedTuple):
    """What is searched, and what a genome of it is."""

    problem: Problem
    algorithm: Algorithm[Any]
    home: torch.device
    fitness: Callable[[Champion], float]
    module: Callable[[Tensor], nn.Module | None]
    test: Callable[[Tensor], dict[str, Any] | None] = lambda genome: None
    classes: tuple[str, ...] = ()


def _score(champion: Champion, metric: str) -> float:
    """Return a champion's score by a metric, the higher the better, of what is reported."""
    value = champion.validation[metric]
    return -value if metric in LOWER_IS_BETTER else value


def check_numbers(**given: Any) -> None:
    """See that options are whole numbers above 0, where they are given; InputError names the first that isn't."""
    for option, value in given.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not (value is None or whole or (option == "samples" and value == "all")):
            raise InputError(f"{value!r} given; a whole number above 0 expected", option=option)


def _of_function(
    model: nn.Module | None,
    *,
    fitness: Callable[..., Any] | None,
    start: Tensor | None,
    trainable: Sequence[str],
    sigma: float | Tensor,
    algorithm: Any,
    place: torch.device,
) -> _Search:
    """Return the search of a function of a module or of genomes."""
    if (model is None) == (start is None):
        line = "give either a model or a start, not both" if start is not None else "give a model or a start"
        raise InputError(line, option="start")
    if not callable(fitness):
        raise InputError("a function expected; a metric by name goes with data", option="fitness")
    search = make_algorithm(algorithm)
    evolvable: function.Evolvable | None = None
    if model is not None:
        evolvable = function.Evolvable(model, trainable, place)
        problem = function.of_module(fitness, evolvable, sigma=sigma)
    else:
        if trainable:
            raise InputError(f"{', '.join(trainable)}: genomes have no parameters by name", option="trainable")
        genomes = torch.as_tensor(start, dtype=torch.float32, device=place)
        if not genomes.numel() or genomes.ndim > 2 or not bool(genomes.isfinite().all()):
            raise InputError("a genome [g], or several [s, g], of finite numbers expected", option="start")
        problem = function.of_genomes(fitness, genomes, sigma=sigma)
    search.check(problem.layout.genes)
    return _Search(
        problem=problem,
        algorithm=search,
        home=place,
        fitness=lambda champion: champion.validation[FITNESS],
        module=lambda genome: None if evolvable is None else evolvable.of(genome),
    )
