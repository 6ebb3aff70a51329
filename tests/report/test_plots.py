import csv
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from neuroevo.report import figures, plates, plots_of_benches, plots_of_runs, plots_of_searches
from neuroevo.report.figures import Files, Plot
from neuroevo.report.plots_of_benches import Interval, Point
from neuroevo.report.plots_of_searches import Axis, Trials
from neuroevo.storage.lineage import Ancestor

HISTORY = [
    {"generation": g, "fitness_best": -1 / g, "fitness_mean": -2 / g if g != 2 else None, "fitness_std": 0.1,
     "sigma": 10.0**-g, "validation": g / 10 if g % 2 else None}
    for g in range(1, 6)
]  # fmt: skip
CLASSES = ["a very long name of a class & <more>", "b", "c"]
NOTHING = dict.fromkeys(plots_of_runs.COSTS.values(), 0)
POINTS = [Point(10.0, 0.5, 0.4, 0.6), Point(99.0, 0.6, 0.5, 0.7)]
TREE = [[Ancestor(2, 0, 0.5, (0, 1)), Ancestor(2, 1, 0.4, (1,))], [Ancestor(1, 0, None, ()), Ancestor(1, 1, 0.1, ())]]
AXES = [
    Axis("refine.lr", [1e-4, 1e-2, float("nan")], True, []), Axis("refine.name", [0, 1, 1], False, ["adam", "sgd"]),
]  # fmt: skip


@cache
def searched() -> list[Plot]:
    return plots_of_searches.trials(Trials(AXES, [0.5, 0.75, float("nan")], [1, 1, 2], "accuracy", False))


# All that can be drawn, and of how little.
PLOTS: dict[str, Callable[[], Plot]] = {
    "anytime": lambda: plots_of_runs.anytime("p", [(100, 0.5, 0.5), (1e6, 0.4, 0.5)], "accuracy"),
    "anytime of one": lambda: plots_of_runs.anytime("p", [(100, 0.5, 0.5)], "accuracy"),
    "anytime of none": lambda: plots_of_runs.anytime("p", [], "accuracy"),
    "folds": lambda: plots_of_runs.folds("p", [HISTORY, HISTORY], "accuracy", 3),
    "folds of one": lambda: plots_of_runs.folds("p", [HISTORY], "accuracy", 3),
    "folds of none": lambda: plots_of_runs.folds("p", [[], HISTORY], "accuracy", None),
    "fitness": lambda: plots_of_runs.fitness("p", HISTORY),
    "column": lambda: plots_of_runs.column("p", HISTORY, "sigma", "caption"),
    "column of none": lambda: plots_of_runs.column("p", HISTORY, "absent", "caption"),
    "costs": lambda: plots_of_runs.costs("p", {"a": NOTHING, "b": dict.fromkeys(NOTHING, 9)}),
    "confusion": lambda: plots_of_runs.confusion("p", CLASSES, np.array([[2, 1, 0], [0, 3, 0], [0, 0, 0]])),
    "confusion of many": lambda: plots_of_runs.confusion(
        "p", [f"class {i}" for i in range(100)], np.eye(100, dtype=int)
    ),
    "genealogy": lambda: plots_of_runs.genealogy("p", TREE, "elite_mean"),
    "genealogy of one": lambda: plots_of_runs.genealogy("p", [TREE[0][:1]], "best"),
    "descent": lambda: plots_of_runs.descent("p", [TREE[0][0], TREE[1][1]], HISTORY),
    "front": lambda: plots_of_runs.front("p", ["cross_entropy", "weight_norm"], [(0.5, 2.0), (0.6, 1.0)]),
    "curves": lambda: plots_of_benches.curves(
        "p", {str(i): POINTS for i in range(9)}, "accuracy", [str(i) for i in range(9)]
    ),
    "distributions": lambda: plots_of_benches.distributions(
        "p", {"a": ([0.5, 0.6], Interval(0.55, 0.5, 0.6)), "b": ([0.1], Interval(None, None, None))}, ["b", "a"],
        title="t", caption="c", xlabel="x", zero=True,
    ),
    "probabilities": lambda: plots_of_benches.probabilities("p", ["a", "b"], {("a", "b"): 0.75, ("b", "a"): 0.25}),
    **{f"trials {i}": lambda i=i: searched()[i] for i in range(3)},
}  # fmt: skip


@pytest.mark.parametrize("draw", PLOTS.values(), ids=PLOTS)
def test_a_picture_follows_the_pages_colours_and_has_ids_of_its_own(draw: Callable[[], Plot], tmp_path: Path) -> None:
    plot = draw()
    drawn = figures.draw(plot)
    svg = figures.svg(plot, drawn)
    root = ElementTree.fromstring(svg.replace("xlink:", ""))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"].startswith(plot.title)
    assert {"width", "height"}.isdisjoint(root.attrib)  # as wide as the page has room
    assert "currentColor" in svg
    assert not re.findall(r"#010203|#000000|#ffffff|<style|<metadata|<!", svg)
    assert all(i.startswith(f"{plot.name}-") for i in re.findall(r'\bid="([^"]*)"', svg))
    assert any(element.tag.endswith("text") for element in root.iter())
    figures.save(plot, drawn, Files(tmp_path, ("png", "svg")))
    assert {path.name for path in tmp_path.iterdir()} == {f"{plot.name}.{form}" for form in ("png", "svg", "csv")}
    assert ElementTree.parse(tmp_path / f"{plot.name}.svg").getroot().tag.endswith("svg")
    header, *rows = csv.reader((tmp_path / f"{plot.name}.csv").read_text().splitlines())
    assert all(len(row) == len(header) for row in rows)


def test_no_name_is_a_formula_in_a_table_and_no_picture_is_written_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for form in ("svg", "csv"):
        (tmp_path / f"p.{form}").symlink_to(tmp_path / "mine")
    plot = plots_of_runs.confusion("p", ["=1+1", "@SUM(1)"], np.array([[2, 1], [0, 3]]))
    figures.save(plot, figures.draw(plot), Files(tmp_path, ("svg",)))
    rows = [*csv.reader((tmp_path / "p.csv").read_text().splitlines())]
    assert [row[0] for row in rows] == ["", "'=1+1", "'@SUM(1)"]
    assert rows[0][1:] == ["'=1+1", "'@SUM(1)"]
    assert (tmp_path / "mine").read_text() == "mine"


def test_the_same_numbers_are_the_same_picture() -> None:
    first = PLOTS["genealogy"]()
    assert figures.draw(first) == figures.draw(first) == figures.draw(PLOTS["genealogy"]())


def test_a_picture_is_kept_as_pdf_where_it_is_asked_for_and_each_time_the_same(tmp_path: Path) -> None:
    plot = PLOTS["genealogy"]()
    for name in ("a", "b"):
        figures.save(plot, "", Files(tmp_path / name, ("pdf",)))
        assert {path.suffix for path in (tmp_path / name).iterdir()} == {".pdf", ".csv"}
    first, second = ((tmp_path / name / f"{plot.name}.pdf").read_bytes() for name in ("a", "b"))
    assert first.startswith(b"%PDF") and first == second


def test_a_line_of_many_points_is_thinned_and_keeps_its_ends() -> None:
    rows = list(range(100_000))
    kept = figures.thin(rows)
    assert 1000 < len(kept) <= figures.POINTS + 1
    assert (kept[0], kept[-1]) == (0, 99_999)
    assert figures.thin([]) == []
    assert figures.thin(rows[:10]) == rows[:10]


def test_nothing_is_drawn_of_a_search_without_a_figure() -> None:
    assert plots_of_searches.trials(Trials(AXES, [float("nan")] * 3, [1, 1, 1], "accuracy", False)) == []


def test_an_arm_has_its_colour_whichever_is_ahead() -> None:
    nothing = Interval(None, None, None)
    for arms in (["a", "b"], ["b", "a"]):
        lines = (
            plots_of_benches.curves("p", dict.fromkeys(arms, POINTS), "accuracy", ["a", "b"]).figure.axes[0].get_lines()
        )
        assert {line.get_label(): line.get_color() for line in lines} == {
            "a": figures.SERIES[0],
            "b": figures.SERIES[1],
        }
        shown = plots_of_benches.distributions(
            "p", {arm: ([0.5], nothing) for arm in arms}, ["a", "b"], title="t", caption="c", xlabel="x"
        )
        colours = [line.get_color() for line in shown.figure.axes[0].get_lines()]
        assert colours == [figures.SERIES["ab".index(arm)] for arm in arms]


def test_series_differ_in_colour_or_in_line() -> None:
    styles = [tuple(figures.style(i).values()) for i in range(24)]
    assert len(set(styles)) == 24


HOSTILE = ["../../evil", "/tmp/evil", "..", ".hidden", "", '"><script>alert(1)<!--', r"\g<9>", "a/b", "a\0b", "\ud800",
           "x" * 300, "ß" * 300]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_picture_of_any_name_stays_in_its_folder_and_is_text_on_its_page(name: str, tmp_path: Path) -> None:
    history = [line | {name: line["generation"]} for line in HISTORY]
    where = Files(tmp_path / "plots", ("svg",))
    text = plates.plot_grid([plots_of_runs.column(name, history, name, "c")], where, "../")
    assert "<script" not in text
    assert all(re.fullmatch(r"[\w.:-]+", i) for i in re.findall(r'\bid="([^"]*)"', text))
    ElementTree.fromstring(text.replace("xlink:", "").replace("tabindex", "title"))
    assert [path.name for path in tmp_path.iterdir()] == ["plots"]
    found = sorted((tmp_path / "plots").iterdir())
    assert [path.suffix for path in found] == [".csv", ".svg"]
    assert all(path.is_file() and not path.name.startswith(".") for path in found)


def test_names_that_runs_have_are_kept_and_others_told_apart(tmp_path: Path) -> None:
    for name in ("sigma", "class.x", "refine.lr", "two-objectives-front", "curves-mine:f", "größe", "own trait"):
        assert figures.safe(name) == name
    assert len({figures.safe(name) for name in [*HOSTILE, "a-b", "a:b", "a\\b"]}) == len(HOSTILE) + 3
    drawn = [plots_of_runs.fitness("fitness", HISTORY), plots_of_runs.column("fitness", HISTORY, "sigma", "c")]
    text = plates.plot_grid(drawn, Files(tmp_path, ("svg",)))
    assert {path.name for path in tmp_path.glob("*.svg")} == {"fitness.svg", "fitness-1.svg"}
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_a_file_that_is_hard_linked_elsewhere_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    mine, where = tmp_path / "mine", Files(tmp_path / "plots", figures.FORMATS)
    mine.write_text("mine")
    for form in (*where.formats, "csv"):
        (where.make() / f"p.{form}").hardlink_to(mine)
    plot = PLOTS["costs"]()
    figures.save(plot, figures.draw(plot), where)
    assert mine.read_text() == "mine"
    assert all((where.folder / f"p.{form}").stat().st_size > 10 for form in (*where.formats, "csv"))


def test_a_name_that_is_not_utf_8_is_spelled_out_in_a_table(tmp_path: Path) -> None:
    plot = plots_of_runs.costs("p", {"r\udce9": dict.fromkeys(NOTHING, 9)})
    figures.save(plot, figures.draw(plot), Files(tmp_path, ("svg",)))
    assert r"r\udce9" in (tmp_path / "p.csv").read_text()
    assert r"r\xe9" in figures.svg(plot, figures.draw(plot))


def test_islands_and_iterations_with_huge_numbers_take_no_time() -> None:
    lines = [{"generation": 1, "island": i, "diversity": 0.5} for i in (0, 40_000, 2**62)]
    plot = plots_of_runs.islands("p", lines, "diversity", "t", "c")
    assert [text.get_text() for text in plot.figure.legends[0].get_texts()] == [
        "island 0", "island 40000", f"island {2**62}"]  # fmt: skip
    many = [{"generation": 1, "island": i, "diversity": 0.5} for i in range(2 * plots_of_runs.DRAWN)]
    plot = plots_of_runs.islands("p", many, "diversity", "t", "c")
    assert len(plot.figure.axes[0].lines) == plots_of_runs.DRAWN
    assert len(plot.rows) == len(many)
    path, *_ = plots_of_searches.trials(Trials(AXES[:1], [0.5, 0.75, 0.6], [1, 10**9, 3], "accuracy", False))
    assert [*path.figure.axes[0].lines[0].get_xdata()] == [1, 3, 10**9]
