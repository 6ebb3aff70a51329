"""A run's lineage read back: who descends from whom, as far as the run wrote it down."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from neuroevo.errors import ignore
from neuroevo.storage import files, records, rundir


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


def descent(lineage: Lineage, generation: int, row: int) -> list[Ancestor]:
    """Return an individual's line of descent, the newest first: of two parents the fitter one leads on."""
    line = [lineage[generation].ancestor(generation, row)]
    while line[-1].parents and (before := lineage.get(line[-1].generation - 1)) is not None:
        candidates = [before.ancestor(line[-1].generation - 1, parent) for parent in line[-1].parents]
        line.append(max(candidates, key=lambda a: -math.inf if a.fitness is None else a.fitness))
    return line


def founder(lineage: Lineage, generation: int, row: int) -> Ancestor:
    """Return the first of an individual's line of descent, as far back as the lineage goes."""
    return descent(lineage, generation, row)[-1]


def descendants(lineage: Lineage, ancestor: Ancestor, generation: int) -> list[int]:
    """Return the rows of a generation that descend from an ancestor; [] where the lineage doesn't go through."""
    found = {ancestor.row}
    for g in range(ancestor.generation + 1, generation + 1):
        if g not in lineage:
            return []
        found = {row for row, parents in enumerate(lineage[g].parents) if not found.isdisjoint(parents)}
    return sorted(found)
