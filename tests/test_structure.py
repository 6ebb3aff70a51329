"""Imports point up the list of docs/design.md only, and every module has its mirror test file."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "neuroevo"
PACKAGES = {  # in order: each may import those before it, and its own modules those before them
    "": ["errors", "reading", "devices"],
    "engine": ["threads", "genome", "rng", "cost", "schedules", "samples", "scores", "pareto", "batches", "execution",
               "graphs", "algorithm", "joined", "evaluator", "problem", "loop", "observer"],
    "search": ["operators.masks", "operators.selection", "operators.crossover", "operators.mutation",
               "algorithms", "islands", "space", "samplers"],
    "caveats": [""],
    "networks": ["classes", "individuals", "heads", "cut", "deep", "affine", "quantised", "spaces", "weightfiles",
                 "downloads", "weights", "onnxgraphs", "onnxfiles", "libraries", "quantisation", "merging", "backbones",
                 "rows", "network", "ensembles", "modules"],
    "learning": ["optimizers", "task", "losses", "draws", "refine", "sensitivity"],
    "problems": ["metric", "tallies", "class_metrics", "metrics", "constraints", "kernels", "sums", "scoring",
                 "predictions", "intervals", "supervised", "mixtures", "precision", "slicing", "function", "logistic"],
    "data": ["cache", "pictures", "pixels", "images", "foldernames", "walk", "classfolders", "splitfolders", "folders",
             "arrays", "datasets", "splits", "repetitions", "inventory", "identity", "augment", "staging", "samples",
             "components", "feature_cache", "tensors"],
    "remote": ["parcels", "pipe", "worker", "bridge", "cluster"],
    "tracking": ["trackers", "child"],
    "config": [""],
    "decision": ["arrays", "rules", "judge", "goal", "fits", "crossfit", "tune"],
    "storage": ["files", "hdf5", "generations", "records", "shapes", "checkpoint", "writer", "tables", "rundir",
                "lineage", "predictions", "claims"],
    "report": ["genealogy", "glyphs", "figures", "plots_of_runs", "plots_of_searches", "plots_of_benches",
               "predictions", "plots_of_predictions", "page", "plates", "thumbnails", "testpage", "overview",
               "takeaway", "archipelago", "runpage", "pairs", "benchpage", "comparison", "report", "watch"],
    "experiments": ["blame", "terminal", "interruption", "signals", "log", "moves", "memory", "starts", "costs",
                    "build", "tracking", "bounds", "sizes", "sources", "goals", "compose", "baseline", "reopen",
                    "recorders", "looks", "predictions", "conclusion", "spread", "experiment", "folds", "evaluation",
                    "selection", "comparison", "card", "formats", "export", "logits", "decide"],
    "tuning": ["rungfile", "lockstep", "legs", "trials", "search", "tuner", "tune"],
    "bench": ["statistics", "arms", "workers", "jobs", "tasks", "closed", "tables", "benchmark"],
    "forecast": ["pace", "seconds", "length", "stand_ins", "forecaster", "search", "folds", "bench"],
    "api": ["learners", "genes", "islands", "algorithms", "classification", "folders", "arguments", "notebook",
            "results", "folds", "searches", "predictions", "loading", "workers", "progress"],
    "estimator": [""],
    "cli": ["columns", "inspection", "listing", "pages", "results", "standings", "decisions", "labels", "program",
            "searches", "outcomes", "main"],
    "__main__": [""],
}  # fmt: skip
ORDER = [".".join(filter(None, (package, name))) for package, names in PACKAGES.items() for name in names]
ONLY = {  # the one module that imports a library
    "typer": {f"cli.{name}" for name in ("program", "searches", "outcomes", "main")},
    "h5py": {"storage.hdf5"}, "pydantic": {"config"}, "rich": {"experiments.terminal"},
    "safetensors": {"networks.weightfiles"}, "sklearn": {"estimator", "problems.logistic"}, "filelock": {"data.cache"},
    "evotorch": {"search.operators.crossover", "search.algorithms"}, "optuna": {"search.samplers"},
    "scipy": {"bench.statistics", "problems.mixtures"}, "yaml": {"config"}, "platformdirs": {"data.cache"},
    "onnx": {"networks.onnxgraphs"}, "onnxruntime": {"networks.onnxfiles"},
    "cloudpickle": {"remote.parcels"}, "ray": {"remote.bridge"},
    "tensorboard": {"tracking.trackers"}, "wandb": {"tracking.trackers"}, "mlflow": {"tracking.trackers"},
    "psutil": {"devices"}, "triton": {"problems.kernels"},
    "matplotlib": {f"report.{name}" for name in ("glyphs", "figures", "plots_of_runs", "plots_of_searches",
                                                 "plots_of_benches", "plots_of_predictions")},
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
    "islands",
    "tracking",
    "tune",
]
YAML = {  # below config, and yet about a config: what is said of a whole record, and a row of `neuroevo validate`
    "caveats": None,
    "data.inventory": "; --set data.broken=skip leaves such files out",
}
PROGRAM = {  # what belongs to a program, and where it is still; these sets only shrink
    "signal": {"experiments.signals"},
    "Signals": {
        "cli.searches",
        "cli.outcomes",
        "bench.workers",
        "bench.jobs",
        "tuning.legs",
    },  # a worker is a program of its own
    "argv": {"experiments.signals"},
    "print": {"cli.program", "cli.outcomes", "cli.main"},
}


@cache
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


TESTS = {  # of modules that are tested with another of their package, by that one's test file
    "engine/test_problem.py": ["engine.batches"], "engine/test_loop.py": ["engine.algorithm", "engine.observer"],
    "search/test_islands.py": ["engine.joined"],
    "search/test_operators.py": [name for name in ORDER if name.startswith("search.operators.")],
    "learning/test_refine.py": [name for name in ORDER if name.startswith("learning.")],
    "problems/test_scoring.py": ["engine.execution", "problems.sums"],
    "problems/test_metrics.py": ["problems.metric", "problems.tallies"],
    "data/test_datasets.py": ["data.splits"],
    "networks/test_backbones.py": ["networks.weights", "networks.libraries"],
    "data/test_images.py": ["data.pictures", "data.pixels"],
    "data/test_folders.py": ["data.foldernames", "data.walk", "data.classfolders", "data.splitfolders"],
    "config/test_config.py": ["config"],
    "data/test_feature_cache.py": ["data.augment", "data.samples", "data.components", "networks.affine"],
    "storage/test_checkpoint.py": ["storage.generations", "storage.writer"],
    "storage/test_rundir.py": ["storage.files", "storage.records"],
    "report/test_testpage.py": ["report.predictions", "report.plates", "report.overview"],
    "report/test_comparison.py": ["report.pairs"],
    "report/test_plots.py": [name for name in ORDER if name.startswith(("report.plots_of_", "report.figures"))],
    "experiments/test_experiment.py": [
        f"experiments.{name}" for name in ("interruption", "signals", "log", "recorders", "conclusion")
    ],
    "experiments/test_compose.py": [f"experiments.{name}" for name in ("memory", "costs", "build", "sizes", "goals")],
    "experiments/test_unfrozen.py": [
        "experiments.sources", "networks.network", "problems.supervised", "problems.slicing"],
    "tracking/test_trackers.py": ["tracking.child"],
    "experiments/test_resume.py": ["experiments.reopen"], "experiments/test_starts.py": ["networks.rows"],
    "experiments/test_export.py": ["experiments.formats"],
    "experiments/test_predictions_of_runs.py": [
        f"{name}.predictions" for name in ("experiments", "problems", "storage")
    ],
    "experiments/test_selection.py": ["experiments.comparison", "experiments.card", "networks.ensembles"],
    "report/test_genealogy.py": ["storage.lineage"], "report/test_runpage.py": ["report.takeaway"],
    "bench/test_benchmark.py": ["bench.tasks", "bench.tables"],
    "tuning/test_tune.py": ["tuning.search", "tuning.tuner"],
    "forecast/test_forecast.py": [name for name in ORDER if name.startswith("forecast.") and name != "forecast.pace"],
    "cli/test_cli.py": [
        f"cli.{name}" for name in ("main", "program", "searches", "outcomes", "pages", "results", "standings")
    ],
    "decision/test_tune_decision.py": ["decision.tune", "decision.arrays", "decision.goal"],
    "experiments/test_decide.py": ["experiments.logits"],
    "api/test_islands_from_python.py": ["api.islands"],
    "api/test_searches.py": ["api.arguments", "api.results"], "api/test_folds_from_python.py": ["api.folds"],
    "api/test_algorithms_from_python.py": ["api.algorithms"],
    "api/test_folders_of_runs.py": ["api.folders"],
    "remote/test_cluster.py": ["remote.worker", "remote.bridge", "experiments.spread", "api.workers"],
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in ORDER if name not in ("__main__", "errors")])
def test_every_module_has_its_test_file(name: str) -> None:
    tests = Path(__file__).parent
    own = next((file for file, names in TESTS.items() if name in names), None)
    package, _, last = name.rpartition(".")
    assert (tests / (own or Path(package, f"test_{last}.py"))).exists()


GUIDE = (PACKAGE.parent / "docs" / "design.md").read_text()


def list_of_the_guide() -> dict[str, list[str]]:
    """Return the modules that docs/design.md lists, by package."""
    block = next(text for text in re.findall(r"^```\n(.*?)^```", GUIDE, re.M | re.S) if text.startswith("errors"))
    packages: dict[str, list[str]] = {"": block.splitlines()[0].split()}
    for line in re.sub(r"\n +", " ", block).splitlines()[1:]:
        package, *names = re.sub(
            r"(\w+)/\{(.*?)\}", lambda found: " ".join(f"{found[1]}.{name}" for name in found[2].split()), line
        ).split()
        packages[package] = names or [""]
    return packages


def test_the_guide_lists_the_packages_and_their_modules() -> None:
    ours = {package: names for package, names in PACKAGES.items() if package != "__main__"}
    assert list_of_the_guide() == ours
    assert list(list_of_the_guide()) == list(ours)


def test_a_package_imports_only_those_that_its_row_in_the_guide_names() -> None:
    rows = re.findall(r"^\| (`\w.*?) \| .*\? \| (.*?) ?\|$", GUIDE, re.M)
    allowed = {
        name: {*names.split(", "), "errors", "reading"} for words, names in rows for name in re.findall(r"\w+", words)
    }
    assert [*allowed, "__main__"] == [*PACKAGES[""], *filter(None, PACKAGES)]
    for path in FILES:
        here = module(path).partition(".")[0]
        named = [name.removeprefix("neuroevo.") for name in imports(path) if name.startswith("neuroevo.")]
        found = {place(name).partition(".")[0] for name in named} - {here, ""}
        assert here == "__main__" or found <= allowed[here], f"{path} imports {found - allowed[here]}"


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
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Signals"):
                found[node.func.id].add(module(path))
    assert found == PROGRAM


# What a test counts is handed in: a private name may go at any time, and who imported a name keeps the one it has.
TEST_FILES = sorted(Path(__file__).parent.rglob("*.py"))


def patches(path: Path) -> Iterator[tuple[ast.expr, str, int]]:
    """Yield what a test file sets an attribute of from outside, the attribute's name, and the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("setattr", "delattr", "patch"):
            match node.args:
                case [ast.Constant(value=str(whole)), *_]:  # by its dotted name
                    owner, _, name = whole.rpartition(".")
                    yield ast.Name(owner), name, node.lineno
                case [owner, ast.Constant(value=str(name)), *_]:
                    yield owner, name, node.lineno
        for target in node.targets if isinstance(node, ast.Assign) else ():
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Attribute) and ast.unparse(each.value) not in ("self", "cls"):
                    yield each.value, each.attr, node.lineno


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.name)
def test_no_test_patches_a_private_name(path: Path) -> None:
    for owner, name, line in patches(path):
        private = name.startswith("_") and not name.endswith("__")
        assert not private, f"{path.name}, line {line}: {ast.unparse(owner)}.{name}"


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.name)
def test_no_test_patches_what_others_import_by_name(path: Path) -> None:
    names = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for owner, name, line in patches(path):
        home = names.get(ast.unparse(owner), ast.unparse(owner))
        by_name = [module(file) for file in FILES if f"{home}.{name}" in imports(file)]
        own = PACKAGE.parent / f"{home.replace('.', '/')}.py"
        if by_name and own.exists():  # its own module heeds the patch, where it uses the name at all
            uses = (n for n in ast.walk(ast.parse(own.read_text())) if isinstance(n, ast.Name) and n.id == name)
            assert any(uses), f"{path.name}, line {line}: {home}.{name} is another one in {by_name}"


# The words and measures of the house: what still falls short is named, and these sets only shrink.
MOST_POSITIONS, MOST_LINES = 5, 400
PAGES = "report."  # pages and tables, whose length is that of what they show
WORDS_IN_ED = {"seed", "speed", "need", "embed", "feed"}
IRREGULAR = re.compile(
    "begun|built|chosen|drawn|found|given|gone|grown|held|kept|known|left|made|said|seen|shown|spent|spoilt|taken|told|"
    "written"
)
TERMS = {  # participles that are the field's own terms, or names that a config gives
    "problems.supervised": "supervised",
    "report.benchpage": "dotted_lines",
    "problems.metrics": "balanced_accuracy weighted_cross_entropy",
    "search.algorithms.fixed": "fixed",
    "search.operators.crossover": "weighted",
}


def dotted(path: Path) -> str:
    """Return a file's module, a package's own modules apart."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield each function and method of the package, with its module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield dotted(path), node


def excused(*tables: dict[str, str]) -> set[str]:
    return {f"{name}.{function}" for table in tables for name, row in table.items() for function in row.split()}


def test_no_function_has_more_than_five_positional_parameters() -> None:
    found = set()
    for name, node in functions():
        if "triton.jit" in map(ast.unparse, node.decorator_list):
            continue  # which knows no other parameters
        own = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        if len(own) - (own[:1] in (["self"], ["cls"])) > MOST_POSITIONS:
            found.add(f"{name}.{node.name}")
    assert not found


def test_no_file_is_longer_than_400_lines() -> None:
    long = {dotted(path) for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > MOST_LINES}
    assert not {name for name in long if not name.startswith(PAGES)}


def test_the_formatter_is_never_turned_off() -> None:
    assert not {dotted(path) for path in PACKAGE.rglob("*.py") if "fmt: skip" in path.read_text()}


def test_no_function_is_called_by_a_participle() -> None:
    found = set()
    for name, node in functions():
        word = node.name.strip("_").split("_")[0]
        if IRREGULAR.fullmatch(word) or (word.endswith("ed") and word not in WORDS_IN_ED):
            found.add(f"{name}.{node.name}")
    assert not found - excused(TERMS)
