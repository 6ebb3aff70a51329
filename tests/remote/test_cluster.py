"""A run comes to the same bytes by workers of a Ray cluster, whatever becomes of them; nothing of a cluster stays."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import Quiet, when
from kills import Place, of_clusters
from test_resume import contents

import neuroevo as ne
from neuroevo import caveats
from neuroevo.config import load
from neuroevo.engine.cost import Budget
from neuroevo.engine.execution import Work
from neuroevo.engine.loop import Step
from neuroevo.errors import InputError, RunError
from neuroevo.experiments import experiment
from neuroevo.remote import bridge, cluster
from neuroevo.remote.cluster import Cluster, Spread
from neuroevo.remote.worker import PARTS
from neuroevo.storage import rundir

pytest.importorskip("ray", reason="the extra ray is not installed")
CPU = torch.device("cpu")
SHORT = [
    "backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=32",
    "budget.generations=6", "validate.every=3", "checkpoint.every=4", "fitness.samples=100", "memory.limit=1e8",
    "memory.individuals=10",
]  # fmt: skip
LEARN = ["refine.steps=2", "refine.batch_size=30"]
DEEP = [
    "backbone.name=timm/test_resnet", "backbone.trainable=[layer4]", "data.image_size=32", "data.limit=120",
    "algorithm.population=6", "fitness.samples=20", "head.init=default", "memory.limit=1e9",
    "memory.individuals=2", "budget.generations=3", "memory.plan=loop",
]  # fmt: skip
MLP = ["head={name: mlp, hidden: [8], dropout: 0.1}", "head.init=default"]
CASES: dict[str, list[str]] = {
    "default": [],
    "hybrid": LEARN,
    "hybrid of a hidden layer": [*MLP, *LEARN, "refine.lr=[0.01, 0.1]", "refine.optimizer_state=inherit",
                                 "refine.batches=own", "refine.dropout=[0.1, 0.2]"],
    "deep": [*DEEP, *LEARN],
    "deep, batch norms": [*DEEP, "backbone.batchnorm=recalibrate"],
    "snes": ["algorithm.name=snes"],
    "pso": ["algorithm.name=pso"],
    "two objectives": ["fitness.metrics=[cross_entropy, accuracy]"],
    "all logits": ["fitness.metric=auroc"],
    "half precision": ["fitness.precision=bfloat16"],
    "constraints": ["fitness.subject_to=[{metric: recall, per: class, at_least: 0.5}]"],
    "safe": [*MLP, *LEARN, "algorithm.mutation.safe=true"],
    "levels": ["genome.levels=int8"],
    "coordinates": [*DEEP, "genome.space=scales"],
    "islands": [*LEARN, "islands={count: 2, every: 2, migrants: 2}"],
}  # fmt: skip


@pytest.fixture(scope="module")
def spread() -> Iterator[Spread]:
    with cluster.connect(Cluster(workers=2), CPU, ["torch"]) as executor:
        assert isinstance(executor, Spread)
        yield executor


@pytest.fixture
def spread_runs(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> Spread:
    """Let runs be done by workers."""

    @contextmanager
    def executor_of(*_: object) -> Iterator[Spread]:
        yield spread

    monkeypatch.setattr(experiment, "executor_of", executor_of)
    return spread


def go(folder: Path, sets: list[str]) -> None:
    torch.manual_seed(0)  # weights none: the library's own initialisation
    experiment.run(load(None, [*SHORT, *sets]), str(folder), "test", Quiet())


# A cluster takes ten seconds to begin: one case is of every suite, the others of --long.
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case == "hybrid" else pytest.mark.long) for case in CASES]
)
def test_a_run_by_workers_ends_in_the_bytes_of_one_without(
    tmp_path: Path, spread: Spread, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    go(tmp_path / "here", CASES[case])
    before = spread.slices

    @contextmanager
    def executor_of(*_: object) -> Iterator[Spread]:
        yield spread

    monkeypatch.setattr(experiment, "executor_of", executor_of)
    go(tmp_path / "there", CASES[case])
    assert spread.slices > before
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 3])
def test_one_worker_and_three_come_to_the_bytes_of_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with cluster.connect(Cluster(workers=count), CPU, ["torch"]) as executor:
        assert isinstance(executor, Spread)

        @contextmanager
        def executor_of(*_: object) -> Iterator[Spread]:
            yield executor

        for case in ("default", "hybrid", "deep", "snes", "pso", "two objectives"):
            go(tmp_path / f"{case}, here", CASES[case])
            before = executor.slices
            with monkeypatch.context() as patch:
                patch.setattr(experiment, "executor_of", executor_of)
                go(tmp_path / f"{case}, there", CASES[case])
            assert executor.slices > before
            assert contents(tmp_path / f"{case}, there") == contents(tmp_path / f"{case}, here"), case


@pytest.mark.long
def test_a_worker_that_is_killed_changes_nothing_and_another_comes(tmp_path: Path, spread_runs: Spread) -> None:
    sets = [*LEARN, "budget.generations=40"]
    before = dict(spread_runs.workers)
    over = threading.Event()

    def kill() -> None:
        for _ in range(2):
            if over.wait(0.5):
                return
            os.kill(next(iter(spread_runs.workers.values())), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        go(tmp_path / "there", sets)
    finally:
        over.set()
        killer.join()
    assert spread_runs.workers != before
    go(tmp_path / "again", sets)
    assert contents(tmp_path / "there") == contents(tmp_path / "again")


def classify(executor: object) -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(200, 6)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    found = ne.evolve(
        model, fitness=lambda module: -module(x).square().mean(), algorithm=ne.ga(population=8),
        budget=Budget(generations=3), executor=executor,
    )  # fmt: skip
    return found.population.genomes


def test_a_function_of_a_module_is_asked_by_workers(spread: Spread) -> None:
    before = spread.slices
    assert torch.equal(classify(spread), classify(cluster.LOCAL))
    assert spread.slices > before


def weigh(parts: tuple[torch.Tensor, float], common: None, piece: torch.Tensor) -> torch.Tensor:
    return parts[1] * parts[0].sum() * piece


def test_large_tensors_go_once_and_parts_that_are_no_longer_asked_for_are_forgotten(spread: Spread) -> None:
    large, pieces = torch.randn(600, 600), [torch.ones(2), torch.ones(3)]
    before = len(spread.sent)
    for i in range(2 * PARTS):
        found = list(spread.map(Work(weigh, (large, float(i))), pieces))
        for one, piece in zip(found, pieces, strict=True):
            assert torch.equal(one, i * large.sum() * piece)
    assert len(spread.sent) == before + 1
    assert len(spread.parts) <= PARTS


def fails(module: torch.nn.Module) -> float:
    raise InputError("no such number", option="fitness")


def test_what_a_worker_raises_is_raised_here_and_the_next_search_goes_on(spread: Spread) -> None:
    with pytest.raises(InputError, match="no such number"):
        ne.evolve(
            torch.nn.Linear(2, 1), fitness=fails, algorithm=ne.ga(population=4), budget=Budget(generations=1),
            executor=spread,
        )  # fmt: skip
    classify(spread)


@pytest.mark.parametrize(
    ("given", "option", "line"),
    [
        (Cluster(workers=1, address="127.0.0.1:1"), "address", "no Ray cluster is there"),
        (Cluster(workers=1, address="nowhere"), "address", "no Ray cluster is there"),
        pytest.param(Cluster(workers=1, address="auto"), "address", "auto: ", marks=pytest.mark.long),
        (
            Cluster(workers=1, gpus_per_worker=4),
            "workers",
            "1 of . CPUs and 4 GPUs each, and the cluster has",
        ),
    ],
)
def test_a_cluster_that_can_not_be_had_is_one_line(given: Cluster, option: str, line: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=line) as error, cluster.connect(given, CPU, ["torch"]):
        pass
    assert error.value.option == option
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 20


@pytest.mark.long
def test_workers_that_differ_are_refused_or_admitted_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    describe = cluster.describe
    monkeypatch.setattr(cluster, "describe", lambda *given: describe(*given) | {"torch": "0.1"})
    with (
        pytest.raises(InputError, match=r"has torch .*, the run 0.1; remote.mixed: true admits it"),
        cluster.connect(Cluster(workers=1), CPU, ["torch"]),
    ):
        pass
    with cluster.connect(Cluster(workers=1, mixed=True), CPU, ["torch"]) as executor:
        assert isinstance(executor, Spread)
        assert executor.differing == {"torch"}
        assert not executor.alike
        assert caveats.of_workers(executor.differing, executor.idle) == [
            "workers differed from the run's process in torch: its numbers are nobody else's"
        ]


@pytest.mark.long
@pytest.mark.parametrize("sets", [["memory.individuals=256"], []], ids=["one slice", "several"])
def test_workers_that_had_nothing_to_do_are_told_of(tmp_path: Path, sets: list[str]) -> None:
    torch.manual_seed(0)
    checked = load(None, [*SHORT, "remote.workers=1", *sets])
    folder = experiment.run(checked, str(tmp_path / "run"), "test", Quiet())
    told = [line for line in rundir.read_result(folder)["warnings"] if "remote.workers: idle" in line]
    assert bool(told) is bool(sets)


@pytest.mark.long
def test_a_cluster_that_vanishes_is_one_line_and_leaves_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # by which this cluster's processes are known

    def vanish(_: list[Path]) -> None:
        for process in of_clusters(tmp_path):
            with suppress(psutil.Error):
                if process.name() in ("raylet", "gcs_server"):
                    process.kill()

    def written() -> list[Path]:
        return list((tmp_path / "r" / "checkpoints").glob("*.h5"))

    with when(written, vanish), pytest.raises(RunError, match="the Ray cluster is gone") as error:
        go(tmp_path / "r", ["budget.generations=100000", "remote.workers=1", "checkpoint.every=1"])
    assert "\n" not in str(error.value)
    experiment.resume(str(tmp_path / "r"), ["remote.workers=0", "budget.generations=8"], Quiet())


@pytest.mark.long
def test_a_search_from_python_is_done_by_workers() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 8)
    given: Any = {
        "model": torch.nn.Linear(8, 3), "data": (x, x[:, :3].argmax(1)), "algorithm": ne.ga(population=300),
        "budget": Budget(generations=3), "refine": ne.sgd(steps=1), "samples": 50,
    }  # fmt: skip
    here = ne.evolve(**given)
    with ne.workers(1) as executor:
        there = ne.evolve(**given, executor=executor)
    assert torch.equal(here.population.genomes, there.population.genomes)


def test_a_first_worker_that_is_slow_to_come_is_waited_for_and_the_loss_of_the_last_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bridge, "FOLLOW", 0.01)
    monkeypatch.setattr(bridge, "ALONE", 0.05)
    told: list[tuple[Any, ...]] = []
    one = bridge.Bridge.__new__(bridge.Bridge)  # without a cluster
    one.asked, one.crew, one.lock, one.over, one.last = (
        {"workers": 1},
        bridge.Crew(),
        threading.RLock(),
        threading.Event(),
        None,
    )
    monkeypatch.setattr(one, "say", lambda *message, **_: told.append(message))
    watcher = threading.Thread(target=one.watch)
    watcher.start()
    time.sleep(0.3)
    before = list(told)
    one.last = time.monotonic()
    time.sleep(0.3)
    one.over.set()
    watcher.join(10)
    assert before == []
    assert told[0] == ("lost", "no worker for 0.05 seconds")


NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
other = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
for word in map(str.strip, sys.stdin):
    if word == "lose":
        cluster.remove_node(other, allow_graceful=False)
    if word == "gain":
        other = cluster.add_node(num_cpus=1)
    print(word, flush=True)
cluster.shutdown()
"""


@pytest.mark.long
def test_a_run_on_two_nodes_goes_on_when_one_is_lost_and_when_another_joins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    nodes = subprocess.Popen([sys.executable, "-c", NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert nodes.stdin is not None
    assert nodes.stdout is not None
    counts: list[int] = []

    def say(word: str) -> None:
        nodes.stdin.write(f"{word}\n")  # type: ignore[union-attr]
        nodes.stdin.flush()  # type: ignore[union-attr]
        assert nodes.stdout.readline().strip() == word  # type: ignore[union-attr]

    def wait(executor: Spread, workers: int) -> None:
        end = time.monotonic() + 180  # on a busy machine a worker takes a minute to come
        while len(executor.workers) != workers and time.monotonic() < end:
            time.sleep(0.1)
        counts.append(len(executor.workers))

    class Events(Quiet):
        """Loses a node and gains another while a run goes on."""

        def generation(self, step: Step) -> None:
            if step.generation in (5, 10):
                say({5: "lose", 10: "gain"}[step.generation])
            if step.generation in (6, 12):
                wait(executor, {6: 1, 12: 2}[step.generation])

    sets = [*SHORT, *LEARN, "budget.generations=15"]
    try:
        address = nodes.stdout.readline().strip()
        with cluster.connect(Cluster(address=address, cpus_per_worker=1), CPU, ["torch"]) as executor:
            assert isinstance(executor, Spread)
            wait(executor, 2)

            @contextmanager
            def executor_of(*_: object) -> Iterator[Spread]:
                yield executor

            with monkeypatch.context() as patch:
                patch.setattr(experiment, "executor_of", executor_of)
                torch.manual_seed(0)
                experiment.run(load(None, sets), str(tmp_path / "there"), "test", Events())
            assert executor.slices
        assert counts == [2, 1, 2]
    finally:
        nodes.stdin.close()
        nodes.stdout.close()
        nodes.wait(30)
    torch.manual_seed(0)
    experiment.run(load(None, sets), str(tmp_path / "here"), "test", Quiet())
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_without_workers_nothing_is_begun() -> None:
    for given in (None, Cluster(workers=0)):
        with cluster.connect(given, CPU, ["torch"]) as executor:
            assert executor is cluster.LOCAL


@pytest.mark.long
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)], ids=["kill -9", "Ctrl-C"])
def test_a_run_that_is_ended_leaves_nothing_behind_and_goes_on_with_other_workers(
    tmp_path: Path, number: int, status: int
) -> None:
    place, alone = Place(tmp_path, "r"), Place(tmp_path, "alone")
    run = place.start(2)
    place.begun(run)
    assert of_clusters(place.temporary)
    run.send_signal(number)
    assert run.wait(20) == status
    assert place.start(0, resume=True).wait(60) == 0
    assert place.clean() == []
    assert alone.start(0).wait(60) == 0
    assert alone.clean() == []
    assert contents(place.folder) == contents(alone.folder)
