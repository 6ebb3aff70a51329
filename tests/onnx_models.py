"""ONNX files for tests, made node by node: a small convolutional classifier, and what onnxruntime's quantiser makes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx: Any = pytest.importorskip("onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime")
quantization: Any = pytest.importorskip("onnxruntime.quantization")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

SIZE, CLASSES = 8, 3
KINDS = ("float", "qdq", "qoperator", "dynamic")


def write_float(
    path: Path, *, batch: int | str = "batch", classes: int = CLASSES, extra: Sequence[Any] = (), opset: int = 17
) -> Path:
    """Write convolution, norm, pool and a linear layer on images [batch, 3, 8, 8]."""
    draws = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(draws.normal(size=shape).astype(np.float32), name)

    norm = {name: np.float32(value) * np.ones(6, np.float32) for name, value in
            {"norm.scale": 1.5, "norm.shift": 0.1, "norm.mean": 0.2, "norm.var": 2.0}.items()}  # fmt: skip
    initial = [
        weights("stem.weight", 4, 3, 3, 3), weights("stem.bias", 4), weights("body.weight", 6, 4, 3, 3),
        *(numpy_helper.from_array(value, name) for name, value in norm.items()),
        weights("fc.weight", 6, classes), weights("fc.bias", classes),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["images", "stem.weight", "stem.bias"], ["a"], pads=[1, 1, 1, 1], name="/stem"),
        helper.make_node("Relu", ["a"], ["b"], name="/relu"),
        helper.make_node("Conv", ["b", "body.weight"], ["c"], strides=[2, 2], name="/body"),
        helper.make_node("BatchNormalization", ["c", *norm], ["d"], name="/norm"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="/pool"),
        helper.make_node("Flatten", ["e"], ["f"], name="/flatten"),
        helper.make_node("MatMul", ["f", "fc.weight"], ["g"], name="/fc"),
        helper.make_node("Add", ["g", "fc.bias"], ["logits"], name="/add"),
        *extra,
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, classes])],
        initial,
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), str(path))
    return path


class Calibration(quantization.CalibrationDataReader):
    """Some images."""

    def __init__(self) -> None:
        self.left = iter(np.random.default_rng(1).uniform(size=(4, 8, 3, SIZE, SIZE)).astype(np.float32))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, None after the last."""
        batch = next(self.left, None)
        return None if batch is None else {"images": batch}


def write(folder: Path, kind: str) -> Path:
    """Write a classifier of a kind of KINDS into a folder; return its file."""
    plain = write_float(folder / "float.onnx")
    path = folder / f"{kind}.onnx"
    if kind == "dynamic":
        quantization.quantize_dynamic(str(plain), str(path))
    elif kind != "float":
        form = quantization.QuantFormat.QDQ if kind == "qdq" else quantization.QuantFormat.QOperator
        quantization.quantize_static(str(plain), str(path), Calibration(), quant_format=form, per_channel=True)
    return path


def write_rows(path: Path, width: int) -> Path:
    """Write a linear classifier of rows of numbers [batch, width]."""
    initial = [
        numpy_helper.from_array(np.ones((width, CLASSES), np.float32), "weight"),
        numpy_helper.from_array(np.zeros(CLASSES, np.float32), "bias"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["logits"])],
        "rows",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", CLASSES])],
        initial,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
