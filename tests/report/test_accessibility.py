"""Headings, alternative texts, contrast and the rest of what axe-core checks, on each kind of page.

Skipped where no Chromium is installed, or no axe-core: `npm install --global axe-core`, or AXE_CORE names axe.min.js.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Quiet, draw_classes
from test_report import CHROMIUM, WIDTHS

from neuroevo.config import load
from neuroevo.experiments import experiment
from neuroevo.report import report

PLACES = (os.environ.get("AXE_CORE"), "/usr/lib/node_modules/axe-core/axe.min.js",
          "/usr/local/lib/node_modules/axe-core/axe.min.js")  # fmt: skip
AXE = next((Path(place) for place in PLACES if place and Path(place).is_file()), None)
CHECK = """<script>addEventListener("load", () => axe.run().then(found => {
  const note = document.createElement("script"); note.type = "application/json"; note.id = "axe";
  note.textContent = JSON.stringify({passes: found.passes.map(rule => rule.id),
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    violations: found.violations.map(rule => [rule.id, rule.nodes.map(node => node.html.slice(0, 200))])});
  document.body.append(note); }))</script>"""
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None or AXE is None, reason="no Chromium, or no axe-core"),
]


@pytest.fixture(scope="module")
def pages(bench_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("pages")
    draw_classes(at / "images", {"train": 10, "test": 10})
    sets = [*TINY, "data.name=image_folder", f"data.root={at / 'images'}"]
    runs = [experiment.run(load(None, [*sets, f"seed={i}"]), str(at / f"r{i}"), "test", Quiet()) for i in range(2)]
    bench = shutil.copytree(bench_folder, at / "bench")
    return {
        "run": report.report(str(runs[0]), formats=["svg"]),
        "several": report.compare([str(run) for run in runs], str(at / "both"), formats=["svg"]),
        "bench": report.report(str(bench), formats=["svg"]),
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["run", "several", "bench"])
def test_axe_finds_no_violation(kind: str, width: int, dark: bool, pages: dict[str, Path], tmp_path: Path) -> None:
    found = check(pages[kind].read_text(), width, dark, tmp_path)
    assert found["violations"] == []
    assert found["dark"] == dark
    assert {"color-contrast", "heading-order", "page-has-heading-one"} <= {*found["passes"]}
    assert kind != "run" or "image-alt" in found["passes"]


def test_axe_would_find_one(pages: dict[str, Path], tmp_path: Path) -> None:
    text = re.sub(r'(<img [^>]*)alt="[^"]*"', r"\1", pages["run"].read_text())
    assert "image-alt" in [rule for rule, _ in check(text, WIDTHS[1], False, tmp_path)["violations"]]


def check(text: str, width: int, dark: bool, folder: Path) -> dict[str, Any]:
    """Open a page in a browser that reaches nothing, and return what axe-core finds in it."""
    assert AXE is not None
    page = folder / "page.html"
    page.write_text(text.replace("<head>", f"<head><script>{AXE.read_text()}</script>{CHECK}", 1))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},1000", "--virtual-time-budget=60000",
               f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    told = re.search(r'<script type="application/json" id="axe">(.*?)</script>', done.stdout, re.DOTALL)
    assert told, done.stderr
    found: dict[str, Any] = json.loads(told[1])
    return found
