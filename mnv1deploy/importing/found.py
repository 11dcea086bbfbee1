"""What a reader finds in a file: convolutions in order and a classifier, as arrays in PyTorch's layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.errors import MnvError
from mnv1deploy.spec import Normalization, Padding

Array = NDArray[Any]
Floats = NDArray[np.floating[Any]]
Layout = Literal["torch", "keras"]
"""Where a weight's output channels are: first, or last."""


@dataclass(frozen=True)
class Norm:
    """A batch normalisation, float32 ``[channels]`` each; ``gamma`` and ``beta`` None where the file has none.

    ``epsilon`` is None where the file does not say it.
    """

    mean: Floats
    variance: Floats
    gamma: Floats | None = None
    beta: Floats | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class Convolution:
    """A convolution and what follows it.

    Attributes:
        name: in the file.
        weight: float32 ``[out, in / groups, height, width]``.
        depthwise: whether every input channel has filters of its own.
        bias: float32 ``[out]``.
        norm: the batch normalisation that follows; None where it was folded away.
        stride: None where the file does not say it, as with the next two.
        padding: zeros around the input, or "same" for TensorFlow's rule.
        activation: that follows; "none" for none, and any other function by its name.
    """

    name: str
    weight: Floats
    depthwise: bool
    bias: Floats | None = None
    norm: Norm | None = None
    stride: int | None = None
    padding: Padding | Literal["same"] | None = None
    activation: str | None = None

    @property
    def in_channels(self) -> int:
        """Of its input."""
        return int(self.weight.shape[0] if self.depthwise else self.weight.shape[1])

    @property
    def out_channels(self) -> int:
        """Of its output."""
        return int(self.weight.shape[0])

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width."""
        return self.weight.shape[2], self.weight.shape[3]


@dataclass(frozen=True)
class Found:
    """A MobileNetV1 as it stands in a file.

    Attributes:
        source: what the file is: "PyTorch state dict", "LiteRT graph", ...
        convolutions: the stem, then depthwise and pointwise ones in turn.
        classifier_weight, classifier_bias: float32 ``[classes, channels]`` and ``[classes]``.
        input_size: height and width of the pictures, where the file says it.
        normalization: of the pixels, where the file says it.
        classes: their names, where the file has them.
        names: of the tensors or layers, by which families of files know each other.
        notes: what was absorbed, left out or assumed, one sentence each.
        quantized: whether the file's own arithmetic is integers, of which the floats here are the meaning.
        half: whether a graph computes in float16.
        takes: what a graph's input is of raw pixels, where the graph normalises them; None for normalised ones.
        pool: height and width of what a graph averages over; None for all that there is.
    """

    source: str
    convolutions: tuple[Convolution, ...]
    classifier_weight: Floats
    classifier_bias: Floats
    input_size: int | None = None
    normalization: Normalization | None = None
    classes: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    quantized: bool = False
    half: bool = False
    takes: Normalization | None = None
    pool: int | None = None

    @property
    def colours(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.convolutions[0].weight.shape[1])

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the stem and every block."""
        return tuple(c.out_channels for c in self.convolutions[0::2])

    @property
    def is_graph(self) -> bool:
        """Whether the file says how the layers are connected, and not their weights alone."""
        return self.convolutions[0].stride is not None

    @property
    def has_statistics(self) -> bool:
        """Whether its batch normalisations are there, with the statistics of what it was trained on."""
        return all(c.norm is not None for c in self.convolutions)

    def noted(self, *sentences: str) -> Found:
        """The same with more notes."""
        return replace(self, notes=(*self.notes, *sentences))


@dataclass(frozen=True)
class Tensors:
    """Named arrays in the order of the file, for :mod:`mnv1deploy.importing.matching`.

    Attributes:
        source: what the file is.
        arrays: by name.
        layout: None where only the shapes can tell.
        notes: see Found.
    """

    source: str
    arrays: dict[str, Array]
    layout: Layout | None
    notes: tuple[str, ...] = ()


def no_mobilenetv1(path: object, reason: str, hint: str = "") -> MnvError:
    """The error for a file that can be read and holds another network."""
    return MnvError(f"{path} is not a MobileNetV1: {reason}.", hint)


def check_order(path: object, convolutions: list[Convolution]) -> None:
    """Raises MnvError unless these are a stem and then depthwise and pointwise convolutions that fit each other."""
    if not convolutions:
        raise no_mobilenetv1(path, "it has no convolution")
    stem = convolutions[0]
    if stem.kernel != (3, 3) or stem.weight.shape[1] not in (1, 3):
        raise no_mobilenetv1(
            path,
            f"its first convolution, {stem.name}, has the shape {_shape(stem)}, where a MobileNetV1 has 3x3 kernels on "
            "pictures of 3 colours or 1",
        )
    if not any(c.depthwise for c in convolutions[1:]):
        raise no_mobilenetv1(path, "it has no depthwise convolution")
    for before, now, following in zip(convolutions, convolutions[1:], [*convolutions[2:], None], strict=False):
        if (
            not now.depthwise
            and now.kernel == (1, 1)
            and following is not None
            and following.depthwise
            and not before.depthwise
            and now.out_channels > now.in_channels
        ):
            raise no_mobilenetv1(
                path,
                f"{now.name} widens {now.in_channels} channels to {now.out_channels} before a depthwise convolution, "
                "as the inverted residuals of MobileNetV2 and its successors do",
            )
    for number, (before, now) in enumerate(pairwise(convolutions), 1):
        depthwise = number % 2 == 1
        kernel = (3, 3) if depthwise else (1, 1)
        if now.depthwise != depthwise or now.kernel != kernel:
            kind = "depthwise 3x3" if depthwise else "pointwise 1x1"
            raise no_mobilenetv1(
                path, f"after {before.name} there should be a {kind} convolution, and {now.name} has {_shape(now)}"
            )
        if depthwise and now.out_channels > before.out_channels and now.out_channels % before.out_channels == 0:
            multiplier = now.out_channels // before.out_channels
            raise no_mobilenetv1(
                path, f"{now.name} has {multiplier} filters for every channel (a depth multiplier), not one"
            )
        if now.in_channels != before.out_channels or (depthwise and now.out_channels != now.in_channels):
            raise no_mobilenetv1(
                path,
                f"{now.name} takes {now.in_channels} channels and gives {now.out_channels}, after {before.name} which "
                f"gives {before.out_channels}",
            )
    if len(convolutions) % 2 == 0:
        raise no_mobilenetv1(path, f"no pointwise convolution follows {convolutions[-1].name}")


def _shape(convolution: Convolution) -> str:
    return "x".join(map(str, convolution.weight.shape))
