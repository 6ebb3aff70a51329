"""Who does the work of a config's run: this process, or workers of the cluster that the config names."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from neuroevo import config
from neuroevo.config import Config
from neuroevo.engine.execution import LOCAL, Executor
from neuroevo.errors import ignore
from neuroevo.experiments.log import versions


@contextmanager
def executor_of(
    c: Config, device: torch.device, note: Callable[[str], None] = ignore, *, stoppable: bool = False
) -> Iterator[Executor]:
    """Give the executor of a config while it is entered, `stoppable` where its workers can be told to end.

    InputError where its cluster can't be had.
    """
    if c.remote is None or c.remote.workers == 0:
        yield LOCAL
        return
    from neuroevo.remote import cluster

    given = c.remote.model_dump(exclude={"engine"})
    with config.at(**{key: f"remote.{key}" for key in ("engine", *given)}):
        packages = [name for name in versions() if name != "python"]
        with cluster.connect(cluster.Cluster(**given), device, packages, note, stoppable=stoppable) as executor:
            yield executor
