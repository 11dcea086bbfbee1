"""Multiply-adds, parameters and activation memory, per layer and in total, from a spec alone.

A multiply-add is one multiplication and one addition; convolutions and the classifier are counted, biases,
normalisation, ReLU and pooling are not. That is how arXiv 1704.04861 counts, section 3.1 and its tables 4 to 7.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mnv1deploy.artifact import Precision
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import Layer, ModelSpec

BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
"""Of one activation."""

BYTES_AT_ONCE = 2**24
"""What one layer's output may take, of all pictures that run together."""


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs for one picture.

    Attributes:
        name, kind: as in ModelSpec.layers().
        output: channels, height, width.
        multiply_adds, parameters: of this layer; its batch normalisation's two parameters per channel included.
        activation_bytes: of its output.
        live_bytes: of its input and output together, which is what must be in memory while it runs.
        standard_multiply_adds: on a pointwise layer, those of the standard 3x3 convolution that this layer and the
            depthwise one before it stand for; None elsewhere.
        ratio: those of the two over the standard convolution's, ``1 / C_out + 1 / K^2`` (section 3.1).
    """

    name: str
    kind: str
    output: tuple[int, int, int]
    multiply_adds: int
    parameters: int
    activation_bytes: int
    live_bytes: int
    standard_multiply_adds: int | None
    ratio: float | None


@dataclass(frozen=True)
class Cost:
    """What a network costs for one picture.

    Attributes:
        layers: in order.
        precision: of the activations.
        multiply_adds, parameters: in total.
        standard_multiply_adds: in total, had every depthwise layer and its pointwise one been a standard convolution.
        peak_bytes, peak_layer: the largest ``live_bytes``, layers running one after the other, and whose it is.
    """

    layers: tuple[LayerCost, ...]
    precision: Precision
    multiply_adds: int
    parameters: int
    standard_multiply_adds: int
    peak_bytes: int
    peak_layer: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def separable_cost(size: int, kernel: int, in_channels: int, out_channels: int) -> tuple[int, int, int]:
    """Multiply-adds of (standard, depthwise, pointwise) convolutions with ``size`` x ``size`` outputs.

    ``K^2 M N D^2`` against ``K^2 M D^2 + M N D^2`` (arXiv 1704.04861, equations 2 and 5).
    """
    pixels = size * size
    depthwise = kernel * kernel * in_channels * pixels
    return depthwise * out_channels, depthwise, in_channels * out_channels * pixels


def cost(spec: ModelSpec, precision: str = "fp32") -> Cost:
    """The cost of a spec's network, with activations in fp32, fp16 or int8; the picture itself is uint8.

    Raises:
        MnvError: for another precision.
    """
    if precision not in BYTES:
        raise MnvError(f"There is no precision {precision}.", f"There are {', '.join(BYTES)}.")
    chosen: Precision = precision
    rows: list[LayerCost] = []
    held = spec.input_size**2 * spec.colours
    for layer in spec.layers():
        produced = layer.out_channels * layer.out_size**2
        # logits are float32 in every precision
        size = produced * (4 if layer.kind == "linear" else BYTES[chosen])
        standard = ratio = None
        own = _multiply_adds(layer)
        if layer.kind == "pointwise":
            depthwise = rows[-1].multiply_adds
            standard = separable_cost(layer.out_size, 3, layer.in_channels, layer.out_channels)[0]
            ratio = (depthwise + own) / standard
        shape = (layer.out_channels, layer.out_size, layer.out_size)
        rows.append(
            LayerCost(layer.name, layer.kind, shape, own, _parameters(layer), size, held + size, standard, ratio)
        )
        held = size
    peak = max(rows, key=lambda row: row.live_bytes)
    standard_total = sum(
        row.standard_multiply_adds or (0 if row.kind == "depthwise" else row.multiply_adds) for row in rows
    )
    return Cost(
        tuple(rows),
        chosen,
        sum(row.multiply_adds for row in rows),
        sum(row.parameters for row in rows),
        standard_total,
        peak.live_bytes,
        peak.name,
    )


def pictures_at_once(spec: ModelSpec, most: int, value_bytes: int = 4) -> int:
    """How many pictures, up to ``most``, to run together so that no layer's output takes more than BYTES_AT_ONCE.

    Args:
        spec: of the network.
        most: if they are small.
        value_bytes: of one value of an activation.
    """
    largest = max(layer.out_channels * layer.out_size**2 for layer in spec.layers())
    return max(1, min(most, BYTES_AT_ONCE // (value_bytes * largest)))


def _weights(layer: Layer) -> int:
    """Elements of the layer's weight."""
    if layer.kind == "pool":
        return 0
    return layer.kernel**2 * layer.in_channels // layer.groups * layer.out_channels


def _multiply_adds(layer: Layer) -> int:
    return _weights(layer) * layer.out_size**2


def _parameters(layer: Layer) -> int:
    return _weights(layer) + layer.out_channels * (layer.bias + 2 * layer.batch_norm)
