"""Links within a run's folder, and names that a file of one has elsewhere: nothing is written there."""

import os
from pathlib import Path

import pytest

from neuroevo.errors import InputError
from neuroevo.storage import claims, files

WITHIN = [
    "checkpoints", "rung", "looks", "plots", "tensorboard", "wandb", "folds", "folds/1", "tune", "tune/checkpoints",
    "runs", "runs/ga", "runs/ga/0-0",
]  # fmt: skip


@pytest.mark.parametrize("leads", ["to a folder", "nowhere"])
@pytest.mark.parametrize("name", WITHIN)
def test_a_folder_within_a_runs_that_is_a_link_is_refused(tmp_path: Path, name: str, leads: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    (run / name).parent.mkdir(parents=True)
    if leads == "to a folder":
        outside.mkdir()
    (run / name).symlink_to(outside)
    for own in (claims.lock(run), claims.claim(str(run), "", 0), claims.claim(str(run), "", 0, bench=True)):
        with pytest.raises(InputError, match=f"{name}: is a link|isn't empty"), own:
            pass
    with pytest.raises(InputError, match=f"{name}: is a link"), claims.lock(run):
        pass
    assert not (run / ".lock").exists()
    assert not outside.exists() or not [*outside.iterdir()]


def test_a_runs_own_folder_may_be_a_link_or_be_reached_by_one(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "[run]*").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "scratch")
    (tmp_path / "run").symlink_to(tmp_path / "scratch" / "[run]*")
    for folder in (tmp_path / "out" / "[run]*", tmp_path / "run"):
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "mine").unlink(missing_ok=True)
        (folder / "mine").symlink_to(tmp_path)  # nobody writes there
        with claims.lock(folder):
            pass


def test_what_is_added_to_a_file_is_not_added_to_what_else_it_is_called(tmp_path: Path) -> None:
    mine, log = tmp_path / "mine", tmp_path / "run.log"
    mine.write_bytes(b"mine\n")
    log.hardlink_to(mine)
    (tmp_path / "run.log.partial").hardlink_to(mine)
    for text in ("one\n", "two\n"):
        with files.open_to_append(log) as file:
            files.append(file, text)
    assert mine.read_bytes() == b"mine\n"
    assert log.read_bytes() == b"mine\none\ntwo\n"
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "run.log"}


def test_a_file_of_one_name_is_added_to_in_place(tmp_path: Path) -> None:
    for text in ("one\n", "two\n"):
        with files.open_to_append(tmp_path / "log") as file:
            files.append(file, text)
            number = os.fstat(file.fileno()).st_ino
        assert (tmp_path / "log").stat().st_ino == number
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("name", ["result.json", "result.json.partial"])
def test_what_takes_a_files_place_changes_nothing_that_has_another_name(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    (tmp_path / name).hardlink_to(mine)
    files.replace(tmp_path / "result.json", b"new")
    assert mine.read_bytes() == b"mine"
    assert (tmp_path / "result.json").read_bytes() == b"new"


def test_the_way_of_a_file_is_cleared_of_another_ones_name(tmp_path: Path) -> None:
    mine, plot, alone = tmp_path / "mine", tmp_path / "plot.png", tmp_path / "alone"
    for path in (mine, alone):
        path.write_bytes(b"mine")
    plot.hardlink_to(mine)
    for path in (plot, alone, tmp_path, tmp_path / "nothing"):
        files.make_way(path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "alone"}
