"""The last stage without gradients: spaces of coordinates against all weights, at equal forward passes.

    python bench/coordinates.py [--seeds 5] [--size 48] [--images 50000] [--forward 300000] [--arms a,b] [--json FILE]

Table (c) of docs/when.md. EfficientNet-Lite0 on CIFAR-10 folders. The head is the best that gradients find on frozen
features, its weight decay chosen on validation, and stays; what evolves is the last stage (`blocks.6`, `conv_head`,
`bn2`), by cross-entropy on batches of the images that the head was trained on. Champions are chosen on validation; test
is scored once, at the end. Beside them, with gradients: the whole stage by SGD, and coordinates by SGD through a
space's `decode`, which says what there is to gain in it. `--settings` tries deviations, and scores validation alone.
"""

import json
import statistics
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from about import about, begin, named, parser
from stages import (
    Split,
    Stage,
    accuracy,
    cross_entropy,
    fine_tune,
    load,
    note,
    probe,
    rounded,
    search,
    split,
    table,
)
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.search.operators.mutation import gaussian

Arm = dict[str, Any]
LOW_RANK, RANDOM = {"name": "low_rank", "rank": 4}, {"name": "random", "directions": 500}
SNES, SPSA = ne.snes(population=32, center_rate=0.2), {"name": "spsa", "population": 8, "lr": 1.0}
ARMS: dict[str, Arm] = {
    "full by ga": {"algorithm": ne.ga(mutation=partial(gaussian, relative=True)), "sigma": 0.01},
    "full by spsa": {"algorithm": SPSA | {"lr": 3.0}, "sigma": 0.0003},
    "random by snes": {"space": RANDOM, "algorithm": SNES, "sigma": 0.1},
    "low_rank by spsa": {"space": LOW_RANK, "algorithm": SPSA, "sigma": 0.03},
    "scales by snes": {"space": "scales", "algorithm": SNES, "sigma": 0.03},
    "singular by snes": {"space": "singular", "algorithm": SNES, "sigma": 0.03},
}
GRADIENTS: dict[str, tuple[Any, float]] = {  # spaces and rates
    "full by gradients": ("full", 0.01),
    "scales by gradients": ("scales", 0.3),
    "low_rank by gradients": (LOW_RANK, 0.3),
}
EPOCHS = 2
SIGMAS = (0.01, 0.03, 0.1, 0.3)


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--size", type=int, default=48)
    made.add_argument("--images", type=int, default=50_000)
    made.add_argument("--test", type=int, default=10_000)
    made.add_argument("--validation", type=int, default=5_000)
    made.add_argument("--forward", type=int, default=300_000, help="samples that go forward in an arm's search")
    made.add_argument("--samples", type=int, default=256)
    made.add_argument("--arms", default=",".join(ARMS))
    made.add_argument("--settings", action="store_true", help="try deviations on validation, of the first seed alone")
    made.add_argument("--root", type=Path)
    options = made.parse_args()
    begin(made, options)
    if options.small:
        options.seeds, options.images, options.test, options.validation, options.forward = 1, 100, 50, 30, 1_500
        options.size = 32
    names = named(made, "--arms", options.arms, ARMS)
    record = about(1, torch.device("cpu"))
    backbone, data = load(options.root, options.size, options.images)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(1 if options.settings else options.seeds):
        parts = split(data, options.test, seed, 0, options.validation)
        stage = make_stage(backbone, data, parts, seed)
        rows = data.rows["plain"]
        given = {name: (rows[index], data.labels[index]) for name, index in
                 {"train": parts.train, "validation": parts.validation}.items()}  # fmt: skip
        judged = {"validation": given["validation"]}
        if not options.settings:
            judged["test"] = rows[parts.test], data.labels[parts.test]

        note(found, seed, "the head", {**measure(stage, judged), "genes": 0, "seconds": 0})
        for name, (space, lr) in () if options.settings else GRADIENTS.items():
            began = perf_counter()
            learnt, genes = fine_tune(stage, *given["train"], seed, EPOCHS, lr, space)
            seconds = perf_counter() - began
            note(found, seed, name, {**measure(learnt, judged), "genes": genes, "seconds": seconds})
        for name in names:
            for sigma in SIGMAS if options.settings else (ARMS[name]["sigma"],):
                result = search(stage, given, ARMS[name] | {"sigma": sigma}, options, seed)
                assert result.model is not None
                figures = {**measure(result.model, judged), "genes": len(result.genome), "seconds": result.seconds}
                note(found, seed, f"{name}, {sigma}" if options.settings else name, figures)
    print(table(found, "the head", [key for key in found["the head"] if key not in ("genes", "seconds")]))
    print({name: (statistics.mean(of["genes"]), round(statistics.mean(of["seconds"]))) for name, of in found.items()})
    if options.json:
        options.json.write_text(json.dumps({**record, "found": rounded(found)}, indent=1))


def measure(module: nn.Module, splits: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return a network's accuracy and loss on splits."""
    found = {}
    for name, of in splits.items():
        found |= {name: accuracy(module, *of), f"{name} loss": cross_entropy(module, *of)}
    return found


def make_stage(backbone: Any, data: Any, parts: Split, seed: int) -> Stage:
    """Return the stage as it was pretrained, with the best head that gradients find on train."""
    stage = Stage(backbone.cut, nn.Linear(backbone.own_head.in_features, 10)).eval().requires_grad_(False)
    rows, labels, held = data.rows["plain"], data.labels, parts.validation
    probe(stage, rows[parts.train], labels[parts.train], seed, (rows[held], labels[held]))
    return stage


if __name__ == "__main__":
    main()
