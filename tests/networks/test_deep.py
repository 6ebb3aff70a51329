import copy
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from paper_gpu import CUDA
from real_gpu import GPUS
from torch import Tensor, nn

from neuroevo import devices
from neuroevo.data import augment, feature_cache
from neuroevo.data.datasets import Dataset
from neuroevo.data.images import Arrays
from neuroevo.data.samples import Features
from neuroevo.engine.execution import Execution
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError
from neuroevo.learning import draws, optimizers, refine
from neuroevo.learning.sensitivity import SIGNS, Sensitivity
from neuroevo.learning.task import Settings, Task
from neuroevo.networks import backbones, deep, heads
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.cut import cut, match
from neuroevo.networks.heads import Forward
from neuroevo.problems import metrics, scoring

C, N, B = 3, 3, 10
CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
        self.act, self.head = nn.ReLU(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.head(self.act(self.norm(self.conv(self.stem(x)))).mean((2, 3)))
        return features


class Deep(NamedTuple):
    """A network cut before its last convolution, and a population of it."""

    network: Net
    head: nn.Linear
    layout: Layout
    genomes: Tensor
    rows: Tensor
    images: Tensor
    start: dict[str, Tensor]
    forwards: dict[str, Forward]


def small(device: torch.device = CPU, scale: bool = False) -> Deep:
    torch.manual_seed(0)
    network = Net().eval().requires_grad_(False)
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 2)
    network.to(device)
    head = nn.Linear(6, C, device=device)
    names = match([name for name, _ in network.named_parameters()], ["conv", "norm"])
    images = torch.randn(B, 3, 8, 8, device=device)
    found = cut(network, set(names), images)
    start = {name: network.get_parameter(name)[None] for name in names}
    start |= {f"head.{name}": p.detach()[None] for name, p in head.named_parameters()}
    layout = Layout.of({name: w[0] for name, w in start.items()})
    genomes = layout.flatten(start) + 0.1 * torch.randn(N, layout.genes, device=device)
    of_features = heads.population_forward(head, "head")[1]
    forwards = {m: deep.forward(found, "head", of_features, {}, affine=None, method=m) for m in deep.METHODS}
    return Deep(network, head, layout, genomes, found.rows(images), images, start, forwards)


def alone(d: Deep, genome: Tensor) -> nn.Module:
    """The plain network of a genome."""
    network = copy.deepcopy(d.network)
    network.head = copy.deepcopy(d.head)
    network.load_state_dict({k: v[0] for k, v in d.layout.unflatten(genome[None]).items()}, strict=False)
    return network.eval()


@pytest.mark.parametrize("method", deep.METHODS)
def test_a_populations_logits_are_those_of_each_network_alone(
    method: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which rounds to three digits
    d = small(device)
    expected = torch.stack([alone(d, genome)(d.images) for genome in d.genomes]).detach()
    weights = d.layout.unflatten(d.genomes)
    torch.testing.assert_close(d.forwards[method](weights, d.rows), expected, rtol=1e-4, atol=1e-5)
    own = torch.stack([d.rows.roll(i, 0) for i in range(N)])  # each on a batch of its own
    rolled = torch.stack([line.roll(i, 0) for i, line in enumerate(expected)])
    torch.testing.assert_close(d.forwards[method](weights, own), rolled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", deep.METHODS)
def test_a_head_that_does_not_evolve_is_everybodys_and_features_are_scaled_before_it(method: str) -> None:
    d = small()
    fixed = {name: w for name, w in d.start.items() if name.startswith("head.")}
    evolved = {name: w for name, w in d.layout.unflatten(d.genomes).items() if name not in fixed}
    of_features = heads.population_forward(d.head, "head")[1]
    found = cut(d.network, set(evolved), d.images)
    forward = deep.forward(found, "head", of_features, fixed, affine=lambda x: 2 * x, method=method)
    expected = []
    for genome in d.genomes:
        network = alone(d, genome)
        network.head = nn.Identity()
        expected.append(d.head(2 * network(d.images)))
    torch.testing.assert_close(forward(evolved, d.rows), torch.stack(expected).detach(), rtol=1e-4, atol=1e-5)


def test_recalibrated_statistics_are_those_of_torchs_update_bn() -> None:
    d = small()
    found = cut(d.network, {"conv.weight", "conv.bias", "norm.weight", "norm.bias"}, d.images)
    own = {name: w for name, w in d.layout.unflatten(d.genomes).items() if not name.startswith("head.")}
    before = copy.deepcopy(d.network.state_dict())
    statistics = deep.recalibrate(found, own, lambda: iter(d.rows.split(5)))
    for i, genome in enumerate(d.genomes):
        network = alone(d, genome)
        torch.optim.swa_utils.update_bn([d.images[:5], d.images[5:]], network)
        for name in ("norm.running_mean", "norm.running_var"):
            torch.testing.assert_close(statistics[name][i], network.state_dict()[name])
    assert set(statistics) == {"norm.running_mean", "norm.running_var"}
    after = d.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # nobody's own are the network's
    assert not d.network.norm.training
    weights = d.layout.unflatten(d.genomes) | statistics
    expected = alone(d, d.genomes[1])
    torch.optim.swa_utils.update_bn([d.images[:5], d.images[5:]], expected)
    for forward in d.forwards.values():
        torch.testing.assert_close(forward(weights, d.rows)[1], expected.eval()(d.images).detach())


class Rows:
    """Rows at the cut, with labels."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self._y = rows, torch.arange(len(rows), device=rows.device) % C
        self.dim = rows.shape[1]

    @property
    def labels(self) -> Tensor:
        return self._y

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.to(self.rows.device)
        return self.rows[index], self._y[index]


@pytest.mark.parametrize("method", deep.METHODS)
@pytest.mark.parametrize("batches", ["shared", "own"])
@pytest.mark.parametrize("micro", [4, 3])
def test_gradient_steps_are_those_of_torchs_optimizer_on_each_network_alone(
    method: str, batches: str, micro: int, device: torch.device
) -> None:
    d = small(device)
    source = Rows(d.rows)
    start = d.layout.flatten(d.start)[0]
    task = Task(d.layout, d.forwards[method], None, source, torch.arange(B), C, 2, micro, 2**20, start, device)
    settings = Settings(
        steps=4, batch_size=4, lr=0.1, weight_decay=0.01, label_smoothing=0.1, dropout=None, mixup=0.0,
        decay_to_start=0.0, schedule="constant", final=0.1, who="all", share=1.0, batches=batches,  # type: ignore[arg-type]
        optimizer_state="fresh", balanced=False, class_weights=False, logit_adjustment=0.0,
    )  # fmt: skip
    population = Population.new(d.genomes, parents=2)
    context = Context(0, 1, 0.0, device)
    found = refine.refiner(task, optimizers.sgd(), settings)[0](population, context)[0].genomes
    drawn = draws.Draws(task, settings, 4, N, context).rows
    for i in range(N):
        network = alone(d, d.genomes[i])
        network.requires_grad_(False)
        trained = [p for name, p in network.named_parameters() if name in d.layout.names]
        for p in trained:
            p.requires_grad_(True)
        optimizer = torch.optim.SGD(trained, 0.1, 0.9, weight_decay=0.01)
        for index in drawn[i if batches == "own" else 0].to(device):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(d.images[index]), source.labels[index], label_smoothing=0.1)
            loss.backward()
            optimizer.step()
        expected = d.layout.flatten({n: network.get_parameter(n).detach()[None] for n in d.layout.names})[0]
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=2e-5)


def test_sensitivity_is_the_root_of_the_squared_derivatives_and_is_counted() -> None:
    d = small()
    task = Task(d.layout, d.forwards["loop"], None, Rows(d.rows), torch.arange(B), C, 2, 3, 0, d.genomes[0], CPU)
    squares = torch.zeros_like(d.genomes)
    for i in range(N):
        leaf = d.genomes[i : i + 1].clone().requires_grad_(True)
        logits = d.forwards["loop"](d.layout.unflatten(leaf), d.rows)
        for out in logits.flatten():
            squares[i] += torch.autograd.grad(out, leaf, retain_graph=True)[0][0].square()
    expected = (squares / B).sqrt()
    found = torch.stack([Sensitivity(task, seed).of(d.genomes).square() for seed in range(80)]).mean(0).sqrt()
    torch.testing.assert_close(found, expected, rtol=0.35, atol=1e-3)  # of 320 draws of signs
    sensitivity = Sensitivity(task, 0)
    assert torch.equal(sensitivity.of(d.genomes), sensitivity.of(d.genomes))
    spent = sensitivity.cost(N)
    assert (spent.forward, spent.backward) == (N * B, N * B * SIGNS)


# Planning


def plan(limit: int, method: str = "loop", batch: int = 0, d: Deep | None = None, population: int = 8) -> Execution:
    d = d or small()
    width = d.rows.shape[1]
    options = {"method": method, "population": population, "batch": batch, "slots": 1}
    return deep.plan(lambda name: d.forwards[name], d.start, width, C, limit, device=CPU, **options)


def test_needs_are_measured_and_grow_evenly() -> None:
    def work(n: int, samples: int) -> Tensor:
        constant, per_sample = torch.ones(100), torch.ones(7, samples)
        return constant.sum() + per_sample.sum() + torch.ones(n, 30).sum() + torch.ones(n, samples, 5).sum()

    found = deep.need(work)
    # Each sum frees what it summed: what is alive together is what counts.
    assert found(2, 10) == pytest.approx(devices.peak_bytes(lambda: work(2, 10)), rel=0.1)
    assert found.individuals(found(5, 10), 10) == 5
    assert found.individuals(found(1, 10) - 1, 10) == 0


@pytest.mark.parametrize("method", deep.METHODS)
def test_what_a_plan_takes_at_a_time_stays_within_its_limit(method: str) -> None:
    d = small()
    seen = []
    for limit in (2**17, 2**19, 2**21):
        p = plan(limit, method, batch=16, d=d)
        assert p.method == method
        weights = {name: w.expand(p.individuals, *w.shape[1:]).contiguous() for name, w in d.start.items()}
        rows = torch.randn(p.samples, d.rows.shape[1])
        needed = devices.peak_bytes(lambda: d.forwards[method](weights, rows))  # noqa: B023
        assert needed <= limit
        seen.append(p.samples * p.individuals)
        assert 1 <= p.micro <= 16
        assert p.trained >= 1
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


def test_a_limit_too_small_for_one_individual_is_refused_with_one_that_does() -> None:
    with pytest.raises(InputError, match=r"^limit: 1000 bytes is too little .* at least (\d+)") as error:
        plan(1000)
    least = int(str(error.value).split()[-1])
    assert plan(2 * least).individuals >= 1


def test_the_probe_decides_and_a_named_method_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    d, clock = small(), [0.0]
    monkeypatch.setattr(deep, "CLEARLY", 1.25)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def taking(run: Forward, seconds: float) -> Forward:
        def timed(weights: Any, rows: Tensor, drop: Any = None) -> Tensor:
            clock[0] += seconds * len(next(iter(weights.values()))) * len(rows)
            return run(weights, rows, drop)

        return timed

    for quick in deep.METHODS:
        forwards = {m: taking(d.forwards[m], 1.0 if m == quick else 2.0) for m in deep.METHODS}
        assert plan(2**24, "auto", d=d._replace(forwards=forwards)).method == quick
        assert plan(2**24, "loop", d=d._replace(forwards=forwards)).method == "loop"


def test_what_vmap_refuses_runs_as_a_loop_and_is_refused_where_vmap_is_asked_for() -> None:
    d = small()

    def make(name: str) -> Forward:
        def refuse(weights: object, features: Tensor, drop: object = None) -> Tensor:
            raise RuntimeError("Batching rule not implemented")

        return d.forwards["loop"] if name == "loop" else refuse

    def choose(method: str) -> str:
        width, seen = d.rows.shape[1], []

        def draw(count: int) -> Tensor:
            seen.append(count)
            return d.rows[torch.arange(count) % len(d.rows)]

        options = {"device": CPU, "method": method, "population": 4, "batch": 8, "slots": 1, "draw": draw}
        found = deep.plan(make, d.start, width, C, 2**24, **options)  # type: ignore[arg-type]
        assert seen
        return found.method

    assert choose("auto") == "loop"
    with pytest.raises(RuntimeError, match="Batching rule"):
        choose("vmap")


# Six architectures, each with its last stage unfrozen.

STAGES = [
    ("torchvision/resnet18", ["layer4"], 64, "layer3"),
    ("torchvision/vgg11", ["features.18"], 64, "features.17"),
    ("timm/efficientnet_b0", ["blocks.6", "conv_head", "bn2"], 64, "blocks.5"),
    ("torchvision/mobilenet_v3_small", ["features.11", "features.12"], 64, "features.10"),
    ("timm/convnext_tiny", ["stages.3"], 64, "stages.2"),
    ("timm/vit_tiny_patch16_224", ["blocks.11", "norm"], 32, "blocks.10"),
]


def opened(name: str, patterns: list[str], size: int) -> Backbone:
    torch.manual_seed(0)
    backbone = backbones.build(name, "none", size, (8, 8, 3), trainable=patterns)
    backbone.to(CPU)
    return backbone


@pytest.mark.parametrize(("name", "patterns", "size", "place"), STAGES, ids=[stage[0] for stage in STAGES])
def test_the_frozen_prefix_runs_once_an_image_and_scores_are_those_of_plain_networks(
    name: str, patterns: list[str], size: int, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path))
    backbone = opened(name, patterns, size)
    found, own = backbone.cut, backbone.own_head
    assert found is not None
    assert own is not None
    assert found.reason is None
    assert found.places == (place,)  # right before the first unfrozen parameter
    assert not backbone.notes
    ran: dict[str, int] = {}
    for key, module in found.prefix.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda m, args, out, key=key: ran.__setitem__(key, ran.get(key, 0) + len(args[0]))
            )
    pixels = torch.randint(256, (6, size, size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(6) % C
    dataset = Dataset(("a", "b", "c"), Arrays(pixels.numpy()), labels.numpy(), (-torch.ones(6)).long().numpy())
    rows, _ = feature_cache.fetch(backbone, dataset, CPU, lambda done, total: None)
    assert ran
    once = dict(ran)
    assert all(count % 6 == 0 for count in once.values())  # a module may be used twice in one pass
    head = nn.Linear(own.in_features, C)
    start = {key: backbone.body.get_parameter(key)[None] for key in backbone.trainable}
    start |= {f"{backbone.head}.{key}": p.detach()[None] for key, p in head.named_parameters()}
    layout = Layout.of({key: w[0] for key, w in start.items()})
    generator = torch.Generator().manual_seed(1)
    genomes = layout.flatten(start) * (1 + 0.1 * torch.randn(2, layout.genes, generator=generator))
    of_features = heads.population_forward(head, backbone.head)[1]
    cached = Features((rows,), labels, None, CPU)
    scored = {}
    for method in deep.METHODS:
        forward = deep.forward(found, backbone.head, of_features, {}, affine=None, method=method)
        plan = Execution(method, C, 2, 4, 2**30, 2)
        evolved: Any = SimpleNamespace(decode=layout.unflatten, forward=forward)
        judgement = scoring.Judgement(evolved, cached, [metrics.cross_entropy()])
        scored[method] = scoring.evaluate(judgement, genomes, torch.arange(6), plan).values[:, 0]
    assert ran == once  # and never again
    images = augment.normalise(pixels.permute(0, 3, 1, 2), backbone.transform, CPU)
    for i, genome in enumerate(genomes):
        network = backbone.network(head)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        network.load_state_dict({key: w[0] for key, w in layout.unflatten(genome[None]).items()}, strict=False)
        with torch.inference_mode():
            expected = -nn.functional.cross_entropy(network(images), labels)
        network.load_state_dict(before)
        for method in deep.METHODS:
            assert float(scored[method][i]) == pytest.approx(float(expected), rel=2e-3, abs=1e-4), method


@pytest.mark.parametrize("gpu", GPUS)
def test_a_population_kept_in_host_memory_is_evaluated_on_the_device(gpu: str) -> None:
    with GPUS[gpu]():
        d = small(CUDA)
        decode = lambda genomes: d.layout.unflatten(genomes.to(CUDA))  # noqa: E731
        evolved: Any = SimpleNamespace(decode=decode, forward=d.forwards["loop"])
        judgement = scoring.Judgement(evolved, Rows(d.rows), [metrics.cross_entropy()])
        plan = Execution("loop", C, 2, 4, 2**30, 2)
        there = scoring.evaluate(judgement, d.genomes, torch.arange(B), plan).values
        here = scoring.evaluate(judgement, d.genomes.cpu(), torch.arange(B), plan).values
        assert (there.device, here.device) == (CUDA, CPU)
        torch.testing.assert_close(here, there.cpu())
