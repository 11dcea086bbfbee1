"""The int8 network in torch's quantised operators, with the same integer grids as every other int8 artifact."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import INPUT, Quantization
from mnv1deploy.spec import Layer


class _Convolution(nn.Module):
    """A convolution with ReLU: quint8 ``[N, C, H, W]`` in and out."""

    def __init__(self, layer: Layer, bias: Tensor, quantization: Quantization) -> None:
        super().__init__()
        grid, weights = quantization.activations[layer.name], quantization.weights[layer.name]
        self.scale, self.zero_point = grid.scale, grid.zero_point
        groups = layer.in_channels if layer.kind == "depthwise" else 1
        padding = layer.kernel // 2
        self.packed = torch.ops.quantized.conv2d_prepack(
            _per_channel(weights.values, weights.scales),
            bias,
            [layer.stride, layer.stride],
            [padding, padding],
            [1, 1],
            groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        """One fused operator."""
        out: Tensor = torch.ops.quantized.conv2d_relu(x, self.packed, self.scale, self.zero_point)
        return out


def _per_channel(values: object, scales: object) -> Tensor:
    scale = torch.tensor(scales, dtype=torch.float64)
    return torch._make_per_channel_quantized_tensor(
        torch.tensor(values, dtype=torch.int8), scale, torch.zeros(len(scale), dtype=torch.int64), 0
    )


class Int8MobileNetV1(nn.Module):
    """Raw pixels uint8 ``[N, H, W, 3]`` -> logits float32 ``[N, classes]``, all integers in between.

    Args:
        network: folded, float32.
        quantization: of that network.
    """

    def __init__(self, network: MobileNetV1, quantization: Quantization) -> None:
        super().__init__()
        self.pixels_are_quantized = network.spec.normalization.quantization is not None
        self.normalize = network.normalize
        grid = quantization.activations[INPUT]
        self.scale, self.zero_point = grid.scale, grid.zero_point
        layers = list(network.spec.layers())
        self.convolutions = nn.Sequential()
        for number, layer in enumerate(layers[:-2]):
            bias = network.get_parameter(f"{layer.name}.conv.bias").detach()
            self.convolutions.add_module(str(number), _Convolution(layer, bias, quantization))
        self.pool = nn.AvgPool2d(layers[-2].kernel)
        # the classifier's integers times float activations: the same sums, and every quantised engine can run it
        integers = quantization.weights[layers[-1].name]
        self.weight = nn.Buffer(_per_channel(integers.values, integers.scales).dequantize())
        self.bias = nn.Buffer(network.classifier.bias.detach())

    def forward(self, images: Tensor) -> Tensor:
        """Raw pixels in, logits out."""
        if self.pixels_are_quantized:
            pixels = images.permute(0, 3, 1, 2)
            x = torch._make_per_tensor_quantized_tensor(pixels, self.scale, self.zero_point)
        else:
            x = torch.quantize_per_tensor(self.normalize(images), self.scale, self.zero_point, torch.quint8)
        x = self.pool(self.convolutions(x)).flatten(1)
        return nn.functional.linear(x.dequantize(), self.weight, self.bias)
