"""Which page `neuroevo report` writes, and where."""

from collections.abc import Sequence
from pathlib import Path

from neuroevo.errors import InputError
from neuroevo.storage.files import Note


def refuse_written(folders: Sequence[str], out: str | None, formats: str | None) -> None:
    """Raise InputError where what is for a page in a file is given for one that is served."""
    for name, value in (("--out", out), ("--formats", formats)):
        if value is not None:
            raise InputError(f"{name}: a page that is served is written nowhere; leave out --watch")
    if len(folders) > 1:
        raise InputError("--watch: serves one run or one bench; several runs are written with --out")


def write(folders: Sequence[str], out: str | None, formats: str | None, note: Note) -> Path:
    """Write the page of a run or a bench into its folder, or that of several runs into `out`; return its path."""
    from neuroevo.report import figures, report

    chosen = figures.FORMATS if formats is None else report.formats_of(formats)
    if len(folders) == 1:
        if out is not None:
            raise InputError(f"--out: the page of one run goes into its folder, {folders[0]}; name several runs")
        return report.report(folders[0], note, chosen)
    if out is None:
        raise InputError("--out: the page of several runs belongs to none of them; give it a folder, --out DIR")
    return report.compare(folders, out, note, chosen)
