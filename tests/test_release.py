"""What goes with a release: its files say what the package says."""

import re
import tomllib
from pathlib import Path

import yaml

import neuroevo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Hosts that the project may name: of the licence and of schemas, of papers, tools and data that it builds on.
INDEXES = re.compile(r"pypi\.org|pythonhosted|download\.pytorch|conda\.anaconda|ghcr\.io|docker\.io|quay\.io|nvcr\.io")


def test_the_version_is_in_one_place() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "neuroevo.__version__"}
    assert f"## {neuroevo.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_licence_is_the_same_wherever_it_is_named() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format demands
    assert citation["license"] == "Apache-2.0"


def test_the_workflow_runs_what_anybody_runs() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands["run"] == [".ci/run"]
    assert commands["lowest"] == [".ci/lowest"]
    own = [path for path in (ROOT / ".ci").iterdir() if path.is_file()]
    assert {path.name for path in own} >= {"run", "wheel", "lowest"}
    assert all(path.stat().st_mode & 0o111 for path in own)
    assert ".ci/wheel" in (ROOT / ".ci/run").read_text().split()
    for form in (ROOT / ".github/ISSUE_TEMPLATE").iterdir():
        assert yaml.safe_load(form.read_text()), form


def test_every_dependency_has_a_lower_bound() -> None:
    for line in PROJECT["project"]["dependencies"]:
        assert ">=" in line, line


def test_no_file_of_the_release_names_the_host_of_a_registry() -> None:
    files = [ROOT / name for name in ("Dockerfile", "pyproject.toml", "CONTRIBUTING.md", "SECURITY.md", "README.md")]
    for path in [*files, *(ROOT / ".ci").iterdir(), *(ROOT / ".github").rglob("*.yml"), *(ROOT / "docs").glob("*.md")]:
        assert not INDEXES.search(path.read_text()), path


def test_the_image_has_the_bounds_and_extras_of_the_package() -> None:
    text = (ROOT / "Dockerfile").read_text()
    extras = re.search(r"^ARG EXTRAS=(.*)$", text, re.M)
    assert extras is not None
    assert {*extras[1].split(",")} <= PROJECT["project"]["optional-dependencies"].keys()
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.M) for name in line.split()}
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == admitted
    assert all((ROOT / name).exists() for name in copied)
