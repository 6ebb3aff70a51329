from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroevo.networks import cut as cutting
from neuroevo.networks.cut import Cut, Divided, cut, match

IMAGES = torch.linspace(-1, 1, 3 * 2 * 6 * 6).view(3, 2, 6, 6)


class Block(nn.Module):
    """A residual block, as in every other network."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        return self.act(self.norm(self.conv2(self.act(self.conv1(x)))) + shortcut)


class Net(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(2, 4, 1), nn.ReLU(inplace)
        self.blocks = nn.Sequential(Block(inplace), Block(inplace), Block(inplace))
        self.token = nn.Parameter(torch.ones(1, 4))
        self.register_buffer("shift", torch.full((4,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act(self.stem(x)))
        return x.mean((2, 3)) + self.token + self.shift


def made(network: nn.Module, patterns: list[str]) -> Cut:
    network.eval().requires_grad_(False)
    return cut(network, set(match([name for name, _ in network.named_parameters()], patterns)), IMAGES)


def test_patterns_match_names_or_their_leading_parts_and_a_star_crosses_dots() -> None:
    names = ["layer4.0.conv1.weight", "layer4.0.bn1.weight", "layer40.conv.weight", "fc.bias", "bn1.bias"]
    assert match(names, ["layer4"]) == names[:2]
    assert match(names, ["layer4.0.bn1"]) == names[1:2]
    assert match(names, ["*.bias"]) == names[3:]
    assert match(names, ["*bn*"]) == [names[1], names[4]]
    assert match(names, ["*"]) == names
    assert match(names, ["layer", "weight"]) == []
    assert match(names, ["layer?0"]) == names[2:3]


@pytest.mark.parametrize(
    ("patterns", "places"),
    [
        (["blocks.2"], ("blocks.1",)),
        (["blocks.1", "blocks.2.norm"], ("blocks.0",)),
        (["blocks.2.conv2"], ("blocks.1", "blocks.2.act")),  # the skip connection passes the cut as well
        (["blocks.2.norm"], ("blocks.1", "blocks.2.conv2")),
        (["*.norm"], ("act", "blocks.0.conv2")),
        (["token"], ("mean",)),
        (["stem"], ("images",)),
        (["*"], ("images",)),
    ],
    ids=str,
)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_cut_is_behind_the_longest_frozen_prefix_and_its_parts_make_the_whole(
    patterns: list[str], places: tuple[str, ...], inplace: bool
) -> None:
    network = Net(inplace)
    found = made(network, patterns)
    assert found.reason is None
    assert set(found.places) == set(places)
    evolved = set(match([name for name, _ in network.named_parameters()], patterns))
    assert evolved <= set(dict(found.rest.named_parameters()))
    assert not evolved & set(dict(found.prefix.named_parameters()))
    rows = found.rows(IMAGES)
    assert rows.shape == (3, found.width)
    for _ in range(2):  # again, as for the next individual
        torch.testing.assert_close(found.rest(*found.tensors(rows)), network(IMAGES))


def test_images_at_the_cut_are_channels_last_views_of_their_rows() -> None:
    found = made(Net(), ["blocks.2"])
    rows = found.rows(IMAGES)
    (x,) = found.tensors(rows)
    assert x.shape == (3, 4, 6, 6)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.data_ptr() == rows.data_ptr()


class Branching(Net):
    """Its control flow depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Changing(nn.Module):
    """Works in place on what passes the cut, through a function that no switch turns off."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        features: Tensor = x.add_(self.last(x)).mean((2, 3))
        return features


class Losing(Changing):
    """Works in place and drops the result: a trace doesn't see it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x.add_(self.last(x))
        features: Tensor = x.mean((2, 3))
        return features


@pytest.mark.parametrize(
    ("network", "patterns", "reason"),
    [
        (Branching(), ["blocks.2"], "TraceError"),
        (Changing(), ["last"], "changes what passes the cut"),
        (Losing(), ["last"], "don't depend on what is trainable"),
    ],
)
def test_a_network_that_cannot_be_cut_runs_whole_and_says_why(
    network: nn.Module, patterns: list[str], reason: str
) -> None:
    found = made(network, patterns)
    assert reason in (found.reason or "")
    assert found.places == (cutting.IMAGES,)
    torch.testing.assert_close(found.rest(*found.tensors(found.rows(IMAGES))), network(IMAGES.clone()))


def test_an_activation_in_place_on_what_passes_the_cut_is_switched_off() -> None:
    class Acting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.act = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            return (self.norm(x) + self.act(x)).mean((2, 3))

    network = Acting()
    found = made(network, ["norm"])
    assert found.reason is None
    rows = found.rows(IMAGES)
    before = rows.clone()
    found.rest(*found.tensors(rows))
    assert torch.equal(rows, before)


class Foreign(nn.Module):
    """A module of another runtime, whose parts round otherwise than the whole."""

    def __init__(self, apart: float) -> None:
        super().__init__()
        self.scale, self.apart = nn.Parameter(torch.ones(72)), apart

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.scale

    def divide(self, trainable: Collection[str], inputs: Tensor) -> Divided:
        class Rest(nn.Module):
            def forward(rest, x: Tensor) -> Tensor:  # noqa: N805
                return self(x) + self.apart

        class Prefix(nn.Module):
            def forward(self, x: Tensor) -> tuple[Tensor]:
                return (x,)

        return Divided(Prefix(), Rest(), ("images",))


def test_another_runtimes_rounding_is_a_share_of_the_largest_logit() -> None:
    found = cut(nn.Sequential(Foreign(9e-5)), {"0.scale"}, IMAGES, whole=True)
    assert found.foreign
    assert found.reason is None


class Masked(nn.Module):
    """A mask is computed from the images, and passes the cut beside what the stem gives."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.sum(1, keepdim=True) > 0
        return (self.last(self.stem(x)) * mask).mean((2, 3))


def test_masks_pass_the_cut_where_they_may_and_else_the_network_runs_whole() -> None:
    network = Masked().eval()
    names = {"last.weight", "last.bias"}
    assert cut(network, names, IMAGES).places == ("images",)
    found = cut(network, names, IMAGES, whole=True)
    assert found.reason is None
    assert set(found.types) == {torch.float32, torch.bool}
    rows = found.rows(IMAGES)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(found.rest(*found.tensors(rows)), network(IMAGES))
