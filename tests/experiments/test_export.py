import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import Quiet, make_folder, scores_of, weights_of_a_network
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from neuroevo.config import load
from neuroevo.data import augment, datasets, feature_cache
from neuroevo.data.pixels import pixels
from neuroevo.errors import InputError
from neuroevo.experiments import build, experiment, export, reopen
from neuroevo.storage import checkpoint, generations

SETS = [
    "backbone.name=timm/resnet10t", "backbone.weights=none", "data.image_size=32", "data.limit=150",
    "algorithm.population=8", "algorithm.elites=2", "budget.generations=3", "memory.limit=1e8", "genome.init_sigma=0.5",
    "algorithm.mutation.sigma=0.5",
]  # fmt: skip


@pytest.fixture(scope="module", params=["linear", "mlp"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    # Random weights differ from process to process, so the run starts from a file of them.
    folder = tmp_path_factory.mktemp("export")
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t").state_dict(), folder / "w.pth")
    sets = [*SETS, f"backbone.weights={folder / 'w.pth'}", f"head.name={request.param}"]
    experiment.run(load(None, sets), str(folder / "r"), "test", Quiet())
    return str(folder / "r")


def expected(run: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return some inputs and the logits that the run itself gives them."""
    parts, step = reopen.open_run(run, Quiet())
    rows = torch.arange(5)
    logits = parts.network.forward(parts.network.decode(step.champion.genome[None]), parts.features.batch(rows)[0])[0]
    whole = build.dataset(parts.config)[0]
    t = parts.network.backbone.transform
    images = [pixels(whole.images[i], 3, t.size, Image.Resampling[t.interpolation.upper()]) for i in range(5)]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return augment.normalise(batch, t, torch.device("cpu")), logits


@pytest.mark.parametrize("format", ["safetensors", "pt"])
def test_the_exported_weights_load_strictly_into_the_plain_network_and_give_the_runs_logits(
    finished: str, tmp_path: Path, format: str
) -> None:
    import timm

    export.export(finished, format, str(tmp_path / "out"))
    state = load_file(tmp_path / "out") if format == "safetensors" else torch.load(tmp_path / "out", weights_only=True)
    plain = timm.create_model("resnet10t", num_classes=10).eval()
    if "fc.0.weight" in state:
        plain.fc = torch.nn.Sequential(torch.nn.Linear(512, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    plain.load_state_dict(state, strict=True)
    inputs, logits = expected(finished)
    with torch.inference_mode():
        torch.testing.assert_close(plain(inputs), logits, rtol=1e-3, atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["out", "out.md"] if format == "safetensors" else ["out"]
    )


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_the_onnx_graph_checks_and_takes_any_batch(finished: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    export.export(finished, "onnx", str(tmp_path / "out.onnx"))
    model = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(model)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    from onnx.reference import ReferenceEvaluator

    inputs, logits = expected(finished)
    (found,) = ReferenceEvaluator(model).run(None, {"images": inputs[:2].contiguous().numpy()})
    np.testing.assert_allclose(found, logits[:2].numpy(), rtol=1e-2, atol=1e-2)


def test_each_exported_member_of_the_front_scores_as_its_row_says(tmp_path: Path) -> None:
    sets = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=32",
            "budget.generations=40", "memory.limit=1e8", "fitness.metrics=[cross_entropy, weight_norm, distance]",
            "algorithm.mutation.sigma=0.05", "fitness.samples=100000", "features.components=null"]  # fmt: skip
    run = str(tmp_path / "r")
    experiment.run(load(None, sets), run, "test", Quiet())
    with h5py.File(generations.paths(tmp_path / "r" / "checkpoints")[0]) as file:  # with h5py alone
        fitness = file["front/fitness"][()]
        everybody = file["population/fitness"][()]
    assert len(fitness) > 3
    assert (np.diff(fitness[:, 0]) < 0).all()
    assert not [i for i in fitness for j in everybody if (j >= i).all() and (j > i).any()]
    parts, _ = reopen.open_run(run, Quiet())
    whole, splits = build.dataset(parts.config)
    images = torch.from_numpy(whole.images.pixels).float()[splits["train"]] / 255  # type: ignore[union-attr]
    targets = torch.from_numpy(whole.labels)[splits["train"]]
    champion = load_file(tmp_path / "r" / "champion.safetensors")
    same = []
    for i, row in enumerate(fitness):
        export.export(run, "safetensors", str(tmp_path / "w"), f"member:{i}")
        plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        weights = load_file(tmp_path / "w")
        plain[1].load_state_dict({key.rpartition(".")[2]: value for key, value in weights.items()})
        with torch.inference_mode():
            loss = torch.nn.functional.cross_entropy(plain(images), targets)
        assert float(loss) == pytest.approx(-row[0], rel=1e-4)
        norm = np.linalg.norm(np.concatenate([value.double().numpy().ravel() for value in weights.values()]))
        assert norm == pytest.approx(-row[1], rel=1e-6)
        assert norm == pytest.approx(-row[2], rel=1e-6)  # the start is zero
        same.append(all(torch.equal(weights[key], value) for key, value in champion.items()))
    assert sum(same) <= 1
    with pytest.raises(InputError, match="--member: -1 given; the front of"):
        scores_of(run, None, Quiet(), -1)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    for format, name, message in (
        ("zip", "y", "--format: 'zip'"),
        (None, "y.zip", "--out: y.zip ends in none of .safetensors, .pt, .pth, .onnx; give it one, or a --format"),
        ("pt", "y.onnx", "--format: pt, but y.onnx ends as onnx does; name it .pt"),
        ("safetensors", "y.PTH", "--format: safetensors, but y.PTH ends as pt does"),
    ):
        with pytest.raises(InputError, match=message):
            export.export("x", format, name)
    (tmp_path / "m.pt").mkdir()
    with pytest.raises(InputError, match=r"--out: .*m.pt is there and is no file"):
        export.export("x", None, str(tmp_path / "m.pt"))
    with pytest.raises(InputError, match="--out: no folder"):
        export.export("x", "pt", str(tmp_path / "nowhere" / "y"))


def test_a_run_of_one_objective_has_no_member(finished: str, tmp_path: Path) -> None:
    for use in (
        lambda: export.export(finished, "pt", str(tmp_path / "x"), "member:0"),
        lambda: scores_of(finished, None, Quiet(), 0),
    ):
        with pytest.raises(InputError, match="has no front; only a run with fitness.metrics has one"):
            use()
    assert not (tmp_path / "x").exists()


ALONE = ["data.image_size=16", "data.limit=120", "algorithm.population=6", "budget.generations=2", "memory.limit=2e9",
         "genome.init_sigma=0.5", "fitness.samples=40"]  # fmt: skip
NETWORK = ["backbone.name=timm/test_resnet", "backbone.weights=none", "data.image_size=32"]
KINDS: dict[str, list[str]] = {
    "pixels": ["backbone.name=none", "backbone.weights=none", "data.image_size=null"],
    "mlp": [*NETWORK, "head.name=mlp", "head.hidden=[7]", "head.init=default"],
    "a stage": [*NETWORK, "backbone.trainable=[layer4]", "head.init=default", "memory.plan=loop"],
    "levels": [*NETWORK, "genome.levels=ternary"],
    "as they are": [*NETWORK, "features.standardise=false", "features.components=null"],
}


@pytest.mark.parametrize("given", KINDS.values(), ids=KINDS)
def test_export_and_scores_on_other_images_need_the_runs_folder_alone(
    tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(tmp_path / "r")
    experiment.run(load(None, [*ALONE, *given]), run, "test", Quiet())
    make_folder(tmp_path, {"other": {"0": 3, "7": 2}}, grey=True)
    parts, step = reopen.open_run(run, Quiet())
    other = datasets.read_others(str(tmp_path / "other"), parts.network.classes)
    rows, _ = feature_cache.fetch(parts.network.backbone, other, parts.device, lambda done, total: None)
    labels = torch.from_numpy(other.labels)
    expected = parts.supervised.test(step.champion.genome, torch.arange(5), parts.view_others(rows, labels)).scores
    monkeypatch.setattr(build, "dataset", lambda c: pytest.fail("the data set was asked for"))
    assert scores_of(run, str(tmp_path / "other"), Quiet()) == expected
    export.export(run, None, str(tmp_path / "m.safetensors"))
    exported, champion = load_file(tmp_path / "m.safetensors"), load_file(tmp_path / "r" / "champion.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in champion.items())
    network, _ = export.network(run)
    transform = parts.network.backbone.transform
    batch = next(feature_cache._batches(other.images, transform, None, 0))
    with torch.inference_mode():
        logits = network(augment.normalise(batch, transform, torch.device("cpu")))
    assert float(torch.nn.functional.cross_entropy(logits, labels)) == pytest.approx(
        expected["cross_entropy"], rel=1e-3
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_run_that_was_made_on_a_gpu_opens_and_goes_on_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    folder = tmp_path / "r"
    experiment.run(load(None, [*ALONE, *KINDS["pixels"]]), str(folder), "test", Quiet())
    expected = scores_of(str(folder), None, Quiet())
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("device: auto", "device: cuda"))
    real = checkpoint.newest

    def of_a_gpu(*args: Any) -> Any:
        saved = real(*args)
        given = saved and saved.config.replace("device: auto", "device: cuda")
        return saved and replace(saved, config=given, plan=saved.plan._replace(home="cuda:0"), device="cuda:0")

    monkeypatch.setattr(checkpoint, "newest", of_a_gpu)
    assert scores_of(str(folder), None, quiet) == expected
    assert [line.split(":")[0] for line in quiet.lines[:2]] == ["device", "the population was kept on cuda"]
    export.export(str(folder), None, str(tmp_path / "m.pt"))
    make_folder(tmp_path, {"other": {"0": 3}}, grey=True)
    scores_of(str(folder), str(tmp_path / "other"), Quiet())
    experiment.resume(str(folder), ["budget.generations=3"], quiet)
    assert any("device were cuda:0 and are cpu" in line for line in quiet.lines)
    assert "device: cuda" in (folder / "config.yaml").read_text()


def test_files_of_other_runs_are_not_needed_again_where_all_they_gave_evolved(tmp_path: Path) -> None:
    first, run = tmp_path / "a", tmp_path / "r"
    sets = [*ALONE, *KINDS["a stage"]]
    experiment.run(load(None, sets), str(first), "test", Quiet())
    own = [f"genome.from=[{first}]", "fitness.metrics=[cross_entropy, distance]", "backbone.transfer="
           f"[{{from: {first}, parts: [layer4]}}]", "algorithm.name=ga", "head.trainable=false"]  # fmt: skip
    experiment.run(load(None, [*sets, *own]), str(run), "test", Quiet())
    expected = scores_of(str(run), None, Quiet())
    export.export(str(run), None, str(tmp_path / "before.pt"))
    first.rename(tmp_path / "elsewhere")
    assert scores_of(str(run), None, Quiet()) == expected
    export.export(str(run), None, str(tmp_path / "after.pt"))
    assert (tmp_path / "after.pt").read_bytes() == (tmp_path / "before.pt").read_bytes()
    experiment.resume(str(run), ["budget.generations=3"], Quiet())


def test_frozen_weights_that_are_not_the_runs_are_refused(tmp_path: Path) -> None:
    sets = [*ALONE, *NETWORK, weights_of_a_network(tmp_path)]
    experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    state = load_file(tmp_path / "w.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, tmp_path / "w.safetensors")
    for use in (
        lambda: export.export(str(tmp_path / "r"), None, str(tmp_path / "m.pt")),
        lambda: scores_of(str(tmp_path / "r"), None, Quiet()),
        lambda: experiment.resume(str(tmp_path / "r"), ["budget.generations=3"], Quiet()),
    ):
        with pytest.raises(InputError, match=r"backbone.weights: .*w.safetensors: the frozen weights .* aren't those"):
            use()


def test_a_file_is_written_in_the_format_of_its_suffix_and_as_readable_as_any(tmp_path: Path) -> None:
    run = str(tmp_path / "r")
    experiment.run(load(None, [*ALONE, *KINDS["pixels"]]), run, "test", Quiet())
    before = os.umask(0o027)
    try:
        for name in ("m.safetensors", "m.pt", "m.PTH", "m.bin"):
            export.export(run, "pt" if name == "m.bin" else None, str(tmp_path / name))
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o640, name
    finally:
        os.umask(before)
    state = load_file(tmp_path / "m.safetensors")
    for name in ("m.pt", "m.PTH", "m.bin"):
        found = torch.load(tmp_path / name, weights_only=True)
        assert all(torch.equal(found[key], value) for key, value in state.items())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 5)
        self.b.weight = self.a.weight
        self.also = nn.ModuleList([self.a])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.b(self.also[0](x.flatten(1)).relu()).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("trainable", ["[]", "[b]"])
def test_tied_weights_are_exported_under_each_of_their_names(tmp_path: Path, trainable: str) -> None:
    given = ["backbone.name=test_export:Tied", "data.image_size=null", f"backbone.trainable={trainable}"]
    run = str(tmp_path / "r")
    experiment.run(load(None, [*ALONE, *NETWORK, *given, "head.init=default"]), run, "test", Quiet())
    network, _ = export.network(run)
    x = torch.randn(3, 1, 8, 8)
    for name in ("m.safetensors", "m.pt"):
        export.export(run, None, str(tmp_path / name))
        plain = Tied()
        plain.fc = nn.Linear(64, 10)
        state = load_file(tmp_path / name) if name == "m.safetensors" else torch.load(tmp_path / name)
        plain.load_state_dict(state, strict=True)
        assert torch.equal(plain(x), network(x))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_a_graph_of_a_network_with_layer_norms_takes_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    run = str(tmp_path / "r")
    given = ["backbone.name=timm/test_convnext", "backbone.weights=none", "data.image_size=32"]
    experiment.run(load(None, [*ALONE, *given]), run, "test", Quiet())
    export.export(run, None, str(tmp_path / "m.onnx"))
    network, _ = export.network(run)
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        x = torch.randn(count, 3, 32, 32)
        (found,) = session.run(None, {"images": x.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(found, network(x).numpy(), rtol=1e-3, atol=1e-3)
