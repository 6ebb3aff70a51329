"""What rounding a network's weights loses, and what is won back by forward passes alone.

    python bench/quantisation.py [--data digits,cifar10] [--bits 8,4,3] [--seeds 5] [--forward 80000] [--rows "a;b"]

Table (a) of docs/when.md. EfficientNet-Lite0 at 48 pixels, with a head that gradients found on its features, is float;
then its weights, the head's aside, are rounded to whole levels, a scale for each output channel. 1,000 images are there
to calibrate by: bias correction takes their means; from there on SPSA and evolution move scales, biases and norms (the
space `scales`) by cross-entropy on 800 of them, and choose their champion by the others. Labels are the images' own, or
what the float network says of them. SPSA and evolution have as many forward passes. A seed draws calibration and test
images, and the head. With `--onnx` the network is an int8 file by onnxruntime's own quantiser, whose float initialisers
evolve.
"""

import json
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about import about, begin, named, parser
from PIL import Image
from sklearn.datasets import load_digits
from stages import AT_ONCE, NAME, accuracy, note, rounded, table, train_head
from stages import paths as cifar_paths
from torch import Tensor, nn

import neuroevo as ne
from neuroevo.networks.backbones import build

CALIBRATION, HELD_OUT = 1000, 200
PARTS = ("body.conv_stem", "body.blocks", "body.conv_head")  # what is rounded: all but the head
ROWS: dict[str, dict[str, Any]] = {
    "spsa, labels": {"algorithm": {"name": "spsa", "population": 8, "lr": 3.0}, "labels": True, "sigma": 0.01},
    "evolved, labels": {"labels": True, "sigma": 0.01},
    "evolved, no labels": {"labels": False, "sigma": 0.01},
}


class Whole(nn.Module):
    """A network from images [B, 3, H, W], normalised, to logits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C]."""
        found: Tensor = self.body(images)
        return found


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--data", default="digits,cifar10")
    made.add_argument("--bits", default="8,4,3")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--size", type=int, default=48)
    made.add_argument("--images", type=int, default=10_000, help="of CIFAR-10's train, and of its test at most")
    made.add_argument("--forward", type=int, default=80_000)
    made.add_argument("--samples", type=int, default=200)
    made.add_argument("--rows", default=";".join(ROWS), help="searches, with semicolons between; empty for none")
    made.add_argument("--onnx", action="store_true", help="an int8 file in place of rounded weights")
    made.add_argument("--root", type=Path)
    options = made.parse_args()
    begin(made, options)
    sets = named(made, "--data", options.data, SETS)
    chosen = named(made, "--rows", options.rows, ROWS, ";")
    if options.small:
        options.seeds, options.images, options.forward, options.samples, options.bits = 1, 300, 1_000, 20, "4"
        options.size = 32
    record = about(1, torch.device("cpu"))
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in sets:
        x, y, test = SETS[name](options)
        for seed in range(options.seeds):
            study(name, (x, y, test), seed, chosen, options, found)
    for name, rows in found.items():
        print(f"\n{name}\n" + table(rows, "round to nearest" if "round to nearest" in rows else "int8", ["test"]))
    if options.json:
        options.json.write_text(json.dumps({**record, "found": rounded(found)}, indent=1))


def digits(options: Any) -> tuple[Tensor, Tensor, int]:
    """Return scikit-learn's digits as images, their labels, and how many are for test."""
    found = load_digits()
    x = torch.from_numpy(found.images).float()[:, None].expand(-1, 3, -1, -1) / 16
    x = nn.functional.interpolate(x, (options.size, options.size), mode="bilinear")
    y = torch.from_numpy(found.target).long()
    return (x[:300], y[:300], 100) if options.small else (x, y, 400)


def cifar10(options: Any) -> tuple[Tensor, Tensor, int]:
    """Return CIFAR-10's images, their labels, and how many are for test."""
    files, labels, test = cifar_paths(options.root, options.images)
    size = options.size
    pictures = [np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
                for path in files]  # fmt: skip
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255, labels, test


SETS = {"digits": digits, "cifar10": cifar10}


def study(
    name: str, data: tuple[Tensor, Tensor, int], seed: int, chosen: list[str], options: Any, found: dict[str, Any]
) -> None:
    """Note what one seed's networks reach on test: images, labels, and how many of them are test's."""
    x, y, test = data
    backbone = build(NAME, "pypi", options.size, (options.size, options.size, 3))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (backbone.transform.mean, backbone.transform.std))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    if name == "cifar10":  # its own test split
        order = torch.cat([order[order < len(x) - test], torch.arange(len(x) - test, len(x))])
    train, held = order[:-test], order[-test:]
    size = min(CALIBRATION, len(train) // 2)
    calibrate = train[:size]

    def images(index: Tensor) -> Tensor:
        return ((x[index] - mean) / std).contiguous()

    with torch.inference_mode():
        features = torch.cat([backbone.features(images(part)) for part in train.split(AT_ONCE)]).clone()
    head = nn.Linear(features.shape[1], 10)
    train_head(head, features, y[train], seed)
    network = Whole(backbone.network(head)).eval().requires_grad_(False)
    shown, tested = images(calibrate), (images(held), y[held])
    said = torch.cat([network(part).argmax(1) for part in shown.split(AT_ONCE)])
    held_out = size * HELD_OUT // CALIBRATION
    splits = {"train": slice(0, size - held_out), "validation": slice(size - held_out, size)}

    def evolve(quantised: nn.Module, row: str, trainable: Any) -> ne.Result:
        of = ROWS[row]
        labels = y[calibrate] if of["labels"] else said
        given = {key: (shown[part], labels[part]) for key, part in splits.items()}
        return ne.evolve(quantised, given, trainable=trainable, space="scales", sigma=of["sigma"],
                         algorithm=of.get("algorithm"), validate="cross_entropy", samples=options.samples,
                         budget=ne.Budget(forward_samples=options.forward), precision="auto", seed=seed,
                         device="cpu")  # fmt: skip

    if options.onnx:
        file = int8_file(network, shown)
        whole = ne.onnx(file)
        rows = found.setdefault(f"{name}, int8 ONNX", {})
        note(rows, seed, "float", {"test": accuracy(network, *tested)})
        note(rows, seed, "int8", {"test": accuracy(whole, *tested)})
        for row in chosen:
            result = evolve(whole, row, ["*scale*", "*bias*"])
            assert result.model is not None
            note(rows, seed, row, {"test": accuracy(result.model, *tested), "genes": len(result.genome)})
        return
    for bits in map(int, options.bits.split(",")):
        rows = found.setdefault(f"{name}, {bits} bits", {})
        note(rows, seed, "float", {"test": accuracy(network, *tested)})
        nearest = ne.quantise(network, bits, parts=PARTS)
        note(rows, seed, "round to nearest", {"test": accuracy(nearest, *tested)})
        mended = ne.correct_biases(network, nearest, shown)
        note(rows, seed, "bias correction", {"test": accuracy(mended, *tested)})
        for row in chosen:
            result = evolve(mended, row, "*")
            assert result.model is not None
            note(rows, seed, row, {"test": accuracy(result.model, *tested), "genes": len(result.genome),
                                   "seconds": result.seconds})  # fmt: skip


def int8_file(network: nn.Module, images: Tensor) -> Path:
    """Return an int8 file of a network, by onnxruntime's static quantiser, calibrated on images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = iter(images.split(50))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": part.numpy()}

    folder = Path(tempfile.mkdtemp())
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        deepcopy(network), (images[:2],), folder / "float.onnx", input_names=["images"], output_names=["logits"],
        dynamic_shapes={"images": {0: batch}}, dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    quant_pre_process(str(folder / "float.onnx"), str(folder / "ready.onnx"))
    quantize_static(str(folder / "ready.onnx"), str(folder / "int8.onnx"), Reader(), per_channel=True,
                    weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"])  # fmt: skip
    return folder / "int8.onnx"


if __name__ == "__main__":
    main()
