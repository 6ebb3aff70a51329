"""Whole runs to a validation accuracy, each in a process of its own: the work f of `peers.py`.

    python bench/peer_runs.py PEER features.npz TARGET SECONDS

trains a linear head by a peer's own means on standardised features, looks at validation now and then, and prints the
best validation accuracy when it reaches TARGET or SECONDS are over. Settings are those that got there soonest, or
furthest in 40 s: SNES's deviation of 0.003 to 0.5, OpenES's learning rate of 0.001 to 0.03 and noise of 0.01 to 0.3,
PyGAD's share of 2 and 10 %, SGD's learning rate of 0.003 to 0.1. Ours are the presets as they are.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_works import Missing, Way, Work, peer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).parents[1]
TARGET, SECONDS = 0.92, 40.0  # of validation accuracy, and at most
POPULATION, SAMPLES, LOOK = 256, 512, 10  # as the default run has them: individuals, samples, generations to a look
Improve = Callable[[], Tensor]  # a generation; returns the genome [g] to look at
Batches = Callable[[], tuple[Tensor, Tensor]]


def evotorch(head: nn.Linear, data: tuple[Tensor, Tensor], batches: Batches) -> Improve:
    """Use SNES on SupervisedNE, with its loader."""
    from evotorch.algorithms import SNES
    from evotorch.neuroevolution import SupervisedNE
    from torch.utils.data import TensorDataset

    problem: Any = SupervisedNE(TensorDataset(*data), head, cross_entropy, minibatch_size=SAMPLES)
    search = SNES(problem, popsize=POPULATION, stdev_init=0.12, center_init=torch.zeros(problem.solution_length))

    def improve() -> Tensor:
        search.step()
        return search.status["center"].as_subclass(Tensor)  # type: ignore[no-any-return]

    return improve


def evox(head: nn.Linear, data: tuple[Tensor, Tensor], batches: Batches) -> Improve:
    """Use OpenES by Adam."""
    from evox.algorithms import OpenES
    from evox.problems.neuroevolution.supervised_learning import SupervisedLearningProblem
    from evox.utils import ParamsAndVector
    from evox.workflows import StdWorkflow

    class Loader:
        def __iter__(self) -> Any:
            while True:
                yield batches()

    def losses(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets, reduction="none")

    adapter, loader = ParamsAndVector(head), Loader()
    problem: Any = SupervisedLearningProblem(head, loader, losses, pop_size=POPULATION)  # type: ignore[arg-type]
    center = adapter.to_vector(dict(head.named_parameters())).detach()
    search: Any = OpenES(POPULATION, center, learning_rate=0.003, noise_stdev=0.3, optimizer="adam")
    workflow = StdWorkflow(search, problem, solution_transform=adapter)

    def improve() -> Tensor:
        with torch.no_grad():
            workflow.step()
        return workflow.algorithm.center  # type: ignore[no-any-return]

    return improve


def pygad(head: nn.Linear, data: tuple[Tensor, Tensor], batches: Batches) -> Improve:
    """Use its genetic algorithm, half of the population as parents, a fiftieth of the genes mutated."""
    from pygad import GA, torchga

    def fitness(search: Any, solution: Any, place: Any) -> float:
        return -float(cross_entropy(torchga.predict(head, solution, batch[0]), batch[1]))

    genes = sum(p.numel() for p in head.parameters())
    known: dict[str, Any] = {
        "num_generations": 1, "num_parents_mating": POPULATION // 2, "fitness_func": fitness, "mutation_type": "random",
        "mutation_percent_genes": 2, "random_mutation_min_val": -0.03, "random_mutation_max_val": 0.03,
        "suppress_warnings": True,
    }  # fmt: skip
    population, batch = np.random.default_rng(0).normal(0, 0.01, (POPULATION, genes)).astype(np.float32), batches()

    def improve() -> Tensor:
        nonlocal population, batch
        batch = batches()
        search = GA(initial_population=population, **known)
        search.run()
        population = search.population
        return torch.from_numpy(np.asarray(search.best_solution()[0], dtype=np.float32))

    return improve


def loop(head: nn.Linear, data: tuple[Tensor, Tensor], batches: Batches) -> Improve:
    """Train one head by torch.optim.SGD: no population."""
    optimizer = torch.optim.SGD(head.requires_grad_(True).parameters(), 0.01, momentum=0.9)

    def improve() -> Tensor:
        for _ in range(SAMPLES // 128):
            x, y = (part[:128] for part in batches())
            optimizer.zero_grad()
            cross_entropy(head(x), y).backward()
            optimizer.step()
        return nn.utils.parameters_to_vector(head.parameters()).detach()

    return improve


PEERS = {"evotorch": evotorch, "EvoX": evox, "PyGAD": pygad, "loop": loop}


def reach(name: str, file: str, target: float, limit: float) -> float:
    """Return the best validation accuracy of a peer's search until it reaches the target or its seconds are over."""
    ends, known = time.monotonic() + limit, np.load(file)
    x, y, split = torch.from_numpy(known["x"]).float(), torch.from_numpy(known["y"]), known["split"]
    train, validation = torch.from_numpy(split == "train"), torch.from_numpy(split == "validation")
    std, mean = torch.std_mean(x[train], 0)
    x = (x - mean) / (std + 1e-6)
    data, (seen, labels) = (x[train], y[train]), (x[validation], y[validation])
    head = nn.Linear(x.shape[1], int(y.max()) + 1).requires_grad_(False)
    for p in head.parameters():
        p.zero_()

    def batches() -> tuple[Tensor, Tensor]:
        rows = torch.randperm(len(data[0]))[:SAMPLES]
        return data[0][rows], data[1][rows]

    improve, best, generation = PEERS[name](head, data, batches), 0.0, 0
    while best < target and time.monotonic() < ends:
        genome, generation = improve(), generation + 1
        if generation % (1 if name == "PyGAD" else LOOK) == 0:
            weight, bias = genome[: head.weight.numel()].view_as(head.weight), genome[head.weight.numel() :]
            best = max(best, float((nn.functional.linear(seen, weight, bias).argmax(1) == labels).float().mean()))
    return best


def write_features(file: Path, small: bool) -> None:
    """Write the digits' features by EfficientNet-Lite0 with the default run's splits; points around ten if small."""
    if small:
        generator = np.random.default_rng(0)
        y = np.arange(600) % 10
        x = generator.normal(size=(10, 32))[y] + 0.5 * generator.normal(size=(600, 32))
        split = np.array(["train"] * 400 + ["validation"] * 100 + ["test"] * 100)
    else:
        from neuroevo import config
        from neuroevo.experiments import experiment, sources

        ready = experiment.prepare(config.load(str(ROOT / "runs" / "digits.yaml"), []))
        whole, splits = ready.given
        found, _ = sources.cache(
            ready.config, whole, splits, ready.backbone, device=ready.device, images=lambda done, total: None
        )
        x, y, split = (
            found.pieces[0].float().cpu().numpy(),
            found.labels.cpu().numpy(),
            np.empty(len(found.labels), "U10"),
        )
        for name, rows in splits.items():
            split[rows.numpy()] = name
    np.savez(file, x=x.astype(np.float32), y=y.astype(np.int64), split=split)


def ours(file: Path, base: str, target: float, limit: float) -> float:
    """Run `neuroevo run` on the features until it reaches the target; return its champion's validation accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        sets = [
            f"data={{name: arrays, file: {file}}}",
            "backbone={name: none, weights: none}",
            f"budget.target={target}",
            f"budget.seconds={limit}",
            "budget.generations=null",
            "memory.limit=1e9",
        ]
        words = [word for setting in sets for word in ("--set", setting)]
        command = [sys.executable, "-m", "neuroevo", "run", str(ROOT / "runs" / base), "--out", str(out), *words]
        start(command)
        return float(json.loads((out / "result.json").read_text())["champion"]["validation"]["accuracy"])


def theirs(name: str, file: Path, target: float, limit: float) -> float:
    """Run a peer in a process of its own; return the validation accuracy that it reached."""
    command = [sys.executable, __file__, name, str(file), str(target), str(limit)]
    return float(start(command).splitlines()[-1])


def start(command: list[str]) -> str:
    """Return what a process prints, with as many threads as this one has; RuntimeError where it fails."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def whole_runs(small: bool, device: torch.device) -> Work:
    """Run each way from its process's start until it has a linear head of so much validation accuracy."""
    target, limit = (0.8, 20.0) if small else (TARGET, SECONDS)
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "features.npz"
    write_features(file, small)
    bases = {"neuroevo float32": "digits.yaml", "neuroevo best": "hybrid.yaml"}
    ways: dict[str, Way | Missing] = {way: partial(ours, file, base, target, limit) for way, base in bases.items()}
    for name in PEERS:
        package = "torch" if name == "loop" else name.lower()
        ways[name] = peer(package, lambda name=name: partial(theirs, name, file, target, limit))  # type: ignore[misc]

    def check(results: dict[str, Any]) -> dict[str, float]:
        folder.cleanup()
        short = {f"validation accuracy of {name} and {target}": target - best for name, best in results.items()}
        return {what: lack for what, lack in short.items() if lack > 0}

    title = f"a run until {target} of validation accuracy, {limit:.0f} seconds at most, from process start to result"
    return Work(title, ways, None, check, warm=0)


if __name__ == "__main__":
    torch.manual_seed(0)
    print(reach(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
