"""Workers of a cluster, for searches from Python."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from neuroevo import devices
from neuroevo.engine.execution import Executor
from neuroevo.errors import ignore


@contextmanager
def workers(
    count: int | Literal["auto"] = "auto",
    *,
    address: str | None = None,
    cpus_per_worker: float | None = None,
    gpus_per_worker: float = 0,
    mixed: bool = False,
    device: str = "auto",
    note: Callable[[str], None] = ignore,
) -> Iterator[Executor]:
    """Give an executor whose slices are done by workers of a Ray cluster, for `evolve(executor=...)`.

        with neuroevo.workers(4) as executor:
            found = neuroevo.evolve(model, data, executor=executor)

    `count` is how many, or auto: as many as the cluster has room for while it is entered. Without an `address` a
    cluster is begun on this machine, and ends with it; auto is the one that this machine is of. A worker takes so many
    of Ray's CPUs, as many as torch has threads if None, and GPUs. `device` is that of the search. The search comes to
    the same bytes however many workers there are and whichever of them die; those that differ from this process in what
    changes rounding are refused, unless `mixed`. InputError where the cluster isn't there or has less than is asked
    for; RunError, from the search, where it is gone.
    """
    from neuroevo.experiments.log import versions
    from neuroevo.remote import cluster

    packages = [name for name in versions() if name != "python"]
    given = cluster.Cluster(count, cpus_per_worker, gpus_per_worker, address, mixed)
    with cluster.connect(given, devices.resolve(device), packages, note) as executor:
        yield executor
