"""Networks fine-tuned on different domains, merged: closed forms against coefficients that are searched.

    python bench/merging.py [--seeds 5] [--size 48] [--images 15000] [--forward 500000] [--arms "a;b"] [--json FILE]

Table (b) of docs/when.md. From EfficientNet-Lite0 with the best head on plain CIFAR-10, which stays, four last stages
learn by SGD, each on one domain: plain, inverted, rotated by a quarter, noisy images. They are merged into one network,
which is scored on all four. Closed forms: their mean, task arithmetic and RegMean, whose scale and shrinkage are chosen
on validation, and the greedy soup. Searched by cross-entropy on the tune split of all domains: a coefficient of each
network for each layer, from task arithmetic, or on from RegMean's network, to which they add what the four are apart
from it. Champions are chosen on validation; test is scored once, at the end.
"""

import json
import statistics
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from about import about, begin, named, parser
from coordinates import make_stage
from stages import DOMAINS, EVOLVED, Split, Stage, accuracy, fine_tune, load, note, rounded, search, split, table
from torch import Tensor, nn

from neuroevo.networks.merging import add_tasks, covariances, merge_by_regression, mix, mix_greedily

State = dict[str, Tensor]
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
ALPHAS = (0.5, 0.7, 0.9, 0.95, 1.0)
TASKS = {"name": "merge", "how": "arithmetic", "per": "layer"}
SPSA = {"name": "spsa", "population": 8, "lr": 1.0}
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {  # from which network, and how
    "evolved, from task arithmetic": ("the head", {"space": TASKS, "sigma": 0.1}),
    "evolved, from RegMean": ("RegMean", {"space": TASKS | {"scale": 0.0}, "sigma": 0.03}),
    "spsa, from RegMean": ("RegMean", {"space": TASKS | {"scale": 0.0}, "sigma": 0.1, "algorithm": SPSA}),
}


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--size", type=int, default=48)
    made.add_argument("--images", type=int, default=15_000)
    made.add_argument("--test", type=int, default=10_000)
    made.add_argument(
        "--tune", type=int, default=1_000, help="images, in each domain, on which coefficients are searched"
    )
    made.add_argument("--epochs", type=int, default=2)
    made.add_argument("--lr", type=float, default=0.003)
    made.add_argument("--forward", type=int, default=500_000, help="samples that go forward in an arm's search")
    made.add_argument("--samples", type=int, default=256)
    made.add_argument("--arms", default=";".join(SEARCHES), help="searches, with semicolons between")
    made.add_argument("--root", type=Path)
    options = made.parse_args()
    begin(made, options)
    arms = named(made, "--arms", options.arms, SEARCHES, ";")
    if options.small:
        options.seeds, options.images, options.test, options.tune, options.forward = 1, 100, 50, 25, 1_500
        options.size = 32
    record = about(1, torch.device("cpu"))
    backbone, data = load(options.root, options.size, options.images, DOMAINS)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.seeds):
        parts = split(data, options.test, seed, options.tune, options.tune)
        stage = make_stage(backbone, data, parts, seed)
        experts = [
            fine_tune(stage, data.rows[d][parts.train], data.labels[parts.train], seed, options.epochs, options.lr)[0]
            for d in DOMAINS
        ]
        for name, expert in [("the head", stage), *zip(DOMAINS, experts, strict=True)]:
            note(found, seed, name, judge(expert, data, parts.test, "test"))
        networks = {"the head": stage}
        for name, build in closed_forms(stage, experts, data, parts).items():
            networks[name] = network = build()
            note(
                found,
                seed,
                name,
                judge(network, data, parts.test, "test") | judge(network, data, parts.validation, "validation"),
            )
        for name in arms:
            start, arm = SEARCHES[name]
            result = search(networks[start], splits_of(data, parts), arm | {"sources": experts}, options, seed)
            assert isinstance(result.model, Stage)
            figures = judge(result.model, data, parts.test, "test")
            figures |= judge(result.model, data, parts.validation, "validation")
            note(found, seed, name, figures | {"genes": len(result.genome), "seconds": result.seconds})
    shown = {name: of for name, of in found.items() if name not in DOMAINS}
    for reference in ("mean", "task arithmetic", "RegMean"):
        print(table(shown, reference, ["test mean", "test worst"]), end="\n\n")
    print({name: {d: round(statistics.mean(of[f"test {d}"]), 4) for d in DOMAINS} for name, of in found.items()})
    if options.json:
        options.json.write_text(json.dumps({**record, "found": rounded(found)}, indent=1))


def judge(network: nn.Module, data: Any, index: Tensor, name: str) -> dict[str, float]:
    """Return a network's accuracy in each domain, their mean and the worst."""
    each = {d: accuracy(network, data.rows[d][index], data.labels[index]) for d in DOMAINS}
    return {f"{name} mean": statistics.mean(each.values()), f"{name} worst": min(each.values()),
            **{f"{name} {d}": value for d, value in each.items()}}  # fmt: skip


def with_state(stage: Stage, state: State) -> Stage:
    """Return a copy of a stage with other weights; those that the state hasn't stay."""
    copy = deepcopy(stage)
    copy.load_state_dict(state, strict=False)
    return copy


def state_of(stage: Stage) -> State:
    """Return the state of what learns: the head is everybody's."""
    return {name: value for name, value in stage.state_dict().items() if name.startswith(EVOLVED)}


def closed_forms(stage: Stage, experts: list[Stage], data: Any, parts: Split) -> dict[str, Callable[[], Stage]]:
    """Return what needs no search, by name; settings are chosen on validation."""
    states, base = [state_of(expert) for expert in experts], state_of(stage)

    def score(network: nn.Module) -> float:
        return judge(network, data, parts.validation, "of")["of mean"]

    def best(networks: list[Stage]) -> Stage:
        return max(networks, key=score)

    def by_regression() -> Stage:
        inputs = [
            covariances(expert, data.rows[d][parts.tune].split(500)) for expert, d in zip(experts, DOMAINS, strict=True)
        ]
        return best([with_state(stage, merge_by_regression(states, inputs, alpha=alpha)) for alpha in ALPHAS])

    return {
        "the best alone": lambda: best(experts),
        "mean": lambda: with_state(stage, mix(states)),
        "task arithmetic": lambda: best([with_state(stage, add_tasks(base, states, scale)) for scale in SCALES]),
        "RegMean": by_regression,
        "greedy soup": lambda: with_state(stage, mix_greedily(states, lambda state: score(with_state(stage, state)))),
    }


def splits_of(data: Any, parts: Split) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what coefficients are searched and chosen on: tune and validation in all domains."""
    return {
        name: (torch.cat([data.rows[d][index] for d in DOMAINS]), data.labels[index].repeat(len(DOMAINS)))
        for name, index in {"train": parts.tune, "validation": parts.validation}.items()
    }


if __name__ == "__main__":
    main()
