"""Numbers at their limits: what becomes of scores that order nobody, and how far float32 is from float64.

Bounds are of the form n u: u = 2^-24 is half the distance from 1 to the next float32, and n counts the roundings on the
way (Higham 2002, Accuracy and Stability of Numerical Algorithms, chapter 3). `python tests/test_numbers.py` prints what
was measured beside them.
"""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from annotated_types import Ge
from conftest import Quiet
from torch import Tensor, nn

from neuroevo import config
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import BRED, Layout, Population, roles
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.learning.optimizers import OPTIMIZERS
from neuroevo.learning.refine import refiner
from neuroevo.learning.task import Settings, Task
from neuroevo.networks import heads
from neuroevo.networks.affine import Projection, Standardise
from neuroevo.problems.metric import score
from neuroevo.problems.metrics import METRICS
from neuroevo.search.algorithms import ALGORITHMS
from neuroevo.search.operators.crossover import CROSSOVERS
from neuroevo.search.operators.mutation import gaussian
from neuroevo.storage import rundir

CPU = torch.device("cpu")
LAYOUT = Layout(("w", "b"), ((3, 4), (3,)))
G = LAYOUT.genes
INF = math.inf
U = 2.0**-24


def least(name: str) -> int:
    """Return the smallest population that an algorithm takes, by its schema."""
    annotation = inspect.signature(ALGORITHMS[name], eval_str=True).parameters["population"].annotation
    found = next(int(str(each.ge)) for each in annotation.__metadata__ if isinstance(each, Ge))
    return max(found, 4) if name == "cem" else found  # half of whose population are two individuals at least


def all_equal(n: int, generation: int) -> Tensor:
    return torch.full((n,), 0.25, dtype=torch.float64)


def nobody_valid(n: int, generation: int) -> Tensor:
    return torch.full((n,), -INF, dtype=torch.float64)


def one_valid(n: int, generation: int) -> Tensor:
    return nobody_valid(n, generation).index_fill(0, torch.tensor([generation % n]), 0.5)


def every_other_valid(n: int, generation: int) -> Tensor:
    return torch.where(torch.arange(n) % 2 == 0, -INF, torch.linspace(0, 1, n, dtype=torch.float64))


def valid_by_turns(n: int, generation: int) -> Tensor:
    return (nobody_valid if generation % 2 else all_equal)(n, generation)


def as_large_as_can_be(n: int, generation: int) -> Tensor:
    return torch.linspace(-1.7e308, 1.7e308, n, dtype=torch.float64)


def as_close_as_can_be(n: int, generation: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64) * 5e-324


def one_infinite(n: int, generation: int) -> Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64).index_fill(0, torch.tensor([n - 1]), INF)


DEGENERATE = [all_equal, nobody_valid, one_valid, every_other_valid, valid_by_turns, as_large_as_can_be,
              as_close_as_can_be, one_infinite]  # fmt: skip


def search(algorithm: Algorithm[Any], score: Callable[[int, int], Tensor], generations: int = 7) -> list[Tensor]:
    """Return the populations [n, g] of a search whose scores are given; they and its candidates are sound."""
    start = torch.linspace(-1, 1, 2 * G).view(2, G)
    state, found, valid = algorithm.init(start, 0.1, Context(0, 0, 0.0, CPU, LAYOUT)), [], []
    for generation in range(1, generations + 1):
        population = algorithm.ask(state, Context(0, generation, 0.0, CPU, LAYOUT))
        assert population.genomes.isfinite().all()
        found.append(population.genomes.clone())
        values = score(len(population.genomes), generation)
        invalid = values == -INF
        valid.append(found[-1][~invalid])
        state = algorithm.tell(state, population, Scores(values[:, None], invalid))
        candidates = algorithm.candidates(state)
        assert all(candidate.isfinite().all() for candidate in candidates.values())
        if "best" in candidates:
            assert (candidates["best"] == torch.cat(valid)).all(1).any()
    return found


@pytest.mark.parametrize("name", ALGORITHMS)
def test_scores_that_order_nobody_leave_a_search_that_goes_on_with_numbers(name: str) -> None:
    for n in (least(name), least(name) + 1, 8):
        for given in DEGENERATE:
            populations = search(ALGORITHMS[name](population=n), given)
            again = search(ALGORITHMS[name](population=n), given)
            assert all(torch.equal(a, b) for a, b in zip(populations, again, strict=True)), given.__name__


# Samples of few classes, of which some don't occur; of predictions that are all of one class.
BATCHES = {
    "a class without samples": (torch.tensor([0, 0, 2, 2, 2]), None),
    "one class": (torch.tensor([1, 1, 1, 1, 1]), None),
    "one sample": (torch.tensor([2]), None),
    "one sample a class": (torch.tensor([0, 1, 2]), None),
    "predictions of one class": (torch.tensor([0, 1, 2, 0]), 1),
}
OPTIONS: dict[str, dict[str, Any]] = {"cost_matrix": {"costs": [[0, 1, 2], [1, 0, 1], [2, 1, 0]]}}
OF_LOGITS = [name for name in METRICS if name not in ("sparsity", "weight_norm", "distance")]
OF_LOGITS = [name for name in OF_LOGITS if "group" not in name]


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("batch", BATCHES)
def test_a_metric_is_a_number_whatever_classes_a_batch_lacks(name: str, batch: str) -> None:
    targets, predicted = BATCHES[batch]
    logits = torch.randn(4, len(targets), 3, generator=torch.Generator().manual_seed(0))
    if predicted is not None:
        logits[..., predicted] += 100
    metric: Any = METRICS[name](**OPTIONS.get(name, {}))
    found = score(metric, logits, targets)
    # No curve of one class alone: everybody is invalid on such a batch, and equal.
    undefined = name == "auroc" and len(targets.unique()) == 1
    assert bool(found.isnan().all()) if undefined else bool(found.isfinite().all())


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
@pytest.mark.parametrize("name", OF_LOGITS)
def test_a_number_that_is_none_touches_its_own_individual_alone(name: str, bad: float) -> None:
    logits = torch.randn(3, 9, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(9) % 3
    metric: Any = METRICS[name](**OPTIONS.get(name, {}))
    clean = score(metric, logits, targets)
    logits[1, 4, 2] = bad
    found = score(metric, logits, targets)
    assert torch.equal(found[[0, 2]], clean[[0, 2]])
    assert not found[1] > clean[1] + 1 / 3  # who isn't a number gains at most what one right sample of a class gives


RUN = ["backbone.name=none", "backbone.weights=none", "algorithm.population=4", "algorithm.elites=1",
       "memory.limit=1e8", "budget.generations=2", "validate.every=1", "fitness.samples=20"]  # fmt: skip


def run(folder: Path, x: Any, *sets: str, y: Any = None, split: Any = None) -> dict[str, Any]:
    """Return the result of a run on rows x [N, d] of three classes by turns."""
    part = np.resize(["train", "val", "test", "train"], len(x)) if split is None else split
    np.savez(folder / "d.npz", x=x, y=np.arange(len(x)) // 4 % 3 if y is None else y, split=part)
    given = [*RUN, f"data={{name: arrays, file: {folder / 'd.npz'}}}", *sets]
    experiment.run(config.load(None, given), str(folder / "r"), "test", Quiet())
    return rundir.read_result(folder / "r")


def rows(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(120, 6)).astype(np.float32)


EXTREMES: dict[str, Callable[[Any], Any]] = {
    "a feature that never varies": lambda x: np.where(np.arange(6) == 2, 5, x),
    "features that are one and the same": lambda x: np.repeat(x[:, :1], 6, axis=1),
    "features next to nothing": lambda x: x * np.float32(1e-30),
    "features as large as float32 has them": lambda x: x / np.abs(x).max() * np.float32(3e38),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_a_run_on_extreme_features_has_numbers_for_all_its_figures(name: str, tmp_path: Path) -> None:
    champion = run(tmp_path, EXTREMES[name](rows()).astype(np.float32), "features.components=3")["champion"]
    assert all(math.isfinite(value) for value in champion["validation"].values())
    assert all(math.isfinite(end) for ends in champion["test"]["interval"].values() for end in ends)


@pytest.mark.parametrize("components", ["3", "null"])
def test_train_samples_that_are_all_the_same_are_refused_and_leave_nothing(tmp_path: Path, components: str) -> None:
    x = np.where((np.arange(120) % 4 == 2)[:, None], rows(), 1)  # test alone varies
    with pytest.raises(InputError, match=r"features: the same for all 60 train samples: there is nothing to learn"):
        run(tmp_path, x.astype(np.float32), f"features.components={components}")
    assert not (tmp_path / "r").exists()


def test_validation_of_one_class_has_no_area_under_a_curve_and_says_so(tmp_path: Path) -> None:
    part = np.repeat(["train", "val", "test"], 40)
    y = np.where(part == "val", 0, np.arange(120) % 3)
    found = run(tmp_path, rows(), "validate.metric=auroc", y=y, split=part)
    assert found["champion"]["validation"]["auroc"] is None
    assert any("no candidate had a finite auroc" in line for line in found["warnings"])
    assert any("validation has no sample of 1, 2" in line for line in found["warnings"])


@pytest.mark.parametrize("sets", [["refine={name: sgd, steps: 3, lr: 1.0e+38}"], ["genome.init_sigma=1.0e+38"]])
def test_what_grows_beyond_float32_is_nobodys_champion(tmp_path: Path, sets: list[str]) -> None:
    champion = run(tmp_path, rows() * np.float32(100), "validate.metric=cross_entropy", *sets)["champion"]
    assert math.isfinite(champion["validation"]["cross_entropy"])


class Bound(NamedTuple):
    """How far float32 is from float64 at most, and its bound, both relative to the sum of what is added."""

    measured: float
    bound: float


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def of_logits(kind: torch.dtype = torch.float32) -> Bound:
    """Logits of 16 heads of 1,280 features: an inner product of d numbers and a bias, (d + 1) u of the sum of |x w|."""
    d = 1280
    x, w, b = normal(64, d), normal(16, 10, d, seed=1), normal(16, 10, seed=2)
    forward = heads.population_forward(nn.Linear(d, 10), "fc")[1]
    found = forward({"fc.weight": w.to(kind), "fc.bias": b.to(kind)}, x.to(kind))
    exact = x.double() @ w.double().mT + b.double()[:, None]
    size = x.double().abs() @ w.double().mT.abs() + b.double()[:, None].abs()
    return Bound(float(((found - exact).abs() / size).max()), (d + 1) * U)


def of_cross_entropy() -> Bound:
    """Cross-entropy of given logits: C terms of exp, a log, two differences, (C + 8) u of 1 and the largest logit."""
    classes, targets = 100, torch.arange(50)
    logits = 10 * normal(8, 50, classes)
    metric: Any = METRICS["cross_entropy"]()
    each = zip(logits.split(1, 1), targets.split(1), strict=True)
    found = torch.stack([metric.finish(metric.statistics(*one)) for one in each], 1)
    wide = logits.double().log_softmax(2)
    exact = wide.gather(2, targets[None, :, None].expand(8, -1, 1)).squeeze(2)
    return Bound(float((found - exact).abs().max()) / (1 + float(logits.abs().max())), (classes + 8) * U)


class Rows(NamedTuple):
    """Samples for gradient steps."""

    x: Tensor
    labels: Tensor

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[index], self.labels[index]


def of_gradient_step() -> Bound:
    """One step of SGD of a linear head: B terms of a sample's error times a feature, (B + d + C + 10) u of their sum.

    To that sum belongs what the error was rounded by, which is d u of the sum of |x w| of the sample.
    """
    batch, d, classes, lr, n = 128, 512, 10, 0.1, 4
    x, y = normal(batch, d), torch.arange(batch) % classes
    layout = Layout(("fc.weight", "fc.bias"), ((classes, d), (classes,)))
    genomes = normal(n, layout.genes, seed=1) / d**0.5
    forward = heads.population_forward(nn.Linear(d, classes), "fc")[1]
    task = Task(layout, forward, "fc", Rows(x, y), torch.arange(batch), classes, n, 1000, 2**20,
                torch.zeros(layout.genes), CPU)  # fmt: skip
    settings = Settings(steps=1, batch_size=batch, lr=lr, weight_decay=0.0, label_smoothing=0.0, dropout=None,
                        mixup=0.0, decay_to_start=0.0, schedule="constant", final=0.01, who="all", share=1.0,
                        batches="shared", optimizer_state="fresh", balanced=False, class_weights=False,
                        logit_adjustment=0.0)  # fmt: skip
    refine, *_ = refiner(task, OPTIMIZERS["sgd"](momentum=0.0), settings)
    parents = torch.zeros(n, 2, dtype=torch.int64)
    found, _ = refine(Population(genomes.clone(), {}, parents, roles({BRED: n}, CPU)), Context(0, 1, 0.0, CPU))
    own = genomes.double().requires_grad_()
    weights = layout.unflatten(own)
    logits = x.double() @ weights["fc.weight"].mT + weights["fc.bias"][:, None]
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.repeat(n), reduction="none")
    (gradient,) = torch.autograd.grad(losses.view(n, batch).mean(1).sum(), own)
    exact = own.detach() - lr * gradient
    reach = 1 + (x.double().abs() @ weights["fc.weight"].detach().abs().mT).amax((1, 2))  # of each individual
    each = torch.cat([x.double().abs().mean(0).repeat(classes), torch.ones(classes, dtype=torch.float64)])
    size = genomes.double().abs() + lr * each * reach[:, None]
    error = (found.genomes.double() - exact).abs()
    assert float((exact - genomes).abs().max()) > 1e-3  # it is a step
    return Bound(float((error / size).max()), (batch + d + classes + 10) * U)


def of_fold(affine: Standardise | Projection, d: int) -> Bound:
    """Logits by a fold on raw features, beside those of the map and the weights: both have d + k + 4 roundings at most.

    They are relative to the sum of all that is added in either.
    """
    k = affine.width
    x, w, b = 3 + 2 * normal(32, d), normal(1, 5, k, seed=1), normal(1, 5, seed=2)
    folded = affine.fold({"fc.weight": w, "fc.bias": b}, "fc")
    raw = x @ folded["fc.weight"][0].T + folded["fc.bias"][0]
    wide = type(affine)(*(part.double() for part in affine))
    exact = wide(x.double()) @ w[0].double().T + b[0].double()
    inner = w[0].double().abs()
    axes = torch.diag(1 / wide[1]) if isinstance(wide, Standardise) else wide[1]
    size = (x.double().abs() + wide.mean.abs()) @ axes.abs() @ inner.T + b[0].double().abs()
    return Bound(float(((raw - exact).abs() / size).max()), (d + k + 4) * U)


def of_standardise() -> Bound:
    return of_fold(Standardise(3 + normal(512, seed=3) / 10, 2 + normal(512, seed=4).abs()), 512)


def of_projection() -> Bound:
    return of_fold(Projection(3 + normal(512, seed=3) / 10, normal(512, 64, seed=4) / 512**0.5), 512)


def of_unfold() -> Bound:
    """Weights folded, written as float32, and unfolded: two products, 4 u of a weight; a bias has d + 4 terms."""
    d = 512
    affine = Standardise(3 + normal(d, seed=3) / 10, 2 + normal(d, seed=4).abs())
    given = {"fc.weight": normal(1, 5, d, seed=1), "fc.bias": normal(1, 5, seed=2)}
    back = affine.unfold(affine.fold(given, "fc"), "fc")
    return Bound(float(((back["fc.weight"] - given["fc.weight"]).abs() / given["fc.weight"].abs()).max()), 4 * U)


def of_crossover() -> Bound:
    """A child of 256 parents, each with its weight: p products added, (p + 2) u of the sum of |weight gene|."""
    p, layout = 256, Layout(("w",), ((20, 50),))
    genomes, parents = normal(p, layout.genes), torch.arange(p).expand(8, p).contiguous()
    found = CROSSOVERS["weighted"](genomes, parents, layout, torch.Generator().manual_seed(0), step=0.5)
    own = 1 / p + 0.5 / math.sqrt(p) * torch.linspace(1, -1, p, dtype=torch.float64)
    exact, size = own @ genomes.double(), own.abs() @ genomes.double().abs()
    return Bound(float(((found - exact).abs() / size).max()), (p + 2) * U)


BOUNDS = {
    "logits, 1,280 features": of_logits,
    "cross-entropy, 100 classes": of_cross_entropy,
    "a step of SGD, 128 samples, 512 features": of_gradient_step,
    "standardisation folded, 512 features": of_standardise,
    "projection folded, 512 to 64": of_projection,
    "weights folded and unfolded": of_unfold,
    "weighted crossover, 256 parents": of_crossover,
}


@pytest.mark.parametrize("name", BOUNDS)
def test_float32_is_as_near_to_float64_as_its_bound_says(name: str) -> None:
    found = BOUNDS[name]()
    assert 0 < found.measured <= found.bound


def test_half_precision_is_beyond_that_bound() -> None:
    found = of_logits(torch.bfloat16)
    assert found.measured > 5 * found.bound


@pytest.mark.parametrize("per", ["gene", "tensor"])
def test_mutations_moments_are_those_of_float64(per: Any) -> None:
    """Noise of n genes: its mean is within 5 sigma / sqrt(n) of 0, its variance within 5 sqrt(2 / n) of sigma^2."""
    layout, sigma, m = Layout(("w",), ((100, 100),)), 0.05, 50
    before = normal(m, layout.genes)
    children = Population(before.clone(), {}, torch.zeros(m, 2, dtype=torch.int64), roles({BRED: m}, CPU))
    context = Context(0, 1, 0.0, CPU, layout)
    found = gaussian(children, context, layout, sigma=sigma, per=per, schedule="constant")
    noise, n = (found.genomes.double() - before.double()).flatten(), m * layout.genes
    assert abs(float(noise.mean())) < 5 * sigma / n**0.5
    assert abs(float(noise.var()) / sigma**2 - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("name", ["uniform", "arithmetic"])
def test_crossover_of_two_keeps_the_mean_of_a_population(name: str) -> None:
    """A child's gene has the mean of its parents' (uniform, arithmetic): over n genes within 5 deviations / sqrt(n)."""
    layout, m = Layout(("w",), ((100, 100),)), 50
    genomes = normal(20, layout.genes)
    parents = torch.stack([torch.arange(m) % 20, (torch.arange(m) + 7) % 20], 1)
    found = CROSSOVERS[name](genomes, parents, layout, torch.Generator().manual_seed(0)).double()
    off = (found - genomes.double()[parents].mean(1)).mean(1 if name == "uniform" else None)
    assert bool((off.abs() < 5 / layout.genes**0.5).all())


def main() -> None:
    """Print each bound with what was measured."""
    for name, measure in BOUNDS.items():
        found = measure()
        print(f"{name:45} {found.measured:9.2e} {found.bound:9.2e} {found.measured / found.bound:6.3f}")


if __name__ == "__main__":
    main()
