from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import Quiet
from PIL import Image
from safetensors.torch import load_file

from neuroevo import checkpoint, composition, experiment, export, features
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.images import pixels

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
    parts, step = experiment.opened(run, Quiet())
    rows = torch.arange(5)
    logits = parts.forward(parts.express(step.champion.genome[None]), parts.features.batch(rows)[0])[0]
    whole = composition.dataset(parts.config)[0]
    t = parts.backbone.transform
    images = [pixels(whole.images[i], 3, t.size, Image.Resampling[t.interpolation.upper()]) for i in range(5)]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return features.normalised(batch, t, torch.device("cpu")), logits


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
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


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
    with h5py.File(checkpoint.listed(tmp_path / "r" / "checkpoints")[0]) as file:  # with h5py alone
        fitness, front = file["front/fitness"][()], file["front/genomes"][()]
        everybody = file["population/fitness"][()]
    assert len(fitness) > 3
    assert (np.diff(fitness[:, 0]) < 0).all()
    assert not [i for i in fitness for j in everybody if (j >= i).all() and (j > i).any()]
    parts, _ = experiment.opened(run, Quiet())
    whole, splits = composition.dataset(parts.config)
    images = torch.from_numpy(whole.images.pixels).float()[splits["train"]] / 255  # type: ignore[union-attr]
    targets = torch.from_numpy(whole.labels)[splits["train"]]
    champion = load_file(tmp_path / "r" / "champion.safetensors")
    same = []
    for i, row in enumerate(fitness):
        export.export(run, "safetensors", str(tmp_path / "w"), i)
        plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        weights = load_file(tmp_path / "w")
        plain[1].load_state_dict({key.rpartition(".")[2]: value for key, value in weights.items()})
        with torch.inference_mode():
            loss = torch.nn.functional.cross_entropy(plain(images), targets)
        assert float(loss) == pytest.approx(-row[0], rel=1e-4)
        assert np.linalg.norm(front[i].astype(float)) == pytest.approx(-row[1])
        assert np.linalg.norm(front[i].astype(float)) == pytest.approx(-row[2])  # the start is zero
        same.append(all(torch.equal(weights[key], value) for key, value in champion.items()))
    assert sum(same) <= 1
    with pytest.raises(InputError, match="--member: -1 given; the front of"):
        experiment.evaluate(run, None, Quiet(), -1)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--format: 'zip'"):
        export.export("x", "zip", "y")
    with pytest.raises(InputError, match="--out: no folder"):
        export.export("x", "pt", str(tmp_path / "nowhere" / "y"))


def test_a_run_of_one_objective_has_no_member(finished: str, tmp_path: Path) -> None:
    for use in (
        lambda: export.export(finished, "pt", str(tmp_path / "x"), 0),
        lambda: experiment.evaluate(finished, None, Quiet(), 0),
    ):
        with pytest.raises(InputError, match="has no front; only a run with fitness.metrics has one"):
            use()
    assert not (tmp_path / "x").exists()
