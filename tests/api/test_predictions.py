"""Samples that paths name, and what is said of them from a run's folder alone, whatever its network."""

import shutil
from pathlib import Path

import numpy as np
import onnx_models
import pytest
import torch
from conftest import Quiet, make_folder, weights_of_a_network
from PIL import Image

import neuroevo as ne
from neuroevo.api import predictions
from neuroevo.cli import labels
from neuroevo.config import load
from neuroevo.experiments import evaluation, experiment
from neuroevo.experiments.interruption import NEVER
from neuroevo.storage import rundir

SMALL = ["algorithm={name: snes, population: 6}", "budget.generations=2", "memory.limit=1e9"]
RESNET = "backbone={name: timm/test_resnet, trainable: [layer4], batchnorm: recalibrate}"
KINDS = {
    "head": ["backbone.name=none", "backbone.weights=none", "data.image_size=8"],
    "deep part": ["memory.plan=loop", RESNET, "data.image_size=32"],
    "quantised": ["backbone={name: timm/test_resnet, quantise: {bits: 4}}", "data.image_size=32"],
    "onnx": [],
}


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "rebuilt"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_alone_says_of_test_images_what_the_run_says_and_so_does_the_command(
    tmp_path: Path, kind: str, whole: bool
) -> None:
    make_folder(tmp_path / "data", {".": {"a": 24, "b": 24, "c": 24}})
    sets = [f"data={{name: image_folder, root: {tmp_path / 'data'}}}", *SMALL, *KINDS[kind]]
    if kind == "onnx":
        onnx_models.write(tmp_path, "float")
        sets += [f"backbone={{name: onnx, file: {tmp_path / 'float.onnx'}, trainable: [fc]}}"]
    elif kind != "head":
        sets += [weights_of_a_network(tmp_path)]
    folder = experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    known = evaluation.evaluate(str(folder), None, Quiet())
    truth = [*known.predictions()]
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    if whole:
        for path in [*tmp_path.glob("*.onnx"), *tmp_path.glob("w.safetensors")]:
            path.unlink()
    else:
        (folder / rundir.NETWORK).unlink()
    files = [str(place).replace(str(tmp_path / "data"), str(tmp_path / "elsewhere")) for place, *_ in truth]
    champion = ne.load(folder)
    said = [*champion.predictions(files)]
    assert [p.file for p in said] == files
    assert [p.classes[0] for p in said] == [predicted for _, _, predicted, _ in truth] == champion.predict(files)
    assert [p.probabilities[0] for p in said] == pytest.approx([share for *_, share in truth], abs=1e-5)
    lines: list[str] = []
    how = {"top": 3, "out": str(tmp_path / "o.csv"), "observer": Quiet(), "progress": None, "room": None}
    labels.predict(str(folder), files, **how, say=lines.append, signals=NEVER)  # type: ignore[arg-type]
    rows = [line.split(",") for line in (tmp_path / "o.csv").read_text().splitlines()[1:]]
    every = champion.probabilities(files)
    assert [[float(cell) for cell in row[2::2]] for row in rows] == every.sort(1, descending=True).values.tolist()
    assert lines == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images")
    make_folder(place / "data", {".": {"a": 12, "b": 12}})
    sets = [f"data={{name: image_folder, root: {place / 'data'}}}", *SMALL, *KINDS["head"]]
    return experiment.run(load(None, sets), str(place / "r"), "test", Quiet())


def test_a_folder_has_all_its_images_in_order_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    image = next((folder.parent / "data").rglob("*.png"))
    for name in ("b.png", "a.PNG", "z/y/x.png", "d/1.png", ".hidden.png", "notes.txt", "z/.DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / name)
    (tmp_path / "z" / "loop").symlink_to(tmp_path)
    (tmp_path / "d" / "2.png").symlink_to(tmp_path / "b.png")
    notes: list[str] = []
    found = predictions.find([tmp_path, tmp_path / "b.png"], lambda image: torch.zeros(1), note=notes.append)
    assert predictions.count(found) == 5
    names = [Path(str(file)).relative_to(tmp_path).as_posix() for file in found[0].samples]  # type: ignore[union-attr]
    assert names == ["a.PNG", "b.png", "d/1.png", "z/y/x.png", "b.png"]
    assert any("hidden" in line for line in notes)
    champion = ne.load(folder)
    assert champion.predict(tmp_path) == champion.predict([tmp_path / name for name in names[:4]])
    assert champion.predict([]) == []


def test_images_in_an_npz_file_are_what_the_same_images_in_files_are(folder: Path, tmp_path: Path) -> None:
    files = sorted((folder.parent / "data").rglob("*.png"))[::3]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    np.savez(tmp_path / "i.npz", x=pixels, y=np.zeros(len(files), np.int64))
    champion = ne.load(folder)
    assert torch.equal(champion.probabilities(tmp_path / "i.npz"), champion.probabilities(files))
    np.savez(tmp_path / "deep.npz", x=np.zeros((2, 8, 8, 7), np.uint8))
    with pytest.raises(ne.InputError, match="paths: an image has 7 channels, 3 are expected"):
        champion.predict(tmp_path / "deep.npz")
    with pytest.raises(ne.InputError, match="top: 3 given; the run has 2 classes, 1 to 2 expected"):
        champion.predictions(files, top=3)
    with pytest.raises(ne.InputError, match="paths: .*nowhere.png is not there"):
        champion.predict("nowhere.png")


def test_of_equal_probabilities_the_first_class_comes_first() -> None:
    groups = [predictions.Group(torch.zeros(40, 2), "x.npz")]
    said = [*predictions.label(torch.nn.Identity(), None, ("a", "b"), groups, top=2)]
    assert {p.classes for p in said} == {("a", "b")}
    assert [p.row for p in said] == [*range(40)]


def test_of_an_onnx_file_evolved_from_python_x_keeps_its_shape(tmp_path: Path) -> None:
    network = ne.onnx(onnx_models.write_float(tmp_path / "m.onnx"))
    x, y = torch.rand(60, 3, 8, 8), torch.arange(60) % 3
    ne.evolve(network, (x, y), trainable=["fc"], budget=ne.Budget(generations=1), out=tmp_path / "r")
    np.savez(tmp_path / "x.npz", x=x.numpy())
    champion = ne.load(tmp_path / "r")
    assert torch.equal(champion.probabilities(tmp_path / "x.npz"), champion.probabilities(x))


def test_images_are_read_as_they_are_asked_for(folder: Path) -> None:
    files = [str(file) for file in sorted((folder.parent / "data").rglob("*.png"))] * 10
    champion = ne.load(folder)
    assert champion.transform is not None
    asked: list[str] = []

    def transform(file: str) -> torch.Tensor:
        asked.append(file)
        return champion.transform(file)  # type: ignore[misc]

    groups = predictions.find(files, transform)
    said = predictions.label(champion.model, transform, champion.classes, groups)
    next(said)
    assert len(asked) == predictions.AT_ONCE
    assert sum(1 for _ in said) == len(files) - 1
