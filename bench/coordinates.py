"""The last stage without gradients: spaces of coordinates against all weights, at equal forward passes.

    python bench/coordinates.py [--seeds 5] [--size 48] [--images 10000] [--forward 1000000] [--arms a,b] [--json FILE]

Table (c) of docs/when.md. EfficientNet-Lite0 on CIFAR-10 folders. The head is the best that gradients find on frozen
features, and stays; what evolves is the last stage (`blocks.6`, `conv_head`, `bn2`), by cross-entropy on batches of the
tune split. Champions are chosen on validation; test is scored once, at the end. Each arm's deviation was tried on
validation by `--settings`.
"""

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from about import about, begin, parser
from stages import Split, Stage, accuracy, cross_entropy, load, note, probe, rounded, search, split, table
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.search.operators.mutation import gaussian

Arm = dict[str, Any]
ARMS: dict[str, Arm] = {
    "full by ga": {"algorithm": ne.ga(mutation=partial(gaussian, relative=True)), "sigma": 0.01},
    "full by snes": {"algorithm": ne.snes(population=64), "sigma": 0.003},
    "random": {"space": {"name": "random", "directions": 500}, "sigma": 0.1},
    "low_rank": {"space": {"name": "low_rank", "rank": 1}, "sigma": 0.03},
    "scales": {"space": "scales", "sigma": 0.1},
    "singular": {"space": "singular", "sigma": 0.1},
}
SIGMAS = (0.01, 0.03, 0.1, 0.3)


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--size", type=int, default=48)
    made.add_argument("--images", type=int, default=20_000)
    made.add_argument("--test", type=int, default=10_000)
    made.add_argument("--tune", type=int, default=5_000)
    made.add_argument("--forward", type=int, default=1_000_000, help="samples that go forward in an arm's search")
    made.add_argument("--samples", type=int, default=512)
    made.add_argument("--arms", default=",".join(ARMS))
    made.add_argument("--settings", action="store_true", help="try deviations on validation, of the first seed alone")
    made.add_argument("--root", type=Path)
    options = made.parse_args()
    begin(made, options)
    if options.small:
        options.seeds, options.images, options.test, options.tune, options.forward = 1, 100, 50, 50, 1_500
    record = about(1, torch.device("cpu"))
    backbone, data = load(options.root, options.size, options.images)
    names = options.arms.split(",")
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(1 if options.settings else options.seeds):
        parts = split(data, options.test, seed, options.tune, min(5_000, options.tune))
        stage = make_stage(backbone, data, parts, seed)
        rows = data.rows["plain"]
        given = {name: (rows[index], data.labels[index]) for name, index in
                 {"train": parts.tune, "validation": parts.validation}.items()}  # fmt: skip
        test = rows[parts.test], data.labels[parts.test]

        figures = measure(stage, given, test)
        note(found, seed, "the head", {**figures, "genes": 0.0, "seconds": 0.0})
        for name in names:
            for sigma in SIGMAS if options.settings else (ARMS[name]["sigma"],):
                result = search(stage, given, ARMS[name] | {"sigma": sigma}, options, seed)
                assert result.model is not None
                figures = measure(result.model, given, test)
                label = f"{name}, {sigma}" if options.settings else name
                note(found, seed, label, {**figures, "genes": len(result.genome), "seconds": result.seconds})
    print(table(found, "the head", ["test", "test loss", "validation"]))
    print({name: (statistics.mean(of["genes"]), round(statistics.mean(of["seconds"]))) for name, of in found.items()})
    if options.json:
        options.json.write_text(json.dumps({**record, "found": rounded(found)}, indent=1))


def measure(module: nn.Module, given: dict[str, Any], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return a network's figures on test and validation."""
    found = {}
    for name, of in {"test": test, "validation": given["validation"]}.items():
        found |= {name: accuracy(module, *of), f"{name} loss": cross_entropy(module, *of)}
    return found


def make_stage(backbone: Any, data: Any, parts: Split, seed: int) -> Stage:
    """Return the stage as it was pretrained, with the best head that gradients find on train and tune."""
    stage = Stage(backbone.cut, nn.Linear(backbone.own_head.in_features, 10)).eval().requires_grad_(False)
    index = torch.cat([parts.train, parts.tune])
    probe(stage, data.rows["plain"][index], data.labels[index], seed)
    return stage


if __name__ == "__main__":
    main()
