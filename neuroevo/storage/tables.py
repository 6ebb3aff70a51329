"""Tables as CSV: written line by line and there as a whole or not at all, with names that no program obeys.

A spreadsheet runs a cell that begins like a formula, and a terminal obeys control characters; class names and files'
names may have either. `escape` makes any name harmless, and `restore` gives it back as it was.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuroevo.errors import FORMULA as FORMULA
from neuroevo.errors import UNSAFE, InputError
from neuroevo.errors import cell as cell
from neuroevo.storage.files import append, check_new, new, whole

ESCAPE = re.compile(r"\\(?:[\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")  # as Python spells a character


def escape(name: str) -> str:
    """Return any name as a cell: control characters and backslashes are escaped, and `cell` does the rest."""
    return cell(re.sub(rf"{UNSAFE.pattern}|\\", lambda found: found[0].encode("unicode_escape").decode(), name))


def restore(text: str) -> str:
    """Return the name that `escape` made a cell of."""
    return ESCAPE.sub(lambda found: found[0].encode().decode("unicode_escape"), text.removeprefix("'"))


def writable(out: str, option: str) -> Path:
    """Return the path of a table to be written, which an option gives; InputError where something is there."""
    if Path(out).suffix.lower() != ".csv":
        raise InputError(f"{option}: {out} doesn't end in .csv; a table is written as such a file")
    check_new(out, option)
    return Path(out)


@contextmanager
def write(path: Path, header: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], object]]:
    """Return what adds a row to a new table, of names, numbers and None; RunError where it can't be written.

    The table is there once the context is left, and not at all where that is by an error.
    """
    with new(path), whole(path) as file:

        def add(row: Sequence[Any]) -> None:
            text = io.StringIO()
            cells = [escape(value) if isinstance(value, str) else value for value in row]
            csv.writer(text, lineterminator="\n").writerow(cells)
            append(file, text.getvalue())

        add(header)
        yield add
