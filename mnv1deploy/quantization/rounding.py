"""Weights to integers: their scales, and rounding that makes up for its own error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mnv1deploy.quantization.grids import Grid
from mnv1deploy.quantization.layers import padded
from mnv1deploy.spec import Layer

PAIR = 128
"""What two neighbouring weights of a channel may add up to.

x86 CPUs without VNNI add two products of a uint8 and an int8 in 16 bits that saturate: 255 * (64 + 64) just fits.
Neighbours are columns 2i and 2i + 1 of the weights as a matrix; for a full convolution, whose columns engines order
in two ways, any two.
"""


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
    """How large the integers of a column of ``values`` may be, given those of the columns before it."""
    if layer.kind == "conv":
        return PAIR // 2
    return np.minimum(127, PAIR - np.abs(values[:, column - 1])) if column % 2 else 127


def second_moments(layer: Layer, inputs: list[Tensor], grid: Grid) -> NDArray[np.float64]:
    """Mean of x x^T over all places, x being what one output value reads: ``[1 or channels, K, K]``."""
    total: Any = 0
    count = 0
    for integers in inputs:
        x = integers.double() - grid.zero_point
        if layer.kind == "linear":
            read = x[None]
        else:
            windows = padded(layer, x).unfold(2, layer.kernel, layer.stride).unfold(3, layer.kernel, layer.stride)
            windows = windows.view(len(x), layer.groups, -1, *windows.shape[2:])
            # [N, groups, channels, H, W, row, column] -> [groups, N * H * W, channels * row * column]
            read = windows.permute(1, 0, 3, 4, 2, 5, 6).flatten(4).flatten(1, 3)
        total = total + read.transpose(1, 2) @ read
        count += read.shape[1]
    moments: NDArray[np.float64] = (total * grid.scale**2 / count).numpy()
    return moments


def rounded(
    layer: Layer, weight: NDArray[np.float64], scales: NDArray[np.float32], moments: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Integers column by column, within what PAIR allows.

    Args:
        layer: of the weights.
        weight: ``[out_channels, K]``.
        scales: ``[out_channels]``.
        moments: ``[1 or out_channels, K, K]``, see second_moments; with them by arXiv 2210.17323, algorithm 1, with
            its damping of 1 %.
    """
    size = weight.shape[1]
    rest = weight / scales[:, None].astype(np.float64)
    values = np.empty_like(rest)
    if moments is not None:
        damping = 0.01 * np.trace(moments, axis1=1, axis2=2) / size + 1e-12
        inverse = np.linalg.inv(moments + damping[:, None, None] * np.eye(size))
        factor = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    for column in range(size):
        limit = _limit(layer, values, column)
        values[:, column] = np.rint(rest[:, column]).clip(-limit, limit)
        if moments is not None:
            error = (rest[:, column] - values[:, column]) / factor[:, column, column]
            rest[:, column + 1 :] -= error[:, None] * factor[:, column, column + 1 :]
    return values
