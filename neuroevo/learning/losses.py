"""The targets of the loss: soft, smoothed, mixed."""

import torch
from torch import Tensor


def soft_targets(
    targets: Tensor, partners: Tensor | None, share: float, smoothing: Tensor | None, classes: int
) -> Tensor:
    """Return target distributions [r or 1, B, C]: one-hot, mixed with those of mixup's partners, smoothed.

    Targets are [B] or [r, B]; `smoothing` [r] is spread over all classes, as torch's `label_smoothing`; None is none.
    """
    soft = torch.nn.functional.one_hot(targets, classes).float()
    if partners is not None:
        soft = share * soft + (1 - share) * torch.nn.functional.one_hot(partners, classes)
    soft = soft if soft.ndim == 3 else soft.unsqueeze(0)
    if smoothing is None:
        return soft
    smoothing = smoothing.view(-1, 1, 1)
    return soft * (1 - smoothing) + smoothing / classes
