"""The tables with which camera/resize.c has the bits of Pillow's ``Image.resize``.

Pillow computes in double precision which pixels of the source make one of the result and with what weights, rounds
those to fractions of 2^22, and goes on in integers (src/libImaging/Resample.c of github.com/python-pillow/Pillow).
The same is done here, operation by operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mnv1deploy.spec import Filter

WEIGHT_BITS = 22
"""Weights are fractions of 2^22; WEIGHT_BITS of camera/resize.c."""


@dataclass(frozen=True)
class Window:
    """Where one pixel of the result comes from on one axis.

    Attributes:
        first: of the source's pixels.
        weights: of that one and of those behind it, in fractions of 2^WEIGHT_BITS.
    """

    first: int
    weights: tuple[int, ...]

    @property
    def end(self) -> int:
        """The first of the source's pixels behind it."""
        return self.first + len(self.weights)


def windows(source: int, size: int, start: float, end: float, filter: Filter) -> list[Window]:
    """Of ``size`` pixels that are made of what lies between ``start`` and ``end`` of ``source`` pixels.

    The filter may reach beyond both as far as there are pixels, as Pillow's ``box`` does.
    """
    # a box is handed over as float32, and its length computed in it
    left, right = np.float32(start), np.float32(end)
    scale = float(right - left) / size
    if filter == "nearest":
        return _nearest(source, size, float(left), scale)
    weight, reach = _FILTERS[filter]
    stretch = max(scale, 1.0)
    support, shrink = reach * stretch, 1.0 / stretch
    found = []
    for place in range(size):
        center = float(left) + (place + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), source)
        weights = [weight((x - center + 0.5) * shrink) for x in range(first, last)]
        found.append(Window(first, tuple(_rounded(weights))))
    return found


def _rounded(weights: Sequence[float]) -> list[int]:
    """In fractions of 2^WEIGHT_BITS, with a sum of about that; halves away from zero."""
    total = 0.0
    for value in weights:  # one after the other: not sum(), which Python 3.12 compensates
        total += value
    shares = [value / total if total else value for value in weights]
    return [int(share * 2**WEIGHT_BITS + math.copysign(0.5, share)) for share in shares]


def _nearest(source: int, size: int, start: float, scale: float) -> list[Window]:
    found, place = [], start + scale * 0.5
    for _ in range(size):
        found.append(Window(min(int(place), source - 1), (2**WEIGHT_BITS,)))
        place += scale
    return found


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def _bilinear(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _hamming(x: float) -> float:
    # its constants are float32
    if abs(x) >= 1.0:
        return 0.0
    return _sinc(x) * (float(np.float32(0.54)) + float(np.float32(0.46)) * math.cos(abs(x) * math.pi))


def _bicubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


_FILTERS: dict[Filter, tuple[Callable[[float], float], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Each filter's weight at a distance, and how far it reaches, in pixels of the smaller of the two."""
