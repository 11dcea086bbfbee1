"""The integers of a network: grids of activations and weights on theirs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

INPUT = "normalized"
"""The name of the first convolution's input among the activations; the others are named after their layers."""


@dataclass(frozen=True)
class Grid:
    """An activation's quantisation: ``real = scale * (integer - zero_point)``, integer in 0..255."""

    scale: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> Grid:
        """The grid over ``low..high`` widened to hold zero, which it represents exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / 255))
        # what is smaller than float32's normal numbers has too few bits to be a scale
        scale = max(scale, float(np.finfo(np.float32).tiny)) if scale else 1.0
        return cls(scale, round(-low / scale))

    @property
    def bound(self) -> float:
        """The largest value it holds."""
        return self.scale * (255 - self.zero_point)

    def integers(self, values: Tensor) -> Tensor:
        """The nearest integers of the grid, uint8."""
        return (values / self.scale).add_(self.zero_point).round_().clamp_(0, 255).byte()

    def reals(self, integers: Tensor) -> Tensor:
        """What integers of the grid stand for, float32."""
        return (integers.float() - self.zero_point) * self.scale


@dataclass(frozen=True)
class Weights:
    """A layer's integers.

    Attributes:
        values: int8, the shape of the layer's weight.
        scales: float32 ``[out_channels]``.
        bias: int32 ``[out_channels]``, at scale ``input scale * scales``.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.int32]
