"""What metrics need of a slice of individuals on a slice of samples: by operations, by a kernel, or by a CUDA graph."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from neuroevo.engine.execution import Execution
from neuroevo.engine.graphs import Graphs
from neuroevo.engine.samples import Samples, walk
from neuroevo.networks.heads import Forward, Products
from neuroevo.problems.metric import Additive, Metric

Weights = dict[str, Tensor]
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Evolved(Protocol):
    """What genomes are the weights of."""

    @property
    def decode(self) -> Callable[[Tensor], Weights]:
        """Weights {name: [n, *shape]} of genomes [n, g]."""
        ...

    @property
    def forward(self) -> Forward:
        """Logits of weights on samples."""
        ...

    @property
    def module(self) -> Callable[[Tensor], nn.Module]:
        """A network of its own for a genome [g], for metrics that ask for one."""
        ...


class Replay(NamedTuple):
    """Graphs of slices' work, and what of it is within: what takes operations on the device alone."""

    graphs: Graphs
    decodes: bool  # genomes into weights; not by what the host draws: a graph would read that memory again and again
    gathers: bool  # rows into batches


def weights_of(evolved: Evolved, genomes: Tensor, execution: Execution) -> Weights:
    """Return the weights of genomes [r, g], laid out for products in the execution's precision."""
    weights = evolved.decode(genomes)
    if isinstance(evolved.forward, Products):
        weights = evolved.forward.pack(weights, HALVES.get(execution.precision))
    return weights


def logits_of(evolved: Evolved, weights: Weights, features: Tensor, execution: Execution) -> Tensor:
    """Return the logits [r, B, C] of weights {name: [r, *shape]} in the execution's precision."""
    half = HALVES.get(execution.precision)
    with torch.autocast(features.device.type, half, enabled=half is not None):
        return evolved.forward(weights, features)


def sums(metrics: Sequence[Metric], logits: Tensor, targets: Tensor, execution: Execution) -> list[Tensor]:
    """Return the sums of logits [r], NaN or Inf if any logit is, and the statistics [r, k] of each additive metric."""
    additive = [metric for metric in metrics if isinstance(metric, Additive)]
    if execution.one_pass and all(metric.of_sample for metric in additive):
        from neuroevo.problems import kernels  # needs Triton

        found = kernels.sums(logits, targets)
        many = torch.full_like(found[:, 0], len(targets))
        of = [found[:, kernels.COLUMNS.index(metric.of_sample)] for metric in additive]
        return [found[:, -1], *(torch.stack([column, many], 1) for column in of)]
    added = logits.sum((1, 2), dtype=torch.float32)
    several = dict.fromkeys(metric.statistics for metric in additive)  # metrics may have theirs in common
    made = {statistics: statistics(logits, targets) for statistics in several}
    return [added, *(made[metric.statistics] for metric in additive)]


def replay(
    by: Replay,
    evolved: Evolved,
    samples: Samples,
    metrics: Sequence[Metric],
    given: tuple[Tensor, Tensor, Execution],
) -> Iterator[list[Tensor]]:
    """Yield the `sums` of genomes [r, g] on each slice of rows [B], both of them given, each slice by one launch."""
    rows, index, execution = given
    weights = {"genomes": rows.to(samples.labels.device)} if by.decodes else weights_of(evolved, rows, execution)
    names = tuple(weights)

    def work(*inputs: Tensor) -> list[Tensor]:
        own = dict(zip(names, inputs, strict=False))
        own = weights_of(evolved, own["genomes"], execution) if by.decodes else own
        features, targets = samples.batch(inputs[-1]) if by.gathers else inputs[-2:]
        found = sums(metrics, logits_of(evolved, own, features, execution), targets, execution)
        return [each.double() for each in found]

    if by.gathers:
        index = index.pin_memory() if index.device.type == "cpu" else index
        batches: Iterable[tuple[Tensor, ...]] = ((part,) for part in index.split(execution.samples))
    else:
        batches = walk(samples, index.split(execution.samples))
    for batch in batches:
        yield by.graphs.call(work, [*weights.values(), *batch], execution.precision)
