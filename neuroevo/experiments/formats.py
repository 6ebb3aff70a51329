"""The files that a network is written into: weights by name, or a graph that is checked before it is kept."""

import io
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroevo import config
from neuroevo.engine.rng import generator
from neuroevo.errors import InputError, RunError
from neuroevo.networks import onnxfiles, onnxgraphs
from neuroevo.networks.libraries import Transform
from neuroevo.networks.weightfiles import NOTE, seal

FORMATS = {"safetensors": (".safetensors",), "pt": (".pt", ".pth"), "onnx": (".onnx",)}  # by what a file's name ends in
EXAMPLES = 2  # images by which a graph is traced; of one, some networks make a graph for one alone
BATCHES = (1, 3)  # of which a graph is tried


def choose_format(format: str | None, path: Path) -> str:
    """Return the format that is asked for, by its name or the file's suffix; InputError where they contradict."""
    by_suffix = next((name for name, ends in FORMATS.items() if path.suffix.lower() in ends), None)
    if format is None and not path.suffix:
        return next(iter(FORMATS))
    if format is None and by_suffix is None:
        ends = ", ".join(end for ends in FORMATS.values() for end in ends)
        raise InputError(f"--out: {path.name} ends in none of {ends}; give it one, or a --format")
    if format is None:
        format = by_suffix
    if format not in FORMATS:
        raise InputError(f"--format: {format!r} is none of {', '.join(FORMATS)}")
    if by_suffix not in (None, format):
        raise InputError(f"--format: {format}, but {path.name} ends as {by_suffix} does; name it {FORMATS[format][0]}")
    return format


def check_libraries(format: str) -> None:
    """See that what a format needs is installed; InputError names what isn't."""
    if format == "onnx":
        with config.at(name="--format"):
            for name in ("onnx", "onnxscript", "onnxruntime"):
                if find_spec(name) is None:  # to import one here would change what a run's versions are
                    onnxgraphs.library(name)


def weights(state: Mapping[str, Tensor], format: str, about: Mapping[str, Any]) -> bytes:
    """Return weights by name as the bytes of a file, `safetensors` or `pt`."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if format == "safetensors":
        return seal(state, about)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


class Normalise(nn.Module):
    """A network before which pixels in [0, 1] are normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.network = network
        for name, given, plain in (("mean", transform.mean, 0.0), ("std", transform.std, 1.0)):
            values = torch.tensor(given or (plain,) * transform.channels)
            self.register_buffer(name, values.view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits [B, C] of pixels [B, channels, H, W] in [0, 1]."""
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        return logits


def graph(whole: nn.Module, about: Mapping[str, Any], sample: tuple[int, ...], name: str) -> bytes:
    """Return a network, of inputs `name` of a shape, as an ONNX file whose logits are the network's.

    RunError where a graph with a free batch size can't be made of it, or where onnxruntime's logits of that differ from
    torch's by more than onnxfiles.CLOSE of the largest.
    """
    given = onnxfiles.inside(whole)
    if given is not None:
        return given.to_onnx()
    example = torch.zeros(EXAMPLES, *sample)
    try:
        program = torch.onnx.export(
            whole,
            (example,),
            input_names=[name],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto
    except Exception as error:  # a network may resist the exporter in any way
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise RunError(f"{about['backbone']} can't be exported as a graph with a free batch size ({reason})") from error
    for key, value in {NOTE: json.dumps(about), **words(about, name)}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    content = bytes(proto.SerializeToString())
    for batch in BATCHES:
        inputs = torch.rand(batch, *sample, generator=generator(0, "export", batch))
        with torch.inference_mode():
            logits = whole(inputs)
        found = onnxfiles.difference(content, inputs, logits)
        if not found <= onnxfiles.CLOSE:
            raise RunError(
                f"{about['backbone']}: onnxruntime's logits of the graph differ from torch's by {found:.2g} of the "
                f"largest, beyond {onnxfiles.CLOSE:g}; no file is written"
            )
    return content


def words(about: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return what a graph's metadata say for a reader: its classes, its inputs, and what is to be done before it."""
    found = {"classes": json.dumps(about["classes"])}
    if "transform" not in about:
        return found | {"before": "rows of numbers as they are in x"}
    t = about["transform"]
    size = f"{t['size'][0]} x {t['size'][1]}"
    resized = f"resize to cover {size} pixels ({t['interpolation']}), cut to the centre, divide by 255"
    if name == "pixels":
        return found | {"before": f"not inside: {resized}", "inside": "normalisation"}
    return found | {"before": f"not inside: {resized}; then (x - mean) / std: {t['mean']}, {t['std']}"}
