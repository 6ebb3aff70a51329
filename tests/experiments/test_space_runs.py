"""Runs whose genes are coordinates: every space is run, interrupted, resumed, exported and learnt in."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Quiet, scores_of, weights_of_a_network
from safetensors.torch import load_file
from test_resume import contents

from neuroevo.cli import inspection
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import experiment, export, reopen
from neuroevo.networks.spaces import SPACES
from neuroevo.storage import rundir

DEEP = [
    "backbone.name=timm/test_resnet", "backbone.weights=none", "data.image_size=32", "data.limit=240",
    "algorithm.population=6", "budget.generations=4", "validate.every=2", "fitness.samples=40", "memory.limit=2e9",
    "backbone.trainable=[layer4]", "checkpoint.every=2", "head.init=default", "validate.metric=cross_entropy",
    "memory.plan=loop",
]  # fmt: skip
OPTIONS = {
    "random": "{name: random, directions: 20}",
    "low_rank": "{name: low_rank, rank: 2}",
    "singular": "{name: singular, count: 3}",
    "merge": "{name: merge, how: convex}",
}
COORDINATES = [name for name in SPACES if name not in ("full", "levels")]


def start(out: Path, *sets: str, quiet: Quiet | None = None) -> dict[str, Any]:
    experiment.run(load(None, [*DEEP, *sets]), str(out), "test", quiet or Quiet())
    return rundir.read_result(out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A network's weights, and two runs that have learnt from them by gradient steps, each another stage and head."""
    folder = tmp_path_factory.mktemp("trained")
    weights = weights_of_a_network(folder)
    for seed in (1, 2):
        start(folder / str(seed), weights, f"seed={seed}", "refine.steps=20", "refine.lr=0.001", "algorithm.elites=2",
              "budget.generations=2")  # fmt: skip
        assert rundir.read_result(folder / str(seed))["champion"]["kind"] != "start"
    return weights, str(folder / "1"), str(folder / "2")


def sets_of(space: str, trained: tuple[str, ...]) -> list[str]:
    weights, *runs = trained
    sources = runs if space == "merge" else runs[:1]
    return [weights, f"genome.space={OPTIONS.get(space, space)}", f"genome.from=[{', '.join(sources)}]"]


@pytest.mark.parametrize("space", COORDINATES)
def test_a_run_in_a_space_goes_on_to_the_same_bytes_and_exports_a_plain_network(
    space: str, tmp_path: Path, trained: tuple[str, ...]
) -> None:
    sets = sets_of(space, trained)
    result = start(tmp_path / "whole", *sets)
    assert dict(inspection.describe(str(tmp_path / "whole"))[1])["population"].endswith(f"genes, in the space {space}")
    start(tmp_path / "part", *sets, "budget.generations=2")
    experiment.resume(str(tmp_path / "part"), ["budget.generations=4"], Quiet())
    part, whole = contents(tmp_path / "part"), contents(tmp_path / "whole")
    assert part["result"].pop("test_scored") == 2  # it came to an end twice
    assert whole["result"].pop("test_scored") == 1
    assert part == whole
    champion = load_file(tmp_path / "whole" / "champion.safetensors")
    network, _ = export.network(str(tmp_path / "whole"))
    named = {name for name, _ in network.named_parameters() if name.startswith(("layer4.", "fc."))}
    assert set(champion) == named
    assert all(torch.equal(network.state_dict()[name], weight) for name, weight in champion.items())
    again = scores_of(str(tmp_path / "whole"), None, Quiet())
    assert again["accuracy"] == result["champion"]["test"]["accuracy"]
    assert again["cross_entropy"] == pytest.approx(result["champion"]["test"]["cross_entropy"], rel=1e-5)


@pytest.mark.parametrize("space", COORDINATES)
def test_folding_changes_no_logit(space: str, tmp_path: Path, trained: tuple[str, ...]) -> None:
    start(tmp_path / "r", *sets_of(space, trained))
    run, _ = reopen.open_run(str(tmp_path / "r"), Quiet())
    network, rows = run.network, run.supervised.splits["test"]
    genome = network.start()[0] + 0.1 * torch.randn(network.layout.genes, generator=torch.Generator().manual_seed(0))
    features, _ = run.supervised.samples.batch(rows)
    with torch.inference_mode():
        logits = network.forward(network.decode(genome[None]), features)[0]
        head = network.backbone.network(network.build_head(network.width))
        head.load_state_dict(network.fold(genome), strict=False)
        cut = network.backbone.cut
        assert cut is not None
        rest = torch.func.functional_call(cut.rest, {k: w for k, w in network.fold(genome).items() if "fc" not in k},
                                          cut.tensors(features))  # fmt: skip
        plain = head.fc(rest)
    assert float((plain - logits).abs().max()) < 1e-4 * float(logits.abs().max())


@pytest.mark.parametrize("space", COORDINATES)
def test_coordinates_learn_by_gradient_steps(space: str, tmp_path: Path, trained: tuple[str, ...]) -> None:
    still = ["algorithm.name=ga", "algorithm.elites=2", "algorithm.mutation.sigma=0", "genome.init_sigma=0",
             "budget.generations=1", "fitness.samples=all"]  # fmt: skip
    sets = sets_of(space, trained)
    start(tmp_path / "learnt", *sets, *still, "refine.steps=20", "refine.lr=0.0005")
    start(tmp_path / "still", *sets, *still)
    learnt, before = (json.loads((tmp_path / name / "history.jsonl").read_text()) for name in ("learnt", "still"))
    assert learnt["fitness_best"] > before["fitness_best"]


def test_what_goes_with_no_space_is_said_in_a_line(tmp_path: Path, trained: tuple[str, ...]) -> None:
    weights, first, second = trained
    for sets, line in (
        (["genome.space=merge"], "genome.space.name: merge is among two networks or more, and none given"),
        (
            ["genome.space=scales", f"genome.from=[{first}, {second}]"],
            "genome.space.name: is around one network, and 2 are given",
        ),
        (["genome.space=scale"], "genome.space.name: no space is called 'scale'"),
        (["genome.space={name: random, directions: 0}"], "genome.space.directions: 0 given"),
        (["genome.space=scales", "genome.levels=int8"], "genome.levels: 'int8' is a space of its own"),
        (["genome.space={name: scales, layers: [layer9]}"], "genome.space.layers: layer9 matches nothing that evolves"),
        (["genome.space=scales", "head.init=zero"], "genome.space.layers: fc.weight is zero, and scales would put"),
        (
            ["genome.space={name: merge, scale: 1.0}", f"genome.from=[{first}, {second}]"],
            "genome.space.scale: 1.0 given",
        ),
        (["genome.space=scales", "genome.from=[nowhere]"], "genome.from: nowhere is neither a finished run nor"),
        (
            ["genome.space=scales", f"genome.from=[{first}]", "backbone.trainable=[layer3]"],
            f"genome.from: {first}: its layer4",
        ),
    ):
        with pytest.raises(InputError) as refused:
            start(tmp_path / "r", weights, *sets)
        assert str(refused.value).startswith(line), str(refused.value)
        assert not (tmp_path / "r").exists()


def test_a_run_in_a_space_refuses_to_go_on_around_another_network(tmp_path: Path, trained: tuple[str, ...]) -> None:
    weights, *_ = trained
    start(tmp_path / "r", weights, "genome.space=random", "budget.generations=2")
    path = Path(weights.partition("=")[2])
    own = load_file(path)
    from safetensors.torch import save_file

    changed = {name: w + 0.01 if name.startswith("layer4") and w.is_floating_point() else w for name, w in own.items()}
    try:
        save_file(changed, path)
        with pytest.raises(InputError, match="the frozen weights of timm/test_resnet aren't those"):
            experiment.resume(str(tmp_path / "r"), ["budget.generations=4"], Quiet())
    finally:
        save_file(own, path)


def test_what_networks_have_learnt_is_added_to_the_head_that_the_config_names(
    tmp_path: Path, trained: tuple[str, ...]
) -> None:
    _, *runs = trained
    base = f"backbone.weights={runs[0]}/network.safetensors"
    space = "genome.space={name: merge, how: arithmetic, scale: 0}"
    start(tmp_path / "r", base, space, f"genome.from=[{', '.join(runs)}]", "head.init=network")
    run, _ = reopen.open_run(str(tmp_path / "r"), Quiet())
    own = load_file(f"{runs[0]}/champion.safetensors")
    found = run.network.fold(run.network.start()[0])
    for name, weight in own.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5)


def not_a_space(origin: object) -> int:
    return 3


def test_a_space_of_ones_own_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="genome.space: a function of Origin that returns a Space expected, a int"):
        start(tmp_path / "r", "genome.space=test_space_runs:not_a_space")


def test_rounded_weights_whose_place_others_take_are_told(tmp_path: Path, trained: tuple[str, ...]) -> None:
    quiet = Quiet()
    sets = [*sets_of("scales", trained), "backbone.quantise={bits: 3, parts: [layer4]}", "budget.generations=1"]
    start(tmp_path / "r", *sets, quiet=quiet)
    assert any("not as backbone.quantise rounds it; backbone.transfer takes" in line for line in quiet.lines)


def test_levels_are_the_space_of_that_name(tmp_path: Path) -> None:
    head = ["backbone.name=none", "backbone.weights=none"]
    short, long = (
        load(None, [*head, given]) for given in ("genome.levels=int4", "genome.space={name: levels, levels: int4}")
    )
    assert short.record() == long.record()
    assert short.genome.levels == "int4"
    assert load(None, head).record()["genome"] == {"space": "full", "init_sigma": 0.01, "levels": None, "from": []}


def test_a_config_names_another_algorithm_in_a_space_if_it_likes() -> None:
    assert load(None, ["genome.space=random"]).algorithm.name == "nes"
    assert load(None, ["genome.space=random"]).genome.init_sigma == 0.1
    assert load(None, ["genome.space=random", "algorithm=ga"]).algorithm.name == "ga"
    assert load(None, ["genome.space=random", "refine.steps=5"]).algorithm.name == "ga"
    assert load(None, ["genome.space=random", "genome.init_sigma=0.02"]).genome.init_sigma == 0.02
    again = load(None, ["genome.space=random"])
    assert load(None, []).algorithm.name == "ga" != again.algorithm.name


@pytest.mark.parametrize("bits", [3, 4])
def test_the_levels_of_a_quantised_stage_evolve_as_whole_numbers(
    bits: int, tmp_path: Path, trained: tuple[str, ...]
) -> None:
    weights, *_ = trained
    sets = [weights, f"backbone.quantise={{bits: {bits}, parts: [layer4]}}", f"genome.levels=int{bits}",
            "algorithm.mutation.schedule=constant"]  # fmt: skip
    start(tmp_path / "whole", *sets)
    run, step = reopen.open_run(str(tmp_path / "whole"), Quiet())
    network, champion = run.network, step.champion
    body = network.backbone.body.state_dict()
    for name, weight in network.decode(network.start()).items():  # nothing moves before anything evolves
        if name in body:
            torch.testing.assert_close(weight[0], body[name], rtol=1e-5, atol=1e-7)
    top = 2 ** (bits - 1) - 1
    for name, parts in network.layout.unflatten(champion.genome[None]).items():
        if name in network.layout.tops:
            assert torch.equal(parts, parts.round())
            assert parts.abs().max() <= top
    start(tmp_path / "part", *sets, "budget.generations=2")
    experiment.resume(str(tmp_path / "part"), ["budget.generations=4"], Quiet())
    part, whole = contents(tmp_path / "part"), contents(tmp_path / "whole")
    assert part["result"].pop("test_scored") == 2
    assert whole["result"].pop("test_scored") == 1
    assert part == whole


@pytest.mark.parametrize("bits", [3, 4])
def test_factors_of_a_quantised_stage_leave_its_levels(bits: int, tmp_path: Path, trained: tuple[str, ...]) -> None:
    weights, *_ = trained
    sets = [weights, f"backbone.quantise={{bits: {bits}, parts: [layer4]}}", "genome.space=scales"]
    start(tmp_path / "r", *sets)
    run, step = reopen.open_run(str(tmp_path / "r"), Quiet())
    genome = step.champion.genome + 0.05
    for name, weight in run.network.fold(genome).items():
        if name.startswith("layer4") and weight.ndim > 1:
            rows, before = weight.flatten(1), run.network.base[name][0].flatten(1)
            assert len(before[0].unique()) <= 2**bits - 1
            factors = (rows / before).where(before != 0, torch.nan)
            assert (factors - factors.nanmean(1, keepdim=True)).nan_to_num().abs().max() < 1e-5
            assert ((rows == 0) == (before == 0)).all()
