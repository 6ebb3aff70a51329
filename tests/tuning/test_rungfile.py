import json
import math
from pathlib import Path
from typing import Any

import pytest

from neuroevo.tuning import rungfile

STATE: dict[str, Any] = {
    "iteration": 1, "rung": 0, "name": "1-0-5-", "settings": [], "rows": [],
    "verdicts": [{"metrics": {"accuracy": -math.inf}}],  # of a trial in which nobody is valid
}  # fmt: skip


def test_what_is_written_is_read_again_infinite_metrics_among_it(tmp_path: Path) -> None:
    assert rungfile.read(tmp_path) is None
    rungfile.write(tmp_path, STATE)
    assert rungfile.read(tmp_path) == STATE


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff", b"{", b"[" * 100_000, b'{"rung": 1, "checksum": "no"}'])
def test_a_damaged_one_is_one_of_a_few_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / rungfile.FILE).write_bytes(content)
    with pytest.raises(rungfile.WRONG):
        rungfile.read(tmp_path)


def test_a_changed_digit_is_noticed(tmp_path: Path) -> None:
    rungfile.write(tmp_path, STATE)
    state = json.loads((tmp_path / rungfile.FILE).read_text())
    (tmp_path / rungfile.FILE).write_text(json.dumps({**state, "rung": 1}))
    with pytest.raises(ValueError, match="checksum"):
        rungfile.read(tmp_path)


def test_files_of_before_have_names_by_iteration_and_rung() -> None:
    assert rungfile.prefix(STATE) == "1-0-5-"
    assert rungfile.prefix({"iteration": 2, "rung": 1}) == "2-1-"
