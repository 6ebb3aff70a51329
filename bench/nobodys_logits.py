"""A score that is nobody's logits: what a path costs that a solver takes by a network's predictions.

Predict, then optimise (Elmachtoub and Grigas 2022, https://arxiv.org/abs/1710.08005): on a grid of 5 x 5 nodes each
edge has a cost that depends on 5 features; a linear network predicts all 40, dynamic programming takes the shortest
path by them, and what counts is what that path truly costs, above what the best one does (regret, as a share of the
best). The solver has no gradient. With --worst 0.1 the worst tenth of instances alone counts, of which the surrogate
knows nothing. Data are drawn as the authors draw them: costs are a polynomial of the features, so that no linear
network is right, times noise.

Every search begins at the least squares of the costs, which is what one has who trains the network first and plugs it
in then. All have as many evaluations: one is a pass of all train instances through network and solver. `spo+` takes
gradient steps on the authors' surrogate, a pass and its way back each (three evaluations); somebody had to derive it,
and it holds for linear objectives alone. `wider` is least squares by a network with a hidden layer, by Adam: a larger
one than asked for. Seeds draw other grids, data and searches; regret on test is that of instances apart.
"""

import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from about import about, named, parser
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.bench.statistics import compare, estimate

SIDE, FEATURES = 5, 5
EDGES = 2 * SIDE * (SIDE - 1)
LOOKS = 16  # at candidates, about, whatever the population: they count as evaluations
STEPS = 3  # evaluations that a gradient step takes: forward, and twice that back
START = "least squares"


class Instances(NamedTuple):
    """Instances of one grid, with what their best paths cost."""

    features: Tensor  # [n, features]
    costs: Tensor  # [n, edges]
    paths: Tensor  # [n, edges]: 1 for an edge of the best path, else 0
    best: Tensor  # [n]


def draw(count: int, seed: int, degree: int, noise: float, part: int) -> Instances:
    """Draw instances of a grid that the seed chooses, as the paper's section 6.1 does; parts have other instances."""
    grid = torch.Generator().manual_seed(seed)
    weights = (torch.rand(EDGES, FEATURES, generator=grid) < 0.5).float()
    source = torch.Generator().manual_seed(1000 * (part + 1) + seed)
    x = torch.randn(count, FEATURES, generator=source)
    mean = ((x @ weights.T / math.sqrt(FEATURES) + 3) ** degree + 1) / 3.5**degree
    costs = mean * (1 + noise * (2 * torch.rand(count, EDGES, generator=source) - 1))
    paths = shortest(costs)
    return Instances(x, costs, paths, (paths * costs).sum(1))


def shortest(costs: Tensor) -> Tensor:
    """Return the shortest paths [n, edges] from one corner to the other, going right or down, by costs [n, edges]."""
    right, down = costs.view(-1, 2, EDGES // 2).unbind(1)
    right, down = right.view(-1, SIDE, SIDE - 1), down.view(-1, SIDE - 1, SIDE)
    ahead: dict[tuple[int, int], Tensor] = {(SIDE - 1, SIDE - 1): costs.new_zeros(len(costs))}
    turns: dict[tuple[int, int], Tensor] = {}  # whether to go right
    for i in reversed(range(SIDE)):
        for j in reversed(range(SIDE)):
            ways = []
            if j + 1 < SIDE:
                ways.append(right[:, i, j] + ahead[i, j + 1])
            if i + 1 < SIDE:
                ways.append(down[:, i, j] + ahead[i + 1, j])
            if len(ways) == 2:
                turns[i, j] = ways[0] <= ways[1]
                ahead[i, j] = torch.minimum(*ways)
            elif ways:
                turns[i, j] = torch.full((len(costs),), j + 1 < SIDE)
                ahead[i, j] = ways[0]
    here = {(0, 0): costs.new_ones(len(costs))}
    go_right, go_down = torch.zeros_like(right), torch.zeros_like(down)
    for i in range(SIDE):
        for j in range(SIDE):
            if (i, j) not in turns:
                continue
            turn = turns[i, j].float()
            for to, share in (((i, j + 1), here[i, j] * turn), ((i + 1, j), here[i, j] * (1 - turn))):
                if max(to) < SIDE:
                    (go_right if to[0] == i else go_down)[:, i, j] = share
                    here[to] = here.get(to, 0) + share
    return torch.cat([go_right.flatten(1), go_down.flatten(1)], dim=1)


def regret(network: nn.Module, of: Instances, worst: float = 1.0) -> float:
    """Return what the paths that a network's predictions lead to cost above the best, as a share of the mean best.

    It is the mean over that share of instances in which it is worst.
    """
    with torch.no_grad():
        taken = (shortest(network(of.features)) * of.costs).sum(1)
    count = max(1, round(worst * len(taken)))
    return float((taken - of.best).topk(count).values.mean() / of.best.mean())


def least_squares(of: Instances) -> nn.Linear:
    """Return the linear network of the least squared error."""
    found = nn.Linear(FEATURES, EDGES)
    x = torch.cat([of.features, torch.ones(len(of.features), 1)], dim=1).double()
    solved = torch.linalg.lstsq(x, of.costs.double()).solution.float()
    with torch.no_grad():
        found.weight.copy_(solved[:-1].T)
        found.bias.copy_(solved[-1])
    return found


def wider(of: Instances, evaluations: int) -> nn.Module:
    """Return a network with a hidden layer of 64, of little squared error: Adam on all instances."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, EDGES))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(max(1, evaluations // STEPS)):
        optimizer.zero_grad()
        (network(of.features) - of.costs).square().mean().backward()
        optimizer.step()
    return network


def spo(of: Instances, evaluations: int) -> nn.Module:
    """Return a network by gradient steps on the surrogate SPO+ (its equation 11 has the subgradient)."""
    network = least_squares(of)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    steps = max(1, evaluations // STEPS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        costs = network(of.features)
        slope = 2 * (of.paths - shortest((2 * costs - of.costs).detach()))
        costs.backward(slope / len(slope))
        optimizer.step()
        schedule.step()
    return network


def evolve(algorithm: Any, of: Instances, evaluations: int, worst: float, seed: int) -> tuple[nn.Module, int]:
    """Return the network that a search finds by regret, and the evaluations that it took."""
    found = ne.evolve(
        least_squares(of),
        fitness=lambda network: -regret(network, of, worst),
        algorithm=algorithm,
        budget=ne.Budget(forward_samples=evaluations),
        every=max(1, evaluations // algorithm.later // LOOKS),
        seed=seed,
        device="cpu",
    )
    assert found.model is not None
    return found.model, found.cost.forward + found.cost.validation


def ways(evaluations: int, worst: float) -> dict[str, Callable[[Instances, int], tuple[nn.Module, int]]]:
    """Return the ways to a network, by name; a way gives the network and the evaluations that it took."""
    found: dict[str, Callable[[Instances, int], tuple[nn.Module, int]]] = {
        START: lambda of, seed: (least_squares(of), 1),
        "wider": lambda of, seed: (wider(of, evaluations), evaluations),
        "spo+": lambda of, seed: (spo(of, evaluations), evaluations),
    }

    def search(algorithm: Any) -> Callable[[Instances, int], tuple[nn.Module, int]]:
        return lambda of, seed: evolve(algorithm(), of, evaluations, worst, seed)

    names = ("random", "hill_climbing", "coordinate", "spsa", "ga", "snes", "xnes")
    return found | {name: search(getattr(ne, name)) for name in names if name in ne.__all__}


def main() -> None:
    """Print regret on train and test by way, with intervals over seeds, and write it as JSON where asked."""
    made = parser(__doc__, 5)
    made.add_argument("--evaluations", type=int, default=4096)
    made.add_argument("--train", type=int, default=500, help="instances; there are four times as many for test")
    made.add_argument("--degree", type=int, default=6, help="of the polynomial")
    made.add_argument("--noise", type=float, default=0.5)
    made.add_argument("--worst", type=float, default=1.0, help="share of instances that counts, the worst ones")
    made.add_argument("--ways", help="which, with commas between; all by default, the start among them in any case")
    options = made.parse_args()
    if min(options.rounds, options.evaluations, options.train, options.degree) < 1 or not (
        0 <= options.noise <= 1 and 0 < options.worst <= 1
    ):
        made.error("counts from 1, a noise within [0, 1], and a share expected")
    if options.small:
        options.evaluations, options.train, options.rounds = 512, 20, 2
    known = ways(options.evaluations, options.worst)
    chosen = {START, *(known if options.ways is None else named(made, "--ways", options.ways, known))}
    torch.set_num_threads(options.threads or 1)
    facts = about(options.rounds, torch.device("cpu")) | {k: v for k, v in vars(options).items() if k != "json"}
    table: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.rounds):
        train = draw(options.train, seed, options.degree, options.noise, 0)
        test = draw(4 * options.train, seed, options.degree, options.noise, 1)
        for name, way in ((name, known[name]) for name in known if name in chosen):
            began = time.perf_counter()
            network, taken = way(train, seed)
            line = {"seed": seed, "train": regret(network, train, options.worst)}
            line |= {"test": regret(network, test, options.worst)}
            line |= {"evaluations": taken, "seconds": time.perf_counter() - began}
            table.setdefault(name, []).append(line)
            print(f"{seed} {name:14} " + ", ".join(f"{k} {v:.4f}" for k, v in line.items() if k != "seed"), flush=True)
    print(f"\n{'':14}{'train':>8}{'test':>8}  {'95 %':18}less than {START}, paired")
    summary = {name: row(table, name) for name in table}
    for name, found in summary.items():
        low, high, gap = found["test_low"], found["test_high"], found["gain"]
        print(
            f"{name:14}{100 * found['train']:7.2f}%{100 * found['test']:7.2f}%  [{100 * low:5.2f}, {100 * high:5.2f}]",
            end="",
        )
        print(f"     {100 * gap[0]:5.2f} [{100 * gap[1]:5.2f}, {100 * gap[2]:5.2f}]   {found['seconds']:6.1f} s")
    if options.json:
        options.json.write_text(json.dumps({**facts, "runs": table, "summary": summary}, indent=1, default=str))


def row(table: dict[str, list[dict[str, float]]], name: str) -> dict[str, Any]:
    """Return a way's means, with intervals, and by how much its regret on test is less than the start's."""

    def of(way: str, key: str) -> Any:
        return np.array([[line[key] for line in table[way]]])

    test = estimate(of(name, "test"))
    gain = compare(of(START, "test"), of(name, "test")).difference
    return {
        "train": float(of(name, "train").mean()),
        "test": test.value,
        "test_low": test.low,
        "test_high": test.high,
        "gain": [gain.value, gain.low, gain.high],
        "seconds": float(of(name, "seconds").mean()),
    }


if __name__ == "__main__":
    main()
