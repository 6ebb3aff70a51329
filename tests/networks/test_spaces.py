"""Contracts that every space of the table keeps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neuroevo.engine.genome import Layout
from neuroevo.engine.rng import generator
from neuroevo.errors import InputError
from neuroevo.networks import spaces
from neuroevo.networks.spaces import SPACES, Origin, Space

Weights = dict[str, Tensor]

OPTIONS: dict[str, dict[str, object]] = {"random": {"directions": 7}, "low_rank": {"rank": 2}}
COORDINATES = [name for name in SPACES if name not in ("full", "levels")]


class Odd(nn.Module):
    """A network of odd sizes: convolutions, one of them depthwise, a norm, a scalar, and layers without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.depthwise = nn.Conv2d(5, 5, 3, groups=5)
        self.one = nn.Linear(5, 1)
        self.head = nn.Linear(1, 4, bias=False)
        self.temperature = nn.Parameter(torch.tensor(0.7))


def weights(seed: int = 0) -> Weights:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Odd()
        return {name: torch.randn(1, *p.shape) for name, p in network.named_parameters()}


def lay_out(name: str, origin: Origin | None = None, **options: object) -> Space:
    several = (weights(1), weights(2), weights(3)) if name == "merge" else ()
    return SPACES[name](origin or Origin(weights(), several), **{**OPTIONS.get(name, {}), **options})


def decode(space: Space, genomes: Tensor) -> Weights:
    return space.decode(space.layout.unflatten(genomes))


every = pytest.mark.parametrize("name", SPACES)
of_coordinates = pytest.mark.parametrize("name", COORDINATES)


@every
def test_the_start_is_the_network_as_it_is(name: str) -> None:
    space, around = lay_out(name), weights()
    start = space.start()
    assert start.shape == (1, space.layout.genes)
    found = decode(space, start)
    assert list(found) == list(around)
    if name == "merge":
        around = {key: (weights(1)[key] + weights(2)[key] + weights(3)[key]) / 3 for key in around}
    for key, weight in around.items():
        assert found[key].shape == weight.shape
        if name != "levels":  # which rounds
            torch.testing.assert_close(found[key], weight, rtol=1e-6, atol=1e-6)


@of_coordinates
def test_the_start_is_the_genome_of_zeros(name: str) -> None:
    assert not lay_out(name).start().any()


@every
def test_individuals_are_decoded_each_by_itself(name: str) -> None:
    space = lay_out(name)
    genomes = space.start() + 0.3 * torch.randn(5, space.layout.genes, generator=torch.Generator().manual_seed(1))
    together = decode(space, genomes)
    for i in range(5):
        alone = decode(space, genomes[i : i + 1])
        for key, weight in alone.items():
            torch.testing.assert_close(together[key][i : i + 1], weight, rtol=1e-5, atol=1e-6)


@of_coordinates
def test_every_gene_changes_some_weight(name: str) -> None:
    space = lay_out(name)
    genomes = torch.cat([space.start(), space.start() + 0.1 * torch.eye(space.layout.genes)])
    found = torch.cat([w.reshape(len(w), -1) for w in decode(space, genomes).values()], dim=1)
    moved = (found[1:] != found[0]).any(1)
    if name == "low_rank":  # a factor of a matrix changes it by what the other is
        moved |= torch.cat([torch.full((p.numel(),), n.endswith(".left")) for n, p in parts(space.layout).items()])
    assert moved.all()


def parts(layout: Layout) -> Weights:
    return {name: torch.zeros(shape) for name, shape in zip(layout.names, layout.shapes, strict=True)}


@of_coordinates
def test_a_coordinate_is_a_relative_change(name: str) -> None:
    """What a genome of deviation 0.01 changes is about a hundredth of what is there."""
    if name == "merge":
        return
    space = lay_out(name)
    genomes = 0.01 * torch.randn(64, space.layout.genes, generator=torch.Generator().manual_seed(1))
    found, around = decode(space, genomes), decode(space, space.start())
    for key, weight in around.items():
        share = (found[key] - weight).square().mean().sqrt() / weight.square().mean().sqrt()
        assert 0.003 < share < 0.03, key


@of_coordinates
def test_its_jacobian_is_that_of_finite_differences(name: str) -> None:
    space = lay_out(name)
    point = (0.2 * torch.randn(1, space.layout.genes, generator=torch.Generator().manual_seed(1))).double()

    def flat(genome: Tensor) -> Tensor:
        return torch.cat([w.flatten() for w in decode(space, genome[None].float()).values()]).double()

    exact = torch.autograd.functional.jacobian(flat, point[0])
    step = 1e-2
    for gene in range(space.layout.genes):
        side = torch.zeros_like(point[0])
        side[gene] = step
        slope = (flat(point[0] + side) - flat(point[0] - side)) / (2 * step)
        torch.testing.assert_close(exact[:, gene], slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "genes"),
    [
        ("full", {}, 135 + 5 + 5 + 45 + 5 + 5 + 1 + 4 + 1),
        ("random", {"directions": 3}, 3),
        ("scales", {}, 5 + 5 + 5 + 5 + 5 + 1 + 1 + 4 + 1),
        ("scales", {"offsets": False}, 5 + 5 + 5 + 1 + 4 + 1),
        ("scales", {"layers": ["norm"]}, 10),
        ("scales", {"layers": ["norm.*", "head"]}, 14),
        ("singular", {}, 1 + 5 + 5 + 5 + 5 + 5 + 1 + 1 + 1),
        ("singular", {"vectors": False, "count": 2}, 2 + 2 + 1 + 1),
        ("low_rank", {"rank": 1, "vectors": False}, (5 + 27) + (5 + 9) + (1 + 5) + (4 + 1)),
        ("merge", {"per": "network"}, 3),
        ("merge", {"per": "layer"}, 6 * 3),
        ("merge", {"per": "tensor", "how": "arithmetic"}, 9 * 3),
        ("levels", {"levels": "int4"}, 206 + 5 + 5 + 1 + 4),
    ],
)
def test_a_space_has_as_many_dimensions_as_it_says(name: str, options: dict[str, object], genes: int) -> None:
    assert lay_out(name, **options).layout.genes == genes


def test_directions_are_orthogonal_and_drawn_again_from_their_seed() -> None:
    around = weights()
    space = lay_out("random", Origin(around, seed=3), directions=5)
    sizes = {key: w.square().mean().sqrt() for key, w in around.items()}

    def of(space: Space) -> Tensor:
        found = decode(space, torch.eye(5))
        return torch.cat([((found[key] - w) / sizes[key]).reshape(5, -1) for key, w in around.items()], dim=1)

    steps = of(space)
    products = steps @ steps.T
    assert not (products - products.diag().diag()).abs().gt(1e-3).any()
    assert products.diag().sum() == pytest.approx(steps.shape[1], rel=1e-3)  # each weight is of one direction
    assert torch.equal(steps, of(lay_out("random", Origin(around, seed=3), directions=5)))
    assert not torch.equal(steps, of(lay_out("random", Origin(around, seed=4), directions=5)))


def test_directions_are_drawn_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode(lay_out("random"), torch.ones(1, 7))
    monkeypatch.setattr(spaces, "BLOCK", 16)
    blocks = decode(lay_out("random"), torch.ones(1, 7))
    assert torch.equal(whole["head.weight"], blocks["head.weight"])  # smaller than a block
    assert not torch.equal(whole["conv.weight"], blocks["conv.weight"])  # from other generators
    torch.testing.assert_close(blocks["conv.weight"].sub(weights()["conv.weight"]).abs().unique().diff().max(),
                               torch.tensor(0.0), rtol=0, atol=1e-5)  # fmt: skip


@every
def test_a_space_says_whether_it_draws_whenever_it_decodes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph would go on reading what the host drew when it was captured."""
    space = lay_out(name)
    decode(space, space.start())
    drawn = []
    monkeypatch.setattr(spaces, "generator", lambda *given: drawn.append(given) or generator(*given))
    decode(space, space.start())
    assert bool(drawn) == space.draws


def test_singular_values_are_those_of_numpy() -> None:
    space, around = lay_out("singular"), weights()
    genome = space.start()
    space.layout.unflatten(genome)["conv.weight"].fill_(0.5)
    found = decode(space, genome)["conv.weight"][0].flatten(1)
    torch.testing.assert_close(
        torch.linalg.svdvals(found), 1.5 * torch.linalg.svdvals(around["conv.weight"][0].flatten(1))
    )


@pytest.mark.parametrize("how", ["mean", "arithmetic", "convex"])
def test_a_merge_is_of_all_networks(how: str) -> None:
    base, several = weights(), (weights(1), weights(2))
    space = lay_out("merge", Origin(base, several), how=how, per="network")
    found = decode(space, torch.tensor([[0.2, -0.1]]))["head.weight"]
    a, b, start = several[0]["head.weight"], several[1]["head.weight"], base["head.weight"]
    expected = {
        "mean": 0.7 * a + 0.4 * b,
        "arithmetic": start + 0.5 * (a - start) + 0.2 * (b - start),
        "convex": torch.tensor(0.3).sigmoid() * a + torch.tensor(-0.3).sigmoid() * b,
    }[how]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bits", [1, 7])
def test_scales_leave_whole_levels_whole(bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(-bits, bits + 1, (1, 6, 4), generator=generator).float()
    space = lay_out("scales", Origin({"fc.weight": levels * torch.rand(1, 6, 1, generator=generator)}))
    found = decode(space, torch.rand(3, 6, generator=generator))["fc.weight"]
    assert (
        (found / found.abs().amax(2, keepdim=True) * levels.abs().amax(2, keepdim=True)) - levels
    ).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: lay_out("merge", Origin(weights())), "name: merge is among two networks or more, and none given"),
        (lambda: lay_out("merge", scale=0.5), "scale: 0.5 given, but mean has no scale; it is arithmetic's"),
        (
            lambda: lay_out("scales", layers=["nrom"]),
            "layers: nrom matches nothing that evolves; there are: temperature, conv, norm",
        ),
        (lambda: lay_out("scales", layers=["norm.bias"], offsets=False), "layers: nothing but biases evolves in them"),
        (lambda: lay_out("low_rank", layers=["norm"], vectors=False), "layers: no weight matrix evolves in them"),
        (lambda: lay_out("singular", layers=["norm"], vectors=False), "layers: no weight matrix evolves in them"),
        (lambda: lay_out("levels", Origin({"b": torch.ones(1, 3)})), "levels: no weight matrix evolves"),
        (
            lambda: lay_out("random", Origin(weights(), (weights(), weights()))),
            "name: is around one network, and 2 are",
        ),
    ],
)
def test_what_a_space_cant_be_laid_around_is_said(make: Callable[[], Space], line: str) -> None:
    with pytest.raises(InputError) as refused:
        make()
    assert str(refused.value).startswith(line)


@pytest.mark.parametrize("name", ["scales", "singular"])
def test_factors_of_zeros_are_refused(name: str) -> None:
    space = lay_out(name, Origin({"fc.weight": torch.zeros(1, 3, 2), "fc.bias": torch.zeros(1, 3)}))
    with pytest.raises(InputError, match="fc.weight is zero, and"):
        decode(space, space.start())
    lay_out("scales", Origin(weights() | {"norm.bias": torch.zeros(1, 5)}))  # offsets are none
