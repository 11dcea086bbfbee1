"""What an export is told of the device that it is for."""

from __future__ import annotations

from dataclasses import dataclass

from mnv1deploy.camera import Camera


@dataclass(frozen=True)
class Device:
    """A microcontroller and what is connected to it, as far as it is known.

    Attributes:
        camera: whose frames the network is to classify.
    """

    camera: Camera | None = None


ANY_DEVICE = Device()
"""Nothing is known of it."""
