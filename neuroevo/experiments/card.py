"""A model card: what a file of weights is of, what it was found to be worth, and how it is loaded without neuroevo."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from neuroevo.config import Config
from neuroevo.errors import InputError, printable
from neuroevo.experiments.log import versions
from neuroevo.networks import backbones, libraries
from neuroevo.networks.ensembles import MEMBERS
from neuroevo.networks.network import Network
from neuroevo.reading import regular
from neuroevo.storage import records

SPECIAL = re.compile(r"([\\`*{}\[\]()#+!|~])")  # what Markdown would take for more than text, beside HTML's own
MARK = "<!-- a model card by neuroevo -->"
SUFFIX = ".md"  # behind the file's name
SOME = 30  # classes that are named


@dataclass(frozen=True)
class Subject:
    """What a card is about."""

    file: Path
    config: Config
    network: Network
    about: Mapping[str, Any]  # the file's own note
    result: Mapping[str, Any]  # of the run, {} where there is none
    scores: Mapping[str, Any]  # of what is in the file: `validation`, and `test` where it was scored
    cost: Mapping[str, Any]  # of the run


def place(file: Path) -> Path:
    """Return where the card of a file is."""
    return file.with_name(file.name + SUFFIX)


def check(file: Path) -> None:
    """See that where a card will be there is nothing, or a card; InputError if not."""
    path = place(file)
    try:
        with regular(path) as there:
            known = there.readline(len(MARK) + 2).decode(errors="replace").strip() == MARK
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"--out: {path}, where the model card would be: {error.strerror}") from None
    if not known:
        raise InputError(f"--out: {path}, where the model card would be, is there and is no model card")


def write(subject: Subject) -> str:
    """Return the card, in Markdown."""
    about, network = subject.about, subject.network
    parts = [MARK, f"# {plain(subject.file.name)}", ""]
    what, backbone = plain(f"{about['select']}: {about['is']}"), plain(network.backbone.name)
    parts += [f"{what}. Backbone {backbone}, {plain(describe_head(network))}.", ""]
    if about.get("temperature") is not None:
        parts += [f"Logits are divided by {about['temperature']:.4g}, which is in the weights.", ""]
    parts += ["## Load it without neuroevo", "", "```python", *loading(subject), "```", ""]
    parts += [f"`model` gives logits of inputs {inputs(about)}.", "", "## What it is worth", "", *worth(subject), ""]
    parts += ["## Data", "", *data(subject), "", "## Cost", "", *cost(subject), "", "## Versions", ""]
    parts += [f"- {name} {version}" for name, version in versions().items()]
    return "\n".join(parts) + "\n"


def plain(name: str) -> str:
    """Return a name as Markdown that shows it, and does nothing else."""
    return SPECIAL.sub(r"\\\1", html.escape(printable(name), quote=False))


def describe_head(network: Network) -> str:
    """Return what of a network evolved, in words."""
    what = f"{network.name} head of {len(network.classes)} classes"
    trainable = len(network.backbone.trainable)
    return what if not trainable else f"{what}; {trainable} parameters of the backbone evolved as well"


def inputs(about: Mapping[str, Any]) -> str:
    """Return what a network is given, in words."""
    if "transform" not in about:
        return f"[B, {about['inputs']}], rows of numbers as they are in x"
    t = about["transform"]
    size = f"[B, {t['channels']}, {t['size'][0]}, {t['size'][1]}]"
    how = f"images resized to cover that size ({t['interpolation']}), cut to the centre, in [0, 1]"
    if t["mean"] is None:
        return f"{size}: {how}"
    return f"{size}: {how}, then (x - mean) / std, mean {list(t['mean'])}, std {list(t['std'])}"


def worth(subject: Subject) -> list[str]:
    """Return the scores as lines of a table."""
    scores, champion = subject.scores, mapping(subject.result.get("champion"))
    if not scores:
        return ["Not scored: the run has no result of this network. `neuroevo evaluate` scores a run's champion."]
    validation, test = mapping(scores.get("validation")), mapping(scores.get("test"))
    intervals = mapping(test.get("interval"))
    rows = ["| metric | validation | test | 95 % interval |", "|---|---|---|---|"]
    for name in dict.fromkeys([*validation, *intervals]):
        ends = intervals.get(name)
        interval = ", ".join(map(figure, ends)) if isinstance(ends, list | tuple) else ""
        rows.append(f"| {plain(name)} | {figure(validation.get(name))} | {figure(test.get(name))} | {interval} |")
    rows += ["", "It was chosen by its validation figures, which are too good for that reason."]
    if "test" in scores:
        looks, noun = whole(subject.result.get("test_scored", 1), ""), noun_of(subject)
        rows[-1] += f" Test is of {whole(test.get('images'), '')} {noun}; this run's networks were scored on it "
        rows[-1] += f"{looks} times in all."
    metric, tested = subject.config.validate.metric.name, mapping(champion.get("test"))
    if scores is not champion and tested.get(metric) is not None:
        rows[-1] += f" The run's champion has {plain(metric)} {figure(tested[metric])} on test."
    return rows


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a part of a result, {} where that has something else in its place."""
    return value if isinstance(value, Mapping) else {}


def noun_of(subject: Subject) -> str:
    """Return what samples are called."""
    return plain(str(mapping(subject.result.get("data")).get("noun", "images")))


def figure(value: Any) -> str:
    """Return a score as text."""
    return f"{value:.4f}" if records.number(value) else "-"


def whole(value: Any, commas: str = ",") -> str:
    """Return a count as text."""
    return f"{value:{commas}.0f}" if records.number(value) else "-"


def data(subject: Subject) -> list[str]:
    """Return what the network was trained and scored on, as lines."""
    images, classes = mapping(mapping(subject.result.get("data")).get("images")), list(subject.network.classes)
    some = ", ".join(plain(name) for name in classes[:SOME]) + (", ..." if len(classes) > SOME else "")
    lines = [f"- data: {plain(subject.config.data.source.name)}"]
    sizes = [f"{plain(split)} {whole(count)}" for split, count in images.items()]
    lines += [f"- {noun_of(subject)}: {', '.join(sizes)}"] if sizes else []
    return [*lines, f"- {len(classes)} classes, in the order of the logits: {some}"]


def cost(subject: Subject) -> list[str]:
    """Return what the run took, and then what the choice of this network took, as lines."""
    chosen = mapping(subject.scores.get("cost"))
    kinds = ((mapping(subject.cost), ""), (chosen, " of the choice"))
    return [
        f"- {plain(key.replace('_', ' '))}{of}: {whole(value)}" for found, of in kinds for key, value in found.items()
    ]


def loading(subject: Subject) -> list[str]:
    """Return the lines of Python that load the file's network as `model`, without neuroevo."""
    network, name, file = subject.network, subject.network.backbone.name, ascii(subject.file.name)
    if name == backbones.ONNX:
        return [f"# {file} is of an ONNX file: export it as one, which onnxruntime runs"]
    library, make = construct(subject)
    head, members = head_of(subject), subject.about["members"]
    whole = f'model = {make}; model.set_submodule("{network.backbone.head}", {head[1]})'
    first = ", ".join(dict.fromkeys([*([library] if library else []), "torch"]))
    imports = [f"import {first}", "from safetensors.torch import load_file"]
    imports += [line for line in (own_import(name), head[0]) if line]
    lines = [*imports, whole, *channels(subject)]
    if members == 1:
        return [*lines, f"model.eval().load_state_dict(load_file({file}))"]
    return [
        *imports[:1],
        "import copy",
        *imports[1:],
        "",
        "class Mean(torch.nn.ModuleList):",
        "    def forward(self, x):",
        "        return torch.stack([member(x) for member in self]).mean(0)",
        "",
        *lines[len(imports) :],
        f"state, members = load_file({file}), Mean(copy.deepcopy(model).eval() for _ in range({members}))",
        "for i, member in enumerate(members):",
        f'    own = {{k: v for k, v in state.items() if not k.startswith("{MEMBERS}.")}}',
        f'    own |= {{k.removeprefix(f"{MEMBERS}.{{i}}."): v for k, v in state.items() '
        f'if k.startswith(f"{MEMBERS}.{{i}}.")}}',
        "    member.load_state_dict(own)",
        "model = members",
    ]


def construct(subject: Subject) -> tuple[str, str]:
    """Return the library that a network is from, "" for none, and the expression that makes the network."""
    name, size = subject.network.backbone.name, subject.config.data.image_size
    library, _, model = name.partition("/")
    if name == "none":
        body = 'torch.nn.Sequential(); model.add_module("flatten", torch.nn.Flatten())'
        return "", f'{body}; model.add_module("head", torch.nn.Identity())'
    if ":" in name:
        return "", f"{name.partition(':')[2]}()"
    extra = [f'"{model}"', *library_options(library, model, size)]
    if library == "timm":
        return "timm", f"timm.create_model({', '.join(extra)})"
    return "torchvision", f"torchvision.models.get_model({', '.join(extra)})"


def library_options(library: str, model: str, size: int | None) -> list[str]:
    """Return the options with which a library makes a network of a size, as `networks.libraries` does."""
    return [f"{key}={value}" for key, value in libraries.options(library, model, size, pretrained=False).items()]


def own_import(name: str) -> str:
    """Return the line that imports a user's own part, "" for one of the house."""
    module, colon, attribute = name.partition(":")
    return f"from {module} import {attribute}" if colon else ""


def head_of(subject: Subject) -> tuple[str, str]:
    """Return the line that imports a head, if it needs one, and the expression that makes it."""
    network, given = subject.network, subject.config.head.layers
    if ":" in given.name:
        options = "".join(f", {key}={value!r}" for key, value in given.options.items())
        call = f"{given.name.partition(':')[2]}({network.width}, {len(network.classes)}{options})"
        return own_import(given.name), call
    return "", code(network.build_head(network.width))


def code(module: nn.Module) -> str:
    """Return the expression that makes layers of torch's own."""
    if isinstance(module, nn.Sequential):
        return f"torch.nn.Sequential({', '.join(code(child) for child in module)})"
    return f"torch.nn.{module!r}"


def channels(subject: Subject) -> list[str]:
    """Return the line that makes a network's first convolution take other images than of three channels."""
    backbone = subject.network.backbone
    if not backbone.name.startswith(("timm/", "torchvision/")) or subject.config.backbone.channels in (None, 3):
        return []
    place, first = next((key, m) for key, m in backbone.body.named_modules() if isinstance(m, nn.Conv2d))
    shape = ", ".join(map(str, first.weight.shape))
    return [f'model.get_submodule("{place}").weight = torch.nn.Parameter(torch.empty({shape}))']
