"""Masks that choose genes at once: coins, bits of floats, and the units and layers that genes belong to.

A mask is an integer tensor, -1 (all bits set) where a gene is chosen and 0 elsewhere.
"""

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from neuroevo.engine.genome import SCALE, Layout

Probability = Annotated[float, Ge(0), Le(1)]
# Elements of a block. On a CPU it stays in cache, and torch runs so few in the calling thread: waking others for each
# small step gains little, and takes tens of times as long on a busy machine. A multiple of 32, for `Coins`.
CPU_BLOCK, GPU_BLOCK = 2**15, 2**26


def blocks(genomes: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut `[m, g]` into blocks of rows, or of one row's columns where a row is larger than a block."""
    size = CPU_BLOCK if genomes.device.type == "cpu" else GPU_BLOCK
    m, g = genomes.shape
    rows = max(1, size // max(1, g))
    for left in range(0, g, size):
        for top in range(0, m, rows):
            yield slice(top, top + rows), slice(left, left + size)


def draw_integers(high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw whole numbers from 0 to below `high`, of some shape."""
    return torch.randint(high, shape, generator=generator, device=generator.device)


class Coins:
    """A mask `[m, k]` that chooses each place with probability `rate`, tossed at once and kept packed, 32 to a word.

    `rate` holds to 2^-17, a small one to a thousandth of itself or at least 2^-33; 0 and 1 are exact.
    """

    def __init__(self, m: int, k: int, rate: float, generator: torch.Generator) -> None:
        self.width = k
        bits = 16 if abs(round(rate * 2**16) - rate * 2**16) <= 65.536 * rate else 32
        threshold = round(rate * 2**bits) or int(rate > 0)
        device = generator.device
        packed = torch.empty(m, -(-k // 64), dtype=torch.int64, device=device)

        def toss(words: Tensor) -> Tensor:
            return words.random_(-(2**63), None, generator=generator)  # without the limit no sign bit is ever set

        # As many random bits a place as the rate has binary digits. From the last digit d on, the chance p of a bit, at
        # first 0, becomes (d + p) / 2 by combining it with a fair one: `or` if d is 1, `and` if it is 0.
        *digits, _ = list(f"{threshold:0{bits}b}".rstrip("0")) if 0 < threshold < 2**bits else ["0"]
        for rows, columns in blocks(packed):
            part = packed[rows, columns]
            if threshold in (0, 2**bits):
                part.fill_(-1 if threshold else 0)
            else:
                toss(part)
            for digit in reversed(digits):
                fair = toss(torch.empty_like(part))
                part.bitwise_or_(fair) if digit == "1" else part.bitwise_and_(fair)
        self.packed = packed.view(torch.int32)[..., None]
        self.shifts = torch.arange(32, dtype=torch.int32, device=device)

    def mask(self, rows: slice = slice(None), columns: slice = slice(0, None)) -> Tensor:
        """Unpack a block, `[r, c]` int32; its first column must be a multiple of 32."""
        start, stop, _ = columns.indices(self.width)
        words = self.packed[rows, start // 32 : -(-stop // 32)]
        return (words << self.shifts).bitwise_right_shift_(31).flatten(1)[:, : stop - start]


def integers(x: Tensor) -> Tensor:
    """View floats as integers of the same width."""
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


@cache
def units_of(layout: Layout) -> Tensor:
    """Return the number of the unit that each gene belongs to, `[g]` int64: see `row`."""
    first: dict[str, int] = {}  # of each parameter's units
    units, total = [], 0
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    for name, shape in sorted(shapes.items(), key=lambda item: item[0].endswith("bias")):  # weights before biases
        count = shape[0] if shape else 1
        stem, dot, last = name.rpartition(".")
        weight = shapes.get(f"{stem}{dot}weight", ())
        if layout.levels and name.endswith(SCALE):  # behind its matrix
            first[name] = first[name.removesuffix(SCALE)]
        elif last == "bias" and len(shape) == 1 and weight[:1] == shape:
            first[name] = first[f"{stem}{dot}weight"]
        else:
            first[name], total = total, total + count
    for name, shape, size in zip(layout.names, layout.shapes, layout.sizes, strict=True):
        count = shape[0] if shape else 1
        units.append(first[name] + torch.arange(count).repeat_interleave(size // max(1, count)))
    return torch.cat(units)


@cache
def layers_of(layout: Layout) -> Tensor:
    """Return the number of the layer that each gene belongs to, `[g]` int64: the module that holds its parameter."""
    names = [name.removesuffix(SCALE) if layout.levels else name for name in layout.names]
    stems = [name.rpartition(".")[0] or name for name in names]
    first = {stem: i for i, stem in enumerate(dict.fromkeys(stems))}
    return torch.tensor([first[stem] for stem in stems]).repeat_interleave(torch.tensor(layout.sizes))


def spread(values: Tensor, groups: Tensor) -> Tensor:
    """Give every gene the value of its group: `[r, groups]`, `[g] -> [r, g]`."""
    return values.gather(1, groups.expand(len(values), -1))


@lru_cache(8)
def hold(table: Callable[[Layout], Tensor], layout: Layout, device: torch.device) -> Tensor:
    """Return a layout's table, such as `units_of`, on a device, to which it is copied once: a copy waits for it."""
    return table(layout).to(device)


@cache
def sizes_of(layout: Layout) -> Tensor:
    """Return the number of genes of each parameter, `[t]` int64."""
    return torch.tensor(layout.sizes, dtype=torch.int64)


@cache
def parameters_of(layout: Layout) -> Tensor:
    """Return the number of the parameter that each gene belongs to, `[g]` int64."""
    return torch.arange(len(layout.names)).repeat_interleave(sizes_of(layout))
