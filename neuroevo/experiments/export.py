"""The champion as a plain network: the library's own module with the evolved head in its place, folded."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuroevo import config
from neuroevo.errors import InputError, RunError
from neuroevo.experiments import reopen, terminal
from neuroevo.experiments.compose import Run
from neuroevo.experiments.interruption import NEVER, Interruption
from neuroevo.networks import onnxfiles, onnxgraphs
from neuroevo.networks.weightfiles import seal
from neuroevo.storage import files, rundir

FORMATS = {"safetensors": (".safetensors",), "pt": (".pt", ".pth"), "onnx": (".onnx",)}  # by what a file's name ends in
EXAMPLES = 2  # images by which a graph is traced; of one, some networks make a graph for one alone


def network(run_dir: str, member: int | None = None, *, signals: Interruption = NEVER) -> tuple[nn.Module, Run]:
    """Return a champion as a network, inputs (normalised images, or rows [B, d]) to logits [B, C], and its parts.

    With `member`, that one of the newest checkpoint's front takes the champion's place. The run's data aren't needed:
    the parts have no image in any split.
    """
    with terminal.show() as observer:
        run, champion = reopen.rebuild(run_dir, observer, member, signals=signals)
    whole = run.network.module(champion.genome)
    return whole.cpu().to(memory_format=torch.contiguous_format), run


def export(
    run_dir: str, format: str | None, out: str, member: int | None = None, *, signals: Interruption = NEVER
) -> str:
    """Write a champion's network as a state dict (`safetensors`, `pt`) or graph (`onnx`); return a line about it.

    The file's suffix says which, where `format` is None. With `member`, that one of the newest checkpoint's front takes
    the champion's place.
    """
    path = Path(out)
    format = choose_format(format, path)
    if not path.parent.is_dir():
        raise InputError(f"--out: no folder {path.parent}")
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"--out: {path} is there and is no file")
    if format == "onnx":
        with config.at(name="--format"):
            for name in ("onnx", "onnxscript"):
                onnxgraphs.library(name)
    rundir.refuse_inside(run_dir, out)
    whole, run = network(run_dir, member, signals=signals)
    backbone = run.network.backbone
    t, inputs = backbone.transform, backbone.inputs
    about: dict[str, Any] = {"backbone": backbone.name, "classes": run.network.classes}
    about |= {"transform": t._asdict()} if inputs is None else {"inputs": inputs}
    sample = (t.channels, *t.size) if inputs is None else (inputs,)
    files.replace(path, content(whole, format, about, sample))
    shape = f"inputs {t.size[0]} x {t.size[1]}, mean {t.mean}, std {t.std}"
    if inputs is not None:
        shape = f"inputs of {inputs:,} numbers, as they are in x"
    return f"{path}: {backbone.name} with {len(run.network.classes)} classes; {shape}"


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


def content(whole: nn.Module, format: str, about: dict[str, Any], sample: tuple[int, ...]) -> bytes:
    """Return a network, of samples of a shape, as the bytes of a file; RunError where a graph can't be made of it."""
    state = {name: tensor.contiguous() for name, tensor in whole.state_dict().items()}
    if format == "safetensors":
        return seal(state, about)
    if format == "pt":
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()
    given = onnxfiles.inside(whole)
    if given is not None:
        return given.to_onnx()
    name = "images" if len(sample) > 1 else "inputs"
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
        return bytes(program.model_proto.SerializeToString())
    except Exception as error:  # a network may resist the exporter in any way
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise RunError(f"{about['backbone']} can't be exported as a graph with a free batch size ({reason})") from error
