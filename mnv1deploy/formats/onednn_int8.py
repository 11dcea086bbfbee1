"""The int8 network as calls of oneDNN's integer convolution, which Inductor keeps; the same grids as everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv1deploy.network import MobileNetV1, split_padding
from mnv1deploy.quantization import INPUT, Grid, Quantization, parameters_of
from mnv1deploy.spec import Layer


class _Convolution(nn.Module):
    """A convolution with ReLU: uint8 ``[N, C, H, W]`` in and out, on these grids."""

    def __init__(self, network: MobileNetV1, layer: Layer, before: Grid, quantization: Quantization) -> None:
        super().__init__()
        self.before, self.after = before, quantization.activations[layer.name]
        integers = quantization.weights[layer.name]
        self.weight, self.scales = nn.Buffer(torch.tensor(integers.values)), nn.Buffer(torch.tensor(integers.scales))
        self.zero_points = nn.Buffer(torch.zeros(len(integers.scales), dtype=torch.int32))
        self.bias = nn.Buffer(parameters_of(network, layer)[1])
        self.around, padding = split_padding(layer)
        self.geometry = ([layer.stride] * 2, [padding] * 2, [1, 1], layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Inductor computes the packed weight once, when it compiles with ``freezing``."""
        scale, zero_point = self.before.scale, self.before.zero_point
        if self.around:
            x = nn.functional.pad(x, self.around, value=zero_point)
        packed = torch.ops.onednn.qconv_prepack(self.weight, self.scales, scale, zero_point, *self.geometry)
        out: Tensor = torch.ops.onednn.qconv_pointwise(
            *(x, scale, zero_point, packed, self.scales, self.zero_points, self.bias, *self.geometry),
            *(self.after.scale, self.after.zero_point, torch.uint8, "relu", [], ""),
        )
        return out


class OneDNNMobileNetV1(nn.Module):
    """Raw pixels uint8 ``[N, H, W, C]`` -> logits float32 ``[N, classes]``, for torch.export on x86.

    Args:
        network: folded, float32.
        quantization: of that network.
    """

    def __init__(self, network: MobileNetV1, quantization: Quantization) -> None:
        super().__init__()
        _let_export_know_packing()
        self.convolutions = nn.Sequential()
        self.grid = quantization.activations[INPUT]
        for layer in network.spec.layers():
            if layer.is_convolution:
                self.convolutions.append(_Convolution(network, layer, self.grid, quantization))
                self.grid = quantization.activations[layer.name]
            elif layer.kind == "pool":
                self.positions = layer.kernel**2
            else:
                # the classifier's integers times float activations: the same sums, and no packing
                weight, bias = parameters_of(network, layer)
                self.weight, self.bias = nn.Buffer(weight), nn.Buffer(bias)

    def forward(self, images: Tensor) -> Tensor:
        """Raw pixels in, logits out."""
        x = self.convolutions(images.permute(0, 3, 1, 2))
        pooled = (x.int().sum((2, 3)).float() / self.positions).round()
        return nn.functional.linear(self.grid.reals(pooled), self.weight, self.bias)


def _let_export_know_packing() -> None:
    """torch.export asks every operator for its result's shape, and torch has none for this one (2.14)."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key("onednn::qconv_prepack", "Meta"):
        torch.library.register_fake("onednn::qconv_prepack", lambda weight, *rest: torch.empty_like(weight))
