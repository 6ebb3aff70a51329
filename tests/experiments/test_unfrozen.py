"""Runs in which more than the head evolves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Quiet, weights_of_a_network
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuroevo.config import load
from neuroevo.data import augment, feature_cache
from neuroevo.engine import execution
from neuroevo.engine.execution import Execution
from neuroevo.errors import InputError, RunError
from neuroevo.experiments import build, compose, experiment, export, reopen
from neuroevo.learning import sensitivity
from neuroevo.networks import deep
from neuroevo.storage import checkpoint, rundir

# A network of timm's own tests, on a few digits.
HEAD = [
    "backbone.name=timm/test_resnet", "backbone.weights=none", "data.image_size=32", "data.limit=240",
    "algorithm.population=6", "algorithm.elites=2", "budget.generations=3", "validate.every=2", "fitness.samples=40",
    "memory.limit=2e9", "head.init=default",
]  # fmt: skip
DEEP = [*HEAD, "backbone.trainable=[layer4]"]
TRAIN, VALIDATION, TEST = 168, 36, 36


def start(out: Path, *sets: str, quiet: Quiet | None = None, base: list[str] = DEEP) -> dict[str, Any]:
    torch.manual_seed(0)  # weights none: the library's own initialisation
    experiment.run(load(None, [*base, *sets]), str(out), "test", quiet or Quiet())
    return rundir.read_result(out)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights, so that every run has the same network."""
    return weights_of_a_network(tmp_path_factory.mktemp("weights"))


def test_a_stage_is_as_ordinary_as_a_head(tmp_path: Path, weights: str, quiet: Quiet) -> None:
    result = start(tmp_path / "r", weights, quiet=quiet)
    assert result["cost"]["forward_samples"] == 3 * 6 * 40
    assert result["cost"]["backbone_samples"] in (0, 240)
    assert result["cost"]["validation_samples"] == VALIDATION * (1 + 2 * 2)
    saved = checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail)
    assert saved is not None
    assert saved.plan.method in deep.METHODS
    network, _ = export.network(str(tmp_path / "r"))
    parts, _ = reopen.open_run(str(tmp_path / "r"), Quiet())
    named = [name for name, _ in network.named_parameters() if name.startswith(("layer4.", "fc."))]
    assert list(saved.layout.names) == named  # in the network's own order
    champion = load_file(tmp_path / "r" / "champion.safetensors")
    assert set(champion) == set(named)
    for name, weight in champion.items():
        assert torch.equal(network.state_dict()[name], weight)
    images = augment.normalise(pixels(parts), parts.network.backbone.transform, torch.device("cpu"))
    with torch.inference_mode():
        logits = network(images[parts.supervised.splits["test"]])
    hits = (logits.argmax(1) == parts.features.labels[parts.supervised.splits["test"]]).double().mean()
    assert float(hits) == pytest.approx(result["champion"]["test"]["accuracy"])
    found = torch.nn.functional.cross_entropy(logits, parts.features.labels[parts.supervised.splits["test"]])
    assert float(found) == pytest.approx(result["champion"]["test"]["cross_entropy"], rel=1e-4)


def pixels(parts: compose.Run) -> Tensor:
    """Return the run's images, uint8 [N, channels, H, W]."""
    whole, _ = build.dataset(parts.config)
    t = parts.network.backbone.transform
    return torch.cat(list(feature_cache._batches(whole.images, t, None, 0)))


def test_sigma_is_relative_to_each_parameter_where_more_than_a_head_evolves(tmp_path: Path) -> None:
    assert load(None, DEEP).algorithm.options["mutation"].options["relative"] is True
    assert load(None, HEAD).algorithm.options["mutation"].options["relative"] is False
    assert (
        load(None, [*DEEP, "algorithm.mutation.relative=false"]).record()["algorithm"]["mutation"]["relative"] is False
    )
    assert load(None, [*DEEP, "algorithm.mutation.safe=true"]).record()["algorithm"]["mutation"]["relative"] is False


def test_a_deep_run_starts_from_the_best_head_as_it_was(tmp_path: Path, weights: str) -> None:
    best = start(tmp_path / "head", weights, "budget.generations=20", base=HEAD)
    noise = ["algorithm.mutation.sigma=50", "genome.init_sigma=50", "algorithm.elites=0"]
    found = start(tmp_path / "r", weights, f"genome.from=[{tmp_path / 'head'}]", *noise)
    assert found["champion"]["kind"] == "start"
    for split in ("validation", "test"):
        for name in ("accuracy", "cross_entropy"):
            assert found["champion"][split][name] == pytest.approx(best["champion"][split][name], rel=1e-4)
    with pytest.raises(
        InputError, match=r"genome.from: .*: its layer4.* is another, and doesn't evolve here; .*transfer"
    ):
        start(tmp_path / "d", weights, "budget.generations=20")
        start(tmp_path / "q", weights, f"genome.from=[{tmp_path / 'd'}]", base=HEAD)


def test_a_head_that_does_not_evolve_is_that_of_the_run_it_starts_from(tmp_path: Path, weights: str) -> None:
    start(tmp_path / "head", weights, "budget.generations=20", base=HEAD)
    start(tmp_path / "r", weights, "head.trainable=false", f"genome.from=[{tmp_path / 'head'}]")
    head, found = (load_file(tmp_path / name / "champion.safetensors") for name in ("head", "r"))
    assert "layer4.0.conv1.weight" in found
    for name in ("fc.weight", "fc.bias"):
        torch.testing.assert_close(found[name], head[name], rtol=1e-4, atol=1e-5)
    saved = checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail)
    assert saved is not None
    assert not any(name.startswith("fc.") for name in saved.layout.names)


def test_only_norms_or_only_biases_evolve_where_only_they_are_wanted(tmp_path: Path, weights: str) -> None:
    for patterns, ends in ((["*.bias"], ("bias",)), (["*.bn*", "bn1", "*downsample.2"], ("weight", "bias"))):
        out = tmp_path / ends[0]
        start(out, weights, "head.trainable=false", f"backbone.trainable={json.dumps(patterns)}")
        saved = checkpoint.newest(out / "checkpoints", pytest.fail)
        assert saved is not None
        assert all(name.endswith(ends) and len(shape) == 1 for name, shape in
                   zip(saved.layout.names, saved.layout.shapes, strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["head.trainable=false", "backbone.trainable=[]"], r"head.trainable: false leaves nothing to evolve"),
        (["head.trainable=false", "head.init=zero"], r"head.trainable: false, and the head is zero"),
        (
            ["backbone.trainable=[layer9]"],
            r"backbone.trainable: layer9 matches no parameter .* it has: conv1, .*layer4",
        ),
        (["backbone.transfer=[{from: /nowhere}]"], r"backbone.transfer.0.from: /nowhere is neither"),
        (["backbone.transfer=[{form: x}]"], r"backbone.transfer.0"),
        (["memory.limit=10000"], r"memory.limit: 10000 bytes is too little for one individual; at least \d+"),
        (["memory.limit=4e5", "backbone.batchnorm=recalibrate"], r"memory.limit: 400000 bytes .* re-estimate"),
        (["memory.plan=best"], r"memory.plan: 'best' given; .*'auto', 'loop' or 'vmap'"),
        (["backbone.name=none", "data.image_size=null"], r"backbone.trainable: there is no backbone"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(tmp_path: Path, sets: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        start(tmp_path / "r", *sets)
    assert not (tmp_path / "r").exists()


def test_a_network_that_runs_whole_says_so(tmp_path: Path, weights: str, quiet: Quiet) -> None:
    start(tmp_path / "r", weights, "backbone.trainable=[conv1.0]", "budget.generations=1", quiet=quiet)
    assert any("nothing of timm/test_resnet is frozen before" in line for line in quiet.lines)
    assert "runs whole for every individual" in (tmp_path / "r" / "run.log").read_text()


# Batch norms


def test_recalibrated_norms_are_the_champions_own_and_counted(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["backbone.batchnorm=recalibrate", "algorithm.mutation.sigma=0.2", "genome.init_sigma=0.2"]
    result = start(tmp_path / "r", weights, *given)
    assert result["cost"]["forward_samples"] == 3 * 6 * (40 + TRAIN)  # all of train: 512 at most
    assert result["cost"]["validation_samples"] == (VALIDATION + TRAIN) * (1 + 2 * 2)
    champion = load_file(tmp_path / "r" / "champion.safetensors")
    assert "layer4.0.bn1.running_mean" in champion
    with monkeypatch.context() as without:
        without.setattr(build, "dataset", lambda c: pytest.fail("the champion's are in its file"))
        network, _ = export.network(str(tmp_path / "r"))
    parts, _ = reopen.open_run(str(tmp_path / "r"), Quiet())
    assert torch.equal(network.get_buffer("layer4.0.bn1.running_mean"), champion["layer4.0.bn1.running_mean"])
    images = augment.normalise(pixels(parts), parts.network.backbone.transform, torch.device("cpu"))
    with torch.inference_mode():
        logits = network(images[parts.supervised.splits["test"]])
    found = torch.nn.functional.cross_entropy(logits, parts.features.labels[parts.supervised.splits["test"]])
    assert float(found) == pytest.approx(result["champion"]["test"]["cross_entropy"], rel=1e-3)
    (tmp_path / "r" / "champion.safetensors").unlink()  # then they are estimated again, from the train images
    again, _ = export.network(str(tmp_path / "r"))
    assert torch.equal(again.get_buffer("layer4.0.bn1.running_mean"), champion["layer4.0.bn1.running_mean"])
    monkeypatch.setattr(build, "dataset", gone)
    with pytest.raises(InputError, match=r"data.root: nothing there \(the batch norms of .* are re-estimated on"):
        export.network(str(tmp_path / "r"))


def gone(c: Any) -> None:
    raise InputError("data.root: nothing there")


# Cost and precision


def test_cost_is_what_really_went_through(tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [0]
    real = deep.forward

    def forward(*args: Any, **options: Any) -> Any:
        run = real(*args, **options)

        def counting(weights: Any, rows: Tensor, drop: Any = None) -> Tensor:
            logits: Tensor = run(weights, rows, drop)
            counted[0] += logits.shape[0] * logits.shape[1]
            return logits

        return counting

    fixed = Execution("loop", 10, 4, 16, 2**31, 2, trained=1, micro=8)
    monkeypatch.setattr(deep, "forward", forward)
    monkeypatch.setattr(deep, "plan", lambda *_, **__: fixed)
    given = ["refine.steps=2", "refine.batch_size=20", "algorithm.mutation.safe=true", "refine.back_off=true"]
    result = start(tmp_path / "r", weights, *given)
    cost = result["cost"]
    predicted = VALIDATION + TEST  # for its page: the champion on validation, the start on test
    assert counted[0] == cost["forward_samples"] + cost["validation_samples"] + TEST + predicted
    children = 4 * 2  # in two generations, by the mutation
    probes = sensitivity.PROBE
    assert cost["forward_samples"] == 3 * 6 * (2 * 40 + 2 * 20) + children * probes
    assert cost["backward_samples"] == 3 * 6 * 2 * 20 + children * probes * sensitivity.SIGNS


def test_in_half_precision_elites_are_scored_again_and_that_counts(tmp_path: Path, weights: str) -> None:
    result = start(tmp_path / "r", weights, "fitness.precision=bfloat16")
    assert result["cost"]["forward_samples"] == 3 * (6 + 2) * 40
    exact = start(tmp_path / "s", weights)
    for split in ("validation", "test"):  # are scored in full
        assert result["champion"][split]["cross_entropy"] == pytest.approx(
            exact["champion"][split]["cross_entropy"], rel=0.05
        )
    limited = start(tmp_path / "t", weights, "fitness.precision=bfloat16", "budget.forward_samples=700")
    assert limited["cost"]["forward_samples"] <= 700


def test_features_in_half_precision_are_half_as_large(tmp_path: Path, weights: str) -> None:
    result = start(tmp_path / "r", weights, "features.dtype=float16")
    exact = start(tmp_path / "s", weights)
    assert result["champion"]["test"]["cross_entropy"] == pytest.approx(
        exact["champion"]["test"]["cross_entropy"], rel=1e-2
    )
    parts, _ = reopen.open_run(str(tmp_path / "r"), Quiet())
    assert parts.features.pieces[0].dtype == torch.float16


# Memory


def test_without_memory_slices_are_halved_and_the_run_goes_on_and_says_so(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    real = deep.forward

    def forward(*args: Any, **options: Any) -> Any:
        run = real(*args, **options)

        def small(weights: Any, rows: Tensor, drop: Any = None) -> Tensor:
            logits: Tensor = run(weights, rows, drop)
            if logits.shape[0] > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return logits

        return small

    monkeypatch.setattr(deep, "plan", lambda *_, **__: Execution("loop", 10, 6, 16, 2**31, 2))
    calm = start(tmp_path / "calm", weights, "validate.every=3", quiet=quiet)
    assert calm["plan_changes"] == []
    monkeypatch.setattr(deep, "forward", forward)
    result = start(tmp_path / "r", weights, "validate.every=3", quiet=quiet)
    assert result["plan_changes"] == [{"generation": 1, "individuals": 1, "samples": 16, "trained": 0, "micro": 0}]
    assert any("generation 1: out of memory" in line for line in quiet.lines)
    assert result["cost"]["forward_samples"] == calm["cost"]["forward_samples"]
    saved = checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail)
    assert saved is not None
    assert (saved.plan.individuals, saved.changes) == (1, result["plan_changes"])
    parts, _ = reopen.open_run(str(tmp_path / "r"), quiet)
    assert parts.supervised.executions.now.individuals == 1  # a resume goes on with it


def test_without_memory_for_one_sample_a_run_ends_in_one_line() -> None:
    plan = Execution("loop", 10, 2, 3, 2**31, 2, trained=1, micro=2)
    seen = []
    with pytest.raises(RunError, match="out of memory with one individual and one sample"):
        while True:
            seen.append(plan[2:4] + plan[7:9])
            plan = execution.halve(plan)
    assert seen == [(2, 3, 1, 2), (1, 3, 1, 1), (1, 1, 1, 1)]


def test_an_error_that_is_not_of_memory_is_not_tried_again(tmp_path: Path) -> None:
    executions = execution.Executions(Execution("loop", 10, 6, 16, 2**31, 2), [])

    def broken(plan: Execution) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        executions.fit(broken)
    assert not executions.smaller


# Transfer and merging


def test_chosen_parts_are_taken_from_other_files_by_name_and_shape(tmp_path: Path, weights: str, quiet: Quiet) -> None:
    start(tmp_path / "d", weights, "algorithm.mutation.sigma=0.3", "genome.init_sigma=0.3")
    other = load_file(weights.partition("=")[2])
    other = {name: value + 1 for name, value in other.items() if name.startswith(("layer3", "layer4"))}
    other["layer3.0.conv1.weight"] = torch.zeros(2, 2)
    other["layer3.unknown"] = torch.zeros(3)
    torch.save({"state_dict": other}, tmp_path / "o.pth")
    first, second = tmp_path / "o.pth", tmp_path / "d"
    given = f"backbone.transfer=[{{from: {first}, parts: [layer3]}}, {{from: {second}, parts: [layer4]}}]"
    start(tmp_path / "r", weights, given, quiet=quiet)
    said = "\n".join(quiet.lines)
    assert f"{tmp_path / 'o.pth'}: " in said
    assert "tensors taken of layer3, 2 skipped" in said
    assert "skipped layer3.0.conv1.weight (shape (2, 2), here" in said
    assert "skipped layer3.unknown (the network has no such name)" in said
    parts, _ = reopen.open_run(str(tmp_path / "r"), Quiet())
    state, champion = parts.network.backbone.body.state_dict(), load_file(tmp_path / "d" / "champion.safetensors")
    assert torch.equal(state["layer3.0.bn1.weight"], other["layer3.0.bn1.weight"])
    own = load_file(weights.partition("=")[2])
    assert torch.equal(state["layer3.0.conv1.weight"], own["layer3.0.conv1.weight"])
    assert torch.equal(state["layer4.0.conv1.weight"], champion["layer4.0.conv1.weight"])
    assert torch.equal(state["layer2.0.conv1.weight"], own["layer2.0.conv1.weight"])
    with pytest.raises(
        InputError, match=r"backbone.transfer.0.parts: layer7 matches nothing in .*o.pth; it has: layer3"
    ):
        start(tmp_path / "q", weights, f"backbone.transfer=[{{from: {tmp_path / 'o.pth'}, parts: [layer7]}}]")


def test_a_head_is_taken_too_and_is_the_networks_own_from_then_on(tmp_path: Path, weights: str) -> None:
    start(tmp_path / "h", weights, "budget.generations=20", base=HEAD)
    given = [
        f"backbone.transfer=[{{from: {tmp_path / 'h'}, parts: [fc]}}]",
        "head.init=network",
        "head.trainable=false",
    ]
    start(tmp_path / "r", weights, *given)
    head, found = (load_file(tmp_path / name / "champion.safetensors") for name in ("h", "r"))
    torch.testing.assert_close(found["fc.weight"], head["fc.weight"], rtol=1e-4, atol=1e-5)


def test_networks_are_merged_by_crossover_alone(tmp_path: Path, weights: str) -> None:
    own = load_file(weights.partition("=")[2])
    head = {"fc.weight": torch.zeros(10, own["layer4.0.bn2.weight"].numel()), "fc.bias": torch.zeros(10)}
    parents = []
    for i in range(3):
        parts = {name: value + i for name, value in own.items() if name.startswith("layer4") and "running" not in name}
        parents.append(parts | head)
        save_file(parents[-1], tmp_path / f"{i}.safetensors")
    sources = json.dumps([str(tmp_path / f"{i}.safetensors") for i in range(3)])
    given = [
        f"genome.from={sources}",
        "genome.init_sigma=0",
        "algorithm.mutation.sigma=0",
        "algorithm.crossover.name=layer",
        "algorithm.selection.name=random",
    ]
    start(tmp_path / "m", weights, *given)
    saved = checkpoint.newest(tmp_path / "m" / "checkpoints", pytest.fail)
    assert saved is not None
    mixed = 0
    for individual in saved.step.population.genomes:
        weights_ = saved.layout.unflatten(individual[None])
        origins = []
        for name in ("layer4.0.conv1.weight", "layer4.0.bn1.weight", "layer4.0.conv2.weight"):
            origins += [i for i in range(3) if torch.equal(weights_[name][0], parents[i][name])]
        assert len(origins) == 3  # each layer is one parent's
        mixed += len(set(origins)) > 1
    assert mixed
