"""What tests of searches share: a small genome, and what it is worth on the batch of a generation."""

from typing import Any

import numpy as np
import torch

from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores

LAYOUT = Layout(("w", "b"), ((3, 4), (3,)))
G = LAYOUT.genes
CPU = torch.device("cpu")
NOBODY = float("-inf")


def context(generation: int, device: torch.device = CPU) -> Context:
    return Context(0, generation, 0.0, device, LAYOUT)


def scores(values: Any, device: torch.device = CPU) -> Scores:
    values = torch.as_tensor(values, dtype=torch.float64, device=device)
    return Scores(values[:, None], values == NOBODY)


def worth(genome: Any, generation: int) -> float:
    """Return what a genome is worth: the nearer the target, which moves, the better; some are invalid."""
    target = np.sin(np.arange(G) + generation)
    return NOBODY if genome[-1] > 1.2 else -float(((np.asarray(genome, dtype=np.float64) - target) ** 2).sum())


def scored(population: Population, generation: int) -> Scores:
    genomes = population.genomes
    return scores([worth(genome, generation) for genome in genomes.cpu().numpy()], genomes.device)
