"""What a run, a search or a benchmark takes is told before, part by part, and is about what it then takes."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Quiet, make_folder, weights_of_a_network
from test_tune import load as searching

from neuroevo import config
from neuroevo.bench import arms
from neuroevo.cli import inspection
from neuroevo.config import Config, load
from neuroevo.data import feature_cache
from neuroevo.experiments import experiment, folds
from neuroevo.forecast import pace
from neuroevo.forecast.bench import Comparison, estimate_bench
from neuroevo.forecast.folds import estimate_folds
from neuroevo.forecast.forecaster import Forecaster
from neuroevo.forecast.search import estimate_search
from neuroevo.forecast.seconds import breakdown

# Digits' own pixels: quick, and nothing to download.
SETS = [
    "backbone.name=none", "backbone.weights=none", "data.image_size=null", "algorithm.population=24",
    "budget.generations=20", "memory.limit=1e8",
]  # fmt: skip
HYBRID = ["refine.steps=12", "refine.batch_size=32"]


def foretold(c: Config) -> dict[str, float]:
    ready = experiment.prepare(c)
    forecaster = Forecaster(ready, seconds=0.4)
    return forecaster.run(ready.config) if c.tune is None else estimate_search(forecaster).seconds


@pytest.mark.parametrize("sets", [[], HYBRID])
@pytest.mark.parametrize("more", [["budget.generations=20000"], ["budget.generations=null", "budget.samples=1e9"]])
def test_what_a_run_takes_grows_with_its_budget(sets: list[str], more: list[str]) -> None:
    little, much = (foretold(load(None, [*SETS, *sets, *own])) for own in ([], more))
    assert list(little) == ["features", "run"]
    assert 0 < little["run"] * 5 < much["run"]


def test_seconds_end_a_run_that_would_take_longer() -> None:
    found = foretold(load(None, [*SETS, "budget.generations=10000000", "budget.seconds=50"]))
    assert 50 < found["run"] < 60
    assert 50 < foretold(load(None, [*SETS, "budget.generations=null", "budget.seconds=50"]))["run"] < 60


def test_what_folds_take_is_told_search_by_search_with_the_fit_to_all() -> None:
    sets = [*SETS, "validate.folds=3", "fitness.samples=all", "budget.generations=2000"]
    c = load(None, sets)
    ready = experiment.prepare(folds.fold_of(c, 1))
    found = estimate_folds(Forecaster(ready, seconds=0.4), c)
    assert found.searches == 3 and list(found.seconds) == ["features", "searches", "fit to all"]
    train, held = len(ready.given[1]["train"]), len(ready.given[1]["validation"])
    assert found.each.cost.forward == 2000 * 24 * train and found.last.cost.forward == 2000 * 24 * (train + held)
    # A third of the searches' time, and longer by as many samples as it has more.
    assert found.seconds["fit to all"] == pytest.approx(found.seconds["searches"] / 3 * (train + held) / train)
    rows = dict(inspection.estimate(c))
    assert rows["searches"] == "3, each validated on one fold"
    assert rows["of each"].startswith("2,000 generations, ") and "2,000 generations at most" in rows["fit to all"]
    assert re.search(r"searches .* s.*, fit to all .* s", rows["time"])
    shared = [*SETS, "validate.refit=true", "budget.generations=null", "budget.samples=1e6"]
    rows = dict(inspection.estimate(load(None, shared)))
    assert rows["searches"] == "1, on the data's own split"
    parts = [int(rows[name].split(" generations")[0].replace(",", "")) for name in ("of each", "fit to all")]
    assert parts[0] == parts[1] and parts[0] * 24 * 512 < 0.6e6


@pytest.mark.parametrize("more", ["tune.budget.generations=3000", "tune.trial.generations=2000"])
def test_what_a_search_takes_grows_with_its_budget_and_holds_the_final_run(more: str) -> None:
    little, much = foretold(searching()), foretold(searching(more))
    assert list(little) == ["features", "search", "final run"]
    assert 0 < little["search"] * 10 < much["search"]
    assert list(foretold(searching("tune.final=false"))) == ["features", "search"]


def test_a_search_is_counted_by_its_rungs_and_by_all_that_it_can_set(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = pace.of_generation
    monkeypatch.setattr(pace, "of_generation", lambda *given: (0.1, measured(*given)[1]))
    monkeypatch.setattr(pace, "of_validation", lambda *given: 0.0)
    whole, halved = "tune.trial={generations: 400}", "tune.trial={generations: 400, rungs: [10], keep: 0.25}"
    assert foretold(searching(halved))["search"] < foretold(searching(whole))["search"] / 2
    choices = ["tune.space={refine.nesterov: boolean}", "tune.budget={generations: 100000}"]
    found = estimate_search(Forecaster(experiment.prepare(searching(*choices)), seconds=0.2))
    assert found.iterations == 1


def test_what_a_bench_takes_is_all_its_runs() -> None:
    base = config.raw(None, SETS)
    c = config.check(base)
    ready = experiment.prepare(c)
    overlays = arms.read_arms(["ga", "sgd"])
    given = arms.Given(200_000, 1257, 270)
    one, six = (
        estimate_bench(Forecaster(ready, 0.4), Comparison(base, overlays, seeds, splits, None), given)
        for seeds, splits in ((1, 1), (3, 2))
    )
    assert list(one.arms) == ["ga", "sgd"]
    assert one.seconds["runs"] == pytest.approx(sum(one.arms.values()))
    assert six.seconds["runs"] == pytest.approx(6 * sum(six.arms.values()))


def test_features_that_are_not_there_are_timed_and_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path / "cache"))
    root = make_folder(tmp_path / "data", {"train": {"a": 90, "b": 90}, "test": {"a": 9, "b": 9}})
    net = ["backbone.name=timm/test_resnet", weights_of_a_network(tmp_path), "data.name=image_folder",
           f"data.root={root}", "data.image_size=32", "algorithm.population=8", "budget.generations=3"]  # fmt: skip
    views = ["data.augment=[{name: RandomHorizontalFlip}]", "features.views=3"]
    for sets in (
        [],
        views,
        ["data.augment=[{name: RandomHorizontalFlip}]", "features.views=live"],
        ["features.components=null", "head.init=default"],
        ["head.init=default", "backbone.trainable=[layer4]"],
    ):
        foretold(load(None, [*net, *sets]))
    assert not list((tmp_path / "cache").rglob("*.np*"))
    assert foretold(load(None, net))["features"] > 0
    monkeypatch.setattr(feature_cache, "rate", lambda *given: 10.0)
    plain, augmented = (foretold(load(None, [*net, *sets]))["features"] for sets in ([], views))
    assert plain == pytest.approx(198 * 10, abs=9)
    assert augmented == pytest.approx((198 + 3 * 153) * 10, abs=9)
    monkeypatch.undo()
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path / "cache"))
    experiment.run(load(None, net), str(tmp_path / "r"), "test", Quiet())
    assert foretold(load(None, net))["features"] == 0


def seconds(row: str) -> dict[str, float]:
    total, parts = re.fullmatch(r"about ([\d.,]+) s.* in all: (.*)", row).groups()  # type: ignore[union-attr]
    found = {name: float(value.replace(",", "")) for name, value in re.findall(r"([a-z ]+?) ([\d.,]+) s", parts)}
    return {"all": float(total.replace(",", ""))} | {name.strip(): value for name, value in found.items()}


def test_the_row_says_the_whole_first_and_then_its_parts() -> None:
    assert breakdown({"features": 12.0, "search": 50.4, "final run": 9.0, "start": 2.96}) == (
        "about 74 s in all: features 12 s, search 50 s, final run 9.0 s, start 3.0 s"
    )
    assert breakdown({"features": 0.0, "run": 7400.0}) == "about 7,400 s (2 h 3 min) in all: run 7,400 s (2 h 3 min)"
    rows = dict(inspection.estimate(load(None, SETS), begun=time.time() - 100))
    found = seconds(rows["time"])
    assert 100 <= found["start"] < 130
    assert found["all"] == pytest.approx(found["start"] + found["run"], abs=2)


@pytest.mark.parametrize(
    "sets", [["budget.generations=600", "fitness.samples=512"], [*HYBRID, "budget.generations=60", "validate.every=1"]]
)
def test_a_run_takes_about_what_was_foretold(tmp_path: Path, sets: list[str]) -> None:
    c = load(None, [*SETS, *sets])
    ratios = []
    for i in range(3):  # the machine has other things to do, too
        expected = sum(Forecaster(experiment.prepare(c), 2.0).run(c).values())
        began = time.monotonic()
        experiment.run(c, str(tmp_path / str(i)), "test", Quiet())
        ratios.append(expected / (time.monotonic() - began))
        if 1 / 3 < ratios[-1] < 3:
            return
    raise AssertionError(ratios)


def test_a_search_of_whole_populations_is_warned_of() -> None:
    ga: list[Any] = ["algorithm={name: ga, population: 256}", "genome.init_sigma=0.02", "fitness.samples=20"]
    rows = dict(inspection.estimate(searching(*ga, "tune.trial.generations=1")))
    assert "each trial is a ga of 256 individuals, so an iteration of 4 is 1,024 networks" in rows["warning"]
    assert rows["time"].startswith("about ")
    assert "warning" not in dict(inspection.estimate(searching()))
