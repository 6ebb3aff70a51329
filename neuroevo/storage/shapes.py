"""Shapes and types of a checkpoint's tensors, which have to fit each other."""

import torch
from torch import Tensor

from neuroevo.engine.genome import Population
from neuroevo.engine.scores import Scores


def check(
    population: Population, scores: Scores, champion: Tensor, front: tuple[Tensor, Tensor] | None, genes: int
) -> None:
    """Raise ValueError where a population of `genes` genes, its scores, champion [g] and front don't fit each other."""
    n = len(population.genomes)
    single, double, whole = torch.float32, torch.float64, torch.int64
    shapes: dict[str, tuple[Tensor, torch.dtype | None, tuple[int | None, ...]]] = {
        "population/genomes": (population.genomes, single, (n, genes)),
        "population/parents": (population.parents, whole, (n, None)),
        "population/roles": (population.roles, torch.int8, (n,)),
        "population/fitness": (scores.values, double, (n, None)),
        "population/invalid": (scores.invalid, torch.bool, (n,)),
        "champion/genome": (champion, single, (genes,)),
        **{
            f"population/traits/{key}": (trait, None, (n, *[None] * (trait.ndim - 1)))
            for key, trait in population.traits.items()
        },
    }
    if scores.violation is not None:
        shapes["population/violation"] = scores.violation, double, (n,)
    if front is not None:
        genomes, fitness = front
        shapes["front/genomes"] = genomes, single, (None, genes)
        shapes["front/fitness"] = fitness, double, (len(genomes), None)
    for key, (tensor, kind, shape) in shapes.items():
        right = tensor.ndim == len(shape) and all(b in (None, a) for a, b in zip(tensor.shape, shape, strict=True))
        if not right or kind not in (None, tensor.dtype):
            raise ValueError(f"/{key} is {tensor.dtype} of shape {tuple(tensor.shape)}")
