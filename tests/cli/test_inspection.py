import re
import tomllib
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import Quiet

from neuroevo import config
from neuroevo.bench.arms import ARMS
from neuroevo.cli import inspection
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.storage import generations, rundir

SETS = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=12",
        "budget.generations=2", "memory.limit=1e8"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspection") / "r"
    experiment.run(load(None, SETS), str(folder), "test", Quiet())
    return folder


def test_a_run_and_its_checkpoint_are_described(finished: Path) -> None:
    rows = dict(inspection.describe(str(finished))[1])
    assert rows["status"] == "finished (generations)"
    assert rows["population"] == "12 individuals of 610 genes"
    assert rows["  head.weight"] == "10 x 60"
    assert rows["/population/genomes"] == "(12, 610) float32"
    path = generations.paths(finished / "checkpoints")[0]
    alone = dict(inspection.describe(str(path))[1])
    assert alone["generation"] == "2"
    assert "checksum good" in alone["file"]


def test_damage_is_shown(finished: Path, tmp_path: Path) -> None:
    source = generations.paths(finished / "checkpoints")[0]
    bad = tmp_path / "c.h5"
    bad.write_bytes(source.read_bytes()[:-3])
    with pytest.raises(InputError, match="damaged"):
        inspection.describe(str(bad))
    with pytest.raises(InputError, match="no run is there"):
        inspection.describe(str(tmp_path))


def test_every_name_of_every_table_is_listed() -> None:
    listed = {kind: [name for name, _ in rows] for kind, rows in inspection.names()}
    assert listed == {kind: list(table) for kind, table in {**config.TABLES, "arm": ARMS}.items()}
    assert dict(dict(inspection.names())["selection"])["tournament"].endswith("(size=4)")


def test_estimates_are_what_a_run_then_costs(finished: Path) -> None:
    rows = dict(inspection.estimate(load(None, SETS)))
    assert rows["forward samples"] == f"{2 * 12 * 512:,}"
    assert rows["genome"].startswith("650 genes")
    assert rows["images"] == "train 1,257, validation 270, test 270"
    by_samples = dict(inspection.estimate(load(None, [*SETS, "budget.generations=null", "budget.samples=30000"])))
    assert by_samples["generations"] == "5"
    hybrid = dict(inspection.estimate(load(None, [*SETS, "refine.steps=5", "refine.batch_size=20"])))
    assert hybrid["forward samples"] == f"{2 * 12 * (512 + 100):,}"
    assert hybrid["backward samples"] == f"{2 * 12 * 100:,}"


@pytest.mark.parametrize("name", ["pso", "de"])
@pytest.mark.parametrize("limit", ["generations=3", "samples=3500", "forward_samples=6400"])
def test_an_estimate_counts_what_is_scored_again_beside_the_new(tmp_path: Path, name: str, limit: str) -> None:
    sets = [*SETS, f"algorithm.name={name}", "fitness.samples=100", "budget.generations=null", f"budget.{limit}"]
    rows = dict(inspection.estimate(load(None, sets)))
    experiment.run(load(None, sets), str(tmp_path / "r"), "test", Quiet())
    result = rundir.read_result(tmp_path / "r")
    generations, batch = int(rows["generations"]), 12 * 100
    assert generations == result["generations"]
    expected = batch + 2 * batch * (generations - 1)
    assert rows["forward samples"] == f"{expected:,}"
    assert expected - 2 * batch < result["cost"]["forward_samples"] <= expected  # the last batch is cut


def test_the_machine_is_described() -> None:
    rows = dict(inspection.machine())
    assert {"torch", "threads", "auto device", "cache"} <= set(rows)


def test_every_extra_of_the_package_is_listed() -> None:
    given = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    rows = dict(inspection.machine())
    assert [name for name in rows if name.startswith("extra ")] == [f"extra {extra}" for extra in given]
    for extra, asked in given.items():
        missing = [name for name in (re.split(r"[^\w.-]", line)[0] for line in asked) if not there(name)]
        assert (rows[f"extra {extra}"] == "there") is not missing
        assert all(name in rows[f"extra {extra}"] for name in missing) or len(missing) == len(asked)


def there(name: str) -> bool:
    return any(True for _ in metadata.Distribution.discover(name=name))


def test_what_is_missing_of_an_extra_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        metadata = Message()
        requires: ClassVar = [
            "torch>=2", 'torch>=2; extra == "all"', "numpy (>=1); extra == 'all'", 'torch ; extra == "some"',
            'no-such-a[b]>=1; python_version >= "3" and extra == "some"', 'no-such-a; extra=="none"',
        ]  # fmt: skip

    for extra in ("all", "some", "none", "empty"):
        Package.metadata["Provides-Extra"] = extra
    real = metadata.distribution
    monkeypatch.setattr(metadata, "distribution", lambda name: Package if name == "neuroevo" else real(name))
    assert inspection.extras() == [
        ("extra all", "there"),
        ("extra some", "no-such-a not installed: pip install 'neuroevo[some]'"),
        ("extra none", "not installed: pip install 'neuroevo[none]'"),
        ("extra empty", "there"),
    ]


def test_what_an_algorithm_refuses_is_refused_before_any_run() -> None:
    with pytest.raises(InputError, match="algorithm.elites: 12 must be below the population of 12"):
        inspection.estimate(load(None, [*SETS, "algorithm.elites=12"]))
