import csv
import json
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from conftest import Quiet, make_folder, scores_of
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuroevo import config
from neuroevo.config import load
from neuroevo.engine import pareto
from neuroevo.engine.loop import Step
from neuroevo.errors import InputError, Interrupted
from neuroevo.experiments import build, experiment, reopen, signals, sources
from neuroevo.experiments.interruption import Interruption
from neuroevo.experiments.signals import Signals
from neuroevo.networks import backbones
from neuroevo.report import report
from neuroevo.storage import generations, rundir

# Digits' own pixels: quick, and nothing to download.
SMALL = [
    "backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=16",
    "algorithm.elites=4", "budget.generations=6", "validate.every=2", "checkpoint.every=2", "fitness.samples=100",
    "memory.limit=1e8",
]  # fmt: skip


def start(out: Path, *sets: str, quiet: Quiet | None = None) -> dict:  # type: ignore[type-arg]
    experiment.run(load(None, [*SMALL, *sets]), str(out), "test", quiet or Quiet())
    return rundir.read_result(out)


def nan_metric(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.full((len(logits),), torch.nan, device=logits.device)


def test_a_run_from_python_listens_to_no_signals_and_may_be_in_a_thread(tmp_path: Path) -> None:
    found: set[object] = set()

    class Looks(Quiet):
        def generation(self, step: Step) -> None:
            found.add(signal.getsignal(signal.SIGINT))

    start(tmp_path / "a", quiet=Looks())
    assert found == {signal.getsignal(signal.SIGINT)}
    with ThreadPoolExecutor() as pool:
        assert pool.submit(start, tmp_path / "b").result()["status"] == "finished"
        scores = pool.submit(scores_of, str(tmp_path / "b"), None, Quiet()).result()
    assert scores["images"] > 0
    experiment.run(load(None, SMALL), str(tmp_path / "c"), "test", Looks(), signals=Signals())
    assert len(found) == 2


def test_a_run_ends_at_the_next_safe_place_for_whatever_reason_it_is_handed(tmp_path: Path) -> None:
    class Soon(Interruption):
        name = "enough"

    signals = Soon()

    class Stops(Quiet):
        def generation(self, step: Step) -> None:
            if step.generation == 3:
                signals.status = 7

    with pytest.raises(Interrupted) as caught:
        experiment.run(load(None, SMALL), str(tmp_path / "r"), "test", Stops(), signals=signals)
    assert caught.value.status == 7
    result = rundir.read_result(tmp_path / "r")
    assert (result["status"], result["stop_reason"], result["generations"]) == ("interrupted", "enough", 4)


@pytest.mark.compares
def test_a_run_leaves_what_the_contract_says(tmp_path: Path, quiet: Quiet) -> None:
    result = start(tmp_path / "r", quiet=quiet)
    assert {path.name for path in (tmp_path / "r").iterdir()} >= {
        "config.yaml", "history.jsonl", "checkpoints", "champion.safetensors", "result.json", "run.log",
        "confusion.csv",
    }  # fmt: skip
    assert list(result) == [
        "status", "stop_reason", "generations", "seed", "device", "threads", "data", "champion", "baseline",
        "warnings", "cost", "views", "precision", "plan_changes", "test_scored", "versions", "files",
    ]  # fmt: skip
    assert (result["status"], result["stop_reason"], result["generations"]) == ("finished", "generations", 6)
    assert set(result["champion"]) == {"kind", "generation", "about", "validation", "test"}
    for split in ("validation", "test"):
        assert {"accuracy", "cross_entropy"} <= set(result["champion"][split])
    low, high = result["champion"]["test"]["interval"]["accuracy"]
    assert low < result["champion"]["test"]["accuracy"] < high
    assert result["test_scored"] == 1
    assert len(rundir.commands(tmp_path / "r")) == 1
    classes, *rows = csv.reader((tmp_path / "r" / "confusion.csv").read_text().splitlines())
    counts = np.array(rows, dtype=int)
    assert classes == [str(i) for i in range(10)]
    assert counts.shape == (10, 10)
    assert counts.trace() / counts.sum() == result["champion"]["test"]["accuracy"]
    assert result["cost"]["forward_samples"] == 6 * 16 * 100
    assert result["cost"]["backward_samples"] == 0
    assert result["cost"]["validation_samples"] == 270 * (1 + 3 * 2)
    history = [json.loads(line) for line in (tmp_path / "r" / "history.jsonl").read_text().splitlines()]
    assert [line["generation"] for line in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["forward_samples"] == 6 * 16 * 100
    saved = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert saved == load(None, SMALL).record()
    assert generations.paths(tmp_path / "r" / "checkpoints")[0].name == "generation-000006.h5"
    assert [step.generation for step in quiet.steps] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/usr/bin/neuroevo", "run", "a b.yaml", "--set", "x=[1, 2]"], "neuroevo run 'a b.yaml' --set 'x=[1, 2]'"),
        (["/lib/neuroevo/__main__.py", "resume", "r"], "python -m neuroevo resume r"),
        (["sweep.py"], "sweep.py"),
    ],
)
def test_the_command_is_given_as_a_shell_takes_it(
    argv: list[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert signals.command() == command


def test_a_run_of_many_objectives_validates_its_front_whose_best_is_the_champion(tmp_path: Path, quiet: Quiet) -> None:
    sets = ["fitness.metrics=[weight_norm, cross_entropy]", "algorithm.elites=8", "budget.generations=20"]
    result = start(tmp_path / "r", *sets, quiet=quiet)
    champion = result["champion"]
    assert champion["kind"].startswith("front-") or champion["generation"] == 0
    assert list(champion["validation"]) == ["accuracy", "weight_norm", "cross_entropy"]
    low, high = champion["test"]["interval"]["weight_norm"]
    assert low == high == champion["test"]["weight_norm"] == pytest.approx(champion["validation"]["weight_norm"])
    fronts = [pareto.front(step.scores.values) for step in quiet.steps]
    assert max(map(len, fronts)) > 2
    assert result["cost"]["validation_samples"] == 270 * (1 + sum(len(fronts[i]) for i in range(1, 20, 2)))
    last = quiet.steps[-1]
    assert last.scores.objectives == 2
    parts, _ = reopen.open_run(str(tmp_path / "r"), quiet)
    exported = [parts.network.fold(genome) for genome in last.population.genomes]
    norms = torch.tensor([sum(float(w.double().square().sum()) for w in own.values()) ** 0.5 for own in exported])
    torch.testing.assert_close(last.scores.values[:, 0], -norms.double(), rtol=1e-6, atol=0.0)
    assert last.record["fitness_best"] == float(last.scores.values[:, 0].max())  # the history is of the first


def test_class_weights_are_of_cross_entropy_wherever_it_stands(tmp_path: Path) -> None:
    start(tmp_path / "r", "fitness.metrics=[weight_norm, cross_entropy]", "fitness.class_weights=true")
    with pytest.raises(InputError, match=r"fitness.class_weights: only cross_entropy can be weighted"):
        start(tmp_path / "q", "fitness.metrics=[weight_norm, accuracy]", "fitness.class_weights=true")


def test_the_champion_is_the_best_on_validation_and_the_test_split_has_no_part_in_it(tmp_path: Path) -> None:
    result = start(tmp_path / "r", "budget.generations=20")
    history = [json.loads(line) for line in (tmp_path / "r" / "history.jsonl").read_text().splitlines()]
    best = max(line["validation"] for line in history if line["validation"] is not None)
    assert result["champion"]["validation"]["accuracy"] == best


def test_the_champions_file_loads_strictly_into_the_plain_network_and_scores_the_same(tmp_path: Path) -> None:
    result = start(tmp_path / "r")
    weights = load_file(tmp_path / "r" / "champion.safetensors")
    assert set(weights) == {"head.weight", "head.bias"}
    c = load(None, SMALL)
    whole, splits = build.dataset(c)
    backbone = build.build_backbone(c, whole)
    network = backbone.network(torch.nn.Linear(64, 10))
    network.load_state_dict(weights, strict=True)
    x = torch.from_numpy(whole.images.pixels).float() / 255  # type: ignore[union-attr]
    logits = network(x[splits["test"]])
    accuracy = (logits.argmax(1) == torch.from_numpy(whole.labels)[splits["test"]]).float().mean()
    assert float(accuracy) == pytest.approx(result["champion"]["test"]["accuracy"])


SCALES = {
    "as they are": ["features.standardise=false"],
    "standardised": ["features.components=null"],
    "projected": ["features.components=20"],
    "whitened": ["features.whitening=1"],
    "all components": ["features.components=null", "features.whitening=0.5"],
    "not standardised": ["features.components=7", "features.standardise=false", "features.whitening=0"],
}


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("scale", SCALES)
def test_what_is_done_to_features_is_folded_into_the_champions_first_layer(
    tmp_path: Path, head: str, scale: str
) -> None:
    start(tmp_path / "r", f"head.name={head}", "genome.init_sigma=0.5", *SCALES[scale])
    parts, step = reopen.open_run(str(tmp_path / "r"), Quiet())
    rows = parts.supervised.splits["test"]
    genome = step.population.genomes[-1]
    inside = parts.network.forward(parts.network.decode(genome[None]), parts.features.batch(rows)[0])
    assert inside.abs().mean() > 0.01
    pixels = sources.cache(
        parts.config,
        *build.dataset(parts.config),
        parts.network.backbone,
        device=parts.device,
        images=lambda done, total: None,
    )[0]
    raw = pixels.batch(rows)[0]
    assert raw.shape[1] == 64
    outside = parts.network.forward({k: w[None] for k, w in parts.network.fold(genome).items()}, raw)
    error = (inside - outside).abs().amax() / inside.abs().mean()
    assert error < 1e-4


def test_a_run_starts_from_an_earlier_champion_unchanged(tmp_path: Path) -> None:
    first = start(tmp_path / "a", "budget.generations=20")
    again = start(tmp_path / "b", f"genome.from=[{tmp_path / 'a'}]", "budget.generations=1", "genome.init_sigma=0")
    assert again["champion"]["validation"]["accuracy"] >= first["champion"]["validation"]["accuracy"]
    file = tmp_path / "a" / "champion.safetensors"
    parts, _ = reopen.open_run(str(tmp_path / "a"), Quiet())
    genome = parts.network.unfold(load_file(file), "x")[0]
    torch.testing.assert_close(genome, parts.network.unfold(parts.network.fold(genome), "x")[0], rtol=1e-5, atol=1e-5)


def test_weights_of_another_layout_are_no_start(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(10, 5), "head.bias": torch.zeros(10)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"genome.from: .*w.safetensors: not of this network's layout: head.weight"):
        start(tmp_path / "r", f"genome.from=[{tmp_path / 'w.safetensors'}]")
    with pytest.raises(InputError, match=r"genome.from: /nowhere is neither"):
        start(tmp_path / "r", "genome.from=[/nowhere]")
    assert not (tmp_path / "r").exists()


def test_a_run_starts_from_the_networks_own_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    from torchvision import models

    network = models.get_model("mobilenet_v3_small", num_classes=10)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    sets = [
        "backbone.name=torchvision/mobilenet_v3_small", f"backbone.weights={tmp_path / 'w.safetensors'}",
        "data.image_size=32", "data.limit=200", "head.init=network", "genome.init_sigma=0", "budget.generations=1",
    ]  # fmt: skip
    start(tmp_path / "r", *sets)
    parts, _ = reopen.open_run(str(tmp_path / "r"), Quiet())
    weights = parts.network.fold(parts.supervised.start[0])
    torch.testing.assert_close(
        weights["classifier.3.weight"], network.classifier[3].weight.detach(), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(
        InputError, match=r"head.init: network: the weights have a linear head of 10 classes, the data 2"
    ):
        make_folder(tmp_path / "two", {"train": {"a": 20, "b": 20}})
        start(tmp_path / "q", *sets, "data.name=image_folder", f"data.root={tmp_path / 'two'}", "data.limit=null")


class Directions(nn.Module):
    """A head without a linear layer."""

    def __init__(self, in_features: int, classes: int) -> None:
        super().__init__()
        self.towards = nn.Parameter(torch.randn(classes, in_features) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.towards.T


def test_a_head_without_a_linear_layer_evolves_and_learns(tmp_path: Path) -> None:
    given = ["head.name=test_experiment:Directions", "head.init=default", "features.standardise=false"]
    start(tmp_path / "r", *given)
    assert start(tmp_path / "s", *given, "refine.steps=2")["cost"]["backward_samples"] > 0


def test_nan_individuals_never_stop_a_run_or_win_it(tmp_path: Path) -> None:
    result = start(tmp_path / "r", "fitness.metric=test_experiment:nan_metric", "budget.generations=3")
    assert result["champion"]["kind"] == "start"
    history = [json.loads(line) for line in (tmp_path / "r" / "history.jsonl").read_text().splitlines()]
    assert [line["invalid"] for line in history] == [16, 16, 16]
    assert history[0]["fitness_best"] is None


def test_the_run_before_its_first_generation_is_a_candidate(tmp_path: Path) -> None:
    start(tmp_path / "a", "refine.name=sgd")
    noise = ["algorithm.mutation.sigma=30", "genome.init_sigma=30", "algorithm.elites=0", "budget.generations=4"]
    worse = start(tmp_path / "b", f"genome.from=[{tmp_path / 'a'}]", *noise)
    assert (worse["champion"]["kind"], worse["champion"]["generation"]) == ("start", 0)


@pytest.mark.parametrize("metric", ["macro_f1", "auroc", "calibration_error"])
def test_any_metric_is_fitness_and_validation(tmp_path: Path, metric: str) -> None:
    result = start(tmp_path / "r", f"fitness.metric={metric}", f"validate.metric={metric}", "budget.generations=2")
    assert set(result["champion"]["test"]) >= {metric, "accuracy", "cross_entropy", "interval"}
    assert result["champion"]["test"][metric] >= 0


def test_features_are_computed_once_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path / "cache"))
    assert start(tmp_path / "a")["cost"]["backbone_samples"] == 1797
    assert start(tmp_path / "b")["cost"]["backbone_samples"] == 0


def test_an_out_that_holds_a_run_is_refused_and_default_names_take_the_next_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start(tmp_path / "r")
    before = (tmp_path / "r" / "result.json").read_bytes()
    with pytest.raises(InputError, match=r"--out: .* already holds a run"):
        start(tmp_path / "r")
    assert (tmp_path / "r" / "result.json").read_bytes() == before
    c = load(None, [*SMALL, "budget.generations=1", "seed=4"])
    folders = [experiment.run(c, None, "stem", Quiet()) for _ in range(2)]
    assert [str(folder) for folder in folders] == ["runs/out/stem-4", "runs/out/stem-4-2"]


def test_run_with_resume_begins_or_goes_on_with_the_same_config_and_refuses_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    monkeypatch.chdir(tmp_path)

    def again(*sets: str, out: str | None = "r") -> dict:  # type: ignore[type-arg]
        c = load(None, [s for s in [*SMALL, *sets] if "memory" not in s])
        return rundir.read_result(experiment.begin_or_resume(c, out, "job", quiet))

    assert again()["generations"] == 6
    before = (tmp_path / "r" / "history.jsonl").read_bytes()
    quiet.lines.clear()
    assert again()["generations"] == 6
    assert "finished (generations); nothing to do" in quiet.lines[-1]
    assert (tmp_path / "r" / "history.jsonl").read_bytes() == before
    assert again("budget.generations=8", "checkpoint.every=3")["generations"] == 8
    with pytest.raises(InputError, match=r"--resume: r holds a run of another config \(seed, fitness.samples\)"):
        again("seed=3", "fitness.samples=50")
    for _ in range(2):
        again(out=None)
    assert [path.name for path in Path("runs/out").iterdir()] == ["job-0"]
    Path("mine").mkdir()
    Path("mine/x").write_text("x")
    with pytest.raises(InputError, match="isn't empty"):
        again(out="mine")


@pytest.mark.parametrize(
    "sets",
    [
        ["device=cuda:7"],
        ["data.name=image_folder", "data.root=/nowhere"],
        ["algorithm.elites=16"],
        ["head.init=network"],
        ["memory.limit=1000"],
        ["backbone.name=timm/nothing"],
        ["data.limit=5"],
        ["budget.samples=5"],
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path: Path, sets: list[str]) -> None:
    with pytest.raises(InputError):
        start(tmp_path / "r", *sets)
    assert not (tmp_path / "r").exists()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine.txt").write_text("x")
    with pytest.raises(InputError):
        start(tmp_path / "r", *sets)
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["mine.txt"]


def test_a_broken_image_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"train": {"a": 20, "b": 20}})
    (tmp_path / "data" / "train" / "b" / "007.png").write_bytes(b"x")
    sets = ["data.name=image_folder", f"data.root={tmp_path / 'data'}"]
    with pytest.raises(InputError, match=r"train/b/007.png: broken image"):
        start(tmp_path / "r", *sets)
    assert not (tmp_path / "r").exists()
    start(tmp_path / "r", *sets, "data.broken=skip")


def test_evaluate_scores_the_test_split_as_the_run_did_and_other_folders(tmp_path: Path, quiet: Quiet) -> None:
    make_folder(tmp_path / "data", {"train": {"a": 30, "b": 30}, "test": {"a": 9, "b": 6}})
    make_folder(tmp_path / "other", {".": {"b": 5}})
    sets = ["data.name=image_folder", f"data.root={tmp_path / 'data'}", "budget.generations=10"]
    result = start(tmp_path / "r", *sets)
    assert scores_of(str(tmp_path / "r"), None, quiet) == result["champion"]["test"]
    other = scores_of(str(tmp_path / "r"), str(tmp_path / "other"), quiet)
    assert other["images"] == 5
    same = scores_of(str(tmp_path / "r"), str(tmp_path / "data"), quiet)
    assert same["accuracy"] == result["champion"]["test"]["accuracy"]


def test_checkpoints_hold_what_the_contract_says(tmp_path: Path) -> None:
    start(tmp_path / "r", "algorithm.mutation.self_adaptive=true")
    with h5py.File(tmp_path / "r" / "checkpoints" / "generation-000006.h5") as file:
        assert file["population/genomes"].shape == (16, 610)
        assert file["features/axes"].shape == (64, 60)  # of 64 pixels, four never change
        assert file["population/genomes"].dtype == "float32"
        assert file["population/fitness"].shape == (16,)
        assert file["population/traits/sigma"].shape == (16,)
        assert file["population/parents"].shape == (16, 3)  # everybody, who isn't written 16 times
        assert file["champion/genome"].shape == (610,)
        assert file["history/generation"][()].tolist() == [1, 2, 3, 4, 5, 6]
        assert json.loads(file.attrs["layout"])["names"] == ["head.weight", "head.bias"]
        assert config.check(yaml.safe_load(file.attrs["config"])) == load(
            None, [*SMALL, "algorithm.mutation.self_adaptive=true"]
        )


def test_whatever_seed_the_splits_are_the_same(tmp_path: Path) -> None:
    a, b = (build.dataset(load(None, [f"seed={seed}"]))[1] for seed in (0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_backbones_own_weights_file_gives_the_same_network(tmp_path: Path) -> None:
    backbone = backbones.build("timm/resnet10t", "none", 32, (8, 8, 3))
    assert backbone.own_head is not None
    save_file(backbone.network(backbone.own_head).state_dict(), tmp_path / "w.safetensors")
    again = backbones.build("timm/resnet10t", str(tmp_path / "w.safetensors"), 32, (8, 8, 3))
    assert again.digest == backbone.digest


def test_a_refine_of_no_steps_is_the_pure_ga_byte_for_byte(tmp_path: Path) -> None:
    start(tmp_path / "a")
    result = start(tmp_path / "b", "refine.name=sgd", "refine.steps=0")
    assert result["cost"]["backward_samples"] == 0
    with (
        h5py.File(tmp_path / "a" / "checkpoints" / "generation-000006.h5") as a,
        h5py.File(tmp_path / "b" / "checkpoints" / "generation-000006.h5") as b,
    ):
        for name in ("population/genomes", "population/fitness", "population/parents", "champion/genome"):
            assert a[name][()].tobytes() == b[name][()].tobytes()


def test_a_hybrid_counts_forward_and_backward_and_ends_within_its_budget(tmp_path: Path) -> None:
    sets = [
        "refine.name=sgd",
        "refine.steps=3",
        "refine.batch_size=50",
        "budget.samples=60000",
        "budget.generations=null",
    ]
    result = start(tmp_path / "r", *sets)
    history = [json.loads(line) for line in (tmp_path / "r" / "history.jsonl").read_text().splitlines()]
    assert history[0]["forward_samples"] == 16 * (3 * 50 + 100)
    assert history[0]["backward_samples"] == 16 * 3 * 50
    total = result["cost"]["forward_samples"] + 2 * result["cost"]["backward_samples"]
    assert 60000 - 16 * (3 * 3 * 50 + 1) < total <= 60000
    assert result["stop_reason"] == "samples"


def test_what_individuals_have_of_their_own_is_in_the_history(tmp_path: Path) -> None:
    own = ["refine.lr=[0.001, 0.1]", "algorithm.mutation.self_adaptive=true"]
    start(tmp_path / "r", "refine.name=sgd", "refine.steps=1", *own)
    history = [json.loads(line) for line in (tmp_path / "r" / "history.jsonl").read_text().splitlines()]
    assert all(0.001 <= line["lr"] < 0.10001 and line["sigma"] > 0 for line in history)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["refine.lr=-1"], "refine.lr"),
        (["refine.lr=[0.1, 0.01]"], "refine.lr.* low below high"),
        (["refine.lr=[0, 0.1]"], "refine.lr"),
        (["refine.stepz=3"], r"refine.stepz: unknown key \(did you mean steps"),
        (["refine.name=sgdd"], r"refine.name: no refine is called 'sgdd' \(did you mean sgd"),
        (["refine.name=adam", "refine.momentum=0.9"], "refine.momentum: unknown key"),
        (["refine.steps=1", "refine.dropout=0.5"], "refine.dropout: linear has no dropout layer"),
        (["refine.share=0"], "refine.share: 0 given"),
    ],
)
def test_a_refine_that_is_not_right_is_refused(tmp_path: Path, sets: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        start(tmp_path / "r", *sets)
    assert not (tmp_path / "r").exists()


AUGMENT = "data.augment=[{name: RandomRotation, degrees: 20}]"


def test_views_are_cached_once_an_image_and_view_and_said_in_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path / "cache"))
    result = start(tmp_path / "r", AUGMENT, "features.views=3")
    assert result["views"] == 3
    assert result["cost"]["backbone_samples"] == 1797 + 3 * 1257
    assert start(tmp_path / "s")["views"] is None


def test_live_views_cost_what_they_cost(tmp_path: Path) -> None:
    result = start(tmp_path / "r", AUGMENT, "features.views=live", "refine.name=sgd", "refine.steps=2",
                   "refine.batch_size=16", "budget.generations=3")  # fmt: skip
    assert result["views"] == "live"
    assert result["cost"]["backbone_samples"] in (3 * (100 + 2 * 16), 1797 + 3 * (100 + 2 * 16))


def test_validation_and_test_are_never_augmented(tmp_path: Path) -> None:
    start(tmp_path / "r", AUGMENT, "features.views=2", "genome.init_sigma=0", "algorithm.mutation.sigma=0")
    start(tmp_path / "s", "genome.init_sigma=0", "algorithm.mutation.sigma=0")
    for split in ("validation", "test"):
        a, b = (rundir.read_result(tmp_path / name)["champion"][split] for name in ("r", "s"))
        assert a == b


def test_class_weights_of_another_metric_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fitness.class_weights: only cross_entropy"):
        start(tmp_path / "r", "fitness.metric=accuracy", "fitness.class_weights=true")
    result = start(tmp_path / "s", "fitness.class_weights=true", "data.long_tail=0.1", "fitness.balanced=true")
    assert result["status"] == "finished"


def test_log_and_result_say_which_folder_served_which_split_and_what_was_left_out(tmp_path: Path, quiet: Quiet) -> None:
    root = make_folder(tmp_path / "data", {"Training": {"a": 20, "b\x1b": 20}, "Testing": {"a": 4, "b\x1b": 4}})
    (root / "Training/a/notes.txt").write_text("x")
    (root / "Testing/a/copy.png").write_bytes((root / "Training/a/000.png").read_bytes())
    result = start(tmp_path / "r", "data.name=image_folder", f"data.root={root}", quiet=quiet)
    log = (tmp_path / "r/run.log").read_text()
    for line in (f"train: 34 images, {root}/Training", f"validation: 6 images, cut from {root}/Training",
                 f"test: 9 images, {root}/Testing", "1 file of other kinds left out: .txt 1",
                 "1 of test in train"):  # fmt: skip
        assert line in log
        assert any(line in told for told in quiet.lines)
    assert "\x1b" not in log
    assert result["data"]["images"] == {"train": 34, "validation": 6, "test": 9}
    assert result["data"]["folders"]["test"] == f"{root}/Testing"
    assert len(result["data"]["notes"]) == 2


def test_runs_beside_the_class_folders_are_no_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    make_folder(tmp_path, {".": {"a": 20, "b": 20}})
    monkeypatch.chdir(tmp_path)
    sets = ["data.name=image_folder", "data.root=."]
    for out in (None, None, "r"):
        folder = experiment.run(load(None, [*SMALL, *sets]), out, "test", quiet)
    assert scores_of(str(folder), None, quiet) == rundir.read_result(folder)["champion"]["test"]
    assert scores_of(str(folder), ".", quiet)["images"] == 40
    before = rundir.read_result(folder)["data"]
    experiment.resume(str(folder), ["budget.generations=8"], quiet)
    assert rundir.read_result(folder)["data"] == before
    assert rundir.read_result(folder)["data"]["images"] == {"train": 28, "validation": 6, "test": 6}


def test_a_signal_is_told_at_once_though_its_handler_has_to_wait() -> None:
    said: list[str] = []
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with Signals(said.append) as signals:
        x, begun, told = torch.randn(1500, 1500), time.monotonic(), 0.0
        while not told and time.monotonic() - begun < 20:
            x = (x @ x).clamp(-1, 1)
            told = time.monotonic() if said else 0.0
        assert signals.status == 130
    assert said == ["SIGINT: ends as soon as what is at work is on disk; a second one ends it at once"]
    assert signal.set_wakeup_fd(-1) == -1  # as it was before


def test_without_a_signal_nothing_is_said_and_nothing_is_left_behind() -> None:
    before = threading.active_count(), len([*Path("/dev/fd").iterdir()])
    said: list[str] = []
    for _ in range(3):
        with Signals(said.append) as signals, signals:
            pass
    assert said == []
    assert (threading.active_count(), len([*Path("/dev/fd").iterdir()])) == before


def test_images_of_test_that_are_in_train_as_well_are_counted_in_the_result_and_its_report(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images", {"train": {"a": 10, "b": 10}, "test": {"a": 3, "b": 3}})
    shutil.copy(root / "train/a/000.png", root / "test/a/000.png")
    found = start(tmp_path / "run", f"data={{name: image_folder, root: {root}}}", "budget.generations=1")
    line = next(line for line in found["warnings"] if line.startswith("duplicates"))
    assert ": 1 of test in " in line and line.endswith("; figures on them flatter")
    report.report(str(tmp_path / "run"))
    warned = (tmp_path / "run/report.html").read_text().split('class="warnings"')[1].split("</div>")[0]
    assert "1 of test in" in warned
