"""The ways a run can end early that are nobody's bug, and how a line about it is printed safely."""

import re

# Control characters, line separators, halves of surrogate pairs (bytes that aren't UTF-8), and what turns the direction
# of writing: a terminal obeys them, and a name must not be able to command it.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


class InputError(Exception):
    """Bad usage, config, data or file: one line for the user, exit status 2."""


class Interrupted(Exception):
    """A signal asked the run to stop; `status` is the exit status (130 for SIGINT, 143 for SIGTERM)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"interrupted (exit status {status})")
        self.status = status


class RunError(Exception):
    """A run that failed through no bug of ours, such as a full disk: one line for the user, exit status 1."""


def printable(text: str) -> str:
    """Return a text with all that a terminal or a file can't hold or would obey as backslash escapes."""

    def escaped(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:  # a byte that isn't UTF-8, as Python decodes names
            return f"\\x{code - 0xDC00:02x}"
        return match[0].encode("unicode_escape").decode()

    return UNSAFE.sub(escaped, text)
