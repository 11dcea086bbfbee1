"""Pictures from anywhere -> uint8 ``[H, W, C]`` as the network takes them. Needs numpy and Pillow only."""

from __future__ import annotations

import glob
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mnv1deploy.errors import MnvError
from mnv1deploy.spec import Pixels

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
"""What a folder is searched for; a file named outright may have any name."""

STANDARD_INPUT = "-"

ImageSource = str | Path | bytes | Image.Image | NDArray[Any]
"""A path (or ``-``), an encoded file's bytes, a Pillow image, or an array ``[H, W]``, ``[H, W, 1|3|4]`` of uint8."""


def find(inputs: Iterable[str | Path]) -> list[str]:
    """Paths named by files, folders (searched recursively for pictures), glob patterns and ``-``, in order, once each.

    A file that does not exist is kept, to be reported where it is read; a folder or pattern without a picture in
    it raises MnvError.
    """
    found: dict[str, None] = {}
    for given in map(str, inputs):
        path = Path(given)
        if given == STANDARD_INPUT or path.is_file():
            matches = [given]
        elif path.is_dir():
            matches = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not matches:
                raise MnvError(
                    f"There is no picture in the folder {given}.", f"Looked for {', '.join(sorted(SUFFIXES))}."
                )
        elif glob.has_magic(given):
            matches = sorted(p for p in glob.glob(given, recursive=True) if Path(p).is_file())
            if not matches:
                raise MnvError(f"No file matches {given}.")
        else:
            matches = [given]
        found.update(dict.fromkeys(matches))
    return list(found)


def read(source: ImageSource, pixels: Pixels) -> NDArray[np.uint8]:
    """One picture as uint8 ``[H, W, C]``, RGB or grey (ITU-R 601 luma).

    EXIF orientation is applied, transparency laid over white, 16-bit scaled to 8, the first frame taken. The centred
    square that ``pixels.preprocessing`` keeps is resized with its filter; a picture that already has the size keeps
    its exact pixels.

    Raises:
        MnvError: if it cannot be read as a picture.
    """
    try:
        image = to_rgb(_open(source))
        if pixels.colours == 1:
            image = image.convert("L")
        image = _fitted(image, pixels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MnvError(f"{_name(source)} is too large a picture to open safely.", "Scale it down first.") from error
    except FileNotFoundError as error:
        raise MnvError(f"There is no file {_name(source)}.", "The paths are relative to the current folder.") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise MnvError(f"{_name(source)} cannot be read as a picture.", _reason(error)) from error
    return np.asarray(image).reshape(pixels.shape)


def read_all(sources: Sequence[ImageSource], pixels: Pixels) -> NDArray[np.uint8]:
    """Pictures stacked to uint8 ``[N, H, W, C]``. Raises MnvError at the first that cannot be read."""
    return np.stack([read(source, pixels) for source in sources])


def _fitted(image: Image.Image, pixels: Pixels) -> Image.Image:
    """The centred square that is kept, at the network's size."""
    size, rule = (pixels.size, pixels.size), pixels.preprocessing
    if image.size == size:
        return image
    return ImageOps.fit(image, size, Image.Resampling[rule.resize.upper()], bleed=(1 - rule.crop) / 2)


def to_rgb(image: Image.Image) -> Image.Image:
    """The first frame of any Pillow image, upright, as 8-bit RGB; see :func:`read`."""
    image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # 65535 / 255 = 257 exactly, so black stays black and white white
        image = Image.fromarray(((np.asarray(image).clip(0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255 if values.max(initial=0) <= 1 else 1
        image = Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _open(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        channels = source.shape[2:] or (1,)
        if source.dtype != np.uint8 or channels not in ((1,), (3,), (4,)) or 0 in source.shape[:2] or source.ndim < 2:
            raise ValueError(
                f"An array must be uint8 [H, W] or [H, W, 1, 3 or 4] with raw pixels 0..255; this one is "
                f"{source.dtype} {list(source.shape)}."
            )
        return Image.fromarray(source[:, :, 0] if source.ndim == 3 and source.shape[2] == 1 else source)
    if not isinstance(source, bytes):
        if Path(source).is_dir():
            raise ValueError("It is a folder.")
        source = sys.stdin.buffer.read() if str(source) == STANDARD_INPUT else Path(source).read_bytes()
    return Image.open(io.BytesIO(source))


def _name(source: ImageSource) -> str:
    if isinstance(source, (str, Path)):
        return "standard input" if str(source) == STANDARD_INPUT else str(source)
    return {bytes: "The bytes", np.ndarray: "The array"}.get(type(source), "The image")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "It is no PNG, JPEG, WebP, BMP, GIF or TIFF, or it is empty or cut off."
    return f"{MnvError.reason(error)}."


def read_sheet(encoded: bytes, size: int) -> NDArray[np.uint8]:
    """The tiles of a contact sheet, row by row: uint8 ``[N, size, size, 3]``."""
    sheet = np.asarray(to_rgb(Image.open(io.BytesIO(encoded))))
    rows, columns = sheet.shape[0] // size, sheet.shape[1] // size
    return sheet.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
