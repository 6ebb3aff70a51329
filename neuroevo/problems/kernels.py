"""Hits and losses of a population's logits in one pass over them, by a Triton kernel.

PyTorch's operations go over the logits six times for a cross-entropy and whether they are finite, since each writes
what the next one reads. The products themselves are left to cuBLAS: bench/gpu_paper.py says why, in numbers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = ("hits", "losses", "logits")
BLOCK = 1024  # samples of one individual that a program takes


@triton.jit  # type: ignore[untyped-decorator]
def sums_kernel(
    logits: tl.tensor,
    targets: tl.tensor,
    out: tl.tensor,
    samples: tl.tensor,
    classes: tl.tensor,
    of_individual: tl.tensor,
    of_sample: tl.tensor,
    of_class: tl.tensor,
    size: tl.constexpr,
) -> None:
    """Write each block's sums over samples of one individual, [blocks, n, 3] float64."""
    individual, block = tl.program_id(0), tl.program_id(1)
    rows = block * size + tl.arange(0, size)
    there = rows < samples
    own_class = tl.load(targets + rows, mask=there, other=-1)
    start = logits + individual.to(tl.int64) * of_individual + rows.to(tl.int64) * of_sample
    highest = tl.full([size], float("-inf"), tl.float32)
    first = tl.full([size], -1, tl.int64)
    mass = tl.zeros([size], tl.float32)  # sum of exp(logit - highest)
    own = tl.zeros([size], tl.float32)
    total = tl.zeros([size], tl.float32)
    for c in range(classes):
        x = tl.load(start + c * of_class, mask=there, other=0.0).to(tl.float32)
        first = tl.where(x > highest, c, first)
        above = tl.maximum(highest, x)
        mass = mass * tl.exp(highest - above) + tl.exp(x - above)
        highest = above
        own = tl.where(own_class == c, x, own)
        total += x
    hits = tl.where(there & (first == own_class), 1.0, 0.0)
    losses = tl.where(there, own - highest - tl.log(mass), 0.0)
    place = out + (block * tl.num_programs(0) + individual).to(tl.int64) * 3
    tl.store(place, tl.sum(hits.to(tl.float64)))
    tl.store(place + 1, tl.sum(losses.to(tl.float64)))
    tl.store(place + 2, tl.sum(tl.where(there, total, 0.0).to(tl.float64)))


def sums(logits: Tensor, targets: Tensor) -> Tensor:
    """Return sums over samples [n, 3] float64 of logits [n, B, C] against classes `targets` [B] int64, by COLUMNS.

    Hits are samples whose first highest logit is of their class, losses log-likelihoods of their class. The sum of all
    logits is NaN or infinite where one is; hits and losses then mean nothing. Half precision is computed in float32,
    sums in float64, in an order of their own that is always the same.
    """
    n, samples, classes = logits.shape
    blocks = triton.cdiv(samples, BLOCK)
    out = torch.empty(blocks, n, len(COLUMNS), dtype=torch.float64, device=logits.device)
    with torch.cuda.device_of(logits):  # kernels are launched on the current device
        sums_kernel[n, blocks](logits, targets, out, samples, classes, *logits.stride(), size=BLOCK)
    return out.sum(0)


def wrong(device: torch.device) -> str | None:
    """Return what is wrong with the sums that a device gives for some logits, None where nothing is."""
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 10, BLOCK + 7, generator=source).mul(4).round().mT.to(device)  # whole numbers: ties
    targets = torch.randint(10, (BLOCK + 7,), generator=source).to(device)
    try:
        found = sums(logits, targets)
    except Exception as error:  # a compiler may fail in any way
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    losses = -torch.nn.functional.cross_entropy(logits.mT, targets.expand(3, -1), reduction="none").double()
    expected = torch.stack([(logits.argmax(2) == targets).sum(1), losses.sum(1), logits.double().sum((1, 2))], 1)
    return None if torch.allclose(found, expected, rtol=1e-5) else "its sums are others"
