"""Heads, and how a whole population of them is evaluated in one go."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

Forward = Callable[[Mapping[str, Tensor], Tensor], Tensor]  # ({name: [n, *shape]}, features [B, d]) -> logits [n, B, C]

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


def linear(in_features: int, classes: int) -> nn.Module:
    """One linear layer."""
    return nn.Linear(in_features, classes)


def mlp(
    in_features: int,
    classes: int,
    *,
    hidden: list[Annotated[int, Ge(1)]] = [256],  # noqa: B006  read only; the schema shows it
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
) -> nn.Module:
    """Linear layers of the `hidden` widths with ReLU (and dropout while training) between, then one to the classes."""
    widths = [in_features, *hidden]
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


HEADS: dict[str, Callable[..., nn.Module]] = {"linear": linear, "mlp": mlp}


def steps(head: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Return the layers of a head in order, each with its dotted name; nested Sequentials are opened."""
    if not isinstance(head, nn.Sequential):
        return [(prefix, head)]
    return [step for name, child in head.named_children() for step in steps(child, f"{prefix}.{name}")]


def population_forward(head: nn.Module, prefix: str) -> tuple[str, Forward]:
    """Return how a population of this head is evaluated, and the name of the method: `gemm` or `vmap`.

    Linear layers with pointwise ones between are matrix products over all individuals at once: the first layer's input
    is the same for all, so it is one GEMM of `[n * out, d]` with `[d, B]`. Logits are then [n, C, B] in memory and
    returned transposed. Any other module goes through `torch.func.vmap`.
    """
    layers = steps(head, prefix)
    if not all(isinstance(layer, (nn.Linear, *POINTWISE)) for _, layer in layers):
        head.eval()

        def call(weights: dict[str, Tensor], features: Tensor) -> Tensor:
            logits: Tensor = torch.func.functional_call(head, weights, (features,))
            return logits

        def by_vmap(weights: Mapping[str, Tensor], features: Tensor) -> Tensor:
            own = {name.removeprefix(prefix + "."): weight for name, weight in weights.items()}
            return torch.vmap(call, in_dims=(0, None))(own, features)

        return "vmap", by_vmap

    def by_gemm(weights: Mapping[str, Tensor], features: Tensor) -> Tensor:
        shared: Tensor | None = features.t()  # [d, B] until the first layer, [n, width, B] after it
        x: Tensor | None = None
        for name, layer in layers:
            if not isinstance(layer, nn.Linear):
                if isinstance(layer, nn.Dropout):
                    continue  # off while scoring
                if x is None:
                    assert shared is not None
                    shared = layer(shared)
                else:
                    x = layer(x)
                continue
            w = weights[f"{name}.weight"]  # [n, out, in]
            if x is None:
                assert shared is not None
                x = (w.flatten(0, 1) @ shared).unflatten(0, w.shape[:2])
            else:
                x = torch.bmm(w, x)
            if layer.bias is not None:
                x.add_(weights[f"{name}.bias"].unsqueeze(-1))
        assert x is not None
        return x.transpose(1, 2)

    return "gemm", by_gemm


def widths(head: nn.Module) -> list[int]:
    """Return the outputs of each linear layer, by which an evaluation's memory is reckoned."""
    return [module.out_features for module in head.modules() if isinstance(module, nn.Linear)]
