"""The problem of labelled samples: a network's genes are worth what its logits are, on batches, by metrics.

`supervised` builds it from plain arguments; its `problem()` is what the loop searches, `validate` and `test` judge
candidates and the champion.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuroevo.engine import evaluator
from neuroevo.engine.batches import View, as_it_is, batches
from neuroevo.engine.cost import Cost
from neuroevo.engine.evaluator import Evaluator, Learning, Scoring
from neuroevo.engine.execution import LOCAL, Execution, Executions, Executor
from neuroevo.engine.genome import Population
from neuroevo.engine.graphs import Graphs
from neuroevo.engine.problem import VIOLATION, Merit, Problem, by_metric
from neuroevo.engine.rng import Context
from neuroevo.engine.samples import Samples
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError, ignore, the
from neuroevo.learning.optimizers import Optimizer
from neuroevo.learning.refine import refiner
from neuroevo.learning.sensitivity import PROBE, Sensitivity
from neuroevo.learning.task import Settings, Task
from neuroevo.networks import heads
from neuroevo.networks.network import Network
from neuroevo.problems import intervals
from neuroevo.problems.constraints import Constraint, Posed, asks_for_groups, compliance, pose
from neuroevo.problems.intervals import Tested
from neuroevo.problems.metric import (
    LOWER_IS_BETTER,
    Metric,
    Names,
    OfGenome,
    OfModule,
    Unbound,
    as_reported,
    bind,
    numbers,
    of_network,
)
from neuroevo.problems.metrics import against_imbalance
from neuroevo.problems.predictions import predict
from neuroevo.problems.scoring import Judgement, by_groups, evaluate, fitness, needs_all_logits, scoring_cost
from neuroevo.problems.sums import Replay

Counter = Callable[[], AbstractContextManager[Callable[[], Cost]]]


@contextmanager
def nothing_counted() -> Iterator[Callable[[], Cost]]:
    """Count nothing: samples cost nothing to come by."""
    yield Cost


class Fitness(NamedTuple):
    """How a generation is scored."""

    metrics: tuple[str, ...] = ("cross_entropy",)  # by name: one, or many objectives
    ties: str | None = None  # a second metric, which breaks ties of the only one
    split: str = "train"  # where batches come from
    balanced: bool = False  # batches with as many of each class
    class_weights: bool = False  # cross-entropy weighted by the inverse of a class's share
    logit_adjustment: float = 0.0  # tau of Menon et al. 2021


CROSS_ENTROPY = Fitness()


class Refinement(NamedTuple):
    """How individuals learn by gradient steps."""

    optimizer: Callable[[Mapping[str, tuple[float, float]]], Optimizer]  # given hyperparameters that individuals bring
    settings: Settings
    inheritance: str = "lamarckian"  # or baldwinian
    back_off: bool = False


@dataclass(frozen=True)
class Supervised:
    """Networks, samples, and what they are judged by."""

    network: Network
    samples: Samples
    splits: Mapping[str, Tensor]  # {name: [rows]}
    metrics: dict[str, Metric]  # all that are as_reported, by name; accuracy and cross-entropy among them
    metric: str  # of validation
    fitness: Fitness
    refinement: Refinement | None
    executions: Executions
    start: Tensor  # [s, g], where the population is kept
    sigma: float | Tensor
    seed: int
    rescored: Callable[[int], int]  # how many of so many individuals must be told apart exactly
    islands: int  # equal parts of a population that draw apart
    sensitive: bool  # whether mutations ask for sensitivities
    names: Names  # of classes and groups
    view: View = as_it_is  # which augmented views of train samples batches have
    counter: Counter = nothing_counted  # counts the samples that views put through the backbone
    executor: Executor = LOCAL
    note: Callable[[str], None] = ignore  # is told what a GPU goes without
    subject_to: tuple[Constraint, ...] = ()
    given: Mapping[str, Metric] = field(default_factory=dict)  # the metrics before they were bound to names

    def problem(self, brought: Collection[str] = ()) -> Problem:
        """Return what is searched; individuals bring the hyperparameters `brought` along as traits."""
        given, pool = self.fitness, self.splits[self.fitness.split]
        return Problem(
            layout=self.network.layout,
            start=self.start,
            sigma=self.sigma,
            evaluator=self.evaluator(brought),
            batch=batches(
                pool,
                self.seed,
                labels=self.samples.labels.cpu()[pool] if given.balanced else None,
                view=self.view if given.split == "train" else as_it_is,
            ),
            validate=self.validate,
            merit=self.merit,
            sensitivity=Sensitivity(self.task(PROBE), self.seed) if self.sensitive else None,
        )

    @property
    def merit(self) -> Merit:
        """What candidates are compared by: constraints, the validation metric, and cross-entropy where it ties."""
        lower = self.metric in LOWER_IS_BETTER
        return by_metric(self.metric, lower_is_better=lower, loss="cross_entropy", constrained=bool(self.subject_to))

    @cached_property
    def constraints(self) -> tuple[Posed, ...]:
        """The constraints on these classes and groups, less those on groups that aren't known."""
        known = [given for given in self.subject_to if self.names.groups is not None or not asks_for_groups(given)]
        return tuple(pose(given, self.names).of_network(self.network.numbers) for given in known)

    def of_groups(self, groups: tuple[str, ...]) -> "Supervised":
        """Return the same for samples in other groups; without any, what asks for groups is left out."""
        names = self.names._replace(groups=groups or None)
        metrics = {name: of_network(bind(metric, names), self.network.numbers) for name, metric in self.given.items()}
        return replace(
            self, names=names, metrics={name: of for name, of in metrics.items() if not isinstance(of, Unbound)}
        )

    def judgement(
        self, metrics: Collection[Metric], samples: Samples | None = None, *, constrained: bool = False
    ) -> Judgement:
        """Return how genomes are judged by metrics, and by constraints where they are `constrained`."""
        scores = [posed.score for posed in self.constraints] if constrained else []
        found = Judgement(
            self.network, samples or self.samples, list(metrics), self.start[0], self.executor, constraints=scores
        )
        return by_groups(found, len(self.names.classes))

    def fitness_metrics(self) -> list[Metric]:
        """Return the metrics of fitness, and the one that breaks ties, with what they do against imbalance."""
        given, labels = self.fitness, self.samples.labels
        counts = torch.bincount(labels[self.splits["train"].to(labels.device)])
        names = [name for name in (*given.metrics, given.ties) if name is not None]
        if given.class_weights and "cross_entropy" not in given.metrics:
            raise InputError(f"only cross_entropy can be weighted; see also {the('balanced')}", "class_weights")
        chosen = [(name, self.metrics[name]) for name in names]
        return against_imbalance(chosen, counts, weights=given.class_weights, tau=given.logit_adjustment)

    def scoring(self) -> Scoring:
        """Return how a population is scored: by the fitness metrics, and by the one that breaks ties."""
        objectives = len(self.fitness.metrics)
        judgement = self.judgement(self.fitness_metrics(), constrained=True)
        if self.executions.now.graphs:
            decodes = self.calibrates == 0 and not self.network.space.draws
            within = Replay(Graphs(self.note), decodes, getattr(self.samples, "alone", False))
            judgement = judgement._replace(replay=within)

        def again(n: int) -> int:
            return self.rescored(n) if self.executions.now.precision != "float32" else 0

        def cost(n: int, samples: int) -> Cost:
            return scoring_cost(n + again(n), samples, self.calibrates)

        def score(population: Population, index: Tensor) -> tuple[Scores, Cost]:
            n = len(population.genomes)

            def work(execution: Execution) -> tuple[Scores, Cost]:
                how = {"rescored": again(n), "objectives": objectives, "islands": self.islands}
                return fitness(judgement, population, index, execution, **how)

            with self.counter() as counted:
                scores, spent = self.executions.fit(work)
            return scores, spent + counted() + cost(n, 0)

        return Scoring(score, cost)

    @property
    def calibrates(self) -> int:
        """How many samples go forward to re-estimate an individual's batch norms."""
        return 0 if self.network.calibration is None else self.network.calibration.samples

    def task(self, batch_size: int) -> Task:
        """Return what gradient steps train, on batches of that size."""
        network, execution = self.network, self.executions.now
        layers = heads.steps(network.head, network.backbone.head)
        # A chain of one layer is a linear one.
        alone = (
            network.backbone.cut is None and len(layers) == 1 and network.method == "gemm" and network.space.identity
        )
        return Task(
            layout=network.layout,
            forward=network.of_coordinates(network.forward),
            linear=layers[0][0] if alone else None,
            source=self.samples,
            train=self.splits["train"],
            classes=len(network.classes),
            individuals=max(1, execution.trained),
            micro=max(1, execution.micro or batch_size),
            keep=execution.limit // 8,
            start=self.start[0].to(network.device),
            device=network.device,
            view=self.view,
            executor=self.executor,
        )

    def evaluator(self, brought: Collection[str] = ()) -> Evaluator:
        """Return what becomes of a population in its generation: scored as it is, or trained first.

        Individuals bring the hyperparameters `brought` along as traits.
        """
        scoring, given = self.scoring(), self.refinement
        if given is None:
            return evaluator.plain(scoring)
        self.check_dropout(given.settings, brought)
        own = {"momentum": (0.0, 1.0)} if "momentum" in brought else {}
        optimizer, task = given.optimizer(own), self.task(given.settings.batch_size)

        @cache
        def learning(execution: Execution) -> Learning:
            sliced = replace(task, individuals=execution.trained, micro=max(1, execution.micro))
            return refiner(sliced, optimizer, given.settings, brought, self.islands)

        def refine(population: Population, context: Context) -> tuple[Population, Cost]:
            with self.counter() as counted:
                refined, spent = self.executions.fit(lambda execution: learning(execution).refine(population, context))
            return refined, spent + counted()

        wrap = evaluator.back_off if given.back_off else evaluator.lamarckian
        whole = wrap(scoring, learning(self.executions.now)._replace(refine=refine))
        return evaluator.baldwinian(whole) if given.inheritance == "baldwinian" else whole

    def check_dropout(self, settings: Settings, brought: Collection[str]) -> None:
        """See that a head has the dropout that it is trained with, and can be; InputError if not."""
        head, name = self.network.head, self.network.name
        if self.network.method != "gemm" and heads.noisy_in_training(head, self.network.head_width):
            raise InputError(f"{name} has dropout, which only a chain of layers can be trained with", option="head")
        layers = [module for module in head.modules() if isinstance(module, nn.Dropout) and module.p > 0]
        if (settings.dropout or "dropout" in brought) and not layers:
            raise InputError(f"{name} has no dropout layer; give the head a dropout above 0", option="dropout")

    def validate(self, genomes: Tensor, rows: Tensor | None = None) -> tuple[list[dict[str, float]], Cost]:
        """Score candidates [k, g] on the validation split, or on other rows, by every metric, as reported."""
        rows = self.splits["validation"] if rows is None else rows
        of_samples = {name: metric for name, metric in self.metrics.items() if not isinstance(metric, OfModule)}
        judgement = self.judgement(of_samples.values(), constrained=True)
        scores = self.executions.fit(lambda execution: evaluate(judgement, genomes, rows, exact(execution)))
        found = [self.of_modules(genome) for genome in genomes]
        values, names = scores.values, list(of_samples)
        if scores.violation is not None:  # with the rest, by one transfer
            values, names = torch.cat([values, scores.violation[:, None]], 1), [*names, VIOLATION]
        for own, line in zip(found, values.tolist(), strict=True):
            own |= {name: as_reported(name, value) for name, value in zip(names, line, strict=True)}
        return found, Cost(validation=len(genomes) * (len(rows) + self.calibrates))

    def test(self, genome: Tensor, rows: Tensor, samples: Samples | None = None) -> Tested:
        """Score a genome [g] on rows of the samples, or of others, by every metric, with intervals.

        A metric of the genome is exact: its interval has no width. With constraints the scores say how each is met.
        """
        of_logits = {name: of for name, of in self.metrics.items() if not isinstance(of, OfGenome | OfModule)}
        judgement = self.judgement([*of_logits.values(), *(posed.values for posed in self.constraints)], samples)
        logits, targets = self.logits_of(judgement, genome, rows)
        found = intervals.with_intervals(logits, targets, dict(zip(of_logits, judgement.metrics, strict=False)))
        exact_ones = self.of_modules(genome)
        for name, metric in self.metrics.items():
            if isinstance(metric, OfGenome):
                exact_ones[name] = as_reported(name, float(self.apart(metric, genome)))
        for name, value in exact_ones.items():
            found = {name: value, **found, "interval": {**found["interval"], name: [value, value]}}
        if self.subject_to:
            values = judgement.metrics[len(of_logits) :]
            apart = partial(self.apart, genome=genome)
            found["constraints"] = compliance(self.constraints, values, logits, targets, apart)
        labels = targets % len(self.names.classes)
        return Tested(found, intervals.confusion(logits, labels), predict(rows, logits, labels))

    def logits_of(self, judgement: Judgement, genome: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return a genome's logits [1, B, C] on rows of what is judged, and their labels [B]."""
        return self.executions.fit(lambda execution: intervals.logits(judgement, genome, rows, exact(execution)))

    def constraints_on(self, genome: Tensor, rows: Tensor) -> dict[str, dict[str, Any]]:
        """Return how a genome [g] keeps to each constraint on rows of the samples."""
        judgement = self.judgement([posed.values for posed in self.constraints])
        found = self.logits_of(judgement, genome, rows)
        return compliance(self.constraints, judgement.metrics, *found, lambda of: self.apart(of, genome))

    def apart(self, metric: OfGenome | OfModule, genome: Tensor) -> Tensor:
        """Return what a metric that no logits are for finds of a genome [g], [1] or [1, k]."""
        if isinstance(metric, OfGenome):
            return metric.score(genome[None], self.start[0].to(genome.device))
        return torch.tensor([[metric.score(self.network.module(genome).requires_grad_(False))]])

    def of_modules(self, genome: Tensor) -> dict[str, float]:
        """Return what functions of a whole network find of a genome [g]: the first number under the metric's name."""
        found: dict[str, float] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, OfModule):
                first, *others = numbers(metric.score(self.network.module(genome).requires_grad_(False))).items()
                found |= {name: first[1], **{key: value for key, value in others if key not in self.metrics}}
        return found


def supervised(
    network: Network,
    samples: Samples,
    splits: Mapping[str, Tensor],
    *,
    metrics: Mapping[str, Metric],
    execution: Execution | Executions,
    metric: str = "accuracy",
    fitness: Fitness = CROSS_ENTROPY,
    refinement: Refinement | None = None,
    start: Tensor | None = None,
    sigma: float = 0.01,
    seed: int = 0,
    rescored: Callable[[int], int] = lambda n: n,
    islands: int = 1,
    sensitive: bool = False,
    view: View = as_it_is,
    counter: Counter = nothing_counted,
    executor: Executor = LOCAL,
    note: Callable[[str], None] = ignore,
    subject_to: Sequence[Constraint] = (),
    groups: tuple[str, ...] | None = (),
) -> Supervised:
    """Return the problem of a network's genes on labelled samples.

    `splits` are rows {train, validation, test: [N]} of the samples; `metrics` by name hold those of `fitness`, the one
    of validation (`metric`), accuracy and cross_entropy. `start` [s, g] are genomes to start from, the network's own by
    default, and `sigma` the deviation of the first population around them. Of an algorithm's n individuals
    `rescored(n)` are scored again in full precision where the execution's is half; they are of so many `islands`, one
    behind the other; `sensitive` says that it asks for sensitivities. The population is kept on the execution's home.
    `note` is told what a GPU goes without. Solutions are `subject_to` constraints; `groups` are the names of the
    samples' groups, None where they aren't known yet.
    """
    executions = execution if isinstance(execution, Executions) else Executions(execution)
    home = torch.device(executions.now.home)
    genomes = (network.start() if start is None else start).to(home)
    names = Names(network.classes, groups)
    found = Supervised(
        network=network,
        samples=samples,
        splits=splits,
        metrics={name: of_network(bind(of, names), network.numbers) for name, of in metrics.items()},
        metric=metric,
        fitness=fitness,
        refinement=refinement,
        executions=executions,
        start=genomes,
        sigma=network.spread(genomes, sigma),
        seed=seed,
        rescored=rescored,
        islands=islands,
        sensitive=sensitive,
        view=view,
        counter=counter,
        executor=executor,
        note=note,
        names=names,
        subject_to=tuple(subject_to),
        given=dict(metrics),
    )
    scored_by = [found.metrics[name] for name in (*fitness.metrics, fitness.ties) if name is not None]
    scored_by += [posed.score for posed in found.constraints]  # which sees that they are of these classes
    if executions.now.graphs and needs_all_logits(scored_by):
        note("CUDA graphs: a metric of fitness needs all logits at once; runs without")
    return found


def exact(execution: Execution) -> Execution:
    """Return an execution in full precision."""
    return execution._replace(precision="float32")
