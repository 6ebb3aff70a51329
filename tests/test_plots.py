import csv
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from neuroevo import plots
from neuroevo.genealogy import Ancestor
from neuroevo.plots import Axis, Interval, Plot, Point, Trials

HISTORY = [
    {"generation": g, "fitness_best": -1 / g, "fitness_mean": -2 / g if g != 2 else None, "fitness_std": 0.1,
     "sigma": 10.0**-g}
    for g in range(1, 6)
]  # fmt: skip
CLASSES = ["a very long name of a class & <more>", "b", "c"]
NOTHING = dict.fromkeys(plots.COSTS.values(), 0)
POINTS = [Point(10.0, 0.5, 0.4, 0.6), Point(99.0, 0.6, 0.5, 0.7)]
TREE = [[Ancestor(2, 0, 0.5, (0, 1)), Ancestor(2, 1, 0.4, (1,))], [Ancestor(1, 0, None, ()), Ancestor(1, 1, 0.1, ())]]
AXES = [
    Axis("refine.lr", [1e-4, 1e-2, float("nan")], True, []), Axis("refine.name", [0, 1, 1], False, ["adam", "sgd"]),
]  # fmt: skip


@cache
def searched() -> list[Plot]:
    return plots.trials(Trials(AXES, [0.5, 0.75, float("nan")], [1, 1, 2], "accuracy", False))


# All that can be drawn, and of how little.
PLOTS: dict[str, Callable[[], Plot]] = {
    "anytime": lambda: plots.anytime("p", [(100, 0.5, 0.5), (1e6, 0.4, 0.5)], "accuracy"),
    "anytime of one": lambda: plots.anytime("p", [(100, 0.5, 0.5)], "accuracy"),
    "anytime of none": lambda: plots.anytime("p", [], "accuracy"),
    "fitness": lambda: plots.fitness("p", HISTORY),
    "column": lambda: plots.column("p", HISTORY, "sigma", "caption"),
    "column of none": lambda: plots.column("p", HISTORY, "absent", "caption"),
    "costs": lambda: plots.costs("p", {"a": NOTHING, "b": dict.fromkeys(NOTHING, 9)}),
    "confusion": lambda: plots.confusion("p", CLASSES, np.array([[2, 1, 0], [0, 3, 0], [0, 0, 0]])),
    "confusion of many": lambda: plots.confusion("p", [f"class {i}" for i in range(100)], np.eye(100, dtype=int)),
    "genealogy": lambda: plots.genealogy("p", TREE, "elite_mean"),
    "genealogy of one": lambda: plots.genealogy("p", [TREE[0][:1]], "best"),
    "descent": lambda: plots.descent("p", [TREE[0][0], TREE[1][1]], HISTORY),
    "front": lambda: plots.front("p", ["cross_entropy", "weight_norm"], [(0.5, 2.0), (0.6, 1.0)]),
    "curves": lambda: plots.curves("p", {str(i): POINTS for i in range(9)}, "accuracy", [str(i) for i in range(9)]),
    "distributions": lambda: plots.distributions("p", "t", "c", "x", {"a": ([0.5, 0.6], Interval(0.55, 0.5, 0.6)),
                                                                     "b": ([0.1], Interval(None, None, None))},
                                                 ["b", "a"], True),
    "probabilities": lambda: plots.probabilities("p", ["a", "b"], {("a", "b"): 0.75, ("b", "a"): 0.25}),
    **{f"trials {i}": lambda i=i: searched()[i] for i in range(3)},
}  # fmt: skip


@pytest.mark.parametrize("draw", PLOTS.values(), ids=PLOTS)
def test_a_picture_follows_the_pages_colours_and_has_ids_of_its_own(draw: Callable[[], Plot], tmp_path: Path) -> None:
    plot = draw()
    svg = plots.svg(plot)
    root = ElementTree.fromstring(svg.replace("xlink:", ""))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"].startswith(plot.title)
    assert {"width", "height"}.isdisjoint(root.attrib)  # as wide as the page has room
    assert "currentColor" in svg
    assert not re.findall(r"#010203|#000000|#ffffff|<style|<metadata|<!", svg)
    assert all(i.startswith(f"{plot.name}-") for i in re.findall(r'\bid="([^"]*)"', svg))
    assert any(element.tag.endswith("text") for element in root.iter())
    plots.save(plot, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{plot.name}.png", f"{plot.name}.csv"}
    header, *rows = csv.reader((tmp_path / f"{plot.name}.csv").read_text().splitlines())
    assert all(len(row) == len(header) for row in rows)


def test_the_same_numbers_are_the_same_picture() -> None:
    first = PLOTS["genealogy"]()
    assert plots.svg(first) == plots.svg(first) == plots.svg(PLOTS["genealogy"]())


def test_a_line_of_many_points_is_thinned_and_keeps_its_ends() -> None:
    rows = list(range(100_000))
    kept = plots.thinned(rows)
    assert 1000 < len(kept) <= plots.POINTS + 1
    assert (kept[0], kept[-1]) == (0, 99_999)
    assert plots.thinned([]) == []
    assert plots.thinned(rows[:10]) == rows[:10]


def test_nothing_is_drawn_of_a_search_without_a_figure() -> None:
    assert plots.trials(Trials(AXES, [float("nan")] * 3, [1, 1, 1], "accuracy", False)) == []


def test_an_arm_has_its_colour_whichever_is_ahead() -> None:
    nothing = Interval(None, None, None)
    for arms in (["a", "b"], ["b", "a"]):
        lines = plots.curves("p", dict.fromkeys(arms, POINTS), "accuracy", ["a", "b"]).figure.axes[0].get_lines()
        assert {line.get_label(): line.get_color() for line in lines} == {"a": plots.SERIES[0], "b": plots.SERIES[1]}
        shown = plots.distributions("p", "t", "c", "x", {arm: ([0.5], nothing) for arm in arms}, ["a", "b"])
        colours = [line.get_color() for line in shown.figure.axes[0].get_lines()]
        assert colours == [plots.SERIES["ab".index(arm)] for arm in arms]


def test_series_differ_in_colour_or_in_line() -> None:
    styles = [tuple(plots.style(i).values()) for i in range(24)]
    assert len(set(styles)) == 24
