"""Ranges of activations, measured on calibration images and clipped by one of five methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv1deploy.cost import pictures_at_once
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import rescaling
from mnv1deploy.quantization.layers import outputs

Method = Literal["minmax", "moving-average", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
SURVEYED = frozenset[Method](("minmax", "moving-average", "percentile"))
"""Those that need no histogram of all values, and so no second look at the pictures; see Survey."""

BATCH = 32
BINS = 2048
LEVELS = 256
PERCENTILE = 99.999
MARGIN = 0.9
"""Values that are, after scaling, smaller than so much of the smallest above the percentile are soon forgotten."""

KEPT = 2**21
"""Values of a layer that are kept at most: where more are nearly alike, as at a ReLU6's bound, none are."""

MOMENTUM = 0.9


@dataclass(frozen=True)
class Observation:
    """What a convolution's output, after its ReLU, was on the calibration images.

    Attributes:
        channel_max: float64 ``[channels]``.
        channel_mean: float64 ``[channels]``, of the convolution itself, before the ReLU.
        moving_max: moving average of the batches' maxima, in steps of a tenth.
        histogram: int64 ``[BINS]``, values above zero in bins of equal width up to the maximum; of a
            :class:`Survey` all but the largest in the first bin.
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


def batches(images: NDArray[np.uint8], most: int = BATCH) -> Iterator[Tensor]:
    """The images as uint8 tensors of at most ``most``."""
    for start in range(0, len(images), most):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + most]))


class Survey:
    """A convolution's output, after its ReLU, on pictures that are seen once, before its channels are scaled.

    Of its values only those are kept that may be above the percentile after that: what was found of the maxima, and so
    of the gains, says with some MARGIN which these are. :meth:`scaled` says whether they were.

    Args:
        pictures: how many there will be.
        channels: of the layer.
        exponent: of :func:`rescaling.gains`.
        most: how many values can be above the percentile, and one more.
    """

    def __init__(self, pictures: int, channels: int, exponent: float, most: int) -> None:
        self.channel_max = torch.zeros(channels, dtype=torch.float64)
        self._exponent, self._most, self._room = exponent, most, 4 * most
        # whole at once: small results kept between large ones that go would keep the memory of those from its return
        self._picture_max = torch.zeros(pictures, channels, dtype=torch.float64)
        self._seen = 0
        self._sums, self._floor = (torch.zeros(channels, dtype=torch.float64) for _ in range(2))
        self._positive = 0
        self._parts: list[tuple[NDArray[np.float64], NDArray[np.int32]]] = []

    @property
    def gain(self) -> Tensor:
        """What its channels are to be multiplied by, float64 ``[channels]``."""
        return rescaling.gains(self.channel_max, self._exponent)

    def add(self, before: Tensor, output: Tensor) -> None:
        """Pictures' outputs before and after the activation, float64 ``[N, C, H, W]`` in channels_last."""
        self._sums += before.mean((2, 3)).sum(0)
        largest = self._picture_max[self._seen : self._seen + len(output)]
        largest.copy_(output.amax((2, 3)))
        self._seen += len(output)
        torch.maximum(self.channel_max, largest.amax(0), out=self.channel_max)
        values = output.permute(0, 2, 3, 1)
        self._positive += int(np.count_nonzero((values > 0).numpy()))
        above = np.flatnonzero((values > self._floor).numpy())
        self._parts.append((values.flatten().numpy()[above], (above % len(self._floor)).astype(np.int32)))
        if sum(len(kept) for kept, _ in self._parts) > self._room:
            self._forget()

    def _forget(self) -> None:
        values, channels = self._kept()
        gain = self.gain
        scaled = values * gain.numpy()[channels]
        floor = torch.where(self.channel_max > 0, MARGIN * _largest(scaled, self._most) / gain, 0)
        self._floor = torch.maximum(self._floor, floor)
        some = values > self._floor.numpy()[channels]
        if np.count_nonzero(some) > KEPT:
            self._floor.fill_(math.inf)
            some[:] = False
        self._parts = [(values[some], channels[some])]
        self._room = max(self._room, 2 * int(np.count_nonzero(some)))

    def _kept(self) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        values, channels = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        return values, channels

    def scaled(self) -> Observation | None:
        """What the output is with its channels multiplied by :attr:`gain`; None if too little of it was kept."""
        gain, (values, channels) = self.gain, self._kept()
        scaled = values * gain.numpy()[channels]
        forgotten = self._positive - len(values)
        enough = len(scaled) >= self._most and bool((self._floor * gain).max() <= _largest(scaled, self._most))
        if forgotten and not enough:
            return None
        channel_max = self.channel_max * gain
        histogram = torch.bincount(_bins(torch.from_numpy(scaled), float(channel_max.max())), minlength=BINS)
        histogram[0] += forgotten
        mean = self._sums / len(self._picture_max) * gain
        moving = _moving_average((self._picture_max * gain).amax(1).tolist())
        return Observation(channel_max.numpy(), mean.numpy(), moving, histogram.numpy())


def _largest(values: NDArray[np.float64], number: int) -> float:
    """The so-and-so-many-th largest."""
    return float(np.partition(values, -number)[-number])


@torch.inference_mode()
def survey(network: MobileNetV1, images: NDArray[np.uint8], exponents: Mapping[str, float]) -> dict[str, Survey]:
    """Every convolution's output on the images, by layer name; ``exponents`` are :func:`rescaling.exponents`."""
    found = {}
    for layer in network.spec.layers():
        if layer.is_convolution:
            values = len(images) * layer.out_channels * layer.out_size**2
            most = min(int((1 - PERCENTILE / 100) * values) + 2, values)
            found[layer.name] = Survey(len(images), layer.out_channels, exponents[layer.name], most)
    for pixels in batches(images, pictures_at_once(network.spec, BATCH, 8)):
        for name, before, output in outputs(network, pixels):
            found[name].add(before, output)
    return found


@torch.inference_mode()
def channel_maxima(network: MobileNetV1, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Largest output of every channel of every convolution after its ReLU, float64 ``[channels]`` by layer name."""
    found: dict[str, Tensor] = {}
    for pixels in batches(images, pictures_at_once(network.spec, BATCH, 8)):
        for name, _, output in outputs(network, pixels):
            largest = output.amax((0, 2, 3))
            found[name] = torch.maximum(found[name], largest) if name in found else largest
    return {name: largest.double().numpy() for name, largest in found.items()}


@torch.inference_mode()
def observe(
    network: MobileNetV1, images: NDArray[np.uint8], channel_max: dict[str, NDArray[np.float64]] | None = None
) -> dict[str, Observation]:
    """Every convolution's output on the images, by layer name; ``channel_max``, if known, is :func:`channel_maxima`."""
    channel_max = channel_max or channel_maxima(network, images)
    sums = {name: torch.zeros(len(largest), dtype=torch.float64) for name, largest in channel_max.items()}
    maxima: dict[str, list[float]] = {name: [] for name in channel_max}
    histograms = {name: torch.zeros(BINS, dtype=torch.int64) for name in channel_max}
    for pixels in batches(images, pictures_at_once(network.spec, BATCH, 8)):
        for name, before, output in outputs(network, pixels):
            sums[name] += before.double().mean((2, 3)).sum(0)
            maxima[name] += output.amax((1, 2, 3)).tolist()
            histograms[name] += _histogram(output, float(channel_max[name].max()))
    return {
        name: Observation(
            largest, (sums[name] / len(images)).numpy(), _moving_average(maxima[name]), histograms[name].numpy()
        )
        for name, largest in channel_max.items()
    }


def _histogram(output: Tensor, top: float) -> Tensor:
    """int64 ``[BINS]``: the values above zero, in bins of equal width up to ``top``."""
    counts = torch.bincount(_bins(output, top).permute(0, 2, 3, 1).flatten(), minlength=BINS)
    counts[0] -= output.numel() - int(np.count_nonzero((output > 0).numpy()))
    return counts


def _bins(values: Tensor, top: float) -> Tensor:
    """int32: the bin of each, of BINS up to ``top``."""
    # rounding may put the largest a bit above
    return (values.double() / max(top, 1e-30)).mul_(BINS).clamp_(max=BINS - 1).int()


def _moving_average(maxima: Sequence[float]) -> float:
    """Of the largest in every BATCH pictures, given each picture's."""
    largest = [max(maxima[start : start + BATCH]) for start in range(0, len(maxima), BATCH)]
    return reduce(lambda average, value: MOMENTUM * average + (1 - MOMENTUM) * value, largest)


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
