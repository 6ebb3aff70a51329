import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ARMS

from neuroevo.errors import InputError
from neuroevo.report import benchpage
from neuroevo.report.plots_of_benches import Point


@pytest.fixture
def folder(bench_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bench_folder, tmp_path / "b")


def test_arms_come_in_the_order_of_their_validation(folder: Path) -> None:
    found = benchpage.read_bench(folder)
    means = [float(found.summary[arm]["validation_mean"]) for arm in found.arms]
    assert means == sorted(means, reverse=True)
    text = (folder / "result.json").read_text().replace('"accuracy"', '"cross_entropy"')
    (folder / "result.json").write_text(text)
    assert benchpage.read_bench(folder).arms == found.arms[::-1]


def test_the_best_run_of_an_arm_is_the_one_that_validation_names(folder: Path) -> None:
    found = benchpage.read_bench(folder)
    for arm in ARMS:
        best = found.best(arm)
        assert best is not None
        assert float(best["validation"]) == max(float(row["validation"]) for row in found.of(arm))
    assert found.best("nobody") is None


def test_curves_are_averaged_from_where_all_runs_have_a_value_and_ended_ones_keep_theirs() -> None:
    a, b = [(10.0, 0.1), (20.0, 0.3)], [(15.0, 0.2), (20.0, 0.3), (40.0, 0.5)]
    assert benchpage.average([a, b]) == [
        Point(15.0, pytest.approx(0.15), 0.1, 0.2), Point(20.0, 0.3, 0.3, 0.3), Point(40.0, 0.4, 0.3, 0.5),
    ]  # fmt: skip


def test_a_bench_that_goes_on_is_shown_as_far_as_it_is(folder: Path) -> None:
    for name in ("result.json", "comparisons.csv", "levels.csv", "summary.csv"):
        (folder / name).unlink()
    lines = (folder / "results.csv").read_text().splitlines()
    (folder / "results.csv").write_text("\n".join(lines[:3]) + "\n" + lines[3][:30])  # one line is half written
    text = benchpage.bench_page(folder, None)
    assert "not finished: 2 of 6 runs" in text
    assert text.count("No run is finished yet.") == 2
    assert not (folder / "plots").exists()
    for name in ("results.csv", "curves.csv"):
        (folder / name).unlink()
    text = benchpage.bench_page(folder, None)
    assert "<svg" not in text
    assert all(arm.replace("<", "&lt;").replace(">", "&gt;") in text for arm in ARMS)


def test_levels_are_columns_and_say_how_many_runs_reached_them(folder: Path) -> None:
    (folder / "levels.csv").write_text(
        "arm,level,reached,runs,samples_median,seconds_median\n"
        "hybrid,0.5,2,2,2399744.0,3.24\nhybrid,0.75,0,2,,\ntwo objectives,0.5,1,2,500.0,0.1\n"
    )
    text = benchpage.levels(benchpage.read_bench(folder))
    assert text.index(">0.5<") < text.index(">0.75<")
    for cell in ("<td>2.4M, 3.2 s</td>", "<td>-\n0 of 2</td>", "<td>500.0, 0.1 s\n1 of 2</td>", "<td>-</td>"):
        assert cell in text


def test_tables_with_fewer_rows_than_the_result_has_are_said(folder: Path) -> None:
    lines: list[str] = []
    (folder / "result.json").write_text(
        json.dumps({"status": "finished", "metric": "accuracy", "lower_is_better": False, "runs": 6,
                    "arms": {arm: {} for arm in ARMS}})
    )  # fmt: skip
    benchpage.read_bench(folder, lines.append)
    assert lines == []
    for name in ("results.csv", "summary.csv"):
        text = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(text[:-1]))
    benchpage.read_bench(folder, lines.append)
    assert [line.rpartition("/")[2] for line in lines] == [
        "results.csv: 5 rows, where result.json has 6; neuroevo resume writes it anew",
        "summary.csv: 2 rows, where result.json has 3; neuroevo resume writes it anew",
    ]


@pytest.mark.parametrize("arms", [{"a": 3}, {"a": "x"}, {"a": [1]}, {1: None}, [1]])
def test_arms_of_another_form_are_refused(folder: Path, arms: object) -> None:
    about = yaml.safe_load((folder / "bench.yaml").read_text())
    (folder / "bench.yaml").write_text(yaml.safe_dump(about | {"arms": arms}))
    with pytest.raises(InputError, match=r"bench\.yaml: arms is damaged or missing"):
        benchpage.read_bench(folder)


@pytest.mark.parametrize("cell", ["1.5", "-1", "1e3", "9" * 5000])
def test_a_row_whose_counts_are_not_whole_is_left_out(folder: Path, cell: str) -> None:
    file, lines = folder / "summary.csv", list[str]()
    header, *rows = file.read_text().splitlines()
    column, cells = header.split(",").index("runs"), rows[0].split(",")
    cells[column] = cell
    file.write_text("\n".join([header, ",".join(cells), *rows[1:], ""]))
    assert len(benchpage.table(file, lines.append)) == len(rows) - 1
    assert lines == [f"{file}: damaged rows are left out; neuroevo resume writes it anew"]
