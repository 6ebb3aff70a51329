"""The works of `peers.py` beyond scoring linear heads: gradient steps, and the last stage of a network."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from peer_works import CLASSES, LIMIT, Missing, Way, Work, agree, evox_scores, hits, layout_of, peer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from neuroevo.data.samples import Features
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.learning import optimizers
from neuroevo.learning.refine import refiner, slice_size
from neuroevo.learning.task import Settings, Task
from neuroevo.networks import backbones, deep, heads
from neuroevo.problems import scoring
from neuroevo.problems.metrics import METRICS

WEIGHTS = 1e-4  # by which weights after gradient steps may


def gradient_steps(small: bool, device: torch.device) -> Work:
    """Do gradient steps for linear heads and for those with a hidden layer."""
    d, batch, hidden = (32, 16, 8) if small else (1280, 128, 256)
    x, y = torch.randn(8 * batch, d, device=device), torch.randint(CLASSES, (8 * batch,), device=device)
    steps = 2 if small else 5
    ways: dict[str, Way | Missing] = {}
    flops: dict[str, float] = {}
    scale: dict[str, float] = {}
    found: dict[str, float] = {}
    for ending, make, n in (
        ("", partial(nn.Linear, d, CLASSES), 16 if small else 1024),
        (", MLP", partial(heads.mlp, d, CLASSES, hidden=[hidden]), 8 if small else 256),
    ):
        head = make().to(device)
        genes = layout_of(head, "fc").genes
        genomes, context = torch.randn(n, genes, device=device) / d**0.5, Context(0, 1, 0.0, device)
        ours = learning(head, (x, y), batch, steps, x.device)
        index = torch.randint(len(x), (steps, batch), device=device)
        part = max(1, n // 16)
        batches = [(x[rows], y[rows]) for rows in index]
        whole = [(x[:batch], y[:batch])] * 3  # in any order the same gradient
        taught = learning(head, (x[:batch], y[:batch]), batch, 3, device)(Population.new(genomes[:4]), context)[0]
        for name, way in (("a loop of torch.optim.SGD", sgd_loop), ("vmap", sgd_vmap)):
            line = f"weights of ours and of {name}{ending}"
            found |= agree(line, taught.genomes, way(head, genomes[:4], whole), WEIGHTS)
        macs = sum(p.numel() for p in head.parameters() if p.ndim == 2)
        first = 0 if isinstance(head, nn.Linear) else d * hidden  # nothing goes back beyond it
        of_step = 2.0 * n * batch * (2 * macs if isinstance(head, nn.Linear) else 3 * macs - first)
        if not ending:
            a, b = torch.randn(n * CLASSES, d, device=device), torch.randn(d, batch, device=device)
            ways["torch.mm float32"] = partial(torch.mm, a, b, out=torch.empty(n * CLASSES, batch, device=device))
            flops["torch.mm float32"] = of_step / 2  # one of a step's two products
        own = {
            "neuroevo float32": partial(ours, Population.new(genomes), context),
            "vmap": partial(sgd_vmap, head, genomes, batches),
            "loop": partial(sgd_loop, head, genomes[:part], batches),
        }
        for name, way in own.items():
            ways[name + ending], flops[name + ending] = way, of_step
            scale[name + ending] = (n / part if name == "loop" else 1) / steps
    title = f"a gradient step, batch {batch}: {16 if small else 1024:,} linear heads, {8 if small else 256} MLP heads"
    return Work(f"{title}; loops do a sixteenth", ways, flops.__getitem__, lambda results: found, scale=scale)


def learning(
    head: nn.Module, data: tuple[Tensor, Tensor], batch: int, steps: int, device: torch.device
) -> Callable[[Population, Context], tuple[Population, Any]]:
    """Return our gradient steps for a population of a head."""
    layout, widths, d = layout_of(head, "fc"), heads.widths(head), data[0].shape[1]
    flat = isinstance(head, nn.Linear)
    slices = slice_size(
        layout.genes, d, widths, linear=flat, slots=0, own=False, size=batch, limit=LIMIT, device=device
    )
    task = Task(
        layout=layout,
        forward=heads.population_forward(head, "fc")[1],
        linear="fc" if flat else None,
        source=Features((data[0],), data[1], None, device),
        train=torch.arange(len(data[0])),
        classes=CLASSES,
        individuals=slices,
        micro=batch,
        keep=LIMIT // 8,
        start=torch.zeros(layout.genes, device=device),
        device=device,
    )
    settings = Settings(
        steps=steps, batch_size=batch, lr=0.01, weight_decay=0.0, label_smoothing=0.0, dropout=None, mixup=0.0,
        decay_to_start=0.0, schedule="constant", final=0.1, who="all", share=1.0, batches="shared",
        optimizer_state="fresh", balanced=False, class_weights=False, logit_adjustment=0.0,
    )  # fmt: skip
    return refiner(task, optimizers.sgd(momentum=0.0), settings).refine


def sgd_loop(head: nn.Module, genomes: Tensor, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Train one individual after another by torch's own SGD; return genomes [n, g]."""
    learnt = genomes.clone()
    head.requires_grad_(True)
    for own in learnt:
        nn.utils.vector_to_parameters(own, head.parameters())  # views: what is learnt is written into `learnt`
        optimizer = torch.optim.SGD(head.parameters(), 0.01)
        for x, y in batches:
            optimizer.zero_grad()
            cross_entropy(head(x), y).backward()
            optimizer.step()
    return learnt


def sgd_vmap(head: nn.Module, genomes: Tensor, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Train all by `torch.vmap` of `torch.func.grad`; return genomes [n, g]."""
    layout = layout_of(head, "fc")
    weights = {name.removeprefix("fc."): w.clone() for name, w in layout.unflatten(genomes).items()}

    def loss(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(torch.func.functional_call(head, own, (x,)), y)

    gradient = torch.vmap(torch.func.grad(loss), in_dims=(0, None, None))
    for x, y in batches:
        for name, found in gradient(weights, x, y).items():
            weights[name].sub_(found, alpha=0.01)
    return layout.flatten({f"fc.{name}": w for name, w in weights.items()})


class Stage(nn.Module):
    """What comes behind a cut, and the head."""

    def __init__(self, rest: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.rest, self.head = rest, head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rest(x))
        return logits


def last_stage(small: bool, device: torch.device) -> Work:
    """Score individuals of a network's last stage by accuracy."""
    n, rows, pixels = (2, 8, 64) if small else (16, 256, 128)
    trainable = ["blocks.6", "conv_head", "bn2"]
    backbone = backbones.build("timm/tf_efficientnet_lite0", "none", pixels, (8, 8, 3), trainable=trainable)
    backbone.to(device)
    cut, prefix = backbone.cut, backbone.head
    assert cut is not None and backbone.own_head is not None
    head = nn.Linear(backbone.own_head.in_features, CLASSES).to(device).requires_grad_(False)
    start = {name: backbone.body.get_parameter(name)[None] for name in backbone.trainable}
    start |= {f"{prefix}.{name}": p[None] for name, p in head.named_parameters()}
    layout, of_features = (
        Layout.of({name: w[0] for name, w in start.items()}),
        heads.population_forward(head, prefix)[1],
    )
    genomes = layout.flatten(start).repeat(n, 1)
    genomes *= 1 + 0.05 * torch.randn_like(genomes)
    x, y = torch.randn(rows, cut.width, device=device), torch.randint(CLASSES, (rows,), device=device)
    plan = deep.plan(
        lambda method: deep.forward(cut, prefix, of_features, {}, affine=None, method=method),
        start, cut.width, CLASSES, LIMIT, device=device, method="auto", population=n, batch=0, slots=0,
    )  # fmt: skip
    forward = deep.forward(cut, prefix, of_features, {}, affine=None, method=plan.method)
    evolved: Any = SimpleNamespace(decode=layout.unflatten, forward=forward)
    judgement = scoring.Judgement(evolved, Features((x,), y, None, device), [METRICS["accuracy"]()])
    (tensors,) = cut.tensors(x)
    tensors, stage = tensors.contiguous(), Stage(cut.rest, head).requires_grad_(False)
    names = {name: name.replace(f"{prefix}.", "head.") if name.startswith(f"{prefix}.") else f"rest.{name}"
             for name in layout.names}  # fmt: skip
    stacked = {names[name]: w.contiguous() for name, w in layout.unflatten(genomes).items()}

    def alone(own: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(stage, own, (tensors,))

    counter = FlopCounterMode(display=False)
    with counter:
        stage(tensors)
    flops, index = float(n * counter.get_total_flops()), torch.arange(rows, device=device)

    def loop_over_modules() -> Tensor:
        return torch.stack([hits(alone({k: w[i] for k, w in stacked.items()}), y) for i in range(n)])

    ways: dict[str, Way | Missing] = {
        "neuroevo float32": torch.no_grad()(lambda: scoring.evaluate(judgement, genomes, index, plan).values[:, 0]),
        "EvoX": peer("evox", lambda: evox_scores(stage, (tensors, y), stacked)),
        "vmap": torch.no_grad()(lambda: hits(torch.vmap(alone)(stacked), y)),
        "loop": torch.no_grad()(loop_over_modules),
    }

    def check(results: dict[str, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in ("neuroevo float32", "EvoX", "vmap"):
            if name in results:
                line = f"accuracies of {name} and the loop"
                found |= agree(line, results[name], results["loop"], 1 / rows + 1e-6)  # a sample at most
        return found

    title = f"the last stage of EfficientNet-Lite0 ({layout.genes:,} genes), {n} individuals, {rows} samples"
    return Work(title, ways, lambda name: flops, check)
