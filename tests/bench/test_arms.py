import pytest

from neuroevo.bench import arms
from neuroevo.bench.arms import Given
from neuroevo.errors import InputError
from neuroevo.experiments import costs

RAW = {"data": {"name": "digits"}, "backbone": {"name": "none", "weights": "none"}}


@pytest.mark.parametrize("samples", [200_000, 5_000_000, 150_000_000])
@pytest.mark.parametrize("arm", [arm for arm in arms.ARMS if arm not in ("config", "logistic", *arms.NEEDS)])
def test_every_arm_is_a_config_that_is_looked_at_about_as_often(arm: str, samples: int) -> None:
    given = Given(samples, 40_000, 5_000)
    c = arms.configure(RAW, arm, None, given, seed=0, split=0)
    generations = samples / costs.generation(c, given.counts).samples
    looks = generations / c.validate.every
    assert looks <= 2.1 * arms.LOOKS
    if arm != "classic" and generations > arms.LOOKS:
        assert looks >= 0.6 * arms.LOOKS


def test_restarts_try_each_learning_rate_as_often_and_are_more_where_there_is_budget() -> None:
    counts = [arms.sgd_restarts(Given(samples, 40_000, 5_000))["algorithm"]["population"]
              for samples in (10**6, 20_000_000, 144_000_000)]  # fmt: skip
    assert counts == sorted(counts)
    assert counts[0] == 2 * len(arms.LEARNING_RATES)
    assert counts[-1] > counts[0]
    assert all(count % len(arms.LEARNING_RATES) == 0 for count in counts)


@pytest.mark.parametrize(
    ("arm", "expected"),
    [("ga", [128, 128, 1024]), ("snes", [128, 256, 1024]), ("pso", [64, 128, 256]), ("random", [128, 128, 1024])],
)
def test_searches_without_gradients_have_smaller_batches_where_there_is_less_budget(
    arm: str, expected: list[int]
) -> None:
    found = [arms.configure(RAW, arm, None, Given(samples, 40_000, 5_000), seed=0, split=0).fitness.samples
             for samples in (10_000_000, 20_000_000, 144_000_000)]  # fmt: skip
    assert found == expected


def test_what_a_config_says_beside_what_an_arm_changes_is_kept() -> None:
    raw = RAW | {"fitness": {"metric": "brier", "samples": 99}, "genome": {"init_sigma": 0.3},
                 "head": {"name": "mlp", "hidden": [5]}, "validate": {"metric": "macro_f1"}}  # fmt: skip
    c = arms.configure(raw, "snes", None, Given(10**6, 1257, 270), seed=0, split=0)
    assert [m.name for m in c.fitness.metrics] == ["brier"]
    assert (c.validate.metric.name, c.head.layers.options["hidden"]) == ("macro_f1", [5])
    assert c.genome.init_sigma == 0.3
    as_it_is = arms.configure(raw, "config", None, Given(10**6, 1257, 270), seed=0, split=0)
    assert as_it_is.fitness.samples == 99


def test_an_overlay_replaces_parts_it_names_and_changes_options_of_those_it_does_not() -> None:
    raw = RAW | {"algorithm": {"name": "ga", "population": 12}, "refine": {"name": "sgd", "lr": 0.5}}
    given = Given(10**6, 1257, 270)
    changed = arms.configure(raw, "own", {"algorithm": {"elites": 3}, "refine": None}, given, seed=0, split=0)
    assert (changed.algorithm.options["population"], changed.algorithm.options["elites"]) == (12, 3)
    assert changed.refine is None
    replaced = arms.configure(raw, "own", {"algorithm": {"name": "pso"}}, given, seed=0, split=0)
    assert (replaced.algorithm.name, replaced.algorithm.options["population"]) == ("pso", 128)
    assert replaced.refine is not None
    assert replaced.refine.lr == 0.5


def test_a_search_within_an_arm_gets_half_of_its_budget_unless_the_overlay_says_otherwise() -> None:
    overlay = {"refine": {"name": "sgd"}, "tune": {"space": {"refine.lr": {"name": "float", "low": 0.1, "high": 0.2}}}}
    given = Given(10**6, 1257, 270)
    found = arms.configure(RAW, "own", overlay, given, seed=0, split=0).tune
    assert found is not None
    assert (found.budget.samples, found.rest.included, found.rest.final) == (500_000, True, True)
    overlay["tune"] |= {"budget": {"samples": 1000}}
    found = arms.configure(RAW, "own", overlay, given, seed=0, split=0).tune
    assert found is not None
    assert found.budget.samples == 1000


def test_the_table_of_arms_says_what_each_is() -> None:
    assert all((function.__doc__ or "").strip() for function in arms.ARMS.values())
    assert set(arms.ARMS) == {function.__name__ for function in arms.ARMS.values()}


def test_features_of_the_config_hold_for_all_arms_and_leave_alone_what_they_do_not_touch() -> None:
    given = Given(10**6, 1257, 270)
    for features, expected in (({"views": 4}, (None, 0.0)), ({"dtype": "float16"}, (None, 0.0)),
                               ({"components": 16}, (16, 0.25)), ({"whitening": 0.5}, (512, 0.5))):  # fmt: skip
        c = arms.configure(RAW | {"features": features}, "sgd", None, given, seed=0, split=0)
        assert (c.features.components, c.features.whitening) == expected
        assert all(getattr(c.features, key) == value for key, value in features.items())


def test_many_objectives_of_the_config_are_not_the_classic_recipes() -> None:
    raw = RAW | {"fitness": {"metrics": ["cross_entropy", "weight_norm"]}}
    c = arms.configure(raw, "classic", None, Given(10**6, 1257, 270), seed=0, split=0)
    assert [m.name for m in c.fitness.metrics] == ["accuracy"]


def test_a_search_of_the_config_is_the_config_arms_alone() -> None:
    space = {"refine.lr": {"name": "float", "low": 0.1, "high": 0.2}}
    raw = RAW | {"data": None, "refine": {"name": "sgd"}, "tune": {"space": space}}
    given = Given(10**6, 1257, 270)
    assert arms.configure(raw, "config", None, given, seed=0, split=0).tune is not None
    assert arms.configure(raw, "sgd", None, given, seed=0, split=0).tune is None
    assert arms.configure(raw, "own", {"refine": None}, given, seed=0, split=0).tune is None


@pytest.mark.parametrize("arm", arms.NEEDS)
def test_a_closed_form_takes_one_generation_and_says_what_it_needs(arm: str) -> None:
    given = Given(10**6, 1257, 270)
    raw = {"data": {"name": "digits"}, "genome": {"from": ["a", "b"]}, "backbone": {"quantise": {"bits": 4}}}
    c = arms.configure(raw, arm, None, given, seed=0, split=0)
    assert (c.budget.generations, c.budget.samples, c.algorithm.name) == (1, 10**6, "fixed")
    assert c.genome.start == ["a", "b"]
    with pytest.raises(InputError, match=f"^arm {arm}: (genome.from|backbone.quantise): the config has none; give it"):
        arms.configure(RAW | {"genome": {"from": ["a"]}}, arm, None, given, seed=0, split=0)


@pytest.mark.parametrize(("samples", "expected"), [(10**6, 64), (20_000_000, 512), (144_000_000, 1024)])
def test_simultaneous_perturbation_has_about_as_many_steps_at_any_budget(samples: int, expected: int) -> None:
    assert arms.configure(RAW, "spsa", None, Given(samples, 40_000, 5_000), seed=0, split=0).fitness.samples == expected


def test_logistic_takes_one_generation_and_what_it_takes_whatever_the_budget() -> None:
    c = arms.configure(RAW, "logistic", None, Given(10**3, 1257, 270), seed=0, split=0)
    assert (c.budget.generations, c.budget.samples, c.algorithm.name) == (1, None, "fixed")
    assert not c.validate.logistic  # it isn't compared with itself
