"""The ways a run can end early that are nobody's bug, and how a line about it is printed safely."""

import re
from collections.abc import Callable

# Control characters, line separators, halves of surrogate pairs (bytes that aren't UTF-8), and what turns the direction
# of writing: a terminal obeys them, and a name must not be able to command it.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

# What a spreadsheet takes for the beginning of a formula, which it would run; the last are full-width.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

# Around an option that an InputError mentions, perhaps with a value: characters that no text has.
MENTION = re.compile("\ufdd0([^\ufdd1=]*)(?:=([^\ufdd1]*))?\ufdd1")


class InputError(ValueError):
    """Bad usage, config, data or file: one line for the user, exit status 2.

    `option` is the parameter whose value is wrong, of the function that was called; it comes before the line. Whoever
    took the value from elsewhere, as from a config, has the error name that place (`rename`).
    """

    def __init__(self, line: str, option: str | None = None) -> None:
        self.option = option
        self._line = line if option is None else f"{the(option)}: {line}"  # mentions marked
        super().__init__(plain(self._line))

    def rename(self, place: Callable[[str], str | None]) -> None:
        """Put a config's keys in place of the options that the line mentions; one without a key stays as it is."""

        def name(found: re.Match[str]) -> str:
            key = place(found[1])
            if key is None:
                return found[0]
            return key if found[2] is None else f"--set {key}={found[2]}"

        self._line = MENTION.sub(name, self._line)
        self.args = (plain(self._line),)

    def within(self, where: str) -> "InputError":
        """Return the same error with what it is about before its line."""
        found = InputError(f"{where}: {self._line}")
        found.option = self.option
        return found


def plain(line: str) -> str:
    """Return a line with the options that it mentions under their own names."""
    return MENTION.sub(lambda found: found[1] if found[2] is None else f"{found[1]}={found[2]}", line)


def the(option: str) -> str:
    """Return an option as an InputError mentions it, so that it can be renamed."""
    return f"\ufdd0{option}\ufdd1"


def setting(option: str, value: object) -> str:
    """Return an option with a value that would help, as an InputError mentions it."""
    return f"\ufdd0{option}={value}\ufdd1"


class Interrupted(Exception):
    """A signal asked the run to stop; `status` is the exit status (130 for SIGINT, 143 for SIGTERM)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"interrupted (exit status {status})")
        self.status = status


class RunError(Exception):
    """A run that failed through no bug of ours, such as a full disk: one line for the user, exit status 1."""


def printable(text: str) -> str:
    """Return a text with all that a terminal or a file can't hold or would obey as backslash escapes."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:  # a byte that isn't UTF-8, as Python decodes names
            return f"\\x{code - 0xDC00:02x}"
        return match[0].encode("unicode_escape").decode()

    return UNSAFE.sub(escape, text)


def cell(text: str) -> str:
    """Return a text as a cell of a table: one that a spreadsheet would run gets a ' before it, and so does a '."""
    return f"'{text}" if text.startswith((*FORMULA, "'")) else text


def ignore(line: str) -> None:
    """Say nothing of a line, where nobody asked to be told."""
