"""Commands that are hurt, each in a folder of its own, and what they must come to in the end.

`start` runs one in a fork of this process, which has imported everything: a command of a second takes a second.
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "tracking")]

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import sklearn.linear_model  # noqa: E402, F401  imported once, for all forks
import timm  # noqa: E402, F401
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import neuroevo as ne  # noqa: E402
from neuroevo.cli.main import main as command_line  # noqa: E402
from neuroevo.errors import InputError, RunError  # noqa: E402
from neuroevo.experiments import experiment  # noqa: E402, F401
from neuroevo.problems import slicing  # noqa: E402

TINY = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=16",
        "fitness.samples=100", "memory.limit=1e8"]  # fmt: skip
LENGTH = ["budget.generations=40", "validate.every=3", "checkpoint.every=4"]
DIGITS = [*TINY, *LENGTH, "algorithm.crossover=uniform"]  # two parents: there is a lineage
PHOTOS = [*TINY, *LENGTH, "data.name=image_folder", "data.root=photos"]
SLOW = [text for text in PHOTOS if not text.startswith("backbone.")] + [
    "backbone.name=slow:net",
    "backbone.weights=none",
]
FOLDS = [*(text for text in DIGITS if "budget" not in text), "budget.generations=12", "validate.folds=3"]
TUNE = """
data: {name: digits}
backbone: {name: none, weights: none}
algorithm: {name: fixed, population: 1}
refine: {steps: 5}
memory: {limit: 100000000}
budget: {generations: 3}
tune:
  sampler: {name: pso, population: 4}
  space: {refine.lr: {name: float, low: 0.001, high: 1.0, scale: log}}
  trial: {generations: 2}
  budget: {generations: 3}
"""
BENCH = """
data: {name: digits}
backbone: {name: none, weights: none}
memory: {limit: 100000000}
budget: {samples: 60000}
"""
NETWORK = """
import time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh())
        self.head = nn.Linear(12, 10)
    def forward(self, x):
        time.sleep(0.05)
        return self.head(self.body(x))

def net():
    torch.manual_seed(0)
    return Net()
"""
GIVEN = ("photos", "tune.yaml", "bench.yaml", "slow.py", "__pycache__")  # what commands are given
LIMIT = 180.0  # seconds that a command may take
OURS = "NEUROEVO_CACHE"  # what tells a command's processes: each has a cache of its own
Command = list[str] | Callable[[], object]


class Victim(NamedTuple):
    """A command, and how one goes on with what it was at."""

    command: Command
    again: list[str] | None = None  # None: the same command
    before: tuple[list[str], ...] = ()  # commands that make what it is about


def sets(given: Sequence[str]) -> list[str]:
    """Return --set options."""
    return [word for one in given for word in ("--set", one)]


def run(*more: str, base: Sequence[str] = DIGITS) -> list[str]:
    """Return a command that runs in r."""
    return ["run", *sets([*base, *more]), "--out", "r"]


def search() -> None:
    """Search from Python, or go on with that."""
    slicing.memory_limit = lambda device: 10**8  # what is free differs from one moment to the next
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    x = torch.randn(200, 6)
    y = (x[:, 0] * x[:, 1] > 0).long()
    if Path("r/config.yaml").exists():
        ne.resume("r", model, (x, y))
    else:
        ne.evolve(model, (x, y), budget=ne.Budget(generations=60), every=3, out="r")


RESUME = ["resume", "r"]
MORE = ["resume", "r", *sets(["budget.generations=40"])]
BENCHED = ["bench", "bench.yaml", "--arms", "sgd,random", "--seeds", "1", "--out", "r"]
VICTIMS = {
    "run": Victim(run(), RESUME),
    "resume": Victim(MORE, before=(run("budget.generations=10"),)),
    "tune": Victim(["tune", "tune.yaml", "--out", "r"], RESUME),
    "bench": Victim(BENCHED),
    "bench of 2 jobs": Victim([*BENCHED, "--jobs", "2"]),
    "features": Victim(run(base=SLOW), RESUME),
    "export": Victim(["export", "r", "--select", "soup", "--out", "taken.safetensors"], before=(run(),)),
    "report": Victim(["report", "r", "--formats", "png"], before=(run(),)),
    "API": Victim(search),
    "islands": Victim(run("islands.count=3", "islands.every=5"), RESUME),
    "tracked": Victim(run("tracking=[tensorboard]"), RESUME),
    "folds": Victim(run(base=FOLDS), RESUME),
    "predict": Victim(["predict", "r", "photos", "--out", "labels.csv"], before=(run(base=PHOTOS),)),
}


def make(folder: Path) -> None:
    """Make the files that commands are given."""
    numbers = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(80):
            pixels = np.clip(numbers.normal(60 + 60 * label, 40, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i:02d}.png")
    (folder / "tune.yaml").write_text(TUNE)
    (folder / "bench.yaml").write_text(BENCH)
    (folder / "slow.py").write_text(NETWORK)
    (folder / "cache").mkdir()


def prepare(victim: Victim, root: Path) -> Path:
    """Return a new folder with all that a victim needs."""
    root.mkdir()
    make(root)
    for command in victim.before:
        status, text = Running(command, root).wait()
        assert status == 0, text
    return root


class Running:
    """A command at work in a fork, in a session of its own."""

    def __init__(
        self, command: Command, folder: Path, enter: Callable[[], object] = lambda: None, *, log: str = "log"
    ) -> None:
        self.folder, self.began = folder, time.monotonic()
        self.log = folder.with_name(f"{log} of {folder.name}")
        self.log.unlink(missing_ok=True)
        self.pid = os.fork()
        if self.pid == 0:
            _work(command, folder, self.log, enter)

    def wait(self, seconds: float = LIMIT) -> tuple[int | None, str]:
        """Return its exit status, None where it hung, and what it printed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(code), self.log.read_text(errors="replace")
            time.sleep(0.005)
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None, self.log.read_text(errors="replace")

    def at_work(self) -> bool:
        """Tell whether it hasn't ended yet."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def kill(self, moment: float) -> bool:
        """Kill -9 the process alone, so many seconds after it began; tell whether it was still at work."""
        time.sleep(max(0.0, self.began + moment - time.monotonic()))
        os.kill(self.pid, signal.SIGKILL)  # it is waited for below alone: the number is still its own
        return os.WIFSIGNALED(os.waitpid(self.pid, 0)[1])

    def left(self, seconds: float = 20.0) -> list[str]:
        """Return what processes of the command stay for so long after its end."""
        end = time.monotonic() + seconds
        while (found := list(self._others())) and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def _others(self) -> Iterator[str]:
        for process in psutil.process_iter():
            try:
                mine = process.environ().get(OURS) == str(self.folder / "cache") or os.getsid(process.pid) == self.pid
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    yield " ".join(process.cmdline())[:80]
            except (psutil.Error, OSError):
                continue


def _work(command: Command, folder: Path, log: Path, enter: Callable[[], object]) -> None:
    """Do a command in a fork, and leave with its status."""
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        os.environ[OURS] = str(folder / "cache")
        nothing = os.open(os.devnull, os.O_RDONLY)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, descriptor in enumerate((nothing, said, said)):
            os.dup2(descriptor, number)
        enter()
        if callable(command):
            command()
            status = 0
        else:
            sys.argv = ["neuroevo", *command]
            command_line()
    except (InputError, RunError) as error:  # of a search from Python
        print(f"neuroevo: {error}")
        status = 2 if isinstance(error, InputError) else 1
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def copy(folder: Path, to: Path) -> Path:
    """Copy what was prepared; times of files stay."""
    return Path(shutil.copytree(folder, to, symlinks=True))


OTHERWISE = ("seconds", "backbone_samples", "checksum", "command", "machine", "when", "jobs")  # from run to run


def timeless(value: Any) -> Any:
    """Return a value of JSON less what differs from one undisturbed run to the next."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not any(word in str(key) for word in OTHERWISE)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def of_checkpoint(path: Path, where: str) -> dict[str, Any]:
    """Return all that a checkpoint in a folder holds, seconds aside."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:

        def note(name: str, item: Any) -> None:
            if "seconds" in name:
                return
            if isinstance(item, h5py.Dataset):
                found[name] = (item.dtype.str, item.shape, item[()].tobytes())
            found.update({f"{name}@{key}": str(value).replace(where, ".") for key, value in item.attrs.items()})

        file.visititems(note)
        attributes = {key: str(value).replace(where, ".") for key, value in file.attrs.items() if key != "seconds"}
        found["@"] = attributes | {"cost": timeless(json.loads(file.attrs["cost"]))}
    return found


def of_table(content: bytes) -> list[dict[str, str]]:
    """Return the rows of a CSV table, less columns of seconds."""
    rows = csv.DictReader(io.StringIO(content.decode()))
    return [{key: cell for key, cell in row.items() if "seconds" not in str(key)} for row in rows]


def of_file(path: Path, folder: Path) -> Any:
    """Return what a file in a folder says that two undisturbed runs agree in, wherever that folder is."""
    content = path.read_bytes().replace(str(folder).encode(), b".")
    if path.name in ("run.log", ".lock"):
        return None
    if path.name == "bench.yaml":
        return [line for line in content.splitlines() if not line.startswith((b"commit:", b"machine:"))]
    if path.suffix == ".h5":
        return of_checkpoint(path, str(folder))
    if path.name == "tracking.json":
        return [
            {key: value for key, value in each.items() if key not in ("id", "place")} for each in json.loads(content)
        ]
    if path.suffix == ".json":
        return timeless(json.loads(content))
    if path.suffix == ".jsonl":
        try:
            return [timeless(json.loads(line)) for line in content.splitlines()]
        except ValueError:
            return "damaged"
    if path.suffix == ".csv":
        return of_table(content)
    return content


def contents(folder: Path) -> dict[str, Any]:
    """Return what is in a victim's folder, its inputs aside: files by their names, links, what is cached."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.is_dir() or place.parts[0] in GIVEN:
            continue
        if (folder / "r" / "bench.yaml").exists() and (place.name == "report.html" or "plots" in place.parts):
            found[str(place)] = None  # it shows seconds
            continue
        if place.parts[0] == "cache":
            if path.suffix == ".npy":
                found[f"cache: features of {path.stat().st_size} bytes"] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif path.suffix in (".partial", ".journal"):
                found[str(place)] = "left in the cache"
        elif "tfevents" not in path.name:
            found[str(place)] = of_file(path, folder)
    board = folder / "r" / "tensorboard"
    if board.is_dir():
        from readers import tensorboard

        found["tensorboard"] = timeless({tag: dict(told) for tag, told in tensorboard(board)["scalars"].items()})
    return found


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Return where two contents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other}, key=str)
        return [
            line
            for key in keys
            for line in differences(one.get(key, "absent"), other.get(key, "absent"), f"{place}/{key}")
        ]
    if one == other:
        return []
    brief = [re.sub(r"\s+", " ", repr(each))[:200] for each in (one, other)]
    return [f"{place}: {brief[0]} and {brief[1]}"]


def traceback_in(text: str) -> bool:
    """Tell whether a command printed a traceback."""
    return "Traceback (most recent call last)" in text
