"""From logits to probabilities, and how far these can be relied on: of answers given with 80 %, 80 % should be right.

Networks are mostly too sure of themselves, or, taught by soft targets, not sure enough. Temperature scaling (Guo et
al., arXiv 1706.04599) mends that by one number that the logits are divided by; which class is likeliest stays the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""As in arXiv 1706.04599."""

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures looked among."""

PRIOR = 30
"""Pictures that count as much as the network's own opinion: few pictures, all of them right, make it no oracle."""

DIGITS = 4
"""Decimals of a temperature that is kept; the likelihood is flat around its best."""


def probabilities(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """The softmax of ``logits / temperature``: ``[N, classes]`` -> float64 ``[N, classes]``, every row's sum 1."""
    scaled = logits.astype(np.float64) / temperature
    odds = np.exp(scaled - scaled.max(1, keepdims=True))
    result: NDArray[np.float64] = odds / odds.sum(1, keepdims=True)
    return result


def fitted_temperature(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The temperature under which the labels are likeliest, :data:`LOWEST` to :data:`HIGHEST`.

    As if :data:`PRIOR` more pictures had shown that the network at temperature 1 is right as often as it says: with
    thousands of pictures that changes nothing, with a few the answer stays near 1, and without any it is 1.

    Args:
        logits: ``[N, classes]``, of pictures that the network was not trained on.
        labels: int64 ``[N]``.
    """
    count, classes = logits.shape
    if not count or classes < 2:
        return 1.0
    values = logits.astype(np.float64)
    own = (probabilities(values) * values).sum(1).mean()
    target = (count * values[np.arange(count), labels].mean() + PRIOR * own) / (count + PRIOR)

    def slope(temperature: float) -> float:
        """Of the mean log-likelihood by 1 / temperature, in which it is concave."""
        return float(target - (probabilities(values, temperature) * values).sum(1).mean())

    cold, hot = math.log(LOWEST), math.log(HIGHEST)
    while hot - cold > 10**-DIGITS / HIGHEST:
        middle = (cold + hot) / 2
        cold, hot = (cold, middle) if slope(math.exp(middle)) > 0 else (middle, hot)
    return round(math.exp(hot), DIGITS)


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The expected calibration error of arXiv 1706.04599, as a fraction.

    Top-1 answers are put into :data:`BINS` bins of equal width by their probability; the error is the mean distance of
    a bin's accuracy from its mean probability, by how many answers it has.

    Args:
        probabilities: float64 ``[N, classes]``, N above 0.
        labels: int64 ``[N]``.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.ceil(confidence * BINS).astype(int)  # (0, 1/15], (1/15, 2/15], ...
    excess = np.bincount(bins, right - confidence, BINS + 1)
    return float(np.abs(excess).sum() / len(labels))
