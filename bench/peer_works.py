"""What the works of `peers.py` are made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuroevo.engine.genome import Layout

CLASSES, LIMIT = 10, 2**30

Way = Callable[[], Any]


class Missing(NamedTuple):
    """A peer that isn't installed."""

    how: str  # to install it


@dataclass
class Work:
    """What is to be done, and the ways to do it."""

    title: str
    ways: dict[str, Way | Missing]
    flops: Callable[[str], float] | None  # of a way, by its name
    check: Callable[[dict[str, Any]], dict[str, float]]  # results by way -> the largest difference of what is compared
    parts: dict[str, list[float]] = field(default_factory=dict)  # of our way: seconds a round
    scale: dict[str, float] = field(default_factory=dict)  # of ways that do a part of it
    warm: int = 1  # rounds that don't count


def peer(package: str, make: Callable[[], Way]) -> Way | Missing:
    """Return a peer's way, or how to install what it needs."""
    return make() if find_spec(package) else Missing(f"pip install {package}")


def agree(what: str, a: Tensor, b: Tensor, within: float) -> dict[str, float]:
    """Return by how much two tensors differ at most; RuntimeError where that is more than `within`."""
    difference = float((a.double().cpu() - b.double().cpu()).abs().max())
    if not difference <= within:
        raise RuntimeError(f"{what}: results differ by {difference}, more than {within}")
    return {what: difference}


def layout_of(head: nn.Module, prefix: str = "head") -> Layout:
    """Return the layout of a head's genes: in the order that peers flatten a module."""
    return Layout.of({f"{prefix}.{name}": p.detach() for name, p in head.named_parameters()})


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of samples whose largest logit [..., B, C] is their class's [B]: [...]."""
    return (logits.argmax(-1) == targets).float().mean(-1)


def evox_scores(head: nn.Module, data: tuple[Tensor, Tensor], stacked: dict[str, Tensor]) -> Way:
    """Return how EvoX scores a population of a module's weights, on all samples in one batch."""
    from evox.problems.neuroevolution.supervised_learning import SupervisedLearningProblem

    n = len(next(iter(stacked.values())))

    def criterion(logits: Tensor, targets: Tensor) -> Tensor:
        return hits(logits, targets)[None]

    problem: Any = SupervisedLearningProblem(
        head,
        [data],  # type: ignore[arg-type]
        criterion,  # type: ignore[arg-type]
        n_batch_per_eval=-1,
        pop_size=n,
        device=data[0].device,
    )
    return torch.no_grad()(lambda: problem.evaluate(stacked))  # type: ignore[no-any-return]
