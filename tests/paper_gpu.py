"""A GPU on paper: tensors that say they are on cuda:0, hold CPU data, and refuse what a real device refuses.

It finds device mistakes on a machine without a GPU, and counts where the host waits for the device. Copies on a stream
of one's own are made as late as a device may, and graphs are captured. It says nothing of speed, kernels or compilers.

    with paper_gpu() as gpu, gpu.count() as waits:
        experiment.run(config, ...)  # with device: cuda
    print(waits.reads)  # {"item: engine/loop.py:234": 12, ...}

`Paper` wraps a CPU tensor, and C++ takes it for one, so that autograd's engine works; its `device` is cuda:0. A
dispatch mode sees operations and factories, a function mode the calls in which C++ would ask the tensor itself for its
device. Functions that make tensors inside (COMPOSITE) run on the CPU data as a whole, since there C++ would make CPU
tensors.
"""

import importlib
import os
import pkgutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import evotorch  # noqa: F401  libraries that look at devices while imported do so before anything is patched
import timm  # noqa: F401
import torch
import torch._dynamo
import torch.distributed.tensor
import torchvision  # noqa: F401
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing

import neuroevo
from neuroevo.data import staging

try:
    from neuroevo.problems import kernels
except ModuleNotFoundError:  # without Triton
    kernels = None  # type: ignore[assignment]

PACKAGE = Path(neuroevo.__file__).parent
HERE = f"{PACKAGE}{os.sep}"
CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
aten = torch.ops.aten
READS = {  # whose result, or its shape, the host needs before it goes on
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "equal", "allclose", "is_nonzero", "_linalg_eigh", "_linalg_svd",
}  # fmt: skip
EXPONENTIAL = 6  # reads of one matrix's, in PyTorch 2.11
FILLS = {"masked_fill", "masked_fill_", "index_fill", "index_fill_"}  # which read a value of the device
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
COPIES = {"_to_copy", "copy_", "copy"}
# Functions that take all tensors from one device, a CPU number with no dimensions included.
STRICT = {
    "mm", "bmm", "addmm", "baddbmm", "mv", "dot", "gather", "scatter", "scatter_", "scatter_add", "scatter_add_",
    "index_select", "index_add", "index_add_", "index_copy", "index_copy_", "index_fill", "embedding", "searchsorted",
    "bucketize", "take", "cat", "stack", "convolution",
}  # fmt: skip
SUMS = {"scatter_add", "scatter_add_", "index_add", "index_add_"}  # which a device adds in whatever order it comes to
RUNNING = {"cumsum", "cumsum_", "logcumsumexp", "put_", "put", "histc"}  # as these do, if their numbers are floats
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv"}  # which have no kernels for whole numbers
COMPOSITE = {"quantile", "nanquantile", "one_hot", "cov", "corrcoef", "histc", "bincount"}
MATMUL = {"matmul", "__matmul__", "__rmatmul__"}
FACTORIES = {
    f"{name}_like" for name in ("zeros", "ones", "empty", "full", "rand", "randn", "randint")
} | {f"new_{name}" for name in ("zeros", "ones", "empty", "full", "tensor")}  # fmt: skip
Generator = torch.Generator


class DeviceMismatch(RuntimeError):
    """What a real device would have refused."""


class OrderMissing(RuntimeError):
    """What a real device would do in another order each time."""


class Waits:
    """Where the thread that counts waited for the device, by kind and line of the package."""

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()  # the host needed a value, or how many there are
        self.writes: Counter[str] = Counter()  # a copy from memory that isn't pinned, or isn't asked to go on alone
        self.thread = threading.get_ident()


class _State:
    """What a GPU on paper remembers while it is entered."""

    def __init__(self) -> None:
        self.counters: list[Waits] = []
        self.generators: dict[int, Any] = {}  # of the device, by their address in C++, kept alive so that it is theirs
        self.pinned: dict[int, Any] = {}  # storages, by address
        self.stream = PaperStream()  # that everything is in by default
        self.local = threading.local()
        self.graph: PaperGraph | None = None  # that is captured now


_state: _State | None = None


def line_of(frame: FrameType | None) -> str:
    """Return the line of the package that a frame is in or was called from."""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(HERE):
            return f"{path.removeprefix(HERE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"


def _count(kind: str, which: str = "reads") -> None:
    if _state is not None and _state.graph is not None and _state.graph.thread == threading.get_ident():
        raise RuntimeError(f"operation not permitted when stream is capturing: {kind}")
    for waits in _state.counters if _state else []:
        if waits.thread == threading.get_ident():
            getattr(waits, which)[f"{kind}: {line_of(sys._getframe(1))}"] += 1


def is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def is_pinned(x: torch.Tensor) -> bool:
    return _state is not None and x.untyped_storage().data_ptr() in _state.pinned


def _pin(x: torch.Tensor) -> torch.Tensor:
    assert _state is not None
    _state.pinned[x.untyped_storage().data_ptr()] = x.untyped_storage()
    return x


class PaperGenerator(Generator):
    """A generator of either device; the host's own algorithm draws for both."""

    def __new__(cls, device: Any = "cpu") -> "PaperGenerator":
        return super().__new__(cls)

    def __init__(self, device: Any = "cpu") -> None:
        self.home = CUDA if is_cuda(device) else CPU
        if is_cuda(device) and _state is not None:
            _state.generators[self._cdata] = self

    @property
    def device(self) -> torch.device:
        return self.home


def _plain(x: Any) -> Any:
    """Return arguments with the CPU data in the place of tensors of the device."""
    if isinstance(x, Paper):
        return x.elem
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    return type(x)(map(_plain, x)) if type(x) in (list, tuple) else x


def _on(x: Any) -> Any:
    """Return results as tensors of the device."""
    if isinstance(x, torch.Tensor):
        return x if isinstance(x, Paper) else Paper(x)
    return type(x)(map(_on, x)) if type(x) in (list, tuple) else x


def _leaves(x: Any) -> list[Any]:
    if isinstance(x, list | tuple):
        return [leaf for each in x for leaf in _leaves(each)]
    return _leaves([*x.values()]) if isinstance(x, dict) else [x]


class _Off(torch.autograd.Function):
    """From the device to the host."""

    @staticmethod
    def forward(ctx: Any, x: "Paper") -> torch.Tensor:
        _count("copy to the host")
        with _disable_current_modes():
            return x.elem.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return Paper(grad)


class _On(torch.autograd.Function):
    """From the host to the device."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alone: bool) -> torch.Tensor:
        if not (alone and is_pinned(x)):
            _count("copy to the device", "writes")
        elif _state is not None:
            _current().read(x.detach())
        with _disable_current_modes():
            return Paper(x.detach().clone(memory_format=torch.preserve_format))

    @staticmethod
    def backward(ctx: Any, grad: "Paper") -> tuple[torch.Tensor, None]:
        return grad.elem, None


class Paper(torch.Tensor):
    """A tensor that says it is on cuda:0."""

    elem: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> "Paper":
        return torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype,
            layout=elem.layout, device="cpu", requires_grad=False,
        )  # fmt: skip

    def __init__(self, elem: torch.Tensor) -> None:
        self.elem = elem

    def __repr__(self) -> str:
        return f"Paper({self.elem!r})"

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def get_device(self) -> int:
        return 0

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        goal, rest, options = _target(args, kwargs)
        if goal is not None and goal.type != "cuda":
            off = _Off.apply(self)
            return off.to(*rest, **options) if rest or options else off
        return torch.Tensor.to(self, *rest, **options) if rest or options else self

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return _Off.apply(self)

    def cuda(self, *_: Any, **__: Any) -> torch.Tensor:
        return self

    def tolist(self) -> Any:
        _count("tolist")
        return self.detach().elem.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def record_stream(self, stream: Any) -> None:
        stream.used.append(self)

    def pin_memory(self, *_: Any) -> Any:
        raise RuntimeError("cannot pin a tensor of the device, only those of the CPU")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _target(args: Any, kwargs: Any) -> tuple[torch.device | None, list[Any], dict[str, Any]]:
    """Return the device that arguments of `Tensor.to` name, and the arguments without it."""
    goal, rest = kwargs.get("device"), []
    for a in args:
        if isinstance(a, str | torch.device):
            goal = a
        elif isinstance(a, torch.Tensor):
            goal = a.device
            rest.append(a.dtype)
        elif isinstance(a, torch.dtype):
            rest.append(a)
    options = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking") and v is not None}
    return None if goal is None else torch.device(goal), rest, options


def _refuse(name: str, args: Any, kwargs: Any) -> None:
    """Refuse tensors of two devices in one operation, where a device does."""
    tensors = [x for x in _leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    plain = [x for x in tensors if not isinstance(x, Paper)]
    # vmap's rule for batch norm makes statistics behind Python's back; that of the function mode sees the others.
    if len(plain) in (0, len(tensors)) or name in COPIES or name.startswith("native_batch_norm"):
        return
    shapes = ", ".join(f"{x.device} {tuple(x.shape)}" for x in tensors)
    if name in INDEXING:
        if not isinstance(args[0], Paper):
            raise DeviceMismatch(f"{name}: indices on cuda:0 of data on the CPU: {shapes}")
        if len(args) > 2 and isinstance(args[2], torch.Tensor) and not isinstance(args[2], Paper) and args[2].ndim:
            raise DeviceMismatch(f"{name}: values on the CPU: {shapes}")
        return  # indices may be on the CPU
    in_place = name.endswith("_") and not name.startswith("__") and not isinstance(args[0], Paper)
    lists = any(isinstance(a, list | tuple) and any(x is y for x in a for y in plain) for a in args)
    if name in STRICT or in_place or lists or any(x.ndim for x in plain):
        raise DeviceMismatch(f"{name}: expected all tensors to be on the same device, found {shapes}")


def _refuse_disorder(name: str, args: Any, kwargs: Any) -> None:
    """Refuse sums of floats in no order: the same seed would not give the same bytes."""
    into = args[0]
    if not isinstance(into, Paper) or not into.is_floating_point():
        return
    if name in SUMS or (name.startswith("scatter_reduce") and args[4] in ("sum", "mean", "prod")):
        into, dim, index, source = _plain(args[:4])
        rows = name.startswith("index")
        add = torch.index_add if rows else torch.scatter_add
        turned = index.flip(0 if rows else dim), source.flip(dim)
        if not torch.equal(add(into, dim, index, source), add(into, dim, *turned)):
            raise OrderMissing(f"{name}: several numbers for one place, added in any order")
    elif name in RUNNING and not torch.equal(into.elem, into.elem.round()):  # whole ones are exact
        raise OrderMissing(f"{name} of floats adds in any order")


def _waits(name: str, args: Any, kwargs: Any) -> None:
    """Count what an operation on the device makes the host wait for."""
    if name == "linalg_matrix_exp":
        for _ in range(EXPONENTIAL):
            _count(name)
    elif name in READS:
        _count(name.strip("_"))
    elif name == "multinomial" and (args[1] == 1 or not (len(args) > 2 and args[2])):
        _count("multinomial")  # looks whether what it is given are probabilities
    elif name in FILLS and isinstance(args[-1], Paper):
        _count(name)
    elif name == "repeat_interleave" and kwargs.get("output_size") is None:
        _count("repeat_interleave")
    elif name in INDEXING:
        found = [i for i in args[1] if i is not None]
        # x[mask] = number is masked_fill, which waits for nothing.
        filled = len(found) == 1 and len(args) > 2 and not isinstance(args[2], Paper) and not args[2].ndim
        if not filled and any(i.dtype in (torch.bool, torch.uint8) for i in found):
            _count("boolean index")
        if not all(isinstance(i, Paper) for i in found):
            _count("index of the host", "writes")
    elif name == "copy_":
        to, what = args[:2]
        alone = (len(args) > 2 and args[2]) or kwargs.get("non_blocking", False)
        if not isinstance(to, Paper):
            _count("copy to the host")
        elif not isinstance(what, Paper) and not (alone and is_pinned(what)):
            _count("copy to the device", "writes")


def _waits_for_nobody(args: Any, kwargs: Any) -> bool:
    """Tell whether a copy is one from pinned memory to the device, on a stream of its own."""
    to, what = args[:2]
    alone = (len(args) > 2 and args[2]) or kwargs.get("non_blocking", False)
    pinned = alone and isinstance(to, Paper) and not isinstance(what, Paper) and is_pinned(what)
    if pinned and _state is not None and _state.graph is not None and _state.graph.thread == threading.get_ident():
        raise RuntimeError("a graph would read this pinned memory whenever it is replayed")
    return pinned and _state is not None and _current() is not _state.stream


def _dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    """Do an operation on the CPU data, after what a device would look at."""
    leaves = _leaves((args, kwargs))
    on = any(isinstance(x, Paper) for x in leaves)
    if not (on or kwargs or any(isinstance(x, Generator) for x in leaves)):
        return func(*args)  # the host's own
    name = func.overloadpacket.__name__
    goal = kwargs.get("device")
    if on and name == "_to_copy":
        goal = None  # .to(dtype) names the device that C++ believes in; copies to the host go through _Off
    here = on or is_cuda(goal)
    if on:
        _refuse(name, args, kwargs)
        _waits(name, args, kwargs)
        with _disable_current_modes():
            _refuse_disorder(name, args, kwargs)
        if name in PRODUCTS and not (args[0].is_floating_point() or args[0].is_complex()):
            raise DeviceMismatch(f'"{name}_cuda" not implemented for {args[0].dtype}')
    for x in leaves:
        if isinstance(x, Generator) and (_state is not None and x._cdata in _state.generators) != here:
            raise DeviceMismatch(f"{name}: expected a generator of {'cuda' if here else 'cpu'}, found the other's")
    pin = kwargs.get("pin_memory")
    if pin and here:
        raise DeviceMismatch(f"{name}: only dense CPU tensors can be pinned")
    if name == "copy_" and _waits_for_nobody(args, kwargs):
        _current().delay(args[0], args[1])
        return args[0]
    plain_args, plain_kwargs = _plain((args, kwargs))
    if is_cuda(goal) or pin:
        plain_kwargs = {k: v for k, v in plain_kwargs.items() if k != "pin_memory"} | {"device": CPU}
    with _disable_current_modes():
        out = func(*plain_args, **plain_kwargs)
    if here:
        _record(func, plain_args, plain_kwargs, out)
    if pin:
        return _pin(out)
    if not here:
        return out
    if name == "copy_" or (name.endswith("_") and not name.startswith("__") and isinstance(out, torch.Tensor)):
        return args[0]  # in place: the same object comes back
    if isinstance(kwargs.get("out"), torch.Tensor):
        return kwargs["out"]
    out = _on(out)
    return return_and_correct_aliasing(func, args, kwargs, out) if on and func._schema.name in _VIEWS else out


# Views share storage with what they are views of; elsewhere autograd needs no such tie.
_VIEWS = {
    f"aten::{name}" for name in ("view", "_unsafe_view", "t", "transpose", "permute", "expand", "select", "slice",
                                 "unsqueeze", "squeeze", "detach", "alias", "as_strided", "diagonal", "unfold")
}  # fmt: skip


class _Functions(TorchFunctionMode):
    """What is asked of a tensor before an operation is dispatched."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if func in (torch.Tensor.to, torch.Tensor.cuda):
            return self._to(func, first, args[1:], kwargs)
        if func is torch.Tensor.pin_memory and not isinstance(first, Paper):
            return _pin(first.clone())
        if func is torch.Tensor.is_pinned:
            return not isinstance(first, Paper) and is_pinned(first)
        if name in COMPOSITE and any(isinstance(a, Paper) for a in _leaves((args, kwargs))):
            _refuse("stack", args, kwargs)
            if name == "bincount" or (name == "one_hot" and len(args) < 2 and "num_classes" not in kwargs):
                _count(name)
            plain_args, plain_kwargs = _plain((args, kwargs))
            with _disable_current_modes():
                plain = func(*plain_args, **plain_kwargs)
            _record(func, plain_args, plain_kwargs, plain)
            return Paper(plain)
        if name in MATMUL and any(isinstance(a, Paper) and a.ndim == 1 for a in args[:2]) and len(args) == 2:
            return _product_of_vectors(*(args if name != "__rmatmul__" else args[::-1]))
        if func is functional.batch_norm:
            _refuse_norm(*args, **kwargs)
        if name == "where" and any(_is_number(a) for a in args) and any(isinstance(a, Paper) for a in args):
            _count("where", "writes")  # the number becomes one of the device
        if name == "new_tensor" and isinstance(first, Paper) and kwargs.get("device") in (None, CUDA):
            _count("new_tensor", "writes")
        if name in FACTORIES and isinstance(first, Paper) and kwargs.get("device") is not None:
            if not is_cuda(kwargs["device"]):
                with _disable_current_modes():
                    return func(first.elem, *args[1:], **kwargs)
            kwargs = {k: v for k, v in kwargs.items() if k != "device"}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is not None:
            rest = {k: v for k, v in kwargs.items() if k != "device"}
            if isinstance(first, Paper):
                return first.to(kwargs["device"], **{k: v for k, v in rest.items() if k == "dtype"})
            if is_cuda(kwargs["device"]):
                return _On.apply(func(*args, **rest), False)
        elif func in (torch.tensor, torch.as_tensor, torch.asarray) and isinstance(first, list | tuple):
            # A list of numbers of the device is read one by one.
            return func(*[[_number(x) for x in first], *args[1:]], **kwargs)
        return func(*args, **kwargs)

    def _to(self, func: Any, first: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(first, Paper):
            return first.to(*args, **kwargs) if func is torch.Tensor.to else first
        goal, rest, options = _target(args, kwargs)
        if func is torch.Tensor.cuda or is_cuda(goal):
            moved = torch.Tensor.to(first, *rest, **options) if rest or options else first
            return _On.apply(moved, bool(kwargs.get("non_blocking", False)) and moved is first)
        return func(first, *args, **kwargs)


def _refuse_norm(x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: Any = False,
                 *rest: Any, **more: Any) -> None:  # fmt: skip
    """Refuse what batch norms do: tensors of two devices, and what cuDNN's and vmap's do on an H100 (torch 2.11)."""
    tensors = [a for a in (x, mean, var, weight, bias) if isinstance(a, torch.Tensor)]
    batched = [a for a in tensors if _is_batched(a)]
    if not batched:
        if any(isinstance(a, Paper) for a in tensors):
            _refuse("convolution", tensors, {})
            apart = any((a.storage_offset() * a.element_size()) % 16 for a in (weight, bias) if a is not None)
            if training and apart and torch.backends.cudnn.enabled:
                raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART")
    elif torch.backends.cudnn.enabled and any(isinstance(_unwrap(a), Paper) for a in batched):
        raise RuntimeError("NYI: querying is_contiguous inside of vmap for memory_format other than torch...")


def _unwrap(x: torch.Tensor) -> torch.Tensor:
    """Return the tensor within what vmap wrapped."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def _product_of_vectors(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b; C++ squeezes what a vector became in place, of which the wrapper hears nothing."""
    left, right = a.ndim == 1, b.ndim == 1
    out = (a[None] if left else a) @ (b[:, None] if right else b)
    out = out.squeeze(-1) if right else out
    return out.squeeze(-1 if right else -2) if left else out


def _is_batched(x: Any) -> bool:
    """Tell whether vmap wrapped a tensor, which then doesn't say where it is."""
    return isinstance(x, torch.Tensor) and bool(torch._C._functorch.is_batchedtensor(x))


def _is_number(x: Any) -> bool:
    """Tell whether x is a tensor of the host with no dimensions."""
    return isinstance(x, torch.Tensor) and not isinstance(x, Paper) and not _is_batched(x) and x.ndim == 0


def _number(x: Any) -> Any:
    return x.item() if isinstance(x, Paper) else x


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


@contextmanager
def _fork_rng(devices: Any = None, enabled: bool = True, **_: Any) -> Iterator[None]:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        if enabled:
            torch.set_rng_state(state)


class _Reading:
    """A copy from pinned memory that the device may not have made yet: only the host's own wait tells that it has."""

    def __init__(self, what: torch.Tensor) -> None:
        with _disable_current_modes():
            self.what, self.then = what, what.clone()
        self.made = False

    def finish(self) -> None:
        with _disable_current_modes():
            if not self.made and not torch.equal(self.what.view(torch.uint8), self.then.view(torch.uint8)):
                raise DeviceMismatch("pinned memory was written to before the copy from it had been waited for")
        self.made = True


class PaperStream:
    """A stream. Copies from pinned memory to the device on one of one's own are made as late as a device may.

    That is when something waits for them: what is used until then is NaN. The rest is done as soon as it is asked for.
    Pinned memory must stay as it is until the host itself has waited for what reads it.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self.late: list[Callable[[], object]] = []
        self.asked = 0  # copies so far
        self.reading: list[_Reading] = []  # of it and of what it waited for
        self.used: list[Any] = []  # tensors that said that they are used here

    def delay(self, to: "Paper", what: torch.Tensor) -> None:
        def copy() -> None:
            with _disable_current_modes():
                to.elem.copy_(what)

        if to.elem.is_floating_point():
            with _disable_current_modes():
                to.elem.fill_(torch.nan)
        self.late.append(copy)
        self.asked += 1
        self.read(what)

    def read(self, what: torch.Tensor) -> None:
        self.reading = [*(each for each in self.reading if not each.made), _Reading(what)]

    def finish(self) -> None:
        for each in self.reading:
            each.finish()

    def go_on(self, until: int | None = None) -> None:
        while self.late and (until is None or self.asked - len(self.late) < until):
            self.late.pop(0)()

    def synchronize(self) -> None:
        _count("synchronize")
        self.go_on()
        self.finish()

    def wait_stream(self, other: "PaperStream") -> None:
        other.go_on()
        self.reading += other.reading

    def wait_event(self, event: "PaperEvent") -> None:
        event.happen()
        self.reading += event.reading

    def record_event(self, event: "PaperEvent | None" = None) -> "PaperEvent":
        event = event or PaperEvent()
        event.record(self)
        return event


class PaperGraph:
    """A CUDA graph: the operations on the device while it is captured, done again on the same memory.

    A device does none of them while it captures. Here they are done, and what they gave is overwritten.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.thread = threading.get_ident()
        self.replays = 0

    def finish(self) -> None:
        with _disable_current_modes():
            for func, _, _, out in self.steps:
                if hasattr(func, "_schema") and func._schema.name not in _VIEWS:
                    for x in _leaves(out):
                        if isinstance(x, torch.Tensor) and x.is_floating_point():
                            x.fill_(torch.nan)

    def replay(self) -> None:
        self.replays += 1
        with _disable_current_modes():
            for func, args, kwargs, out in self.steps:
                for old, new in zip(_leaves(out), _leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def _record(func: Any, args: Any, kwargs: Any, out: Any) -> None:
    graph = None if _state is None else _state.graph
    if graph is not None and graph.thread == threading.get_ident():
        graph.steps.append((func, args, kwargs, out))


@contextmanager
def _graph(graph: PaperGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = "") -> Iterator[None]:
    assert _state is not None
    before = _current()
    _state.graph, _state.local.stream = graph, stream or PaperStream()
    try:
        yield
    finally:
        _state.graph = None
    _state.local.stream = before  # torch, too, leaves it where the capture fails
    graph.finish()


class _Autocast(torch.autocast):
    """Autocast of the device, whose tensors C++ takes for those of the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _sums_of_logits(logits: Any, targets: Any) -> torch.Tensor:
    """Return what the kernel of that name gives; kernels themselves are for Triton's interpreter."""
    losses = -functional.cross_entropy(logits.mT.float(), targets.expand(len(logits), -1), reduction="none").double()
    hits = logits.argmax(2) == targets
    return torch.stack([hits.sum(1), losses.sum(1), logits.double().sum((1, 2))], 1)


class PaperEvent:
    """An event: how far a stream had come when it was recorded."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.stream: PaperStream | None = None
        self.asked = 0
        self.reading: list[_Reading] = []

    def record(self, stream: PaperStream | None = None) -> None:
        self.stream = stream or _current()
        self.asked, self.reading = self.stream.asked, [*self.stream.reading]

    def happen(self) -> None:
        if self.stream is not None:
            self.stream.go_on(self.asked)

    def wait(self, stream: Any = None) -> None:
        self.happen()

    def synchronize(self) -> None:
        _count("synchronize")
        self.happen()
        for each in self.reading:
            each.finish()


def _current(*_: Any) -> PaperStream:
    assert _state is not None
    return getattr(_state.local, "stream", _state.stream)


@contextmanager
def _stream(stream: PaperStream | None) -> Iterator[None]:
    assert _state is not None
    before = _current()
    _state.local.stream = stream or before
    try:
        yield
    finally:
        _state.local.stream = before


CUDA_MODULE: dict[str, Any] = {
    "_lazy_init": lambda: None, "is_available": lambda: True, "device_count": lambda: 1, "init": lambda: None,
    "mem_get_info": lambda *_: (70 * 2**30, 80 * 2**30), "synchronize": lambda *_: _count("synchronize"),
    "empty_cache": lambda: None, "current_device": lambda: 0, "get_device_name": lambda *_: "paper GPU",
    "get_device_capability": lambda *_: (9, 0), "is_bf16_supported": lambda *_, **__: True,
    "manual_seed": lambda _: None, "manual_seed_all": lambda _: None, "memory_allocated": lambda *_: 0,
    "max_memory_allocated": lambda *_: 0, "reset_peak_memory_stats": lambda *_: None,
    "Stream": PaperStream, "Event": PaperEvent, "stream": _stream, "current_stream": _current,
    "device_of": lambda _: nullcontext(),
    "CUDAGraph": PaperGraph, "graph": _graph, "graph_pool_handle": lambda: (0, 1),
}  # fmt: skip


class Gpu:
    """The device that a test is given."""

    @contextmanager
    def count(self) -> Iterator[Waits]:
        """Count the waits of this thread within."""
        assert _state is not None
        waits = Waits()
        _state.counters.append(waits)
        try:
            yield waits
        finally:
            _state.counters.remove(waits)


@contextmanager
def paper_gpu() -> Iterator[Gpu]:
    """Give this process a GPU on paper while it is entered, and leave nothing of it behind."""
    global _state
    if _state is not None:
        raise RuntimeError("there is a GPU on paper already")
    _import_all()
    run = threading.Thread.run

    def within(self: threading.Thread) -> None:
        with _Operations(), _Functions():
            run(self)

    swap = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swap)
        torch.__future__.set_swap_module_params_on_conversion(True)
        for owner, name, value in [
            (torch, "Generator", PaperGenerator), (torch.random, "fork_rng", _fork_rng),
            (threading.Thread, "run", within), (torch, "autocast", _Autocast),
            *([(kernels, "sums", _sums_of_logits)] if kernels else []),
            *((torch.cuda, name, value) for name, value in CUDA_MODULE.items()),
        ]:  # fmt: skip
            stack.enter_context(mock.patch.object(owner, name, value))
        _state = _State()
        stack.callback(_forget)
        stack.callback(_state.stream.finish)
        stack.enter_context(_Operations())
        stack.enter_context(_Functions())
        yield Gpu()


@cache
def _import_all() -> None:
    """Import the package whole: what it imports later would keep what is patched."""
    for found in pkgutil.walk_packages([str(PACKAGE)], "neuroevo."):
        if not found.name.endswith("__main__") and (kernels or not found.name.endswith("kernels")):
            importlib.import_module(found.name)


def _forget() -> None:
    global _state
    _state = None
    staging.copy_stream.cache_clear()
