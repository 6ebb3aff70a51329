"""What a config's metrics and constraints are on the classes and groups of its data, with its keys in errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from neuroevo import config
from neuroevo.config import Config
from neuroevo.data.datasets import Dataset
from neuroevo.errors import InputError
from neuroevo.problems.constraints import pose
from neuroevo.problems.metric import Names, bind


def groups_of(whole: Dataset) -> tuple[str, ...] | None:
    """Return the names of the samples' groups, () where they have none, and None where there are no samples."""
    return whole.groups.names if whole.groups is not None else () if len(whole.labels) else None


def check(c: Config, whole: Dataset) -> None:
    """See that a config's metrics and constraints are of classes and groups that are there; InputError names one."""
    names = Names(whole.classes, groups_of(whole))
    for given in (c.validate.metric, *c.fitness.metrics, c.fitness.ties):
        if given is not None:
            with config.at(given.path), within(given.path):
                bind(given.metric(), names)
    for i, bound in enumerate(c.fitness.subject_to):
        path = f"fitness.subject_to.{i}"
        with config.at(path, of=f"{path}.metric.of"), within(path):
            pose(config.constraint(bound), names)


@contextmanager
def within(path: str) -> Iterator[None]:
    """Have an InputError that names no option name a key of the config."""
    try:
        yield
    except InputError as error:
        raise error if error.option is not None else error.within(path) from None
