"""The page of a run or of a bench: one file, `report.html`, and its pictures under `plots/`.

Each picture is there as PNG, beside the CSV of its numbers. What is still going on is shown as far as it is there.
"""

import os
from pathlib import Path

from neuroevo.errors import InputError, ignore
from neuroevo.report.benchpage import bench_page
from neuroevo.report.runpage import run_page
from neuroevo.storage import files, rundir

PAGE, PLOTS = rundir.PAGE, rundir.PLOTS


def report(folder: str, note: files.Note = ignore) -> Path:
    """Write the page of a run or of a bench, and its plots; return the page's path.

    What is damaged in the folder is left out, and `note` is told. InputError where neither is there, or nothing is
    recorded yet.
    """
    path = find_folder(folder)
    for name, right in ((PAGE, Path.is_file), (PLOTS, Path.is_dir)):
        if os.path.lexists(path / name) and not right(path / name):
            raise InputError(f"{path / name}: something else is there; the report writes {PAGE} and a folder {PLOTS}")
    files.replace(path / PAGE, render(path, path / PLOTS, note=note).encode(errors="backslashreplace"))
    return path / PAGE


def find_folder(folder: str) -> Path:
    """Return the folder of a run or a bench that is there, or InputError."""
    path = Path(folder)
    return path if (path / rundir.BENCH).is_file() else rundir.find(folder)


def render(folder: Path, pictures: Path | None, refresh: int | None = None, note: files.Note = ignore) -> str:
    """Return a folder's page; its plots are written under `pictures`, if that is given.

    InputError where nothing is recorded yet. With `refresh` the page loads itself again after so many seconds.
    """
    page = bench_page if (folder / rundir.BENCH).is_file() else run_page
    return page(folder, pictures, refresh, note)
