"""What quantization costs: layer by layer, and scheme by scheme."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mnv1deploy.datasets import Dataset
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import ranges
from mnv1deploy.quantization.layers import layer_output, parameters_of
from mnv1deploy.quantization.quantizer import Calibration, Quantization, Scheme
from mnv1deploy.quantization.ranges import METHODS
from mnv1deploy.spec import Layer


@dataclass(frozen=True)
class Deviation:
    """How a quantised network's answers differ from the float network's on labelled pictures.

    Attributes:
        divergence: mean Kullback-Leibler divergence of its probabilities from the float network's, in nats: the
            finest measure, as it needs no picture to change its class.
        agreement: fraction of pictures with the same top-1 class.
        accuracy_change: of the top-1 accuracy, as a fraction.
    """

    divergence: float
    agreement: float
    accuracy_change: float


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer under quantization. Signal-to-quantization-noise ratios (SQNR) are in dB.

    Attributes:
        name: of the layer.
        weight_range: smallest and largest weight, after equalization.
        weight_sqnr: of its weights.
        activation_bound: the largest output its grid holds; None for the logits, which stay float.
        clipped: fraction of the positive outputs above that.
        output_sqnr: of its output where all layers up to it are quantised.
        alone: the network with this layer alone quantised, its weights and its output.
    """

    name: str
    weight_range: tuple[float, float]
    weight_sqnr: float
    activation_bound: float | None
    clipped: float | None
    output_sqnr: float
    alone: Deviation


@dataclass(frozen=True)
class Sensitivity:
    """Every layer, and the network with all of them quantised.

    Attributes:
        dataset: name of the pictures it was measured on.
        images: their number.
        accuracy: the float network's on them.
        layers: in order.
        together: the network with all of them quantised.
    """

    dataset: str
    images: int
    accuracy: float
    layers: tuple[LayerSensitivity, ...]
    together: Deviation


@dataclass(frozen=True)
class Trial:
    """A scheme and what it costs."""

    scheme: Scheme
    deviation: Deviation


class _Pictures:
    """Labelled pictures and a float network's answers to them."""

    def __init__(self, network: MobileNetV1, data: Dataset) -> None:
        self.data = data
        self.log_probabilities = self._answers(network)
        self.right = self._right(self.log_probabilities)

    def _answers(self, network: MobileNetV1) -> Tensor:
        with torch.inference_mode():
            return torch.cat([network(pixels).log_softmax(1) for pixels in ranges.batches(self.data.images)])

    def _right(self, answers: Tensor) -> float:
        return (answers.argmax(1) == torch.from_numpy(self.data.labels)).double().mean().item()

    def deviation(self, network: MobileNetV1) -> Deviation:
        """Of ``network`` from the float one."""
        answers, expected = self._answers(network), self.log_probabilities
        divergence = (expected.exp() * (expected - answers)).sum(1).double().mean().item()
        agreement = (answers.argmax(1) == expected.argmax(1)).double().mean().item()
        return Deviation(divergence, agreement, self._right(answers) - self.right)


def measure(quantization: Quantization, data: Dataset, on_layer: Callable[[], None] = lambda: None) -> Sensitivity:
    """Measures every layer of a quantised network on labelled pictures it was not calibrated on.

    A layer that is quantised alone has its bias corrected for its own error, not for that of the layers before it.
    """
    expected = quantization.equalized
    pictures = _Pictures(expected, data)
    noise, shifts = _errors(quantization, data.images)
    seen = ranges.observe(expected, data.images)
    rows = []
    for layer in expected.spec.layers():
        if layer.kind == "pool":
            continue
        weight, bias = parameters_of(expected, layer)
        rounded, _ = parameters_of(quantization.network, layer)
        alone = quantization.simulated({layer.name})
        parameters_of(alone, layer)[1].copy_(bias + shifts[layer.name])
        bound = quantization.activations[layer.name].bound if layer.name in seen else None
        rows.append(
            LayerSensitivity(
                layer.name,
                (weight.min().item(), weight.max().item()),
                _decibels(weight.double().square().sum().item(), (weight - rounded).double().square().sum().item()),
                bound,
                None if bound is None else seen[layer.name].share_above(bound),
                noise[layer.name],
                pictures.deviation(alone),
            )
        )
        on_layer()
    return Sensitivity(data.name, len(data), pictures.right, tuple(rows), pictures.deviation(quantization.simulated()))


def compare(
    network: MobileNetV1, images: NDArray[np.uint8], data: Dataset, schemes: Sequence[Scheme]
) -> Iterator[Trial]:
    """Quantises a folded network by each scheme, calibrated on ``images``, and measures the cost on ``data``."""
    pictures = _Pictures(network, data)
    methods = {scheme.ranges for scheme in schemes}
    calibrated = {
        strength: Calibration.of(network, images, strength, methods) for strength in {s.equalization for s in schemes}
    }
    for scheme in schemes:
        found = calibrated[scheme.equalization].quantize("", scheme)
        yield Trial(scheme, pictures.deviation(found.simulated()))


def schemes(base: Scheme) -> list[Scheme]:
    """Plain rounding in ranges by minimum and maximum, each step from there to ``base``, then its other ranges."""
    plain = Scheme("minmax", 0.0, compensation=False, bias_correction=False)
    equalized = replace(plain, equalization=base.equalization)
    path = [plain, equalized, replace(equalized, bias_correction=True), replace(equalized, compensation=True)]
    return path + [replace(base, ranges=method) for method in METHODS]


@torch.inference_mode()
def _errors(quantization: Quantization, images: NDArray[np.uint8]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """By layer: the SQNR of its output in the quantised network, and what its rounded weights take from its mean."""
    expected, quantized = quantization.equalized, quantization.simulated()
    outputs: dict[str, Tensor] = {}
    signal: dict[str, float] = defaultdict(float)
    noise: dict[str, float] = defaultdict(float)
    shifts: dict[str, Tensor] = {}

    def watch(layer: Layer) -> None:
        loss = parameters_of(expected, layer)[0] - parameters_of(quantization.network, layer)[0]

        def on_input(module: nn.Module, inputs: tuple[Tensor]) -> None:
            mean = layer_output(layer, inputs[0], loss, None).flatten(2).mean(2).sum(0) / len(images)
            shifts[layer.name] = shifts[layer.name] + mean if layer.name in shifts else mean

        def on_expected(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[layer.name] = output

        def on_quantized(module: nn.Module, inputs: object, output: Tensor) -> None:
            wanted = outputs.pop(layer.name)
            signal[layer.name] += wanted.double().square().sum().item()
            noise[layer.name] += (output - wanted).double().square().sum().item()

        module = expected.get_submodule(layer.name)
        handles.extend((module.register_forward_pre_hook(on_input), module.register_forward_hook(on_expected)))
        quantized.get_submodule(layer.name).register_forward_hook(on_quantized)

    handles: list[RemovableHandle] = []
    for layer in expected.spec.layers():
        if layer.kind != "pool":
            watch(layer)
    try:
        for pixels in ranges.batches(images):
            expected(pixels)
            quantized(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _decibels(signal[name], noise[name]) for name in signal}, shifts


def _decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if signal and noise else math.inf
