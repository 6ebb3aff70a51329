"""Heads, and how a whole population of them is evaluated in one go."""

from collections.abc import Callable, Mapping
from itertools import pairwise, repeat
from typing import Annotated, Literal, Protocol, cast

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from neuroevo.errors import InputError
from neuroevo.networks import individuals

# What a Dropout layer does in training: (activations [n, width, B], the layer's own rate) -> activations; None is off.
Drop = Callable[[Tensor, float], Tensor] | None


class Forward(Protocol):
    """A population's logits: ({name: [n, *shape]}, features [B, d] shared or [n, B, d]) -> [n, B, C]."""

    def __call__(self, weights: Mapping[str, Tensor], features: Tensor, drop: Drop = None) -> Tensor: ...  # noqa: D102


# Layers that act on each number alone, so that they take a population as they take a batch; no subclasses of them.
POINTWISE = (
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.LeakyReLU,
    nn.ELU,
    nn.Hardswish,
    nn.Identity,
    nn.Dropout,
)


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def linear(in_features: int, classes: int) -> nn.Module:
    """One linear layer."""
    return nn.Linear(in_features, classes)


def mlp(
    in_features: int,
    classes: int,
    *,
    hidden: list[Annotated[int, Ge(1)]] = [256],  # noqa: B006  read only; the schema shows it
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
    norm: Literal["none", "layer"] = "none",
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
) -> nn.Module:
    """Linear layers of the `hidden` widths, each followed by norm, activation and dropout, then one to the classes."""
    widths = [in_features, *hidden]
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), *([nn.LayerNorm(o)] if norm == "layer" else []), ACTIVATIONS[activation]()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


HEADS: dict[str, Callable[..., nn.Module]] = {"linear": linear, "mlp": mlp}


def steps(head: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Return the layers of a head in the order in which they run, each with its dotted name.

    Nested Sequentials are opened, subclasses of it aren't; a layer that runs twice comes twice.
    """
    if type(head) is not nn.Sequential or _has_hooks(head):
        return [(prefix, head)]
    children = [(name, child) for name, child in head._modules.items() if child is not None]
    return [step for name, child in children for step in steps(child, f"{prefix}.{name}")]


def first_linear(head: nn.Module, prefix: str) -> str | None:
    """Return the name of the plain linear layer with bias that a head begins with, whose parameters nothing shares.

    None where it begins with something else: a map of the features can't be folded into that.
    """
    name, layer = next(iter(steps(head, prefix)), (prefix, head))
    if type(layer) is not nn.Linear or layer.bias is None or _has_hooks(layer):
        return None
    uses = [id(p) for module in _every(head) for p in module.parameters(recurse=False)]
    return name if all(uses.count(id(p)) == 1 for p in (layer.weight, layer.bias)) else None


def population_forward(
    head: nn.Module,
    prefix: str,
    sizes: tuple[int, int] | None = None,
    again: nn.Module | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> tuple[str, Forward]:
    """Return how a population of this head is evaluated, and the name of the method: `gemm`, `vmap` or `loop`.

    Linear layers with pointwise ones (and layer norm) between are matrix products over all individuals at once: where
    the first layer's input is the same for all, it is one GEMM of `[n * out, d]` with `[d, B]`. Logits are then
    [n, C, B] in memory and returned transposed. Any other module goes through `torch.func.vmap`, or one individual
    after another where that refuses it, as it does control flow that depends on the data; `note` is told.

    Each is compared once with the module itself, or with `again`, the same head built a second time; InputError where
    none gives the same logits. `sizes` are the features and classes, without which vmap isn't compared.
    """
    head.eval()
    other = _obstacle(head, prefix)
    if other is None:
        forward: Forward = Products(head, prefix)
        first = next(layer for _, layer in steps(head, prefix) if type(layer) is nn.Linear)
        wrong = _difference(forward, head, prefix, sizes or (first.in_features, None), again or head)
        if wrong is None:
            return "gemm", forward
        other = f"matrix products don't give what it gives alone ({wrong})"
    note(f"head: {other}; it is evaluated by vmap, which is slower")
    forward = _by_vmap(head, prefix)
    wrong = None if sizes is None else _difference(forward, head, prefix, sizes, again or head)
    if sizes is None or wrong is None:
        return "vmap", forward
    note(f"head: vmap refuses it ({wrong}); it is evaluated one individual after another, which is slower still")
    forward = _by_loop(head, prefix)
    wrong = _difference(forward, head, prefix, sizes, again or head)
    if wrong is not None:
        raise InputError(f"{type(head).__name__} can't be evaluated as a population: {wrong}", option="head")
    return "loop", forward


def _by_vmap(head: nn.Module, prefix: str) -> Forward:
    def call(weights: dict[str, Tensor], features: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(head, weights, (features,))
        return logits

    def by_vmap(weights: Mapping[str, Tensor], features: Tensor, drop: Drop = None) -> Tensor:
        own = {name.removeprefix(prefix + "."): weight for name, weight in weights.items()}
        return individuals.vmap(call, own, features.clone(), shared=features.ndim == 2)  # a layer may work in place

    return by_vmap


def _by_loop(head: nn.Module, prefix: str) -> Forward:
    def by_loop(weights: Mapping[str, Tensor], features: Tensor, drop: Drop = None) -> Tensor:
        own = {name.removeprefix(prefix + "."): weight for name, weight in weights.items()}
        given = repeat(features) if features.ndim == 2 else iter(features)
        return torch.stack(
            [
                torch.func.functional_call(head, w, (x.clone(),))
                for w, x in zip(individuals.each(own), given, strict=features.ndim != 2)
            ]
        )

    return by_loop


class Products:
    """A population's logits by matrix products over all individuals at once: a `Forward`."""

    def __init__(self, head: nn.Module, prefix: str) -> None:
        # Parameters by their names in the head, where one that two layers share has the first one's.
        names = {id(parameter): f"{prefix}.{name}" for name, parameter in head.named_parameters()}
        self.layers = [(layer, [names[id(p)] for p in layer.parameters()]) for _, layer in steps(head, prefix)]
        first = next(i for i, (layer, _) in enumerate(self.layers) if type(layer) is nn.Linear)
        self.in_place = any(getattr(layer, "inplace", False) for layer, _ in self.layers[:first])
        self.first, self.last = self.layers[first][1][0], self.layers[-1][0]
        self.shared = sum(self.first in own for _, own in self.layers) > 1  # with a layer behind

    def pack(self, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return weights with the first layer's matrices as the one [n * out, in] that a product takes, of some type.

        Whoever calls more than once with the same weights saves the copies.
        """
        if self.shared:
            return dict(weights)
        matrix = weights[self.first].flatten(0, 1)
        return {**weights, self.first: matrix if dtype is None else matrix.to(dtype)}

    def __call__(self, weights: Mapping[str, Tensor], features: Tensor, drop: Drop = None) -> Tensor:
        """Return logits [n, B, C]; `weights` may be packed where all have the same features."""
        x = (features.clone() if self.in_place else features).mT  # [d, B] while it is shared, then [n, width, B]
        for layer, own in self.layers:
            match layer:
                case nn.Linear():
                    w = weights[own[0]]  # [n, out, in]
                    if x.ndim == 3:
                        x = torch.bmm(w, x)
                    else:
                        matrix = w if w.ndim == 2 else w.flatten(0, 1)
                        x = (matrix @ x.to(matrix.dtype)).unflatten(0, (-1, layer.out_features))
                    if layer.bias is not None:
                        bias = weights[own[1]].unsqueeze(-1)
                        # In half precision torch would widen hidden activations to add to them, and narrow them again;
                        # logits are wanted wide.
                        x = (x.to(bias.dtype) if layer is self.last else x).add_(bias.to(x.dtype))
                case nn.LayerNorm():
                    centred = x - x.mean(1, keepdim=True)
                    x = centred * (centred.square().mean(1, keepdim=True) + layer.eps).rsqrt()
                    if layer.elementwise_affine:
                        x = x * weights[own[0]].unsqueeze(-1)
                        x = x + weights[own[1]].unsqueeze(-1) if layer.bias is not None else x
                case nn.Dropout():
                    x = x if drop is None else drop(x, layer.p)
                case _:
                    x = layer(x)
        return x.mT


def _obstacle(head: nn.Module, prefix: str) -> str | None:
    """Return why a head is no chain that matrix products evaluate, or None; norms and dropout follow a linear layer.

    Types are exact: a subclass may do anything, and so may a hook.
    """
    width: int | None = None
    for name, layer in steps(head, prefix):
        kind, shown = type(layer), f"{type(layer).__name__} ({name})"
        if _has_hooks(layer):
            return f"{shown} has a hook"
        if kind is nn.Linear:
            width = cast(nn.Linear, layer).out_features
        elif kind is nn.LayerNorm:
            if width is None or tuple(cast(nn.LayerNorm, layer).normalized_shape) != (width,):
                return f"{shown} follows no linear layer"
        elif kind not in POINTWISE:
            return f"{shown} is no layer that matrix products evaluate"
        elif kind is nn.Dropout and width is None:
            return f"{shown} follows no linear layer"
    return None if width is not None else "it has no linear layer"


def _has_hooks(module: nn.Module) -> bool:
    """Return True where a call of a module does more than its class says."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _every(head: nn.Module) -> list[nn.Module]:
    """Return all modules of a head, as often as they stand in it."""
    return [module for _, module in head.named_modules(remove_duplicate=False)]


INDIVIDUALS, SAMPLES = 3, 6  # by which a head's evaluation is compared
CLOSE = 1e-3  # of the largest logit: a difference that rounding may make


def _difference(
    forward: Forward, head: nn.Module, prefix: str, sizes: tuple[int, int | None], again: nn.Module
) -> str | None:
    """Return the difference in words of `forward` from the module `again` alone, or None where there is none.

    The weights are random, around the head's own; InputError where the module itself is of no use.
    """
    source = torch.Generator().manual_seed(0)
    kind = type(head).__name__
    again.eval()

    def random(like: Tensor, *shape: int) -> Tensor:
        return torch.randn(*shape, *like.shape, generator=source).to(like.device, like.dtype)

    def alone(i: int, rows: Tensor) -> Tensor:
        own = {name.removeprefix(prefix + "."): w[i] for name, w in weights.items()}
        logits: Tensor = torch.func.functional_call(again, own, (rows.clone(),))
        return logits

    def same(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=0, atol=CLOSE * max(1e-6, float(b.nan_to_num().abs().max())), equal_nan=True)

    with torch.no_grad(), torch.random.fork_rng([]):
        parameters = dict(head.named_parameters())
        if not parameters:
            return "it has no parameters"
        device = next(iter(parameters.values())).device
        weights = {
            f"{prefix}.{name}": p + random(p, INDIVIDUALS) * max(0.1, float(p.square().mean().sqrt().nan_to_num()))
            for name, p in parameters.items()
        }
        x = torch.randn(INDIVIDUALS, SAMPLES, sizes[0], generator=source).to(device)
        try:
            expected = torch.stack([alone(i, x[0]) for i in range(INDIVIDUALS)])
            own = torch.stack([alone(i, x[i]) for i in range(INDIVIDUALS)])
            repeated = alone(0, x[0])
            part = alone(0, x[0, : SAMPLES // 2])
        except (Exception, SystemExit) as error:  # a user's module may fail in any way
            raise InputError(
                f"{kind} fails on features [{SAMPLES}, {sizes[0]}]: {_reason(error)}", option="head"
            ) from None
        shape = (INDIVIDUALS, SAMPLES, sizes[1] or expected.shape[-1])
        if expected.shape != shape:
            raise InputError(
                f"{kind} gives {tuple(expected.shape[1:])} for {shape[1:]}, samples x classes", option="head"
            )
        if not same(repeated, expected[0]):
            raise InputError(
                f"{kind} gives other logits each time; a network must give the same for one image", option="head"
            )
        if not same(part, expected[0, : SAMPLES // 2]):
            raise InputError(
                f"the logits that {kind} gives for an image depend on the others in its batch", option="head"
            )
        try:
            found, found_own = forward(weights, x[0]), forward(weights, x)
        except Exception as error:  # vmap refuses randomness and control flow that depends on the data
            return _reason(error)
    for a, b in ((found, expected), (found_own, own)):
        if a.shape != b.shape or not same(a, b):
            return f"logits differ by {float((a - b).abs().max()):.3g}" if a.shape == b.shape else "of another shape"
    return None


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def output_layer(head: nn.Module, prefix: str, width: int, classes: int) -> str | None:
    """Return the name of the linear layer whose rows are the classes', each the weights of one logit; None without one.

    It is tried: logits must be linear in its rows, so that with those mixed, they are mixed alike. `width` is the
    number of features.
    """
    parameters = dict(head.named_parameters())
    source = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source).to(next(iter(parameters.values())).device)

    head.eval()
    layers = [(name, part) for name, part in head.named_modules() if isinstance(part, nn.Linear)]
    for name, layer in reversed(layers):
        own = [f"{name}.{key}".lstrip(".") for key, _ in layer.named_parameters()]
        plain = {key.rpartition(".")[2] for key in own} <= {"weight", "bias"} and all(key in parameters for key in own)
        if layer.out_features != classes or not own or not plain:
            continue
        x, mix = random(SAMPLES, width), random(classes, classes)
        with torch.no_grad(), torch.random.fork_rng([]):
            weights = {key: p + random(*p.shape) * 0.1 for key, p in parameters.items()}
            mixed = weights | {key: mix @ weights[key] for key in own}
            before, after = (torch.func.functional_call(head, w, (x.clone(),)) for w in (weights, mixed))
            expected = before @ mix.T
        if torch.allclose(after, expected, rtol=0, atol=CLOSE * max(1e-6, float(expected.abs().max()))):
            return f"{prefix}.{name}".rstrip(".")
    return None


def noisy_in_training(head: nn.Module, width: int) -> bool:
    """Return True where a head of `width` features draws random numbers in training, as dropout does."""
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in head.modules()):
        return True
    x = torch.randn(64, width, generator=torch.Generator().manual_seed(0)).to(next(head.parameters()).device)
    head.train()
    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            own = [{name: buffer.clone() for name, buffer in head.named_buffers()} for _ in range(2)]
            a, b = (torch.func.functional_call(head, buffers, (x.clone(),)) for buffers in own)
            return not torch.equal(a.nan_to_num(), b.nan_to_num())
    finally:
        head.eval()


def widths(head: nn.Module) -> list[int]:
    """Return the outputs of each linear layer as often as it runs, by which an evaluation's memory is reckoned."""
    return [module.out_features for module in _every(head) if isinstance(module, nn.Linear)]
