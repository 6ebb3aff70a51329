"""The cut where a network's frozen prefix ends: the prefix is computed once an image, the rest is evolved.

The network is traced (torch.fx) down to modules that are frozen or trainable as a whole. Values that depend on the
image and on no trainable parameter are the frozen prefix; those of them that the rest uses are where it is cut, one
tensor between two stages, several where a skip connection passes the cut.
"""

import fnmatch
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, fx, nn

from neuroevo.errors import InputError, RunError

IMAGES = "images"


class Cut(NamedTuple):
    """A network in two parts: `rest(*prefix(images))` are its features."""

    prefix: nn.Module  # images [B, channels, H, W] -> the tensors at the cut
    rest: nn.Module  # these -> features [B, d]; its parameters have the names that they have in the network
    places: tuple[str, ...]  # what computes the tensors at the cut
    shapes: tuple[tuple[int, ...], ...]  # of the tensors, without the batch
    reason: str | None = None  # why the network runs whole, where it couldn't be cut
    types: tuple[torch.dtype, ...] = ()  # of the tensors, where some are whole numbers or truth values
    foreign: bool = False  # whether another runtime than torch computes the rest, of which it has no gradients

    def rows(self, images: Tensor) -> Tensor:
        """Return the tensors at the cut as rows [B, D], images channels last."""
        parts = [_channels_last(x).flatten(1) for x in self.prefix(images)]
        return torch.cat([part.float() for part in parts] if self.types else parts, dim=1)

    def tensors(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors at the cut that rows [B, D] hold, as views; images are channels last in memory."""
        parts = rows.split([_size(shape) for shape in self.shapes], dim=1)
        found = []
        for part, shape in zip(parts, self.shapes, strict=True):
            if len(shape) == 3:
                channels, height, width = shape
                found.append(part.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2))
            else:
                found.append(part.unflatten(1, shape))
        if self.types:
            return tuple(x.to(dtype) for x, dtype in zip(found, self.types, strict=True))
        return tuple(found)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(_size(shape) for shape in self.shapes)


def _size(shape: Sequence[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def match(names: Iterable[str], patterns: Collection[str]) -> list[str]:
    """Return the names that a pattern matches, wholly or by one of their leading parts; `*` crosses dots."""

    def matches(name: str) -> bool:
        parts = name.split(".")
        leading = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return any(fnmatch.fnmatchcase(part, pattern) for part in leading for pattern in patterns)

    return [name for name in names if matches(name)]


class _Tracer(fx.Tracer):
    """Opens only modules that are partly trainable: control flow inside others doesn't matter."""

    def __init__(self, trainable: Collection[str]) -> None:
        super().__init__()
        self.trainable = trainable

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = [f"{module_qualified_name}.{name}" in self.trainable for name, _ in m.named_parameters()]
        return not any(own) or all(own) or super().is_leaf_module(m, module_qualified_name)


class Divided(NamedTuple):
    """A module in two."""

    prefix: nn.Module  # inputs -> the tensors at the cut
    rest: nn.Module  # these -> what the module gives
    places: tuple[str, ...]  # the names of the tensors
    reason: str | None = None  # why it isn't cut, where it could have been


@runtime_checkable
class Divides(Protocol):
    """A module that another runtime computes, which torch can't trace and which knows itself where to be cut."""

    def divide(self, trainable: Collection[str], inputs: Tensor) -> "Divided":
        """Return the module in two, cut before the parameters `trainable`."""
        ...


class _Chain(nn.Sequential):
    """Modules one after another, of which the first takes several tensors."""

    def forward(self, *tensors: Tensor) -> Tensor:
        first, *others = self
        found: Tensor = first(*tensors)
        for module in others:
            found = module(found)
        return found


def cut(network: nn.Module, trainable: Collection[str], images: Tensor, *, whole: bool = False) -> Cut:
    """Cut a network (in eval mode, images to features) after its longest prefix without a `trainable` parameter.

    `images` [2 or more, channels, H, W] are put through it, to see shapes and that the parts make the whole. A network
    that can't be cut runs whole: its prefix is the images themselves, and `reason` says why. With `whole`, tensors of
    whole numbers below 2**24 and of truth values, such as token ids and masks, may pass the cut.
    """
    for in_place in (True, False):  # the tensors at the cut are used again and again
        if not in_place:
            for module in network.modules():
                if getattr(module, "inplace", False) is True:
                    setattr(module, "inplace", False)  # noqa: B010  the type of a module's attribute is unknown
        try:
            return _check(network, trainable, images, whole)
        except (InputError, RunError):
            raise
        except Exception as error:  # a library's network may resist tracing in any way
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            if not isinstance(error, _Changes):
                break
    return Cut(_Images(), network, (IMAGES,), (tuple(images.shape[1:]),), reason, _types([images]))


class _Changes(ValueError):
    """The rest changes a tensor at the cut."""


def _types(tensors: Sequence[Tensor]) -> tuple[torch.dtype, ...]:
    return () if all(x.is_floating_point() for x in tensors) else tuple(x.dtype for x in tensors)


def _check(network: nn.Module, trainable: Collection[str], images: Tensor, whole: bool) -> Cut:
    divided = _divide(network, trainable, images) or Divided(*_split(network, trainable, images))
    prefix, rest, places, reason = divided
    with torch.inference_mode():
        tensors = prefix(images)
        if any(len(x) != len(images) or not (whole or x.is_floating_point()) for x in tensors):
            raise ValueError("what passes the cut isn't a tensor of numbers for each image")
        shapes, foreign = tuple(tuple(x.shape[1:]) for x in tensors), isinstance(rest, _Chain)
        found = Cut(prefix, rest, places, shapes, reason, _types(tensors), foreign)
        rows, kept = found.rows(images), images.clone()
        before = rows.clone()
        features, expected = rest(*found.tensors(rows)), network(images)
        if not torch.equal(before, rows) or not torch.equal(kept, images):
            raise _Changes("it changes what passes the cut")
        # Another runtime's kernels differ by more: of all logits alike, as `divide` has seen.
        rtol, atol = (0.0, 1e-4) if foreign else (1e-4, 1e-5)
        if not torch.allclose(features, expected, rtol=rtol, atol=atol * float(expected.abs().max())):
            raise _Changes("its parts don't make the whole")
    return found


class _Images(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images,)


def _divide(network: nn.Module, trainable: Collection[str], images: Tensor) -> Divided | None:
    """Return what `_split` does of a network that begins with a module which divides itself, None of others."""
    name, first = next(iter(network.named_children()), ("", network))
    if not isinstance(network, nn.Sequential) or not isinstance(first, Divides):
        return None
    own = {key.removeprefix(f"{name}.") for key in trainable if key.startswith(f"{name}.")}
    found = first.divide(own, images)
    chain = _Chain()
    for key, module in network.named_children():
        chain.add_module(key, found.rest if key == name else module)
    return found._replace(prefix=found.prefix.eval(), rest=chain.eval())


def _split(
    network: nn.Module, trainable: Collection[str], images: Tensor
) -> tuple[nn.Module, nn.Module, tuple[str, ...]]:
    graph = _Tracer(trainable).trace(network)
    tensors: set[fx.Node] = set()

    class Seen(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                tensors.add(n)
            return value

    with torch.inference_mode():
        Seen(fx.GraphModule(network, graph)).run(images)
    varying: set[fx.Node] = set()  # depends on the image
    evolved: set[fx.Node] = set()  # depends on a trainable parameter
    for node in graph.nodes:
        own: list[str] = []
        if node.op == "call_module":
            own = [f"{node.target}.{name}" for name, _ in network.get_submodule(str(node.target)).named_parameters()]
        elif node.op == "get_attr":
            own = [str(node.target)]
        if node.op == "placeholder" or varying.intersection(node.all_input_nodes):
            varying.add(node)
        if any(name in trainable for name in own) or evolved.intersection(node.all_input_nodes):
            evolved.add(node)

    def at_the_cut(node: fx.Node) -> bool:
        return node in varying and node not in evolved and node in tensors

    output = next(node for node in graph.nodes if node.op == "output")
    if output not in evolved:
        raise ValueError("as traced, its features don't depend on what is trainable")
    # Constants and sizes are computed where they are used.
    after, ends = _sources([output], at_the_cut)
    before, _ = _sources(ends, lambda node: False)
    order = list(graph.nodes)
    ends.sort(key=order.index)
    first, second = fx.Graph(), fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in order:
        if node in before:
            made[node] = first.node_copy(node, made.__getitem__)
    first.output(tuple(made[node] for node in ends))
    made = {node: second.placeholder(node.name) for node in ends}
    for node in order:
        if node in after:
            made[node] = second.node_copy(node, made.__getitem__)
    names = tuple(IMAGES if n.op == "placeholder" else str(n.target) if n.op == "call_module" else n.name for n in ends)
    # GraphModules hold the network's own modules.
    return fx.GraphModule(network, first).eval(), fx.GraphModule(network, second).eval(), names


def _sources(nodes: list[fx.Node], stop: Callable[[fx.Node], bool]) -> tuple[set[fx.Node], list[fx.Node]]:
    """Return nodes with all that they are computed from, as far as those where to stop, and these."""
    found: set[fx.Node] = set()
    ends: list[fx.Node] = []
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node in found or node in ends:
            continue
        if stop(node):
            ends.append(node)
        else:
            found.add(node)
            waiting += node.all_input_nodes
    return found, ends
