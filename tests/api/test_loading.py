"""The champion of a run's folder, loaded as a plain module: no data, no weights of the backbone, no device of birth."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Quiet, weights_of_a_network
from PIL import Image
from torch import nn

import neuroevo as ne
from neuroevo.api import loading
from neuroevo.config import load
from neuroevo.data.datasets import digits
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.networks import weightfiles
from neuroevo.storage import rundir

TINY = ["data.name=digits", "data.limit=240", "algorithm.population=8", "algorithm.elites=2", "budget.generations=3",
        "validate.every=1", "memory.limit=1e9"]  # fmt: skip
PARTS = {
    "pixels": ["backbone.name=none", "data.image_size=null", "features.components=20"],
    "mlp": ["backbone.name=none", "data.image_size=12", "head={name: mlp, hidden: [7]}"],
    "a stage": [
        "memory.plan=loop",
        "backbone={name: timm/test_resnet, trainable: [layer4], batchnorm: recalibrate}",
        "data.image_size=32",
    ],
    "grey": ["backbone={name: timm/test_resnet, channels: 1}", "data.image_size=32"],
}


@pytest.mark.parametrize("name", PARTS)
def test_a_champion_needs_its_folder_alone_and_scores_as_the_run_said(name: str, tmp_path: Path) -> None:
    sets = [*TINY, *PARTS[name]]
    if "timm" in str(sets):
        sets.append(weights_of_a_network(tmp_path))
    folder = experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    for path in [*tmp_path.glob("*.pth"), *tmp_path.glob("*.safetensors"), *(folder / "checkpoints").iterdir()]:
        path.unlink()
    found = ne.load(folder)
    tested, whole = rundir.read_result(folder)["champion"]["test"], digits()
    rows = experiment.build.dataset(load(None, sets))[1]["test"].tolist()
    limited = experiment.build.dataset(load(None, sets))[0]
    images = [limited.images[row] for row in rows]
    truth = [limited.classes[limited.labels[row]] for row in rows]
    said = found.predict(images)
    assert np.mean([a == b for a, b in zip(said, truth, strict=True)]) == pytest.approx(tested["accuracy"], abs=0.02)
    assert found.classes == whole.classes
    assert not found.model.training
    Image.fromarray(np.asarray(images[0])).save(tmp_path / "one.png")
    assert found.predict(str(tmp_path / "one.png")) == said[:1]
    assert found.probabilities(images[:3]).sum(1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert found.predict([]) == []


def test_one_of_rows_of_numbers_takes_rows(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    sets = [f"data={{name: arrays, file: {tmp_path / 'a.npz'}}}", *TINY[2:]]
    folder = experiment.run(load(None, ["backbone={name: none}", *sets]), str(tmp_path / "r"), "test", Quiet())
    found = ne.load(folder)
    assert found.transform is None
    assert set(found.predict(x)) <= {"0", "1"}


def test_of_a_run_from_python_the_module_is_given_again(tmp_path: Path) -> None:
    x = torch.randn(150, 4)
    model, y = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), (x[:, 0] > 0).long()
    result = ne.evolve(model, (x, y), budget=ne.Budget(generations=3), out=tmp_path / "r")
    found = ne.load(tmp_path / "r", model)
    assert torch.equal(found.model(x), result.model(x))  # type: ignore[misc]
    assert found.predict(x[:2]) == [found.classes[i] for i in found.model(x[:2]).argmax(1).tolist()]
    with pytest.raises(
        ne.InputError, match="model: the module of a run from Python isn't in its folder; give it again: neuroevo.load"
    ):
        ne.load(tmp_path / "r")
    with pytest.raises(ne.InputError, match="model: another than the run's"):
        ne.load(tmp_path / "r", nn.Linear(4, 2))


def test_what_is_not_there_or_damaged_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ne.InputError, match="no run is there"):
        ne.load(tmp_path)
    folder = experiment.run(load(None, [*TINY, *PARTS["pixels"], "checkpoint.network=false"]), str(tmp_path / "r"),
                            "test", Quiet())  # fmt: skip
    assert not (folder / rundir.NETWORK).exists()
    assert ne.load(folder).predict([np.zeros((8, 8, 1), np.uint8)])
    (folder / rundir.NETWORK).write_bytes(b"no")
    with pytest.raises(ne.InputError, match=rundir.NETWORK):
        ne.load(folder)
    with pytest.raises(ne.InputError, match="model: .* says itself what its network is"):
        ne.load(folder, nn.Linear(1, 1))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = [*TINY, *PARTS["mlp"]]
    return experiment.run(load(None, sets), str(tmp_path_factory.mktemp("small") / "r"), "test", Quiet())


def spoil_config(folder: Path) -> None:
    path = folder / rundir.CONFIG
    path.write_text(path.read_text().replace("hidden: [7]", "hidden: [8]").replace("- 7\n", "- 8\n"))


def spoil_network(folder: Path) -> None:
    (folder / rundir.NETWORK).write_bytes((folder / rundir.CHAMPION).read_bytes())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", [1, 2, 3]), ("classes", [None, "a"]), ("classes", "ab"), ("inputs", "x"), ("inputs", 2.5),
        ("width", 300_000_000), ("width", -1), ("width", "x"), ("native", 3), ("transform", []),
    ],
)  # fmt: skip
def test_a_sealed_network_that_says_what_it_is_not_is_one_line(
    small: Path, tmp_path: Path, key: str, value: Any
) -> None:
    """A head of the width that it says would take gigabytes before anybody looked at its weights."""
    shutil.copytree(small, tmp_path / "r")
    file = tmp_path / "r" / rundir.NETWORK
    weights, about = weightfiles.read_safetensors(file)
    rundir.write_network(tmp_path / "r", weights, {**about, key: value})
    with pytest.raises(InputError, match=r"network.safetensors: not as this run writes it \(") as caught:
        ne.load(tmp_path / "r").predict([Image.new("L", (12, 12))])
    assert len(str(caught.value).splitlines()) == 1


SPOILT = {
    "a config of another number": (spoil_config, "config.yaml: not as the checkpoint has it"),
    "no config": (lambda folder: (folder / rundir.CONFIG).write_text("hea"), "config.yaml: damaged"),
    "another file": (spoil_network, None),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_was_damaged_since_is_told_and_the_champion_is_the_same_or_refused(
    small: Path, tmp_path: Path, what: str
) -> None:
    folder, images = tmp_path / "r", [Image.new("L", (12, 12), value) for value in (0, 99)]
    shutil.copytree(small, folder)
    spoil, line = SPOILT[what]
    spoil(folder)
    said = Quiet()
    if line is None:
        with pytest.raises(InputError, match=r"network.safetensors: not as this run writes it \(KeyError: 'native'\)"):
            ne.load(folder, observer=said)
        return
    found = loading.load(folder, observer=said)
    torch.testing.assert_close(found.probabilities(images), ne.load(small).probabilities(images), rtol=0, atol=0)
    assert any(line in told for told in said.lines)
