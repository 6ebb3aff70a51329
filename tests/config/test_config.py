import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from neuroevo import config
from neuroevo.config import TABLES, check, load
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError
from neuroevo.experiments import build

RUNS = sorted((Path(__file__).parents[2] / "runs").glob("*.yaml"))


def my_metric(logits: Tensor, targets: Tensor, *, weight: float = 2.0) -> Tensor:
    return weight * logits.sum((1, 2))


def own_head(features: int, classes: int, *, layers: int = 1, record: int = 0) -> torch.nn.Linear:
    return torch.nn.Linear(features, classes)


def no_annotations(fitness, count, generator, *, x=3):  # type: ignore[no-untyped-def]
    return torch.zeros(count)


def refused(raw: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        check(raw)
    return str(caught.value)


def test_the_built_in_default_is_runs_digits_yaml() -> None:
    digits = Path(__file__).parents[2] / "runs" / "digits.yaml"
    assert load(str(digits)) == load(None)


@pytest.mark.parametrize("file", RUNS, ids=lambda path: path.name)
def test_every_preset_is_valid_and_begins_with_its_command(file: Path) -> None:
    c = load(str(file))
    first = file.read_text().split("\n")[0]
    assert first.startswith("# ")
    command = "bench" if file.name.startswith("bench_") else "tune" if c.tune else "run"
    assert f"neuroevo {command} runs/{file.name}" in first


def test_the_resolved_config_is_whole_and_reads_back_to_itself() -> None:
    c = load(None, ["algorithm.mutation.sigma=0.5", "fitness.ties=accuracy", "budget.generations=7"])
    assert check(yaml.safe_load(c.to_yaml())) == c
    record = c.record()
    assert list(record) == [
        "seed", "device", "data", "backbone", "head", "features", "genome", "algorithm", "refine", "fitness",
        "validate", "budget", "checkpoint", "memory",
    ]  # fmt: skip
    assert record["algorithm"]["mutation"]["sigma"] == 0.5
    assert record["genome"]["from"] == []


def test_each_section_spells_out_its_parts_first_and_then_its_own_keys() -> None:
    metric = {"name": "test_config:my_metric", "weight": 3.0}
    network = {"name": "math:sqrt", "of": "network"}
    raw = {
        "data": {"limit": 9, "name": "image_folder", "root": "/x"},
        "head": {"init": "default", "hidden": [3], "name": "mlp"},
        "refine": {"lr": [0.1, 0.2], "steps": {"epochs": 2}, "momentum": 0.5},
        "fitness": {"samples": 7, "ties": "accuracy", "metric": metric},
        "validate": {"every": 3, "metric": {"name": "top_k", "k": 2}},
    }
    c = check(raw)
    assert (c.data.source.name, c.head.layers.options["hidden"]) == ("image_folder", [3])
    record = c.record()
    assert {key: list(record[key])[:count] for key, count in {"data": 5, "head": 6, "refine": 5}.items()} == {
        "data": ["name", "root", "broken", "max_pixels", "groups"],
        "head": ["name", "hidden", "activation", "norm", "dropout", "init"],
        "refine": ["name", "momentum", "nesterov", "steps", "lr"],
    }
    assert (record["refine"]["lr"], record["refine"]["steps"]) == ([0.1, 0.2], {"epochs": 2})
    assert list(record["fitness"].items())[:3] == [("metric", metric), ("ties", "accuracy"), ("samples", 7)]
    assert list(record["validate"].items())[:2] == [("metric", {"name": "top_k", "k": 2}), ("every", 3)]
    assert check(yaml.safe_load(c.to_yaml())) == c
    many = check({"fitness": {"split": "validation", "metrics": [network, "brier"]}}).record()["fitness"]
    assert list(many.items())[:2] == [("metrics", [network, "brier"]), ("samples", 512)]
    assert check({}).record()["refine"] is None


@pytest.mark.parametrize("key", ["data.source", "head.layers", "refine.optimizer"])
def test_a_field_that_holds_a_part_is_no_key(key: str) -> None:
    section, name = key.split(".")
    assert refused({section: {name: "sgd"}}).startswith(f"{key}: unknown key")


def test_an_option_of_ones_own_may_be_called_as_the_field_of_its_part() -> None:
    c = check({"head": {"name": "test_config:own_head", "layers": 5, "record": 2, "init": "default"}})
    assert c.record()["head"] == {
        "name": "test_config:own_head", "layers": 5, "record": 2, "init": "default", "trainable": True,
    }  # fmt: skip
    assert check(c.record()) == c


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"algoritm": {}}, "algoritm: unknown key (did you mean algorithm?)"),
        ({"algorithm": {"populatoin": 9}}, "algorithm.populatoin: unknown key (did you mean population?)"),
        ({"algorithm": {"mutation": {"sigm": 1}}}, "algorithm.mutation.sigm: unknown key (did you mean sigma?)"),
        ({"data": {"name": "digits", "image_sise": 1}}, "data.image_sise: unknown key (did you mean image_size?)"),
        ({"budget": {"generation": 1}}, "budget.generation: unknown key (did you mean generations?)"),
        ({"validate": {"metrics": "accuracy"}}, "validate.metrics: unknown key (did you mean metric?)"),
        ({"fitness": {"metric": "acuracy"}}, "fitness.metric.name: no metric is called 'acuracy' (did you mean acc"),
        ({"algorithm": {"name": "gaa"}}, "algorithm.name: no algorithm is called 'gaa' (did you mean ga?)"),
        ({"algorithm": {"selection": "tournment"}}, "algorithm.selection.name: no selection is called 'tournment'"),
        ({"data": {"name": "digit"}}, "data.name: no data is called 'digit' (did you mean digits?)"),
        ({"algorithm": {"population": 1}}, "algorithm.population: 1 given; input should be greater than or equal to 2"),
        ({"algorithm": {"population": "many"}}, "algorithm.population: 'many' given; input should be a valid integer"),
        ({"algorithm": {"mutation": {"sigma": -0.1}}}, "algorithm.mutation.sigma: -0.1 given; input should be greater"),
        ({"algorithm": {"mutation": {"rate": 1.5}}}, "algorithm.mutation.rate: 1.5 given; input should be less"),
        ({"algorithm": {"mutation": {"per": "row"}}}, "algorithm.mutation.per: 'row' given; input should be 'gene' or"),
        ({"algorithm": {"mutation": {"sigma": float("nan")}}}, "algorithm.mutation.sigma: nan given"),
        ({"head": {"name": "mlp", "hidden": [0]}}, "head.hidden.0: 0 given; input should be greater"),
        ({"data": {"name": "image_folder"}}, "data.root: field required"),
        ({"data": {"validation": 1.0}}, "data.validation: 1.0 given; input should be less than 1"),
        ({"seed": -1}, "seed: -1 given; input should be greater than or equal to 0"),
        ({"algorithm": {"elites": 300}}, ""),
        ({"algorithm": ["ga"]}, "algorithm: a name, or a mapping with one, expected; algorithm has: ga"),
        ({"budget": 5}, "budget: 5 given, a mapping expected"),
        ({"fitness": {"metric": "cost_matrix"}}, "fitness.metric.costs: field required"),
        (
            {"fitness": {"metric": {"name": "cost_matrix", "costs": [[0, 1], [float("nan"), 0]]}}},
            "fitness.metric.costs.1.0: nan given; ",
        ),
        (
            {"validate": {"metric": {"name": "kappa", "weights": "cubic"}}},
            "validate.metric.weights: 'cubic' given; input should be 'linear' or 'quadratic'",
        ),
        ({"fitness": {"metrics": ["accuracy", "brier"], "metric": "brier"}}, "fitness.metrics: give either metric"),
        ({"fitness": {"metrics": ["accuracy", "brier"], "ties": "brier"}}, "fitness.ties: breaks ties of one metric"),
        ({"fitness": {"metrics": ["accuracy", "acuracy"]}}, "fitness.metrics.1.name: no metric is called 'acuracy'"),
        ({"fitness": {"metrics": ["brier", "brier"]}}, "fitness.metrics: brier is given twice"),
        ({"fitness": {"metrics": "brier"}}, "fitness.metrics: 'brier' given, a list of two or more metrics expected"),
        (
            {"fitness": {"metrics": ["brier", "accuracy"]}, "algorithm": "snes"},
            "fitness.metrics: many objectives go with algorithm ga; 'snes' is given",
        ),
        (
            {"fitness": {"metrics": ["brier", "accuracy"]}, "refine": {"inheritance": "baldwinian"}},
            "refine.inheritance: baldwinian goes with one metric",
        ),
        (
            {"fitness": {"metric": {"name": "top_k", "k": 2}}, "validate": {"metric": "top_k"}},
            "fitness.metric: top_k is given elsewhere with other options; give it the same ones",
        ),
        ({"validate": {"metric": "sparsity"}}, "validate.metric: sparsity is of the weights alone; a metric of pred"),
        ({"fitness": {"metric": "os.path:nothing"}}, "fitness.metric.name: os.path:nothing can't be imported"),
        ({"head": {"name": "nowhere:f"}}, "head.name: nowhere:f can't be imported (ModuleNotFoundError"),
        ({"head": {"init": "ones"}}, "head.init: 'ones' given; input should be 'zero', 'default' or 'network'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_would_be_right(raw: dict[str, Any], message: str) -> None:
    if not message:  # elites above the population: the algorithm itself sees to it, once it has both
        with pytest.raises(InputError, match=r"algorithm.elites: 300 must be below the population of 256"):
            check(raw).algorithm.search()
        return
    assert refused(raw).startswith(message)


@pytest.mark.parametrize("key", ["head", "algorithm", "data", "fitness.metric", "algorithm.mutation", "backbone"])
def test_a_module_that_is_a_script_and_leaves_is_told_in_a_line(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_script.py").write_text("import sys\n\ndef part():\n    return 1\n\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    c = ["backbone.weights=none", f"{key}.name=a_script:part"]
    with pytest.raises(InputError, match=r"a_script:part can't be (imported|made) \(SystemExit"):
        build.build_backbone(load(None, c), build.dataset(load(None, c))[0])


def test_with_many_metrics_the_genetic_algorithm_is_nsga_ii_where_nothing_else_is_said() -> None:
    many = {"metrics": ["brier", {"name": "top_k", "k": 2}]}
    c = check({"fitness": many})
    assert [part.record() for part in c.fitness.metrics] == [{"name": "brier"}, {"name": "top_k", "k": 2}]
    record = c.record()
    assert record["fitness"]["metrics"] == ["brier", {"name": "top_k", "k": 2}]
    assert not {"metric", "ties"} & set(record["fitness"])
    assert check(yaml.safe_load(c.to_yaml())) == c
    default = check({}).algorithm.options
    assert (default["elites"], default["selection"].name) == (1, "all")
    options = c.algorithm.options
    assert (options["elites"], options["crossover"]) == (options["population"] // 2, default["crossover"])
    assert options["selection"].record() == {"name": "truncation", "share": 0.5}
    own = {"population": 9, "selection": "tournament", "crossover": "row"}
    options = check({"fitness": many, "algorithm": own}).algorithm.options
    assert (options["elites"], options["selection"].name, options["crossover"].name) == (4, "tournament", "row")
    options = check({"fitness": many, "algorithm": {"elites": 3, "selection": {"share": 0.1}}}).algorithm.options
    assert (options["elites"], options["selection"].record()) == (3, {"name": "truncation", "share": 0.1})
    assert check({"fitness": {**many, "metric": None}}) == c


def test_settings_apply_in_any_order_and_may_create_sections() -> None:
    sets = ["algorithm.mutation.sigma=0.3", "algorithm.mutation={name: gaussian, rate: 0.5}", "checkpoint.every=4"]
    for order in (sets, sets[::-1]):
        c = load(None, order)
        assert c.algorithm.options["mutation"].options["sigma"] == 0.3
        assert c.algorithm.options["mutation"].options["rate"] == 0.5
        assert c.checkpoint.every == 4


def test_settings_read_numbers_as_people_write_them() -> None:
    c = load(None, ["budget.forward_samples=1e6", "algorithm.mutation.sigma=1e-3", "budget.generations=null"])
    assert c.budget.forward_samples == 1_000_000
    assert c.algorithm.options["mutation"].options["sigma"] == 0.001


def test_without_any_limit_a_run_has_400_generations() -> None:
    assert check({}).budget.generations == 400
    assert check({"budget": {"target": 0.9}}).budget.generations == 400
    assert check({"budget": {"samples": 10}}).budget.generations is None


def test_options_that_a_changed_part_does_not_know_are_dropped_and_said_so(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: {name: image_folder, root: /x, broken: skip, image_size: 9, limit: 50}\n"
                    "algorithm: {selection: {name: tournament, size: 7}}\n")  # fmt: skip
    notes: list[str] = []
    c = load(str(file), ["data.name=digits", "algorithm.selection.name=truncation"], notes.append)
    assert (c.data.source.name, c.data.image_size, c.data.limit) == ("digits", 9, 50)
    assert sorted(notes) == [
        "algorithm.selection.size is dropped: truncation doesn't know it",
        "data.broken is dropped: digits doesn't know it",
        "data.root is dropped: digits doesn't know it",
    ]
    with pytest.raises(InputError, match="data.root: unknown key"):
        load(str(file), ["data.name=digits", "data.root=/y"])


@pytest.mark.parametrize("text", ["a", "=3", "a..b=3", "algorithm.population=[3"])
def test_a_setting_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--set"):
        load(None, [text])


def test_a_file_that_is_no_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.yaml: can't be read \(No such file"):
        load("nowhere.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("seed: 1\ndata: [}\n")
    with pytest.raises(InputError, match=r"bad.yaml, line 2: not YAML"):
        load(str(bad))
    bad.write_text("- 1\n")
    with pytest.raises(InputError, match="a config is a mapping"):
        load(str(bad))
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="can't be read"):
        load(str(bad))


def test_a_users_own_part_is_named_by_import_path_and_its_signature_is_its_schema() -> None:
    c = check({"fitness": {"metric": {"name": "test_config:my_metric", "weight": 3}}})
    assert float(c.fitness.metrics[0].metric()(torch.ones(1, 2, 2), torch.zeros(2))[0]) == 12
    assert check({"algorithm": {"selection": "test_config:no_annotations"}}).algorithm.options["selection"].options == {
        "x": 3
    }
    found = refused({"fitness": {"metric": {"name": "test_config:my_metric", "wait": 3}}})
    assert found.startswith("fitness.metric.wait: unknown key (did you mean weight?)")


def test_a_part_that_doesnt_take_what_a_part_is_given_is_one_line() -> None:
    part = check({"data": {"name": "os:system"}}).data.source.bound()
    with pytest.raises(InputError, match=r"^data: system\(\) missing required argument"):
        part()


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in TABLES.items() for name in table])
def test_every_part_of_every_table_has_a_schema_with_defaults_and_a_first_line(kind: str, name: str) -> None:
    required = {
        "image_folder": {"root": "/x"}, "arrays": {"file": "/x"}, "cost_matrix": {"costs": [[0, 1], [2.5, 0]]},
        "categorical": {"choices": [1, 2]},
        "float": {"low": 0, "high": 1}, "integer": {"low": 0, "high": 1},
        "list": {"low": 0, "high": 1, "item": {"low": 0, "high": 1}},
    }.get(name, {})  # fmt: skip
    part = config.part(kind, {"name": name, **required}, kind)
    assert callable(part.bound())
    doc = TABLES[kind][name].__doc__
    assert doc is not None
    assert re.match(r"[A-Z].*[.:)]", doc.split("\n")[0])


LR = "tune.space.refine.lr={name: float, low: 1.0e-4, high: 1, scale: log}"
SGD = "refine.name=sgd"


def test_a_space_is_spelled_out_and_read_back() -> None:
    space = [
        LR,
        "tune.space.refine.batch_size={name: integer, low: 16, high: 512}",
        "tune.space.refine.nesterov=boolean",
        "tune.space.head.name={name: categorical, choices: [linear, mlp]}",
        "tune.space.head.hidden={name: list, low: 0, high: 2, item: {low: 8, high: 32}, when: {head.name: mlp}}",
    ]
    c = load(None, [SGD, *space, "tune.sampler=random"])
    assert check(yaml.safe_load(c.to_yaml())) == c
    record = c.record()["tune"]
    assert record["sampler"] == {"name": "random", "population": 8}
    assert record["budget"]["generations"] == 10
    assert record["space"]["refine.batch_size"]["scale"] == "power_of_two"  # by default, so that groups are large
    assert record["space"]["refine.lr"]["scale"] == "log"
    assert record["space"]["head.hidden"]["when"] == {"head.name": ["mlp"]}
    assert c.tune is not None
    assert [v.name for v in c.tune.space().coordinates] == [
        "refine.lr", "refine.batch_size", "refine.nesterov", "head.name",
        "head.hidden", "head.hidden.0", "head.hidden.1",
    ]  # fmt: skip


def test_an_option_of_a_variable_is_set_by_its_dotted_key() -> None:
    base = {"refine": {"name": "sgd"}, "tune": {"space": {"refine.lr": {"name": "float", "low": 1e-6, "high": 1e-2}}}}
    sets = ["tune.space.refine.lr.high=1", "tune.space.refine.momentum={name: float, low: 0, high: 0.9}"]
    found = config.override(base, sets, lambda line: None)
    assert found["tune"]["space"] == {
        "refine.lr": {"name": "float", "low": 1e-6, "high": 1},
        "refine.momentum": {"name": "float", "low": 0, "high": 0.9},
    }


def test_a_trial_is_the_config_with_what_it_sets() -> None:
    c = load(None, [SGD, LR])
    trial = c.trial({"refine.lr": 0.5, "head.name": "mlp", "head.hidden": [4], "refine.name": "adam"})
    assert trial.tune is None
    assert trial.refine is not None
    assert (trial.refine.lr, trial.refine.optimizer.name, trial.head.layers.options["hidden"]) == (0.5, "adam", [4])
    assert "momentum" not in trial.refine.optimizer.options  # sgd's own
    assert trial.data == c.data


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("", ": a mapping of config keys"),
        ("refine.lrr: {name: float, low: 1, high: 2}", r".refine.lrr: unknown key \(did you mean lr"),
        ("nothing.at: boolean", ".nothing.at: nothing: unknown key"),
        ("refine.lr: 0.1", ".refine.lr: 0.1 given"),
        ("refine.lr: {name: floot, low: 1, high: 2}", ".refine.lr.name: no variable .* float"),
        ("refine.lr: {name: float, lo: 1, high: 2}", ".refine.lr.lo: unknown key .*low"),
        ("refine.lr: {name: float, low: 2, high: 1}", ".refine.lr: an empty range"),
        ("refine.lr: {name: float, low: 1, high: 1}", ".refine.lr: an empty range"),
        ("refine.lr: {name: float, low: 0, high: 1, scale: log}", ".refine.lr: a log range is above"),
        ("refine.lr: {name: float, low: -1, high: 1, scale: log}", ".refine.lr: a log range is above"),
        ("refine.lr: {name: float, low: -1, high: 1}", ".refine.lr: -1.0 given; .*greater than 0"),
        ("refine.momentum: {name: float, low: 0, high: 1}", ".refine.momentum: 1.0 given"),
        ("refine.batch_size: {name: float, low: 16, high: 99}", ".refine.batch_size: .*integer"),
        ("refine.name: {name: categorical, choices: [sgd, adm]}", ".refine.name: no refine is called 'adm'"),
        ("refine.momentum: {name: float, low: 0, high: 0.9, when: {refine.name: sgd}}",
         ".refine.momentum: when: refine.name isn't in the space"),
        ("refine.name: {name: categorical, choices: [sgd, adam]}, "
         "refine.momentum: {name: float, low: 0, high: 0.9, when: {refine.name: sdg}}",
         ".refine.momentum: when: refine.name is never sdg"),
        ("refine.name: {name: categorical, choices: [sgd, adam]}, refine.momentum: {name: float, low: 0, high: 0.9}",
         ": refine.momentum: unknown key.*give one a `when`"),
        ("data.validation: {name: float, low: 0.1, high: 0.9}", "can't be tuned: trials would not be judged alike"),
        ("seed: {name: integer, low: 0, high: 9}", "seed can't be tuned"),
        ("fitness.split: {name: categorical, choices: [train, validation]}", "can't be tuned"),
    ],
)  # fmt: skip
def test_a_space_that_can_not_be_is_one_line(space: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^tune.space.*{message}") as caught:
        load(None, [SGD, f"tune.space={{{space}}}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tune.smapler=pso", r"tune.smapler: unknown key \(did you mean sampler"),
        ("tune.sampler=psa", r"tune.sampler.name: no sampler is called 'psa' \(did you mean pso"),
        ("tune.sampler={name: random, population: 0}", "tune.sampler.population: 0 given"),
        ("tune.trial={generations: 3, rungs: [3]}", "tune.trial: .*rungs rise, and lie below the 3 generations"),
        ("tune.trial={generations: 3, rungs: [2, 1]}", "tune.trial: .*rungs rise"),
        ("tune.trial=3", "tune.trial: 3 given, a mapping expected"),
        ("tune.budget=3", "tune.budget: 3 given, a mapping expected"),
        ("tune.budget={samples: -5}", "tune.budget.samples: -5 given"),
        ("tune.trial.keep=0", "tune.trial.keep: 0 given"),
        ("tune.budget.generation=3", "tune.budget.generation: unknown key"),
    ],
)
def test_a_search_that_can_not_be_is_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(None, [SGD, LR, text])


# Odd values


RICH: dict[str, Any] = {  # something under most of the keys there are
    "head": {"name": "mlp"},
    "backbone": {"transfer": [{"from": "x"}]},
    "algorithm": {"mutation": {"safe": True}, "selection": {"name": "tournament"}, "crossover": "uniform"},
    "refine": {"name": "sgd"},
    "fitness": {"metric": {"name": "top_k"}, "ties": "accuracy"},
    "validate": {"metric": "kappa"},
    "data": {"name": "image_folder", "root": "x", "augment": [{"name": "RandomCrop"}]},
    "tune": {
        "sampler": "pso",
        "space": {
            "refine.lr": {"name": "float", "low": 0.1, "high": 0.2, "scale": "log"},
            "head.hidden": {"name": "list", "low": 0, "high": 2, "item": {"name": "integer", "low": 4, "high": 8}},
            "refine.nesterov": {"name": "categorical", "choices": [False, True], "when": {"head.hidden": [1, 2]}},
        },
    },
}
ODD: list[Any] = [
    None, [], {}, "", -1, 0, 2**64, 10**400, float("inf"), float("nan"), 1e308, "x" * 1000, [[[]]], {"a": {"b": [1]}},
    True, [None], {"name": None}, {"name": []}, {"name": {}}, "a:b", ":", "\0", {1: 2}, [10**9], [0.1, 1e300],
]  # fmt: skip


def paths(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(raw, dict):
        return [*found, *(p for key, inner in raw.items() for p in paths(inner, (*path, key)))]
    return [*found, *([(*path, 0)] if isinstance(raw, list) and raw else [])]


def placed(raw: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = list(raw) if isinstance(raw, list) else dict(raw)
    copy[path[0]] = placed(copy[path[0]], path[1:], value)
    return copy


KEYS = paths(check(RICH).record())


@pytest.mark.parametrize("path", KEYS, ids=lambda path: ".".join(map(str, path)))
def test_an_odd_value_under_any_key_is_fine_or_one_short_line(path: tuple[Any, ...]) -> None:
    whole = {key: value for key, value in check(RICH).record().items() if key == path[0] or key != "tune"}
    if path[0] == "tune" and path[1:2] != ("given",):
        whole["tune"] = {key: value for key, value in whole["tune"].items() if key != "given"}
    for value in ODD:
        began = time.monotonic()
        try:
            check(placed(whole, path, value))
        except InputError as error:
            said = str(error)
            assert len(said) < 900, value
            assert "\n" not in said
        assert time.monotonic() - began < 5, value


@pytest.mark.parametrize("path", [p for p in KEYS if "space" not in p and 0 not in p], ids=".".join)
def test_an_odd_setting_of_any_key_is_fine_or_one_short_line(path: tuple[str, ...]) -> None:
    for value in ("", "[]", "{}", "1e400", "2020-99-99", "[", "9" * 5000, "&a [*a]", "!!bool x", "{a: 1, a: 2}"):
        try:
            config.override({"algorithm": {"name": "ga"}, "tune": None}, [f"{'.'.join(path)}={value}"], print)
        except InputError as error:
            assert len(str(error)) < 900
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"data": {"image_size": 10**19}}, "data.image_size: .*less than or equal to 65536"),
        ({"algorithm": {"parents": 2**64}}, "algorithm.parents: 18446744073709551616 given; .*2,147,483,647 at most"),
        ({"algorithm": {"mutation": {"sigma": 1e308}}}, r"algorithm.mutation.sigma: 1e\+308 given; .*3.4e\+38 at most"),
        ({"refine": {"steps": 10**19}}, "refine.steps: .* given; .*2147483647"),
        ({"seed": 2**64}, "seed: 18446744073709551616 given; .*9223372036854775807"),
        (
            {"tune": {"space": {"refine.lr": "boolean"}, "trial": {"generations": 2**64}}},
            "tune.trial.generations: .* giv",
        ),
        ({"budget": {"generations": 2**70}}, "budget.generations: .* given"),
        ({"genome": {"init_sigma": 1e39}}, "genome.init_sigma: .* given; a number of float32"),
        ({"algorithm": 0}, "algorithm: a name, or a mapping"),
        ({"algorithm": [1], "genome": {"levels": "ternary"}}, "algorithm: a name, or a mapping"),
        ({"refine": []}, r"refine: \[\] given, a mapping expected"),
    ],
)
def test_numbers_that_nothing_can_hold_and_what_is_no_mapping_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(raw)


def test_numbers_at_the_edge_of_float32_are_taken() -> None:
    c = check({"genome": {"init_sigma": 1e37}, "refine": {"lr": 1e38}, "seed": 2**63 - 1, "budget": {"samples": 2**40}})
    assert c.genome.init_sigma == 1e37


def test_a_setting_inside_what_is_no_mapping_is_refused_and_not_put_in_its_place() -> None:
    for sets in (["algorithm=[1]", "algorithm.population=8"], ["budget=5", "budget.samples=8"]):
        with pytest.raises(InputError, match="a mapping expected"):
            load(None, sets)


@pytest.mark.parametrize(
    ("raw", "text", "dropped"),
    [
        ({"tune": {"sampler": {"name": "pso", "inertia": 0.5}, "space": {"refine.lr": "boolean"}}},
         "tune.sampler.name=random", "tune.sampler.inertia"),
        ({"fitness": {"metric": {"name": "top_k", "k": 3}}}, "fitness.metric.name=accuracy", "fitness.metric.k"),
        ({"fitness": {"ties": {"name": "top_k", "k": 3}}}, "fitness.ties.name=accuracy", "fitness.ties.k"),
        ({"validate": {"metric": {"name": "kappa", "weights": "linear"}}}, "validate.metric.name=mcc",
         "validate.metric.weights"),
        ({"tune": {"space": {"refine.lr": {"name": "float", "low": 1, "high": 2}}}},
         "tune.space.refine.lr.name=boolean", "tune.space.refine.lr.low"),
        ({"algorithm": {"mutation": {"name": "gaussian", "rank": 3}}}, "algorithm.mutation.name=levels",
         "algorithm.mutation.rank"),
    ],
)  # fmt: skip
def test_options_of_a_part_that_was_replaced_are_dropped_wherever_it_stands(
    raw: dict[str, Any], text: str, dropped: str
) -> None:
    notes: list[str] = []
    config.override(raw, [text], notes.append)
    assert any(line.startswith(f"{dropped} is dropped") for line in notes)


# Trials


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ({}, {"backbone.trainable": ["layer4"]}),
        ({}, {"genome.levels": "ternary"}),
        ({}, {"features.components": None}),
        ({}, {"algorithm.name": "pso"}),
        ({}, {"head.init": "network"}),
        ({}, {"fitness.metrics": ["accuracy", "weight_norm"]}),
        ({}, {"refine.steps": 3}),
        ({"algorithm": {"elites": 4, "mutation": {"rate": 0.5}}}, {"algorithm.crossover": "uniform"}),
        ({"fitness": {"metrics": ["accuracy", "brier"]}}, {"algorithm.population": 10}),
    ],
)
def test_a_trial_is_the_config_that_one_would_write(base: dict[str, Any], settings: dict[str, Any]) -> None:
    space = {key: {"name": "categorical", "choices": [value, value]} for key, value in settings.items()}
    c = check({**base, "tune": {"space": space}})
    pairs = [(key.split("."), value) for key, value in settings.items()]
    written = check(config.apply(base, pairs, lambda line: None))
    assert c.trial(settings) == written
    again = check(yaml.safe_load(c.to_yaml()))  # as a resume reads it
    assert again == c
    assert again.trial(settings) == written
    assert check(yaml.safe_load(again.to_yaml())).trial(settings) == written


def test_what_a_search_wrote_down_can_be_set_but_not_contradicted() -> None:
    c = check({"tune": {"space": {"head.init": {"name": "categorical", "choices": ["zero", "default"]}}}})
    raw = yaml.safe_load(c.to_yaml())
    changed = config.override(raw, ["genome.init_sigma=0.5", "checkpoint.every=2"], lambda line: None)
    assert check(changed).trial({"head.init": "default"}).genome.init_sigma == 0.5
    raw["genome"]["init_sigma"] = 0.5
    with pytest.raises(InputError, match="tune.given: another genome than the config has"):
        check(raw)


def test_an_error_names_the_nearest_key_that_is_known_and_other_lines_stay() -> None:
    with (
        pytest.raises(InputError, match=r"^memory.limit: 5 given$"),
        config.at("data"),
        config.at(limit="memory.limit"),
    ):
        raise InputError("5 given", option="limit")
    with pytest.raises(InputError, match="^data.limit: 5 given$"), config.at("data"), config.at(root="x"):
        raise InputError("5 given", option="limit")
    with pytest.raises(InputError, match=r"^x.png: broken$"), config.at("data"):
        raise InputError("x.png: broken")
    lines = ["weights: taken", "transfer.0: skipped", "weights:make can't be cut", "head.init: network"]
    named = config.under("backbone", lines, ("weights", "transfer"))
    assert named == ("backbone.weights: taken", "backbone.transfer.0: skipped", *lines[2:])


def test_a_part_within_a_part_names_its_whole_path() -> None:
    mutation = check({"algorithm": {"mutation": {"safe": True, "rank": 2}}}).algorithm.options["mutation"]
    nobody = Population.new(torch.zeros(2, 3), parents=2)
    context = Context(0, 1, 0.0, torch.device("cpu"))
    with pytest.raises(InputError, match=r"^algorithm.mutation.safe: goes with neither"):
        mutation.bound()(nobody, context, Layout(("w",), ((3,),)))


def test_constraints_are_parts_with_bounds_and_are_spelt_only_where_there_are_some() -> None:
    given = [
        {"metric": "precision", "per": "class", "at_least": 0.8},
        {"metric": {"name": "recall", "of": "3"}, "at_least": 0.1, "at_most": 0.9},
    ]
    c = check({"fitness": {"metric": "recall", "subject_to": given}})
    assert [bound.metric.name for bound in c.fitness.subject_to] == ["precision", "recall"]
    assert [config.constraint(bound).of for bound in c.fitness.subject_to] == [
        "precision of each class",
        "recall (of 3)",
    ]
    again = check(config.parse(c.to_yaml(), "text"))
    assert again.fitness == c.fitness
    assert "subject_to" not in check({}).to_yaml()


@pytest.mark.parametrize(
    ("subject_to", "line"),
    [
        ("recall", "fitness.subject_to: recall given; a list of {metric: ..., at_least: ...} expected"),
        ([], "fitness.subject_to: [] given; a list of"),
        ([3], "fitness.subject_to.0: 3 given; a mapping with metric and at_least or at_most expected"),
        ([{"metric": "recall"}], "fitness.subject_to.0: recall has no bound; give at_least, at_most or both"),
        ([{"at_least": 0.5}], "fitness.subject_to.0.metric: no metric is named; there are: "),
        ([{"metric": "recal", "at_least": 1}],
         "fitness.subject_to.0.metric.name: no metric is called 'recal' (did you mean recall?)"),
        ([{"metric": "recall", "at_lest": 1}],
         "fitness.subject_to.0.at_lest: unknown key (did you mean at_least?); there are: at_least, at_most, metric,"),
        ([{"metric": {"name": "recall", "on": 1}, "at_least": 1}], "fitness.subject_to.0.metric.on: unknown key"),
        ([{"metric": "recall", "at_least": "high"}], "fitness.subject_to.0.at_least: high given; "),
        ([{"metric": "recall", "per": "row", "at_least": 1}], "fitness.subject_to.0.per: row given; "),
        ([{"metric": "recall", "at_least": 0.9, "at_most": 0.8}],
         "fitness.subject_to.0: recall: at_least 0.9 is above at_most 0.8; nothing meets both"),
        ([{"metric": "recall", "at_least": 0.9}, {"metric": "recall", "at_most": 0.8}],
         "fitness.subject_to.1: recall at most 0.8 contradicts fitness.subject_to.0: at least 0.9"),
    ],
)  # fmt: skip
def test_constraints_that_cannot_be_are_refused_in_a_line(subject_to: Any, line: str) -> None:
    found = refused({"fitness": {"subject_to": subject_to}})
    assert found.replace("'", "").startswith(line.replace("'", ""))
    assert "\n" not in found
