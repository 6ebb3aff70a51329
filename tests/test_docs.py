"""The examples of the documents run, as they stand there."""

import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from conftest import TINY, Quiet
from safetensors.numpy import load_file

import neuroevo
from neuroevo import config
from neuroevo.cli.main import USAGE, app
from neuroevo.config import load
from neuroevo.experiments import experiment
from neuroevo.storage import rundir

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
RECIPES = sorted(set((ROOT / "docs" / "recipes").glob("*.md")) - {ROOT / "docs" / "recipes" / "index.md"})


def blocks_of(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of its own, in which a user's own mine.py is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


@pytest.mark.compares
@pytest.mark.parametrize("file", ["docs/tour.md", pytest.param("docs/api.md", marks=pytest.mark.long)])
def test_the_examples_in_python_run_one_after_another(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / file).read_text(), re.M | re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, file, "exec"), names)


def test_the_guide_from_python_names_all_that_is_public() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    assert not [name for name in neuroevo.__all__ if name != "__version__" and f"`{name}`" not in text]


def test_the_fitness_of_the_tour_evolves_the_features_of_the_tour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    blocks = re.findall(r"^```(?:python|yaml)\n(.*?)^```", (ROOT / "docs" / "tour.md").read_text(), re.M | re.S)
    features = next(block for block in blocks if "np.savez" in block)
    exec(compile(features, "tour.md", "exec"), {})
    for name in ("mine.py", "own.yaml"):
        Path(name).write_text(next(block for block in blocks if block.startswith(f"# {name}")))
    sets = ["budget.generations=3", "algorithm.population=16", "memory.limit=1e8"]
    folder = experiment.run(load("own.yaml", sets), "r", "own", Quiet())
    validation = rundir.read_result(folder)["champion"]["validation"]
    assert 0 < validation["mine:f1"] < 1
    assert validation["found"] > 0


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_the_configs_of_a_recipe_are_those_that_init_writes_and_can_be_loaded(page: Path, here: Path) -> None:
    for block in blocks_of(page, "python"):
        Path("mine.py").write_text(block)
    np.savez("features.npz", x=np.random.default_rng(0).random((30, 8)), y=np.arange(30) % 3)
    blocks = blocks_of(page, "yaml")
    assert blocks
    for block in blocks:
        name = block.split("\n")[0].removeprefix("# ").removesuffix(".yaml")
        Path(f"{name}.yaml").write_text(block)
        assert config.read(f"{name}.yaml") == config.recipe(name)
        load(f"{name}.yaml")


def test_every_recipe_has_its_page() -> None:
    pages = "".join(page.read_text() for page in RECIPES)
    without = {"default", "own_features"}  # which the quick start and another page are about
    assert not [name for name in config.recipes() if name not in without and f"# {name}.yaml" not in pages]
    assert "neuroevo init own_features" in pages


@pytest.mark.parametrize(("page", "seconds"), [("own_metric", "budget.generations=2"), ("own_network", "seed=1")])
def test_the_parts_of_the_recipes_evolve_digits(page: str, seconds: str, here: Path) -> None:
    Path("mine.py").write_text(blocks_of(ROOT / "docs" / "recipes" / f"{page}.md", "python")[0])
    Path("c.yaml").write_text(blocks_of(ROOT / "docs" / "recipes" / f"{page}.md", "yaml")[0])
    small = ["backbone.name=none", "backbone.weights=none", "data.image_size=null"] if page == "own_metric" else []
    sets = [*small, seconds, "budget.generations=2", "algorithm.population=8", "memory.limit=1e8"]
    result = rundir.read_result(experiment.run(load("c.yaml", sets), "r", "c", Quiet()))
    assert result["generations"] == 2


def test_an_algorithm_of_ones_own_runs_from_python_and_from_a_config(here: Path) -> None:
    page = ROOT / "docs" / "algorithms.md"
    mine, use = blocks_of(page, "python")
    Path("mine.py").write_text(mine)
    exec(compile(mine + use, "algorithms.md", "exec"), {"__name__": "mine"})
    Path("mine.yaml").write_text(blocks_of(page, "yaml")[0])
    sets = ["memory.limit=1e8", "algorithm.shrink=0.9", "budget.generations=3"]
    folder = experiment.run(load("mine.yaml", sets), "r", "mine", Quiet())
    assert rundir.read_result(folder)["generations"] == 3


@pytest.mark.parametrize("sets", [[], ["features.components=null"]], ids=["projected", "standardised"])
def test_ten_lines_of_numpy_turn_genomes_into_the_weights_of_a_champion(sets: list[str], here: Path) -> None:
    experiment.run(load(None, [*TINY, *sets]), "run", "test", Quiet())
    names: dict[str, Any] = {}
    (block,) = blocks_of(ROOT / "docs" / "checkpoints.md", "python")
    exec(compile(block, "checkpoints.md", "exec"), names)
    champion = load_file("run/champion.safetensors")
    assert np.allclose(names["weight"][0], champion["head.weight"], atol=1e-6)
    assert np.allclose(names["bias"][0], champion["head.bias"], atol=1e-5)
    assert len(names["weight"]) == 1 + len(names["file"]["population/genomes"])


def commands(page: Path) -> list[list[str]]:
    """Return the commands of neuroevo in a page, as lists of words."""
    lines = re.sub(r"\\\n\s*", " ", "".join(blocks_of(page, "bash"))).splitlines()
    found = [shlex.split(line, comments=True) for line in lines if re.match(r"(\w+=\S+ )*neuroevo ", line)]
    return [words[words.index("neuroevo") + 1 :] for words in found]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_the_commands_in_the_pages_exist_with_their_options(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for name, *rest in commands(page):
        assert name in group.commands, f"neuroevo {name}"
        try:
            group.commands[name].make_context(name, rest, parent=None)
        except USAGE as error:
            pytest.fail(f"neuroevo {name} {shlex.join(rest)}: {error}")


def test_pages_name_recipes_and_sections_that_there_are() -> None:
    for page in PAGES:
        for name in re.findall(r"neuroevo init (\w+)", page.read_text()):
            assert name in config.recipes() or name == "RECIPE", f"{page}: {name}"


def test_each_column_of_a_table_has_a_header() -> None:
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "bench" / "README.md"]:
        lines = page.read_text().splitlines()
        heads = [line for line, rule in pairwise(lines) if re.fullmatch(r"\|[-:| ]+\|", rule)]
        assert [head for head in heads if not all(map(str.strip, head.strip("|").split("|")))] == [], page


@pytest.mark.parametrize("file", ["README.md", "bench/README.md", "CHANGELOG.md"])
def test_the_links_of_a_file_lead_somewhere(file: str) -> None:
    for path, anchor in re.findall(r"\]\(([^)#:\s]*)(#[^)\s]*)?\)", (ROOT / file).read_text()):
        target = (ROOT / file).parent / path if path else ROOT / file
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            slugs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in headings}
            assert anchor[1:] in slugs, anchor
