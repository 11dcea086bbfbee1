"""Parity and accuracy: an artifact against the checkpoint it came from, on the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.artifact import Accuracy, Precision, Proof
from mnv1deploy.confidence import calibration_error, probabilities
from mnv1deploy.cost import pictures_at_once
from mnv1deploy.datasets import Dataset
from mnv1deploy.errors import MnvError
from mnv1deploy.evidence import Evidence
from mnv1deploy.formats.base import Images, Logits, Session

BATCH = 64
"""Pictures at a time: PyTorch answers them in a third of the time that it takes for as many in batches of 512, whose
activations the system gives it and zeroes anew."""


@dataclass(frozen=True)
class Limits:
    """What an artifact must reach.

    Attributes:
        max_logit_difference: largest, on any picture.
        agreement: least fraction of pictures with the same top-1 class.
        accuracy_loss: largest, as a fraction.
        noise: largest, on pictures like those the network was made for; see :func:`logit_noise`.
        bundled_noise: largest, on the bundled pictures, whatever it was made for.
    """

    max_logit_difference: float
    agreement: float
    accuracy_loss: float
    noise: float
    bundled_noise: float


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(1e-4, 1.0, 0.0, 1e-3, 1e-3),
    "fp16": Limits(math.inf, 0.995, 0.003, 0.02, 0.02),
    "int8": Limits(math.inf, 0.985, 0.003, 0.25, 0.45),
}

MANY_CLASSES = 100
"""From so many on some are always nearly alike, and the field looks at the five best (arXiv 1409.0575)."""

FULL_SPLIT = 10_000
"""From this many images on the limits on agreement and on the loss of accuracy are applied as they are."""

COMMONEST = 0.9
"""Agreement says nothing where a larger fraction of the pictures has one and the same top-1 class."""


@dataclass(frozen=True)
class Evaluation:
    """A session's answers on a labelled data set.

    Attributes:
        dataset: the data set.
        logits: float32 ``[N, classes]``.
        temperature: of the session's spec.
    """

    dataset: Dataset
    logits: Logits
    temperature: float = 1.0

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """int64 ``[N]``, the top-1 classes."""
        result: NDArray[np.int64] = self.logits.argmax(1).astype(np.int64)
        return result

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

    def calibration_error(self, temperature: float | None = None) -> float:
        """The expected calibration error as a fraction; at the spec's temperature, or another."""
        shares = probabilities(self.logits, self.temperature if temperature is None else temperature)
        return calibration_error(shares, self.dataset.labels)


def logits(session: Session, images: Images, on_batch: Callable[[int], None] = lambda count: None) -> Logits:
    """All logits, float32 ``[N, classes]``; ``on_batch`` is told how many images each batch had."""
    parts = []
    at_once = pictures_at_once(session.spec, BATCH)
    for start in range(0, len(images), at_once):
        batch = np.ascontiguousarray(images[start : start + at_once])
        parts.append(session(batch))
        on_batch(len(batch))
    return np.concatenate(parts)


def evaluate(session: Session, dataset: Dataset, on_batch: Callable[[int], None] = lambda count: None) -> Evaluation:
    """Runs every picture. Raises MnvError if the data set has other classes than the network."""
    dataset = dataset.labelled_for(session.spec.classes)
    check_classes(session, dataset)
    return Evaluation(dataset, logits(session, dataset.images, on_batch), session.spec.temperature)


def check_classes(session: Session, dataset: Dataset) -> None:
    """Raises MnvError if the data set has other classes than the network."""
    if dataset.classes != session.spec.classes:
        raise MnvError(
            f"The network knows {len(session.spec.classes)} classes ({', '.join(session.spec.classes[:3])}, ...), "
            f"but {dataset.name} has {len(dataset.classes)} ({', '.join(dataset.classes[:3])}, ...).",
            "Name the data it was trained on with --data.",
        )


class Prover:
    """A checkpoint's own answers, computed once, to prove any number of artifacts against.

    Args:
        session: of the checkpoint.
        evidence: the pictures to compare on.
    """

    def __init__(self, session: Session, evidence: Evidence) -> None:
        self._evidence = evidence
        self._unseen = logits(session, evidence.unseen.images)
        self._bundled = logits(session, evidence.bundled.images) if evidence.bundled else None
        self._synthetic = logits(session, evidence.synthetic.images)
        if evidence.labelled is not None:
            check_classes(session, evidence.labelled)

    def prove(self, session: Session, precision: Precision) -> tuple[Proof, list[str]]:
        """The proof of an artifact, and a sentence for every limit of its precision that it breaks.

        Chance is allowed for: on fewer than FULL_SPLIT pictures the limit on agreement is widened by two standard
        errors of a fraction, sqrt(limit * (1 - limit) / pictures), and a half picture, and the limit on the loss of
        accuracy by two of the paired difference, sqrt(images that only one of the two gets right) / images (McNemar
        1947). Where the checkpoint itself all but ties, either class counts as the same. With
        MANY_CLASSES or more, the limits below 1 are on the checkpoint's class being among the five best.
        """
        limits, evidence = LIMITS[precision], self._evidence
        answers = logits(session, evidence.unseen.images)
        compared = [(answers, self._unseen), (logits(session, evidence.synthetic.images), self._synthetic)]
        if evidence.bundled and self._bundled is not None:
            compared.append((logits(session, evidence.bundled.images), self._bundled))
        difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in compared)
        noise, _, *bundled_noise = (logit_noise(ours, theirs) for ours, theirs in compared)
        exact = limits.max_logit_difference if math.isfinite(limits.max_logit_difference) else 0.0
        ties = _margin(self._unseen) <= 2 * exact
        same = (answers.argmax(1) == self._unseen.argmax(1)) | ties
        agreement = float(same.mean()) if answers_vary(self._unseen) else None
        failures = []
        if not difference <= limits.max_logit_difference:
            failures.append(
                f"a logit differs by {difference:.2g}; {precision} allows {limits.max_logit_difference:.0e}"
            )
        judged = [(evidence.unseen, noise, limits.noise)]
        judged += [(evidence.bundled, found, limits.bundled_noise) for found in bundled_noise if evidence.bundled]
        for pictures, found, most in judged:
            if not found <= most:
                failures.append(f"noise is {found:.1%} of the logits on {pictures.name}; {precision} allows {most:.1%}")
        count = len(answers)
        if agreement is not None:
            needed = limits.agreement
            if count < FULL_SPLIT and needed < 1:
                needed -= 2 * math.sqrt(needed * (1 - needed) / count) + 0.5 / count
            if needed < 1 and self._unseen.shape[1] >= MANY_CLASSES:
                best = np.argpartition(answers, -5, 1)[:, -5:]
                judged_by, found = "top-5", float((best == self._unseen.argmax(1)[:, None]).any(1).mean())
            else:
                judged_by, found = "top-1", agreement
            if found < needed - 1e-9:
                failures.append(f"{judged_by} agreement is {found:.2%}; {precision} needs {needed:.1%}")
        besides = [pictures.name for pictures in (evidence.bundled, evidence.synthetic) if pictures]
        proof = Proof(evidence.unseen.name, count, difference, agreement, None, None, noise, " and ".join(besides))
        if evidence.labelled is not None:
            before = Evaluation(evidence.labelled, self._unseen)
            after = Evaluation(evidence.labelled, answers)
            proof = replace(proof, accuracy=after.accuracy, checkpoint_accuracy=before.accuracy)
            loss = before.accuracy.top1 - after.accuracy.top1
            allowed = limits.accuracy_loss + np.count_nonzero(ties) / count
            if count < FULL_SPLIT:
                allowed += chance(after.correct, before.correct)
            if loss > allowed + 1e-9:
                failures.append(f"accuracy falls by {100 * loss:.2f} points; {precision} allows {100 * allowed:.2f}")
        return proof, failures


def chance(correct: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """What chance makes of the difference of two accuracies on the same pictures: two standard errors (McNemar 1947).

    Args:
        correct, other: which pictures each of the two gets right, bool ``[N]``.
    """
    return 2 * math.sqrt(np.count_nonzero(correct != other)) / len(correct)


def answers_vary(answers: Logits) -> bool:
    """Whether agreement with them says anything: the commonest top-1 class has no more than COMMONEST of them."""
    return bool(np.bincount(answers.argmax(1)).max() <= COMMONEST * len(answers))


def logit_noise(answers: Logits, expected: Logits) -> float:
    """The root mean square of the difference of logits over that of the expected ones; 0 where they are equal.

    Each picture's mean is left out of both, since softmax does not see it.
    """
    error, signal = (x - x.mean(1, keepdims=True) for x in ((answers - expected).astype(float), expected.astype(float)))
    return float(np.sqrt(np.square(error).sum() / max(np.square(signal).sum(), 1e-30)))


def _margin(answers: Logits) -> NDArray[np.float32]:
    """By how much the largest logit of each picture is above the second, float32 ``[N]``."""
    if answers.shape[1] < 2:
        return np.full(len(answers), np.inf, np.float32)
    ordered = np.partition(answers, -2, 1)
    margin: NDArray[np.float32] = ordered[:, -1] - ordered[:, -2]
    return margin
