import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Quiet, make_folder

from neuroevo import caveats, config
from neuroevo.cli import program
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import build, experiment
from neuroevo.report import runpage
from neuroevo.storage import rundir

REFINE = "refine.steps=1"

# Each key that does nothing by itself, the settings that make it so, and what gives it an effect.
IDLE = [
    ("features.views", ["features.views=3"], ["data.augment=[{name: RandomHorizontalFlip}]"]),
    ("data.augment", ["data.augment=[{name: RandomHorizontalFlip}]", "fitness.split=validation"], [REFINE]),
    ("backbone.weights", ["backbone.name=none", "backbone.weights=pypi"], ["backbone.name=timm/tf_efficientnet_lite0"]),
    ("backbone.batchnorm", ["backbone.batchnorm=recalibrate"], ["backbone.trainable=[conv_head]"]),
    ("memory.plan", ["memory.plan=vmap"], ["backbone.trainable=[conv_head]"]),
    ("head.dropout", ["head.name=mlp", "head.dropout=0.5"], [REFINE]),
    ("refine.final", [REFINE, "refine.final=0.5"], ["refine.schedule=linear"]),
    ("refine.nesterov", [REFINE, "refine.momentum=0", "refine.nesterov=true"], ["refine.momentum=0.5"]),
    ("refine.optimizer_state", [REFINE, "refine.momentum=0", "refine.optimizer_state=inherit"],
     ["refine.momentum=0.5"]),
    ("algorithm.mutation.final", ["algorithm.mutation.schedule=constant", "algorithm.mutation.final=0.5"],
     ["algorithm.mutation.schedule=linear"]),
    ("algorithm.mutation.tau", ["algorithm.mutation.tau=0.2"], ["algorithm.mutation.self_adaptive=true"]),
    ("algorithm.mutation.per", ["algorithm.mutation.per=tensor"], ["algorithm.mutation.rate=0.5"]),
    ("algorithm.neighbours", ["algorithm.name=pso", "algorithm.neighbours=3"], ["algorithm.neighbourhood=ring"]),
    ("algorithm.averaging", ["algorithm.averaging=false", "fitness.metrics=[accuracy, brier]"],
     ["fitness.metrics=null"]),
    ("validate.logistic", ["head.name=mlp", "validate.logistic=false"], ["head.name=linear"]),
    ("data.validation", ["validate.folds=5", "data.validation=0.3"], ["validate.folds=null"]),
    ("validate.refit", ["validate.folds=5", "validate.refit=true"], ["validate.folds=null"]),
    ("tune.trial.keep", ["tune.trial.keep=0.2"], ["tune.trial.rungs=[1]"]),
    ("tune.included", ["tune.included=true"], ["budget.samples=1000000"]),
]  # fmt: skip
TUNE = ["tune.space={genome.init_sigma: {name: float, low: 0.1, high: 1}}"]


@pytest.mark.parametrize(("key", "sets", "remedy"), IDLE, ids=lambda value: value if isinstance(value, str) else "")
def test_a_key_without_effect_is_an_error_and_none_once_it_has_one(
    key: str, sets: list[str], remedy: list[str]
) -> None:
    before = TUNE if key.startswith("tune") else []
    with pytest.raises(InputError, match=f"{key}: .* has no effect: "):
        load(None, [*before, *sets])
    load(None, [*before, *sets, *remedy])


def test_every_key_that_can_be_idle_is_tried_above() -> None:
    found: set[str] = set()
    for _, sets, _ in IDLE:
        tune = [] if any(text.startswith("validate.folds") for text in sets) else TUNE  # these don't go together
        raw = config.override(dict(config.DEFAULT), [*tune, *sets], lambda line: None)
        found |= caveats.idle(config.check(raw).record()).keys()
    assert found == {key for key, _, _ in IDLE}


def test_what_a_setting_makes_pointless_is_dropped_and_said(quiet: Quiet, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("algorithm: {mutation: {schedule: linear, final: 0.5}}\nbackbone: {weights: pypi}\n")
    c = load(str(file), ["algorithm.mutation.schedule=constant", "backbone.name=none"], quiet.note)
    assert c.record()["algorithm"]["mutation"]["final"] == 0.1
    assert quiet.lines == [
        "backbone.weights is dropped: there is no backbone",
        "algorithm.mutation.final is dropped: the schedule is constant",
    ]
    file.write_text("algorithm: {mutation: {schedule: constant, final: 0.5}}\n")
    with pytest.raises(InputError, match=r"algorithm.mutation.final: 0.5 has no effect"):
        load(str(file), ["seed=1"])


def test_a_config_that_was_written_down_is_read_whatever_has_no_effect_in_it() -> None:
    raw = config.override(dict(config.DEFAULT), ["features.views=3", "refine.lr=0.5"], lambda line: None)
    assert config.check(config.parse(config.check(raw).to_yaml(), "")).features.views == 3


@pytest.mark.parametrize("key", ["lr", "batch_size", "momentum", "schedule"])
def test_gradient_steps_are_asked_for_by_their_number_or_their_optimizer(key: str) -> None:
    value = {"lr": "0.1", "batch_size": "8", "momentum": "0.5", "schedule": "cosine"}[key]
    with pytest.raises(InputError, match=rf"refine.{key}: has no effect without gradient steps.*add refine.steps"):
        load(None, [f"refine.{key}={value}"])
    assert load(None, [f"refine.{key}={value}", "refine.steps=2"]).refine is not None
    assert load(None, [f"refine.{key}={value}", "refine.name=sgd"]).refine is not None


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["refine.who=elites", "algorithm.elites=0"], "refine.who: elites, and there are none"),
        (["refine.who=elites", "algorithm.name=snes"], "refine.who: elites, and there are none"),
        (["refine.who=children", "algorithm.name=fixed"], "refine.who: children, and a fixed population has none"),
    ],
)
def test_learning_of_nobody_is_refused(sets: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(None, [REFINE, *sets])
    load(None, [REFINE, sets[0], "algorithm.elites=2"])


def selection(*sets: str) -> str:
    return str(load(None, list(sets)).record()["algorithm"]["selection"]["name"])


def test_a_crossover_that_takes_parents_as_they_come_brings_a_tournament_along() -> None:
    for name in config.TABLES["crossover"]:
        assert selection(f"algorithm.crossover={name}") == ("all" if name == "weighted" else "tournament")
    assert selection("algorithm.parents=64") == "random"
    assert selection("algorithm.crossover.step=0") == "tournament"
    assert selection("algorithm.crossover=uniform", "algorithm.selection=rank") == "rank"
    assert load(None, ["algorithm.crossover=row", "algorithm.selection.size=2"]).record()["algorithm"]["selection"] == {
        "name": "tournament", "size": 2
    }  # fmt: skip


@pytest.mark.parametrize("still", ["algorithm.mutation.sigma=0", "algorithm.mutation.rate=0"])
def test_a_mean_that_nothing_changes_is_said_to_be_no_search(still: str) -> None:
    (found,) = caveats.of_config(load(None, [still]).record(), 9)
    assert found.startswith("algorithm.mutation: nothing is changed, and all children are the population's mean")
    for other in ("algorithm.selection=random", "algorithm.parents=64", "algorithm.crossover=uniform"):
        assert not caveats.of_config(load(None, [still, other]).record(), 9)


@pytest.mark.parametrize("name", ["random", "all"])
@pytest.mark.parametrize("sets", [["algorithm.crossover=uniform"], ["algorithm.crossover.step=0"]], ids=str)
def test_selection_without_pressure_is_refused_and_said_where_individuals_learn(sets: list[str], name: str) -> None:
    chosen = f"algorithm.selection={name}"
    with pytest.raises(InputError, match=rf"algorithm.selection: {name}, and .* only 1 of 256 .* set it to tournament"):
        load(None, [*sets, chosen])
    learning = load(None, [*sets, chosen, REFINE]).record()
    assert "only learning makes individuals better" in caveats.of_config(learning, 9)[0]
    assert caveats.of_config(load(None, [*sets, chosen, "algorithm.elites=64"]).record(), 9) == []


@pytest.mark.parametrize("name", config.TABLES["crossover"])
def test_a_crossover_that_leaves_all_to_mutation_is_refused_where_there_are_many_genes(name: str) -> None:
    c, weak = load(None, [f"algorithm.crossover={name}"]), name in caveats.WEAK
    for genes, stalls in ((caveats.FEW_GENES, False), (5130, weak)):
        assert (caveats.stalls(c.record(), genes) is not None) == stalls
        if stalls:
            with pytest.raises(InputError, match=rf"algorithm.crossover: {name}, .* 5,130 genes .*: add refine.steps"):
                build.check_crossover(c, genes)
        else:
            build.check_crossover(c, genes)
    asked = load(None, [f"algorithm.crossover={name}", "algorithm.selection=tournament"])
    build.check_crossover(asked, 5130)
    assert (len(caveats.of_config(asked.record(), 5130)) == 1) == weak
    for other in (REFINE, "genome.from=[a, b]", "backbone.trainable=[conv_head]"):
        assert caveats.stalls(load(None, [f"algorithm.crossover={name}", other]).record(), 5130) is None


SMALL = ["algorithm.population=48", "budget.generations=40", "fitness.samples=200", "validate.every=5"]
NAMED_ALONE = [(kind, name) for kind in ("crossover", "selection", "mutation") for name in config.TABLES[kind]]


@pytest.fixture(scope="module")
def accuracy_of_random_search(tmp_path_factory: pytest.TempPathFactory) -> float:
    folder, _ = ran(tmp_path_factory.mktemp("random") / "r", *SMALL, "algorithm.name=random")
    return float(rundir.read_result(folder)["champion"]["validation"]["accuracy"])


@pytest.mark.parametrize(("kind", "name"), NAMED_ALONE, ids=str)
def test_each_operator_named_alone_leaves_random_search_behind_or_is_refused_with_what_to_add(
    kind: str, name: str, accuracy_of_random_search: float, tmp_path: Path
) -> None:
    try:
        folder, _ = ran(tmp_path / "r", *SMALL, f"algorithm.{kind}={name}")
    except InputError as error:
        assert "add" in str(error) or "needs" in str(error)
        assert name in caveats.WEAK or name == "levels"
        return
    found = rundir.read_result(folder)["champion"]["validation"]["accuracy"]
    assert found > accuracy_of_random_search + 0.3


def ran(folder: Path, *sets: str) -> tuple[Path, Quiet]:
    quiet = Quiet()
    return experiment.run(load(None, [*TINY, "validate.logistic=false", *sets]), str(folder), "x", quiet), quiet


def said(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str, str]:
    """Return a run's warnings: of result.json, of the terminal's summary, of the page."""
    capsys.readouterr()
    program.summary(str(folder))
    result = json.loads((folder / rundir.RESULT).read_text())["warnings"]
    return result, capsys.readouterr().out, runpage.run_page(folder, None)


STILL = ["genome.init_sigma=0", "algorithm.mutation.sigma=0", "algorithm.crossover=none", "algorithm.selection=rank"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["fitness.split=validation"], "fitness.split: validation, on which the champion is chosen as well"),
        (["algorithm.crossover=uniform", "algorithm.selection=random", REFINE], "nothing selects"),
        (STILL, "the champion is the untrained start: in 3 validations no candidate had a better accuracy"),
        (STILL, "the champion predicts 0 for each of the test images"),
    ],
    ids=["split", "drift", "start", "one class"],
)
def test_what_a_reader_must_know_is_in_terminal_result_and_page_and_only_then(
    sets: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["algorithm.elites=0"] if "nothing" in message else []
    folder, quiet = ran(tmp_path / "with", *sets, *more)
    result, summary, page = said(folder, capsys)
    assert any(message in line for line in result)
    assert any(line.startswith(caveats.WARNING) and message in line for line in quiet.lines)
    assert message in summary
    assert message in page
    assert "Warning" in page
    folder, quiet = ran(tmp_path / "without")
    result, summary, page = said(folder, capsys)
    assert result == []
    assert not any(caveats.WARNING in line for line in quiet.lines)
    assert "warning" not in summary
    assert "Warning" not in page


def test_a_split_that_lacks_a_class_is_said_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "all", {"train": {"ant": 20, "bee": 20}, "test": {"ant": 4, "bee": 4}})
    make_folder(tmp_path / "few", {"train": {"ant": 20, "bee": 20}, "test": {"ant": 4}})
    for name in ("all", "few"):
        folder, quiet = ran(tmp_path / f"run-{name}", "data.name=image_folder", f"data.root={tmp_path / name}")
        result, summary, page = said(folder, capsys)
        line = "test has no image of bee (1 of 2 classes): its figures say nothing of them"
        assert (line in result) == (name == "few")
        assert (f"{caveats.WARNING}{line}" in quiet.lines) == (name == "few")
        assert (line in summary) == (name == "few")
        assert (line in page) == (name == "few")


def test_the_norm_of_a_champion_is_that_of_the_exported_network(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    metrics = "fitness.metrics=[cross_entropy, weight_norm, sparsity, distance]"
    folder, _ = ran(tmp_path / "r", metrics, "features.components=20")
    weights = load_file(folder / rundir.CHAMPION)
    flat = np.concatenate([weight.double().numpy().ravel() for weight in weights.values()])
    champion = rundir.read_result(folder)["champion"]
    root = len(flat) ** 0.5
    expected = {
        "weight_norm": np.linalg.norm(flat), "distance": np.linalg.norm(flat),
        "sparsity": (root - np.abs(flat).sum() / np.linalg.norm(flat)) / (root - 1),
    }  # fmt: skip
    for name, value in expected.items():
        assert champion["validation"][name] == pytest.approx(value, rel=1e-5)
        assert champion["test"][name] == pytest.approx(value, rel=1e-5)


def test_a_champion_of_a_front_is_named_by_its_number_in_the_newest_front(tmp_path: Path) -> None:
    folder, _ = ran(tmp_path / "r", "fitness.metrics=[cross_entropy, weight_norm]", "budget.generations=12")
    champion = rundir.read_result(folder)["champion"]
    saved = rundir.newest(folder)
    assert saved is not None
    assert saved.front is not None
    same = [i for i, genome in enumerate(saved.front.genomes) if genome.equal(saved.step.champion.genome)]
    assert champion["member"] == (same[0] if same else None)
    newest = f"now --member {same[0]}" if same else "no longer in that of generation 12"
    assert champion["about"] == f"a member of the front of generation {champion['generation']}, {newest}"


@pytest.mark.parametrize(
    ("kind", "generation", "words"),
    [
        ("start", 0, "the untrained start"),
        ("best", 7, "best of generation 7"),
        ("elite_mean", 7, "elite_mean of generation 7: the mean of the best 64 of 256 individuals"),
        ("center", 7, "center of generation 7: the middle of the search's distribution"),
        ("individual_3", 7, "individual 3 of generation 7"),
        ("front-2", 7, "a member of the front of generation 7"),
    ],
)
def test_a_champion_is_told_in_words(kind: str, generation: int, words: str) -> None:
    record: dict[str, Any] = load(None).record()
    assert caveats.of_kind(kind, generation, record) == words
    record["genome"]["from"] = ["run"]
    if kind == "start":
        assert caveats.of_kind(kind, generation, record) == "the start, as genome.from gives it"


def test_a_simplex_on_a_batch_that_changes_is_told_so() -> None:
    simplex = ["backbone.name=none", "algorithm.name=nelder_mead", "features.components=2"]
    line = "algorithm.name: nelder_mead compares scores of different generations, and each has another batch"

    def lines(*sets: str) -> list[str]:
        return [found.partition(": fit")[0] for found in caveats.of_config(load(None, [*simplex, *sets]).record(), 30)]

    assert line in lines()
    assert line not in lines("fitness.samples=all")
    assert line not in lines("algorithm.name=spsa")
    record = load(None, simplex).record()
    of_network = record | {"fitness": record["fitness"] | {"metric": {"name": "mine:score", "of": "network"}}}
    assert line not in [found.partition(": fit")[0] for found in caveats.of_config(of_network, 30)]
