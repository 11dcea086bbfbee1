"""The network for the compilers that start from torch.export: int8 as explicit quantize and dequantize operators."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers torch.ops.quantized_decomposed
from torch.nn.functional import conv2d, pad

from mnv1deploy.network import MobileNetV1, activation, split_padding
from mnv1deploy.quantization import INPUT, Grid, Quantization, parameters_of
from mnv1deploy.spec import Layer

_INT8 = (-128, 127, torch.int8)


class _Layer(nn.Module):
    """A convolution with activation, or the classifier as a 1x1 convolution in float: ``[N, C, H, W]`` in and out."""

    def __init__(self, network: MobileNetV1, layer: Layer, quantization: Quantization | None) -> None:
        super().__init__()
        self.layer = layer
        self.activation = activation(layer, inplace=False)
        self.quantized = quantization is not None and layer.kind != "linear"
        weight, bias = parameters_of(network, layer)
        if quantization and self.quantized:
            integers = quantization.weights[layer.name]
            weight = torch.from_numpy(integers.values)
            self.scales = nn.Buffer(torch.from_numpy(integers.scales))
            self.zero_points = nn.Buffer(torch.zeros(len(integers.scales), dtype=torch.int64))
        elif layer.kind == "linear":
            weight = weight[..., None, None]
        self.weight, self.bias = nn.Buffer(weight), nn.Buffer(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Float in and out, whatever is inside."""
        layer, weight = self.layer, self.weight
        if self.quantized:
            weight = torch.ops.quantized_decomposed.dequantize_per_channel(
                weight, self.scales, self.zero_points, 0, *_INT8
            )
        around, padding = split_padding(layer)
        if around:
            x = pad(x, around)
        out: Tensor = self.activation(conv2d(x, weight, self.bias, layer.stride, padding, 1, layer.groups))
        return out


def _on_grid(x: Tensor, grid: Grid | None) -> Tensor:
    """To the grid's integers and back. They are int8, as these compilers have them: ours less 128."""
    if grid is None:
        return x
    scale, zero_point = grid.scale, grid.zero_point - 128
    integers = torch.ops.quantized_decomposed.quantize_per_tensor(x, scale, zero_point, *_INT8)
    reals: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(integers, scale, zero_point, *_INT8)
    return reals


class DecomposedMobileNetV1(nn.Module):
    """Raw pixels uint8 ``[N, H, W, C]`` -> logits float32 ``[N, classes]``, for torch.export.

    With ``quantization`` every activation is put on its grid and every convolution's weight comes from its integers,
    which is the pattern that backends turn into integer kernels; the classifier multiplies floats.
    """

    def __init__(self, network: MobileNetV1, quantization: Quantization | None) -> None:
        super().__init__()
        self.mean, self.std = nn.Buffer(network.mean.clone()), nn.Buffer(network.std.clone())
        self.grids = quantization.activations if quantization else {}
        self.names = [layer.name for layer in network.spec.layers()]
        self.layers = nn.ModuleDict()
        for layer in network.spec.layers():
            if layer.kind != "pool":
                self.layers[layer.name.replace(".", "_")] = _Layer(network, layer, quantization)

    def forward(self, images: Tensor) -> Tensor:
        """Raw pixels in, logits out."""
        x = (images.float().permute(0, 3, 1, 2) - self.mean) / self.std
        x = _on_grid(x, self.grids.get(INPUT))
        for name in self.names:
            x = x.mean((2, 3), keepdim=True) if name == "pool" else self.layers[name.replace(".", "_")](x)
            x = _on_grid(x, self.grids.get(name))
        return x.flatten(1)
