"""The champion's ancestors, read from a run's lineage."""

import re
from typing import Any

import torch

from neuroevo import caveats
from neuroevo.engine import pareto
from neuroevo.search import islands
from neuroevo.search.algorithms.ga import elite_mean_size
from neuroevo.storage import records
from neuroevo.storage.checkpoint import FRONT
from neuroevo.storage.lineage import Ancestor, Generation, Lineage

ALONE = "individual_"  # begins the name of a candidate of a fixed population: its row follows


def origin(generation: Generation, kind: str, config: dict[str, Any]) -> list[int]:
    """Return the rows of a generation that a candidate of some kind was made of, the best first; [] where unknown."""
    kind, island = islands.split(kind)
    order, first = generation.order(), 0
    if island is not None:
        if generation.island is None or island not in generation.island:
            return []
        first = generation.island.index(island)
        order = [row for row in order if generation.island[row] == island]
    if kind == "best" or not order:
        return order[:1]
    if kind == "elite_mean":
        size = config["algorithm"].get("population"), caveats.elites_of(config, island)
        return order[: elite_mean_size(*size)] if all(map(records.count, size)) else []
    if kind.startswith(ALONE):
        row = first + _place(kind.removeprefix(ALONE))
        return [row] if first <= row < len(generation.parents) else []
    if kind.startswith(FRONT) and isinstance(generation.fitness[order[0]], list):
        m = len(generation.fitness[order[0]])
        values = [[-torch.inf] * m if value is None else value for value in generation.fitness]
        members, place = pareto.front(torch.tensor(values, dtype=torch.float64)).tolist(), kind.removeprefix(FRONT)
        return members[_place(place) :][:1] if _place(place) >= 0 else []
    return []


def _place(text: str) -> int:
    """Return the number that ends the name of a candidate, -1 where that is none."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else -1


def ancestors(lineage: Lineage, generation: int, rows: list[int], depth: int, widest: int) -> list[list[Ancestor]]:
    """Return individuals of a generation and, behind them, their ancestors generation by generation.

    It ends after `depth` generations, before one with more than `widest` ancestors, or where the lineage does.
    """
    found: list[list[Ancestor]] = []
    while rows and generation in lineage and len(found) < depth and (not found or len(rows) <= widest):
        found.append([lineage[generation].ancestor(generation, row) for row in rows])
        rows = list(dict.fromkeys(parent for individual in found[-1] for parent in individual.parents))
        generation -= 1
    return found
