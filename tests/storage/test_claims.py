import fcntl
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from neuroevo.errors import InputError
from neuroevo.storage import claims

LOGGED = "2026-01-01 00:00:00 command: neuroevo run\n"


def hold(folder: Path, held: "multiprocessing.synchronize.Event", free: "multiprocessing.synchronize.Event") -> None:
    with claims.lock(folder):
        held.set()
        free.wait(20)


def test_a_folder_is_owned_by_one_process_and_freed_when_that_dies(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, free = context.Event(), context.Event()
    owner = context.Process(target=hold, args=(tmp_path, held, free))
    owner.start()
    assert held.wait(60)
    with pytest.raises(InputError, match="in use by another process"), claims.lock(tmp_path):
        pass
    owner.kill()
    owner.join()
    with claims.lock(tmp_path):
        pass


@pytest.mark.parametrize(
    "made",
    [
        {"a.txt": "x"}, {".git/config": "x"}, {"checkpoints/model.pt": "x"}, {"config.yaml": "seed: 1\n"},
        {"run.log": "mine\n"}, {"run.log": ""}, {"run.log": "\0"},
        {".lock": "", "run.log": "\0" * 5000}, {".lock": "mine"}, {"history.jsonl": ""},
        {"config.yaml": "", "run.log": LOGGED, "history.jsonl": "{}\n"}, {"run.log": LOGGED, "notes.txt": "x"},
        {"config.yaml": "", "run.log": LOGGED, "checkpoints/generation-000001.h5": "x"},
        {"checkpoints/generation-000000.h5": "x", "history.jsonl": "x"},
        {"run.log": LOGGED, "checkpoints/mine.txt": "x"}, {"plots/a.png": "x"}, {"bench.yaml": "x"},
    ],
    ids=lambda made: "+".join(made),
)  # fmt: skip
def test_a_folder_with_anything_in_it_is_refused_and_left_as_it_is(tmp_path: Path, made: dict[str, str]) -> None:
    for name, text in made.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with (
        pytest.raises(InputError, match="--out: .* (isn't empty|already holds)"),
        claims.claim(str(tmp_path), "x", 0),
    ):
        pass
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == made


@pytest.mark.parametrize(
    "left",
    [
        {}, {".lock": ""}, {".lock": "", "run.log": ""}, {".lock": "", "run.log": "\0" * 60},
        {".lock": "", "run.log": LOGGED, "config.yaml.partial": "x"}, {".lock": "", "config.yaml.partial": "x"},
        {".lock": "", "run.log": "", "config.yaml.partial": ""},
        {".lock": "", "run.log": "\0\0", "config.yaml.partial": "x"},
        {"run.log": LOGGED, "config.yaml": "x", "history.jsonl": "", "checkpoints/generation-000000.h5": "x"},
    ],
    ids=lambda left: "+".join(left) or "empty",
)  # fmt: skip
def test_a_run_that_never_began_is_swept_out_and_its_folder_taken(tmp_path: Path, left: dict[str, str]) -> None:
    for name, text in left.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with claims.claim(str(tmp_path), "x", 0) as claim:
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        (tmp_path / "config.yaml").write_text("x")
        (tmp_path / "mine").write_text("x")  # by somebody else, meanwhile
        claim.clear()
        assert {path.name for path in tmp_path.iterdir()} == {"mine", *([".lock"] if ".lock" in left else [])}


def test_what_is_cleared_is_what_was_made_with_the_folders_that_were_made_for_it(tmp_path: Path) -> None:
    with claims.claim(str(tmp_path / "a" / "b"), "x", 0) as claim:
        (claim.folder / "checkpoints").mkdir()
        (claim.folder / "checkpoints" / "generation-000000.h5").write_text("x")
        claim.clear()
    assert not list(tmp_path.iterdir())


def test_an_out_that_is_no_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for out in ("", "  ", "file", "file/x", "dangling", "dangling/x", "loop", "loop/x", "x" * 300):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="--out: "), claims.claim(out, "x", 0):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"file", "dangling", "loop"}
    (tmp_path / "to").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "to")
    with claims.claim("link", "x", 0) as claim:
        claim.clear()
    assert not list((tmp_path / "to").iterdir())


def test_names_without_out_are_free_ones_and_a_runs_folder_that_cant_be_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("s-1", "s-1-2"):
        with claims.claim(None, "s", 1) as claim:
            assert claim.folder == Path("runs/out") / name
    monkeypatch.chdir(tmp_path / "runs" / "out" / "s-1")
    Path("runs").symlink_to("nowhere")
    with pytest.raises(InputError, match="runs"), claims.claim(None, "s", 1):
        pass


def test_a_lock_whose_file_was_taken_away_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder clears the folder between the opening of the file and the lock: another may have a new file."""
    real, taken = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not taken:
            taken.append((tmp_path / ".lock").unlink())
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with claims.lock(tmp_path):
        with pytest.raises(InputError, match="in use"), claims.lock(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()


def test_of_several_that_begin_together_one_has_the_folder_and_it_stays_whole(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom neuroevo.storage import claims, files\nfrom neuroevo.errors import InputError\n"
        "sys.stdin.readline()\n"
        "for i in range(20):\n"
        "    try:\n"
        f"        with claims.claim(f'{tmp_path}/{{i}}', 'x', 0) as claim:\n"
        "            for name in ('run.log', 'config.yaml'):\n"
        f"                files.replace(claim.folder / name, {LOGGED!r}.encode())\n"
        "            time.sleep(0.002)\n"
        "            files.replace(claim.folder / 'history.jsonl', b'begun')\n"
        "            print(i, 'won', flush=True)\n"
        "    except InputError as error:\n"
        "        assert 'in use' in str(error) or 'already holds a run' in str(error), error\n"
    )
    crew = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in crew:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    won = [line for process in crew for line in process.communicate()[0].splitlines()]
    assert all(process.returncode == 0 for process in crew)
    assert sorted(won) == sorted(f"{i} won" for i in range(20))
    for i in range(20):
        assert {path.name for path in (tmp_path / str(i)).iterdir()} == {
            ".lock", "run.log", "config.yaml", "history.jsonl"
        }  # fmt: skip
