"""Post-training int8: ranges, integer grids and rounded weights, decided once and handed to every format.

Activations are uint8 with one scale and zero point per tensor, weights int8 with one scale per output channel and
zero point 0, biases int32 at scale ``input scale * weight scale`` (arXiv 1712.05877, section 2; arXiv 1806.08342).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mnv1deploy import calibration
from mnv1deploy.calibration import METHODS, Method
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import Layer, Normalization

PAIR = 128
"""What two neighbouring weights of a channel may add up to.

x86 CPUs without VNNI add two products of a uint8 and an int8 in 16 bits that saturate: 255 * (64 + 64) just fits.
Neighbours are columns 2i and 2i + 1 of the weights as a matrix; for a full convolution, whose columns engines order
in two ways, any two.
"""

INPUT = "normalized"
"""The name of the first convolution's input among the activations; the others are named after their layers."""


@dataclass(frozen=True)
class Scheme:
    """How the integers are found. The defaults are what was measured best (docs/quantization.md).

    Attributes:
        ranges: how activations are clipped, one of METHODS; see calibration.upper_bound.
        equalization: how far the channels of a tensor are brought to one range before a full or pointwise
            convolution: scaled by (tensor's maximum / channel's maximum) ** equalization and the weights that read
            them by the inverse (cross-layer equalization, arXiv 1906.04721). Before a depthwise convolution, whose
            weights have a scale per channel anyway, they are brought there wholly, unless this is 0.
        compensation: round weights one by one, each time moving the ones still to come to make up for the error on
            the calibration images (GPTQ, arXiv 2210.17323), instead of all to the nearest.
        bias_correction: add to every bias what quantization takes from its channel's mean (arXiv 1906.04721).
    """

    ranges: Method = "percentile"
    equalization: float = 0.5
    compensation: bool = True
    bias_correction: bool = True

    def __post_init__(self) -> None:
        if self.ranges not in METHODS:
            raise MnvError(f"There is no calibration method {self.ranges}.", f"There are {', '.join(METHODS)}.")

    @classmethod
    def named(cls, ranges: str | None) -> Scheme:
        """The default with these ranges, if any are named. Raises MnvError for an unknown name."""
        return cls(ranges=cast(Method, ranges)) if ranges else cls()


DEFAULT = Scheme()


@dataclass(frozen=True)
class Grid:
    """An activation's quantisation: ``real = scale * (integer - zero_point)``, integer in 0..255."""

    scale: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> Grid:
        """The grid over ``low..high`` widened to hold zero, which it represents exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / 255)) or 1.0
        return cls(scale, round(-low / scale))

    @property
    def bound(self) -> float:
        """The largest value it holds."""
        return self.scale * (255 - self.zero_point)

    def integers(self, values: Tensor) -> Tensor:
        """The nearest integers of the grid, uint8."""
        return (values / self.scale + self.zero_point).round().clamp(0, 255).byte()

    def reals(self, integers: Tensor) -> Tensor:
        """What integers of the grid stand for, float32."""
        return (integers.float() - self.zero_point) * self.scale


@dataclass(frozen=True)
class Weights:
    """A layer's integers.

    Attributes:
        values: int8, the shape of the layer's weight.
        scales: float32 ``[out_channels]``.
        bias: int32 ``[out_channels]``, at scale ``input scale * scales``.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.int32]


@dataclass(frozen=True)
class Quantization:
    """Every integer grid of a network.

    Attributes:
        activations: grid by layer name; INPUT for the network's input. The logits stay float32.
        weights: by layer name.
        network: float32, its weights and biases exactly those integers times their scales: what formats write. Its
            normalisation is one that INPUT's grid holds, the rest of the checkpoint's being in the stem, and its
            activations are ReLUs, since a grid that ends at 6 or below clips like a ReLU6.
        equalized: float32, the network whose weights were rounded; its logits are those of the checkpoint, but for what
            the folded normalisation changes at the border; see :func:`fold_normalization`.
        facts: how it was made, for the manifest.
    """

    activations: dict[str, Grid]
    weights: dict[str, Weights]
    network: MobileNetV1
    equalized: MobileNetV1
    facts: dict[str, Any]

    def simulated(self, layers: Collection[str] | None = None) -> MobileNetV1:
        """The network in float32 with the weights and outputs of ``layers`` (default: all) on their integer grids."""
        network = copy.deepcopy(self.equalized)
        for layer in network.spec.layers():
            if layers is not None and layer.name not in layers:
                continue
            if layer.kind != "pool":
                for mine, rounded in zip(
                    parameters_of(network, layer), parameters_of(self.network, layer), strict=True
                ):
                    mine.copy_(rounded)
            if grid := self.activations.get(layer.name):
                network.get_submodule(layer.name).register_forward_hook(_on_grid(grid))
        if layers is None:
            grid = self.activations[INPUT]
            stem = network.get_submodule(network.feature_layers[0])
            stem.register_forward_pre_hook(lambda module, inputs: grid.reals(grid.integers(inputs[0])))
        return network


def quantize(network: MobileNetV1, images: NDArray[np.uint8], source: str, scheme: Scheme = Scheme()) -> Quantization:
    """Calibrates a folded network on real images and rounds its weights.

    Raw pixels are the quantised input; see :func:`fold_normalization`.

    Args:
        network: with the batch normalisations folded, float32.
        images: uint8 ``[N, H, W, C]``, pictures like those it will see; a few hundred.
        source: what to call them in the manifest.
        scheme: how.
    """
    network = copy.deepcopy(network).double()  # whose rounding no processor's order of additions changes
    maxima = calibration.channel_maxima(network, images)
    if scheme.equalization:
        maxima = _equalize(network, maxima, scheme.equalization)
    seen = calibration.observe(network, images, maxima)
    fold_normalization(network)
    activations = {INPUT: Grid(*network.spec.normalization.quantization)}
    for name in network.feature_layers:
        activations[name] = Grid.of_range(0.0, calibration.upper_bound(seen[name], scheme.ranges))
    # the mean of integers stays on their grid, which is how every engine pools
    activations["pool"] = activations[network.feature_layers[-1]]
    means = {name: observation.channel_mean for name, observation in seen.items()}
    weights = _round(network, images, activations, means, scheme)
    facts = {"quantizer": "mnv1deploy", **asdict(scheme), "calibration": source, "images": len(images)}
    network = network.float()
    return Quantization(activations, weights, _network_of(network, activations, weights), network, facts)


def parameters_of(network: MobileNetV1, layer: Layer) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias, the network's own tensors."""
    prefix = layer.name if layer.kind == "linear" else f"{layer.name}.conv"
    return network.get_parameter(f"{prefix}.weight").detach(), network.get_parameter(f"{prefix}.bias").detach()


def layer_output(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a layer gives before its ReLU: ``[N, C, H, W]``, of the classifier ``[N, classes, 1]``."""
    if layer.kind == "linear":
        return F.linear(x, weight, bias)[..., None]
    return F.conv2d(_padded(layer, x), weight, bias, layer.stride, 0, 1, layer.groups)


def _padded(layer: Layer, x: Tensor) -> Tensor:
    top, left, bottom, right = layer.padding
    return F.pad(x, (left, right, top, bottom))


@torch.no_grad()
def fold_normalization(network: MobileNetV1) -> None:
    """Moves into the stem what one scale and zero point do not say of the normalisation, in place.

    With mean m and std d per colour, and Normalization.quantization's 1 / s and z: ``(p - m) / d`` is
    ``s / d * (p - z) / s + (z - m) / d``. The factor goes into the weights, the rest into the biases. Padding, zero
    before, is pixel z now where it was m: where those differ, outputs at the border do, too.
    """
    spec = network.spec
    scale, zero_point = spec.normalization.quantization
    stem = next(spec.layers())
    weight, bias = parameters_of(network, stem)
    mean, std = network.mean.view(1, -1, 1, 1), network.std.view(1, -1, 1, 1)
    bias.add_((weight * ((zero_point - mean) / std)).sum((1, 2, 3)))
    weight.mul_(1 / (scale * std))
    folded = Normalization((float(zero_point),) * spec.colours, (1 / scale,) * spec.colours)
    network.spec = spec.replace(normalization=folded)
    network.mean.fill_(zero_point)
    network.std.fill_(1 / scale)


class _Clip(nn.Module):
    """A ReLU6 whose channels were scaled: from zero to six times each one's gain."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.bound = nn.Buffer(6 * gain.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(x.relu(), self.bound)


def _on_grid(grid: Grid) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda module, inputs, output: grid.reals(grid.integers(output))


def _equalize(
    network: MobileNetV1, maxima: dict[str, NDArray[np.float64]], strength: float
) -> dict[str, NDArray[np.float64]]:
    """Scales channels in place; ReLU lets a positive factor through, so the logits stay what they are.

    ReLU6 does not: its bound is scaled along. A channel that reaches it has the tensor's maximum and so keeps its
    scale, and the others are brought no further than to 6, where the grid ends.

    Returns the maxima that this leaves.
    """
    found = dict(maxima)
    layers = [layer for layer in network.spec.layers() if layer.kind != "pool"]
    for layer, reader in pairwise(layers):
        channel_max = torch.from_numpy(maxima[layer.name])
        # a channel that is never positive has no range to bring anywhere
        gain = torch.where(channel_max > 0, channel_max.max() / channel_max, 1).clamp(max=2**10)
        gain = gain if reader.kind == "depthwise" else gain**strength
        found[layer.name] = (channel_max * gain).numpy()
        weight, bias = parameters_of(network, layer)
        weight.mul_(gain.view(-1, 1, 1, 1))
        bias.mul_(gain)
        if layer.activation == "relu6":
            network.get_submodule(layer.name).add_module("act", _Clip(gain))
        weight, _ = parameters_of(network, reader)
        shape = (-1, 1, 1, 1) if reader.kind == "depthwise" else (1, -1, *[1] * (weight.ndim - 2))
        weight.div_(gain.view(shape))
    return found


@torch.inference_mode()
def _round(
    network: MobileNetV1,
    images: NDArray[np.uint8],
    activations: dict[str, Grid],
    means: dict[str, NDArray[np.float64]],
    scheme: Scheme,
) -> dict[str, Weights]:
    """Integers for every layer in turn, given what the layers before it give once they are quantised."""
    found = {}
    grid = activations[INPUT]
    inputs = [grid.integers(network.normalize(pixels)) for pixels in calibration.batches(images)]
    for layer in network.spec.layers():
        output_grid = activations.get(layer.name)
        if layer.kind == "pool":
            assert output_grid
            inputs = [output_grid.integers(network.pool(grid.reals(x).double())).flatten(1) for x in inputs]
        else:
            original, original_bias = parameters_of(network, layer)
            weight, bias = original.flatten(1).numpy(), original_bias.numpy()
            scales = _weight_scales(layer, weight, bias, grid.scale)
            moments = _second_moments(layer, inputs, grid) if scheme.compensation else None
            values = _rounded(layer, weight, scales, moments)
            step = grid.scale * scales.astype(np.float64)
            integers = torch.from_numpy(values).view_as(original)
            if scheme.bias_correction and layer.name in means:
                sums = (_sums(layer, x, integers, grid) for x in inputs)
                total = torch.stack([x.mean((2, 3)).sum(0) for x in sums]).sum(0)
                bias = means[layer.name] - total.numpy() * step / len(images)
            bias = np.rint(bias / step)
            found[layer.name] = Weights(values.astype(np.int8).reshape(original.shape), scales, bias.astype(np.int32))
            if output_grid:
                factor, offset = (torch.from_numpy(x).view(-1, 1, 1) for x in (step, bias * step))
                sums = (_sums(layer, x, integers, grid) for x in inputs)  # again: for all images they are large
                inputs = [output_grid.integers((x * factor + offset).relu()) for x in sums]
        grid = output_grid or grid
    return found


def _sums(layer: Layer, inputs: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """What a layer adds up, in integers, float64 ``[N, C, H, W]``; float32 holds them exactly while they are small."""
    small = weight.flatten(1).abs().sum(1).max() * 255 < 2**24
    dtype = torch.float32 if small else torch.float64
    return layer_output(layer, inputs.to(dtype) - grid.zero_point, weight.to(dtype), None).double()


def _weight_scales(
    layer: Layer, weight: NDArray[np.float64], bias: NDArray[np.float64], input_scale: float
) -> NDArray[np.float32]:
    size = np.abs(weight)
    largest = size.max(1)
    neighbours = np.add.reduceat(size, np.arange(0, size.shape[1], 2), 1).max(1)
    paired = 2 * largest if layer.kind == "conv" else neighbours
    # a channel whose weights are all but zero needs a scale coarse enough for its bias to be exact in float32 too
    scales = np.max([largest / 127, paired / PAIR, np.abs(bias) / (input_scale * 2**22)], 0)
    scales[scales == 0] = 1
    result: NDArray[np.float32] = scales.astype(np.float32)
    return result


def _limit(layer: Layer, values: NDArray[np.float64], column: int) -> NDArray[np.float64] | int:
    """How large the integers of a column of ``values`` may be, given those of the columns before it."""
    if layer.kind == "conv":
        return PAIR // 2
    return np.minimum(127, PAIR - np.abs(values[:, column - 1])) if column % 2 else 127


def _second_moments(layer: Layer, inputs: list[Tensor], grid: Grid) -> NDArray[np.float64]:
    """Mean of x x^T over all places, x being what one output value reads: ``[1 or channels, K, K]``."""
    total: Any = 0
    count = 0
    for integers in inputs:
        x = integers.float() - grid.zero_point
        if layer.kind == "linear":
            read = x[None]
        else:
            read = F.unfold(_padded(layer, x), layer.kernel, stride=layer.stride)
            read = read.view(len(x), layer.groups, -1, read.shape[-1]).permute(1, 0, 3, 2).flatten(1, 2)
        read = read.double()
        total = total + read.transpose(1, 2) @ read
        count += read.shape[1]
    moments: NDArray[np.float64] = (total * grid.scale**2 / count).numpy()
    return moments


def _rounded(
    layer: Layer, weight: NDArray[np.float64], scales: NDArray[np.float32], moments: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Integers column by column, within what PAIR allows.

    Args:
        layer: of the weights.
        weight: ``[out_channels, K]``.
        scales: ``[out_channels]``.
        moments: ``[1 or out_channels, K, K]``, see _second_moments; with them by arXiv 2210.17323, algorithm 1, with
            its damping of 1 %.
    """
    size = weight.shape[1]
    rest = weight / scales[:, None].astype(np.float64)
    values = np.empty_like(rest)
    if moments is not None:
        damping = 0.01 * np.trace(moments, axis1=1, axis2=2) / size + 1e-12
        inverse = np.linalg.inv(moments + damping[:, None, None] * np.eye(size))
        factor = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    for column in range(size):
        limit = _limit(layer, values, column)
        values[:, column] = np.rint(rest[:, column]).clip(-limit, limit)
        if moments is not None:
            error = (rest[:, column] - values[:, column]) / factor[:, column, column]
            rest[:, column + 1 :] -= error[:, None] * factor[:, column, column + 1 :]
    return values


def _network_of(network: MobileNetV1, activations: dict[str, Grid], weights: dict[str, Weights]) -> MobileNetV1:
    """A copy whose weights and biases are the integers times their scales, with ReLUs, whatever the grids clip."""
    result = copy.deepcopy(network)
    result.spec = network.spec.replace(activation="relu")
    for name in result.feature_layers:
        result.get_submodule(name).add_module("act", nn.ReLU())
    scale = activations[INPUT].scale
    for layer in network.spec.layers():
        if layer.kind != "pool":
            integers = weights[layer.name]
            column = integers.scales.reshape(-1, *[1] * (integers.values.ndim - 1))
            step = scale * integers.scales.astype(np.float64)
            weight, bias = parameters_of(result, layer)
            weight.copy_(torch.from_numpy(integers.values * column))
            bias.copy_(torch.from_numpy(integers.bias * step))
        scale = activations[layer.name].scale if layer.name in activations else scale
    return result
