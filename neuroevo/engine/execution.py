"""How evaluations are sliced, so that none needs more memory than its limit, and who does the slices' work."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch

from neuroevo import devices
from neuroevo.errors import InputError, RunError

Precision = Literal["auto", "float32", "bfloat16", "float16"]  # of scoring, as it is asked for
AUTO: Precision = "auto"
FULL: Precision = "float32"

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Work(Generic[T, R]):
    """What is done with each slice: a function of a module, of parts, of what slices have in common, and of a slice.

    Parts are large and the same for a whole run, and are told apart by which object they are: an executor that sends
    them somewhere sends them once. What slices have in common is small, or of this call alone.
    """

    function: Callable[[Any, Any, T], R]
    parts: Any
    common: Any = None

    def __call__(self, piece: T) -> R:
        """Return what the work makes of a slice."""
        return self.function(self.parts, self.common, piece)


class Executor(Protocol):
    """Who does the work of an evaluation's slices: a slice of individuals is the unit of work.

    One that has `alike` computes as this process does, to the last bit.
    """

    def map(self, work: Work[T, R], slices: Iterable[T]) -> Iterable[R]:
        """Return what work makes of each slice, in their order."""
        ...


class Local:
    """Does one slice after another in this process."""

    alike = True

    def map(self, work: Work[T, R], slices: Iterable[T]) -> Iterable[R]:
        """Yield what work makes of each slice, made when it is asked for."""
        return map(work, slices)


LOCAL = Local()


class Execution(NamedTuple):
    """How evaluations are sliced; fixed at a run's start, since slicing changes rounding."""

    method: str  # gemm, vmap or loop for heads, loop or vmap for what comes before them
    classes: int
    individuals: int  # at most this many at a time
    samples: int  # at most this many at a time, for metrics that add over samples
    limit: int  # bytes that an evaluation may use beside population and features
    threads: int
    precision: str = "float32"  # of scoring; in half of it the best are scored again in float32
    trained: int = 0  # individuals at a time in gradient steps
    micro: int = 0  # samples at a time in gradient steps
    home: str = "cpu"  # where the population is kept
    one_pass: bool = False  # whether a kernel takes hits and losses of logits in one pass over them
    graphs: bool = False  # whether slices of scoring are launched as CUDA graphs


def plan(method: str, genes: int, dim: int, widths: Sequence[int], *, limit: int, device: torch.device) -> Execution:
    """Choose slices for `genes` genes over `dim` features with layers of these widths; InputError if none fit.

    Slices of activations stay small enough for a CPU's cache and allocator, or large enough to fill a GPU.
    """
    # Two layers' activations are alive at once, and metrics make up to three more of the last one's size.
    per_sample = 4 * max([a + b for a, b in pairwise(widths)] + [4 * widths[-1]])
    best = (16 if device.type == "cpu" else 512) * 2**20
    samples = 1024 if device.type == "cpu" else 8192
    usable = 3 * limit // 4  # the allocator keeps some of what is freed
    while True:
        fixed = 3 * 4 * samples * dim  # a batch of features: gathered, standardised, one temporary
        each = 4 * genes + samples * per_sample
        individuals = min((usable - fixed) // each, max(1, best // (4 * samples * max(widths))))
        if individuals >= 1:
            return Execution(method, widths[-1], int(individuals), samples, limit, torch.get_num_threads())
        if samples <= 32:
            raise InputError(
                f"{limit} bytes is too little for one individual; at least {4 * (fixed + each) // 3 + 1}",
                option="limit",
            )
        samples //= 2


def halve(plan: Execution) -> Execution:
    """Return an execution with half as much at a time; RunError where that is one individual and one sample already."""
    if max(plan.individuals, plan.samples, plan.trained, plan.micro) <= 1:
        raise RunError("out of memory with one individual and one sample at a time; no limit changes that")
    more, many = plan.individuals > 1, plan.trained > 1
    return plan._replace(
        individuals=plan.individuals // 2 if more else 1,
        samples=plan.samples if more else max(1, plan.samples // 2),
        trained=plan.trained // 2 if many else plan.trained,
        micro=plan.micro if many else plan.micro and max(1, plan.micro // 2),
    )


class Executions:
    """The execution in force; what doesn't fit into memory halves it."""

    def __init__(self, now: Execution, changes: Sequence[dict[str, int]] = ()) -> None:
        self.now = now
        self.changes = list(changes)  # each with its generation, individuals and samples at a time
        self.smaller = False  # than when this was last looked at

    def fit(self, work: Callable[[Execution], T]) -> T:
        """Do what fits into memory, with smaller slices until it does; RunError where one sample doesn't."""
        while True:
            try:
                return work(self.now)
            except (RuntimeError, MemoryError) as error:
                if not devices.out_of_memory(error):
                    raise
            self.now, self.smaller = halve(self.now), True  # the failed work's memory is free again here
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
