"""The decision stage on a long-tailed data set: which way to decide by a linear head's logits is worth what on test.

    python bench/decision.py [CONFIG.yaml] [--seeds 5] [--tail 0.02] [--threads N] [--json FILE] [--small]

Each seed draws train, validation and test anew from all samples of the config's data, each with the same long tail: the
last class's share is `--tail` of the first's. A linear head on the frozen features is trained by SGD with cross-entropy
and with logits adjusted by the prior (Menon et al. 2021); its rate is chosen on validation. Decisions
are fitted on validation by `tune_decision`. Every row is scored on test, as fitted to all of validation, beside the row
that the stage chose, and for costs beside the classic plug-in: the class of the lowest expected cost by the head's own
probabilities. Differences from argmax are paired over seeds, with Student's 95 % interval. `--small` is on synthetic
features, to see that it works.
"""

import json
import math
import time
from typing import Any, NamedTuple

import about
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroevo.decision.fits import FITS
from neuroevo.decision.tune import tune_decision

PARTS = {"train": 2000, "validation": 1500, "test": 2500}  # samples of the first class
RATES = (0.003, 0.01, 0.03)
EPOCHS = 15
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # of n differences
ANIMALS = (2, 3, 4, 5, 6, 7)  # of CIFAR-10's classes: bird, cat, deer, dog, frog, horse


class Goal(NamedTuple):
    """What is decided for."""

    metric: Any
    constraints: tuple[dict[str, Any], ...] = ()
    costs: Tensor | None = None


def main() -> None:
    made = about.parser(__doc__, 1)
    made.set_defaults(threads=1)
    made.add_argument("config", nargs="?", default="runs/cifar10_folder.yaml")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--tail", type=float, default=0.02)
    options = made.parse_args()
    about.begin(made, options)
    if options.seeds not in T_95:
        made.error(f"--seeds: {min(T_95)} to {max(T_95)}")
    figures = about.about(options.rounds, torch.device("cpu"))
    features, labels = synthetic() if options.small else read(options.config)
    parts = {name: size // 10 if options.small else size for name, size in PARTS.items()}
    classes = int(labels.max()) + 1
    runs: dict[str, list[dict[str, Any]]] = {}
    began = time.monotonic()
    for seed in range(options.seeds):
        rows = draw(labels, parts, options.tail, seed)
        for loss, tau in (("cross-entropy", 0.0), ("logit adjustment", 1.0)):
            logits, adjustment = train(features, labels, rows, tau, seed)
            for name, goal in list(goals(classes).items())[:: 6 if options.small else 1]:
                found = decide(goal, logits, adjustment, {part: labels[own] for part, own in rows.items()}, seed)
                runs.setdefault(f"{loss}, {name}", []).append(found)
                print(f"seed {seed}  {loss}, {name}: {found['chosen']}  {time.monotonic() - began:.0f} s", flush=True)
    show(runs)
    if options.json:
        options.json.write_text(json.dumps({**figures, "runs": runs}, indent=1))


def synthetic() -> tuple[Tensor, Tensor]:
    """Return features [N, d] of classes that overlap, and labels [N]."""
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(700)
    return torch.randn(len(labels), 8, generator=source) + 1.5 * torch.eye(8)[labels], labels


def read(config_file: str) -> tuple[Tensor, Tensor]:
    """Return the cached features [N, d] of all images of a config's data, and labels [N]."""
    from neuroevo import config
    from neuroevo.data import feature_cache
    from neuroevo.experiments import build

    c = config.load(config_file)
    whole, *_ = build.dataset(c)
    backbone = build.build_backbone(c, whole)
    found, _ = feature_cache.fetch(backbone, whole, torch.device("cpu"), lambda done, total: None)
    return found, torch.from_numpy(whole.labels)


def draw(labels: Tensor, parts: dict[str, int], tail: float, seed: int) -> dict[str, Tensor]:
    """Return the rows of each part, of which class c has tail ** (c / (C - 1)) times the first's (Cui et al. 2019)."""
    source, classes = torch.Generator().manual_seed(seed), int(labels.max()) + 1
    rows: dict[str, list[Tensor]] = {name: [] for name in parts}
    for c in range(classes):
        own = (labels == c).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=source)]
        for name, most in parts.items():
            count = max(1, round(most * tail ** (c / (classes - 1))))
            rows[name].append(own[:count])
            own = own[count:]
    return {name: torch.cat(found) for name, found in rows.items()}


def train(
    features: Tensor, labels: Tensor, rows: dict[str, Tensor], tau: float, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Return logits on validation and test of a head, and what makes log-probabilities of them [C] in addition.

    Its rate did best on validation: by accuracy, and with logits adjusted by `tau` in training by balanced accuracy.
    """
    x = {name: features[own].float() for name, own in rows.items()}
    mean, deviation = x["train"].mean(0), x["train"].std(0) + 1e-6
    x = {name: (part - mean) / deviation for name, part in x.items()}
    y, classes = {name: labels[own] for name, own in rows.items()}, int(labels.max()) + 1
    prior = torch.bincount(y["train"], minlength=classes).float()
    adjustment = tau * (prior / prior.sum()).log()
    best, kept = -math.inf, {}
    for rate in RATES:
        torch.manual_seed(seed)
        head = nn.Linear(features.shape[1], classes)
        optimizer = torch.optim.SGD(head.parameters(), rate, momentum=0.9, weight_decay=1e-4)
        batches = math.ceil(len(y["train"]) / 128)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * batches)
        for _ in range(EPOCHS):
            for index in torch.randperm(len(y["train"])).split(128):
                loss = F.cross_entropy(head(x["train"][index]) + adjustment, y["train"][index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            logits = {name: head(x[name]) for name in ("validation", "test")}
        hits = (logits["validation"].argmax(1) == y["validation"]).float()
        weights = torch.bincount(y["validation"], minlength=classes).float().reciprocal()[y["validation"]]
        merit = float((hits * weights).sum() if tau else hits.mean())
        if merit > best:
            best, kept = merit, logits
    return kept, adjustment


def goals(classes: int) -> dict[str, Goal]:
    """Return what is decided for, by name."""
    found = {name: Goal(name) for name in ("macro_f1", "balanced_accuracy", "mcc")}
    bound = {"metric": "precision", "per": "class", "at_least": 0.5}
    found["worst recall, precision of each class >= 0.5"] = Goal("worst_class_accuracy", (bound,))
    one = 1 - torch.eye(classes)
    rare, apart = one.clone(), one.clone()
    rare[-3:] *= 10
    kinds = torch.tensor([c in ANIMALS for c in range(classes)])
    apart[kinds[:, None] != kinds] *= 5
    skew = one * torch.randn(classes, classes, generator=torch.Generator().manual_seed(99)).exp()
    for name, costs in (("rare classes cost 10", rare), ("other kinds cost 5", apart), ("lognormal costs", skew)):
        found[name] = Goal({"name": "cost_matrix", "costs": costs.tolist()}, costs=costs)
    return found


def decide(
    goal: Goal, logits: dict[str, Tensor], adjustment: Tensor, y: dict[str, Tensor], seed: int
) -> dict[str, Any]:
    """Return what each row is worth on test, as fitted to validation, and which was chosen."""
    decision = tune_decision(logits["validation"], y["validation"], goal.metric, goal.constraints, seed=seed)
    found = {name: decision.score(logits["test"], y["test"], row=name)._asdict() for name in FITS}
    found["stage"] = found[decision.chosen]
    if goal.costs is not None:
        chosen = ((logits["test"] + adjustment).softmax(1) @ goal.costs).argmin(1)
        found["lowest expected cost"] = {"value": float(goal.costs[y["test"], chosen].mean()), "violation": 0.0}
    held = {row.name: decision.as_reported(row.value) for row in decision.rows}
    return {"chosen": decision.chosen, "test": found, "held out": held}


def show(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Print a table: means over seeds, and each row's difference from argmax with its interval."""
    for name, found in runs.items():
        print(f"\n{name}\nchosen: {', '.join(run['chosen'] for run in found)}\n")
        print("| row | test | less argmax's [95 %] | feasible | violation |\n|---|---|---|---|---|")
        for row in found[0]["test"]:
            values, argmax = (torch.tensor([run["test"][key]["value"] for run in found]) for key in (row, "argmax"))
            missed = torch.tensor([run["test"][row]["violation"] for run in found])
            gap = values - argmax
            half = T_95[len(gap)] * float(gap.std()) / math.sqrt(len(gap))
            middle = float(gap.mean())
            kept = f"{int((missed == 0).sum())} of {len(missed)} | {float(missed.mean()):.3f}"
            between = f"{middle:+.4f} [{middle - half:+.4f}, {middle + half:+.4f}]"
            print(f"| {row} | {float(values.mean()):.4f} | {between} | {kept} |")


if __name__ == "__main__":
    main()
