"""Tables as CSV: names that nothing obeys and that come back, and files that are whole or not there."""

import csv
import errno
import os
from pathlib import Path

import pytest

from neuroevo.errors import UNSAFE, InputError, RunError
from neuroevo.storage import tables

NAMES = [
    *("cat", "=1+1", "+a", "-b", "@c", "'quoted", "''", "\uff1dSUM(1)", "\ttab", "a\nb", "\x1b[31mred", "", " =1"),
    *("back\\slash", "\\x1b", "caf\u00e9", "\u732b", "\u202eevil", "bytes\udcff", "\udc85\x85", 'a,b;"c"', "\\\\n"),
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_comes_back_and_commands_nobody(name: str) -> None:
    safe = tables.escape(name)
    assert tables.restore(safe) == name
    assert not UNSAFE.search(safe)
    assert not safe.startswith(tables.FORMULA)
    safe.encode()


def test_a_plain_name_stays_as_it_is() -> None:
    assert [tables.escape(name) for name in ("cat", "a b/c.png", "caf\u00e9", "1-2")] == [
        "cat", "a b/c.png", "caf\u00e9", "1-2"]  # fmt: skip


def test_a_table_is_there_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with tables.write(path, ["file", "probability"]) as add:
        add(["=a", 0.1 + 0.2])
        assert not path.exists()
        add(["b\nc", None])
    rows = [*csv.reader(path.read_text().splitlines())]
    assert rows == [["file", "probability"], ["'=a", "0.30000000000000004"], ["b\\nc", ""]]
    assert [each.name for each in tmp_path.iterdir()] == ["t.csv"]


def test_of_a_failure_nothing_is_left_and_whose_it_is_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="too many") as caught, tables.write(tmp_path / "t.csv", ["a"]) as add:
        add([1])
        raise OSError(errno.EMFILE, "too many")
    assert not isinstance(caught.value, RunError)
    assert not list(tmp_path.iterdir())

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(RunError, match=r"t.csv: not written \(No space left"),
        tables.write(tmp_path / "t.csv", ["a"]),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "line"),
    [("t.txt", "doesn't end in .csv"), ("no/t.csv", "no folder"), ("there.csv", "is there"), ("link.csv", "is there")],
)
def test_where_a_table_can_not_be_written_is_told_before(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"^--out: .*{line}"):
        tables.writable(str(tmp_path / name), "--out")
    assert (tmp_path / "there.csv").read_text() == "mine"
