"""Names as the fonts of this machine can draw them.

Matplotlib's own font has no Chinese, Japanese or Korean, and draws what it lacks as boxes. Another font that is
installed stands in; a character that none has is spelled out.
"""

from functools import cache
from typing import Any

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from neuroevo.errors import printable


@cache
def characters(path: str) -> frozenset[int]:
    """Return the code points that a font file has outlines for; none where it can't be read."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


@cache
def family_with(character: str) -> str | None:
    """Return the family of a font that has a character: matplotlib's own if it can be, None where no font has it."""
    own = font_manager.findfont(font_manager.FontProperties())
    if ord(character) in characters(own):
        return font_manager.get_font(own).family_name
    entries = (entry for entry in font_manager.fontManager.ttflist if not entry.name.startswith("Last Resort"))
    return next((entry.name for entry in entries if ord(character) in characters(entry.fname)), None)


def drawable(text: str) -> str:
    r"""Return a text with each character that no font here has spelled out as an escape, such as \u4e2d."""
    return "".join(
        c if c in "\n " or family_with(c) is not None else c.encode("ascii", "backslashreplace").decode()
        for c in printable(text)
    )


def fit(figure: Any) -> None:
    """Make all texts of a figure drawable; `figure.spelled` says which were changed, {as drawn: as given}.

    `figure` is matplotlib's. A text with characters of several fonts gets all of these.
    """
    figure.spelled = {}

    def spell(text: str) -> str:
        as_drawn = drawable(text)
        if as_drawn != text:
            figure.spelled[as_drawn] = text
        return as_drawn

    for axes in figure.axes:
        for along in (axes.xaxis, axes.yaxis):
            names = [label.get_text() for label in along.get_ticklabels()]
            spelled = [spell(name) for name in names]
            if spelled != names:  # given once more, for an axis writes its labels anew each time
                along.set_ticks(along.get_ticklocs(), spelled)
    for text in figure.findobj(Text):
        text.set_text(spell(text.get_text()))
        families = dict.fromkeys(family_with(c) for c in text.get_text() if c not in "\n ")
        others = [family for family in families if family is not None and family != family_with("a")]
        if others:
            text.set_fontfamily([*text.get_fontfamily(), *others])
