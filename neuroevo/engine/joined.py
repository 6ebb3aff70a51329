"""Several algorithms of one shape side by side: each proposes for itself, and all are scored as one population.

A joined population has the algorithms' rows one behind the other, as many of each. Who joins them says what they share:
runs in lockstep all random numbers, islands none.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError

States = dict[str, Any]  # those of all algorithms, by their place


class Sizes(NamedTuple):
    """What all algorithms ask for together."""

    size: int
    again: int
    overhead: int


def place(i: int) -> str:
    """Return the name of an algorithm's state, which sorts by its place."""
    return f"{i:06d}"


def sizes(algorithms: Sequence[Algorithm[Any]]) -> Sizes:
    """Return what all algorithms ask for together."""
    return Sizes(sum(a.size for a in algorithms), sum(a.again for a in algorithms), sum(a.overhead for a in algorithms))


def begin(
    algorithms: Sequence[Algorithm[Any]], start: Tensor, spreads: Sequence[Any], contexts: Sequence[Context]
) -> States:
    """Return the algorithms' states around starting genomes [s, g], each with its own deviation of the noise."""
    every = zip(algorithms, spreads, contexts, strict=True)
    return {place(i): a.init(start, spread, context) for i, (a, spread, context) in enumerate(every)}


def ask(algorithms: Sequence[Algorithm[Any]], states: States, contexts: Sequence[Context]) -> list[Population]:
    """Return what each algorithm asks for."""
    every = zip(algorithms, states.values(), contexts, strict=True)
    return [a.ask(state, context) for a, state, context in every]


def tell(algorithms: Sequence[Algorithm[Any]], states: States, scored: Population, scores: Scores) -> States:
    """Return the algorithms' states after each was told its own rows."""
    every = zip(algorithms, states.items(), blocks(len(scored.genomes), len(algorithms)), strict=True)
    return {key: a.tell(state, _own(state, scored.rows(rows)), scores.rows(rows)) for a, (key, state), rows in every}


def _own(state: Any, scored: Population) -> Population:
    """Return a population with as many parents each as that of a state has: `stack` may have made room for more."""
    before = getattr(state, "population", None)
    width = before.parents.shape[1] if isinstance(before, Population) else scored.parents.shape[1]
    return scored._replace(parents=scored.parents[:, :width])


def blocks(rows: int, count: int) -> Iterator[slice]:
    """Yield the rows of each of so many equal parts of a population."""
    each = rows // count
    return (slice(i * each, (i + 1) * each) for i in range(count))


def stack(populations: Sequence[Population]) -> Population:
    """Return populations as one, one behind the other; InputError where their individuals carry different things."""
    first, *others = populations
    for other in others:
        lacking = sorted(first.traits.keys() ^ other.traits.keys())
        if lacking:
            raise InputError(f"individuals of some have {', '.join(lacking)} of their own, and others haven't")
    width = max(population.parents.shape[1] for population in populations)
    parents = [functional.pad(p.parents, (0, width - p.parents.shape[1]), value=-1) for p in populations]
    return Population(
        torch.cat([population.genomes for population in populations]),
        {name: torch.cat([population.traits[name] for population in populations]) for name in first.traits},
        torch.cat(parents),
        torch.cat([population.roles for population in populations]),
    )
