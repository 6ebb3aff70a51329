"""Trials of hyperparameters: who is trained with whom, who is stopped at a rung, and what was counted."""

from pathlib import Path

import pytest
from test_tune import EPOCH, HALVING, MLP, load

from neuroevo.config import Config
from neuroevo.experiments import experiment
from neuroevo.tuning.trials import Settings, Trainer
from neuroevo.tuning.tuner import Tuner


def trainer(c: Config, folder: Path) -> Trainer:
    return Tuner(experiment.prepare(c), folder, images=lambda done, total: None, log=lambda line: None).trainer


def test_trials_that_differ_in_traits_alone_are_one_group(tmp_path: Path) -> None:
    t = trainer(load(*MLP), tmp_path)
    settings: list[Settings] = [
        {"refine.lr": 0.1, "head.hidden": []},
        {"refine.lr": 0.2, "head.hidden": []},
        {"refine.lr": 0.1, "head.hidden": [8], "refine.dropout": 0.1},
        {"refine.lr": 0.3, "head.hidden": [8], "refine.dropout": 0.2},
        {"refine.lr": 0.1, "head.hidden": [], "refine.batch_size": 32},
    ]
    assert t.group(settings, [t.trial(own) for own in settings]) == [[0, 1], [2, 3], [4]]
    parts, _ = t.begin(settings)
    assert [(len(part.group.configs), part.rows) for part in parts] == [(2, [0, 1]), (2, [2, 3]), (1, [4])]
    assert parts[1].group.brought == {"lr": [0.1, 0.3], "dropout": [0.1, 0.2]}


def test_what_is_drawn_for_all_of_a_population_keeps_trials_apart(tmp_path: Path) -> None:
    both: list[Settings] = [{"refine.lr": 0.1}, {"refine.lr": 0.2}]
    for sets in (["refine.share=0.5"], ["fitness.precision=bfloat16"]):
        t = trainer(load(*sets), tmp_path)
        assert t.group(both, [t.trial(own) for own in both]) == [[0], [1]]


def test_features_are_shared_by_all_trials_that_ask_for_the_same(tmp_path: Path) -> None:
    t = trainer(load(), tmp_path)
    t.run([{"refine.lr": 0.1}, {"refine.batch_size": 32}, {"refine.lr": 0.2, "refine.momentum": 0.5}], 1)
    assert len(t.sources) == 1
    t.run([{"features.standardise": False}], 2)
    assert len(t.sources) == 2


def test_those_that_go_on_are_the_best_at_the_rung(tmp_path: Path) -> None:
    settings: list[Settings] = [{"refine.lr": lr} for lr in (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0)]
    t = trainer(load("tune.trial={generations: 4, rungs: [1], keep: 0.3}"), tmp_path)
    first = [v.metrics for v in trainer(load("tune.trial.generations=1"), tmp_path).run(settings, 1)[0]]
    order = sorted(range(6), key=lambda i: t.merit(first[i]), reverse=True)
    verdicts, cost = t.run(settings, 1)
    assert [v.generations for v in verdicts] == [4 if i in order[:2] else 1 for i in range(6)]
    for i in order[2:]:
        assert verdicts[i].metrics == pytest.approx(first[i], rel=1e-4)
    assert cost.backward == (6 + 2 * 3) * EPOCH == sum(v.cost.backward for v in verdicts)


def test_rungs_change_nothing_for_those_that_go_on(tmp_path: Path) -> None:
    settings: list[Settings] = [{"refine.lr": 0.1}, {"refine.lr": 0.2}, {"refine.lr": 1e-4}]
    whole = trainer(load("tune.trial={generations: 4}"), tmp_path).run(settings, 1)[0]
    halved = trainer(load(*HALVING), tmp_path).run(settings, 1)[0]
    kept = [i for i, v in enumerate(halved) if v.generations == 4]
    assert kept
    for i in kept:
        assert halved[i].metrics == pytest.approx(whole[i].metrics, rel=1e-4)


def test_a_rung_of_other_trials_is_not_gone_on_from(tmp_path: Path) -> None:
    t = trainer(load(*HALVING), tmp_path)
    t.run([{"refine.lr": 0.1}, {"refine.lr": 0.2}], 1)
    assert t.read_state(1, [{"refine.lr": 0.1}, {"refine.lr": 0.2}]) is not None
    assert t.read_state(2, [{"refine.lr": 0.1}, {"refine.lr": 0.2}]) is None
    assert t.read_state(1, [{"refine.lr": 0.1}, {"refine.lr": 0.3}]) is None
    t.clear()
    assert t.read_state(1, [{"refine.lr": 0.1}, {"refine.lr": 0.2}]) is None
