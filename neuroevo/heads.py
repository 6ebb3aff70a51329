"""Heads, and how a whole population of them is evaluated in one go."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Literal, Protocol

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

# What a Dropout layer does in training: (activations [n, width, B], the layer's own rate) -> activations; None is off.
Drop = Callable[[Tensor, float], Tensor] | None


class Forward(Protocol):
    """A population's logits: ({name: [n, *shape]}, features [B, d] shared or [n, B, d]) -> [n, B, C]."""

    def __call__(self, weights: Mapping[str, Tensor], features: Tensor, drop: Drop = None) -> Tensor: ...  # noqa: D102


# Layers that act on each number alone, so that they take a population as they take a batch.
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
    """Return the layers of a head in order, each with its dotted name; nested Sequentials are opened."""
    if not isinstance(head, nn.Sequential):
        return [(prefix, head)]
    return [step for name, child in head.named_children() for step in steps(child, f"{prefix}.{name}")]


def population_forward(head: nn.Module, prefix: str) -> tuple[str, Forward]:
    """Return how a population of this head is evaluated, and the name of the method: `gemm` or `vmap`.

    Linear layers with pointwise ones (and layer norm) between are matrix products over all individuals at once: where
    the first layer's input is the same for all, it is one GEMM of `[n * out, d]` with `[d, B]`. Logits are then
    [n, C, B] in memory and returned transposed. Any other module goes through `torch.func.vmap`.
    """
    layers = steps(head, prefix)
    if not _chain([layer for _, layer in layers]):
        head.eval()

        def call(weights: dict[str, Tensor], features: Tensor) -> Tensor:
            logits: Tensor = torch.func.functional_call(head, weights, (features,))
            return logits

        def by_vmap(weights: Mapping[str, Tensor], features: Tensor, drop: Drop = None) -> Tensor:
            own = {name.removeprefix(prefix + "."): weight for name, weight in weights.items()}
            return torch.vmap(call, in_dims=(0, None if features.ndim == 2 else 0))(own, features)

        return "vmap", by_vmap

    def by_gemm(weights: Mapping[str, Tensor], features: Tensor, drop: Drop = None) -> Tensor:
        x = features.mT  # [d, B] while it is shared, then [n, width, B]
        for name, layer in layers:
            match layer:
                case nn.Linear():
                    w = weights[f"{name}.weight"]  # [n, out, in]
                    x = torch.bmm(w, x) if x.ndim == 3 else (w.flatten(0, 1) @ x).unflatten(0, w.shape[:2])
                    if layer.bias is not None:
                        x = x.add_(weights[f"{name}.bias"].unsqueeze(-1))
                case nn.LayerNorm():
                    centred = x - x.mean(1, keepdim=True)
                    x = centred * (centred.square().mean(1, keepdim=True) + layer.eps).rsqrt()
                    if layer.elementwise_affine:
                        x = x * weights[f"{name}.weight"].unsqueeze(-1)
                        x = x + weights[f"{name}.bias"].unsqueeze(-1) if layer.bias is not None else x
                case nn.Dropout():
                    x = x if drop is None else drop(x, layer.p)
                case _:
                    x = layer(x)
        return x.mT

    return "gemm", by_gemm


def _chain(layers: list[nn.Module]) -> bool:
    """Tell whether layers are a chain that matrix products evaluate; norms and dropout come after a linear layer."""
    width: int | None = None
    for layer in layers:
        if isinstance(layer, nn.Linear):
            width = layer.out_features
        elif isinstance(layer, nn.LayerNorm):
            if width is None or tuple(layer.normalized_shape) != (width,):
                return False
        elif not isinstance(layer, POINTWISE) or (isinstance(layer, nn.Dropout) and width is None):
            return False
    return width is not None


def widths(head: nn.Module) -> list[int]:
    """Return the outputs of each linear layer, by which an evaluation's memory is reckoned."""
    return [module.out_features for module in head.modules() if isinstance(module, nn.Linear)]
