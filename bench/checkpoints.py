"""What a checkpoint costs: its write against a plain file's of the same bytes, and what checkpointing adds to a run.

    python bench/checkpoints.py [--rounds 9] [--folder DIR]

The first: [1024, 12810] float32, both with fsync, in turn. The second: generations of 256 heads (1280 to 10), 1,024
samples each, with a checkpoint every 10 against none, in turn.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from neuroevo.engine import loop
from neuroevo.engine.batches import batches
from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.evaluator import Scoring, plain
from neuroevo.engine.execution import plan
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.loop import Champion, Rules, Step
from neuroevo.engine.problem import Problem, by_metric
from neuroevo.engine.scores import Scores
from neuroevo.networks import heads
from neuroevo.problems.metrics import METRICS
from neuroevo.problems.scoring import Judgement, evaluate
from neuroevo.search.algorithms.base import GAState
from neuroevo.search.algorithms.ga import ga
from neuroevo.storage import checkpoint
from neuroevo.storage.writer import Writer

D, C = 1280, 10
LAYOUT = Layout(("head.weight", "head.bias"), ((C, D), (C,)))
CPU = torch.device("cpu")
ATTRIBUTES = {"config": "", "seed": 0, "device": "cpu", "layout": LAYOUT.to_json(), "classes": "[]", "plan": "{}",
              "versions": "{}", "features": ""}  # fmt: skip


def first(n: int) -> Step:
    genomes = torch.randn(n, LAYOUT.genes) / 36
    population = Population.new(genomes, parents=2)
    scores = Scores(torch.randn(n, 1).double(), torch.zeros(n, dtype=torch.bool))
    champion = Champion(genomes[0].clone(), "best", 0, {"accuracy": 0.0, "cross_entropy": 9.0})
    state = GAState(population, scores.values[:, 0])
    return Step(0, state, population, scores, {}, Cost(), 0.0, champion, 0, None)


def writes(folder: Path, rounds: int) -> None:
    step, ratios, plain, ours = first(1024), [], [], []
    data = memoryview(step.population.genomes.numpy()).cast("B")
    for k in range(rounds + 1):  # the first is for warming up
        start = time.perf_counter()
        descriptor = os.open(folder / "plain", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        done = 0
        while done < len(data):
            done += os.write(descriptor, data[done:])
        os.fsync(descriptor)
        os.close(descriptor)
        middle = time.perf_counter()
        checkpoint.write(folder / "c.h5", ATTRIBUTES, {}, step, [])
        end = time.perf_counter()
        (folder / "plain").unlink()
        (folder / "c.h5").unlink()
        if k:
            plain.append(middle - start)
            ours.append(end - middle)
            ratios.append(ours[-1] / plain[-1])
    print(f"plain file {1e3 * statistics.median(plain):.0f} ms, checkpoint {1e3 * statistics.median(ours):.0f} ms; "
          f"ratio by pairs {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")  # fmt: skip


def generations(folder: Path, count: int, every: int | None) -> float:
    forward = heads.population_forward(heads.linear(D, C), "head")[1]
    evolved: Any = SimpleNamespace(decode=LAYOUT.unflatten, forward=forward)
    x, y = torch.randn(10_000, D), torch.randint(C, (10_000,))

    class Rows:
        dim = D

        def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[index], y[index]

    algorithm, metric, p = ga(), METRICS["cross_entropy"](), plan("gemm", LAYOUT.genes, D, [C], limit=2**30, device=CPU)

    def score(population: Population, index: torch.Tensor) -> tuple[Scores, Cost]:
        scores = evaluate(Judgement(evolved, Rows(), [metric]), population.genomes, index, p)
        return scores, Cost(forward=len(index) * len(population.genomes))

    rules = Rules(0, 1024, count + 1, None, Budget(generations=count), "accuracy", False)
    nothing = lambda genomes: ([{"accuracy": 0.0, "cross_entropy": 9.0}] * len(genomes), Cost())  # noqa: E731
    problem = Problem(
        layout=LAYOUT,
        start=torch.zeros(1, LAYOUT.genes),
        sigma=0.01,
        evaluator=plain(Scoring(score, lambda n, samples: Cost(forward=n * samples))),
        batch=batches(torch.arange(10_000), 0),
        validate=nothing,
        merit=by_metric("accuracy", loss="cross_entropy"),
    )
    start = loop.begin(problem, algorithm, 0, CPU)
    writer, history = Writer(folder, ATTRIBUTES, {}, 3), []
    began = time.perf_counter()
    for step in loop.evolve(problem, algorithm, rules, start, device=CPU):
        history.append(step.record)
        if every and step.generation % every == 0:
            writer.submit(step, history)
    writer.close()
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", default=None, help="on the disk to measure; default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds")
        writes(Path(place), options.rounds)
        generations(Path(place), 20, 10)
        runs: dict[int | None, list[float]] = {None: [], 10: []}
        for k in range(options.rounds):
            for every in (None, 10) if k % 2 else (10, None):
                runs[every].append(generations(Path(place), 100, every))
        without, with_ = runs[None], runs[10]
        ratios = [b / a for a, b in zip(without, with_, strict=True)]
        print(f"100 generations {statistics.median(without):.2f} s without, {statistics.median(with_):.2f} s with one")
        print(f"every 10: pairs {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
              f"quickest of each {min(with_) / min(without):.3f}")  # fmt: skip
