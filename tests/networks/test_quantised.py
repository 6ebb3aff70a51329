"""Levels: decode and its inverse, mutation by steps, and runs whose exported layer carries exactly its levels."""

import json
import math
from pathlib import Path

import h5py
import pytest
import torch
from conftest import Quiet, scores_of
from safetensors.torch import load_file, save_file
from test_experiment import SMALL, start
from test_resume import stopped
from torch import Tensor

from neuroevo.cli import inspection
from neuroevo.config import load
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.experiments import experiment, export, reopen
from neuroevo.networks import quantised
from neuroevo.networks.quantised import LEVELS
from neuroevo.problems import intervals
from neuroevo.search.algorithms import ALGORITHMS
from neuroevo.search.operators import masks, mutation
from neuroevo.storage import generations

PLAIN = Layout(("0.weight", "0.bias", "conv.weight", "gain"), ((3, 5), (3,), (2, 3, 2, 2), ()))
TERNARY = quantised.add_levels(PLAIN, 1)

every = pytest.mark.parametrize("top", LEVELS.values(), ids=LEVELS)


def drawn(layout: Layout, n: int, device: torch.device) -> Tensor:
    """Draw genomes [n, g] of whole levels, the largest in each row, and scales above 0."""
    g = torch.Generator().manual_seed(0)  # of the host: the same genomes on each device
    parts = {}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        top = layout.tops.get(name)
        if top:
            part = torch.randint(-top, top + 1, (n, *shape), generator=g).float()
            part.flatten(2)[..., 0] = top
        else:
            part = torch.rand((n, *shape), generator=g) + 0.1
        parts[name] = part.to(device)
    return layout.flatten(parts)


def mutate(genomes: Tensor, layout: Layout, progress: float = 0.0, **options: float) -> Tensor:
    population = Population.new(genomes.clone(), parents=2)
    return mutation.levels(population, Context(0, 1, progress, genomes.device), layout, **options).genomes


def test_each_matrix_is_followed_by_the_scales_of_its_rows() -> None:
    names = ("0.weight", "0.weight.scale", "0.bias", "conv.weight", "conv.weight.scale", "gain")
    assert Layout(names, ((3, 5), (3,), (3,), (2, 3, 2, 2), (2,), ()), (1, 0, 0, 1, 0, 0)) == TERNARY
    assert Layout.from_json(TERNARY.to_json()) == TERNARY
    assert "levels" not in json.loads(PLAIN.to_json())


@every
def test_weights_are_scale_times_level_and_their_genomes_are_found_again(top: int, device: torch.device) -> None:
    layout = quantised.add_levels(PLAIN, top)
    genomes = drawn(layout, 4, device)
    weights, parts = quantised.scale_levels(layout.unflatten(genomes), layout), layout.unflatten(genomes)
    assert {name: tuple(w.shape[1:]) for name, w in weights.items()} == dict(
        zip(PLAIN.names, PLAIN.shapes, strict=True)
    )
    for i in range(4):
        for o in range(2):
            expected = parts["conv.weight.scale"][i, o] * parts["conv.weight"][i, o]
            assert torch.equal(weights["conv.weight"][i, o], expected)
    assert torch.equal(weights["0.bias"], parts["0.bias"])
    back = quantised.encode(weights, layout)
    assert back.device.type == device.type
    torch.testing.assert_close(back, genomes, rtol=1e-6, atol=0)
    assert torch.equal(back.round()[:, :15], genomes[:, :15])


@every
def test_any_genome_has_weights_that_are_levels_within_range(top: int, device: torch.device) -> None:
    layout = quantised.add_levels(PLAIN, top)
    genomes = drawn(layout, 4, device)
    moved = genomes + torch.rand(genomes.shape, generator=torch.Generator(device).manual_seed(1), device=device) - 0.5
    moved[:, :5] *= 9  # of the first row
    whole = quantised.round_levels(moved, layout)
    levels = layout.unflatten(whole)["0.weight"]
    assert torch.equal(levels, levels.round())
    assert levels.abs().max() == top
    assert torch.equal(levels[:, 1:], layout.unflatten(genomes)["0.weight"][:, 1:])
    a, b = (quantised.scale_levels(layout.unflatten(each), layout) for each in (moved, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_without_levels_genomes_are_their_weights() -> None:
    genomes = torch.randn(2, PLAIN.genes)
    weights = quantised.scale_levels(PLAIN.unflatten(genomes), PLAIN)
    assert all(torch.equal(w, PLAIN.unflatten(genomes)[name]) for name, w in weights.items())
    assert torch.equal(quantised.encode(weights, PLAIN), genomes)
    assert quantised.round_levels(genomes, PLAIN) is genomes
    assert quantised.spread(genomes, PLAIN, 0.3) == 0.3


@every
def test_floats_become_the_nearest_levels_no_worse_than_by_the_largest_weight(top: int, device: torch.device) -> None:
    rows = torch.randn(1, 6, 200, generator=torch.Generator().manual_seed(0)).to(device)
    rows[0, 5] = 0

    def error(scale: Tensor) -> Tensor:
        return ((rows / scale[..., None]).round().clamp(-top, top) * scale[..., None] - rows).square().sum(2)[0, :5]

    scale = quantised.scales(rows, top)
    plain = error((rows.abs().amax(2) / top).clamp(min=1e-9))
    assert (error(scale) <= plain * (1 + 1e-5)).all()
    bound = {1: 0.25, 3: 0.08, 7: 0.025, 31: 2e-3, 127: 1e-4}[
        top
    ]  # of a normal weight's variance; ternary ideally keeps 0.81 of it
    assert (error(scale) / 200 < bound).all()
    assert float(scale[0, 5]) == pytest.approx(quantised.FULL[top] / top)


def test_a_start_at_zero_is_zero_weights_with_scales_that_make_steps_matter() -> None:
    genomes = quantised.encode({name: torch.zeros(1, *s) for name, s in zip(*PLAIN[:2], strict=True)}, TERNARY)
    assert all(not w.any() for w in quantised.scale_levels(TERNARY.unflatten(genomes), TERNARY).values())
    assert torch.equal(TERNARY.unflatten(genomes)["conv.weight.scale"], torch.full((1, 2), quantised.FULL[1]))


@every
def test_the_spread_of_genes_is_that_of_weights(top: int, device: torch.device) -> None:
    layout = quantised.add_levels(Layout(("weight", "bias"), ((2, 3000), (2,))), top)
    start = quantised.encode(
        {"weight": torch.zeros(1, 2, 3000, device=device), "bias": torch.zeros(1, 2, device=device)}, layout
    )
    sigma = quantised.spread(start, layout, 0.05)
    assert isinstance(sigma, Tensor)
    noise = torch.randn(20, layout.genes, generator=torch.Generator(device).manual_seed(0), device=device) * sigma
    parts = layout.unflatten(noise)
    weights = parts["weight"] * layout.unflatten(start)["weight.scale"][..., None]
    assert float(weights.std()) == pytest.approx(0.05, rel=0.02)
    assert torch.equal(sigma[-2:], torch.full((2,), 0.05, device=device))
    torch.testing.assert_close(sigma[-4:-2], 0.05 * start[0, -4:-2])


# Mutation


@every
def test_rate_0_and_sigma_0_change_nothing(top: int, device: torch.device) -> None:
    layout = quantised.add_levels(PLAIN, top)
    genomes = drawn(layout, 7, device)
    assert torch.equal(mutate(genomes, layout, rate=0, sigma=0), genomes)
    found = layout.unflatten(mutate(genomes, layout, rate=0, sigma=0.1))
    before = layout.unflatten(genomes)
    for name in layout.names:
        assert torch.equal(found[name], before[name]) == (name in layout.tops)
    steps = layout.unflatten(mutate(genomes, layout, rate=1, sigma=0))
    for name in layout.names:
        assert torch.equal(steps[name], before[name]) == (name not in layout.tops)


@every
@pytest.mark.parametrize("step", [0.0, 0.1, 3.0])
def test_levels_stay_whole_and_within_their_range(top: int, step: float, device: torch.device) -> None:
    layout = quantised.add_levels(PLAIN, top)
    genomes = drawn(layout, 50, device)
    levels = layout.unflatten(mutate(genomes, layout, rate=1, step=step))["0.weight"]
    assert torch.equal(levels, levels.round())
    assert levels.abs().max() == top


def test_a_share_of_levels_moves_by_normal_whole_steps_of_one_at_least(device: torch.device) -> None:
    layout = quantised.add_levels(Layout(("w",), ((10, 4000),)), 127)  # a child is larger than a block
    zeros = torch.zeros(10, layout.genes, device=device)
    moves = layout.unflatten(mutate(zeros, layout, rate=0.25, step=0.1, sigma=0))["w"]
    share = (moves != 0).double().mean()
    assert abs(share - 0.25) < 6 * math.sqrt(0.25 * 0.75 / 400_000)
    moved = moves[moves != 0].double()
    assert abs(moved.mean()) < 6 * 12.7 / math.sqrt(len(moved))
    assert float(moved.std()) == pytest.approx(12.7, rel=0.02)
    ones = layout.unflatten(mutate(zeros, layout, rate=1, step=0, sigma=0))["w"]
    assert set(ones.unique().tolist()) == {-1.0, 1.0}
    late = layout.unflatten(mutate(zeros, layout, 1.0, rate=0.25, step=0.1, sigma=0))["w"]
    assert abs((late != 0).double().mean() - 0.025) < 0.002


def test_what_crossover_left_between_two_levels_falls_to_either_without_bias(device: torch.device) -> None:
    layout = quantised.add_levels(Layout(("w",), ((10, 4000),)), 7)
    genomes = torch.full((10, layout.genes), 2.3, device=device)
    levels = layout.unflatten(mutate(genomes, layout, rate=0, sigma=0))["w"]
    assert set(levels.unique().tolist()) == {2.0, 3.0}
    assert float(levels.double().mean()) == pytest.approx(2.3, abs=0.005)


def test_scales_move_by_shares_of_themselves_and_keep_their_sign(device: torch.device) -> None:
    layout = quantised.add_levels(Layout(("w", "b"), ((5000, 1), (5000,))), 1)
    genomes = torch.full((1, layout.genes), 0.01, device=device)
    parts = layout.unflatten(mutate(genomes, layout, sigma=0.5))
    assert (parts["w.scale"] > 0).all()
    assert float((parts["w.scale"] / 0.01).log().std()) == pytest.approx(0.5, rel=0.1)
    assert float((parts["b"] - 0.01).std()) == pytest.approx(0.5, rel=0.1)


def test_levels_without_levels_are_refused() -> None:
    with pytest.raises(InputError, match="mutation: levels needs a layout with levels"):
        mutate(torch.zeros(2, PLAIN.genes), PLAIN)


def test_a_neurons_scale_goes_with_its_levels() -> None:
    parts = dict(zip(TERNARY.names, masks.units_of(TERNARY).split(TERNARY.sizes), strict=True))
    assert parts["0.weight.scale"].tolist() == parts["0.bias"].tolist() == parts["0.weight"][::5].tolist()
    assert parts["conv.weight.scale"].tolist() == parts["conv.weight"][::12].tolist()
    layers = dict(zip(TERNARY.names, masks.layers_of(TERNARY).split(TERNARY.sizes), strict=True))
    assert layers["conv.weight.scale"].unique().tolist() == layers["conv.weight"].unique().tolist()
    assert layers["0.weight.scale"][0] == layers["0.bias"][0] == layers["0.weight"][0]


# Algorithms


@pytest.mark.parametrize("name", ["ga", "de", "hill_climbing", "random", "fixed"])
def test_what_goes_on_from_the_genomes_scored_asks_for_whole_levels(name: str, device: torch.device) -> None:
    layout = quantised.add_levels(PLAIN, 7)
    options = {"mutation": mutation.levels} if name == "ga" else {}
    algorithm = quantised.whole(ALGORITHMS[name](population=6, **options), layout)
    begin = drawn(layout, 1, device)
    state = algorithm.init(begin, quantised.spread(begin, layout, 2.0), Context(0, 0, 0.0, device, layout))
    for generation in range(1, 4):
        population = algorithm.ask(state, Context(0, generation, 0.0, device, layout))
        assert torch.equal(population.genomes, quantised.round_levels(population.genomes, layout))
        n = len(population.genomes)
        values = -population.genomes.double().square().sum(1, keepdim=True)
        state = algorithm.tell(state, population, Scores(values, torch.zeros(n, dtype=torch.bool, device=device)))
        for genome in algorithm.candidates(state).values():
            assert torch.equal(genome[None], quantised.round_levels(genome[None], layout))


# Runs


def carries(weight: Tensor, top: int) -> bool:
    """Tell whether each row of a matrix is whole levels in range times one scale, not all of them zero."""
    for row in weight.double()[weight.any(1)]:
        most = float(row.abs().max())
        scales = [most / level for level in range(1, top + 1)]
        ratios = [row / scale for scale in scales]
        if not any(float((r - r.round()).abs().max()) < 1e-3 for r in ratios) or len(row.unique()) > 2 * top + 1:
            return False
    return bool(weight.any())


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_exported_layers_carry_exactly_the_levels(tmp_path: Path, levels: str, head: str) -> None:
    sets = [f"genome.levels={levels}", f"head.name={head}", *(["head.hidden=[9]"] if head == "mlp" else [])]
    result = start(tmp_path / "r", *sets)
    assert result["status"] == "finished"
    assert (result["champion"]["kind"] != "start") or head == "mlp"
    parts, step = reopen.open_run(str(tmp_path / "r"), Quiet())
    top, layout = LEVELS[levels], parts.network.layout
    assert parts.network.affine is not None  # features are centred, which folds into the biases alone
    assert parts.network.affine.mean.any()
    assert torch.equal(parts.network.affine.std.cpu(), torch.ones(64))
    assert set(layout.levels) == {0, top}
    genomes = step.population.genomes
    assert torch.equal(genomes, quantised.round_levels(genomes, layout))
    genes = layout.unflatten(step.champion.genome[None].cpu())
    file = load_file(tmp_path / "r" / "champion.safetensors")
    export.export(str(tmp_path / "r"), "safetensors", str(tmp_path / "s"))
    export.export(str(tmp_path / "r"), "pt", str(tmp_path / "p"))
    for name in layout.tops:
        level, scale = genes[name][0], genes[name + ".scale"][0]
        assert torch.equal(level, level.round())
        assert level.abs().max() <= top
        assert torch.equal(file[name], level * scale[:, None])
        assert torch.equal((file[name] / scale[:, None]).round(), level)
        assert torch.equal(load_file(tmp_path / "s")[name], file[name])
        assert torch.equal(torch.load(tmp_path / "p", weights_only=True)[name], file[name])
        assert carries(file[name], top)
        assert all(len(row.unique()) <= 2 * top + 1 for row in file[name])
    rows = parts.supervised.splits["test"]
    raw = parts.features._replace(affine=None)
    weights = {name: w[None].to(parts.network.device) for name, w in file.items()}
    logits = parts.network.forward(weights, raw.batch(rows)[0])
    inside, _ = intervals.logits(
        parts.supervised.judgement(()), step.champion.genome, rows, parts.supervised.executions.now
    )
    torch.testing.assert_close(logits[0].cpu(), inside[0].cpu(), rtol=1e-4, atol=1e-5)
    assert scores_of(str(tmp_path / "r"), None, Quiet()) == result["champion"]["test"]
    described = dict(inspection.describe(str(tmp_path / "r"))[1])
    assert described["  head.weight.scale" if head == "linear" else "  head.0.weight.scale"] in ("10", "9")


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_the_onnx_graph_carries_the_levels(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    start(tmp_path / "r", "genome.levels=ternary")
    export.export(str(tmp_path / "r"), "onnx", str(tmp_path / "o"))
    found = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "o").graph.initializer]
    matrices = [torch.tensor(a) for a in found if sorted(a.shape) == [10, 64]]
    assert matrices
    assert all(carries(m if m.shape[0] == 10 else m.T, 1) for m in matrices)


def test_a_ternary_head_learns(tmp_path: Path) -> None:
    result = start(tmp_path / "r", "genome.levels=ternary", "budget.generations=60", "algorithm.population=64")
    assert result["champion"]["validation"]["accuracy"] > 0.5


@pytest.mark.parametrize("given", [
    ["genome.levels=ternary"],
    ["genome.levels=int8", "algorithm.crossover=weighted", "algorithm.mutation.schedule=constant"],
    ["genome.levels=int4", "algorithm.crossover=row", "head.name=mlp", "head.hidden=[9]"],
    ["genome.levels=ternary", "algorithm.name=hill_climbing", "genome.init_sigma=0.05"],
    ["genome.levels=int4", "algorithm.name=pso"],
], ids=lambda given: " ".join(given))  # fmt: skip
def test_a_run_on_levels_that_is_stopped_resumes_to_the_same_bytes(tmp_path: Path, given: list[str]) -> None:
    sets = [s for s in SMALL if "elites" not in s]
    stopped(tmp_path, [*sets, "budget.generations=9", *given], 5)
    weight = next(w for n, w in load_file(tmp_path / "r" / "champion.safetensors").items() if n.endswith("weight"))
    assert carries(weight, next(top for name, top in LEVELS.items() if f"genome.levels={name}" in given))


def test_strategies_search_between_levels_and_their_champions_are_whole(tmp_path: Path) -> None:
    sets = [s for s in SMALL if "elites" not in s]
    experiment.run(load(None, [*sets, "genome.levels=int4", "algorithm.name=snes"]), str(tmp_path), "test", Quiet())
    parts, step = reopen.open_run(str(tmp_path), Quiet())
    genomes, champion = step.population.genomes, step.champion.genome
    assert not torch.equal(genomes, quantised.round_levels(genomes, parts.network.layout))
    assert torch.equal(champion, quantised.round_levels(champion[None], parts.network.layout)[0])
    assert carries(load_file(tmp_path / "champion.safetensors")["head.weight"], 7)


def test_levels_start_from_an_earlier_run_and_from_a_file(tmp_path: Path) -> None:
    first = start(tmp_path / "a", "genome.levels=int8", "budget.generations=20")
    same = ["genome.init_sigma=0", "algorithm.mutation.rate=0", "algorithm.mutation.sigma=0", "budget.generations=1"]
    again = start(tmp_path / "b", "genome.levels=int8", f"genome.from=[{tmp_path / 'a'}]", *same)
    a, b = (load_file(tmp_path / name / "champion.safetensors") for name in "ab")
    torch.testing.assert_close(a["head.weight"], b["head.weight"], rtol=1e-5, atol=0)
    torch.testing.assert_close(a["head.bias"], b["head.bias"], rtol=1e-4, atol=1e-5)
    assert again["champion"]["validation"]["accuracy"] == first["champion"]["validation"]["accuracy"]
    weight = torch.randn(10, 64)
    save_file({"head.weight": weight, "head.bias": torch.zeros(10)}, tmp_path / "w.safetensors")
    start(tmp_path / "c", "genome.levels=int8", f"genome.from=[{tmp_path / 'w.safetensors'}]", *same)
    c = load_file(tmp_path / "c" / "champion.safetensors")["head.weight"]
    assert carries(c, 127)
    assert (c - weight).abs().max() < 4 / 127
    save_file({"head.weight": torch.zeros(10, 5), "head.bias": torch.zeros(10)}, tmp_path / "v.safetensors")
    with pytest.raises(InputError, match=r"v.safetensors: not of this network's layout: head.weight: shape \(10, 64\)"):
        start(tmp_path / "d", "genome.levels=int8", f"genome.from=[{tmp_path / 'v.safetensors'}]")


def test_a_head_without_a_linear_layer_evolves_on_levels(tmp_path: Path) -> None:
    sets = ["head.name=test_experiment:Directions", "head.init=default", "genome.levels=int4"]
    start(tmp_path / "r", *sets)
    assert carries(load_file(tmp_path / "r" / "champion.safetensors")["head.towards"], 7)


def test_a_checkpoint_says_which_genes_are_levels(tmp_path: Path) -> None:
    start(tmp_path / "r", "genome.levels=ternary")
    with h5py.File(generations.paths(tmp_path / "r" / "checkpoints")[0]) as file:
        layout = Layout.from_json(str(file.attrs["layout"]))
        assert layout.tops == {"head.weight": 1}
        assert layout.names == ("head.weight", "head.weight.scale", "head.bias")
        assert set(map(float, set(file["population/genomes"][:, :640].ravel()))) == {-1.0, 0.0, 1.0}


def test_an_estimate_counts_the_scales(tmp_path: Path) -> None:
    rows = dict(inspection.estimate(load(None, [*SMALL, "genome.levels=ternary"])))
    assert rows["genome"].startswith("660 genes")


# Config


def test_levels_alone_choose_what_fits_them() -> None:
    c = load(None, ["genome.levels=ternary"])
    assert (c.features.standardise, c.features.components, c.features.whitening) == (False, None, 0.0)
    parts = {kind: c.algorithm.options[kind].name for kind in ("selection", "crossover", "mutation")}
    assert parts == {"selection": "truncation", "crossover": "uniform", "mutation": "levels"}
    again = load(None, ["genome.levels=ternary", "algorithm.mutation.rate=0.5", "algorithm.crossover=weighted",
                        "features.standardise=false"])  # fmt: skip
    assert again.algorithm.options["mutation"].name == "levels"
    assert again.algorithm.options["mutation"].options["rate"] == 0.5
    assert again.algorithm.options["crossover"].name == "weighted"
    assert load(None, []).algorithm.options["mutation"].name == "gaussian"


def test_a_config_with_levels_reads_back_to_itself(tmp_path: Path) -> None:
    c = load(None, ["genome.levels=int4"])
    (tmp_path / "c.yaml").write_text(c.to_yaml())
    assert load(str(tmp_path / "c.yaml")).record() == c.record()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["refine.steps=2"], "refine: gradient steps leave the levels of genome.levels: ternary; give one of the two"),
        (["refine=null", "refine.name=adam"], "refine: gradient steps"),
        (["features.standardise=true"], "features.standardise: True, but genome.levels: ternary takes features as"),
        (["features.components=64"], "features.components: 64, but genome.levels: ternary"),
        (["features.whitening=0.5"], "features.whitening: 0.5, but genome.levels: ternary"),
        (["algorithm.mutation=gaussian"], "algorithm.mutation: gaussian, but genome.levels: ternary moves in whole"),
        (["algorithm.mutation={name: gaussian, sigma: 1}"], "algorithm.mutation: gaussian"),
        (
            ["genome.levels=int5"],
            "genome.levels: 'int5' given; input should be 'ternary', 'int3', 'int4', 'int6' or",
        ),
        (["genome.levels=null", "algorithm.mutation=levels"], "algorithm.mutation: levels needs genome.levels"),
    ],
)
def test_what_does_not_go_with_levels_is_refused_in_one_line(sets: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as raised:
        load(None, ["genome.levels=ternary", *sets])
    assert "\n" not in str(raised.value)
