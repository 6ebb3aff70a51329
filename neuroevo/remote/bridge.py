"""The process that knows Ray: it takes slices from a run through a pipe, and has workers do them.

    python -m neuroevo.remote.bridge

The pipe is its standard input. It imports neither torch nor what uses it. Ray ends the processes that are connected to
a cluster when the cluster ends; then it is this one that ends, and the run says so in a line. When the run ends, in
whatever way, the pipe does, and the cluster with it if it was begun here.

A worker that dies is made anew, and what it was at is done by another. Ray's own retries aren't used: they wait for the
same worker, which may have nowhere to come back to.
"""

import math
import os
import pickle
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from neuroevo.remote.pipe import Pipe

DEATHS = 5  # of workers, at one slice: it is the slice that ends them
PATIENCE = 12.0  # seconds for a cluster to answer
FOLLOW = 2.0  # seconds from one look at the cluster to the next
ALONE = 60.0  # seconds without any worker, where there was one, after which the cluster counts as gone


class Refusal(Exception):
    """What the user asked for can't be had."""


@dataclass
class Piece:
    """A slice that is to be done."""

    map: int
    place: int
    parts: int
    common: int
    content: tuple[bytes, list[Any]]  # a pickle, and what lies beside it
    deaths: int = 0
    worker: Any = None


@dataclass
class Crew:
    """The workers that there are, and what each is at."""

    ready: dict[str, Any] = field(default_factory=dict)  # by name, with nothing to do
    busy: dict[str, Piece] = field(default_factory=dict)
    actors: dict[str, Any] = field(default_factory=dict)  # all, those that aren't there yet among them
    made: int = 0
    unborn: int = 0  # in a row, that died before they said what they are


class Bridge:
    """Between a run and a cluster."""

    def __init__(self, pipe: Pipe, asked: dict[str, Any]) -> None:
        import ray

        self.ray: Any = ray
        self.pipe, self.asked = pipe, asked
        self.lock = threading.RLock()
        self.crew, self.waiting = Crew(), deque[Piece]()
        self.parts: dict[int, tuple[Any, dict[int, Any], dict[int, str]]] = {}
        self.tensors: dict[int, Any] = {}
        self.commons: dict[int, Any] = {}
        self.held: list[Piece] = []  # until tensors come
        self.last: float | None = None  # when there was a worker; for the first it is the run that waits
        self.over = threading.Event()
        self.flag = self.flag_class().remote() if asked["stoppable"] else None
        self.actor = self.actor_class()

    def flag_class(self) -> Any:
        """Return the class of the actor that workers ask whether to end what they are at."""

        class Flag:
            up = False

            def set(self) -> None:
                self.up = True

            def get(self) -> bool:
                return self.up

        return self.ray.remote(num_cpus=0)(Flag)

    def actor_class(self) -> Any:
        """Return the class of Ray's actors."""
        asked = self.asked

        class Actor:
            def __init__(self, content: bytes, flag: Any) -> None:
                import ray

                from neuroevo.remote.worker import Worker, end_when

                if flag is not None:
                    end_when(lambda: bool(ray.get(flag.get.remote())))
                self.worker = Worker(*pickle.loads(content))  # noqa: S301  from the run

            def describe(self, packages: list[str]) -> tuple[int, dict[str, str]]:
                return self.worker.describe(packages)

            def do(self, order: Any, sources: dict[int, str]) -> Any:
                import ray

                from neuroevo.remote.worker import Missing, Order

                found = self.worker.do(Order(*order), sources, lambda reference: ray.get(reference[0]))
                return list(found.numbers) if isinstance(found, Missing) else tuple(found)

        return self.ray.remote(num_cpus=asked["cpus"], num_gpus=asked["gpus"], max_restarts=0)(Actor)

    def say(self, *message: Any, beside: Sequence[Any] = ()) -> None:
        """Tell the run."""
        with suppress(OSError):
            self.pipe.send(message, beside)

    def target(self) -> int:
        """Return how many workers there should be."""
        if self.asked["workers"] != "auto":
            return int(self.asked["workers"])
        return max(1, self.capacity())

    def capacity(self) -> int:
        """Return how many workers the cluster's nodes have room for."""
        each = {"CPU": self.asked["cpus"], "GPU": self.asked["gpus"]}
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return sum(min(int(has.get(name, 0) // one) for name, one in each.items() if one) for has in nodes)

    def check(self) -> None:
        """See that the cluster has what is asked for; Refusal."""
        count, room = 1 if self.asked["workers"] == "auto" else self.asked["workers"], self.capacity()
        if count > room:
            each = f"{self.asked['cpus']:g} CPUs" + (f" and {self.asked['gpus']:g} GPUs" if self.asked["gpus"] else "")
            raise Refusal(f"workers: {count} of {each} each, and the cluster has room for {room}")

    def grow(self) -> None:
        """Have as many workers as there should be."""
        with self.lock:
            for _ in range(self.target() - len(self.crew.actors)):
                name = f"worker {self.crew.made}"
                self.crew.made += 1
                actor = self.actor.remote(self.asked["worker"], self.flag)
                self.crew.actors[name] = actor
                self.when(actor.describe.remote(self.asked["packages"]), partial(self.met, name))

    def when(self, reference: Any, act: Callable[[bool, Any], None]) -> None:
        """Act on what a reference comes to, or on why it came to nothing, in a thread of Ray's."""

        def done(future: Any) -> None:
            error = future.exception()
            try:
                act(error is None, error or future.result())
            except Exception as wrong:  # else nobody would hear of it
                self.say("lost", f"{type(wrong).__name__}: {wrong}")

        reference.future().add_done_callback(done)

    def met(self, name: str, ok: bool, found: Any) -> None:
        """Take a worker in that has said what it is, or make another."""
        with self.lock:
            if not ok:
                self.crew.unborn += 1
                if self.crew.unborn >= DEATHS:
                    self.say("refused", f"{DEATHS} workers didn't begin: {brief(found)}")
                    return
                self.bury(name)
                return
            self.crew.unborn = 0
            pid, about = found
            here = self.asked["about"]
            differs = {key: (about.get(key), value) for key, value in here.items() if about.get(key) != value}
            if differs and not self.asked["mixed"]:
                key, (there, own) = next(iter(differs.items()))
                self.say("refused", f"{name} has {key} {there}, the run {own}; remote.mixed: true admits it")
                return
            self.say("joined", name, pid, sorted(differs))
            self.crew.ready[name] = self.crew.actors[name]
            self.last = time.monotonic()
        self.hand_out()

    def bury(self, name: str) -> None:
        """Let go of a worker that is dead, and see to what it was at."""
        with self.lock:
            actor = self.crew.actors.pop(name, None)
            self.crew.ready.pop(name, None)
            piece = self.crew.busy.pop(name, None)
            if actor is None:
                return
            self.say("left", name)
            if piece is not None and not self.over.is_set():
                piece.deaths += 1
                if piece.deaths >= DEATHS:
                    self.say("ended", piece.map, piece.place)
                else:
                    self.waiting.appendleft(piece)
        if not self.over.is_set():
            self.grow()
        self.rest()

    def stop(self) -> None:
        """Have workers end what they are at, as a signal would; what waits isn't begun."""
        self.over.set()
        self.waiting.clear()
        if self.flag is not None:
            self.flag.set.remote()
        self.rest()

    def rest(self) -> None:
        """Say so where nothing is being done any more."""
        if self.over.is_set() and not self.crew.busy:
            self.say("stopped")

    def hand_out(self) -> None:
        """Give what waits to who has nothing to do."""
        with self.lock:
            while self.waiting and self.crew.ready:
                piece = self.waiting.popleft()
                if piece.parts not in self.parts:  # of a call that nobody waits for
                    continue
                name, actor = self.crew.ready.popitem()
                reference, tensors, sources = self.parts[piece.parts]
                there = {n: self.tensors.get(n) for n in tensors}
                order = (piece.parts, reference), (piece.common, self.commons[piece.common]), *piece.content, there
                self.crew.busy[name] = piece
                if self.flag is not None:
                    self.say("begun", piece.map, piece.place)
                self.when(actor.do.remote(order, sources), partial(self.done, name))

    def done(self, name: str, ok: bool, found: Any) -> None:
        """Pass on what a worker made of its slice."""
        with self.lock:
            if not ok:
                self.bury(name)
            else:
                piece = self.crew.busy.pop(name)
                self.crew.ready[name] = self.crew.actors[name]
                self.last = time.monotonic()
                if isinstance(found, list):
                    self.held.append(piece)
                    self.say("missing", found)
                else:
                    content, buffers, _ = found
                    self.say("done", piece.map, piece.place, content, beside=buffers)
                self.rest()
        self.hand_out()

    def hear(self) -> None:
        """Do what the run says until it says no more."""
        while True:
            (kind, *rest), buffers = self.pipe.receive()
            with self.lock:
                if kind == "parts":
                    number, content, tensors, sources = rest
                    self.parts[number] = [self.ray.put((content, buffers))], tensors, sources
                elif kind == "without":
                    self.parts.pop(rest[0], None)
                elif kind == "tensor":
                    number, shape = rest
                    self.tensors[number] = [self.ray.put((pickle.loads(shape), *buffers))]  # noqa: S301  from the run
                elif kind == "sent":
                    self.waiting.extendleft(reversed(self.held))
                    self.held.clear()
                elif kind == "common":
                    number, content = rest
                    self.commons = {**dict(list(self.commons.items())[-3:]), number: [self.ray.put((content, buffers))]}
                elif kind == "piece":
                    call, place, parts, common, content = rest
                    self.waiting.append(Piece(call, place, parts, common, (content, buffers)))
                elif kind == "stop":
                    self.stop()
                elif kind == "forget":
                    self.waiting = deque(piece for piece in self.waiting if piece.map != rest[0])
            self.hand_out()

    def watch(self) -> None:
        """Follow the cluster."""
        while not self.over.wait(FOLLOW):
            try:
                if self.asked["workers"] == "auto":
                    self.grow()
                with self.lock:
                    alone = not self.crew.ready and not self.crew.busy
                if not alone:
                    self.last = time.monotonic()
                elif self.last is not None and time.monotonic() - self.last > ALONE:
                    self.say("lost", f"no worker for {ALONE:g} seconds")
            except Exception as error:
                self.say("lost", f"{type(error).__name__}: {brief(error)}")
                return


def brief(error: Exception) -> str:
    """Return the last line of what Ray says of an error: the others are where it came from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:200] if lines else type(error).__name__


def reachable(address: str) -> None:
    """See that somebody listens at an address; Refusal."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            pass
    except (OSError, ValueError) as error:
        raise Refusal(f"address: {address}: no Ray cluster is there ({error})") from error


def connect(asked: dict[str, Any], folder: str, give_up: Callable[[], None]) -> None:
    """Connect to a cluster, or begin one in this folder; Refusal. `give_up` is called where no cluster answers."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": 50}
    address = asked["address"]
    if address is None:
        count = asked["workers"] if asked["workers"] != "auto" else max(1, int(os.cpu_count() or 1) // asked["cpus"])
        cpus = max(1, math.ceil(count * asked["cpus"]))
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, _temp_dir=folder, **quiet)
        return
    if address != "auto":
        reachable(address)
    slow = threading.Timer(PATIENCE, give_up)  # Ray's own patience is longer, and it must be here that it connects
    slow.start()
    try:
        ray.init(address=address, **quiet)
    except Exception as error:
        raise Refusal(f"address: {address}: {brief(error)}") from error
    finally:
        slow.cancel()


def main() -> None:
    """Serve the run at the other end of the pipe."""
    pipe = Pipe(socket.socket(fileno=os.dup(0)), partial(np.empty, dtype=np.uint8))  # Ray copies no array that it gives
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # or Ray's processes would hold the pipe, and the run wouldn't hear that this one ended
    os.close(nothing)
    asked, _ = pipe.receive()
    folder = asked["folder"]  # the run removes it as well: each may outlive the other

    def give_up() -> None:
        pipe.send(("refused", f"address: {asked['address']}: no Ray cluster answers"))
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    try:
        try:
            connect(asked, folder, give_up)
            bridge = Bridge(pipe, asked)
            bridge.check()
        except Refusal as error:
            pipe.send(("refused", str(error)))
            return
        except Exception as error:
            pipe.send(("refused", f"Ray doesn't begin: {brief(error)}"))
            return
        threading.Thread(target=bridge.watch, daemon=True).start()
        bridge.grow()
        with suppress(EOFError, OSError):
            bridge.hear()
        bridge.over.set()
        for actor in list(bridge.crew.actors.values()):  # of a cluster that goes on
            with suppress(Exception):
                bridge.ray.kill(actor)
    finally:
        with suppress(Exception):
            import ray

            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
