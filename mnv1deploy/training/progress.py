"""What a run tells of itself: after every step, and after every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """What a progress bar needs after every step; the tensors are on the device and cost a wait to read.

    Attributes:
        epoch: from 1.
        step, steps: done in this epoch, and in all of it; 0 done before teachers answer, if there are any.
        loss, accuracy: means over this epoch so far, scalars.
        images_per_second: of this epoch so far.
    """

    epoch: int
    step: int
    steps: int
    loss: Tensor
    accuracy: Tensor
    images_per_second: float


@dataclass(frozen=True)
class Epoch:
    """One line of the log. Accuracies are fractions; ``holdout_accuracy`` is of the averaged weights."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    holdout_accuracy: float | None
    images_per_second: float
    seconds: float
