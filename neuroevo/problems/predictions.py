"""What one network predicts of labelled samples, sample by sample."""

from typing import NamedTuple

from torch import Tensor


class Predictions(NamedTuple):
    """A prediction for each of B samples; NaN where a network's logits are."""

    rows: Tensor  # [B] int64, which samples they are
    labels: Tensor  # [B] int64
    predicted: Tensor  # [B] int64
    probability: Tensor  # [B] float32, of the class predicted
    of_label: Tensor  # [B] float32, the probability of the sample's own class


def predict(rows: Tensor, logits: Tensor, labels: Tensor) -> Predictions:
    """Return the predictions of logits [1, B, C] for the samples in `rows` [B], of classes `labels` [B]."""
    predicted = logits[0].argmax(1)
    probabilities = logits[0].float().softmax(1)
    of = (probabilities.gather(1, classes[:, None]).squeeze(1) for classes in (predicted, labels))
    return Predictions(rows, labels, predicted, *of)
