"""The works of `peers.py` on linear heads: scoring, and whole generations."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from peer_works import CLASSES, LIMIT, Missing, Way, Work, agree, evox_scores, hits, layout_of, peer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.data import TensorDataset

from neuroevo.data.samples import Features
from neuroevo.engine import execution, loop
from neuroevo.engine.cost import Budget
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Rules, Step
from neuroevo.networks import backbones, heads, network
from neuroevo.problems import scoring, slicing
from neuroevo.problems.metrics import METRICS
from neuroevo.problems.supervised import Supervised, supervised
from neuroevo.search.algorithms.ga import ga
from neuroevo.search.operators.crossover import weighted
from neuroevo.search.operators.mutation import gaussian

HITS, ROUGH_HITS = 3e-4, 5e-3  # by which accuracies may differ: float32, bfloat16
LOSS = 1e-4  # by which cross-entropies may


def score_heads(small: bool, device: torch.device) -> Work:
    """Score linear heads by accuracy."""
    n, d, rows = (8, 32, 200) if small else (256, 1280, 10_000)
    x, y = torch.randn(rows, d, device=device), torch.randint(CLASSES, (rows,), device=device)
    head = nn.Linear(d, CLASSES).to(device).requires_grad_(False)
    layout, forward = layout_of(head), heads.population_forward(head, "head")[1]
    genomes, index = torch.randn(n, layout.genes, device=device) / d**0.5, torch.arange(rows, device=device)
    evolved: Any = SimpleNamespace(decode=layout.unflatten, forward=forward)
    judgement = scoring.Judgement(evolved, Features((x,), y, None, device), [METRICS["accuracy"]()])
    plan = execution.plan("gemm", layout.genes, d, [CLASSES], limit=LIMIT, device=device)
    half, elites = plan._replace(precision="bfloat16"), ga(population=n).exact(n)
    population, weights = Population.new(genomes), layout.unflatten(genomes)
    w, b = weights["head.weight"], weights["head.bias"]
    flat = w.flatten(0, 1).t().contiguous()
    out, x16, flat16 = torch.empty(rows, n * CLASSES, device=device), x.bfloat16(), flat.bfloat16()
    out16 = out.bfloat16()

    def call(own_w: Tensor, own_b: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"weight": own_w, "bias": own_b}, (x,))

    ways: dict[str, Way | Missing] = {
        "torch.mm float32": lambda: torch.mm(x, flat, out=out),
        "torch.mm bfloat16": lambda: torch.mm(x16, flat16, out=out16),
        "neuroevo float32": lambda: scoring.evaluate(judgement, genomes, index, plan).values[:, 0],
        "neuroevo best": lambda: scoring.fitness(judgement, population, index, half, rescored=elites)[0].values[:, 0],
        "evotorch": evotorch_scores(head, (x, y), genomes, loader=False),
        "evotorch loader": evotorch_scores(head, (x, y), genomes, loader=True),
        "EvoX": peer("evox", lambda: evox_scores(head, (x, y), {"weight": w, "bias": b})),
        "PyGAD": peer("pygad", lambda: pygad_scores(head, (x, y), genomes)),
        "vmap": lambda: hits(torch.vmap(call)(w, b), y),
        "loop": lambda: torch.stack([hits(linear(x, *own), y) for own in zip(w, b, strict=True)]),
    }

    def check(results: dict[str, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, values in results.items():
            if name != "loop" and not name.startswith("torch.mm"):
                within = ROUGH_HITS if name == "neuroevo best" else HITS
                found |= agree(f"accuracies of {name} and the loop", values, results["loop"], within)
        return found

    title = f"accuracy of {n} linear heads ({d:,} to {CLASSES}) on {rows:,} samples"
    return Work(title, ways, lambda name: 2.0 * n * CLASSES * d * rows, check)


def evotorch_problem(head: nn.Module, loss: Any, data: tuple[Tensor, Tensor], samples: int, loader: bool) -> Any:
    """Return evotorch's problem of a head, on batches by its loader, or on rows that are drawn and taken at once."""
    from evotorch.neuroevolution import SupervisedNE

    x, y = data

    class Ready(SupervisedNE):
        def get_minibatch(self) -> Any:
            if samples == len(x):
                return [x, y]
            rows = torch.randperm(len(x), device=x.device)[:samples]
            return [x[rows], y[rows]]

    kind: Any = SupervisedNE if loader else Ready
    return kind(TensorDataset(x, y), head, loss, minibatch_size=samples, device=x.device)


def evotorch_scores(head: nn.Module, data: tuple[Tensor, Tensor], genomes: Tensor, *, loader: bool) -> Way:
    """Return how evotorch scores heads."""

    def misses(logits: Tensor, targets: Tensor) -> Tensor:
        return -hits(logits, targets)

    problem = evotorch_problem(head, misses, data, len(data[0]), loader)
    batch = problem.generate_batch(len(genomes))

    def score() -> Tensor:
        batch.set_values(genomes)  # forgets what they were found to be worth
        problem.evaluate(batch)
        return -batch.evals[:, 0]

    return score


def pygad_scores(head: nn.Module, data: tuple[Tensor, Tensor], genomes: Tensor) -> Way:
    """Return how PyGAD scores heads: one after another."""
    from pygad import torchga

    solutions = genomes.cpu().numpy()
    return lambda: torch.stack([hits(torchga.predict(head, own, data[0]), data[1]) for own in solutions])


def generation(n: int, d: int, rows: int, samples: int, device: torch.device) -> Work:
    """Do whole generations of genetic algorithms on linear heads."""
    x, y = torch.randn(rows, d, device=device), torch.randint(CLASSES, (rows,), device=device)
    head = nn.Linear(d, CLASSES).to(device).requires_grad_(False)
    parts: dict[str, list[float]] = {"proposing": [], "scoring": []}
    of, ours = generations(n, (x, y), samples, "float32", parts)
    _, best = generations(n, (x, y), samples, "bfloat16", {})
    searches = {
        name: evotorch_ga(evotorch_problem(head, cross_entropy, (x, y), samples, name.endswith("loader")), n)
        for name in ("evotorch", "evotorch loader")
    }
    ways: dict[str, Way | Missing] = {
        "neuroevo float32": lambda: next(ours),
        "neuroevo best": lambda: next(best),
        "evotorch": searches["evotorch"].step,
        "evotorch loader": searches["evotorch loader"].step,
    }

    def check(results: dict[str, Any]) -> dict[str, float]:
        """See that what evotorch's individuals are worth is what we find, on the same samples."""
        found: dict[str, float] = {}
        judgement = of.judgement([METRICS["cross_entropy"]()])
        for name, search in searches.items():
            own = search.population.values[:16].clone().as_subclass(Tensor)
            search.problem.get_minibatch = lambda: [x, y]
            again = search.problem.generate_batch(len(own))
            again.set_values(own)
            search.problem.evaluate(again)
            losses = -scoring.evaluate(judgement, own, torch.arange(rows, device=device), of.executions.now).values
            found |= agree(f"losses of {name} and ours", again.evals[:, 0].as_subclass(Tensor), losses[:, 0], LOSS)
        return found

    title = f"a whole generation of {n:,} linear heads ({d:,} to {CLASSES}) on {samples:,} of {rows:,} samples"
    return Work(title, ways, lambda name: 2.0 * n * CLASSES * d * samples, check, parts)


def generations(
    n: int, data: tuple[Tensor, Tensor], samples: int, precision: str, parts: dict[str, list[float]]
) -> tuple[Supervised, Iterator[Step]]:
    """Return the default run's search of linear heads, and its generations; `parts` hears what took how long."""
    (rows, d), device = data[0].shape, data[0].device
    net = network.build(
        backbones.build("none", "none", None, (d,)),
        lambda features: heads.linear(features, CLASSES),
        [str(label) for label in range(CLASSES)],
        width=d,
        affine=None,
        head_weights=lambda head, *_: {f"head.{k}": torch.zeros_like(p)[None] for k, p in head.named_parameters()},
        device=device,
    )
    algorithm = ga(
        population=n,
        crossover=partial(weighted, step=0.5),
        mutation=partial(gaussian, sigma=0.01, schedule="cosine", final=0.1),
    )
    plan = slicing.choose(net, d, population=n, limit=LIMIT)._replace(precision=precision)
    all_rows = torch.arange(rows)
    of = supervised(
        net,
        Features((data[0],), data[1], None, device),
        {"train": all_rows, "validation": all_rows[:2]},
        metrics={name: METRICS[name]() for name in ("accuracy", "cross_entropy")},
        execution=plan,
        rescored=algorithm.exact,
    )

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            began = time.perf_counter()
            found = function(*given)
            if device.type == "cuda":
                torch.cuda.synchronize()
            parts[name].append(time.perf_counter() - began)
            return found

        return call if parts else function

    problem, home = of.problem(), torch.device(plan.home)
    evaluator = problem.evaluator._replace(evaluate=timed("scoring", problem.evaluator.evaluate))
    algorithm, problem = (
        algorithm._replace(ask=timed("proposing", algorithm.ask)),
        problem._replace(evaluator=evaluator),
    )
    rules = Rules(0, samples, 10**9, None, Budget(), "accuracy", False)
    start = loop.begin(problem, algorithm, 0, home)
    return of, loop.evolve(problem, algorithm, rules, start, device=home)


def evotorch_ga(problem: Any, n: int) -> Any:
    """Return evotorch's genetic algorithm, which evaluates as many a generation as ours does."""
    from evotorch.algorithms import GeneticAlgorithm
    from evotorch.operators import GaussianMutation, OnePointCrossOver

    operators = [OnePointCrossOver(problem, tournament_size=2), GaussianMutation(problem, stdev=0.01)]
    return GeneticAlgorithm(problem, operators=operators, popsize=n, elitist=False, re_evaluate=False)


def large_generation(small: bool, device: torch.device) -> Work:
    """Do a whole generation of many heads on all samples."""
    return generation(*((16, 32, 200, 200) if small else (1024, 1280, 10_000, 10_000)), device)


def default_generation(small: bool, device: torch.device) -> Work:
    """Do a whole generation of the size that the default run has."""
    return generation(*((16, 32, 200, 64) if small else (256, 512, 1257, 512)), device)
