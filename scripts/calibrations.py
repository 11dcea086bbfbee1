"""What int8 is worth by the pictures that it was calibrated on: good ones, few ones, and ones that show nothing.

    python scripts/calibrations.py      # the table of docs/quantization.md

The bundled network is calibrated on each kind and then answers 1,000 training images of CIFAR-10 that training held
out. Kinds that are drawn at random are drawn DRAWS times. None of the checks is asked that would refuse most of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnv1deploy import bundled, checkpoint, datasets, evidence
from mnv1deploy.quantization import quantize
from mnv1deploy.verification import logit_noise

DRAWS = 5
ANSWERED = 1000
CAT, DOG = 3, 5

Images = NDArray[np.uint8]
Draw = Callable[[np.random.Generator], Images]


USELESS = (
    *("20 black pictures", "20 grey ones", "one white picture", "20 of one colour each, all different"),
    *("200 of noise", "one real picture"),
)
FEW = ("the same with 20 kinds of faint noise", "2 real pictures", "4", "8")
"""Kinds that the checks on calibration pictures refuse; the others are enough."""


def _kinds(train: datasets.Dataset) -> dict[str, tuple[Draw, int]]:
    """How to draw pictures, and how often, by what they are called."""
    shape = train.images.shape[1:]

    def real(count: int, *labels: int) -> Draw:
        pool = np.flatnonzero(np.isin(train.labels, labels)) if labels else np.arange(len(train))
        return lambda generator: train.images[generator.choice(pool, count, replace=False)]

    def plain(count: int, value: int) -> tuple[Draw, int]:
        return lambda generator: np.full((count, *shape), value, np.uint8), 1

    def colours(generator: np.random.Generator) -> Images:
        return np.broadcast_to(generator.integers(0, 256, (20, 1, 1, 3), np.uint8), (20, *shape)).copy()

    def noise(generator: np.random.Generator) -> Images:
        return generator.integers(0, 256, (200, *shape), np.uint8)

    def near_copies(generator: np.random.Generator) -> Images:
        faint = generator.normal(0, 3, (20, *shape))
        return (real(1)(generator) + faint).round().clip(0, 255).astype(np.uint8)

    def dark(generator: np.random.Generator) -> Images:
        return real(100)(generator) // 4

    return {
        "20 black pictures": plain(20, 0),
        "20 grey ones": plain(20, 128),
        "one white picture": plain(1, 255),
        "20 of one colour each, all different": (colours, DRAWS),
        "200 of noise": (noise, DRAWS),
        "one real picture": (real(1), DRAWS),
        "the same with 20 kinds of faint noise": (near_copies, DRAWS),
        **{("2 real pictures" if count == 2 else f"{count}"): (real(count), DRAWS) for count in (2, 4, 8, 16)},
        "16 of one class": (real(16, CAT), DRAWS),
        "32 of two classes": (real(32, CAT, DOG), DRAWS),
        "40": (real(40), DRAWS),
        "100 of one class": (real(100, CAT), DRAWS),
        "100, a quarter as bright": (dark, DRAWS),
        "512": (real(512), 1),
    }


def rows() -> list[dict[str, Any]]:
    """For each kind what the int8 network gave at each draw, as fractions: accuracy, agreement and noise of its logits.

    The noise is :func:`mnv1deploy.verification.logit_noise`; "bundled_noise" is that on the bundled pictures which a
    proof compares logits on.
    """
    network = checkpoint.load(bundled.CHECKPOINT).network.folded()
    pixels = network.spec.pixels
    train = datasets.cifar10("train").split(0.05, 0, ("", ""))[0]
    held_out = datasets.load_unseen(None, pixels)
    images, labels = held_out.images[:ANSWERED], held_out.labels[:ANSWERED]

    shipped = evidence.bundled(network.spec).images
    shipped = shipped[:: len(shipped) // evidence.BUNDLED]

    def answers(net: torch.nn.Module, images: Images) -> NDArray[np.float32]:
        with torch.inference_mode():
            return net(torch.from_numpy(images)).numpy()

    expected, expected_shipped = answers(network, images), answers(network, shipped)
    found = []
    for name, (draw, times) in _kinds(train).items():
        draws = []
        for seed in range(times):
            quantized = quantize(network, draw(np.random.default_rng(seed)), name).simulated()
            given = answers(quantized, images)
            draws.append(
                {
                    "accuracy": float((given.argmax(1) == labels).mean()),
                    "agreement": float((given.argmax(1) == expected.argmax(1)).mean()),
                    "noise": logit_noise(given, expected),
                    "bundled_noise": logit_noise(answers(quantized, shipped), expected_shipped),
                }
            )
        worth = "useless" if name in USELESS else "few" if name in FEW else "enough"
        found.append({"pictures": name, "worth": worth, **{key: [one[key] for one in draws] for key in draws[0]}})
    return found


def main() -> None:
    """Prints what was found, a line for each kind."""
    for row in rows():
        print(*(f"{key} {value if isinstance(value, str) else np.round(value, 3)}" for key, value in row.items()))


if __name__ == "__main__":
    main()
