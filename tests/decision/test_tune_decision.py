from typing import Any

import numpy as np
import pytest
import torch

import neuroevo as ne
from neuroevo.decision.tune import Decision

Arrays = tuple[Any, Any]


def tailed(samples: int = 900, seed: int = 0) -> Arrays:
    """Return logits of a network that learnt from a long tail, and labels, as arrays."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.7, 0.2, 0.1])
    y = rng.choice(3, samples, p=shares)
    return 1.5 * (rng.normal(size=(samples, 3)) + 1.5 * np.eye(3)[y]) + np.log(shares), y


@pytest.fixture(scope="module")
def tuned() -> Decision:
    return ne.tune_decision(*tailed(), "balanced_accuracy")


def test_a_long_tail_is_made_up_for_and_test_is_as_was_said(tuned: Decision) -> None:
    assert not tuned.nothing
    chosen = next(row for row in tuned.rows if row.name == tuned.chosen)
    fresh = tailed(4000, seed=1)
    ours, plain = tuned.score(*fresh), tuned.score(*fresh, row="argmax")
    assert ours.value > plain.value + 0.05
    assert abs(ours.value - chosen.value) < 4 * chosen.se
    assert float(tuned.offsets.sum()) == pytest.approx(0, abs=1e-9)


def test_on_logits_that_say_nothing_the_stage_does_nothing() -> None:
    rng, chosen = np.random.default_rng(0), []
    for seed in range(4):
        logits, y = rng.normal(size=(400, 4)), np.arange(400) % 4
        chosen.append(ne.tune_decision(logits, y, "accuracy", seed=seed).chosen)
    assert chosen.count("argmax") >= 3  # a standard error is one: by luck alone a row may be ahead by more


def test_folding_into_a_head_changes_no_decision(tuned: Decision) -> None:
    rng = np.random.default_rng(2)
    features, weight, bias = rng.normal(size=(500, 8)), rng.normal(size=(3, 8)), rng.normal(size=3)
    logits = features @ weight.T + bias
    rows, ends = tuned.fold(weight, bias)
    assert (tuned.predict(logits) == (features @ rows.T + ends).argmax(1)).all()
    assert (tuned.predict(logits) == tuned.apply(logits).argmax(1)).all()
    single = tuned.fold(torch.from_numpy(weight).float(), torch.from_numpy(bias).float())
    assert single[0].dtype == torch.float32
    without = tuned.fold(weight)
    assert (tuned.predict(features @ weight.T) == (features @ without[0].T + without[1]).argmax(1)).all()


def test_arrays_of_any_library_give_the_same_and_come_back_as_their_own(tuned: Decision) -> None:
    logits, y = tailed()
    again = ne.tune_decision(torch.from_numpy(logits), torch.from_numpy(y), "balanced_accuracy")
    assert torch.equal(again.offsets, tuned.offsets)
    assert str(again) == str(tuned)
    assert isinstance(tuned.predict(logits), np.ndarray)
    assert isinstance(tuned.predict(torch.from_numpy(logits)), torch.Tensor)


def test_labels_of_test_change_nothing_of_the_decision(tuned: Decision) -> None:
    logits, y = tailed(500, seed=3)
    before = tuned.predict(logits)
    tuned.score(logits, np.random.default_rng(0).permutation(y))
    assert (tuned.predict(logits) == before).all()


def test_constraints_of_groups_are_kept_out_of_fold_or_it_says_by_how_much_they_are_missed() -> None:
    logits, y = tailed()
    groups = np.where(np.arange(900) % 3 == 0, "night", "day")
    bounds = [{"metric": "recall", "per": "class", "at_least": 0.5}, {"metric": "accuracy", "per": "group",
              "at_least": 0.5}]  # fmt: skip
    found = ne.tune_decision(logits, y, "accuracy", bounds, groups)
    assert found.rows[0].violation > 0
    assert not found.nothing
    chosen = next(row for row in found.rows if row.name == found.chosen)
    assert chosen.feasible
    assert found.score(*tailed(3000, seed=1), np.resize(["day", "night"], 3000)).violation < 0.1
    with pytest.raises(ne.InputError, match="groups: what is asked for is of groups"):
        found.score(logits, y)
    with pytest.raises(ne.InputError, match="groups: dusk is none of day, night"):
        found.score(logits, y, ["dusk"] * 900)


def test_the_table_has_80_columns_and_says_what_was_chosen_and_why(tuned: Decision) -> None:
    lines = repr(tuned).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[2:6]].count(">") == 1
    assert lines[6].startswith(f"chosen: {tuned.chosen} (")


def test_few_samples_of_a_class_and_none_are_noted() -> None:
    logits, y = tailed()
    y[y == 2] = 0
    y[:2] = 2
    assert ne.tune_decision(logits, y).notes == ("class 2 with fewer samples than 5 folds: not in each fold left out",)
    y[:2] = 0
    assert ne.tune_decision(logits, y).notes == ("no sample of class 2: nothing is known of the offsets there",)


def test_a_bound_on_a_class_without_samples_is_held_against_nobody_as_in_a_run() -> None:
    logits, y = tailed(200)
    y[y == 2] = 0
    bounds = [{"metric": {"name": "recall", "of": 2}, "at_least": 0.5}]
    assert all(row.feasible for row in ne.tune_decision(logits, y, "accuracy", bounds).rows)


def test_where_no_row_keeps_to_all_constraints_it_is_noted() -> None:
    logits, y = tailed(120)
    found = ne.tune_decision(logits, y, "accuracy", [{"metric": "recall", "per": "class", "at_least": 0.99}])
    assert not any(row.feasible for row in found.rows)
    assert found.notes[-1].startswith("no row keeps to all constraints")


def test_a_loss_is_reported_as_it_is_and_scales_count_for_it() -> None:
    logits, y = tailed()
    found = ne.tune_decision(4 * logits, y, "cross_entropy")
    values = {row.name: found.as_reported(row.value) for row in found.rows}
    assert values["evolved"] < values["argmax"]
    assert found.chosen == "evolved"
    assert (found.scales < 0.6).all()


GOOD = tailed(60)
NAN = np.where(np.arange(180).reshape(60, 3) == 5, np.nan, GOOD[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"logits": GOOD[0][0]}, "logits: of shape"),
        ({"logits": NAN}, "logits: NaN or infinite in 1 of 60 samples"),
        ({"logits": np.full((60, 3), 1 / 3)}, "logits: rows are probabilities; give their logarithms"),
        ({"logits": "high"}, "logits: an array of numbers expected"),
        ({"y": GOOD[1][:-1]}, "y: of shape"),
        ({"y": GOOD[1] + 0.5}, "y: whole numbers from 0 expected"),
        ({"y": GOOD[1] + 1}, "y: 3 given; whole numbers from 0 to 2"),
        ({"y": GOOD[1] * 0}, "y: all samples are of one class"),
        ({"metric": "accurate"}, "metric: no metric is called 'accurate'"),
        ({"metric": "weight_norm"}, "metric: weight_norm is of a network"),
        ({"metric": 3}, "metric: a metric expected, a int given"),
        ({"metric": {"name": "top_k", "j": 1}}, "metric"),
        ({"constraints": [{"metric": "recall"}]}, "constraints.0: recall has no bound"),
        ({"constraints": [{"metric": "recal", "at_least": 1}]}, "constraints.0: no metric is called 'recal'"),
        ({"constraints": [{"metric": {"name": "recall", "of": "z"}, "at_least": 1}]}, "constraints.0: of: no class"),
        ({"constraints": [{"metric": "accuracy", "per": "group", "at_least": 1}]}, "constraints.0: the data have no"),
        (
            {"constraints": [{"metric": "recall", "at_least": 0.8}, {"metric": "recall", "at_most": 0.7}]},
            "constraints.1: recall at most 0.7 contradicts constraints.0: at least 0.8",
        ),
        ({"folds": 1}, "folds: 1 given; a whole number from 2 to 60"),
        ({"prior": [1, 2]}, "prior: 3 shares above 0 expected"),
        ({"classes": ["a", "b"]}, "classes: 2 names given; 3 different ones"),
        ({"groups": [0.5] * 60}, "groups: float64"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_it(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ne.InputError) as found:
        ne.tune_decision(**{"logits": GOOD[0], "y": GOOD[1], **change})
    assert str(found.value).startswith(said)
    assert "\n" not in str(found.value)
