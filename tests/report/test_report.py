import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuroevo.cli import inspection
from neuroevo.errors import InputError
from neuroevo.report import report, runpage
from neuroevo.storage import generations, rundir

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (400, 1280)  # of a phone and of a desk

# Tells what a browser makes of a page: errors, what else it loaded, and where things are.
PROBE = """<script>
const failed = []; addEventListener("error", e => failed.push(String(e.message || e.target.outerHTML)), true);
addEventListener("load", () => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const drawn = [...document.querySelectorAll("svg")].map(svg => ({box: box(svg), label: svg.getAttribute("aria-label"),
    texts: [...svg.querySelectorAll("text")].map(t => [t.textContent, ...box(t)])}));
  const e = document.documentElement;
  parent.postMessage({failed, drawn, width: innerWidth, room: e.clientWidth, scrolled: e.scrollWidth,
    loaded: performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:"))}, "*");
});
</script>"""
# A window has a least width that a phone is below, a frame has none.
FRAMES = """<!doctype html><body><script>
const told = [];
addEventListener("message", e => { told.push(e.data); if (told.length == %d) {
  const note = document.createElement("script"); note.type = "application/json"; note.id = "told";
  note.textContent = JSON.stringify(told); document.body.append(note); } });
</script>%s</body>"""


@pytest.fixture(scope="module")
def drawn(bench_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run and a bench, each with its page."""
    at = tmp_path_factory.mktemp("drawn")
    folders = {"run": shutil.copytree(bench_folder / "runs" / "hybrid" / "0-0", at / "run"),
               "bench": shutil.copytree(bench_folder, at / "bench")}  # fmt: skip
    for folder in folders.values():
        assert report.report(str(folder)) == folder / "report.html"
    return folders


def plots_of(folder: Path) -> set[str]:
    """The pictures that are there, each with the CSV of its numbers."""
    found = {path.stem for path in (folder / "plots").glob("*.png")}
    for name in found:
        assert (folder / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        rows = list(csv.reader((folder / "plots" / f"{name}.csv").read_text().splitlines()))
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}, name
    return found


@pytest.mark.parametrize("kind", ["run", "bench"])
def test_a_page_is_one_file_that_needs_nothing_else(kind: str, drawn: dict[str, Path]) -> None:
    text = (drawn[kind] / "report.html").read_text()
    assert text.count("<svg") == text.count("<figcaption>") == len(plots_of(drawn[kind]))
    assert not re.findall(r"<script|<iframe|@import|http-equiv", text)
    assert all(src.startswith("data:image/") for src in re.findall(r'<img src="([^"]*)"', text))
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", text)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert {a or b for a, b in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)} <= set(ids)
    assert text.index("<table") < text.index("<svg")


def test_a_runs_page_has_its_result_its_plots_and_how_it_was_made(drawn: dict[str, Path]) -> None:
    folder = drawn["run"]
    text = (folder / "report.html").read_text()
    assert plots_of(folder) == {
        "anytime", "fitness", "cost", "diversity", "lr", "sigma", "confusion", "reliability", "genealogy", "descent",
    }  # fmt: skip
    result = json.loads((folder / "result.json").read_text())
    assert f"{result['champion']['test']['accuracy']:.4f} (95 %: " in text
    assert result["versions"]["torch"] in text
    assert "crossover:" in text


def test_a_benchs_page_has_its_tables_its_plots_and_each_arms_best_run(drawn: dict[str, Path]) -> None:
    folder = drawn["bench"]
    text = (folder / "report.html").read_text()
    assert plots_of(folder) >= {
        "probability", "curves", "cost", "test", "gap", "hybrid-genealogy", "hybrid-lr", "two-objectives-front",
        "default-ga--confusion",
    }  # fmt: skip
    assert "default &lt;ga&gt;" in text
    assert "<ga>" not in text
    assert "neuroevo bench base.yaml --arms" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("kind", ["run", "bench"])
def test_a_browser_shows_the_whole_page_and_asks_for_nothing(kind: str, drawn: dict[str, Path], tmp_path: Path) -> None:
    for width, found in zip(WIDTHS, shown(drawn[kind] / "report.html", tmp_path), strict=True):
        assert found["failed"] == []
        assert found["loaded"] == []
        assert found["width"] == width
        assert found["scrolled"] <= found["room"]
        assert len(found["drawn"]) == len(plots_of(drawn[kind])) > 8
        for svg in found["drawn"]:
            left, top, right, bottom = svg["box"]
            assert right - left > 300, svg["label"]
            assert bottom - top > 50, svg["label"]
            assert svg["texts"], svg["label"]
            for text, *box in svg["texts"]:
                cut_off = (left - box[0], top - box[1], box[2] - right, box[3] - bottom)
                assert max(cut_off) < 2, (width, svg["label"], text)


def shown(page: Path, folder: Path) -> list[dict[str, Any]]:
    """Open a page in a browser that reaches nothing, at all widths; return what a probe in it says of each."""
    (folder / "probed.html").write_text(page.read_text().replace("<head>", f"<head>{PROBE}", 1))
    frames = "".join(f'<iframe src="probed.html" width="{w}" height="900" style="border:0"></iframe>' for w in WIDTHS)
    (folder / "frames.html").write_text(FRAMES % (len(WIDTHS), frames))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1800,1000",
               "--virtual-time-budget=3000", "--dump-dom", (folder / "frames.html").resolve().as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    told = re.search(r'<script type="application/json" id="told">(.*?)</script>', done.stdout, re.DOTALL)
    assert told, done.stderr
    return sorted(json.loads(told[1]), key=lambda found: int(found["width"]))


def test_a_folder_without_a_run_or_a_generation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run is there"):
        report.report(str(tmp_path))
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(InputError, match="no generation is recorded yet"):
        report.report(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml"}


@pytest.fixture
def unchecked(bench_folder: Path, tmp_path: Path) -> Path:
    """A run without checkpoints, whose config nothing is compared with."""
    folder = shutil.copytree(bench_folder / "runs" / "hybrid" / "0-0", tmp_path / "r")
    shutil.rmtree(folder / "checkpoints")
    return folder


def test_a_folder_of_plots_that_is_a_link_is_refused_and_nothing_is_written_there(
    unchecked: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (unchecked / "plots").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="plots: something else is there"):
        report.report(str(unchecked))
    assert [*(tmp_path / "outside").iterdir()] == []


@pytest.mark.parametrize(("key", "value"), [("population", "x"), ("elites", "x"), ("name", [[]])])
def test_what_has_its_form_and_no_sense_is_a_line_or_left_out(unchecked: Path, key: str, value: object) -> None:
    written = yaml.safe_load((unchecked / "config.yaml").read_text())
    written["algorithm"][key] = value
    (unchecked / "config.yaml").write_text(yaml.safe_dump(written))
    result = rundir.read_result(unchecked)
    rundir.write_result(unchecked, result | {"champion": result["champion"] | {"kind": "elite_mean"}})
    try:
        assert "<h2>Result</h2>" in report.render(unchecked, None)
    except InputError as error:
        assert str(error) == f"{unchecked / 'config.yaml'}: damaged" or str(error).startswith(
            f"{unchecked} can't be shown: "
        )
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("error", [KeyError("x"), OverflowError("x"), RecursionError("x" * 10**6), TypeError("a\nb")])
def test_an_error_of_values_is_a_line_that_keeps_its_cause(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(report, "run_page", fail)
    with pytest.raises(InputError, match=rf"r can't be shown: .*{type(error).__name__}") as raised:
        report.render(Path("r"), None)
    assert raised.value.__cause__ is error
    assert len(str(raised.value)) < 300
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(report, "run_page", lambda *_: (_ for _ in ()).throw(AssertionError("a bug")))
    with pytest.raises(AssertionError):
        report.render(Path("r"), None)


def test_a_result_that_is_gone_is_told_where_the_run_came_to_its_end(bench_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bench_folder / "runs" / "hybrid" / "0-0", tmp_path / "r")
    lines: list[str] = []
    report.report(str(folder), lines.append, report.BRIEF)
    assert lines == []
    (folder / "result.json").unlink()
    page = report.report(str(folder), lines.append, report.BRIEF).read_text()
    said = f"{folder / 'result.json'}: gone, or never written; it is made again by: neuroevo resume {folder}"
    assert said in page


def test_checkpoints_that_are_gone_are_told_by_the_newest(bench_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bench_folder / "runs" / "hybrid" / "0-0", tmp_path / "r")
    (newest, *_) = generations.paths(folder / "checkpoints")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(InputError, match=f"{newest.name}: gone, and no other checkpoint is there"):
        inspection.describe(str(folder))
    (folder / "result.json").unlink()
    with pytest.raises(InputError, match="no checkpoint yet"):
        inspection.describe(str(folder))


def test_a_history_cut_in_its_last_line_is_the_checkpoints_in_a_benchmarks_page_too(
    bench_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(bench_folder / "runs" / "hybrid" / "0-0", tmp_path / "r")
    whole = runpage.read(folder).history
    path = folder / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-1])  # as if it were being written
    assert runpage.read(folder).history == whole
