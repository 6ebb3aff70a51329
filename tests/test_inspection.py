from pathlib import Path

import pytest
from conftest import Quiet

from neuroevo import checkpoint, config, experiment, inspection, rundir
from neuroevo.arms import ARMS
from neuroevo.config import load
from neuroevo.errors import InputError

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
    path = checkpoint.listed(finished / "checkpoints")[0]
    alone = dict(inspection.describe(str(path))[1])
    assert alone["generation"] == "2"
    assert "checksum good" in alone["file"]


def test_damage_is_shown(finished: Path, tmp_path: Path) -> None:
    source = checkpoint.listed(finished / "checkpoints")[0]
    bad = tmp_path / "c.h5"
    bad.write_bytes(source.read_bytes()[:-3])
    with pytest.raises(InputError, match="damaged"):
        inspection.describe(str(bad))
    with pytest.raises(InputError, match="no run is there"):
        inspection.describe(str(tmp_path))


def test_every_name_of_every_table_is_listed() -> None:
    listed = {kind: [name for name, _ in rows] for kind, rows in inspection.names(None)}
    assert listed == {kind: list(table) for kind, table in {**config.TABLES, "arm": ARMS}.items()}
    assert dict(inspection.names("selection")[0][1])["tournament"].endswith("(size=4)")


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


def test_what_an_algorithm_refuses_is_refused_before_any_run() -> None:
    with pytest.raises(InputError, match="algorithm.elites: 12 must be below the population of 12"):
        inspection.estimate(load(None, [*SETS, "algorithm.elites=12"]))
