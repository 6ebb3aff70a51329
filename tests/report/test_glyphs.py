import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.text import Text

from neuroevo.report import figures, glyphs, plots_of_runs


@pytest.fixture
def own_font_only(monkeypatch: pytest.MonkeyPatch) -> None:
    own = font_manager.findfont(font_manager.FontProperties())
    monkeypatch.setattr(
        font_manager.fontManager, "ttflist", [e for e in font_manager.fontManager.ttflist if e.fname == own]
    )
    glyphs.family_with.cache_clear()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    found = glyphs.family_with
    yield
    found.cache_clear()


@pytest.mark.parametrize("text", ["cat", "émigré", "Größe", "кошка", "γάτα", "a\nb", "100 %", "$5_to_$10"])
def test_what_the_own_font_has_stays_as_it_is(text: str) -> None:
    assert glyphs.drawable(text) == text.replace("\n", "\\n")


@pytest.mark.usefixtures("own_font_only")
@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("猫", r"\u732b"),
        ("a猫b", r"a\u732bb"),
        ("🐈", r"\U0001f408"),
        ("a\rb", r"a\rb"),
        ("a\x1b[1m", r"a\x1b[1m"),
        ("\udce9", r"\xe9"),
    ],
)
def test_a_character_that_no_font_has_is_spelled_out(text: str, drawn: str) -> None:
    assert glyphs.drawable(text) == drawn


def test_another_font_stands_in_for_characters_that_the_own_font_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    own = glyphs.characters(font_manager.findfont(font_manager.FontProperties()))
    other = next(e for e in font_manager.fontManager.ttflist if e.name == "STIXGeneral")  # comes with matplotlib
    lacking = chr(min(c for c in glyphs.characters(other.fname) - own if chr(c).isprintable() and c < 0xE000))
    monkeypatch.setattr(glyphs, "family_with", lambda c: "STIXGeneral" if c == lacking else "DejaVu Sans")
    with figures.canvas(f"a{lacking}", "a") as (figure, _):
        pass  # a warning of a glyph that is missing would be an error here
    label = next(text for text in figure.findobj(Text) if text.get_text() == f"a{lacking}")
    assert label.get_fontfamily()[-1] == "STIXGeneral"


@pytest.mark.parametrize("character", ["猫", "🐈", "\U000f0000"])
def test_a_font_of_boxes_is_none_that_has_a_character(character: str) -> None:
    assert "Last Resort" not in (glyphs.family_with(character) or "")


NAMES = ["$5_to_$10", "$$", r"$\frac{$", "a_$x^$", "猫", "🐈", "a\rb", "a\x1b]0;x\x07", "=1+2", "<b>&"]


@pytest.mark.usefixtures("own_font_only")
def test_classes_of_any_name_are_drawn_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot = plots_of_runs.confusion("p", NAMES, np.eye(len(NAMES), dtype=int))
        drawn = figures.draw(plot)
        figures.save(plot, drawn, figures.Files(tmp_path, figures.FORMATS))
        page = figures.svg(plot, drawn)
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert "猫" in page  # a browser's fonts have it
    assert r"\u732b" not in page
    assert "$5_to_$10" in page
    for bad in "\r\x1b\x07":
        assert bad not in page
