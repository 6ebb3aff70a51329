"""The champion's ancestors, read from a run's lineage."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from neuroevo import caveats
from neuroevo.engine import pareto
from neuroevo.errors import ignore
from neuroevo.search import islands
from neuroevo.search.algorithms.ga import elite_mean_size
from neuroevo.storage import files, records, rundir
from neuroevo.storage.checkpoint import FRONT

ALONE = "individual_"  # begins the name of a candidate of a fixed population: its row follows


class Ancestor(NamedTuple):
    """An individual of a generation, and whom it has in the generation before."""

    generation: int
    row: int
    fitness: float | None  # the first objective's; None where invalid
    parents: tuple[int, ...]  # rows of the generation before


class Generation(NamedTuple):
    """A line of the lineage."""

    parents: list[list[int]]  # [n][p], -1 for none
    fitness: list[Any]  # [n] or [n][m], higher is better, None where invalid
    island: list[int] | None = None  # [n], where there are several

    def order(self) -> list[int]:
        """Return the rows of the valid, the best first; a second column breaks ties of the first."""
        valid = [i for i, value in enumerate(self.fitness) if value is not None]
        return sorted(valid, key=lambda i: self.fitness[i], reverse=True)

    def ancestor(self, generation: int, row: int) -> Ancestor:
        """Return one of its individuals."""
        value = self.fitness[row]
        parents = dict.fromkeys(parent for parent in self.parents[row] if parent >= 0)
        return Ancestor(generation, row, value[0] if isinstance(value, list) else value, tuple(parents))


Lineage = dict[int, Generation]


def read(folder: Path, note: files.Note = ignore) -> Lineage:
    """Return a run's lineage by generation; empty where there is none. Damaged generations are left out."""
    path = folder / rundir.LINEAGE
    lines = files.read_lines(path, note, records.of_lineage)
    found = {line["generation"]: Generation(line["parents"], line["fitness"], line.get("island")) for line in lines}
    for generation in sorted(found):
        before = found.get(generation - 1)
        if before is not None and max(map(max, filter(None, found[generation].parents)), default=-1) >= len(
            before.parents
        ):
            note(f"{path}: generation {generation} has parents that are none, and is left out")
            del found[generation]
    return found


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
        return order[: elite_mean_size(config["algorithm"]["population"], caveats.elites_of(config, island))]
    if kind.startswith(ALONE):
        return [first + int(kind.removeprefix(ALONE))]
    if kind.startswith(FRONT):
        m = len(generation.fitness[order[0]])
        values = [[-torch.inf] * m if value is None else value for value in generation.fitness]
        return [int(pareto.front(torch.tensor(values, dtype=torch.float64))[int(kind.removeprefix(FRONT))])]
    return []


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


def descent(lineage: Lineage, generation: int, row: int) -> list[Ancestor]:
    """Return an individual's line of descent, the newest first: of two parents the fitter one leads on."""
    line = [lineage[generation].ancestor(generation, row)]
    while line[-1].parents and (before := lineage.get(line[-1].generation - 1)) is not None:
        candidates = [before.ancestor(line[-1].generation - 1, parent) for parent in line[-1].parents]
        line.append(max(candidates, key=lambda a: -torch.inf if a.fitness is None else a.fitness))
    return line
