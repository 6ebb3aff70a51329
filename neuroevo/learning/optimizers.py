"""Optimizers on stacked parameters, step for step torch's.

SGD with momentum (Polyak 1964) and Nesterov's (Sutskever et al. 2013), Adam (Kingma and Ba 2015), AdamW (Loshchilov
and Hutter 2019).
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Lt
from torch import Tensor

Beta = Annotated[float, Ge(0), Lt(1)]


class Product(NamedTuple):
    """A linear layer's gradient, not yet multiplied out: one pass over memory less where it is added to something."""

    delta: Tensor  # [r, C, B]: of the loss by the layer's outputs
    features: Tensor  # [B, d] shared or [r, B, d]

    def value(self) -> Tensor:
        """Return the gradient [r, C, d]."""
        r, c, _ = self.delta.shape
        return add(self.delta.new_empty(r, c, self.features.shape[-1]), self, keep=0)


Gradient = Tensor | Product


def value(gradient: Gradient) -> Tensor:
    """Return a gradient [r, ...] multiplied out."""
    return gradient.value() if isinstance(gradient, Product) else gradient


def add(to: Tensor, gradient: Gradient, scale: Tensor | None = None, keep: float = 1) -> Tensor:
    """Turn `to` [r, ...] into keep x to + scale x gradient, in place; `scale` [r, 1, ...]."""
    if isinstance(gradient, Product):
        delta = gradient.delta if scale is None else gradient.delta * scale
        if gradient.features.ndim == 3:
            return to.baddbmm_(delta, gradient.features, beta=keep)
        to.flatten(0, 1).addmm_(delta.flatten(0, 1), gradient.features, beta=keep)
        return to
    if keep != 1:
        to.mul_(keep)
    return to.add_(gradient) if scale is None else to.addcmul_(gradient, scale)


class Optimizer(NamedTuple):
    """A rule that turns gradients into steps."""

    slots: tuple[str, ...]  # what it remembers of each parameter
    # In place: parameter [r, ...], gradient, slots, hyperparameters each [r, 1, ...], steps so far [r, 1, ...]
    step: Callable[[Tensor, Gradient, list[Tensor], dict[str, Tensor], Tensor], None]
    momentum: float | tuple[float, float] | None = None


def sgd(*, momentum: Beta | tuple[Beta, Beta] = 0.9, nesterov: bool = False) -> Optimizer:
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`."""

    def step(p: Tensor, gradient: Gradient, slots: list[Tensor], hyper: dict[str, Tensor], count: Tensor) -> None:
        if nesterov:
            gradient = value(gradient)
            if "weight_decay" in hyper:
                gradient = gradient.addcmul(p, hyper["weight_decay"])
        if isinstance(momentum, tuple):
            velocity = add(slots[0].mul_(hyper["momentum"]), gradient)
        else:
            velocity = add(slots[0], gradient, keep=momentum)
        if nesterov:
            velocity = gradient.addcmul(velocity, hyper["momentum"])  # type: ignore[union-attr]  # multiplied out above
        elif "weight_decay" in hyper:
            velocity.addcmul_(p, hyper["weight_decay"])
        p.addcmul_(velocity, hyper["lr"], value=-1)

    def plain(p: Tensor, gradient: Gradient, slots: list[Tensor], hyper: dict[str, Tensor], count: Tensor) -> None:
        if "weight_decay" in hyper:
            p.mul_(1 - hyper["lr"] * hyper["weight_decay"])
        add(p, gradient, -hyper["lr"])

    return Optimizer((), plain, 0.0) if momentum == 0 else Optimizer(("velocity",), step, momentum)


def _adam(beta1: float, beta2: float, eps: float, decoupled: bool) -> Optimizer:
    def step(p: Tensor, gradient: Gradient, slots: list[Tensor], hyper: dict[str, Tensor], count: Tensor) -> None:
        gradient = value(gradient)
        if "weight_decay" in hyper:
            if decoupled:
                p.mul_(1 - hyper["lr"] * hyper["weight_decay"])
            else:
                gradient = gradient.addcmul(p, hyper["weight_decay"])
        mean = slots[0].lerp_(gradient, 1 - beta1)
        square = slots[1].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (square / (1 - beta2**count)).sqrt_().add_(eps)
        p.addcdiv_(mean * (-hyper["lr"] / (1 - beta1**count)), scale)

    return Optimizer(("mean", "square"), step)


def adam(*, beta1: Beta = 0.9, beta2: Beta = 0.999, eps: Annotated[float, Gt(0)] = 1e-8) -> Optimizer:
    """Adam, as `torch.optim.Adam`."""
    return _adam(beta1, beta2, eps, decoupled=False)


def adamw(*, beta1: Beta = 0.9, beta2: Beta = 0.999, eps: Annotated[float, Gt(0)] = 1e-8) -> Optimizer:
    """Adam with decoupled weight decay, as `torch.optim.AdamW`."""
    return _adam(beta1, beta2, eps, decoupled=True)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}
