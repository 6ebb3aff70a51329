"""The page of a run or of a bench, or of several runs: one file, `report.html`, and its pictures under `plots/`.

Each picture is there as PNG, SVG and PDF, beside the CSV of its numbers. What is still going on is shown as far as it
is there.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neuroevo.errors import InputError, ignore
from neuroevo.report import comparison
from neuroevo.report.benchpage import bench_page
from neuroevo.report.figures import FORMATS, Files
from neuroevo.report.runpage import run_page
from neuroevo.storage import claims, files, rundir

PAGE, PLOTS = rundir.PAGE, rundir.PLOTS
DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
BRIEF = ("png", "svg")  # of a page that nobody waits for
MOST = 200  # characters that are told of an error


def report(folder: str, note: files.Note = ignore, formats: Sequence[str] = FORMATS) -> Path:
    """Write the page of a run or of a bench, and its plots in some formats; return the page's path.

    What is damaged in the folder is left out, and `note` is told. InputError where neither is there, or nothing is
    recorded yet.
    """
    path = find_folder(folder)
    for name, right in ((PAGE, Path.is_file), (PLOTS, is_own_folder)):
        if os.path.lexists(path / name) and not right(path / name):
            raise InputError(f"{path / name}: something else is there; the report writes {PAGE} and a folder {PLOTS}")
    return write(path, render(path, Files(path / PLOTS, formats), note=note))


def is_own_folder(path: Path) -> bool:
    """Tell whether a folder is there itself, and not a link to one, whose files would be replaced."""
    return path.is_dir() and not path.is_symlink()


def compare(folders: Sequence[str], out: str, note: files.Note = ignore, formats: Sequence[str] = FORMATS) -> Path:
    """Write the page of several runs side by side, and its plots, into a new folder `out`; return the page's path.

    InputError where `out` holds something already, or one of the folders is no run with a generation.
    """
    claims.check(out)
    paths = [find_folder(folder) for folder in folders]
    for path in paths:
        if (path / rundir.BENCH).is_file():
            raise InputError(f"{path}: a benchmark, which has a page of its own; give runs")
    into = Path(out)
    with refuse_damage("the runs"):
        compared = comparison.read(paths, note)
        into.mkdir(parents=True, exist_ok=True)
        return write(into, comparison.comparison_page(compared, Files(into / PLOTS, formats)))


def write(folder: Path, content: str) -> Path:
    """Write a page into a folder; return its path."""
    files.replace(folder / PAGE, content.encode(errors="backslashreplace"))
    return folder / PAGE


def formats_of(text: str) -> tuple[str, ...]:
    """Return the formats of pictures in a list with commas; InputError for others."""
    asked = [name.strip().lower() for name in text.split(",")]
    wrong = [name for name in asked if name not in FORMATS]
    if wrong:
        raise InputError(f"--formats: {wrong[0] or text!r} isn't known; choose of {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(asked))


def find_folder(folder: str) -> Path:
    """Return the folder of a run or a bench that is there, or InputError."""
    path = Path(folder)
    return path if (path / rundir.BENCH).is_file() else rundir.find(folder)


def render(folder: Path, pictures: Files | None, refresh: int | None = None, note: files.Note = ignore) -> str:
    """Return a folder's page; its plots are written as `pictures` says, if that is given.

    InputError where nothing is recorded yet. With `refresh` the page loads itself again after so many seconds.
    """
    page = bench_page if (folder / rundir.BENCH).is_file() else run_page
    with refuse_damage(str(folder)):
        return page(folder, pictures, refresh, note)


@contextmanager
def refuse_damage(what: str) -> Iterator[None]:
    """Raise InputError where a page ends in an error of values: those of a folder, which may come from anywhere.

    Forms are checked where records are read. This is for what has its form and yet no sense; the error is its cause.
    """
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{what} can't be shown: damaged, or of another kind ({repr(error)[:MOST]})") from error
