"""Populations of networks whose unfrozen part begins before the head: how they are evaluated, and planned.

What comes after the cut runs for one individual after another with images channels last, or for several at once by
`torch.func.vmap`, which turns convolutions into grouped ones and linear layers into batched products. On a CPU the
loop is several times faster for convolutions; elsewhere it may be the other way round, so a short probe decides. The
head is evaluated for all individuals at once in either case.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuroevo import devices
from neuroevo.engine.execution import Execution
from neuroevo.errors import InputError
from neuroevo.networks import individuals
from neuroevo.networks.cut import Cut
from neuroevo.networks.heads import Drop, Forward
from neuroevo.networks.individuals import Weights

Method = Literal["loop", "vmap"]
METHODS: tuple[Method, ...] = ("loop", "vmap")
CPU_SAMPLES, GPU_SAMPLES = 128, 2048  # at a time: activations near a CPU's cache, or enough to fill a GPU
CPU_INDIVIDUALS, GPU_INDIVIDUALS = 16, 256  # at a time, at most
PROBED = 4  # individuals at once when the probe tries vmap
CLEARLY = 1.25  # as much quicker vmap must be: a run that is started again should choose as before


def forward(
    cut: Cut,
    head: str,
    head_forward: Forward,
    fixed: Weights,
    *,
    affine: Callable[[Tensor], Tensor] | None,
    method: str,
) -> Forward:
    """Return the logits of a population on rows at the cut, [B, D] shared or [n, B, D].

    `head` is the head's name in the network, `fixed` {name: [1, *shape]} its weights where they don't evolve, and
    `affine` what is done to features before it.
    """

    def call(weights: dict[str, Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
        features: Tensor = torch.func.functional_call(cut.rest, weights, tensors)
        return features

    def logits(weights: Weights, features: Tensor, drop: Drop = None) -> Tensor:
        rows = features
        own = {name: w for name, w in weights.items() if not name.startswith(head + ".")}
        n = len(next(iter(own.values())))
        if method == "vmap":
            shared = rows.ndim == 2
            tensors = cut.tensors(rows if shared else rows.flatten(0, 1))
            tensors = tensors if shared else tuple(x.unflatten(0, rows.shape[:2]) for x in tensors)
            features = individuals.vmap(call, own, tensors, shared=shared)
        else:
            given = [cut.tensors(rows)] * n if rows.ndim == 2 else [cut.tensors(x) for x in rows]
            features = torch.stack([call(w, x) for w, x in zip(individuals.each(own), given, strict=True)])
        of_head = {name: w.expand(n, *w.shape[1:]) for name, w in fixed.items()}
        of_head |= {name: w for name, w in weights.items() if name.startswith(head + ".")}
        return head_forward(of_head, features if affine is None else affine(features), drop)

    return logits


def features(cut: Cut, rows: Tensor) -> Tensor:
    """Return the features [B, d] that the network had before anything evolved, of rows [B, D] at the cut."""
    found: Tensor = cut.rest(*cut.tensors(rows))
    return found


def norms(rest: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch norms with running statistics, by name."""
    return {name: m for name, m in rest.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}


def recalibrate(cut: Cut, weights: Weights, batches: Callable[[], Iterator[Tensor]]) -> dict[str, Tensor]:
    """Return each individual's batch norm statistics {buffer: [n, channels]}, averaged over `batches` of rows [B, D].

    As `torch.optim.swa_utils.update_bn` does it: every batch is normalised by its own statistics.
    """
    layers = norms(cut.rest)
    found: dict[str, list[Tensor]] = {}
    with _batch_statistics(list(layers.values())):
        for each in individuals.each(weights):
            buffers = {}
            for name, layer in layers.items():
                assert layer.running_mean is not None and layer.running_var is not None
                buffers[f"{name}.running_mean"] = torch.zeros_like(layer.running_mean)
                buffers[f"{name}.running_var"] = torch.ones_like(layer.running_var)
                assert layer.num_batches_tracked is not None
                buffers[f"{name}.num_batches_tracked"] = torch.zeros_like(layer.num_batches_tracked)
            own = each | buffers
            for count, rows in enumerate(batches(), 1):
                for layer in layers.values():  # the plain average; with None torch would wait for the buffer's count
                    layer.momentum = 1 / count
                torch.func.functional_call(cut.rest, own, cut.tensors(rows), strict=False)
            for name, buffer in buffers.items():
                if not name.endswith("num_batches_tracked"):
                    found.setdefault(name, []).append(buffer)
    return {name: torch.stack(each) for name, each in found.items()}


@contextmanager
def _batch_statistics(layers: list[_BatchNorm]) -> Iterator[None]:
    """Let batch norms normalise by the batch; their momentum is restored as well."""
    before = [(layer.training, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer, (training, momentum) in zip(layers, before, strict=True):
            layer.training, layer.momentum = training, momentum


class Need(NamedTuple):
    """Bytes that work on n individuals and B samples takes: constant, per sample, per individual, per both."""

    constant: float
    sample: float
    individual: float
    both: float

    def __call__(self, n: int, samples: int) -> float:
        """Return the bytes of n individuals on so many samples."""
        return self.constant + self.sample * samples + self.individual * n + self.both * n * samples

    def individuals(self, limit: float, samples: int) -> int:
        """Return how many individuals on so many samples take at most `limit` bytes; 0 where not one does."""
        left = limit - self.constant - self.sample * samples
        return max(0, int(left // max(1.0, self.individual + self.both * samples)))


def need(work: Callable[[int, int], object]) -> Need:
    """Measure the bytes of work(n, B), which are taken to grow evenly with individuals and samples."""
    (n, m), (b, c) = (1, 3), (4, 8)

    def peak(individuals: int, samples: int) -> int:
        return devices.peak_bytes(lambda: work(individuals, samples))

    nb, nc, mb, mc = peak(n, b), peak(n, c), peak(m, b), peak(m, c)
    both = (mc - mb - nc + nb) / ((m - n) * (c - b))
    sample = (nc - nb) / (c - b) - n * both
    individual = (mb - nb) / (m - n) - b * both
    return Need(nb - sample * b - individual * n - both * n * b, sample, individual, both)


def plan(
    make: Callable[[str], Forward],
    start: Weights,
    width: int,
    classes: int,
    limit: int,
    *,
    device: torch.device,
    method: str,
    population: int,
    batch: int,
    slots: int,
    draw: Callable[[int], Tensor] | None = None,
) -> Execution:
    """Choose how a population is evaluated, and trained on batches of `batch` (0: not at all), by a short probe.

    `start` {name: [1, *shape]} is one individual, `width` that of rows at the cut, `slots` the numbers that training
    keeps for each gene; `method` is one of METHODS, or `auto`: the quicker, and the loop where vmap can't. `draw(B)`
    gives rows [B, width] to try it on, random ones by default. InputError where the limit is too little.
    """
    draw = draw or (lambda samples: torch.rand(samples, width, device=device))
    usable = 3 * limit / 4  # the allocator keeps some of what is freed, and a library's scratch isn't counted
    cpu = device.type == "cpu"
    most = min(population, CPU_INDIVIDUALS if cpu else GPU_INDIVIDUALS)
    found: dict[str, Execution] = {}
    least = torch.inf
    for name in METHODS if method == "auto" else (method,):
        try:
            evaluates, trains = _needs(make(name), start, width, classes, draw=draw, slots=slots if batch else None)
        except Exception as error:  # what vmap refuses, it refuses in any way
            if method != "auto" or name != "vmap" or devices.out_of_memory(error):
                raise
            continue
        least = min(least, max(evaluates(1, 1), 0 if trains is None else trains(1, 1)))
        samples, micro, trained = CPU_SAMPLES if cpu else GPU_SAMPLES, batch, 0
        while samples > 1 and not evaluates.individuals(usable, samples):
            samples //= 2
        if trains is not None:
            while micro > 1 and not trains.individuals(usable, micro):
                micro //= 2
            trained = min(1 if name == "loop" else most, trains.individuals(usable, micro))
        n = min(most, evaluates.individuals(usable, samples))
        if n and (trained or not batch):
            threads = torch.get_num_threads()
            found[name] = Execution(name, classes, n, samples, limit, threads, trained=trained, micro=micro)
    if not found:
        raise InputError(
            f"{limit} bytes is too little for one individual; at least {int(4 * least / 3) + 1}",
            option="limit",
        )
    seconds = {}
    for name, plan in found.items() if len(found) > 1 else ():
        n = 1 if name == "loop" else min(plan.individuals, PROBED)
        rate = _rate(make(name), start, draw(plan.samples), n)
        seconds[name] = rate * (CLEARLY if name == "vmap" else 1)
    return found[min(seconds, key=seconds.__getitem__)] if seconds else next(iter(found.values()))


def _needs(
    run: Forward, start: Weights, width: int, classes: int, *, draw: Callable[[int], Tensor], slots: int | None
) -> tuple[Need, Need | None]:
    """Measure the bytes of evaluation and, unless `slots` is None, of training."""
    genes = sum(w.numel() for w in start.values())

    def evaluate(n: int, samples: int) -> object:
        return run(_repeat(start, n), draw(samples))

    def learn(n: int, samples: int) -> object:
        own = {name: w.clone().requires_grad_(True) for name, w in _repeat(start, n).items()}
        out = run(own, draw(samples))
        return torch.autograd.grad(out, list(own.values()), torch.ones_like(out))

    with torch.no_grad():
        evaluates = need(evaluate)
    # Metrics make up to five more of the logits' size; a batch is gathered, and cast.
    evaluates = evaluates._replace(both=evaluates.both + 20 * classes, sample=evaluates.sample + 8 * width)
    if slots is None:
        return evaluates, None
    with torch.enable_grad():
        trains = need(learn)
    # Beside weights and gradients: genomes before and after, and what the optimizer keeps and makes.
    return evaluates, trains._replace(
        individual=trains.individual + 4 * genes * (3 + 2 * slots), sample=trains.sample + 8 * width
    )


def _repeat(start: Weights, n: int) -> dict[str, Tensor]:
    return {name: w.expand(n, *w.shape[1:]) for name, w in start.items()}


def _rate(run: Forward, start: Weights, rows: Tensor, n: int) -> float:
    """Return the seconds an individual and sample, the median of three evaluations after one."""
    weights = {name: w.contiguous() for name, w in _repeat(start, n).items()}
    with torch.no_grad():
        seconds = [_seconds(lambda: run(weights, rows), rows.device) for _ in range(4)]
    return statistics.median(seconds[1:]) / n / len(rows)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    settle()
    began = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - began
