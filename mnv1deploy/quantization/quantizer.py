"""From a folded network and pictures to every integer, and the network that those integers make."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnv1deploy.cost import pictures_at_once
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import ranges
from mnv1deploy.quantization.grids import INPUT, Grid, Weights
from mnv1deploy.quantization.layers import layer_output, parameters_of
from mnv1deploy.quantization.ranges import METHODS, Method
from mnv1deploy.quantization.rescaling import equalize, exponents, fold_normalization
from mnv1deploy.quantization.rounding import moments, rounded, weight_scales
from mnv1deploy.spec import Layer

IN_CACHE = 2**15
"""So many values in float64 stay in a core's own cache, 256 KiB, while one operation after the other is done."""


@dataclass(frozen=True)
class Scheme:
    """How the integers are found. The defaults are what was measured best (docs/quantization.md).

    Attributes:
        ranges: how activations are clipped, one of METHODS; see ranges.upper_bound.
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


@dataclass(frozen=True)
class Calibration:
    """What is the same for all schemes of one equalization.

    Attributes:
        images: uint8 ``[N, H, W, C]``.
        network: float64, equalised, its normalisation folded; not to be changed.
        seen: its outputs on the images, by layer name.
    """

    images: NDArray[np.uint8]
    network: MobileNetV1
    seen: dict[str, ranges.Observation]

    @classmethod
    def of(
        cls, network: MobileNetV1, images: NDArray[np.uint8], equalization: float, methods: Collection[Method]
    ) -> Calibration:
        """Runs a folded network on the images, for schemes with ranges by these methods; see :func:`quantize`."""
        network = copy.deepcopy(network).double()  # whose rounding no processor's order of additions changes
        surveys = ranges.survey(network, images, exponents(network.spec, equalization))
        equalize(network, {name: survey.gain for name, survey in surveys.items()})
        seen = {name: found for name, survey in surveys.items() if (found := survey.scaled())}
        if len(seen) < len(surveys) or not ranges.SURVEYED.issuperset(methods):
            maxima = {name: (survey.channel_max * survey.gain).numpy() for name, survey in surveys.items()}
            seen = ranges.observe(network, images, maxima)
        fold_normalization(network)
        return cls(images, network, seen)

    def quantize(self, source: str, scheme: Scheme) -> Quantization:
        """By a scheme of this equalization; see :func:`quantize`."""
        activations = {INPUT: Grid(*self.network.spec.normalization.quantization)}
        for name in self.network.feature_layers:
            activations[name] = Grid.of_range(0.0, ranges.upper_bound(self.seen[name], scheme.ranges))
        # the mean of integers stays on their grid, which is how every engine pools
        activations["pool"] = activations[self.network.feature_layers[-1]]
        means = {name: observation.channel_mean for name, observation in self.seen.items()}
        weights = _round(self.network, self.images, activations, means, scheme)
        facts = {"quantizer": "mnv1deploy", **asdict(scheme), "calibration": source, "images": len(self.images)}
        network = copy.deepcopy(self.network).float()
        return Quantization(activations, weights, _network_of(network, activations, weights), network, facts)


def quantize(network: MobileNetV1, images: NDArray[np.uint8], source: str, scheme: Scheme = Scheme()) -> Quantization:
    """Calibrates a folded network on real images and rounds its weights.

    Raw pixels are the quantised input; see :func:`fold_normalization`.

    Args:
        network: with the batch normalisations folded, float32.
        images: uint8 ``[N, H, W, C]``, pictures like those it will see; a few hundred.
        source: what to call them in the manifest.
        scheme: how.
    """
    return Calibration.of(network, images, scheme.equalization, [scheme.ranges]).quantize(source, scheme)


def _on_grid(grid: Grid) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda module, inputs, output: grid.reals(grid.integers(output))


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
    pictures = ranges.batches(images, pictures_at_once(network.spec, ranges.BATCH, 8))
    # held one layer at a time, a byte a value
    inputs = [grid.integers(network.normalize(x)).contiguous(memory_format=torch.channels_last) for x in pictures]
    for layer in network.spec.layers():
        output_grid = activations.get(layer.name)
        if layer.kind == "pool":
            assert output_grid
            inputs = [output_grid.integers(network.pool(grid.reals(x).double())).flatten(1) for x in inputs]
            continue
        original, original_bias = parameters_of(network, layer)
        weight, bias = original.flatten(1).numpy(), original_bias.numpy()
        scales = weight_scales(layer, weight, bias, grid.scale)
        corrected = scheme.bias_correction and layer.name in means
        read = moments(layer, inputs, grid) if scheme.compensation or corrected else None
        values = rounded(layer, weight, scales, read.second * grid.scale**2 if read and scheme.compensation else None)
        sum_scale = grid.scale * scales.astype(np.float64)
        if read and corrected:
            bias = means[layer.name] - (values * read.mean).sum(1) * sum_scale
        bias = np.rint(bias / sum_scale)
        found[layer.name] = Weights(values.astype(np.int8).reshape(original.shape), scales, bias.astype(np.int32))
        if output_grid:
            integers = torch.from_numpy(values).view_as(original)
            factor, offset = map(torch.from_numpy, (sum_scale, bias * sum_scale))
            for number, x in enumerate(inputs):
                inputs[number] = _rectified(_sums(layer, x, integers, grid), factor, offset, output_grid)
            grid = output_grid
    return found


def _sums(layer: Layer, inputs: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """What a layer adds up, in integers, ``[N, C, H, W]``: float64, or float32 where it holds them exactly."""
    small = weight.flatten(1).abs().sum(1).max() * 255 < 2**24
    dtype = torch.float32 if small else torch.float64
    return layer_output(layer, inputs.to(dtype).sub_(grid.zero_point), weight.to(dtype), None)


def _rectified(sums: Tensor, factor: Tensor, offset: Tensor, grid: Grid) -> Tensor:
    """A layer's sums ``[N, C, H, W]`` in reals, on the grid of its output, which ends at zero like its ReLU: uint8.

    So many at a time that a cache holds them through all the steps.
    """
    rows = sums.permute(0, 2, 3, 1).flatten(0, 2)
    result = torch.empty(rows.shape, dtype=torch.uint8)
    at_once = max(1, IN_CACHE // rows.shape[1])
    for start in range(0, len(rows), at_once):
        some = slice(start, start + at_once)
        result[some] = grid.integers((rows[some] * factor).add_(offset))
    return result.view(len(sums), *sums.shape[2:], -1).permute(0, 3, 1, 2)


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
            sum_scale = scale * integers.scales.astype(np.float64)
            weight, bias = parameters_of(result, layer)
            weight.copy_(torch.from_numpy(integers.values * column))
            bias.copy_(torch.from_numpy(integers.bias * sum_scale))
        scale = activations[layer.name].scale if layer.name in activations else scale
    return result
