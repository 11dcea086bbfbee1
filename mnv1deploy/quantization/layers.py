"""A layer's parameters and its arithmetic, apart from the network that runs it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mnv1deploy.network import MobileNetV1, split_padding
from mnv1deploy.spec import Layer


def parameters_of(network: MobileNetV1, layer: Layer) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias, the network's own tensors."""
    prefix = layer.name if layer.kind == "linear" else f"{layer.name}.conv"
    return network.get_parameter(f"{prefix}.weight").detach(), network.get_parameter(f"{prefix}.bias").detach()


def outputs(network: MobileNetV1, pixels: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Runs the convolutions of a folded network on uint8 ``[N, H, W, C]``.

    Yields each one's name and what it gives before and after its activation, ``[N, C, H, W]`` in channels_last.
    """
    x = network.normalize(pixels).contiguous(memory_format=torch.channels_last)
    for layer in network.spec.layers():
        if layer.is_convolution:
            before = layer_output(layer, x, *parameters_of(network, layer))
            x = network.get_submodule(f"{layer.name}.act")(before)
            yield layer.name, before, x


def layer_output(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a layer gives before its ReLU: ``[N, C, H, W]``, of the classifier ``[N, classes, 1]``."""
    if layer.kind == "linear":
        return F.linear(x, weight, bias)[..., None]
    if x.dtype != torch.float64 or layer.kind == "conv":
        around, padding = split_padding(layer)
        return F.conv2d(F.pad(x, around) if around else x, weight, bias, layer.stride, padding, 1, layer.groups)
    # torch has no quick convolutions in float64
    x = padded(layer, x).permute(0, 2, 3, 1)
    if layer.kind == "pointwise":
        rows, columns = x.flatten(0, 2), weight.flatten(1).T
        sums = rows @ columns if bias is None else torch.addmm(bias, rows, columns)
        return sums.view(*x.shape[:3], -1).permute(0, 3, 1, 2)
    # a row's: one long multiplication instead of many short ones
    along = weight.permute(2, 3, 1, 0).repeat(1, 1, layer.out_size, 1)
    result = shifted(layer, x, 0, 0) * along[0, 0]
    for row, column in OFFSETS[1:]:
        result.addcmul_(shifted(layer, x, row, column), along[row, column])
    return (result if bias is None else result.add_(bias)).permute(0, 3, 1, 2)


OFFSETS = tuple((row, column) for row in range(3) for column in range(3))
"""Of the nine inputs that one output of a depthwise convolution reads."""


def shifted(layer: Layer, x: Tensor, row: int, column: int) -> Tensor:
    """A view of a depthwise layer's padded input ``[N, H, W, C]``: what every output multiplies by one weight."""
    rows, columns = (
        slice(start, start + layer.stride * (layer.out_size - 1) + 1, layer.stride) for start in (row, column)
    )
    return x[:, rows, columns]


def padded(layer: Layer, x: Tensor) -> Tensor:
    """Its input with the zeros that its padding puts around it."""
    top, left, bottom, right = layer.padding
    return F.pad(x, (left, right, top, bottom)) if any(layer.padding) else x
