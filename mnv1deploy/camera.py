"""A camera's frames: what their bytes mean, and the picture that they are.

The C that :mod:`mnv1deploy.c` writes for a camera makes the same pixels of a frame as :meth:`Camera.decode` does, and
the same input of the network as :func:`mnv1deploy.images.read` makes of those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv1deploy.decoding import MAX_SIDE
from mnv1deploy.errors import MnvError

Kind = Literal["grey", "rgb888", "rgb565", "yuv422", "yuv420"]

_CAMERA = re.compile(r"(\d+)x(\d+):([\w-]+)(?::(\d+)x(\d+)\+(\d+)\+(\d+))?", re.ASCII)


@dataclass(frozen=True)
class PixelFormat:
    """How pixels lie in memory. A row follows the other; of yuv420, pairs of colour differences follow all luma.

    Attributes:
        kind: which of the layouts.
        meaning: in words, for people.
        swapped: of two things that may come in either order, what is usual comes second: blue before red, the byte
            with red before the other, colour differences before luma (422), red's before blue's (420).
        limited: whether luma is 16 to 235 and colour differences are 16 to 240, instead of 0 to 255.
    """

    kind: Kind
    meaning: str
    swapped: bool = False
    limited: bool = False

    @property
    def bytes_per_pixel(self) -> int:
        """In a row; colour differences of yuv420, which are half as many bytes again, are in rows of their own."""
        return {"grey": 1, "rgb888": 3, "rgb565": 2, "yuv422": 2, "yuv420": 1}[self.kind]

    @property
    def colours(self) -> int:
        """1 for grey, which has no others, else 3."""
        return 1 if self.kind == "grey" else 3


_YCBCR: tuple[tuple[str, Kind, str, bool], ...] = (
    ("yuyv", "yuv422", "Y Cb Y Cr for two pixels", False),
    ("uyvy", "yuv422", "Cb Y Cr Y for two pixels", True),
    ("nv12", "yuv420", "all Y, then Cb Cr for each two by two pixels", False),
    ("nv21", "yuv420", "all Y, then Cr Cb for each two by two pixels", True),
)

FORMATS = {
    "grey": PixelFormat("grey", "a byte of luma"),
    "rgb888": PixelFormat("rgb888", "red, green, blue"),
    "bgr888": PixelFormat("rgb888", "blue, green, red", swapped=True),
    "rgb565": PixelFormat("rgb565", "16 bits, red in the upper 5, the lower byte first"),
    "rgb565be": PixelFormat("rgb565", "16 bits, red in the upper 5, the upper byte first, as sent", swapped=True),
    **{name: PixelFormat(kind, f"{order}; 0 to 255, as in JPEG", swapped) for name, kind, order, swapped in _YCBCR},
    **{
        f"{name}-limited": PixelFormat(kind, f"{order}; luma from 16 to 235", swapped, limited=True)
        for name, kind, order, swapped in _YCBCR
    },
}
"""By name. YCbCr is ITU-R BT.601's."""


@dataclass(frozen=True)
class Camera:
    """Frames of one size and pixel format.

    Attributes:
        width, height: in pixels.
        format: a name in FORMATS.
        crop: left, top, width and height of the part of the frame that is the picture; None for all of it.

    Raises:
        MnvError: for a format that there is none of, and sizes that it cannot have.
    """

    width: int
    height: int
    format: str
    crop: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise MnvError(f"There is no pixel format {self.format}.", f"There are {', '.join(FORMATS)}.")
        if not (0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE):
            raise MnvError(f"A frame has 1 to {MAX_SIDE:,} pixels on a side, not {self.width}x{self.height}.")
        kind = self.pixels.kind
        if (kind in ("yuv422", "yuv420") and self.width % 2) or (kind == "yuv420" and self.height % 2):
            even = "an even width" if kind == "yuv422" else "an even width and height"
            raise MnvError(f"A frame in {self.format} has {even}, not {self.width}x{self.height}.")
        left, top, width, height = self.region
        if width < 1 or height < 1 or left + width > self.width or top + height > self.height:
            raise MnvError(
                f"A part of {width}x{height} pixels at {left}, {top} is not inside {self.width}x{self.height}."
            )

    @classmethod
    def parse(cls, text: str) -> Camera:
        """From ``WIDTHxHEIGHT:FORMAT``, or ``WIDTHxHEIGHT:FORMAT:WIDTHxHEIGHT+LEFT+TOP`` with a part of the frame."""
        found = _CAMERA.fullmatch(text.strip())
        if not found:
            raise MnvError(
                f"{text!r} does not say what a camera's frames are.",
                "Write size and pixel format, 320x240:rgb565, and behind them the part of the frame that is the "
                f"picture, if it is not all: 320x240:rgb565:240x240+40+0. Formats are {', '.join(FORMATS)}.",
            )
        width, height, format, *crop = found.groups()
        if crop[0] is None:
            return cls(int(width), int(height), format.lower())
        inner_width, inner_height, left, top = map(int, crop)
        return cls(int(width), int(height), format.lower(), (left, top, inner_width, inner_height))

    def __str__(self) -> str:
        """As :meth:`parse` reads it."""
        part = "" if self.crop is None else ":{2}x{3}+{0}+{1}".format(*self.crop)
        return f"{self.width}x{self.height}:{self.format}{part}"

    @property
    def pixels(self) -> PixelFormat:
        """How its pixels lie in memory."""
        return FORMATS[self.format]

    @property
    def region(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of what is the picture."""
        return self.crop or (0, 0, self.width, self.height)

    @property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        return self.width * self.pixels.bytes_per_pixel

    @property
    def frame_bytes(self) -> int:
        """Of a whole frame."""
        return self.stride * self.height * (3 if self.pixels.kind == "yuv420" else 2) // 2

    def decode(self, frame: bytes | bytearray | memoryview | NDArray[np.uint8], colours: int = 3) -> NDArray[np.uint8]:
        """A frame's picture, uint8 ``[height, width, colours]``: RGB, or luma.

        RGB565 and YCbCr become RGB, and RGB becomes luma, as in Pillow; of two or four pixels that share colour
        differences all have them as they are. Luma of YCbCr is its Y.

        Args:
            frame: its bytes, rows without anything between them.
            colours: 3 or 1.

        Raises:
            MnvError: for another number of bytes than :attr:`frame_bytes`.
        """
        values = np.frombuffer(np.ascontiguousarray(frame) if isinstance(frame, np.ndarray) else frame, np.uint8)
        if values.size != self.frame_bytes:
            raise MnvError(f"A frame of {self} has {self.frame_bytes:,} bytes, not {values.size:,}.")
        image = self._image(values)
        if image.mode == "YCbCr" and colours == 1:
            picture = np.asarray(image)[:, :, :1]
        else:
            picture = np.asarray(image.convert("RGB" if colours == 3 else "L")).reshape(self.height, self.width, -1)
        left, top, width, height = self.region
        return picture[top : top + height, left : left + width]

    def _image(self, values: NDArray[np.uint8]) -> Image.Image:
        """The whole frame, in the mode that it is nearest to."""
        kind, swapped, size = self.pixels.kind, self.pixels.swapped, (self.width, self.height)
        if kind == "grey":
            return Image.frombytes("L", size, values.tobytes())
        if kind == "rgb888":
            return Image.frombytes("RGB", size, values.tobytes(), "raw", "BGR" if swapped else "RGB")
        if kind == "rgb565":
            words = values.reshape(-1, 2)[:, ::-1] if swapped else values
            return Image.frombytes("RGB", size, words.tobytes(), "raw", "BGR;16")
        if kind == "yuv422":
            pairs = values.reshape(self.height, self.width // 2, 2, 2)
            luma, differences = (pairs[..., 1], pairs[..., 0]) if swapped else (pairs[..., 0], pairs[..., 1])
            luma = luma.reshape(self.height, self.width)
        else:
            luma, rest = np.split(values, [self.width * self.height])
            luma = luma.reshape(self.height, self.width)
            differences = rest.reshape(self.height // 2, self.width // 2, 2).repeat(2, 0)
            differences = differences[..., ::-1] if swapped else differences
        planes = np.dstack([luma, differences.repeat(2, 1)])
        return Image.frombytes("YCbCr", size, (widened(planes) if self.pixels.limited else planes).tobytes())


def widened(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """YCbCr of 16 to 235 and 16 to 240, uint8 ``[..., 3]``, as YCbCr of 0 to 255; halves are rounded up."""
    values = planes.astype(np.int64)
    luma = ((values[..., :1] - 16) * 510 + 219) // 438
    differences = ((values[..., 1:] - 128) * 510 + 224) // 448 + 128
    return np.concatenate([luma, differences], -1).clip(0, 255).astype(np.uint8)
