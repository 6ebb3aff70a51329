"""The page of a run or of a bench: one file, `report.html`, and its pictures under `plots/`.

Each picture is there as PNG, beside the CSV of its numbers. What is still going on is shown as far as it is there.
"""

from pathlib import Path

from neuroevo import rundir
from neuroevo.benchpage import bench_page
from neuroevo.runpage import run_page

PAGE, PLOTS = "report.html", "plots"


def report(folder: str) -> Path:
    """Write the page of a run or of a bench, and its plots; return the page's path.

    InputError where neither is there, or nothing is recorded yet.
    """
    path = existing(folder)
    rundir.replace(path / PAGE, render(path, path / PLOTS).encode())
    return path / PAGE


def existing(folder: str) -> Path:
    """Return the folder of a run or a bench that is there, or InputError."""
    path = Path(folder)
    return path if (path / rundir.BENCH).is_file() else rundir.existing(folder)


def render(folder: Path, pictures: Path | None, refresh: int | None = None) -> str:
    """Return a folder's page; its plots are written under `pictures`, if that is given.

    InputError where nothing is recorded yet. With `refresh` the page loads itself again after so many seconds.
    """
    page = bench_page if (folder / rundir.BENCH).is_file() else run_page
    return page(folder, pictures, refresh)
