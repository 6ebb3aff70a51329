"""Imports point up the list of docs/design.md only, and every module has its mirror test file."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "neuroevo"
ORDER = [  # each may import those before it
    "errors", "rng", "genome", "cost", "devices", "schedules", "statistics", "operators", "metrics", "pareto",
    "classes", "heads", "cut", "fitness", "gradient", "deep", "development", "algorithms", "quantised", "loop",
    "space", "samplers",
    "caveats",
    "weightfiles", "cache", "images", "folders", "arrays", "data", "inventory", "identity", "downloads", "backbones",
    "features",
    "evaluation", "yamlfile", "config", "blame", "hdf5", "checkpoint", "rundir", "claims", "progress",
    "genealogy", "glyphs", "plots", "page", "runpage", "benchpage", "report", "watch",
    "starts", "composition", "lockstep", "experiment", "trials", "tune", "arms", "workers", "bench", "export",
    "pace", "forecast", "inspection", "cli", "__main__",
]  # fmt: skip
ONLY = {  # the one module that imports a library
    "h5py": {"hdf5"}, "pydantic": {"config"}, "typer": {"cli"}, "rich": {"progress"},
    "safetensors": {"weightfiles"}, "sklearn": {"data"}, "evotorch": {"operators", "algorithms"},
    "scipy": {"evaluation", "statistics"}, "yaml": {"yamlfile"}, "platformdirs": {"cache"}, "psutil": {"devices"},
    "matplotlib": {"glyphs", "plots"}, "optuna": {"samplers"}, "filelock": {"cache"},
}  # fmt: skip


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def module(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up_only(path: Path) -> None:
    here = module(path)
    assert here in ORDER
    for name in imports(path):
        package, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if package == "neuroevo" and target in ORDER and target != here:
            assert ORDER.index(target) < ORDER.index(here), f"{here} imports {target}"
        if package in ONLY:
            assert here in ONLY[package], f"{here} imports {package}"


@pytest.mark.parametrize("name", [name for name in ORDER if name not in ("__main__", "errors")])
def test_every_module_has_its_test_file(name: str) -> None:
    tests = Path(__file__).parent
    names = {"algorithms": ["test_algorithms.py", "test_ga.py", "test_pso.py", "test_de.py", "test_baselines.py"],
             "experiment": ["test_experiment.py", "test_resume.py"],
             "composition": ["test_composition.py", "test_unfrozen.py"]}  # fmt: skip
    for file in names.get(name, [f"test_{name}.py"]):
        assert (tests / file).exists()


def test_the_package_names_no_path_of_the_workplace() -> None:
    root = PACKAGE.parent
    for path in [*PACKAGE.rglob("*.py"), *(root / "tests").glob("*.py"), *(root / "runs").glob("*.yaml")]:
        if path != Path(__file__):
            assert "../shared" not in path.read_text(), path
