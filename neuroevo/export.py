"""The champion as a plain network: the library's own module with the evolved head in its place, folded."""

import json
from pathlib import Path

import torch
from torch import nn

from neuroevo import composition, experiment, progress, rundir
from neuroevo.errors import InputError

FORMATS = ("safetensors", "pt", "onnx")


def network(run_dir: str, member: int | None = None) -> tuple[nn.Module, composition.Experiment]:
    """Return a champion as a network, normalised images [B, channels, H, W] to logits [B, C], and its run's parts.

    With `member`, that one of the newest checkpoint's front takes the champion's place.
    """
    with progress.shown() as reporter:
        parts, step = experiment.opened(run_dir, reporter, member)
    whole = parts.backbone.network(composition.make_head(parts.config, parts.backbone, parts.dim, len(parts.classes)))
    missing = whole.load_state_dict(parts.network_weights(step.champion.genome), strict=False).unexpected_keys
    assert not missing, missing
    return whole.cpu().to(memory_format=torch.contiguous_format).eval(), parts


def export(run_dir: str, format: str, out: str, member: int | None = None) -> str:
    """Write a champion's network as a state dict (`safetensors`, `pt`) or graph (`onnx`); return a line about it.

    With `member`, that one of the newest checkpoint's front takes the champion's place.
    """
    if format not in FORMATS:
        raise InputError(f"--format: {format!r} is none of {', '.join(FORMATS)}")
    path = Path(out)
    if not path.parent.is_dir():
        raise InputError(f"--out: no folder {path.parent}")
    if format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError:
            raise InputError("--format: onnx needs the extra 'onnx': pip install 'neuroevo[onnx]'") from None
    rundir.refuse_inside(run_dir, out)
    whole, parts = network(run_dir, member)
    t = parts.backbone.transform
    temporary = path.with_name(path.name + ".partial")
    state = {name: tensor.contiguous() for name, tensor in whole.state_dict().items()}
    try:
        if format == "safetensors":
            from safetensors.torch import save_file

            notes = {
                "neuroevo": json.dumps(
                    {"backbone": parts.backbone.name, "classes": parts.classes, "transform": t._asdict()}
                )
            }
            save_file(state, temporary, notes)
        elif format == "pt":
            torch.save(state, temporary)
        else:
            example = torch.zeros(1, t.channels, *t.size)
            torch.onnx.export(
                whole, (example,), str(temporary), input_names=["images"], output_names=["logits"], dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
            )  # fmt: skip
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    shape = f"inputs {t.size[0]} x {t.size[1]}, mean {t.mean}, std {t.std}"
    return f"{path}: {parts.backbone.name} with {len(parts.classes)} classes; {shape}"
