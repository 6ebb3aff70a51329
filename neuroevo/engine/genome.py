"""The genome: a network's trainable parameters as one row of a matrix.

Everything that evolves is a row of `genomes [n, g]`; `Layout` says which columns are which parameter. Inside the engine
nobody handles modules or trees of tensors: they are flattened once, at the edge.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import NamedTuple, Self

import torch
from torch import Tensor

SCALE = ".scale"  # behind the name of a matrix of levels: the scales of its rows


class Layout(NamedTuple):
    """Names, shapes and places of the trainable parameters within a genome, in the network's own order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...] = ()  # the largest of each parameter of whole levels, 0 for one of floats; () where all are

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> Self:
        """Describe one network's parameters (no leading population dimension)."""
        return cls(tuple(parameters), tuple(tuple(p.shape) for p in parameters.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of genes of each parameter."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def tops(self) -> dict[str, int]:
        """The largest level of each parameter that is levels."""
        return {name: top for name, top in zip(self.names, self.levels, strict=False) if top}

    @property
    def offsets(self) -> tuple[int, ...]:
        """First column of each parameter."""
        return tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))

    @property
    def genes(self) -> int:
        """Length of a genome."""
        return sum(self.sizes)

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Copy parameters `{name: [n, *shape]}` into genomes `[n, g]`; ValueError names the first that doesn't fit."""
        for name, shape in zip(self.names, self.shapes, strict=True):
            found = tuple(parameters[name].shape[1:]) if name in parameters else None
            if found != shape:
                raise ValueError(f"{name}: shape {shape} expected, {found or 'nothing'} found")
        return torch.cat([parameters[name].reshape(len(parameters[name]), -1) for name in self.names], dim=1)

    def unflatten(self, genomes: Tensor) -> dict[str, Tensor]:
        """View genomes `[n, g]` as `{name: [n, *shape]}`; the views share the genomes' storage."""
        parts = genomes.split(self.sizes, dim=1)
        return {
            name: part.unflatten(1, shape) if shape else part.squeeze(1)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }

    def to_json(self) -> str:
        """Return names, shapes and offsets as JSON, for checkpoints."""
        levels = {"levels": self.levels} if self.levels else {}
        return json.dumps({"names": self.names, "shapes": self.shapes, "offsets": self.offsets, **levels})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        record = json.loads(text)
        shapes = tuple(tuple(shape) for shape in record["shapes"])
        return cls(tuple(record["names"]), shapes, tuple(record.get("levels", ())))


EMPTY = Layout((), ())


NEW, BRED, KEPT = range(3)  # roles: drawn from nobody; made of parents; gone on as it was


class Population(NamedTuple):
    """Individuals and what they carry: selection indexes all of it at once."""

    genomes: Tensor  # [n, g] float32
    traits: dict[str, Tensor]  # {name: [n, ...]}: inherited beside the genes, such as an individual's own sigma
    parents: Tensor  # [n, p] int64: rows of the population before, -1 for none or everybody; the lineage alone
    roles: Tensor  # [n] int8: NEW, BRED or KEPT, as the algorithm says who asked for it

    @classmethod
    def new(cls, genomes: Tensor, *, parents: int = 1) -> Self:
        """Return new individuals of genomes [n, g], without traits and without the `parents` that they might have."""
        n, device = len(genomes), genomes.device
        return cls(genomes, {}, torch.full((n, parents), -1, device=device), roles({NEW: n}, device))

    def rows(self, index: Tensor | slice) -> Self:
        """Return some of the individuals with all that they carry."""
        traits = {name: trait[index] for name, trait in self.traits.items()}
        return type(self)(self.genomes[index], traits, self.parents[index], self.roles[index])


def roles(counts: Mapping[int, int], device: torch.device) -> Tensor:
    """Return the roles [n] int8 of a population that has so many individuals of each, one role after another."""
    parts = [torch.full((n,), role, dtype=torch.int8, device=device) for role, n in counts.items()]
    return torch.cat(parts)


def noisy(start: Tensor, n: int, sigma: float | Tensor, generator: torch.Generator) -> Tensor:
    """Return `n` genomes [n, g] around those of `start` [s, g] in turn, the first s of them unchanged.

    `sigma` is the noise's deviation, one or [g].
    """
    genomes = start[torch.arange(n, device=start.device) % len(start)]
    noise = torch.randn(genomes.shape, generator=generator, device=start.device)
    noise[: len(start)] = 0
    return genomes.add_(noise.mul_(sigma))
