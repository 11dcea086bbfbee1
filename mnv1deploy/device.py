"""What an export is told of the device that it is for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from mnv1deploy.camera import Camera
from mnv1deploy.errors import MnvError

Weights = Literal["text", "binary"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)

_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(?:([KM])I?)?B?", re.ASCII | re.IGNORECASE)

UNITS = {"": 1, "K": 2**10, "M": 2**20}
"""As data sheets of microcontrollers have them: 64 KB of RAM are 65,536 bytes."""


def size(text: str) -> int:
    """Bytes: ``49152``, ``48K``, ``0.5M``; K is 1,024 of them, also where it is written KB or KiB.

    Raises:
        MnvError: for any other text, and for less than a byte or a part of one.
    """
    found = _SIZE.fullmatch(text.strip())
    number = float(found[1]) * UNITS[(found[2] or "").upper()] if found else 0.0
    if not 1 <= number < 2**53 or number % 1:
        raise MnvError(
            f"{text!r} is no size of a memory.", "Write bytes, or K for 1,024 and M for 1,048,576 of them: 48K, 0.5M."
        )
    return int(number)


@dataclass(frozen=True)
class Device:
    """A microcontroller and what is connected to it, as far as it is known.

    Attributes:
        camera: whose frames the network is to classify.
        weights: "text" in the source, or "binary" in a file beside it, a quarter of the size.
        ram, flash: bytes that a program with the network may take of each; None for any number. What a camera's
            frame and the code that reads it take is not part of them.
    """

    camera: Camera | None = None
    weights: Weights = "text"
    ram: int | None = None
    flash: int | None = None

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise MnvError(f"There is no form {self.weights!r} of weights.", f"There are {' and '.join(WEIGHTS)}.")

    @property
    def is_bounded(self) -> bool:
        """Whether the network has to fit anywhere."""
        return self.ram is not None or self.flash is not None


ANY_DEVICE = Device()
"""Nothing is known of it."""
