"""The command line: exit statuses, one line on stderr, and nothing heavy for --help.

What doesn't need a process of its own is called in this one: importing everything takes seconds.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Quiet, make_folder

from neuroevo.cli import main
from neuroevo.config import load
from neuroevo.data import datasets
from neuroevo.engine import execution
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.networks import backbones
from neuroevo.search.operators import mutation

QUICK = [f"--set={s}" for s in (
    "backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=16",
    "algorithm.elites=4", "budget.generations=3",
)]  # fmt: skip


Finished = subprocess.CompletedProcess[str]
Command = Callable[..., Finished]


def process(*args: str, cwd: Path | None = None, program: tuple[str, ...] = ("-m", "neuroevo")) -> Finished:
    return subprocess.run([sys.executable, *program, *args], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize(
    "program",
    [("-m", "neuroevo"), pytest.param(("-c", "from neuroevo.cli.main import main; main()"), marks=pytest.mark.long)],
)
def test_a_file_in_the_folder_where_one_is_takes_no_librarys_place(tmp_path: Path, program: tuple[str, ...]) -> None:
    """A folder of pictures from somebody else may hold one."""
    (tmp_path / "h5py.py").write_text("print('let in')\n")
    found = process("inspect", "nothing", cwd=tmp_path, program=program)
    assert (found.returncode, found.stdout) == (2, "")
    (tmp_path / "mine.py").write_text("print('mine')\n")
    found = process("validate", "--set", "head.name=mine:head", cwd=tmp_path, program=program)
    assert (found.returncode, found.stdout) == (2, "mine\n")


@pytest.fixture
def neuroevo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Call the program in a folder of its own, as `python -m neuroevo` would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*args: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["neuroevo", *args])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main.main()
        out, err = capfd.readouterr()
        return Finished(args, int(left.value.code or 0), out, err)

    return call


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy\nsys.argv = ['neuroevo', '--help']\n"
        "try: runpy.run_module('neuroevo', run_name='__main__')\n"
        "finally: print([m for m in ('torch', 'timm', 'numpy', 'h5py', 'pydantic', 'evotorch') if m in sys.modules])"
    )
    found = process(program=("-c", code))
    assert found.stdout.strip().endswith("[]")
    for command in ("run", "tune", "bench", "resume", "evaluate", "predict", "export", "report", "inspect",
                    "validate", "list", "doctor"):  # fmt: skip
        assert command in found.stdout
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert process("--help").returncode == 0
        times.append(time.perf_counter() - began)
    assert min(times) < 0.5


def test_a_run_imports_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    code = (
        "import sys, runpy\nsys.argv = ['neuroevo', 'run', *sys.argv[1:]]\n"
        "try: runpy.run_module('neuroevo', run_name='__main__')\n"
        "finally: print([m for m in ('sklearn', 'scipy', 'pandas', 'matplotlib', 'optuna', 'onnx', 'evotorch', 'ray')"
        " if m in sys.modules])"
    )
    found = process(*QUICK, "--set", "validate.logistic=false", program=("-c", code), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().endswith("[]")


def test_a_run_from_the_command_line_to_its_table_and_all_that_follows(neuroevo: Command) -> None:
    found = neuroevo("run", *QUICK)
    assert found.returncode == 0, found.stderr
    assert "test accuracy" in found.stdout
    assert "generation 3 of 3" in found.stderr
    folder = "runs/out/default-0"
    again = neuroevo("resume", folder, "--set", "budget.generations=4")
    assert again.returncode == 0, again.stderr
    assert "going on after generation 3" in again.stderr
    inspected = neuroevo("inspect", folder)
    assert inspected.returncode == 0, inspected.stderr
    assert "16 individuals of 610 genes" in inspected.stdout
    evaluated = neuroevo("evaluate", folder)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "(270 images)" in evaluated.stdout


def test_a_config_that_init_writes_is_valid_and_is_never_written_over(neuroevo: Command, tmp_path: Path) -> None:
    assert neuroevo("init", "--out", "c.yaml").stdout == "c.yaml\n"
    text = (tmp_path / "c.yaml").read_text()
    assert text == neuroevo("init").stdout
    again = neuroevo("init", "own_images", "--out", "c.yaml")
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (2, "", 1)
    assert (tmp_path / "c.yaml").read_text() == text
    assert neuroevo("run", "c.yaml", *QUICK, "--out", "r").returncode == 0


def test_any_member_of_a_front_is_listed_evaluated_and_exported(neuroevo: Command, tmp_path: Path) -> None:
    many = ["--set", "fitness.metrics=[cross_entropy, weight_norm]"]
    assert neuroevo("run", *QUICK, *many, "--out", "many").returncode == 0
    listed = neuroevo("inspect", "many").stdout.splitlines()
    members = [line.split() for line in listed if line.strip().startswith("front-")]
    assert [words[0] for words in members] == [f"front-{i}" for i in range(len(members))]
    assert all(float(words[2].rstrip(",")) >= 0 and float(words[4]) >= 0 for words in members)
    last = str(len(members) - 1)
    evaluated = neuroevo("evaluate", "many", "--member", last)
    assert evaluated.returncode == 0, evaluated.stderr
    norm = next(line.split()[1] for line in evaluated.stdout.splitlines() if "weight_norm" in line)
    assert float(norm) == pytest.approx(float(members[-1][4]), abs=1e-4)
    assert neuroevo("export", "many", "--select", f"member:{last}", "--out", "w").returncode == 0
    assert (tmp_path / "w").exists()
    found = neuroevo("export", "many", "--out", "x.pt", "--select", f"member:{len(members)}")
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1), found.stderr
    assert f"has {len(members)} members, from 0" in found.stderr
    assert not (tmp_path / "x.pt").exists()


def test_an_ensemble_is_exported_and_shown_beside_the_champion(neuroevo: Command, tmp_path: Path) -> None:
    assert neuroevo("run", *QUICK, "--out", "r").returncode == 0
    done = neuroevo("export", "r", "--select", "ensemble:4", "--temperature", "--out", "m.safetensors")
    assert done.returncode == 0, done.stderr
    title, *rows = done.stdout.splitlines()
    assert title.startswith("m.safetensors: ")
    names = [row.split("  ")[1] for row in rows]
    assert names[0] == "temperature"
    assert {"validation accuracy", "test accuracy", "test cross_entropy"} <= set(names)
    assert all("(champion 0." in row or "(champion 1." in row or "(champion 2." in row for row in rows[1:])
    assert "candidates validated" in done.stderr
    assert (tmp_path / "m.safetensors.md").read_text().startswith("<!-- a model card by neuroevo -->")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["export", "nowhere", "--out", "x", "--select", "best"], "--select: 'best' is none of champion, top_mean,"),
        (["run", "--set", "algorithm.populaton=5"], "algorithm.populaton: unknown key (did you mean population?)"),
        (["run", "--set=fitness.metrics=[accuracy]"], "fitness.metrics: ['accuracy'] given, a list of two or more"),
        (["run", "--set=fitness.metrics=[accuracy, sparsity]", "--set=algorithm.name=pso"], "go with algorithm ga"),
        (["run", "nowhere.yaml"], "nowhere.yaml: can't be read"),
        (["run", "--sett", "x"], "No such option"),
        (["nothing"], "No such command"),
        (["resume", "nowhere"], "nowhere: no run is there"),
        (["evaluate", "nowhere"], "nowhere: no run is there"),
        (["inspect", "nowhere"], "nowhere: neither a run's folder nor a checkpoint"),
        (["list", "nowhere"], "list: nothing is called nowhere"),
        (["init", "nowhere"], "init: no recipe is called nowhere"),
        (["validate", "--set", "device=cuda:99"], "device: 'cuda:99' is not on this machine"),
        (["bench", "nowhere.yaml", "--arms=ga"], "nowhere.yaml: can't be read"),
        (["bench", "nowhere.yaml"], "Missing option '--arms'"),
        (["bench", "nowhere.yaml", "--arms=ga", "--levels=a"], "--levels a: give numbers with commas between them"),
        (["bench", "nowhere.yaml", "--arms=ga", "--seeds=few"], "Invalid value for '--seeds'"),
        (["report", "nowhere"], "nowhere: no run is there"),
        (["report", "nowhere", "--port=80"], "--port: only a page that is served has one; add --watch"),
        (["report", "nowhere", "--watch"], "nowhere: no run is there"),
        (["report", "a", "b"], "--out: the page of several runs belongs to none of them"),
        (["report", "nowhere", "b", "--out=new"], "nowhere: no run is there"),
        (["report", "nowhere", "--out=new"], "--out: the page of one run goes into its folder, nowhere"),
        (["report", "nowhere", "--formats=gif"], "--formats: 'gif' isn't known; choose of png, svg, pdf"),
        (["report", "nowhere", "--formats="], "--formats: '' isn't known"),
        (["report", "a", "b", "--watch"], "--watch: serves one run or one bench"),
        (["report", "a", "--watch", "--out=b"], "--out: a page that is served is written nowhere"),
        (["tune"], "Missing argument 'CONFIG.yaml'"),
        (["tune", "nowhere.yaml"], "nowhere.yaml: can't be read"),
        (["export", "nowhere", "--out", "x", "--format", "zip"], "--format: 'zip' is none of safetensors, pt, onnx"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(neuroevo: Command, tmp_path: Path, args: list[str], message: str) -> None:
    found = neuroevo(*args)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1, found.stderr
    assert message in found.stderr
    assert found.stdout == ""
    assert not list(tmp_path.iterdir())


def test_tune_prints_what_it_found_and_goes_on_from_an_interruption(neuroevo: Command, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "backbone: {name: none, weights: none}\nfeatures: {components: null}\nalgorithm: {name: fixed}\n"
        "refine: {name: sgd, steps: 5}\nbudget: {generations: 2}\nvalidate: {every: 1}\n"
        "tune:\n  space: {refine.lr: {name: float, low: 1.0e-4, high: 1, scale: log}}\n"
        "  trial: {generations: 2}\n  budget: {generations: 200}\n"
    )
    bad = neuroevo("tune", "c.yaml", "--set=tune.space.refine.lr.low=0", "--out", "r")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "tune.space.refine.lr: a log range is above zero" in bad.stderr
    assert not (tmp_path / "r").exists()
    command = [sys.executable, "-m", "neuroevo", "tune", "c.yaml", "--no-final", "--out", "r"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("r/checkpoints/*.h5")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    assert "go on with: neuroevo resume r" in running.communicate()[1]
    assert running.returncode == 130
    found = neuroevo("resume", "r", "--set=tune.budget.generations=3")
    assert found.returncode == 0, found.stderr
    words = " ".join(found.stdout.split())
    assert "tuning finished (generations) after" in words
    assert "refine.lr " in words
    assert "its validation accuracy" in words
    assert "champion" not in words


def test_a_users_own_metric_is_found_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def margin(logits, targets):\n    return logits.amax(-1).mean(-1)\n")
    script = Path(sys.executable).parent / "neuroevo"
    found = subprocess.run(
        [script, "run", *QUICK, "--set", "fitness.metric=mine:margin"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "mine:margin" in found.stdout


def test_a_full_disk_is_one_line_and_status_1(neuroevo: Command, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small], check=False).returncode
    ):
        pytest.skip("a small file system can be mounted by root only")
    try:
        sets = ["--set=algorithm.population=64", "--set=checkpoint.every=1", "--set=budget.generations=50"]
        found = neuroevo("run", *QUICK, *sets, "--out", str(small / "r"))
        assert found.returncode == 1, found.stderr
        last = found.stderr.strip().split("\n")[-1]
        assert "No space left on device" in last
        assert "Traceback" not in found.stderr
        assert neuroevo("inspect", str(small / "r")).returncode == 0
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with a lineage; tests copy it."""
    folder = tmp_path_factory.mktemp("done")
    sets = [text.removeprefix("--set=") for text in (*QUICK, "algorithm.crossover=uniform", "memory.limit=1e8")]
    experiment.run(load(None, sets), str(folder / "r"), "test", Quiet())
    return folder / "r"


@pytest.mark.long
@pytest.mark.parametrize("damage", ["flip", "list", "folder"])
@pytest.mark.parametrize(
    "name", ["config.yaml", "history.jsonl", "lineage.jsonl", "result.json", "predictions.csv", "run.log"]
)
def test_whatever_text_file_of_a_run_is_damaged_no_command_ends_in_a_traceback(
    neuroevo: Command, tmp_path: Path, done: Path, name: str, damage: str
) -> None:
    shutil.copytree(done, tmp_path / "r")
    path = tmp_path / "r" / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"[]\n" if damage == "list" else whole[:40] + b"\xff" + whole[41:])
    for command in (
        ["inspect", "r"],
        ["evaluate", "r"],
        ["report", "r"],
        ["resume", "r", "--set=budget.generations=4"],
    ):
        found = neuroevo(*command)
        assert "Traceback" not in found.stderr
        refused = damage == "folder" and command[0] == "resume"  # it can't be written again
        assert found.returncode == 0 or (refused and found.returncode == 1), found.stderr
    if damage != "folder":
        assert json.loads((tmp_path / "r" / "result.json").read_text())["generations"] == 4


def test_validate_takes_the_options_of_a_bench(neuroevo: Command) -> None:
    found = neuroevo("validate", *QUICK, "--arms", "ga,config", "--seeds", "2", "--budget", "samples=60_000")
    assert found.returncode == 0, found.stderr
    lines = " ".join(found.stdout.split())
    assert "runs 4: 2 arms x 2 seeds x 1 splits, 60,000 samples each ga about " in lines
    assert "one run after another" in lines
    for options, said in (
        (["--arms", "gaa"], "--arms: no arm is called 'gaa'"),
        (["--seeds", "2"], "--seeds: only a bench has these; name its arms with --arms"),
        (["--arms", "ga", "--splits", "0"], "--splits: 0 given, one or more expected"),
        (["--arms", "ga", "--budget", "seconds=3"], "--budget seconds=3: give it as samples=N"),
    ):
        wrong = neuroevo("validate", *QUICK, *options)
        assert wrong.returncode == 2
        assert said in wrong.stderr
        assert "Traceback" not in wrong.stderr


def test_list_validate_and_doctor_print_what_they_should(neuroevo: Command) -> None:
    listed = neuroevo("list", "selection")
    assert "tournament" in listed.stdout
    assert "size=4" in listed.stdout
    validated = neuroevo("validate", *QUICK)
    assert validated.returncode == 0, validated.stderr
    assert "forward samples  24,576" in " ".join(validated.stdout.split()).replace("samples ", "samples  ")
    assert "population: 16" in validated.stdout
    assert re.search(r"time +about .* in all: .*run .*, start", validated.stdout)
    doctor = neuroevo("doctor")
    assert doctor.returncode == 0
    assert "torch" in doctor.stdout


def test_one_line_and_status_2_from_a_process_of_its_own(tmp_path: Path) -> None:
    found = process("resume", "nowhere", cwd=tmp_path)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1), found.stderr


def test_bench_prints_its_standings_and_resume_goes_on_with_it(neuroevo: Command, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("backbone: {name: none, weights: none}\nbudget: {samples: 100000}\n")
    found = neuroevo("bench", "c.yaml", "--arms", "random,sgd", "--seeds", "2", "--out", "b")
    assert found.returncode == 0, found.stderr
    lines = [line.split() for line in found.stdout.splitlines()]
    assert " ".join(lines[0]) == "b: 4 of 4 runs"
    assert [line[0] for line in lines[2:]] == ["sgd", "random"]  # the best on validation first
    assert (tmp_path / "b" / "report.html").exists()
    again = neuroevo("resume", "b")
    assert (again.returncode, again.stdout) == (0, found.stdout)
    wrong = neuroevo("resume", "b", "--set", "budget.samples=5")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def plain_gaussian(**options: object) -> None:
    genomes, context = torch.zeros(2, 3), Context(0, 1, 0.0, torch.device("cpu"))
    nobody = Population.new(genomes, parents=2)
    mutation.gaussian(nobody, context, Layout(("w",), ((3,),)), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "option", "line", "sets"),
    [
        (
            lambda: plain_gaussian(safe=True, rank=2),
            "safe",
            "goes with neither relative, rank nor a rate below 1",
            ["algorithm.mutation={safe: true, rank: 2}"],
        ),
        (
            lambda: execution.plan("gemm", 650, 64, [10], limit=1000, device=torch.device("cpu")),
            "limit",
            "1000 bytes is too little for one individual; at least",
            ["memory.limit=1000"],
        ),
        (
            lambda: backbones.build("timm/test_resnet", "/nowhere.pth", 32, (8, 8, 1)),
            "weights",
            "/nowhere.pth is not a file, and none of default, none, pypi",
            ["backbone.name=timm/test_resnet", "backbone.weights=/nowhere.pth"],
        ),
        (
            lambda: datasets.image_folder(root="/nowhere"),
            "root",
            "/nowhere is not a folder",
            ["data.name=image_folder", "data.root=/nowhere"],
        ),
    ],
)
def test_a_caller_is_told_of_an_option_and_the_command_line_of_its_key(
    neuroevo: Command, call: Callable[[], object], option: str, line: str, sets: list[str]
) -> None:
    with pytest.raises(ValueError, match=f"^{option}: {line}") as caught:
        call()
    assert isinstance(caught.value, InputError)
    assert caught.value.option == option
    key = {"safe": "algorithm.mutation", "limit": "memory", "weights": "backbone", "root": "data"}[option]
    found = neuroevo("run", *QUICK, *(f"--set={text}" for text in sets))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.splitlines()[-1].startswith(f"neuroevo: {key}.{option}: {line}")


@pytest.mark.long
def test_names_are_printed_safely_in_any_encoding(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": {"caf\u00e9": 8, "a\x1b]0;owned\x07\n": 8, "\u732b": 8}})
    sets = ["data.name=image_folder", f"data.root={tmp_path}", "data.image_size=8", "backbone.name=none",
            "backbone.weights=none"]  # fmt: skip
    command = [sys.executable, "-m", "neuroevo", "validate", *(f"--set={text}" for text in sets)]
    shown = {"ascii": r"class caf\xe9", "utf-8": "class caf\u00e9"}
    begun = {
        encoding: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env={**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"})
        for encoding in shown
    }  # fmt: skip
    for encoding, process in begun.items():
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert b"\x1b" not in out + err
        assert shown[encoding] in out.decode(encoding)
        assert r"class a\x1b]0;owned\x07\n" in out.decode(encoding)
