"""Accuracy of an imported network on labelled pictures that come with the package, and what would better it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mnv1deploy import datasets
from mnv1deploy.artifact import Accuracy
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.importing.families import NORMALIZATIONS
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR10_CLASSES, Normalization, cifar10_order
from mnv1deploy.verification import chance, logits

AS_GIVEN = "as given"


@dataclass(frozen=True)
class Trial:
    """What a network makes of the bundled pictures under one normalisation.

    Attributes:
        answers: int64 ``[N]``, the class of each.
        accuracy: how many of them are right.
    """

    answers: NDArray[np.int64]
    accuracy: Accuracy


def labelled(network: MobileNetV1) -> datasets.Dataset | None:
    """The bundled training pictures at the network's size, labelled in its order; None for other classes or grey."""
    if cifar10_order(network.spec.classes) is None or network.spec.colours != 3:
        return None
    return datasets.resized(datasets.calibration(), network.spec.pixels).labelled_for(network.spec.classes)


@torch.inference_mode()
def _predicted(network: MobileNetV1, images: NDArray[np.uint8], normalization: Normalization) -> NDArray[np.int64]:
    other = MobileNetV1(network.spec.replace(normalization=normalization)).eval()
    other.load_state_dict(network.state_dict())
    session = TorchSession(other.folded(), other.spec, "cpu", None)
    found: NDArray[np.int64] = logits(session, images).argmax(1).astype(np.int64)
    return found


def try_normalizations(network: MobileNetV1, pictures: datasets.Dataset) -> dict[str, Trial]:
    """The pictures of :func:`labelled` under every normalisation in common use, and "as given".

    A wrong normalisation costs accuracy without any error, and this is how it shows.
    """
    trials: dict[Normalization, Trial] = {}
    candidates = {AS_GIVEN: network.spec.normalization, **NORMALIZATIONS}
    for candidate in candidates.values():
        if candidate not in trials:  # as given is one of the others, most often
            answers = _predicted(network, pictures.images, candidate)
            top1 = float((answers == pictures.labels).mean())
            trials[candidate] = Trial(answers, Accuracy(top1, len(pictures), pictures.name))
    return {name: trials[candidate] for name, candidate in candidates.items()}


def doubts(network: MobileNetV1, pictures: datasets.Dataset, trials: Mapping[str, Trial]) -> list[tuple[str, str]]:
    """What looks wrong with a network, given :func:`try_normalizations`: sentences and what to do about them."""
    given = trials[AS_GIVEN]
    own, best = given.accuracy.top1, max(trial.accuracy.top1 for trial in trials.values())
    found = []
    swapped = _predicted(network, pictures.images[..., ::-1], network.spec.normalization)
    blue_first = float((swapped == pictures.labels).mean())
    right = {name: trial.answers == pictures.labels for name, trial in trials.items()}
    better = {
        name: trial.accuracy.top1
        for name, trial in trials.items()
        if trial.accuracy.top1 > own and trial.accuracy.top1 - own > chance(right[name], right[AS_GIVEN])
    }
    if blue_first > max(own + 0.02, best):  # then a normalisation that fits better only makes up for the colours
        found.append(
            (
                f"With blue first and red last it has a top-1 of {blue_first:.1%}, and {own:.1%} with red first.",
                "It was trained on BGR pictures, as OpenCV reads them: give --bgr.",
            )
        )
    elif better and best > 0.3:
        likely = " or ".join(name for name, top1 in better.items() if top1 > best - 0.01)
        found.append(
            (
                f"With --normalization {likely} it has a top-1 of about {best:.0%} on the same images: "
                f"{best:.1%}, and {own:.1%} as it is.",
                "Was it trained with another normalisation than that? Give it, with --force to write the file again.",
            )
        )
    if best < 0.3:
        answers = given.answers
        counts = np.zeros((len(CIFAR10_CLASSES),) * 2, int)
        np.add.at(counts, (answers, pictures.labels), 1)
        order = counts.argmax(1)
        if len(set(order.tolist())) == len(order) and counts.max(1).sum() > 0.5 * len(pictures):
            names = ",".join(pictures.classes[i] for i in order)
            found.append(
                (
                    "Its outputs are in another order than its classes: in theirs "
                    f"{counts.max(1).sum() / len(pictures):.1%} are right.",
                    f"Give --classes {names}",
                )
            )
        elif len(set(answers.tolist())) <= 2 or best < 0.2:
            found.append(
                (
                    f"Its top-1 is {own:.1%} on pictures of its classes, and guessing has 10 %.",
                    "Are the weights trained, and its classes CIFAR-10's?",
                )
            )
    return found
