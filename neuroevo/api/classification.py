"""A classifier's weights as a search, from a module and samples alone: what `evolve(model, data)` is."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuroevo import config, devices
from neuroevo.api.genes import Genes, make_algorithm, usual_algorithm
from neuroevo.api.islands import join
from neuroevo.api.learners import Learner, about, learner
from neuroevo.config.schema import Islands
from neuroevo.data import cache, components, tensors
from neuroevo.data.augment import BATCH
from neuroevo.data.samples import Features
from neuroevo.data.tensors import Table
from neuroevo.engine import loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import LOCAL, Execution, Executor, Precision
from neuroevo.engine.loop import Champion, Step
from neuroevo.engine.problem import Problem
from neuroevo.errors import InputError, ignore, the
from neuroevo.experiments.memory import amount
from neuroevo.learning.sensitivity import PROBE
from neuroevo.networks import deep, heads, network, quantised
from neuroevo.networks.affine import Affine, Standardise
from neuroevo.networks.modules import Given, of_module
from neuroevo.networks.network import Network
from neuroevo.problems import constraints, slicing
from neuroevo.problems.constraints import Constraint, On
from neuroevo.problems.intervals import Tested
from neuroevo.problems.metric import Additive, Metric, OfGenome, OfModule, own_metric
from neuroevo.problems.metrics import METRICS
from neuroevo.problems.precision import settle
from neuroevo.problems.supervised import Fitness, Supervised, supervised

WEIGHTS = Genes()  # genes are the weights themselves
SCALED_BY = 8192  # train samples at most by which what precedes an evolved head is standardised


class Named(NamedTuple):
    """A metric under the name that it is reported by."""

    name: str
    metric: Metric
    key: object  # equal for the same metric


class Goal(NamedTuple):
    """What networks are judged by, and how they learn."""

    metrics: dict[str, Metric]  # all, by name
    fitness: tuple[str, ...]  # those of fitness, by name
    validation: str  # the one that names the champion
    learns: Learner | None
    constraints: tuple[Constraint, ...] = ()


class Classification(NamedTuple):
    """A search of a classifier's weights, ready to go."""

    given: Given
    table: Table
    supervised: Supervised
    algorithm: Algorithm[Any]
    samples: int  # of a generation's batch

    @property
    def home(self) -> torch.device:
        """Where the population is kept."""
        return torch.device(self.supervised.executions.now.home)

    def problem(self) -> Problem:
        """Return what is searched."""
        return self.supervised.problem()

    def begin(self, problem: Problem, seed: int) -> Step:
        """Return the search before its first generation; InputError where the module's logits aren't finite.

        Where nothing is left to validate by, nobody knows what the start is worth.
        """
        validates, champion = bool(len(self.table.splits["validation"])), None
        if not validates:
            champion = Champion(self.supervised.start[0], "start", 0, {self.supervised.metric: math.nan})
        step = loop.begin(problem, self.algorithm, seed, self.home, champion=champion)
        if validates and not math.isfinite(step.champion.validation[self.supervised.metric]):
            raise InputError("its logits are NaN or infinite on samples of the validation split", option="model")
        return Step(**{**vars(step), "cost": step.cost + Cost(backbone=self.table.computed)})

    def module(self, genome: Tensor) -> nn.Module:
        """Return a copy of the module given with a genome's [g] weights, in eval mode."""
        return self.given.with_weights(self.supervised.network.fold(genome))

    def constraints_on(self, genome: Tensor) -> dict[str, dict[str, Any]]:
        """Return how a genome [g] keeps to each constraint on the validation split."""
        of, rows = self.supervised, self.table.splits["validation"]
        return of.constraints_on(genome, rows) if of.subject_to and len(rows) else {}

    def test(self, genome: Tensor) -> Tested | None:
        """Score a genome [g] on the test split, None where there is none."""
        rows = self.table.splits["test"]
        return self.supervised.test(genome, rows) if len(rows) else None


class Reading(NamedTuple):
    """A classifier and the data that it is searched on, read once."""

    given: Given
    table: Table
    search: Algorithm[Any]
    goal: Goal


def read(
    model: nn.Module,
    data: Any,
    *,
    trainable: Sequence[str] = (),
    algorithm: Any = None,
    refine: Any = None,
    fitness: Any = "cross_entropy",
    subject_to: Any = None,
    validate: Any = "accuracy",
    genes: Genes = WEIGHTS,
    device: torch.device,
    islands: Islands | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Reading:
    """Read a classifier and its data; InputError names the option that can't be."""
    goal = make_goal(fitness, validate, refine, subject_to)
    parts = tensors.parts(data)
    given = of_module(model, next(iter(parts.values())).some, trainable=trainable)
    many, cut = len(goal.fitness) > 1, given.backbone.cut is not None
    usual = usual_algorithm(genes, data=True, many=many, learns=goal.learns is not None)
    make = partial(make_algorithm, many=many, cut=cut, genes=genes, usual=usual)
    search = join(islands, algorithm, make, usual)
    goal = goal._replace(metrics={name: _of_the_module(metric, given) for name, metric in goal.metrics.items()})
    return Reading(given, tensors.table(parts, given.backbone, given.classes, device, progress=progress), search, goal)


def of_table(
    given: Given,
    table: Table,
    search: Algorithm[Any],
    goal: Goal,
    *,
    samples: int | Literal["all"],
    precision: Precision,
    standardise: bool | None,
    sigma: float,
    genes: Genes = WEIGHTS,
    seed: int,
    device: torch.device,
    executor: Executor = LOCAL,
) -> Classification:
    """Return the search of a module that is cut, on samples as it sees them; InputError where it is too large."""
    if genes.of_levels:
        _check_levels(goal, standardise)
        standardise = False
    evolved = _within(_network(given, table, standardise, device), given, genes, seed)
    count, size = evolved.layout.genes, search.later
    search.check(count)
    if 2 * 4 * count * size > devices.total_memory():
        raise InputError(
            f"{size:,} individuals of {count:,} genes and their children take {amount(2 * 4 * count * size)}",
            option="algorithm",
        )
    if evolved.layout.tops:
        search = quantised.whole(search, evolved.layout)
    features = table.features
    if evolved.affine is not None and evolved.backbone.cut is None:
        features = features.through(evolved.affine)
    plan = _execution(evolved, features, search, goal.learns)
    train = table.splits["train"]
    of = supervised(
        evolved.with_method(plan.method),
        features,
        table.splits,
        metrics=goal.metrics,
        execution=plan,
        metric=goal.validation,
        fitness=Fitness(metrics=goal.fitness),
        refinement=None if goal.learns is None else goal.learns.refinement(len(train)),
        sigma=sigma,
        seed=seed,
        rescored=search.exact,
        islands=search.islands,
        sensitive=bool(search.overhead),
        executor=executor,
        subject_to=goal.constraints,
        groups=table.groups,
    )
    batch = len(train) if samples == "all" else min(samples, len(train))
    settle(of, precision, search.later, batch, remember=cache.remember, log=ignore)
    return Classification(given, table, of, search, batch)


def check_sigma(sigma: Any) -> None:
    """See that a deviation is a number from 0; InputError where it isn't."""
    if not isinstance(sigma, int | float) or isinstance(sigma, bool) or not 0 <= sigma < math.inf:
        raise InputError(f"{sigma} given; a number from 0 expected", option="sigma")


def make_goal(fitness: Any, validate: Any, refine: Any, subject_to: Any = None) -> Goal:
    """Return what networks are judged by and how they learn, as they are given; InputError where they can't be."""
    learns = learner(refine, "refine")
    goal = Goal(*_metrics(fitness, validate), learns, make_constraints(subject_to))
    if len(goal.fitness) > 1 and learns is not None and learns.options.inheritance == "baldwinian":
        raise InputError("baldwinian goes with one metric: a front's members are as they score", option="refine")
    return goal


def _metrics(fitness: Any, validate: Any) -> tuple[dict[str, Metric], tuple[str, ...], str]:
    """Return all metrics by name, and the names of those of fitness and of validation."""
    several = (
        fitness
        if isinstance(fitness, list | tuple) and not isinstance(fitness, Additive | OfGenome | OfModule)
        else None
    )
    given = [_metric(each, "fitness") for each in ([fitness] if several is None else several)]
    names = [each.name for each in given]
    if not names or len({*names}) < len(names):
        raise InputError(f"metrics of different names expected, {', '.join(names) or 'none'} given", option="fitness")
    judge = _metric(validate, "validate")
    if isinstance(judge.metric, OfGenome):
        raise InputError(f"{judge.name} is of the weights alone; a metric of predictions is expected", "validate")
    found = {each.name: each for each in given}
    if found.setdefault(judge.name, judge).key != judge.key:
        raise InputError(f"{judge.name} is also {the('fitness')}, as another metric; give it the same", "validate")
    for name in ("accuracy", "cross_entropy"):
        found.setdefault(name, _metric(name, name))
    return {name: each.metric for name, each in found.items()}, tuple(names), judge.name


def make_constraints(given: Any) -> tuple[Constraint, ...]:
    """Return constraints as they are given, on metrics by name or of one's own; InputError where they can't be."""

    def resolve(metric: Any, option: str) -> On:
        if isinstance(metric, str) and metric not in METRICS and ":" not in metric:
            return On(metric)  # which is refused with the nearest
        found = _metric(metric, option)
        if found.name not in METRICS:
            return On(found.name, function=found.metric)
        return On(found.name, config.part("metric", metric, option).options)

    return () if given is None else constraints.read(given, resolve=resolve)


def _metric(given: Any, option: str) -> Named:
    """Return a metric by its name, as `{name: ..., option: ...}`, or of one's own; InputError where it is none."""
    if isinstance(given, str | Mapping):
        with about(option):
            part = config.part("metric", given, option)
        return Named(part.name, part.metric(), (part.name, part.of, repr(part.options)))
    if isinstance(given, Additive | OfGenome | OfModule):
        return Named(option, given, given)
    if not callable(given):
        raise InputError(f"a metric expected, a {type(given).__name__} given; by name: {', '.join(METRICS)}", option)
    name = getattr(given, "__name__", option)
    name = name if name.isidentifier() else option
    if name in METRICS:
        raise InputError(f"{name} is the name of another metric; give the function one of its own", option)
    return Named(name, OfModule(given) if _takes_one(given) else own_metric(name, given), given)


def _takes_one(function: Callable[..., Any]) -> bool:
    """Tell whether a function takes a module, and not logits and targets."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return True
    except ValueError:  # it has no signature
        return False
    return False


def _of_the_module(metric: Metric, given: Given) -> Metric:
    """Return a metric of whole networks as one of the module given, and others as they are."""
    if not isinstance(metric, OfModule):
        return metric
    return OfModule(lambda network: metric.score(given.inside(network)))


def _network(given: Given, table: Table, standardise: bool | None, device: torch.device) -> Network:
    """Return the network that evolves, from the module's own weights on."""
    backbone, head = given.backbone, given.head
    takes = given.learns and heads.first_linear(head, backbone.head) is not None
    if standardise and not takes:
        raise InputError("the head has no bias that evolves, into which it could be folded", option="standardise")
    affine = _standardise(given, table.features, table.splits["train"]) if takes and standardise is not False else None

    def head_weights(built: nn.Module, seen: int, affine: Affine | None, first: str) -> dict[str, Tensor]:
        own = {f"{backbone.head}.{name}": p.detach()[None].to(device) for name, p in head.named_parameters()}
        return own if affine is None else affine.unfold(own, first)

    return network.build(
        backbone,
        lambda features: deepcopy(head),
        table.classes,
        width=given.width,
        affine=affine,
        head_weights=head_weights,
        device=device,
        learns_head=given.learns,
        name=type(given.module).__name__,
    )


def _within(evolved: Network, given: Given, genes: Genes, seed: int) -> Network:
    """Return the network with its genes in a space, around weights from elsewhere if any are given."""
    rows, own, buffers = [], given.module.state_dict(), dict(given.module.named_buffers())
    for i, weights in enumerate(genes.sources):
        for name, there in weights.items():
            fixed = given.prefix + name not in evolved.evolving and not name.endswith("num_batches_tracked")
            if fixed and name in own and not torch.equal(own[name].cpu(), there.cpu()):
                line = f"sources[{i}] has another {name}, which doesn't evolve here; name it in {the('trainable')}"
                if name in buffers:
                    line = f"sources[{i}] has another {name}, which is no weight: no space has a gene for it"
                raise InputError(line, option="sources")
        rows.append(evolved.unfold({given.prefix + name: w for name, w in weights.items()}, f"sources[{i}]"))
    with about("space"):
        return evolved.within(genes.build, torch.cat(rows) if rows else None, seed=seed)


def _check_levels(goal: Goal, standardise: bool | None) -> None:
    """See that what is asked for goes with levels; InputError if not."""
    if goal.learns is not None:
        raise InputError(f"gradient steps leave the levels of {the('space')}", option="refine")
    if standardise:
        raise InputError(f"true, but what is folded into weights leaves the levels of {the('space')}", "standardise")


def _standardise(given: Given, features: Features, train: Tensor) -> Standardise:
    """Return what standardises the features of the head on the train split, as the module starts out."""
    cut = given.backbone.cut
    rows, index = features.pieces[0], train
    if cut is not None:
        some = train[torch.linspace(0, len(train) - 1, min(len(train), SCALED_BY)).long()]
        with torch.no_grad():
            rows = torch.cat([deep.features(cut, features.batch(part)[0]) for part in some.split(BATCH)])
        index = torch.arange(len(some))
    found = components.statistics(rows, index)
    return Standardise(found.mean.to(features.device), found.std.to(features.device))


def _execution(evolved: Network, features: Features, search: Algorithm[Any], learns: Learner | None) -> Execution:
    """Choose how a population is evaluated, and trained."""
    batch = learns.options.batch_size if learns is not None else PROBE if search.overhead else 0

    def draw(count: int) -> Tensor:  # of the samples themselves: among ids and masks others may be none
        return features.batch(torch.arange(count) % len(features.labels))[0]

    try:
        return slicing.choose(
            evolved,
            features.dim,
            population=search.later,
            limit=slicing.memory_limit(evolved.device),
            batch=batch,
            slots=0 if learns is None else len(learns.build().slots),
            own_batches=learns is not None and learns.options.batches == "own",
            draw=draw,
        )
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        how, said = "trained" if batch else "evaluated", " ".join(str(error).split())[:200]
        line = f"{evolved.name} can't be {how} behind its cut ({type(error).__name__}: {said})"
        raise InputError(line, option="model") from error
