import os

import pytest

from neuroevo.errors import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café 中 \u0628 a\u200db", "café 中 \u0628 a\u200db"),
        ("a\x1b]0;x\x07", r"a\x1b]0;x\x07"),
        ("a\r\n\tb\x7f\x9b", r"a\r\n\tb\x7f\x9b"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800\u202e\u2028", r"\ud800\u202e\u2028"),
    ],
)
def test_what_a_terminal_would_obey_or_cannot_show_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()
