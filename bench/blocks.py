"""Unfrozen blocks: rates against the same network alone and a plain vmap, and memory against the limit.

    python bench/blocks.py [--rounds 7] [--device cpu] [--individuals 16] [--samples 256]

EfficientNet-Lite0 at 128 pixels with blocks.6, conv_head, bn2 and the head as genes; ResNet-18 at 64 with layer4. All
in turn within one process; memory in a process of its own for each size of population. "vmap" is what one would write:
`torch.vmap` of `torch.func.functional_call` over the stacked weights, all samples at once, in the default layout; once
more on activations that are channels last.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from neuroevo import devices
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.learning import optimizers
from neuroevo.learning.refine import refiner
from neuroevo.learning.task import Settings, Task
from neuroevo.networks import backbones, deep, heads, individuals
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.heads import Forward
from neuroevo.problems import metrics, scoring

CLASSES = 10
NETWORKS = {
    "EfficientNet-Lite0, last stage": ("timm/tf_efficientnet_lite0", ["blocks.6", "conv_head", "bn2"], 128),
    "ResNet-18, layer4": ("timm/resnet18", ["layer4"], 64),
}


class Rows:
    """Rows at the cut, with labels."""

    def __init__(self, n: int, width: int, device: torch.device) -> None:
        self.rows, self._y = torch.randn(n, width, device=device), torch.randint(CLASSES, (n,), device=device)
        self.dim = width

    @property
    def labels(self) -> Tensor:
        return self._y

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.to(self.rows.device)
        return self.rows[index], self._y[index]


def setup(name: str, device: torch.device) -> tuple[Backbone, nn.Linear, dict[str, Tensor], Callable[[str], Forward]]:
    """Return a network cut before its last stage, a head, one individual and how to evaluate a population."""
    model, patterns, size = NETWORKS[name]
    backbone = backbones.build(model, "none", size, (8, 8, 3), trainable=patterns)
    backbone.to(device)
    assert backbone.cut is not None and backbone.own_head is not None
    cut, head = backbone.cut, nn.Linear(backbone.own_head.in_features, CLASSES).to(device).requires_grad_(False)
    start = {key: backbone.body.get_parameter(key)[None] for key in backbone.trainable}
    start |= {f"{backbone.head}.{key}": p.detach()[None] for key, p in head.named_parameters()}
    of_features = heads.population_forward(head, backbone.head)[1]
    return backbone, head, start, lambda m: deep.forward(cut, backbone.head, of_features, {}, affine=None, method=m)


def judge(layout: Layout, forward: Forward, data: Rows) -> scoring.Judgement:
    """Return how genomes are scored: by the cross-entropy of what `forward` gives of the rows."""
    evolved: Any = SimpleNamespace(decode=layout.unflatten, forward=forward)
    return scoring.Judgement(evolved, data, [metrics.cross_entropy()])


def rates(name: str, n: int, samples: int, rounds: int, device: torch.device) -> None:
    """Print samples a second and individual: ours, the network alone, a plain vmap."""
    backbone, head, start, make = setup(name, device)
    cut = backbone.cut
    assert cut is not None
    layout = Layout.of({key: w[0] for key, w in start.items()})
    genomes = layout.flatten(start).repeat(n, 1)
    data, index = Rows(samples, cut.width, device), torch.arange(samples)
    plan = deep.plan(
        make, start, cut.width, CLASSES, 2**30, device=device, method="auto", population=n, batch=0, slots=0
    )
    ours, (rows, _) = make(plan.method), data.batch(index)
    weights = {key: w.contiguous() for key, w in layout.unflatten(genomes).items()}
    tensors = cut.tensors(rows)  # channels last
    contiguous = tuple(x.contiguous() for x in tensors)  # as they come from a network in the default layout

    def plain(given: tuple[Tensor, ...]) -> object:
        def call(w: dict[str, Tensor], given: tuple[Tensor, ...]) -> Tensor:
            own = {key: value for key, value in w.items() if not key.startswith(backbone.head + ".")}
            features = torch.func.functional_call(cut.rest, own, given)
            return features @ w[f"{backbone.head}.weight"].T + w[f"{backbone.head}.bias"]

        return individuals.vmap(call, weights, given, shared=True)

    judgement = judge(layout, ours, data)
    timed: dict[str, Callable[[], object]] = {
        "alone": lambda: head(cut.rest(*tensors)),
        "ours": lambda: scoring.evaluate(judgement, genomes, index, plan),
        "vmap": lambda: plain(contiguous),
        "vmap, channels last": lambda: plain(tensors),
    }
    settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {key: [] for key in timed}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for key, function in timed.items():
                settle()
                began = time.perf_counter()
                function()
                settle()
                seconds[key].append((time.perf_counter() - began) / (1 if key == "alone" else n))
    median = {key: statistics.median(times[1:]) for key, times in seconds.items()}
    print(f"{name}: {layout.genes:,} genes, {n} individuals, {samples} samples; the plan: {plan.method}, "
          f"{plan.individuals} individuals x {plan.samples} samples")  # fmt: skip
    for key, value in median.items():
        print(f"  {key:20}{samples / value:10,.0f} samples/s  {median['alone'] / value:.2f} of the network alone")


def peak() -> int:
    """Return the most memory that this process has had resident, in KiB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)


def memory(n: int, limit: int, refine: bool) -> None:
    """Print what scoring, or training, a population adds to the peak of this process's memory."""
    device = torch.device("cpu")
    backbone, _, start, make = setup("EfficientNet-Lite0, last stage", device)
    cut = backbone.cut
    assert cut is not None
    layout, batch = Layout.of({key: w[0] for key, w in start.items()}), 64 if refine else 0
    data = Rows(1000, cut.width, device)
    plan = deep.plan(
        make, start, cut.width, CLASSES, limit, device=device, method="loop", population=n, batch=batch, slots=1
    )
    genomes = layout.flatten(start).repeat(n, 1)
    population = Population.new(genomes)
    task = Task(layout, make("loop"), None, data, torch.arange(1000), CLASSES, max(1, plan.trained),
                         max(1, plan.micro), limit // 8, genomes[0], device)  # fmt: skip
    settings = Settings(
        steps=2, batch_size=64, lr=0.01, weight_decay=0.0, label_smoothing=0.0, dropout=None, mixup=0.0,
        decay_to_start=0.0, schedule="constant", final=0.1, who="all", share=1.0, batches="own",
        optimizer_state="fresh", balanced=False, class_weights=False, logit_adjustment=0.0,
    )  # fmt: skip
    judgement = judge(layout, make("loop"), data)
    learn, context = refiner(task, optimizers.sgd(), settings)[0], Context(0, 1, 0.0, device)

    def work(p: Population) -> None:
        if refine:
            learn(p, context)
        else:
            scoring.evaluate(judgement, p.genomes, torch.arange(512), plan)

    scoring.evaluate(judgement, genomes[:1], torch.arange(2), plan._replace(samples=1))
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on (Linux)
    before = peak()
    work(population)
    used = (peak() - before) / 1024 - (genomes.nbytes / 2**20 if refine else 0)  # the refined population itself
    samples = plan.micro if refine else plan.samples
    print(json.dumps({"individuals": n, "limit MiB": limit >> 20, "refine": refine, "used MiB": round(used),
                      "of limit": round(used * 2**20 / limit, 2), "samples": samples}))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--individuals", type=int, default=16)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--memory", nargs=3, type=int, help=argparse.SUPPRESS)  # individuals, limit, refine
    options = parser.parse_args()
    if options.memory:
        memory(options.memory[0], options.memory[1], bool(options.memory[2]))
        sys.exit()
    device = devices.resolve(options.device)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, median of {options.rounds}")
    for name in NETWORKS:
        rates(name, options.individuals, options.samples, options.rounds, device)
    for refine in (0, 1):
        for limit in (2**27, 2**29):
            for n in (8, 64, 512):
                arguments = [str(n), str(limit), str(refine)]
                subprocess.run([sys.executable, __file__, "--memory", *arguments], check=True)
