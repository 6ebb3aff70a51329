"""An ONNX file as a module: its float initialisers are parameters, and onnxruntime computes it, on the CPU.

It has no backward pass. Alone, its parameters are constants of the session that computes it, as they will be where it
is deployed. Cut before those that evolve (`divide`), they are inputs of one session for all individuals, in the graph
as onnxruntime optimises it or as it is. Where what evolves shapes a convolution's weights, which are several times as
fast as constants, or where logits would be others, each individual has a session.
"""

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroevo.errors import InputError, RunError
from neuroevo.networks import onnxgraphs
from neuroevo.networks.cut import IMAGES, Divided
from neuroevo.networks.deep import CPU_INDIVIDUALS
from neuroevo.networks.onnxgraphs import Array, library

FILE = "file"  # the buffer with the file's bytes, so that a state dict is the whole network
NUDGES = (0.0, 0.01, 0.2)  # relative changes of initialisers by which a cut is tried
CLOSE = 1e-4  # of the largest logit: what rounding in other kernels may change
SESSIONS, SESSIONS_BYTES = CPU_INDIVIDUALS, 2**29  # with values as constants that are kept, and of their files, at most
QUIET = 3  # onnxruntime's severity of errors
NO_GRADIENTS = "an ONNX file has no backward pass: gradient steps and safe mutation don't go with it"
TYPES = {  # of onnxruntime's inputs
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class Session:
    """A session of onnxruntime, made when it is first used, and again where torch has another number of threads."""

    def __init__(self, content: bytes, source: str, *, one_by_one: bool = False) -> None:
        self.content, self.source, self.one_by_one = content, source, one_by_one
        self._made: tuple[int, Any, dict[str, type]] | None = None

    def __deepcopy__(self, memo: object) -> "Session":
        return self  # it keeps nothing from one call to the next

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": None}

    def open(self) -> tuple[int, Any, dict[str, type]]:
        """Return the threads, the session, and the types of its inputs; InputError where onnxruntime can't run it."""
        threads = torch.get_num_threads()
        if self._made is not None and self._made[0] == threads:
            return self._made
        ort = library("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level, options.use_deterministic_compute = QUIET, True
        made = self._make(options)
        kinds = {item.name: item.type for item in made.get_inputs()}
        for name, kind in kinds.items():
            if kind not in TYPES:
                line = f"{self.source}: its input {name} is a {kind}; one of {', '.join(TYPES)} expected"
                raise InputError(line, option=FILE)
        self._made = threads, made, {name: TYPES[kind] for name, kind in kinds.items()}
        return self._made

    def _make(self, options: Any) -> Any:
        try:
            return library("onnxruntime").InferenceSession(self.content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen of its own
            raise InputError(f"{self.source}: onnxruntime can't run it ({_brief(error)})", option=FILE) from None

    def optimise(self) -> bytes:
        """Return the graph as onnxruntime optimises it for any CPU."""
        ort = library("onnxruntime")
        options = ort.SessionOptions()
        options.log_severity_level = QUIET
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "optimised.onnx")
            options.optimized_model_filepath = str(path)
            self._make(options)
            return path.read_bytes()

    def run(
        self, inputs: Mapping[str, Tensor], values: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> list[Tensor]:
        """Return outputs, all by default, of inputs [B, ...] by name and `values` for initialisers that are inputs.

        They are on the inputs' device; RunError where onnxruntime fails.
        """
        _, session, types = self.open()
        device = next(iter(inputs.values())).device
        given = {name: _array(tensor, types[name]) for name, tensor in inputs.items()}
        count = len(next(iter(given.values())))
        step = 1 if self.one_by_one else max(1, count)
        try:
            parts = [
                session.run(outputs, {**{name: x[i : i + step] for name, x in given.items()}, **values})
                for i in range(0, count, step)
            ]
        except Exception as error:
            raise RunError(f"{self.source}: onnxruntime failed ({_brief(error)})") from None
        found = parts[0] if len(parts) == 1 else [np.concatenate(each) for each in zip(*parts, strict=True)]
        return [torch.from_numpy(np.asarray(each)).to(device) for each in found]


class OnnxNetwork(nn.Module):
    """An ONNX file of one input [B, ...] and one output, whose float32 initialisers are parameters under their names.

    A dot in a name is a level of modules, as in torch's own names; where that can't be, it becomes a slash.
    """

    file: Tensor

    def __init__(self, content: bytes, source: str = "the ONNX file") -> None:
        super().__init__()
        self.graph, self.source = onnxgraphs.parse(content, source), source
        self.baked = dict(self.graph.values), Session(content, source, one_by_one=self.graph.one_by_one)
        self.tried: Tensor | None = None  # inputs that it was cut by
        self.whole = False  # whether it is cut at its input and nowhere else
        self.names: dict[str, str] = {}  # {an initialiser: the parameter's name}
        self.register_buffer(FILE, torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.names |= {name: _register(self, name, value) for name, value in self.graph.values.items()}
        if not self.names:
            raise InputError(f"{source}: none of its initialisers is float32; nothing could evolve", option=FILE)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits [B, C] of inputs [B, ...]; InputError where gradients of it are asked for."""
        _refuse_gradients((*self.parameters(), inputs))
        return self.session().run({self.graph.input: inputs}, {})[0].float()

    @property
    def content(self) -> bytes:
        """The file as it was given."""
        return self.file.cpu().numpy().tobytes()

    def input_type(self) -> str:
        """Return the type of the file's input, by numpy's name."""
        return np.dtype(self.session().open()[2][self.graph.input]).name

    def values(self) -> dict[str, Array]:
        """Return the initialisers that are parameters, as they are now, by their names in the file."""
        return {name: _array(self.get_parameter(own)) for name, own in self.names.items()}

    def to_onnx(self) -> bytes:
        """Return the file with the parameters as they are now."""
        return onnxgraphs.with_values(self.content, self.values())

    def save(self, path: str | Path) -> None:
        """Write the file with the parameters as they are now; InputError where the place can't be written."""
        try:
            Path(path).expanduser().write_bytes(self.to_onnx())
        except OSError as error:
            raise InputError(f"{path} can't be written ({error.strerror})", option="path") from None

    def session(self) -> Session:
        """Return a session in which the parameters, as they are now, are constants."""
        values, session = self.baked
        now = self.values()
        if not _same(values, now):
            content = onnxgraphs.with_values(self.content, now)
            session = Session(content, self.source, one_by_one=self.graph.one_by_one)
            self.baked = {name: value.copy() for name, value in now.items()}, session
        return session

    def divide(self, trainable: Collection[str], inputs: Tensor) -> Divided:
        """Return the file in two, cut before the parameters `trainable`.

        `inputs` [2 or more, ...] are put through both. InputError where onnxruntime makes other logits of them than of
        the file: some kernels take constants alone.
        """
        evolved = [name for name, own in self.names.items() if own in trainable]
        self.tried = inputs
        some = inputs[:1] if self.graph.one_by_one else inputs

        def run(content: bytes, outputs: Sequence[str]) -> list[Array]:
            found = Session(content, self.source).run({self.graph.input: some}, {}, outputs) if outputs else []
            return [each.numpy() for each in found]

        for whole in (True,) if self.whole else (False, True):
            parts = onnxgraphs.divide(self.graph, evolved, run, len(some), whole=whole)
            prefix = _Prefix(self, parts.prefix, parts.ends)
            computes = self._way(parts.rest, parts.ends, evolved, (prefix(inputs), inputs))
            if computes is not None:
                rest = _Rest(self, computes, parts.ends, evolved)
                places, could = (IMAGES,) if parts.prefix is None else parts.ends, whole and not self.whole
                reason = "cut, onnxruntime makes other logits of it" if could else None
                return Divided(prefix, rest, places, reason)
        line = f"onnxruntime computes other logits with other values of {evolved[0]} ({len(evolved)} in all)"
        raise InputError(f"{self.source}: {line}, cut before it or whole", option="trainable")

    def _way(
        self, rest: bytes, ends: Sequence[str], evolved: Sequence[str], given: tuple[Sequence[Tensor], Tensor]
    ) -> "Computes | None":
        """Return how the rest is computed, as it would be with the values as constants; None where it can't be."""
        between, inputs = given
        single, source = self.graph.one_by_one, np.random.default_rng(0)
        trials = []
        for nudge in NUDGES:
            own = {}
            for name in evolved:
                value = self.graph.values[name]
                moved = value + nudge * np.abs(value) * source.standard_normal(value.shape)
                own[name] = np.asarray(moved, dtype=np.float32)
            constant = Session(onnxgraphs.with_values(self.content, own), self.source, one_by_one=single)
            trials.append((own, constant.run({self.graph.input: inputs}, {})[0]))
        tensors = dict(zip(ends, between, strict=True))
        for make in (_as_inputs_optimised, _as_inputs, _as_constants):
            computes = make(Session(rest, self.source, one_by_one=single), evolved)
            if computes is not None and all(_agree(computes(tensors, own), logits) for own, logits in trials):
                return computes
        return None


Computes = Callable[[Mapping[str, Tensor], Mapping[str, Array]], Tensor]  # tensors at the cut, what evolves -> logits


def _as_inputs_optimised(rest: Session, evolved: Collection[str]) -> Computes | None:
    """Return how the rest is computed where what evolves are inputs of its optimised graph; None without any left."""
    content, left = onnxgraphs.with_inputs(rest.optimise(), evolved)
    if onnxgraphs.shape_kernels(content, evolved):
        return None
    session = Session(content, rest.source, one_by_one=rest.one_by_one)
    return (lambda tensors, own: session.run(tensors, {name: own[name] for name in left})[0]) if left else None


def _as_inputs(rest: Session, evolved: Collection[str]) -> Computes | None:
    """Return how the rest is computed where what evolves are inputs of its graph; None where that is slow."""
    if onnxgraphs.shape_kernels(rest.content, evolved):
        return None
    session = Session(onnxgraphs.with_inputs(rest.content, evolved)[0], rest.source, one_by_one=rest.one_by_one)
    return lambda tensors, own: session.run(tensors, own)[0]


def _as_constants(rest: Session, evolved: Collection[str]) -> Computes:
    """Return how the rest is computed where what evolves are constants, by a session for each."""
    kept = max(1, min(SESSIONS, SESSIONS_BYTES // len(rest.content)))
    made: list[tuple[Mapping[str, Array], Session]] = []  # the newest last: individuals come again for more samples

    def compute(tensors: Mapping[str, Tensor], own: Mapping[str, Array]) -> Tensor:
        found = next((session for values, session in made if _same(values, own)), None)
        if found is None:
            found = Session(onnxgraphs.with_values(rest.content, own), rest.source, one_by_one=rest.one_by_one)
            made.append(({name: value.copy() for name, value in own.items()}, found))
            del made[:-kept]
        return found.run(tensors, {})[0]

    return compute


def _same(then: Mapping[str, Array], now: Mapping[str, Array]) -> bool:
    return all(np.array_equal(value, now[name], equal_nan=True) for name, value in then.items())


def _agree(found: Tensor, expected: Tensor) -> bool:
    atol = CLOSE * float(expected.nan_to_num().abs().max())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=atol, equal_nan=True)


class _Prefix(nn.Module):
    """What of a file is frozen: inputs to the tensors at the cut."""

    def __init__(self, whole: OnnxNetwork, content: bytes | None, ends: Sequence[str]) -> None:
        super().__init__()
        single = whole.graph.one_by_one
        self.input, self.ends = whole.graph.input, tuple(ends)
        self.session = None if content is None else Session(content, whole.source, one_by_one=single)
        # What its output depends on, for a digest of its state.
        about = (content or b"") + library("onnxruntime").__version__.encode()
        self.register_buffer(FILE, torch.frombuffer(bytearray(about), dtype=torch.uint8))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        if self.session is None:
            return (inputs,)
        return tuple(self.session.run({self.input: inputs}, {}, self.ends))


class _Rest(nn.Module):
    """What of a file comes behind the cut, with what evolves as parameters: the tensors at the cut to logits."""

    def __init__(self, whole: OnnxNetwork, computes: Computes, ends: Sequence[str], evolved: Sequence[str]) -> None:
        super().__init__()
        self.ends, self.computes = tuple(ends), computes
        self.names: dict[str, str] = {}
        self.names |= {name: _register(self, name, whole.graph.values[name]) for name in evolved}

    def forward(self, *tensors: Tensor) -> Tensor:
        own = {name: self._parameter(place) for name, place in self.names.items()}
        _refuse_gradients((*own.values(), *tensors))
        given = dict(zip(self.ends, tensors, strict=True))
        return self.computes(given, {name: _array(value) for name, value in own.items()}).float()

    def _parameter(self, name: str) -> Tensor:
        """Return a parameter, or the tensor that takes its place in a functional call."""
        path, _, last = name.rpartition(".")
        found: Tensor = getattr(self.get_submodule(path), last)
        return found


def onnx(path: str | Path) -> OnnxNetwork:
    """Return an ONNX file as a module in eval mode, whose float32 initialisers are parameters under their names.

    InputError where it can't be read, where onnxruntime can't run it, or where it hasn't one input and one output.
    """
    return of_bytes(onnxgraphs.read(path), str(path))


def of_bytes(content: bytes, source: str) -> OnnxNetwork:
    """Return an ONNX file's bytes as a module; InputError where onnxruntime can't run them."""
    network = OnnxNetwork(content, source)
    network.session().open()
    return network.eval().requires_grad_(False)


def inside(network: nn.Module) -> OnnxNetwork | None:
    """Return the ONNX file that a network is, alone or before a head that leaves its logits as they are, if any."""
    children = [*network.children()] if isinstance(network, nn.Sequential) else [network]
    first = children[0] if children else network
    return first if isinstance(first, OnnxNetwork) and all(map(_passes, children[1:])) else None


def difference(content: bytes, inputs: Tensor, logits: Tensor) -> float:
    """Return by how much of the largest logit a file's logits of inputs differ from these, NaN where either is."""
    graph = onnxgraphs.parse(content, "the file")
    session = Session(content, "the file", one_by_one=graph.one_by_one)
    found = session.run({graph.input: inputs}, {})[0].float()
    return float((found - logits).abs().max()) / max(1e-12, float(logits.abs().max()))


def _passes(layer: nn.Module) -> bool:
    """Tell whether a layer gives what it is given."""
    if not isinstance(layer, nn.Linear):
        return isinstance(layer, nn.Identity)
    square = layer.in_features == layer.out_features and layer.bias is not None
    return square and not bool(layer.bias.any()) and torch.equal(layer.weight.cpu(), torch.eye(layer.in_features))


def _register(module: nn.Module, name: str, value: Array) -> str:
    """Give a module a parameter under an initialiser's name, or one near it; return its name."""
    parameter = nn.Parameter(torch.from_numpy(value.copy()), requires_grad=False)
    for own in (name, name.replace(".", "/"), "/" + name.replace(".", "/")):
        *path, last = own.split(".")
        here: nn.Module | None = module
        for part in path:
            assert here is not None
            if part and not hasattr(here, part):
                here.add_module(part, nn.Module())
            here = here._modules.get(part)
            if here is None:
                break
        if here is not None and last and not hasattr(here, last):
            here.register_parameter(last, parameter)
            return own
    raise InputError(f"{name} can't be the name of a parameter", option=FILE)


def _refuse_gradients(tensors: Iterable[Tensor]) -> None:
    """See that nobody asks for gradients; InputError where somebody does."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise InputError(NO_GRADIENTS)


def _array(tensor: Tensor, dtype: type | None = None) -> Array:
    """Return a tensor as an array in the host's memory, in C order; views where it can."""
    return np.asarray(tensor.detach().cpu().numpy(), dtype=dtype, order="C")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:240] or type(error).__name__
