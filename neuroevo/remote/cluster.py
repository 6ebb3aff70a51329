"""The executor whose slices are done by workers of a Ray cluster: `connect` gives it while it is entered."""

import contextlib
import importlib.util
import os
import pickle
import queue
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, islice
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from neuroevo import devices
from neuroevo.data import feature_cache
from neuroevo.engine.execution import LOCAL, Executor, Work
from neuroevo.errors import InputError, RunError, ignore
from neuroevo.remote import parcels
from neuroevo.remote.pipe import Pipe
from neuroevo.remote.worker import PARTS, Grad, Settings, describe

T = TypeVar("T")
R = TypeVar("R")

BEGIN = 120.0  # seconds for a cluster and its first worker
END = 10.0  # seconds for a cluster to end
SHORT, LONGEST = "/tmp", 24  # noqa: S108  where Ray's sockets go, whose paths the system bounds, if TMPDIR is longer
TICK = 0.5  # seconds from one look at what else there is to the next
LEAVE = 60.0  # seconds for workers to end what they are at, when told to
ENDS = ("stopped", "lost", "refused")  # after which a bridge says no more of slices
AHEAD = 2  # slices for each worker that are on their way
NAME = "NEUROEVO_CLUSTER"  # an environment variable, by which the processes of a cluster of our own are found


class Cluster(NamedTuple):
    """What cluster a run is spread over."""

    workers: int | Literal["auto"] = "auto"  # auto: as many as there is room for, while it goes on
    cpus_per_worker: float | None = None  # that Ray counts; the run's threads if None
    gpus_per_worker: float = 0
    address: str | None = None  # of a cluster, auto for the one that this machine is of; None begins one here
    mixed: bool = False  # whether workers may differ from the run's process in what changes rounding


class Spread:
    """Has workers do slices; where there is but one it is done here, and comes to the same."""

    def __init__(self, pipe: Pipe, mixed: bool) -> None:
        self.pipe, self.alike = pipe, not mixed
        self.inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.numbers = parcels.Numbers()
        self.sent: set[int] = set()  # large tensors
        # By function and id: the number, and what keeps the id theirs. They are the last few that were asked for.
        self.parts: dict[tuple[Any, int], tuple[int, Any]] = {}
        self.counter = count()
        self.call = -1  # the last whose slices come as they are done
        self.workers: dict[str, int] = {}  # by name, the process's number
        self.differing: set[str] = set()  # in what some worker differs
        self.slices = 0  # that workers did
        self.alone = 0  # that were done here, since there was no other
        self.gone: str | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether workers had nothing to do where there was work."""
        return self.alone > 0 and not self.slices

    def map(self, work: Work[T, R], slices: Iterable[T]) -> Iterator[R]:
        """Yield what work makes of each slice, in their order; RunError where the cluster is gone."""
        pieces = iter(slices)
        first = list(islice(pieces, 2))
        if len(first) < 2:
            self.alone += len(first)
            yield from map(work, first)
            return
        yield from self._spread(work, chain(first, pieces))

    def as_done(self, work: Work[T, R], slices: Sequence[T]) -> Iterator[tuple[str, int, R | None]]:
        """Yield what becomes of slices, when it does: a word, a slice's place, and what work made of it.

        The word is `begun`, again by another worker after one that died, `done`, or `ended` where it was the end of
        one after another; `nothing` where nothing became of any for a while. RunError where the cluster is gone.
        """
        parts, common, call = self._parts(work), next(self.counter), next(self.counter)
        self._send_parcel(parcels.pack((work.common, Grad.here())), "common", common)
        for place, piece in enumerate(slices):
            self._send_parcel(parcels.pack(piece), "piece", call, place, parts, common)
        left, self.call = len(slices), call
        while left:
            try:
                kind, place, parcel = self._hear(call, TICK)
            except queue.Empty:
                yield "nothing", 0, None
                continue
            found: Any = None
            if kind == "done":
                good, found = parcels.unpack(*parcel)
                if not good:
                    raise found
            if kind != "begun":
                left, self.slices = left - 1, self.slices + 1
            yield kind, place, found

    def stop(self) -> dict[int, Any]:
        """Have workers end what they are at as a signal would, and wait for them.

        Return what work made of slices that came to an end in that, by their place.
        """
        made: dict[int, Any] = {}
        end = time.monotonic() + LEAVE
        with contextlib.suppress(RunError, queue.Empty):
            self._send("stop")
            while (message := self.inbox.get(timeout=max(0.0, end - time.monotonic())))[0] not in ENDS:
                if message[:2] == ("done", self.call):
                    good, found = parcels.unpack(*message[3:])
                    made |= {message[2]: found} if good else {}
        return made

    def _spread(self, work: Work[T, R], pieces: Iterator[T]) -> Iterator[R]:
        parts, common, call = self._parts(work), next(self.counter), next(self.counter)
        self._send_parcel(parcels.pack((work.common, Grad.here())), "common", common)
        made: dict[int, tuple[Any, ...]] = {}
        sent = taken = 0
        pending = True
        try:
            while True:
                while pending and sent - taken < max(2, AHEAD * len(self.workers)):
                    piece = next(pieces, _END)
                    pending = piece is not _END
                    if pending:
                        self._send_parcel(parcels.pack(piece), "piece", call, sent, parts, common)
                        sent += 1
                if taken == sent:
                    return
                while taken not in made:
                    place, parcel = self._answer(call)
                    made[place] = parcel
                good, found = parcels.unpack(*made.pop(taken))
                if not good:
                    raise found
                taken, self.slices = taken + 1, self.slices + 1
                yield found
        finally:
            if taken < sent:
                self._send("forget", call)

    def _parts(self, work: Work[Any, Any]) -> int:
        """Return the number of a work's function and parts, which are sent the first time."""
        key = work.function, id(work.parts)
        if key not in self.parts:
            number = next(self.counter)
            parcel = parcels.pack((work.function, work.parts), self.numbers)
            named = {n: feature_cache.name_of(self.numbers.tensors[n]) for n in parcel.tensors}
            sources = {n: name for n, name in named.items() if name is not None}
            self._send_tensors([n for n in parcel.tensors if n not in sources])
            self._send("parts", number, parcel.content, dict.fromkeys(parcel.tensors), sources, beside=parcel.buffers)
            self.parts[key] = number, work.parts
            while len(self.parts) > PARTS:
                forgotten, _ = self.parts.pop(next(iter(self.parts)))
                self._send("without", forgotten)
        self.parts[key] = self.parts.pop(key)  # the last to be forgotten
        return self.parts[key][0]

    def _send_tensors(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in self.sent:
                continue
            self.sent.add(number)
            shape, content = parcels.take_apart(self.numbers.tensors[number])
            self._send("tensor", number, pickle.dumps(shape), beside=[content])

    def _send_parcel(self, parcel: parcels.Parcel, *message: Any) -> None:
        self._send(*message, parcel.content, beside=parcel.buffers)

    def _send(self, *message: Any, beside: Sequence[Any] = ()) -> None:
        try:
            self.pipe.send(message, beside)
        except OSError as error:
            raise self._lost() from error

    def _answer(self, call: int) -> tuple[int, tuple[Any, ...]]:
        """Return the next slice that is done: its place, and the parcel of what became of it."""
        while True:
            kind, place, parcel = self._hear(call)
            if kind == "done":
                return place, parcel
            if kind == "ended":
                self.gone = "a slice ended one worker after another"
                raise self._lost()

    def _hear(self, call: int, patience: float | None = None) -> tuple[str, int, tuple[Any, ...]]:
        """Return the next that is heard of a call's slices: begun, done or ended, its place, the parcel of what it is.

        queue.Empty where nothing is heard within `patience` seconds.
        """
        while True:
            kind, *rest = self.inbox.get(timeout=patience)
            if kind in ("begun", "done", "ended") and rest[0] == call:
                return kind, rest[1], tuple(rest[2:])
            if kind == "missing":
                self._send_tensors(rest[0])
                self._send("sent")
            elif kind in ("lost", "refused"):
                self.gone = rest[0]
                raise self._lost()

    def _lost(self) -> RunError:
        return RunError(f"the Ray cluster is gone ({self.gone or 'its process ended'}); go on with: neuroevo resume")

    def _listen(self) -> None:
        """Take what the bridge says, in a thread of its own: workers come and go while nothing is asked."""
        while True:
            try:
                message, buffers = self.pipe.receive()
            except (EOFError, OSError):
                self.inbox.put(("lost", self.gone or "its process ended"))
                return
            if message[0] == "joined":
                _, name, process, differs = message
                self.workers[name] = process
                self.differing |= {*differs}
            elif message[0] == "left":
                self.workers.pop(message[1], None)
            self.inbox.put((*message, buffers) if message[0] == "done" else message)

    def __reduce__(self) -> Any:
        return _local, ()  # in a worker, slices are done where they are


_END: Any = object()


def _local() -> Executor:
    return LOCAL


@contextlib.contextmanager
def connect(
    cluster: Cluster | None,
    device: torch.device,
    packages: Sequence[str],
    note: Callable[[str], None] = ignore,
    *,
    stoppable: bool = False,
) -> Iterator[Executor]:
    """Give the executor of a cluster while it is entered: of this process, where there is none or it has no workers.

    With `stoppable` workers can be told to end what they are at (`stop`).
    InputError where the cluster isn't there, has less than is asked for, or other versions of `packages`.
    """
    if cluster is None or cluster.workers == 0:
        yield LOCAL
        return
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("cloudpickle") is None:
        raise InputError("ray: not installed; pip install 'neuroevo[ray]'", option="engine")
    settings = Settings.here()
    cpus = settings.threads if cluster.cpus_per_worker is None else cluster.cpus_per_worker
    asked: dict[str, Any] = {
        "workers": cluster.workers,
        "cpus": cpus,
        "gpus": cluster.gpus_per_worker,
        "address": cluster.address,
        "mixed": cluster.mixed,
        "stoppable": stoppable,
        "about": describe(device, packages),
        "packages": list(packages),
        "worker": pickle.dumps((settings, device.type, sys.path)),
    }
    if device.type == "cuda" and not cluster.gpus_per_worker:
        raise InputError(f"0, and the run is on {device}; give 1, or a share", option="gpus_per_worker")
    name = f"{os.getpid()}-{time.time_ns()}"
    asked["folder"] = folder = tempfile.mkdtemp(
        prefix="neuroevo-", dir=SHORT if len(tempfile.gettempdir()) > LONGEST else None
    )
    process, pipe = _start(name, cluster.address is None)
    try:
        pipe.send(asked)
        spread = Spread(pipe, cluster.mixed)
        _await_first(spread)
        there, most = len(spread.workers), cluster.workers
        many = f" of {most}" if most not in ("auto", there) else ""
        note(f"Ray: {there} {'worker' if there == 1 else 'workers'}{many}")
        yield spread
    finally:
        _end(process, pipe, name)
        shutil.rmtree(folder, ignore_errors=True)


def _start(name: str, own: bool) -> tuple[subprocess.Popen[bytes], Pipe]:
    """Start the bridge, in a session of its own: what is typed at a terminal isn't for it."""
    ours, theirs = socket.socketpair()
    environment = {**os.environ, NAME: name, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if own:  # or Ray would write a token into the home folder
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "neuroevo.remote.bridge"]
    no, yes = subprocess.DEVNULL, theirs.fileno()
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdin=yes, stdout=no, stderr=no)  # noqa: S603  our own module
    theirs.close()
    return process, Pipe(ours, parcels.allocate)


def _await_first(spread: Spread) -> None:
    """Wait for the first worker; InputError where the cluster isn't as it is asked for."""
    end = time.monotonic() + BEGIN
    while not spread.workers:
        try:
            kind, *rest = spread.inbox.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise InputError(f"no worker within {BEGIN:g} seconds", option="workers") from None
        if kind == "refused":
            option, _, line = rest[0].partition(": ")
            raise InputError(line, option=option) if option in Cluster._fields else InputError(rest[0])
        if kind == "lost":
            raise RunError(f"Ray: {rest[0]}")


def _end(process: subprocess.Popen[bytes], pipe: Pipe, name: str) -> None:
    """End the bridge and, where it was begun here, its cluster; nothing of them stays."""
    with contextlib.suppress(OSError):
        pipe.shut()  # which wakes the thread that listens
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END)
    if process.poll() is None:
        process.kill()
        process.wait()
    devices.kill_all(NAME, name)
    pipe.close()
