"""What an export is told of the device that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mnv1deploy.camera import Camera
from mnv1deploy.errors import MnvError

Weights = Literal["text", "binary"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)


@dataclass(frozen=True)
class Device:
    """A microcontroller and what is connected to it, as far as it is known.

    Attributes:
        camera: whose frames the network is to classify.
        weights: "text" in the source, or "binary" in a file beside it, a quarter of the size.
    """

    camera: Camera | None = None
    weights: Weights = "text"

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise MnvError(f"There is no form {self.weights!r} of weights.", f"There are {' and '.join(WEIGHTS)}.")


ANY_DEVICE = Device()
"""Nothing is known of it."""
