"""ONNX graphs: read, given other values for their initialisers, and cut before those that evolve.

What doesn't depend on any that evolves is a graph of its own, the prefix. Between a quantiser's nodes the graph is cut
at whole numbers only, so that both parts are fused as the whole graph is.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuroevo.errors import InputError

Array = npt.NDArray[Any]
Run = Callable[[bytes, Sequence[str]], Sequence[Array]]  # a graph's outputs of some batch

MISSING = "needs the extra 'onnx': pip install 'neuroevo[onnx]'"
FLOAT32 = 1  # as ONNX numbers its types
BATCH = "batch"
INT32 = 6
WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")
CONVOLUTIONS = ("Conv", "FusedConv", "ConvTranspose")
# Nodes that are computed again behind the cut: a dequantised tensor is fused with what uses it.
AGAIN = ("DequantizeLinear", "DynamicQuantizeLinear")


def library(name: str) -> Any:
    """Return a library of the extra `onnx`; InputError where it isn't installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"onnx {MISSING} ({name} isn't installed)", option="name") from None


@dataclass(frozen=True)
class Graph:
    """A graph of one input and one output, as a protobuf."""

    proto: Any  # an onnx.ModelProto
    input: str
    dims: tuple[int | None, ...]  # of the input, batch included; None: free
    output: str
    values: dict[str, Array] = field(repr=False)  # of the initialisers that are float32, by name

    def __deepcopy__(self, memo: object) -> "Graph":
        return self  # nobody changes it

    @property
    def one_by_one(self) -> bool:
        """Whether it takes samples one by one: its batch is 1, or activations are quantised by the range of a batch."""
        return self.dims[0] == 1 or any(node.op_type == "DynamicQuantizeLinear" for node in self.proto.graph.node)


def read(path: str | Path) -> bytes:
    """Return an ONNX file with its external data as bytes; InputError where it isn't there or is none."""
    onnx, path = library("onnx"), Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"{path} is not a file", option="file")
    try:
        proto = onnx.load(str(path))
        if not proto.graph.node:
            raise ValueError("it has no nodes")
        return bytes(proto.SerializeToString(deterministic=True))
    except Exception as error:  # protobuf, onnx and the system raise their own
        raise InputError(f"{path} can't be read as ONNX ({_reason(error)})", option="file") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _elsewhere(message: Any, onnx: Any) -> str | None:
    """Return where a message, or one within it, says that a tensor's numbers are, if that is another file."""
    if isinstance(message, onnx.TensorProto) and (
        message.data_location == onnx.TensorProto.EXTERNAL or message.external_data
    ):
        return next((item.value for item in message.external_data if item.key == "location"), "") or "without a name"
    for kind, value in message.ListFields():
        if kind.type == kind.TYPE_STRING:
            for text in [value] if isinstance(value, str | bytes) else value:
                if isinstance(text, bytes):  # as protobuf gives a text that isn't UTF-8, where it doesn't raise
                    raise ValueError(f"{kind.name} isn't UTF-8")
        if kind.message_type is None:
            continue
        for inner in [value] if hasattr(value, "ListFields") else value:
            if (found := _elsewhere(inner, onnx)) is not None:
                return found
    return None


def parse(content: bytes, source: str) -> Graph:
    """Return the graph of an ONNX file; InputError, about its `source`, where it hasn't one input and one output."""
    onnx = library("onnx")
    try:
        proto = onnx.ModelProto.FromString(content)
        where = _elsewhere(proto, onnx)
    except Exception as error:  # protobuf's own
        raise InputError(f"{source} can't be read as ONNX ({_reason(error)})", option="file") from None
    if where is not None:
        raise InputError(f"{source}: it has numbers in another file ({where}), which isn't read", option="file")
    graph = proto.graph
    values = {item.name: item for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in values]
    for what, found in (("input", inputs), ("output", graph.output)):
        if len(found) != 1:
            names = ", ".join(item.name for item in found) or "none"
            raise InputError(f"{source}: {len(found)} {what}s ({names}); a classifier has one", option="file")
    kept = [item for item in graph.input if item.name not in values]  # of old files initialisers are inputs as well
    del graph.input[:]
    graph.input.extend(kept)
    shape = inputs[0].type.tensor_type.shape
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in shape.dim)
    if len(dims) < 2:
        raise InputError(f"{source}: its input has {len(dims)} dimensions; [samples, ...] expected", option="file")
    if dims[0] not in (None, 1):
        raise InputError(f"{source}: its batch is fixed at {dims[0]}; export it with a free one, or 1", option="file")
    try:
        floats = {name: onnx.numpy_helper.to_array(item) for name, item in values.items() if item.data_type == FLOAT32}
    except Exception as error:  # of numbers that aren't as many as their shape says, onnx raises whatever it likes
        raise InputError(f"{source} can't be read as ONNX ({_reason(error)})", option="file") from None
    return Graph(proto, inputs[0].name, dims, graph.output[0].name, floats)


def with_values(content: bytes, values: Mapping[str, Array]) -> bytes:
    """Return a file with other values for some of its initialisers, float32 of the same shapes.

    Where scales beside a bias of whole numbers change, the bias is quantised anew, as it is used, by their product.
    """
    onnx = library("onnx")
    proto = onnx.ModelProto.FromString(content)
    changed = []
    for item in proto.graph.initializer:
        value = values.get(item.name)
        if value is not None and not np.array_equal(onnx.numpy_helper.to_array(item), value):
            item.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, dtype=np.float32), item.name))
            changed.append(item.name)
    _quantise_biases(proto.graph, changed)
    return bytes(proto.SerializeToString(deterministic=True))


def _quantise_biases(graph: Any, changed: Collection[str]) -> None:
    """Give each int32 bias whose layer has a scale among those `changed` the product of its layer's scales.

    That is its scale in integer arithmetic; with another one onnxruntime leaves the layer in floats. The bias itself
    stays as large as it is by its own scale.
    """
    numpy_helper = library("onnx").numpy_helper
    held = {item.name: item for item in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    users = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        made = [maker[name] for name in node.input if name in maker]
        if node.op_type not in WITH_BIAS or len(made) != 3 or len(node.input) != 3:
            continue
        if any(each.op_type != "DequantizeLinear" or each.input[1] not in held for each in made):
            continue
        levels, own = made[2].input[:2]
        scales = [each.input[1] for each in made[:2]]
        if levels not in held or held[levels].data_type != INT32 or not {own, *scales} & {*changed}:
            continue
        if users[levels] != 1 or users[own] != 1:  # of another layer as well
            continue
        given, taken, before = (numpy_helper.to_array(held[name]).astype(np.float64) for name in (*scales, own))
        after = np.broadcast_to(given * taken, before.shape) if before.ndim else given.reshape(()) * taken.reshape(())
        with np.errstate(all="ignore"):  # scales of zero spoil an individual, and nobody else
            whole = np.rint(numpy_helper.to_array(held[levels]) * before / after)
        limit = np.iinfo(np.int32).max
        whole = np.nan_to_num(whole).clip(-limit, limit).astype(np.int32)
        held[levels].CopyFrom(numpy_helper.from_array(whole, levels))
        held[own].CopyFrom(numpy_helper.from_array(np.asarray(after, dtype=np.float32), own))


def with_inputs(content: bytes, names: Collection[str]) -> tuple[bytes, list[str]]:
    """Return a file with some of its initialisers as inputs, and those of the names that it has."""
    onnx = library("onnx")
    proto = onnx.ModelProto.FromString(content)
    found = [item for item in proto.graph.initializer if item.name in names]
    kept = [item for item in proto.graph.initializer if item.name not in names]
    proto.graph.input.extend(_tensor(item.name, item.data_type, tuple(item.dims)) for item in found)
    listed = [item.name for item in found]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return bytes(proto.SerializeToString(deterministic=True)), listed


@dataclass(frozen=True)
class Parts:
    """A graph in two: what comes before the initialisers that evolve, and the rest."""

    prefix: bytes | None  # None: there is nothing, the rest takes the graph's input
    rest: bytes  # with all initialisers as constants
    ends: tuple[str, ...]  # the tensors between the two


def divide(graph: Graph, evolved: Collection[str], run: Run, batch: int, *, whole: bool = False) -> Parts:
    """Cut a graph before the initialisers `evolved`; with `whole` at its input. InputError where they do nothing.

    `run(graph, outputs)` gives outputs [batch, ...] of some batch, by which shapes and types are known.
    """
    nodes, proto = graph.proto.graph.node, graph.proto
    varying, changing = {graph.input}, set(evolved)
    for node in nodes:
        given = _reads(node)
        if varying & given:
            varying.update(node.output)
        if changing & given:
            changing.update(node.output)
    if graph.output not in changing:
        raise InputError(f"its output doesn't depend on {', '.join(sorted(evolved)[:3])}", option="trainable")
    maker = {name: node for node in nodes for name in node.output}
    passing = varying - changing - {name for name, node in maker.items() if node.op_type in AGAIN}
    passing = {graph.input} if whole else passing | {graph.input}
    while True:
        after, ends = _sources([graph.output], maker, passing)
        found = {name: _tensor(name) for name in ends if name != graph.input}
        shapes = dict(zip(found, run(_part(proto, nodes, proto.graph.input, [*found.values()]), [*found]), strict=True))
        wrong = [name for name, value in shapes.items() if value.ndim < 1 or len(value) != batch]
        if not wrong:
            break
        passing -= {*wrong}
    ends = [name for name in dict.fromkeys([graph.input, *maker]) if name in ends]  # in the graph's order
    between = {name: _tensor(name, _kind(value), (BATCH, *value.shape[1:])) for name, value in shapes.items()}
    own = {graph.input: proto.graph.input[0]} | between
    rest = _part(proto, after, [own[name] for name in ends], proto.graph.output)
    if ends == [graph.input]:
        return Parts(None, rest, (graph.input,))
    before, _ = _sources(ends, maker, {graph.input})
    through = [own[name] for name in ends]
    return Parts(_part(proto, before, proto.graph.input, through), rest, tuple(ends))


def shape_kernels(content: bytes, names: Collection[str]) -> bool:
    """Tell whether initialisers make weights of a convolution: as constants they are laid out for it, once."""
    nodes = library("onnx").ModelProto.FromString(content).graph.node
    made, computed = set(names), {name for node in nodes for name in node.output}
    for node in nodes:
        if node.op_type in CONVOLUTIONS and made.intersection(node.input[1:]):
            return True
        given = _reads(node)
        if made & given and not given & (computed - made):
            made.update(node.output)
    return False


def _reads(node: Any) -> set[str]:
    """Return the names of the tensors that a node takes, those of graphs within it included."""
    found = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            made = {item.name for item in (*inner.input, *inner.initializer)}
            made.update(name for each in inner.node for name in each.output)
            taken = {item.name for item in inner.output}.union(*(_reads(each) for each in inner.node))
            found |= taken - made
    return found


def _sources(outputs: Iterable[str], maker: Mapping[str, Any], passing: Collection[str]) -> tuple[list[Any], list[str]]:
    """Return the nodes that outputs are computed by, as far as tensors that may pass the cut, and these tensors."""
    first, found, ends, waiting = set(outputs), set(), [], [*outputs]
    names: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        names.add(name)
        if name in passing and (name not in first or name not in maker):
            ends.append(name)
        elif name in maker:
            found.update(maker[name].output)
            waiting += _reads(maker[name])
    order = {id(node): node for name, node in maker.items() if name in found}
    return [*order.values()], ends


def _kind(value: Array) -> int:
    return int(library("onnx").helper.np_dtype_to_tensor_dtype(value.dtype))


def _tensor(name: str, kind: int | None = None, shape: Sequence[int | str] | None = None) -> Any:
    """Return what a graph says of an input or an output; without a type it is inferred."""
    onnx = library("onnx")
    return onnx.ValueInfoProto(name=name) if kind is None else onnx.helper.make_tensor_value_info(name, kind, shape)


def _part(proto: Any, nodes: Iterable[Any], inputs: Iterable[Any], outputs: Iterable[Any]) -> bytes:
    """Return some of a graph's nodes as a graph of its own, with the initialisers that it needs."""
    onnx = library("onnx")
    nodes, inputs = [*nodes], [*inputs]
    needed = set().union(*(_reads(node) for node in nodes), [*(item.name for item in outputs)])
    needed -= {item.name for item in inputs}
    part = onnx.ModelProto(ir_version=proto.ir_version)
    part.opset_import.extend(proto.opset_import)
    part.functions.extend(proto.functions)
    part.graph.name = proto.graph.name or "part"
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(item for item in proto.graph.initializer if item.name in needed)
    part.graph.sparse_initializer.extend(proto.graph.sparse_initializer)
    part.graph.quantization_annotation.extend(proto.graph.quantization_annotation)
    part.graph.input.extend(inputs)
    part.graph.output.extend(outputs)
    return bytes(part.SerializeToString(deterministic=True))
