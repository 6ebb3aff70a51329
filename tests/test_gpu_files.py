"""What comes from files and goes into them, and benchmarks, on a GPU on paper, and at hand: with no device mistake."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import Quiet, scores_of
from paper_gpu import CPU, CUDA, Gpu, Paper, paper_gpu
from real_gpu import GPUS
from safetensors.torch import load_file
from test_gpu import BASE, DEEP, MLP, configured

from neuroevo import devices
from neuroevo.bench import arms, benchmark, workers
from neuroevo.engine.observer import Observer
from neuroevo.experiments import experiment, export, formats, reopen
from neuroevo.experiments.signals import Signals
from neuroevo.problems import intervals
from neuroevo.report import report
from neuroevo.storage import rundir

pytestmark = pytest.mark.long
RAW = ["features.components=null", "features.standardise=false"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 10)
    monkeypatch.setattr(intervals, "WHOLE_RESAMPLES", 4)
    monkeypatch.setattr(report, "report", lambda folder, **_: None)
    torch.manual_seed(0)  # weights none: the library's own initialisation


@pytest.fixture(params=GPUS)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    with GPUS[request.param]() as device:
        yield device
        monkeypatch.undo()  # or it would bring back what it found on paper


def go(folder: Path, *sets: str) -> Quiet:
    """Begin a run, go on with it, and score its champion."""
    quiet = Quiet()
    experiment.run(configured(*sets), str(folder), "test", quiet)
    experiment.resume(str(folder), ["budget.generations=4"], quiet)
    assert {step.population.genomes.device for step in quiet.steps} == {CUDA}
    scores_of(str(folder), None, quiet)
    return quiet


HEADS: dict[str, list[str]] = {
    "as they are": RAW,
    "standardised": ["features.components=null"],
    "projected": ["features={components: 4}"],
    "a hidden layer": MLP,
    "levels": ["genome.levels=int8", "algorithm.mutation=levels"],
}


@pytest.mark.parametrize("case", HEADS)
def test_a_run_begins_at_the_champion_of_another(gpu: Gpu, tmp_path: Path, case: str) -> None:
    go(tmp_path / "old", *HEADS[case])
    still = ["genome.init_sigma=0", f"genome.from=[{tmp_path / 'old'}, {tmp_path / 'old'}]"]
    quiet = go(tmp_path / "new", *HEADS[case], *still)
    assert len(quiet.steps) == 4


@pytest.mark.parametrize("how", ["mean", "arithmetic", "convex"])
@pytest.mark.parametrize("per", ["tensor", "layer", "network"])
def test_networks_are_merged(gpu: Gpu, tmp_path: Path, how: str, per: str) -> None:
    go(tmp_path / "old", *MLP)
    merge = f"genome.space={{name: merge, how: {how}, per: {per}}}"
    go(tmp_path / "new", *MLP, merge, f"genome.from=[{tmp_path / 'old'}, {tmp_path / 'old'}]", "algorithm=nes")


def test_metrics_of_weights_are_of_coordinates_that_are_kept_on_the_host(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "available_memory", lambda device: 2**33 if device.type == "cpu" else 0)
    quiet, space = Quiet(), "genome.space={name: random, directions: 5}"
    experiment.run(configured(*DEEP, space, "fitness.ties=weight_norm"), str(tmp_path / "r"), "test", quiet)
    assert {step.population.genomes.device for step in quiet.steps} == {CPU}


def test_a_run_takes_weights_and_the_networks_own_head_from_another(gpu: Gpu, tmp_path: Path) -> None:
    small = [*RAW, "memory.plan=loop", "data.limit=100", "fitness.samples=10", "algorithm.population=3"]
    once = [*small, "budget.generations=1"]
    experiment.run(configured(*DEEP, *once), str(tmp_path / "old"), "test", Quiet())
    weights = tmp_path / "w.safetensors"
    export.export(str(tmp_path / "old"), None, str(weights))
    own = [each.replace("weights: none", f"weights: {weights}") for each in DEEP if not each.startswith("head.init")]
    own += ["head.init=network", f"backbone.transfer=[{{from: {tmp_path / 'old'}, parts: ['*']}}]"]
    go(tmp_path / "new", *own, *small, "refine.steps=1", "refine.batch_size=10")
    experiment.run(configured(*own, *once, "head.trainable=false"), str(tmp_path / "fixed"), "test", Quiet())
    assert rundir.read_result(tmp_path / "fixed")["status"] == "finished"


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("sets", [["features={components: 4}"], [*DEEP, "memory.plan=loop"]], ids=["head", "stage"])
def test_a_run_is_exported_in_every_format(tmp_path: Path, gpu: str, sets: list[str]) -> None:
    with GPUS[gpu]():
        experiment.run(configured(*sets, "budget.generations=1"), str(tmp_path / "r"), "test", Quiet())
        for suffix in ("safetensors", "pt"):
            export.export(str(tmp_path / "r"), None, str(tmp_path / f"n.{suffix}"))
        whole, parts = export.network(str(tmp_path / "r"))
        assert parts.device.type == "cuda"
    saved = torch.load(tmp_path / "n.pt", weights_only=True)
    for state in (whole.state_dict(), saved, load_file(tmp_path / "n.safetensors")):
        assert not [name for name, tensor in state.items() if isinstance(tensor, Paper) or tensor.device != CPU]
    pytest.importorskip("onnxscript")
    transform = parts.network.backbone.transform
    # What makes a graph of a network is a compiler, and it has a network of the host.
    about = {"backbone": "x", "classes": parts.network.classes, "transform": transform._asdict()}
    assert formats.graph(whole, about, (transform.channels, *transform.size), "images")


def test_what_is_taken_away_of_a_population_is_chosen_there_and_written_from_the_host(gpu: Gpu, tmp_path: Path) -> None:
    sets = ["features={components: 4}", "algorithm.crossover=uniform", "algorithm.selection=tournament"]
    experiment.run(configured(*sets, "budget.generations=2"), str(tmp_path / "r"), "test", Quiet())
    for select, temperature in (("soup", True), ("ensemble:2", True), ("ensemble:3", False)):
        export.export(str(tmp_path / "r"), None, str(tmp_path / "n.pt"), select, temperature=temperature)
        saved = torch.load(tmp_path / "n.pt", weights_only=True)
        assert not [name for name, tensor in saved.items() if isinstance(tensor, Paper) or tensor.device != CPU]
        (tmp_path / "n.pt").unlink()
    found = rundir.read_result(tmp_path / "r")["selections"]
    assert len(found) == 3 and all(0 <= each["test"]["accuracy"] <= 1 for each in found.values())
    assert [each["temperature"] is not None for each in found.values()] == [True, True, False]


@pytest.mark.parametrize("trainable", ["fc", "*"])  # on the device beside a prefix, and without one
def test_an_onnx_file_is_run_on_the_host(gpu: Gpu, tmp_path: Path, trainable: str) -> None:
    import onnx_models

    file = onnx_models.write_float(tmp_path / "m.onnx", classes=10)
    network = f"backbone={{name: onnx, file: {file}, trainable: ['{trainable}'], mean: [0.5], std: [0.5]}}"
    go(tmp_path / "r", network, "algorithm={name: snes, population: 4}")
    export.export(str(tmp_path / "r"), None, str(tmp_path / "x.onnx"))
    assert (tmp_path / "x.onnx").read_bytes() == (tmp_path / "r" / rundir.ONNX).read_bytes()
    assert not [line for line in rundir.read_result(tmp_path / "r")["warnings"] if rundir.ONNX in line]


def test_every_arm_of_a_benchmark_runs(gpu: Gpu, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("data: {name: digits, image_size: null, limit: 300}\n")
    sets = [each for each in BASE if not each.startswith(("algorithm", "budget", "data"))]
    searches = [arm for arm in arms.ARMS if arm not in arms.NEEDS]
    out = benchmark.run(
        str(tmp_path / "base.yaml"), searches, Quiet(), Signals(), seeds=1, splits=1, jobs=1,
        budget="samples=20000", sets=sets, out=str(tmp_path / "b"),
    )  # fmt: skip
    for arm in searches:
        [folder] = (out / rundir.RUNS / arm).iterdir()
        assert rundir.read_result(folder)["status"] == "finished"


def on_paper(folder: str, observer: Observer, signals: Signals) -> None:
    """What a worker does: one run, on a device of its own process."""
    with paper_gpu():
        experiment.run(configured("budget.generations=1"), folder, "test", observer, signals=signals)


def test_runs_go_on_side_by_side_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    folders = [str(tmp_path / name) for name in "ab"]
    assert dict(workers.run_in_parallel(on_paper, folders, 2, Quiet(), Signals())) == dict.fromkeys(folders)
    for folder in folders:
        assert rundir.read_result(Path(folder))["status"] == "finished"
        assert reopen.read_run(folder, Quiet(), None)[1].plan.home == "cuda"
