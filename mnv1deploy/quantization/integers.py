"""What an int8 network computes, from its integers alone, in numpy: the reference for everything that runs them."""

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.quantization import INPUT, Quantization
from mnv1deploy.spec import Layer


def run(
    quantization: Quantization, image: NDArray[np.uint8]
) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32]]:
    """Every layer's uint8 ``[pixels, channels]`` by name, and the logits, of a picture ``[H, W, C]``.

    Sums are integers. What becomes of them is onnxruntime's: one float32 multiplication, rounded to the nearest, halves
    to even, and saturated.
    """
    grid = quantization.activations[INPUT]
    values = image
    found: dict[str, NDArray[np.uint8]] = {}
    for layer in quantization.network.spec.layers():
        if layer.kind == "pool":
            scale = np.float32(grid.scale)
            sums = values.astype(np.int64).sum((0, 1), keepdims=True)
            factor = scale / (scale * np.float32(values.shape[0] * values.shape[1]))
            values = _requantized(sums, np.full(1, factor, np.float32))
        else:
            weights = quantization.weights[layer.name]
            sums = _sums(layer, values.astype(np.float64) - grid.zero_point, weights.values.astype(np.float64))
            sums = sums.astype(np.int64) + weights.bias
            factors = np.float32(grid.scale) * weights.scales
            if layer.kind == "linear":
                return found, sums.ravel().astype(np.float32) * factors
            grid = quantization.activations[layer.name]
            values = _requantized(sums, factors / np.float32(grid.scale))
        found[layer.name] = values.reshape(-1, values.shape[-1])
    raise AssertionError("a network ends with its classifier")


def _requantized(sums: NDArray[np.int64], factors: NDArray[np.float32]) -> NDArray[np.uint8]:
    scaled = sums.astype(np.float32) * factors
    assert scaled.dtype == np.float32
    values: NDArray[np.uint8] = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return values


def _sums(layer: Layer, values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[H, W, inputs]`` and ``[outputs, inputs or 1, rows, columns]`` -> ``[H, W, outputs]``.

    All are integers, which float64 holds and adds up exactly; numpy has no quick matrix product of int64.
    """
    weights = weights.reshape(*weights.shape[:2], layer.kernel, layer.kernel)
    top, left, bottom, right = layer.padding
    padded = np.pad(values, ((top, bottom), (left, right), (0, 0)))
    sums = np.zeros((layer.out_size, layer.out_size, layer.out_channels))
    reach = (layer.out_size - 1) * layer.stride + 1
    for row in range(layer.kernel):
        for column in range(layer.kernel):
            read = padded[row : row + reach : layer.stride, column : column + reach : layer.stride]
            taps = weights[:, :, row, column]
            sums += read * taps[:, 0] if layer.kind == "depthwise" else read @ taps.T
    return sums
