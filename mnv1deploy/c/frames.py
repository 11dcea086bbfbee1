"""Writes the C that makes the network's picture of a camera's frame, for one network and one kind of frame."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from string import Template

from mnv1deploy.c import CAMERA, packages
from mnv1deploy.c.arrays import array
from mnv1deploy.c.names import identifier
from mnv1deploy.c.resampling import WEIGHT_BITS, Window, windows
from mnv1deploy.camera import Camera
from mnv1deploy.images import square
from mnv1deploy.spec import ModelSpec, Pixels


@dataclass(frozen=True)
class Reduction:
    """What is read of a frame, and how it becomes the network's picture.

    Attributes:
        across, down: where each column and each row of the picture comes from, in pixels of what is read.
        left, top, columns: the part of the frame that is read; ``down`` says how many rows.
        colours: 3 or 1, of what is resized: luma is made into RGB afterwards.
    """

    across: tuple[Window, ...]
    down: tuple[Window, ...]
    left: int
    top: int
    columns: int
    colours: int

    @property
    def held(self) -> int:
        """Rows, already as wide as the picture, that are kept until those below them come."""
        return max(len(window.weights) for window in self.down)


def reduction(camera: Camera, pixels: Pixels) -> Reduction:
    """The same windows as those of :func:`mnv1deploy.images.read` on what the camera's frame is."""
    x, y, width, height = camera.region
    rule, size = pixels.preprocessing, pixels.size
    if (width, height) == (size, size):
        across = down = [Window(place, (2**WEIGHT_BITS,)) for place in range(size)]
    else:
        left, top, right, bottom = square(width, height, rule.crop)
        across = windows(width, size, left, right, rule.resize)
        down = windows(height, size, top, bottom, rule.resize)
    first = x + min(window.first for window in across)
    last = x + max(window.end for window in across)
    if camera.pixels.kind in ("yuv422", "yuv420"):  # pairs share their colours
        first, last = first // 2 * 2, -(-last // 2) * 2
    above = down[0].first
    return Reduction(
        tuple(Window(window.first + x - first, window.weights) for window in across),
        tuple(Window(window.first - above, window.weights) for window in down),
        first,
        y + above,
        last - first,
        min(pixels.colours, camera.pixels.colours),
    )


def scratch_bytes(found: Reduction, size: int) -> int:
    """What the C needs besides the frame and the picture: the rows it keeps, and a row of the frame."""
    return (found.held * size + found.columns) * found.colours


README = Template(
    "`${name}_camera.c` and `.h` make that picture of a camera's frame, $camera ($meaning), with "
    "`${name}_read_frame(frame, ${NAME}_FRAME_STRIDE, image, scratch)`. It takes $what, in integers, with the bits "
    "that mnv1deploy has of the same pixels: resize it in no other way."
)
"""What the folder's README says of it."""


def write(folder: Path, camera: Camera, spec: ModelSpec, title: str, network_scratch: int) -> str:
    """Writes ``<name>_camera.h`` and ``.c`` into the folder of an exported network; returns its README's paragraph."""
    pixels, name = spec.pixels, identifier(spec.name)
    found = reduction(camera, pixels)
    left, top, width, height = camera.region
    rule = pixels.preprocessing
    part = "" if camera.crop is None else f"the {width} x {height} pixels at {left}, {top}, of them "
    whole = (width, height) == (pixels.size, pixels.size)
    kept = "" if rule.crop == 1 else f", {100 * rule.crop:g} % of its side"
    scratch = scratch_bytes(found, pixels.size)
    values = {
        "name": name,
        "NAME": name.upper(),
        "title": title,
        "camera": str(camera),
        "meaning": camera.pixels.meaning,
        "what": part + ("as they are" if whole else f"the centred square{kept}, resized ({rule.resize})"),
        "planes": "; rows of colour differences follow at once" if camera.pixels.kind == "yuv420" else "",
        "width": camera.width,
        "height": camera.height,
        "stride": camera.stride,
        "frame_bytes": camera.frame_bytes,
        "frame_scratch": scratch,
        "too_small": "" if scratch <= network_scratch else " not: it is smaller",
        "left": found.left,
        "top": found.top,
        "columns": found.columns,
        "read_colours": found.colours,
        "swapped": int(camera.pixels.swapped),
        "limited": int(camera.pixels.limited),
        "resize": (CAMERA / "resize.c").read_text("utf-8"),
        "converters": "".join(
            (CAMERA / file).read_text("utf-8") + "\n" for file in ("colours.c", f"{camera.pixels.kind}.c")
        ),
        "held": found.held,
        "tables": "\n".join(_tables(found)),
    }
    for file in ("camera.h", "camera.c"):
        text = Template((CAMERA / file).read_text("utf-8")).substitute(values)
        (folder / f"{name}_{file}").write_text(text, "utf-8", newline="\n")
    packages.write_file(folder, "camera.rs", "rust/camera.rs", values)
    return f"\n{textwrap.fill(README.substitute(values), 120, break_on_hyphens=False)}\n"


def _tables(found: Reduction) -> Iterator[str]:
    """Windows with the same weights share them."""
    places: dict[tuple[int, ...], int] = {}
    end = 0
    for window in chain(found.across, found.down):
        if window.weights not in places:
            places[window.weights] = end
            end += len(window.weights)
    yield from array("int32_t", "weights", list(chain.from_iterable(places)), per_line=10, aligned=False)
    for name, axis in (("across", found.across), ("down", found.down)):
        yield from array("Window", name, _rows(axis, places), per_line=6, aligned=False)


def _rows(axis: Sequence[Window], places: dict[tuple[int, ...], int]) -> list[str]:
    return [f"{{{window.first}, {len(window.weights)}, {places[window.weights]}}}" for window in axis]
