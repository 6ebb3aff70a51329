"""How many runs a benchmark does at a time, and by whom: this process, others beside it, or workers of a cluster."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from neuroevo import config
from neuroevo.bench.workers import Done, Failure, Work, attempt
from neuroevo.engine import execution
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError, Interrupted
from neuroevo.experiments.interruption import Interruption
from neuroevo.experiments.log import versions
from neuroevo.experiments.signals import Signals
from neuroevo.remote.cluster import Cluster, Spread, connect

T = TypeVar("T")
REMOTE = "ray:"
AUTO = "auto"


class Jobs(NamedTuple):
    """What `--jobs` asks for."""

    n: int | None  # None: as many as there is room for
    remote: bool = False
    address: str | None = None  # of a cluster; None begins one here

    @property
    def share(self) -> int:
        """How many at most are beside each other on a machine, as far as this one can know."""
        own = os.cpu_count() or 1
        if self.n is None:
            return own
        return self.n if self.address is None else min(self.n, own)


def read(given: int | str) -> Jobs:
    """Return what `--jobs` asks for; InputError where it is none of its forms."""
    text, where = str(given), None
    if text.startswith(REMOTE):
        text, at, address = text.removeprefix(REMOTE).partition("@")
        where = address if at else None
        if where == "":
            text = ""
        if text == AUTO:
            return Jobs(None, True, where)
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise InputError(f"--jobs: {given} given; N, ray:N, ray:auto or ray:N@ADDRESS expected, N one or more")
    return Jobs(int(text), str(given).startswith(REMOTE), where)


@contextmanager
def crew(
    jobs: Jobs, runs: int, device: torch.device, note: Callable[[str], None], given: config.Remote | None = None
) -> Iterator[Spread | None]:
    """Give the workers that do so many runs while it is entered, None where a cluster has no part in it.

    What else they are is `given` by a config: what each takes of the cluster, and whether they may differ.
    """
    if not jobs.remote or not runs:
        yield None
        return
    count: Any = AUTO if jobs.n is None else min(jobs.n, runs)
    own = given or config.Remote()
    gpus = own.gpus_per_worker or int(device.type == "cuda")
    asked = Cluster(count, own.cpus_per_worker, gpus, jobs.address, own.mixed)
    packages = [name for name in versions() if name != "python"]
    keys = dict.fromkeys((*Cluster._fields, "engine"), "--jobs")
    with config.at(**keys), connect(asked, device, packages, note, stoppable=True) as executor:
        assert isinstance(executor, Spread)
        yield executor


class Site(NamedTuple):
    """Where work is done: a folder that all machines share."""

    work: Work
    here: str  # the working folder, from which paths are
    file: Path
    content: bytes  # of the file, by which a worker knows that it sees the same folder
    command: str


def do(site: Site, _: None, item: Any) -> Failure | None:
    """Do one thing in a worker, as its own program; return why it failed, if it did.

    A worker that is told to end does so at the run's next safe place; unless all are told to, another goes on.
    """
    try:
        os.chdir(site.here)
        seen = site.file.read_bytes() == site.content
    except OSError:
        seen = False
    if not seen:
        where = (
            f"{socket.gethostname()} doesn't see {Path(site.here) / site.file} as it is where the benchmark was begun"
        )
        return Failure(False, f"{where}; its folder must be one that all machines share")
    with Signals() as signals:
        signals.command = site.command
        try:
            return attempt(site.work, item, Observer(), signals)
        except Interrupted as error:
            os._exit(error.status)


def run_on_cluster(
    spread: Spread, site: Site, items: Sequence[T], observer: Observer, signals: Interruption
) -> Done[T]:
    """Have a cluster's workers do things, and yield each that is done or has failed.

    What a worker that dies was at is gone on with by another. A signal is passed on to all, and they are waited for;
    Interrupted.
    """
    at_work: dict[int, float] = {}

    def tell() -> None:
        observer.several({str(items[place]): share for place, share in at_work.items()})

    with signals:
        try:
            for what, place, failure in spread.as_done(execution.Work(do, site), items):
                if what == "begun":
                    observer.note(
                        f"{items[place]}: {'its worker died; another goes on' if place in at_work else 'begun'}"
                    )
                    at_work[place] = 0.0
                    tell()
                elif what != "nothing":
                    del at_work[place]
                    tell()
                    yield (
                        items[place],
                        Failure(False, "its workers died, one after another") if what == "ended" else failure,
                    )
                signals.check()
        except BaseException:  # a signal, or nobody wants the rest
            spread.stop()
            raise
        finally:
            observer.several({})
