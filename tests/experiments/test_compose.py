"""What a config becomes, on digits' own pixels: heads of one's own, starts that can't be, costs, and sizes."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Quiet, make_folder
from safetensors.torch import save_file
from torch import Tensor, nn

from neuroevo import config, devices
from neuroevo.cli import inspection
from neuroevo.config import load
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.genome import Layout
from neuroevo.errors import InputError, ignore
from neuroevo.experiments import build, experiment, export, memory, sources
from neuroevo.learning import sensitivity
from neuroevo.search.algorithms.ga import ga
from neuroevo.storage import rundir


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def residual(d: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 16), Residual(nn.Linear(16, 16), nn.Tanh()), nn.Linear(16, classes))


def twice(d: int, classes: int) -> nn.Module:
    layer = nn.Linear(d, d)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(d, classes))


def batch_norm(d: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))


def noisy(d: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 16), nn.AlphaDropout(0.5), nn.Linear(16, classes))


def broken(d: int, classes: int) -> nn.Module:
    return undefined_name(d)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def infinite(d: int, classes: int) -> nn.Module:
    head = nn.Linear(d, classes)
    nn.init.constant_(head.weight, torch.inf)
    return head


def weight_norm(d: int, classes: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(d, classes))


def big() -> Algorithm[Any]:
    return ga(population=40)


def of_layout(layout: Layout) -> Algorithm[Any]:
    return big()


def nothing() -> None:
    pass


def start(out: Path, *sets: str, quiet: Quiet | None = None) -> dict[str, Any]:
    experiment.run(load(None, [*TINY, *sets]), str(out), "test", quiet or Quiet())
    return rundir.read_result(out)


def own(name: str, *more: str) -> list[str]:
    return [f"head.name=test_compose:{name}", "head.init=default", *more]


RAW = ("features.standardise=false", "features.components=null")


@pytest.mark.parametrize(("name", "sets"), [("residual", RAW), ("residual", ()), ("batch_norm", ()), ("twice", RAW)])
def test_the_network_that_is_exported_is_the_one_that_was_scored(
    tmp_path: Path, name: str, sets: tuple[str, ...]
) -> None:
    sets = own(name, *sets, "refine.name=sgd", "refine.steps=3", "budget.generations=4")
    quiet = Quiet()
    result = start(tmp_path / "r", *sets, quiet=quiet)
    assert any("it is evaluated by vmap" in line for line in quiet.lines) == (name != "twice")
    network, parts = export.network(str(tmp_path / "r"))
    given = build.dataset(parts.config)
    rows = given[1]["test"]
    plain = sources.sources(
        parts.config, parts.device, given, parts.network.backbone, images=lambda done, total: None, log=ignore
    ).features
    with torch.inference_mode():
        logits = network(plain.batch(rows)[0].view(len(rows), 1, 8, 8))
    accuracy = float((logits.argmax(1) == plain.labels[rows]).double().mean())
    assert accuracy == pytest.approx(result["champion"]["test"]["accuracy"])
    assert result["champion"]["generation"] > 0


def test_a_scale_is_not_folded_into_a_layer_that_runs_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="doesn't begin with a linear layer with bias"):
        start(tmp_path / "r", *own("twice"))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (own("noisy", "refine.steps=1"), "noisy has dropout, which only a chain of layers can be trained with"),
        (own("broken"), "can't be built .NameError: name 'undefined_name' is not defined; test_compose.py, line"),
        (own("infinite"), "head: test_compose:infinite: weight holds NaN or infinite numbers"),
        (["head.name=test_compose:weight_norm", *RAW], "head.init: zero: the last linear layer .* is parametrized"),
    ],
)
def test_a_head_that_can_not_be_leaves_one_line_and_no_folder(tmp_path: Path, sets: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        start(tmp_path / "r", *sets)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_start_with_numbers_that_are_not_finite_is_refused_by_file_and_tensor(tmp_path: Path, bad: float) -> None:
    weight = torch.zeros(10, 64)
    weight[3, 5] = bad
    save_file({"head.weight": weight, "head.bias": torch.zeros(10)}, tmp_path / "n.safetensors")
    with pytest.raises(InputError, match=r"genome.from: .*n.safetensors: head.weight holds NaN or infinite"):
        start(tmp_path / "r", f"genome.from=[{tmp_path / 'n.safetensors'}]")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("sets", [(), RAW])
def test_features_that_are_not_finite_are_refused_and_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: tuple[str, ...]
) -> None:
    real = sources.cache

    def beyond(*args: Any, **named: Any) -> Any:
        features, computed = real(*args, **named)
        rows = features.pieces[0].clone()
        rows[:, 7] = torch.inf
        return features._replace(pieces=(rows,)), computed

    monkeypatch.setattr(sources, "cache", beyond)
    with pytest.raises(InputError, match=r"features: .* NaN or infinite.*give features.dtype float32"):
        start(tmp_path / "r", "features.dtype=float16", *sets)
    assert not (tmp_path / "r").exists()


def test_batch_norms_that_are_not_there_cost_nothing_and_that_is_said(tmp_path: Path, quiet: Quiet) -> None:
    plain = start(tmp_path / "a")
    with pytest.raises(InputError, match=r"backbone.batchnorm: 'recalibrate' has no effect.*add backbone.trainable"):
        start(tmp_path / "b", "backbone.batchnorm=recalibrate")
    raw = config.override(dict(config.DEFAULT), [*TINY, "backbone.batchnorm=recalibrate"], quiet.note)
    experiment.run(config.check(raw), str(tmp_path / "b"), "test", quiet)  # as a run that was begun before goes on
    result = rundir.read_result(tmp_path / "b")
    for name in ("forward_samples", "validation_samples"):
        assert result["cost"][name] == plain["cost"][name]
    assert any("nothing is re-estimated" in line for line in quiet.lines)


def test_a_metric_that_is_never_finite_ends_with_a_line_about_the_champion(tmp_path: Path, quiet: Quiet) -> None:
    result = start(tmp_path / "r", "fitness.metric=test_experiment:nan_metric", quiet=quiet)
    assert result["status"] == "finished"
    assert any("no candidate had a finite accuracy in validation" in line for line in quiet.lines)


# Costs


SAFE = ["algorithm.mutation.safe=true", "algorithm.mutation.relative=false"]


@pytest.mark.parametrize("budget", [9_000, 10_000, 12_345, 20_000])
def test_safe_mutation_is_counted_to_the_sample_and_stays_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    real, probed = sensitivity.Sensitivity.of, [0]

    def counting(self: sensitivity.Sensitivity, genomes: Tensor) -> Tensor:
        probed[0] += len(genomes) * len(self.rows)
        return real(self, genomes)

    monkeypatch.setattr(sensitivity.Sensitivity, "of", counting)
    result = start(tmp_path / "r", *SAFE, "budget.generations=null", f"budget.samples={budget}")
    cost = result["cost"]
    assert cost["backward_samples"] == probed[0] * sensitivity.SIGNS > 0
    assert cost["forward_samples"] + 2 * cost["backward_samples"] <= budget
    assert result["stop_reason"] == "samples"


@pytest.mark.parametrize(
    "sets",
    [
        SAFE,
        [*SAFE, "algorithm.elites=3", "refine.steps=2", "refine.back_off=true"],
        ["fitness.precision=bfloat16"],
        ["fitness.split=validation", "fitness.samples=5000"],
        ["algorithm.name=pso"],
        ["algorithm.name=test_compose:big"],
    ],
)
def test_what_is_foretold_is_what_a_run_costs(tmp_path: Path, sets: list[str]) -> None:
    base = [text for text in TINY if "population" not in text or "big" not in sets[0]]
    experiment.run(load(None, [*base, *sets]), str(tmp_path / "r"), "test", Quiet())
    result = rundir.read_result(tmp_path / "r")
    rows = dict(inspection.estimate(load(None, [*base, *sets])))
    assert rows["forward samples"] == f"{result['cost']['forward_samples']:,}"
    assert rows["backward samples"] == f"{result['cost']['backward_samples']:,}"


def test_an_algorithm_of_ones_own_is_built_by_options_alone_and_returns_one() -> None:
    assert load(None, ["algorithm={name: 'test_compose:big'}"]).algorithm.search().later == 40
    line = r"^algorithm: test_compose:of_layout takes layout, but an algorithm is built by its options alone: "
    with pytest.raises(InputError, match=line):
        load(None, ["algorithm={name: 'test_compose:of_layout'}"]).algorithm.search()
    with pytest.raises(InputError, match="^algorithm: test_compose:nothing returns NoneType, not an Algorithm"):
        load(None, ["algorithm={name: 'test_compose:nothing'}"]).algorithm.search()


# Sizes that no machine holds


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["algorithm.population=1e9"], "algorithm.population: 1,000,000,000 individuals of .* TiB of memory; this"),
        (["algorithm.parents=2147483647"], "algorithm.parents: 2,147,483,647 for each of"),
        (["algorithm.selection={name: tournament, size: 2147483647}"], "algorithm.selection.size: 2,147,483,647 for"),
        (["refine.steps=2147483647"], "refine.steps: the batches of 2,147,483,647 steps take"),
        (["head={name: mlp, hidden: [1000000000]}"], "head: mlp of .* numbers, and its start, take"),
        (["data.image_size=65536"], "data.image_size: an image of 65,536 x 65,536 pixels takes"),
        (["data.image_size=30000", "features.components=null"], "data.image_size: |head: linear of"),
        (["tune={space: {head.hidden: {name: list, low: 1, high: 2, item: {low: 4, high: 2147483647}}}}",
          "head.name=mlp"], "tune.space.head: mlp of"),
        (["tune={space: {algorithm.population: {name: integer, low: 4, high: 2147483647}}}"],
         "tune.space.algorithm.population"),
        (["tune={space: {refine.lr: {name: float, low: 1, high: 2}}, sampler: {name: pso, population: 2147483647}}",
          "refine.steps=1"], "tune.sampler.population: 2,147,483,647 trials"),
    ],
)  # fmt: skip
def test_what_memory_can_not_hold_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch, sets: list[str], message: str
) -> None:
    monkeypatch.setattr(devices, "total_memory", lambda: 2**34)
    with pytest.raises(InputError, match=message):
        experiment.prepare(load(None, [*TINY, *sets]))


def test_sizes_are_spelled_as_people_read_them() -> None:
    assert [memory.amount(n) for n in (12, 2**20, 3 * 2**39, 2**70)] == [
        "12 bytes", "1.0 MiB", "1.5 TiB", "1,048,576.0 PiB",
    ]  # fmt: skip


sys.modules.setdefault("test_compose", sys.modules[__name__])


@pytest.mark.parametrize(
    ("folder", "sets", "message"),
    [
        (
            True,
            ["data.max_pixels=63"],
            r"more than data.max_pixels, 63; allow them with --set data.max_pixels=64",
        ),
        (True, ["data.limit=1"], "^data.limit: 1 leaves some class without an image"),
        (True, [], r"b/z.npy: backbone.channels: an image has 5 channels, 3 are expected"),
        (False, ["data.test=0.001"], "^data.test: 0.001 of 1797 images is 2"),
        (False, ["backbone.channels=5"], "^image 0: backbone.channels: 5, which only .npy images have"),
        (
            False,
            ["data.augment=[{name: Nope}]", "refine.steps=1"],
            "^data.augment.0: torchvision has no tr",
        ),
        (
            False,
            ["backbone.name=torchvision/vgg11", "data.image_size=16"],
            "^data.image_size: torchvision/vgg11 does",
        ),
        (False, ["backbone.trainable=[x]"], "^backbone.trainable: there is no backbone"),
        (False, ["algorithm.elites=8"], "^algorithm.elites: 8 must be below the population of 8"),
        (False, ["device=mps"], "^device: mps has no float64"),
    ],
)
def test_what_the_library_says_of_an_option_a_run_and_validate_say_of_its_key(
    tmp_path: Path, folder: bool, sets: list[str], message: str
) -> None:
    if folder:
        make_folder(tmp_path / "images", {"train": {"a": 8, "b": 8}, "test": {"a": 4, "b": 4}})
        np.save(tmp_path / "images" / "train" / "b" / "z.npy", np.zeros((8, 8, 5), np.uint8))
        sets = ["data.name=image_folder", f"data.root={tmp_path / 'images'}", "data.validation=0.3", *sets]
    with pytest.raises(InputError, match=message):
        start(tmp_path / "r", *sets)
    with pytest.raises(InputError, match=message):
        inspection.estimate(load(None, [*TINY, *sets]))


def test_notes_on_options_are_on_keys(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 8, "b": 8}, "test": {"a": 4, "b": 4}})
    (tmp_path / "train" / "a" / "000.png").write_bytes(b"no image")
    c = load(None, [*TINY, "data.name=image_folder", f"data.root={tmp_path}", "data.broken=skip"])
    assert build.dataset(c)[0].notes[0].startswith("data.broken: 1 unreadable image left out: a 1 of 12")
