"""Graphs cut before what evolves, with other values, and what can't be a classifier's graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from onnx_models import helper, numpy_helper, onnx, onnxruntime

from neuroevo.errors import InputError
from neuroevo.networks import onnxgraphs

IMAGES = np.random.default_rng(2).uniform(size=(5, 3, 8, 8)).astype(np.float32)


def run(content: bytes, inputs: dict[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return list(session.run(outputs, inputs))


def observe(content: bytes, outputs: Sequence[str]) -> list[Any]:
    return run(content, {"images": IMAGES}, outputs) if outputs else []


@pytest.mark.parametrize(
    ("kind", "evolved", "ends"),
    [
        ("float", ["fc.bias"], ("g",)),
        ("float", ["norm.shift", "fc.weight"], ("c",)),
        ("float", ["stem.weight"], ("images",)),
        ("qdq", ["fc.weight_scale"], ("f_QuantizeLinear_Output",)),
        ("qdq", ["body.weight_scale"], ("b_QuantizeLinear_Output",)),
        ("qoperator", ["body.weight_scale"], ("a_quantized",)),
    ],
)
def test_the_parts_before_and_behind_the_cut_make_the_whole(
    tmp_path: Path, kind: str, evolved: list[str], ends: tuple[str, ...]
) -> None:
    content = onnxgraphs.read(onnx_models.write(tmp_path, kind))
    graph = onnxgraphs.parse(content, "it")
    parts = onnxgraphs.divide(graph, evolved, observe, len(IMAGES))
    assert parts.ends == ends
    between = [IMAGES] if parts.prefix is None else run(parts.prefix, {"images": IMAGES})
    found = run(parts.rest, dict(zip(ends, between, strict=True)))[0]
    np.testing.assert_allclose(found, run(content, {"images": IMAGES})[0], rtol=1e-5, atol=1e-5)
    assert onnxgraphs.divide(graph, evolved, observe, len(IMAGES), whole=True).prefix is None


def test_what_passes_the_cut_may_be_several_tensors_but_none_without_a_row_a_sample(tmp_path: Path) -> None:
    extra = [
        helper.make_node("Shape", ["logits"], ["shape"]),
        helper.make_node("Reshape", ["logits", "shape"], ["again"]),
        helper.make_node("Mul", ["again", "gain"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["formed"]),
        helper.make_node("Concat", ["formed", "f"], ["out"], axis=1),
    ]
    proto = onnx.load(str(onnx_models.write_float(tmp_path / "m.onnx", extra=extra)))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([2.0]), "gain"))
    proto.graph.output[0].name = "out"
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    content = proto.SerializeToString()
    parts = onnxgraphs.divide(onnxgraphs.parse(content, "it"), ["gain"], observe, len(IMAGES))
    assert parts.prefix is not None
    assert parts.ends == ("f", "logits", "again")
    between = dict(zip(parts.ends, run(parts.prefix, {"images": IMAGES}), strict=True))
    np.testing.assert_allclose(run(parts.rest, between)[0], run(content, {"images": IMAGES})[0], rtol=1e-5, atol=1e-5)


def test_an_initialiser_within_a_branch_counts(tmp_path: Path) -> None:
    def branch(name: str) -> Any:
        node = helper.make_node("Add", ["logits", "fc.bias"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, 1, None)])

    extra = [helper.make_node("If", ["yes"], ["out"], then_branch=branch("x"), else_branch=branch("y"))]
    proto = onnx.load(str(onnx_models.write_float(tmp_path / "m.onnx", extra=extra)))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.output[0].name = "out"
    content = proto.SerializeToString()
    parts = onnxgraphs.divide(onnxgraphs.parse(content, "it"), ["fc.bias"], observe, len(IMAGES))
    assert parts.ends == ("g",)


def test_a_bias_of_whole_numbers_keeps_its_size_when_the_scales_of_its_layer_change(tmp_path: Path) -> None:
    content = onnxgraphs.read(onnx_models.write(tmp_path, "qdq"))
    values = onnxgraphs.parse(content, "it").values
    name = "stem.weight_scale"
    changed = onnxgraphs.with_values(content, {name: values[name] * np.float32([0.5, 1, 2, 3])})

    def bias(of: bytes) -> tuple[Any, Any]:
        held = {i.name: numpy_helper.to_array(i) for i in onnx.ModelProto.FromString(of).graph.initializer}
        return held["stem.bias_quantized"] * held["stem.bias_quantized_scale"].astype(float), held

    before, _ = bias(content)
    after, held = bias(changed)
    np.testing.assert_allclose(after, before, rtol=1e-3)
    np.testing.assert_allclose(held["stem.bias_quantized_scale"], held["images_scale"] * held[name], rtol=1e-6)
    assert onnxgraphs.with_values(content, {}) == content


BAD = {
    "nothing": (lambda path: path.unlink(), "is not a file"),
    "text": (lambda path: path.write_text("weights"), "can't be read as ONNX"),
    "empty": (lambda path: path.write_bytes(b""), "can't be read as ONNX"),
    "external data that are gone": (lambda path: _external(path), "can't be read as ONNX"),
}


def _external(path: Path) -> None:
    proto = onnx.load(str(path))
    onnx.save(proto, str(path), save_as_external_data=True, location="data.bin", size_threshold=0)
    (path.parent / "data.bin").unlink()


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_none_is_said_in_a_line(tmp_path: Path, case: str) -> None:
    path = onnx_models.write_float(tmp_path / "m.onnx")
    spoil, line = BAD[case]
    spoil(path)
    with pytest.raises(InputError, match=line) as caught:
        onnxgraphs.read(path)
    assert "m.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_whole_with_its_external_data(tmp_path: Path) -> None:
    path = onnx_models.write_float(tmp_path / "m.onnx")
    before = run(onnxgraphs.read(path), {"images": IMAGES})[0]
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="data.bin", size_threshold=0)
    content = onnxgraphs.read(path)
    (tmp_path / "data.bin").unlink()
    np.testing.assert_array_equal(run(content, {"images": IMAGES})[0], before)


def within(proto: Any, where: str) -> Any:
    """Put a tensor somewhere into a graph and return it."""
    if where == "initialiser":
        return proto.graph.initializer[0]
    constant = helper.make_node("Constant", [], ["v"], value=numpy_helper.from_array(np.ones(1)))
    branch = helper.make_graph([constant], "branch", [], [])
    proto.graph.node.append(
        constant if where == "constant" else helper.make_node("If", ["q"], ["r"], then_branch=branch)
    )
    node = proto.graph.node[-1]
    return (node if where == "constant" else node.attribute[0].g.node[0]).attribute[0].t


@pytest.mark.parametrize("where", ["initialiser", "constant", "branch"])
@pytest.mark.parametrize("location", ["data.bin", "../secret", "/etc/passwd", ""])
def test_bytes_name_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, location: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.bin").write_bytes(bytes(10_000))
    proto = onnx.load(str(onnx_models.write_float(tmp_path / "m.onnx")))
    tensor = within(proto, where)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    with pytest.raises(InputError, match=r"it has numbers in another file \(.+\), which isn't read"):
        onnxgraphs.parse(proto.SerializeToString(), "it")


@pytest.mark.parametrize("name", [b"small", b"/stem", b"fc.weight", b"logits"])
def test_a_name_that_is_no_text_is_said_in_a_line(tmp_path: Path, name: bytes) -> None:
    content = onnx_models.write_float(tmp_path / "m.onnx").read_bytes()
    with pytest.raises(InputError, match=r"it can't be read as ONNX"):
        onnxgraphs.parse(content.replace(name, b"\xff" + name[1:]), "it")


@pytest.mark.parametrize("content", [b"", b"weights", b"\xff" * 99])
def test_bytes_that_are_no_graph_are_said_in_a_line(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^file: it"):
        onnxgraphs.parse(content, "it")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda g: g.output.append(helper.make_tensor_value_info("e", 1, None)), "2 outputs"),
        (lambda g: g.input.append(helper.make_tensor_value_info("mask", 1, None)), r"2 inputs \(images, mask\)"),
        (lambda g: setattr(g.input[0].type.tensor_type.shape.dim[0], "dim_value", 4), "batch is fixed at 4"),
    ],
)
def test_a_graph_that_is_no_classifiers_is_said_in_a_line(tmp_path: Path, change: Any, line: str) -> None:
    proto = onnx.load(str(onnx_models.write_float(tmp_path / "m.onnx")))
    change(proto.graph)
    with pytest.raises(InputError, match=line):
        onnxgraphs.parse(proto.SerializeToString(), "it")


def test_initialisers_that_old_files_list_as_inputs_are_none(tmp_path: Path) -> None:
    proto = onnx.load(str(onnx_models.write_float(tmp_path / "m.onnx")))
    proto.graph.input.extend(helper.make_tensor_value_info(i.name, 1, i.dims) for i in proto.graph.initializer)
    assert onnxgraphs.parse(proto.SerializeToString(), "it").input == "images"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = onnx_models.write_float(tmp_path / "m.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'neuroevo\[onnx\]'"):
        onnxgraphs.read(path)


@pytest.mark.parametrize("name", ["fc.weight", "norm.shift", "images", "logits", "Conv"])
def test_a_text_that_is_not_utf_8_is_refused_wherever_it_is(tmp_path: Path, name: str) -> None:
    """Protobuf gives it as bytes, in place of a text."""
    content = onnx_models.write(tmp_path, "float").read_bytes()
    damaged = content.replace(name.encode(), b"\xff" + name.encode()[1:])
    if damaged == content:
        pytest.fail(f"{name} isn't in the file")
    with pytest.raises(InputError, match="it can't be read as ONNX"):
        onnxgraphs.parse(damaged, "it")
