"""What is no file is told at once wherever a file is read, and nothing is written where a link leads."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from neuroevo.errors import InputError, RunError
from neuroevo.experiments import card
from neuroevo.networks import weightfiles
from neuroevo.reading import regular
from neuroevo.storage import claims, files, hdf5


@pytest.fixture(params=["fifo", "device", "folder", "gone"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    with regular(tmp_path / "x") as file:
        assert file.read() == b"abc"


def test_what_is_no_file_is_not_opened(no_file: Path) -> None:
    with pytest.raises(OSError, match="not a regular file|No such file"):
        regular(no_file)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: hdf5.verify(path, b"mark", "a checkpoint"),
        weightfiles.read_safetensors,
        lambda path: weightfiles.read_weights(path.rename(path.with_suffix(".pt"))),
    ],
    ids=["checkpoint", "safetensors", "pt"],
)
def test_it_is_a_line_where_numbers_are_read(no_file: Path, read: Callable[[Path], object]) -> None:
    if not os.path.lexists(no_file):
        no_file.touch()  # empty
    with pytest.raises(InputError, match=r"x\."):
        read(no_file)


def test_it_is_nothing_where_lines_are_read(no_file: Path) -> None:
    said: list[str] = []
    assert files.content(no_file, said.append) == b""
    assert len(said) == os.path.lexists(no_file)
    assert not claims.is_log(no_file)


def test_a_model_card_is_not_looked_for_in_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.md")
    with pytest.raises(InputError, match="not a regular file"):
        card.check(tmp_path / "x")


@pytest.mark.parametrize("leads", ["to a file", "to nothing", "nowhere: a pipe"])
def test_nothing_is_written_where_a_link_leads(tmp_path: Path, leads: str) -> None:
    mine = tmp_path / "mine"
    if leads == "to a file":
        mine.write_text("mine")
    for name in ("table.partial", "log"):
        os.mkfifo(tmp_path / name) if "pipe" in leads else (tmp_path / name).symlink_to(mine)
    files.replace(tmp_path / "table", b"new")
    assert (tmp_path / "table").read_bytes() == b"new"
    with pytest.raises(RunError, match=r"log: not written"):
        files.open_to_append(tmp_path / "log")
    assert mine.exists() == (leads == "to a file") and (not mine.exists() or mine.read_text() == "mine")
