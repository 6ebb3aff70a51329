"""What a notebook shows: all there is to know in a table, with nothing in it that runs."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import neuroevo as ne
from neuroevo.api import notebook

ALLOWED = {"div", "table", "caption", "tr", "th", "td", "svg", "title", "polyline"}
EVIL = '<script>alert(1)</script> \x1b[31m & "quoted"'


class Reader(HTMLParser):
    """Reads a page: its tags, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "polyline":
            self.open.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> str:
    found = Reader(page)
    assert {*found.tags} <= ALLOWED
    assert not found.open
    return " ".join(found.words)


def test_a_result_shows_its_scores_its_cost_and_its_curve(tmp_path: Path) -> None:
    x = torch.randn(200, 4)
    model = nn.Linear(4, 2)
    found = ne.evolve(model, (x, (x[:, 0] > 0).long()), budget=ne.Budget(generations=4), out=tmp_path / "a <b> run")
    page = found._repr_html_()
    said = read(page)
    assert found.test is not None
    low, high = found.test["interval"]["accuracy"]
    assert f"{found.validation['accuracy']:.4f}" in said
    assert f"{found.test['accuracy']:.4f} [{low:.4f}, {high:.4f}]" in said
    assert "a <b> run" in said
    assert f"{found.cost.forward:,}" in said
    assert page.count("<polyline") == 1
    champion = read(ne.load(tmp_path / "a <b> run", model)._repr_html_())
    assert "2: 0, 1" in champion
    assert "weights 10" in champion


def test_a_result_without_data_shows_what_its_function_returned() -> None:
    budget = ne.Budget(generations=3)
    found = ne.evolve(start=torch.ones(3), fitness=lambda g: -(g**2).sum(1), budget=budget)
    assert f"{found.fitness:.4f}" in read(found._repr_html_())


def test_names_are_text_and_nothing_else() -> None:
    page = notebook.page(EVIL, [(EVIL, EVIL), ("number", 1234567), ("none", float("nan"))], (EVIL, [1.0, 2.0]))
    assert "<script" not in page
    assert "\x1b" not in page
    assert "alert(1)" in read(page)
    assert "1,234,567" in page


@pytest.mark.parametrize("values", [[], [1.0], [None, 1.0], [float("nan")] * 5])
def test_of_less_than_two_values_there_is_no_curve(values: list[float | None]) -> None:
    assert notebook.draw("best", values) == ""


def test_a_long_curve_has_few_points_and_keeps_its_last() -> None:
    page = notebook.draw("best", [float(i) for i in range(100_001)])
    points = page.split('points="')[1].split('"')[0].split()
    assert len(points) <= notebook.POINTS + 1
    assert points[0] == "3.0,45.0"
    assert points[-1] == "237.0,3.0"
    assert "nan" not in notebook.draw("flat", [1.0] * 9)
