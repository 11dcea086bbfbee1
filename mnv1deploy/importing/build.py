"""Found -> MobileNetV1: every weight in its place, and what can be absorbed exactly absorbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnv1deploy.errors import MnvError
from mnv1deploy.importing.found import Convolution, Found, Norm, no_mobilenetv1
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import Layer, ModelSpec, PaddingRule

EPSILON = nn.BatchNorm2d(1).eps
"""Of this project's batch normalisations; any other is absorbed by the variance: ``var + e = (var + e - E) + E``."""


def padding_rule(path: Path, found: Found, spec: ModelSpec) -> PaddingRule | None:
    """The rule that gives the paddings which a graph has; None where it does not say.

    Raises:
        MnvError: if it is neither rule.
    """
    if not found.is_graph:
        return None
    for rule in (spec.padding, "symmetric", "same"):
        layers = [layer for layer in spec.replace(padding=rule).layers() if layer.is_convolution]
        if all(_pads_alike(c, layer) for c, layer in zip(found.convolutions, layers, strict=True)):
            return rule
    for convolution, layer in zip(found.convolutions, layers, strict=True):
        if not _pads_alike(convolution, layer):
            raise no_mobilenetv1(
                path,
                f"{convolution.name} pads {convolution.padding}, with {layer.padding} before it by TensorFlow's rule",
            )
    return None


def _pads_alike(convolution: Convolution, layer: Layer) -> bool:
    if convolution.padding == "same":
        total = max((layer.out_size - 1) * layer.stride + layer.kernel - layer.in_size, 0)
        padding = (total // 2, total // 2, total - total // 2, total - total // 2)
    else:
        assert convolution.padding is not None
        padding = convolution.padding
    read = (
        (layer.out_size - 1) * layer.stride + layer.kernel - layer.in_size
    )  # beyond the input, on both sides together
    after = [min(end, read - start) for start, end in zip(padding[:2], padding[2:], strict=True)]
    wanted = [min(end, read - start) for start, end in zip(layer.padding[:2], layer.padding[2:], strict=True)]
    sizes = [
        (layer.in_size + s + e - layer.kernel) // layer.stride + 1
        for s, e in zip(padding[:2], padding[2:], strict=True)
    ]
    return padding[:2] == layer.padding[:2] and after == wanted and sizes == [layer.out_size] * 2


def build(found: Found, spec: ModelSpec, epsilon: float) -> MobileNetV1:
    """The network, in inference mode; ``epsilon`` is of batch normalisations whose file does not say it.

    Absorbed are: another epsilon, a convolution's bias before a batch normalisation (into its mean), a missing gamma
    (1) or beta (0), and a batch normalisation that was folded into its convolution (the identity, the bias its beta).

    Raises:
        MnvError: if there are weights that are not finite numbers.
    """
    network = MobileNetV1(spec)
    state: dict[str, Any] = dict(network.state_dict())
    layers = [layer for layer in spec.layers() if layer.is_convolution]
    for convolution, layer in zip(found.convolutions, layers, strict=True):
        state[f"{layer.name}.conv.weight"] = convolution.weight
        bias = convolution.bias
        norm = convolution.norm
        if norm is None:
            ones = np.ones(layer.out_channels, np.float64)
            norm = Norm(0 * ones, ones, None, 0 * ones if bias is None else bias, 0.0)
            bias = None
        if layer.bias:
            state[f"{layer.name}.conv.bias"] = np.zeros(layer.out_channels) if bias is None else bias
            bias = None
        used = epsilon if norm.epsilon is None else norm.epsilon
        mean = norm.mean.astype(np.float64) - (0 if bias is None else bias)
        state[f"{layer.name}.norm.running_mean"] = mean
        # an unchanged epsilon leaves the variance as it is, to the bit
        state[f"{layer.name}.norm.running_var"] = norm.variance.astype(np.float64) + (used - EPSILON)
        state[f"{layer.name}.norm.weight"] = np.ones(layer.out_channels) if norm.gamma is None else norm.gamma
        state[f"{layer.name}.norm.bias"] = np.zeros(layer.out_channels) if norm.beta is None else norm.beta
    state["classifier.weight"], state["classifier.bias"] = found.classifier_weight, found.classifier_bias
    tensors = {name: _tensor(value) for name, value in state.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise MnvError(
                f"{name} has weights that are not finite numbers.", "The training diverged; use an earlier one."
            )
    network.load_state_dict(tensors)
    return network.eval()


def _tensor(value: Tensor | np.ndarray) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, np.float32))
