"""What a config's run is after: metrics, fitness, learning, and when it ends."""

from neuroevo import config
from neuroevo.config import Config
from neuroevo.engine.cost import Budget
from neuroevo.engine.loop import Ending, Rules
from neuroevo.engine.problem import Merit, by_metric
from neuroevo.experiments.costs import batch_size, steps
from neuroevo.learning.task import Settings
from neuroevo.problems.metric import LOWER_IS_BETTER
from neuroevo.problems.supervised import Fitness, Refinement


def rules(c: Config, rows: int) -> Rules:
    """Return what decides how long a run goes on and who wins it; its split of fitness has so many rows."""
    metric, own = c.validate.metric.name, c.validate
    last = own.refit if isinstance(own.refit, config.Refit) else None
    return Rules(
        seed=c.seed,
        samples=batch_size(c, rows),
        every=own.every,
        patience=own.patience,
        budget=Budget(**c.budget.model_dump()),
        metric=metric,
        lower_is_better=metric in LOWER_IS_BETTER,
        constrained=bool(c.fitness.subject_to),
        ending=None if last is None else Ending(last.generation, last.candidate),
        looks=own.fold is not None,
    )


def parts_of(c: Config) -> dict[str, config.Part]:
    """Return all metrics that a config names, and accuracy and cross-entropy, by name."""
    parts = {part.name: part for part in (c.validate.metric, *c.fitness.metrics, c.fitness.ties) if part is not None}
    for name in ("accuracy", "cross_entropy"):
        parts.setdefault(name, config.part("metric", name, name))
    return parts


def merit(c: Config) -> Merit:
    """Return what candidates of a run are compared by: constraints, the validation metric, then cross-entropy."""
    metric = c.validate.metric.name
    lower, constrained = metric in LOWER_IS_BETTER, bool(c.fitness.subject_to)
    return by_metric(metric, lower_is_better=lower, loss="cross_entropy", constrained=constrained)


def fitness_of(c: Config) -> Fitness:
    """Return how a config has a generation scored."""
    return Fitness(
        metrics=tuple(part.name for part in c.fitness.metrics),
        ties=None if c.fitness.ties is None else c.fitness.ties.name,
        split=c.fitness.split,
        balanced=c.fitness.balanced,
        class_weights=c.fitness.class_weights,
        logit_adjustment=c.fitness.logit_adjustment,
    )


def refinement_of(c: Config, train: int) -> Refinement | None:
    """Return how a config has individuals learn, of so many train samples."""
    if c.refine is None:
        return None
    optimizer, given = c.refine.optimizer, c.refine.model_dump()
    inheritance, back_off = given.pop("inheritance"), given.pop("back_off")
    settings = Settings(**given | {"steps": steps(c, train)})
    return Refinement(lambda own: optimizer.bound()(**own), settings, inheritance, back_off)
