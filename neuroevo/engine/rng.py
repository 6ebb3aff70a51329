"""Random numbers as a function of (seed, stream, generation): a resumed run draws what an uninterrupted one does.

No generator outlives a generation and none is ever saved: each named stream of each generation has its own, seeded by a
hash. Streams are independent of each other, so a part that draws more or less moves nobody else's numbers.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from neuroevo.engine.genome import EMPTY, Layout


def generator(seed: int, stream: str, generation: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on `device` for the stream called `stream` in `generation`."""
    digest = hashlib.sha256(f"{seed}/{stream}/{generation}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Context(NamedTuple):
    """What a generation may depend on beside its state: which one it is, of which run, and how far along."""

    seed: int
    generation: int  # from 1
    progress: float  # in [0, 1], of the budget in generations or samples, never of the clock
    device: torch.device  # where the population is kept
    layout: Layout = EMPTY  # of the genomes; of no parameters where nobody asks which gene is whose
    # How much outputs depend on each gene, genomes [n, g] -> [n, g]; there only where something asks for it.
    sensitivity: Callable[[torch.Tensor], torch.Tensor] | None = None
    steps: int | None = None  # gradient steps that the budget has left, where that is fewer than a generation's
    island: int = 0  # which of several populations draws; the first draws as one that is alone

    def generator(self, stream: str) -> torch.Generator:
        """Return this generation's generator of a stream of the island's own, on the population's device."""
        own = f"island/{self.island}/{stream}" if self.island else stream
        return generator(self.seed, own, self.generation, self.device)


@contextmanager
def fork(source: torch.Generator) -> Iterator[None]:
    """Let a library that draws from torch's global generator draw from `source` instead; the global one is restored.

    A GPU's generator gives its own seed, since to draw one would wait for it.
    """
    if source.device.type == "cuda":
        seed, devices = source.initial_seed(), [source.device]
    else:
        seed, devices = int(torch.randint(2**63 - 1, (), generator=source)), []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
