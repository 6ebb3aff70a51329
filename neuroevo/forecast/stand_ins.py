"""Stand-ins for features that are yet to be computed, and for what is made of them: the same shapes, nothing more."""

import torch
from torch import Tensor

from neuroevo import devices
from neuroevo.config import Config
from neuroevo.data.augment import Live
from neuroevo.data.datasets import Dataset
from neuroevo.experiments import build, sizes, starts
from neuroevo.forecast.pace import time_call
from neuroevo.networks.affine import Affine
from neuroevo.networks.backbones import Backbone

PROBED_AXES = 512  # by which principal axes are timed


class Views(Live):
    """Gives random features in place of those of fresh views."""

    def __call__(self, index: Tensor) -> Tensor:
        """Return features [B, d]."""
        return torch.rand(len(index), self.width, device=self.device)

    width = 0


def random_features(n: int, d: int, dtype: str) -> Tensor:
    """Return random features [n, d], rows that are one and the same where they would take much memory."""
    kind: torch.dtype = getattr(torch, dtype)
    if 4 * n * d > devices.available_memory(torch.device("cpu")) / 4:
        return torch.rand(1, d).to(kind).expand(n, d)
    return torch.rand(n, d).to(kind)


def stand_in_weights(
    c: Config, backbone: Backbone, dims: sizes.Dims, given: tuple[Dataset, dict[str, Tensor]], scale: Affine | None
) -> dict[str, Tensor]:
    """Return zeros for the weights that a checkpoint would keep: of other runs, and of a head that isn't drawn."""
    width = scale.width if scale is not None else dims.seen
    head = build.make_head(c, backbone, width, len(given[0].classes))
    prefix = f"{starts.HEAD}/{backbone.head}"
    value = float(c.genome.coordinates)
    of_head = {f"{prefix}.{name}": torch.full((1, *p.shape), value) for name, p in head.named_parameters()}
    fixed = {} if c.head.trainable and c.head.init != "network" else of_head
    if not c.genome.start:
        return fixed
    genes = dims.weights if c.genome.coordinates else dims.genes
    if c.head.trainable:  # the head may be narrower than foreseen
        own = build.make_head(c, backbone, dims.seen, len(given[0].classes))
        genes += sum(p.numel() for p in head.parameters()) - sum(p.numel() for p in own.parameters())
    # What a space of coordinates is around isn't zero.
    return fixed | {starts.START: torch.full((len(c.genome.start), genes), value)}


def axes_seconds(n: int, d: int, device: torch.device) -> float:
    """Return the seconds of the principal axes of n rows [d], by a smaller product and a smaller decomposition."""
    m, w = min(n, d), min(n, d, PROBED_AXES)
    x = torch.randn(2 * PROBED_AXES, w, dtype=torch.float64, device=device)
    x.T @ x
    product, gram = time_call(device, lambda: x.T @ x)
    torch.linalg.eigh(gram.cpu())
    decomposition, _ = time_call(device, lambda: torch.linalg.eigh(gram.cpu()))
    return product * n * d * m / (len(x) * w * w) + decomposition * (m / w) ** 3
