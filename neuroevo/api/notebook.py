"""What a notebook shows of a result or a champion: a table, and a curve where there is one, in plain HTML.

All text is escaped, and nothing is scripted or fetched, so that a page that is sent on shows the same.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from neuroevo.errors import printable

WIDTH, HEIGHT, MARGIN = 240, 48, 3  # pixels of the curve
POINTS = 200  # of the curve, at most
STYLE = "border-collapse:collapse;font-size:0.9em"
CELL = "text-align:left;padding:2px 12px 2px 0;vertical-align:top"


def text(value: object) -> str:
    """Return a value as text that no page takes for anything else."""
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else "-"
    return html.escape(printable(f"{value:,}" if isinstance(value, int) else str(value)))


def page(
    title: str, rows: Sequence[tuple[str, object]], curve: tuple[str, Sequence[float | None]] | None = None
) -> str:
    """Return a table of rows under a title, with a curve over generations where one is given, by its name."""
    cells = [
        f'<tr><th style="{CELL}" scope="row">{text(name)}</th><td style="{CELL}">{text(value)}</td></tr>'
        for name, value in rows
    ]
    caption = f'<caption style="text-align:left;font-weight:bold">{text(title)}</caption>'
    drawn = "" if curve is None else draw(*curve)
    return f'<div><table style="{STYLE}">{caption}{"".join(cells)}</table>{drawn}</div>'


def draw(name: str, values: Sequence[float | None]) -> str:
    """Return a curve over generations as SVG; nothing where there are not two finite values."""
    step = max(1, math.ceil(len(values) / POINTS))
    kept = [*range(0, len(values) - 1, step), *([len(values) - 1] if values else [])]
    points = [(i, v) for i in kept if (v := values[i]) is not None and math.isfinite(v)]
    if len(points) < 2:
        return ""
    low, high = min(v for _, v in points), max(v for _, v in points)
    across, up = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1), (HEIGHT - 2 * MARGIN) / ((high - low) or 1)
    line = " ".join(f"{MARGIN + across * i:.1f},{HEIGHT - MARGIN - up * (v - low):.1f}" for i, v in points)
    label = f"{name} over {len(values):,} generations, from {points[0][1]:.4f} to {points[-1][1]:.4f}"
    return (
        f'<svg role="img" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{text(label)}">'
        f'<title>{text(label)}</title><polyline points="{line}" fill="none" stroke="currentColor"/></svg>'
        f'<div style="font-size:0.8em">{text(label)}</div>'
    )


def scores(split: str, found: dict[str, Any]) -> list[tuple[str, object]]:
    """Return rows of scores on a split, each with its 95 % interval where it has one."""
    intervals = found.get("interval", {})
    rows: list[tuple[str, object]] = []
    for name, value in found.items():
        if name in intervals:
            low, high = (text(float(end)) for end in intervals[name])
            rows.append((f"{split} {name}", f"{text(float(value))} [{low}, {high}]"))
        elif not intervals:
            rows.append((f"{split} {name}", float(value)))
    return rows
