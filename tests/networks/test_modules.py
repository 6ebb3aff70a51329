from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroevo.errors import InputError
from neuroevo.networks import deep
from neuroevo.networks.modules import Given, of_head, of_module

VECTORS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(6 * 7).view(6, 7) % 11


class Vision(nn.Module):
    """A convolutional network whose head isn't the last that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.stem, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.unused = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.fc((x + self.blocks(x)).mean((2, 3)))


class Text(nn.Module):
    """Token ids with a mask, which passes the cut beside what is computed."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != 0).unsqueeze(-1)
        x = self.mix(self.embed(ids)).tanh() * mask
        return self.out(x.sum(1) / mask.sum(1))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv3d(1, 2, 3), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3, 4)))


class Twice(nn.Module):
    """The head gives the logits, and something else before that."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + self.fc(x))


def seen(given: Given, inputs: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Return the logits [B, C] of one individual with weights {name: shape}, as the engine evaluates it."""
    backbone = given.backbone
    rows = backbone.features(inputs).float()

    def head(own: Any, features: Tensor, drop: object = None) -> Tensor:
        own = {name.removeprefix(backbone.head + "."): w[0] for name, w in own.items()}
        logits: Tensor = torch.func.functional_call(given.head, own, (features[0],))
        return logits[None]

    each = {name: w[None] for name, w in weights.items()}
    if backbone.cut is None:
        return head(each, rows[None])[0]
    fixed = {f"{backbone.head}.{name}": p[None] for name, p in given.head.named_parameters()}
    return deep.forward(backbone.cut, backbone.head, head, fixed, affine=None, method="loop")(each, rows)[0]


def evolving(given: Given) -> list[str]:
    """Return the names of what evolves, as the backbone has them."""
    of_head = [f"{given.backbone.head}.{name}" for name, _ in given.head.named_parameters()]
    return [*given.backbone.trainable, *(of_head if given.learns else [])]


CASES: dict[str, tuple[nn.Module, Tensor, list[str], list[str]]] = {
    "a linear layer alone": (nn.Linear(5, 3), VECTORS, [], ["weight", "bias"]),
    "a head": (nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), VECTORS, [], ["2.weight", "2.bias"]),
    "a head that isn't the last in order": (Vision(), IMAGES, [], ["fc.weight", "fc.bias"]),
    "a head by name": (Vision(), IMAGES, ["fc"], ["fc.weight", "fc.bias"]),
    "a block and the head": (Vision(), IMAGES, ["blocks.2", "fc"],
                             ["blocks.2.weight", "blocks.2.bias", "fc.weight", "fc.bias"]),
    "a block without the head": (Vision(), IMAGES, ["blocks.2"], ["blocks.2.weight", "blocks.2.bias"]),
    "part of the head": (Vision(), IMAGES, ["fc.bias"], ["fc.bias"]),
    "norms": (Vision(), IMAGES, ["norm"], ["norm.weight", "norm.bias"]),
    "no linear head": (nn.Sequential(nn.Linear(5, 3), nn.LogSoftmax(1)), VECTORS, ["*"], ["0.weight", "0.bias"]),
    "a layer that runs twice": (Twice(), VECTORS, ["fc"], ["fc.weight", "fc.bias"]),
    "tokens": (Text(), TOKENS, [], ["out.weight"]),
    "tokens with a mask": (Text(), TOKENS, ["mix", "out"], ["mix.weight", "mix.bias", "out.weight"]),
    "tokens from the start": (Text(), TOKENS, ["embed"], ["embed.weight"]),
    "tied weights": (Text(tied=True), TOKENS, ["embed"], ["embed.weight"]),
    "volumes": (Volume(), torch.randn(4, 1, 4, 4, 4), ["*"], ["conv.weight", "conv.bias", "fc.weight", "fc.bias"]),
}  # fmt: skip


@pytest.mark.parametrize(("module", "inputs", "trainable", "names"), CASES.values(), ids=CASES)
def test_a_module_evaluated_behind_its_cut_gives_what_a_copy_with_those_weights_gives(
    module: nn.Module, inputs: Tensor, trainable: list[str], names: list[str]
) -> None:
    torch.manual_seed(0)
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    given = of_module(module, inputs, trainable=trainable)
    given.backbone.to(torch.device("cpu"))
    assert [name.removeprefix(given.prefix) for name in evolving(given)] == [*names]
    parameters = dict(module.named_parameters())
    weights = {name: torch.randn_like(parameters[name.removeprefix(given.prefix)]) for name in evolving(given)}
    if given.backbone.cut is not None:
        assert given.backbone.cut.reason is None
    with torch.no_grad():
        copy = given.with_weights(weights)
        assert type(copy) is type(module)
        assert not copy.training
        torch.testing.assert_close(seen(given, inputs, weights), copy(inputs), rtol=1e-4, atol=1e-5)
    own = dict(copy.named_parameters())
    assert all(torch.equal(own[name], parameters[name]) != (name in names) for name in parameters)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_only_what_comes_behind_the_frozen_prefix_runs_for_each_individual() -> None:
    cut = of_module(Vision(), IMAGES, trainable=["blocks.2", "fc"]).backbone.cut
    assert cut is not None
    assert "blocks.1" in cut.places
    of_tokens = of_module(Text(), TOKENS, trainable=["mix", "out"]).backbone.cut
    assert of_tokens is not None
    assert "embed" in of_tokens.places
    assert torch.bool in of_tokens.types


def test_a_module_of_half_precision_comes_back_as_it_was_given() -> None:
    given = of_module(nn.Linear(5, 3).to(torch.bfloat16), VECTORS)
    copy = given.with_weights({"head.weight": torch.ones(3, 5), "head.bias": torch.zeros(3)})
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    assert bool((copy.get_parameter("weight") == 1).all())


def test_nothing_is_drawn_from_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    of_module(CASES["a head"][0], VECTORS)
    of_module(CASES["no linear head"][0], VECTORS, trainable=["*"])
    assert torch.equal(torch.randn(4), expected)


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + torch.randn_like(x))


class Centred(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Locked(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("no copies")


class Dicts(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


def poisoned() -> nn.Module:
    module = nn.Linear(5, 3)
    with torch.no_grad():
        module.weight[1, 1] = torch.nan
    return module


@pytest.mark.parametrize(
    ("module", "inputs", "trainable", "line"),
    [
        (nn.ReLU(), VECTORS, [], "model: ReLU has no parameters to evolve"),
        (nn.LazyLinear(3), VECTORS, [], "model: LazyLinear has lazy layers"),
        ("resnet", VECTORS, [], "model: a torch module expected, a str given"),
        (poisoned(), VECTORS, [], "model: Linear: weight holds NaN"),
        (Locked(5, 3), VECTORS, [], "model: Locked can't be copied"),
        (Vision(), IMAGES, ["layer4"], "trainable: layer4 matches no parameter of Vision; it has: fc, stem"),
        (nn.Linear(5, 1), VECTORS, [], "model: Linear gives one number a sample"),
        (nn.Conv2d(2, 3, 1), IMAGES, [], r"model: Conv2d gives \[4, 3, 8, 8\] of inputs float32 \[4, 2, 8, 8\]"),
        (Dicts(5, 3), VECTORS, [], "model: Dicts gives a dict of inputs"),
        (nn.Linear(4, 3), VECTORS, [], r"model: Linear fails on inputs float32 \[4, 5\]"),
        (nn.Linear(7, 3), TOKENS, [], "whole numbers are given as ids, floats as features"),
        (Noise(), VECTORS, [], "model: Noise gives other logits each time"),
        (Centred(5, 3), VECTORS, [], "model: Centred gives logits for a sample that depend on the others"),
        (nn.Sequential(nn.Linear(5, 3), nn.LogSoftmax(1)), VECTORS, [], "model: no linear layer of Sequential gives"),
        (nn.Linear(5, 3), VECTORS[:1], [], "data: inputs float32"),
    ],
)
def test_what_cannot_be_evolved_is_refused_in_one_line(
    module: Any, inputs: Tensor, trainable: list[str], line: str
) -> None:
    with pytest.raises(InputError, match=line):
        of_module(module, inputs, trainable=trainable)


def test_a_head_of_zeros_behind_which_more_comes_is_none() -> None:
    module = nn.Sequential(nn.Linear(5, 3), nn.Tanh())
    nn.init.zeros_(module[0].weight)
    nn.init.zeros_(module[0].bias)
    with pytest.raises(InputError, match="no linear layer of Sequential gives its logits"):
        of_module(module, VECTORS)


def test_a_head_alone_evolves_whole_and_its_samples_are_its_features() -> None:
    head = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    given = of_head(head, 5, 3)
    assert given.learns
    assert given.backbone.cut is None
    assert torch.equal(given.backbone.features(VECTORS), VECTORS)
    assert torch.equal(given.module(VECTORS), head(VECTORS))
    other = {f"{given.backbone.head}.{name}": p + 1 for name, p in head.state_dict().items()}
    copy = given.with_weights(other)
    assert all(torch.equal(p, other[name]) for name, p in copy.state_dict().items())
