"""The int8 network in torch's quantised operators, with the same integer grids as every other int8 artifact."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mnv1deploy.network import MobileNetV1, split_padding
from mnv1deploy.quantization import INPUT, Quantization, parameters_of
from mnv1deploy.spec import Layer


class _Convolution(nn.Module):
    """A convolution with ReLU: quint8 ``[N, C, H, W]`` in and out."""

    def __init__(self, layer: Layer, bias: Tensor, quantization: Quantization) -> None:
        super().__init__()
        grid, weights = quantization.activations[layer.name], quantization.weights[layer.name]
        self.scale, self.zero_point = grid.scale, grid.zero_point
        self.around, padding = split_padding(layer)
        self.packed = torch.ops.quantized.conv2d_prepack(
            _per_channel(weights.values, weights.scales), bias, [layer.stride] * 2, [padding] * 2, [1, 1], layer.groups
        )

    def forward(self, x: Tensor) -> Tensor:
        """One fused operator, and a padding where there is one of its own."""
        if self.around:
            x = pad(x, self.around)  # of a quantised tensor: with its zero point
        out: Tensor = torch.ops.quantized.conv2d_relu(x, self.packed, self.scale, self.zero_point)
        return out


def _per_channel(values: object, scales: object) -> Tensor:
    scale = torch.tensor(scales, dtype=torch.float64)
    return torch._make_per_channel_quantized_tensor(
        torch.tensor(values, dtype=torch.int8), scale, torch.zeros(len(scale), dtype=torch.int64), 0
    )


class Int8MobileNetV1(nn.Module):
    """Raw pixels uint8 ``[N, H, W, C]`` -> logits float32 ``[N, classes]``, all integers in between.

    Args:
        network: folded, float32.
        quantization: of that network.
    """

    def __init__(self, network: MobileNetV1, quantization: Quantization) -> None:
        super().__init__()
        grid = quantization.activations[INPUT]
        self.scale, self.zero_point = grid.scale, grid.zero_point
        self.convolutions = nn.Sequential()
        for layer in network.spec.layers():
            if layer.is_convolution:
                _, bias = parameters_of(network, layer)
                self.convolutions.append(_Convolution(layer, bias, quantization))
            elif layer.kind == "pool":
                self.pool = nn.AvgPool2d(layer.kernel)
            else:
                # the classifier's integers times float activations: the same sums, on every quantised engine
                integers = quantization.weights[layer.name]
                self.weight = nn.Buffer(_per_channel(integers.values, integers.scales).dequantize())
                self.bias = nn.Buffer(parameters_of(network, layer)[1])

    def forward(self, images: Tensor) -> Tensor:
        """Raw pixels in, logits out."""
        pixels = images.permute(0, 3, 1, 2)
        x = torch._make_per_tensor_quantized_tensor(pixels, self.scale, self.zero_point)
        x = self.pool(self.convolutions(x)).flatten(1)
        return nn.functional.linear(x.dequantize(), self.weight, self.bias)
