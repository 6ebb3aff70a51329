"""A run's log, which its observer is told too."""

import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path

from neuroevo.engine.observer import Observer
from neuroevo.errors import printable
from neuroevo.experiments.interruption import Interruption
from neuroevo.storage import files, rundir


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ["neuroevo", "torch", "torchvision", "timm", "evotorch", "numpy", "h5py"]
    names += ["onnxruntime"] if "onnxruntime" in sys.modules else []  # of runs of an ONNX file
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


class Log:
    """A run's log, which the user is told too."""

    def __init__(self, path: Path, observer: Observer) -> None:
        self.observer, self.file = observer, files.open_to_append(path)  # `open_log` closes it

    def __call__(self, line: str) -> None:
        """Tell the user a line and keep it."""
        self.keep(line)
        self.observer.note(line)

    def keep(self, line: str) -> None:
        """Keep a line; RunError where it can't be written."""
        text = "\n".join(map(printable, line.split("\n")))  # of a traceback there are several
        files.append(self.file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def watch_prefix(observer: Observer, signals: Interruption) -> Callable[[int, int], None]:
    """Return a callback for the backbone's pass that reports it and ends it at a signal."""

    def images(done: int, total: int) -> None:
        signals.check()
        observer.progress(done, total)

    return images


@contextmanager
def open_log(folder: Path, observer: Observer, by: str) -> Iterator[Log]:
    """Return a run's log, in which the command comes first that it is worked on `by`."""
    log = Log(folder / rundir.LOG, observer)
    with closing(log.file):
        log.keep(rundir.COMMAND + by)
        yield log
