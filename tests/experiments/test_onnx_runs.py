"""Runs of an ONNX file from a config: gone on with, scored, exported, loaded, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import torch
from conftest import Quiet, make_folder, scores_of
from onnx_models import onnxruntime

import neuroevo as ne
from neuroevo.cli import inspection
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import experiment, export
from neuroevo.storage import rundir

PATTERNS = {
    "float": '["fc", "norm.shift"]', "qdq": '["*weight_scale"]', "qoperator": '["body*scale"]', "dynamic": '["fc*"]',
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx_runs")
    make_folder(folder / "data", {".": {"a": 24, "b": 24, "c": 24}})
    for kind in onnx_models.KINDS:
        onnx_models.write(folder, kind)
    return folder


def sets(folder: Path, kind: str, *more: str) -> list[str]:
    return [
        f"data={{name: image_folder, root: {folder / 'data'}}}", "memory.limit=1e9",
        f"backbone={{name: onnx, file: {folder / kind}.onnx, trainable: {PATTERNS[kind]}}}",
        "algorithm={name: snes, population: 6}", "budget.generations=4", "validate.every=2", "fitness.samples=20",
        *more,
    ]  # fmt: skip


def run(folder: Path, kind: str, out: Path, *more: str) -> Path:
    return experiment.run(load(None, sets(folder, kind, *more)), str(out), "test", Quiet())


@pytest.mark.parametrize("kind", onnx_models.KINDS)
def test_a_run_goes_on_to_the_same_bytes_and_leaves_its_champion_as_onnx(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    run(folder, kind, tmp_path / "whole")
    run(folder, kind, tmp_path / "part", "budget.generations=2")
    experiment.resume(str(tmp_path / "part"), ["budget.generations=4"], Quiet())
    for name in (rundir.CHAMPION, rundir.NETWORK, rundir.ONNX):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "part" / name).read_bytes()
    result = rundir.read_result(tmp_path / "whole")
    assert not [line for line in result["warnings"] if rundir.ONNX in line]
    assert "onnxruntime" in result["versions"]
    found = scores_of(str(tmp_path / "whole"), None, Quiet())
    assert found["accuracy"] == result["champion"]["test"]["accuracy"]
    export.export(str(tmp_path / "whole"), None, str(tmp_path / "x.onnx"))
    assert (tmp_path / "x.onnx").read_bytes() == (tmp_path / "whole" / rundir.ONNX).read_bytes()

    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    loaded = ne.load(tmp_path / "whole")
    images = torch.stack([loaded.transform(path) for path in sorted((folder / "data").rglob("*.png"))[::15]])
    expected = np.concatenate([session.run(None, {"images": image[None].numpy()})[0] for image in images])
    torch.testing.assert_close(loaded.model(images), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
    assert float(images.max()) <= 1
    assert loaded.classes == ("a", "b", "c")
    (tmp_path / "whole" / rundir.NETWORK).unlink()  # made again from the file
    torch.testing.assert_close(ne.load(tmp_path / "whole").model(images), loaded.model(images), rtol=1e-5, atol=1e-5)


def test_rows_of_numbers_and_normalised_images_are_what_a_file_takes(folder: Path, tmp_path: Path) -> None:
    run(folder, "float", tmp_path / "r", "backbone.mean=[0.5]", "backbone.std=[0.2, 0.2, 0.2]")
    assert ne.load(tmp_path / "r").transform(np.full((8, 8, 3), 255, np.uint8)).unique().tolist() == [2.5]
    labels = np.arange(60) % 3
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32) + labels[:, None]
    np.savez(tmp_path / "d.npz", x=x, y=labels)
    onnx_models.write_rows(tmp_path / "rows.onnx", 4)
    network = f"backbone={{name: onnx, file: {tmp_path / 'rows.onnx'}, trainable: ['*']}}"
    data = f"data={{name: arrays, file: {tmp_path / 'd.npz'}}}"
    run(folder, "float", tmp_path / "rows", data, network)
    assert ne.load(tmp_path / "rows").model(torch.from_numpy(x)).shape == (60, 3)
    again = scores_of(str(tmp_path / "rows"), None, Quiet())
    assert again["accuracy"] == rundir.read_result(tmp_path / "rows")["champion"]["test"]["accuracy"]


def test_another_file_isnt_gone_on_with(folder: Path, tmp_path: Path) -> None:
    file = onnx_models.write_float(tmp_path / "m.onnx")
    run(folder, "float", tmp_path / "r", f"backbone.file={file}")
    onnx_models.write_float(file, opset=16)
    with pytest.raises(InputError, match=r"backbone.file: .*m.onnx: the frozen weights of onnx aren't those") as caught:
        experiment.resume(str(tmp_path / "r"), ["budget.generations=6"], Quiet())
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(InputError, match="backbone.file: .*m.onnx is not a file"):
        experiment.resume(str(tmp_path / "r"), ["budget.generations=6"], Quiet())


def test_what_a_run_would_take_is_told(folder: Path) -> None:
    rows = dict(inspection.estimate(load(None, sets(folder, "qdq"))))
    assert rows["genome"].startswith("13 genes")


BAD: dict[str, tuple[list[str], str]] = {
    "no file": (["backbone.file=null"], "backbone.file: none given"),
    "a file for another backbone": (["backbone.name=none"], "backbone.file: is for backbone.name: onnx"),
    "nothing to evolve": (["backbone.trainable=[]"], "backbone.trainable: names nothing"),
    "a pattern of nothing": (["backbone.trainable=[nothing]"], "backbone.trainable: nothing matches no float32"),
    "gradient steps": (["refine.steps=2"], "refine: an ONNX file has no backward pass"),
    "safe mutation": (
        ["algorithm={name: ga, mutation: {name: gaussian, safe: true}}"], "algorithm.mutation.safe: an ONNX file has"
    ),
    "half precision": (["fitness.precision=bfloat16"], "fitness.precision: bfloat16, but"),
    "vmap": (["memory.plan=vmap"], "memory.plan: vmap, but"),
    "a head": (["head.trainable=true"], "head.trainable: True, but an ONNX file gives logits"),
    "a hidden layer": (["head.name=mlp"], "head.name: 'mlp', but an ONNX file gives logits"),
    "components": (["features.components=2"], "features.components: 2, but an ONNX file gives logits"),
    "weights": (["backbone.weights=pypi"], "backbone.weights: 'pypi', but an ONNX file is taken as it is"),
    "levels": (["genome.levels=int8"], "genome.levels: .int8., but an ONNX file"),
    "mean alone": (["backbone.mean=[0.5]"], "backbone.mean: and backbone.std go together"),
    "two means": (["backbone.mean=[0.5, 0.5]", "backbone.std=[1]"], "backbone.mean: 2 numbers for 3 channels"),
    "no deviation": (["backbone.mean=[0.5]", "backbone.std=[0]"], "backbone.std.0: 0"),
    "another size": (["data.image_size=9"], "data.image_size: 9, but .*float.onnx takes float32"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cant_be_is_said_in_a_line(folder: Path, tmp_path: Path, case: str) -> None:
    more, line = BAD[case]
    with pytest.raises(InputError, match=line) as caught:
        run(folder, "float", tmp_path / "r", *more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"classes": 4}, "its logits are of 4 classes, the data have 3"),
        ({"opset": 99}, "backbone.file: .*onnxruntime can't run it"),
        ({"batch": 5}, "backbone.file: .*its batch is fixed at 5"),
    ],
)
def test_a_file_that_cant_be_is_said_in_a_line(
    folder: Path, tmp_path: Path, options: dict[str, Any], line: str
) -> None:
    file = onnx_models.write_float(tmp_path / "m.onnx", **options)
    with pytest.raises(InputError, match=line):
        run(folder, "float", tmp_path / "r", f"backbone.file={file}")
    assert not (tmp_path / "r").exists()
