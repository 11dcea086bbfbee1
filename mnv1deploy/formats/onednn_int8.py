"""The int8 network as calls of oneDNN's integer convolution, which Inductor keeps; the same grids as everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv1deploy.network import MobileNetV1
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
        groups = layer.in_channels if layer.kind == "depthwise" else 1
        self.geometry = ([layer.stride] * 2, [layer.kernel // 2] * 2, [1, 1], groups)

    def forward(self, x: Tensor) -> Tensor:
        """Inductor computes the packed weight once, when it compiles with ``freezing``."""
        scale, zero_point = self.before.scale, self.before.zero_point
        packed = torch.ops.onednn.qconv_prepack(self.weight, self.scales, scale, zero_point, *self.geometry)
        out: Tensor = torch.ops.onednn.qconv_pointwise(
            *(x, scale, zero_point, packed, self.scales, self.zero_points, self.bias, *self.geometry),
            *(self.after.scale, self.after.zero_point, torch.uint8, "relu", [], ""),
        )
        return out


class OneDNNMobileNetV1(nn.Module):
    """Raw pixels uint8 ``[N, H, W, 3]`` -> logits float32 ``[N, classes]``, for torch.export on x86.

    Args:
        network: folded, float32.
        quantization: of that network.
    """

    def __init__(self, network: MobileNetV1, quantization: Quantization) -> None:
        super().__init__()
        _let_export_know_packing()
        self.pixels_are_quantized = network.spec.normalization.quantization is not None
        self.mean, self.std = nn.Buffer(network.mean.clone()), nn.Buffer(network.std.clone())
        layers = list(network.spec.layers())
        self.grids = [quantization.activations[name] for name in (INPUT, *network.feature_layers)]
        self.convolutions = nn.Sequential(
            *(
                _Convolution(network, layer, grid, quantization)
                for layer, grid in zip(layers[:-2], self.grids[:-1], strict=True)
            )
        )
        self.positions = layers[-2].kernel ** 2
        # the classifier's integers times float activations: the same sums, and no packing
        weight, bias = parameters_of(network, layers[-1])
        self.weight, self.bias = nn.Buffer(weight), nn.Buffer(bias)

    def forward(self, images: Tensor) -> Tensor:
        """Raw pixels in, logits out."""
        x = images.permute(0, 3, 1, 2)
        if not self.pixels_are_quantized:
            x = self.grids[0].integers((x.float() - self.mean) / self.std)
        x = self.convolutions(x)
        pooled = (x.int().sum((2, 3)).float() / self.positions).round()
        return nn.functional.linear(self.grids[-1].reals(pooled), self.weight, self.bias)


def _let_export_know_packing() -> None:
    """torch.export asks every operator for its result's shape, and torch has none for this one (2.14)."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key("onednn::qconv_prepack", "Meta"):
        torch.library.register_fake("onednn::qconv_prepack", lambda weight, *rest: torch.empty_like(weight))
