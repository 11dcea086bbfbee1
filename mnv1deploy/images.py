"""Pictures from anywhere -> uint8 ``[H, W, C]`` as the network takes them. Needs numpy and Pillow only."""

from __future__ import annotations

import glob
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv1deploy import decoding, machine
from mnv1deploy.decoding import STANDARD_INPUT, ImageSource
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import Pixels

__all__ = [
    "STANDARD_INPUT",
    "ImageSource",
    "UnreadableError",
    "attempt",
    "find",
    "has_picture",
    "is_picture",
    "pictures_in",
    "read",
    "read_all",
    "read_each",
    "read_folder",
    "read_sheet",
    "square",
    "visible",
]

_COMPANIONS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
"""Folders that a Mac, a NAS and Windows leave among pictures."""

_WINDOW = 64


class UnreadableError(MnvError):
    """Some of many pictures cannot be read; the message names all of them.

    Attributes:
        errors: of each.
    """

    def __init__(self, errors: Sequence[MnvError]) -> None:
        self.errors = tuple(errors)
        lines = [str(error) for error in errors]
        message = "\n  ".join([f"{len(lines)} pictures cannot be read:", *lines]) if len(lines) > 1 else lines[0]
        super().__init__(message, "Mend or remove what cannot be read, or leave it out with --skip-unreadable.")


def find(inputs: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Paths named by files, folders (searched recursively for pictures), glob patterns and ``-``, in order, once each.

    A folder has what Pillow can decode, by the suffix; links are followed. Hidden files and folders are left out. A
    file that does not exist is kept, to be reported where it is read; a folder or pattern without a picture in it
    raises MnvError.
    """
    found: dict[str, None] = {}
    for name in inputs:
        given = os.fspath(name)
        path = given if os.path.lexists(given) else os.path.expanduser(given)
        if os.path.isdir(path):
            matches = pictures_in(path)
            if not matches:
                raise MnvError(
                    f"There is no picture in the folder {path}.",
                    f"Looked for {', '.join(sorted(decoding.suffixes()))}.",
                )
        elif given == STANDARD_INPUT or os.path.lexists(path) or decoding.is_address(path) or not glob.has_magic(path):
            matches = [path]
        else:
            matches = _matching(path)
            if not matches:
                raise MnvError(f"No file matches {given}.")
        found.update(dict.fromkeys(matches))
    return list(found)


def pictures_in(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of all pictures in a folder and those in it, sorted; a link to nowhere is one, to be reported.

    Every real folder is looked into once, and none that holds the one that a link to it is in.
    """
    return sorted(_walk(folder))


def has_picture(folder: str | os.PathLike[str], *, below: bool = True) -> bool:
    """Whether there is a picture in a folder, or in those in it where ``below``."""
    if below:
        return next(_walk(folder), None) is not None
    return any(is_picture(name) and not os.path.isdir(os.path.join(folder, name)) for name in visible(folder))


def is_picture(name: str) -> bool:
    """Whether a file of this name is one that Pillow can decode, by its suffix."""
    return os.path.splitext(name)[1].lower() in decoding.suffixes()


def _walk(folder: str | os.PathLike[str]) -> Iterator[str]:
    seen: set[str] = set()
    waiting = [(os.path.normpath(folder), os.path.realpath(folder))]
    while waiting:
        inside, real = waiting.pop()
        if real in seen:
            continue
        seen.add(real)
        inner = []
        for name in visible(inside):
            path = name if inside == os.curdir else os.path.join(inside, name)
            if os.path.isdir(path):
                target = os.path.realpath(path) if os.path.islink(path) else os.path.join(real, name)
                if Path(target) not in Path(real).parents:
                    inner.append((path, target))
            elif is_picture(name) and (os.path.isfile(path) or os.path.islink(path)):
                yield path
        waiting += reversed(inner)


def visible(folder: str | os.PathLike[str]) -> list[str]:
    """Names of what is in a folder and not hidden, sorted. Raises MnvError if it cannot be listed."""
    try:
        return sorted(name for name in os.listdir(folder) if not is_hidden(name))
    except OSError as error:
        raise MnvError(f"The folder {folder} cannot be listed: {error.strerror}.") from error


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's pictures."""
    return name.startswith(".") or name.casefold() in _COMPANIONS


def _matching(pattern: str) -> list[str]:
    """Files that match, and pictures in folders that do; leading parts that exist as they stand are no pattern."""
    parts = Path(pattern).parts
    literal = 0
    while os.path.lexists(os.path.join(*parts[: literal + 1])):
        literal += 1
    if literal:
        pattern = os.path.join(glob.escape(os.path.join(*parts[:literal])), *parts[literal:])
    found: list[str] = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        below = Path(match).parts[literal:]
        if not any(map(is_hidden, below)):
            found += [match] if os.path.isfile(match) else pictures_in(match)
    return found


def read(source: ImageSource, pixels: Pixels, *, name: str = "", most: int = decoding.MAX_PIXELS) -> NDArray[np.uint8]:
    """One picture as uint8 ``[H, W, C]``, RGB or grey (ITU-R 601 luma).

    EXIF orientation is applied, transparency laid over white, 16-bit scaled to 8 (12 bits in 16 too, where the file
    says so), of a file with several frames the first taken. The centred square that ``pixels.preprocessing`` keeps is
    resized with its filter; a picture that already has the size keeps its exact pixels. What its ``jpeg`` says holds
    for encoded files: a Pillow image is taken as it is.

    An array has its colours in the order red, green, blue: one from OpenCV, which has them the other way round, is
    given as ``array[..., ::-1]``.

    Args:
        source: the picture.
        pixels: what it becomes.
        name: what errors call it; by default its path, or what kind of thing it is.
        most: how many pixels it may have.

    Raises:
        MnvError: if it cannot be read as a picture.
    """
    name = name or _name(source)
    try:
        mode = "RGB" if pixels.colours == 3 else "L"
        with decoding.decoded(source, mode, most, least_side=pixels.least_side) as (image, box):
            return np.asarray(_fitted(image, box, pixels)).reshape(pixels.shape)
    except (decoding.TooLargeError, Image.DecompressionBombError) as error:
        reason = str(error) if isinstance(error, decoding.TooLargeError) else f"more than {most:,} pixels"
        raise MnvError(f"{name} is too large a picture: {reason}.", "Scale it down first.") from error
    except MemoryError as error:
        raise MnvError(f"{name} is too large a picture for the memory that is free.") from error
    except FileNotFoundError as error:
        raise _missing(source) from error
    except Exception as error:  # on damaged files Pillow's plugins raise nearly anything
        raise MnvError(f"{name} cannot be read as a picture.", f"{MnvError.reason(error)}.") from error


def attempt(source: ImageSource, pixels: Pixels, *, name: str = "") -> NDArray[np.uint8] | MnvError:
    """As :func:`read`, but what it raises is returned."""
    try:
        return read(source, pixels, name=name)
    except MnvError as error:
        return error


def read_each(sources: Iterable[ImageSource], pixels: Pixels) -> Iterator[NDArray[np.uint8] | MnvError]:
    """Pictures one after another as :func:`read` gives them, or why one cannot be read; decoded on several threads."""
    from concurrent.futures import Future, ThreadPoolExecutor

    # Pillow decodes and resizes without holding the GIL; some threads wait for files
    with ThreadPoolExecutor(machine.processors() + 4) as pool:
        waiting: deque[Future[NDArray[np.uint8] | MnvError]] = deque()
        for source in sources:
            waiting.append(pool.submit(attempt, source, pixels))
            if len(waiting) == _WINDOW:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _in_memory(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def read_all(
    sources: Sequence[ImageSource] | NDArray[np.uint8],
    pixels: Pixels,
    *,
    on_unreadable: Callable[[int, MnvError], object] | None = None,
    room: Callable[[tuple[int, ...]], NDArray[np.uint8]] = _in_memory,
) -> NDArray[np.uint8]:
    """Pictures stacked to uint8 ``[N, H, W, C]``.

    Args:
        sources: the pictures.
        pixels: what each becomes.
        on_unreadable: told the place in ``sources`` of one that cannot be read, and why; it is then left out.
        room: makes the array that they are stacked in, by its shape.

    Raises:
        UnreadableError: if some cannot be read and there is no ``on_unreadable``; if none can.
    """
    stacked = room((len(sources), *pixels.shape))
    unreadable: dict[int, MnvError] = {}
    count = 0
    for place, answer in enumerate(read_each(sources, pixels)):
        if isinstance(answer, MnvError):
            unreadable[place] = answer
        else:
            stacked[count] = answer
            count += 1
    if unreadable and (on_unreadable is None or not count):
        raise UnreadableError(list(unreadable.values()))
    for place, error in unreadable.items():
        if on_unreadable:
            on_unreadable(place, error)
    return stacked[:count]


def read_folder(
    folder: str | os.PathLike[str], pixels: Pixels, *, skip_unreadable: bool = False
) -> tuple[NDArray[np.uint8], str]:
    """All pictures in a folder and those in it, uint8 ``[N, H, W, C]``, and what to call them in a report.

    Raises:
        UnreadableError: if some cannot be read, unless ``skip_unreadable``; the name then says how many were left out.
        MnvError: if it is no folder, or has no picture.
    """
    folder = os.path.expanduser(folder)
    if not os.path.isdir(folder):
        raise MnvError(f"There is no folder {folder}.", "A folder of pictures is meant.")
    unreadable: dict[int, MnvError] = {}
    found = read_all(find([folder]), pixels, on_unreadable=unreadable.__setitem__ if skip_unreadable else None)
    left_out = f", {len(unreadable)} unreadable left out" if unreadable else ""
    return found, f"{len(found)} pictures in {Path(folder).name}{left_out}"


def _fitted(image: Image.Image, box: decoding.Box, pixels: Pixels) -> Image.Image:
    """The centred square that is kept of the picture in a box, at the network's size."""
    size, rule = (pixels.size, pixels.size), pixels.preprocessing
    if image.size == size:
        return image
    filter, height = Image.Resampling[rule.resize.upper()], image.height
    left, top, right, bottom = square(box[2] - box[0], box[3] - box[1], rule.crop)
    left, top, right, bottom = left + box[0], top + box[1], right + box[0], bottom + box[1]
    # across, then down: in one call some versions of Pillow go down first where that is less work, and round otherwise
    narrow = image.resize((pixels.size, height), filter, box=(left, 0, right, height))
    return narrow.resize(size, filter, box=(0, top, pixels.size, bottom))


def square(width: float, height: float, crop: float = 1.0) -> tuple[float, float, float, float]:
    """The centred square that is kept of a picture: left, top, right, bottom, in fractions of pixels.

    The arithmetic is Pillow's ``ImageOps.fit``'s, ``bleed`` being what ``crop`` cuts off one side.
    """
    bleed = (1 - crop) / 2
    inner = width - bleed * width * 2, height - bleed * height * 2
    side = min(inner)
    left, top = (bleed * whole + (part - side) * 0.5 for whole, part in zip((width, height), inner, strict=True))
    return left, top, left + side, top + side


def _name(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return "standard input" if str(source) == STANDARD_INPUT else str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "The bytes"
    if isinstance(source, np.ndarray):
        return "The array"
    if isinstance(source, Image.Image):
        return "The image"
    if hasattr(source, "read"):
        return f"The file {source.name}" if isinstance(getattr(source, "name", None), str) else "The file"
    return f"The {type(source).__name__}"


def _missing(source: Any) -> MnvError:
    if isinstance(source, (str, os.PathLike)) and os.path.islink(source):
        return MnvError(
            f"{source} cannot be read as a picture.", f"It is a link to {Path(source).readlink()}, which is not there."
        )
    return MnvError(f"There is no file {_name(source)}.", "The paths are relative to the current folder.")


def read_sheet(encoded: bytes, size: int) -> NDArray[np.uint8]:
    """The tiles of a contact sheet, row by row: uint8 ``[N, size, size, 3]``."""
    sheet = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    rows, columns = sheet.shape[0] // size, sheet.shape[1] // size
    return sheet.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
