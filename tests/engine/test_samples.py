import torch

from neuroevo.data.samples import Features
from neuroevo.engine.samples import Samples


def test_cached_features_are_samples() -> None:
    rows, labels = torch.arange(12.0).view(6, 2), torch.arange(6)
    samples: Samples = Features((rows,), labels, None, torch.device("cpu"))
    x, y = samples.batch(torch.tensor([4, 1]))
    assert torch.equal(x, rows[[4, 1]])
    assert torch.equal(y, samples.labels[[4, 1]])
