"""Metrics of a class, of each class and of groups, against counts by hand."""

import pytest
import torch
from sklearn import metrics as sklearn_metrics

from neuroevo.errors import InputError
from neuroevo.problems.class_metrics import each
from neuroevo.problems.metric import Names, OfGroups, bind, score, without_groups
from neuroevo.problems.metrics import METRICS

NAMES = Names(("ant", "bee", "cat", "dog"), ("day", "night", "rain"))


def samples(seed=0, n=3, count=60):
    """Logits [n, B, 4], targets [B] and groups [B], of which `rain` has no sample and dog is never in the day."""
    source = torch.Generator().manual_seed(seed)
    logits, targets = torch.randn(n, 4, count, generator=source).mT, torch.randint(4, (count,), generator=source)
    groups = torch.randint(2, (count,), generator=source)
    return logits, targets, torch.where(targets == 3, 1, groups)


def coded(name, logits, targets, groups, **options):
    """The score [n] of a metric of groups."""
    metric = bind(METRICS[name](**options), NAMES)
    assert isinstance(metric, OfGroups)
    return score(metric.metric, logits, targets + 4 * groups)


@pytest.mark.parametrize("of", [2, "cat"])
def test_a_class_is_named_or_given_by_its_place(of):
    logits, targets, _ = samples()
    for name, reference in (("recall", "recall_score"), ("precision", "precision_score"), ("f1", "f1_score")):
        found = score(bind(METRICS[name](of=of), NAMES), logits, targets)
        wanted = [
            getattr(sklearn_metrics, reference)((targets == 2).numpy(), (one.argmax(1) == 2).numpy()) for one in logits
        ]
        assert torch.allclose(found, torch.tensor(wanted).double())
    found = score(bind(METRICS["false_positive_rate"](of=of), NAMES), logits, targets)
    wanted = [((one.argmax(1) == 2) & (targets != 2)).sum() / (targets != 2).sum() for one in logits]
    assert torch.allclose(found, -torch.tensor(wanted).double())
    found = score(bind(METRICS["recall_at_precision"](precision=0.5, of=of), NAMES), logits, targets)
    for one, value in zip(logits, found, strict=True):
        p, r, _ = sklearn_metrics.precision_recall_curve(targets == 2, one.softmax(1)[:, 2])
        assert float(value) == pytest.approx(max(r[p >= 0.5], default=0.0))


def test_a_name_of_digits_is_a_name_before_it_is_a_place():
    logits, targets, _ = samples()
    names = Names(("3", "2", "1", "0"))
    assert torch.equal(
        score(bind(METRICS["recall"](of="3"), names), logits, targets),
        score(bind(METRICS["recall"](of=0), NAMES), logits, targets),
    )


@pytest.mark.parametrize(
    ("of", "line"),
    [
        ("cats", "of: no class is called 'cats' (did you mean cat?); there are: ant, bee, cat, dog"),
        (4, "of: 4 given; the classes are 0 to 3"),
        (-1, "of: -1 given; the classes are 0 to 3"),
    ],
)
@pytest.mark.parametrize("name", ["recall", "precision", "f1", "false_positive_rate", "recall_at_precision"])
def test_an_unknown_class_is_refused_with_the_nearest(name, of, line):
    logits, targets, _ = samples()
    with pytest.raises(InputError) as error:
        score(bind(METRICS[name](of=of), NAMES), logits, targets)
    assert str(error.value) == line


def test_each_class_has_its_value_and_one_without_samples_has_none():
    logits, targets, _ = samples()
    targets = torch.where(targets == 1, 0, targets)
    for name in ("recall", "precision", "f1", "false_positive_rate", "recall_at_precision"):
        found = each(name, "class", NAMES, {})
        assert found.names == NAMES.classes
        values = score(found.metric, logits, targets)
        alone = [score(bind(METRICS[name](of=c), NAMES), logits, targets).abs() for c in range(4)]
        assert torch.equal(values.nan_to_num(0.0), torch.stack(alone, 1))
        assert values[:, 1].isnan().all() == (name != "false_positive_rate")
        assert not values[:, [0, 2, 3]].isnan().any()


def test_a_class_that_is_never_predicted_has_precision_0():
    logits, targets = torch.eye(4)[[0, 0, 1]][None], torch.tensor([0, 1, 1])
    bee = bind(METRICS["precision"](of=1), NAMES)
    assert score(bee, logits, targets).tolist() == [1.0]
    assert score(bee, logits[:, :2], targets[:2]).tolist() == [0.0]
    assert score(METRICS["precision"](), logits[:, :2], targets[:2]).tolist() == [0.25]


def test_groups_are_judged_apart_and_those_without_samples_not_at_all():
    logits, targets, groups = samples()
    right = logits.argmax(2) == targets
    by_hand = torch.stack([right[:, groups == g].double().mean(1) for g in range(2)], 1)
    assert torch.allclose(coded("group_accuracy", logits, targets, groups), by_hand.mean(1))
    assert torch.allclose(coded("worst_group_accuracy", logits, targets, groups), by_hand.amin(1))
    found = each("accuracy", "group", NAMES, {})
    values = score(found.metric.metric, logits, targets + 4 * groups)
    assert found.names == NAMES.groups
    assert torch.allclose(values[:, :2], by_hand)
    assert values[:, 2].isnan().all()


@pytest.mark.parametrize("name", ["recall", "precision", "f1", "false_positive_rate"])
@pytest.mark.parametrize("of", [None, "ant", 1])
def test_a_metric_of_each_group_is_what_it_is_of_the_groups_samples_alone(name, of):
    logits, targets, groups = samples()
    values = score(each(name, "group", NAMES, {"of": of}).metric.metric, logits, targets + 4 * groups)
    for g in range(2):
        alone = score(bind(METRICS[name](of=of), NAMES), logits[:, groups == g], targets[groups == g])
        assert torch.allclose(values[:, g], alone.abs())


def test_others_beside_metrics_of_groups_are_given_the_class_alone():
    logits, targets, groups = samples()
    given = [METRICS["recall"](), METRICS["precision"](), METRICS["auroc"](), bind(METRICS["group_accuracy"](), NAMES)]
    found = without_groups(given, 4)
    for before, after in zip(given[:3], found[:3], strict=True):
        assert torch.equal(score(after, logits, targets + 4 * groups), score(before, logits, targets))
    assert found[0].statistics is found[1].statistics  # made once, still
    assert found[3] is given[3].metric


@pytest.mark.parametrize(
    ("metric", "per", "options", "line"),
    [
        (
            "auroc",
            "class",
            {},
            "per: class goes with recall, precision, f1, false_positive_rate, recall_at_precision; auroc is",
        ),
        ("auroc", "group", {}, "per: group goes with accuracy, recall, precision, f1, false_positive_rate; auroc is"),
        ("recall", "class", {"of": "cat"}, "of: class has a value for each, and cat is one"),
        ("recall", "group", {"of": "bat"}, "of: no class is called 'bat' (did you mean cat?)"),
    ],
)
def test_what_has_no_value_for_each_is_refused(metric, per, options, line):
    with pytest.raises(InputError) as error:
        each(metric, per, NAMES, options)
    assert str(error.value).startswith(line)


def test_data_without_groups_have_no_metric_of_groups():
    with pytest.raises(InputError, match="the data have no groups of samples"):
        bind(METRICS["worst_group_accuracy"](), Names(("a", "b")))
