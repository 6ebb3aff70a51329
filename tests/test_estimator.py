import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import neuroevo as ne

SMALL = {"name": "ga", "population": 16}
ADAM = {"name": "adam", "steps": 5, "lr": 0.1, "batch_size": 32}
EXCEPTIONS: dict[str, str] = {}  # of check_estimator: the check's name, and why it can't pass


def small(**given: Any) -> ne.NeuroevoClassifier:
    return ne.NeuroevoClassifier(**{"algorithm": SMALL, "sigma": 0.1, "max_iter": 20, "random_state": 0, **given})


def blobs(n: int = 120, classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    return rng.normal(size=(n, 4)) + 3 * np.eye(4)[labels], labels


def digits() -> list[Any]:
    return train_test_split(*load_digits(return_X_y=True), random_state=0)


@pytest.mark.parametrize(
    "estimator",
    [
        ne.NeuroevoClassifier(SMALL, sigma=0.1, max_iter=20),
        ne.NeuroevoClassifier({"name": "ga", "population": 4}, hidden=(4,), refine=ADAM, max_iter=3),
    ],
    ids=["linear", "mlp and gradients"],
)
def test_scikit_learns_contract_holds(estimator: ne.NeuroevoClassifier) -> None:
    found = check_estimator(estimator, expected_failed_checks=EXCEPTIONS, on_skip=None)
    skipped = {line["check_name"] for line in found if line["status"] != "passed"}
    assert skipped <= {"check_array_api_input"}  # which runs where SciPy's array API is on
    assert len(found) > 50


def test_with_gradients_digits_are_told_apart_as_by_logistic_regression() -> None:
    x, other, y, other_y = digits()
    found = ne.NeuroevoClassifier(SMALL, refine="adam", random_state=0).fit(x, y)
    scaled = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(x, y)
    assert found.score(other, other_y) > scaled.score(other, other_y) - 0.015
    assert found.stop_reason_ == "patience"
    assert len(found.history_) == found.n_iter_ == found.history_[-1]["generation"]
    assert found.validation_["accuracy"] > 0.9


def test_a_hidden_layer_tells_apart_what_no_line_does() -> None:
    x = np.random.default_rng(0).normal(size=(400, 2))
    y = x[:, 0] * x[:, 1] > 0
    line, layer = (small(hidden=hidden, refine=ADAM, max_iter=30).fit(x, y) for hidden in ((), [16]))
    assert line.score(x, y) < 0.7
    assert layer.score(x, y) > 0.9
    assert [w.shape for w in layer.coefs_] == [(2, 16), (16, 2)]


def test_a_grid_search_goes_over_learning_rates_and_algorithms() -> None:
    x, other, y, other_y = digits()
    grid = {
        "refine": [{"name": "sgd", "steps": 5, "lr": lr} for lr in (1e-4, 0.05)],
        "algorithm": [SMALL, {"name": "snes", "population": 16}],
    }
    search = GridSearchCV(ne.NeuroevoClassifier(max_iter=4, random_state=0), grid, cv=3).fit(x, y)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_params_["refine"]["lr"] == 0.05
    assert search.score(other, other_y) > 0.85


def test_it_goes_into_a_pipeline_and_standardises_by_itself() -> None:
    x, other, y, other_y = train_test_split(*load_breast_cancer(return_X_y=True), random_state=0)
    given = {"refine": ADAM, "max_iter": 10}
    alone = small(**given).fit(x, y)
    within = make_pipeline(StandardScaler(), small(**given, standardise=False)).fit(x, y)
    assert alone.score(other, other_y) > 0.93
    assert within.score(other, other_y) > 0.93
    shifted = small(**given).fit(x + 1e7, y)  # which float32 couldn't tell apart
    assert shifted.score(other + 1e7, other_y) > 0.93


def test_a_clone_and_one_that_was_pickled_into_another_process_predict_the_same(tmp_path: Path) -> None:
    x, y = blobs()
    fitted = small(refine=ADAM, hidden=(3,), max_iter=3).fit(x, y)
    again = clone(fitted)
    assert not hasattr(again, "coefs_")
    assert again.get_params() == fitted.get_params()
    expected = fitted.predict_proba(x)
    assert np.array_equal(again.fit(x, y).predict_proba(x), expected)
    (tmp_path / "fitted.pkl").write_bytes(pickle.dumps((fitted, x)))
    code = (
        "import pickle, sys, numpy as np\n"
        "fitted, x = pickle.load(open('fitted.pkl', 'rb'))\n"
        "np.save('found.npy', fitted.predict_proba(x))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=1e-12)


def test_objects_do_as_names_do_in_clones_too() -> None:
    x, y = blobs()
    objects = small(algorithm=ne.ga(population=16), refine=ne.sgd(steps=2, lr=0.1))
    found = clone(objects).fit(x, y)
    names = small(refine={"name": "sgd", "steps": 2, "lr": 0.1}).fit(x, y)
    assert np.array_equal(found.coefs_[0], names.coefs_[0])
    again = pickle.loads(pickle.dumps(clone(found).set_params(algorithm=SMALL))).fit(x, y)
    assert np.array_equal(again.coefs_[0], names.coefs_[0])


def test_an_int_as_random_state_gives_the_same_bytes_and_none_others() -> None:
    x, y = blobs()
    before = torch.get_rng_state()
    one, same, other = (small(hidden=(3,), random_state=state).fit(x, y).coefs_[0] for state in (1, 1, 2))
    assert one.tobytes() == same.tobytes() != other.tobytes()
    assert torch.equal(before, torch.get_rng_state())
    first, second = (small(random_state=None).fit(x, y).coefs_[0] for _ in range(2))
    assert first.tobytes() != second.tobytes()
    drawn = np.random.RandomState(0)
    first, second = (small(random_state=drawn).fit(x, y).coefs_[0] for _ in range(2))
    assert first.tobytes() != second.tobytes()


@pytest.mark.parametrize("refine", [None, ADAM], ids=["evolved", "with gradients"])
def test_a_weight_is_a_repetition_and_the_order_of_samples_makes_no_difference(refine: Any) -> None:
    x, y = blobs()
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 4, len(x))
    weighted = small(refine=refine).fit(x, y, sample_weight=weights)
    order = rng.permutation(weights.sum())
    repeated = small(refine=refine).fit(x.repeat(weights, 0)[order], y.repeat(weights)[order])
    assert np.array_equal(weighted.coefs_[0], repeated.coefs_[0])
    assert not np.array_equal(weighted.coefs_[0], small(refine=refine).fit(x, y).coefs_[0])


@pytest.mark.parametrize("given", [{"max_iter": 200}, {"refine": ADAM}], ids=["evolved", "with gradients"])
def test_weights_say_how_likely_a_class_is_where_both_are(given: dict[str, Any]) -> None:
    x = np.random.default_rng(0).normal(size=(100, 2))
    x, y = np.concatenate([x, x]), np.repeat(["a", "b"], 100)  # every point is of both classes
    for heavy in "ab":
        weights = np.where(y == heavy, 0.9, 0.13)
        found = small(validate="cross_entropy", **given).fit(x, y, sample_weight=weights)
        shares = found.predict_proba(x)[:, list(found.classes_).index(heavy)]
        assert shares.mean() == pytest.approx(0.9 / 1.03, abs=0.03)
        assert set(found.predict(x)) == {heavy}


def test_a_sample_without_weight_is_absent_its_class_too() -> None:
    x, y = blobs()
    found = small().fit(x, y, sample_weight=(y != 2).astype(float))
    assert found.classes_.tolist() == [0, 1]
    assert found.predict_proba(x).shape == (120, 2)


def test_classes_may_be_strings_and_logits_are_as_scikit_learn_has_them() -> None:
    x, y = blobs()
    names = np.array(["zebra", "ant", "bee"])[y]
    found = small().fit(x, names)
    assert found.classes_.tolist() == ["ant", "bee", "zebra"]
    assert found.score(x, names) > 0.9
    assert found.decision_function(x).shape == (120, 3)
    shares = found.predict_proba(x)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert np.array_equal(found.classes_[shares.argmax(1)], found.predict(x))
    two = small().fit(x[y < 2], names[y < 2])
    logits = two.decision_function(x[y < 2])
    assert logits.shape == (80,)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), two.predict_proba(x[y < 2])[:, 1])


def test_a_budget_ends_it_before_max_iter_does() -> None:
    x, y = blobs()
    assert small(budget=ne.Budget(generations=3)).fit(x, y).n_iter_ == 3
    found = small(budget=ne.Budget(target=0.5), every=1).fit(x, y)
    assert found.stop_reason_ == "target"
    assert found.n_iter_ < 20


def test_several_metrics_of_fitness_are_as_many_objectives_and_one_may_be_ones_own() -> None:
    x, y = blobs()

    def margin(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        own = torch.nn.functional.one_hot(targets, logits.shape[2]).bool()
        return (logits[:, own] - logits.masked_fill(own, -torch.inf).amax(2)).mean(1)

    found = small(fitness=[margin, "weight_norm"], algorithm=None, max_iter=5).fit(x, y)
    assert {"margin", "weight_norm", "accuracy"} <= set(found.validation_)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"algorithm": "gaa"}, "^algorithm.name: no algorithm"),
        ({"algorithm": {"name": "ga", "populations": 3}}, "^algorithm.populations: "),
        ({"algorithm": 3}, "^algorithm: "),
        ({"hidden": (4, 0)}, "^hidden: 0 given"),
        ({"hidden": "4"}, "^hidden: '4' given"),
        ({"refine": "lbfgs"}, "^refine.name: no refine"),
        ({"refine": {"name": "sgd", "lr": "high"}}, "^refine.lr: "),
        ({"fitness": "acuracy"}, "^fitness.name: no metric"),
        ({"fitness": {"name": "os:getcwd", "of": "network"}}, "^fitness: "),
        ({"validate": 1}, "^validate: "),
        ({"max_iter": 0}, "^max_iter: 0 given"),
        ({"budget": 10}, "^budget: "),
        ({"validation_fraction": 1.0}, "^validation_fraction: 1.0 given"),
        ({"every": 0}, "^every: 0 given"),
        ({"patience": 0.5}, "^patience: 0.5 given"),
        ({"samples": "every"}, "^samples: 'every' given"),
        ({"standardise": "yes"}, "^standardise: 'yes' given"),
        ({"sigma": -1}, "^sigma: -1 given"),
        ({"sigma": "a"}, "^sigma: a given"),
        ({"device": "tpu"}, "^device: 'tpu'"),
        ({"random_state": "a"}, "'a' cannot be used to seed"),
    ],
)
def test_what_a_parameter_cannot_be_is_a_value_error_at_fit_that_names_it(given: dict[str, Any], line: str) -> None:
    estimator = small(**given)  # which __init__ leaves as it is
    with pytest.raises(ValueError, match=line):
        estimator.fit(*blobs())
    assert not hasattr(estimator, "coefs_")


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        (np.zeros(120), "^sample_weight: weights of zero alone"),
        (-np.ones(120), "^sample_weight: negative weights"),
        (np.ones(3), r"^sample_weight: shape \[3\] given"),
        (np.full(120, np.nan), "sample_weight contains NaN"),
    ],
)
def test_what_weights_cannot_be_is_a_value_error(weights: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        small().fit(*blobs(), sample_weight=weights)


def test_data_that_cannot_be_learnt_from_are_a_value_error() -> None:
    x, y = blobs()
    with pytest.raises(ValueError, match="y: one class, 1; samples of two classes are the least"):
        small().fit(x, np.ones(120, dtype=int))
    with pytest.raises(ValueError, match="X: its numbers are too large for float32"):
        small(standardise=False).fit(x * 1e39, y)
    with pytest.raises(ValueError, match="X: its numbers are too large for float32"):
        small().fit(x * 1e300, y)
    with pytest.raises(ValueError, match="Unknown label type"):
        small().fit(x, x[:, 0])


def test_constraints_come_before_fitness() -> None:
    x, y = load_iris(return_X_y=True)
    bound = [{"metric": {"name": "false_positive_rate", "of": "1"}, "at_most": 0.02}]
    found = small(subject_to=bound, fitness="recall", max_iter=40).fit(x, y)
    (said,) = found.constraints_.values()
    assert said["feasible"] == (found.validation_["violation"] == 0)
    assert small(max_iter=2).fit(x, y).constraints_ is None
    with pytest.raises(ValueError, match=r"^subject_to.0: recall has no bound"):
        small(subject_to=[{"metric": "recall"}]).fit(x, y)
