"""The public door: searches of a classifier on data, or of one's own function, from Python."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from neuroevo.api import folders
from neuroevo.api import folds as folds_
from neuroevo.api.arguments import Arguments, of_classification
from neuroevo.api.classification import Classification
from neuroevo.api.islands import islands as make_islands
from neuroevo.api.results import Result, Steps
from neuroevo.config.schema import Islands
from neuroevo.engine.cost import Budget
from neuroevo.engine.execution import LOCAL, Executor, Precision
from neuroevo.engine.loop import Step
from neuroevo.engine.observer import Observer, Observers, watch
from neuroevo.errors import InputError
from neuroevo.experiments.recorders import aside
from neuroevo.experiments.reopen import concludes
from neuroevo.experiments.tracking import read_trackers
from neuroevo.storage import claims, rundir


def evolve(
    model: nn.Module | None = None,
    data: Any = None,
    *,
    fitness: Any = None,
    subject_to: Any = None,
    start: Tensor | None = None,
    trainable: str | Sequence[str] = (),
    algorithm: Any = None,
    refine: Any = None,
    validate: Any = None,
    samples: int | Literal["all"] | None = None,
    precision: Precision | None = None,
    standardise: bool | None = None,
    sigma: float | Tensor | None = None,
    space: Any = None,
    sources: Sequence[nn.Module | Mapping[str, Tensor]] = (),
    budget: Budget | None = None,
    patience: int | None = None,
    every: int | None = None,
    seed: int = 0,
    device: str = "auto",
    executor: Executor = LOCAL,
    islands: Islands | None = None,
    folds: int | None = None,
    refit: bool = False,
    logistic: bool = False,
    out: str | Path | None = None,
    observers: Sequence[Observer | Callable[[Step], object]] = (),
    tracking: Sequence[Any] = (),
) -> Result:
    """Evolve a classifier on data, a module, or genomes; return what came of it.

    With `data` the module gives logits [B, C] of inputs [B, ...]. They are `(x, y)`, tensors or arrays, perhaps with
    groups [N] of samples behind them, a Dataset, a DataLoader, or a mapping of train, validation and test to any of
    those; what lacks is cut from train, 15 % each, and a mapping without test has none. What evolves is the module's
    last linear layer, or the parameters that patterns
    `trainable` match; all before it sees each input once. `fitness` is a metric (cross_entropy) on batches of `samples`
    (512, or all) of train, and `validate` one (accuracy) that names the champion: by name, as `{name: ..., option:
    ...}`, a function of (logits [n, B, C], targets [B]) -> scores [n], the higher the better, or one of a module as
    below. Several metrics of fitness are as many objectives. Networks are `subject_to` constraints, a list such as
    `[{"metric": "precision", "per": "class", "at_least": 0.8}]`: those that keep to all come before others, and the
    less violated before the more (Deb 2000). `refine`, such as `sgd(steps=20)`, has individuals learn
    before they are scored. Features of a head are standardised, unless `standardise` is False; that is folded into the
    weights at the end.

    Without data, `fitness` is a function of one's own, the higher the better. Either `model` is given, whose parameters
    (those that `trainable` matches, all by default) are the genes: then it takes a module, which is a copy in eval
    mode, and returns a number, or numbers by name of which the first counts. Or `start` is, a genome [g] or several
    [s, g]: then it takes genomes [n, g] and returns [n]. NaN is invalid. Constraints are on numbers by name that the
    function returns.

    Genes are the weights of what evolves, or coordinates in a `space` around them (`random`, `low_rank`, `scales`,
    `singular`; `levels` are whole numbers), or around those of `sources`, one module or its weights by name; `merge` is
    among several. `sigma` is the deviation of the first population around the start: with data 0.01, and relative to
    each parameter's size where more than a head evolves; of coordinates, and without data, 0.1. `algorithm` is a
    genetic one by default, of coordinates and without data `nes`; without a `budget` it takes 400 generations.
    Candidates are looked at `every` so many generations (10 with data, else 1), and after `patience` looks without a
    better one it ends.
    Observers are told, and functions among them called with each generation's step.
    With data, `precision` is that of scoring: float32, bfloat16, float16 (on GPUs) or auto, which is half where that is
    clearly quicker on this machine; the best are scored again in float32.
    For few samples there are `folds`: so many searches, each validated on its own part of train and validation, choose
    together when a last one ends, which is fitted to all of both, and who is its champion; with `refit` one search
    chooses that, on the data's own split. All of them share a budget of samples or seconds. `logistic` compares a
    linear head's champion with scikit-learn's logistic regression on the same features.
    With `islands`, such as `islands(count=4)`, there are several populations, which send each other their best.
    `executor` does the work of slices of individuals, one after another in this process by default.
    `out` names a new folder for the run, as the command line's: with checkpoints, to go on from by `resume`, and for
    `neuroevo report` and `inspect`. With it `tracking` names trackers that are told of the run, such as `"tensorboard"`
    or `{"name": "mlflow", "uri": ...}`, each in a process of its own. InputError, a
    ValueError, where something can't be. Nothing is printed, and the model given stays as it is.
    """
    observer, told = Observers(observers), read_trackers(tracking)
    if told and out is None:
        raise InputError("goes with out, the folder of the run that trackers are told of", option="tracking")
    asked = Arguments(
        model=model,
        data=data,
        fitness=fitness,
        subject_to=subject_to,
        start=start,
        trainable=trainable,
        algorithm=algorithm,
        refine=refine,
        validate=validate,
        samples=samples,
        precision=precision,
        standardise=standardise,
        sigma=sigma,
        space=space,
        sources=sources,
        budget=budget,
        patience=patience,
        every=every,
        seed=seed,
        device=device,
        executor=executor,
        islands=islands,
        folds=folds,
        refit=refit,
        logistic=logistic,
        progress=observer.progress,
    )
    asked.check()
    if asked.chooses and out is None:
        return folds_.run(asked, observer)
    if out is None:
        found = Steps(*asked.search())
        for line in found.search.notes:
            observer.note(line)
        watch(found, found.begun, found.rules, observer)
        return found.result(note=observer.note)
    with folders.claim(out, seed) as folder:
        if asked.chooses:
            return folds_.go_on(asked, folder, observer, tracking=told)
        found = Steps(*asked.search())
        folders.keep(found.search, found, found.begun, folder, observer, history=[], tracking=told)
    return found.result(folder)


def steps(
    model: nn.Module | None = None,
    data: Any = None,
    *,
    fitness: Any = None,
    subject_to: Any = None,
    start: Tensor | None = None,
    trainable: str | Sequence[str] = (),
    algorithm: Any = None,
    refine: Any = None,
    validate: Any = None,
    samples: int | Literal["all"] | None = None,
    precision: Precision | None = None,
    standardise: bool | None = None,
    sigma: float | Tensor | None = None,
    space: Any = None,
    sources: Sequence[nn.Module | Mapping[str, Tensor]] = (),
    budget: Budget | None = None,
    patience: int | None = None,
    every: int | None = None,
    seed: int = 0,
    device: str = "auto",
    executor: Executor = LOCAL,
    islands: Islands | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Steps:
    """Return the steps of what `evolve` does, so that one may look, or leave, in between; `result()` ends it.

    `progress(done, total)` hears how many samples have gone through the frozen prefix, where it is known of how many.
    """
    asked = Arguments(
        model=model,
        data=data,
        fitness=fitness,
        subject_to=subject_to,
        start=start,
        trainable=trainable,
        algorithm=algorithm,
        refine=refine,
        validate=validate,
        samples=samples,
        precision=precision,
        standardise=standardise,
        sigma=sigma,
        space=space,
        sources=sources,
        budget=budget,
        patience=patience,
        every=every,
        seed=seed,
        device=device,
        executor=executor,
        islands=islands,
        progress=progress,
    )
    return Steps(*asked.search())


def steps_of(of: Classification, *, budget: Budget, patience: int | None, every: int, seed: int) -> Steps:
    """Return the steps of a classifier's search that is ready to go."""
    return Steps(*of_classification(of, budget=budget, patience=patience, every=every, seed=seed))


def resume(
    folder: str | Path,
    model: nn.Module | None = None,
    data: Any = None,
    *,
    fitness: Any = None,
    subject_to: Any = None,
    start: Tensor | None = None,
    algorithm: Any = None,
    refine: Any = None,
    validate: Any = None,
    space: Any = None,
    sources: Sequence[nn.Module | Mapping[str, Tensor]] = (),
    budget: Budget | None = None,
    executor: Executor = LOCAL,
    observers: Sequence[Observer | Callable[[Step], object]] = (),
    tracking: Sequence[Any] = (),
) -> Result:
    """Go on with a run that `evolve` began with `out`, to the same bytes as if it had never stopped.

    What was given as an object (module, data, start, sources, functions, algorithms built by a call) is given again,
    the same:
    InputError names what is missing or differs. So is `tracking`, which goes on in the same runs of its trackers.
    A `budget` takes the old one's place. One that has come to its end, and isn't given more, is returned as it is.
    """
    place, observer, told = rundir.find(str(folder)), Observers(observers), read_trackers(tracking)
    with claims.lock(place):
        record, saved = folders.read(place, observer.note)
        many = record["fitness"].get("metrics")
        if record["genome"].get("sources") and not sources:
            raise InputError("were given as objects when the run began; give them again", option="sources")
        asked = Arguments(
            model=model,
            data=data,
            start=start,
            fitness=folders.part(many or record["fitness"]["metric"], fitness, "fitness"),
            subject_to=folders.part(record["fitness"].get("subject_to"), subject_to, "subject_to"),
            trainable=record["backbone"]["trainable"],
            algorithm=folders.part(record["algorithm"], algorithm, "algorithm"),
            refine=folders.part(record["refine"], refine, "refine"),
            validate=None if data is None else folders.part(record["validate"]["metric"], validate, "validate"),
            samples=record["fitness"]["samples"],
            precision=record["fitness"].get("precision"),
            standardise=record["features"]["standardise"],
            sigma=folders.number(record["genome"]["init_sigma"]),
            space=folders.part(record["genome"].get("space"), space, "space"),
            sources=sources,
            budget=budget or Budget(**record["budget"]),
            patience=record["validate"]["patience"],
            every=record["validate"]["every"],
            seed=record["seed"],
            device=record["device"],
            checkpoint=record["checkpoint"],
            began_with=record["algorithm"]["name"] if record["algorithm"].get("default") else None,
            executor=executor,
            islands=None if record.get("islands") is None else make_islands(**record["islands"]),
            **folds_.arguments(record),
            progress=observer.progress,
        )
        if asked.chooses:
            return folds_.resume(asked, record, place, observer, tracking=told)
        if asked.ending is not None and budget is not None:
            raise InputError("a final fit ends where its searches chose; its budget can't change", option="budget")
        found = Steps(*asked.search())
        folders.agree(found.search.record, record, place)
        if saved is not None:
            found = found.go_on(saved, observer.note, budget)
        if found.begun.stop is None or not (saved and concludes(rundir.read_result(place), saved)):
            history = [] if saved is None else saved.history
            aside(place, saved, observer.note)
            folders.keep(found.search, found, found.begun, place, observer, history=history, tracking=told)
    return found.result(place)
