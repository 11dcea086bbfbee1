"""The values that every setting of training may have; apart from the settings, for help says them at every start."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The values that a setting may have: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


_ANY_AMOUNT = Range("0 or more", lambda value: 0 <= value < math.inf)
_ABOVE_ZERO = Range("above 0", lambda value: 0 < value < math.inf)
_FRACTION = Range("0 or more and below 1", lambda value: 0 <= value < 1)
_NETWORKS, _OPTIMIZERS, _SCHEDULES = ("mobilenetv1", "teacher"), ("sgd", "adamw"), ("one-cycle", "cosine")

RANGES = {
    "network": Range(" or ".join(_NETWORKS), _NETWORKS.__contains__),
    "pictures": _ANY_AMOUNT,
    "epochs": Range("1 or more", lambda value: value >= 1),
    "batch_size": Range("2 or more, for batch normalisation to compare", lambda value: value >= 2),
    "optimizer": Range(" or ".join(_OPTIMIZERS), _OPTIMIZERS.__contains__),
    "learning_rate": _ABOVE_ZERO,
    "momentum": _FRACTION,
    "muon": _ANY_AMOUNT,
    "muon_decay": _ANY_AMOUNT,
    "weight_decay": _ANY_AMOUNT,
    "schedule": Range(" or ".join(_SCHEDULES), _SCHEDULES.__contains__),
    "warmup": _FRACTION,
    "label_smoothing": _FRACTION,
    "ema": _FRACTION,
    "crop": _ANY_AMOUNT,
    "cutout": _ANY_AMOUNT,
    "zoom": Range("0 to 3", lambda value: 0 <= value <= 3),
    "sharpness": Range("0 to 5", lambda value: 0 <= value <= 5),
    "noise": Range("0 to 255", lambda value: 0 <= value <= 255),
    "altered": Range("0 to 1", lambda value: 0 <= value <= 1),
    "views": _ANY_AMOUNT,
    "teachers": _ANY_AMOUNT,
    "start_share": _FRACTION,
    "temperature": _ABOVE_ZERO,
    "holdout": _FRACTION,
    "seed": Range("0 to 4,294,967,295", lambda value: 0 <= value < 2**32),
}
"""By the name of the setting; those without a range may have any value of their type."""
