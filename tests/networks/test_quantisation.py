import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Quiet
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.networks import backbones
from neuroevo.networks.quantisation import BITS, Rounding, correct_biases, quantise, round_rows, round_weights


def levels(rows: Tensor, top: int) -> None:
    """See that each row is whole levels up to `top` times one number."""
    for row in rows:
        unit = row.abs()[row != 0].min() if (row != 0).any() else torch.tensor(1.0)
        found = [k for k in range(1, top + 1) if ((row / unit * k).round() - row / unit * k).abs().max() < 1e-3]
        assert found, row
        assert float((row / unit * found[0]).round().abs().max()) <= top


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("scale", ["max", "mse"])
def test_rows_become_levels_nearest_to_them(bits: int, scale: Any) -> None:
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    rows[3] = 0
    top = 2 ** (bits - 1) - 1
    found = round_rows(rows, bits, scale)
    assert torch.equal(found[3], rows[3])
    if scale == "max":
        unit = rows.abs().amax(1, keepdim=True) / top
        torch.testing.assert_close(found[:3], ((rows / unit).round() * unit)[:3])
        assert ((found - rows).abs() <= unit / 2 + 1e-6).all()
    if bits < 8:
        levels(found, top)
    error, plain = ((round_rows(rows, bits, how) - rows).square().sum(1) for how in ("mse", "max"))
    assert (error <= plain).all()


def test_what_is_rounded_is_rounded_again_to_itself() -> None:
    once = round_rows(torch.randn(6, 50), 4, "max")
    torch.testing.assert_close(round_rows(once, 4, "max"), once)


def test_named_matrices_of_a_copy_are_rounded_by_output_channels_and_vectors_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 5, 2), nn.Linear(5, 6))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = quantise(net, 3, parts=["0", "2.weight"])
    state = found.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {name for name in state if not torch.equal(state[name], before[name])} == {"0.weight", "2.weight"}
    levels(state["0.weight"].flatten(1), 3)
    levels(state["2.weight"].transpose(0, 1).flatten(1), 3)
    whole = quantise(net, 3, per="tensor", scale="max").state_dict()["3.weight"]
    levels(whole.view(1, -1), 3)
    assert ne.quantise is quantise


def test_it_says_how_far_each_matrix_moved() -> None:
    net = nn.Linear(8, 4)
    before = net.weight.detach().clone()
    moved = round_weights(net, Rounding(4))
    change = (net.weight.detach() - before).norm() / before.norm()
    assert moved == {"weight": pytest.approx(float(change), rel=1e-5)}


def test_bits_that_cannot_be_and_parts_that_are_not_there_are_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="^bits: 5 given; 8, 6, 4, 3 can be"):
        quantise(net, 5)
    with pytest.raises(InputError, match="^parts: 1 matches no matrix of weights; there are those of: 0"):
        quantise(net, 4, parts=["0", "1"])


class Block(nn.Module):
    """A convolution behind a norm, one with a bias, a depthwise one, a bare linear layer and the head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.b, self.c = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.bare, self.head = nn.Linear(8, 6, bias=False), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.b(self.norm(self.a(x)).relu()).relu()).relu()
        out: Tensor = self.head(self.bare(x.mean((2, 3))).relu())
        return out


def test_biases_are_corrected_layer_after_layer_to_the_float_networks_means() -> None:
    torch.manual_seed(0)
    net = Block().eval()
    net.norm.running_mean.normal_()
    quantised, x = quantise(net, 3), torch.randn(50, 3, 10, 10) + 0.5
    before = {name: value.clone() for name, value in quantised.state_dict().items()}
    found = correct_biases(net, quantised, x)

    def means(network: nn.Module) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        hooks = [
            getattr(network, name).register_forward_hook(
                lambda m, i, o, name=name: seen.__setitem__(name, o.movedim(1, -1).flatten(0, -2).mean(0))
            )
            for name in ("norm", "b", "c", "head")
        ]
        with torch.no_grad():
            network(x)
        for hook in hooks:
            hook.remove()
        return seen

    expected, plain, corrected = means(net), means(quantised), means(found)
    for name, mean in expected.items():
        torch.testing.assert_close(corrected[name], mean, rtol=1e-4, atol=1e-5)
        assert (plain[name] - mean).abs().max() > 1e-3
    after = found.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"norm.running_mean", "b.bias", "c.bias", "head.bias"}
    assert all(torch.equal(value, before[name]) for name, value in quantised.state_dict().items())
    assert not any(module._forward_hooks for module in found.modules())


def test_a_network_that_is_not_quantised_is_left_as_it_is_by_correction() -> None:
    torch.manual_seed(0)
    net = Block().eval()
    found = correct_biases(net, net, torch.randn(9, 3, 10, 10))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in found.state_dict().items())


def test_biases_of_efficientnet_lite_are_corrected_by_its_norms() -> None:
    backbone = backbones.build("timm/tf_efficientnet_lite0", "none", 32, (8, 8, 3))
    net, x = backbone.body, torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    quantised = quantise(net, 4)
    found = correct_biases(net, quantised, x)
    with torch.no_grad():
        error, before = ((n(x).mean(0) - net(x).mean(0)).abs().mean() for n in (found, quantised))
    assert error < 0.2 * before
    moved = [name for name, v in found.state_dict().items() if not torch.equal(v, quantised.state_dict()[name])]
    assert len(moved) == 49 and all(name.endswith("running_mean") for name in moved)


def test_a_backbone_is_quantised_before_anything_is_computed_by_it() -> None:
    plain = backbones.build("timm/resnet10t", "none", 64, (8, 8, 3))
    found = backbones.build("timm/resnet10t", "none", 64, (8, 8, 3), rounding=Rounding(4))
    assert found.digest != plain.digest and found.frozen != plain.frozen
    expected = quantise(plain.body, 4)
    assert all(torch.equal(w, found.body.state_dict()[name]) for name, w in expected.state_dict().items())
    assert [line for line in found.notes if line.startswith("quantised to 4 bits, a scale per channel (mse): ")]
    assert set(found.moved) == {name for name, p in plain.body.named_parameters() if p.ndim > 1}
    with pytest.raises(InputError, match="^quantise: there is no backbone"):
        backbones.build("none", "none", None, (8, 8, 1), rounding=Rounding(4))


SETS = ["data={name: digits, image_size: 32, limit: 100}", "backbone={name: timm/test_resnet, weights: none}",
        "budget.generations=3", "algorithm.population=4", "fitness.samples=20", "memory.limit=1e9"]  # fmt: skip


def test_a_run_of_a_quantised_backbone_says_what_it_was_of_and_resumes(tmp_path: Path) -> None:
    sets = [*SETS, "backbone.quantise={bits: 3, parts: [layer3, layer4]}"]
    experiment.run(load(None, sets), str(tmp_path / "run"), "test", Quiet())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {name.partition(".")[0] for name in result["quantised"]} == {"layer3", "layer4"}
    assert all(0.01 < share < 0.5 for share in result["quantised"].values())
    assert "quantised to 3 bits" in (tmp_path / "run" / "run.log").read_text()
    weights = ne.load(tmp_path / "run").model.state_dict()
    levels(weights["layer4.0.conv1.weight"].flatten(1)[:4], 3)
    experiment.resume(str(tmp_path / "run"), ["budget.generations=5"], Quiet())
    assert json.loads((tmp_path / "run" / "result.json").read_text())["generations"] == 5


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("{bits: 5}", r"^backbone.quantise: 5 given; input should be 8, 6, 4 or 3"),
        ("{bits: 4, parts: [nothing]}", r"^backbone.quantise.parts: nothing matches no matrix of weights; there are"),
    ],
)
def test_what_cannot_be_quantised_is_one_line(tmp_path: Path, value: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        experiment.run(load(None, [*SETS, f"backbone.quantise={value}"]), str(tmp_path / "run"), "test", Quiet())
    with pytest.raises(InputError, match="^backbone.quantise: there is no backbone"):
        sets = ["backbone={name: none, weights: none, quantise: {bits: 4}}", "data={name: digits, image_size: null}"]
        experiment.run(load(None, sets), str(tmp_path / "run"), "test", Quiet())
