"""Columns of a terminal: what a text takes, and what is left of it."""

import pytest

from neuroevo.cli import columns
from neuroevo.cli.columns import cut, pad, span


@pytest.mark.parametrize(("text", "width"), [("cat", 3), ("caf\u00e9", 4), ("cafe\u0301", 4), ("\u732b", 2), ("", 0)])
def test_a_wide_character_takes_two_columns_and_a_mark_none(text: str, width: int) -> None:
    assert span(text) == width
    assert span(pad(text, 7)) == 7


@pytest.mark.parametrize("text", ["photos/holiday/2024/cat-001.jpg", "\u732b" * 20, "cafe\u0301" * 9])
def test_what_is_cut_keeps_start_and_end_and_never_takes_more_than_it_may(text: str) -> None:
    for width in range(40):
        found = cut(text, width)
        assert span(found) <= width
        if span(text) <= width:
            assert found == text
        elif width >= 12:
            start, end = found.split("...")
            assert text.startswith(start)
            assert text.endswith(end)
            assert start
            assert span(end) >= span(start)


def test_where_there_is_no_terminal_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert columns.room() is None
