import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from neuroevo import backbones
from neuroevo.loop import Rules, Step

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, shared by all of them and by the processes they start."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("NEUROEVO_CACHE")
    os.environ["NEUROEVO_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["NEUROEVO_CACHE"]
    else:
        os.environ["NEUROEVO_CACHE"] = before


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def data_root() -> Path:
    """Where shared/data's unpack.sh put MNIST and CIFAR-10; tests that need them skip where they are absent."""
    root = os.environ.get("NEUROEVO_DATA")
    if not root or not (Path(root) / "cifar10-images").is_dir():
        pytest.skip("NEUROEVO_DATA names no folder with cifar10-images in it")
    return Path(root)


class Quiet:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[Step] = []
        self.done: list[tuple[int, int]] = []

    def note(self, line: str) -> None:
        self.lines.append(line)

    def images(self, done: int, total: int) -> None:
        self.done.append((done, total))

    def generation(self, step: Step, rules: Rules) -> None:
        self.steps.append(step)


@pytest.fixture
def quiet() -> Quiet:
    return Quiet()


def make_folder(root: Path, parts: dict[str, dict[str, int]], size: int = 8, grey: bool = False) -> Path:
    """Write class folders of noisy images whose brightness tells their class: {part: {class: images}}."""
    rng = np.random.default_rng(0)
    for part, classes in parts.items():
        for label, (name, count) in enumerate(classes.items()):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (size, size) if grey else (size, size, 3)
                level = 255 * (label + 0.5) / len(classes)
                pixels = np.clip(rng.normal(level, 30, shape), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return root


def weights_of_a_network(folder: Path) -> str:
    """Write the weights of timm's test_resnet; without a file each build of it would be another network."""
    torch.manual_seed(0)
    path = folder / "w.safetensors"
    save_file(backbones.build("timm/test_resnet", "none", 32, (8, 8, 1)).body.state_dict(), path)
    return f"backbone.weights={path}"
