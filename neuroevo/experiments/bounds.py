"""What a config's metrics and constraints are on the classes and groups of its data, with its keys in errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from neuroevo import config
from neuroevo.config import Config
from neuroevo.data.datasets import Dataset
from neuroevo.errors import InputError
from neuroevo.problems.constraints import Constraint, pose
from neuroevo.problems.metric import Metric, Names, bind


def groups_of(whole: Dataset) -> tuple[str, ...] | None:
    """Return the names of the samples' groups, () where they have none, and None where there are no samples."""
    return whole.groups.names if whole.groups is not None else () if len(whole.labels) else None


def metric_at(given: config.Part, names: Names) -> Metric:
    """Return a config's metric for the classes and groups of a run; InputError names its key."""
    with config.at(given.path), within(given.path):
        metric: Metric = bind(given.metric(), names)
    return metric


def constraints_at(c: Config, names: Names) -> list[Constraint]:
    """Return a config's constraints; InputError names the key of one that can't be on these classes and groups."""
    found = []
    for i, bound in enumerate(c.fitness.subject_to):
        each, path = config.constraint(bound), f"fitness.subject_to.{i}"
        with config.at(path, of=f"{path}.metric.of"), within(path):
            if each.per != "group" or names.groups is not None:
                pose(each, names)
        found.append(each)
    return found


@contextmanager
def within(path: str) -> Iterator[None]:
    """Have an InputError that names no option name a key of the config."""
    try:
        yield
    except InputError as error:
        raise error if error.option is not None else error.within(path) from None
