"""Test has no say in anything: with its labels permuted every command leaves the same bytes, but for its test figures.

Both times the data lie under the same name and the folders are the same, so that what differs is told by its place:
`file:place` of a number in it. Seconds and dates differ between any two runs, and aren't looked at.
"""

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from conftest import Quiet
from safetensors import safe_open
from torch import Tensor, nn

import neuroevo
from neuroevo.bench import benchmark
from neuroevo.config import load
from neuroevo.experiments import decide, export, folds
from neuroevo.experiments.signals import Signals
from neuroevo.problems.supervised import Supervised
from neuroevo.report import report
from neuroevo.tuning import tune

pytestmark = pytest.mark.compares
SETS = ["backbone.name=none", "backbone.weights=none", "algorithm.population=12", "memory.limit=1e8"]
SETS += ["budget.generations=6", "validate.every=2", "checkpoint.every=3", "fitness.samples=60"]
NOTHING_BESIDE = "validate.logistic=false"
REFINE = ["refine={name: sgd, steps: 2, lr: 0.1}"]
TUNE = {
    "algorithm": {"name": "fixed", "population": 1}, "genome": {"init_sigma": 0}, "features": {"components": None},
    "backbone": {"name": "none", "weights": "none"}, "memory": {"limit": 10**8}, "budget": {"generations": 3},
    "refine": {"name": "sgd", "steps": 3, "batch_size": 32},
    "tune": {
        "space": {"refine.lr": {"name": "float", "low": 0.001, "high": 0.3, "scale": "log"}},
        "sampler": {"name": "pso", "population": 3}, "trial": {"generations": 2}, "budget": {"generations": 2},
    },
}  # fmt: skip
# What is of the test split, by place, and what data are known by: the hash of all labels.
FIGURES = (
    r"result\.json:champion\.test\b",
    r"result\.json:baseline\.logistic\.test\b",
    r"result\.json:selections\..*\.test\b",
    r"result\.json:files\.(confusion|predictions)\.csv$",
    r"confusion\.csv:(?!predicted)",
    r"predictions\.csv:(true|label|right|correct|class)",
    r"\.h5:@data:splits$",
    r"(results|summary|comparisons)\.csv:(test|gap|difference|probability)",
    r"\.md:\d+\.(test|interval)$",
    r"tfevents:result/test_",
    r"bench\.yaml:data\.\d+\.splits$",
    r"config(\.yaml)?:data\.labels$",
    r"decision\.json:test\b",
    r"safetensors:@\.neuroevo\.decision\.test\b",
    r"decision\..*safetensors:@\.neuroevo\.sha256$",
    r"result\.json:arms\.\w+\.(test_|gap)",
)
TIMES = re.compile(r"seconds|checksum|\bdate\b|^time$|machine|_per_second")


def samples(permuted: bool) -> dict[str, Any]:
    """Return rows of three classes that overlap; the labels of test may be `permuted`."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    x = (rng.normal(size=(400, 6)) + 1.2 * np.eye(3, 6)[y]).astype(np.float32)
    part = np.resize(["train", "train", "train", "val", "test"], 400)
    test = np.flatnonzero(part == "test")
    if permuted:
        y[test] = np.random.default_rng(1).permutation(y[test])
    return {"x": x, "y": y, "split": part, "classes": ["cat", "dog", "eel"]}


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers and words of JSON, each with its place."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            if not TIMES.search(str(key)):
                yield from leaves(each, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def of_hdf5(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield data sets and attributes of a checkpoint; those of JSON by their keys."""
    with h5py.File(path) as file:
        found: list[tuple[str, Any]] = []

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not TIMES.search(name):
                found.append((name, item[()].tobytes()))
            for key, value in item.attrs.items():
                if not TIMES.search(key):
                    whole = yaml.safe_load(value) if isinstance(value, str) else value  # of which JSON is a part
                    found.extend((f"{name}@{key}:{place}", str(each)) for place, each in leaves(whole))

        file.visititems(note)
        note("", file)
        yield from found


def places(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield all that a file says, each with its place, but for times."""
    if path.suffix == ".h5":
        yield from of_hdf5(path)
    elif path.suffix == ".json":
        yield from leaves(json.loads(path.read_text()))
    elif path.suffix == ".jsonl":
        yield from leaves([json.loads(line) for line in path.read_text().splitlines()])
    elif path.suffix == ".yaml":
        yield from leaves(yaml.safe_load(path.read_text()))
    elif path.suffix == ".csv":
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        for i, row in enumerate(rows):
            yield from ((f"{key}.{i}", value) for key, value in row.items() if not TIMES.search(key))
        if path.name == "confusion.csv":  # how often a class is predicted is nobody's label
            yield from ((f"predicted {key}", sum(int(row[key]) for row in rows)) for key in list(rows[0])[1:])
    elif path.suffix == ".md":  # a model card, whose table has a column for test
        for i, line in enumerate(re.sub(r"has \S+ [\d.]+ on test", "", path.read_text()).splitlines()):
            _, *cells = line.split("|") if line.startswith("|") else ("", line)
            yield from ((f"{i}.{('metric', 'validation', 'test', 'interval', '')[k]}", c) for k, c in enumerate(cells))
    elif path.suffix == ".log":
        lines = [re.sub(r"^[\d: -]{20}|[\d.]+ s\b", "", line) for line in path.read_text().splitlines()]
        trackers = [line for line in lines if line.startswith("tracking: ")]  # which they say whenever they have begun
        yield from ((str(i), line) for i, line in enumerate(line for line in lines if line not in trackers))
        yield from (("tracking", line) for line in sorted(trackers))
    elif "tfevents" in path.name:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes seconds

        events = EventAccumulator(str(path))
        events.Reload()
        tags = [tag for tag in events.Tags()["scalars"] if not TIMES.search(tag)]
        yield from ((tag, [each.value for each in events.Scalars(tag)]) for tag in tags)
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            yield from ((name, file.get_tensor(name).numpy().tobytes()) for name in file.keys())  # noqa: SIM118
            yield from leaves({key: yaml.safe_load(value) for key, value in file.metadata().items()}, "@")
    else:
        yield "", path.read_bytes()


def contents(folder: Path) -> dict[str, Any]:
    """Return all that a folder has, by `file:place`."""
    return {
        f"{re.sub(r'tfevents.*', 'tfevents', str(path.relative_to(folder)))}:{place}": value
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
        for place, value in places(path)
    }


def differences(tmp_path: Path, command: Callable[[Path, Path], object]) -> list[str]:
    """Return where what a command, of a data file and a folder, leaves differs with the labels of test permuted."""
    found = []
    for permuted in (False, True):
        np.savez(tmp_path / "d.npz", **samples(permuted))
        command(tmp_path / "d.npz", tmp_path / "out")
        found.append(contents(tmp_path / "out"))
        shutil.rmtree(tmp_path / "out")
    a, b = found
    missing = object()
    return [place for place in (a | b) if a.get(place, missing) != b.get(place, missing)]


def assert_of_test(found: list[str]) -> None:
    """See that only figures of test differ, and that some do: the permutation isn't one in name alone."""
    others = [place for place in found if not any(re.search(figure, place) for figure in FIGURES)]
    assert not others, "\n".join(others)
    assert any(":champion.test" in place or "csv:test" in place or "json:test" in place for place in found)


def run(*sets: str) -> Callable[[Path, Path], object]:
    """Return what makes a run."""

    def command(file: Path, out: Path) -> None:
        given = [*SETS, f"data={{name: arrays, file: {file}}}", *sets]
        folds.run(load(None, given), str(out), "test", Quiet(), signals=Signals())

    return command


def test_a_run_on_islands_that_ends_early(tmp_path: Path) -> None:
    whole = run("validate.patience=1", "budget.generations=40", "islands={count: 2, every: 2}", NOTHING_BESIDE)
    assert_of_test(differences(tmp_path, whole))


def test_what_looks_at_test_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Supervised.validate

    def leaks(self: Supervised, genomes: Tensor, rows: Tensor | None = None) -> Any:
        return honest(self, genomes, self.splits["test"])

    monkeypatch.setattr(Supervised, "validate", leaks)
    with pytest.raises(AssertionError, match=r"champion@validation:accuracy"):
        assert_of_test(differences(tmp_path, run(NOTHING_BESIDE)))


LONG: dict[str, list[str]] = {
    "gradient steps": [*REFINE, "refine.inheritance=lamarckian", "refine.back_off=true"],
    "what learns counts": [*REFINE, "refine.inheritance=baldwinian"],
    "two objectives": ["fitness.metrics=[cross_entropy, macro_f1]", "algorithm.elites=4"],
    "bounds": ["fitness.subject_to=[{metric: recall, per: class, at_least: 0.6}]"],
    "against imbalance": ["fitness.class_weights=true", "fitness.balanced=true"],
    "logit adjustment": ["fitness.logit_adjustment=1"],
    "fitness on validation": ["fitness.split=validation"],
    "folds": ["validate.folds=3"],
    "refit": ["validate.refit=true"],
    "evolution strategy": ["algorithm.name=snes"],
    "differential evolution": ["algorithm.name=de"],
    "trackers": ["tracking=[csv, tensorboard]", "validate.patience=1", "islands={count: 2, every: 2}"],
    "a space": ["genome.space={name: random, directions: 10}"],
}


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_a_run(tmp_path: Path, name: str) -> None:
    assert_of_test(differences(tmp_path, run(*LONG[name])))


@pytest.mark.long
def test_what_is_taken_of_a_run_and_its_decision_stage(tmp_path: Path) -> None:
    def command(file: Path, out: Path) -> None:
        run("genome.init_sigma=0.3")(file, out)
        for select in ("soup", "ensemble:3", "top_mean:3"):
            name = select.partition(":")[0]
            export.export(str(out), None, str(out / f"{name}-taken.safetensors"), select, temperature=True)
        decide.decide(str(out), "macro_f1", ["recall of eel >= 0.5"], Quiet(), out=str(out / "decision.json"))

    assert_of_test(differences(tmp_path, command))


@pytest.mark.long
def test_a_search_of_hyperparameters_and_its_final_run(tmp_path: Path) -> None:
    def command(file: Path, out: Path) -> None:
        base = tmp_path / "tuned.yaml"
        base.write_text(yaml.safe_dump(TUNE | {"data": {"name": "arrays", "file": str(file)}}))
        tune.run(load(str(base), []), str(out), "test", Quiet(), Signals())

    assert_of_test(differences(tmp_path, command))


@pytest.mark.long
def test_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "report", lambda *_, **__: None)  # which draws what the tables say

    def command(file: Path, out: Path) -> None:
        base = tmp_path / "base.yaml"
        given = {"data": {"name": "arrays", "file": str(file)}, "backbone": {"name": "none", "weights": "none"}}
        base.write_text(yaml.safe_dump({**given, "memory": {"limit": 10**8}}))
        benchmark.run(
            str(base), ["ga", "logistic"], Quiet(), Signals(), seeds=2, splits=1, budget="samples=30000", jobs=1,
            levels=[], sets=["algorithm.population=12", "fitness.samples=60"], out=str(out),
        )  # fmt: skip

    assert_of_test(differences(tmp_path, command))


@pytest.mark.long
def test_a_search_from_python(tmp_path: Path) -> None:
    def command(file: Path, out: Path) -> None:
        given = np.load(file)
        x, y, part = torch.from_numpy(given["x"]), torch.from_numpy(given["y"]), given["split"]
        names = {"train": "train", "validation": "val", "test": "test"}
        data = {name: (x[part == own], y[part == own]) for name, own in names.items()}
        torch.manual_seed(0)
        budget = neuroevo.Budget(generations=6)
        neuroevo.evolve(nn.Linear(6, 3), data, algorithm=neuroevo.ga(population=12), budget=budget, out=out, seed=0)

    assert_of_test(differences(tmp_path, command))
