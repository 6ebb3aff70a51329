import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Champion, Rules, Step
from neuroevo.engine.scores import Scores
from neuroevo.experiments import terminal as terminal_
from neuroevo.experiments.terminal import Terminal, fit

RULES = Rules(0, 8, 2, None, Budget(generations=6), "accuracy", False)


def step(generation: int, validation: float | None, invalid: int = 0) -> Step:
    record = {"fitness_best": -0.5, "fitness_mean": None, "validation": validation, "invalid": invalid}
    nobody = Population.new(torch.zeros(1, 1), parents=2)
    champion = Champion(torch.zeros(1), "best", 1, {})
    scores = Scores(torch.zeros(1, 1), torch.zeros(1) > 0)
    return Step(
        generation, None, nobody, scores, record, Cost(forward=100 * generation), float(generation), champion, 0, None
    )


def test_without_a_terminal_there_are_plain_lines_of_validations_and_one_a_second_at_most() -> None:
    out = io.StringIO()
    terminal = Terminal(out)
    terminal.begin(step(0, None), RULES)
    for generation in range(1, 60):
        terminal.generation(step(generation, 0.25 if generation % 20 == 0 else None, invalid=3))
    lines = out.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    assert "generation 20 of 6  best -0.5000  mean -  validation 0.2500  100 samples/s  3 invalid" in lines
    assert "\x1b" not in out.getvalue()


def test_notes_are_printed_as_they_are() -> None:
    out = io.StringIO()
    Terminal(out).note("[bold]x[/bold] " + "y" * 200)
    assert out.getvalue() == "[bold]x[/bold] " + "y" * 200 + "\n"


def test_several_runs_have_a_bar_each_while_they_go_on() -> None:
    out = io.StringIO()
    terminal = Terminal(out)
    terminal.several({"ga": 0.25})
    assert out.getvalue() == ""
    with Progress(console=Console(file=out, force_terminal=True, width=80)) as terminal.live:
        terminal.several({"ga": 0.25, "sgd": 0.0})
        terminal.several({"sgd": 0.5, "pso": 0.75})
        bars = {task.description: task.completed for task in terminal.live.tasks}
        assert bars == {"sgd": 0.5, "pso": 0.75}
        terminal.several({})
        assert [task.description for task in terminal.live.tasks] == ["at work"]  # what comes next is on its way


@pytest.mark.parametrize("room", range(10, 130, 7))
def test_a_generations_line_has_no_more_than_it_has_room_for_and_what_matters_first(room: int) -> None:
    line = fit(step(7, 0.25, invalid=3), 60, "0.2500", 123456.0, room)
    assert len(line) <= room
    assert line.startswith(("gen 7", "generation 7 of 60"))
    parts = ["validation 0.2500", "3 invalid", "best -0.5000", "mean -", "123,456 samples/s"]
    assert ("validation" in line) == (room >= len("gen 7  validation 0.2500"))
    assert room < 100 or all(part in line for part in parts)


@contextmanager
def shown(monkeypatch: pytest.MonkeyPatch, width: int) -> Iterator[tuple[Terminal, io.StringIO]]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width)
    monkeypatch.setattr(terminal_, "Console", lambda file: console)
    with terminal_.show() as terminal:
        yield terminal, out


@pytest.mark.parametrize("width", [80, 50])
def test_bar_and_time_left_are_there_whatever_the_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch, width) as (terminal, out):
        terminal.begin(step(0, None), RULES)
        for generation in range(1, 5):
            terminal.generation(step(generation, 0.25, invalid=3))
            terminal.live.refresh()  # type: ignore[union-attr]
    lines = [line.rstrip() for line in "".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())).splitlines()]
    found = [line for line in lines if "validation 0.2500" in line]
    assert found
    for line in found:
        for part in re.findall(r"gen[^\r]*?\d:\d\d:\d\d|gen[^\r]*?-:--:--", line):
            assert "━" in part
            assert "…" not in part
            assert len(part) <= width


def test_something_is_shown_before_the_first_generation_and_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch, 80) as (terminal, _):
        assert terminal.live is not None

        def lines() -> list[str]:
            return [task.description for task in terminal.live.tasks]  # type: ignore[union-attr]

        assert lines() == ["at work"]
        terminal.progress(5, 10)
        assert lines() == ["5 of 10 images"]
        terminal.progress(10, 10)
        assert lines() == ["10 of 10 images", "getting ready to go on"]
        terminal.begin(step(0, None), RULES)
        assert lines() == ["the first generation"]
        terminal.generation(step(3, 0.25))
        assert [line.split()[0] for line in lines()] == ["gen"]
        terminal.end(step(3, 0.25))
        assert lines()[1:] == ["the champion: test, files"]
        terminal.begin(step(0, None), RULES)  # of another run
        assert len(lines()) == 1
    assert terminal.live.finished or not terminal.live.tasks


def test_a_person_sees_something_before_torch_is_there() -> None:
    """What a terminal needs brings nothing heavy along."""
    heavy = "[name for name in ('torch', 'numpy', 'h5py') if name in sys.modules]"
    code = f"import sys, neuroevo.experiments.terminal; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_on_a_terminal_of_50_columns_a_run_is_shown_and_ctrl_c_is_acknowledged(tmp_path: Path) -> None:
    pid, master = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        sets = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "budget.generations=100000"]
        command = [sys.executable, "-m", "neuroevo", "run", "--out", "r", *(f"--set={text}" for text in sets)]
        own = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}  # as xdist has them
        os.execve(sys.executable, command, {**own, "TERM": "xterm-256color"})
    ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    text, sent, deadline = "", False, time.monotonic() + 60
    with suppress(OSError):  # its end
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                text += os.read(master, 65536).decode(errors="replace")
            if not sent and re.search(r"gen \d+  validation 0\.\d{4}", text):
                os.write(master, b"\x03")
                sent = True
    if time.monotonic() > deadline:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert sent, text[-2000:]
    assert os.waitstatus_to_exitcode(status) == 130
    assert "SIGINT: ends as soon as" in text
    assert text.index("SIGINT: ends as soon as") < text.index("interrupted after generation")
    assert "━" in text
    assert re.search(r"\d:\d\d:\d\d", text)
    assert (tmp_path / "r" / "checkpoints").is_dir()
