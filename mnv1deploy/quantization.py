"""Post-training int8: calibration, ranges and integer grids, decided once and handed to every format.

Activations are uint8 with one scale and zero point per tensor, weights int8 with one scale per output channel and
zero point 0, biases int32 at scale ``input scale * weight scale`` (arXiv 1712.05877, section 2; arXiv 1806.08342).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnv1deploy.network import MobileNetV1

INPUT = "normalized"
"""The name of the first convolution's input among the activations; the others are named after their layers."""


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
        facts: how it was made, for the manifest.
    """

    activations: dict[str, Grid]
    weights: dict[str, Weights]
    facts: dict[str, Any]


def quantize(network: MobileNetV1, images: NDArray[np.uint8], source: str) -> Quantization:
    """Calibrates a folded network on real images, by minimum and maximum.

    Raw pixels are the quantised input wherever the normalisation allows it; see Normalization.quantization.

    Args:
        network: with the batch normalisations folded, float32.
        images: uint8 ``[N, H, W, 3]``, pictures like those it will see; a few hundred.
        source: what to call them in the manifest.
    """
    ranges = _observe(network, images)
    activations = {name: Grid.of_range(low, high) for name, (low, high) in ranges.items()}
    if pixels := network.spec.normalization.quantization:
        activations[INPUT] = Grid(*pixels)
    # the mean of integers stays on their grid, which is how every engine pools
    activations["pool"] = activations[network.feature_layers[-1]]
    weights = {}
    previous = INPUT
    for layer in network.spec.layers():
        if layer.kind != "pool":
            module = network.classifier if layer.kind == "linear" else network.get_submodule(f"{layer.name}.conv")
            weights[layer.name] = _quantize_weights(module, activations[previous].scale)
        previous = layer.name
    facts = {"method": "minmax", "calibration": source, "images": len(images)}
    return Quantization(activations, weights, facts)


@torch.inference_mode()
def _observe(network: MobileNetV1, images: NDArray[np.uint8]) -> dict[str, tuple[float, float]]:
    """(minimum, maximum) of the input and of every convolution's output after its ReLU."""
    ranges: dict[str, tuple[float, float]] = {}

    def record(name: str, tensor: Tensor) -> None:
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(low, tensor.min().item()), max(high, tensor.max().item()))

    def hook(name: str) -> Any:
        return lambda module, inputs, output: record(name, output)

    handles = [network.get_submodule(name).register_forward_hook(hook(name)) for name in network.feature_layers]
    try:
        for start in range(0, len(images), 128):
            pixels = torch.from_numpy(images[start : start + 128])
            record(INPUT, network.normalize(pixels))
            network(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return ranges


def _quantize_weights(module: nn.Module, input_scale: float) -> Weights:
    assert isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None
    weight = module.weight.detach().double().numpy()
    bias = module.bias.detach().double().numpy()
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    # a channel whose weights are all but zero needs a scale coarse enough for its bias to fit 31 bits
    scales = np.maximum(largest / 127, np.abs(bias) / (input_scale * (2**30))).astype(np.float32)
    scales[scales == 0] = 1
    column = scales.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    values = np.rint(weight / column).clip(-127, 127).astype(np.int8)
    return Weights(values, scales, np.rint(bias / (input_scale * scales.astype(np.float64))).astype(np.int32))
