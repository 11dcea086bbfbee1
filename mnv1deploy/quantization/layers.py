"""A layer's parameters and its arithmetic, apart from the network that runs it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import Layer


def parameters_of(network: MobileNetV1, layer: Layer) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias, the network's own tensors."""
    prefix = layer.name if layer.kind == "linear" else f"{layer.name}.conv"
    return network.get_parameter(f"{prefix}.weight").detach(), network.get_parameter(f"{prefix}.bias").detach()


def layer_output(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a layer gives before its ReLU: ``[N, C, H, W]``, of the classifier ``[N, classes, 1]``."""
    if layer.kind == "linear":
        return F.linear(x, weight, bias)[..., None]
    return F.conv2d(padded(layer, x), weight, bias, layer.stride, 0, 1, layer.groups)


def padded(layer: Layer, x: Tensor) -> Tensor:
    """Its input with the zeros that its padding puts around it."""
    top, left, bottom, right = layer.padding
    return F.pad(x, (left, right, top, bottom))
