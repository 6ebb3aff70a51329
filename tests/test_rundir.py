import json
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from safetensors import safe_open

from neuroevo import rundir
from neuroevo.cost import Cost
from neuroevo.fitness import Scores
from neuroevo.genome import Population
from neuroevo.loop import Champion, Step


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    rundir.replace(path, b"one")
    with pytest.raises(TypeError):
        rundir.replace(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_history_is_a_line_a_generation(tmp_path: Path) -> None:
    rundir.write_history(tmp_path, [{"generation": 1, "validation": None}, {"generation": 2, "validation": 0.5}])
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["validation"] for line in lines] == [None, 0.5]


def test_the_champions_file_is_plain_weights_with_a_note(tmp_path: Path) -> None:
    rundir.write_champion(tmp_path, {"fc.weight": torch.eye(3).T}, {"classes": [1]})
    with safe_open(tmp_path / "champion.safetensors", "pt") as file:
        assert list(file.metadata()) == ["neuroevo"]
        assert json.loads(file.metadata()["neuroevo"]) == {"classes": [1], "sha256": ANY}
        assert torch.equal(file.get_tensor("fc.weight"), torch.eye(3))


def test_a_last_line_that_is_half_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert rundir.read_lines(path) == []
    for text, found in (("", []), ('{"a"', []), ('{"a": 1}\n', [{"a": 1}]), ('{"a": 1}\n{"a": 2}', [{"a": 1}])):
        path.write_text(text)
        assert rundir.read_lines(path) == found


def test_a_lineage_is_kept_only_where_individuals_have_one_or_two_parents(tmp_path: Path) -> None:
    def step(generation: int, parents: list[list[int]], values: list[list[float]], objectives: int = 1) -> Step:
        scores = Scores(torch.tensor(values, dtype=torch.float64), torch.tensor([False, True]), objectives=objectives)
        population = Population(torch.zeros(2, 1), {}, torch.tensor(parents))
        nobody = Champion(torch.zeros(1), "none", 0, {})
        return Step(generation, None, population, scores, {}, Cost(), 0.0, nobody, 0, None)

    rundir.extend_lineage(tmp_path, step(1, [[-1, -1, -1]] * 2, [[0.5], [0.1]]))
    assert not (tmp_path / "lineage.jsonl").exists()
    rundir.extend_lineage(tmp_path, step(1, [[-1, -1]] * 2, [[0.5], [0.1]]))
    rundir.extend_lineage(tmp_path, step(2, [[-1, -1]] * 2, [[0.5], [0.1]]))
    rundir.extend_lineage(tmp_path, step(3, [[0, 1], [1, -1]], [[0.5, 0.25], [0.1, 0.2]], objectives=2))
    lines = rundir.read_lines(tmp_path / "lineage.jsonl")
    assert [line["generation"] for line in lines] == [1, 3]
    assert [line["fitness"] for line in lines] == [[0.5, None], [[0.5, 0.25], None]]
    assert lines[1]["parents"] == [[0, 1], [1, -1]]
    rundir.cut_lineage(tmp_path, 2)
    assert rundir.read_lines(tmp_path / "lineage.jsonl") == lines[:1]


def test_a_runs_commands_are_in_its_log(tmp_path: Path) -> None:
    assert rundir.commands(tmp_path) == []
    lines = ["command: neuroevo run a.yaml", "note: command: none", "command: neuroevo resume 'a b'"]
    (tmp_path / "run.log").write_text("".join(f"2026-01-01 00:00:00 {line}\n" for line in lines))
    assert rundir.commands(tmp_path) == ["neuroevo run a.yaml", "neuroevo resume 'a b'"]
