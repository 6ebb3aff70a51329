import csv
import errno
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch
from safetensors import safe_open

from neuroevo.engine.cost import Cost
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Champion, Step
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError, RunError
from neuroevo.storage import files, records, rundir
from neuroevo.storage import lineage as lineages


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    files.replace(path, b"one")
    with pytest.raises(TypeError):
        files.replace(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_rename_that_happened_though_it_is_told_as_failed_is_none_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over NFS, where an answer was lost and the question asked again."""
    real, path = Path.replace, tmp_path / "f"
    files.replace(path, b"one")

    def told(self: Path, target: Path) -> Path:
        real(self, target)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    def failed(self: Path, target: Path) -> Path:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "replace", told)
    files.replace(path, b"two")
    monkeypatch.setattr(Path, "replace", failed)
    with pytest.raises(RunError, match="f: not written .Stale file handle"):
        files.replace(path, b"six")
    assert path.read_bytes() == b"two"
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
    assert files.read_lines(path) == []
    for text, found in (("", []), ('{"a"', []), ('{"a": 1}\n', [{"a": 1}]), ('{"a": 1}\n{"a": 2}', [{"a": 1}])):
        path.write_text(text)
        assert files.read_lines(path) == found


def test_a_lineage_is_kept_only_where_individuals_have_one_or_two_parents(tmp_path: Path) -> None:
    def step(generation: int, parents: list[list[int]], values: list[list[float]], objectives: int = 1) -> Step:
        scores = Scores(torch.tensor(values, dtype=torch.float64), torch.tensor([False, True]), objectives=objectives)
        population = Population.new(torch.zeros(2, 1))._replace(parents=torch.tensor(parents))
        nobody = Champion(torch.zeros(1), "none", 0, {})
        return Step(generation, None, population, scores, {}, Cost(), 0.0, nobody, 0, None)

    rundir.extend_lineage(tmp_path, step(1, [[-1, -1, -1]] * 2, [[0.5], [0.1]]))
    assert not (tmp_path / "lineage.jsonl").exists()
    rundir.extend_lineage(tmp_path, step(1, [[-1, -1]] * 2, [[0.5], [0.1]]))
    rundir.extend_lineage(tmp_path, step(2, [[-1, -1]] * 2, [[0.5], [0.1]]))
    rundir.extend_lineage(tmp_path, step(3, [[0, 1], [1, -1]], [[0.5, 0.25], [0.1, 0.2]], objectives=2))
    lines = files.read_lines(tmp_path / "lineage.jsonl")
    assert [line["generation"] for line in lines] == [1, 3]
    assert [line["fitness"] for line in lines] == [[0.5, None], [[0.5, 0.25], None]]
    assert lines[1]["parents"] == [[0, 1], [1, -1]]
    rundir.cut_lineage(tmp_path, 2)
    assert files.read_lines(tmp_path / "lineage.jsonl") == lines[:1]


def test_a_runs_commands_are_in_its_log(tmp_path: Path) -> None:
    assert rundir.commands(tmp_path) == []
    lines = ["command: neuroevo run a.yaml", "note: command: none", "command: neuroevo resume 'a b'"]
    (tmp_path / "run.log").write_text("".join(f"2026-01-01 00:00:00 {line}\n" for line in lines))
    assert rundir.commands(tmp_path) == ["neuroevo run a.yaml", "neuroevo resume 'a b'"]


def strict(text: str) -> object:
    def refused(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refused)


def test_json_is_such_as_everybody_reads(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    line = {"a": [nan, (1.5, inf)], "b": {"c": -inf}, "d": "NaN", "e": 1}
    assert strict(files.dumps(line)) == {"a": [None, [1.5, None]], "b": {"c": None}, "d": "NaN", "e": 1}
    rundir.write_result(tmp_path, {"status": "finished", "validation": nan})
    rundir.write_history(tmp_path, [{"generation": 1, "fitness_best": inf}])
    found = strict((tmp_path / "result.json").read_text())
    assert {key: found[key] for key in found if key != "checksum"} == {"status": "finished", "validation": None}
    assert strict((tmp_path / "history.jsonl").read_text()) == {"generation": 1, "fitness_best": None}


def test_a_formula_for_a_class_is_a_text_in_the_table_and_itself_when_read_back(tmp_path: Path) -> None:
    classes = ["=1+2", "+x", "-x", "@x", "\tx", "'x", "'=x", "plain", "a,b", 'q"q', "日本"]
    rundir.write_confusion(tmp_path, classes, torch.eye(len(classes), dtype=torch.int64))
    header = next(csv.reader((tmp_path / "confusion.csv").read_text().splitlines()))
    assert not any(name.startswith(("=", "+", "-", "@", "\t")) for name in header)
    assert header[7:] == classes[7:]
    found = rundir.read_confusion(tmp_path)
    assert found is not None
    assert found[0] == [*classes[:4], r"\tx", *classes[5:]]  # no file commands whoever prints it
    assert found[1] == torch.eye(len(classes), dtype=torch.int64).tolist()


DAMAGES = {
    "empty": b"", "garbage": bytes(range(256)), "list": b"[]\n", "number": b"3\n", "other": b'{"a": 1}\n{"a": 1}\n',
    "null": b"null\n", "text": b'"x"\n', "deep": b"[" * 100_000 + b"\n", "long": b"1" * 10_000 + b"\n",
    "huge": b'{"generation": 1e999, "parents": [[1e999]], "fitness": [1]}\n', "wide": "x\n".encode("utf-16"),
}  # fmt: skip
COSTS = ("forward_samples", "backward_samples", "validation_samples", "backbone_samples", "seconds")


@pytest.mark.parametrize("damage", [*DAMAGES, "folder", "half", "flip"])
def test_a_damaged_text_file_is_a_line_and_the_rest_is_read(tmp_path: Path, damage: str) -> None:
    champion = {"kind": "best", "generation": 1, "validation": {"accuracy": 0.5}}
    rundir.write_result(tmp_path, {"status": "finished", "stop_reason": "x", "generations": 1, "champion": champion,
                                   "cost": dict.fromkeys(COSTS, 1)})  # fmt: skip
    columns = dict.fromkeys(records.COUNTS, 0) | dict.fromkeys(records.FIGURES, 0.5)
    rundir.write_history(tmp_path, [columns | {"generation": 1}, columns | {"generation": 2}])
    lineage = [{"generation": g, "parents": [[-1, -1]], "fitness": [0.5]} for g in (1, 2)]
    (tmp_path / "lineage.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lineage))
    rundir.write_confusion(tmp_path, ["a", "b"], torch.eye(2, dtype=torch.int64))
    readers = {
        "result.json": lambda note: rundir.read_result(tmp_path, note),
        "history.jsonl": lambda note: rundir.read_history(tmp_path, note),
        "lineage.jsonl": lambda note: [*lineages.read(tmp_path, note)],
        "confusion.csv": lambda note: rundir.read_confusion(tmp_path, note),
    }
    for name, read in readers.items():
        lines: list[str] = []
        assert read(lines.append)
        assert not lines
        path = tmp_path / name
        whole = path.read_bytes()
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage in ("half", "flip"):
            middle = len(whole) // 2
            path.write_bytes(whole[:middle] + (b"\xff" + whole[middle + 1 :] if damage == "flip" else b""))
        else:
            path.write_bytes(DAMAGES[damage])
        found = read(lines.append)
        assert all(str(path) in line and "\n" not in line for line in lines)
        if damage not in ("half", "flip"):
            assert not found
        if damage not in ("empty", "half") or name == "result.json":
            assert lines


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("r", "is the run's folder"), ("r/result.json", "is the run's own"), ("r/checkpoints/x", "is the run's own"),
        ("r/../r/champion.safetensors", "is the run's own"), ("link", "is the run's own"),
        ("r/.lock", "is the run's own"),
        ("r/config.yaml.partial", "is the run's own"), ("r/mine.safetensors", None), ("mine", None),
    ],
)  # fmt: skip
def test_a_file_of_the_run_is_no_place_to_write_to(tmp_path: Path, out: str, message: str | None) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "r" / "result.json")
    if message is None:
        rundir.refuse_inside(str(tmp_path / "r"), str(tmp_path / out))
        return
    with pytest.raises(InputError, match=message):
        rundir.refuse_inside(str(tmp_path / "r"), str(tmp_path / out))


def test_a_line_that_has_no_room_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with (
        open("/dev/full", "ab", buffering=0) as file,
        pytest.raises(RunError, match="^/dev/full: not written .No space"),
    ):
        files.append(file, "x\n")
    with open(tmp_path / "f", "ab", buffering=0) as file:
        files.append(file, "x\udcff\n")
    assert (tmp_path / "f").read_text() == "x\\udcff\n"


def test_a_file_that_cant_be_written_is_one_line_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "result.json").write_text("before")

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"result.json: not written \(No space left on device\)$"):
        rundir.write_result(tmp_path, {})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_a_changed_digit_in_a_result_or_its_confusion_matrix_is_noticed(tmp_path: Path) -> None:
    cost = dict.fromkeys(("forward_samples", "backward_samples", "validation_samples", "backbone_samples"), 7)
    champion = {"kind": "best", "generation": 3, "validation": {"accuracy": 0.5}}
    result = {"status": "finished", "stop_reason": "generations", "generations": 3, "seed": 0, "device": "cpu",
              "champion": champion, "cost": {**cost, "seconds": 1.5}, "test_scored": 1, "versions": {}}  # fmt: skip
    rundir.write_confusion(tmp_path, ["a", "b"], torch.eye(2, dtype=torch.int64))
    rundir.write_result(tmp_path, result)
    file, matrix, lines = tmp_path / "result.json", tmp_path / "confusion.csv", list[str]()
    assert result.items() <= rundir.read_result(tmp_path, lines.append).items()
    assert rundir.read_confusion(tmp_path, lines.append) == (["a", "b"], [[1, 0], [0, 1]])
    matrix.write_text(matrix.read_text().replace("1,0", "9,0"))
    assert rundir.read_confusion(tmp_path, lines.append) is None
    text = file.read_text()
    file.write_text(text.replace("1.5", "2.5"))  # seconds differ between two runs of the same, and are left out
    assert rundir.read_result(tmp_path, lines.append)["cost"]["seconds"] == 2.5
    file.write_text(text.replace('"accuracy": 0.5', '"accuracy": 0.9'))
    assert rundir.read_result(tmp_path, lines.append) == {}
    assert [line.split(":")[0].rpartition("/")[2] for line in lines] == ["confusion.csv", "result.json"]
    file.write_text(json.dumps(result))  # of before there were checksums
    assert rundir.read_result(tmp_path) == result


def test_a_lineage_that_is_gone_or_has_another_digit_is_told_where_the_run_ended_with_it(tmp_path: Path) -> None:
    line = {"generation": 1, "fitness_best": 1.0, "fitness_mean": 1.0, "fitness_std": 0.0, "diversity": 0.0,
            "validation": None, "invalid": 0, "forward_samples": 1, "backward_samples": 0, "seconds": 0.1}  # fmt: skip
    result = {
        "status": "finished", "stop_reason": "generations", "generations": 1, "cost": dict.fromkeys(
            ("forward_samples", "backward_samples", "validation_samples", "backbone_samples", "seconds"), 1),
        "champion": {"kind": "best", "generation": 1, "validation": {}},
    }  # fmt: skip

    def told() -> list[str]:
        said: list[str] = []
        rundir.check_beside(tmp_path, said.append)
        return said

    lineage = tmp_path / rundir.LINEAGE
    lineage.write_text('{"generation": 1, "parents": [[-1]], "fitness": [1.5]}\n')
    (tmp_path / rundir.HISTORY).write_text(files.dumps(line) + "\n")
    rundir.write_result(tmp_path, result)
    assert told() == []
    lineage.write_text(lineage.read_text().replace("1.5", "2.5"))
    assert told() == [f"{lineage}: damaged: another checksum than when the run ended"]
    with open(tmp_path / rundir.HISTORY, "a") as history:
        history.write(files.dumps(line | {"generation": 2}) + "\n")
    assert told() == []  # the run goes on, and so does its lineage
    lineage.unlink()
    assert told() == [f"{lineage}: gone"]


CHAMPION = {"kind": "best", "generation": 1, "validation": {"accuracy": 0.5}}
RESULT = {"status": "finished", "stop_reason": "x", "generations": 1, "champion": CHAMPION,
          "cost": dict.fromkeys(COSTS, 1)}  # fmt: skip
TUNING = {"status": "finished", "stop_reason": "x", "iterations": 1, "trials": 1, "best": None,
          "cost": dict.fromkeys(COSTS, 1)}  # fmt: skip
TEST = {"accuracy": 0.5, "interval": {"accuracy": [0.4, 0.6]}, "images": 9}
LOGISTIC = {"C": 1.0, "seconds": 1.0, "validation": {"accuracy": 0.5}, "test": TEST}
SOUP = {"about": "x", "members": 2, "temperature": None, "validation": {"accuracy": 0.5}, "test": TEST}
FORMS = {  # of parts of a result, those that are right
    "data": {"noun": "rows", "images": {"train": 3}, "folders": {"train": "x"}, "notes": ["x"]},
    "versions": {"torch": "2"}, "tuning": TUNING, "baseline": {"logistic": LOGISTIC}, "selections": {"soup": SOUP},
}  # fmt: skip


@pytest.mark.parametrize("damage", [
    {"cost": RESULT["cost"] | {"forward_samples": 9e307, "backward_samples": 9e307}},
    {"cost": RESULT["cost"] | {"extra": None}}, {"cost": RESULT["cost"] | {"seconds": -1}},
    *({"data": data} for data in ("x", [1], {"noun": 3}, {"images": 3}, {"images": {"train": "q"}},
                                  {"images": {"test": None}}, {"folders": [1]}, {"folders": {"train": 3}},
                                  {"notes": 3}, {"notes": [3]})),
    {"versions": 3}, {"versions": [1]}, {"versions": {"torch": [1]}},
    {"tuning": {key: value for key, value in TUNING.items() if key != "best"}},
    {"champion": CHAMPION | {"kind": "individual_" + "9" * 5000}}, {"champion": CHAMPION | {"kind": "a\x1b"}},
    {"champion": CHAMPION | {"constraints": {"x": {"feasible": True, "slack": 1, "violation": 0, "values": {},
                                                   "worst": []}}}},
    {"selections": {"soup": SOUP | {"temperature": "x"}}}, {"selections": {"soup": SOUP | {"cost": {"a": None}}}},
    {"baseline": {"logistic": LOGISTIC | {"validation": {}}}},
    {"baseline": {"logistic": LOGISTIC | {"test": TEST | {"interval": {}}}}},
])  # fmt: skip
def test_a_result_whose_parts_have_another_form_is_none(tmp_path: Path, damage: dict[str, Any]) -> None:
    assert records.of_result(RESULT | FORMS)
    rundir.write_result(tmp_path, RESULT | FORMS | damage)
    lines: list[str] = []
    assert rundir.read_result(tmp_path, lines.append) == {}
    assert len(lines) == 1
    assert "damaged, and taken as not there" in lines[0]


@pytest.mark.parametrize("key", ["", "a\0b", "\x1b[31m", "\ud800", "a\nb", "x" * 300])
def test_a_line_with_a_column_that_no_run_names_so_is_left_out(tmp_path: Path, key: str) -> None:
    line = dict.fromkeys(records.COUNTS, 1) | dict.fromkeys(records.FIGURES, 0.5)
    for right, whole in ((records.of_history, line), (records.of_island, line | {"island": 0})):
        assert right(whole)
        assert all(right(whole | {name: 1.0}) for name in ("sigma", "class.x", "refine.lr", "a b/c", "größe", "<b>"))
        assert not right(whole | {key: 1.0})


@pytest.mark.parametrize("fitness", [[[], []], [[], 1.0], [[1.0], 1.0], [[1.0], [1.0, 2.0]], [None, []]])
def test_a_line_of_a_lineage_has_values_of_one_width(fitness: list[Any]) -> None:
    line = {"generation": 1, "parents": [[-1], [-1]]}
    assert all(records.of_lineage(line | {"fitness": right}) for right in ([1.0, None], [[1.0, 2.0], None], [None] * 2))
    assert not records.of_lineage(line | {"fitness": fitness})


def test_counts_that_cannot_be_added_are_no_confusion_matrix(tmp_path: Path) -> None:
    (tmp_path / rundir.CONFUSION).write_text(f"a,b\n{2**62},2\n0,1\n")
    lines: list[str] = []
    assert rundir.read_confusion(tmp_path, lines.append) is None
    assert lines == [f"{tmp_path / rundir.CONFUSION}: damaged, and left out"]
