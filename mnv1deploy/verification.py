"""Parity and accuracy: an artifact against the checkpoint it came from, on the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.artifact import Accuracy, Precision, Proof
from mnv1deploy.datasets import Dataset
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Images, Logits, Session

BATCH = 250


@dataclass(frozen=True)
class Limits:
    """What an artifact must reach: largest logit difference, least agreement, largest loss of accuracy."""

    max_logit_difference: float
    agreement: float
    accuracy_loss: float


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(1e-4, 1.0, 0.0),
    "fp16": Limits(math.inf, 0.995, 0.003),
    "int8": Limits(math.inf, 0.985, 0.003),
}

FULL_SPLIT = 10_000
"""From this many labelled images on the limit on the loss of accuracy is applied as it is."""


@dataclass(frozen=True)
class Evaluation:
    """A session's answers on a labelled data set.

    Attributes:
        dataset: the data set.
        predicted: int64 ``[N]``, its top-1 classes.
    """

    dataset: Dataset
    predicted: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """bool ``[N]``."""
        result: NDArray[np.bool_] = self.predicted == self.dataset.labels
        return result

    @property
    def accuracy(self) -> Accuracy:
        """Top-1, with what it was measured on."""
        return Accuracy(float(self.correct.mean()), len(self.dataset), self.dataset.name)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """int64 ``[classes, classes]``: rows are the true classes, columns the predicted ones."""
        matrix = np.zeros((len(self.dataset.classes),) * 2, np.int64)
        np.add.at(matrix, (self.dataset.labels, self.predicted), 1)
        return matrix

    @property
    def class_accuracy(self) -> NDArray[np.float64]:
        """float64 ``[classes]``: the fraction of every class that is recognised; NaN for a class without a picture."""
        totals = self.confusion.sum(1)
        result: NDArray[np.float64] = np.divide(
            self.confusion.diagonal(), totals, out=np.full(len(totals), np.nan), where=totals > 0
        )
        return result


def logits(session: Session, images: Images, on_batch: Callable[[int], None] = lambda count: None) -> Logits:
    """All logits, float32 ``[N, classes]``; ``on_batch`` is told how many images each batch had."""
    parts = []
    for start in range(0, len(images), BATCH):
        batch = np.ascontiguousarray(images[start : start + BATCH])
        parts.append(session(batch))
        on_batch(len(batch))
    return np.concatenate(parts)


def evaluate(session: Session, dataset: Dataset, on_batch: Callable[[int], None] = lambda count: None) -> Evaluation:
    """Runs every picture. Raises MnvError if the data set has other classes than the network."""
    if dataset.classes != session.spec.classes:
        raise MnvError(
            f"The network knows {len(session.spec.classes)} classes ({', '.join(session.spec.classes[:3])}, ...), "
            f"but {dataset.name} has {len(dataset.classes)} ({', '.join(dataset.classes[:3])}, ...).",
            "Name the data it was trained on with --data.",
        )
    return Evaluation(dataset, logits(session, dataset.images, on_batch).argmax(1).astype(np.int64))


class Reference:
    """A checkpoint's own answers, computed once, to prove any number of artifacts against.

    Args:
        session: of the checkpoint.
        parity: pictures to compare logits on, uint8 ``[N, H, W, 3]``, and ``parity_name`` for the proof.
        labelled: pictures to compare accuracies on, if there are any.
    """

    def __init__(self, session: Session, parity: Images, parity_name: str, labelled: Dataset | None) -> None:
        self._parity, self._parity_name = parity, parity_name
        self._logits = logits(session, parity)
        self._evaluation = evaluate(session, labelled) if labelled else None

    def prove(self, session: Session, precision: Precision) -> tuple[Proof, list[str]]:
        """The proof of an artifact, and a sentence for every limit of its precision that it breaks.

        On fewer than FULL_SPLIT labelled images the limit on the loss of accuracy is widened by two standard errors
        of the paired difference, sqrt(images that only one of the two gets right) / images (McNemar 1947).
        """
        limits = LIMITS[precision]
        answers = logits(session, self._parity)
        difference = float(np.abs(answers - self._logits).max())
        agreement = float((answers.argmax(1) == self._logits.argmax(1)).mean())
        failures = []
        if not difference <= limits.max_logit_difference:
            failures.append(
                f"a logit differs by {difference:.2g}; {precision} allows {limits.max_logit_difference:.0e}"
            )
        if agreement < limits.agreement:
            failures.append(f"top-1 agreement is {agreement:.2%}; {precision} needs {limits.agreement:.1%}")
        proof = Proof(self._parity_name, len(self._parity), difference, agreement)
        if self._evaluation:
            ours = evaluate(session, self._evaluation.dataset)
            proof = Proof(
                self._parity_name, len(self._parity), difference, agreement, ours.accuracy, self._evaluation.accuracy
            )
            loss = self._evaluation.accuracy.top1 - ours.accuracy.top1
            count = ours.accuracy.images
            allowed = limits.accuracy_loss
            if count < FULL_SPLIT:
                allowed += 2 * math.sqrt(np.count_nonzero(ours.correct != self._evaluation.correct)) / count
            if loss > allowed + 1e-9:
                failures.append(f"accuracy falls by {100 * loss:.2f} points; {precision} allows {100 * allowed:.2f}")
        return proof, failures
