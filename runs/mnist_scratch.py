"""A small network for MNIST whose convolutions stay as they are made: edges of every kind, then random mixtures."""

import math

import torch
from torch import nn

EDGES, MIXTURES, SIZE = 8, 100, 5


def network() -> nn.Module:
    """Return two convolutions of 40,400 weights in all, and a head to be replaced: images [B, 1, 28, 28] to logits."""
    first = nn.Conv2d(1, 2 * EDGES, SIZE, padding=SIZE // 2, bias=False)
    second = nn.Conv2d(2 * EDGES, MIXTURES, SIZE, padding=SIZE // 2, bias=False)
    with torch.no_grad():
        edges = cosines()
        first.weight.copy_(torch.cat([edges, -edges]))
        second.weight.copy_(alike(torch.randn(second.weight.shape)))
    pooled = nn.AvgPool2d(5, ceil_mode=True)
    return nn.Sequential(
        first, nn.ReLU(), nn.AvgPool2d(2), second, nn.ReLU(), pooled, nn.Flatten(), nn.Linear(MIXTURES * 9, 10)
    )


def cosines() -> torch.Tensor:
    """Return the lowest frequencies of the discrete cosine transform, without the mean, `[EDGES, 1, SIZE, SIZE]`."""
    place = (torch.arange(SIZE, dtype=torch.float64) + 0.5) * math.pi / SIZE
    waves = torch.stack([torch.cos(place * k) for k in range(SIZE)])
    pairs = sorted(((i, j) for i in range(SIZE) for j in range(SIZE) if i + j), key=lambda pair: (sum(pair), pair))
    return alike(torch.stack([torch.outer(waves[i], waves[j]) for i, j in pairs[:EDGES]])[:, None]).float()


def alike(filters: torch.Tensor) -> torch.Tensor:
    """Return filters `[o, i, h, w]` without the mean of each plane, and of length 1."""
    filters = filters - filters.mean((2, 3), keepdim=True)
    return filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
