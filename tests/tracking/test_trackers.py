import csv
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from doubles import TOLD

from neuroevo.errors import InputError
from neuroevo.tracking import child, trackers
from neuroevo.tracking.trackers import TRACKERS, Run

LINES = [{"generation": g, "fitness_best": g / 3, "validation": None, "seconds": 0.5 * g} for g in (1, 2, 3)]


def told(*messages: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    TOLD.clear()
    first = {"name": "doubles:remember", "options": options, "run": Run("r", "/f", {}, 0.0)._asdict()}
    answers = io.StringIO()
    child.serve([json.dumps(each) for each in (first, *messages)], answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_tracker_is_told_each_line_and_the_result_and_answers_by_what_it_is_known() -> None:
    finished = {"result": {"result/status": "finished"}, "plots": ["a.png"]}
    answers = told(*({"line": line} for line in LINES), finished)
    assert [*LINES, ({"result/status": "finished"}, ["a.png"]), True] == TOLD
    assert answers == [{"id": "id", "place": "here", "done": 0}, {"done": 3}]


def test_a_tracker_is_not_told_again_what_it_has() -> None:
    answers = told(*({"line": line} for line in LINES), has=2)
    assert [LINES[2], False] == TOLD  # without a result it hasn't come to its end
    assert [answer["done"] for answer in answers] == [2, 3]
    assert told(*({"line": line} for line in LINES), has=5)[-1] == {"done": 5}
    assert TOLD == [False]


def test_what_a_tracker_raises_is_an_answer_and_no_traceback() -> None:
    first = {"name": "json:nothing", "options": {}, "run": Run("r", "/f", {}, 0.0)._asdict()}
    found = subprocess.run(
        [sys.executable, "-m", child.__name__],
        input=json.dumps(first) + "\n",
        text=True,
        capture_output=True,
        check=True,
    )
    assert json.loads(found.stdout)["failed"].startswith("AttributeError: module 'json'")
    assert found.stderr == ""


def test_the_table_has_a_row_a_generation_and_the_columns_that_came_later(tmp_path: Path) -> None:
    for lines in (LINES, [*LINES, {"generation": 4, "seconds": 2.0, "lr": 0.1}]):
        tracker = trackers.csv(Run("r", str(tmp_path), {}, 0.0))  # again: nothing is doubled
        for line in lines:
            tracker.line(line)
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["generation"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["fitness_best"]) for row in rows[:3]] == [line["fitness_best"] for line in LINES]
    assert [row["lr"] for row in rows] == ["", "", "", "0.1"]
    assert rows[3]["fitness_best"] == rows[0]["validation"] == ""


@pytest.mark.parametrize(
    ("column", "shown"), [("=1+1", "'=1+1"), ("\x1b[2J", "\\x1b[2J"), ("-a", "'-a"), ("a,b", "a,b"), ("a/b", "a/b")]
)
def test_a_columns_name_is_no_more_than_text_in_the_table(tmp_path: Path, column: str, shown: str) -> None:
    tracker = trackers.csv(Run("r", str(tmp_path), {}, 0.0))
    for line in LINES:
        tracker.line({**line, column: -1.5})
    with open(tmp_path / "history.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [*LINES[0], shown]
    assert [row[-1] for row in rows] == ["-1.5"] * 3


def test_a_table_is_written_anew_and_not_where_a_link_leads(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for make in (Path.symlink_to, Path.hardlink_to):
        mine.write_text("mine")
        (tmp_path / "history.csv").unlink(missing_ok=True)
        make(tmp_path / "history.csv", mine)
        trackers.csv(Run("r", str(tmp_path), {}, 0.0)).line(LINES[0])
        assert mine.read_text() == "mine"


EVENTS = "events.out.tfevents.1.host.1.0.neuroevo"


@pytest.mark.parametrize("id", ["../outside", "{}/outside", ".", "..", "", "tensorboard/../../outside", "x"])
@pytest.mark.parametrize("dir", [None, "events"])
def test_events_are_written_where_they_may_be_whatever_a_run_was_known_by(
    tmp_path: Path, dir: str | None, id: str
) -> None:
    for name in ("run", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / EVENTS).write_text("mine")
    given = None if dir is None else str(tmp_path / dir)
    run = Run("r", str(tmp_path / "run"), {}, 0.0, id=id.format(tmp_path))
    place = trackers.choose_place(run, given)
    assert place == ("tensorboard" if given is None else f"{given}/r")
    tracker = trackers.tensorboard(run, dir=given)
    tracker.line(LINES[0])
    tracker.close(True)
    assert tracker.id == place
    assert {path.name for path in (tmp_path / "outside").iterdir()} == {EVENTS}
    assert (tmp_path / "run" / EVENTS).exists()
    assert [*(tmp_path / "run" / place).iterdir()]


@pytest.mark.parametrize("id", ["r", "r-2", "as it was called before"])
def test_a_run_goes_on_in_its_own_folder_of_those_that_are_named(tmp_path: Path, id: str) -> None:
    known = str(tmp_path / id)
    assert trackers.choose_place(Run("r", "/f", {}, 0.0, id=known), str(tmp_path)) == known
    for other in (str(tmp_path / "a" / id), str(tmp_path / "a" / ".."), str(tmp_path)):
        assert trackers.choose_place(Run("r", "/f", {}, 0.0, id=other), str(tmp_path)) == str(tmp_path / "r")


@pytest.mark.parametrize("dir", [None, "events"])
def test_events_are_not_written_through_a_link(tmp_path: Path, dir: str | None) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / EVENTS).write_text("mine")
    (tmp_path / "run").mkdir()
    given = None if dir is None else str(tmp_path / dir)
    link = tmp_path / "run" / "tensorboard" if given is None else Path(given, "r")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="is a link"):
        trackers.tensorboard(Run("r", str(tmp_path / "run"), {}, 0.0, id=str(link)), dir=given)
    assert (tmp_path / "outside" / EVENTS).read_text() == "mine"


def test_a_config_is_flat_under_dotted_keys_and_a_list_is_a_value() -> None:
    config = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": "x", "g": None, "h": {}}
    assert dict(trackers.flatten(config)) == {"a.b.c": "1", "a.d": '[1, {"e": 2}]', "f": "x", "g": "null", "h": "{}"}


def test_the_figures_of_a_result_are_its_scores_with_intervals_and_its_cost() -> None:
    test = {"accuracy": 0.5, "images": 9, "interval": {"accuracy": [0.4, 0.6]}, "constraints": {}}
    champion = {"kind": "best", "generation": 3, "validation": {"accuracy": 0.7, "loss": None}, "test": test}
    found = trackers.figures_of({"status": "finished", "champion": champion, "cost": {"seconds": 2.0}, "seed": 1})
    assert found == {
        "result/status": "finished", "result/champion": "best", "result/champion_generation": 3,
        "result/validation_accuracy": 0.7, "result/test_accuracy": 0.5, "result/test_images": 9,
        "result/test_accuracy_low": 0.4, "result/test_accuracy_high": 0.6, "result/seconds": 2.0,
    }  # fmt: skip
    assert trackers.figures_of({}) == {}


def test_a_place_that_another_run_has_is_left_to_it(tmp_path: Path) -> None:
    assert trackers.free(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert trackers.free(tmp_path / "a") == tmp_path / "a-3"
    (tmp_path / "a-3").symlink_to("nowhere")
    assert trackers.free(tmp_path / "a") == tmp_path / "a-4"


@pytest.mark.parametrize("name", trackers.LIBRARIES)
def test_a_library_that_is_missing_is_named_with_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trackers.check_installed(name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda library: None)
    with pytest.raises(InputError, match=rf"^tracking: {name} isn't installed: pip install 'neuroevo\[tracking\]'$"):
        trackers.check_installed(name)
    trackers.check_installed("csv")


def test_a_folder_of_a_librarys_name_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trackers, "LIBRARIES", ("only_a_folder",))
    with pytest.raises(InputError, match="only_a_folder isn't installed"):
        trackers.check_installed("only_a_folder")


def test_no_library_is_imported_to_check_a_config_that_names_all() -> None:
    names = ", ".join(TRACKERS)
    code = f"from neuroevo.config import load; from neuroevo.experiments.tracking import check_installed; import sys; \
check_installed(load(None, ['tracking=[{names}]']).tracking); print({{*{trackers.LIBRARIES}}} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert found.stdout == "set()\n"


def test_the_tracker_of_the_guide_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text()
    (tmp_path / "mine.py").write_text(guide.partition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    first = {"name": "mine:diary", "options": {"file": str(tmp_path / "diary.txt")}}
    first["run"] = Run("r", str(tmp_path), {}, 0.0, done=1)._asdict()
    messages = [first, *({"line": line} for line in LINES), {"result": {"result/status": "finished"}, "plots": []}]
    child.serve(map(json.dumps, messages), io.StringIO())
    assert (tmp_path / "diary.txt").read_text() == "r 2 None\nr 3 None\nr finished\n"
