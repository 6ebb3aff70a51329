"""The sensitivity of outputs to each gene, for safe mutations."""

import torch
from torch import Tensor

from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import Work
from neuroevo.engine.rng import generator
from neuroevo.learning.task import Task

PROBE, SIGNS = 64, 4  # samples, and random signs of their outputs, by which sensitivity is measured


class Sensitivity:
    """The sensitivity of a network's outputs to each gene, on a fixed probe batch.

    The root of the mean over samples of the squares of all outputs' derivatives by a gene (after Lehman et al. 2018,
    safe mutation through gradients). Instead of one backward pass an output, SIGNS are drawn for every sample and
    output: the square of such a sum's derivative is expected to be the sum of the squares (Hutchinson 1990).
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        source = generator(seed, "sensitivity", 0)
        self.rows = task.train[torch.randperm(len(task.train), generator=source)[:PROBE]]
        shape = SIGNS, len(self.rows), task.classes
        self.signs = (2.0 * torch.randint(2, shape, generator=source) - 1).to(task.device)

    def of(self, genomes: Tensor) -> Tensor:
        """Return the sensitivities [n, g] of genomes [n, g]."""
        size, found = self.task.individuals, torch.empty_like(genomes)
        measured = self.task.executor.map(Work(measure, self), genomes.split(size))
        for out, of in zip(found.split(size), measured, strict=True):
            out.copy_(of)
        return found

    def cost(self, n: int) -> Cost:
        """Return the cost of the sensitivities of n genomes."""
        return probe_cost(n, len(self.rows))


def measure(of: Sensitivity, nothing: None, genomes: Tensor) -> Tensor:
    """Return the sensitivities [r, g] of a slice of genomes [r, g]."""
    task = of.task
    features, _ = task.source.batch(of.rows)
    own = genomes.to(task.device).detach().requires_grad_(True)
    squares = torch.zeros_like(own)
    for left in range(0, len(features), task.micro):
        with torch.enable_grad():
            logits = task.forward(task.layout.unflatten(own), features[left : left + task.micro])
            for signs in of.signs[:, left : left + task.micro]:
                weighted = (logits * signs).sum()
                squares += torch.autograd.grad(weighted, own, retain_graph=True)[0].square()
    return (squares / len(features) / SIGNS).sqrt_()


def probe_cost(n: int, train: int) -> Cost:
    """Return the cost of the sensitivities of n genomes, with so many train images."""
    samples = n * min(PROBE, train)
    return Cost(forward=samples, backward=samples * SIGNS)
