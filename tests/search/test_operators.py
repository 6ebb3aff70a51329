"""Every operator of the tables: limits and identities, the slow reference, distributions, and evotorch as an oracle."""

import inspect
import math
from itertools import product

import pytest
import reference_operators as reference
import torch
from paper_gpu import paper_gpu

from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError
from neuroevo.search.operators import crossover, masks, mutation, selection
from neuroevo.search.operators.crossover import CROSSOVERS
from neuroevo.search.operators.mutation import MUTATIONS, STRIP, gaussian
from neuroevo.search.operators.selection import SELECTIONS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),  # evotorch's import
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
DTYPES = [torch.float32, torch.float64]
DISCRETE = ["uniform", "k_point", "row", "none"]
INF = math.inf

ONE_GENE = Layout(("scale",), ((),))
HEAD = Layout(("head.weight", "head.bias"), ((3, 5), (3,)))
MIXED = Layout(
    ("bias", "conv.bias", "conv.weight", "norm.weight", "norm.bias", "scale", "x.bias", "x.weight", "tokens"),
    ((2,), (4,), (4, 2, 3, 3), (4,), (4,), (), (3,), (2, 7), (5, 2)),
)
WIDE = Layout(("weight", "bias"), ((10, 3500), (10,)))  # a row is larger than a block
LAYOUTS = [ONE_GENE, HEAD, MIXED]

FITNESS = {
    "plain": [0.3, -1.2, 2.5, 0.9, 1.1, -0.4, 0.0],
    "some invalid": [-INF, 0.3, -INF, 2.5, -0.9, 1.1, -INF],
    "one valid": [-INF, -7.0, -INF],
    "one": [3.0],
    "two": [1.0, 2.0],
    "negative": [-5.0, -4.0, -1.0],
}
EQUAL = {"all equal": [2.0] * 5, "valid ones equal": [1.0, -INF, 1.0, 1.0], "none valid": [-INF] * 4}


def rng(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def mates(layout, n=7, m=9, dtype=torch.float32, device="cpu", seed=0):
    """Genomes [n, g] of distinct numbers, and parents [m, 2] that are two different individuals where n > 1."""
    g = rng(seed, device)
    genomes = torch.randn(n, layout.genes, generator=g, dtype=dtype, device=device)
    first = torch.randint(n, (m,), generator=g, device=device)
    shift = torch.randint(1, max(2, n), (m,), generator=g, device=device)
    return genomes, torch.stack([first, (first + shift) % n], 1)


def mutate(genomes, layout=HEAD, traits=None, progress=0.0, generation=1, **options):
    """A mutated copy."""
    population = Population.new(genomes.clone(), parents=2)._replace(traits=traits or {})
    options = {"self_adaptive": False, "tau": None} | options
    return gaussian(population, Context(0, generation, progress, genomes.device), layout, **options)


def assert_frequencies(counts, chances):
    """Chi-square of counts against probabilities, six standard deviations wide; what can't happen hasn't."""
    total = sum(counts)
    pairs = [(c, total * p) for c, p in zip(counts, chances, strict=True)]
    assert all(c == 0 for c, e in pairs if e == 0), (counts, chances)
    chi = sum((c - e) ** 2 / e for c, e in pairs if e)
    freedom = sum(e > 0 for _, e in pairs) - 1
    assert chi <= freedom + 6 * math.sqrt(2 * freedom), (counts, chances)


# Tables


@pytest.mark.parametrize("table", [SELECTIONS, CROSSOVERS, MUTATIONS], ids=["selection", "crossover", "mutation"])
def test_every_option_is_annotated_and_has_a_default(table):
    for function in table.values():
        options = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert all(p.default is not p.empty and p.annotation is not p.empty for p in options)
        assert function.__doc__


# Selection


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SELECTIONS)
def test_selection_gives_rows_and_the_same_for_the_same_generator(name, device):
    for fitness, dtype, count in product([*FITNESS.values(), *EQUAL.values()], DTYPES, [0, 1, 2, 5, 64]):
        values = torch.tensor(fitness, dtype=dtype, device=device)
        found, again = (SELECTIONS[name](values, count, rng(3, device)) for _ in range(2))
        assert found.shape == (count,)
        assert found.dtype == torch.int64
        assert found.device == values.device
        assert torch.equal(found, again)
        assert all(0 <= i < len(fitness) for i in found.tolist())
        assert torch.equal(values, torch.tensor(fitness, dtype=dtype, device=device))
    if name == "all":
        return
    values = torch.randn(50, device=device)
    drawn = [SELECTIONS[name](values, 64, rng(seed, device)) for seed in (1, 2)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("case", [*FITNESS, *EQUAL])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tournament", {"size": 1}),
        ("tournament", {"size": 4}),
        ("tournament", {"size": 20}),
        ("truncation", {"share": 0.25}),
        ("truncation", {"share": 0.6}),
        ("truncation", {"share": 1.0}),
        ("truncation", {"share": 1e-9}),
        ("roulette", {}),
        ("rank", {"pressure": 1.2}),
        ("rank", {"pressure": 2.0}),
        ("stochastic_universal", {}),
        ("random", {}),
    ],
)
@pytest.mark.parametrize("on_gpu", [False, True], ids=["", "gpu"])
def test_selection_has_the_distribution_of_the_reference_and_waits_for_no_gpu(name, options, case, on_gpu):
    fitness = (FITNESS | EQUAL)[case]
    if case in EQUAL and name in ("tournament", "truncation"):
        if name == "truncation":
            return  # which of equals are the best share is arbitrary
        chances = reference.random(fitness)  # of equals each wins as often
    else:
        function = reference.roulette if name == "stochastic_universal" else getattr(reference, name)
        chances = function(fitness, **options)
    if on_gpu:
        with paper_gpu() as gpu:
            values, generator = torch.tensor(fitness, device="cuda"), rng(1, "cuda")
            with gpu.count() as waits:
                found = SELECTIONS[name](values, 20_000, generator, **options)
        assert not waits.reads + waits.writes
        found = found.elem
    else:
        found = SELECTIONS[name](torch.tensor(fitness), 20_000, rng(1), **options)
    counts = found.bincount(minlength=len(fitness)).tolist()
    assert_frequencies(counts, chances)
    if name == "stochastic_universal":  # as often as expected, rounded up or down
        assert all(abs(c - 20_000 * p) < 1.01 for c, p in zip(counts, chances, strict=True))


@pytest.mark.parametrize("name", SELECTIONS)
def test_an_invalid_individual_is_a_parent_only_if_all_are(name):
    fitness = torch.full((50,), -INF)
    assert len(SELECTIONS[name](fitness, 500, rng()).unique()) > (5 if name != "truncation" else 1)
    fitness[[3, 40]] = torch.tensor([-1e30, 5.0])
    assert set(SELECTIONS[name](fitness, 500, rng()).tolist()) <= {3, 40}


def test_proportional_selection_survives_extreme_fitness():
    for values in ([1e308, -1e308, 0.0], [INF, 0.0, 1.0], [5e-324, 0.0, 0.0]):
        for name in ("roulette", "stochastic_universal"):
            found = SELECTIONS[name](torch.tensor(values, dtype=torch.float64), 200, rng())
            assert 0 in found
            assert 1 not in found


def test_a_slot_of_no_width_is_never_hit(monkeypatch):
    points = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2.0**-53], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda count, **_: points[-count:])
    assert selection.roulette(torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), 5, rng()).tolist() == [1, 1, 3, 3, 3]
    # With the last point alone, the last pointer rounds to 1.
    assert 2 not in selection.stochastic_universal(torch.tensor([1.0, 2.0, 0.0]), 5, rng())


def test_stochastic_universal_rounds_every_expectation_up_or_down():
    fitness = FITNESS["plain"]
    for seed in range(100):
        found = selection.stochastic_universal(torch.tensor(fitness), 9, rng(seed)).bincount(minlength=7).tolist()
        wanted = [9 * p for p in reference.roulette(fitness)]
        assert all(math.floor(w) <= c <= math.ceil(w) for c, w in zip(found, wanted, strict=True))


def test_stochastic_universal_order_is_shuffled():
    found = selection.stochastic_universal(torch.arange(100.0), 1000, rng())
    steps = found.diff()
    assert 0.4 < (steps > 0).double().mean() < 0.6


def test_tournament_agrees_with_evotorch():
    from evotorch.operators.functional import tournament

    torch.manual_seed(0)
    fitness = torch.tensor(FITNESS["plain"])
    winners = tournament(
        torch.arange(7.0)[:, None], fitness, num_tournaments=20_000, tournament_size=3, objective_sense="max"
    )
    winners = winners[:10_000, 0].long()  # in its second half, a pair's second parent differs from the first
    found = selection.tournament(fitness, 20_000, rng(), size=3)
    assert_frequencies(winners.bincount(minlength=7).tolist(), (found.bincount(minlength=7) / 20_000).tolist())


# Crossover


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CROSSOVERS)
def test_children_are_new_storage_and_the_same_for_the_same_generator(name, device):
    for layout, n, m, dtype in product(LAYOUTS, [1, 2, 3, 7], [0, 1, 2, 5], DTYPES):
        genomes, parents = mates(layout, n, m, dtype, device)
        before = genomes.clone()
        state = torch.get_rng_state()
        found, again = (CROSSOVERS[name](genomes, parents, layout, rng(5, device)) for _ in range(2))
        assert found.shape == (m, layout.genes)
        assert found.dtype == dtype
        assert found.device == genomes.device
        assert torch.equal(found, again)
        assert torch.equal(torch.get_rng_state(), state)
        assert m == 0 or found.untyped_storage().data_ptr() != genomes.untyped_storage().data_ptr()
        assert found.is_contiguous()
        found.zero_()
        assert torch.equal(genomes, before)
        if name in DISCRETE:
            either = (again == genomes[parents[:, 0]]) | (again == genomes[parents[:, 1]])
            assert either.all()


@pytest.mark.parametrize("name", sorted(set(CROSSOVERS) - {"sbx", "weighted"}))
def test_equal_parents_have_equal_children(name):
    genomes, parents = mates(MIXED)
    parents[:, 1] = parents[:, 0]
    assert torch.equal(CROSSOVERS[name](genomes, parents, MIXED, rng()), genomes[parents[:, 0]])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [*LAYOUTS, WIDE], ids=["one gene", "head", "mixed", "wide"])
@pytest.mark.parametrize("name", ["uniform", "row"])
def test_rates_0_and_1_copy_the_first_and_the_second_parent(name, layout, device):
    for dtype in DTYPES:
        genomes, parents = mates(layout, m=300 if layout is HEAD else 9, dtype=dtype, device=device)
        for rate in (0.0, 1.0):
            found = CROSSOVERS[name](genomes, parents, layout, rng(0, device), rate=rate)
            assert torch.equal(found, genomes[parents[:, int(rate)]])


@pytest.mark.parametrize("name", ["uniform", "k_point", "row"])
@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_a_nan_of_the_parent_not_chosen_stays_out(name, bad):
    genomes, parents = mates(MIXED, n=6, m=40)
    pure = CROSSOVERS[name](genomes, parents, MIXED, rng())
    genomes[3] = bad
    found = CROSSOVERS[name](genomes, parents, MIXED, rng())
    second = (pure == mates(MIXED, n=6, m=40)[0][parents[:, 1]]).long()
    of_bad = parents.gather(1, second) == 3
    assert of_bad.any()
    assert torch.equal(found[~of_bad], pure[~of_bad])
    assert not found[of_bad].isfinite().any()


@pytest.mark.parametrize("rate", [2.0**-20, 0.001, 0.1, 0.25, 0.3, 0.5, 0.75, 1 / 3, 0.9, 0.99999])
def test_a_coin_falls_with_its_rate_at_every_place(rate):
    m, k = 3001, 1000
    mask = masks.Coins(m, k, rate, rng(4)).mask()
    assert mask.shape == (m, k)
    assert set(mask.unique().tolist()) <= {-1, 0}
    deviation = math.sqrt(rate * (1 - rate))
    assert abs(-mask.double().mean() - rate) < 5 * deviation / math.sqrt(m * k)
    if m * rate * (1 - rate) > 50:
        assert (-mask.double().mean(0) - rate).abs().max() < 6 * deviation / math.sqrt(m)  # no place is special
        neighbours = (mask[:, 1:] * mask[:, :-1]).double().mean()
        assert abs(neighbours - rate**2) < 6 * math.sqrt(rate**2 * (1 - rate**2) / m / k * 3)


def test_a_mask_is_the_same_in_blocks():
    coins = masks.Coins(5, 1003, 0.3, rng())
    whole = coins.mask()
    for rows, start, width in product([slice(0, 2), slice(4, 9)], [0, 32, 960], [1, 31, 64, 2000]):
        assert torch.equal(coins.mask(rows, slice(start, start + width)), whole[rows, start : start + width])


@pytest.mark.parametrize("name", sorted(set(CROSSOVERS) - {"sbx"}))
def test_blocks_change_no_child(name, monkeypatch):
    genomes, parents = mates(MIXED, m=50)
    whole = CROSSOVERS[name](genomes, parents, MIXED, rng())
    coins = masks.Coins  # are tossed in blocks themselves, so here they are tossed before
    groups = {"row": masks.units_of(MIXED), "layer": masks.layers_of(MIXED)}
    for size in (32, 64, 320):
        places = int(groups[name].max()) + 1 if name in groups else MIXED.genes
        tossed = coins(len(parents), places, 0.5, rng())
        monkeypatch.setattr(crossover, "Coins", lambda *_, tossed=tossed: tossed)
        monkeypatch.setattr(masks, "CPU_BLOCK", size)
        assert torch.equal(CROSSOVERS[name](genomes, parents, MIXED, rng()), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("layout", [*LAYOUTS, WIDE], ids=["one gene", "head", "mixed", "wide"])
def test_uniform_agrees_with_the_reference(layout):
    genomes, parents = mates(layout, n=3, m=3)
    mask = masks.Coins(3, layout.genes, 0.3, rng(2)).mask()
    expected = reference.exchange(genomes.tolist(), parents.tolist(), mask.tolist())
    assert torch.equal(crossover.uniform(genomes, parents, layout, rng(2), rate=0.3), torch.tensor(expected))


@pytest.mark.parametrize("points", [1, 2, 3, 14, 400])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["one gene", "head", "mixed"])
def test_k_point_agrees_with_the_reference_given_the_cuts(layout, points):
    genomes, parents = mates(layout)
    cuts = crossover._cuts(len(parents), layout.genes, points, rng(2))
    expected = reference.exchange(
        genomes.tolist(), parents.tolist(), reference.k_point_mask(cuts.tolist(), layout.genes)
    )
    found = crossover.k_point(genomes, parents, layout, rng(2), points=points)
    assert torch.equal(found, torch.tensor(expected))


def test_k_point_agrees_with_evotorch_given_the_cuts(monkeypatch):
    from evotorch.operators.functional import multi_point_cross_over

    genomes, parents = mates(HEAD)
    found = crossover.k_point(genomes, parents, HEAD, rng(2), points=3)
    for pair, cuts, child in zip(parents, crossover._cuts(len(parents), HEAD.genes, 3, rng(2)), found, strict=True):
        monkeypatch.setattr(torch, "randint_like", lambda *_, cuts=cuts, **__: cuts.long() + 1)
        assert torch.equal(multi_point_cross_over(genomes[pair], num_points=3)[0], child)


@pytest.mark.parametrize("points", [1, 2, 3, 4, 5])
def test_cuts_are_distinct_and_uniform(points):
    cuts = crossover._cuts(6000, 6, points, rng())
    ordered = cuts.sort(1).values
    assert (ordered.diff(dim=1) > 0).all()
    assert ordered.min() == 0
    assert ordered.max() == 4
    sets = {}
    for row in map(tuple, ordered.tolist()):
        sets[row] = sets.get(row, 0) + 1
    assert len(sets) == math.comb(5, points)
    assert_frequencies(list(sets.values()), [1 / len(sets)] * len(sets))


def test_row_agrees_with_the_reference():
    for layout in [*LAYOUTS, WIDE]:
        names = reference.units(layout.names, layout.shapes)
        units = masks.units_of(layout).tolist()
        assert len(units) == layout.genes
        assert len(set(zip(names, units, strict=True))) == len(set(names)) == len(set(units)) == max(units) + 1


def test_layer_moves_whole_layers():
    genomes, parents = mates(MIXED, m=300)
    second = crossover.layer(genomes, parents, MIXED, rng(), rate=0.3) == genomes[parents[:, 1]]
    layers = [["bias"], ["conv.bias", "conv.weight"], ["norm.weight", "norm.bias"], ["scale"], ["x.bias", "x.weight"]]
    columns = dict(zip(MIXED.names, second.split(MIXED.sizes, 1), strict=True))
    chosen = [torch.cat([columns[name] for name in names], 1).double().mean(1) for names in [*layers, ["tokens"]]]
    assert set(torch.stack(chosen).unique().tolist()) == {0.0, 1.0}
    assert (torch.stack(chosen).mean(1) - 0.3).abs().max() < 6 * math.sqrt(0.21 / 300)
    assert len(torch.stack(chosen, 1).unique(dim=0)) > 30  # on their own


def test_row_moves_whole_neurons():
    genomes, parents = mates(MIXED, m=200)
    found = crossover.row(genomes, parents, MIXED, rng())
    second = found == genomes[parents[:, 1]]
    units = masks.units_of(MIXED)
    per_unit = torch.stack([second[:, units == u].double().mean(1) for u in range(int(units.max()) + 1)], 1)
    assert set(per_unit.unique().tolist()) == {0.0, 1.0}
    assert (per_unit.mean(0) - 0.5).abs().max() < 6 * 0.5 / math.sqrt(200)
    assert len(per_unit.unique(dim=0)) == 200  # on their own


def test_arithmetic_limits_and_weights():
    genomes, parents = mates(MIXED, m=2000)
    first, second = genomes[parents[:, 0]], genomes[parents[:, 1]]
    assert torch.equal(crossover.arithmetic(genomes, parents, MIXED, rng(), weight=1.0), first)
    assert torch.equal(crossover.arithmetic(genomes, parents, MIXED, rng(), weight=0.0), second)
    found = crossover.arithmetic(genomes, parents, MIXED, rng(), weight=0.7)
    torch.testing.assert_close(found, 0.7 * first + 0.3 * second)
    found = crossover.arithmetic(genomes, parents, MIXED, rng())
    weights = ((found - second) * (first - second)).sum(1) / (first - second).square().sum(1)
    torch.testing.assert_close(found, weights[:, None] * first + (1 - weights[:, None]) * second, atol=1e-5, rtol=1e-5)
    assert_frequencies(weights.histc(10, 0, 1).tolist(), [0.1] * 10)


@pytest.mark.parametrize("m", [1, 2, 9])
def test_sbx_agrees_with_evotorch(m):
    from evotorch.operators.functional import simulated_binary_cross_over

    from neuroevo.engine.rng import fork

    genomes, parents = mates(HEAD, m=m)
    found = crossover.sbx(genomes, parents, HEAD, rng(2), eta=5.0)
    with fork(rng(2)):
        both = simulated_binary_cross_over(torch.cat([genomes[parents[:, 0]], genomes[parents[:, 1]]]), eta=5.0)
    assert torch.equal(found, both[:m])
    first, second = genomes[parents[:, 0]], genomes[parents[:, 1]]
    assert not torch.equal(found, first)
    near = crossover.sbx(genomes, parents, HEAD, rng(2), eta=1e6)
    torch.testing.assert_close(near, first, atol=1e-3, rtol=0)
    spread = (crossover.sbx(genomes, parents, HEAD, rng(2), eta=2.0) - first).abs().mean()
    assert spread > (found - first).abs().mean()
    assert (found - (first + second) / 2).abs().max() < 10


# Mutation


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [*LAYOUTS, WIDE], ids=["one gene", "head", "mixed", "wide"])
@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"rate": 0.0}, {"rate": 0.0, "per": "tensor"}], ids=str)
def test_sigma_0_and_rate_0_change_nothing(options, layout, device):
    for dtype, relative, adaptive in product(DTYPES, [False, True], [False, True]):
        genomes, _ = mates(layout, dtype=dtype, device=device)
        found = mutate(genomes, layout, relative=relative, self_adaptive=adaptive, **options)
        assert torch.equal(found.genomes, genomes)
        assert set(found.traits) == ({"sigma"} if adaptive else set())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_mutation_keeps_shape_and_is_the_same_for_the_same_generation(n, device):
    for layout, dtype, per, relative, adaptive in product(
        LAYOUTS, DTYPES, ["gene", "tensor"], [False, True], [False, True]
    ):
        genomes, _ = mates(layout, n, dtype=dtype, device=device)
        options = {"rate": 0.9, "per": per, "relative": relative, "self_adaptive": adaptive}
        found, again = (mutate(genomes, layout, {"age": genomes[:, 0]}, **options) for _ in range(2))
        assert found.genomes.shape == genomes.shape
        assert found.genomes.dtype == dtype
        assert torch.equal(found.genomes, again.genomes)
        assert torch.equal(found.traits["age"], genomes[:, 0])
        if adaptive:
            assert found.traits["sigma"].shape == (n,)
            assert torch.equal(found.traits["sigma"], again.traits["sigma"])
        if n * layout.genes > 50:
            assert not torch.equal(found.genomes, genomes)
            assert not torch.equal(mutate(genomes, layout, generation=2, **options).genomes, found.genomes)


def test_mutation_leaves_the_traits_given_as_they_are():
    genomes, _ = mates(HEAD)
    traits = {"sigma": torch.full((7,), 0.5)}
    found = mutate(genomes, traits=traits, self_adaptive=True)
    assert traits["sigma"].tolist() == [0.5] * 7
    assert found.traits["sigma"] is not traits["sigma"]
    assert mutate(genomes, traits=traits).traits["sigma"] is traits["sigma"]


@pytest.mark.parametrize(("rate", "dtype"), [(1.0, torch.float32), (1.0, torch.float64), (0.3, torch.float32)])
def test_noise_has_mean_0_deviation_sigma_and_its_rate(rate, dtype):
    found = mutate(torch.zeros(20, WIDE.genes, dtype=dtype), WIDE, sigma=0.5, rate=rate).genomes
    drawn = found[found != 0] / 0.5
    count = len(drawn)
    assert abs(count / found.numel() - rate) <= 5 * math.sqrt(rate * (1 - rate) / found.numel())
    assert abs(drawn.mean()) < 5 / math.sqrt(count)
    assert abs(drawn.std() - 1) < 5 / math.sqrt(2 * count)
    assert abs(drawn.pow(4).mean() - 3) < 5 * math.sqrt(96 / count)


def test_per_tensor_mutates_parameters_as_a_whole():
    genomes = torch.zeros(400, MIXED.genes)
    changed = mutate(genomes, MIXED, rate=0.25, per="tensor").genomes != 0
    shares = torch.stack([part.double().mean(1) for part in changed.split(MIXED.sizes, 1)], 1)
    assert set(shares.unique().tolist()) == {0.0, 1.0}
    assert (shares.mean(0) - 0.25).abs().max() < 6 * math.sqrt(0.25 * 0.75 / 400)
    assert len(shares.unique(dim=0)) > 50  # each on its own


def test_relative_multiplies_by_each_parameters_rms():
    genomes, _ = mates(MIXED)
    genomes[:, : MIXED.sizes[0]] = 0  # counts as 0.01
    genomes[:, MIXED.offsets[8] :] = 1e-9  # a matrix [5, 2]: counts as 0.2 / sqrt(2)
    genomes[:, MIXED.offsets[2] :] *= 100
    genomes[3, MIXED.offsets[1]] = math.nan
    expected = torch.tensor(reference.scales(genomes.tolist(), MIXED.shapes))
    assert expected[0] == pytest.approx(0.01)
    assert expected[8] == pytest.approx(0.2 / math.sqrt(2))
    torch.testing.assert_close(mutation.scales(genomes, MIXED)[0], expected)
    plain = mutate(genomes, MIXED, sigma=0.1).genomes - genomes
    found = mutate(genomes, MIXED, sigma=0.1, relative=True).genomes
    torch.testing.assert_close(
        found - genomes,
        plain * expected.repeat_interleave(torch.tensor(MIXED.sizes)),
        atol=1e-3,
        rtol=1e-3,
        equal_nan=True,
    )
    assert found[:3].isfinite().all()  # a sibling that isn't finite spoils nobody else
    wide = torch.cat([torch.ones(2, 35_000), torch.full((2, 10), 100.0)], 1)
    noise, plain = (mutate(wide.double(), WIDE, relative=relative).genomes - wide for relative in (True, False))
    torch.testing.assert_close(noise, plain * wide, atol=1e-9, rtol=1e-9)
    assert not mutate(torch.full((2, MIXED.genes), math.nan), MIXED, relative=True).genomes.isfinite().any()


@pytest.mark.parametrize(
    ("schedule", "half"), [("constant", 1.0), ("linear", 0.6), ("cosine", 0.6), ("exponential", math.sqrt(0.2))]
)
def test_schedules_go_from_1_to_final(schedule, half):
    genomes = torch.zeros(3, HEAD.genes, dtype=torch.float64)
    plain = mutate(genomes).genomes
    for progress, factor in [(0.0, 1.0), (0.5, half), (1.0, 1.0 if schedule == "constant" else 0.2)]:
        found = mutate(genomes, progress=progress, schedule=schedule, final=0.2).genomes
        torch.testing.assert_close(found, factor * plain)
    last = mutate(genomes, progress=1.0, schedule=schedule, final=0.0).genomes
    assert bool(last.any()) is (schedule == "constant")
    quarter = mutate(genomes, progress=0.25, schedule=schedule, final=0.2).genomes
    factor = {"constant": 1.0, "linear": 0.8, "cosine": 0.6 + 0.4 * math.sqrt(0.5), "exponential": 0.2**0.25}[schedule]
    torch.testing.assert_close(quarter, factor * plain)


def test_self_adaptation_uses_the_mutated_sigma_and_stores_it_unscheduled():
    genomes = torch.zeros(4000, HEAD.genes, dtype=torch.float64)
    own = torch.linspace(0.01, 3, 4000, dtype=torch.float64)
    found = mutate(genomes, traits={"sigma": own}, self_adaptive=True)
    logs = (found.traits["sigma"] / own).log()
    tau = 1 / math.sqrt(HEAD.genes)
    assert abs(logs.mean()) < 5 * tau / math.sqrt(4000)
    assert abs(logs.std() / tau - 1) < 5 / math.sqrt(8000)
    assert abs((found.genomes / found.traits["sigma"][:, None]).std() - 1) < 5 / math.sqrt(8000 * HEAD.genes)
    fixed = mutate(genomes, traits={"sigma": own}, self_adaptive=True, tau=0.0)
    assert torch.equal(fixed.traits["sigma"], own)
    torch.testing.assert_close(found.genomes / found.traits["sigma"][:, None], fixed.genomes / own[:, None])
    late = mutate(genomes, traits={"sigma": own}, self_adaptive=True, schedule="linear", progress=1.0)
    assert torch.equal(late.traits["sigma"], found.traits["sigma"])
    torch.testing.assert_close(late.genomes, 0.1 * found.genomes)


def test_self_adaptation_starts_at_sigma_and_never_reaches_0_or_infinity():
    genomes = torch.zeros(500, HEAD.genes)
    assert mutate(genomes, sigma=0.3, self_adaptive=True, tau=0.0).traits["sigma"].unique().tolist() == [
        pytest.approx(0.3)
    ]
    found = mutate(genomes, sigma=0.3, self_adaptive=True, tau=1e4)
    assert (found.traits["sigma"] > 0).all()
    assert found.traits["sigma"].isfinite().all()
    assert found.genomes.isfinite().all()


def test_a_low_rank_change_is_of_that_rank_and_as_large():
    layout = Layout(("conv.weight", "conv.bias", "small.weight"), ((40, 6, 3, 3), (40,), (2, 30)))
    zeros = torch.zeros(60, layout.genes, dtype=torch.float64)
    found = mutate(zeros, layout, sigma=0.5, rank=3).genomes
    conv, bias, small = found.split(layout.sizes, 1)
    assert torch.linalg.matrix_rank(conv.view(60, 40, 54)).unique().tolist() == [3]
    assert torch.linalg.matrix_rank(small.view(60, 2, 30)).unique().tolist() == [2]  # as full as it can be
    for part in (conv, bias, small):
        assert abs(float(part.std()) / 0.5 - 1) < 0.1
    assert torch.equal(mutate(zeros, layout, sigma=0.5, rank=3).genomes, found)
    own = mutate(
        zeros, layout, traits={"sigma": torch.linspace(0.1, 2, 60).double()}, self_adaptive=True, tau=0.0, rank=3
    )
    ratio = own.genomes.std(1) / torch.linspace(0.1, 2, 60)
    assert (ratio / ratio.mean() - 1).abs().max() < 0.5
    relative = mutate(zeros + 2, layout, sigma=0.5, rank=3, relative=True).genomes - zeros - 2
    torch.testing.assert_close(relative, 2 * found, rtol=1e-6, atol=1e-6)


def test_a_low_rank_draws_few_numbers(monkeypatch):
    layout, drawn, randn = Layout(("weight",), ((500, 400),)), [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda shape, **k: drawn.append(math.prod(shape)) or randn(shape, **k))
    mutate(torch.zeros(2, layout.genes), layout, rank=2)
    assert sum(drawn) == 2 * 2 * (500 + 400)


def linear_sensitivity(inputs):
    """How much the outputs W x depend on each weight, over a batch: the root of the mean square."""
    rms = inputs.square().mean(0).sqrt()
    return lambda genomes: rms.repeat(genomes.shape[1] // len(rms)).expand(len(genomes), -1).clone()


def test_safe_steps_move_the_output_by_sigma_however_unequal_the_inputs():
    layout = Layout(("weight",), ((10, 50),))
    inputs = torch.randn(200, 50, generator=rng(), dtype=torch.float64) * torch.logspace(-1, 1, 50, dtype=torch.float64)
    population = Population.new(torch.zeros(30, 500, dtype=torch.float64), parents=2)
    context = Context(0, 1, 0.0, torch.device("cpu"), sensitivity=linear_sensitivity(inputs))
    found = gaussian(population, context, layout, sigma=0.25, safe=True, self_adaptive=False).genomes.view(30, 10, 50)
    moved = (found @ inputs.T).square().sum(1).mean().sqrt()  # of the vector of outputs
    assert abs(float(moved) / 0.25 - 1) < 0.1
    steps = found.square().mean((0, 1)).sqrt()
    assert float(steps[0] / steps[-1]) == pytest.approx(100, rel=0.3)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"safe": True, "rank": 2}, "safe"),
        ({"safe": True, "relative": True}, "safe"),
        ({"rank": 2, "rate": 0.5}, "rank"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, line):
    with pytest.raises(InputError, match=f"^{line}: "):
        mutate(torch.zeros(2, HEAD.genes), **options)


def test_mutation_works_in_place():
    genomes, _ = mates(HEAD)
    population = Population.new(genomes, parents=2)
    assert gaussian(population, Context(0, 1, 0.0, genomes.device), HEAD).genomes is genomes


@pytest.mark.parametrize("options", [{}, {"rate": 0.3}, {"relative": True, "self_adaptive": True}], ids=str)
def test_noise_goes_by_its_place_and_not_by_how_many_threads_draw_it(options):
    layout = Layout(("weight", "bias"), ((7, 5_000), (7,)))
    rows = 2 * STRIP // layout.genes + 3
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            genomes = torch.ones(rows, layout.genes)
            gaussian(Population.new(genomes), Context(0, 1, 0.0, genomes.device), layout, sigma=1.0, **options)
            found.append(genomes)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    noise = found[0] - 1
    assert len(noise.unique(dim=0)) == rows  # each strip has its own
    if not options:
        assert abs(float(noise.mean())) < 0.01
        assert abs(float(noise.std()) - 1) < 0.01


def test_a_row_longer_than_a_strip_has_noise_all_along():
    layout = Layout(("weight",), ((STRIP + 70_000,),))
    genomes = torch.zeros(2, layout.genes)
    gaussian(Population.new(genomes), Context(0, 1, 0.0, genomes.device), layout, sigma=1.0)
    assert not (genomes == 0).all(0).any()
    assert abs(float((genomes[0] * genomes[1]).mean())) < 0.01


@pytest.mark.parametrize("p", [2, 3, 7])
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_weighted_moves_the_mean_from_the_worse_parents_to_the_better(p, step, device):
    genomes = torch.randn(9, HEAD.genes, device=device)
    parents = torch.randint(9, (5, p), generator=rng(3), device="cpu").to(device)  # some twice
    found = crossover.weighted(genomes, parents, HEAD, rng(0, device), step=step)
    for child, mates in zip(found, parents, strict=True):
        expected = torch.zeros(HEAD.genes, dtype=torch.float64, device=device)
        for j, mate in enumerate(mates):
            expected += genomes[mate].double() * (1 / p + step / p**0.5 * (1 - 2 * j / (p - 1)))
        torch.testing.assert_close(child.double(), expected, rtol=1e-5, atol=1e-5)


def test_weighted_lets_no_stranger_in():
    genomes = torch.randn(4, HEAD.genes)
    genomes[2] = torch.nan
    assert crossover.weighted(genomes, torch.tensor([[0, 1, 3]]), HEAD, rng()).isfinite().all()


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 3), (3, 40), (90, 40)])
def test_weighted_is_the_same_product_with_and_without_strangers(n, m, device):
    genomes = torch.randn(n, HEAD.genes, generator=rng(), device="cpu").to(device)
    parents = torch.randint(n, (m, 7), generator=rng(1, "cpu"), device="cpu").to(device)
    used = parents.unique()
    alone = crossover.weighted(genomes[used], torch.searchsorted(used, parents), HEAD, rng(0, device))
    stranger = torch.full_like(genomes[:1], torch.nan)
    found = crossover.weighted(torch.cat([stranger, genomes]), parents + 1, HEAD, rng(0, device))
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize(("n", "p"), [(80, 16), (200, 7), (200, 2), (5, 2)])
def test_weighted_is_the_sum_of_its_parents_by_rank_by_product_and_by_rows(n, p, device):
    genomes = torch.randn(n, HEAD.genes, generator=rng(0, "cpu"), dtype=torch.float64).to(device)
    parents = torch.randint(n, (30, p), generator=rng(1, "cpu")).to(device)  # some twice
    own = [1 / p + 0.5 / p**0.5 * (1 - 2 * j / (p - 1)) for j in range(p)]
    right = torch.stack([sum(w * genomes[row] for w, row in zip(own, child, strict=True)) for child in parents])
    torch.testing.assert_close(crossover.weighted(genomes, parents, HEAD, rng(0, device)), right)


@pytest.mark.parametrize("n", [3, 16, 300])
def test_a_population_that_is_only_crossed_by_weight_comes_together(n):
    genomes = torch.randn(n, 2000, generator=rng(0, "cpu"))
    spread = [float(genomes.std(0).mean())]
    for generation in range(20):
        parents = torch.rand(n, n, generator=rng(generation, "cpu")).argsort(1)
        genomes = crossover.weighted(genomes, parents, HEAD, rng())
        spread.append(float(genomes.std(0).mean()))
    assert spread[20] < 0.1 * spread[0]
