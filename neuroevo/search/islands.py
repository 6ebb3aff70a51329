"""Islands: several populations that search apart, and now and then send each other their best.

Each draws from streams of its own, and all see the same batches, so that scores of one can be compared with another's
(Tanese 1989, "Distributed Genetic Algorithms"; Whitley, Rana and Heckendorn 1999, "The Island Model Genetic
Algorithm"). They are scored and learn as one population. At the end of fixed generations the best of each island take
the places of the worst of those islands that receive from it; all are sent before any is replaced.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroevo.engine import joined, pareto
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import KEPT, Population
from neuroevo.engine.joined import States, blocks, place
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.search.algorithms.base import fitness_of

Topology = Sequence[Sequence[int]]  # for each island those from which it receives


class Archipelago(NamedTuple):
    """The states of all islands, and what goes from one to another."""

    runs: States  # as they were told
    settled: States  # after migration, from which they go on; the same where there is none
    origins: Tensor  # [n] int64: the row of the last population that each row to go on from had; its own but migrants'
    told: Tensor  # [] int64, on the CPU: generations
    genomes: Tensor  # [n, g] of the last population, with many objectives; [0, g] with one
    objectives: Tensor  # [n, m] float64 of those, -inf where invalid


class Migration(NamedTuple):
    """Who goes where, and when."""

    every: int  # generations
    migrants: int  # that an island sends to each that receives from it
    sources: Topology


def ring(count: int) -> list[list[int]]:
    """Return the topology in which each island receives from the one before it."""
    return [[(i - 1) % count] for i in range(count)]


def full(count: int) -> list[list[int]]:
    """Return the topology in which each island receives from all others."""
    return [[j for j in range(count) if j != i] for i in range(count)]


TOPOLOGIES = {"ring": ring, "full": full}


def name(kind: str, island: int) -> str:
    """Return the name of an island's candidate for champion."""
    return f"{kind} of island {island}"


def split(kind: str) -> tuple[str, int | None]:
    """Return the kind of a candidate on its island, and the island; None where there is but one population."""
    own, _, island = kind.partition(" of island ")
    return own, int(island) if island.isdecimal() else None


def islands(
    algorithms: Sequence[Algorithm[Any]],
    migration: Migration,
    *,
    spreads: Sequence[float | Tensor | None] = (),
    traits: Mapping[str, Sequence[float]] | None = None,
) -> Algorithm[Archipelago]:
    """Return algorithms of one size as islands, whose populations are one, one behind the other.

    `spreads` are the deviations of their starting noise, None for that which all have; `traits` {name: a value for each
    island} are what individuals bring along, such as a learning rate. InputError where one can't receive migrants.
    """
    k, n, first = len(algorithms), algorithms[0].size, algorithms[0]
    if any((a.size, a.again) != (n, first.again) for a in algorithms):
        raise InputError("islands have populations of one size", option="settings")
    if migration.migrants and not all(a.receives for a in algorithms):
        line = f"{migration.migrants}, but this algorithm keeps no population that others could join; 0 goes with it"
        raise InputError(line, option="migrants")
    most = migration.migrants * max(map(len, migration.sources), default=0)
    if most >= n:
        line = f"{most} of the {n} individuals of an island would be replaced at once; {n - 1} at most"
        raise InputError(line, option="migrants")

    def contexts(context: Context) -> list[Context]:
        return [context._replace(island=i) for i in range(k)]

    def init(start: Tensor, sigma: float | Tensor, context: Context) -> Archipelago:
        own = [sigma if spread is None else spread for spread in spreads or [None] * k]
        states = joined.begin(algorithms, start, own, contexts(context))
        rows = torch.arange(k * n, device=start.device)
        nobody = start.new_empty(0, dtype=torch.float64)
        return Archipelago(states, states, rows, torch.zeros((), dtype=torch.int64), start[:0], nobody)

    def ask(state: Archipelago, context: Context) -> Population:
        asked = joined.ask(algorithms, state.settled, contexts(context))
        each = len(state.origins) // k
        for i, population in enumerate(asked):
            parents = population.parents
            there = state.origins[parents.clamp(min=0) + i * each]
            asked[i] = population._replace(parents=there.where(parents >= 0, parents))
        try:
            whole = joined.stack(asked)
        except InputError as error:
            raise InputError(f"{error}; give all of them such settings, or none", option="islands") from None
        size, genomes = len(asked[0].genomes), whole.genomes
        own = {key: spread_out(values, size, genomes) for key, values in (traits or {}).items()}
        return whole._replace(traits=whole.traits | own)

    def tell(state: Archipelago, scored: Population, scores: Scores) -> Archipelago:
        told = int(state.told) + 1
        runs = settled = joined.tell(algorithms, state.settled, scored, scores)
        rows = torch.arange(len(scored.genomes), device=scored.genomes.device)
        if migration.migrants and told % migration.every == 0:
            origins = exchange(scores, migration, n)
            there = scored.rows(origins)._replace(parents=scored.parents)
            there = there._replace(roles=scored.roles.masked_fill(origins != rows, KEPT))
            settled, rows = joined.tell(algorithms, state.settled, there, scores.rows(origins)), origins
        many = scores.objectives > 1
        objectives = pareto.objectives(scores) if many else scores.values.new_empty(0)
        genomes = scored.genomes if many else scored.genomes[:0]
        return Archipelago(runs, settled, rows, torch.tensor(told), genomes, objectives)

    def candidates(state: Archipelago) -> dict[str, Tensor]:
        if len(state.objectives):  # those whom nobody on any island dominates
            return {f"front-{i}": row for i, row in enumerate(state.genomes[pareto.front(state.objectives)])}
        found = [(i, a.candidates(state.runs[place(i)])) for i, a in enumerate(algorithms)]
        return {name(kind, i): genome for i, own in found for kind, genome in own.items()}

    def check(genes: int) -> None:
        for a in algorithms:
            a.check(genes)

    remembered = [a.remembered for a in algorithms]
    return Algorithm(
        init,
        ask,
        tell,
        candidates,
        **joined.sizes(algorithms)._asdict(),
        remembered=max(remembered) if all(remembered) else 0,
        many=all(a.many for a in algorithms),
        roles=tuple(sorted({role for a in algorithms for role in a.roles})),
        continuous=first.continuous,
        check=check,
        islands=k,
    )


def spread_out(values: Sequence[float], size: int, like: Tensor) -> Tensor:
    """Return a value for each individual of islands of that size, made on the device: nothing is sent there."""
    return torch.cat([like.new_full((size,), value) for value in values])


def exchange(scores: Scores, migration: Migration, size: int) -> Tensor:
    """Return the row [n] whose individual each row goes on with: its own, or a migrant's in place of the worst.

    Each island has `size` individuals, of one row each or more: the better of them goes, and all are replaced. Nobody
    goes who is invalid.
    """
    k, rows = len(migration.sources), len(scores.invalid)
    each, device = rows // k, scores.invalid.device
    orders, found = [], torch.arange(rows, device=device)
    for part in blocks(rows, k):
        value, which = fitness_of(scores.rows(part)).view(-1, size).max(0)
        order = value.argsort(descending=True, stable=True)
        orders.append((order, (which * size)[order] + order + part.start))
    for i, sources in enumerate(migration.sources):
        places = orders[i][0].flip(0)[: migration.migrants * len(sources)] + i * each
        sent = [orders[j][1][: migration.migrants] for j in sources]
        if not sent:
            continue
        best = torch.cat(sent)
        for beside in range(0, each, size):
            here = places + beside
            found = found.index_copy(0, here, torch.where(scores.invalid[best], here, best))
    return found
