"""ModelSpec: everything that defines a network before it has weights.

A spec is plain data (frozen dataclasses, JSON both ways) and needs nothing heavy to read: the cost model, the
PyTorch network, every exported artifact and every session are built from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from mnv1deploy import schema
from mnv1deploy.errors import MnvError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_OTHER_SPELLINGS = {
    "plane": "airplane",
    "aeroplane": "airplane",
    "car": "automobile",
    "auto": "automobile",
    "boat": "ship",
    "lorry": "truck",
}
"""Of CIFAR-10's classes, as tutorials write them."""


def cifar10_order(classes: tuple[str, ...]) -> tuple[int, ...] | None:
    """CIFAR-10's index of each of these classes, whatever their order or spelling; None if they are others."""
    known = [_OTHER_SPELLINGS.get(name.strip().lower(), name.strip().lower()) for name in classes]
    if sorted(known) != sorted(CIFAR10_CLASSES):
        return None
    return tuple(CIFAR10_CLASSES.index(name) for name in known)


VERSION = 4
"""Of the JSON that a spec is written as, the newest that is read.

Version 1 (mnv1deploy 0.1) had a width multiplier and 3 colours; both it and version 2 had no temperature, which is 1.
Version 4 says how JPEGs are decoded; a spec by which they are decoded whole is written in version 3, which cannot say
otherwise.
"""

VERSION_OF_WHOLE = 3

SCALED_SIDES = 4
"""How many times the network's height and width a JPEG has at least that is decoded at a part of its size."""

Kind = Literal["conv", "depthwise", "pointwise", "pool", "linear"]
Activation = Literal["relu", "relu6", "none"]
PaddingRule = Literal["symmetric", "same"]
Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Jpeg = Literal["whole", "scaled"]

Padding = tuple[int, int, int, int]
"""Zeros around an input: top, left, bottom, right."""


@dataclass(frozen=True)
class Normalization:
    """What happens to a raw pixel before the first convolution: ``(pixel - mean) / std``, per colour.

    Mean and std are in pixel units (0..255), one per colour: three for RGB, one for grey. The default, 128 and 64,
    makes a raw uint8 pixel exactly the int8 network's input: scale 1/64, zero point 128.
    """

    mean: tuple[float, ...] = (128.0, 128.0, 128.0)
    std: tuple[float, ...] = (64.0, 64.0, 64.0)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(getattr(self, name))
            if len(values) not in (1, 3) or not all(math.isfinite(v) for v in values):
                raise MnvError(
                    f"A normalisation's {name} is three finite numbers, one per RGB channel, or one for grey; "
                    f"not {values}."
                )
            object.__setattr__(self, name, tuple(float(v) for v in values))
        if len(self.mean) != len(self.std):
            raise MnvError("A normalisation has as many means as stds.")
        if min(self.std) <= 0:
            raise MnvError(f"A normalisation's std must be positive, not {self.std}.")

    @classmethod
    def from_unit(cls, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
        """The normalisation whose mean and std were written for pixels scaled to 0..1, as most tutorials do."""
        return cls(tuple(255 * value for value in mean), tuple(255 * value for value in std))

    @classmethod
    def default(cls, colours: int) -> Normalization:
        """``(pixel - 128) / 64`` for so many colours."""
        return cls((128.0,) * colours, (64.0,) * colours)

    @property
    def quantization(self) -> tuple[float, int]:
        """(scale, zero point) under which raw uint8 pixels are the quantised input of the stem.

        What this does not say of the normalisation is folded into the stem; see
        :func:`mnv1deploy.quantization.fold_normalization`.
        """
        mean, std = (math.fsum(values) / len(values) for values in (self.mean, self.std))
        return 1 / std, min(max(round(mean), 0), 255)

    @property
    def is_grid(self) -> bool:
        """Whether :attr:`quantization` says all of it."""
        return set(self.mean) == {float(self.quantization[1])} and len(set(self.std)) == 1


@dataclass(frozen=True)
class Preprocessing:
    """How a picture of any size becomes the network's pixels.

    Attributes:
        resize: the filter, by Pillow's names; all of them antialias when they reduce.
        crop: the side of the centred square that is kept, as a fraction of the picture's shorter side.
        jpeg: "whole", or "scaled": the file of a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, the least at which
            that square has SCALED_SIDES times the network's height and width, by leaving out frequencies; then it is
            resized as any other. That takes less time, and gives other pixels.
    """

    resize: Filter = "bicubic"
    crop: float = 1.0
    jpeg: Jpeg = "whole"

    def __post_init__(self) -> None:
        if self.resize not in get_args(Filter):
            raise MnvError(f"There is no resize filter {self.resize}.", f"There are {', '.join(get_args(Filter))}.")
        if not 0 < self.crop <= 1:
            raise MnvError(f"A crop is a fraction above 0 and at most 1, not {self.crop}.")
        if self.jpeg not in get_args(Jpeg):
            raise MnvError(f"JPEGs are decoded {' or '.join(get_args(Jpeg))}, not {self.jpeg}.")


@dataclass(frozen=True)
class Pixels:
    """What a network looks at: ``size`` x ``size`` pixels of 3 colours (RGB) or 1 (grey), and how they are made."""

    size: int
    colours: int = 3
    preprocessing: Preprocessing = Preprocessing()

    def __post_init__(self) -> None:
        if self.colours not in (1, 3):
            raise MnvError(f"Pictures have 3 colours (RGB) or 1 (grey), not {self.colours}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture: height, width, colours."""
        return self.size, self.size, self.colours

    @property
    def least_side(self) -> float:
        """Pixels of a JPEG's shorter side as it is decoded, where it has as many; infinite to have it whole."""
        rule = self.preprocessing
        return SCALED_SIDES * self.size / rule.crop if rule.jpeg == "scaled" else math.inf


@dataclass(frozen=True)
class Block:
    """One row of the network's table: output channels and stride."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Layer:
    """One layer with weights, or the pooling, with everything known that a format needs.

    Attributes:
        name: as in the PyTorch network and in the artifacts.
        kind: what it computes.
        in_channels, out_channels: in elements.
        in_size, out_size: height and width in pixels.
        kernel, stride: height and width.
        padding: zeros around the input. A bottom or right row of them may be left unread by the last stride.
        groups: of the convolution: ``in_channels`` of a depthwise one, 1 elsewhere.
        activation: what follows it.
        bias: whether it has a bias beside its batch normalisation.
        batch_norm: whether a batch normalisation follows it, before the activation.
    """

    name: str
    kind: Kind
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    kernel: int
    stride: int
    padding: Padding
    groups: int
    activation: Activation
    bias: bool
    batch_norm: bool

    @property
    def is_convolution(self) -> bool:
        """Whether it is one of the convolutions, all of which have an activation."""
        return self.kind in ("conv", "depthwise", "pointwise")

    @property
    def pads_evenly(self) -> bool:
        """Whether there is as much padding on every side, so that one number says it."""
        return len(set(self.padding)) == 1


def same_padding(size: int, kernel: int, stride: int) -> Padding:
    """TensorFlow's padding ``SAME`` of a square input: as little as ``ceil(size / stride)`` outputs need.

    Where that is odd there is more below and to the right (https://www.tensorflow.org/api_docs/python/tf/nn).
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    return before, before, after, after


@dataclass(frozen=True)
class ModelSpec:
    """A MobileNetV1 (arXiv 1704.04861): stem convolution, depthwise-separable blocks, average pooling, classifier.

    Attributes:
        name: a short name, used for file names.
        classes: the class names, in the order of the logits.
        input_size: height and width of the input in pixels, 8 or more. A layer's output has ``ceil(size / stride)``.
        stem: the 3x3 convolution on the pixels.
        blocks: the depthwise-separable blocks, in order, with exact channels; see :meth:`scaled` for multipliers.
        colours: 3 for RGB, 1 for grey.
        activation: "relu" or "relu6", after every convolution.
        padding: "symmetric", a pixel on every side of a 3x3 convolution as in PyTorch, or "same", TensorFlow's: for
            stride 2 on an even size one pixel below and to the right only.
        stem_bias: whether the stem has a bias beside its batch normalisation.
        normalization: what happens to the pixels first.
        preprocessing: how a picture becomes pixels.
        temperature: that logits are divided by before the softmax makes probabilities of them, above 0; see
            :mod:`mnv1deploy.confidence`. It is in no artifact's arithmetic: logits are the network's own.

    Raises:
        MnvError: for a spec that is no network (from the constructor, :meth:`from_json` and :meth:`from_dict`).
    """

    name: str
    classes: tuple[str, ...]
    input_size: int
    stem: Block
    blocks: tuple[Block, ...]
    colours: int = 3
    activation: Activation = "relu"
    padding: PaddingRule = "symmetric"
    stem_bias: bool = False
    normalization: Normalization = Normalization()
    preprocessing: Preprocessing = Preprocessing()
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.classes or not all(isinstance(c, str) and c for c in self.classes):
            raise MnvError("A network needs at least one class, and every class a name.")
        if len(set(self.classes)) != len(self.classes):
            raise MnvError("Two classes have the same name.")
        if not self.name or set(self.name) & set("/\\") or not self.name.isprintable():
            raise MnvError(f"A network's name becomes that of files, which {self.name!r} cannot be.")
        for block in (self.stem, *self.blocks):
            if block.channels < 1 or block.stride not in (1, 2):
                raise MnvError(f"A layer has at least one channel and stride 1 or 2, not {block}.")
        if self.input_size < 8:
            raise MnvError(f"The input size must be 8 pixels or more, not {self.input_size}.")
        if self.activation not in ("relu", "relu6"):
            raise MnvError(f"The activation is relu or relu6, not {self.activation}.")
        if self.padding not in get_args(PaddingRule):
            raise MnvError(f"The padding is symmetric or same, not {self.padding}.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise MnvError(f"A temperature is above 0, not {self.temperature}.")
        if len(self.normalization.mean) != self.pixels.colours:
            raise MnvError(
                f"A network of {self.colours} colours needs as many means and stds, not {len(self.normalization.mean)}."
            )

    @property
    def pixels(self) -> Pixels:
        """What pictures have to become."""
        return Pixels(self.input_size, self.colours, self.preprocessing)

    def layers(self) -> Iterator[Layer]:
        """Every layer from the pixels to the logits, named as in the PyTorch network and in the artifacts."""
        stem = self._convolution("stem", "conv", self.colours, self.input_size, self.stem)
        yield stem
        channels, size = stem.out_channels, stem.out_size
        for number, block in enumerate(self.blocks, 1):
            depthwise = self._convolution(
                f"block{number}.depthwise", "depthwise", channels, size, Block(channels, block.stride)
            )
            yield depthwise
            size = depthwise.out_size
            yield self._convolution(f"block{number}.pointwise", "pointwise", channels, size, Block(block.channels, 1))
            channels = block.channels
        yield Layer("pool", "pool", channels, channels, size, 1, size, size, (0, 0, 0, 0), 1, "none", False, False)
        count = len(self.classes)
        yield Layer("classifier", "linear", channels, count, 1, 1, 1, 1, (0, 0, 0, 0), 1, "none", True, False)

    def _convolution(self, name: str, kind: Kind, in_channels: int, size: int, block: Block) -> Layer:
        kernel = 1 if kind == "pointwise" else 3
        out_size = -(-size // block.stride)
        around = kernel // 2
        padding: Padding = (around, around, around, around)
        if self.padding == "same":
            padding = same_padding(size, kernel, block.stride)
        return Layer(
            name,
            kind,
            in_channels,
            block.channels,
            size,
            out_size,
            kernel,
            block.stride,
            padding,
            groups=in_channels if kind == "depthwise" else 1,
            activation=self.activation,
            bias=self.stem_bias and kind == "conv",
            batch_norm=True,
        )

    def scaled(self, width: float) -> ModelSpec:
        """The same network at a width multiplier: ``max(8, round(channels * width))`` channels per layer."""
        if not (math.isfinite(width) and 0 < width <= 16):
            raise MnvError(f"The width multiplier must be above 0 and at most 16, not {width}.")

        def scale(block: Block) -> Block:
            return Block(max(8, round(block.channels * width)), block.stride)

        return self.replace(stem=scale(self.stem), blocks=tuple(map(scale, self.blocks)))

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed, checked like any other."""
        return replace(self, **changes)

    def with_jpeg(self, jpeg: Jpeg | None) -> ModelSpec:
        """The same network, JPEGs being decoded so; None changes nothing."""
        return self.replace(preprocessing=replace(self.preprocessing, jpeg=jpeg)) if jpeg else self

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the version of its form."""
        data = asdict(self)
        if self.preprocessing.jpeg != "whole":
            return {"version": VERSION, **data}
        del data["preprocessing"]["jpeg"]
        return {"version": VERSION_OF_WHOLE, **data}

    def to_json(self) -> str:
        """One line of JSON, the same for the same spec."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The spec that :meth:`to_dict` took apart, in this version's form or an older one's."""
        try:
            fields = dict(data)
            version = fields.pop("version", 1)
            if type(version) is not int or not 1 <= version <= VERSION:
                raise MnvError(
                    f"This spec is of version {version}; this mnv1deploy knows versions 1 to {VERSION}.",
                    "Update mnv1deploy.",
                )
            width = schema.build(float, fields.pop("width"), "width") if version == 1 else None
            spec = cls(**schema.members(cls, fields))
            return spec if width is None else spec.scaled(width)
        except (ValueError, TypeError, KeyError) as error:
            raise MnvError(f"This is not the spec of a network: {error}.") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """The spec that :meth:`to_json` wrote."""
        try:
            data = schema.loads(text)
        except ValueError as error:
            raise MnvError(f"This is not the spec of a network: {error}.") from error
        if not isinstance(data, dict):
            raise MnvError("This is not the spec of a network: it is no JSON object.")
        return cls.from_dict(data)


def _blocks(*rows: tuple[int, int]) -> tuple[Block, ...]:
    return tuple(Block(channels, stride) for channels, stride in rows)


CIFAR = ModelSpec(
    name="mobilenetv1_cifar10",
    classes=CIFAR10_CLASSES,
    input_size=32,
    stem=Block(32, 1),
    stem_bias=True,
    blocks=_blocks((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
)
"""The default: 280,650 trainable parameters, 7,872,512 multiply-adds."""

PAPER = ModelSpec(
    name="mobilenetv1_imagenet",
    classes=tuple(str(i) for i in range(1000)),
    input_size=224,
    stem=Block(32, 2),
    blocks=_blocks((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)),
    normalization=Normalization.from_unit((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
"""The network of table 1 of arXiv 1704.04861: 569 million multiply-adds, 4.2 million parameters."""

PRESETS = {"cifar": CIFAR, "paper": PAPER}


def preset(name: str) -> ModelSpec:
    """The network of a name in PRESETS. Raises MnvError for another name."""
    if name not in PRESETS:
        raise MnvError(f"There is no preset {name}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]
