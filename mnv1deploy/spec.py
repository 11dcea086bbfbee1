"""ModelSpec: everything that defines a network before it has weights.

A spec is plain data (a frozen dataclass, JSON both ways) and needs nothing heavy to read: the cost model, the
PyTorch network, every exported artifact and every session are built from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mnv1deploy.errors import MnvError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Kind = Literal["conv", "depthwise", "pointwise", "pool", "linear"]


@dataclass(frozen=True)
class Normalization:
    """What happens to a raw pixel before the first convolution: ``(pixel - mean) / std``, per RGB channel.

    Mean and std are in pixel units (0..255). The default, 128 and 64 for all channels, makes a raw uint8 pixel
    exactly the int8 network's input: scale 1/64, zero point 128.
    """

    mean: tuple[float, float, float] = (128.0, 128.0, 128.0)
    std: tuple[float, float, float] = (64.0, 64.0, 64.0)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(math.isfinite(v) for v in values):
                raise MnvError(f"A normalisation's {name} is three finite numbers, one per RGB channel, not {values}.")
            object.__setattr__(self, name, tuple(float(v) for v in values))
        if min(self.std) <= 0:
            raise MnvError(f"A normalisation's std must be positive, not {self.std}.")

    @classmethod
    def from_unit(cls, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Normalization:
        """The normalisation whose mean and std were written for pixels scaled to 0..1, as most tutorials do."""
        if len(mean) != 3 or len(std) != 3:
            raise MnvError("A mean and a std are three numbers each, one per RGB channel.")
        return cls((mean[0] * 255, mean[1] * 255, mean[2] * 255), (std[0] * 255, std[1] * 255, std[2] * 255))

    @property
    def quantization(self) -> tuple[float, int] | None:
        """(scale, zero point) under which the raw uint8 pixels already are the quantised input.

        None where there is no such pair: the channels differ, or the mean is not an integer pixel value.
        """
        if len(set(self.mean)) > 1 or len(set(self.std)) > 1:
            return None
        mean = self.mean[0]
        return (1 / self.std[0], int(mean)) if mean.is_integer() and 0 <= mean <= 255 else None


@dataclass(frozen=True)
class Block:
    """One row of the network's table: output channels (at width 1.0) and stride."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Layer:
    """One layer with weights, or the pooling, with every size known. Channels and spatial sizes in elements."""

    name: str
    kind: Kind
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    kernel: int
    stride: int
    bias: bool
    batch_norm: bool


@dataclass(frozen=True)
class ModelSpec:
    """A MobileNetV1 (arXiv 1704.04861): stem convolution, depthwise-separable blocks, average pooling, classifier.

    Attributes:
        name: a short name, used for file names.
        classes: the class names, in the order of the logits.
        input_size: height and width of the input in pixels; a multiple of the total stride, 32 or more.
        width: the paper's width multiplier; a layer has ``max(8, round(channels * width))`` channels.
        stem: the 3x3 convolution on the pixels.
        stem_bias: whether that convolution has a bias beside its batch normalisation.
        blocks: the depthwise-separable blocks, in order.
        normalization: what happens to the pixels first.

    Raises:
        MnvError: for a spec that is no network (from the constructor and from :meth:`from_json`).
    """

    name: str
    classes: tuple[str, ...]
    input_size: int
    stem: Block
    blocks: tuple[Block, ...]
    width: float = 1.0
    stem_bias: bool = False
    normalization: Normalization = Normalization()

    def __post_init__(self) -> None:
        if not self.classes or not all(isinstance(c, str) and c for c in self.classes):
            raise MnvError("A network needs at least one class, and every class a name.")
        if len(set(self.classes)) != len(self.classes):
            raise MnvError("Two classes have the same name.")
        if not (math.isfinite(self.width) and 0 < self.width <= 16):
            raise MnvError(f"The width multiplier must be above 0 and at most 16, not {self.width}.")
        for block in (self.stem, *self.blocks):
            if block.channels < 1 or block.stride not in (1, 2):
                raise MnvError(f"A layer has at least one channel and stride 1 or 2, not {block}.")
        if self.input_size < 32 or self.input_size % self.total_stride:
            nearest = max(32, round(self.input_size / self.total_stride) * self.total_stride)
            raise MnvError(
                f"The input size must be a multiple of {self.total_stride}, from 32 up, not {self.input_size}.",
                f"{nearest} is the nearest.",
            )

    @property
    def total_stride(self) -> int:
        """Input pixels per pixel of the last feature map, in each direction."""
        return math.prod(block.stride for block in (self.stem, *self.blocks))

    def channels(self, block: Block) -> int:
        """Output channels of a block at this spec's width."""
        return max(8, round(block.channels * self.width))

    def layers(self) -> Iterator[Layer]:
        """Every layer from the pixels to the logits, named as in the PyTorch network and in the artifacts."""
        channels, size = self.channels(self.stem), self.input_size // self.stem.stride
        yield Layer(
            "stem", "conv", 3, channels, self.input_size, size, 3, self.stem.stride, self.stem_bias, batch_norm=True
        )
        for number, block in enumerate(self.blocks, 1):
            out, out_size = self.channels(block), size // block.stride
            yield Layer(
                f"block{number}.depthwise",
                "depthwise",
                channels,
                channels,
                size,
                out_size,
                3,
                block.stride,
                False,
                True,
            )
            yield Layer(f"block{number}.pointwise", "pointwise", channels, out, out_size, out_size, 1, 1, False, True)
            channels, size = out, out_size
        yield Layer("pool", "pool", channels, channels, size, 1, size, size, bias=False, batch_norm=False)
        yield Layer("classifier", "linear", channels, len(self.classes), 1, 1, 1, 1, bias=True, batch_norm=False)

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed, checked like any other."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """One line of JSON, the same for the same spec."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """The spec that :meth:`to_json` wrote."""
        try:
            data = json.loads(text)
            data["stem"] = Block(**data["stem"])
            data["blocks"] = tuple(Block(**block) for block in data["blocks"])
            data["classes"] = tuple(data["classes"])
            data["normalization"] = Normalization(**{k: tuple(v) for k, v in data["normalization"].items()})
            return cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MnvError(f"This is not the spec of a network: {error}.") from error


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
