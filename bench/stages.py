"""What the tables of docs/when.md on a last stage have in common: CIFAR-10 at a network's cut, a head, fine-tuning.

EfficientNet-Lite0 is cut before its last stage (`blocks.6`, `conv_head`, `bn2`); what comes before is computed once for
each image and kept in the cache folder. What is left is a module of its own, `Stage`, on rows at the cut.
"""

import hashlib
import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call

import neuroevo as ne
from neuroevo.data.cache import cache_folder
from neuroevo.data.datasets import find_root
from neuroevo.networks.backbones import Backbone, build
from neuroevo.networks.cut import Cut
from neuroevo.networks.spaces import SPACES, Origin

NAME, PARTS = "timm/tf_efficientnet_lite0", ("blocks.6", "conv_head", "bn2")
EVOLVED = tuple(f"rest.{part}" for part in PARTS)
CLASSES, AT_ONCE = 10, 500
DOMAINS = ("plain", "inverted", "rotated", "noisy")
NOISE = 0.15  # deviation of a pixel in [0, 1]
DECAYS = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)  # of heads, chosen on validation


class Stage(nn.Module):
    """What evolves, and the head behind it: rows at the cut [B, D] to logits [B, C]."""

    def __init__(self, cut: Cut, head: nn.Linear) -> None:
        super().__init__()
        self.rest, self.head = deepcopy(cut.rest), head
        self.cut = cut._replace(prefix=nn.Identity(), rest=nn.Identity())

    def features(self, rows: Tensor) -> Tensor:
        """Return what the head is given, [B, d]."""
        found: Tensor = self.rest(*self.cut.tensors(rows))
        return found

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits [B, C]."""
        found: Tensor = self.head(self.features(rows))
        return found


class Data(NamedTuple):
    """Images at the cut, and their classes."""

    rows: dict[str, Tensor]  # by domain, each [N, D]
    labels: Tensor  # [N]


class Split(NamedTuple):
    """Rows of a split, by what they are for: a seed draws all but test, which has always been test."""

    train: Tensor
    tune: Tensor  # on which coefficients, factors and the like are searched
    validation: Tensor  # on which settings and champions are chosen
    test: Tensor


def load_backbone(size: int) -> Backbone:
    """Return the network, cut before its last stage."""
    return build(NAME, "pypi", size, (32, 32, 3), trainable=PARTS)


def paths(root: Path | None, images: int | None) -> tuple[list[Path], Tensor, int]:
    """Return CIFAR-10's files, so many of train and of test at most, their classes, and how many are of test."""
    folder = Path(find_root(str(root) if root else None)) / "cifar10-images"

    def order(path: Path) -> str:
        return hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).hexdigest()

    files = [sorted((folder / part).glob("*/*"), key=order)[:images] for part in ("train", "test")]
    if not all(files):
        raise SystemExit(f"{folder}: no images; give --root, or set NEUROEVO_DATA")
    names = sorted({path.parent.name for path in files[0]})
    found = [*files[0], *files[1]]
    return found, torch.tensor([names.index(path.parent.name) for path in found]), len(files[1])


def load(
    root: Path | None, size: int, images: int | None, domains: tuple[str, ...] = ("plain",)
) -> tuple[Backbone, Data]:
    """Return the network and CIFAR-10 at its cut; `images` of train, and as many of test at most, None for all."""
    backbone = load_backbone(size)
    files, labels, _ = paths(root, images)
    key = hashlib.sha256(f"{backbone.digest}/{size}/{images}/{len(files)}/{NOISE}".encode()).hexdigest()[:16]
    rows = {}
    for domain in domains:
        kept = cache_folder() / "bench" / f"stage-{key}-{domain}.pt"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(_rows(backbone, files, size, domain), kept)
        rows[domain] = torch.load(kept)
    return backbone, Data(rows, labels)


def _rows(backbone: Backbone, paths: list[Path], size: int, domain: str) -> Tensor:
    """Return images at the cut [N, D], changed as the domain is."""
    source = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (backbone.transform.mean, backbone.transform.std))
    found = []
    with torch.inference_mode():
        for left in range(0, len(paths), AT_ONCE):
            pictures = [np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
                        for path in paths[left : left + AT_ONCE]]  # fmt: skip
            x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
            found.append(backbone.features((change(x, domain, source) - mean) / std).clone())
    return torch.cat(found)


def change(images: Tensor, domain: str, source: torch.Generator) -> Tensor:
    """Return images [B, 3, H, W] in [0, 1] as they are in a domain."""
    if domain == "inverted":
        return 1 - images
    if domain == "rotated":
        return images.rot90(1, (2, 3))
    if domain == "noisy":
        return (images + NOISE * torch.randn(images.shape, generator=source)).clamp(0, 1)
    return images


def split(data: Data, test: int, seed: int, tune: int, validation: int) -> Split:
    """Draw a split: the last `test` images are test, always."""
    count = len(data.labels) - test
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    parts = order.split([count - tune - validation, tune, validation])
    return Split(*parts, torch.arange(count, count + test))


def probe(stage: Stage, rows: Tensor, labels: Tensor, seed: int, validation: tuple[Tensor, Tensor]) -> None:
    """Train the head alone; its weight decay is the one that does best on validation."""

    def features(of: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([stage.features(part) for part in of.split(AT_ONCE)]).clone()

    x, held, tried = features(rows), features(validation[0]), []
    for decay in DECAYS:
        head = deepcopy(stage.head)
        train_head(head, x, labels, seed, decay=decay)
        tried.append((cross_entropy(head, held, validation[1]), decay, head))
    loss, decay, stage.head = min(tried, key=lambda each: each[0])
    print(seed, f"head: weight decay {decay}, validation loss {loss:.4f}", flush=True)


def train_head(
    head: nn.Linear, features: Tensor, labels: Tensor, seed: int, *, epochs: int = 20, decay: float = 1e-4
) -> None:
    """Train a linear layer by SGD on standardised features, which are folded back."""
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    x, source = (features - mean) / std, torch.Generator().manual_seed(seed)
    weight = torch.zeros(CLASSES, x.shape[1], requires_grad=True)
    bias = torch.zeros(CLASSES, requires_grad=True)
    descent = torch.optim.SGD([weight, bias], lr=0.02, momentum=0.9, weight_decay=decay)
    steps = math.ceil(len(x) / 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(descent, epochs * steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=source).split(128):
            loss = nn.functional.cross_entropy(x[batch] @ weight.T + bias, labels[batch])
            descent.zero_grad()
            loss.backward()
            descent.step()
            schedule.step()
    with torch.no_grad():
        head.weight.copy_(weight / std)
        head.bias.copy_(bias - (weight / std) @ mean)


def fine_tune(
    stage: Stage, rows: Tensor, labels: Tensor, seed: int, epochs: int, lr: float, space: Any = "full"
) -> tuple[Stage, int]:
    """Return a copy whose last stage has learnt by SGD on the coordinates of a space, and how many there are.

    It is in eval mode: norms keep their statistics, and the head stays.
    """
    learnt = deepcopy(stage).eval().requires_grad_(False)
    weights = {name: w[None] for name, w in learnt.named_parameters() if name.startswith(EVOLVED)}
    options = {"name": space} if isinstance(space, str) else dict(space)
    laid = SPACES[options.pop("name")](Origin(weights), **options)
    genome = laid.start().clone().requires_grad_(True)
    descent = torch.optim.SGD([genome], lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(descent, epochs * math.ceil(len(rows) / 128))
    source = torch.Generator().manual_seed(seed)

    def decode() -> dict[str, Tensor]:
        return {name: w[0] for name, w in laid.decode(laid.layout.unflatten(genome)).items()}

    for _ in range(epochs):
        for batch in torch.randperm(len(rows), generator=source).split(128):
            loss = nn.functional.cross_entropy(functional_call(learnt, decode(), (rows[batch],)), labels[batch])
            descent.zero_grad()
            loss.backward()
            descent.step()
            schedule.step()
    learnt.load_state_dict({name: w.detach() for name, w in decode().items()}, strict=False)
    return learnt, genome.shape[1]


def search(stage: Stage, given: Any, arm: Mapping[str, Any], options: Any, seed: int) -> ne.Result:
    """Evolve the stage from where it is, as an arm has it; the head stays."""
    return ne.evolve(
        stage,
        given,
        trainable=list(EVOLVED),
        **arm,
        validate="cross_entropy",
        samples=options.samples,
        budget=ne.Budget(forward_samples=options.forward),
        precision="float32",
        seed=seed,
        device="cpu",
    )


def accuracy(module: nn.Module, rows: Tensor, labels: Tensor) -> float:
    """Return the share of rows [N, D] that a module puts in their class."""
    with torch.inference_mode():
        hits = [module(x).argmax(1) == y for x, y in zip(rows.split(AT_ONCE), labels.split(AT_ONCE), strict=True)]
    return float(torch.cat(hits).double().mean())


def cross_entropy(module: nn.Module, rows: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy of a module on rows [N, D]."""
    with torch.inference_mode():
        logits = torch.cat([module(part) for part in rows.split(AT_ONCE)])
    return float(nn.functional.cross_entropy(logits, labels))


def paired(a: list[float], b: list[float]) -> tuple[float, float]:
    """Return the mean of a - b over seeds, and half the width of its 95 % interval (Student's t)."""
    apart = np.subtract(a, b)
    if len(apart) < 2:
        return float(apart.mean()), math.nan
    half = float(stats.t.ppf(0.975, len(apart) - 1)) * apart.std(ddof=1) / math.sqrt(len(apart))
    return float(apart.mean()), float(half)


def table(found: Mapping[str, Mapping[str, list[float]]], reference: str, columns: list[str]) -> str:
    """Return a Markdown table: means over seeds, and differences from a reference with their intervals."""
    lines = ["| | " + " | ".join(f"{c} | less {reference}" for c in columns) + " |",
             "|---" * (1 + 2 * len(columns)) + "|"]  # fmt: skip
    for name, values in found.items():
        cells = []
        for column in columns:
            apart, half = paired(values[column], found[reference][column])
            cells += [f"{np.mean(values[column]):.4f}", "" if name == reference else f"{apart:+.4f} ± {half:.4f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def note(found: dict[str, dict[str, list[float]]], seed: int, name: str, values: Mapping[str, float]) -> None:
    """Keep the figures of a seed, and print them."""
    for key, value in values.items():
        found.setdefault(name, {}).setdefault(key, []).append(float(value))
    print(seed, name, rounded(values), flush=True)


def rounded(value: Any) -> Any:
    """Return figures with as many digits as are of use."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value
