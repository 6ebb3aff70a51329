"""A benchmark comes to the same tables by workers of a Ray cluster, whatever becomes of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import Quiet, when
from test_benchmark import BASE, rows

from neuroevo.bench import benchmark, jobs
from neuroevo.bench.jobs import Jobs
from neuroevo.bench.workers import Failure
from neuroevo.cli import main
from neuroevo.errors import InputError
from neuroevo.experiments.signals import Signals
from neuroevo.remote import cluster
from neuroevo.remote.cluster import Spread
from neuroevo.report import report
from neuroevo.storage import generations, rundir

TABLES = (rundir.RESULTS, rundir.CURVES, rundir.SUMMARY, rundir.COMPARISONS, rundir.LEVELS)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "report", lambda folder, **_: None)


@pytest.fixture(scope="module")
def spread() -> Iterator[Spread]:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with jobs.crew(Jobs(2, True), 2, CPU, lambda line: None) as executor:
        assert executor is not None
        yield executor


@pytest.fixture
def shared(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> Spread:
    """Let benchmarks be done by workers of one cluster."""

    @contextmanager
    def crew(asked: Jobs, *_: object) -> Iterator[Spread | None]:
        yield spread if asked.remote else None

    monkeypatch.setattr(jobs, "crew", crew)
    return spread


@pytest.fixture
def base(tmp_path: Path) -> str:
    (tmp_path / "base.yaml").write_text(BASE)
    return str(tmp_path / "base.yaml")


def bench(base: str, arms: Sequence[str], out: Path, given: int | str, **changes: Any) -> Quiet:
    quiet = Quiet()
    asked: dict[str, Any] = {"seeds": 2, "splits": 1, "budget": "samples=600000"} | changes
    benchmark.run(base, arms, quiet, Signals(), jobs=given, out=str(out), **asked)
    return quiet


def tables(folder: Path) -> dict[str, Any]:
    return {name: rows(folder / name, but="seconds") for name in TABLES}


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (3, Jobs(3)),
        ("3", Jobs(3)),
        ("ray:4", Jobs(4, True)),
        ("ray:auto", Jobs(None, True)),
        ("ray:4@head:6379", Jobs(4, True, "head:6379")),
        ("ray:auto@auto", Jobs(None, True, "auto")),
    ],
)
def test_the_forms_of_jobs_are_read(given: int | str, asked: Jobs) -> None:
    assert jobs.read(given) == asked


@pytest.mark.parametrize("given", [0, -1, "", "x", "1.5", "auto", "ray", "ray:", "ray:0", "ray:2@", "ray:x@head", "²"])
def test_other_jobs_are_refused_in_a_line(base: str, tmp_path: Path, given: int | str) -> None:
    with pytest.raises(InputError, match=r"^--jobs: .*N, ray:N, ray:auto or ray:N@ADDRESS expected"):
        bench(base, ["ga"], tmp_path / "b", given)
    assert not (tmp_path / "b").exists()


def test_a_cluster_that_is_not_there_ends_the_program_with_2_and_leaves_no_folder(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    out = tmp_path / "b"
    words = ["bench", base, "--arms", "ga", "--budget", "samples=60000", "--out", str(out), "--jobs"]
    monkeypatch.setattr(sys, "argv", ["neuroevo", *words, "ray:1@127.0.0.1:1"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("neuroevo: --jobs: 127.0.0.1:1: no Ray cluster is there")
    assert not out.exists()


def test_runs_by_workers_have_no_workers_of_their_own(base: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="arm ga: remote.workers: 2 given; with --jobs ray:2 runs have no workers"):
        bench(base, ["ga"], tmp_path / "b", "ray:2", sets=["remote.workers=2"])
    assert not (tmp_path / "b").exists()


def test_a_worker_that_does_not_see_the_folder_says_so_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bench.yaml").write_bytes(b"one")

    def work(*_: object) -> None:
        raise AssertionError

    for here, content in ((str(tmp_path), b"another"), (str(tmp_path / "none"), b"one")):
        site = jobs.Site(work, here, Path("bench.yaml"), content, "")
        before = os.getcwd()
        try:
            failure = jobs.do(site, None, 1)
        finally:
            os.chdir(before)
        assert failure is not None
        assert "doesn't see" in failure.line
        assert "one that all machines share" in failure.line
    assert [path.name for path in tmp_path.iterdir()] == ["bench.yaml"]


@pytest.mark.long
def test_the_tables_by_workers_are_those_of_one_process(base: str, tmp_path: Path, shared: Spread) -> None:
    bench(base, ["ga", "hybrid"], tmp_path / "here", 1)
    before = shared.slices
    quiet = bench(base, ["ga", "hybrid"], tmp_path / "there", "ray:2")
    assert shared.slices == before + 4
    assert tables(tmp_path / "there") == tables(tmp_path / "here")
    assert sum(line.endswith(": begun") for line in quiet.lines) == 4
    assert {share for shares in quiet.shares for share in shares} == {
        f"{arm}, split 0, seed {seed}" for arm in ("ga", "hybrid") for seed in (0, 1)
    }
    assert quiet.shares[-1] == {}
    benchmark.resume(str(tmp_path / "there"), Quiet(), Signals())  # there is nothing left for workers
    assert shared.slices == before + 4


def begun(folder: Path) -> list[Path]:
    """Return the runs that have a checkpoint of a generation, and no champion yet."""
    own = [
        run for run in folder.glob("runs/*/*") if any(map(generations.number, generations.paths(run / "checkpoints")))
    ]
    return [run for run in own if not (run / rundir.RESULT).exists()]


def workers_of(runs: Sequence[Path], workers: Sequence[int]) -> list[int]:
    """Return the workers that are at runs, whose locks they have open."""
    locks = {str(run / rundir.LOCK) for run in runs}
    return [number for number in workers if locks & {file.path for file in psutil.Process(number).open_files()}]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_whose_worker_is_killed_is_gone_on_with_by_another(
    base: str, tmp_path: Path, shared: Spread, number: signal.Signals
) -> None:
    there, sets = tmp_path / "there", ["checkpoint.every=5"]
    given: dict[str, Any] = {"budget": "samples=2000000", "sets": sets}

    def at_work() -> list[int]:
        return workers_of(begun(there), [*shared.workers.values()])

    with when(at_work, lambda busy: os.kill(busy[0], number)):
        quiet = bench(base, ["hybrid"], there, "ray:2", **given)
    assert len([line for line in quiet.lines if line.endswith("its worker died; another goes on")]) == 1
    assert sum("going on after generation" in path.read_text() for path in there.glob("runs/*/*/run.log")) == 1
    bench(base, ["hybrid"], tmp_path / "here", 1, **given)
    assert tables(there) == tables(tmp_path / "here")


def ends(item: int, *_: object) -> None:
    """End the process that does it, for odd numbers."""
    if item % 2:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.long
def test_what_ends_every_worker_that_begins_it_fails_and_nothing_else_does(tmp_path: Path, shared: Spread) -> None:
    (tmp_path / "bench.yaml").write_bytes(b"one")
    site = jobs.Site(ends, str(tmp_path), Path("bench.yaml"), b"one", "")
    found = dict(jobs.run_on_cluster(shared, site, [0, 1, 2], Quiet(), Signals()))
    assert found == {0: None, 1: Failure(False, "its workers died, one after another"), 2: None}


@pytest.mark.long
def test_an_interrupted_benchmark_has_its_runs_checkpoints_and_goes_on_in_one_process(
    base: str, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    there, given = tmp_path / "there", {"budget": "samples=1500000", "sets": ["checkpoint.every=5"]}
    words = ["--arms", "hybrid", "--seeds", "2", "--budget", str(given["budget"]), "--set", "checkpoint.every=5"]
    command = [sys.executable, "-m", "neuroevo", "bench", base, *words, "--out", str(there), "--jobs", "ray:2"]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with when(lambda: begun(there), lambda _: program.send_signal(signal.SIGINT)):
        assert program.wait(120) == 130
    logs = [path.read_text() for path in there.glob("runs/*/*/run.log")]
    assert any("interrupted after generation" in log for log in logs)
    bench(base, ["hybrid"], there, 1, **given)
    bench(base, ["hybrid"], tmp_path / "here", 1, **given)
    assert tables(there) == tables(tmp_path / "here")
    ours = [process for process in psutil.process_iter() if of_program(process, program.pid)]
    assert not ours


def of_program(process: psutil.Process, number: int) -> bool:
    """Tell whether a process is of a cluster that a program began."""
    try:
        return process.environ().get(cluster.NAME, "").startswith(f"{number}-")
    except psutil.Error:
        return False
