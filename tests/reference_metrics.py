"""Slow, obvious metrics of one individual at a time: the oracle of test_metrics.

Each takes logits `[B, C]` and targets `[B]` as NumPy arrays, and gives the score (higher is better) as a float. A NaN
is of no predicted class, C.
"""

import numpy as np

from neuroevo.problems.metric import OfGenome, Unbound
from neuroevo.problems.metrics import METRICS


def probabilities(logits):
    rows = []
    for row in logits.astype(np.float64):
        e = np.exp(row - row.max())
        rows.append(e / e.sum())
    return np.array(rows)


def predictions(logits):
    return [len(row) if any(x != x for x in row) else list(row).index(max(row)) for row in logits.tolist()]


def cross_entropy(logits, targets):
    total = 0.0
    for row, t in zip(logits.astype(np.float64), targets, strict=True):
        total += row[t] - row.max() - np.log(np.exp(row - row.max()).sum())
    return total / len(targets)


def accuracy(logits, targets):
    return sum(p == t for p, t in zip(predictions(logits), targets, strict=True)) / len(targets)


def top_k(logits, targets, k=5):
    hits = 0
    for row, t in zip(logits.tolist(), targets, strict=True):
        best_first = sorted(range(len(row)), key=lambda c: (-row[c], c))
        hits += t in best_first[:k]
    return hits / len(targets)


def recalls(logits, targets):
    predicted = predictions(logits)
    found = []
    for c in sorted(set(targets.tolist())):
        members = [i for i, t in enumerate(targets) if t == c]
        found.append(sum(predicted[i] == c for i in members) / len(members))
    return found


def balanced_accuracy(logits, targets):
    return float(np.mean(recalls(logits, targets)))


def worst_class_accuracy(logits, targets):
    return min(recalls(logits, targets))


def macro_f1(logits, targets):
    predicted = predictions(logits)
    scores = []
    for c in sorted(set(targets.tolist()) | set(predicted)):
        true_positive = sum(p == c and t == c for p, t in zip(predicted, targets, strict=True))
        false_positive = sum(p == c and t != c for p, t in zip(predicted, targets, strict=True))
        false_negative = sum(p != c and t == c for p, t in zip(predicted, targets, strict=True))
        scores.append(2 * true_positive / (2 * true_positive + false_positive + false_negative))
    return float(np.mean(scores))


def confusion(logits, targets):
    """Samples of each class, predicted as each class or, in a last column, as none."""
    classes = logits.shape[1]
    table = np.zeros((classes, classes + 1))
    for p, t in zip(predictions(logits), targets, strict=True):
        table[t, p] += 1
    return table


def kappa(logits, targets, weights=None):
    seen = confusion(logits, targets)
    chance = np.outer(seen.sum(1), seen.sum(0)) / seen.sum()
    apart = np.zeros(seen.shape)
    for t in range(len(apart)):
        for p in range(len(apart)):
            distance = abs(t - p)
            apart[t, p] = {None: float(t != p), "linear": distance, "quadratic": distance**2}[weights]
        apart[t, -1] = max(apart[t])
    return float(1 - (apart * seen).sum() / (apart * chance).sum()) if (apart * chance).sum() else 0.0


def mcc(logits, targets):
    """The correlation of one-hot targets and one-hot predictions: sums over classes of their covariances."""
    classes = range(logits.shape[1] + 1)
    t = np.array([[float(c == one) for c in classes] for one in targets])
    p = np.array([[float(c == one) for c in classes] for one in predictions(logits)])
    t, p = t - t.mean(0), p - p.mean(0)
    spread = np.sqrt((t * t).sum() * (p * p).sum())
    return float((t * p).sum() / spread) if spread > 1e-9 else 0.0


def cost_matrix(logits, targets, costs):
    paid = [[*costs[t], max(costs[t])][p] for p, t in zip(predictions(logits), targets, strict=True)]
    return -sum(paid) / len(targets)


def auroc(logits, targets):
    p = probabilities(logits)
    areas = []
    for c in sorted(set(targets.tolist())):
        positives, negatives = p[targets == c, c], p[targets != c, c]
        if len(negatives):
            wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in positives for b in negatives)
            areas.append(wins / (len(positives) * len(negatives)))
    return float(np.mean(areas)) if areas else float("nan")


def precisions(logits, targets):
    table = confusion(logits, targets)[:, :-1]
    return [table[c, c] / max(1, table[:, c].sum()) for c in sorted(set(targets.tolist()))]


def precision(logits, targets):
    return float(np.mean(precisions(logits, targets)))


def f1(logits, targets):
    table = confusion(logits, targets)
    here = sorted(set(targets.tolist()))
    return float(np.mean([2 * table[c, c] / (table[c].sum() + table[:, c].sum()) for c in here]))


def false_positive_rates(logits, targets):
    table = confusion(logits, targets)
    rest = [np.delete(table, c, 0) for c in range(logits.shape[1])]
    return [others[:, c].sum() / others.sum() for c, others in enumerate(rest) if others.sum()]


def false_positive_rate(logits, targets):
    return -float(np.mean(false_positive_rates(logits, targets)))


def recall_at_precision(logits, targets, precision=0.9):
    p = probabilities(logits)
    found = []
    for c in sorted(set(targets.tolist())):
        own = targets == c
        best = 0.0
        for threshold in p[:, c]:
            taken = p[:, c] >= threshold
            if (own & taken).sum() / taken.sum() >= precision:
                best = max(best, (own & taken).sum() / own.sum())
        found.append(best)
    return float(np.mean(found))


def calibration_error(logits, targets, bins=15):
    gaps = [0.0] * bins
    for row, predicted, t in zip(probabilities(logits), predictions(logits), targets, strict=True):
        for b in range(bins):
            if b / bins < row.max() <= (b + 1) / bins:
                gaps[b] += float(predicted == t) - row.max()
    return -sum(abs(gap) for gap in gaps) / len(targets)


def brier(logits, targets):
    total = 0.0
    for row, t in zip(probabilities(logits), targets, strict=True):
        total += sum((p - float(c == t)) ** 2 for c, p in enumerate(row))
    return -total / len(targets)


REFERENCES = {
    "cross_entropy": cross_entropy,
    "accuracy": accuracy,
    "top_k": top_k,
    "balanced_accuracy": balanced_accuracy,
    "worst_class_accuracy": worst_class_accuracy,
    "macro_f1": macro_f1,
    "kappa": kappa,
    "mcc": mcc,
    "cost_matrix": cost_matrix,
    "auroc": auroc,
    "calibration_error": calibration_error,
    "brier": brier,
    "recall": balanced_accuracy,
    "precision": precision,
    "f1": f1,
    "false_positive_rate": false_positive_rate,
    "recall_at_precision": recall_at_precision,
}


def required(name, classes):
    """Values for the options of a metric that have no default."""
    if name != "cost_matrix":
        return {}
    return {"costs": [[0.0 if t == p else 0.7 + (3 * t + p) % 5 for p in range(classes)] for t in range(classes)]}


OF_GENOMES = [name for name in METRICS if isinstance(METRICS[name](**required(name, 2)), OfGenome)]
OF_GROUPS = [name for name in METRICS if isinstance(METRICS[name](**required(name, 2)), Unbound)]
OF_LOGITS = sorted(METRICS.keys() - {*OF_GENOMES, *OF_GROUPS})
