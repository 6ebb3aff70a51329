"""How a search from Python shows how far it is: one line in a terminal, one output in a notebook, nothing unasked."""

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import neuroevo as ne
from neuroevo.api import progress

SEARCH: dict[str, Any] = {"start": torch.zeros(3), "fitness": lambda g: -g.square().sum(1)}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_redrawn_and_ends_in_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "OFTEN", 0.0)
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    ne.evolve(**SEARCH, budget=ne.Budget(generations=6), observers=[ne.progress(stream)])
    shown = stream.getvalue()
    assert shown.count("\n") == 1 and shown.endswith("\n")
    drawn = [line.removeprefix("\x1b[K").rstrip("\n") for line in shown.split("\r")[1:]]
    assert len(drawn) == 7  # six generations and the end
    assert all(len(line) < 60 for line in drawn)
    assert re.fullmatch(r"\[###\.{5}\] gen 2/6  validation -\d\.\d{4}  0:\d\d left", drawn[1])
    assert re.fullmatch(r"\[#{8}\] gen 6 .* stopped by generations, 0:0\d", drawn[6])


def test_a_file_has_lines_without_control_characters() -> None:
    stream = io.StringIO()
    x = torch.randn(100, 4)
    data = (x, (x[:, 0] > 0).long())
    ne.evolve(torch.nn.Linear(4, 2), data, budget=ne.Budget(generations=30), observers=[ne.progress(stream)])
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert "100 of 100 samples read" in lines[0]
    assert len(lines) < 6 and "stopped by generations" in lines[-1]


def test_a_notebook_has_one_output_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    def display(data: dict[str, str], **how: Any) -> Any:
        assert how == {"raw": True, "display_id": True}
        shown.append(("new", data["text/plain"]))
        return SimpleNamespace(update=lambda data, raw: shown.append(("update", data["text/plain"])))

    shell = SimpleNamespace(kernel=object())
    fake = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    x = torch.randn(60, 4)
    data = (x, (x[:, 0] > 0).long())
    options: dict[str, Any] = {"folds": 2, "budget": ne.Budget(generations=2)}
    ne.evolve(torch.nn.Linear(4, 2), data, **options, observers=[ne.progress()])
    assert [kind for kind, _ in shown] == ["new"] + ["update"] * (len(shown) - 1)
    last = shown[-1][1].splitlines()
    assert last[0] == "fold 1 of 2" and last[2] == "fold 2 of 2" and last[4].startswith("chosen: ")
    assert "stopped by" in last[-1] and len(last) == 6


def test_an_ipython_that_is_no_notebook_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert progress.in_notebook() is None


CELL = """
import torch, neuroevo as ne
x = torch.randn(60, 4)
options = {"budget": ne.Budget(generations=50), "every": 5}
found = ne.evolve(torch.nn.Linear(4, 2), (x, (x[:, 0] > 0).long()), **options%s)
"""


@pytest.mark.long
def test_an_executed_notebook_has_one_plain_output_where_it_is_asked_for() -> None:
    nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the extra docs is not installed")
    cells = [nbformat.v4.new_code_cell(CELL % more) for more in ("", ", observers=[ne.progress()]")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    silent, shown = (cell["outputs"] for cell in notebook.cells)
    assert silent == []
    assert [each["output_type"] for each in shown] == ["display_data"]
    assert [*shown[0]["data"]] == ["text/plain"]
    assert re.search(r"gen 50/50  validation .* stopped by generations, 0:0", shown[0]["data"]["text/plain"])
