"""Files that are there whole or not at all."""

import errno
from pathlib import Path

import pytest

from neuroevo.errors import RunError
from neuroevo.storage import files


@pytest.mark.parametrize("which", [1, 2])
def test_no_new_file_stays_whose_folder_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """It would be said not to be written, and its name be taken when the command is given again."""
    left, real = [which], files.flush_folder

    def fail(folder: Path) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ESTALE, "Stale file handle")
        real(folder)

    monkeypatch.setattr(files, "flush_folder", fail)
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(RunError, match="not written"), files.new(one, two):
        files.replace(one, b"1")
        files.replace(two, b"2")
    assert list(tmp_path.iterdir()) == []
    with files.new(one, two):
        files.replace(one, b"1")
        files.replace(two, b"2")
    assert (one.read_bytes(), two.read_bytes()) == (b"1", b"2")


def test_a_file_that_took_the_name_before_stays(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"somebody's")
    with pytest.raises(RunError), files.new(tmp_path / "one"):
        raise RunError("not written")
    assert (tmp_path / "one").read_bytes() == b"somebody's"
