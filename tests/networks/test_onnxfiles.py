"""ONNX files as modules: their parameters, their cut, and a search of them."""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import torch
from onnx_models import helper, numpy_helper, onnx, onnxruntime
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.errors import InputError
from neuroevo.networks import onnxfiles
from neuroevo.networks.modules import of_module

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
# What evolves of each kind of file, and whether one session serves all.
EVOLVED = {
    "float": (["fc", "norm.shift"], True),
    "qdq": (["*weight_scale"], False),
    "qoperator": (["*scale"], True),
    "dynamic": (["*scale", "norm"], True),
}


def plain(path: Path | bytes, images: Tensor = IMAGES) -> Tensor:
    content = path if isinstance(path, bytes) else path.read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.cat([torch.from_numpy(session.run(None, {"images": image.numpy()})[0]) for image in images.split(1)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return {kind: onnx_models.write(folder, kind) for kind in onnx_models.KINDS}


@pytest.fixture(params=onnx_models.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_module_gives_what_onnxruntime_gives_of_the_file(files: dict[str, Path], kind: str) -> None:
    network = ne.onnx(files[kind])
    torch.testing.assert_close(network(IMAGES), plain(files[kind]), rtol=1e-5, atol=1e-5)
    assert network.to_onnx() == onnx.load(str(files[kind])).SerializeToString(deterministic=True)


def test_parameters_are_the_float_initialisers_under_their_names(files: dict[str, Path]) -> None:
    names = {name for name, _ in ne.onnx(files["float"]).named_parameters()}
    assert {"stem.weight", "norm.var", "fc.bias"} <= names
    names = {name for name, _ in ne.onnx(files["qdq"]).named_parameters()}
    assert "stem.weight_scale" in names
    assert not any(name.endswith(("_zero_point", "_quantized")) for name in names)


def test_names_that_torch_has_no_place_for_get_slashes(tmp_path: Path) -> None:
    path = onnx_models.write_float(tmp_path / "m.onnx")
    proto = onnx.load(str(path))
    new = {"stem.bias": "stem.weight.bias", "norm.shift": "forward", "fc.bias": "a..b"}
    for item in proto.graph.initializer:
        item.name = new.get(item.name, item.name)
    for node in proto.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    path.write_bytes(proto.SerializeToString())
    network = ne.onnx(path)
    assert {"stem.weight", "stem/weight/bias", "/forward", "a//b"} <= {name for name, _ in network.named_parameters()}
    torch.testing.assert_close(network(IMAGES), plain(path), rtol=1e-5, atol=1e-5)


def test_other_parameters_are_another_file(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    network = ne.onnx(files[kind])
    before = network(IMAGES)
    name = "fc.bias" if "fc.bias" in network.names.values() else "stem.weight_scale"
    with torch.no_grad():
        network.get_parameter(name).mul_(1.5)
    assert not torch.equal(network(IMAGES), before)
    network.save(tmp_path / "new.onnx")
    torch.testing.assert_close(plain(tmp_path / "new.onnx"), network(IMAGES), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ne.onnx(tmp_path / "new.onnx")(IMAGES), network(IMAGES), rtol=1e-5, atol=1e-5)


def test_a_copy_is_its_own(files: dict[str, Path]) -> None:
    network = ne.onnx(files["float"])
    before, other = network(IMAGES), deepcopy(network)
    with torch.no_grad():
        other.get_parameter("fc.bias").add_(1)
    assert not torch.equal(other(IMAGES), before)
    assert torch.equal(network(IMAGES), before)


@pytest.mark.parametrize("threads", [1, 2])
def test_it_computes_on_as_many_threads_as_torch(files: dict[str, Path], threads: int) -> None:
    network, before = ne.onnx(files["float"]), torch.get_num_threads()
    network(IMAGES)
    try:
        torch.set_num_threads(threads)
        network(IMAGES)
        assert network.session().open()[1].get_session_options().intra_op_num_threads == threads
    finally:
        torch.set_num_threads(before)


BEHIND = {
    **{kind: (kind, *EVOLVED[kind]) for kind in onnx_models.KINDS},
    "a bias that follows its scale": ("qdq", ["stem.weight_scale"], False),  # which one session would leave as it was
}


@pytest.mark.parametrize("case", BEHIND)
def test_behind_the_cut_each_individual_has_the_logits_of_its_own_file(files: dict[str, Path], case: str) -> None:
    kind, patterns, one_session = BEHIND[case]
    network = ne.onnx(files[kind])
    backbone = of_module(network, IMAGES, trainable=patterns).backbone
    cut = backbone.cut
    assert cut is not None
    assert cut.foreign
    assert cut.reason is None
    rows = cut.rows(IMAGES)
    for scale in (1.0, 1.02, 1.3):
        for name in backbone.trainable:
            p = network.get_parameter(name.removeprefix("network."))
            p.copy_(scale * cut.rest.get_parameter(name))
        own = {name: network.get_parameter(name.removeprefix("network.")) for name in backbone.trainable}
        found = torch.func.functional_call(cut.rest, own, cut.tensors(rows))
        torch.testing.assert_close(found, plain(network.to_onnx()), rtol=1e-4, atol=1e-4)
    made = cut.rest.get_submodule("network").computes
    assert (made.__qualname__.split(".")[0] != "_as_constants") == one_session


def test_what_is_frozen_goes_through_once(files: dict[str, Path]) -> None:
    cut = of_module(ne.onnx(files["qdq"]), IMAGES, trainable=["fc.weight_scale"]).backbone.cut
    assert cut is not None
    assert cut.width == 6
    assert cut.types == (torch.int8,)
    cut = of_module(ne.onnx(files["float"]), IMAGES, trainable=["fc.bias"]).backbone.cut
    assert cut is not None
    assert cut.width == onnx_models.CLASSES


def test_a_file_for_one_sample_takes_many_one_by_one(tmp_path: Path) -> None:
    path = onnx_models.write_float(tmp_path / "m.onnx", batch=1)
    network = ne.onnx(path)
    torch.testing.assert_close(network(IMAGES), plain(path), rtol=1e-5, atol=1e-5)
    cut = of_module(network, IMAGES, trainable=["fc.bias"]).backbone.cut
    assert cut is not None
    assert cut.shapes == ((3,),)
    torch.testing.assert_close(cut.rest(*cut.prefix(IMAGES)), plain(path), rtol=1e-5, atol=1e-5)


def data() -> tuple[Tensor, Tensor]:
    labels = torch.arange(90) % 3
    return torch.rand(90, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + labels[:, None, None, None], labels


def search(path: Path, kind: str, **options: Any) -> Any:
    given = {"budget": ne.Budget(generations=4), "samples": 32, "every": 2, "seed": 1} | options
    return ne.evolve(
        ne.onnx(path), data(), trainable=EVOLVED[kind][0], algorithm=ne.snes(population=6), sigma=0.1, **given
    )


def test_a_search_is_kept_gone_on_with_and_written_as_onnx(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    whole = search(files[kind], kind, out=tmp_path / "whole")
    search(files[kind], kind, out=tmp_path / "part", budget=ne.Budget(generations=2))
    network = ne.onnx(files[kind])
    again = ne.resume(
        tmp_path / "part", network, data(), algorithm=ne.snes(population=6), budget=ne.Budget(generations=4)
    )
    assert torch.equal(whole.genome, again.genome)
    best = [[line["fitness_best"] for line in found.history] for found in (whole, again)]
    assert best[0] == best[1]
    written = (tmp_path / "whole" / "champion.onnx").read_bytes()
    assert written == (tmp_path / "part" / "champion.onnx").read_bytes() == whole.model.to_onnx()
    x = data()[0][:5]
    torch.testing.assert_close(plain(written, x), whole.model(x), rtol=1e-4, atol=1e-4)
    for loaded in (ne.load(tmp_path / "whole", network), ne.load(tmp_path / "whole")):
        torch.testing.assert_close(loaded.model(x), whole.model(x), rtol=1e-5, atol=1e-5)
        assert loaded.predict(x) == [str(i) for i in whole.model(x).argmax(1).tolist()]
    assert torch.equal(network(x), ne.onnx(files[kind])(x))
    if kind == "float":
        with pytest.raises(ValueError, match="another"):
            other = ne.onnx(onnx_models.write_float(tmp_path / "other.onnx", opset=16))
            ne.resume(tmp_path / "part", other, data(), algorithm=ne.snes(population=6))


def test_a_search_begins_around_each_scale_by_its_own_size(files: dict[str, Path]) -> None:
    found = ne.steps(ne.onnx(files["qdq"]), data(), trainable=["stem.weight_scale"], algorithm=ne.snes(), sigma=0.1)
    begun = found.begun.champion.genome
    torch.testing.assert_close(found.begun.state.sigma, 0.1 * begun)
    assert begun.min() < 0.99 * begun.max()


def test_its_module_may_be_what_a_function_scores(files: dict[str, Path]) -> None:
    found = ne.evolve(
        ne.onnx(files["float"]),
        fitness=lambda network: -float(network(IMAGES)[:, 0].abs().mean()),
        trainable=["fc.bias"],
        budget=ne.Budget(generations=3),
    )
    assert found.validation["fitness"] > -float(ne.onnx(files["float"])(IMAGES)[:, 0].abs().mean())


def test_a_head_of_torch_learns_behind_a_frozen_file(files: dict[str, Path]) -> None:
    network = nn.Sequential(ne.onnx(files["float"]), nn.Linear(3, 3))
    found = ne.evolve(network, data(), refine=ne.sgd(steps=5), budget=ne.Budget(generations=2), samples=32)
    assert found.generation
    assert not torch.equal(found.model[1].weight, network[1].weight)
    assert torch.equal(found.model[0](IMAGES), network[0](IMAGES))


def refused(model: nn.Module, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        ne.evolve(model, data(), **{"trainable": ["fc"], "budget": ne.Budget(generations=1), **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_needs_gradients_is_refused(files: dict[str, Path]) -> None:
    network = ne.onnx(files["float"])
    assert "no backward pass" in refused(network, refine=ne.sgd(steps=1))
    safe = {"name": "ga", "population": 4, "elites": 1, "mutation": {"name": "gaussian", "safe": True}}
    assert "no backward pass" in refused(network, algorithm=safe)
    assert "precision" in refused(network, precision="bfloat16")
    with pytest.raises(InputError, match="no backward pass"):
        network.requires_grad_(True)(IMAGES)


def test_what_evolves_is_there_and_does_something(files: dict[str, Path], tmp_path: Path) -> None:
    assert "trainable: nothing.here matches no parameter" in refused(
        ne.onnx(files["float"]), trainable=["nothing.here"]
    )
    path = tmp_path / "m.onnx"
    proto = onnx.load(str(files["float"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([1.0]), "unused"))
    path.write_bytes(proto.SerializeToString())
    assert "doesn't depend on unused" in refused(ne.onnx(path), trainable=["unused"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"extra": [helper.make_node("Nonsense", ["logits"], ["x"], domain="mine")]}, "Nonsense"),
        ({"opset": 99}, "onnxruntime can't run it"),
    ],
)
def test_what_onnxruntime_cant_run_is_said_in_a_line(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    path = onnx_models.write_float(tmp_path / "m.onnx", **options)
    with pytest.raises(InputError, match=line) as caught:
        ne.onnx(path)
    assert "m.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_runtime_is_named(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'neuroevo\[onnx\]' \(onnxruntime isn't installed\)"):
        ne.onnx(files["float"])


def test_a_champion_that_isnt_what_was_scored_is_told(files: dict[str, Path]) -> None:
    network = ne.onnx(files["float"])
    logits = network(IMAGES)
    assert onnxfiles.difference(network.to_onnx(), IMAGES, logits) < onnxfiles.CLOSE
    assert onnxfiles.difference(network.to_onnx(), IMAGES, logits + 1) > onnxfiles.CLOSE
