import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Quiet

from neuroevo.config import load
from neuroevo.experiments import experiment, export
from neuroevo.report import runpage
from neuroevo.storage import records, rundir


@pytest.fixture
def folder(bench_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bench_folder / "runs" / "hybrid" / "0-0", tmp_path / "r")


def test_the_best_so_far_is_the_lowest_where_lower_is_better(folder: Path) -> None:
    run = runpage.read(folder)
    values = [line["validation"] for line in run.history if line["validation"] is not None]
    assert [best for _, _, best in runpage.validations(run)] == np.maximum.accumulate(values).tolist()
    run.config["validate"]["metric"] = "cross_entropy"
    assert [best for _, _, best in runpage.validations(run)] == np.minimum.accumulate(values).tolist()
    last = run.history[-1]
    assert runpage.validations(run)[-1][0] == last["forward_samples"] + 2 * last["backward_samples"]


def test_a_run_that_goes_on_is_shown_as_far_as_it_is_and_nothing_is_written(folder: Path) -> None:
    for name in ("result.json", "champion.safetensors", "confusion.csv"):
        (folder / name).unlink()
    with open(folder / "history.jsonl", "a") as file:
        file.write('{"generation": 7, "fitn')
    with open(folder / "lineage.jsonl", "a") as file:
        file.write('{"gener')
    before = sorted(path.name for path in folder.rglob("*"))
    text = runpage.run_page(folder, None, 5)
    assert "not finished: generation 6" in text
    assert text.count("<svg") == 6
    assert 'http-equiv="refresh"' in text
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_finished_run_that_goes_on_says_so(folder: Path) -> None:
    line = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
    with open(folder / "history.jsonl", "a") as file:
        file.write(json.dumps(line | {"generation": 7, "forward_samples": 10**6}) + "\n")
    rows = dict(runpage.short(runpage.read(folder)))
    assert rows["status"].endswith("after 6 generations")
    assert rows["now"] == "not finished: generation 7"
    assert rows["samples"].startswith(f"{10**6 + 2 * line['backward_samples']:,} ")


@pytest.mark.parametrize(
    ("sets", "why"),
    [
        (["algorithm.crossover=weighted"], "no parents, or more than two"),
        (["algorithm.name=snes"], "no parents, or more than two"),
        (
            ["genome.init_sigma=0", "algorithm.mutation.sigma=0", "algorithm.selection=random"],
            "what the run started from",
        ),  # nobody ever beats it
    ],
)
def test_a_page_says_why_there_is_no_genealogy(tmp_path: Path, sets: list[str], why: str) -> None:
    experiment.run(load(None, [*TINY, *sets]), str(tmp_path / "r"), "test", Quiet())
    found = runpage.ancestry(runpage.read(tmp_path / "r"), None)
    assert len(found) == 1
    assert why in found[0]
    assert found[0].startswith('<p class="soft">No genealogy: ')


def test_the_page_says_what_was_taken_of_a_folder_and_obeys_nothing_in_it(folder: Path) -> None:
    assert "<h2>Data</h2>" not in runpage.run_page(folder, None)
    result = rundir.read_result(folder)
    result["data"] = {"images": {"train": 1234}, "folders": {"train": "<b>\x1b"}, "notes": ["<i>left out"]}
    rundir.write_result(folder, result)
    page = runpage.run_page(folder, None)
    assert "<h2>Data</h2>" in page
    assert "1,234 images, &lt;b&gt;\\x1b" in page
    assert "&lt;i&gt;left out" in page


def test_what_was_exported_is_on_the_page_beside_the_champion(folder: Path, tmp_path: Path) -> None:
    assert "What was taken away" not in runpage.run_page(folder, None)
    found = export.export(str(folder), None, str(tmp_path / "m.pt"), "ensemble:2", temperature=True)
    assert found.compared is not None
    entry = found.compared.entry
    section = runpage.run_page(folder, None).partition("What was taken away")[2].partition("<h2>")[0]
    assert f"<td>{entry['test']['accuracy']:.4f}</td>" in section
    assert f"logits divided by {entry['temperature']:.4f}" in section
    assert f"scored on test {rundir.read_result(folder)['test_scored']} times" in section
    assert section.index("champion") < section.index("ensemble:2 with temperature")
    result = rundir.read_result(folder)
    for damage in ({"about": 3}, {"members": -1}, {"validation": []}, {"test": {}}):
        rundir.write_result(folder, result | {"selections": {"soup": entry | damage}})
        assert rundir.read_result(folder) == {}


SPACE = {"x": {"name": "list", "item": {"name": "real"}}, "y": {"name": "real", "scale": "log"}}


@pytest.mark.parametrize("row", ['0,1,"{deep}",1,0.5', '0,1,"{long}",1,0.5', "0,1,[1],9e307,0.5", "0,1,[1],1,-9e307",
                                 "0,-1,[1],1,0.5", "0,{digits},[1],1,0.5", "0,1,3,1,0.5"])  # fmt: skip
def test_trials_of_which_no_picture_can_be_are_left_out_and_said(row: str, tmp_path: Path) -> None:
    given = {"validate": {"metric": "accuracy"}, "fitness": {}, "algorithm": {}, "tune": {"space": SPACE}}
    (tmp_path / "config.yaml").write_text(json.dumps(given))
    header, lines = "trial,iteration,x,y,accuracy\n", list[str]()
    (tmp_path / "trials.csv").write_text(f"{header}0,1,[1],1,0.5\n")
    found = runpage.read_trials(tmp_path, lines.append)
    assert found is not None
    assert [axis.name for axis in found.axes] == ["x", "x.0", "y"]
    filled = row.format(deep="[" * 100_000, long=json.dumps([1] * 70), digits="9" * 400)
    (tmp_path / "trials.csv").write_text(f"{header}{filled}\n")
    assert runpage.read_trials(tmp_path, lines.append) is None
    assert lines == [f"{tmp_path / 'trials.csv'}: damaged, and left out"]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_trials_of_which_some_are_gone_are_left_out_and_said(rows: int, tmp_path: Path) -> None:
    given = {"validate": {"metric": "accuracy"}, "fitness": {}, "algorithm": {}, "tune": {"space": SPACE}}
    (tmp_path / "config.yaml").write_text(json.dumps(given))
    result = {"status": "finished", "stop_reason": "generations", "trials": 2, "iterations": 1, "best": None}
    (tmp_path / "result.json").write_text(json.dumps(result | {"cost": dict.fromkeys(records.SPENT, 0)}))
    table = ["trial,iteration,x,y,accuracy", *(f"{i},1,[1],1,0.5" for i in range(rows))]
    (tmp_path / "trials.csv").write_text("\n".join(table) + "\n")
    lines = list[str]()
    found = runpage.read_trials(tmp_path, lines.append)
    assert (found is None, len(lines)) == (rows < 2, rows < 2)  # a search that goes on may have more than its result


def test_a_column_that_the_checkpoint_does_not_have_is_dropped_and_said(folder: Path) -> None:
    written = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    (folder / "history.jsonl").write_text("".join(json.dumps(line | {"../evil": 1.0}) + "\n" for line in written))
    lines: list[str] = []
    assert runpage.read(folder, lines.append, compare=True).history == written
    assert lines == [f"{folder / 'history.jsonl'}: not as the checkpoint has it, which counts"]
