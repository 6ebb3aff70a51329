"""Scoring on a GPU, on paper: what each kernel must move and multiply, at a device's published rates; nothing is run.

    python bench/gpu_paper.py

Four ways to score a slice of linear heads by cross-entropy. `operations`: PyTorch's, one after another, as on a CPU.
`fused`: one Triton kernel with the product in it, so that logits never lie in memory; a product of 10 classes has tiles
of 16. `one pass`: cuBLAS's product, then one kernel for hits, losses and whether logits are finite. `one pass, graph`:
that, launched at once, with what goes into and out of the graph's buffers. A kernel takes the most of what its bytes,
its flops and its launch take.
"""

from typing import NamedTuple


class Gpu(NamedTuple):
    """Published rates of a device, a second."""

    name: str
    memory: float  # bytes
    cache: float  # bytes, of the second level to all cores
    flops: dict[str, float]  # by precision, dense
    launch: float  # seconds of a kernel that has nothing to do
    node: float  # of one in a graph


class Work(NamedTuple):
    """So many linear heads on so many samples."""

    name: str
    heads: int
    features: int
    classes: int
    samples: int


class Kernel(NamedTuple):
    """What a kernel moves and multiplies."""

    name: str
    bytes: float = 0.0
    flops: float = 0.0
    cached: float = 0.0  # bytes that cores ask the cache for
    efficiency: float = 1.0  # of the rates


H100 = Gpu("H100", 3.35e12, 5.5e12, {"float32": 60e12, "bfloat16": 990e12}, 5e-6, 1.5e-6)
WORKS = [
    Work("(a) 256 heads, 1280 to 10, 10,000 samples", 256, 1280, 10, 10_000),
    Work("(b) 1,024 heads, 1280 to 10, 10,000 samples", 1024, 1280, 10, 10_000),
    Work("(c) 256 heads, 512 to 10, 512 samples", 256, 512, 10, 512),
]
SIZES = {"float32": 4, "bfloat16": 2}
TILE = 128, 256  # of a product, in samples and rows of weights: as large as a core's registers hold
TRITON = 0.7  # of cuBLAS's rate, that a product in Triton gets at best on this device


def product(work: Work, precision: str, columns: int, efficiency: float = 1.0) -> Kernel:
    """Return the product of all features with so many rows of weights, without what it writes."""
    size, rows = SIZES[precision], min(work.samples, TILE[0])
    tiles = -(-work.samples // rows) * -(-columns // TILE[1])
    asked = tiles * (rows + TILE[1]) * work.features * size
    read = (work.samples + columns) * work.features * size
    return Kernel("product", read, 2.0 * work.samples * columns * work.features, asked, efficiency)


def before(work: Work, precision: str) -> list[Kernel]:
    """Return what comes before the product: the batch, weights side by side, both in the precision."""
    batch = work.samples * work.features
    weights = work.heads * work.classes * work.features
    made = [Kernel("gather", 8.0 * batch), Kernel("labels"), Kernel("weights", 8.0 * weights)]
    return made + ([Kernel("cast", 6.0 * batch), Kernel("cast", 6.0 * weights)] if precision != "float32" else [])


def written(work: Work, precision: str) -> tuple[Kernel, Kernel]:
    """Return cuBLAS's product with the logits that it writes, and the biases added to them."""
    rows, size = work.heads * work.classes, SIZES[precision]
    logits = work.samples * rows
    made = product(work, precision, rows)
    return made._replace(bytes=made.bytes + size * logits), Kernel("biases", 2.0 * size * logits)


def operations(work: Work, precision: str) -> list[Kernel]:
    """Return the kernels of PyTorch's operations."""
    logits, size = work.samples * work.heads * work.classes, SIZES[precision]
    values = work.samples * work.heads
    after = [
        Kernel("finite", size * logits),
        *([Kernel("float32", (size + 4.0) * logits)] if precision != "float32" else []),
        Kernel("log_softmax", 8.0 * logits),
        Kernel("gather", 4.0 * values * 5 + 4.0 * values),  # of 8 samples in 32 bytes, 5 classes of 10 are looked for
        Kernel("sum", 4.0 * values),
        *[Kernel(name) for name in ("count", "stack", "totals", "totals")],
    ]
    return [*before(work, precision), *written(work, precision), *after]


def fused(work: Work, precision: str) -> list[Kernel]:
    """Return the kernels where one has the product and all that is done with it."""
    padded = 1 << (work.classes - 1).bit_length()
    of_blocks = 24.0 * work.heads * -(-work.samples // TILE[0])
    made = product(work, precision, work.heads * padded, TRITON)
    after = [Kernel("sum", of_blocks), *[Kernel(name) for name in ("count", "stack", "totals", "totals")]]
    return [*before(work, precision), made._replace(bytes=made.bytes + of_blocks), *after]


def one_pass(work: Work, precision: str) -> list[Kernel]:
    """Return the kernels where one goes over cuBLAS's logits, once."""
    logits = work.samples * work.heads * work.classes
    of_blocks = 24.0 * work.heads * -(-work.samples // 1024)
    after = [Kernel("hits and losses", SIZES[precision] * logits + of_blocks), Kernel("sum", of_blocks)]
    return [
        *before(work, precision),
        *written(work, precision),
        *after,
        *[Kernel(name) for name in ("count", "stack", "totals", "totals")],
    ]


def copies(work: Work) -> list[Kernel]:
    """Return the copies into and out of a graph's buffers: genomes, rows, and what was found of them."""
    return [Kernel("genomes", 8.0 * work.heads * work.classes * work.features), Kernel("rows"), Kernel("found")]


def seconds(kernels: list[Kernel], gpu: Gpu, precision: str, launch: float | None = None) -> float:
    """Return what kernels take one after another."""
    least = gpu.launch if launch is None else launch
    return sum(
        max(k.bytes / gpu.memory, k.cached / gpu.cache, k.flops / gpu.flops[precision] / k.efficiency, least)
        for k in kernels
    )


def estimate(work: Work, gpu: Gpu, precision: str) -> dict[str, float]:
    """Return the seconds of a slice by each way."""
    once = one_pass(work, precision)
    inside = [k for k in once if k.name != "totals"]
    return {
        "operations": seconds(operations(work, precision), gpu, precision),
        "fused": seconds(fused(work, precision), gpu, precision),
        "one pass": seconds(once, gpu, precision),
        "one pass, graph": seconds(inside, gpu, precision, gpu.node)
        + seconds(copies(work) + [k for k in once if k.name == "totals"], gpu, precision),
    }


def main() -> None:
    """Print the table."""
    gpu, ways = H100, ("operations", "fused", "one pass", "one pass, graph")
    print(f"| {gpu.name}, microseconds on paper | precision | product alone | {' | '.join(ways)} |")
    print("|---|---|" + "---|" * (1 + len(ways)))
    for work in WORKS:
        for precision in SIZES:
            found = estimate(work, gpu, precision)
            alone = seconds([written(work, precision)[0]], gpu, precision)
            cells = [f"{1e6 * each:,.0f}" for each in (alone, *(found[way] for way in ways))]
            print(f"| {work.name} | {precision} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
