"""The arguments of `evolve`, as a search and as the config of a run's folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuroevo import devices
from neuroevo.api.classification import Classification, Reading, check_sigma, of_table, read
from neuroevo.api.folders import EVERY, KEEP, Record, Search, spell, spell_constraints
from neuroevo.api.genes import make_algorithm, make_genes, usual_algorithm
from neuroevo.api.islands import join
from neuroevo.api.learners import about
from neuroevo.config.schema import Islands
from neuroevo.data.tensors import Table
from neuroevo.engine import loop
from neuroevo.engine.cost import Budget
from neuroevo.engine.execution import AUTO, LOCAL, Executor, Precision
from neuroevo.engine.loop import Champion, Ending, Rules, Step
from neuroevo.errors import InputError
from neuroevo.experiments.reopen import PYTHON
from neuroevo.networks import onnxfiles, quantised
from neuroevo.networks.weightfiles import digest
from neuroevo.problems import constraints as constraints_
from neuroevo.problems import function
from neuroevo.problems.constraints import SUBJECT_TO
from neuroevo.problems.intervals import Tested
from neuroevo.problems.metric import FITNESS, LOWER_IS_BETTER
from neuroevo.problems.precision import check

GENERATIONS = 400  # of a search without a budget, as of a run without one


@dataclass(frozen=True)
class Arguments:
    """What `evolve` was asked for; its docstring says what each is."""

    model: nn.Module | None = None
    data: Any = None
    fitness: Any = None
    subject_to: Any = None
    start: Tensor | None = None
    trainable: str | Sequence[str] = ()
    algorithm: Any = None
    refine: Any = None
    validate: Any = None
    samples: int | Literal["all"] | None = None
    precision: Precision | None = None
    standardise: bool | None = None
    sigma: float | Tensor | None = None
    space: Any = None
    sources: Sequence[nn.Module | Mapping[str, Tensor]] = ()
    budget: Budget | None = None
    patience: int | None = None
    every: int | None = None
    seed: int = 0
    device: str = "auto"
    executor: Executor = LOCAL
    islands: Islands | None = None
    folds: int | None = None
    refit: bool = False
    fold: int | None = None  # one of the searches that choose when the last fit ends, from 1
    ending: Ending | None = None  # what they chose
    logistic: bool = False
    reading: Reading | None = None  # of the data, where they are read already
    checkpoint: Mapping[str, int] = field(default_factory=lambda: {"every": EVERY, "keep": KEEP})
    progress: Callable[[int, int], object] = lambda done, total: None
    began_with: str | None = None  # the algorithm that was the usual one when a run began

    @property
    def patterns(self) -> list[str]:
        """Patterns of what evolves."""
        return [self.trainable] if isinstance(self.trainable, str) else list(self.trainable)

    @property
    def usual(self) -> str:
        """The algorithm that searches where none is given."""
        if self.began_with is not None:
            return self.began_with
        many = isinstance(self.fitness, list | tuple) and len(self.fitness) > 1
        genes = make_genes(self.space, self.sources)
        return usual_algorithm(genes, data=self.data is not None, many=many, learns=self.refine is not None)

    @property
    def limits(self) -> Budget:
        """The budget, by default so many generations."""
        return self.budget or Budget(generations=GENERATIONS)

    @property
    def chooses(self) -> bool:
        """Whether searches are asked for that choose when a last fit ends, and that fit."""
        return self.fold is None and self.ending is None and (self.folds is not None or self.refit)

    def check(self) -> None:
        """See that plain arguments are what they can be, and go together; InputError names the one that can't be."""
        for option, value in {"samples": self.samples, "every": self.every, "patience": self.patience}.items():
            whole = isinstance(value, Integral) and not isinstance(value, bool) and value > 0
            if not (value is None or whole or (option == "samples" and value == "all")):
                raise InputError(f"{value!r} given; a whole number above 0 expected", option=option)
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise InputError(f"{self.seed!r} given; a whole number from 0 expected", option="seed")
        if not (self.budget is None or isinstance(self.budget, Budget)):
            line = f"Budget(generations=100) or another expected, a {type(self.budget).__name__} given"
            raise InputError(line, option="budget")
        self._check_folds()

    def _check_folds(self) -> None:
        for option, given in {"refit": self.refit, "logistic": self.logistic}.items():
            if not isinstance(given, bool):
                raise InputError(f"{given!r} given; True or False expected", option=option)
        whole = isinstance(self.folds, Integral) and not isinstance(self.folds, bool) and self.folds > 1
        if not (self.folds is None or whole):
            raise InputError(f"{self.folds!r} given; a whole number from 2 expected", option="folds")
        for option, asked in {"folds": self.folds, "refit": self.refit, "logistic": self.logistic}.items():
            if asked and self.data is None:
                raise InputError("goes with data", option=option)
        if self.folds is None and not self.refit:
            return
        if isinstance(self.fitness, list | tuple) and len(self.fitness) > 1:
            line = "chooses a kind of candidate, and a front of many objectives has none that stay"
            raise InputError(line, option="refit" if self.folds is None else "folds")
        for option, limit in {"patience": self.patience, "budget": self.limits.target}.items():
            if self.folds is not None and limit is not None:
                what = f"a target of {limit}: " if option == "budget" else ""
                line = f"{what}no fold ends a search whose mean over folds is looked at; leave it out"
                raise InputError(line, option=option)

    def search(self) -> tuple[Search, Step]:
        """Return the search and its step before the first generation; InputError names the argument that can't be."""
        self.check()
        return self._of_function() if self.data is None else self._of_data()

    def read(self) -> "Arguments":
        """Return the same with data that are read, through the module's frozen part, once for many searches."""
        if self.reading is not None:
            return self
        if self.model is None or self.start is not None:
            line, option = "a model given with data starts from its own weights", "start"
            if self.model is None:
                line, option = "data go with a model", "model"
            raise InputError(line, option=option)
        if isinstance(self.sigma, Tensor):
            raise InputError("one number expected, with data", option="sigma")
        genes, device = make_genes(self.space, self.sources), devices.resolve(self.device)
        check_sigma(genes.sigma if self.sigma is None else self.sigma)
        check(AUTO if self.precision is None else self.precision, device)
        found = read(
            self.model,
            self.data,
            trainable=self.patterns,
            algorithm=self.algorithm,
            refine=self.refine,
            fitness="cross_entropy" if self.fitness is None else self.fitness,
            subject_to=self.subject_to,
            validate="accuracy" if self.validate is None else self.validate,
            genes=genes,
            device=device,
            islands=self.islands,
            progress=self.progress,
        )
        return replace(self, reading=found)

    def _of_data(self) -> tuple[Search, Step]:
        reading, genes = self.read().reading, make_genes(self.space, self.sources)
        assert reading is not None and not isinstance(self.sigma, Tensor)
        table = reading.table
        if self.fold is not None or self.ending is not None:
            # One on the data's own split has them as they were cut; features were computed once, for all.
            own_split = self.folds is None and self.fold is not None
            table = table if own_split else table.fold(self.fold or 0, self.folds or 1)
            table = table if self.fold == 1 else table._replace(computed=0)
        of = of_table(
            *reading._replace(table=table),
            samples=512 if self.samples is None else self.samples,
            precision=AUTO if self.precision is None else self.precision,
            standardise=self.standardise,
            sigma=genes.sigma if self.sigma is None else self.sigma,
            genes=genes,
            seed=self.seed,
            device=devices.resolve(self.device),
            executor=self.executor,
        )
        search, step = of_classification(
            of,
            budget=self.limits,
            patience=self.patience,
            every=10 if self.every is None else self.every,
            seed=self.seed,
            record=self.record_of(reading.table),
        )
        rules = replace(search.rules, looks=self.fold is not None, ending=self.ending)
        return replace(search, rules=rules, logistic=self.logistic), step

    def record_of(self, table: Table) -> Record:
        """Return what was asked for as the config of a run's folder, of data as they were read."""
        labels = {"labels": table.features.labels, **table.splits}
        labels |= {} if table.features.groups is None else {"groups": table.features.groups}
        return self.record(data={"labels": digest(labels), **summary(table.features.pieces[0])}, network=True)

    def _of_function(self) -> tuple[Search, Step]:
        with_data = {"refine": self.refine, "validate": self.validate, "samples": self.samples}
        for option, value in {**with_data, "precision": self.precision, "standardise": self.standardise}.items():
            if value is not None:
                raise InputError("goes with data", option=option)
        if (self.model is None) == (self.start is None):
            both = self.start is not None
            line = "give either a model or a start, not both" if both else "give a model or a start"
            raise InputError(line, option="start")
        if not callable(self.fitness):
            raise InputError("a function expected; a metric by name goes with data", option="fitness")
        place, sigma = devices.resolve(self.device), 0.1 if self.sigma is None else self.sigma
        genes = make_genes(self.space, self.sources)
        make = partial(make_algorithm, genes=genes, usual=self.usual)
        algorithm = join(self.islands, self.algorithm, make, self.usual)
        constraints = () if self.subject_to is None else constraints_.read(self.subject_to, table=False)
        evolvable: function.Evolvable | None = None
        if self.model is not None:
            with about("space"):
                evolvable = function.Evolvable(
                    self.model, self.patterns, place, space=genes.build, sources=genes.sources, seed=self.seed
                )
            problem = function.of_module(
                self.fitness, evolvable, sigma=sigma, executor=self.executor, subject_to=constraints
            )
        else:
            if self.space is not None or genes.sources:
                line = "genes of a function of genomes are what it takes them for"
                raise InputError(line, option="sources" if self.space is None else "space")
            if self.patterns:
                line = f"{', '.join(self.patterns)}: genomes have no parameters by name"
                raise InputError(line, option="trainable")
            if self.executor is not LOCAL:
                raise InputError("goes with a model; a function of genomes is given all of them at once", "executor")
            genomes = torch.as_tensor(self.start, dtype=torch.float32, device=place)
            if not genomes.numel() or genomes.ndim > 2 or not bool(genomes.isfinite().all()):
                raise InputError("a genome [g], or several [s, g], of finite numbers expected", option="start")
            problem = function.of_genomes(self.fitness, genomes, sigma=sigma, subject_to=constraints)

        def fold(genome: Tensor) -> dict[str, Tensor]:
            weights = problem.layout.unflatten(genome[None]) if evolvable is None else evolvable.decode(genome)
            return {name: weight[0] for name, weight in weights.items()}

        algorithm.check(problem.layout.genes)
        layout = problem.layout
        if layout.tops:
            algorithm = quantised.whole(algorithm, layout)
        search = Search(
            problem=problem,
            algorithm=algorithm,
            rules=Rules(
                seed=self.seed,
                samples=1,
                every=1 if self.every is None else self.every,
                patience=self.patience,
                budget=self.limits,
                metric=FITNESS,
                lower_is_better=False,
                constrained=bool(constraints),
            ),
            device=place,
            home=place,
            record=self.record(data=None, network=evolvable is not None),
            fold=fold,
            test=lambda genome: None,
            score=lambda champion: champion.validation[FITNESS],
            module=lambda genome: None if evolvable is None else evolvable.of(genome),
            onnx=lambda genome: None if evolvable is None else onnx_of(evolvable.of(genome)),
        )
        return search, loop.begin(problem, algorithm, self.seed, place)

    def record(self, *, data: Mapping[str, Any] | None, network: bool) -> Record:
        """Return what was asked for as the config of a run's folder: objects by hashes, or as given.

        `data` tells data from others; `network` says that genes are a network's, not numbers.
        """
        many = isinstance(self.fitness, list | tuple) and len(self.fitness) > 1
        fitness = spell(("cross_entropy" if data else None) if self.fitness is None else self.fitness)
        sigma = self.sigma.tolist() if isinstance(self.sigma, Tensor) else self.sigma
        validate = "accuracy" if self.validate is None else self.validate
        algorithm = spell(self.algorithm)
        samples = int(self.samples) if isinstance(self.samples, Integral) else self.samples
        precision = {} if self.precision in (None, AUTO) else {"precision": self.precision}
        bounds = {} if not self.subject_to else {SUBJECT_TO: spell_constraints(self.subject_to)}
        start: dict[str, Any] = {} if self.start is None else {"start": digest({"start": torch.as_tensor(self.start)})}
        start |= {} if self.space is None else {"space": spell(self.space)}
        sources = [digest(dict(weights)) for weights in make_genes(self.space, self.sources).sources]
        start |= {"sources": sources} if sources else {}
        return {
            PYTHON: True,
            "seed": int(self.seed),
            "device": self.device,
            "data": None if data is None else {"name": "given", **data},
            "backbone": {
                "name": type(self.model).__name__ if network else "none",
                "weights": digest(dict(self.model.state_dict())) if self.model is not None else None,
                "trainable": self.patterns,
            },
            "features": {"standardise": self.standardise},
            "genome": {"init_sigma": sigma, **start},
            "algorithm": {"name": algorithm}
            if isinstance(algorithm, str)
            else algorithm or {"name": self.usual, "default": True},
            "refine": spell(self.refine),
            "fitness": {"metrics" if many else "metric": fitness, "samples": samples, **precision, **bounds},
            "validate": {
                "metric": FITNESS if data is None else spell(validate),
                "every": self.every,
                "patience": self.patience,
                **self._record_of_folds(),
            },
            "budget": asdict(self.limits),
            "checkpoint": dict(self.checkpoint),
            **({} if self.islands is None else {"islands": self.islands.record()}),
        }

    def _record_of_folds(self) -> Record:
        last = None if self.ending is None else self.ending._asdict()
        given = {"folds": self.folds, "fold": self.fold, "refit": last or self.refit or None}
        return {key: value for key, value in {**given, "logistic": self.logistic or None}.items() if value is not None}


def onnx_of(model: nn.Module) -> tuple[bytes, float] | None:
    """Return the file of a module that is one of ONNX, as it was scored; None for others."""
    file = onnxfiles.inside(model)
    return None if file is None else (file.to_onnx(), 0.0)


def summary(rows: Tensor) -> Record:
    """Return what tells rows [N, d] from others, whatever rounds otherwise on another device."""
    some = rows[:: max(1, len(rows) // 1024)].double()
    return {"shape": list(rows.shape), "mean": float(some.mean()), "deviation": float(some.std(correction=0))}


def of_classification(
    of: Classification, *, budget: Budget, patience: int | None, every: int, seed: int, record: Record | None = None
) -> tuple[Search, Step]:
    """Return a classifier's search that is ready to go, and its step before the first generation."""
    table, judged, metric = of.table, of.supervised.fitness.metrics[0], of.supervised.metric
    problem = of.problem()
    search = Search(
        problem=problem,
        algorithm=of.algorithm,
        rules=Rules(
            seed=seed,
            samples=of.samples,
            every=every,
            patience=patience,
            budget=budget,
            metric=metric,
            lower_is_better=metric in LOWER_IS_BETTER,
            constrained=bool(of.supervised.subject_to),
        ),
        device=of.supervised.network.device,
        home=of.home,
        record=record or {},
        fold=of.supervised.network.fold,
        test=once(of.test),
        constraints_on=of.constraints_on,
        score=lambda champion: _score(champion, judged),
        module=of.module,
        onnx=of.supervised.network.onnx,
        classes=table.classes,
        counts={name: len(rows) for name, rows in table.splits.items()},
        executions=of.supervised.executions,
        features=table.features.digest(),
        notes=table.notes,
        supervised=of.supervised,
    )
    return search, of.begin(problem, seed)


def once(test: Callable[[Tensor], Tested | None]) -> Callable[[Tensor], Tested | None]:
    """Return a test that scores a genome [g] once, however often it is asked for."""
    known: list[tuple[Tensor, Tested | None]] = []

    def remember(genome: Tensor) -> Tested | None:
        if not known or not torch.equal(known[0][0], genome):
            known[:] = [(genome.clone(), test(genome))]
        return known[0][1]

    return remember


def _score(champion: Champion, metric: str) -> float:
    """Return a champion's score by a metric, the higher the better, of what is reported."""
    value = champion.validation[metric]
    return -value if metric in LOWER_IS_BETTER else value
