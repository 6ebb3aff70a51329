import csv
import hashlib
import json
import logging
import os
import runpy
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

if "PYTEST_XDIST_WORKER" in os.environ:  # of several processes each has a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU, whoever imports them first

import yaml
from PIL import Image
from safetensors.torch import save_file

from neuroevo.config import load
from neuroevo.engine.loop import Step
from neuroevo.engine.observer import Observer
from neuroevo.experiments import baseline, evaluation, experiment
from neuroevo.forecast import forecaster
from neuroevo.networks import backbones, deep
from neuroevo.problems import precision
from neuroevo.report import figures
from neuroevo.storage import checkpoint, files, hdf5, rundir

T = TypeVar("T")
BENCH = Path(__file__).parents[1] / "bench"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests that are marked as long as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave long tests out unless they are asked for."""
    if not config.getoption("--long"):
        gone = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def scores_of(*given: Any, **options: Any) -> dict[str, Any]:
    """Return the scores of `evaluate` alone; where samples are rows of numbers, `noun` says so."""
    found = evaluation.evaluate(*given, **options)
    return found.tested.scores | ({} if found.noun == "images" else {"noun": found.noun})


@pytest.fixture(autouse=True)
def uncompared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process are compared with no logistic regression, which takes longer than many a test's run."""
    if request.node.get_closest_marker("compares") is None:
        monkeypatch.setattr(baseline, "compare", lambda *_, **__: baseline.NOTHING)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, shared by all of them and by the processes they start."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("NEUROEVO_CACHE")
    os.environ["NEUROEVO_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["NEUROEVO_CACHE"]
    else:
        os.environ["NEUROEVO_CACHE"] = before


@pytest.fixture(autouse=True, scope="session")
def quick_estimates() -> Iterator[None]:
    """Measuring what a run will take takes eight seconds where a person asks; here what it finds matters less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecaster, "SECONDS", 0.5)
        patch.setattr(forecaster, "PASS_SECONDS", 0.3)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_clock_decides() -> Iterator[None]:
    """In tests neither precision nor the plan of a stage is measured, but where a test says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "LEAST", float("inf"))
        patch.setattr(deep, "CLEARLY", float("inf"))
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_pdfs() -> Iterator[None]:
    """Half of a report's time goes to cutting a TrueType font down for each PDF; here fonts are drawn as outlines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(figures.RC, "pdf.fonttype", 3)
        yield


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def data_root() -> Path:
    """Where shared/data's unpack.sh put MNIST and CIFAR-10; tests that need them skip where they are absent."""
    root = os.environ.get("NEUROEVO_DATA")
    if not root or not (Path(root) / "cifar10-images").is_dir():
        pytest.skip("NEUROEVO_DATA names no folder with cifar10-images in it")
    return Path(root)


class Quiet(Observer):
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[Step] = []
        self.done: list[tuple[int, int]] = []
        self.shares: list[dict[str, float]] = []

    def note(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, done: int, total: int) -> None:
        self.done.append((done, total))

    def generation(self, step: Step) -> None:
        self.steps.append(step)

    def several(self, shares: Mapping[str, float]) -> None:
        self.shares.append(dict(shares))


@contextmanager
def when(look: Callable[[], T], act: Callable[[T], object], seconds: float = 120) -> Iterator[None]:
    """Act in a thread as soon as a look finds something, while what is entered goes on; it fails where none ever does.

    A thread that waited for ever would keep its test waiting, and so the whole suite.
    """
    over, acted = threading.Event(), False

    def watch() -> None:
        nonlocal acted
        end = time.monotonic() + seconds
        while not (found := look()) and not over.is_set() and time.monotonic() < end:
            time.sleep(0.005)
        if found:
            act(found)
            acted = True

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(seconds)
    assert acted, "what was waited for never came"


@pytest.fixture
def quiet() -> Quiet:
    return Quiet()


def make_folder(root: Path, parts: dict[str, dict[str, int]], size: int = 8, grey: bool = False) -> Path:
    """Write class folders of noisy images whose brightness tells their class: {part: {class: images}}."""
    rng = np.random.default_rng(0)
    for part, classes in parts.items():
        for label, (name, count) in enumerate(classes.items()):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (size, size) if grey else (size, size, 3)
                level = 255 * (label + 0.5) / len(classes)
                pixels = np.clip(rng.normal(level, 30, shape), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return root


def weights_of_a_network(folder: Path) -> str:
    """Write the weights of timm's test_resnet; without a file each build of it would be another network."""
    torch.manual_seed(0)
    path = folder / "w.safetensors"
    save_file(backbones.build("timm/test_resnet", "none", 32, (8, 8, 1)).body.state_dict(), path)
    return f"backbone.weights={path}"


TINY = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "memory.limit=1e8", "validate.every=2",
        "algorithm.population=8", "budget.generations=6", "fitness.samples=100"]  # fmt: skip


def draw_classes(root: Path, counts: Mapping[str, int], side: int = 16) -> None:
    """Write so many images a class and split in class folders: of a colour a class, with noise."""
    noise = np.random.default_rng(0)
    for split, count in counts.items():
        for name, colour in {"red": (200, 40, 40), "green & <b>": (40, 200, 40), "blue": (40, 40, 200)}.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = noise.normal(colour, 120, (side, side, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def seal(path: Path) -> None:
    """Give a checkpoint the checksum that it should have."""
    body = path.read_bytes()[hdf5.USER_BLOCK :]
    head = checkpoint.MARK + hashlib.sha256(body).hexdigest().encode() + b"\n"
    path.write_bytes(head.ljust(hdf5.USER_BLOCK, b"\0") + body)


ARMS: dict[str, dict[str, Any]] = {
    "hybrid": {"refine": {"name": "sgd", "steps": 1, "lr": [0.01, 0.1]},
               "algorithm": {"elites": 0, "crossover": "uniform", "mutation": {"self_adaptive": True}}},
    "two objectives": {"fitness": {"metrics": ["cross_entropy", "weight_norm"]}, "algorithm": {"elites": 4}},
    "default <ga>": {},
}  # fmt: skip


def make_bench(folder: Path) -> Path:
    """Write the folder of a bench: real runs of each arm with two seeds, and tables with intervals that are made up."""
    results, curves = [], []
    for arm, overlay in ARMS.items():
        sets = [f"{section}.{key}={json.dumps(v)}" for section, part in overlay.items() for key, v in part.items()]
        for seed in range(2):
            at = folder / "runs" / arm / f"0-{seed}"
            experiment.run(load(None, [*TINY, *sets, f"seed={seed}"]), str(at), "test", Quiet())
            result = rundir.read_result(at)
            champion, cost = result["champion"], result["cost"]
            results.append({
                "arm": arm, "split": 0, "seed": seed, "status": result["status"], "stop_reason": result["stop_reason"],
                "generations": result["generations"], "champion_kind": champion["kind"],
                "champion_generation": champion["generation"], "validation": champion["validation"]["accuracy"],
                "test": champion["test"]["accuracy"], "samples": cost["forward_samples"] + 2 * cost["backward_samples"],
                **cost,
            })  # fmt: skip
            best = 0.0
            for line in files.read_lines(at / "history.jsonl"):
                if line["validation"] is not None:
                    best = max(best, line["validation"])
                    samples = line["forward_samples"] + 2 * line["backward_samples"]
                    curves.append({"arm": arm, "split": 0, "seed": seed, "generation": line["generation"],
                                   "samples": samples, "seconds": line["seconds"], "validation": best})  # fmt: skip
    summary, levels, comparisons = [], [], []
    for arm in ARMS:
        rows = [row for row in results if row["arm"] == arm]
        row = {"arm": arm, "runs": 2}
        columns = {"test_mean": "test", "test_iqm": "test", "validation_mean": "validation"}
        values = {key: float(np.mean([r[source] for r in rows])) for key, source in columns.items()}
        for key, value in values.items():
            row |= {key: value, f"{key}_low": value - 0.02, f"{key}_high": value + 0.02}
        gap = values["validation_mean"] - values["test_mean"]
        row |= {"gap": gap, "gap_low": gap - 0.01, "gap_high": gap + 0.01}
        row |= {f"{key}_mean": float(np.mean([r[key] for r in rows])) for key in ("samples", "seconds")}
        summary.append(row)
        levels += [
            {"arm": arm, "level": 0.1, "reached": 2, "runs": 2, "samples_median": 2400, "seconds_median": 0.1},
            {"arm": arm, "level": 0.9, "reached": 0, "runs": 2, "samples_median": "", "seconds_median": ""},
        ]
        comparisons += [
            {"a": arm, "b": other, "difference": 0.1, "difference_low": 0.0, "difference_high": 0.2,
             "probability": 0.75, "probability_low": 0.5, "probability_high": 1.0}
            for other in list(ARMS)[list(ARMS).index(arm) + 1 :]
        ]  # fmt: skip
    about = {
        "config": {"backbone": {"name": "none", "weights": "none"}, "data": {"name": "digits"}},
        "arms": {arm: overlay or None for arm, overlay in ARMS.items()},
        "seeds": 2, "splits": 1, "samples": 100_000, "machine": "a machine", "commit": None,
        "command": "neuroevo bench base.yaml --arms 'hybrid,default <ga>' --seeds 2",
    }  # fmt: skip
    (folder / "bench.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    tables = {"results": results, "curves": curves, "summary": summary, "levels": levels, "comparisons": comparisons}
    for name, table in tables.items():
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    (folder / "result.json").write_text(
        json.dumps({"status": "finished", "metric": "accuracy", "lower_is_better": False})
    )
    return folder


@pytest.fixture(scope="session")
def bench_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bench; tests that write into it copy it first."""
    return make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def run_bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Return what runs `python bench/NAME --small OPTIONS` on one thread, and returns the figures that it writes."""

    def run(name: str, *options: str) -> Any:
        out, threads = tmp_path / "figures.json", torch.get_num_threads()
        words = [str(BENCH / name), "--small", "--threads", "1", "--json", str(out), *options]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.syspath_prepend(str(BENCH))
        try:
            runpy.run_path(str(BENCH / name), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
            logging.disable(logging.NOTSET)
        return json.loads(out.read_text())

    return run
