import io

import torch
from rich.console import Console
from rich.progress import Progress

from neuroevo.engine.cost import Budget, Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Champion, Rules, Step
from neuroevo.engine.scores import Scores
from neuroevo.experiments.terminal import Terminal

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
        assert not terminal.live.tasks
