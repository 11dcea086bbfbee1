"""Ranges of activations, measured on calibration images and clipped by one of five methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnv1deploy.network import MobileNetV1

Method = Literal["minmax", "moving-average", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

BATCH = 32
BINS = 2048
LEVELS = 256
PERCENTILE = 99.999
MOMENTUM = 0.9


@dataclass(frozen=True)
class Observation:
    """What a convolution's output, after its ReLU, was on the calibration images.

    Attributes:
        channel_max: float64 ``[channels]``.
        channel_mean: float64 ``[channels]``, of the convolution itself, before the ReLU.
        moving_max: moving average of the batches' maxima, in steps of a tenth.
        histogram: int64 ``[BINS]``, values above zero in bins of equal width up to the maximum.
    """

    channel_max: NDArray[np.float64]
    channel_mean: NDArray[np.float64]
    moving_max: float
    histogram: NDArray[np.int64]

    @property
    def max(self) -> float:
        """Over all channels."""
        return float(self.channel_max.max())

    def share_above(self, bound: float) -> float:
        """The fraction of the values above zero that are larger than ``bound``, to a bin's width."""
        above = self.histogram[min(math.ceil(bound / self.max * BINS), BINS) :] if self.max else self.histogram
        return float(above.sum() / max(self.histogram.sum(), 1))


def batches(images: NDArray[np.uint8]) -> Iterator[Tensor]:
    """The images as uint8 tensors of at most BATCH."""
    for start in range(0, len(images), BATCH):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH]))


@torch.inference_mode()
def channel_maxima(network: MobileNetV1, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Largest output of every channel of every convolution after its ReLU, float64 ``[channels]`` by layer name."""
    found: dict[str, Tensor] = {}

    def record(name: str, output: Tensor) -> None:
        largest = output.amax((0, 2, 3))
        found[name] = torch.maximum(found[name], largest) if name in found else largest

    with observed(network, "act", record):
        for pixels in batches(images):
            network(pixels)
    return {name: largest.double().numpy() for name, largest in found.items()}


@torch.inference_mode()
def observe(
    network: MobileNetV1, images: NDArray[np.uint8], channel_max: dict[str, NDArray[np.float64]] | None = None
) -> dict[str, Observation]:
    """Every convolution's output on the images, by layer name; ``channel_max``, if known, is :func:`channel_maxima`."""
    channel_max = channel_max or channel_maxima(network, images)
    sums: dict[str, Tensor] = {}
    moving: dict[str, float] = {}
    histograms: dict[str, Tensor] = {}

    def record_sum(name: str, output: Tensor) -> None:
        sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + output.double().mean((2, 3)).sum(0)

    def record_histogram(name: str, output: Tensor) -> None:
        moving[name] = MOMENTUM * moving.get(name, output.max().item()) + (1 - MOMENTUM) * output.max().item()
        top = max(float(channel_max[name].max()), 1e-30)
        # rounding may put the largest a bit above; float32 cannot count the zeros of a large layer
        counts = torch.histc(output.double().clamp(max=top), BINS, 0, top).long()
        counts[0] -= output.numel() - output.count_nonzero()
        histograms[name] = histograms[name] + counts if name in histograms else counts

    with observed(network, "conv", record_sum), observed(network, "act", record_histogram):
        for pixels in batches(images):
            network(pixels)
    return {
        name: Observation(
            largest, (sums[name] / len(images)).numpy(), moving[name], histograms[name].numpy().astype(np.int64)
        )
        for name, largest in channel_max.items()
    }


@contextmanager
def observed(network: MobileNetV1, part: str, record: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Calls ``record`` with the name and the output of every convolution's ``part``, "conv" or "act", as it runs."""

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: record(name, output)

    handles = [
        network.get_submodule(f"{name}.{part}").register_forward_hook(hook(name)) for name in network.feature_layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def upper_bound(seen: Observation, method: Method) -> float:
    """Where to clip: the largest value that the grid from zero up will hold.

    - "minmax": the maximum (arXiv 1712.05877).
    - "moving-average": of the batches' maxima, as in training-time observers (the same paper, section 3.1).
    - "percentile": 99.999 % of the values above zero are below it (arXiv 2004.09602).
    - "entropy": least Kullback-Leibler divergence of the quantised from the true distribution (Migacz, 8-bit
      inference with TensorRT, GTC 2017).
    - "mse": least mean squared error of the quantised values.

    Zeros, which every grid represents exactly, do not count.
    """
    if method == "minmax" or not seen.histogram.any():
        return seen.max
    if method == "moving-average":
        return seen.moving_max
    width = seen.max / BINS
    if method == "percentile":
        share = np.cumsum(seen.histogram) / seen.histogram.sum()
        return float((np.searchsorted(share, PERCENTILE / 100) + 1) * width)
    candidates = range(LEVELS, BINS + 1, 8)
    loss = _divergence if method == "entropy" else _squared_error
    return width * min(candidates, key=lambda kept: loss(seen.histogram, kept))


def _squared_error(histogram: NDArray[np.int64], kept: int) -> float:
    """Of rounding to LEVELS values up to bin ``kept`` and clipping there, in bin widths squared."""
    values = np.arange(BINS) + 0.5
    width = kept / (LEVELS - 1)
    error = np.rint(values / width).clip(0, LEVELS - 1) * width - values
    return float((histogram * error**2).sum())


def _divergence(histogram: NDArray[np.int64], kept: int) -> float:
    """Of the distribution clipped at bin ``kept`` from what LEVELS values can tell of it."""
    inside = histogram[:kept].astype(np.float64)
    true = inside.copy()
    true[-1] += histogram[kept:].sum()
    level = np.arange(kept) * LEVELS // kept
    occupied = inside > 0
    count = np.bincount(level[occupied], minlength=LEVELS)
    mass = np.bincount(level, inside, LEVELS)
    model = np.where(occupied, (mass / np.maximum(count, 1))[level], 0)
    model = np.maximum(model / max(model.sum(), 1), 1e-12)
    true = true / true.sum()
    seen = true > 0
    return float((true[seen] * np.log(true[seen] / model[seen])).sum())
