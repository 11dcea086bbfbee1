"""Weights to integers: their scales, and rounding that makes up for its own error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv1deploy.quantization.grids import Grid
from mnv1deploy.quantization.layers import OFFSETS, padded
from mnv1deploy.spec import Layer

PAIR = 128
"""What two neighbouring weights of a channel may add up to.

x86 CPUs without VNNI add two products of a uint8 and an int8 in 16 bits that saturate: 255 * (64 + 64) just fits.
Neighbours are columns 2i and 2i + 1 of the weights as a matrix; for a full convolution, whose columns engines order
in two ways, any two.
"""


BLOCK = 64
"""Columns of weights that are rounded before what they leave to the others is passed on to those."""


def weight_scales(
    layer: Layer, weight: NDArray[np.float64], bias: NDArray[np.float64], input_scale: float
) -> NDArray[np.float32]:
    """The finest scale of every channel that keeps PAIR and lets the bias be an integer, float32 ``[out_channels]``.

    Args:
        layer: of the weights.
        weight: ``[out_channels, K]``.
        bias: ``[out_channels]``.
        input_scale: of the grid it reads.
    """
    size = np.abs(weight)
    largest = size.max(1)
    neighbours = np.add.reduceat(size, np.arange(0, size.shape[1], 2), 1).max(1)
    paired = 2 * largest if layer.kind == "conv" else neighbours
    # a channel whose weights are all but zero needs a scale coarse enough for its bias to be exact in float32 too
    scales = np.max([largest / 127, paired / PAIR, np.abs(bias) / (input_scale * 2**22)], 0)
    scales[scales == 0] = 1
    result: NDArray[np.float32] = scales.astype(np.float32)
    return result


def _limit(layer: Layer, values: NDArray[np.float64], column: int) -> NDArray[np.float64] | int:
    """How large the integers of a column may be, given those before it, ``values`` ``[columns, out_channels]``."""
    if layer.kind == "conv":
        return PAIR // 2
    return np.minimum(127, PAIR - np.abs(values[column - 1])) if column % 2 else 127


EXACT = 256
"""So many products of two integers of a grid, less its zero point, float32 adds up exactly: 256 * 255^2 < 2^24."""


@dataclass(frozen=True)
class Moments:
    """Of what one output value reads, x, over all places of all pictures, in integers less the zero point.

    Attributes:
        mean: float64 ``[1 or channels, K]``.
        second: float64 ``[1 or channels, K, K]``, the mean of x x^T.
    """

    mean: NDArray[np.float64]
    second: NDArray[np.float64]


def moments(layer: Layer, inputs: Sequence[Tensor], grid: Grid) -> Moments:
    """Of a layer's inputs, uint8 ``[N, C, H, W]`` each, or ``[N, C]``. All sums are exact, in whatever order."""
    add_up = _depthwise_sums if layer.kind == "depthwise" else _dense_sums
    size = layer.in_channels // layer.groups * layer.kernel**2
    sums = torch.zeros(layer.groups, size, dtype=torch.float64)
    products = torch.zeros(layer.groups, size, size, dtype=torch.float64)
    count = 0
    for integers in inputs:
        add_up(layer, integers.float().sub_(grid.zero_point), sums, products)
        count += len(integers) * layer.out_size**2
    return Moments((sums / count).numpy(), (products / count).numpy())


def _dense_sums(layer: Layer, x: Tensor, sums: Tensor, products: Tensor) -> None:
    """Adds the sums of x and x x^T of a pointwise, a full convolution or the classifier."""
    if layer.kind != "linear":
        windows = padded(layer, x).permute(0, 2, 3, 1)
        windows = windows.unfold(1, layer.kernel, layer.stride).unfold(2, layer.kernel, layer.stride)
        x = windows.reshape(-1, sums.shape[1])  # [N, H, W, channels, row, column] -> [places, K]
    whole = len(x) - len(x) % EXACT
    for part in (x[:whole].view(whole // EXACT, EXACT, x.shape[1]), x[None, whole:]):
        sums += part.sum(1).sum(0, dtype=torch.float64)
        products += (part.transpose(1, 2) @ part).sum(0, dtype=torch.float64)


def _depthwise_sums(layer: Layer, x: Tensor, sums: Tensor, products: Tensor) -> None:
    """Adds the sums of x and x x^T of every channel.

    Pairs of a window's pixels that lie the same way from each other have products in common: those of all pixels that
    lie so are made once, and of each pair those added up that its places reach. With stride 2 this goes for pixels of
    the same two phases.
    """
    stride, size = layer.stride, layer.out_size
    plane = padded(layer, x).permute(0, 2, 3, 1)
    places = [((row % stride, column % stride), (row // stride, column // stride)) for row, column in OFFSETS]
    phases = {phase: plane[:, phase[0] :: stride, phase[1] :: stride].contiguous() for phase, _ in places}
    room = torch.empty(plane.numel())  # for all products in turn: new memory takes longer than they do
    single = {phase: _window_sums(pixels, size) for phase, pixels in phases.items()}
    pairs = plane.new_empty(len(OFFSETS), len(OFFSETS), layer.in_channels, dtype=torch.float64)
    alike: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for i, (phase, (row, column)) in enumerate(places):
        sums[:, i] += single[phase][column, row]
        for j, (other, (other_row, other_column)) in enumerate(places[i:], i):
            alike[(*phase, *other, other_row - row, other_column - column)].append((i, j))
    for (row, column, other_row, other_column, down, right), same in alike.items():
        starts = [places[i][1] for i, _ in same]
        top, left = (min(axis) for axis in zip(*starts, strict=True))
        bottom, end = (max(axis) + size for axis in zip(*starts, strict=True))
        first = phases[row, column][:, top:bottom, left:end]
        second = phases[other_row, other_column][:, top + down : bottom + down, left + right : end + right]
        both = torch.mul(first, second, out=room[: first.numel()].view(first.shape))
        totals = _window_sums(both, size)
        for (i, j), (line, start) in zip(same, starts, strict=True):
            pairs[i, j] = pairs[j, i] = totals[start - left, line - top]
    products += pairs.permute(2, 0, 1)


def _window_sums(plane: Tensor, size: int) -> Tensor:
    """Sums of all windows of ``size`` x ``size`` in ``[N, rows, columns, C]``, float64 ``[columns, rows, C]``."""
    lines = _neighbours(plane.transpose(0, 1), size, torch.float32 if size <= EXACT else torch.float64)
    return _neighbours(lines.sum(1, dtype=torch.float64).transpose(0, 1), size, torch.float64)


def _neighbours(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Sums of so many neighbours along the first axis: each is the one before, less its first and plus the next."""
    sums = [x[:size].sum(0, dtype=dtype)]
    for first, following in zip(x[:-size], x[size:], strict=True):
        sums.append(sums[-1] - first + following)
    return torch.stack(sums)


def rounded(
    layer: Layer, weight: NDArray[np.float64], scales: NDArray[np.float32], moments: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Integers column by column, within what PAIR allows.

    Args:
        layer: of the weights.
        weight: ``[out_channels, K]``.
        scales: ``[out_channels]``.
        moments: ``[1 or out_channels, K, K]``, of what the weights read; with them by arXiv 2210.17323, algorithm 1,
            with its damping of 1 %.
    """
    size = weight.shape[1]
    rest = weight / scales[:, None].astype(np.float64)
    values = np.empty_like(rest)
    if moments is not None:
        damping = 0.01 * np.trace(moments, axis1=1, axis2=2) / size + 1e-12
        inverse = np.linalg.inv(moments + damping[:, None, None] * np.eye(size))
        factor = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        # columns lie in rows of their own here: apart by a power of two, they would push each other out of the cache
        left = np.ascontiguousarray(rest[:, start:end].T)
        block, errors = np.empty_like(left), np.empty_like(left)
        for number, column in enumerate(range(start, end)):
            limit = _limit(layer, block, number)
            block[number] = np.rint(left[number]).clip(-limit, limit)
            if moments is not None:
                errors[number] = (left[number] - block[number]) / factor[:, column, column]
                left[number + 1 :] -= errors[number] * factor[:, column, column + 1 : end].T
        values[:, start:end] = block.T
        if end < size and moments is not None:
            rest[:, end:] -= np.ascontiguousarray(errors.T) @ factor[0, start:end, end:]
    return values
