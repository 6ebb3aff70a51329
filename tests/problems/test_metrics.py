"""Every metric of the table against the slow reference and scikit-learn, and the promises they all share."""

import inspect
from functools import partial
from itertools import pairwise, product
from typing import Annotated, get_origin

import numpy as np
import pytest
import reference_metrics as reference
import torch
from annotated_types import Ge
from paper_gpu import paper_gpu
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from neuroevo.errors import InputError
from neuroevo.problems import metrics
from neuroevo.problems.metric import (
    LOWER_IS_BETTER,
    Additive,
    Names,
    OfGenome,
    adjust,
    as_reported,
    bind,
    own_metric,
    score,
)
from neuroevo.problems.metrics import METRICS


def build(name, classes, **options):
    """A metric, with what it has no default for."""
    return METRICS[name](**{**reference.required(name, classes), **options})


ALL = reference.OF_LOGITS
ADDITIVE = [name for name in ALL if isinstance(build(name, 2), Additive)]
SHAPES = [(1, 1, 2), (3, 17, 2), (4, 33, 7), (2, 9, 300)]  # n, B, C; over 255 classes the predictions count in int32
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
PERFECT = dict.fromkeys(ALL, 1.0) | dict.fromkeys(LOWER_IS_BETTER, 0.0)
WORST = dict.fromkeys(ALL, 0.0) | {"cross_entropy": -50.0, "calibration_error": -1.0, "brier": -2.0}
WORST |= {"false_positive_rate": -1.0, "kappa": -1.0, "mcc": -1.0, "cost_matrix": -3.0}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors are tiny here: on a busy machine, most of the time would go into waiting for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(n, samples, classes, dtype=torch.float32, layout="view", seed=0, step=None):
    """Logits [n, B, C] and targets [B]; `step` rounds the logits to multiples of it, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, samples, generator=generator, dtype=torch.float64)
    logits = (logits if step is None else (logits / step).round() * step).to(dtype)
    targets = torch.randint(classes, (samples,), generator=generator)
    logits = logits.mT
    return logits.contiguous() if layout == "contiguous" else logits, targets


def expected(name, logits, targets, **options):
    """The reference's score of each individual."""
    function = partial(reference.REFERENCES[name], **{**reference.required(name, logits.shape[2]), **options})
    return torch.tensor([function(one.double().numpy(), targets.numpy()) for one in logits], dtype=torch.float64)


def spike(predicted, classes, height=50.0):
    """Logits [1, B, C] that are certain of the classes `predicted [B]`."""
    return height * torch.nn.functional.one_hot(predicted, classes).float()[None]


def close(dtype=torch.float32):
    return {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 3e-6, "atol": 3e-6}


def test_the_reference_knows_every_metric():
    assert set(reference.REFERENCES) == set(ALL)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("step", [None, 2.0], ids=["", "tied"])
def test_agrees_with_the_reference(name, dtype, step):
    for shape, layout, seed in product(SHAPES, ["view", "contiguous"], range(2)):
        logits, targets = make(*shape, dtype, layout, seed, step)
        if step and name in (
            "auroc",
            "recall_at_precision",
        ):
            # Equal samples: permuted logits tie, but round apart in the reference.
            logits, targets = make(*shape, dtype, layout, seed)
            logits[:, ::2] = logits[:, :1].clone()
        found = score(build(name, shape[2]), logits, targets)
        assert found.shape == (shape[0],)
        assert found.dtype == torch.float64
        wanted = expected(name, logits, targets)
        where = f"{shape} {layout} seed {seed}: "
        torch.testing.assert_close(found, wanted, equal_nan=True, msg=lambda m, w=where: w + m, **close(dtype))


@pytest.mark.parametrize(
    ("name", "options"),
    [("top_k", {"k": k}) for k in (1, 2, 6, 7, 99)]
    + [("calibration_error", {"bins": b}) for b in (1, 2, 10, 100)]
    + [("kappa", {"weights": w}) for w in ("linear", "quadratic")]
    + [("recall_at_precision", {"precision": p}) for p in (0.2, 0.5, 1.0)],
)
@pytest.mark.parametrize("step", [None, 2.0], ids=["", "tied"])
def test_options_agree_with_the_reference(name, options, step):
    logits, targets = make(4, 40, 7, step=step)
    found = score(METRICS[name](**options), logits, targets)
    torch.testing.assert_close(found, expected(name, logits, targets, **options), **close())


def roc_auc(logits, targets):
    probabilities = reference.probabilities(logits)
    present = sorted(set(targets.tolist()))
    return sum(sklearn_metrics.roc_auc_score(targets == c, probabilities[:, c]) for c in present) / len(present)


COSTS = reference.required("cost_matrix", 8)["costs"]
SKLEARN = {  # of (logits [B, C], targets [B]) as NumPy arrays
    "cross_entropy": lambda x, t: -sklearn_metrics.log_loss(t, reference.probabilities(x), labels=range(x.shape[1])),
    "accuracy": lambda x, t: sklearn_metrics.accuracy_score(t, x.argmax(1)),
    "top_k": lambda x, t: sklearn_metrics.top_k_accuracy_score(t, x, k=5, labels=range(x.shape[1])),
    "balanced_accuracy": lambda x, t: sklearn_metrics.balanced_accuracy_score(t, x.argmax(1)),
    "worst_class_accuracy": lambda x, t: sklearn_metrics.recall_score(
        t, x.argmax(1), labels=sorted(set(t.tolist())), average=None
    ).min(),
    "macro_f1": lambda x, t: sklearn_metrics.f1_score(t, x.argmax(1), average="macro", zero_division=0),
    "kappa": lambda x, t: sklearn_metrics.cohen_kappa_score(t, x.argmax(1)),
    "recall": lambda x, t: sklearn_metrics.recall_score(
        t, x.argmax(1), labels=sorted(set(t.tolist())), average="macro"
    ),
    "precision": lambda x, t: sklearn_metrics.precision_score(
        t, x.argmax(1), labels=sorted(set(t.tolist())), average="macro", zero_division=0
    ),
    "mcc": lambda x, t: sklearn_metrics.matthews_corrcoef(t, x.argmax(1)),
    "cost_matrix": lambda x, t: (
        -(sklearn_metrics.confusion_matrix(t, x.argmax(1), labels=range(8)) * COSTS).sum() / len(t)
    ),
    "auroc": roc_auc,
    "brier": lambda x, t: (
        -sum(
            sklearn_metrics.brier_score_loss(t == c, p, pos_label=1) for c, p in enumerate(reference.probabilities(x).T)
        )
    ),
}


@pytest.mark.parametrize("name", sorted(SKLEARN))
@pytest.mark.parametrize("absent", [False, True], ids=["", "absent"])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_agrees_with_scikit_learn(name, absent):
    logits, targets = make(5, 101, 8)
    targets = torch.where(targets == 3, 4, targets) if absent else targets
    assert len(targets.unique()) == 8 - absent
    wanted = torch.tensor([SKLEARN[name](one.numpy(), targets.numpy()) for one in logits], dtype=torch.float64)
    torch.testing.assert_close(score(build(name, 8), logits, targets), wanted, **close())


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@pytest.mark.parametrize("classes", [2, 3, 8, 300])
def test_weighted_kappa_agrees_with_scikit_learn(weights, classes):
    logits, targets = make(5, 101, classes)
    wanted = [
        sklearn_metrics.cohen_kappa_score(targets, one.argmax(1), labels=range(classes), weights=weights)
        for one in logits
    ]
    found = score(METRICS["kappa"](weights=weights), logits, targets)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{"name": "mcc"}, *({"name": "kappa", "weights": w} for w in (None, "quadratic"))])
@pytest.mark.parametrize(("target", "predicted"), [([2] * 6, [2] * 6), ([2] * 6, [0] * 6), ([0, 1, 2] * 2, [1] * 6)])
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_a_correlation_with_what_never_changes_is_0_as_scikit_learn_has_it(options, target, predicted):
    name, rest = options["name"], {key: value for key, value in options.items() if key != "name"}
    if name == "mcc":
        assert sklearn_metrics.matthews_corrcoef(target, predicted) == 0.0
    elif target != predicted:  # where it has NaN, and NaN would rank a perfect individual last
        assert sklearn_metrics.cohen_kappa_score(target, predicted, **rest) == 0.0
    found = score(METRICS[name](**rest), spike(torch.tensor(predicted), 4), torch.tensor(target))
    assert found.tolist() == [0.0]


@pytest.mark.parametrize("name", ADDITIVE)
@pytest.mark.parametrize("cuts", [[0, 60], [0, 1, 60], [0, 20, 21, 50, 60], list(range(61))], ids=len)
def test_statistics_of_slices_add_up_to_the_whole(name, cuts):
    metric = build(name, 6)
    logits, targets = make(3, 60, 6)
    parts = [metric.statistics(logits[:, a:b], targets[a:b]) for a, b in pairwise(cuts)]
    assert all(part.dtype == torch.float64 and part.shape == parts[0].shape and len(part) == 3 for part in parts)
    torch.testing.assert_close(metric.finish(sum(parts)), score(metric, logits, targets), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(metric.finish(sum(parts)), expected(name, logits, targets), **close())


def test_a_mean_weighs_slices_by_their_samples():
    metric = METRICS["accuracy"]()
    logits, targets = spike(torch.tensor([0, 1, 1, 1]), 2), torch.tensor([0, 0, 0, 0])
    parts = metric.statistics(logits[:, :1], targets[:1]) + metric.statistics(logits[:, 1:], targets[1:])
    assert metric.finish(parts).tolist() == [0.25]


@pytest.mark.parametrize("name", ALL)
def test_layout_and_strides_change_nothing(name):
    logits, targets = make(4, 40, 6)
    padded = torch.full((8, 80, 6), torch.nan)
    padded[::2, ::2] = logits
    backwards = logits.flip(0).contiguous().flip(0)
    for other in (
        logits.contiguous(),
        padded[::2, ::2],
        backwards,
        logits.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    ):
        torch.testing.assert_close(
            score(build(name, 6), other, targets), score(build(name, 6), logits, targets), rtol=0, atol=0
        )


@pytest.mark.parametrize("name", ALL)
def test_individuals_are_scored_apart_and_samples_in_any_order(name):
    logits, targets = make(5, 40, 6)
    before = logits.clone()
    metric = build(name, 6)
    together = score(metric, logits, targets)
    assert len(together.unique()) > 1 or name == "worst_class_accuracy"
    alone = torch.cat([score(metric, logits[i : i + 1], targets) for i in range(5)])
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(alone, together, **close())
    torch.testing.assert_close(score(metric, logits[:, shuffled], targets[shuffled]), together, **close())
    assert torch.equal(logits, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("classes", [6, 300])
def test_a_gpu_gives_the_same_scores_each_time(name, classes):
    logits, targets = make(5, 400, classes)
    found = [score(build(name, classes), logits.cuda(), targets.cuda()) for _ in range(3)]
    torch.testing.assert_close(found[0].cpu(), score(build(name, classes), logits, targets), **close())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("present", [[0, 1, 2, 3, 4, 5, 6], [1, 4, 5]], ids=["", "absent"])
def test_perfect_and_worst_predictions(name, present):
    targets = torch.tensor(present).repeat(9)
    after = torch.tensor([*present[1:], present[0]]).repeat(9)
    costs = (3.0 - 3 * torch.eye(7)).tolist()
    metric = build(name, 7, **{"top_k": {"k": 1}, "cost_matrix": {"costs": costs}}.get(name, {}))
    perfect, worst = score(metric, spike(targets, 7), targets), score(metric, spike(after, 7), targets)
    torch.testing.assert_close(perfect, torch.tensor([PERFECT[name]]).double(), **close())
    if name in (
        "auroc",
        "kappa",
        "mcc",
        "false_positive_rate",
    ):  # the lowest of all only where there is one class against one
        two = torch.tensor([0, 1, 1, 0])
        perfect, worst = score(metric, spike(two, 2), two), score(metric, spike(1 - two, 2), two)
    torch.testing.assert_close(worst, torch.tensor([WORST[name]]).double(), **close())


@pytest.mark.parametrize("classes", [2, 10, 255, 256, 300])
def test_of_equal_logits_the_first_class_is_predicted(classes):
    targets = torch.tensor([0, classes - 1, 0, 1, classes - 1])
    logits = torch.zeros(1, 5, classes)
    assert score(METRICS["accuracy"](), logits, targets).item() == 0.4
    assert score(METRICS["top_k"](k=1), logits, targets).item() == 0.4
    logits[..., -1] = 1
    assert score(METRICS["accuracy"](), logits, targets).item() == (0.6 if classes == 2 else 0.4)
    assert score(METRICS["accuracy"](), logits, targets).item() == (logits.argmax(-1) == targets).double().mean()


def test_top_k_of_one_is_accuracy_and_of_all_classes_certain():
    logits, targets = make(6, 50, 5, step=2.0)
    assert torch.equal(score(METRICS["top_k"](k=1), logits, targets), score(METRICS["accuracy"](), logits, targets))
    assert score(METRICS["top_k"](k=5), logits, targets).tolist() == [1.0] * 6


def test_constant_logits_have_an_auroc_of_one_half():
    assert score(METRICS["auroc"](), torch.zeros(2, 6, 3), torch.tensor([0, 0, 1, 0, 2, 2])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("second", "area"), [([-300.0, -200.0, -400.0], 0.75), ([20.0, 21.0, 19.0], 1.0)])
def test_auroc_tells_apart_probabilities_that_float32_does_not(second, area):
    logits = torch.stack([torch.zeros(3), torch.tensor(second)], -1)[None]
    assert score(METRICS["auroc"](), logits, torch.tensor([0, 1, 0])).item() == area  # at 1 - exp(-200) all tie


def test_auroc_without_a_curve_is_nan():
    assert score(METRICS["auroc"](), make(3, 8, 4)[0], torch.full((8,), 2)).isnan().all()


@pytest.mark.parametrize("bins", [2, 5, 15])
def test_calibration_keeps_doubt_that_hits_apart_from_certainty_that_misses(bins):
    logits, _ = make(1, 60, 4)
    best, sure = logits[0].argmax(-1), logits[0].softmax(-1).amax(-1) > 0.5
    targets = torch.where(sure, (best + 1) % 4, best)
    found = score(METRICS["calibration_error"](bins=bins), logits, targets)
    torch.testing.assert_close(found, expected("calibration_error", logits, targets, bins=bins), **close())


def test_a_confidence_at_an_edge_is_in_the_bin_below():
    logits = torch.tensor([[[0.0, 0.0], [50.0, 0.0]]])  # half sure and right, sure and wrong
    assert score(METRICS["calibration_error"](bins=2), logits, torch.tensor([0, 1])).item() == -0.75


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["one", "sample", "all"])
def test_a_bad_individual_raises_nothing_and_leaves_the_others_alone(name, bad, where):
    logits, targets = make(3, 20, 5)
    wanted = score(build(name, 5), logits, targets)
    logits[(1, 3, 2) if where == "one" else (1, 3) if where == "sample" else 1] = bad
    found = score(build(name, 5), logits, targets)
    torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_an_individual_of_nothing_but_nan_is_never_good(name):
    found = score(build(name, 6), torch.full((1, 20, 6), torch.nan), torch.arange(20) % 6)
    assert found.isnan().all() or name in ("auroc", "cost_matrix") or found.item() == 0.0
    assert name not in LOWER_IS_BETTER - {"cost_matrix", "false_positive_rate"} or found.isnan().all()


@pytest.mark.parametrize(
    ("name", "options"),
    [("kappa", {"weights": w}) for w in (None, "linear", "quadratic")] + [("mcc", {}), ("cost_matrix", {})],
)
@pytest.mark.parametrize(("classes", "share"), [(2, 0.3), (7, 0.3), (7, 1.0), (300, 0.3)])
def test_a_nan_sample_is_of_no_predicted_class_and_costs_what_the_worst_miss_does(name, options, classes, share):
    logits, targets = make(4, 50, classes)
    clean = score(build(name, classes, **options), logits, targets)
    logits[:2, : int(50 * share), 1] = torch.nan
    found = score(build(name, classes, **options), logits, targets)
    torch.testing.assert_close(found, expected(name, logits, targets, **options), **close())
    assert torch.equal(found[2:], clean[2:])
    if name != "cost_matrix" and share == 1:
        assert found[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("nan", [0, 9, 40])
def test_a_cost_of_1_for_every_miss_is_accuracy_less_1(nan):
    logits, targets = make(3, 40, 5)
    logits[:, :nan, 2] = torch.nan
    found = score(METRICS["cost_matrix"](costs=(1 - torch.eye(5)).tolist()), logits, targets)
    torch.testing.assert_close(found, score(METRICS["accuracy"](), logits, targets) - 1, rtol=1e-12, atol=1e-12)


def test_costs_are_looked_up_by_the_true_class_first():
    targets, predicted = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    assert score(METRICS["cost_matrix"](costs=[[1, 6], [-16, 3]]), spike(predicted, 2), targets).item() == 3.0


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ([], "cost_matrix.costs: 0 rows given; it has a row for each class, two at least"),
        ([[0.0]], "cost_matrix.costs: 1 rows given; it has a row for each class, two at least"),
        ([[0, 1], [1]], "cost_matrix.costs: row 1 has 1 costs, of 2 rows; costs[true][predicted] is square"),
        ([[0, 1, 2], [1, 0, 2]], "cost_matrix.costs: row 0 has 3 costs, of 2 rows; costs[true][predicted] is square"),
        ([[0, 1.0], [torch.nan, 0]], "cost_matrix.costs: row 1 is [nan, 0]; a cost is a finite number"),
        ([[0, -torch.inf], [1.0, 0]], "cost_matrix.costs: row 0 is [0, -inf]; a cost is a finite number"),
    ],
)
def test_costs_that_are_no_square_of_numbers_are_refused(costs, message):
    with pytest.raises(InputError) as caught:
        METRICS["cost_matrix"](costs=costs)
    assert str(caught.value) == message


@pytest.mark.parametrize("classes", [2, 4])
def test_costs_of_other_classes_than_the_logits_are_refused(classes):
    with pytest.raises(InputError) as caught:
        score(build("cost_matrix", 3), *make(2, 9, classes))
    assert str(caught.value) == f"cost_matrix.costs: 3 x 3 given; there are {classes} classes"


def test_sums_are_float64():
    logits = torch.zeros(1, 1, 2).expand(1, 3_000_001, 2).clone()
    found = score(METRICS["cross_entropy"](), logits, torch.zeros(3_000_001, dtype=torch.int64))
    assert found.item() == pytest.approx(-torch.tensor(2.0).log().item(), rel=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_autocast_changes_nothing(name):
    logits, targets = make(2, 2000, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = score(build(name, 3), logits, targets)
    assert torch.equal(found, score(build(name, 3), logits, targets))


def test_a_function_of_the_users_is_a_metric():
    def margin(logits, targets):
        return logits[..., 0].mean(1)

    logits, targets = make(4, 10, 3)
    found = score(margin, logits, targets)
    assert found.dtype == torch.float64
    assert torch.equal(found, logits[..., 0].mean(1).double())


@pytest.mark.parametrize("name", ALL)
def test_reported_is_the_usual_quantity(name):
    logits, targets = make(1, 40, 6)
    logits = logits + spike(targets, 6, height=1.0)  # better than chance, below which a correlation is negative
    value = score(build(name, 6), logits, targets).item()
    assert as_reported(name, value) == abs(value) > 0 or name == "worst_class_accuracy"
    assert (value < 0) == (name in LOWER_IS_BETTER)


def test_lower_is_better_names_metrics():
    assert set(METRICS) > LOWER_IS_BETTER


@pytest.mark.parametrize("name", ALL)
def test_the_signature_is_a_schema(name):
    assert METRICS[name].__doc__
    for option in inspect.signature(METRICS[name]).parameters.values():
        assert option.kind is option.KEYWORD_ONLY
        assert (option.default is option.empty) == (option.name in reference.required(name, 2))
        assert option.annotation not in (int, float)  # a bare number has its limits in the signature
        if get_origin(option.annotation) is Annotated:
            assert any(isinstance(limit, Ge) for limit in option.annotation.__metadata__)


def test_adjusted_adds_an_offset_to_the_logits():
    logits, targets, offset = torch.randn(3, 20, 4), torch.randint(4, (20,)), torch.tensor([0.0, 1.0, -2.0, 0.5])
    for name in ("cross_entropy", "auroc"):
        metric = METRICS[name]()
        expected = score(metric, logits + offset, targets)
        assert torch.equal(score(adjust(metric, offset), logits, targets), expected)


def test_weighted_cross_entropy_is_torchs():
    logits, targets, weights = torch.randn(3, 50, 4), torch.randint(4, (50,)), torch.tensor([0.1, 1.0, 2.0, 7.0])
    found = score(metrics.weighted_cross_entropy(weights), logits.mT.contiguous().mT, targets)
    expected = [-torch.nn.functional.cross_entropy(x, targets, weights) for x in logits]
    torch.testing.assert_close(found, torch.stack(expected).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", reference.OF_GENOMES)
def test_metrics_of_genomes_are_plain_numpys(name):
    genomes, start = torch.randn(5, 30), torch.randn(30)
    metric = METRICS[name]()
    assert isinstance(metric, OfGenome)
    assert not inspect.signature(METRICS[name]).parameters
    found = metric.score(genomes, start)
    x, s = genomes.double().numpy(), start.double().numpy()
    norms = {k: (abs(x) ** k).sum(1) ** (1 / k) for k in (1, 2)}
    wanted = {
        "sparsity": (30**0.5 - norms[1] / norms[2]) / (30**0.5 - 1),
        "weight_norm": -norms[2],
        "distance": -(((x - s) ** 2).sum(1) ** 0.5),
    }[name]
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-6, atol=1e-6)
    assert found.dtype == torch.float64
    assert as_reported(name, float(found[0])) > 0
    assert adjust(metric, torch.ones(3)) is metric  # logits have no part in it


def test_sparsity_goes_from_all_equal_to_one_weight_or_none_whatever_the_scale():
    genomes = torch.stack([torch.ones(9), -5 * torch.ones(9), 1e-20 * torch.eye(9)[4], 1e20 * torch.eye(9)[4],
                           torch.zeros(9), torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0, 0])])  # fmt: skip
    found = METRICS["sparsity"]().score(genomes, genomes[0])
    assert found.tolist() == pytest.approx([0, 0, 1, 1, 1, 0.5])
    assert METRICS["sparsity"]().score(torch.tensor([[3.0], [0.0]]), torch.zeros(1)).tolist() == [1, 1]
    assert METRICS["sparsity"]().score(torch.tensor([[3.0, torch.nan]]), torch.zeros(2)).isnan().all()


def test_a_users_metric_has_copies_of_its_own_and_its_scores_are_checked() -> None:
    def in_place(logits: Tensor, targets: Tensor) -> Tensor:
        targets.zero_()
        return logits.zero_().sum((1, 2))

    logits, targets = torch.ones(2, 3, 4), torch.tensor([1, 2, 3])
    assert own_metric("mine:m", in_place)(logits, targets).tolist() == [0, 0]
    assert logits.min() == 1
    assert targets.tolist() == [1, 2, 3]
    for wrong in (None, [1.0, 1.0], np.ones(2), torch.ones(2, 1), torch.ones(3)):
        with pytest.raises(InputError, match=r"mine:m: a metric returns scores \[n\]"):
            own_metric("mine:m", lambda logits, targets, wrong=wrong: wrong)(logits, targets)  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_on_a_gpu_waits_for_nothing_and_is_that_on_the_cpu(name):
    if name in reference.OF_GROUPS:
        logits, targets = make(3, 40, 5)
        metric = bind(METRICS[name](), Names((), ("a", "b"))).metric
        with paper_gpu() as gpu, gpu.count() as waits:
            there = score(metric, logits.to("cuda"), targets.to("cuda") + 5)
        assert not waits.reads
        torch.testing.assert_close(there.elem, score(metric, logits, targets + 5))
        return
    if name not in ALL:  # of genomes
        genomes = torch.randn(3, 7)
        with paper_gpu() as gpu, gpu.count() as waits:
            there = METRICS[name]().score(genomes.to("cuda"), genomes[0].to("cuda"))
        assert waits.reads.total() == 0
        torch.testing.assert_close(there.elem, METRICS[name]().score(genomes, genomes[0]))
        return
    for shape, step in product(SHAPES, (None, 2.0)):
        logits, targets = make(*shape, step=step)
        metric = build(name, shape[2])
        with paper_gpu() as gpu:
            there = logits.to("cuda"), targets.to("cuda")
            score(metric, *there)  # what is copied there, such as a matrix of costs, is copied once
            with gpu.count() as waits:
                found = score(metric, *there)
        assert not waits.reads + waits.writes
        torch.testing.assert_close(found.elem, score(metric, logits, targets), equal_nan=True, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("absent", [False, True], ids=["", "absent"])
def test_auroc_on_a_gpu_agrees_with_scikit_learn_where_samples_tie(absent):
    logits, targets = make(4, 60, 6)
    logits[:, ::2] = logits[:, :1].clone()
    if absent:
        targets[(targets == 2) | (targets == 5)] = 0
    wanted = [roc_auc(one.double().numpy(), targets.numpy()) for one in logits]
    with paper_gpu():
        found = score(METRICS["auroc"](), logits.to("cuda"), targets.to("cuda"))
    torch.testing.assert_close(found.elem, torch.tensor(wanted, dtype=torch.float64), **close())
