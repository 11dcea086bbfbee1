"""Networks written anew so that integers hold them better: a folded normalisation, equalised channels."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization.layers import parameters_of
from mnv1deploy.spec import ModelSpec, Normalization


@torch.no_grad()
def fold_normalization(network: MobileNetV1) -> None:
    """Moves into the stem what one scale and zero point do not say of the normalisation, in place.

    With mean m and std d per colour, and Normalization.quantization's 1 / s and z: ``(p - m) / d`` is
    ``s / d * (p - z) / s + (z - m) / d``. The factor goes into the weights, the rest into the biases. Padding, zero
    before, is pixel z now where it was m: where those differ, outputs at the border do, too.
    """
    spec = network.spec
    scale, zero_point = spec.normalization.quantization
    stem = next(spec.layers())
    weight, bias = parameters_of(network, stem)
    mean, std = network.mean.view(1, -1, 1, 1), network.std.view(1, -1, 1, 1)
    bias.add_((weight * ((zero_point - mean) / std)).sum((1, 2, 3)))
    weight.mul_(1 / (scale * std))
    folded = Normalization((float(zero_point),) * spec.colours, (1 / scale,) * spec.colours)
    network.spec = spec.replace(normalization=folded)
    network.mean.fill_(zero_point)
    network.std.fill_(1 / scale)


def exponents(spec: ModelSpec, equalization: float) -> dict[str, float]:
    """How far every convolution's channels are brought to one range, from 0 to 1; see Scheme.equalization."""
    layers = [layer for layer in spec.layers() if layer.kind != "pool"]
    return {
        layer.name: 1.0 if equalization and reader.kind == "depthwise" else equalization
        for layer, reader in pairwise(layers)
    }


def gains(channel_max: Tensor, exponent: float) -> Tensor:
    """What to multiply channels by that have these maxima, float64 ``[channels]``."""
    # a channel that is never positive has no range to bring anywhere
    return torch.where(channel_max > 0, channel_max.max() / channel_max, 1).clamp(max=2**10) ** exponent


@torch.no_grad()
def equalize(network: MobileNetV1, gain: dict[str, Tensor]) -> None:
    """Scales channels in place by :func:`gains`, float64 ``[channels]`` by layer name.

    ReLU lets a positive factor through, so the logits stay what they are. ReLU6 does not: its bound is scaled along. A
    channel that reaches it has the tensor's maximum and so keeps its scale, and the others are brought no further than
    to 6, where the grid ends.
    """
    layers = [layer for layer in network.spec.layers() if layer.kind != "pool"]
    for layer, reader in pairwise(layers):
        factor = gain[layer.name]
        weight, bias = parameters_of(network, layer)
        weight.mul_(factor.view(-1, 1, 1, 1))
        bias.mul_(factor)
        if layer.activation == "relu6":
            network.get_submodule(layer.name).add_module("act", _Clip(factor))
        weight, _ = parameters_of(network, reader)
        shape = (-1, 1, 1, 1) if reader.kind == "depthwise" else (1, -1, *[1] * (weight.ndim - 2))
        weight.div_(factor.view(shape))


class _Clip(nn.Module):
    """A ReLU6 whose channels were scaled: from zero to six times each one's gain."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.bound = nn.Buffer(6 * gain.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(x.relu(), self.bound)
