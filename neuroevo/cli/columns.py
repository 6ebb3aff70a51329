"""Text in columns of a terminal: how many a text takes, and how it is cut to fewer."""

import sys
from os import get_terminal_size
from unicodedata import combining, east_asian_width

GAP = "  "  # between columns
CUT = "..."


def room() -> int | None:
    """Return how many columns standard output has, None where it is no terminal, and nothing is cut."""
    if not sys.stdout.isatty():
        return None
    try:
        return get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None


def span(text: str) -> int:
    """Return how many columns a printable text takes: two for wide characters, none for marks on others."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, width: int) -> str:
    """Return a text with blanks behind it, so that it takes so many columns."""
    return text + " " * (width - span(text))


def cut(text: str, width: int) -> str:
    """Return a text in at most so many columns: of a longer one the middle is left out, less of its end."""
    if span(text) <= width:
        return text
    left = max(0, width - len(CUT))
    head = left // 3
    start, end = "", ""
    for c in text:
        if span(start + c) > head:
            break
        start += c
    for c in reversed(text):
        if span(c + end) > left - span(start):
            break
        end = c + end
    return f"{start}{CUT[:width]}{end}"
