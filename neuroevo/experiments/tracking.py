"""A run as trackers are told of it: each tracker is a process of its own, which the run never waits for before its end.

What a tracker does wrong, or doesn't do in time, is a line for the user, and the run goes on without it.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from neuroevo import config
from neuroevo.config import Part
from neuroevo.engine.loop import Step
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError, RunError
from neuroevo.storage import claims, files, rundir
from neuroevo.storage.checkpoint import History
from neuroevo.tracking import child, trackers

SECONDS = 10.0  # that all trackers together have at the end of a run
MOST = 100_000  # messages that wait for a tracker
Log = Callable[[str], None]


class Follower:
    """A tracker's process: messages go to it, and answers come from it, by threads of their own."""

    def __init__(self, tracker: Part, keep: Callable[[], None]) -> None:
        self.tracker, self.keep = tracker, keep
        self.known: dict[str, Any] = {}  # id, place and done, as far as the tracker answered
        self.had = 0  # the last generation that it had of the run when it began
        self.failure: str | None = None
        self.said = self.over = False  # whether the user was told the place, and that it goes on no more
        self.waiting: SimpleQueue[str | None] = SimpleQueue()
        path = os.pathsep.join(dict.fromkeys([*sys.path, os.getcwd()]))  # a user's own tracker is found there
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", child.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is the run's, which ends its trackers
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        for thread in (self.reader, threading.Thread(target=self._write, daemon=True)):
            thread.start()

    def tell(self, message: dict[str, Any]) -> None:
        """Put a message on its way."""
        if self.failure is not None:
            return
        if self.waiting.qsize() < MOST:
            self.waiting.put(files.dumps(message) + "\n")
        else:
            self.failure = f"{MOST:,} messages wait for it"

    def end(self, deadline: float | None) -> None:
        """End it after what it was told, and wait for that until a time of the monotonic clock."""
        self.waiting.put(None)
        try:
            self.process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.failure = self.failure or "has not come to its end in time, and is left"
            self.process.kill()
            self.process.wait()
        self.reader.join(1.0)
        if self.process.returncode and self.failure is None:
            self.failure = f"its process ended with status {self.process.returncode}"

    def _write(self) -> None:
        assert self.process.stdin is not None
        with suppress(OSError), self.process.stdin as stream:  # it has gone, which `_read` hears as well
            while (text := self.waiting.get()) is not None:
                stream.write(text)
                stream.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for text in stream:
                with suppress(ValueError):  # what the interpreter may have printed
                    self._hear(json.loads(text))

    def _hear(self, said: dict[str, Any]) -> None:
        self.failure = said.pop("failed", self.failure)
        if "id" in said:
            self.had = said["done"]
        if said:
            self.known |= said
            self.keep()


class Tracking(Observer):
    """Tells trackers of a run: of its history from the first generation on, and of its result."""

    def __init__(
        self, asked: Sequence[Part], folder: Path, history: History, *, settings: dict[str, Any], log: Log
    ) -> None:
        self.asked, self.folder, self.history, self.settings, self.log = asked, folder, history, settings, log
        self.followers: list[Follower] | None = None  # None: not begun
        self.state, self.lock = read_state(folder, log), threading.Lock()
        self.unwritten: str | None = None

    def begin_trackers(self, seconds: float) -> list[Follower]:
        """Begin the trackers, `seconds` of the run's own after its begin, unless they are; return them."""
        if self.followers is not None:
            return self.followers
        self.followers = []
        about = {"name": name_of(self.folder), "folder": str(self.folder.resolve()), "config": self.settings}
        for tracker in self.asked:
            known = next((each for each in self.state if each["tracker"] == tracker.record()), {})
            run = about | {"began": time.time() - seconds, "id": known.get("id"), "done": known.get("done", 0)}
            options = {key: value for key, value in tracker.record().items() if key != "name"}
            try:
                follower = Follower(tracker, self.keep)
            except OSError as error:
                self.log(f"tracking: {tracker.name}: {error}; the run goes on without it")
                continue
            self.followers.append(follower)
            follower.tell({"name": tracker.name, "options": options, "run": run})
            for line in self.history:
                follower.tell({"line": line})
        return self.followers

    def generation(self, step: Step) -> None:
        """Tell of a generation."""
        for follower in self.begin_trackers(step.seconds):
            follower.tell({"line": step.record})
        self.hear()

    def conclude(self, result: dict[str, Any], plots: Sequence[Path] = ()) -> None:
        """Tell of a run's result, and of plots of it."""
        sound = [str(path.resolve()) for path in plots if self.is_picture(path)]
        found = {"result": trackers.figures_of(result), "plots": sound}
        for follower in self.begin_trackers(result.get("cost", {}).get("seconds", 0.0)):
            follower.tell(found)

    def is_picture(self, path: Path) -> bool:
        """Tell whether a plot is one that trackers can be told of; the user is told of another."""
        try:
            return bool(trackers.picture(path))
        except OSError as error:
            why = "is a link" if path.is_symlink() else error.strerror
            self.log(f"tracking: {path}: {why}; trackers aren't told of it")
            return False

    def finish(self, seconds: float | None) -> list[str]:
        """End the trackers, within so many seconds if any are given; return what they failed by."""
        begun = self.followers or []
        deadline = None if seconds is None else time.monotonic() + seconds
        for follower in begun:
            follower.waiting.put(None)
        for follower in begun:
            follower.end(deadline)
        self.hear()
        if self.unwritten is not None:
            self.log(f"tracking: {self.unwritten}; a run that goes on will be another in its trackers")
        return [f"{follower.tracker.name}: {follower.failure}" for follower in begun if follower.failure]

    def hear(self) -> None:
        """Say where a tracker has the run, and which one failed, once each."""
        for follower in self.followers or []:
            place = follower.known.get("place")
            if place is not None and not follower.said:
                follower.said = True
                self.log(f"tracking: {follower.tracker.name}: {place}")
                if follower.had > len(self.history):
                    again = f"generations {len(self.history) + 1} to {follower.had}"
                    self.log(f"tracking: {follower.tracker.name}: keeps {again} as it was told of them before")
            if follower.failure is not None and not follower.over:
                follower.over = True
                self.log(f"tracking: {follower.tracker.name}: {follower.failure}")

    def keep(self) -> None:
        """Write down by what the trackers know the run."""
        with self.lock:
            followers = self.followers or []
            mine = [{"tracker": f.tracker.record(), **f.known} for f in followers if "id" in f.known]
            others = [each for each in self.state if not any(each["tracker"] == own["tracker"] for own in mine)]
            try:
                files.replace(self.folder / rundir.TRACKING, (files.dumps([*others, *mine], 1) + "\n").encode())
            except RunError as error:
                self.unwritten = str(error)


def read_state(folder: Path, log: Log) -> list[dict[str, Any]]:
    """Return what is known of a run in trackers; [] where nothing is, and `log` is told of a file that is damaged."""
    content = files.content(folder / rundir.TRACKING, log)
    try:
        found = files.loads(content) if content else []
        right = all(isinstance(each.get("id"), str) and isinstance(each["tracker"], dict) for each in found)
    except (ValueError, AttributeError, TypeError, KeyError):
        right = False
    if not right:
        log(f"{folder / rundir.TRACKING}: damaged; what goes on will be another run in its trackers")
    return found if right else []


def name_of(folder: Path) -> str:
    """Return a run's name in trackers: its folder's, with those around it where it is of a benchmark."""
    whole = folder.resolve()
    bench = next((up for up in whole.parents if (up / rundir.BENCH).exists()), None)
    return whole.name if bench is None else "-".join(whole.relative_to(bench.parent).parts)


def check_installed(asked: Sequence[Part]) -> None:
    """See that the libraries of all trackers are there; InputError names one that isn't."""
    for tracker in asked:
        trackers.check_installed(tracker.name)


def read_trackers(given: Sequence[Any], place: str = "tracking") -> tuple[Part, ...]:
    """Return trackers, each by its name or as `{name: ..., option: ...}`; InputError where one can't be."""
    found = config.read_trackers(given, place)
    check_installed(found)
    return found


@contextmanager
def follow(
    asked: Sequence[Part], folder: Path, history: History, *, settings: dict[str, Any], log: Log
) -> Iterator[Tracking]:
    """Give the observer that tells trackers of a run while it is entered; it begins none before a generation."""
    tracking = Tracking(asked, folder, history, settings=settings, log=log)
    try:
        yield tracking
    finally:
        if tracking.finish(SECONDS):
            log(f"tracking: once that is mended: neuroevo log {folder} --to {','.join(each.name for each in asked)}")


def log_run(run_dir: str, to: str, observer: Observer) -> Path:
    """Tell trackers of a run that there is: its history, its result and its plots; return its folder.

    `to` names them, with commas between. A run that they were told of before is the same one there. InputError where
    one can't be, RunError where one fails.
    """
    asked = read_trackers(config.parse(f"[{to}]", "--to"), "--to")
    folder = rundir.find(run_dir)
    if not asked:
        raise InputError(f"--to: no tracker is named; there are: {', '.join(trackers.TRACKERS)}")
    with claims.lock(folder):
        history = rundir.read_history(folder, observer.note)
        if not history:
            raise InputError(f"{folder}: has no generation yet, of which a tracker could be told")
        found: Any = {}
        with suppress(InputError):
            found = config.read(str(folder / rundir.CONFIG))
        tracking = Tracking(asked, folder, history, settings=found, log=observer.note)
        result = rundir.read_result(folder, observer.note)
        for follower in tracking.begin_trackers(history[-1]["seconds"] or 0.0):
            follower.over = True  # an error says it
        tracking.conclude(result, sorted((folder / rundir.PLOTS).glob("*.png")))
        failed = tracking.finish(None)
    if failed:
        raise RunError("; ".join(failed))
    return folder
