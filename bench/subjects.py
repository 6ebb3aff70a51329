"""What `bench/damage.py` damages: runs, searches, files that users give, each with the commands that use it.

All is as small as it can be, so that a damage costs a second. `api` commands are functions here, called in the place of
the command line.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

import neuroevo as ne
from neuroevo.engine.observer import Observer

TINY = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "memory.limit=1e8"]
SIZES = ["algorithm.population=8", "fitness.samples=40", "validate.every=2", "checkpoint.every=2",
         "budget.generations=6", "validate.logistic=false"]  # fmt: skip
PHOTOS = "data={name: image_folder, root: photos, broken: skip}"
SETTINGS = {
    "run": [PHOTOS, *TINY, *SIZES, "algorithm.crossover=uniform", "algorithm.selection=tournament",
            "validate.logistic=true"],
    "front": [PHOTOS, *TINY, *SIZES, 'fitness.metrics=["cross_entropy","weight_norm"]'],
    "rows": ["data={name: arrays, file: features.npz}", *TINY, *SIZES, "algorithm={name: snes, population: 8}"],
    "islands": [PHOTOS, *TINY, *SIZES, "islands={count: 2, every: 2, migrants: 1}"],
    "folds": [PHOTOS, *TINY, *SIZES, "validate.folds=2"],
    "onnx": [PHOTOS, *SIZES[:-1], "backbone={name: onnx, file: model.onnx, trainable: [fc, norm.shift]}",
             "algorithm={name: snes, population: 6}"],
    "weights": [PHOTOS, *SIZES, "backbone={name: timm/test_resnet, weights: whole.safetensors}",
                "data.image_size=32"],
    "pickled": [PHOTOS, *SIZES, "backbone={name: timm/test_resnet, weights: whole.pt}", "data.image_size=32"],
}  # fmt: skip
TUNE = """
data: {name: digits, limit: 300}
backbone: {name: none, weights: none}
algorithm: {name: fixed, population: 1}
refine: {steps: 2}
validate: {logistic: false}
memory: {limit: 100000000}
budget: {generations: 3}
tune:
  sampler: {name: pso, population: 3}
  space: {refine.lr: {name: float, low: 0.001, high: 1.0, scale: log}}
  trial: {generations: 2}
  budget: {generations: 2}
"""
BENCH = """
data: {name: digits, limit: 300}
backbone: {name: none, weights: none}
validate: {logistic: false}
memory: {limit: 100000000}
budget: {samples: 20000}
"""
BENCHED = ["bench", "bench.yaml", "--arms", "sgd,random", "--seeds", "1", "--out", "bench"]
NAMES = {"photos": "photo"}  # of a subject's folder, where it is another


class Subject(NamedTuple):
    """What is damaged, and what uses it."""

    make: list[list[str]]
    commands: dict[str, list[str]]
    files: tuple[str, ...] = ()  # patterns in place of the subject's folder
    beside: tuple[str, ...] = ()  # folders and files that a command needs beside those


def sets(given: list[str]) -> list[str]:
    """Return --set options."""
    return [word for one in given for word in ("--set", one)]


def run_of(name: str, *more: str) -> list[str]:
    """Return the command that makes a run."""
    return ["run", *sets([*SETTINGS[name], *more]), "--out", name]


def uses(name: str, *without: str, **more: list[str]) -> dict[str, list[str]]:
    """Return the commands that use a run's folder."""
    samples = "features.npz" if name == "rows" else "photos/cat"
    found = {
        "inspect": ["inspect", name],
        "report": ["report", name, "--formats", "svg"],
        "evaluate": ["evaluate", name],
        "predict": ["predict", name, samples],
        "log": ["log", name, "--to", "csv"],
        "export": ["export", name, "--out", "taken.safetensors"],
        "resume": ["resume", name],
        "resume with more budget": ["resume", name, "--set", "budget.generations=8"],
        "load": ["api", "load", name],
        **more,
    }
    return {key: command for key, command in found.items() if key not in without}


def made(name: str, *more: list[str]) -> list[list[str]]:
    """Return the commands that make a run with all that others add to it."""
    return [run_of(name), ["log", name, "--to", "csv"], *more]


SUBJECTS = {
    "run": Subject(
        made("run"),
        uses(
            "run",
            soup=["export", "run", "--select", "top_mean:3", "--out", "taken.safetensors"],
            begin=["run", *sets([*SETTINGS["run"], "genome.from=[run]"]), "--out", "begun"],
            decide=["decide", "run", "--metric", "macro_f1", "--folds", "2", "--out", "decided.json"],
            pair=["report", "run", "front", "--out", "both", "--formats", "svg"],
        ),
        beside=("front",),
    ),
    "front": Subject(made("front"), uses("front", member=["export", "front", "--select", "member:0", "--out", "t.pt"])),
    "rows": Subject(made("rows"), uses("rows")),
    "islands": Subject(made("islands"), uses("islands")),
    "folds": Subject(made("folds"), uses("folds", "resume with more budget")),
    "onnx": Subject(made("onnx"), uses("onnx", "export", graph=["export", "onnx", "--out", "taken.onnx"])),
    "tune": Subject(
        [["tune", "tune.yaml", "--no-final", "--out", "tune"]],
        {
            "inspect": ["inspect", "tune"],
            "report": ["report", "tune", "--formats", "svg"],
            "resume": ["resume", "tune"],
            "resume with more budget": ["resume", "tune", "--set", "tune.budget.generations=3"],
            "resume to the final run": ["resume", "tune", "--set", "tune.final=true"],
        },
    ),
    "tuned": Subject(
        [["tune", "tune.yaml", "--out", "tuned"]],
        uses("tuned", "predict", "log", "resume with more budget", "load"),
    ),
    "bench": Subject(
        [BENCHED], {"bench": BENCHED, "report": ["report", "bench", "--formats", "svg"], "resume": ["resume", "bench"]}
    ),
    "python": Subject(
        [["api", "search", "python"]],
        {
            "inspect": ["inspect", "python"],
            "report": ["report", "python", "--formats", "svg"],
            "load": ["api", "load", "python"],
            "resume": ["api", "resume", "python"],
            "log": ["log", "python", "--to", "csv"],
        },
    ),
    "cache": Subject(
        [["validate", *sets(SETTINGS["run"])]],
        {
            "run on photos": ["run", *sets(SETTINGS["run"]), "--out", "begun"],
            "run of an ONNX file": ["run", *sets(SETTINGS["onnx"]), "--out", "begun"],
            "evaluate": ["evaluate", "run"],
            "validate": ["validate", *sets(SETTINGS["run"])],
        },
        beside=("run",),
    ),
    # What users give: a run knows which files it began with, and files of ours are sealed.
    "samples": Subject(
        [],
        {
            "run": ["run", *sets(SETTINGS["rows"]), "--out", "begun"],
            "resume": ["resume", "rows", "--set", "budget.generations=8"],
            "evaluate": ["evaluate", "rows"],
            "evaluate --data": ["evaluate", "rows", "--data", "features.npz"],
            "predict": ["predict", "rows", "features.npz"],
        },
        ("features.npz",),
        ("rows",),
    ),
    "logits": Subject(
        [], {"decide": ["decide", "logits.npz", "--metric", "macro_f1", "--folds", "2"]}, ("logits.npz",)
    ),
    "weights": Subject(
        [["api", "write", "whole"], run_of("weights")],
        {
            "run": ["run", *sets(SETTINGS["weights"]), "--out", "begun"],
            "resume": ["resume", "weights", "--set", "budget.generations=8"],
        },
        ("whole.safetensors",),
        ("weights",),
    ),
    "pickled": Subject(
        [run_of("pickled")],
        {"resume": ["resume", "pickled", "--set", "budget.generations=8"], "evaluate": ["evaluate", "pickled"]},
        ("whole.pt",),
        ("pickled",),
    ),
    "graph": Subject(
        [],
        {"resume": ["resume", "onnx", "--set", "budget.generations=8"], "evaluate": ["evaluate", "onnx"]},
        ("model.onnx",),
        ("onnx",),
    ),
    "photos": Subject(
        [],
        {"resume": ["resume", "run", "--set", "budget.generations=8"], "evaluate": ["evaluate", "run"]},
        ("photos/*/*.png",),
        ("run",),
    ),
    "exports": Subject(
        [["export", "weights", "--out", "sent.safetensors"]],
        {
            "export": ["export", "weights", "--out", "sent.safetensors"],
            "run from it": ["run", *sets(SETTINGS["weights"]), "--set", "backbone.weights=sent.safetensors",
                            "--out", "begun"],
        },
        ("sent.safetensors", "sent.safetensors.md"),
        ("weights", "whole.safetensors"),
    ),
}  # fmt: skip


def module() -> nn.Module:
    """Return the module of the search from Python."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Return its samples."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    return torch.randn(60, 6, generator=draws) + labels[:, None], labels


class Teller(Observer):
    """Prints what a search has to say."""

    def note(self, line: str) -> None:
        """Print a line."""
        print(line)


def api(what: str, name: str) -> None:
    """Do with neuroevo from Python what a command does."""
    if what == "search":
        budget = ne.Budget(generations=6)
        ne.evolve(module(), samples(), algorithm=ne.ga(population=8), budget=budget, every=2, out=name, samples=40)
    elif what == "resume":
        own, budget = ne.ga(population=8), ne.Budget(generations=8)
        ne.resume(name, module(), samples(), algorithm=own, budget=budget, observers=[Teller()])
    elif what == "load":
        found = ne.load(name, module() if name == "python" else None)
        rows = samples()[0] if found.transform is None else [Image.new("L", (8, 8), 30 * i) for i in range(8)]
        with torch.inference_mode():
            print(found.classes, found.probabilities(rows).numpy().tobytes().hex())
    else:
        write_weights(name)


def write_weights(name: str) -> None:
    """Write a network's weights, sealed as an export is, and as torch writes them."""
    import timm

    from neuroevo.networks.weightfiles import seal

    torch.manual_seed(0)
    state = timm.create_model("test_resnet").state_dict()
    Path(f"{name}.safetensors").write_bytes(seal(state, {"backbone": "timm/test_resnet"}))
    torch.save(state, f"{name}.pt")


def give(folder: Path, write_onnx: Callable[[Path], object]) -> None:
    """Write what a user gives."""
    numbers = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(16):
            pixels = np.clip(numbers.normal(60 + 60 * label, 40, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i:02d}.png")
    (folder / "photos" / "owl" / "broken.png").write_bytes(b"broken")
    x, y = (tensor.numpy() for tensor in samples())
    np.savez(folder / "features.npz", x=x, y=y)
    np.savez_compressed(folder / "logits.npz", logits=x[:, :3], y=y)
    write_onnx(folder / "model.onnx")
    (folder / "tune.yaml").write_text(TUNE)
    (folder / "bench.yaml").write_text(BENCH)
    old = time.time() - 60  # a file touched just now isn't remembered
    for path in folder.rglob("*"):
        os.utime(path, (old, old))


def make(folder: Path, call: Callable[[list[str], Path], tuple[int | None, str, str]]) -> None:
    """Make all else that is to be damaged."""
    for name, subject in SUBJECTS.items():
        for command in subject.make:
            status, printed, said = call(command, folder)
            assert status == 0, (name, command, printed, said)
