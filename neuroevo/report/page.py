"""Pieces of an HTML page that is one file: it needs no network and no script, and follows the reader's colours."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from neuroevo.errors import printable

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1d20; --soft: #5d6570; --rule: #d5d9de; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e6e8ea; --soft: #a3abb4; --rule: #3a4047; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; background: var(--paper); color: var(--ink);
       max-width: 66rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; } .soft, caption, figcaption { color: var(--soft); font-size: .875rem; }
.box { overflow-x: auto; max-width: 100%; } table { margin: .5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; caption-side: bottom; padding-top: .5rem; overflow-wrap: anywhere; }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; border-bottom: 1px solid var(--rule); }
tr > :last-child { padding-right: 0; }
.list td { overflow-wrap: anywhere; white-space: pre-line; } .list th { font-weight: 600; }
.grid { font-size: .875rem; } .grid td, .grid thead th { text-align: right; white-space: pre; }
.grid tr > :first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem;
         margin: 1rem 0; }
figure { margin: 0; min-width: 0; break-inside: avoid; } figure.wide { grid-column: 1 / -1; }
figure.wide svg { min-width: 36rem; max-width: 48rem; }
figcaption b { color: var(--ink); font-size: 1rem; display: block; }
svg { display: block; width: 100%; height: auto; } svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg image { image-rendering: pixelated; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: 1rem; list-style: none;
          margin: .5rem 0; padding: 0; font-size: .8125rem; line-height: 1.35; }
.images li { min-width: 0; break-inside: avoid; } .images b { display: block; }
.images img { display: block; width: 6rem; height: 6rem; object-fit: contain; object-position: left bottom;
              margin-bottom: .25rem; }
.images img[src^="data:image/png"] { image-rendering: pixelated; }
.warnings { border-left: 4px solid #c77700; padding: .25rem .75rem; margin: .5rem 0; }
.warnings ul { margin: 0; padding-left: 1.25rem; }
details { margin: .75rem 0; } summary { cursor: pointer; }
pre { white-space: pre-wrap; font-size: .8125rem; border: 1px solid var(--rule); padding: .75rem; margin: .5rem 0; }
@media (max-width: 30rem) { td, th { padding-right: .6rem; } }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; }
  @page { margin: 12mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .plots { grid-template-columns: 1fr 1fr; } figure.wide svg { min-width: 0; }
  .box { overflow: visible; } .grid { font-size: 8pt; } td, th { padding-right: .5rem; }
  tr, summary { break-inside: avoid; } h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""


def escape(text: str) -> str:
    """Return a text as HTML has it; control characters but for line ends are spelled out."""
    return html.escape("\n".join(map(printable, text.split("\n"))))


def number(value: Any) -> str:
    """Return a figure as a reader wants it, an interval's ends and anything else as text; a dash for none."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        small = value != 0 and abs(value) < 0.001
        size = abs(value)
        return f"{value:.3g}" if small else f"{value:,.{4 if size < 10 else 2 if size < 1000 else 0}f}"
    if isinstance(value, list):
        interval = len(value) == 2 and all(isinstance(end, float) for end in value)
        return " to ".join(map(number, value)) if interval else ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested results as rows, names of several words one behind the other."""
    rows: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        rows += flat(inner, name) if isinstance(inner, dict) else [(name, number(inner))]
    return rows


def name_table(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and values as a table of two columns."""
    inside = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in rows)
    return f'<table class="list">{inside}</table>'


def grid(header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """Return a table of figures, whose first column names the rows; a wide one scrolls in a box of its own."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(f"<td>{escape(number(cell))}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows
    )
    about = f"<p class=soft>{escape(caption)}</p>" if caption else ""
    return (
        f'<div class="box" tabindex="0"><table class="grid"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"</div>{about}"
    )


def figure(svg: str, title: str, caption: str, wide: bool = False) -> str:
    """Return a picture, under its title and what it shows."""
    kind = ' class="wide"' if wide else ""
    said = f"{escape(caption)}" if caption else ""
    return f'<figure{kind}><figcaption><b>{escape(title)}</b>{said}</figcaption><div class="box">{svg}</div></figure>'


def gallery(images: Sequence[tuple[str, int, int, str, tuple[str, str]]]) -> str:
    """Return images beside each other: (data URI, width, height, alternative text, (name, what is below it)) each."""
    items = "".join(
        f'<li><img src="{escape(uri)}" width="{width}" height="{height}" alt="{escape(alt)}">'
        f"<b>{escape(name)}</b> {escape(below)}</li>"
        for uri, width, height, alt, (name, below) in images
    )
    return f'<ul class="images">{items}</ul>'


def paragraph(content: str) -> str:
    """Return a sentence or several."""
    return f"<p>{escape(content)}</p>"


def details(summary: str, inside: str) -> str:
    """Return details that are folded away until a reader asks for them."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def text(content: str) -> str:
    """Return text as it is, in a box of its own."""
    return f"<pre>{escape(content)}</pre>"


def note(content: str) -> str:
    """Return a remark."""
    return f'<p class="soft">{escape(content)}</p>'


def warnings(lines: Sequence[str]) -> str:
    """Return warnings in a box of their own; nothing where there are none."""
    inside = "".join(f"<li>{escape(line)}</li>" for line in lines)
    head = "Warning" if len(lines) == 1 else "Warnings"
    return f'<div class="warnings" role="note"><b>{head}</b><ul>{inside}</ul></div>' if inside else ""


def section(title: str, *parts: str) -> str:
    """Return a part of the page under its title; nothing where there is nothing in it."""
    inside = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{inside}</section>" if inside else ""


def document(title: str, body: str, refresh: int | None = None) -> str:
    """Return a whole page; with `refresh` it loads itself again after so many seconds."""
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{again}'
        # Without an icon of its own a browser asks the server for one.
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )
