"""Imports point up the list of docs/design.md only, and every module has its mirror test file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "neuroevo"
ORDER = [  # each may import those before it
    "errors", "engine.genome", "engine.rng", "engine.cost", "devices", "engine.schedules", "statistics",
    "engine.samples", "search.operators.masks", "search.operators.selection", "search.operators.crossover",
    "search.operators.mutation", "metrics", "engine.pareto", "networks.classes", "networks.heads", "networks.cut",
    "fitness", "gradient", "networks.deep", "engine.development", "search.algorithms", "networks.quantised",
    "engine.problem", "function", "engine.loop", "api", "search.space", "search.samplers", "caveats",
    "networks.weightfiles", "cache", "images", "folders", "arrays", "data", "inventory", "identity",
    "networks.downloads", "networks.backbones", "features", "evaluation", "yamlfile", "config", "blame",
    "storage.hdf5", "storage.checkpoint", "storage.rundir", "storage.claims", "progress", "report.genealogy",
    "report.glyphs", "report.figures", "report.plots_of_runs", "report.plots_of_searches",
    "report.plots_of_benches", "report.page", "report.runpage", "report.benchpage", "report.report", "report.watch",
    "starts", "composition", "tuning.lockstep", "experiment", "tuning.trials", "tuning.tune", "arms", "workers",
    "bench", "export", "pace", "forecast", "inspection", "cli", "__main__",
]  # fmt: skip
ONLY = {  # the one module that imports a library
    "h5py": {"storage.hdf5"}, "pydantic": {"config"}, "typer": {"cli"}, "rich": {"progress"},
    "safetensors": {"networks.weightfiles"}, "sklearn": {"data"}, "filelock": {"cache"},
    "evotorch": {"search.operators.crossover", "search.algorithms"}, "optuna": {"search.samplers"},
    "scipy": {"evaluation", "statistics"}, "yaml": {"yamlfile"}, "platformdirs": {"cache"}, "psutil": {"devices"},
    "matplotlib": {f"report.{name}" for name in ("glyphs", "figures", "plots_of_runs", "plots_of_searches",
                                                 "plots_of_benches")},
}  # fmt: skip

BELOW_CONFIG = ORDER[: ORDER.index("config")]
SECTIONS = [
    "data",
    "backbone",
    "head",
    "features",
    "genome",
    "algorithm",
    "refine",
    "fitness",
    "validate",
    "budget",
    "checkpoint",
    "memory",
    "tune",
]
YAML = {  # below config, and yet about a config: what is said of a whole record, and a row of `neuroevo validate`
    "caveats": None,
    "inventory": "; --set data.broken=skip leaves such files out",
}
PROGRAM = {  # what belongs to a program, and where it is still; these sets only shrink
    "signal": {"experiment", "tuning.tune", "report.watch", "workers"},
    "argv": {"experiment"},
    "print": {"cli", "report.watch"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def module(path: Path) -> str:
    return place(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def place(dotted: str) -> str:
    """Return what of ORDER a dotted name within the package belongs to, "" where nothing."""
    parts = dotted.split(".")
    return next((name for k in range(len(parts), 0, -1) if (name := ".".join(parts[:k])) in ORDER), "")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent.name == "algorithms")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up_only(path: Path) -> None:
    here = module(path)
    assert here in ORDER
    for name in imports(path):
        package, _, rest = name.partition(".")
        target = place(rest)
        if package == "neuroevo" and target and target != here:
            assert ORDER.index(target) < ORDER.index(here), f"{here} imports {target}"
        if package in ONLY:
            assert here in ONLY[package], f"{here} imports {package}"


@pytest.mark.parametrize("name", [name for name in ORDER if name not in ("__main__", "errors")])
def test_every_module_has_its_test_file(name: str) -> None:
    tests = Path(__file__).parent
    names = {"search.algorithms": [f"search/test_{own}.py" for own in ("algorithms", "ga", "pso", "de", "baselines")],
             "experiment": ["test_experiment.py", "test_resume.py"],
             "composition": ["test_composition.py", "test_unfrozen.py"],
             **{f"search.operators.{own}": ["search/test_operators.py"] for own in (
                 "masks", "selection", "crossover", "mutation")},
             **{f"report.{own}": ["report/test_plots.py"] for own in (
                 "figures", "plots_of_runs", "plots_of_searches", "plots_of_benches")}}  # fmt: skip
    folder, _, last = name.rpartition(".")
    for file in names.get(name, [f"{folder}/test_{last}.py" if folder else f"test_{last}.py"]):
        assert (tests / file).exists()


def test_the_package_names_no_path_of_the_workplace() -> None:
    root = PACKAGE.parent
    for path in [*PACKAGE.rglob("*.py"), *(root / "tests").rglob("*.py"), *(root / "runs").glob("*.yaml")]:
        if path != Path(__file__):
            assert "../shared" not in path.read_text(), path


def below_config() -> list[Path]:
    return [path for path in FILES if module(path) in BELOW_CONFIG]


def strings(tree: ast.AST) -> Iterator[str]:
    """Yield the strings of a tree, and the pieces of its f-strings, that aren't docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_nothing_below_the_config_imports_it() -> None:
    for path in below_config():
        assert not any(name.startswith("neuroevo.config") for name in imports(path)), path


def test_no_error_below_the_config_names_a_key_of_it() -> None:
    key = re.compile(rf"({'|'.join(SECTIONS)})\.")
    for path in below_config():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "InputError":
                assert not any(key.match(text) for text in strings(node)), f"{path}, line {node.lineno}"


def test_no_text_below_the_config_names_a_key_of_it() -> None:
    key = re.compile(rf"(?:^|[^\w.])(?:{'|'.join(SECTIONS)})\.[a-z_]")
    for path in below_config():
        allowed = YAML.get(module(path), "")
        for text in strings(ast.parse(path.read_text())) if allowed is not None else ():
            assert text == allowed or not key.search(text), f"{path}: {text}"


def test_signals_arguments_and_printing_are_the_programs() -> None:
    found: dict[str, set[str]] = {what: set() for what in PROGRAM}
    for path in FILES:
        if "signal" in imports(path):
            found["signal"].add(module(path))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv":
                found["argv"].add(module(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found["print"].add(module(path))
    assert found == PROGRAM
