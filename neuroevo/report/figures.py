"""Pictures of runs and benches, drawn from plain numbers; each is shown as SVG, and kept as PNG, SVG, PDF and CSV.

The SVG is for a page: its text stays text, its ink is the page's (`currentColor`), its ground transparent, and its ids
are its own among all pictures of the page. Series have colours of about the same lightness, that stand out from light
and from dark ground, in an order that the colour-blind can tell apart (after Okabe and Ito 2008), and line styles too.
"""

import csv
import html
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from neuroevo.errors import printable
from neuroevo.report import glyphs
from neuroevo.storage import files, tables

INK = "#010203"  # stands for the page's own colour, and is all but black in a PNG
SERIES = ("#2f7fc1", "#d5602b", "#0f9b72", "#b5629a", "#a8810f", "#7f7f7f", "#8069c9", "#4f9da6")
STYLES = ("-", "--", "-.", ":")
SCALE = matplotlib.colormaps["viridis"](np.linspace(0.3, 0.9, 256))  # neither end is lost on light or dark ground


INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
OFF = ("axes.spines.top", "axes.spines.right", "axes.unicode_minus", "legend.frameon")
RC: Any = {
    **dict.fromkeys(INKED, INK),
    **dict.fromkeys(OFF, False),
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "lines.linewidth": 1.5,
    "font.size": 9,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType, which journals and editors take
    "text.parse_math": False,  # names with dollars are no formulas
}
WIDTH, HEIGHT = 4.8, 3.0  # inches; as wide as a phone, so that text is as large there as it is meant to be
WIDE = 7.5
FORMATS = ("png", "svg", "pdf")  # a PDF takes longer than the others together
POINTS = 1500  # of a line, beyond which a picture gains nothing
LONGEST = 160  # bytes of a name of files: with an ending and what is before it, less than file systems take
NAMED, COUNTED = 30, 20  # classes, up to which a confusion matrix has names and counts


class Plot(NamedTuple):
    """A picture and the numbers behind it."""

    name: str  # of its files, and before its ids on a page
    title: str
    caption: str
    figure: Any
    header: Sequence[str]  # of the numbers
    rows: Sequence[Sequence[Any]]
    wide: bool = False  # it scrolls on a phone


class Files(NamedTuple):
    """Where pictures are kept, and as what; the numbers are beside them as CSV."""

    folder: Path
    formats: Sequence[str]  # of FORMATS

    def make(self) -> Path:
        """Return the folder, made if it isn't there."""
        self.folder.mkdir(exist_ok=True)
        return self.folder

    def write(self, name: str, content: bytes) -> None:
        """Write a file of a name, in place of what is there: whatever that is a link to stays as it is."""
        files.replace(self.make() / name, content)

    def write_table(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        """Write rows as a CSV file of a name; texts are no formulas in it."""
        text = io.StringIO()
        cells = ([tables.cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
        csv.writer(text, lineterminator="\n").writerows(cells)
        self.write(name, text.getvalue().encode(errors="backslashreplace"))


def safe(name: str) -> str:
    """Return a name as a file and an id can have it: itself if it can, else what of it can, and a hash to tell it by.

    Names may be of anything, such as columns of a history that came with a folder: none leads out of the plots' folder.
    """
    kept = re.sub(r"[^\w.: -]+", "-", name).lstrip(".").encode()[:LONGEST].decode(errors="ignore")
    digest = sha256(name.encode(errors="backslashreplace")).hexdigest()[:8]
    return kept if kept == name and kept else f"{kept}-{digest}"


def save(plot: Plot, drawn: str, where: Files) -> None:
    """Write a picture, of which `drawn` is the SVG, in each format, and its numbers as CSV."""
    for form in where.formats:
        content = io.BytesIO(drawn.encode(errors="backslashreplace"))
        if form != "svg":
            how: Any = {"dpi": 150, "facecolor": "white"} if form == "png" else {"metadata": {"CreationDate": None}}
            content = io.BytesIO()
            with matplotlib.rc_context(RC):
                plot.figure.savefig(content, format=form, **how)
        where.write(f"{plot.name}.{form}", content.getvalue())
    where.write_table(f"{plot.name}.csv", (plot.header, *plot.rows))


def draw(plot: Plot) -> str:
    """Return a picture as an SVG file, on transparent ground."""
    file = io.StringIO()
    with matplotlib.rc_context({**RC, "svg.hashsalt": plot.name}):
        plot.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def svg(plot: Plot, drawn: str) -> str:
    """Return an SVG file as an element to put into a page, whose fonts draw all names: nothing is spelled out."""
    text = drawn.partition("<svg")[2]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', lambda found: f"{found[1]}{plot.name}-", text)
    text = re.sub(r'^.*?(viewBox="[^"]*").*?>', r"\1>", text, count=1, flags=re.DOTALL)
    for as_drawn, given in plot.figure.spelled.items():
        text = text.replace(html.escape(as_drawn, quote=False), html.escape(printable(given), quote=False))
    label = html.escape(printable(f"{plot.title}: {plot.caption}" if plot.caption else plot.title))
    return f'<svg role="img" aria-label="{label}" {text}'.replace(INK, "currentColor").strip()


def style(i: int) -> dict[str, Any]:
    """Return the colour and the line style of a series."""
    return {"color": SERIES[i % len(SERIES)], "linestyle": STYLES[i // len(SERIES) % len(STYLES)]}


@contextmanager
def canvas(xlabel: str, ylabel: str, height: float = HEIGHT, width: float = WIDTH) -> Iterator[tuple[Any, Any]]:
    """Yield a figure and its only axes, while they are drawn on."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
        settle(figure)


def settle(figure: Any) -> None:
    """Lay a figure out once and for all: each time that it is drawn, the layout would move a little."""
    glyphs.fit(figure)
    for _ in range(2):
        figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")


def words(name: str) -> str:
    """Return a name as a reader wants it."""
    return name.replace("_", " ")


def count_text(samples: float) -> str:
    """Return a count of samples to three figures, with k, M or G behind it."""
    return EngFormatter(sep="", places=1 if samples < 1e9 else 2)(samples)


def thin(rows: Sequence[Any]) -> Sequence[Any]:
    """Return as many rows as a line needs, the last among them."""
    every = -(-len(rows) // POINTS)
    return rows if every <= 1 else [*rows[:-1:every], rows[-1]]


def short(name: str, length: int) -> str:
    """Return a name cut to a length, in its middle: many names begin alike, or end so."""
    end = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - end]}…{name[-end:]}"


def log_ticks(along: Any, low: float, high: float, form: Any) -> None:
    """Give a log axis as many labelled ticks as have room: within half a decade round ones."""
    decades = math.log10(high / low) if low > 0 else 0.0
    subs = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 3 else (1.0,)
    along.set_major_locator(LogLocator(subs=subs, numticks=12) if decades > 0.5 else MaxNLocator(4))
    along.set_minor_locator(NullLocator())
    along.set_major_formatter(form)


def samples_along(axes: Any, samples: Sequence[float]) -> None:
    """Make x a log axis of samples."""
    there = [value for value in samples if value > 0]
    if there:
        axes.set_xscale("log")
        log_ticks(axes.xaxis, min(there), max(there), EngFormatter(sep=""))
